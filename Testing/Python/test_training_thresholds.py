"""`train thresholds`: every setting is measured on the same maps, and the best is written as a configuration."""

from __future__ import annotations

import csv
import json
import shutil
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from mini_data import GRID, shared_run, tiny_networks, training_scan, write_case, write_mini_data
from phantoms import ct_phantom
from safetensors.numpy import load_file, save_file

from DiffuGTSLib.aova import AovaHead
from DiffuGTSLib.backbones.maisi import MaisiDenoiser, MaisiUNet
from DiffuGTSLib.components import load_components
from DiffuGTSLib.config import MasksConfig, load_config
from DiffuGTSLib.datasets.protocol import read_protocol
from DiffuGTSLib.datasets.trained_cases import TUNED, read_training_cases, tuned_on
from DiffuGTSLib.errors import ConfigError, InputError
from DiffuGTSLib.training.data import TrainingScan
from DiffuGTSLib.training.run import train_part
from DiffuGTSLib.training.thresholds import (
    Setting,
    ThresholdOptions,
    ValidationMap,
    cached_map,
    fingerprint,
    measure,
    measured,
    ranked,
    require_repaintable,
    tried,
    validation_samples,
)

MM = (2.0, 2.0, 2.0)
SMALL = {"painted": "1", "healthy": "1", "side": "32"}


