"""Organ files: every organ that can be asked for has one, your own is read strictly, and each drives the synthesis."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from DiffuGTSLib.errors import ConfigError
from DiffuGTSLib.resources import organ_names, resource_path
from DiffuGTSLib.synthesis.organs import CtContrast, MrContrast, OrganSpec, organ_spec
from DiffuGTSLib.synthesis.painter import TumorRequest, wanted_sizes
from DiffuGTSLib.synthesis.shapes import DIFFTUMOR_SIZES


def written(folder: Path, **values: Any) -> Path:
    path = folder / "my_organ.json"
    path.write_text(json.dumps(values), encoding="utf-8")
    return path


def test_every_organ_of_the_prompts_has_a_file() -> None:
    prompts = json.loads(resource_path("Prompts", "prompts.json").read_text(encoding="utf-8"))
    assert set(prompts["organs"]) <= set(organ_names())


@pytest.mark.parametrize("name", organ_names())
def test_a_bundled_file_is_complete_and_named_as_its_organ(name: str) -> None:
    spec = organ_spec(name)
    assert spec.name == name and spec is organ_spec(name), "read once"
    assert set(spec.sizes) <= set(DIFFTUMOR_SIZES)
    assert spec.ct.shift_hu or spec.ct.absolute_hu
    assert spec.mr.shift_sd and spec.radius_mm[0] > 0
    described = json.loads(resource_path("Organs", f"{name.replace(' ', '_')}.json").read_text(encoding="utf-8"))
    assert described["format"] == 1 and described["description"]


def test_contrasts_are_those_that_the_bundled_head_was_trained_with() -> None:
    assert organ_spec("liver").ct.shift_hu == ((-100, -25), (-100, -25), (25, 80))
    assert organ_spec("liver").radius_mm == (7, 45)
    assert organ_spec("lung").ct.absolute_hu == ((-80, 100), (-80, 100), (-80, 100), (-500, -100))
    assert organ_spec("soft tissue").ct.shift_hu == ((-60, -15), (20, 50))
    assert organ_spec("bladder").ct.absolute_hu == ((30, 110),)
    assert organ_spec("other").ct.shift_hu == ((-90, -20), (20, 70)) and organ_spec("other").radius_mm == (6, 30)


def test_difftumor_s_three_organs_have_its_constants() -> None:
    liver, pancreas, kidney = (organ_spec(name) for name in ("liver", "pancreas", "kidney"))
    assert [spec.organ_radius_mm for spec in (liver, pancreas, kidney)] == [30, 15, 25]
    assert liver.erosion_mm == 2 and liver.ct.drop_hu == (65, 145)
    assert pancreas.centered == ("large",) and pancreas.blending == "soft"
    assert kidney.exophytic_chance == {"medium": 0.5, "large": 0.5}
    for spec in (liver, pancreas, kidney):
        assert spec.sizes == DIFFTUMOR_SIZES
        assert spec.size_chances == {"tiny": 0.4, "small": 0.4, "medium": 0.1, "large": 0.1}


def test_an_organ_is_found_by_its_file_s_name_too() -> None:
    assert organ_spec("Adrenal_Gland") is organ_spec("adrenal gland")


def test_an_unknown_organ_is_answered_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="There is no organ file for 'pancras'.*did you mean 'pancreas'"):
        organ_spec("pancras")


def test_a_file_of_one_s_own_says_only_what_differs(tmp_path: Path) -> None:
    spec = organ_spec(
        written(
            tmp_path,
            format=1,
            description="gallbladder of a mouse",
            sizes={"tiny": {"radius_mm": 1, "semi_axis_mm": [0.5, 1.5], "count": [2, 2]}, "large": None},
            blending="replace",
            exophytic_chance={"tiny": 0.25},
            ct={"shift_hu": [[10, 20]], "vessel_above_hu": 40},
            mr={"shift_sd": [[-2, -1]], "vessel_above_sd": None},
            vessel_sizes=["tiny"],
        )
    )
    assert spec.name == "my organ" and spec.blending == "replace"
    assert set(spec.sizes) == {"tiny", "small", "medium"} and spec.sizes["small"] == DIFFTUMOR_SIZES["small"]
    assert spec.sizes["tiny"].semi_axis_mm == (0.5, 1.5) and spec.sizes["tiny"].elastic_mm == (0.5, 1.0)
    assert spec.ct == CtContrast(shift_hu=((10, 20),), vessel_above_hu=40) and spec.vessel_above("CT") == 40
    assert spec.mr == MrContrast(shift_sd=((-2, -1),)) and spec.vessel_above("MR") is None
    assert spec.exophytic_chance == {"tiny": 0.25} and spec.erosion_mm == OrganSpec("x").erosion_mm


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"erosoin_mm": 2}, "unknown key 'erosoin_mm'.*did you mean 'erosion_mm'"),
        ({"ct": {"shift_hus": []}}, "ct.unknown key 'shift_hus'.*did you mean 'shift_hu'"),
        ({"ct": 3}, "ct: expected an object of keys, got 3"),
        ({"ct": {"shift_hu": [[20, 10]]}}, r"ct.shift_hu: expected a range \[low, high\], got \[20, 10\]"),
        ({"ct": {"shift_hu": [[20]]}}, r"ct.shift_hu: expected a range \[low, high\], got \[20\]"),
        ({"ct": {"shift_hu": 20}}, "ct.shift_hu: expected a list, got 20"),
        ({"radius_mm": 20}, r"radius_mm: expected a range \[low, high\], got 20"),
        ({"erosion_mm": "2"}, "erosion_mm: expected a number, got '2'"),
        ({"erosion_mm": True}, "erosion_mm: expected a number, got True"),
        ({"name": 3}, "name: expected a word, got 3"),
        ({"blending": "sof"}, "blending: expected one of soft, replace, got 'sof'.*did you mean 'soft'"),
        ({"sizes": {"tinny": {}}}, "sizes: unknown size 'tinny'.*did you mean 'tiny'"),
        ({"sizes": {"tiny": 4}}, "sizes.tiny: expected an object of keys, got 4"),
        ({"sizes": {"tiny": {"radius": 4}}}, "sizes.tiny.unknown key 'radius'.*did you mean 'radius_mm'"),
        ({"sizes": {"tiny": {"count": [1, 2.5]}}}, "sizes.tiny.count: expected a whole number, got 2.5"),
        ({"sizes": ["tiny"]}, r"sizes: expected an object of size classes, got \['tiny'\]"),
        ({"sizes": 4}, "sizes: expected size names, got 4"),
        ({"size_chances": {"huge": 1}}, "size_chances: unknown size 'huge'"),
        (
            {"size_chances": {"tiny": 0}},
            "size_chances: expected a positive chance for one of tiny, small, medium, large",
        ),
        ({"sizes": {"large": None}, "centered": ["large"]}, "centered: unknown size 'large'"),
        ({"vessel_sizes": "tiny"}, "vessel_sizes: expected size names, got 'tiny'"),
        ({"format": 2}, "expected format 1, got 2"),
        ({"centered": [["tiny"]]}, r"centered: unknown size '\['tiny'\]'"),
        ({"ct": {"shift_hu": []}}, "ct: expected at least one range in shift_hu or absolute_hu, got none"),
        ({"mr": {"shift_sd": []}}, "mr.shift_sd: expected at least one range, got none"),
        ({"sizes": {"tiny": {"radius_mm": 0}}}, "sizes.tiny.radius_mm: expected 0.1 to 200, got 0"),
        ({"sizes": {"tiny": {"semi_axis_mm": [-5, -1]}}}, "sizes.tiny.semi_axis_mm: expected 0.1 to 200, got -5"),
        ({"sizes": {"tiny": {"elastic_mm": [-5, -1]}}}, "sizes.tiny.elastic_mm: expected 0 to 100, got -5"),
        ({"sizes": {"tiny": {"count": [0, 2]}}}, "sizes.tiny.count: expected 1 to 100, got 0"),
        ({"sizes": {"tiny": {"count": [1, 10**400]}}}, "sizes.tiny.count: expected 1 to 100, got 1000"),
        ({"sizes": {"tiny": {"waviness": [0, 50]}}}, "sizes.tiny.waviness: expected 0 to 1, got 50"),
        ({"sizes": {"tiny": {"spicules": [5, 1_000_000]}}}, "sizes.tiny.spicules: expected 0 to 200, got 1000000"),
        ({"border_mm": 1e6}, "border_mm: expected 0 to 50, got 1000000"),
        ({"closing_mm": 1e308}, "closing_mm: expected 0 to 50, got 1e"),
        ({"erosion_mm": 10**400}, "erosion_mm: expected a number, got 1000"),
        ({"blend_sigma_mm": [-5, -1]}, "blend_sigma_mm: expected 0 to 50, got -5"),
        ({"exophytic_chance": {"tiny": -1}}, "exophytic_chance: expected 0 to 1, got -1"),
        ({"size_chances": {"tiny": -1, "small": 2}}, "size_chances: expected 0 to 100, got -1"),
        ({"ct": {"part_solid_chance": 7}}, "ct.part_solid_chance: expected 0 to 1, got 7"),
        ({"ct": {"drop_hu": [0, 1e308]}}, "ct.drop_hu: expected -30000 to 30000, got 1e"),
    ],
)
def test_a_file_that_cannot_be_read_as_meant_is_refused(tmp_path: Path, values: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        organ_spec(written(tmp_path, **values))


def test_a_file_that_is_missing_or_no_json_object_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere.json does not exist"):
        organ_spec(tmp_path / "nowhere.json")
    (tmp_path / "broken.json").write_text("{", encoding="utf-8")
    with pytest.raises(ConfigError, match="broken.json is not valid JSON"):
        organ_spec(str(tmp_path / "broken.json"))
    (tmp_path / "list.json").write_text("[]", encoding="utf-8")
    with pytest.raises(ConfigError, match="list.json: expected an object, got list"):
        organ_spec(tmp_path / "list.json")


def test_the_counts_of_synthetictumors_are_an_organ_file_of_their_own() -> None:
    spec = organ_spec(resource_path("Organs", "SyntheticTumors", "liver.json"))
    rng = np.random.default_rng(0)
    for name, (fewest, most) in {"tiny": (3, 10), "small": (3, 10), "medium": (2, 5), "large": (1, 3)}.items():
        drawn = {len(wanted_sizes(spec, TumorRequest(name), rng)) for _ in range(200)}
        assert drawn == set(range(fewest, most + 1))
    assert spec.sizes["large"].semi_axis_mm == (0.75 * 32, 1.25 * 32)
    assert spec.ct.drop_hu == (65, 145)
