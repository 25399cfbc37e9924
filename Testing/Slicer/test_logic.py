"""The logic with the real worker: runs, refinements, cancellation, and what happens when scene or worker go away."""

from __future__ import annotations

import gc
import json
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gui
import numpy as np
import pytest
import slicer
from DiffuGTSSlicer.grids import segmentMask
from DiffuGTSSlicer.job_export import dicomModality
from DiffuGTSSlicer.logic import DiffuGTSLogic
from DiffuGTSSlicer.messages import failureOf, failureOfError, nextSteps, timeLeft
from DiffuGTSSlicer.parameters import RunParameters
from DiffuGTSSlicer.process_tree import killOne
from DiffuGTSSlicer.run import ACTIVE, CANCELLED, DONE, FAILED
from DiffuGTSSlicer.run_progress import RunProgress
from DiffuGTSSlicer.scene import newSegmentation
from scene_parts import bending_transform, noise, record_of, rigid, roi_node, scan_node, set_segment_mask, under
from test_worker_client import isAlive

from DiffuGTSLib.config import load_config
from DiffuGTSLib.errors import ConfigError, DiffuGTSError, GeometryError, InputError, PromptError, StorageError
from DiffuGTSLib.volumes import Geometry
from DiffuGTSLib.worker import protocol

SCRIPT = Path(__file__).parent / "scripted_worker.py"
TINY = RunParameters(organ="lung", modality="CT", preset="tiny", device="cpu", allowUntrained=True)
ALL = {"aova", "coarse_mask", "pseudo_healthy", "residual", "segmentation"}


def tiny(**values: Any) -> RunParameters:
    """The test networks, with a threshold low enough that they always find a candidate."""
    return replace(TINY, **{"candidateThreshold": 0.01, **values})


@pytest.fixture
def a_small_scan(a_scene: Any) -> Any:
    geometry = Geometry((36, 34, 20), np.array([[-4.0, 0, 0, 60], [0, -4, 0, 50], [0, 0, 4, -30], [0, 0, 0, 1]]))
    return scan_node(geometry, noise(geometry), "Small")


@pytest.fixture(scope="module")
def the_logic() -> Iterator[DiffuGTSLogic]:
    """One logic, so one warm worker, for the tests that leave it as they found it."""
    logic = DiffuGTSLogic()
    yield logic
    logic.cleanup()
    gui.spin(lambda: not logic.client.isWarm)


@pytest.fixture
def a_logic(a_qt_application: Any, the_logic: DiffuGTSLogic) -> Iterator[DiffuGTSLogic]:
    yield the_logic
    if the_logic.isRunning:
        the_logic.cancel()
        gui.spin(lambda: not the_logic.isRunning)
    the_logic.onEvent = lambda event: None
    the_logic.forget()


def jobFolders() -> list[Path]:
    """Return what we have in Slicer's temporary folder."""
    return sorted(Path(slicer.app.temporaryPath).glob("diffugts-*"))


def nodeNames() -> list[str]:
    """Return the names of the nodes that a user sees."""
    nodes = slicer.util.getNodesByClass("vtkMRMLDisplayableNode") + slicer.util.getNodesByClass("vtkMRMLTextNode")
    return sorted(node.GetName() for node in nodes if not node.GetHideFromEditors())


def continued(run: Any, **values: Any) -> RunParameters:
    """The same wish, into the nodes that a run has made."""
    nodes = run.nodes
    return tiny(
        segmentation=nodes["segmentation"], tumorSegmentId=run.segmentIds["segmentation"],
        candidate=nodes["coarse_mask"], candidateSegmentId=run.segmentIds["coarse_mask"], aova=nodes["aova"],
        pseudoHealthy=nodes["pseudo_healthy"], residual=nodes["residual"], **values,
    )  # fmt: skip


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


def cancelDuringDiffusion(logic: DiffuGTSLogic, scan: Any, wish: RunParameters) -> tuple[Any, float]:
    """Run until the repainting has begun, cancel, and return the run and how long it took to end, in seconds."""
    run = logic.process(scan, wish, waitForCompletion=False)
    assert gui.spin(lambda: logic.progress.stage == "repaint" and logic.progress.stageShare > 0, 120), run.failure
    begin = time.monotonic()
    logic.cancel()
    assert gui.spin(lambda: run.isOver)
    return run, time.monotonic() - begin


