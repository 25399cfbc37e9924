"""Windows drawn in other processes: the same windows, in the same order, and errors that arrive."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mini_data import GRID, training_scan, write_case
from phantoms import ct_phantom

from DiffuGTSLib.errors import ConfigError, InputError, StorageError, WorkerError
from DiffuGTSLib.training.anomalies import AnomalySampler, Mixture
from DiffuGTSLib.training.window_workers import WindowWorkers, read_shared, write_shared

SEEDS = [[3, iteration] for iteration in range(7)]


@pytest.fixture(scope="module")
def a_sampler(tmp_path_factory: pytest.TempPathFactory) -> AnomalySampler:
    """Of one CT with a lesion."""
    data = tmp_path_factory.mktemp("ct")
    return AnomalySampler([training_scan(data, write_case(data, "ct", ct_phantom(GRID), "train"))], 32, Mixture())


class Refusing:
    """A sampler that has no room."""

    def draw(self, rng: np.random.Generator) -> Any:
        """Refuse."""
        raise InputError("There is no room.", hint="make some.", code="room")


class Dying:
    """A sampler whose process is killed, as where memory is short."""

    def draw(self, rng: np.random.Generator) -> Any:
        """Die without a word."""
        os._exit(9)


def test_two_processes_draw_what_one_would_in_order(a_sampler: AnomalySampler) -> None:
    with WindowWorkers(a_sampler, 2, 2) as workers:
        workers.look_ahead(iter(SEEDS))
        drawn = [workers.take() for _ in SEEDS]
        workers.look_ahead(SEEDS[5:])  # as a run that goes on from a checkpoint
        resumed, _ = workers.take()
    for seed, (samples, after) in zip(SEEDS, drawn, strict=True):
        rng = np.random.default_rng(seed)
        for sample in samples:
            own = a_sampler.draw(rng)
            assert np.array_equal(own.image, sample.image) and np.array_equal(own.mask, sample.mask)
            assert (own.organ, own.modality) == (sample.organ, sample.modality)
        assert after.random() == rng.random(), "the generator goes on where drawing ended"
    assert np.array_equal(resumed[0].image, drawn[5][0][0].image)


def test_an_error_in_a_process_arrives_as_it_is(an_unchecked_library: None) -> None:
    with WindowWorkers(Refusing(), 1, 1) as workers:  # type: ignore[arg-type]
        workers.look_ahead(SEEDS)
        with pytest.raises(InputError, match=r"There is no room\.") as caught:
            workers.take()
    assert (caught.value.hint, caught.value.code) == ("make some.", "room")


def test_a_process_that_died_is_told(an_unchecked_library: None) -> None:
    with WindowWorkers(Dying(), 1, 1) as workers:  # type: ignore[arg-type]
        workers.look_ahead(SEEDS[:1])
        with pytest.raises(WorkerError, match="A process that draws training windows died") as caught:
            workers.take()
    assert "workers=0" in caught.value.hint


class Slow:
    """A sampler that takes a second, and says in a file that it began."""

    def __init__(self, begun: Path) -> None:
        self.begun = begun

    def draw(self, rng: np.random.Generator) -> Any:
        """Draw nothing."""
        self.begun.touch()
        time.sleep(1)
        return "drawn"


@pytest.mark.skipif(sys.platform == "win32", reason="signals are Unix's")
def test_a_wish_to_stop_that_reaches_every_process_of_a_job_lets_what_is_drawn_be_drawn(
    tmp_path: Path, an_unchecked_library: None
) -> None:
    """Slurm's time limit sends it to all: the iteration that waits for a window must come to its end to be kept."""
    with WindowWorkers(Slow(tmp_path / "begun"), 1, 1) as workers:  # type: ignore[arg-type]
        workers.look_ahead(SEEDS[:1])
        while not (tmp_path / "begun").exists():
            time.sleep(0.01)
        (worker,) = multiprocessing.active_children()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            os.kill(worker.pid or 0, number)
        drawn, _ = workers.take()
    assert drawn == ["drawn"]


class OneDying:
    """A sampler whose process is killed in the first draw of all."""

    def __init__(self, begun: Path) -> None:
        self.begun = begun

    def draw(self, rng: np.random.Generator) -> Any:
        """Die at the first call, hang in later ones."""
        try:
            self.begun.touch(exist_ok=False)
        except FileExistsError:
            time.sleep(600)
        os._exit(9)


def test_where_one_process_died_the_others_are_ended(tmp_path: Path, an_unchecked_library: None) -> None:
    """They heed no wish to stop, so that whoever waited for their end would wait for ever."""
    with WindowWorkers(OneDying(tmp_path / "begun"), 1, 2) as workers:  # type: ignore[arg-type]
        workers.look_ahead(SEEDS)
        with pytest.raises(WorkerError, match="A process that draws training windows died"):
            workers.take()
    assert multiprocessing.active_children() == []


def test_a_pool_of_none_is_refused(a_sampler: AnomalySampler) -> None:
    with pytest.raises(ConfigError, match="at least one process, got 0"):
        WindowWorkers(a_sampler, 1, 0)


def test_scans_that_do_not_fit_on_the_disk_are_told_with_their_size(
    a_sampler: AnomalySampler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage._replace(free=1000))
    with pytest.raises(StorageError, match=r"they need 0\.\d GB, 0\.0 GB were free") as caught:
        WindowWorkers(a_sampler, 1, 1)
    assert str(tmp_path) in caught.value.message and "TMPDIR" in caught.value.hint and "workers=0" in caught.value.hint
    assert list(tmp_path.iterdir()) == [], "nothing is left there"


@pytest.mark.skipif(sys.platform != "linux", reason="/dev/full")
def test_a_disk_that_fills_up_meanwhile_is_told_as_well(tmp_path: Path) -> None:
    (tmp_path / "arrays").symlink_to("/dev/full")
    with pytest.raises(StorageError, match="No space left on device; they need"):
        write_shared(np.ones(10**6, dtype=np.float32), tmp_path)


def test_what_is_shared_comes_back_equal_and_cannot_be_written_to(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    thing = {"image": rng.random((5, 6, 7)).astype(np.float32), "mask": rng.random((3, 3)) > 0.5, "name": "ct"}
    write_shared(thing, tmp_path)
    back = read_shared(tmp_path)
    assert np.array_equal(back["image"], thing["image"]) and np.array_equal(back["mask"], thing["mask"])
    assert back["name"] == "ct" and not back["image"].flags.writeable
    write_shared("no array at all", tmp_path / "..")
    assert read_shared(tmp_path / "..") == "no array at all"
