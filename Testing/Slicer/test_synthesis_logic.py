"""Painting tumors by script: the real worker, exact geometry, what is refused, cancellation, and a second run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gui
import numpy as np
import pytest
import slicer
from DiffuGTSSlicer import display
from DiffuGTSSlicer.grids import segmentMask, worldFromNode
from DiffuGTSSlicer.logic import DiffuGTSLogic
from DiffuGTSSlicer.messages import stageName
from DiffuGTSSlicer.parameters import RunParameters, SynthesisParameters
from DiffuGTSSlicer.process_tree import killOne
from DiffuGTSSlicer.run import CANCELLED, DONE, FAILED
from DiffuGTSSlicer.run_progress import RunProgress
from DiffuGTSSlicer.scene import SCAN_ROLE, newSegmentation, pointInScan
from logic_parts import jobFolders, nodeNames, tiny
from numpy.typing import NDArray
from phantoms import grid
from scene_parts import TURNED, blob, linear_transform, matrix_of, record_of, scan_node, set_segment_mask, under

from DiffuGTSLib.errors import DiffuGTSError, InputError
from DiffuGTSLib.volumes import Geometry
from DiffuGTSLib.worker import protocol

pytest_plugins = ["logic_fixtures"]

LIVER_HU = 60.0
OBLIQUE = grid((56, 52, 24), (1.6, 1.5, 4.0), degrees=(11, -7, 23))
STRAIGHT = Geometry((56, 52, 24), np.diag([-1.6, -1.5, 4.0, 1.0]))


def an_abdomen(geometry: Geometry) -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
    """Return a CT with a liver as large as the grid allows, and the liver's mask, both (i, j, k)."""
    middle = tuple((n - 1) / 2 for n in geometry.shape)
    steps = (np.moveaxis(np.indices(geometry.shape), 0, -1) - middle) * geometry.spacing_mm
    liver = (np.linalg.norm(steps, axis=-1) < 36).astype(np.uint8)
    grain = np.random.default_rng(3).normal(0, 12, geometry.shape)
    return np.round(np.where(liver, LIVER_HU, -80) + grain).astype(np.int16), liver


def a_patient(geometry: Geometry) -> tuple[Any, SynthesisParameters]:
    """Add a scan and its organ's segment, and return the scan with a parameters for it."""
    voxels, liver = an_abdomen(geometry)
    scan = scan_node(geometry, voxels, "Abdomen")
    organs = newSegmentation(scan, "Organs")
    segment_id = organs.GetSegmentation().AddEmptySegment("liver", "Liver")
    set_segment_mask(liver.T, scan, organs, segment_id)
    return scan, SynthesisParameters("liver", organs, segment_id, modality="CT", size="small", seed=5)


@pytest.fixture
def a_healthy_patient(a_scene: Any) -> tuple[Any, SynthesisParameters]:
    return a_patient(STRAIGHT)


@pytest.fixture
def a_logic(a_qt_application: Any, the_logic: DiffuGTSLogic) -> Iterator[DiffuGTSLogic]:
    yield the_logic
    if the_logic.isRunning:
        the_logic.cancel()
        gui.spin(lambda: not the_logic.isRunning)
    assert jobFolders() == []


def continued(parameters: SynthesisParameters, run: Any, **values: Any) -> SynthesisParameters:
    """Return the same parameters, into the nodes that a run has made."""
    return replace(
        parameters, painted=run.nodes["painted"], paintedSegmentation=run.nodes["painted_tumor"],
        paintedSegmentId=run.segmentIds["painted_tumor"], **values,
    )  # fmt: skip


def point_at(world_mm: Any) -> Any:
    """Add a markups node with one point."""
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "Here")
    node.AddControlPointWorld(*(float(value) for value in world_mm))
    return node


def voxels_of(run: Any, scan: Any) -> tuple[NDArray[Any], NDArray[Any], NDArray[np.uint8]]:
    """Return the scan, the painted volume and the mask of what was painted, (k, j, i)."""
    mask = segmentMask(run.nodes["painted_tumor"], run.segmentIds["painted_tumor"], scan)
    return slicer.util.arrayFromVolume(scan), slicer.util.arrayFromVolume(run.nodes["painted"]), mask


