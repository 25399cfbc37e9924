"""Score a segmenter: DiffTumor's table of organ and tumor on listed cases, or the report of a protocol.

Follows DiffTumor's `validation.py`. Differs from upstream: the last row of the table is the numeric mean, and what an
empty mask means is stated: nothing to find and nothing found is 1, otherwise 0 (`BOTH_EMPTY_IS_RIGHT`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from DiffuGTSLib.backbones.weights import WEIGHTS_FILE
from DiffuGTSLib.datasets.protocol import Case, read_protocol
from DiffuGTSLib.datasets.trained_cases import SeenCases, check_unseen
from DiffuGTSLib.errors import InputError, naming_case
from DiffuGTSLib.evaluation import case_scores
from DiffuGTSLib.evaluation.baselines import center_ellipsoid
from DiffuGTSLib.evaluation.case_scores import case_file
from DiffuGTSLib.evaluation.detection import detect
from DiffuGTSLib.evaluation.metrics import NSD_TOLERANCE_MM, dice, surface_dice
from DiffuGTSLib.evaluation.protocol_cases import choose_cases, empty_mask_notes, read_case, require_files
from DiffuGTSLib.evaluation.report import write_json, write_report, write_rows
from DiffuGTSLib.storage import make_folder, read_json, require_folder_for, sha256, whole_file
from DiffuGTSLib.supervised.networks import TUMOR
from DiffuGTSLib.supervised.prediction import PostProcessing, TrainedSegmenter, predict
from DiffuGTSLib.volumes import Volume, read_mask, read_volume, write_volume
from DiffuGTSLib.volumes.canonical import guess_modality
from DiffuGTSLib.volumes.hounsfield import in_hounsfield
from DiffuGTSLib.volumes.volume import require_same_grid

BOTH_EMPTY_IS_RIGHT = 1.0
"""DiffTumor's table has a figure for every case. `evaluate` leaves such cases out of the mean instead."""

OnCase = Callable[[str, float], None]
"""Called with (case, share of the cases done); may raise `Cancelled`."""
OnGuess = Callable[[str, str, str], None]
"""Called with (case, modality, reason) where a scan's modality had to be guessed."""


RECORD = "validation.json"
"""Which segmenter was validated on what: the mark of the folder."""
SEEN_NOTE = "training.txt"
"""Beside the figures of scans: what is known of whether the segmenter was trained on them."""
_NAMES = (RECORD, "pred", "metrics.csv", SEEN_NOTE, "cases.csv", "report.json", "report.md")


def begin(output: Path, model_folder: Path, how: HowToPredict, what: Sequence[str]) -> None:
    """Make the folder of a validation, or go on with the same one, and note what it is of.

    Args:
        output: New, empty, or that of the same validation.
        model_folder: The segmenter's.
        how: See `HowToPredict`.
        what: Is segmented: paths of scans and masks, or protocol and split.

    Raises:
        InputError: If it holds another validation, or files of these names that are not ours (code "exists").
        StorageError: If it cannot be written.
    """
    require_folder_for(output, RECORD, True, "choose another folder.", _NAMES)
    record = {"weights_sha256": sha256(model_folder / WEIGHTS_FILE), "of": list(what), "how": asdict(how)}
    try:
        earlier = read_json(output / RECORD) if (output / RECORD).exists() else record
    except InputError:
        earlier = {}
    if earlier != record:
        raise InputError(
            f"{output} holds a validation of another segmenter, of something else, or with other options.",
            hint="choose another folder, or delete that one.",
            code="exists",
        )
    make_folder(output)
    write_json(output / RECORD, record)


@dataclass(frozen=True)
class ListedScan:
    """One scan to segment.

    Attributes:
        name: Of its prediction's file.
        image: The scan.
        labels: Its true label map (0 background, 1 organ, 2 tumor, 3 cyst), or None: segment only.
        organ: Organ mask on its grid, or None: the network finds the organ itself.
        tumor_only: `labels` is a tumor mask, so that there is no organ to score.
    """

    name: str
    image: Path
    labels: Path | None = None
    organ: Path | None = None
    tumor_only: bool = False


