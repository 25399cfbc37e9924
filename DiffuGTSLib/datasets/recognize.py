"""Which of the known layouts a folder of scans is in, told from its file names."""

from __future__ import annotations

from pathlib import Path


def recognize(folder: Path) -> str:
    """Return a key of `DiffuGTSLib.datasets.layouts.LAYOUTS`, or "" for a folder that is in none of them.

    A table of cases is not looked for: nothing but its content tells it from any other.
    """
    if (folder / "dataset.json").is_file() and (folder / "imagesTr").is_dir():
        channels = any(_visible(folder, "imagesTr/*_0000.*"))  # nnU-Net numbers them, the Decathlon does not
        return "nnunet" if channels else "msd"
    if any(_visible(folder, "case_*/imaging.nii*")):
        return "kits"
    if any(_visible(folder, "*/segmentations/*.nii*")):
        return "totalsegmentator"
    return "brats" if any(_visible(folder, "*/*seg.nii*")) else ""


def _visible(folder: Path, pattern: str) -> list[Path]:
    """Return the files of a pattern without the hidden `._NAME` that archives made on a Mac hold."""
    return [path for path in folder.glob(pattern) if not path.name.startswith(".")]
