"""Which scans a mode of training may use, and the fixed windows that a head is validated on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from DiffuGTSLib.errors import InputError
from DiffuGTSLib.training.anomalies import AnomalySampler, Mixture, Sample
from DiffuGTSLib.training.data import Crop, TrainingScan
from DiffuGTSLib.training.head_options import HeadOptions

_FIXED_DRAW = 5
_HELD_OUT = 0.1
_PAINTED_WINDOWS = 8
_PAINTED_ALONE = 24


def scans_by_split(
    options: HeadOptions, scans: Mapping[str, Sequence[TrainingScan]]
) -> tuple[dict[str, list[TrainingScan]], list[str]]:
    """Return the scans of training and validation that a mode may use, and who was held out of training to validate.

    Splits are drawn without regard to who has a tumor, and few scans of a data set have none: where label-free training
    has no scan to validate with, a tenth of its patients is held out of training, at least one.

    Raises:
        InputError: As `scans_for`.
    """
    train = scans_for(options, scans["train"], "train")
    patients = sorted({scan.case.patient for scan in train})
    validation_free = any(not scan.tumor.any() for scan in scans["validation"])
    if options.mode != "label-free" or validation_free or len(patients) < 2:
        return {"train": train, "validation": scans_for(options, scans["validation"], "validation")}, []
    drawn = np.random.default_rng(_FIXED_DRAW).permutation(len(patients))
    held_out = sorted(patients[index] for index in drawn[: max(1, round(len(patients) * _HELD_OUT))])
    return {
        "train": [scan for scan in train if scan.case.patient not in held_out],
        "validation": [scan for scan in train if scan.case.patient in held_out],
    }, held_out


def scans_for(options: HeadOptions, scans: Sequence[TrainingScan], split: str) -> list[TrainingScan]:
    """Return the scans of a split that a mode may use.

    Label-free training leaves scans with an outlined tumor out altogether. With the outline ignored, the tumor would be
    taught as healthy; with windows laid around it, its outline would be used.

    Raises:
        InputError: If none is left, or there is no real tumor to learn from (code "mode").
    """
    if options.mode == "label-free":
        kept = [scan for scan in scans if not scan.tumor.any()]
    else:
        kept = list(scans)
    learns = split == "train" and options.mixture.real > 0
    if not kept or (options.mode == "seen" and learns and not any(scan.tumor.any() for scan in kept)):
        label_free = options.mode == "label-free"
        wanted = "a scan without an outlined tumor" if label_free else "an outlined tumor"
        other = (
            "add scans without a tumor to the protocol; where it outlines further organs, `diffugts data split PROTOCOL "
            "--kind label-free -o DIR` withholds the tumors and learns from those"
        )
        raise InputError(
            f"mode={options.mode} needs {wanted}; none of {len(scans)} scans of the split '{split}' has that.",
            hint=f"choose another mode, or {other if label_free else 'another protocol'}.",
            code="mode",
        )
    return kept


def validation_windows(scans: Sequence[TrainingScan], side: int, options: HeadOptions | None = None) -> list[Sample]:
    """Return fixed windows of unseen patients: their real tumors, cut off center, and painted ones elsewhere.

    A mode is validated only on what it trains on: mode `seen` on real tumors and healthy windows, mode `label-free` on
    painted tumors.
    """
    options = options or HeadOptions()
    rng = np.random.default_rng(_FIXED_DRAW)
    windows = []
    for scan in scans if options.mode != "label-free" else ():
        if scan.tumor.any():
            voxels = np.argwhere(scan.tumor)
            for _ in range(2):
                start = voxels[rng.integers(len(voxels))] - rng.integers(side // 4, 3 * side // 4, 3)
                crop = Crop((int(start[0]), int(start[1]), int(start[2])), (side, side, side))
                mask = crop.cut(scan.tumor)
                image, loaded = crop.cut(scan.scan.image), scan.scan
                organ = scan.case.organ
                shown = (crop.cut(scan.organs[organ]) | mask) if organ in scan.outlined else None
                windows.append(Sample(image, mask, organ, loaded.modality, loaded.spacing_mm, shown=shown))
    others = Mixture(real=0.0, healthy=0.4, anywhere=0.0, turned=0.0)
    if options.mode == "seen":
        others = replace(others, healthy=1.0)
    sampler = AnomalySampler(scans, side, others)
    windows += [sampler.draw(rng) for _ in range(_PAINTED_WINDOWS if windows else _PAINTED_ALONE)]
    return windows


def require_validation_windows(options: HeadOptions, windows: Sequence[Sample]) -> None:
    """Refuse early stopping by a figure that the windows cannot give.

    Raises:
        InputError: If none shows a tumor, or, with image labels, all do (code "validation").
    """
    kinds = {window.abnormal for window in windows}
    if options.patience and kinds != {True, False} and not (options.watch == "dice" and kinds == {True}):
        raise InputError(
            f"patience={options.patience} stops by {options.watch}, which {len(windows)} validation windows cannot give:"
            f" all of them are {'abnormal' if kinds == {True} else 'normal'}.",
            hint="set patience=0, or name more validation scans in the protocol.",
            code="validation",
        )


def in_words(mixture: Mixture, with_tumor: int, *, organs: bool = True) -> str:
    """Return the kinds of windows and their shares in percent.

    Args:
        mixture: Of the sampler.
        with_tumor: Scans with an outlined tumor; without any, no window is drawn around one.
        organs: Whether an organ is outlined somewhere; without, the other windows are from anywhere.
    """
    real = mixture.real if with_tumor else 0.0
    anywhere = min(mixture.anywhere, 1 - real) if organs else 1 - real
    others = 1 - real - anywhere
    shares = {
        f"around a real tumor ({with_tumor} scans)": real,
        "from anywhere": anywhere,
        "with painted tumors": others * (1 - mixture.healthy),
        "in a healthy organ": others * mixture.healthy,
    }
    kinds = ", ".join(f"{100 * share:.0f} % {kind}" for kind, share in shares.items() if share)
    return f"{kinds}; each is asked about {mixture.further} other organs as well" if mixture.further else kinds
