"""Hand-off: what Slicer's core can do happens; a button whose module is absent says so."""

from __future__ import annotations

import os
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import qt
import slicer
import vtk
from DiffuGTSSlicer.grids import segmentMask
from panel_parts import GRID, Opened
from scene_parts import blob, noise, scan_node, set_segment_mask

pytest_plugins = ["panel_fixtures"]

needs_slicer_source = pytest.mark.skipif(
    "SLICER_SOURCE_DIR" not in os.environ, reason="Segment Statistics is not in slicer-core: set SLICER_SOURCE_DIR"
)


def under_a_study(*nodes: Any) -> None:
    """Put nodes under a patient and a study."""
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    patient = hierarchy.CreateSubjectItem(hierarchy.GetSceneItemID(), "Patient")
    study = hierarchy.CreateStudyItem(patient, "Study")
    for node in nodes:
        hierarchy.SetItemParent(hierarchy.GetItemByDataNode(node), study)


def test_without_slicers_modules_every_button_says_which_is_absent(a_panel: Opened) -> None:
    a_panel.segment()
    ui = a_panel.ui
    for button, module in (
        (ui.editSegmentationButton, "SegmentEditor"),
        (ui.statisticsButton, "SegmentStatistics"),
        (ui.exportDicomButton, "DICOM"),
    ):
        assert not button.enabled and f"{module} is not loaded" in button.toolTip
    assert ui.show3DButton.enabled and ui.findingsToTableButton.enabled


def test_the_result_opens_in_the_segment_editor(
    a_panel: Opened, a_coarse_scan: Any, the_modules_of_the_application: list[str]
) -> None:
    a_panel.segment()
    a_panel.ui.editSegmentationButton.click()
    editor = slicer.mrmlScene.GetSingletonNode("SegmentEditor", "vtkMRMLSegmentEditorNode")
    assert the_modules_of_the_application == ["SegmentEditor"]
    assert editor.GetSegmentationNode() is a_panel.state.segmentation and editor.GetSourceVolumeNode() is a_coarse_scan
    assert editor.GetSelectedSegmentID() == a_panel.state.tumorSegmentId
    a_panel.ui.editSegmentationButton.click()
    assert len(slicer.util.getNodesByClass("vtkMRMLSegmentEditorNode")) == 1


def test_what_was_set_aside_is_not_erased_by_a_stroke_in_the_segment_editor(
    a_panel: Opened, a_coarse_scan: Any, the_modules_of_the_application: list[str]
) -> None:
    a_panel.segment()
    state, editButton = a_panel.state, a_panel.ui.editSegmentationButton
    editButton.click()
    editor = slicer.mrmlScene.GetSingletonNode("SegmentEditor", "vtkMRMLSegmentEditorNode")
    assert editor.GetOverwriteMode() == editor.OverwriteAllSegments, "all is seen: Slicer's own default"
    set_segment_mask(blob(GRID, (18, 17, 10), 5).T, a_coarse_scan, state.segmentation, state.tumorSegmentId)
    a_panel.segment()
    assert state.segmentation.GetSegmentation().GetNumberOfSegments() == 2
    editButton.click()
    assert editor.GetOverwriteMode() == editor.OverwriteVisibleSegments
    editor.SetOverwriteMode(editor.OverwriteNone)
    editButton.click()
    assert editor.GetOverwriteMode() == editor.OverwriteNone, "the user's choice"


def newOrgan(scan: Any, name: str) -> Any:
    """Add a segmentation of two organs that are not shown in 3D."""
    organs = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", name)
    organs.CreateDefaultDisplayNodes()
    for number, organ in enumerate(("lung", "heart")):
        organs.GetSegmentation().AddEmptySegment(organ, organ)
        set_segment_mask(blob(GRID, (18, 17, 10 + number), 9).T, scan, organs, organ)
    organs.GetDisplayNode().SetVisibility3D(False)
    return organs


def paleOrgans() -> list[Any]:
    """Return the nodes that stand for organs in 3D."""
    return [node for node in slicer.util.getNodesByClass("vtkMRMLSegmentationNode") if node.GetHideFromEditors()]


