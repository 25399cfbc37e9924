"""The logic with the real worker: runs and refinements, what they leave in the scene, and what is refused before."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import slicer
from DiffuGTSSlicer.grids import segmentMask
from DiffuGTSSlicer.job_export import dicomModality
from DiffuGTSSlicer.logic import DiffuGTSLogic
from DiffuGTSSlicer.run import ACTIVE, DONE, FAILED
from DiffuGTSSlicer.scene import newSegmentation
from logic_parts import ALL, continued, jobFolders, nodeNames, tiny
from scene_parts import bending_transform, record_of, scan_node, set_segment_mask, under

from DiffuGTSLib.errors import ConfigError, DiffuGTSError, GeometryError, InputError, PromptError
from DiffuGTSLib.volumes import Geometry
from DiffuGTSLib.worker import protocol

pytest_plugins = ["logic_fixtures"]


def test_a_run_brings_every_artifact_into_the_scene(a_small_scan: Any, a_logic: DiffuGTSLogic) -> None:
    told: list[tuple[str, Any]] = []
    run = a_logic.process(a_small_scan, tiny(), onEvent=lambda event: told.append((event["event"], event.get("kind"))))
    assert run.failure is None and run.state == DONE, run.failure
    assert set(run.nodes) == ALL
    assert run.outcome and run.record["config"]["preset"] == "tiny"
    for kind in ("aova", "pseudo_healthy", "residual"):
        assert run.nodes[kind].GetImageData().GetDimensions() == a_small_scan.GetImageData().GetDimensions()
    assert record_of(run.nodes["segmentation"]) == run.record
    names = [name for name, _kind in told]
    repaint = next(i for i, (name, _) in enumerate(told) if (name, _) == ("imported", "pseudo_healthy"))
    assert told.index(("imported", "aova")) < repaint, "AOVA is there before anything was repainted"
    assert names[-1] == "done" and names.count("done") == 1


def test_a_second_run_takes_the_warm_worker_and_the_same_nodes(a_small_scan: Any, a_logic: DiffuGTSLogic) -> None:
    first = a_logic.process(a_small_scan, tiny())
    worker, nodes = a_logic.client.processId, nodeNames()
    second = a_logic.process(a_small_scan, continued(first))
    assert a_logic.client.processId == worker
    assert second.nodes == first.nodes and second.segmentIds == first.segmentIds
    assert nodeNames() == nodes


def test_a_segment_that_was_edited_is_not_written_over(a_small_scan: Any, a_logic: DiffuGTSLogic) -> None:
    first = a_logic.process(a_small_scan, tiny())
    node, segmentId = first.nodes["coarse_mask"], first.segmentIds["coarse_mask"]
    mine = np.zeros((20, 34, 36), dtype=np.uint8)
    mine[5:9, 5:9, 5:9] = 1
    set_segment_mask(mine, a_small_scan, node, segmentId)
    second = a_logic.process(a_small_scan, continued(first))
    assert second.nodes["coarse_mask"] is node and second.segmentIds["coarse_mask"] != segmentId
    assert np.array_equal(segmentMask(node, segmentId, a_small_scan), mine)


def test_a_refinement_takes_the_candidate_and_the_cache(a_small_scan: Any, a_logic: DiffuGTSLogic) -> None:
    first = a_logic.process(a_small_scan, tiny())
    jobs: list[Any] = []
    told: list[str] = []

    def listen(event: dict[str, Any]) -> None:
        told.append(event["event"])
        if event["event"] == "started":
            jobs.append(protocol.read_job(Path(event["job"])))

    run = a_logic.refine(a_small_scan, continued(first), onEvent=listen)
    assert run.state == DONE, run.failure
    assert jobs[0].coarse_mask and jobs[0].cache
    run = a_logic.refine(a_small_scan, continued(first, normal="lung", abnormal="lung nodule"), onEvent=listen)
    assert run.state == DONE, run.failure
    assert jobs[1].coarse_mask and not jobs[1].cache, "other sentences: nothing can be re-used"


def test_a_refinement_without_candidate_is_refused(a_small_scan: Any, a_logic: DiffuGTSLogic) -> None:
    with pytest.raises(InputError) as refused:
        a_logic.refine(a_small_scan, tiny())
    assert refused.value.code == "empty_candidate"


def test_a_dicom_series_is_what_dicom_says(a_scene: Any, a_logic: DiffuGTSLogic) -> None:
    geometry = Geometry((36, 34, 20), np.diag([4.0, 4.0, 4.0, 1.0]))
    stored = np.zeros(geometry.shape, np.int16)  # a CT whose offset was lost: air 0, water 1024
    stored[4:-4, 4:-4, 2:-2] = np.random.default_rng(0).normal(1040, 20, (28, 26, 16)).astype(np.int16)
    scan = scan_node(geometry, stored, "Stored")
    run = a_logic.process(scan, tiny(modality=""))
    assert run.state == DONE and run.result["modality"] == "MR", run.failure
    assert run.notes[0].startswith("Assumed to be MR, since no voxel is negative") and "under Inputs" in run.notes[0]
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    item = hierarchy.GetItemByDataNode(scan)
    name = slicer.vtkMRMLSubjectHierarchyConstants.GetDICOMSeriesModalityAttributeName()
    hierarchy.SetItemAttribute(item, name, "CT")
    run = a_logic.process(scan, tiny(modality=""))
    assert run.state == FAILED and run.failure.code == "not_hu", run.failure
    assert dicomModality(scan) == "CT"
    hierarchy.SetItemAttribute(item, name, "MR")
    run = a_logic.process(scan, tiny(modality=""))
    assert run.state == DONE and run.notes == [], "what DICOM says was not guessed"
    hierarchy.SetItemAttribute(item, name, "PT")
    assert dicomModality(scan) == ""


def test_untrained_networks_are_refused_in_words(a_small_scan: Any, a_logic: DiffuGTSLogic) -> None:
    run = a_logic.process(a_small_scan, tiny(allowUntrained=False))
    assert run.state == FAILED and run.failure.code == "untrained" and "mini" in run.failure.nextStep


@pytest.mark.parametrize(
    ("values", "kind", "code"),
    [
        ({"organ": "", "normal": "", "abnormal": ""}, PromptError, "choice"),
        ({"normal": "lung", "abnormal": "lung without tumor"}, PromptError, "negation"),
        ({"normal": "lung", "abnormal": "Lung"}, PromptError, "identical"),
        ({"organ": "heart"}, PromptError, "organ"),
        ({"preset": "minni"}, ConfigError, "config"),
        ({"steps": 0}, ConfigError, "config"),
        ({"overrides": ("masks.gaet=1",)}, ConfigError, "config"),
    ],
)
def test_what_can_be_refused_is_refused_before_anything_is_written(
    a_small_scan: Any, a_qt_application: Any, values: dict[str, Any], kind: type[DiffuGTSError], code: str
) -> None:
    logic = DiffuGTSLogic()
    with pytest.raises(kind) as refused:
        logic.process(a_small_scan, tiny(**values))
    assert refused.value.code == code
    assert not logic.client.isWarm and jobFolders() == [] and logic.run is None


def test_a_run_needs_a_scan_and_one_run_excludes_another(a_small_scan: Any, a_logic: DiffuGTSLogic) -> None:
    with pytest.raises(InputError) as refused:
        a_logic.process(None, tiny())
    assert refused.value.code == "no_scan"
    run = a_logic.process(a_small_scan, tiny(steps=1000), waitForCompletion=False)
    assert run.state == ACTIVE
    with pytest.raises(DiffuGTSError) as busy:
        a_logic.process(a_small_scan, tiny())
    assert busy.value.code == "busy"


def test_a_scan_under_a_bending_transform_is_refused_and_leaves_no_file(
    a_small_scan: Any, a_logic: DiffuGTSLogic
) -> None:
    grid = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLBSplineTransformNode", "Bent")
    a_small_scan.SetAndObserveTransformNodeID(grid.GetID())
    with pytest.raises(DiffuGTSError):
        a_logic.process(a_small_scan, tiny())
    assert jobFolders() == []


def test_a_result_under_a_bending_transform_is_refused_before_the_run_and_keeps_its_voxels(
    a_small_scan: Any, a_logic: DiffuGTSLogic
) -> None:
    node = newSegmentation(a_small_scan, "Mine")
    node.GetSegmentation().AddEmptySegment("tumor", "Tumor")
    mask = np.zeros(slicer.util.arrayFromVolume(a_small_scan).shape, np.uint8)
    mask[4:9, 5:9, 6:9] = 1
    set_segment_mask(mask, a_small_scan, node, "tumor")
    under(node, bending_transform())
    with pytest.raises(GeometryError, match="'Mine' is under the nonlinear transform 'Bend'"):
        a_logic.process(a_small_scan, tiny(segmentation=node, tumorSegmentId="tumor"))
    assert jobFolders() == []
    node.SetAndObserveTransformNodeID(None)
    assert np.array_equal(segmentMask(node, "tumor", a_small_scan), mask)


def test_the_job_says_where_to_look(a_small_scan: Any, a_logic: DiffuGTSLogic) -> None:
    roi = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "Box")
    roi.SetSize(60, 60, 40)
    roi.SetCenter(0, 0, 0)
    run = a_logic.process(a_small_scan, tiny(roi=roi, keepFiles=True))
    assert run.state == DONE, run.failure
    job = protocol.read_job(run.folder)
    assert job.region and (run.folder / job.region).exists()
    shutil.rmtree(run.folder)
