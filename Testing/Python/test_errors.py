"""The one family of errors."""

from __future__ import annotations

import pytest

from DiffuGTSLib.errors import (
    Cancelled,
    ConfigError,
    DiffuGTSError,
    GeometryError,
    InputError,
    MemoryLimitError,
    PromptError,
    StorageError,
    WeightsError,
    WorkerError,
    did_you_mean,
)


@pytest.mark.parametrize(
    ("kind", "exit_code", "code"),
    [
        (InputError, 2, "input"),
        (GeometryError, 2, "geometry"),
        (PromptError, 2, "prompt"),
        (ConfigError, 2, "config"),
        (WeightsError, 3, "weights"),
        (MemoryLimitError, 4, "oom"),
        (WorkerError, 5, "worker"),
        (StorageError, 6, "storage"),
        (Cancelled, 130, "cancelled"),
    ],
)
def test_each_error_says_its_code_and_exit_code(kind: type[DiffuGTSError], exit_code: int, code: str) -> None:
    error = kind("it broke", hint="mend it.")
    assert (error.exit_code, error.code) == (exit_code, code)
    assert isinstance(error, DiffuGTSError)
    assert (error.message, error.hint) == ("it broke", "mend it.")
    assert str(error) == "it broke Hint: mend it."


def test_a_message_without_a_hint_stands_alone() -> None:
    assert str(InputError("it broke")) == "it broke"


def test_a_given_code_belongs_to_one_error_and_not_to_its_class() -> None:
    assert InputError("no such file", code="missing").code == "missing"
    assert InputError("other").code == "input"


def test_wrong_input_is_also_a_value_error_and_full_disks_are_also_os_errors() -> None:
    with pytest.raises(ValueError, match="bad grid"):
        raise GeometryError("bad grid")
    with pytest.raises(OSError, match="disk full") as caught:
        raise StorageError("disk full", hint="make room.")
    assert isinstance(caught.value, StorageError)
    assert caught.value.hint == "make room."


def test_a_near_miss_is_answered_with_the_closest_name() -> None:
    assert did_you_mean("stesp", ["steps", "seeds"]) == "did you mean 'steps'?"


def test_a_far_miss_is_answered_with_all_known_names_in_order() -> None:
    assert did_you_mean("xyz", ["steps", "seeds"]) == "known: seeds, steps."