@dataclass(frozen=True)
class HowToPredict:
    """How scans are segmented.

    Attributes:
        overlap: Of neighboring windows.
        post: What is left out afterwards.
        modality: "CT" or "MR"; None: what the segmenter was trained on, or guessed for each scan where that is both.
        offset_hu: Added to every CT; see `DiffuGTSLib.volumes.hounsfield.in_hounsfield`. None adds nothing.
    """

    overlap: float = 0.75
    post: PostProcessing = field(default_factory=PostProcessing)
    modality: str | None = None
    offset_hu: float | None = None

    def read(self, path: Path) -> Volume:
        """Read a scan, in HU where it is known what its file lost."""
        scan = read_volume(path)
        return scan if self.offset_hu is None else in_hounsfield(scan, self.offset_hu)

    def taken_for(self, trained: TrainedSegmenter, scan: Volume) -> tuple[str, str]:
        """Return the modality that a scan is segmented as, and the reason where it had to be guessed.

        Raises:
            InputError: If the file says another one than the segmenter was trained on (code "modality").
        """
        if self.modality is not None:
            return self.modality, ""
        known = trained.modalities
        if scan.modality and known and scan.modality not in known:
            raise InputError(
                f"The segmenter was trained on {' and '.join(known)}; the scan's file says that it is {scan.modality}.",
                hint=f"try it nevertheless: --modality {scan.modality}.",
                code="modality",
            )
        return (known[0], "") if len(known) == 1 else guess_modality(scan)


def validate_scans(
    trained: TrainedSegmenter,
    scans: Sequence[ListedScan],
    output: Path,
    how: HowToPredict | None = None,
    on_case: OnCase | None = None,
    *,
    on_guess: OnGuess | None = None,
    model_folder: Path | None = None,
    allow_seen: bool = False,
) -> list[dict[str, str | float]]:
    """Segment scans into `output/pred/NAME.nii.gz`, each on its own grid, and score those with a label map.

    `output/metrics.csv` has one row a scored case and a last one with the means; without any there is no such file.
    Beside it `training.txt` says whether the segmenter was trained on them, where its folder is known.

    Args:
        trained: The segmenter.
        scans: What to segment.
        output: An existing or new folder.
        how: See `HowToPredict`.
        on_case: See `OnCase`.
        on_guess: See `OnGuess`.
        model_folder: With the record of its training, see `DiffuGTSLib.datasets.trained_cases`; None: nobody asks.
        allow_seen: Score what the model was trained on, too; the note says so.

    Returns:
        The rows of the table, means included.

    Raises:
        InputError: If there is no scan, two have one name, or a label is none of 0 to 3; or one to be scored was trained
            on, by its file or by its name as the patient's (code "leakage"); or as `HowToPredict.taken_for`.
        GeometryError: If a mask lies on another grid than its scan.
    """
    names = [scan.name for scan in scans]
    if not names or len(set(names)) < len(names):
        raise InputError(
            f"Expected scans with names of their own, got {len(names)} scans and {len(set(names))} names.",
            hint="check the folder of scans.",
        )
    scored = [scan for scan in scans if scan.labels is not None]
    seen = None if model_folder is None or not scored else _unseen_scans(scored, model_folder, allow_seen)
    make_folder(output / "pred")
    if seen is not None:
        with whole_file(output / SEEN_NOTE) as path:
            path.write_text(seen.note + "\n", encoding="utf-8")
    how, rows = how or HowToPredict(), list[dict[str, str | float]]()
    for number, listed in enumerate(scans):
        if on_case is not None:
            on_case(listed.name, number / len(scans))
        with naming_case(listed.name):
            rows += _scan_row(trained, listed, output / "pred", how, on_guess)
    if rows:
        rows.append(mean_row(rows))
        write_rows(rows, output / "metrics.csv")
    return rows


def _scan_row(
    trained: TrainedSegmenter, listed: ListedScan, folder: Path, how: HowToPredict, on_guess: OnGuess | None
) -> list[dict[str, str | float]]:
    """Segment one scan into a folder; return its row of the table, or none without a label map."""
    scan = how.read(listed.image)
    modality, reason = how.taken_for(trained, scan)
    if reason and on_guess is not None:
        on_guess(listed.name, modality, reason)
    truth = None if listed.labels is None else true_labels(listed.labels, scan, listed.tumor_only)
    organ = None if listed.organ is None else read_mask(listed.organ, scan.geometry)
    labels = predict(trained, scan, modality, organ=organ, overlap=how.overlap, post=how.post).labels
    write_volume(labels, folder / f"{listed.name}.nii.gz")
    if truth is None:
        return []
    return [{"name": listed.name, **score(labels.array, truth, scan.geometry.spacing_mm, listed.tumor_only)}]


