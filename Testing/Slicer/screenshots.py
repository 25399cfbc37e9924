"""Draws the pictures of the README: the panel in each of its states, and the views with a real result of the demo scan.

python Testing/Slicer/screenshots.py [folder]
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parents[1])]

import conftest  # noqa: E402, F401 it boots the scene and Qt
import gui  # noqa: E402
import numpy as np  # noqa: E402
import qt  # noqa: E402
import slicer  # noqa: E402
import slicer_headless  # noqa: E402
from DiffuGTSSlicer.scene import newSegmentation  # noqa: E402
from PIL import Image  # noqa: E402
from scene_parts import set_segment_mask  # noqa: E402
from scene_pictures import take_all, take_synthesis, take_thumbnail, write_small  # noqa: E402
from scipy import ndimage  # noqa: E402

WIDTH = 440
OVERVIEW_WIDTH = 1360
LARGEST_KB = 60
RUN_TIMEOUT_S = 3600.0
SECTIONS = ("setup", "inputs", "prompts", "run", "review", "refine", "handoff", "batch", "synthesis", "advanced")
TUMOR_PLACE_RAS_MM = (-62.0, -58.0, -120.0)
"""In the left lung, far from the nodule."""
TUMOR_RADIUS_MM = 9.0
AIR_HU = -500
LUNG_WINDOW, LUNG_LEVEL = 1500, -600
IN_SLICER = ("numpy", "scipy", "SimpleITK")
"""Packages that Slicer brings."""
OF_THE_APPLICATION = ("segmenteditor", "segmentstatistics", "dicom")
"""Slicer's own modules, which are not here; with them the panel looks as it does in the application."""


def unsqueeze(section: Any) -> None:
    """Give an open section the height of its contents, as the application's scroll area does."""
    layout, width = section.layout(), WIDTH - 50
    high = layout.totalHeightForWidth(width) if layout.hasHeightForWidth() else layout.totalSizeHint().height()
    section.setMinimumHeight(0 if section.collapsed else max(high, layout.totalMinimumSize().height()))


