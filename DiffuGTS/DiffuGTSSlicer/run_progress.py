"""Progress and remaining time of a run, estimated from the stages' progress and their previous durations."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from DiffuGTSLib.worker.protocol import JOB_STAGES, SYNTHESIS_STAGES

TYPICAL_S: Mapping[tuple[str, ...], Mapping[str, float]] = {
    JOB_STAGES: {
        "load": 4.0, "read": 0.5, "aova": 8.0, "repaint": 8.0, "residual": 3.0, "write back": 0.5, "write": 0.5,
    },
    SYNTHESIS_STAGES: {"load": 1.0, "synthesize": 2.0, "write": 0.5},
}  # fmt: skip
"""Durations before any were measured: the bundled chest CT on a laptop. Only the proportions matter."""


class RunProgress:
    """Computes overall progress and remaining time from stage events."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._weightsOf = {stages: dict(weights) for stages, weights in TYPICAL_S.items()}
        self.begin()

    def begin(self, stages: tuple[str, ...] = JOB_STAGES, skip: tuple[str, ...] = ()) -> None:
        """Start the clock of a run through these stages, except the skipped ones."""
        self._start = self._clock()
        self._stages, self._weights = stages, self._weightsOf[stages]
        self._skip = skip
        self.stage, self.stageShare = "", 0.0

    def update(self, stage: str, share: float) -> None:
        """Handle a stage event; unknown stages are ignored."""
        if stage in self._stages:
            self.stage, self.stageShare = stage, min(max(share, 0.0), 1.0)

    def learn(self, timingsS: Mapping[str, float]) -> None:
        """Store how long the stages took."""
        self._weights.update({stage: max(float(s), 0.01) for stage, s in timingsS.items() if stage in self._stages})

    @property
    def elapsedS(self) -> float:
        """Seconds since `begin`."""
        return self._clock() - self._start

    @property
    def share(self) -> float:
        """Progress of the whole run, 0 to 1."""
        if not self.stage:
            return 0.0
        weights = {stage: 0.0 if stage in self._skip else self._weights[stage] for stage in self._stages}
        before = sum(weights[stage] for stage in self._stages[: self._stages.index(self.stage)])
        return (before + weights[self.stage] * self.stageShare) / (sum(weights.values()) or 1.0)

    @property
    def leftS(self) -> float | None:
        """Estimated seconds left, or None while it is too early to tell."""
        share = self.share
        if share < 0.05 or self.elapsedS < 1.0:
            return None
        return self.elapsedS * (1.0 - share) / share
