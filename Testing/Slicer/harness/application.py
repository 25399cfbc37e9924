"""Stand-ins for the application object and for what Slicer keeps of each module."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import slicer
import vtk
from core_io import CoreIOManager
from layout_manager import LayoutManager


class Module:
    """What `slicer.modules.<name>` answers for a module that is not scripted."""

    def __init__(self, name: str, logic: vtk.vtkObject) -> None:
        self.name = self.title = name
        self.path = ""
        self._logic = logic

    def logic(self) -> vtk.vtkObject:
        """Return the module's logic."""
        return self._logic

    def widgetRepresentation(self) -> None:
        """Return no widget: modules in C++ have theirs in the application only."""


class ModuleManager:
    """The signals and questions of the module manager."""

    def __init__(self) -> None:
        self._slots: dict[str, list[Callable[..., None]]] = {}

    def connect(self, signal: str, slot: Callable[..., None]) -> bool:
        """Keep a slot for `emit`."""
        self._slots.setdefault(signal, []).append(slot)
        return True

    def disconnect(self, signal: str, slot: Callable[..., None]) -> bool:
        """Forget a slot; say whether it was there."""
        slots = self._slots.get(signal, [])
        if slot not in slots:
            return False
        slots.remove(slot)
        return True

    def emit(self, signal: str, *arguments: object) -> None:
        """Call the slots of a signal."""
        for slot in list(self._slots.get(signal, [])):
            slot(*arguments)

    def isLoaded(self, name: str) -> bool:
        """Say whether a module of this name is there."""
        return hasattr(slicer.modules, name.lower())


class Application(ModuleManager):
    """`slicer.app`: the parts that a scripted module may ask for.

    In testing mode, as here, `slicer.util` shows no message box and answers for the user; a test that wants to see the
    boxes asks for the fixture `the_message_boxes`.
    """

    applicationName = "Slicer"
    majorVersion, minorVersion = 5, 12
    documentationBaseUrl = "https://slicer.readthedocs.io/"

    def __init__(self, scene: vtk.vtkObject, share: Path) -> None:
        super().__init__()
        self.share = share
        self.temporaryPath = tempfile.mkdtemp(prefix="slicer_")
        self.slicerHome = str(share)
        self._scene = scene
        self._io = CoreIOManager()
        self._modules = ModuleManager()
        self._logic = self._new_logic()
        self._layouts = LayoutManager(self._logic)
        self._testing = True
        self.main_window: Any = None
        self.cursors: list[object] = []

    def _new_logic(self) -> vtk.vtkObject:
        logic = slicer.vtkSlicerApplicationLogic()
        logic.SetMRMLScene(self._scene)
        logic.SetTemporaryPath(self.temporaryPath)
        logic.SetHomeDirectory(str(self.share))
        logic.SetShareDirectory(".")  # relative to the home directory
        # Reading a scene bundle asks for both.
        self._cache, self._data_io = slicer.vtkCacheManager(), slicer.vtkDataIOManager()
        self._cache.SetRemoteCacheDirectory(self.temporaryPath)
        self._data_io.SetCacheManager(self._cache)
        self._scene.SetCacheManager(self._cache)
        self._scene.SetDataIOManager(self._data_io)
        logic.GetColorLogic().SetMRMLScene(self._scene)
        logic.GetColorLogic().AddDefaultColorNodes()
        logic.SetSliceLogics(vtk.vtkCollection())
        logic.SetViewLogics(vtk.vtkCollection())
        for factory in (
            slicer.vtkMRMLThreeDViewDisplayableManagerFactory,
            slicer.vtkMRMLSliceViewDisplayableManagerFactory,
        ):
            factory.GetInstance().SetMRMLApplicationLogic(logic)
        return logic

    def testingEnabled(self) -> bool:
        """Say whether message boxes are left out."""
        return self._testing

    def setTestingEnabled(self, on: bool) -> None:
        """Leave message boxes out, or not."""
        self._testing = on

    def applicationLogic(self) -> vtk.vtkObject:
        """Return the logic that knows all others."""
        return self._logic

    def mrmlScene(self) -> vtk.vtkObject:
        """Return the scene."""
        return self._scene

    def coreIOManager(self) -> CoreIOManager:
        """Return what reads and writes files."""
        return self._io

    ioManager = coreIOManager

    def layoutManager(self) -> LayoutManager:
        """Return the manager of the views."""
        return self._layouts

    def moduleManager(self) -> ModuleManager:
        """Return the manager of the modules."""
        return self._modules

    def processEvents(self, *_: object) -> None:
        """Let Qt work."""
        import qt

        qt.QCoreApplication.processEvents()

    def settings(self) -> Any:
        """Return the settings of this process, in a file of its own."""
        import qt

        return qt.QSettings(str(Path(self.temporaryPath, "Slicer.ini")), qt.QSettings.IniFormat)

    userSettings = revisionUserSettings = settings

    def palette(self) -> Any:
        """Return the colors of the interface."""
        import qt

        return qt.QApplication.instance().palette()

    def topLevelWidgets(self) -> list[Any]:
        """Return every window."""
        import qt

        return qt.QApplication.topLevelWidgets()

    def mainWindow(self) -> Any:
        """Return the main window, or None as with `--no-main-window`."""
        return self.main_window

    def translate(self, context: str, text: str) -> str:
        """Return the text as it is."""
        return text

    def moduleDocumentationUrl(self, module: str) -> str:
        """Return where a module is described."""
        return f"{self.documentationBaseUrl}{module}"

    def pauseRender(self) -> None:
        """Do nothing: nothing is rendered until a picture is asked for."""

    resumeRender = restart = pauseRender

    def setOverrideCursor(self, cursor: object) -> None:
        """Remember the cursor, so that a test sees what was not taken back."""
        self.cursors.append(cursor)

    def restoreOverrideCursor(self) -> None:
        """Take the last cursor back."""
        self.cursors.pop()
