"""What every test of the Slicer side stands on: the real MRML core of Slicer, and a Qt that answers as Slicer's.

Where slicer-core or PySide6 is not installed, the files that need them are skipped with the command that installs them,
and pytest fails at once where DIFFUGTS_REQUIRE_SLICER is set, as `make test` does.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
IS_INSTALLED = all(importlib.util.find_spec(name) for name in ("slicer_core", "PySide6"))
HOW_TO_INSTALL = (
    "slicer-core and PySide6 are not installed; run: "
    "python -m pip install -c constraints.txt slicer-core PySide6-Essentials"
)
REQUIRED = "DIFFUGTS_REQUIRE_SLICER"
"""Set in the environment, tests of the Slicer side are not skipped where the packages are missing: all fail."""
WITHOUT_SLICER = ("test_slicer_traps.py",)
"""Files that only read the sources."""


def _renderer() -> str | None:
    """Return the render window that can draw here without a screen, or None for the system's own."""
    for library, window in (("libEGL.so.1", "vtkEGLRenderWindow"), ("libOSMesa.so.8", "vtkOSOpenGLRenderWindow")):
        try:
            ctypes.CDLL(library)
        except OSError:
            continue
        return window
    return None


def _set_environment() -> None:
    """Set what Qt, VTK and matplotlib read when they are imported."""
    os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
    os.environ.setdefault("PYSIDE6_OPTION_PYTHON_ENUM", "0x02")
    os.environ.setdefault("MPLBACKEND", "Agg")  # a QApplication would make it choose Qt
    window = _renderer() if sys.platform.startswith("linux") else None
    if window:
        os.environ.setdefault("VTK_DEFAULT_OPENGL_WINDOW", window)


class SkippedFile(pytest.Module):
    """A test file that cannot even be imported here."""

    def collect(self) -> Iterator[Any]:
        """Skip it, with the reason."""
        raise pytest.skip.Exception(HOW_TO_INSTALL, allow_module_level=True)


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Module | None:
    """Skip the files that need what is not installed, before their imports fail."""
    if IS_INSTALLED or module_path.name in WITHOUT_SLICER:
        return None
    return SkippedFile.from_parent(parent, path=module_path)


_set_environment()
if IS_INSTALLED:
    sys.path += [str(HERE / "harness" / "shim"), str(HERE / "harness"), str(ROOT / "DiffuGTS")]
    import slicer_headless

    slicer_headless.boot()
    import gui

    gui.install()
elif os.environ.get(REQUIRED):
    raise pytest.UsageError(f"{REQUIRED} is set: {HOW_TO_INSTALL}")


@pytest.fixture
def a_scene() -> Iterator[Any]:
    """The MRML scene, empty, with the views of the conventional layout. VTK must not complain during the test.

    A test that makes VTK complain on purpose ends with `vtk_messages.forget()`.
    """
    import slicer

    slicer_headless.reset()
    yield slicer.mrmlScene
    said = sys.modules["vtk_messages"].forget()
    slicer_headless.reset()
    assert said == [], "VTK complained"


@pytest.fixture
def a_scan(a_scene: Any) -> Any:
    """A small CT on an oblique grid with three different voxel sides."""
    from scene_parts import OBLIQUE, noise, scan_node

    return scan_node(OBLIQUE, noise(OBLIQUE))


@pytest.fixture
def a_qt_application() -> Iterator[Any]:
    """The application object of Qt. An exception in a slot, which Qt only prints, fails the test."""
    import qt

    raised: list[BaseException] = []
    before = sys.excepthook

    def keep(kind: type[BaseException], error: BaseException, trace: Any) -> None:
        raised.append(error)
        before(kind, error, trace)

    sys.excepthook = keep
    yield qt.QApplication.instance()
    sys.excepthook = before
    if raised:
        raise raised[0]


@pytest.fixture
def the_message_boxes(a_scene: Any, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The texts of the message boxes that a user would see; each is answered by its default button."""
    import qt
    import slicer

    shown: list[str] = []

    def show(text: str, parent: Any = None, **options: Any) -> int:
        shown.append(text)
        return int(options.get("standardButtons", qt.QMessageBox.Ok)) & (qt.QMessageBox.Ok | qt.QMessageBox.Yes)

    monkeypatch.setattr(slicer.util, "messageBox", show)
    monkeypatch.setattr(slicer.util, "mainWindow", lambda *_: object())
    monkeypatch.setattr(slicer.app, "testingEnabled", lambda: False)
    return shown


@pytest.fixture
def a_demo_scan(a_scene: Any) -> Any:
    """The chest CT of the sample data as a volume node."""
    import slicer

    return slicer.util.loadVolume(str(ROOT / "Resources" / "SampleData" / "chest_ct.nii.gz"), {"name": "Chest CT"})


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    """Leave at once after the last test: VTK's and Qt's bindings may abort while Python is torn down around them."""
    status = getattr(config, "diffugts_exit_status", None)
    if status is not None and "slicer_core" in sys.modules:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Keep the status that pytest is about to end with."""
    session.config.diffugts_exit_status = int(session.exitstatus)  # type: ignore[attr-defined]