def test_cancel_during_the_diffusion_keeps_what_is_there_as_partial(a_small_scan: Any, a_logic: DiffuGTSLogic) -> None:
    run, _took = cancelDuringDiffusion(a_logic, a_small_scan, tiny(steps=1000))
    assert run.state == CANCELLED and run.nodes["aova"].GetAttribute("DiffuGTS.Partial") == "1"
    assert jobFolders() == []
    assert a_logic.process(a_small_scan, tiny(aova=run.nodes["aova"])).state == DONE
    assert run.nodes["aova"].GetAttribute("DiffuGTS.Partial") is None


def test_cancel_during_the_diffusion_of_the_real_model_ends_the_run_within_three_seconds(
    a_demo_scan: Any, a_qt_application: Any, record_property: Any
) -> None:
    logic = DiffuGTSLogic()
    try:
        wish = RunParameters(organ="lung", modality="CT", device="cpu", steps=1000, candidateThreshold=0.05)
        run, took = cancelDuringDiffusion(logic, a_demo_scan, wish)
        record_property("cancel_mini_s", round(took, 3))
        print(f"the mini model on the demo scan: canceled in {took:.2f} s")
        assert took < 3 and run.state == CANCELLED and "aova" in run.nodes and jobFolders() == []
    finally:
        logic.cleanup()
        assert gui.spin(lambda: not logic.client.isWarm)


def test_cancel_while_the_scan_is_still_written_starts_no_worker(a_small_scan: Any, a_qt_application: Any) -> None:
    logic, told = DiffuGTSLogic(), []
    run = logic.process(
        a_small_scan, tiny(), waitForCompletion=False, onEvent=lambda event: told.append(event["event"])
    )
    logic.cancel()
    logic.cancel()
    assert gui.spin(lambda: run.isOver)
    assert run.state == CANCELLED and told == ["cancelled"] and not logic.client.isWarm and jobFolders() == []


def test_a_region_without_a_voxel_of_the_scan_fails_the_run_with_the_next_step(
    a_small_scan: Any, a_qt_application: Any
) -> None:
    logic = DiffuGTSLogic()
    run = logic.process(a_small_scan, tiny(roi=roi_node((5, 5, 5), rigid((0, 0, 0), (900, 0, 0)))))
    assert run.state == FAILED and run.failure.code == "empty_region" and run.failure.nextStep
    assert not logic.client.isWarm and jobFolders() == [] and not logic.isRunning


