"""What a head was trained on: kept beside its weights, and held against how it is used."""

import json
from pathlib import Path

import pytest

from DiffuGTSLib.backbones.trained_grid import GRID_FILE, require_trained_grid, write_trained_grid
from DiffuGTSLib.components import load_components
from DiffuGTSLib.config import load_config
from DiffuGTSLib.errors import WeightsError
from DiffuGTSLib.resources import resource_path

MINI = resource_path("Models", "mini")
GRAY = ["canonical.ct_knots_hu=[-200,300]", "canonical.ct_knots_unit=[0,1]"]


def test_the_bundled_head_says_what_it_was_trained_on() -> None:
    require_trained_grid(MINI / "aova", load_config("mini"))
    load_components(load_config("mini", overrides=["runtime.device=cpu"]))


@pytest.mark.parametrize(
    ("preset", "overrides", "said"),
    [
        ("mini", ["canonical.spacing_mm=1.5"], r"canonical.spacing_mm=2.0, not with 1.5"),
        ("mini", GRAY, r"canonical.ct_knots_hu=\[-1000.0, -200.0, 200.0, 1000.0\], not with \[-200.0, 300.0\]"),
        ("mini", ["canonical.mr_clip=false"], r"canonical.mr_clip=true, not with false"),
        ("maisi-ct", ["text.encoder=minilm"], r"canonical.fit_multiple=0, not with 128"),
    ],
)
def test_another_grid_or_other_intensities_are_refused_before_anything_is_looked_at(
    preset: str, overrides: list[str], said: str
) -> None:
    config = load_config(preset, overrides=[*overrides, f"backbone.folder={MINI}", "runtime.device=cpu"])
    with pytest.raises(WeightsError, match=rf"The head in .*aova was trained with {said}") as caught:
        load_components(config)
    assert "--preset mini" in caught.value.hint


def test_another_sentence_encoder_of_the_same_width_is_refused(tmp_path: Path) -> None:
    write_trained_grid(tmp_path, load_config("mini", overrides=["text.encoder=clinicalbert"]))
    with pytest.raises(WeightsError, match=r'text.encoder="clinicalbert", not with "minilm"'):
        require_trained_grid(tmp_path, load_config("mini"))


def test_what_a_plan_gives_up_may_differ(tmp_path: Path) -> None:
    require_trained_grid(MINI / "aova", load_config("mini", overrides=["backbone.window_voxels=32"]))
    require_trained_grid(MINI / "aova", load_config("mini", overrides=["canonical.minimum_side=32"]))
    write_trained_grid(tmp_path, load_config("maisi-ct"))
    require_trained_grid(tmp_path, load_config("maisi-ct", overrides=["canonical.spacing_mm=2.5"]))


def test_a_head_without_its_file_is_taken_as_it_is_and_a_damaged_file_is_refused(tmp_path: Path) -> None:
    require_trained_grid(tmp_path, load_config("maisi-ct"))
    (tmp_path / GRID_FILE).write_text(json.dumps({"canonical": 2}))
    with pytest.raises(WeightsError, match="does not describe a grid"):
        require_trained_grid(tmp_path, load_config("mini"))
