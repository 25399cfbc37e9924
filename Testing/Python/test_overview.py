"""The picture: read back as pixels and as text, in any orientation, with and without findings."""

import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from DiffuGTSLib.errors import GeometryError, StorageError
from DiffuGTSLib.output.findings import find_lesions
from DiffuGTSLib.output.overview import draw_overview, save_overview
from DiffuGTSLib.volumes.volume import Geometry, Volume

ACCENT = np.array([0x35, 0xE0, 0xD2])
PANEL_PX = 462  # 3.3 inches at 140 dots an inch
LEFT_PX, GAP_PX, BOTTOM_PX = 92, 17, 161


def a_result(tilt_degrees: float = 0.0, lesion: bool = True) -> dict[str, Any]:
    """A dark ball of tissue with a ball of 30 mm on the patient's left, in front, above; stored as (S→I, L→R, P→A)."""
    turn = math.radians(tilt_degrees)
    tilt = np.array([[math.cos(turn), -math.sin(turn), 0], [math.sin(turn), math.cos(turn), 0], [0, 0, 1]])
    matrix, shape = np.eye(4), (30, 60, 75)
    matrix[:3, :3] = tilt @ np.array([[0, 2, 0], [0, 0, 1.6], [-4, 0, 0]])
    matrix[:3, 3] = -matrix[:3, :3] @ ((np.array(shape) - 1) / 2)
    geometry = Geometry(shape, matrix)
    points = geometry.to_ras(np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1))
    center = tilt @ np.array([-25.0, 20.0, 16.0])
    mask = (np.linalg.norm(points - center, axis=-1) <= 15.0) & lesion
    tissue = np.where(np.linalg.norm(points, axis=-1) < 58, 100.0, 0.0).astype(np.float32)
    scan = Volume((tissue + 60 * mask).astype(np.float32), geometry, "MR")
    return {
        "scan": scan,
        "mask": Volume(mask.astype(np.uint8), geometry),
        "aova": scan.with_array(mask * np.float32(0.9)),
        "pseudo_healthy": scan.with_array(tissue),
        "residual": scan.with_array(mask * np.float32(0.8)),
    }


def contour_in_panel(path: Path, row: int) -> tuple[float, float, float, float]:
    """Center (x, y) and width and height of the contour in the first column, in shares of the panel, y up."""
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    bottom = pixels.shape[0] - BOTTOM_PX - (2 - row) * (PANEL_PX + GAP_PX)
    panel = pixels[bottom - PANEL_PX : bottom, LEFT_PX : LEFT_PX + PANEL_PX]
    y, x = np.nonzero(np.abs(panel - ACCENT).sum(axis=-1) < 60)
    low_x, high_x, low_y, high_y = (v / PANEL_PX for v in (x.min(), x.max(), PANEL_PX - y.max(), PANEL_PX - y.min()))
    return (low_x + high_x) / 2, (low_y + high_y) / 2, high_x - low_x, high_y - low_y


def words(**changes: Any) -> list[str]:
    figure = draw_overview(**{**a_result(), **changes})
    return [text.get_text() for text in (*figure.texts, *(t for axes in figure.axes for t in axes.texts))]


@pytest.mark.parametrize("tilt_degrees", [0.0, 20.0])
def test_the_patient_is_shown_from_below_and_true_to_millimeters(tmp_path: Path, tilt_degrees: float) -> None:
    save_overview(draw_overview(**a_result(tilt_degrees)), tmp_path / "overview.png")
    # The scan is 120 mm a side: all is shown. Left, front, above = right and top, right and top, left and top.
    expected = {0: (25, 20), 1: (25, 16), 2: (-20, 16)}
    for row, (right_mm, up_mm) in expected.items():
        x, y, width, height = contour_in_panel(tmp_path / "overview.png", row)
        assert x == pytest.approx(0.5 + right_mm / 120, abs=0.015)
        assert y == pytest.approx(0.5 + up_mm / 120, abs=0.015)
        assert width == pytest.approx(30 / 120, abs=0.02)
        assert height == pytest.approx(30 / 120, abs=0.03)  # slices of 4 mm


def test_the_view_zooms_to_the_field_and_then_shows_where_it_is() -> None:
    result = a_result()
    grid = result["scan"].geometry
    twice = Geometry(grid.shape, np.diag([2, 2, 2, 1]) @ grid.ijk_to_ras)  # 240 mm a side, more than the field of 160
    figure = draw_overview(**{name: replace(volume, geometry=twice) for name, volume in result.items()})
    assert len(figure.axes) == len(draw_overview(**result).axes) + 3
    rectangles: list[Any] = [patch for axes in figure.axes for patch in axes.patches]
    assert [patch.get_width() for patch in rectangles] == pytest.approx([160.0] * 3)


