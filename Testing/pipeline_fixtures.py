"""Networks and a result for the tests of the pipeline, which name this file as a plugin of pytest."""

import pytest
from phantoms import ct_phantom
from pipeline_parts import LIVER, tiny

from DiffuGTSLib.components import Components, load_components
from DiffuGTSLib.pipeline import Segmentation, segment


@pytest.fixture(scope="module")
def some_components() -> Components:
    """Tiny, real, untrained."""
    return load_components(tiny(), allow_untrained=True)


@pytest.fixture(scope="module")
def a_result(some_components: Components) -> Segmentation:
    """A phantom whose lesion was drawn by the user, all stages."""
    phantom = ct_phantom()
    return segment(phantom.scan, LIVER, some_components, tiny(), coarse_mask=phantom.lesion)
