"""The picture of a case: small, with both outlines, through the lesion."""

from __future__ import annotations

import io

import matplotlib.image
import numpy as np
import pytest
from mini_data import GRID
from phantoms import grid
from scored_cases import a_phantom, a_result, no_lesion

from DiffuGTSLib.errors import GeometryError
from DiffuGTSLib.evaluation.case_picture import SEEN_COLOR, TRUTH_COLOR, case_picture
from DiffuGTSLib.volumes import Volume


def drawn(jpeg: bytes) -> np.ndarray:
    return np.asarray(matplotlib.image.imread(io.BytesIO(jpeg), format="jpg"))[..., :3].astype(int)


def near(picture: np.ndarray, color: str) -> int:
    """Pixels of about a color; JPEG blurs thin lines."""
    wanted = np.array([int(color[place : place + 2], 16) for place in (1, 3, 5)])
    return int((np.abs(picture - wanted).max(axis=-1) < 70).sum())


@pytest.mark.parametrize("modality", ["CT", "MR"])
def test_both_outlines_are_drawn_and_the_picture_is_small(modality: str) -> None:
    phantom = a_phantom(modality)
    result = a_result(phantom, shift=3)
    jpeg = case_picture(phantom.scan, phantom.lesion, result.mask, result.aova, modality)
    picture = drawn(jpeg)
    assert picture.shape == (418, 627, 3) and len(jpeg) < 60_000
    assert near(picture[:209], TRUTH_COLOR) > 30 and near(picture[:209], SEEN_COLOR) > 30
    assert near(picture[209:], TRUTH_COLOR) > 30


def test_a_picture_without_any_mask_shows_the_middle() -> None:
    phantom = a_phantom()
    empty = no_lesion(phantom)
    picture = drawn(case_picture(phantom.scan, empty, empty, a_result(phantom).aova, "CT"))
    assert near(picture, TRUTH_COLOR) == 0 and near(picture[:209], SEEN_COLOR) == 0
    assert picture[:209].mean() > 20, "the scan is there"


def test_what_is_seen_where_nothing_is_leads_the_eye() -> None:
    phantom = a_phantom()
    picture = drawn(case_picture(phantom.scan, no_lesion(phantom), phantom.lesion, a_result(phantom).aova, "CT"))
    assert near(picture[:209], SEEN_COLOR) > 30


def test_a_mask_on_another_grid_is_refused() -> None:
    phantom = a_phantom()
    other = Volume(np.ones(GRID.shape, dtype=np.uint8), grid(GRID.shape, (3.0, 3.0, 3.0)))
    with pytest.raises(GeometryError):
        case_picture(phantom.scan, other, phantom.lesion, a_result(phantom).aova, "CT")
