"""The cases of a protocol as they are scored: which ones, cut or padded anew, and the one threshold beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from DiffuGTSLib.datasets.protocol import Case, named_file, read_scan
from DiffuGTSLib.datasets.trained_cases import WARNING
from DiffuGTSLib.errors import InputError, PromptError, did_you_mean
from DiffuGTSLib.evaluation.baselines import ThresholdRule, fit_threshold
from DiffuGTSLib.text.prompts import find_organ, organs
from DiffuGTSLib.volumes import Geometry, Volume, read_mask
from DiffuGTSLib.volumes.boxes import bounding_box
from DiffuGTSLib.volumes.digest import scan_sha256

AIR_HU = -1000.0
_REACH_MM = 40.0


def choose_cases(cases: Sequence[Case], split: str, *, allow_seen: bool = False) -> list[Case]:
    """Return the cases of a split that can be scored: with an outlined tumor, or known to be healthy.

    Args:
        cases: Of a protocol.
        split: "validation" or "test"; "train" only where what was seen is allowed.
        allow_seen: Whether it is.

    Raises:
        InputError: If the split was trained on (code "leakage"), or it has no case with a mask.
    """
    if split == "train" and not allow_seen:
        raise InputError(
            "Cases of split 'train' were trained on; scoring them says nothing.",
            hint="use --split test.",
            code="leakage",
        )
    chosen = [case for case in cases if case.split == split and (case.tumor or is_healthy(case))]
    if not any(case.tumor for case in chosen):
        raise InputError(f"The protocol has no case with a mask in split '{split}'.")
    return chosen


def require_organs(cases: Sequence[Case]) -> None:
    """Refuse a case whose organ has no built-in sentences, before hours go into the cases ahead of it.

    Raises:
        PromptError: Naming the case (code "organ").
    """
    for case in cases:
        try:
            find_organ(case.organ)
        except PromptError as error:
            raise PromptError(
                f"Case '{case.name}': unknown organ '{case.organ}'.",
                hint=did_you_mean(case.organ, organs()),
                code="organ",
            ) from error


def require_files(cases: Sequence[Case], data: Path) -> None:
    """Refuse a case whose scan or mask is not there, before hours go into the cases ahead of it.

    Raises:
        InputError: Naming the case and the file (code "missing").
    """
    for case in cases:
        for path in (named_file(data, name) for name in (case.image, case.tumor) if name):
            if not path.exists():
                raise InputError(
                    f"Case '{case.name}': {path} does not exist.",
                    hint="check --data, and the protocol's paths, which start there.",
                    code="missing",
                )


def empty_mask_notes(cases: Sequence[Case], with_tumor: Sequence[bool]) -> list[str]:
    """Return a warning where masks hold no tumor, so that their scans count as healthy: right, or a slip of a label.

    Args:
        cases: That were scored.
        with_tumor: Of each, whether its reference holds a tumor.
    """
    said = [
        f"{case.name} (values {', '.join(map(str, case.tumor_values))})" if case.tumor_values else case.name
        for case, sick in zip(cases, with_tumor, strict=True)
        if case.tumor and not sick
    ]
    return [f"{WARNING}: counted as healthy, since no voxel of the mask is tumor: {', '.join(said)}."] if said else []


def is_healthy(case: Case) -> bool:
    """Say whether a case shows a healthy organ: no tumor was outlined, and none is said to be there unmarked."""
    unmarked = case.healthy_only_in or case.unmarked_near
    return bool(case.organ and case.modality in ("CT", "MR") and not case.tumor and not unmarked)


@dataclass(frozen=True, eq=False)
class ReadCase:
    """A case as it is scored.

    Attributes:
        scan: Native units; one that was cut around its tumor, in another frame.
        mask: The reference on its grid; empty for a healthy scan.
        digests: File → SHA-256, of scan and mask as they were read.
    """

    scan: Volume
    mask: Volume
    digests: dict[str, str]


def read_case(case: Case, data: Path) -> ReadCase:
    """Read a case's scan and reference; what was cut around its tumor is cut or padded, the same way every time.

    Raises:
        InputError: As `read_volume` and `read_mask`.
    """
    scan, mask = _read(case, data)
    digests = {name: scan_sha256(named_file(data, name)) for name in (case.image, case.tumor) if name}
    if case.framed_on_tumor:
        rng = np.random.default_rng([2025, *case.name.encode()])
        scan, mask = reframe(scan, mask, AIR_HU if case.modality == "CT" else float(scan.array.min()), rng)
    return ReadCase(scan, mask, digests)


def read_as(case: Case) -> dict[str, Any]:
    """Return what a case's scan and reference follow from beside its files: two reports must agree in it to be compared."""
    return {
        "organ": case.organ, "modality": case.modality, "tumor_values": sorted(case.tumor_values),
        "framed_on_tumor": case.framed_on_tumor, "offset_hu": case.offset_hu,
    }  # fmt: skip


