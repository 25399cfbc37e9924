"""The cases of a study: files of the same name in folders for predictions, references, organs and scans."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from DiffuGTSLib.datasets.trained_cases import WARNING
from DiffuGTSLib.errors import InputError
from DiffuGTSLib.volumes import Geometry, Volume, read_volume
from DiffuGTSLib.volumes.io import READ_SUFFIXES, is_image, read_labels, require_labels, scan_name
from DiffuGTSLib.volumes.volume import require_same_grid


@dataclass(frozen=True)
class StudyCase:
    """One case and its files by role.

    Attributes:
        name: Of the file without its suffix, or of the folder that holds it.
        files: Role ("predictions", "organs", …) → file.
    """

    name: str
    files: Mapping[str, Path]


_RESULT = "segmentation"
"""The file of a result folder that is its prediction, without the suffix."""


def find_files(folder: Path) -> dict[str, Path]:
    """Return name → file: the folder's own images, and the mask of each of its folders.

    The second are result folders as `diffugts segment` writes them; hidden files are passed over.

    Raises:
        InputError: If there is no such folder, it holds no image, or one name twice.
    """
    if not folder.is_dir():
        raise InputError(f"There is no folder {folder}.", hint="check the spelling.", code="missing")
    found: dict[str, Path] = {}
    entries = [path for path in sorted(folder.iterdir()) if not path.name.startswith(".")]
    named = [(scan_name(path).removesuffix(".seg"), path) for path in entries if path.is_file() and is_image(path)]
    named += [(path.name, file) for path in entries if path.is_dir() for file in _images(path, _RESULT)]
    for name, path in named:
        if name in found:
            raise InputError(f"{folder} holds '{name}' twice: {found[name].name} and {path.name}.")
        found[name] = path
    if not found:
        raise InputError(
            f"{folder} holds no image.",
            hint=f"expected NAME.nii.gz, or folders with {_RESULT}.nii.gz in them.",
            code="missing",
        )
    return found


def pair_cases(first: str, folders: Mapping[str, Path | None]) -> list[StudyCase]:
    """Return the cases of the folder with role `first`, each with its file of the same name in all others.

    Args:
        first: The role that says which cases there are.
        folders: Role → folder; None where a role is not used.

    Raises:
        InputError: As `find_files`; or a case lacks a file of a role, since leaving it out would flatter the figures.
    """
    files = {role: find_files(folder) for role, folder in folders.items() if folder is not None}
    names = list(files[first])
    for role, present in files.items():
        missing = [name for name in names if name not in present]
        if missing:
            raise InputError(
                f"{len(missing)} of {len(names)} cases have nothing in {role}: {', '.join(missing[:5])}"
                f"{'…' if len(missing) > 5 else ''}.",
                hint=f"each needs a file of the same name in {folders[role]}.",
                code="missing",
            )
    return [StudyCase(name, {role: present[name] for role, present in files.items()}) for name in names]


def read_label(path: Path, like: Geometry | None = None) -> Volume:
    """Read everything above 0 of a label map as a mask of 0 and 1.

    Args:
        path: The label map.
        like: The grid that it has to lie on; None: its own.

    Raises:
        InputError: As `DiffuGTSLib.volumes.read_volume`; also if voxels are not the whole numbers 0, 1, 2…
        GeometryError: If it lies on another grid than `like`.
    """
    labels = _read_map(path, like)
    return labels.with_array((labels.array > 0).astype(np.uint8))


_OPTION_OF = {"predictions": "--label", "references": "--reference-label"}


@dataclass
class TumorLabel:
    """The tumor's label in the files of a role, read one after the other.

    Attributes:
        value: The label; None: the only one that a file holds.
        role: What the files are, "predictions" or "references".
        is_seen: Whether any file read so far holds it.
        others: Labels above 0 of the files read until then.
    """

    value: int | None
    role: str
    is_seen: bool = False
    others: set[int] = field(default_factory=set)

    def read(self, path: Path, like: Geometry | None = None) -> Volume:
        """Read the tumor of a label map as a mask of 0 and 1; see `read_label`.

        Raises:
            InputError: Also where a file holds several labels and none was named (code "several_labels").
        """
        labels = _read_map(path, like)
        if self.value is None:
            _require_one_label(path, labels, "tumor", f"name it, as in {_OPTION_OF[self.role]} 2.")
        mask = labels.array > 0 if self.value is None else labels.array == self.value
        self.is_seen = self.is_seen or bool(mask.any())
        if not self.is_seen:
            self.others.update(int(value) for value in np.unique(labels.array[labels.array > 0]))
        return labels.with_array(mask.astype(np.uint8))

    def notes(self) -> list[str]:
        """Return a warning where no file holds the label, but some hold others: nothing was found, or it is a slip."""
        if self.is_seen or not self.others:
            return []
        return [f"{WARNING}: label {self.value} is in none of the {self.role}; they hold {_listed(self.others)}."]


def read_tumor_mask(path: Path, like: Geometry, values: Sequence[int], hint: str) -> Volume:
    """Read a mask of tumor as 0 and 1; of a label map its tumor's labels, which have to be named.

    Args:
        path: The mask, or a label map.
        like: The scan's grid.
        values: The labels that are tumor; empty: the only one that there is.
        hint: How to name them.

    Raises:
        InputError: As `read_part_mask`: to take organ and tumor together for a tumor would spoil every figure in silence.
        GeometryError: If it lies on another grid.
    """
    return read_part_mask(path, like, values, "tumor", hint, "Where there is no tumor, give a mask of zeros.")


def read_part_mask(path: Path, like: Geometry, values: Sequence[int], part: str, hint: str, absent: str = "") -> Volume:
    """Read a mask of one part as 0 and 1; of a label map that part's labels, which have to be named.

    Args:
        path: The mask, or a label map.
        like: The scan's grid.
        values: The labels that are the part; empty: the only one that there is.
        part: What it is called in the error.
        hint: How to name them.
        absent: What to do where there is no such part, if that may be.

    Raises:
        InputError: As `DiffuGTSLib.volumes.io.read_labels`; or it holds several labels and none was named (code
            "several_labels"); or holds labels, but none of those that were named (code "no_label").
        GeometryError: If it lies on another grid.
    """
    labels = read_labels(path, like)
    present = np.unique(labels.array[labels.array > 0]).tolist()
    if not values:
        _require_one_label(path, labels, part, hint)
    if present and values and not set(present) & set(values):
        raise InputError(
            f"{path} holds the labels {_listed(present)}: expected the {part} among them, which is {_listed(values)}.",
            hint=f"{hint} {absent}".strip(),
            code="no_label",
        )
    return labels.with_array(np.isin(labels.array, values or present).astype(np.uint8))


def _require_one_label(path: Path, labels: Volume, part: str, hint: str) -> None:
    present = np.unique(labels.array[labels.array > 0]).tolist()
    if len(present) > 1:
        raise InputError(
            f"{path} holds the labels {_listed(present)}: expected one, or to be told which is the {part}.",
            hint=hint,
            code="several_labels",
        )


def label_values(text: str, where: str) -> tuple[int, ...]:
    """Return the labels that a cell of a list names, parted by spaces; none for an empty one.

    Raises:
        InputError: Naming where, if one is no whole number above 0.
    """
    try:
        values = tuple(int(word) for word in text.split())
    except ValueError:
        values = (0,)
    if any(value < 1 for value in values):
        raise InputError(f"{where}: expected labels as 2 or 1 2, got '{text}'.", code="numbers")
    return values


def _read_map(path: Path, like: Geometry | None) -> Volume:
    volume = read_volume(path)
    if like is not None:
        require_same_grid(like, volume.geometry, "label map")
    require_labels(volume.array, path, "label map")
    return volume


def _listed(values: Iterable[float]) -> str:
    """Return the lowest labels as text."""
    shown = [f"{value:g}" for value in sorted(values)]
    return ", ".join(shown[:5]) + (", …" if len(shown) > 5 else "")


def _images(folder: Path, name: str) -> Sequence[Path]:
    """Return the first file of that name and a known suffix, if any: result folders hold some masks twice."""
    return [path for suffix in READ_SUFFIXES if (path := folder / f"{name}{suffix}").is_file()][:1]