def test_the_tumor_stands_in_3d_with_the_organ_pale_around_it(a_panel: Opened, a_coarse_scan: Any) -> None:
    organs = newOrgan(a_coarse_scan, "Organs")
    a_panel.segment()
    a_panel.state.organSegmentation = organs
    a_panel.ui.show3DButton.checked = True
    assert a_panel.state.segmentation.GetSegmentation().ContainsRepresentation("Closed surface")
    [pale] = paleOrgans()
    assert list(pale.GetSegmentation().GetSegmentIDs()) == ["lung"], "the organ that was chosen, alone"
    assert pale.GetSegmentation().ContainsRepresentation("Closed surface")
    assert pale.GetDisplayNode().GetSegmentOpacity3D("lung") == pytest.approx(0.2)
    assert not organs.GetSegmentation().ContainsRepresentation("Closed surface")
    a_panel.ui.show3DButton.checked = False
    assert paleOrgans() == [] and not a_panel.state.segmentation.GetDisplayNode().GetVisibility3D()
    assert not organs.GetSegmentation().ContainsRepresentation("Closed surface"), "as the user had it"
    assert not organs.GetDisplayNode().GetVisibility3D()
    assert organs.GetDisplayNode().GetSegmentOpacity3D("lung") == pytest.approx(1)


def test_the_organ_that_was_made_pale_goes_whichever_is_chosen_by_then(a_panel: Opened, a_coarse_scan: Any) -> None:
    first, second = newOrgan(a_coarse_scan, "First"), newOrgan(a_coarse_scan, "Second")
    a_panel.segment()
    a_panel.state.organSegmentation = first
    a_panel.ui.show3DButton.checked = True
    a_panel.state.organSegmentation = second
    a_panel.ui.show3DButton.checked = False
    assert paleOrgans() == []
    for organs in (first, second):
        assert not organs.GetDisplayNode().GetVisibility3D()
        assert not organs.GetSegmentation().ContainsRepresentation("Closed surface")


def test_the_3d_button_says_what_the_scene_shows(a_panel: Opened, a_coarse_scan: Any) -> None:
    organ = newOrgan(a_coarse_scan, "Organ")
    a_panel.segment()
    first, button = a_panel.state.segmentation, a_panel.ui.show3DButton
    a_panel.state.organSegmentation = organ
    assert not button.checked, "there is no surface yet"
    button.checked = True
    assert len(paleOrgans()) == 1 and not organ.GetDisplayNode().GetVisibility3D()
    a_panel.ui.inputSelector.setCurrentNode(scan_node(GRID, noise(GRID, 1), "Second"))
    a_panel.segment()
    a_panel.panel.refresh()
    assert not button.checked, "the second case has no surface"
    a_panel.ui.segmentationSelector.setCurrentNode(first)
    assert button.checked and paleOrgans() == [], "the organ goes with the case"
    first.GetDisplayNode().SetVisibility3D(False)
    a_panel.panel.refresh()
    assert not button.checked
    first.GetDisplayNode().SetVisibility3D(True)
    a_panel.panel.refresh()
    slicer.mrmlScene.Clear(0)
    assert not button.checked


def test_an_empty_result_has_no_surface_and_says_so(a_panel: Opened, a_coarse_scan: Any) -> None:
    a_panel.segment()
    set_segment_mask(
        np.zeros(GRID.shape[::-1], np.uint8), a_coarse_scan, a_panel.state.segmentation, a_panel.state.tumorSegmentId
    )
    a_panel.ui.show3DButton.checked = True
    told = a_panel.ui.handoffMessageLabel.text
    assert "no surface" in told and "keep a finding under Review" in told and not a_panel.ui.show3DButton.checked


def test_findings_become_a_table_of_the_scene_once(a_panel: Opened) -> None:
    a_panel.segment()
    a_panel.ui.findingsToTableButton.click()
    a_panel.ui.findingsToTableButton.click()
    [table] = slicer.util.getNodesByClass("vtkMRMLTableNode")
    assert table.GetName() == "Scan tumor findings" and table.GetNumberOfRows() == 2
    assert slicer.app.applicationLogic().GetSelectionNode().GetActiveTableID() == table.GetID()


class Statistics:
    """Stands in for Slicer's Segment Statistics, which slicer-core has not: a table of how often it was asked."""

    count = 0

    def getParameterNode(self) -> Any:
        """Return a node for the parameters."""
        return slicer.vtkMRMLScriptedModuleNode()

    def computeStatistics(self) -> None:
        """Count."""
        Statistics.count += 1

    def exportToTable(self, table: Any) -> None:
        """Write the count, and nothing else, into a table."""
        column = vtk.vtkIntArray()
        column.InsertNextValue(self.count)
        table.RemoveAllColumns()
        table.AddColumn(column)

    def showTable(self, table: Any) -> None:
        """Show nothing."""


