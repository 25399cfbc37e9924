"""Loads scripted modules as the application does: the class with the metadata first, then the widget."""

from __future__ import annotations

import importlib.util
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mrml_widgets
import qt
import slicer

DIFFUGTS = Path(__file__).parents[3] / "DiffuGTS"


class ScriptedModule:
    """What the constructor of a scripted module gets as its parent."""

    def __init__(self, name: str, path: Path) -> None:
        self.name, self.path = name, str(path)
        self.title = self.helpText = self.acknowledgementText = self.defaultDocumentationLink = ""
        self.categories: list[str] = []
        self.dependencies: list[str] = []
        self.contributors: list[str] = []
        self.hidden = False
        self.icon: Any = None
        self.representation: Any = None

    def widgetRepresentation(self) -> Any:
        """Return the widget that the panel was built into, None before that."""
        return self.representation

    def logic(self) -> None:
        """Return None: the logic of a scripted module is a Python object."""


def install() -> None:
    """Prepare `slicer` for scripted modules. May be called again."""
    mrml_widgets.install()
    slicer.qSlicerScriptedLoadableModule = ScriptedModule
    slicer.qSlicerScriptedLoadableModuleWidget = qt.QWidget


def loadModule(name: str, folder: Path = DIFFUGTS, *, isEntered: bool = False) -> Any:
    """Load a scripted module, set its panel up and return the widget object, whose `.parent` is the Qt widget.

    The source is loaded anew each time, so that no test inherits the state of another. `isEntered` is what the Qt widget
    says of itself: with Slicer's Reload the module is open already.
    """
    install()
    path = Path(folder, f"{name}.py")
    spec = importlib.util.spec_from_file_location(name, path)
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    parent = ScriptedModule(name, path)
    setattr(slicer.modules, name.lower(), parent)
    setattr(slicer.moduleNames, name, name)
    setattr(slicer.modules, f"{name}Instance", getattr(module, name)(parent))
    slicer.app.emit("startupCompleted()")
    parent.representation = slicer.qMRMLWidget()
    parent.representation.setLayout(qt.QVBoxLayout())
    parent.representation.setMRMLScene(slicer.mrmlScene)
    parent.representation.isEntered = isEntered
    widget = getattr(module, f"{name}Widget")(parent.representation)
    setattr(slicer.modules, f"{name}Widget", widget)
    widget.setup()
    return widget


def unloadModule(widget: Any) -> None:
    """Do what the application does when it closes: `cleanup`, then the Qt widgets go."""
    slicer.app.moduleManager().emit("moduleAboutToBeUnloaded(QString)", widget.moduleName)
    widget.parent.setMRMLScene(None)
    widget.parent.close()
    widget.parent.deleteLater()
    for key in (widget.moduleName.lower(), f"{widget.moduleName}Instance", f"{widget.moduleName}Widget"):
        if hasattr(slicer.modules, key):
            delattr(slicer.modules, key)
    spin(lambda: True)


PATIENCE_S = 90.0
"""As long as the slowest shared computer may take for what takes a second here; only a fault waits it out."""


def spin(until: Callable[[], object], timeout_s: float = PATIENCE_S) -> bool:
    """Let Qt work until something is true; say whether it came true in time."""
    end = time.monotonic() + timeout_s
    while True:
        qt.QCoreApplication.processEvents()
        qt.QCoreApplication.sendPostedEvents(None, qt.QEvent.DeferredDelete)
        if until():
            return True
        if time.monotonic() > end:
            return False
        time.sleep(0.002)