def test_title_prompts_volume_and_warning_are_on_the_picture() -> None:
    text = " | ".join(words(prompts=("healthy brain", "brain tumor of $5"), note="Untrained weights."))
    assert "Brain tumor of $5" in text and "“healthy brain”" in text and "Untrained weights." in text
    assert "14.2 ml" in text or "14.1 ml" in text, text  # 4/3 π 15³ mm³ = 14.1 ml
    assert "mm longest in plane" in text and "mean AOVA 0.90" in text
    assert "Research use only" in text and "right is on the left" in text
    assert "voxels 4.00 × 2.00 × 1.60 mm" in text and "oblique" not in text


def test_positions_are_named_in_the_world() -> None:
    text = words()
    assert {"Axial   S 16 mm", "Coronal   A 20 mm", "Sagittal   L 25 mm"} <= set(text)


def test_all_six_sides_of_the_patient_are_named_in_the_first_column() -> None:
    letters = [text for text in words() if text in set("RLAPSI")]
    assert sorted(letters) == sorted("RLAP" + "RLSI" + "APSI" + "RRA" * 3)


def test_an_oblique_scan_says_so() -> None:
    assert any("oblique by 20°" in text for text in words(**a_result(20.0)))


def test_several_findings_are_counted() -> None:
    result = a_result()
    result["mask"].array[2, 30, 30] = 1
    assert any("largest of 2 findings" in text for text in words(**result))


def test_no_finding_is_said_in_words_and_maps_that_were_not_computed_too(tmp_path: Path) -> None:
    result = {**a_result(lesion=False), "pseudo_healthy": None, "residual": None}
    text = words(**result)
    assert "Nothing found" in text and text.count("not computed") == 6 and not any("ml" in t for t in text)
    save_overview(draw_overview(**result), tmp_path / "overview.png")
    with Image.open(tmp_path / "overview.png") as image:
        assert image.size[0] > 1500


def test_skipped_detection_is_said_in_words() -> None:
    text = words(aova=None)
    assert text.count("not computed") == 3 and not any("AOVA 0" in t for t in text)


def test_findings_given_are_not_computed_again() -> None:
    result = a_result()
    findings = find_lesions(result["mask"], result["aova"], result["scan"], result["pseudo_healthy"])
    assert words(findings=findings) == words()


def test_a_signed_residual_is_symmetric_about_no_change() -> None:
    result = a_result()
    signed = result["scan"].with_array(result["residual"].array * -1.0)
    limits = [i.get_clim() for axes in draw_overview(**{**result, "residual": signed}).axes for i in axes.images]
    assert (-0.8, 0.8) in [tuple(round(float(v), 3) for v in limit) for limit in limits]


def test_a_residual_of_nothing_is_drawn() -> None:
    result = a_result()
    assert words(residual=result["scan"].with_array(np.zeros(result["scan"].array.shape, dtype=np.float32)))


def test_a_lesion_at_the_edge_of_the_scan_is_drawn() -> None:
    result = a_result(lesion=False)
    result["mask"].array[0, 0, :] = 1
    assert any("longest in plane" in text for text in words(**result))


def test_the_same_result_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        save_overview(draw_overview(**a_result()), tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_a_prompt_in_a_script_that_the_font_lacks_does_not_stop_the_picture(tmp_path: Path) -> None:
    save_overview(draw_overview(**a_result(), prompts=("肺", "肺结节")), tmp_path / "overview.png")
    assert [path.name for path in tmp_path.iterdir()] == ["overview.png"]


def test_a_long_prompt_is_cut_short() -> None:
    assert any(text.endswith("…") and len(text) <= 52 for text in words(prompts=("", "tumor " * 40)))


@pytest.mark.parametrize("name", ["mask", "aova", "pseudo_healthy", "residual"])
def test_a_map_on_another_grid_is_refused(name: str) -> None:
    result = a_result()
    other = Volume(result["mask"].array, Geometry.from_spacing(result["mask"].array.shape, (1.0, 1.0, 1.0)))
    with pytest.raises(GeometryError, match=r"and the scan lie on different grids"):
        draw_overview(**{**result, name: other})


def test_a_folder_that_is_not_there_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"Cannot write .*overview.png"):
        save_overview(draw_overview(**a_result()), tmp_path / "missing" / "overview.png")


def test_matplotlib_is_loaded_only_to_draw_and_pyplot_never() -> None:
    program = (
        "import sys, numpy as np; import DiffuGTSLib.output.overview as o; from DiffuGTSLib.volumes.volume import *\n"
        "assert 'matplotlib' not in sys.modules\n"
        "v = Volume(np.arange(64.0).reshape(4, 4, 4), Geometry.from_spacing((4, 4, 4), (1, 1, 1)))\n"
        "o.draw_overview(v, v.with_array(v.array > 60), v, v, v)\n"
        "assert 'matplotlib' in sys.modules and 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=Path(__file__).parents[2])
