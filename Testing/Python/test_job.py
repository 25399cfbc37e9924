"""A part's options, read from words of the command line."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from DiffuGTSLib.errors import ConfigError
from DiffuGTSLib.training.job import Job, Part


@dataclass(frozen=True)
class Choices:
    """One field of each kind."""

    model: str = "unet"
    steps: int = 4
    share: float = 0.5
    tumors: bool = True


def nothing(job: Job) -> None:
    """Train nothing."""


def test_options_are_read_as_the_type_of_their_defaults() -> None:
    part = Part(nothing, 1, Choices())
    chosen = part.chosen({"model": "swin", "steps": "200", "share": "0.25", "tumors": "no"})
    assert chosen == Choices("swin", 200, 0.25, False)
    assert part.chosen({}) == Choices()


def test_an_unknown_option_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(ConfigError, match="Unknown option 'step'") as caught:
        Part(nothing, 1, Choices()).chosen({"step": "4"})
    assert caught.value.hint == "did you mean 'steps'?"
    with pytest.raises(ConfigError) as caught:
        Part(nothing, 1).chosen({"step": "4"})
    assert caught.value.hint == "this part has no options."


@pytest.mark.parametrize(
    ("key", "value", "kind"),
    [("steps", "4.5", "a whole number"), ("share", "half", "a number"), ("tumors", "maybe", "yes or no")],
)
def test_a_value_of_another_type_is_refused(key: str, value: str, kind: str) -> None:
    with pytest.raises(ConfigError, match=f"{key}: expected {kind}, got '{value}'"):
        Part(nothing, 1, Choices()).chosen({key: value})
