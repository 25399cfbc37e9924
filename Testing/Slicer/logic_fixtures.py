"""A scan and a logic with a warm worker for the tests of runs, which name this file as a plugin of pytest."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gui
import numpy as np
import pytest
from DiffuGTSSlicer.logic import DiffuGTSLogic
from scene_parts import noise, scan_node

from DiffuGTSLib.volumes import Geometry


@pytest.fixture
def a_small_scan(a_scene: Any) -> Any:
    geometry = Geometry((36, 34, 20), np.array([[-4.0, 0, 0, 60], [0, -4, 0, 50], [0, 0, 4, -30], [0, 0, 0, 1]]))
    return scan_node(geometry, noise(geometry), "Small")


@pytest.fixture(scope="module")
def the_logic() -> Iterator[DiffuGTSLogic]:
    """One logic, so one warm worker, for the tests that leave it as they found it."""
    logic = DiffuGTSLogic()
    yield logic
    logic.cleanup()
    gui.spin(lambda: not logic.client.isWarm)


@pytest.fixture
def a_logic(a_qt_application: Any, the_logic: DiffuGTSLogic) -> Iterator[DiffuGTSLogic]:
    yield the_logic
    if the_logic.isRunning:
        the_logic.cancel()
        gui.spin(lambda: not the_logic.isRunning)
    the_logic.onEvent = lambda event: None
    the_logic.removeCache()
