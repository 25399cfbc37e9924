"""What is kept of a picture: under its content, of one model, within a budget."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from DiffuGTSLib.backbones.memory import WindowMemory

MB = 2**18
"""Numbers of four bytes."""


@pytest.fixture
def a_memory() -> WindowMemory:
    """Of three megabytes, in its first run."""
    memory = WindowMemory(3)
    memory.begin("model")
    return memory


def a_picture(seed: int) -> Tensor:
    return torch.rand(2, 2, 2, generator=torch.Generator().manual_seed(seed))


def one_mb(value: float) -> Callable[[], tuple[Tensor, ...]]:
    return lambda: (torch.full((MB,), float(value)),)


def must_not_be_asked() -> tuple[Tensor, ...]:
    raise AssertionError("it is kept")


def test_what_was_made_comes_back_bit_for_bit(a_memory: WindowMemory) -> None:
    made = (torch.randn(5, 5), torch.randn(3).double())
    assert a_memory.remembered("look", a_picture(1), lambda: made) is made
    back = a_memory.remembered("look", a_picture(1), must_not_be_asked)
    assert all(torch.equal(*pair) and pair[0].dtype == pair[1].dtype for pair in zip(made, back, strict=True))
    assert (a_memory.recalled, a_memory.made, a_memory.not_kept) == (1, 1, 0)


def test_another_picture_or_another_question_is_not_taken_for_it(a_memory: WindowMemory) -> None:
    a_memory.remembered("look", a_picture(1), one_mb(1.0))
    altered = a_picture(1)
    altered[0, 0, 0] += 1e-6
    for how, picture in (("look", altered), ("decode", a_picture(1)), ("look", a_picture(1).reshape(4, 2))):
        (found,) = a_memory.remembered(how, picture, one_mb(2.0))
        assert float(found[0]) == 2.0


def test_what_another_model_said_is_forgotten(a_memory: WindowMemory) -> None:
    a_memory.remembered("look", a_picture(1), one_mb(1.0))
    a_memory.begin("model")
    a_memory.remembered("look", a_picture(1), must_not_be_asked)
    a_memory.begin("another")
    assert a_memory.used_mb == 0
    assert float(a_memory.remembered("look", a_picture(1), one_mb(2.0))[0][0]) == 2.0


def test_what_does_not_fit_is_made_again_and_counted(a_memory: WindowMemory) -> None:
    for seed in range(5):
        a_memory.remembered("look", a_picture(seed), one_mb(seed))
    assert (a_memory.made, a_memory.not_kept, a_memory.used_mb) == (5, 2, 3.0)
    a_memory.begin("model")
    for seed in range(5):
        a_memory.remembered("look", a_picture(seed), one_mb(seed))
    assert (a_memory.recalled, a_memory.made, a_memory.not_kept) == (3, 2, 2), "its first windows are still there"


def test_an_earlier_scan_makes_room_for_this_one(a_memory: WindowMemory) -> None:
    for seed in range(3):
        a_memory.remembered("look", a_picture(seed), one_mb(seed))
    a_memory.begin("model")
    a_memory.remembered("look", a_picture(2), must_not_be_asked)
    a_memory.remembered("look", a_picture(7), one_mb(7))
    assert (a_memory.not_kept, a_memory.used_mb) == (0, 3.0)
    a_memory.remembered("look", a_picture(2), must_not_be_asked)
    a_memory.remembered("look", a_picture(1), must_not_be_asked), "the oldest went"
    assert float(a_memory.remembered("look", a_picture(0), one_mb(9))[0][0]) == 9.0


def test_without_a_budget_nothing_is_kept() -> None:
    memory = WindowMemory(0)
    memory.begin("model")
    memory.remembered("look", a_picture(1), one_mb(1.0))
    assert (memory.used_mb, memory.made, memory.not_kept) == (0, 1, 1)


def test_a_smaller_budget_is_kept_at_once_and_a_larger_one_loses_nothing(a_memory: WindowMemory) -> None:
    a_memory.remembered("look", a_picture(1), one_mb(1.0))
    a_memory.limit(9)
    a_memory.remembered("look", a_picture(1), must_not_be_asked)
    a_memory.limit(0)
    assert a_memory.used_mb == 0


def test_the_summary_says_what_will_be_looked_at_again(a_memory: WindowMemory) -> None:
    a_memory.remembered("look", a_picture(1), one_mb(1.0))
    assert a_memory.summary() == "0 looks recalled, 1 made; 1 MB are remembered."
    a_memory.limit(1)
    a_memory.remembered("look", a_picture(2), one_mb(2.0))
    assert "1 looks did not fit into 1 MB and will be made again" in a_memory.summary()