@dataclass
class BaselineRules:
    """Chooses the threshold baseline's percentile on a few training cases of a modality, when first asked.

    Attributes:
        cases: All of the protocol.
        data: Folder that their paths start from.
        rules: Modality → rule, of those chosen so far.
    """

    cases: Sequence[Case]
    data: Path
    rules: dict[str, ThresholdRule] = field(default_factory=dict)

    def of(self, modality: str) -> ThresholdRule:
        """Return a modality's rule; Otsu's threshold where the protocol has no training case."""
        if modality not in self.rules:
            training = [c for c in self.cases if c.split == "train" and c.tumor and c.modality == modality][:4]
            pairs = ((scan, mask.array > 0) for scan, mask in (_read(case, self.data) for case in training))
            self.rules[modality] = fit_threshold(pairs, modality) if training else ThresholdRule()
        return self.rules[modality]


def reframe(scan: Volume, mask: Volume, fill: float, rng: np.random.Generator) -> tuple[Volume, Volume]:
    """Cut or pad each of the six sides at random by up to 40 mm, so that the frame no longer says where the tumor is.

    No side cuts closer than 5 mm to the tumor. Padding is filled with `fill` and keeps the grid's directions.

    Raises:
        InputError: If the mask is empty.
    """
    spacing = np.array(scan.geometry.spacing_mm)
    if not mask.array.any():
        raise InputError(
            "The tumor mask is empty: there is no frame to move around it.",
            hint="check the protocol's tumor_values, or take framed_on_tumor away.",
            code="empty_mask",
        )
    first, end = np.array([(side.start, side.stop) for side in bounding_box(mask.array > 0)]).T
    reach = np.round(rng.uniform(-_REACH_MM, _REACH_MM, (2, 3)) / spacing).astype(int)  # positive pads, negative cuts
    keep = np.ceil(5.0 / spacing).astype(int)
    before = np.maximum(reach[0], -np.maximum(0, first - keep))
    after = np.maximum(reach[1], -np.maximum(0, np.array(scan.array.shape) - end - keep))
    matrix = scan.geometry.ijk_to_ras.copy()
    matrix[:3, 3] = scan.geometry.to_ras(-before)
    geometry = Geometry(tuple(int(n) for n in scan.array.shape + before + after), matrix)  # type: ignore[arg-type]
    cut = tuple(slice(max(0, -b), n - max(0, -a)) for b, a, n in zip(before, after, scan.array.shape, strict=True))
    pad = [(max(0, int(b)), max(0, int(a))) for b, a in zip(before, after, strict=True)]
    return (
        replace(scan, array=np.pad(scan.array[cut], pad, constant_values=fill), geometry=geometry),
        Volume(np.pad(mask.array[cut], pad), geometry),
    )


def _read(case: Case, data: Path) -> tuple[Volume, Volume]:
    """Return a case's scan and its reference, which is empty for a healthy scan, in the frame of the files."""
    scan = read_scan(case, data)
    if not case.tumor:
        return scan, scan.with_array(np.zeros(scan.geometry.shape, dtype=np.uint8))
    return scan, read_mask(named_file(data, case.tumor), scan.geometry, case.tumor_values)
