"""What was found, lesion by lesion: how large, where, how suspicious, and how the repaint changed it."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import isnan, nan
from pathlib import Path

import numpy as np
from rich.table import Table
from scipy import ndimage

from DiffuGTSLib.storage import whole_file
from DiffuGTSLib.volumes.lesions import label_lesions, longest_in_plane_diameter_mm
from DiffuGTSLib.volumes.volume import Volume, require_same_grid

COLUMNS = (
    "label",
    "volume_ml",
    "centroid_r_mm",
    "centroid_a_mm",
    "centroid_s_mm",
    "longest_in_plane_diameter_mm",
    "mean_aova",
    "max_aova",
    "mean_intensity_change_native",
)
"""The header of findings.csv: units in the names, "native" being HU in CT and the scan's own units in MR."""

NOT_APPLICABLE = "n/a"
"""How a value that does not exist is written in tables; readers of CSV take it as missing."""


@dataclass(frozen=True)
class Finding:
    """One lesion.

    Attributes:
        label: 1 for the largest, rising as the volume falls.
        volume_ml: Voxels times their size.
        centroid_ras_mm: Mean of the voxel centers, RAS world. May lie outside a crescent.
        longest_in_plane_diameter_mm: See the function of that name in `volumes.lesions`.
        mean_aova: Mean anomaly attention, 0 to 1; NaN when detection was skipped.
        max_aova: Highest anomaly attention, 0 to 1; NaN when detection was skipped.
        mean_intensity_change: Scan less pseudo-healthy image, HU or MR units: positive where the lesion is brighter
            than the healthy guess; NaN when nothing was repainted.
    """

    label: int
    volume_ml: float
    centroid_ras_mm: tuple[float, float, float]
    longest_in_plane_diameter_mm: float
    mean_aova: float
    max_aova: float
    mean_intensity_change: float


def find_lesions(mask: Volume, aova: Volume | None, scan: Volume, pseudo_healthy: Volume | None) -> list[Finding]:
    """Measure every lesion of a mask, largest first; an empty mask gives an empty list.

    Args:
        mask: 1 = anomaly, on the source grid.
        aova: Anomaly attention, 0 to 1, same grid; None when detection was skipped.
        scan: Native units, same grid.
        pseudo_healthy: The repainted scan, native units, same grid; None when nothing was repainted.

    Raises:
        GeometryError: If one of them lies on another grid than the scan.
    """
    for volume, name in ((mask, "mask"), (aova, "AOVA map"), (pseudo_healthy, "pseudo-healthy image")):
        if volume is not None:
            require_same_grid(scan.geometry, volume.geometry, name)
    labels, _ = label_lesions(mask.array)
    findings = []
    for number, box in enumerate(ndimage.find_objects(labels), start=1):
        lesion = labels[box] == number
        corner = np.array([side.start for side in box])
        r, a, s = mask.geometry.to_ras(np.argwhere(lesion).mean(axis=0) + corner)
        attention = np.array([nan]) if aova is None else aova.array[box][lesion].astype(np.float64)
        change = np.array([nan])
        if pseudo_healthy is not None:
            change = scan.array[box][lesion].astype(np.float64) - pseudo_healthy.array[box][lesion]
        findings.append(
            Finding(
                label=0,
                volume_ml=float(np.count_nonzero(lesion) * mask.geometry.voxel_volume_ml),
                centroid_ras_mm=(float(r), float(a), float(s)),
                longest_in_plane_diameter_mm=longest_in_plane_diameter_mm(lesion, mask.geometry.spacing_mm),
                mean_aova=float(attention.mean()),
                max_aova=float(attention.max()),
                mean_intensity_change=float(change.mean()),
            )
        )
    # The sort is stable: equal volumes keep their order in the grid, and one mask always gives one table.
    findings.sort(key=lambda finding: -finding.volume_ml)
    return [replace(finding, label=number) for number, finding in enumerate(findings, start=1)]


def ball_radius_mm(volume_ml: float) -> float:
    """Return the radius of the ball of that volume."""
    return float(np.cbrt(3 * volume_ml * 1000 / (4 * np.pi)))


def write_findings(findings: Sequence[Finding], path: Path | str) -> None:
    """Write findings.csv: the header `COLUMNS`, then one row a lesion; only the header when there is none.

    Raises:
        StorageError: If the file cannot be written; what was there before is untouched.
    """
    with whole_file(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows(_row(finding) for finding in findings)


def findings_table(findings: Sequence[Finding]) -> Table:
    """Return the findings as a table for the terminal; without any it says so in words."""
    if not findings:
        return Table("Nothing found", box=None)
    table = Table(title="1 finding" if len(findings) == 1 else f"{len(findings)} findings")
    for heading in (
        "#",
        "Volume\nml",
        "Center (RAS)\nmm",
        "Longest in plane\nmm",
        "AOVA\nmean",
        "AOVA\nmax",
        "Change\nHU or MR units",
    ):
        table.add_column(heading, justify="right")
    for finding in findings:
        r, a, s = finding.centroid_ras_mm
        table.add_row(
            str(finding.label),
            f"{finding.volume_ml:.2f}",
            f"{_side(r, 'R', 'L')} {_side(a, 'A', 'P')} {_side(s, 'S', 'I')}",
            f"{finding.longest_in_plane_diameter_mm:.1f}",
            *(_shown(value, ".2f") for value in (finding.mean_aova, finding.max_aova)),
            _shown(finding.mean_intensity_change, "+.0f"),
        )
    return table


def _row(finding: Finding) -> list[str]:
    values = (
        finding.volume_ml,
        *finding.centroid_ras_mm,
        finding.longest_in_plane_diameter_mm,
        finding.mean_aova,
        finding.max_aova,
        finding.mean_intensity_change,
    )
    return [str(finding.label), *(_shown(value, ".4f") for value in values)]


def _shown(value: float, form: str) -> str:
    return NOT_APPLICABLE if isnan(value) else format(value, form)


def _side(value: float, positive: str, negative: str) -> str:
    return f"{positive if value >= 0 else negative}{abs(value):.0f}"
