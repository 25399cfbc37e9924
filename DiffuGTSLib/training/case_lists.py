"""Case lists as DiffTumor and SyntheticTumors ship them: two columns of text by fold, or the Decathlon's JSON.

A list names files below a root folder. Roots and names are joined as paths, so that a missing slash does no harm.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from DiffuGTSLib.datasets.decathlon import SPLIT_NAMES, read_pairs
from DiffuGTSLib.errors import InputError

HEALTHY_MARKS = ("liver_label", "pancreas_label", "kidney_label")
"""A case whose label path contains one of these has no tumor: only its organ is outlined (DiffTumor, section 1.3)."""


@dataclass(frozen=True)
class ListedCase:
    """One line of a list.

    Attributes:
        image: The scan.
        label: Its label map.
        healthy: Whether the label map holds an organ only.
        label_name: As the list writes the label's path, to write a new label map to the same place elsewhere.
        image_name: As the list writes the scan's path.
    """

    image: Path
    label: Path
    healthy: bool
    image_name: str
    label_name: str

    @property
    def name(self) -> str:
        """The scan's file name without its suffixes; of a file `ct.nii.gz`, its folder's (AbdomenAtlas)."""
        stem = re.sub(r"(\.nii)?\.\w+$", "", self.image.name)
        return self.image.parent.name if stem == "ct" else stem


def read_list(path: Path, data: Path, healthy_data: Path | None = None) -> list[ListedCase]:
    """Read a list of two columns, scan and label map, parted by blanks or, where names hold blanks, by a tab.

    Args:
        path: The list. Empty lines are skipped.
        data: Folder that the paths of cases with a tumor start from.
        healthy_data: Folder for healthy cases, see `HEALTHY_MARKS`; None takes `data`.

    Raises:
        InputError: If the list cannot be read or is empty, a line has not two columns, or a file is missing.
    """
    cases = []
    for number, line in enumerate(_text(path).splitlines(), start=1):
        columns = line.strip().split("\t") if "\t" in line.strip() else line.split()
        columns = [column.strip() for column in columns]
        if not line.strip():
            continue
        if len(columns) != 2:
            raise InputError(
                f"{path}, line {number}: expected two columns, scan and label map, got {len(columns)}: '{line.strip()}'.",
                hint="part the columns by a tab where names hold blanks.",
            )
        cases.append(_case(columns[0], columns[1], data, healthy_data))
    if not cases:
        raise InputError(f"{path} names no case.", hint="expected lines of two columns: scan and label map.")
    require_files(cases, path)
    return cases


def read_fold(folder: Path, fold: int, data: Path, healthy_data: Path | None = None) -> dict[str, list[ListedCase]]:
    """Return the cases of one fold, "train" and "validation", from `real_tumor_{train,val}_{fold}.txt`.

    Raises:
        InputError: If the folder has no such fold; and as `read_list`.
    """
    found = {}
    for word in ("train", "val"):
        path = folder / f"real_tumor_{word}_{fold}.txt"
        if not path.is_file():
            known = sorted(p.stem.rpartition("_")[2] for p in folder.glob(f"real_tumor_{word}_*.txt"))
            raise InputError(
                f"There is no fold {fold} in {folder}: {path.name} is missing.",
                hint=f"folds that are there: {', '.join(known) or 'none'}.",
                code="missing",
            )
        found[SPLIT_NAMES[word]] = read_list(path, data, healthy_data)
    return found


def read_decathlon(path: Path, data: Path) -> dict[str, list[ListedCase]]:
    """Return the cases of a Decathlon JSON, "train" and "validation": {"training": [{"image": …, "label": …}], …}.

    Entries without a label map, as the Decathlon's own "test" has, are left out.

    Raises:
        InputError: If the file is not of that form or names no case to train on, or a file is missing.
    """
    pairs = read_pairs(path)
    found = {split: [_case(image, label, data, None) for image, label in listed] for split, listed in pairs.items()}
    require_files([*found["train"], *found["validation"]], path)
    return found


def require_files(cases: Sequence[ListedCase], path: Path) -> None:
    """Refuse a list that names a file that is not there, before anything is loaded.

    Raises:
        InputError: With the first missing file's name and how many more are missing (code "missing").
    """
    missing = [file for case in cases for file in (case.image, case.label) if not file.is_file()]
    if missing:
        more = f", and {len(missing) - 1} more of {2 * len(cases)} files" if len(missing) > 1 else ""
        raise InputError(
            f"{path} names {missing[0]}, which is not there{more}.",
            hint="check the folder that the list's paths start from.",
            code="missing",
        )


def _case(image: str, label: str, data: Path, healthy_data: Path | None) -> ListedCase:
    healthy = any(mark in label for mark in HEALTHY_MARKS)
    root = healthy_data if healthy and healthy_data is not None else data
    return ListedCase(root / image, root / label, healthy, image, label)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        said = error.strerror if isinstance(error, OSError) else error
        raise InputError(
            f"The list {path} cannot be read: {said}.", hint="check the spelling.", code="missing"
        ) from error
