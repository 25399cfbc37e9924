"""Processes that draw and paint training windows while the network computes.

A batch is drawn from the seed of its iteration, wherever that happens, so that a run is the same with any number of
processes, and goes on exactly after it was stopped. The processes are started afresh rather than forked: they work the
same on every system, and none inherits a GPU or a lock. They share the scans through one file that each maps into its
memory, so that ten processes hold the scans once; it is removed at the end.
"""

from __future__ import annotations

import errno
import functools
import itertools
import mmap
import os
import pickle
import shutil
import signal
import tempfile
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import parent_process
from multiprocessing.context import SpawnContext, SpawnProcess
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from DiffuGTSLib.errors import ConfigError, StorageError, WorkerError
from DiffuGTSLib.training.anomalies import AnomalySampler, Sample
from DiffuGTSLib.training.stopping import stop_signals

Batch = tuple[list[Sample], np.random.Generator]

_ALIGNMENT = 64
"""Bytes; arrays in the shared file begin at multiples of it, as processors like them to."""


class WindowWorkers:
    """Draws a sampler's batches ahead; see `DiffuGTSLib.training.aova.DrawnAhead`. A context: it ends its processes.

    Args:
        sampler: What is drawn from.
        batch: Windows in a batch.
        workers: Processes.

    Raises:
        ConfigError: For fewer than one.
        StorageError: If the scans do not fit into the folder for temporary files.
    """

    def __init__(self, sampler: AnomalySampler, batch: int, workers: int) -> None:
        if workers < 1:
            raise ConfigError(f"workers: expected at least one process, got {workers}.")
        self._folder = tempfile.TemporaryDirectory(prefix="diffugts-windows-")
        self._batch = batch
        self._count = 2 * workers
        self._seeds: Iterator[list[int]] = iter(())
        self._pending: deque[Future[Batch]] = deque()
        try:
            write_shared(sampler, Path(self._folder.name))
        except BaseException:
            self._folder.cleanup()
            raise
        self._pool = ProcessPoolExecutor(workers, _Context(), initializer=_begin)

    def __enter__(self) -> WindowWorkers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._folder.cleanup()

    def look_ahead(self, seeds: Iterable[list[int]]) -> None:
        """Begin with the first batches of a run."""
        for future in self._pending:
            future.cancel()
        self._pending.clear()
        self._seeds = iter(seeds)
        for seed in itertools.islice(self._seeds, self._count):
            self._submit(seed)

    def take(self) -> Batch:
        """Return the next batch, and its generator in the state after drawing it.

        Raises:
            WorkerError: If a process died, as where memory is short. What else went wrong in one is raised as it is.
        """
        try:
            drawn = self._pending.popleft().result()
            for seed in itertools.islice(self._seeds, 1):
                self._submit(seed)
        except BrokenProcessPool as error:
            raise WorkerError(
                "A process that draws training windows died.",
                hint="is memory short? Try fewer: --set workers=0 draws in the training's own process.",
            ) from error
        return drawn

    def _submit(self, seed: list[int]) -> None:
        self._pending.append(self._pool.submit(_draw, Path(self._folder.name), seed, self._batch))


def write_shared(thing: Any, folder: Path) -> None:
    """Write an object so that processes can read it without each holding its arrays: `arrays` and `object.pickle`.

    Raises:
        StorageError: If there is no room, or the folder cannot be written to.
    """
    buffers: list[pickle.PickleBuffer] = []
    content = pickle.dumps(thing, protocol=5, buffer_callback=buffers.append)
    sizes = [buffer.raw().nbytes for buffer in buffers]
    padding = [-size % _ALIGNMENT for size in sizes]
    needed = sum(sizes) + sum(padding) + len(content)
    free = shutil.disk_usage(folder).free
    try:
        if needed > free:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        with (folder / "arrays").open("wb") as file:
            for buffer, zeros in zip(buffers, padding, strict=True):
                file.write(buffer.raw())
                file.write(b"\0" * zeros)
            if not sizes:
                file.write(b"\0")  # an empty file cannot be mapped
        (folder / "object.pickle").write_bytes(pickle.dumps((sizes, content)))
    except OSError as error:
        raise StorageError(
            f"The scans for the processes that draw windows cannot be written to {folder}: {error.strerror}; "
            f"they need {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB were free.",
            hint="name a folder with room as TMPDIR, or draw in the training's own process: --set workers=0.",
        ) from error


@functools.cache
def read_shared(folder: Path) -> Any:
    """Return the object, its arrays in the mapped file; they cannot be written to."""
    sizes, content = pickle.loads((folder / "object.pickle").read_bytes())  # noqa: S301 - this run wrote it
    with (folder / "arrays").open("rb") as file:
        mapped = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    starts = list(itertools.accumulate((size + -size % _ALIGNMENT for size in sizes), initial=0))[:-1]
    buffers = [mapped[start : start + size] for start, size in zip(starts, sizes, strict=True)]
    return pickle.loads(content, buffers=buffers)  # noqa: S301


class _Process(SpawnProcess):
    """A worker: since no wish to stop ends it, it is ended by force where the pool ends it, as when another one died."""

    def terminate(self) -> None:
        """End it."""
        self.kill()


class _Context(SpawnContext):
    """Starts workers afresh."""

    Process = _Process


def _begin() -> None:
    """Prepare a worker: a wish to stop is its parent's matter, who still needs its windows; and it ends when its parent is gone.

    A scheduler sends that wish to every process of a job at once.
    """
    for number in stop_signals():
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _draw(folder: Path, seed: list[int], batch: int) -> Batch:
    sampler: AnomalySampler = read_shared(folder)
    rng = np.random.default_rng(seed)
    return [sampler.draw(rng) for _ in range(batch)], rng
