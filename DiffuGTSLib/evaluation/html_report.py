"""The page of a report: one HTML file that needs no network and nothing beside it, made from report.json.

Tables and drawings are in the text; the sheet and the script are inlined; pictures are JPEG in base64. Every word that
comes from data is escaped.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from math import isnan
from pathlib import Path
from typing import Any
from urllib.parse import quote

from DiffuGTSLib.errors import InputError
from DiffuGTSLib.evaluation.case_picture import SEEN_COLOR, TRUTH_COLOR
from DiffuGTSLib.evaluation.case_scores import HEALTHY, case_file
from DiffuGTSLib.evaluation.charts import Bar, Group, bars, boxes, froc_curve, interval_strip, reliability
from DiffuGTSLib.evaluation.html_parts import (
    UNTRAINED,
    bullets,
    document,
    escaped,
    few_patients,
    made_of,
    number_text,
    p_text,
    range_text,
    repeated,
    signed_text,
    table,
)
from DiffuGTSLib.evaluation.report import as_float
from DiffuGTSLib.output.record import RESEARCH_USE
from DiffuGTSLib.storage import read_json, whole_file

PAGE = "report.html"
SHOWN = 3
"""Worst and best cases that are shown at once."""
MOST_PICTURES = 60
"""More would make the page too large to be mailed: 60 are about 3 MB."""


@dataclass(frozen=True)
class Figure:
    """How a column is told.

    Attributes:
        name: What the page calls it.
        meaning: What it measures, in a sentence.
        of_one: Whether it lies between 0 and 1.
        places: Decimal places that are shown.
    """

    name: str
    meaning: str
    of_one: bool = True
    places: int = 3


FIGURES = {
    "dice_refined": Figure("Dice, refined mask", "Overlap of the final mask with the reference; 1 is all."),
    "dice_coarse": Figure("Dice, coarse mask", "Before repainting and residual."),
    "dice_threshold": Figure("Dice, one threshold", "Baseline: intensity alone, percentile from training cases."),
    "dice_ellipsoid": Figure("Dice, center ellipsoid", "Baseline that looks at no image."),
    "nsd_2mm_refined": Figure("NSD at 2 mm", "Share of both surfaces within 2 mm of each other."),
    "nsd_1mm_refined": Figure("NSD at 1 mm, brain", "The same at 1 mm, brain only."),
    "lesion_sensitivity": Figure("Lesion sensitivity", "Share of a scan's lesions that are found (IoU 0.1)."),
    "false_positives": Figure("False positives a scan", "Predicted lesions that match none.", of_one=False),
    "false_positives_healthy": Figure("False positives a healthy scan", "On scans without a tumor.", of_one=False),
    "lesion_f1": Figure("Lesion F1", "Of the same matching: precision and sensitivity in one."),
    "recognition_quality": Figure("Recognition quality", "Lesion F1 at IoU 0.5, one to one."),
    "segmentation_quality": Figure("Segmentation quality", "Mean IoU of the lesions matched so."),
    "panoptic_quality": Figure("Panoptic quality", "Recognition times segmentation quality."),
    "voxel_auroc": Figure("AUROC of voxels", "AOVA map inside the body, tumor against the rest."),
    "ece": Figure("Calibration error (ECE)", "|predicted − observed|, inside the body; 0 is best."),
    "brier": Figure("Brier score", "Squared error of the AOVA map inside the body; 0 is best."),
    "seconds": Figure("Seconds a scan", "On the device named below.", of_one=False, places=1),
}  # fmt: skip
_CASE_COLUMNS = {
    "case": "Case", "organ": "Organ", "modality": "Modality", "kind": "Kind", "dice_refined": "Dice\nrefined",
    "dice_coarse": "Dice\ncoarse", "dice_threshold": "Dice\nthreshold", "dice_ellipsoid": "Dice\nellipsoid",
    "nsd_2mm_refined": "NSD\n2 mm", "lesions": "Lesions", "lesion_sensitivity": "Sensi-\ntivity",
    "false_positives": "False\npositives", "panoptic_quality": "PQ", "anomaly_score": "Anomaly\nscore",
    "ece": "ECE", "reference_ml": "Reference\nml", "volume_ml": "Found\nml", "seconds": "s",
}  # fmt: skip
_BEFORE = {"dice_ellipsoid": "center ellipsoid", "dice_threshold": "one threshold", "dice_coarse": "coarse mask"}
_STEP_NAMES = {
    "dice_ellipsoid": "Center\nellipsoid", "dice_threshold": "One\nthreshold", "dice_coarse": "AOVA,\ncoarse",
    "dice_refined": "Repainted,\nrefined",
}  # fmt: skip


def write_page(folder: Path) -> Path:
    """Write `report.html` from the `report.json` beside it, and return its path.

    Args:
        folder: Of a report that `evaluate_protocol` wrote; pictures come from its `cases` folder, where they are.

    Raises:
        InputError: If the folder holds no such report.
        StorageError: If the page cannot be written.
    """
    report = read_json(folder / "report.json", code="report")
    try:
        pictures = {
            row["case"]: path.read_bytes()
            for row in report["cases"]
            if (path := case_file(folder / "cases", row["case"], ".jpg")).is_file()
        }
        text = page_text(report, pictures)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder} holds no report of a protocol: {error!r}.", code="report") from error
    with whole_file(folder / PAGE) as path:
        path.write_text(text, encoding="utf-8")
    return folder / PAGE


def page_text(report: Mapping[str, Any], pictures: Mapping[str, bytes]) -> str:
    """Return the page.

    Args:
        report: The content of report.json.
        pictures: Case → JPEG.
    """
    about = report["about"]
    patients = len({row["patient"] for row in report["cases"]})
    version, untrained = about["versions"]["diffugts"], "" if about["trained"] else UNTRAINED
    pictured, shown = _pictures(report["cases"], pictures)
    made = f"{len(report['cases'])} scans of {patients} patients · DiffuGTS {version} · {about['created']}"
    parts = [
        f'<p class="muted">{escaped(made)}</p>',
        f'<p class="research">{escaped(f"{RESEARCH_USE} {untrained}")}</p>',
        _cards(report),
        "<h2>Figures</h2>", _summary(report),
        "<h2>Does each step earn its place?</h2>", _steps(report["pooled"]["steps"]),
        "<h2>Plots</h2>", _plots(report),
        "<h2>By modality and organ</h2>", _groups(report["pooled"]["groups"]),
        "<h2>Cases in pictures</h2>", pictured,
        "<h2>Every case</h2>", _cases(report["cases"], shown),
        "<h2>How it was measured</h2>", _method(report),
    ]  # fmt: skip
    return document(report["title"], parts)


def _cards(report: Mapping[str, Any]) -> str:
    estimates, pooled = report["estimates"], report["pooled"]
    froc, scan = pooled["froc"], pooled["scan_auroc"]
    cards = [
        (estimates["dice_refined"], "mean", "Dice of the refined mask"),
        (estimates["lesion_sensitivity"], "mean", "Lesion sensitivity, mean a scan"),
        (estimates["false_positives"], "mean", "False positives a scan"),
        (froc, "score", "FROC score of the AOVA map"),
        (scan, "value", f"AUROC of the scan score: {scan['healthy']} healthy, {scan['abnormal']} abnormal"),
        ({"ece": pooled["calibration"]["ece"]}, "ece", "Calibration error, all voxels"),
    ]
    shown = "".join(
        f'<div class="card"><b>{number_text(values[key])}</b><span>{_interval(values)}{escaped(name)}</span></div>'
        for values, key, name in cards
    )
    return f'<div class="cards">{shown}</div>'


def _summary(report: Mapping[str, Any]) -> str:
    rows = []
    for column, figure in FIGURES.items():
        estimate = report["estimates"].get(column)
        if estimate is None:
            continue
        mean, low, high = (as_float(estimate[key]) for key in ("mean", "low", "high"))
        strip = interval_strip(mean, low, high) if figure.of_one else ""
        counted = f"{estimate['cases']} ({estimate['not_applicable']})"
        median, places = estimate["median"], figure.places
        cells = (number_text(mean, places), range_text(low, high, places), number_text(median, places), counted)
        rows.append(
            f'<tr><td class="text"><b>{escaped(figure.name)}</b></td>{"".join(f"<td>{cell}</td>" for cell in cells)}'
            f'<td class="text">{strip}</td><td class="text wide">{escaped(figure.meaning)}</td></tr>'
        )
    heads = ("<Figure", "Mean", "95 % interval", "Median", "Cases (n/a)", "<", "<Meaning")
    few = few_patients(len({row["patient"] for row in report["cases"]}))
    return table(heads, rows) + f'<p class="note">{escaped(report["interval"].capitalize())}.{few}</p>'


def _steps(steps: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        f'<tr><td class="text">Refined less {escaped(_BEFORE[row["than"]])}</td>'
        f"<td><b>{signed_text(row['difference'])}</b></td><td>{range_text(as_float(row['low']), as_float(row['high']), signed=True)}"
        f"</td><td>{p_text(row['p'])}</td><td>{p_text(row['p_wilcoxon'])}</td><td>{row['cases']}</td><td>{row['patients']}</td></tr>"
        for row in steps
    ]
    heads = ("<Dice", "Difference", "95 % interval", "p, permutation", "p, Wilcoxon", "Cases", "Patients")
    note = "Paired: one mean difference a patient; two-sided; not adjusted for three tests."
    return table(heads, rows) + f'<p class="note">{note}</p>'


def _plots(report: Mapping[str, Any]) -> str:
    pooled, cases = report["pooled"], [row for row in report["cases"] if row["kind"] != HEALTHY]
    names = [str(row["case"]) for row in cases]
    groups = [Group(label, [as_float(row[key]) for row in cases], names) for key, label in _STEP_NAMES.items()]
    froc, voxels = pooled["froc"], pooled["calibration"]
    found, false = _floats(froc["sensitivity"]), _floats(froc["false_positives_per_scan"])
    drawings = (
        (
            "Overlap by step",
            boxes(groups, "Dice"),
            "Quartiles and median; each point is a scan, point at it for its name.",
        ),
        ("FROC of the AOVA map", froc_curve(froc["thresholds"], found, false, froc["rates"]), _froc_caption(froc)),
        (
            "Reliability of the AOVA map",
            reliability(_floats(voxels["predicted"]), _floats(voxels["observed"]), voxels["counts"]),
            _reliability_caption(voxels),
        ),
        (
            "Sensitivity by size",
            bars(_size_bars(pooled["sizes"]), "Lesions found, share", "Radius, mm"),
            "By radius of the ball of the same volume; Wilson intervals, each lesion counted as independent.",
        ),
    )
    figures = "".join(
        f"<figure><h3>{escaped(name)}</h3>{drawing}<figcaption>{escaped(said)}</figcaption></figure>"
        for name, drawing, said in drawings
    )
    return f'<div class="plots">{figures}</div>'


def _froc_caption(froc: Mapping[str, Any]) -> str:
    score = f"{number_text(froc['score'])} ({range_text(as_float(froc['low']), as_float(froc['high']))})"
    return (
        f"Score {score}: mean of the best sensitivity at the rates on the axis, nothing interpolated. "
        "Points: thresholds 0.05 to 0.95; those beyond the axis lie at its ends."
    )


def _reliability_caption(voxels: Mapping[str, Any]) -> str:
    figures = f"ECE {number_text(voxels['ece'])}, Brier {number_text(voxels['brier'], 4)}, AUROC {number_text(voxels['auroc'])}"
    tumor = f"{number_text(100 * as_float(voxels['prevalence']), 2)} % of them tumor"
    return (
        f"{figures} over {voxels['voxels']:,} voxels inside the body, {tumor}. "
        "Gray: how many each bin holds, on a logarithmic scale."
    )


def _size_bars(sizes: Sequence[Mapping[str, Any]]) -> list[Bar]:
    return [
        Bar(_short_size(row["size"]), row["found"], row["lesions"], as_float(row["low"]), as_float(row["high"]))
        for row in sizes
        if row["measure"] == "radius"
    ]


def _short_size(name: str) -> str:
    """Return "5 to 10 mm" as an axis has room for it, the unit being the axis's."""
    number = name.removesuffix(" or more").removeprefix("below ").removesuffix(" mm")
    sign = "< " if name.startswith("below") else "≥ " if name.endswith("more") else ""
    return sign + number.replace(" to ", "–")


