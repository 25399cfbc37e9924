"""How runs end when they must: canceled, failed, or without scene or worker; and that nothing is left behind."""

from __future__ import annotations

import gc
import json
import shutil
import time
from pathlib import Path
from typing import Any

import gui
import numpy as np
import pytest
import slicer
from DiffuGTSSlicer.logic import DiffuGTSLogic
from DiffuGTSSlicer.messages import failureOfError
from DiffuGTSSlicer.parameters import RunParameters
from DiffuGTSSlicer.process_tree import killOne
from DiffuGTSSlicer.run import CANCELLED, DONE, FAILED
from logic_parts import EVERYTHING, SCRIPT, TINY, continued, jobFolders, nodeNames, scripted, tiny
from scene_parts import rigid, roi_node
from test_worker_client import isAlive

from DiffuGTSLib.errors import StorageError
from DiffuGTSLib.worker import protocol

pytest_plugins = ["logic_fixtures"]


def cancelDuringDiffusion(logic: DiffuGTSLogic, scan: Any, parameters: RunParameters) -> tuple[Any, float]:
    """Run until the repainting has begun, cancel, and return the run and how long it took to end, in seconds."""
    run = logic.process(scan, parameters, waitForCompletion=False)
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
        parameters = RunParameters(organ="lung", modality="CT", device="cpu", steps=1000, candidateThreshold=0.05)
        run, took = cancelDuringDiffusion(logic, a_demo_scan, parameters)
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
    with pytest.raises(StorageError, match="Cannot create a folder in .*gone") as refused:
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
    assert run.state == CANCELLED and run.isAbandoned
    assert jobFolders() == [] and slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode") == []


def test_deleting_the_scan_drops_the_run_and_deleting_another_node_does_not(
    a_small_scan: Any, a_logic: DiffuGTSLogic
) -> None:
    other = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "Other")
    run = a_logic.process(a_small_scan, tiny(steps=1000), waitForCompletion=False)
    slicer.mrmlScene.RemoveNode(other)
    assert not run.isAbandoned
    assert gui.spin(lambda: "aova" in run.nodes, 120)
    slicer.mrmlScene.RemoveNode(a_small_scan)
    assert run.isAbandoned
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
    a_logic.removeCache()
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
    assert [item.status for item in logic().processMany([a_small_scan], TINY).items] == [DONE]
    begun = logic().process(a_small_scan, TINY, waitForCompletion=False)
    assert gui.spin(lambda: begun.isOver) and begun.state == DONE
    gc.collect()
    assert len(set(workers) - {0}) == 3
    assert gui.spin(lambda: not any(isAlive(each) for each in set(workers) - {0}))
    assert jobFolders() == []
