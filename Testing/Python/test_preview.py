"""The picture of a painted scan."""

from __future__ import annotations

from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from phantoms import ct_phantom

from DiffuGTSLib.errors import GeometryError
from DiffuGTSLib.synthesis.preview import draw_preview, write_preview
from DiffuGTSLib.volumes.volume import Geometry, Volume


def test_the_picture_shows_before_after_and_outline_in_three_planes() -> None:
    body = ct_phantom()
    before = body.scan.with_array(np.where(body.lesion.array > 0, 110, body.scan.array))
    figure = draw_preview(before, body.scan, body.lesion, "CT", "Liver tumors")
    panels = np.array(figure.axes).reshape(3, 3)
    assert [axes.get_title(loc="left") for axes in panels[0]] == ["Scan", "Painted", "Painted, tumor outlined"]
    first, second, third = (axes.images[0].get_array() for axes in panels[0])
    assert not np.array_equal(first, second)
    assert np.array_equal(second, third)
    assert [len(axes.collections) for axes in panels[0]] == [0, 0, 1]
    volume_ml = body.lesion.array.sum() * body.lesion.geometry.voxel_volume_ml
    assert f"the largest {volume_ml:.2f} ml" in figure.texts[1].get_text()


def test_nothing_painted_is_said_and_shown(tmp_path: Path) -> None:
    body = ct_phantom()
    nothing = body.lesion.with_array(np.zeros_like(body.lesion.array))
    write_preview(tmp_path / "preview.png", body.scan, body.scan, nothing, "CT", "Liver tumors")
    assert matplotlib.image.imread(tmp_path / "preview.png").std() > 0.1
    assert "nothing painted" in draw_preview(body.scan, body.scan, nothing, "CT", "").texts[1].get_text()


def test_volumes_of_two_grids_are_refused() -> None:
    body = ct_phantom()
    other = Volume(body.scan.array, Geometry(body.scan.array.shape, np.eye(4)))  # type: ignore[arg-type]
    with pytest.raises(GeometryError):
        draw_preview(other, body.scan, body.lesion, "CT", "")
