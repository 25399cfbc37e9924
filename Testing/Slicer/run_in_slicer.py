"""Runs inside the real application; `DiffuGTSTest` and a walk through the panel. Not run where this repository is tested.

Slicer --testing --no-main-window --python-script Testing/Slicer/run_in_slicer.py

With the packages installed in Slicer's Python the demo scan is segmented too; otherwise that part says that it was skipped.
The exit code is 0 when everything held.
"""

from __future__ import annotations

import sys
import traceback
import unittest
from pathlib import Path

import slicer

ROOT = Path(__file__).resolve().parents[2]


class PanelInSlicer(unittest.TestCase):
    """The panel over the real widgets, bindings and scene."""

    def test_the_panel_opens_closes_and_survives_a_closed_scene(self) -> None:
        """Nothing is installed, fetched or started by looking at it."""
        module = getattr(slicer.modules, "diffugts", None)
        if module is None:
            self.skipTest("the module is not on --additional-module-paths")
        widget = module.widgetRepresentation().self()
        widget.enter()
        _require(widget.panel.parameterNode.preset == "mini", "a new scene has no preset")
        _require(not widget.ui.runButton.enabled, "there is no scan to segment")
        slicer.util.loadVolume(str(ROOT / "Resources" / "SampleData" / "chest_ct.nii.gz"))
        widget.panel.initializeParameterNode()
        _require(widget.ui.inputSelector.currentNode() is not None, "the scan was not taken")
        _require(widget.ui.batchTable.rowCount == 1, "the scan is not offered to the batch")
        widget.ui.fitRoiButton.click()
        _require(widget.panel.parameterNode.roi is not None, "no region of interest was made")
        widget.panel.setup.onModels()
        _require(widget.panel.setup.window.table.rowCount > 0, "no model is listed")
        widget.panel.setup.window.dialog.accept()
        slicer.mrmlScene.Clear(0)
        _require(not widget.logic.client.isWarm, "a worker was started")
        widget.exit()


def _require(isTrue: bool, words: str) -> None:
    if not isTrue:
        raise AssertionError(words)


def run() -> int:
    """Run everything and return the exit code."""
    sys.path[:0] = [str(ROOT), str(ROOT / "DiffuGTS")]
    suite = unittest.defaultTestLoader.loadTestsFromTestCase(PanelInSlicer)
    passed = unittest.TextTestRunner(verbosity=2).run(suite).wasSuccessful()
    import DiffuGTS

    DiffuGTS.DiffuGTSTest().runTest()
    return 0 if passed else 1


if __name__ == "__main__":
    code = 1
    try:
        code = run()
    except Exception:  # noqa: BLE001 whatever it is, Slicer must end with an exit code
        traceback.print_exc()
    slicer.util.exit(code)