def test_the_statistics_of_a_second_result_are_not_written_over_the_firsts(
    a_panel: Opened, the_modules_of_the_application: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "SegmentStatistics", SimpleNamespace(SegmentStatisticsLogic=Statistics))
    for _result in range(2):
        a_panel.ui.segmentationSelector.setCurrentNode(None)
        a_panel.segment()
        a_panel.state.segmentation.SetName("Tumor")  # as users name it
        for _again in range(2):
            a_panel.ui.statisticsButton.click()
    tables = slicer.util.getNodesByClass("vtkMRMLTableNode")
    assert [table.GetName() for table in tables] == ["Tumor statistics", "Tumor statistics_1"]
    assert [int(table.GetCellText(0, 0)) for table in tables] == [2, 4]


def test_the_export_tells_everything_that_is_missing_before_it_opens(
    a_panel: Opened, a_coarse_scan: Any, the_modules_of_the_application: list[str]
) -> None:
    a_panel.segment()
    a_panel.ui.exportDicomButton.click()
    words = a_panel.ui.handoffMessageLabel.text
    assert "no patient and study" in words and "not loaded from DICOM" in words and "Still a draft" in words
    assert a_panel.ui.messageLabel.text.startswith("2 findings"), "said where the click was, not elsewhere"


def test_without_the_plugin_for_segmentations_the_export_says_so(
    a_panel: Opened, the_modules_of_the_application: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    a_panel.segment()
    assert a_panel.ui.exportDicomButton.enabled
    monkeypatch.setattr(slicer.modules, "dicomPlugins", {"DICOMScalarVolumePlugin": object()})
    a_panel.panel.refresh()
    button = a_panel.ui.exportDicomButton
    assert not button.enabled and "DICOMSegmentationPlugin" in button.toolTip


def test_the_export_opens_at_the_result_alone_when_nothing_is_missing(
    a_panel: Opened, a_coarse_scan: Any, opened_exports: list[int], the_modules_of_the_application: list[str]
) -> None:
    a_panel.segment()
    under_a_study(a_coarse_scan, a_panel.state.segmentation)
    a_coarse_scan.SetAttribute("DICOM.instanceUIDs", "1.2.3")
    a_panel.ui.exportDicomButton.click()
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    assert [hierarchy.GetItemDataNode(item) for item in opened_exports] == [a_panel.state.segmentation]
    assert "Still a draft" in a_panel.ui.handoffMessageLabel.text, "advice is told, and stops nothing"
    assert algorithmType(a_panel) == "AUTOMATIC"


def test_a_segment_of_the_users_own_becomes_exportable_and_what_a_person_changed_says_so(
    a_panel: Opened, a_coarse_scan: Any, opened_exports: list[int], the_modules_of_the_application: list[str]
) -> None:
    own = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Mine")
    own.CreateDefaultDisplayNodes()
    a_panel.ui.segmentationSelector.setCurrentNode(own)
    a_panel.segment()
    assert a_panel.state.segmentation is own
    under_a_study(a_coarse_scan, own)
    a_coarse_scan.SetAttribute("DICOM.instanceUIDs", "1.2.3")
    a_panel.ui.findingsTable.item(1, 0).setCheckState(qt.Qt.Unchecked)
    a_panel.ui.exportDicomButton.click()
    assert len(opened_exports) == 1, a_panel.ui.handoffMessageLabel.text
    assert algorithmType(a_panel) == "SEMIAUTOMATIC"


def algorithmType(panel: Opened) -> str:
    """Return what DICOM will say of how the tumor was outlined."""
    told = vtk.reference("")
    segment = panel.state.segmentation.GetSegmentation().GetSegment(panel.state.tumorSegmentId)
    return str(told) if segment.GetTag("DICOM.SegmentAlgorithmType", told) else ""


@pytest.fixture
def opened_exports(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The items at which Slicer's export dialog was opened."""
    opened: list[int] = []

    class Dialog:
        def __init__(self, parent: Any) -> None:
            pass

        def setMRMLScene(self, scene: Any) -> None:
            assert scene is slicer.mrmlScene

        def execDialog(self, item: int) -> None:
            opened.append(item)

    monkeypatch.setattr(slicer, "qSlicerDICOMExportDialog", Dialog, raising=False)
    return opened


@needs_slicer_source
def test_segment_statistics_agree_with_the_mask(
    a_panel: Opened, a_coarse_scan: Any, the_modules_of_the_application: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(f"{os.environ['SLICER_SOURCE_DIR']}/Modules/Scripted/SegmentStatistics")
    a_panel.segment()
    a_panel.ui.statisticsButton.click()
    [table] = slicer.util.getNodesByClass("vtkMRMLTableNode")
    names = [table.GetColumnName(index) for index in range(table.GetNumberOfColumns())]
    voxels = float(table.GetCellText(0, names.index("Number of voxels [voxels]")))
    assert voxels == segmentMask(a_panel.state.segmentation, a_panel.state.tumorSegmentId, a_coarse_scan).sum()
