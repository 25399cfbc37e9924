"""Renders the panel in each of its states into Resources/Screenshots, over the demo scan and the real worker.

python Testing/Slicer/screenshots.py [folder]
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parents[1])]

import conftest  # noqa: E402, F401 it boots the scene and Qt
import gui  # noqa: E402
import qt  # noqa: E402
import slicer  # noqa: E402
import slicer_headless  # noqa: E402

WIDTH = 440
LARGEST_KB = 150
RUN_TIMEOUT_S = 3600.0


SECTIONS = ("setup", "inputs", "prompts", "run", "review", "refine", "handoff", "advanced")


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
        path = self._folder / f"panel_{name}.png"
        if not widget.parent.grab().save(str(path)):
            raise SystemExit(f"{path} cannot be written")
        if path.stat().st_size > LARGEST_KB * 1024:
            raise SystemExit(f"{path} is larger than {LARGEST_KB} kB")
        print(path.name, f"{path.stat().st_size / 1024:.0f} kB")


def fold(ui: Any, *shown: str) -> None:
    """Open these sections and fold the others, so that a picture shows what it is about."""
    for name in SECTIONS:
        getattr(ui, f"{name}CollapsibleButton").collapsed = name not in shown


def wait(until: Callable[[], object], widget: Any) -> None:
    """Let Qt work until something is true."""
    if not gui.spin(until, RUN_TIMEOUT_S):
        raise SystemExit(f"gave up: {widget.ui.logText.plainText}")


def main(folder: Path) -> None:
    """Take every picture."""
    camera = Camera(folder)
    slicer_headless.reset()
    scan = HERE.parents[1] / "Resources" / "SampleData" / "chest_ct.nii.gz"
    slicer.util.loadVolume(str(scan), {"name": "Chest CT"})
    widget = gui.loadModule("DiffuGTS")
    widget.enter()
    ui, panel, logic = widget.ui, widget.panel, widget.logic

    requirements = panel.requirements.lines()
    installed, panel.requirements.missing = panel.requirements.missing, lambda: requirements
    panel.setup.look()
    panel.refresh()
    fold(ui, "setup", "inputs", "prompts", "run")
    camera.shoot(widget, "setup_needed")
    panel.requirements.missing = installed
    panel.setup.look()
    panel.refresh()
    fold(ui, "inputs", "prompts", "run", "advanced")
    camera.shoot(widget, "ready")

    fold(ui, "inputs", "prompts", "run", "review")
    ui.runButton.click()
    wait(lambda: not logic.isRunning or (logic.progress.stage == "repaint" and logic.progress.stageShare > 0.2), widget)
    camera.shoot(widget, "running")
    wait(lambda: not logic.isRunning, widget)
    if logic.run.state != "done":
        raise SystemExit(ui.messageLabel.text)
    fold(ui, "run", "review", "refine", "handoff")
    camera.shoot(widget, "done")

    panel.parameterNode.device = "cuda:9"
    fold(ui, "inputs", "prompts", "run")
    ui.runButton.click()
    wait(lambda: not logic.isRunning, widget)
    camera.shoot(widget, "error")
    gui.unloadModule(widget)
    gui.spin(lambda: not logic.client.isWarm, 10)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE.parents[1] / "Resources" / "Screenshots")
    sys.stdout.flush()
    qt.QApplication.instance().quit()
