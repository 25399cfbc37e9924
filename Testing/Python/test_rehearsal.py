"""What a dry run says about time and memory."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from DiffuGTSLib.training.rehearsal import duration, peak_memory_gb


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.4, "0 s"), (89, "89 s"), (90, "2 min"), (12 * 60, "12 min"), (3.5 * 3600, "3.5 h"), (3 * 86400, "3.0 days")],
)
def test_times_are_told_in_the_unit_that_people_would_use(seconds: float, words: str) -> None:
    assert duration(seconds) == words


@pytest.mark.skipif(sys.platform == "win32", reason="no one counts it there")
def test_the_peak_rises_with_what_is_held() -> None:
    before = peak_memory_gb(torch.device("cpu"))
    held = np.ones(int(before * 1e9 / 8) if before else 0)  # as much again
    after = peak_memory_gb(torch.device("cpu"))
    assert before is not None and after is not None and 0.05 < before < after
    assert after > 0.9 * held.nbytes / 1e9
