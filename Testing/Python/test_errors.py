"""The one family of errors."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

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
    naming_case,
    says_out_of_memory,
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


def test_a_case_is_named_in_what_is_refused_and_not_in_a_stop() -> None:
    for error, said in ((InputError("bad", hint="mend it."), "Case 'a': bad"), (Cancelled("Stopped."), "Stopped.")):
        with pytest.raises(type(error)) as caught, naming_case("a"):
            raise error
        assert caught.value is error and error.message == said


def test_wrong_input_is_also_a_value_error_and_full_disks_are_also_os_errors() -> None:
    with pytest.raises(ValueError, match="bad grid"):
        raise GeometryError("bad grid")
    with pytest.raises(OSError, match="disk full") as caught:
        raise StorageError("disk full", hint="make room.")
    assert isinstance(caught.value, StorageError)
    assert caught.value.hint == "make room."


@pytest.fixture
def a_card(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Lets torch report a second card of 80 GB on which we work, with a share of its memory free."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda number: number * 10**9)

    def report(share: float) -> None:
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda number: (int(share * 80e9) * number, 80 * 10**9))

    return report


NO_CONVOLUTION = (
    "GET was unable to find an engine to execute this computation",
    "FIND was unable to find an engine to execute this computation",
    "Unable to find a valid cuDNN algorithm to run convolution",
)


@pytest.mark.parametrize("said", NO_CONVOLUTION)
def test_a_convolution_that_finds_no_way_ran_out_of_memory_where_the_card_is_full(
    said: str, a_card: Callable[[float], None]
) -> None:
    a_card(0.02)
    assert says_out_of_memory(RuntimeError(said))
    a_card(0.5)
    assert not says_out_of_memory(RuntimeError(said)), "the card is half empty: something else is wrong"


def test_a_convolution_that_finds_no_way_without_a_card_is_no_want_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert not says_out_of_memory(RuntimeError(NO_CONVOLUTION[0]))


def test_a_card_that_answers_nothing_more_is_not_said_to_be_full(
    a_card: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(number: int) -> tuple[int, int]:
        raise RuntimeError("CUDA error: an illegal memory access")

    monkeypatch.setattr(torch.cuda, "mem_get_info", lost)
    assert not says_out_of_memory(RuntimeError(NO_CONVOLUTION[0]))


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("Seems to be OOM. Please try smaller patch size"),
        torch.OutOfMemoryError("Tried to allocate 9 GiB"),
        MemoryLimitError("The scan needs 9 GB."),
        MemoryError(),
    ],
)
def test_memory_that_ran_out_is_known_in_what_an_error_came_from_too(error: Exception) -> None:
    assert says_out_of_memory(error)
    for cause in (error, None):
        with pytest.raises(RuntimeError) as caught:
            try:
                raise error
            except Exception as first:
                if cause is None:
                    raise RuntimeError("the window failed")  # noqa: B904, what is meant to be tried
                raise RuntimeError("the window failed") from first
        assert says_out_of_memory(caught.value)


def test_what_was_put_right_or_said_in_our_words_is_no_want_of_memory() -> None:
    with pytest.raises(RuntimeError) as caught:
        try:
            raise MemoryError
        except MemoryError:
            raise RuntimeError("another thing") from None
    assert not says_out_of_memory(caught.value)
    ours = InputError("the mask is empty")
    ours.__cause__ = MemoryError()
    assert not says_out_of_memory(ours)
    assert not says_out_of_memory(ValueError("out of memory"))


def test_a_near_miss_is_answered_with_the_closest_name() -> None:
    assert did_you_mean("stesp", ["steps", "seeds"]) == "did you mean 'steps'?"


def test_a_far_miss_is_answered_with_all_known_names_in_order() -> None:
    assert did_you_mean("xyz", ["steps", "seeds"]) == "known: seeds, steps."
