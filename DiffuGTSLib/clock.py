"""What surrounds the stages of a run: seconds and progress of each, and one error for all the ways in which memory runs out.

With runtime.compile, the compiler works within the stages too, and its failure gets words of ours.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise

import torch

from DiffuGTSLib.backbones.windows import OnWindow
from DiffuGTSLib.errors import ConfigError, MemoryLimitError, says_out_of_memory

OnShare = Callable[[float], None]
"""Called with the share of a stage that is done; may raise `Cancelled`."""

_COMPILERS = ("torch._dynamo", "torch._inductor")
"""Where the exceptions of torch.compile live; they are not part of torch's public names."""


@dataclass
class Clock:
    """Seconds a stage, and progress within it.

    Attributes:
        on_progress: Called with (stage, share of it that is done); may raise `Cancelled`.
        seconds: Of each stage that ended.
        current: The stage that runs.
    """

    on_progress: Callable[[str, float], None] | None
    seconds: dict[str, float] = field(default_factory=dict)
    current: str = "start"

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time what is done within, and report its beginning and its end."""
        self.current = name
        self.report(0.0)
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = time.perf_counter() - begin
        self.report(1.0)

    def report(self, share: float) -> None:
        """Report how much of the running stage is done."""
        if self.on_progress is not None:
            self.on_progress(self.current, share)


@contextmanager
def out_of_memory_as_error(clock: Clock, device: torch.device) -> Iterator[None]:
    """Turn every way in which memory runs out within into one error that names the stage.

    Raises:
        MemoryLimitError: If memory runs out.
        ConfigError: If runtime.compile was asked for, and the compiler failed.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if type(error).__module__.startswith(_COMPILERS) and not says_out_of_memory(error):
            raise ConfigError(
                f"The denoiser could not be compiled for {device}: {str(error).strip()[:300]}",
                hint="install Triton for this PyTorch, or leave runtime.compile at false.",
            ) from error
        if not says_out_of_memory(error):
            raise
        raise MemoryLimitError(
            f"Out of memory in stage '{clock.current}' on {device}: {str(error)[:200] or 'no details given'}.",
            hint="try smaller windows (--set backbone.window_voxels=64), a region of interest, or --device cpu.",
        ) from error


def span(report: OnShare, begin: float, end: float) -> OnWindow:
    """Return a callback that reports (done, in all) as a share between begin and end."""
    return lambda done, total: report(begin + (end - begin) * done / total)


def spans(report: OnShare, begin: float, end: float, count: int) -> list[OnWindow]:
    """Return such callbacks of equally long parts, one after the other."""
    edges = [begin + (end - begin) * part / count for part in range(count + 1)]
    return [span(report, *edge) for edge in pairwise(edges)]