def _unseen_scans(scans: Sequence[ListedScan], model_folder: Path, allow_seen: bool) -> SeenCases:
    """Check scans of no protocol: each is known by its file, and by its name in case that is a patient's."""
    cases = [Case(scan.name, scan.name, "test", "CT", str(scan.image.absolute())) for scan in scans]
    return check_unseen(cases, Path(), model_folder, allow_seen=allow_seen)  # absolute paths need no folder


def score(
    found: NDArray[np.uint8],
    truth: NDArray[np.uint8],
    spacing_mm: tuple[float, float, float],
    tumor_only: bool = False,
) -> dict[str, float]:
    """Return Dice and NSD at 2 mm of organ (its tumors included) and tumor; the organ's are NaN without one to score."""
    figures: dict[str, float] = {}
    for name, least in (("organ", 1), ("tumor", TUMOR)):
        if name == "organ" and tumor_only:
            figures |= {"organ_dice": np.nan, "organ_nsd": np.nan}
            continue
        pred, ref = found >= least, truth >= least
        figures[f"{name}_dice"] = dice(pred, ref, BOTH_EMPTY_IS_RIGHT)
        figures[f"{name}_nsd"] = surface_dice(pred, ref, spacing_mm, NSD_TOLERANCE_MM, BOTH_EMPTY_IS_RIGHT)
    return figures


def mean_row(rows: Sequence[dict[str, str | float]]) -> dict[str, str | float]:
    """Return a row named "mean" with the mean of every column of numbers, NaN left out."""
    means: dict[str, str | float] = {"name": "mean"}
    for column in rows[0]:
        if column != "name":
            values = [float(row[column]) for row in rows if not np.isnan(float(row[column]))]
            means[column] = float(np.mean(values)) if values else np.nan
    return means


def validate_protocol(
    trained: TrainedSegmenter,
    protocol_path: Path,
    data: Path,
    output: Path,
    *,
    split: str = "test",
    modalities: Sequence[str] = (),
    organs: Sequence[str] = (),
    how: HowToPredict | None = None,
    on_case: OnCase | None = None,
    model_folder: Path | None = None,
    allow_seen: bool = False,
) -> None:
    """Segment a protocol's cases, with an outlined tumor or healthy, and write a report as `evaluate` does, without its page.

    What was found is in `output/pred/CASE.nii.gz`, on the grid that it was scored on: of a scan that was cut around its tumor,
    the one that `read_case` cut or padded.

    Args:
        trained: The segmenter.
        protocol_path: See `DiffuGTSLib.datasets.protocol`.
        data: Folder that the protocol's paths start from.
        output: An existing or new folder.
        split: "test" or "validation"; what was trained on is refused.
        modalities: Of the scored cases; empty takes those that the segmenter was trained on, or CT where it does not say.
        organs: Of the scored cases; empty takes those whose tumors it was trained to find, or all where it does not say.
        how: See `HowToPredict`.
        on_case: See `OnCase`.
        model_folder: With the record of its training, see `DiffuGTSLib.datasets.trained_cases`; None: unknown.
        allow_seen: Score what the model was trained on, too; the report says so.

    Raises:
        InputError: If the split, or one of its patients or scans, was trained on (code "leakage"), or it has no such
            case with a mask; or a file is missing (code "missing").
    """
    modalities, organs = modalities or trained.modalities or ("CT",), organs or trained.organs
    chosen = choose_cases(read_protocol(protocol_path), split, allow_seen=allow_seen)
    cases = [case for case in chosen if case.modality in modalities and (not organs or case.organ in organs)]
    if not any(case.tumor for case in cases):
        shown = f" of the {' or '.join(organs)}" if organs else ""
        raise InputError(
            f"The protocol has no {' or '.join(modalities)} case{shown} with a mask in split '{split}'.",
            hint=f"it has {', '.join(sorted({f'{case.organ} in {case.modality}' for case in chosen}))}; see --organ and --modality.",
        )
    require_files(cases, data)
    seen = check_unseen(cases, data, model_folder, allow_seen=allow_seen)
    make_folder(output / "pred")
    rows = []
    for number, case in enumerate(cases):
        if on_case is not None:
            on_case(case.name, number / len(cases))
        with naming_case(case.name):
            rows.append(_protocol_row(trained, case, data, output / "pred", how or HowToPredict()))
    write_report(
        rows, output, group_by="patient",
        title=f"Segmenter on {protocol_path.stem}, split {split}{' (SEEN IN TRAINING)' if seen.why else ''}",
        notes=[
            seen.note,
            *empty_mask_notes(cases, [row["kind"] == case_scores.TUMOR for row in rows]),
            "Scans that were published cut around their tumor are cut or padded at random by up to 40 mm a side first.",
            "The label maps in pred/ lie on the grid that was scored.",
            "dice_ellipsoid looks at no image.",
            "Overlap is measured on scans with a tumor, a missed one being 0; healthy scans are judged by false positives.",
            "lesions match at IoU 0.1; false positives are components that match none.",
        ],
    )  # fmt: skip