def _groups(groups: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for row in groups:
        cells = [
            f"<td>{number_text(row[name])}</td><td>{range_text(as_float(row[f'{name}_low']), as_float(row[f'{name}_high']))}</td>"
            for name in ("dice_refined", "lesion_sensitivity", "false_positives")
        ]
        rows.append(
            f'<tr><td class="text">{escaped(row["group"])}</td><td>{row["cases"]}</td><td>{row["patients"]}</td>'
            f"{''.join(cells)}</tr>"
        )
    heads = ("<Group", "Scans", "Patients", "Dice", "95 %", "Sensitivity", "95 %", "False positives", "95 %")
    return table(heads, rows)


def _pictures(cases: Sequence[Mapping[str, Any]], pictures: Mapping[str, bytes]) -> tuple[str, set[str]]:
    """Return the pictures, `MOST_PICTURES` at most, and the names of the cases that they are of."""
    ranked = [row for row in cases if row["dice_refined"] is not None and row["case"] in pictures]
    ranked.sort(key=lambda row: (row["dice_refined"], row["case"]))
    few = min(SHOWN, len(ranked) // 2)
    worst, best = ranked[: few or len(ranked)], ranked[len(ranked) - few :][::-1]
    shown = {row["case"] for row in (*worst, *best)}
    others = [row for row in cases if row["case"] in pictures and row["case"] not in shown]
    sick = [row for row in cases if row["kind"] != HEALTHY]
    missed = sum(row["lesion_sensitivity"] == 0 for row in sick)
    key = (
        f"<p>In {missed} of {len(sick)} scans with a tumor no lesion was found.</p>"
        f'<p class="note key"><i style="background:{TRUTH_COLOR}"></i> reference '
        f'<i style="background:{SEEN_COLOR}"></i> refined mask · below: AOVA map, black to yellow is 0 to 1 · '
        "axial, coronal, sagittal through the largest lesion, the patient's right on the left</p>"
    )
    parts = [key]
    for name, rows in (("Worst", worst), ("Best", best)):
        if rows:
            parts.append(f'<h3>{name}</h3><div class="pictures">{"".join(_picture(r, pictures) for r in rows)}</div>')
    if others:
        few_others = others[: MOST_PICTURES - len(shown)]
        told = "All others" if len(few_others) == len(others) else f"{len(few_others)} of {len(others)} others"
        inside = "".join(_picture(row, pictures) for row in few_others)
        shown |= {row["case"] for row in few_others}
        parts.append(f'<details><summary>{told}</summary><div class="pictures">{inside}</div></details>')
    return "\n".join(parts), shown


def _picture(row: Mapping[str, Any], pictures: Mapping[str, bytes]) -> str:
    name = escaped(row["case"])
    image = base64.b64encode(pictures[row["case"]]).decode("ascii")
    told = f"Dice {number_text(row['dice_refined'])}, {number_text(row['false_positives'], 0)} false positives"
    size = f"{number_text(row['volume_ml'], 1)} of {number_text(row['reference_ml'], 1)} ml"
    return (
        f'<figure id="case-{name}"><img alt="Three planes of {name}" src="data:image/jpeg;base64,{image}">'
        f"<figcaption><b>{name}</b> · {escaped(row['organ'])}, {escaped(row['modality'])} · {told} · {size}"
        f"</figcaption></figure>"
    )


def _cases(cases: Sequence[Mapping[str, Any]], pictured: Set[str]) -> str:
    """Return the table; the name of a case with a picture on the page leads to it."""
    columns = [name for name in _CASE_COLUMNS if name in cases[0]]
    texts = {name for name in columns if isinstance(cases[0][name], str)}
    heads = "".join(
        f'<th class="{"text" if name in texts else ""}" scope="col"><button type="button">{_CASE_COLUMNS[name]}</button></th>'
        for name in columns
    )
    rows = "".join(f"<tr>{''.join(_case_cell(row, name, pictured) for name in columns)}</tr>\n" for row in cases)
    return (
        '<input type="search" hidden aria-label="Filter the cases" placeholder="Filter: a case, organ, modality">'
        f'<div class="scroll"><table class="cases"><thead><tr>{heads}</tr></thead><tbody>\n{rows}</tbody></table></div>'
        '<p class="note">Click a heading to sort. cases.csv has every column.</p>'
    )


def _case_cell(row: Mapping[str, Any], name: str, pictured: Set[str]) -> str:
    value = row[name]
    if name == "case":
        text, link = escaped(value), quote(value)
        return f'<td class="text">{f"""<a href="#case-{link}">{text}</a>""" if value in pictured else text}</td>'
    if isinstance(value, str):
        return f'<td class="text">{escaped(value)}</td>'
    places = {"lesions": 0, "false_positives": 0, "reference_ml": 1, "volume_ml": 1, "seconds": 1}.get(name, 3)
    return f'<td data-v="{"" if value is None else value}">{number_text(value, places)}</td>'


def _method(report: Mapping[str, Any]) -> str:
    about = report["about"]
    splits = ", ".join(f"{count} {name}" for name, count in about["splits"].items())
    cases = {
        "Protocol": f"{about['protocol']}, SHA-256 {about['protocol_sha256']}",
        "Split": f"{about['split']} (the protocol has {splits}); no patient is in two splits",
    }
    digests = "\n".join(f"{digest}  {file}" for files in report["scans"].values() for file, digest in files.items())
    return (
        f"{made_of(about, cases)}<h3>Definitions</h3>{bullets([note for note in report['notes'] if 'SHA-256' not in note])}"
        f"{repeated('evaluate', about)}"
        '<p class="note">config.json lies beside this page. A case whose scan, mask, configuration and weights are '
        "unchanged is not computed again; delete the folder cases to have all of it computed.</p>"
        f"<details><summary>SHA-256 of every scan and mask</summary><pre>{escaped(digests)}</pre></details>"
    )


def _interval(values: Mapping[str, Any]) -> str:
    low, high = as_float(values.get("low")), as_float(values.get("high"))
    return "" if isnan(low) else f"95 % {range_text(low, high)}<br>"


def _floats(values: Sequence[float | None]) -> list[float]:
    return [as_float(value) for value in values]
