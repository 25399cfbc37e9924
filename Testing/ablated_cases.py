"""Figures of an ablation made up by hand: what tables and pages make of them, without any network."""

from __future__ import annotations

from math import isnan, nan

from scored_cases import a_case

from DiffuGTSLib.evaluation.ablation_report import CaseFigures
from DiffuGTSLib.evaluation.ablation_variants import COARSE, ELLIPSOID, FULL, AblationOptions

OPTIONS = AblationOptions(studies=("parts",))
ABOUT = {
    "created": "2026-01-01T00:00:00+00:00", "protocol": "my protocol.json", "protocol_sha256": "a" * 64,
    "description": "Phantoms.", "split": "test", "splits": {"test": 3}, "preset": "mini", "seed": 0,
    "weights": {"aova/model": "b" * 64}, "trained": True, "device": "cpu", "versions": {"diffugts": "9.9"},
}  # fmt: skip


def figures(dice: float, false_positives: float = 1.0, cut: float = nan) -> dict[str, float]:
    """Return the figures of one variant of one scan."""
    return {
        "dice": dice, "lesion_sensitivity": nan if isnan(dice) else float(dice > 0), "voxel_auroc": nan,
        "false_positives": false_positives, "cut": cut,
    }  # fmt: skip


def some_cases(names: tuple[str, ...] = (FULL, ELLIPSOID, COARSE)) -> list[CaseFigures]:
    """Return three scans with tumors and a healthy one; each variant after the first has a tenth of Dice less."""
    cases = []
    for place, name in enumerate(("a", "b", "c")):
        rows = {
            ("parts", each): figures(0.5 + 0.1 * place - 0.1 * number, number, 0.25)
            for number, each in enumerate(names)
        }
        cases.append(CaseFigures(a_case(name, "MR" if name == "c" else "CT"), sick=True, figures=rows))
    healthy = {("parts", each): figures(nan, 2.0) for each in names}
    return [*cases, CaseFigures(a_case("<well>", tumor=""), sick=False, figures=healthy)]
