"""Early and late tumors kept apart: DiffTumor trains one painter for tumors up to 10 mm in radius, one for larger ones.

Follows DiffTumor (Chen et al., CVPR 2024), its second step, the diffusion model. Upstream publishes the rule for early
tumors only; that late tumors are its complement we infer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from DiffuGTSLib.errors import ConfigError, InputError, did_you_mean
from DiffuGTSLib.output.findings import ball_radius_mm
from DiffuGTSLib.storage import make_folder, whole_file
from DiffuGTSLib.supervised.networks import ORGAN, TUMOR
from DiffuGTSLib.synthesis.shapes import DIFFTUMOR_SIZES
from DiffuGTSLib.training.case_lists import HEALTHY_MARKS, ListedCase
from DiffuGTSLib.volumes import read_volume, write_volume

EARLY_RADIUS_MM = 10.0
"""A tumor is early when the ball of its volume has at most this radius (diameter 2 cm)."""
LEAST_VOXELS = 8
"""Face-connected parts with fewer voxels are specks; they count as organ in every stage."""
CYST = 3
"""KiTS's label of cysts; they count as organ."""
SIZE_STAGES = ("early", "late")
PAINTED_MM = {
    "early": (DIFFTUMOR_SIZES["tiny"].radius_mm, DIFFTUMOR_SIZES["small"].radius_mm),
    "late": (DIFFTUMOR_SIZES["medium"].radius_mm, DIFFTUMOR_SIZES["large"].radius_mm),
}
"""Nominal radii of the painted tumors of a stage; half axes are 0.75 to 1.25 of it, so that early ones end at 10 mm."""


@dataclass(frozen=True, eq=False)
class StagedLabels:
    """A label map with the tumors of one stage.

    Attributes:
        labels: (i, j, k), uint8: 0 background, 1 organ, 2 tumor of the stage.
        kept_mm: Radius of each tumor that stayed.
        other_mm: Radius of each tumor of the other stage, now organ.
        specks: How many parts were too small to count.
    """

    labels: NDArray[np.uint8]
    kept_mm: tuple[float, ...]
    other_mm: tuple[float, ...]
    specks: int


def keep_stage(labels: NDArray[np.integer], spacing_mm: tuple[float, float, float], stage: str) -> StagedLabels:
    """Turn every tumor of the other stage into organ.

    A tumor is a face-connected part of label 2; its radius is that of the ball of its volume, (3 V / 4 π)^⅓.

    Args:
        labels: (i, j, k): 0 background, 1 organ, 2 tumor, 3 cyst.
        spacing_mm: Voxel size.
        stage: "early" keeps radii up to 10 mm, "late" the others.

    Raises:
        ConfigError: For another stage.
        InputError: For another label.
    """
    if stage not in SIZE_STAGES:
        raise ConfigError(f"Unknown stage '{stage}'.", hint=did_you_mean(stage, SIZE_STAGES))
    strange = np.setdiff1d(np.unique(labels), (0, ORGAN, TUMOR, CYST))
    if len(strange):
        raise InputError(
            f"Expected the labels 0 background, 1 organ, 2 tumor, 3 cyst, got {strange[0]:g}.", code="not_a_mask"
        )
    staged = (labels > 0).astype(np.uint8) * np.uint8(ORGAN)
    parts, _ = ndimage.label(labels == TUMOR)  # face-connected: scipy's default
    kept, other, specks = [], [], 0
    for number, voxels in enumerate(np.bincount(parts.ravel())[1:], start=1):
        radius_mm = ball_radius_mm(float(voxels * np.prod(spacing_mm)) / 1000)
        if voxels < LEAST_VOXELS:
            specks += 1
        elif (radius_mm <= EARLY_RADIUS_MM) == (stage == "early"):
            staged[parts == number] = TUMOR
            kept.append(radius_mm)
        else:
            other.append(radius_mm)
    return StagedLabels(staged, tuple(kept), tuple(other), specks)


def filter_cases(
    cases: Sequence[ListedCase], stage: str, output: Path, list_name: str, report: Callable[[str], None]
) -> list[StagedLabels]:
    """Write label maps with one stage's tumors, and the list of the cases that have any.

    A label map keeps its path of the list, below `output`; the list, `output/list_name`, is written last, so that it
    stands for a finished run. It names scans as the old list does and the new label maps by their whole paths, since both
    start from one root when it is read. Healthy cases are left out.

    Args:
        cases: Their scans stay where they are.
        stage: "early" or "late".
        output: Folder; made if absent.
        list_name: Of the new list.
        report: Is told one line a case.

    Returns:
        One entry a case with a tumor in the list, kept or not.

    Raises:
        InputError: For a label that is none of ours, a case outside of the list's root, or no tumor of that stage; if
            `output` is where the label maps of the list lie (code "exists"): they would be replaced; if its path has a mark
            of healthy cases in it.
        StorageError: If something cannot be written.
    """
    lines, filtered = [], []
    targets = {case: output / _inside(case.label_name) for case in cases if not case.healthy}
    _require_elsewhere(targets)
    for case, target in targets.items():
        volume = read_volume(case.label)
        labels = volume.array.astype(np.int64)
        if not np.array_equal(labels, volume.array):
            raise InputError(
                f"{case.label} is no label map: expected whole numbers, got others between {volume.array.min():g} and "
                f"{volume.array.max():g}.",
                hint="was it resampled with interpolation? Take the nearest neighbor.",
                code="not_a_mask",
            )
        staged = keep_stage(labels, volume.geometry.spacing_mm, stage)
        make_folder(target.parent)
        write_volume(volume.with_array(staged.labels), target)
        filtered.append(staged)
        if staged.kept_mm:
            lines.append(f"{case.image_name}\t{target.resolve()}")
        report(f"{case.name}: {len(staged.kept_mm)} {stage}, {len(staged.other_mm)} not, {staged.specks} specks")
    if not lines:
        raise InputError(
            f"None of {len(cases)} cases has a tumor of the stage '{stage}'.",
            hint="is it the right list?",
            code="empty",
        )
    with whole_file(output / list_name) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return filtered


def _require_elsewhere(targets: Mapping[ListedCase, Path]) -> None:
    for case, target in targets.items():
        if target.resolve() == case.label.resolve():
            raise InputError(
                f"The new label map of {case.name} would replace the one it is made from: {target}.",
                hint="choose another output folder.",
                code="exists",
            )
        mark = next((mark for mark in HEALTHY_MARKS if mark in str(target.resolve())), "")
        if mark:
            raise InputError(
                f"The new label map of {case.name} would be {target.resolve()}: lists take a path with '{mark}' in it for a "
                "healthy case's.",
                hint="choose another output folder.",
            )


def _inside(name: str) -> PurePath:
    path = PurePath(name)
    if path.is_absolute() or ".." in path.parts:
        raise InputError(
            f"The label map {name} lies outside of the list's root, so that it has no place in another folder.",
            hint="write the list's paths relative to one root.",
        )
    return path
