"""Networks without a number, for the tests of what is planned, which name this file as a plugin of pytest."""

import pytest

from DiffuGTSLib.config import load_config
from DiffuGTSLib.planning.costs import Sketch, sketch


@pytest.fixture(scope="module")
def a_published_sketch() -> Sketch:
    """MAISI's CT networks at full size, without a number."""
    return sketch(load_config("maisi-ct"))


@pytest.fixture(scope="module")
def a_tiny_sketch() -> Sketch:
    """The test networks, without a number."""
    return sketch(load_config("tiny"))
