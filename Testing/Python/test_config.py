"""One resolved configuration: presets, files, overrides, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from DiffuGTSLib.config import Config, from_dict, load_config, presets
from DiffuGTSLib.errors import ConfigError


def test_every_bundled_preset_has_a_description_and_resolves() -> None:
    found = presets()
    assert "mini" in found
    for name, description in found.items():
        assert description
        assert load_config(name).preset == name


def test_a_preset_changes_only_what_it_names() -> None:
    config = load_config("mini")
    assert config.canonical.mr_clip is True
    assert config.canonical.ct_knots_hu == (-1000.0, -200.0, 200.0, 1000.0)
    assert config.inpainting.steps == 5 and config.inpainting.margin_mm == Config().inpainting.margin_mm
    assert config.text == Config().text and config.runtime == Config().runtime


def test_a_file_wins_over_the_preset_and_an_override_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.json"
    file.write_text(json.dumps({"inpainting": {"steps": 20, "seeds": 3}, "canonical": {"mr_clip": False}}))
    config = load_config("mini", file, ["inpainting.steps=30", "inpainting.steps=40"])
    assert load_config("mini", str(file), ["inpainting.steps=40"]) == config
    assert (config.inpainting.steps, config.inpainting.seeds) == (40, 3)
    assert config.canonical.mr_clip is False
    assert config.canonical.spacing_mm == 2.0


@pytest.mark.parametrize(
    ("override", "stage", "key", "expected"),
    [
        ("masks.gate=0", "masks", "gate", 0.0),
        ("masks.rule=otsu", "masks", "rule", "otsu"),
        ("text.ensemble=true", "text", "ensemble", True),
        ("runtime.device=cuda:1", "runtime", "device", "cuda:1"),
        ("canonical.mr_percentiles=[1, 99]", "canonical", "mr_percentiles", (1.0, 99.0)),
        ('backbone.class_label={"CT": 2}', "backbone", "class_label", {"CT": 2}),
        ("backbone.folder=/a=b", "backbone", "folder", "/a=b"),
    ],
)
def test_an_override_takes_the_type_of_its_field(override: str, stage: str, key: str, expected: object) -> None:
    value = getattr(getattr(load_config(overrides=[override]), stage), key)
    assert value == expected
    assert type(value) is type(expected)


def test_a_configuration_survives_its_record() -> None:
    config = load_config("mini", overrides=["inpainting.steps=30", "residual.beta_pixel=0.7"])
    record = json.loads(json.dumps(config.to_dict()))
    assert from_dict(record) == config
    assert record["inpainting"]["steps"] == 30


@pytest.mark.usefixtures("an_unchecked_library")
@pytest.mark.parametrize(
    "override",
    [
        "canonical.spacing_mm=0",
        "canonical.spacing_mm=NaN",
        "canonical.fit_multiple=-32",
        "canonical.fit_multiple=100",
        "canonical.side_multiple=0",
        "canonical.side_multiple=6",
        "canonical.side_multiple=1000000000",
        "canonical.minimum_side=0",
        "canonical.minimum_side=48",
        "canonical.minimum_side=32000",
        "canonical.fit_multiple=32000",
        "canonical.fit_minimum_xy=32000",
        "canonical.ct_knots_hu=[100, -100, 200, 300]",
        "canonical.ct_knots_unit=[0, 0.2, 0.8, 0.9]",
        "canonical.ct_knots_unit=[0.5]",
        "canonical.ct_knots_unit=[]",
        "canonical.mr_percentiles=[0, 50, 99]",
        "canonical.mr_percentiles=[-1, 99]",
        "canonical.mr_percentiles=[0, 101]",
        "backbone.window_voxels=0",
        "backbone.window_voxels=65",
        "backbone.overlap=0.9",
        "backbone.overlap=-0.1",
        "masks.threshold=1",
        "masks.rule=median",
        "masks.gate=1.5",
        "masks.minimum_ml=-1",
        "masks.dilation_mm=51",
        "inpainting.steps=0",
        "inpainting.resample=0",
        "inpainting.start=0",
        "inpainting.seeds=0",
        "inpainting.margin_mm=1",
        "residual.beta_pixel=-0.1",
        "residual.beta_pixel=1e308",
        "masks.region_floor=1",
        "masks.organ_share=1.1",
        "residual.beta_feature=Infinity",
        "residual.rule=median",
        "masks.smooth_mm=-1",
        "masks.smooth_mm=51",
        "masks.smooth_edge=0.00001",
        "residual.threshold=0",
        "runtime.precision=float16",
        "runtime.seed=-1",
        "runtime.seed=9223372036854775808",
    ],
)
def test_a_value_out_of_range_is_refused_with_its_key(override: str) -> None:
    key = override.partition("=")[0]
    with pytest.raises(ConfigError, match=key.replace(".", r"\.") + r": expected .*, got "):
        load_config("mini", overrides=[override])


def test_every_knot_in_hounsfield_units_needs_its_value() -> None:
    with pytest.raises(ConfigError, match=r"canonical\.ct_knots_unit: expected 2 values, one a knot, got"):
        load_config("mini", overrides=["canonical.ct_knots_hu=[-1000, 1000]"])


def test_residual_maps_need_at_least_one_weight() -> None:
    with pytest.raises(ConfigError, match="residual: expected one weight above 0"):
        load_config(overrides=["residual.beta_pixel=0", "residual.beta_feature=0", "residual.beta_attention=0"])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("inpainting.steps=3.5", r"inpainting\.steps: expected int, got 3\.5 \(float\)"),
        ("inpainting.steps=true", r"inpainting\.steps: expected int, got True \(bool\)"),
        ("masks.gate=true", r"masks\.gate: expected float, got True \(bool\)"),
        ("masks.gate=high", r"masks\.gate: expected float, got 'high' \(str\)"),
        (f"masks.gate=1{'0' * 400}", r"masks\.gate: expected float, got 1000"),
        (f"runtime.seed={'1' * 5000}", r"runtime\.seed: expected int, got '1111"),
        (f"runtime.seed={'[' * 100_000}", r"runtime\.seed: expected int, got '\[\["),
        ("text.ensemble=1", r"text\.ensemble: expected bool, got 1 \(int\)"),
        ("runtime.device=1", r"runtime\.device: expected str, got 1 \(int\)"),
        ("canonical.mr_percentiles=1", r"canonical\.mr_percentiles: expected .*tuple.*, got 1"),
        ('backbone.class_label={"CT": 1.5}', r"backbone\.class_label: expected int, got 1\.5"),
    ],
)
def test_a_value_of_another_type_is_refused(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(overrides=[override])


@pytest.mark.parametrize(
    ("override", "hint"),
    [("inpainting.stesp=3", "did you mean 'steps'?"), ("inpaintng.steps=3", "did you mean 'inpainting'?")],
)
def test_an_unknown_key_is_refused_with_the_closest_one(override: str, hint: str) -> None:
    with pytest.raises(ConfigError, match="Unknown configuration key") as caught:
        load_config(overrides=[override])
    assert caught.value.hint == hint


def test_an_unknown_preset_is_refused_with_the_closest_one() -> None:
    with pytest.raises(ConfigError, match="Unknown preset 'minni'") as caught:
        load_config("minni")
    assert caught.value.hint == "did you mean 'mini'?"


@pytest.mark.parametrize("override", ["steps=3", "inpainting.steps", "inpainting.=3", ".steps=3", ""])
def test_an_override_that_names_no_value_is_refused(override: str) -> None:
    with pytest.raises(ConfigError, match="Cannot read the override") as caught:
        load_config(overrides=[override])
    assert "section.key=value" in caught.value.hint


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ('{"runtime": {"seed": ' + "1" * 5000 + "}}", "not valid JSON"),
        ("[1]", "bad.json: expected an object, got list"),
        ('{"masks": 3}', "'masks' must hold an object of keys, got 3"),
    ],
)
def test_a_file_that_is_no_configuration_is_refused(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "bad.json"
    file.write_text(content)
    with pytest.raises(ConfigError, match=message):
        load_config(file=file)


def test_a_file_that_names_another_preset_than_the_one_that_was_asked_for_is_refused(tmp_path: Path) -> None:
    """As the configuration out of a record; on another preset its other keys would mean something else."""
    file = tmp_path / "as_run.json"
    file.write_text(json.dumps(load_config("maisi-ct").to_dict()))
    assert load_config("maisi-ct", file) == load_config("maisi-ct")
    with pytest.raises(ConfigError, match=r"as_run.json is for preset 'maisi-ct', not for 'mini'") as caught:
        load_config("mini", file)
    assert "--preset maisi-ct" in caught.value.hint


def test_a_file_that_cannot_be_opened_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        load_config(file=tmp_path / "absent.json")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(file=tmp_path)


@pytest.mark.usefixtures("an_unchecked_library")
@pytest.mark.parametrize("record", [{"masks": 3}, {"masks": [1]}, [1]])
def test_a_record_of_another_form_is_refused(record: Any) -> None:
    with pytest.raises(ConfigError, match="expected an object of keys"):
        from_dict(record)