def _protocol_row(
    trained: TrainedSegmenter, case: Case, data: Path, folder: Path, how: HowToPredict
) -> dict[str, str | float]:
    """Segment one case into a folder; return its row of the report."""
    read = read_case(case, data)  # in the frame that `evaluate` draws
    scan, mask = read.scan, read.mask
    clock = time.perf_counter()
    result = predict(trained, scan, case.modality, overlap=how.overlap, post=how.post)
    seconds = time.perf_counter() - clock
    write_volume(result.labels, case_file(folder, case.name, ".nii.gz"))
    found, truth, spacing_mm = result.labels.array == TUMOR, mask.array > 0, scan.geometry.spacing_mm
    lesions, sick = detect(found, truth, spacing_mm), bool(truth.any())
    inside = float(result.tumor_probs.array[truth].mean()) if sick else np.nan
    return {
        "case": case.name,
        "patient": case.patient,
        "organ": case.organ,
        "modality": case.modality,
        "kind": case_scores.TUMOR if sick else case_scores.HEALTHY,
        "dice_ellipsoid": dice(center_ellipsoid(scan.array.shape, spacing_mm), truth) if sick else np.nan,
        "dice": dice(found, truth) if sick else np.nan,
        "nsd_2mm": surface_dice(found, truth, spacing_mm, NSD_TOLERANCE_MM) if sick else np.nan,
        "lesion_sensitivity": float(lesions.sensitivity),
        "false_positives": float(lesions.false_positives),
        "false_positives_healthy": np.nan if sick else float(lesions.false_positives),
        "volume_ml": float(found.sum()) * scan.geometry.voxel_volume_ml,
        "reference_ml": float(truth.sum()) * scan.geometry.voxel_volume_ml,
        "tumor_prob_inside": inside,
        "tumor_prob_outside": float(result.tumor_probs.array[~truth].mean()),
        "seconds": seconds,
    }


def true_labels(path: Path, scan: Volume, tumor_only: bool = False) -> NDArray[np.uint8]:
    """Read a true label map on a scan's grid: a cyst is organ; of a tumor mask every voxel is tumor.

    Raises:
        InputError: For a label that is none of 0 to 3, or of a mask none of 0 and 1.
        GeometryError: If it lies on another grid.
    """
    if tumor_only:
        return np.where(read_mask(path, scan.geometry).array > 0, TUMOR, 0).astype(np.uint8)
    labels = read_volume(path)
    require_same_grid(scan.geometry, labels.geometry, "label map")
    strange = np.setdiff1d(np.unique(labels.array), (0, 1, 2, 3))
    if len(strange):
        raise InputError(
            f"{path} holds the label {strange[0]:g}; expected 0 background, 1 organ, 2 tumor, 3 cyst.",
            hint="is it a mask of tumors? Give it by --tumors.",
        )
    return np.where(labels.array == 3, 1, labels.array).astype(np.uint8)