def choose(run: Path, *, dry_run: bool = False, precision: str = "float32", **options: str) -> list[str]:
    lines: list[str] = []
    with tiny_networks():
        train_part(
            "thresholds", protocol_path=run / "data" / "protocol.json", data=run / "data", output=run,
            device="cpu", options=SMALL | options, dry_run=dry_run, report=lines.append, precision=precision,
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


def a_map(inside: float, outside: float, group: str = "liver, CT, real") -> ValidationMap:
    """A tumor of 4 × 4 × 4 voxels, and as much elsewhere that is none."""
    truth = np.zeros((16, 16, 16), dtype=bool)
    truth[2:6, 2:6, 2:6] = True
    abnormal = np.zeros(truth.shape, dtype=np.float32)
    abnormal[truth] = inside
    abnormal[10:14, 10:14, 10:14] = outside
    return ValidationMap(group, abnormal, np.zeros_like(abnormal), truth, MM, np.ones_like(truth))


def test_the_choice_is_a_configuration_and_the_best_row_of_the_table(a_run: Path) -> None:
    with (a_run / "thresholds" / "table.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * len(list(tried(MasksConfig()))) and all(0 <= float(row["dice"]) <= 1 for row in rows)
    chosen = a_run / "thresholds" / "chosen.json"
    masks = load_config("mini", chosen).masks
    keys = ("smooth_mm", "rule", "threshold", "peak", "floor")
    assert set(json.loads(chosen.read_text())["masks"]) == set(keys)
    assert [str(getattr(masks, key)) for key in keys] == [rows[0][key] for key in keys]
    assert set(json.loads(chosen.read_text())) <= {"masks", "residual", "tuned_on"}, "the rest stays the preset's"


def test_attention_that_is_kept_is_not_computed_again(a_run: Path) -> None:
    kept = a_run / "thresholds" / "attention"
    before = {path.name: path.stat().st_mtime_ns for path in kept.iterdir()}
    first = min(kept.iterdir())
    first.write_bytes(b"cut off")
    choose(a_run, tolerance="0.05")
    after = {path.name: path.stat().st_mtime_ns for path in kept.iterdir()}
    assert [name for name in before if before[name] != after[name]] == [first.name], "but what is damaged"
    choose(a_run, painted="0", healthy="0", absent="0")
    assert len(list(kept.iterdir())) == len(before), "fewer windows, and the same"


@pytest.mark.parametrize("dry_run", [True, False])
def test_attention_is_computed_in_the_precision_that_is_asked_for(
    a_run: Path, monkeypatch: pytest.MonkeyPatch, dry_run: bool
) -> None:
    monkeypatch.setattr("DiffuGTSLib.device.has_bfloat16", lambda device: False)
    with pytest.raises(ConfigError, match="Precision 'bfloat16' was asked for on a CPU without instructions for it"):
        choose(a_run, precision="bfloat16", dry_run=dry_run)


def test_the_mixture_of_residuals_is_chosen_as_well_where_it_is_wished(a_run: Path) -> None:
    said = "\n".join(choose(a_run, refine="no"))
    chosen = a_run / "thresholds" / "chosen.json"
    assert "repainted" not in said and set(json.loads(chosen.read_text())) == {"masks", "tuned_on"}
    said = "\n".join(choose(a_run, painted="6"))
    assert "thresholds: repainted 1 of" in said
    with (a_run / "thresholds" / "refinement.csv").open(newline="") as file:
        best = next(csv.DictReader(file))
    residual = load_config("mini", chosen).residual
    assert {key: str(getattr(residual, key)) for key in ("rule", "threshold", "beta_attention")} == {
        key: best[key] for key in ("rule", "threshold", "beta_attention")
    }


def test_another_scan_question_or_text_model_has_another_map(
    a_run: Path, two_scans: dict[str, list[TrainingScan]]
) -> None:
    config = load_config("tiny", overrides=["runtime.device=cpu"])
    components = load_components(config, allow_untrained=True)
    sample = validation_samples(two_scans, ThresholdOptions(painted=0, healthy=1, absent=0, side=32), seed=0)[0]
    brighter = replace(sample, image=sample.image + np.float32(0.01))
    asked = [sample, brighter, replace(sample, organ="lung"), replace(sample, spacing_mm=(1.0, 1.0, 1.0))]
    names = {fingerprint(each, components, config) for each in asked}
    names.add(
        fingerprint(sample, components, replace(config, text=replace(config.text, ensemble=not config.text.ensemble)))
    )
    names.add(fingerprint(sample, replace(components, weights={"aova": "another"}), config))
    assert len(names) == 6


def test_the_cases_are_on_record_with_the_run_s_model(a_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(a_run, run)
    (run / "model" / "training_cases.json").unlink()
    choose(run, refine="no")
    recorded = read_training_cases(run / "model")
    assert recorded is not None and {"ct_1", "ct_2"} <= {case.name for case in recorded}
    assert {case.use for case in recorded} == {TUNED}, "no weight was made of them"


def test_what_is_chosen_for_a_preset_s_model_names_whom_it_was_chosen_on(tmp_path: Path) -> None:
    """That model has no folder in the run, and its own record is not ours to write to."""
    protocol = write_mini_data(tmp_path / "data")
    options = SMALL | {"painted": "0", "healthy": "0", "absent": "0", "refine": "no"}
    for _ in range(2):  # of an earlier choice nothing is left
        train_part(
            "thresholds", protocol_path=protocol, data=tmp_path / "data", output=tmp_path / "run", preset="mini",
            device="cpu", options=options, report=lambda line: None,
        )  # fmt: skip
    assert not (tmp_path / "run" / "model").exists()
    named = tuned_on(tmp_path / "run" / "thresholds" / "chosen.json")
    used = {case.name for case in read_protocol(protocol) if case.split in ("train", "validation")}
    assert {case.name for case in named} == used and len(named) == len(used)
    assert {case.use for case in named} == {TUNED} and all(case.sha256 and case.voxels_sha256 for case in named)


def test_a_head_that_was_trained_on_the_samples_is_told_of(a_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(a_run, run)
    record = run / "model" / "training_cases.json"
    record.write_text(record.read_text().replace('"tuned"', '"trained"'))
    assert any("SEEN IN TRAINING" in line for line in choose(run))
    assert not any("SEEN IN TRAINING" in line for line in choose(a_run))


def test_padding_is_no_place_for_a_finding(two_scans: dict[str, list[TrainingScan]], tmp_path: Path) -> None:
    """Untrained attention is near 0.5 everywhere: what counts is the scan, and nothing beside it."""
    scan = two_scans["validation"][0]
    padded = replace(scan, scan=replace(scan.scan, inside=((0, 16), (0, 24), (4, 32))))
    whole = validation_samples(
        {"train": [], "validation": [padded]}, ThresholdOptions(painted=0, healthy=0, absent=0), seed=0
    )[0]
    config = load_config("tiny", overrides=["runtime.device=cpu"])
    made = cached_map(whole, tmp_path, load_components(config, allow_untrained=True), config)
    assert made.abnormal.shape == made.truth.shape == (16, 24, 28)


def test_candidates_are_looked_for_in_the_organ_s_main_parts_as_in_a_scan(
    two_scans: dict[str, list[TrainingScan]], tmp_path: Path
) -> None:
    config = load_config("tiny", overrides=["runtime.device=cpu", "masks.organ_share=0.3"])
    components = load_components(config, allow_untrained=True)
    encoder, text = components.autoencoder, components.text_encoder
    components = replace(components, head=AovaHead(encoder.feature_channels, text.dim, elsewhere=True).eval())
    sample = validation_samples(two_scans, ThresholdOptions(painted=0, healthy=0, absent=0), seed=0)[0]
    assert cached_map(sample, tmp_path, components, config).allowed.all(), "an untrained head sees the organ everywhere"
    (path,) = tmp_path.iterdir()
    maps = load_file(path)
    maps["organ"][:] = False
    organ = maps["organ"][sample.inside]
    organ[:4, :4, :4] = organ[8:10, 8:10, 8:10] = True
    save_file(maps, path)
    allowed = cached_map(sample, tmp_path, components, config).allowed
    assert allowed[:4, :4, :4].all() and allowed.sum() == 64, "the smaller part is an eighth of the larger"
    both = a_map(0.9, 0.9)
    half = replace(both, allowed=both.truth)
    assert (measure([both], MasksConfig()).false_positives, measure([half], MasksConfig()).false_positives) == (1, 0)


@pytest.mark.parametrize(
    ("preset", "options", "error", "said"),
    [
        ("mini", {"side": "80", "refine": "no"}, None, ""),
        ("maisi-ct", {"side": "80"}, ConfigError, "needs a multiple of 32 voxels, got 80"),
        ("maisi-mr", {"side": "96"}, InputError, "knows MR, not CT"),
    ],
)
def test_what_could_not_be_repainted_is_refused_before_the_long_part(
    two_scans: dict[str, list[TrainingScan]], preset: str, options: dict[str, str], error: type[Exception], said: str
) -> None:
    config = load_config(preset)
    components = load_components(load_config("tiny", overrides=["runtime.device=cpu"]), allow_untrained=True)
    unet = MaisiUNet(
        num_channels=(8, 8, 8, 16), attention_levels=(False,) * 3 + (True,), num_head_channels=(0, 0, 0, 8),
        num_res_blocks=1, norm_num_groups=4, resblock_updown=False,
    )  # fmt: skip
    denoiser = MaisiDenoiser(unet, components.schedule, "epsilon", config.backbone.class_label)
    wish = ThresholdOptions(side=int(options["side"]), refine="refine" not in options)
    samples = validation_samples(two_scans, ThresholdOptions(painted=0, healthy=0, absent=0), seed=0)
    with pytest.raises(error, match=said) if error is not None else nullcontext():
        require_repaintable(samples, replace(components, denoiser=denoiser), config, wish)


def test_some_samples_do_not_show_the_organ_that_is_asked_for(tmp_path: Path) -> None:
    scan = training_scan(tmp_path, write_case(tmp_path, "corner", ct_phantom(GRID), "train", tumor=""))
    corner = np.zeros_like(scan.organs["liver"])
    corner[:8, :8, :8] = True
    far = replace(scan, organs={"liver": corner})
    options = ThresholdOptions(painted=0, healthy=0, absent=3, side=16)
    with pytest.raises(InputError, match="no validation scan has an outlined tumor"):
        validation_samples({"train": [far], "validation": []}, options, seed=0)
    sick = training_scan(tmp_path, write_case(tmp_path, "sick", ct_phantom(GRID), "validation"))
    whole, *windows = validation_samples({"train": [far], "validation": [sick]}, options, seed=0)
    assert whole.abnormal and len(windows) == 3
    for window in windows:
        assert window.shown is not None and not window.shown.any() and not window.mask.any() and window.image.any()
        assert window.organ == "liver" and not window.real


def test_a_real_tumor_does_not_pass_for_a_painted_one(two_scans: dict[str, list[TrainingScan]]) -> None:
    """The sick liver is of the validation; where the painter's only windows would show its tumor, there are none."""
    painted = [sample for sample in validation_samples(two_scans, ThresholdOptions(side=32), 0) if not sample.real]
    assert painted, "of the healthy liver"
    sick = {"train": [], "validation": two_scans["validation"]}
    (whole,) = validation_samples(sick, ThresholdOptions(side=32), 0)
    assert whole.real


@pytest.mark.parametrize("option", ["painted=-1", "absent=-1", "side=40", "tolerance=1"])
def test_options_out_of_range_are_refused(a_run: Path, option: str) -> None:
    key, value = option.split("=")
    with pytest.raises(ConfigError, match="expected"):
        choose(a_run, **{key: value})


def test_a_setting_is_measured_by_overlap_and_by_what_it_finds_in_vain() -> None:
    sure, unsure = a_map(0.9, 0.5), a_map(0.45, 0.25, "brain, MR, painted")
    fixed = MasksConfig(threshold=0.3, peak=0.6, minimum_ml=0.0)
    missed = measure([sure, unsure], fixed)
    assert missed.by_group == {"liver, CT, real": 1.0, "brain, MR, painted": 0.0} and missed.dice == 0.5
    assert missed.false_positives == 0 and np.isnan(missed.false_positives_healthy)
    found = measure([sure, unsure], replace(fixed, rule="relative"))
    assert found.dice == 1.0, "each by its own highest"
    all_in = measure([sure, unsure], replace(fixed, threshold=0.2, peak=0.0))
    assert all_in.false_positives == 1.0 and 0.6 < all_in.dice < 0.7


def test_every_way_to_cut_is_tried_on_maps_that_are_smoothed_and_on_those_that_are_not() -> None:
    """In a picture that is all alike a tumor's attention is spread until nothing of it is left."""
    seen = a_map(0.9, 0.0)
    fixed = [s for s in measured([seen], MasksConfig(minimum_ml=0.0)) if s.masks.rule == "fixed"]
    dice = {smooth: [s.dice for s in fixed if s.masks.smooth_mm == smooth] for smooth in (0.0, 6.0)}
    assert len(dice[0.0]) == len(dice[6.0]) and set(dice[0.0]) == {1.0} and min(dice[6.0]) == 0.0
    edged = replace(seen, picture=seen.truth.astype(np.float32))
    assert {s.dice for s in measured([edged], MasksConfig(minimum_ml=0.0)) if s.masks.rule == "fixed"} == {1.0}


def test_of_settings_that_are_as_good_the_one_with_the_fewest_false_positives_is_chosen() -> None:
    masks = MasksConfig()
    best, calm, bad = (
        Setting(masks, dice, {}, wrong, 0.0) for dice, wrong in ((0.500, 3.0), (0.495, 1.0), (0.400, 0.0))
    )
    assert ranked([bad, best, calm], 0.01) == [calm, best, bad]
    assert ranked([bad, best, calm], 0.0)[0] is best
