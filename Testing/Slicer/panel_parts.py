"""An opened panel over a scripted worker, and the steps of that worker; the fixtures are in panel_fixtures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gui
import numpy as np

from DiffuGTSLib.volumes import Geometry

SCRIPT = Path(__file__).parent / "scripted_worker.py"
GRID = Geometry((36, 34, 20), np.diag([4.0, 4.0, 4.0, 1.0]))
WHOLE_RUN = [
    ["stage", "load", 1], ["stage", "aova", 0.5], ["artifact", "aova"], ["artifact", "coarse_mask"],
    ["stage", "repaint", 0.5], ["artifact", "pseudo_healthy"], ["artifact", "residual"], ["artifact", "segmentation"],
    ["artifact", "record"], ["done"],
]  # fmt: skip
PAINTING = [
    ["stage", "load", 1], ["stage", "synthesize", 0.5], ["artifact", "painted"], ["artifact", "painted_tumor"],
    ["artifact", "record"], ["painted"],
]  # fmt: skip


class Opened:
    """A loaded panel, and the steps that its worker will take."""

    def __init__(self, folder: Path) -> None:
        self.widget = gui.loadModule("DiffuGTS")
        self.widget.enter()
        self.panel, self.ui, self.logic = self.widget.panel, self.widget.ui, self.widget.logic
        self.steps = folder / "steps.json"
        self.script(*WHOLE_RUN)
        self.logic.client.arguments = [str(SCRIPT), "", str(self.steps)]

    @property
    def state(self) -> Any:
        """The parameter node."""
        return self.panel.parameterNode

    def script(self, *steps: list[Any]) -> None:
        """Say what the worker does from the next run on."""
        self.steps.write_text(json.dumps(steps))

    def finish(self, timeout_s: float = gui.PATIENCE_S) -> None:
        """Let the run come to its end, and the findings be measured."""
        assert gui.spin(lambda: not self.logic.isRunning, timeout_s), self.ui.logText.plainText
        self.settle()

    def settle(self) -> None:
        """Let the findings be measured."""
        assert gui.spin(lambda: not self.panel.review.isMeasuring)

    def segment(self) -> None:
        """Press the button and wait."""
        self.ui.runButton.click()
        self.finish()
