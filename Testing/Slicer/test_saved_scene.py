"""A result outlives the session: saved with the scene, read again, reviewed without torch. Its provenance too."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import slicer
import vtk_messages
from DiffuGTSSlicer import display, provenance, scene
from DiffuGTSSlicer.boxed_mask import BoxedMask
from DiffuGTSSlicer.findings import Findings
from DiffuGTSSlicer.grids import segmentMask
from DiffuGTSSlicer.ownership import isEdited
from results_on_demo import results_on
from scene_parts import LEFT_HANDED, blob, matrix_of, noise, record_of, scan_node, set_segment_mask

HERE = Path(__file__).parent
ROOT = HERE.parents[1]

REOPEN = """
import sys
import json
import slicer_headless
slicer = slicer_headless.boot()
from DiffuGTSSlicer import display, provenance, slice_views
from DiffuGTSSlicer.findings import Findings
slicer.util.loadScene(sys.argv[1])
node = slicer.util.getNode
scan, aova = node("Chest CT"), node("Chest CT aova")
segmentation = node("Chest CT tumor")
table = Findings(segmentation, "Lung nodule", scan, aova)
table.jump(1)
slice_views.setOverlay(scan, aova)
record = json.loads(segmentation.GetNodeReference(provenance.ROLE).GetText())
print(display.voxelsFrom(aova, 0.5), [row.kept for row in table.rows], record["seed"])
print(sorted({"torch", "monai", "diffusers", "transformers", "jaxtyping"} & set(sys.modules)))
"""


def test_a_saved_result_comes_back_whole_and_is_reviewed_without_torch(a_demo_scan, tmp_path, monkeypatch) -> None:
    results = results_on(a_demo_scan, tmp_path)
    # Our own colors must come back as well.
    monkeypatch.setattr(display, "INFERNO", "vtkMRMLColorTableNodeThatIsMissing")
    display.showResidual(results.residual)
    mask = results.mask.copy()
    mask[10:16, 120:126, 5:9] = 1  # a second lesion, which stays
    set_segment_mask(mask.T, results.scan, results.segmentation, results.segment_id)
    table = Findings(results.segmentation, results.segment_id, results.scan, results.aova)
    tree = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    study = tree.CreateStudyItem(tree.CreateSubjectItem(tree.GetSceneItemID(), "Patient"), "Study")
    for node in (results.scan, results.segmentation):
        tree.SetItemParent(tree.GetItemByDataNode(node), study)
    table.keep(1, False)
    remaining = segmentMask(results.segmentation, results.segment_id, results.scan).copy()
    rows, matrix = table.rows, matrix_of(results.scan)
    entry = results.segmentation.GetSegmentation().GetSegment(results.segment_id).GetTerminology()
    bundle = tmp_path / "case.mrb"
    assert slicer.util.saveScene(str(bundle))
    slicer.mrmlScene.Clear(False)
    slicer.util.loadScene(str(bundle))

    scan, aova, healthy = (
        slicer.util.getNode(f"Chest CT{part}") for part in ("", " aova", " pseudo_healthy (synthetic)")
    )
    residual, segmentation = slicer.util.getNode("Chest CT residual"), slicer.util.getNode("Chest CT tumor")
    for node, kind in ((aova, "aova"), (healthy, "pseudo_healthy"), (residual, "residual")):
        assert np.array_equal(slicer.util.arrayFromVolume(node), results.maps[kind].T)
        assert np.allclose(matrix_of(node), matrix, rtol=0, atol=1e-9)
        assert node.GetNodeReference(scene.SCAN_ROLE) is scan
    assert (aova.GetDisplayNode().GetLowerThreshold(), aova.GetDisplayNode().GetApplyThreshold()) == (0.5, 1)
    assert aova.GetDisplayNode().GetColorNodeID() == "vtkMRMLColorTableNodeFileInferno.txt"
    assert residual.GetDisplayNode().GetColorNode().GetName() == display.OWN_COLORS
    assert residual.GetDisplayNode().GetColorNode().GetColorTransferFunction().GetSize() == 5
    assert display.isSynthetic(healthy) and healthy.GetDisplayNode().GetWindow() == 1500
    segment = segmentation.GetSegmentation().GetSegment(results.segment_id)
    assert (segment.GetName(), segment.GetTerminology()) == ("Lung nodule", entry)
    assert segment.GetColor() == pytest.approx(scene.TUMOR_COLOR, abs=1e-3)
    logic = slicer.vtkSlicerSegmentationsModuleLogic
    assert logic.GetSegmentStatus(segment) == logic.InProgress
    assert segmentation.GetNodeReference(segmentation.GetReferenceImageGeometryReferenceRole()) is scan
    assert np.array_equal(segmentMask(segmentation, results.segment_id, scan), remaining)
    tree = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    assert tree.GetItemName(tree.GetItemParent(tree.GetItemByDataNode(segmentation))) == "Study"
    record = record_of(segmentation)
    assert record["seed"] == 7 and segmentation.GetAttribute("DiffuGTS.NormalPrompt") == "lung"
    again = Findings(segmentation, results.segment_id, scan, aova)
    assert [row.kept for row in again.rows] == [row.kept for row in rows]
    again.keep(1, True)
    assert np.array_equal(segmentMask(segmentation, results.segment_id, scan), mask.T)

    places = [HERE / "harness" / "shim", HERE / "harness", ROOT / "DiffuGTS", ROOT]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, places))}
    said = subprocess.run(
        [sys.executable, "-c", REOPEN, str(bundle)], env=environment, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    above = int((results.maps["aova"] >= np.float32(0.5)).sum())
    vtk_messages.forget()  # of items of the subject hierarchy whose nodes went with the scene: a plugin's work in Slicer
    assert said[-2:] == [f"{above} {[row.kept for row in rows]} 7", "[]"]


def test_a_dropped_finding_of_a_left_handed_scan_comes_back_in_its_place_after_saving(a_scene, tmp_path) -> None:
    scan = scan_node(LEFT_HANDED, noise(LEFT_HANDED))
    large, small = blob(LEFT_HANDED, (6, 6, 4), 3), blob(LEFT_HANDED, (14, 18, 12), 2)
    segmentation = scene.newSegmentation(scan, "Tumor")
    segment = scene.showMask(BoxedMask.of((large | small).T), scan, segmentation, "Tumor")
    table = Findings(segmentation, segment, scan)
    before = table.rows
    table.keep(2, False)
    assert slicer.util.saveScene(str(tmp_path / "case.mrb"))
    slicer.mrmlScene.Clear(False)
    slicer.util.loadScene(str(tmp_path / "case.mrb"))
    scan, segmentation = slicer.util.getNode("Scan"), slicer.util.getNode("Tumor")
    assert np.linalg.det(matrix_of(scan)[:3, :3]) > 0, "Slicer has turned an axis around"
    table = Findings(segmentation, segment, scan)
    assert [row.kept for row in table.rows] == [True, False]
    table.keep(2, True)
    for row, expected in zip(table.rows, before, strict=True):
        assert row.centroidRas == pytest.approx(expected.centroidRas, abs=1e-3)
    assert not isEdited(segmentation, segment, scan)


@pytest.fixture
def a_segmentation(a_scene) -> Any:
    """A segmentation without anything."""
    return a_scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Tumor")


RECORD = {
    "outcome": "2 findings",
    "anomaly_score": 0.93,
    "seed": 7,
    "prompts": {"organ": "lung", "normal": "Gesunde Lunge", "abnormal": "Lunge mit Rundherd: groß; > 3 cm"},
    "versions": {"diffugts": "0.1.0"},
    "weights": {"unet": "abc"},
}


def test_a_record_is_kept_whole_as_text_and_in_short_as_attributes(a_segmentation) -> None:
    node = provenance.writeProvenance(a_segmentation, RECORD)
    assert record_of(a_segmentation) == RECORD
    assert a_segmentation.GetNodeReference(provenance.ROLE) is node and node.GetName() == "Tumor provenance"
    for each in (node, a_segmentation):
        assert each.GetAttribute("DiffuGTS.Seed") == "7"
        assert each.GetAttribute("DiffuGTS.AbnormalPrompt") == "Lunge mit Rundherd: groß; > 3 cm"
        assert each.GetAttribute("DiffuGTS.Version") == "0.1.0"
        assert each.GetAttribute("DiffuGTS.Device") is None


def test_a_later_record_takes_the_place_of_the_earlier_one(a_segmentation) -> None:
    first = provenance.writeProvenance(a_segmentation, RECORD)
    assert provenance.writeProvenance(a_segmentation, {"seed": 8}) is first
    assert record_of(a_segmentation) == {"seed": 8}
    assert a_segmentation.GetAttribute("DiffuGTS.Outcome") is None
