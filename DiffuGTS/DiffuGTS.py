"""DiffuGTS in 3D Slicer: the classes that Slicer looks for. Everything else lives in DiffuGTSSlicer and DiffuGTSLib."""

import sys
from pathlib import Path
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)

# Library and Resources are one level up in the source tree, and beside this file in an installed extension.
_HERE = Path(__file__).resolve().parent
for _folder in (_HERE, _HERE.parent):
    if str(_folder) not in sys.path and ((_folder / "DiffuGTSLib").is_dir() or _folder == _HERE):
        sys.path.append(str(_folder))

from DiffuGTSSlicer.logic import DiffuGTSLogic  # noqa: E402
from DiffuGTSSlicer.parameters import DiffuGTSParameterNode, RunParameters  # noqa: E402

from DiffuGTSLib.resources import resource_path  # noqa: E402

__all__ = ["DiffuGTS", "DiffuGTSLogic", "DiffuGTSParameterNode", "DiffuGTSTest", "DiffuGTSWidget"]

SAMPLE_NAME = "DiffuGTSChestCT"
SAMPLE_SHA256 = "9dea0ea6a3166859491d055d9d6fe829b931f1f7018da584b3ba795c161cadba"
HOMEPAGE = "https://github.com/DiffuGTS/SlicerDiffuGTS"


class DiffuGTS(ScriptedLoadableModule):
    """Module metadata: title, category, contributors, help and acknowledgments."""

    def __init__(self, parent: Any) -> None:
        ScriptedLoadableModule.__init__(self, parent)
        parent.title = "DiffuGTS"
        parent.categories = [translate("qSlicerAbstractCoreModule", "Segmentation")]
        parent.dependencies = []
        parent.icon = qt.QIcon(str(resource_path("Icons", "DiffuGTS.png")))
        parent.contributors = ["The DiffuGTS contributors"]
        parent.helpText = _(
            "Finds tumors in CT and MR from two sentences, one of the healthy organ and one with a tumor. "
            'Research use only, not for diagnosis. <a href="{homepage}#readme">Tutorial</a>.'
        ).format(homepage=HOMEPAGE)
        parent.acknowledgementText = _(
            "An independent implementation of the approach of Jiang et al., Advancing Generalizable Tumor Segmentation "
            "with Anomaly-Aware Open-Vocabulary Attention Maps and Frozen Foundation Diffusion Models, CVPR 2025. "
            "Sample data: LIDC-IDRI, The Cancer Imaging Archive, CC BY 3.0. The authors of the methods behind the synthetic "
            "tumors (SyntheticTumors, DiffTumor) state that patents are pending."
        )
        slicer.app.connect("startupCompleted()", registerSampleData)


def registerSampleData() -> None:
    """Register the bundled chest CT in the Sample Data module; nothing is downloaded."""
    try:
        import SampleData
    except ImportError:  # in tests without the application
        return
    SampleData.SampleDataLogic.registerCustomSampleDataSource(
        category="DiffuGTS",
        sampleName=SAMPLE_NAME,
        thumbnailFileName=str(resource_path("Icons", "DiffuGTSChestCT.png")),
        uris=resource_path("SampleData", "chest_ct.nii.gz").as_uri(),
        fileNames="DiffuGTSChestCT.nii.gz",
        checksums=f"SHA256:{SAMPLE_SHA256}",
        nodeNames="DiffuGTSChestCT",
    )


class DiffuGTSWidget(ScriptedLoadableModuleWidget):
    """The module widget; its content is in `DiffuGTSSlicer.panel`."""

    def __init__(self, parent: Any = None) -> None:
        ScriptedLoadableModuleWidget.__init__(self, parent)
        self.logic = None
        self.panel = None
        self.uiWidget = None

    def setup(self) -> None:
        """Load the `.ui` and connect the panel to it."""
        from DiffuGTSSlicer.panel import Panel

        ScriptedLoadableModuleWidget.setup(self)
        self.uiWidget = slicer.util.loadUI(str(resource_path("UI", "DiffuGTS.ui")))
        self.layout.addWidget(self.uiWidget)
        self.uiWidget.setMRMLScene(slicer.mrmlScene)
        self.logic = DiffuGTSLogic()
        self.panel = Panel(self.uiWidget, self.logic)
        self.ui = self.panel.ui
        self.panel.initializeParameterNode()
        if getattr(self.parent, "isEntered", False):  # after Reload, which does not enter the open module again
            self.enter()

    def enter(self) -> None:
        """Called each time the user opens the module."""
        self.panel.enter()

    def exit(self) -> None:
        """Called each time the user opens another module; a run continues."""
        self.panel.exit()

    def cleanup(self) -> None:
        """Called when the application closes or the module is reloaded."""
        if self.panel is not None:
            self.panel.cleanup()
            self.panel = None
            self.uiWidget.setMRMLScene(None)

    def onReload(self) -> None:
        """Reload our packages, too; Slicer reloads only this file."""
        for name in [name for name in sys.modules if name.split(".")[0] in ("DiffuGTSSlicer", "DiffuGTSLib")]:
            del sys.modules[name]
        ScriptedLoadableModuleWidget.onReload(self)


class DiffuGTSTest(ScriptedLoadableModuleTest):
    """Tests for Reload and Test: segments the demo scan with the real worker, if the packages are installed."""

    def setUp(self) -> None:
        """Start with an empty scene."""
        slicer.mrmlScene.Clear()

    def runTest(self) -> None:
        """Run every test."""
        self.setUp()
        self.test_whatCanBeRefusedIsRefusedBeforeTheWorkerStarts()
        self.setUp()
        self.test_theDemoScanIsSegmented()

    def demoScan(self) -> Any:
        """Load the bundled scan."""
        return slicer.util.loadVolume(str(resource_path("SampleData", "chest_ct.nii.gz")))

    def test_whatCanBeRefusedIsRefusedBeforeTheWorkerStarts(self) -> None:
        """A prompt without words never reaches the worker."""
        logic = DiffuGTSLogic()
        try:
            logic.process(self.demoScan(), RunParameters(normal="lung", abnormal="lung without tumor"))
        except ValueError:
            _require(not logic.client.isWarm, "the worker was started")
        else:
            raise AssertionError("a negated prompt was taken")
        finally:
            logic.cleanup()

    def test_theDemoScanIsSegmented(self) -> None:
        """Every artifact becomes a node on the scan's own grid."""
        from DiffuGTSSlicer.requirements import Requirements

        missing = Requirements().missing()
        if missing:
            self.delayDisplay(f"Skipped: not installed: {', '.join(missing)}")
            return
        logic = DiffuGTSLogic()
        try:
            scan = self.demoScan()
            run = logic.process(scan, RunParameters(organ="lung", steps=2))
            _require(run.failure is None, str(run.failure))
            sizes = [node.GetImageData().GetDimensions() for node in (run.nodes["aova"], scan)]
            _require(sizes[0] == sizes[1], f"AOVA has the size {sizes[0]}, the scan {sizes[1]}")
            _require("segmentation" in run.nodes, "no segmentation came")
        finally:
            logic.cleanup()
        self.delayDisplay("Test passed")


def _require(isTrue: bool, words: str) -> None:
    if not isTrue:
        raise AssertionError(words)