@pytest.mark.parametrize("geometry", [STRAIGHT, OBLIQUE], ids=["straight", "oblique"])
def test_a_synthesis_makes_a_volume_and_a_segment_on_exactly_the_scans_grid(
    a_scene: Any, a_logic: DiffuGTSLogic, geometry: Geometry
) -> None:
    scan, parameters = a_patient(geometry)
    under(scan, linear_transform(TURNED))
    under(parameters.organSegmentation, scan.GetParentTransformNode())
    before = slicer.util.arrayFromVolume(scan).copy()
    told: list[str] = []
    run = a_logic.synthesize(scan, parameters, onEvent=lambda event: told.append(event["event"]))
    assert run.failure is None and run.state == DONE, run.failure
    painted = run.nodes["painted"]
    original, image, mask = voxels_of(run, scan)
    assert np.array_equal(original, before), "the scan itself is never touched"
    assert np.array_equal(matrix_of(painted), matrix_of(scan)) and image.shape == original.shape
    assert painted.GetParentTransformNode() is scan.GetParentTransformNode()
    assert painted.GetNodeReference(SCAN_ROLE) is scan
    _, liver = an_abdomen(geometry)
    assert mask.any() and not mask[liver.T == 0].any(), "tumors lie in the organ"
    changed = image != original
    assert changed[mask > 0].mean() > 0.9
    assert changed.sum() < 20 * mask.sum(), "the rest is the scan's own, voxel for voxel"
    volume_ml = mask.sum() * geometry.voxel_volume_ml
    assert volume_ml == pytest.approx(sum(tumor["volume_ml"] for tumor in run.result["tumors"]))
    assert told[-1] == "done" and told.count("imported") == 2


def test_what_was_painted_is_marked_named_coded_and_recorded(
    a_healthy_patient: tuple[Any, SynthesisParameters], a_logic: DiffuGTSLogic
) -> None:
    scan, parameters = a_healthy_patient
    scan.GetDisplayNode().AutoWindowLevelOff()
    scan.GetDisplayNode().SetWindowLevel(350, 40)
    tree = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    study = tree.CreateStudyItem(tree.CreateSubjectItem(tree.GetSceneItemID(), "Patient"), "Study")
    tree.SetItemParent(tree.GetItemByDataNode(scan), study)
    run = a_logic.synthesize(scan, parameters)
    painted, segmentation = run.nodes["painted"], run.nodes["painted_tumor"]
    assert painted.GetName() == "Abdomen with painted tumor (synthetic)" and display.isSynthetic(painted)
    assert not display.isSynthetic(scan)
    assert (painted.GetDisplayNode().GetWindow(), painted.GetDisplayNode().GetLevel()) == (350, 40)
    segment = segmentation.GetSegmentation().GetSegment(run.segmentIds["painted_tumor"])
    assert segment.GetName() == "Painted liver tumor" and "Liver" in segment.GetTerminology()
    assert segmentation.GetNodeReference(segmentation.GetReferenceImageGeometryReferenceRole()) is painted
    record = record_of(segmentation)
    assert record == run.record and record["seed"] == 5 and "patents pending" in record["rights"]
    assert segmentation.GetAttribute("DiffuGTS.Organ") == "liver"
    assert segmentation.GetAttribute("DiffuGTS.Painter") == "handcrafted"
    for node in (painted, segmentation):
        assert tree.GetItemParent(tree.GetItemByDataNode(node)) == study


def test_the_same_seed_paints_the_same_and_another_one_does_not(
    a_healthy_patient: tuple[Any, SynthesisParameters], a_logic: DiffuGTSLogic
) -> None:
    scan, parameters = a_healthy_patient
    images = [voxels_of(a_logic.synthesize(scan, replace(parameters, seed=seed)), scan)[1].copy() for seed in (5, 5, 6)]
    assert np.array_equal(images[0], images[1]) and not np.array_equal(images[0], images[2])