class Camera:
    """Photographs the panel as if it were scrolled to its whole length."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def shoot(self, widget: Any, name: str) -> None:
        """Write panel_<name>.png."""
        widget.parent.show()
        gui.spin(lambda: False, 0.2)
        for section in SECTIONS:
            unsqueeze(getattr(widget.ui, f"{section}CollapsibleButton"))
        widget.parent.resize(WIDTH, widget.parent.layout().sizeHint().height() + 40)
        gui.spin(lambda: False, 0.2)
        last = widget.ui.disclaimerLabel
        widget.parent.resize(WIDTH, last.mapTo(widget.parent, qt.QPoint(0, last.height)).y() + 20)
        gui.spin(lambda: False, 0.2)
        self.save(widget.parent, name)

    def save(self, shown: Any, name: str) -> None:
        """Write a picture of any widget."""
        path = self._folder / f"panel_{name}.png"
        if not shown.grab().save(str(path)):
            raise SystemExit(f"{path} cannot be written")
        write_small(Image.open(path).convert("RGB"), path, LARGEST_KB)


def fold(widget: Any, *shown: str) -> None:
    """Open these sections and fold the others, so that a picture shows what it is about."""
    for name in SECTIONS:
        getattr(widget.ui, f"{name}CollapsibleButton").collapsed = name not in shown
    widget.panel.readerStudy.ui.readingCollapsibleButton.collapsed = True
    for section in widget.panel.sections:
        if section.messageLabel is not None:
            section.showMessage(section.messageLabel.text)
    widget.panel.refresh()  # opening a section shows all of its widgets, those that have nothing to say too


def wait(until: Callable[[], object], widget: Any) -> None:
    """Let Qt work until something is true."""
    if not gui.spin(until, RUN_TIMEOUT_S):
        raise SystemExit(f"gave up: {widget.ui.logText.plainText}")


def load_scan() -> None:
    """Load the demo scan in a lung window, and draw every view once, so that each knows its renderer."""
    slicer_headless.reset()
    path = HERE.parents[1] / "Resources" / "SampleData" / "chest_ct.nii.gz"
    scan = slicer.util.loadVolume(str(path), {"name": "Chest CT"})
    scan.GetDisplayNode().AutoWindowLevelOff()
    scan.GetDisplayNode().SetWindowLevel(LUNG_WINDOW, LUNG_LEVEL)
    manager = slicer.app.layoutManager()
    for name in manager.sliceViewNames():
        manager.sliceWidget(name).picture()
    for name in OF_THE_APPLICATION:
        setattr(slicer.modules, name, object())


def before_the_run(widget: Any, camera: Camera) -> None:
    """Take the panel on a computer without the packages, with them, and its window of models."""
    panel = widget.panel
    requirements = [line for line in panel.requirements.lines() if not line.startswith(IN_SLICER)]
    installed, panel.requirements.missing = panel.requirements.missing, lambda: requirements
    panel.setup.checkPackages()
    panel.refresh()
    fold(widget, "setup")
    camera.shoot(widget, "setup_needed")
    panel.requirements.missing = installed
    panel.setup.checkPackages()
    panel.refresh()
    panel.setup.onModels()
    window = panel.setup.window
    window.table.setCurrentCell([row[0] for row in window._rows].index("mini"), 0)
    window.check()
    wait(lambda: not window.isChecking, widget)
    for row, (_name, folder, _isOwn) in enumerate(window._rows):
        if folder is not None:  # a picture tells nothing of the computer it was taken on
            window.table.item(row, 4).setText(f"…/Resources/Models/{folder.name}")
    window.table.resizeColumnsToContents()
    camera.save(window.dialog, "models")
    window.dialog.accept()
    fold(widget, "inputs", "prompts", "run")
    camera.shoot(widget, "ready")


def the_run(widget: Any, camera: Camera) -> None:
    """Take the panel while the real worker runs, and when it is done."""
    ui, logic = widget.ui, widget.logic
    fold(widget, "run", "review")
    ui.runButton.click()
    wait(lambda: not logic.isRunning or (logic.progress.stage == "repaint" and logic.progress.stageShare > 0.2), widget)
    camera.shoot(widget, "running")
    wait(lambda: not logic.isRunning, widget)
    if logic.run.state != "done":
        raise SystemExit(ui.messageLabel.text)
    wait(lambda: not widget.panel.review.isMeasuring, widget)
    fold(widget, "run", "refine", "handoff")
    camera.shoot(widget, "done")
    ui.findingsTable.setCurrentCell(0, 1)
    fold(widget, "review")
    camera.shoot(widget, "review")


def the_synthesis(widget: Any, camera: Camera, folder: Path) -> None:
    """Take the section and the views after a nodule was painted into the healthy part of the lung."""
    state, ui = widget.panel.parameterNode, widget.ui
    scan = state.inputVolume
    labels, _count = ndimage.label(ndimage.binary_opening(slicer.util.arrayFromVolume(scan) < AIR_HU, iterations=2))
    largest = int(np.bincount(labels.ravel())[1:].argmax()) + 1
    lungs = newSegmentation(scan, "Organs")
    segment_id = lungs.GetSegmentation().AddEmptySegment("lung", "Left lung")
    set_segment_mask((labels == largest).astype(np.uint8), scan, lungs, segment_id)
    for node in (lungs, state.segmentation, state.candidate):
        if node is not None:
            node.GetDisplayNode().SetVisibility(False)
    state.organSegmentation, state.synthesisRadiusMm, state.synthesisSeed = lungs, TUMOR_RADIUS_MM, 3
    crosshair = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLCrosshairNode")
    crosshair.SetCrosshairMode(crosshair.ShowBasic)
    crosshair.SetCrosshairRAS(*TUMOR_PLACE_RAS_MM)
    ui.placeHereButton.click()
    state.synthesisPlace.GetDisplayNode().SetVisibility(False)
    ui.synthesizeButton.click()
    wait(lambda: not widget.logic.isRunning, widget)
    if widget.logic.run.state != "done":
        raise SystemExit(ui.synthesisMessageLabel.text)
    fold(widget, "synthesis")
    camera.shoot(widget, "synthesis")
    take_synthesis(widget, folder)


def an_error(widget: Any, camera: Camera) -> None:
    """Take the panel after a run that could not be: a graphics card that is not there."""
    widget.panel.parameterNode.device = "cuda:9"
    fold(widget, "inputs", "run")
    widget.ui.runButton.click()
    wait(lambda: not widget.logic.isRunning, widget)
    camera.shoot(widget, "error")


def shrink_overview(folder: Path) -> None:
    """Make the README's first picture of the overview that `make demo` has left; in full color, it is looked at closely."""
    overview = Image.open(HERE.parents[1] / "demo" / "overview.png").convert("RGB")
    height = round(overview.height * OVERVIEW_WIDTH / overview.width)
    overview.resize((OVERVIEW_WIDTH, height), Image.Resampling.LANCZOS).save(
        folder / "demo_overview.png", optimize=True
    )


def main(folder: Path) -> None:
    """Take every picture."""
    folder.mkdir(parents=True, exist_ok=True)
    shrink_overview(folder)
    camera = Camera(folder)
    load_scan()
    widget = gui.loadModule("DiffuGTS")
    widget.enter()
    take_thumbnail(HERE.parents[1] / "Resources" / "Icons" / "DiffuGTSChestCT.png")
    before_the_run(widget, camera)
    the_run(widget, camera)
    take_all(widget, folder)
    the_synthesis(widget, camera, folder)
    an_error(widget, camera)
    gui.unloadModule(widget)
    gui.spin(lambda: not widget.logic.client.isWarm)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE.parents[1] / "Resources" / "Screenshots")
    sys.stdout.flush()
    os._exit(0)  # the bindings may abort while Python is torn down around them
