"""Tumors by list: a CSV file that names scan, mask, patient and group of each, for studies of how tumors look."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import ndimage

from DiffuGTSLib.errors import InputError, did_you_mean, naming_case
from DiffuGTSLib.evaluation.case_files import label_values, read_tumor_mask
from DiffuGTSLib.evaluation.realism import REAL, Exhibit, Tumor, describe
from DiffuGTSLib.evaluation.report import Row, table_lines, write_rows, write_study
from DiffuGTSLib.evaluation.similarity import PERMUTATIONS, ChanceTest, chance_test
from DiffuGTSLib.evaluation.strata import read_table
from DiffuGTSLib.storage import whole_folder
from DiffuGTSLib.volumes import Volume, read_volume
from DiffuGTSLib.volumes.canonical import guess_modality

COLUMNS = ("case", "group", "scan", "mask")
OPTIONAL_COLUMNS = ("patient", "modality", "label")


@dataclass(frozen=True)
class ListedTumor:
    """One row of the list.

    Attributes:
        case: Its name, unique.
        group: What kind of tumor it is: an organ, "real", a painter.
        scan: File or DICOM folder.
        mask: On the scan's grid.
        patient: Whose it is; the case itself where the list does not say.
        modality: "CT", "MR", or "" to be guessed.
        label: Values of the mask that are the tumor; none where it holds one only.
    """

    case: str
    group: str
    scan: Path
    mask: Path
    patient: str
    modality: str
    label: tuple[int, ...] = ()

    def read(self) -> tuple[Volume, Volume, str]:
        """Return scan, mask and modality.

        Raises:
            InputError: As `read_volume`, `read_tumor_mask` and `guess_modality`.
            GeometryError: If the mask lies on another grid.
        """
        hint = "name it in the list's column 'label', as 2 or 1 2."
        with naming_case(self.case):
            scan = read_volume(self.scan)
            mask = read_tumor_mask(self.mask, scan.geometry, self.label, hint)
            return scan, mask, self.modality or guess_modality(scan)[0]


def read_tumor_list(path: Path) -> list[ListedTumor]:
    """Read a list; paths in it start from its own folder.

    Raises:
        InputError: If it cannot be read, lacks a column, has one that is unknown or names another modality than CT and MR
            or a label that is no number.
    """
    rows = read_table(path)
    known = (*COLUMNS, *OPTIONAL_COLUMNS)
    columns = list(rows[0]) if rows else []
    missing = [name for name in COLUMNS if name not in columns]
    if missing:
        raise InputError(
            f"{path} lacks {', '.join(missing)}.", hint=f"expected the columns {', '.join(known)}.", code="column"
        )
    for name in columns:
        if name not in known:
            raise InputError(f"{path}: unknown column '{name}'.", hint=did_you_mean(name, known), code="column")
    listed = []
    for row in rows:
        modality = row.get("modality", "").upper()
        if modality not in ("", "CT", "MR"):
            raise InputError(f"{path}: case '{row['case']}': expected the modality CT or MR, got '{modality}'.")
        scan, mask = (path.parent / row[key] for key in ("scan", "mask"))
        label = label_values(row.get("label", ""), f"{path}: case '{row['case']}'")
        patient = row.get("patient") or row["case"]
        listed.append(ListedTumor(row["case"], row["group"], scan, mask, patient, modality, label))
    return listed


def measure_list(
    listed: Sequence[ListedTumor], on_progress: Callable[[str, float], None] | None = None
) -> tuple[list[Tumor], list[str], list[str]]:
    """Measure every tumor of a list.

    Returns:
        (tumors, the patient of each, a sentence for each that was left out, too small for a texture, or lies in several parts).

    Raises:
        InputError: If a file is not as it should be, or the list mixes CT and MR (code "modality").
        GeometryError: If a mask lies on another grid than its scan.
    """
    tumors, patients, remarks = [], [], []
    first: tuple[str, str] | None = None
    for number, each in enumerate(listed):
        if on_progress is not None:
            on_progress("cases", number / len(listed))
        scan, mask, modality = each.read()
        first = first or (each.case, modality)
        if modality != first[1]:
            raise InputError(
                f"The list mixes {first[1]} ('{first[0]}') and {modality} ('{each.case}'): their units cannot be compared.",
                hint="make a list of each; a wrong guess is settled by the column modality.",
                code="modality",
            )
        try:
            tumors.append(describe(each.case, each.group, scan, mask, modality))
        except InputError as error:
            if error.code not in ("small", "empty_mask"):
                raise
            remarks.append(f"Left out: {each.case}: {error.message}")
            continue
        patients.append(each.patient)
        parts = ndimage.label(mask.array > 0, np.ones((3, 3, 3)))[1]
        if parts > 1:
            remarks.append(f"{each.case}: {parts} separate parts were measured as one tumor; list a mask of each.")
    return tumors, patients, remarks


def sheet_rows(listed: Sequence[ListedTumor], rows: int) -> list[list[Exhibit]]:
    """Return what a sheet shows: each row one tumor a group, real ones first; the patient's own where there is one.

    Args:
        listed: All tumors.
        rows: At most as many.
    """
    groups = sorted({each.group for each in listed}, key=lambda name: (name != REAL, name))
    first = [each for each in listed if each.group == groups[0]]
    shown: list[list[Exhibit]] = []
    for number in range(min(rows, max(sum(each.group == group for each in listed) for group in groups))):
        lead = first[number % len(first)]
        row = [lead]
        for group in groups[1:]:
            members = [each for each in listed if each.group == group]
            own = [each for each in members if each.patient == lead.patient] or members
            row.append(own[number // len(first) % len(own)] if own is not members else own[number % len(own)])
        shown.append([_exhibit(each) for each in row])
    return shown


TITLE = "Similarity"
FILES = ("tumors.csv", "kinds.csv", "report.md", "report.json")
"""Of the report on similarity."""


def study_similarity(
    listed: Sequence[ListedTumor],
    output: Path,
    *,
    seed: int = 0,
    permutations: int = PERMUTATIONS,
    on_progress: Callable[[str, float], None] | None = None,
) -> ChanceTest:
    """Test whether the groups of a list can be told apart; write `tumors.csv`, `kinds.csv`, `report.json`, `report.md`.

    Args:
        listed: All tumors.
        output: Folder, made if absent.
        seed: Of folds and permutations.
        permutations: As in `chance_test`.
        on_progress: Called with ("cases", share done).

    Raises:
        InputError: As `measure_list` and `chance_test`.
        StorageError: If a file cannot be written.
    """
    tumors, patients, remarks = measure_list(listed, on_progress)
    test = chance_test(
        [tumor.features for tumor in tumors], [tumor.group for tumor in tumors], patients,
        np.random.default_rng(seed), permutations=permutations,
    )  # fmt: skip
    kinds: list[Row] = [
        {
            "group": kind.name,
            "tumors": kind.recall.total,
            "precision": kind.precision.share, "precision_low": kind.precision.low, "precision_high": kind.precision.high,
            "recall": kind.recall.share, "recall_low": kind.recall.low, "recall_high": kind.recall.high,
        }
        for kind in test.kinds
    ]  # fmt: skip
    verdict = "told apart" if test.told_apart else "not told apart by this classifier"
    notes = [
        f"Accuracy {test.accuracy}; by chance {test.chance:.3f}; p = {test.p_value:.3f}: the groups are {verdict}.",
        f"Linear discriminant, {len(tumors[0].features)} features, folds of patients, {permutations} permutations.",
        *remarks,
    ]
    figures = {"accuracy": vars(test.accuracy), "chance": test.chance, "p_value": test.p_value}
    with whole_folder(output, FILES) as folder:
        write_rows([{"case": t.name, "group": t.group, **t.features} for t in tumors], folder / "tumors.csv")
        write_rows(kinds, folder / "kinds.csv")
        write_study(folder, TITLE, table_lines(kinds), notes, **figures, kinds=kinds)
    return test


def _exhibit(each: ListedTumor) -> Exhibit:
    scan, mask, modality = each.read()
    return Exhibit(f"{each.group}: {each.case}", scan, mask, modality)
