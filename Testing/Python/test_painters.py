"""Painters by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from DiffuGTSLib.errors import InputError, WeightsError
from DiffuGTSLib.synthesis.painters import BY_HAND, find_painter


@pytest.mark.parametrize("name", BY_HAND)
def test_a_painter_by_hand_has_its_name_and_no_weights(name: str) -> None:
    painter, weights = find_painter(name)
    assert painter.name == name
    assert weights == {}


def test_an_unknown_painter_is_refused_with_those_there_are() -> None:
    with pytest.raises(InputError, match="Unknown painter 'monet'") as caught:
        find_painter("monet")
    assert caught.value.code == "painter"
    assert "handcrafted or recipe" in caught.value.hint


def test_a_folder_without_a_painter_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError):
        find_painter(str(tmp_path))