def test_a_second_run_takes_the_same_nodes_and_leaves_an_edited_segment_alone(
    a_healthy_patient: tuple[Any, SynthesisParameters], a_logic: DiffuGTSLogic
) -> None:
    scan, parameters = a_healthy_patient
    first = a_logic.synthesize(scan, parameters)
    names, worker = nodeNames(), a_logic.client.processId
    second = a_logic.synthesize(scan, continued(parameters, first, seed=8))
    assert second.nodes == first.nodes and second.segmentIds == first.segmentIds and nodeNames() == names
    assert a_logic.client.processId == worker
    node, segmentId = second.nodes["painted_tumor"], second.segmentIds["painted_tumor"]
    mine = blob(STRAIGHT, (20, 20, 10), 3).T
    set_segment_mask(mine, scan, node, segmentId)
    third = a_logic.synthesize(scan, continued(parameters, second, seed=9))
    assert third.nodes["painted_tumor"] is node and third.segmentIds["painted_tumor"] != segmentId
    assert np.array_equal(segmentMask(node, segmentId, scan), mine)


def test_a_tumor_lies_where_a_point_was_placed_whatever_moves_scan_and_point(
    a_scene: Any, a_logic: DiffuGTSLogic
) -> None:
    scan, parameters = a_patient(OBLIQUE)
    transform = linear_transform(TURNED)
    under(scan, transform)
    under(parameters.organSegmentation, transform)
    ijk = np.array([22, 30, 13])
    world = worldFromNode(scan) @ OBLIQUE.ijk_to_ras @ [*ijk, 1]
    point = point_at(world[:3])
    assert OBLIQUE.to_ijk(np.array(pointInScan(point, scan))) == pytest.approx(ijk, abs=1e-4)
    run = a_logic.synthesize(scan, replace(parameters, place=point, radiusMm=8.0))
    assert run.state == DONE and len(run.result["tumors"]) == 1, run.failure
    middle = np.argwhere(voxels_of(run, scan)[2]).mean(axis=0)[::-1]
    assert np.abs((middle - ijk) * OBLIQUE.spacing_mm).max() < 6
    tumor = run.result["tumors"][0]
    assert tumor["radius_mm"] == pytest.approx(8, rel=0.5)


def test_number_and_effects_arrive_in_the_job(
    a_healthy_patient: tuple[Any, SynthesisParameters], a_logic: DiffuGTSLogic
) -> None:
    scan, parameters = a_healthy_patient
    asked = replace(
        parameters, size="tiny", count=2, capsule=True, massEffect=True, avoidVessels=False, painter="recipe"
    )
    run = a_logic.synthesize(scan, replace(asked, keepFiles=True))
    assert run.state == DONE, run.failure
    job = protocol.read_job(run.folder)
    assert isinstance(job, protocol.SynthesisSpec)
    assert (job.count, job.capsule, job.mass_effect, job.avoid_vessels, job.painter) == (2, True, True, False, "recipe")
    assert len(run.result["tumors"]) + len(run.result["skipped"]) == 2
    shutil.rmtree(run.folder)


def test_an_organ_segment_on_another_grid_is_brought_to_the_scans(
    a_healthy_patient: tuple[Any, SynthesisParameters], a_logic: DiffuGTSLogic
) -> None:
    scan, parameters = a_healthy_patient
    coarse = Geometry((18, 18, 20), np.diag([5.0, 5.0, 5.0, 1.0]))
    coarse = Geometry(coarse.shape, coarse.ijk_to_ras + np.array([[0, 0, 0, -88], [0, 0, 0, -82], [0] * 4, [0] * 4]))
    other = scan_node(coarse, np.zeros(coarse.shape, np.int16), "Coarse")
    organs = newSegmentation(other, "Coarse organs")
    segment_id = organs.GetSegmentation().AddEmptySegment("liver", "Liver")
    set_segment_mask(blob(coarse, (9, 9, 9), 5).T, other, organs, segment_id)
    run = a_logic.synthesize(scan, replace(parameters, organSegmentation=organs, organSegmentId=segment_id))
    assert run.state == DONE, run.failure
    inside = segmentMask(organs, segment_id, scan)
    mask = voxels_of(run, scan)[2]
    assert mask.any() and not mask[inside == 0].any()


