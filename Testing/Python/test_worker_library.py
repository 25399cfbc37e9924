"""Loading the heavy packages beside other work, and what happens when one does not load."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from DiffuGTSLib.errors import Cancelled, WorkerError
from DiffuGTSLib.worker.library import Library, graphics_cards


class Ear:
    """Hears one event."""

    def __init__(self) -> None:
        self.heard: dict[str, Any] = {}
        self.told = threading.Event()

    def __call__(self, event: str, **values: Any) -> None:
        """Hear it."""
        self.heard = {"event": event, **values}
        self.told.set()


def go_on() -> None:
    """Never stop."""


def test_ready_is_told_with_versions_and_graphics_cards() -> None:
    ear = Ear()
    library = Library(ear, ("json",))
    library.start()
    library.wait(go_on)
    assert ear.told.wait(60) and ear.heard["event"] == "ready"
    assert ear.heard["versions"]["torch"][0].isdigit() and ear.heard["devices"] == graphics_cards()
    assert all(set(card) == {"id", "name", "total_bytes"} for card in ear.heard["devices"])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import a_package_that_nobody_has", "The package a_package_that_nobody_has is not installed."),
        ("raise OSError('libcudart.so.12: cannot open shared object file')", "libcudart.so.12"),
        ("raise ValueError('numpy.dtype size changed')", "numpy.dtype size changed"),
    ],
)
def test_a_package_that_does_not_load_is_said_at_once_and_ends_every_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, said: str
) -> None:
    (tmp_path / "a_spoiled_package.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    sys.modules.pop("a_spoiled_package", None)
    ear = Ear()
    library = Library(ear, ("a_spoiled_package",))
    library.start()
    with pytest.raises(WorkerError) as caught:
        library.wait(go_on)
    assert caught.value.code == "import_failed" and said in caught.value.message and "Install" in caught.value.hint
    assert ear.told.wait(10) and ear.heard["event"] == "warning" and said in ear.heard["message"]


def test_a_run_can_be_stopped_while_it_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a_slow_package.py").write_text("import time\ntime.sleep(3)")
    monkeypatch.syspath_prepend(tmp_path)
    library = Library(Ear(), ("a_slow_package",))
    library.start()

    def stop() -> None:
        raise Cancelled("Stopped.")

    begin_s = time.monotonic()
    with pytest.raises(Cancelled):
        library.wait(stop)
    assert time.monotonic() - begin_s < 2
    library.wait(go_on)
