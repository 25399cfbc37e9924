"""`train thresholds`: every setting is judged on the same looks, and the best is written as a configuration."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from mini_data import GRID, shared_run, tiny_networks, training_scan, write_case
from phantoms import ct_phantom

from DiffuGTSLib.config import MasksConfig, load_config
from DiffuGTSLib.errors import ConfigError, InputError
from DiffuGTSLib.training.data import TrainingScan
from DiffuGTSLib.training.run import train_part
from DiffuGTSLib.training.thresholds import Judge, Setting, ThresholdOptions, judges, measure, ranked, tried

MM = (2.0, 2.0, 2.0)
SMALL = {"painted": "1", "healthy": "1", "side": "32"}


def choose(run: Path, *, dry_run: bool = False, **options: str) -> list[str]:
    lines: list[str] = []
    with tiny_networks():
        train_part(
            "thresholds", protocol_path=run / "data" / "protocol.json", data=run / "data", output=run,
            device="cpu", options=SMALL | options, dry_run=dry_run, report=lines.append,
        )  # fmt: skip
    return lines


@pytest.fixture(scope="module")
def a_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("thresholds") / "run"
    shutil.copytree(shared_run(tmp_path_factory), run)
    choose(run)
    return run


@pytest.fixture(scope="module")
def two_scans(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[TrainingScan]]:
    """A healthy liver to train on, and a liver with a tumor to validate on."""
    data = tmp_path_factory.mktemp("scans")
    healthy = training_scan(data, write_case(data, "healthy", ct_phantom(GRID), "train", tumor=""))
    return {
        "train": [healthy],
        "validation": [training_scan(data, write_case(data, "sick", ct_phantom(GRID), "train"))],
    }


def a_judge(inside: float, outside: float, group: str = "liver, CT") -> Judge:
    """A tumor of 4 × 4 × 4 voxels, and as much elsewhere that is none."""
    truth = np.zeros((16, 16, 16), dtype=bool)
    truth[2:6, 2:6, 2:6] = True
    abnormal = np.zeros(truth.shape, dtype=np.float32)
    abnormal[truth] = inside
    abnormal[10:14, 10:14, 10:14] = outside
    return Judge(group, abnormal, truth)


def test_the_choice_is_a_configuration_and_the_best_row_of_the_table(a_run: Path) -> None:
    with (a_run / "thresholds" / "table.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(list(tried(MasksConfig()))) and all(0 <= float(row["dice"]) <= 1 for row in rows)
    chosen = a_run / "thresholds" / "chosen.json"
    masks = load_config("mini", chosen).masks
    assert [masks.rule, str(masks.threshold), str(masks.peak)] == [rows[0][k] for k in ("rule", "threshold", "peak")]
    assert set(json.loads(chosen.read_text())) == {"masks"}, "the rest stays the preset's"


def test_what_was_looked_at_is_not_looked_at_again(a_run: Path) -> None:
    (looks,) = (a_run / "thresholds").glob("looks-*")
    before = {path.name: path.stat().st_mtime_ns for path in looks.iterdir()}
    first = min(looks.iterdir())
    first.write_bytes(b"cut off")
    choose(a_run, tolerance="0.05")
    after = {path.name: path.stat().st_mtime_ns for path in looks.iterdir()}
    assert [name for name in before if before[name] != after[name]] == [first.name], "but what is damaged"
    choose(a_run, painted="0", healthy="0")
    assert len(list((a_run / "thresholds").glob("looks-*"))) == 2, "other windows are other looks"


def test_a_rehearsal_says_what_would_be_looked_at(a_run: Path) -> None:
    said = "\n".join(choose(a_run, dry_run=True))
    assert "windows and scans with a tumor" in said and f"{len(list(tried(MasksConfig())))} settings" in said
    assert "iterations" not in said, "nothing is learned"


def test_judges_are_whole_validation_scans_and_windows_with_and_without_paint(
    two_scans: dict[str, list[TrainingScan]],
) -> None:
    found = judges(two_scans, ThresholdOptions(painted=2, healthy=1, side=32), seed=0)
    assert [sample.image.shape for sample in found] == [two_scans["validation"][0].scan.image.shape] + [
        (32, 32, 32)
    ] * 3
    assert [sample.abnormal for sample in found] == [True, True, True, False]
    again = judges(two_scans, ThresholdOptions(painted=2, healthy=1, side=32), seed=0)
    assert all(np.array_equal(one.image, other.image) for one, other in zip(found, again, strict=True))


def test_an_organ_that_nobody_shows_and_judges_without_a_tumor_are_refused(
    two_scans: dict[str, list[TrainingScan]],
) -> None:
    with pytest.raises(InputError, match="no scan shows the organ 'livre'") as caught:
        judges(two_scans, ThresholdOptions(organs="livre"), seed=0)
    assert "liver" in caught.value.hint
    healthy = {"train": two_scans["train"], "validation": two_scans["train"]}
    with pytest.raises(InputError, match="no validation scan has an outlined tumor, and none was painted"):
        judges(healthy, ThresholdOptions(painted=0, side=32), seed=0)


@pytest.mark.parametrize("option", ["painted=-1", "side=40", "tolerance=1"])
def test_options_out_of_range_are_refused(a_run: Path, option: str) -> None:
    key, value = option.split("=")
    with pytest.raises(ConfigError, match="expected"):
        choose(a_run, **{key: value})


def test_a_setting_is_measured_by_overlap_and_by_what_it_finds_in_vain() -> None:
    sure, unsure = a_judge(0.9, 0.5), a_judge(0.45, 0.25, "brain, MR")
    fixed = MasksConfig(threshold=0.3, peak=0.6, minimum_ml=0.0)
    missed = measure([sure, unsure], fixed, MM)
    assert missed.by_group == {"liver, CT": 1.0, "brain, MR": 0.0} and missed.dice == 0.5
    assert missed.false_positives == 0 and np.isnan(missed.false_positives_healthy)
    found = measure([sure, unsure], replace(fixed, rule="relative"), MM)
    assert found.dice == 1.0, "each by its own highest"
    all_in = measure([sure, unsure], replace(fixed, threshold=0.2, peak=0.0), MM)
    assert all_in.false_positives == 1.0 and 0.6 < all_in.dice < 0.7


def test_of_settings_that_are_as_good_the_one_with_the_fewest_false_positives_is_chosen() -> None:
    masks = MasksConfig()
    best, calm, bad = (
        Setting(masks, dice, {}, wrong, 0.0) for dice, wrong in ((0.500, 3.0), (0.495, 1.0), (0.400, 0.0))
    )
    assert ranked([bad, best, calm], 0.01) == [calm, best, bad]
    assert ranked([bad, best, calm], 0.0)[0] is best