def test_an_organ_that_is_too_small_paints_nothing_and_says_so(
    a_healthy_patient: tuple[Any, SynthesisParameters], a_logic: DiffuGTSLogic
) -> None:
    scan, parameters = a_healthy_patient
    set_segment_mask(blob(STRAIGHT, (28, 26, 12), 2).T, scan, parameters.organSegmentation, parameters.organSegmentId)
    run = a_logic.synthesize(scan, replace(parameters, size="large", count=1))
    assert run.state == DONE and run.result["tumors"] == []
    assert "too small" in run.result["skipped"][0] and run.outcome.startswith("nothing painted")
    original, image, mask = voxels_of(run, scan)
    assert np.array_equal(original, image) and not mask.any()


def test_what_can_be_refused_is_refused_before_anything_is_written(
    a_healthy_patient: tuple[Any, SynthesisParameters], a_logic: DiffuGTSLogic
) -> None:
    scan, parameters = a_healthy_patient
    empty = newSegmentation(scan, "Nothing")
    for given, values, code in (
        (None, {}, "no_scan"),
        (scan, {"organ": ""}, "organ"),
        (scan, {"organSegmentation": None}, "no_organ"),
        (scan, {"organSegmentation": empty}, "no_organ"),
    ):
        with pytest.raises(InputError) as refused:
            a_logic.synthesize(given, replace(parameters, **values))
        assert refused.value.code == code and refused.value.hint
    assert jobFolders() == []


@pytest.mark.parametrize(
    ("values", "code", "words"),
    [
        ({"organSegmentId": "empty"}, "empty_organ", "Inputs"),
        ({"place": "unplaced"}, "no_place", "Place a point"),
        ({"place": (900.0, 0.0, 0.0)}, "input", "outside the scan"),
        ({"organ": "heart"}, "config", "heart"),
        ({"painter": "no/such/folder"}, "painter", "painter"),
        ({"size": "giant"}, "input", "giant"),
    ],
)
def test_what_goes_wrong_fails_the_run_with_the_next_step(
    a_healthy_patient: tuple[Any, SynthesisParameters],
    a_logic: DiffuGTSLogic,
    values: dict[str, Any],
    code: str,
    words: str,
) -> None:
    scan, parameters = a_healthy_patient
    parameters.organSegmentation.GetSegmentation().AddEmptySegment("empty", "Empty")
    if values.get("place") == "unplaced":
        values = {"place": slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "Unplaced")}
    elif "place" in values:
        values = {"place": point_at(values["place"])}
    run = a_logic.synthesize(scan, replace(parameters, **values))
    assert run.state == FAILED and run.failure.code == code, run.failure
    assert words in run.failure.text() and run.failure.nextStep
    assert run.nodes == {} and jobFolders() == []


def test_cancel_ends_a_synthesis_and_the_next_one_works(
    a_healthy_patient: tuple[Any, SynthesisParameters], a_logic: DiffuGTSLogic
) -> None:
    scan, parameters = a_healthy_patient
    run = a_logic.synthesize(scan, replace(parameters, size="tiny", count=100_000), waitForCompletion=False)
    assert gui.spin(lambda: a_logic.progress.stage == "synthesize" and a_logic.progress.share > 0, 60)
    with pytest.raises(DiffuGTSError) as busy:
        a_logic.process(scan, tiny())
    assert busy.value.code == "busy"
    a_logic.cancel()
    assert gui.spin(lambda: run.isOver)
    assert run.state == CANCELLED and run.nodes == {} and jobFolders() == []
    assert a_logic.synthesize(scan, parameters).state == DONE


