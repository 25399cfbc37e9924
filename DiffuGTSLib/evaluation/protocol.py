"""Score a model on the cases of a protocol: every step beside a blob that never looks and one plain threshold."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from DiffuGTSLib.config import Config
from DiffuGTSLib.errors import InputError
from DiffuGTSLib.evaluation.baselines import ThresholdRule, center_ellipsoid, fit_threshold, intensity_threshold
from DiffuGTSLib.evaluation.detection import detect
from DiffuGTSLib.evaluation.metrics import dice, surface_dice
from DiffuGTSLib.evaluation.report import write_report
from DiffuGTSLib.pipeline import Components, load_components, segment
from DiffuGTSLib.protocol import Case, read_protocol
from DiffuGTSLib.text.prompts import organ_prompts
from DiffuGTSLib.volumes import Geometry, Volume, read_mask, read_volume

NSD_TOLERANCE_MM = 2.0
AIR_HU = -1000.0


def evaluate_protocol(
    protocol_path: Path,
    data: Path,
    output: Path,
    config: Config,
    split: str = "test",
    on_progress: Callable[[str, float], None] | None = None,
) -> None:
    """Segment every case of a split and write `cases.csv`, `report.json` and `report.md`.

    Columns: Dice of the two baselines, of the coarse and of the refined mask; NSD at 2 mm, lesion sensitivity and
    false positives of the refined mask; the anomaly score. The threshold's percentile is chosen on training cases.

    Args:
        protocol_path: See `DiffuGTSLib.protocol`.
        data: Folder that the protocol's paths start from.
        output: An existing or new folder.
        config: Of the model to score.
        split: "test" or "validation"; what was trained on is refused.
        on_progress: Called with (case name, share of the cases done).

    Raises:
        InputError: If the split was trained on, or has no case with a mask.
    """
    if split == "train":
        raise InputError(
            "Cases of split 'train' were trained on; scoring them says nothing.",
            hint="use --split test.",
            code="leakage",
        )
    cases = read_protocol(protocol_path)
    chosen = [case for case in cases if case.split == split and case.tumor]
    if not chosen:
        raise InputError(f"The protocol has no case with a mask in split '{split}'.")
    components = load_components(config)
    rules = _threshold_rules(cases, data)
    output.mkdir(parents=True, exist_ok=True)
    rows = []
    for number, case in enumerate(chosen):
        if on_progress is not None:
            on_progress(case.name, number / len(chosen))
        rows.append(_score(case, data, components, config, rules))
    write_report(
        rows, output, title=f"{config.preset} on {protocol_path.stem}, split {split}",
        notes=_notes(components), group_by="patient",
    )  # fmt: skip


def reframe(
    scan: Volume, mask: Volume, fill: float, rng: np.random.Generator, reach_mm: float = 40.0
) -> tuple[Volume, Volume]:
    """Cut or pad each of the six sides at random, so that the frame no longer says where the tumor is.

    No side cuts closer than 5 mm to the tumor. Padding is filled with `fill` and keeps the grid's directions.

    Raises:
        InputError: If the mask is empty.
    """
    spacing = np.array(scan.geometry.spacing_mm)
    found = np.argwhere(mask.array > 0)
    if len(found) == 0:
        raise InputError("The tumor mask is empty: there is no frame to move around it.", code="empty_mask")
    reach = np.round(rng.uniform(-reach_mm, reach_mm, (2, 3)) / spacing).astype(int)  # positive pads, negative cuts
    keep = np.ceil(5.0 / spacing).astype(int)
    before = np.maximum(reach[0], -np.maximum(0, found.min(0) - keep))
    after = np.maximum(reach[1], -np.maximum(0, np.array(scan.array.shape) - 1 - found.max(0) - keep))
    matrix = scan.geometry.ijk_to_ras.copy()
    matrix[:3, 3] = scan.geometry.to_ras(-before)
    geometry = Geometry(tuple(int(n) for n in scan.array.shape + before + after), matrix)  # type: ignore[arg-type]
    cut = tuple(slice(max(0, -b), n - max(0, -a)) for b, a, n in zip(before, after, scan.array.shape, strict=True))
    pad = [(max(0, int(b)), max(0, int(a))) for b, a in zip(before, after, strict=True)]
    return (
        Volume(np.pad(scan.array[cut], pad, constant_values=fill), geometry, scan.modality),
        Volume(np.pad(mask.array[cut], pad), geometry),
    )


def _score(
    case: Case, data: Path, components: Components, config: Config, rules: dict[str, ThresholdRule]
) -> dict[str, str | float]:
    scan, mask = _read(case, data)
    if case.framed_on_tumor:
        rng = np.random.default_rng([2025, *case.name.encode()])
        scan, mask = reframe(scan, mask, AIR_HU if case.modality == "CT" else float(scan.array.min()), rng)
    result = segment(scan, organ_prompts(case.organ, case.modality), components, config, modality=case.modality)
    truth, spacing_mm = mask.array > 0, scan.geometry.spacing_mm
    refined, coarse = result.mask.array > 0, result.coarse_mask.array > 0
    found = detect(refined, truth, spacing_mm)
    rule = rules.get(case.modality, ThresholdRule())
    return {
        "case": case.name,
        "patient": case.patient,
        "organ": case.organ,
        "modality": case.modality,
        "dice_ellipsoid": dice(center_ellipsoid(scan.array.shape, spacing_mm), truth),
        "dice_threshold": dice(intensity_threshold(scan, case.modality, rule), truth),
        "dice_coarse": dice(coarse, truth),
        "dice_refined": dice(refined, truth),
        "nsd_2mm_refined": surface_dice(refined, truth, spacing_mm, NSD_TOLERANCE_MM),
        "lesion_sensitivity": float(found.sensitivity),
        "false_positives": float(found.false_positives),
        "anomaly_score": result.anomaly_score,
        "seconds": sum(result.timings_s.values()),
    }


def _threshold_rules(cases: list[Case], data: Path) -> dict[str, ThresholdRule]:
    """Choose the baseline's percentile on a few training cases of each modality."""
    rules = {}
    for modality in ("CT", "MR"):
        training = [case for case in cases if case.split == "train" and case.tumor and case.modality == modality][:4]
        if training:
            rules[modality] = fit_threshold(
                [(scan, mask.array > 0) for scan, mask in (_read(case, data) for case in training)], modality
            )
    return rules


def _read(case: Case, data: Path) -> tuple[Volume, Volume]:
    scan = read_volume(data / case.image)
    return scan, read_mask(data / case.tumor, scan.geometry, case.tumor_values)


def _notes(components: Components) -> list[str]:
    return [
        "Scans that were published cut around their tumor are cut or padded at random by up to 40 mm a side first.",
        "dice_ellipsoid looks at no image; dice_threshold uses the best percentile of four training cases.",
        "lesions match at IoU 0.1; false positives are components that match none.",
        *(f"{name}: SHA-256 {digest}" for name, digest in components.weights.items()),
    ]
