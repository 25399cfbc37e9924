"""Fixtures that several test files share."""

from __future__ import annotations

import os
from collections.abc import Iterator

import jaxtyping
import pytest
import torch
from phantoms import Phantom, ct_phantom, mr_phantom

from DiffuGTSLib.text.bank import PromptBank

# In the processes of pytest-xdist readline tells a width of 80, which rich would keep when the command line is imported.
for _told in ("COLUMNS", "LINES"):
    os.environ.pop(_told, None)


@pytest.fixture(scope="session")
def a_ct_phantom() -> Phantom:
    """A trunk on a RAS grid of 2 mm with a lesion of known place and volume."""
    return ct_phantom()


@pytest.fixture(scope="session")
def an_mr_phantom() -> Phantom:
    """A head on a RAS grid of 2 mm with a lesion of known place and volume."""
    return mr_phantom()


@pytest.fixture
def a_small_bank() -> PromptBank:
    """Two sentences on a plane, by a model that nobody has."""
    return PromptBank(("lung", "lung nodule"), torch.tensor([[1.0, 0.0], [0.6, 0.8]]), "0" * 64, "mean")


@pytest.fixture
def an_unchecked_library() -> Iterator[None]:
    """The library as users meet it: without the type checks of these tests, which would refuse before it can."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