def test_a_killed_worker_is_a_clear_failure_and_a_closed_scene_drops_the_run(
    a_healthy_patient: tuple[Any, SynthesisParameters], a_logic: DiffuGTSLogic
) -> None:
    scan, parameters = a_healthy_patient
    endless = replace(parameters, size="tiny", count=100_000)
    run = a_logic.synthesize(scan, endless, waitForCompletion=False)
    assert gui.spin(lambda: a_logic.progress.stage == "synthesize", 60)
    killOne(a_logic.client.processId)
    assert gui.spin(lambda: run.isOver)
    assert run.state == FAILED and run.failure.code == "oom" and run.failure.nextStep
    run = a_logic.synthesize(scan, endless, waitForCompletion=False)
    assert gui.spin(lambda: a_logic.progress.stage == "synthesize", 60)
    slicer.mrmlScene.Clear(0)
    assert gui.spin(lambda: run.isOver)
    assert run.state == CANCELLED and run.isAbandoned
    assert slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode") == []


def test_painting_and_segmenting_take_turns_in_the_same_worker(
    a_healthy_patient: tuple[Any, SynthesisParameters], a_logic: DiffuGTSLogic
) -> None:
    scan, parameters = a_healthy_patient
    painting = a_logic.synthesize(scan, parameters)
    worker = a_logic.client.processId
    found = a_logic.process(painting.nodes["painted"], tiny(organ="liver"))
    assert found.state == DONE and a_logic.client.processId == worker, found.failure
    assert found.nodes["segmentation"].GetNodeReference(SCAN_ROLE) is painting.nodes["painted"]
    a_logic.removeCache()


def test_what_was_painted_comes_back_with_the_scene(
    a_healthy_patient: tuple[Any, SynthesisParameters], a_logic: DiffuGTSLogic, tmp_path: Path
) -> None:
    scan, parameters = a_healthy_patient
    run = a_logic.synthesize(scan, parameters)
    _, image, mask = (part.copy() for part in voxels_of(run, scan))
    segmentId, record = run.segmentIds["painted_tumor"], run.record
    path = str(tmp_path / "scene.mrb")
    assert slicer.util.saveScene(path)
    slicer.mrmlScene.Clear(0)
    slicer.util.loadScene(path)
    painted = slicer.util.getNode("Abdomen with painted tumor (synthetic)")
    segmentation = slicer.util.getNode("Abdomen painted tumor")
    assert np.array_equal(slicer.util.arrayFromVolume(painted), image) and display.isSynthetic(painted)
    assert np.array_equal(segmentMask(segmentation, segmentId, painted), mask)
    assert record_of(segmentation) == json.loads(json.dumps(record))
    again = replace(
        parameters, organSegmentation=slicer.util.getNode("Organs"), painted=painted, paintedSegmentation=segmentation,
        paintedSegmentId=segmentId,
    )  # fmt: skip
    second = a_logic.synthesize(slicer.util.getNode("Abdomen"), again)
    assert second.nodes == {"painted": painted, "painted_tumor": segmentation}
    assert second.segmentIds["painted_tumor"] == segmentId


def test_progress_has_the_stages_of_a_synthesis_and_keeps_the_times_of_each_kind_apart() -> None:
    now = [0.0]
    progress = RunProgress(lambda: now[0])
    progress.begin(protocol.SYNTHESIS_STAGES)
    progress.learn({"load": 2, "synthesize": 6, "write": 2})
    progress.update("synthesize", 0.5)
    now[0] = 5.0
    assert progress.share == pytest.approx(0.5) and progress.leftS == pytest.approx(5.0)
    progress.update("aova", 0.5)
    assert progress.stage == "synthesize", "no stage of this kind"
    progress.begin()
    progress.update("read", 0.0)
    assert progress.share == pytest.approx(4 / 24.5), "what was learned of painting says nothing of segmenting"
    assert stageName("synthesize") == "Painting tumors" and stageName("load", True) != stageName("load")


def test_a_segmentation_of_a_painted_volume_has_its_own_parameters() -> None:
    assert RunParameters(organ="liver").detectionKey() and SynthesisParameters("liver", None).detectionKey() == ()
