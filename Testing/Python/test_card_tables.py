"""Tables of a model card: what is pasted is what was measured, and means are of what they say."""

from __future__ import annotations

from math import nan

from scored_cases import scored

from DiffuGTSLib.evaluation.card_tables import FOUND, card_tables
from DiffuGTSLib.evaluation.case_scores import CaseScore
from DiffuGTSLib.evaluation.pooled import ScanAuroc, pool
from DiffuGTSLib.evaluation.report import Row
from DiffuGTSLib.resources import resource_path

NO_AUROC = ScanAuroc(nan, nan, nan, 0, 1)


def a_row(case: str, organ: str = "lung", dice: float = 0.5, lesions: int = 1, found: float = 1.0, **more: str) -> Row:
    shares = {"dice_ellipsoid": 0.1, "dice_threshold": 0.2, "dice_coarse": 0.3, "nsd_2mm_refined": 0.4}
    return {
        "case": case, "patient": case, "organ": organ, "kind": "tumor", **shares, "dice_refined": dice,
        "lesions": lesions, "lesion_sensitivity": found, "false_positives": 2, "anomaly_score": 0.7, **more,
    }  # fmt: skip


def test_a_scan_is_one_line_of_figures() -> None:
    text = card_tables([a_row("LIDC-0001")], NO_AUROC)
    assert "| LIDC-0001 | lung | 0.10 | 0.20 | 0.30 | 0.50 | 0.40 | yes | 2 |" in text
    assert "mean of" not in text and "no interval" in text, "one scan has no mean and one patient no interval"


def test_of_many_lesions_it_says_how_many_were_found() -> None:
    text = card_tables([a_row("ms", lesions=10, found=0.3), a_row("none", found=0.0)], NO_AUROC)
    assert "| 3 of 10 | 2 |" in text and "| no | 2 |" in text


def test_every_organ_and_all_scans_have_their_means() -> None:
    rows = [a_row("a", dice=0.2), a_row("b", dice=0.6, found=0.0), a_row("c", "brain", 0.9)]
    text = card_tables(rows, NO_AUROC)
    assert "| **mean of the 2 lung scans** |  | **0.10** | **0.20** | **0.30** | **0.40** | **0.40** | **1 of 2 scans (1 of 2 lesions)** | **2.0** |" in text  # fmt: skip
    assert "| **mean of all 3 scans** |" in text and "**0.57**" in text
    assert "mean of the 1 brain" not in text
    assert (
        "- Mean Dice of the 2 lung scans, 2 patients: 0.40 (95 % interval by a bootstrap over patients: 0.20 to" in text
    )


def test_a_scan_with_one_found_lesion_of_many_does_not_pass_for_found() -> None:
    rows = [a_row("ms", "brain", lesions=37, found=1 / 37), a_row("mets", "brain", lesions=18, found=0.0)]
    text = card_tables(rows, NO_AUROC)
    assert "| **1 of 2 scans (1 of 55 lesions)** |" in text and text.count(FOUND) == 1


def test_the_bundled_models_card_counts_scans_and_lesions_of_its_own_lines() -> None:
    """Each line of means says what the lines of scans above it add up to."""
    card = resource_path("Models", "mini", "README.md").read_text(encoding="utf-8")
    table = card[card.index("| scan | asked for |") : card.index(FOUND)]
    scans: list[tuple[str, int, int]] = []
    means = 0
    for cells in (line.strip("| ").split(" | ") for line in table.strip().splitlines()[2:]):
        if not cells[0].startswith("**"):
            found, lesions = {"yes": (1, 1), "no": (0, 1)}.get(cells[7]) or map(int, cells[7].split(" of "))
            scans.append((cells[1], found, lesions))
            continue
        own = [each for each in scans if "mean of all" in cells[0] or f" {each[0]} scans" in cells[0]]
        counted = (
            sum(each[1] > 0 for each in own),
            len(own),
            sum(each[1] for each in own),
            sum(each[2] for each in own),
        )
        assert cells[-2] == "**{} of {} scans ({} of {} lesions)**".format(*counted)
        means += 1
    assert means == 3 and len(scans) == 15


def test_the_interval_is_over_patients_and_not_over_scans() -> None:
    rows = [a_row("a", dice=0.2, patient="one"), a_row("b", dice=0.6, patient="one")]
    assert "no interval" in card_tables(rows, NO_AUROC)


def test_healthy_scans_have_a_table_of_their_own_and_the_score_its_auroc() -> None:
    scores: list[CaseScore] = [scored("a"), scored("b", shift=2), scored("h", healthy=True), scored("i", healthy=True)]
    text = card_tables([score.row for score in scores], pool(scores).scan_auroc)
    tumors, healthy = text.split("| healthy scan |")
    assert "| h |" not in tumors and "| h | liver | 0.30 | 1 |" in healthy
    assert "| **mean of the 2 healthy scans** |  | **0.30** | **1.0** |" in healthy
    assert "- AUROC of the anomaly score over scans: 1.00 (1.00 to 1.00); 2 healthy, 2 abnormal." in healthy


def test_one_healthy_scan_gives_the_auroc_no_interval() -> None:
    scores = [scored("a"), scored("b", shift=2), scored("h", healthy=True)]
    said = "AUROC of the anomaly score over scans: {} (no interval: fewer than two patients of a kind); 1 healthy"
    assert said.format("1.00") in card_tables([score.row for score in scores], pool(scores).scan_auroc)
    assert said.format("0.87") in resource_path("Models", "mini", "README.md").read_text(encoding="utf-8")