def test_an_unexpected_error_while_a_result_is_imported_fails_the_run_and_only_this_one(
    a_small_scan: Any, a_logic: DiffuGTSLogic, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise KeyError("unheard of")

    monkeypatch.setattr("DiffuGTSSlicer.display.showAova", fail)
    run = a_logic.process(a_small_scan, tiny())
    assert run.state == FAILED and run.failure.code == "worker" and "unheard of" in run.failure.message
    monkeypatch.undo()
    assert a_logic.process(a_small_scan, tiny()).state == DONE


def scripted(folder: Path, steps: list[list[str]]) -> DiffuGTSLogic:
    """A logic of its own, whose worker does what it is told."""
    (folder / "steps.json").write_text(json.dumps(steps))
    logic = DiffuGTSLogic()
    logic.client.arguments = [str(SCRIPT), "", str(folder / "steps.json")]
    return logic


EVERYTHING = [*(["artifact", kind] for kind in (*sorted(ALL), "record")), ["cache"], ["done"]]


def test_a_session_folder_that_was_cleaned_away_costs_only_the_cache(
    a_small_scan: Any, a_qt_application: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logic = scripted(tmp_path, EVERYTHING)
    first = logic.process(a_small_scan, tiny())
    shutil.rmtree(logic._session)
    second = logic.process(a_small_scan, continued(first))
    assert second.failure is None and second.state == DONE and second.nodes == first.nodes
    assert logic._cacheFile() is not None and len(jobFolders()) == 1

    def clean(event: dict[str, Any]) -> None:
        if event.get("kind") == "segmentation":
            shutil.rmtree(logic._session, ignore_errors=True)
            monkeypatch.setattr(slicer.app, "temporaryPath", str(tmp_path / "gone"))

    third = logic.process(a_small_scan, continued(second), onEvent=clean)
    assert third.failure is None and third.state == DONE and logic._cacheFile() is None
    monkeypatch.undo()
    logic.cleanup()
    assert jobFolders() == []


def test_a_run_that_fails_at_its_last_step_leaves_the_earlier_result_as_it_was(
    a_small_scan: Any, a_qt_application: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logic = scripted(tmp_path, EVERYTHING)
    first = logic.process(a_small_scan, tiny())
    names, aova = nodeNames(), first.nodes["aova"]
    slicer.util.updateVolumeFromArray(aova, np.full_like(slicer.util.arrayFromVolume(aova), 0.25))

    def fail(*_: Any) -> None:
        raise KeyError("unheard of")

    monkeypatch.setattr("DiffuGTSSlicer.logic.completeResult", fail)
    second = logic.process(a_small_scan, continued(first))
    assert second.state == FAILED and second.isUndone and "unheard of" in second.failure.message
    assert np.all(slicer.util.arrayFromVolume(aova) == 0.25) and nodeNames() == names
    logic.cleanup()
    assert jobFolders() == []


def test_a_temporary_folder_that_is_gone_is_said_before_the_run(
    a_small_scan: Any, a_qt_application: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slicer.app, "temporaryPath", str(tmp_path / "gone"))
    logic = DiffuGTSLogic()
    with pytest.raises(StorageError, match="Cannot make a folder in .*gone") as refused:
        logic.process(a_small_scan, tiny())
    assert "temporary folder" in failureOfError(refused.value).nextStep and logic.run is None


def test_a_job_that_cannot_be_written_is_a_matter_of_the_disk(
    a_small_scan: Any, a_qt_application: Any, tmp_path: Path
) -> None:
    logic = scripted(tmp_path, EVERYTHING)
    run = logic.process(a_small_scan, tiny(), waitForCompletion=False)
    (run.folder / protocol.JOB_FILE).mkdir()
    logic.wait(run)
    assert run.state == FAILED and run.failure.code == "storage", run.failure
    assert jobFolders() == []


def test_closing_the_scene_drops_the_run(a_small_scan: Any, a_logic: DiffuGTSLogic) -> None:
    run = a_logic.process(a_small_scan, tiny(steps=1000), waitForCompletion=False)
    assert gui.spin(lambda: a_logic.progress.stage == "repaint", 120)
    slicer.mrmlScene.Clear(0)
    assert gui.spin(lambda: run.isOver)
    assert run.state == CANCELLED and run.isDropped
    assert jobFolders() == [] and slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode") == []


def test_deleting_the_scan_drops_the_run_and_deleting_another_node_does_not(
    a_small_scan: Any, a_logic: DiffuGTSLogic
) -> None:
    other = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "Other")
    run = a_logic.process(a_small_scan, tiny(steps=1000), waitForCompletion=False)
    slicer.mrmlScene.RemoveNode(other)
    assert not run.isDropped
    assert gui.spin(lambda: "aova" in run.nodes, 120)
    slicer.mrmlScene.RemoveNode(a_small_scan)
    assert run.isDropped
    assert gui.spin(lambda: run.isOver)
    assert run.state == CANCELLED and "pseudo_healthy" not in run.nodes and jobFolders() == []


def test_a_result_node_that_was_deleted_during_the_run_is_made_anew(a_small_scan: Any, a_logic: DiffuGTSLogic) -> None:
    first = a_logic.process(a_small_scan, tiny())
    run = a_logic.process(a_small_scan, continued(first), waitForCompletion=False)
    slicer.mrmlScene.RemoveNode(first.nodes["segmentation"])
    slicer.mrmlScene.RemoveNode(first.nodes["residual"])
    a_logic.wait(run)
    assert run.state == DONE, run.failure
    assert all(slicer.mrmlScene.IsNodePresent(node) for node in run.nodes.values())


def test_a_killed_worker_is_a_clear_failure_and_the_next_run_works(a_small_scan: Any, a_logic: DiffuGTSLogic) -> None:
    run = a_logic.process(a_small_scan, tiny(steps=1000), waitForCompletion=False)
    assert gui.spin(lambda: a_logic.progress.stage == "repaint", 120)
    killOne(a_logic.client.processId)
    assert gui.spin(lambda: run.isOver)
    assert run.state == FAILED and run.failure.code == "oom" and run.failure.nextStep
    assert jobFolders() == []
    assert a_logic.process(a_small_scan, tiny()).state == DONE


def openFiles() -> int:
    """Count the files, pipes and sockets that this process holds."""
    return len(list(Path("/proc/self/fd").iterdir())) if Path("/proc/self/fd").exists() else 0


def leavesNothing(a_small_scan: Any, a_logic: DiffuGTSLogic, runs: int) -> None:
    """Run again and again; nothing may pile up."""
    run = a_logic.process(a_small_scan, tiny())
    nodes, worker, open_files = nodeNames(), a_logic.client.processId, openFiles()
    count = slicer.mrmlScene.GetNumberOfNodes()
    for _again in range(runs):
        run = a_logic.process(a_small_scan, continued(run))
        assert run.state == DONE, run.failure
    assert nodeNames() == nodes and slicer.mrmlScene.GetNumberOfNodes() == count
    assert a_logic.client.processId == worker
    assert openFiles() <= open_files + 1
    assert len(jobFolders()) == 1, "what a refinement re-uses, once"
    a_logic.forget()
    assert jobFolders() == []


def test_five_runs_in_a_row_leave_no_file_process_or_node(a_small_scan: Any, a_logic: DiffuGTSLogic) -> None:
    leavesNothing(a_small_scan, a_logic, 5)


@pytest.mark.slow
def test_fifty_runs_in_a_row_leave_no_file_process_or_node(a_small_scan: Any, a_logic: DiffuGTSLogic) -> None:
    leavesNothing(a_small_scan, a_logic, 50)


def test_cleanup_ends_worker_and_files(a_small_scan: Any, a_qt_application: Any) -> None:
    logic = DiffuGTSLogic()
    run = logic.process(a_small_scan, tiny(steps=1000), waitForCompletion=False)
    assert gui.spin(lambda: logic.client.processId, 60)
    worker = logic.client.processId
    logic.cleanup()
    assert gui.spin(lambda: not isAlive(worker))
    assert jobFolders() == []
    assert gui.spin(lambda: run.isOver)


def test_logics_of_one_line_leave_neither_worker_nor_file(
    a_small_scan: Any, a_qt_application: Any, tmp_path: Path
) -> None:
    steps = tmp_path / "steps.json"
    steps.write_text(json.dumps([["artifact", "aova"], ["artifact", "segmentation"], ["cache"], ["done"]]))
    workers = []

    def logic() -> DiffuGTSLogic:
        made = DiffuGTSLogic()
        made.client.arguments = [str(SCRIPT), "", str(steps)]
        made.onState = lambda _state, client=made.client: workers.append(client.processId)
        return made

    assert logic().process(a_small_scan, TINY).state == DONE
    assert [case.status for case in logic().processMany([a_small_scan], TINY).cases] == [DONE]
    begun = logic().process(a_small_scan, TINY, waitForCompletion=False)
    assert gui.spin(lambda: begun.isOver) and begun.state == DONE
    gc.collect()
    assert len(set(workers) - {0}) == 3
    assert gui.spin(lambda: not any(isAlive(each) for each in set(workers) - {0}))
    assert jobFolders() == []


def test_a_dicom_series_is_what_dicom_says(a_scene: Any, a_logic: DiffuGTSLogic) -> None:
    geometry = Geometry((36, 34, 20), np.diag([4.0, 4.0, 4.0, 1.0]))
    stored = np.zeros(geometry.shape, np.int16)  # a CT whose offset was lost: air 0, water 1024
    stored[4:-4, 4:-4, 2:-2] = np.random.default_rng(0).normal(1040, 20, (28, 26, 16)).astype(np.int16)
    scan = scan_node(geometry, stored, "Stored")
    run = a_logic.process(scan, tiny(modality=""))
    assert run.state == DONE and run.result["modality"] == "MR", run.failure
    assert run.notes[0].startswith("Taken for MR, since no voxel is negative") and "under Inputs" in run.notes[0]
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
    with pytest.raises(GeometryError, match="'Mine' lies under 'Bend', which is not linear"):
        a_logic.process(a_small_scan, tiny(segmentation=node, tumorSegmentId="tumor"))
    assert jobFolders() == []
    node.SetAndObserveTransformNodeID(None)
    assert np.array_equal(segmentMask(node, "tumor", a_small_scan), mask)


def test_built_in_sentences_are_sent_as_their_organ_and_others_as_they_are() -> None:
    written = RunParameters(
        organ="lung", normal="A normal CT scan of the lung", abnormal="An abnormal CT scan of the lung showing a tumor"
    )
    assert written.jobPrompts() == {"organ": "lung"}
    own = RunParameters(organ="lung", normal="lung", abnormal="lung nodule")
    assert own.jobPrompts() == {"normal": "lung", "abnormal": "lung nodule"}


def test_an_organ_names_what_is_found_where_the_sentences_speak_of_it() -> None:
    own = RunParameters(organ="Pulmonary", modality="CT")
    assert own.namedOrgan == "Pulmonary"
    for normal, abnormal in (("Lungs of a smoker", "Smoker with a nodule"), ("A chest", "Pulmonary nodule")):
        assert replace(own, normal=normal, abnormal=abnormal).namedOrgan == "Pulmonary"
    thigh = {"normal": "muscle of the thigh", "abnormal": "sarcoma of the thigh"}
    assert replace(own, **thigh).namedOrgan == "" == RunParameters(**thigh).namedOrgan
    assert RunParameters(organ="thigh", **thigh).namedOrgan == "thigh", "also one that is not built in"
    assert RunParameters(organ="soft tissue", **thigh).namedOrgan == "soft tissue", "by a synonym"
    assert replace(own, normal="no lung", abnormal="lung nodule").namedOrgan == "", "no run will take these"


def test_the_wish_becomes_overrides_of_the_library() -> None:
    wish = RunParameters(organ="lung", steps=7, seed=3, dilationMm=2.5, candidateThreshold=0.3, refinementThreshold=0.0)
    assert load_config("mini").masks.floor == wish.config().masks.floor > 0.25
    wish = replace(wish, candidateFloor=0.25)
    config = wish.config()
    assert (config.inpainting.steps, config.runtime.seed, config.masks.dilation_mm) == (7, 3, 2.5)
    assert (config.masks.threshold, config.masks.floor, config.residual.rule) == (0.3, 0.25, "otsu")
    assert load_config("maisi-ct").residual.rule == "otsu"
    config = RunParameters(organ="lung", preset="maisi-ct", refinementThreshold=0.6).config()
    assert (config.residual.rule, config.residual.threshold) == ("fixed", 0.6)


@pytest.mark.parametrize("rule", ["fixed", "relative"])
def test_a_threshold_of_the_refined_mask_is_meant_as_the_preset_means_its_own(
    rule: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "Presets").mkdir()
    (tmp_path / "Presets" / "ours.json").write_text(f'{{"residual": {{"rule": "{rule}", "threshold": 0.3}}}}')
    monkeypatch.setattr("DiffuGTSLib.config.resource_path", tmp_path.joinpath)
    config = RunParameters(organ="lung", preset="ours", refinementThreshold=0.6).config()
    assert (config.residual.rule, config.residual.threshold) == (rule, 0.6)


CODES_WITHOUT_STEP = re.compile(r'code="([a-z_]+)"')


def test_every_code_has_a_next_step() -> None:
    library = Path(protocol.__file__).resolve().parents[1]
    sources = [path.read_text(encoding="utf-8") for path in library.rglob("*.py")]
    codes = {code for text in sources for code in CODES_WITHOUT_STEP.findall(text)} | set(protocol.CODES) | {"crashed"}
    for code in codes:
        failure = failureOf(code, "What is wrong.", "do this")
        assert failure.nextStep and failure.text().startswith("What is wrong.\n")
    for code in (*protocol.CODES, "crashed", "geometry", "empty_candidate"):
        assert failureOf(code, "x", "" if code in nextSteps() else "y").nextStep != nextSteps()["error"], code


def test_a_step_of_the_command_line_is_not_told_in_the_panel() -> None:
    for hint in ("use --device cpu.", "see `diffugts doctor`."):
        assert "Advanced" in failureOf("config", "No GPU.", hint).nextStep
        assert hint not in failureOf("a_new_code", "What.", hint).nextStep
    assert failureOf("a_new_code", "What.", "wait.").nextStep == "Next step: wait."


def test_progress_is_weighed_by_how_long_stages_took() -> None:
    now = [0.0]
    progress = RunProgress(lambda: now[0])
    progress.learn({"load": 1, "read": 1, "aova": 6, "repaint": 10, "residual": 1, "write back": 0.5, "write": 0.5})
    progress.begin()
    assert progress.share == 0 and progress.leftS is None
    progress.update("repaint", 0.5)
    now[0] = 13.0
    assert progress.share == pytest.approx(13 / 20)
    assert progress.leftS == pytest.approx(7.0)
    progress.update("unknown", 0.9)
    assert progress.stage == "repaint"
    progress.begin(skip=("aova",))
    progress.update("repaint", 0.0)
    assert progress.share == pytest.approx(2 / 14)
    assert timeLeft(7) == "about 5 s left" and timeLeft(150) == "about 2 min left" and timeLeft(None) == ""


def test_the_job_says_where_to_look(a_small_scan: Any, a_logic: DiffuGTSLogic) -> None:
    roi = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "Box")
    roi.SetSize(60, 60, 40)
    roi.SetCenter(0, 0, 0)
    run = a_logic.process(a_small_scan, tiny(roi=roi, keepFiles=True))
    assert run.state == DONE, run.failure
    job = protocol.read_job(run.folder)
    assert job.region and (run.folder / job.region).exists()
    shutil.rmtree(run.folder)
