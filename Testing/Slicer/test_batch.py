"""Many scans through one worker: one after the other, whatever becomes of each."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gui
import numpy as np
import pytest
import slicer
import vtk_messages
from DiffuGTSSlicer.batch import WAITING, Batch
from DiffuGTSSlicer.logic import DiffuGTSLogic
from DiffuGTSSlicer.parameters import RunParameters
from DiffuGTSSlicer.region import fitRoi, newRoi
from DiffuGTSSlicer.run import CANCELLED, DONE, FAILED
from DiffuGTSSlicer.scene import newSegmentation
from scene_parts import linear_transform, noise, on_disk, scan_node, set_segment_mask, under

from DiffuGTSLib.errors import DiffuGTSError, InputError, PromptError
from DiffuGTSLib.volumes import Geometry

SCRIPT = Path(__file__).parent / "scripted_worker.py"
GRID = Geometry.from_spacing((12, 10, 8), (2.0, 2.0, 3.0))
LUNG = RunParameters(organ="lung", modality="CT")
GOOD = [["artifact", "aova"], ["artifact", "segmentation"], ["artifact", "record"], ["done"]]


@pytest.fixture
def a_logic(a_scene: Any, a_qt_application: Any, tmp_path: Path) -> Iterator[Callable[..., DiffuGTSLogic]]:
    """A logic over a scripted worker that does the same steps for every job."""
    made: list[DiffuGTSLogic] = []

    def make(*steps: list[Any]) -> DiffuGTSLogic:
        (tmp_path / "steps.json").write_text(json.dumps(steps))
        made.append(DiffuGTSLogic())
        made[-1].client.arguments = [str(SCRIPT), "", str(tmp_path / "steps.json")]
        return made[-1]

    yield make
    for logic in made:
        logic.cleanup()
        assert gui.spin(lambda each=logic: not each.client.isWarm)


def scans(count: int) -> list[Any]:
    """Add some small scans."""
    return [scan_node(GRID, noise(GRID, seed), f"Scan {seed}") for seed in range(count)]


def states(batch: Batch) -> list[str]:
    """Return the status of every item."""
    return [item.status for item in batch.items]


def test_every_scan_gets_results_of_its_own_from_one_worker(a_logic) -> None:
    logic = a_logic(*GOOD)
    told, ended = [], []
    nodes = scans(3)
    batch = logic.startBatch(nodes, LUNG, lambda item: told.append((item.name, item.status)), ended.append)
    assert states(batch) == [WAITING] * 3 and logic.isRunning
    assert gui.spin(lambda: ended), states(batch)
    assert ended == [batch] and states(batch) == [DONE] * 3 and not logic.isRunning
    assert told == [(node.GetName(), status) for node in nodes for status in ("running", "done")]
    segmentations = [item.run.nodes["segmentation"] for item in batch.items]
    assert len(set(segmentations)) == 3
    for item, node in zip(batch.items, nodes, strict=True):
        assert item.run.nodes["aova"].GetNodeReference("DiffuGTS.Scan") is node is item.scanNode
        assert item.findingCount == 0 and "findings" in item.message


def test_a_case_that_fails_does_not_stop_the_others(a_logic) -> None:
    logic = a_logic(*GOOD)
    sheared, gone, good = scans(3)
    matrix = GRID.ijk_to_ras.copy()
    matrix[:3, 2] += 0.3 * matrix[:3, 0]
    sheared.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(matrix))
    batch = logic.startBatch([sheared, gone, good], LUNG)
    slicer.mrmlScene.RemoveNode(gone)
    assert gui.spin(lambda: batch.isOver)
    assert states(batch) == [FAILED, FAILED, DONE]
    assert "sheared" in batch.items[0].message and "resample" in batch.items[0].message
    assert "no longer in the scene" in batch.items[1].message


def test_a_scan_that_is_deleted_while_it_is_segmented_leaves_nothing_and_says_so(a_logic) -> None:
    logic = a_logic(["artifact", "aova"], ["artifact", "coarse_mask"], ["sleep", 2], *GOOD)
    first, second = scans(2)
    batch = logic.startBatch([first, second], LUNG)
    assert gui.spin(lambda: logic.run is not None and "coarse_mask" in logic.run.nodes)
    made = list(logic.run.nodes.values())
    slicer.mrmlScene.RemoveNode(first)
    assert gui.spin(lambda: batch.isOver)
    assert not any(slicer.mrmlScene.IsNodePresent(node) for node in made)
    assert states(batch) == [CANCELLED, DONE] and batch.items[0].message == "The scan was deleted."


def test_what_nobody_expected_ends_the_case_and_not_the_panel(a_logic, monkeypatch: pytest.MonkeyPatch) -> None:
    logic = a_logic(*GOOD)
    monkeypatch.setattr("DiffuGTSSlicer.logic.Run", None)
    batch = logic.startBatch(scans(2), LUNG)
    assert gui.spin(lambda: batch.isOver) and not logic.isRunning
    assert states(batch) == [FAILED, FAILED] and "TypeError" in batch.items[0].message
    monkeypatch.undo()
    assert states(logic.processMany(scans(1), LUNG)) == [DONE]


def test_what_the_worker_refuses_is_told_with_the_next_step(a_logic) -> None:
    batch = a_logic(["error", "oom", "Too big.", "Smaller."]).processMany(scans(2), LUNG)
    assert states(batch) == [FAILED, FAILED]
    assert batch.items[0].message.startswith("Too big.\n") and len(batch.items[0].message) > 20


def organOn(scan: Any) -> Any:
    """Outline an organ on a scan and return the segmentation."""
    node = newSegmentation(scan, "Organs")
    node.GetSegmentation().AddEmptySegment("lung", "Lung")
    set_segment_mask(np.ones(GRID.shape[::-1], np.uint8), scan, node, "lung")
    return node


def patient(*nodes: Any) -> None:
    """Put nodes under one study of a patient of their own, as the DICOM module does."""
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    study = hierarchy.CreateStudyItem(hierarchy.CreateSubjectItem(hierarchy.GetSceneItemID(), "Patient"), "Study")
    for node in nodes:
        hierarchy.SetItemParent(hierarchy.GetItemByDataNode(node) or hierarchy.CreateItem(study, node), study)


def test_an_organ_holds_for_two_series_of_its_patient_and_not_for_another_patients_scan(a_logic) -> None:
    first, series, other = scans(3)
    series.SetOrigin(1, 2, 3)
    patient(first, series)
    patient(other)
    batch = a_logic(*GOOD).processMany([first, series, other], replace(LUNG, organSegmentation=organOn(first)))
    assert states(batch) == [DONE, DONE, FAILED]
    message = batch.items[2].message
    assert "'Organs' belongs to 'Scan 0', another patient's scan" in message and "choose those of this scan" in message


def test_a_box_holds_for_the_patient_whose_scan_it_was_fitted_to(a_logic) -> None:
    first, series, other = scans(3)
    series.SetOrigin(1, 2, 3)
    patient(first, series)
    patient(other)
    roi = newRoi(first)
    fitRoi(roi, first)
    batch = a_logic(*GOOD).processMany([first, series, other], replace(LUNG, roi=roi))
    assert states(batch) == [DONE, DONE, FAILED]
    assert f"'{roi.GetName()}' belongs to 'Scan 0', another patient's scan" in batch.items[2].message


def test_where_no_patient_is_known_an_organ_holds_for_the_grid_that_it_was_outlined_on(a_logic) -> None:
    first, alike, elsewhere = scans(3)
    elsewhere.SetOrigin(1, 2, 3)
    batch = a_logic(*GOOD).processMany([first, alike, elsewhere], replace(LUNG, organSegmentation=organOn(first)))
    assert states(batch) == [DONE, DONE, FAILED]
    assert "check that this is the same patient" in batch.items[1].message, "what a single run says, a batch says"
    assert "a scan on another grid; if both are of one patient" in batch.items[2].message


def test_a_worker_that_dies_is_started_again_for_the_next_case(a_logic) -> None:
    logic = a_logic(["sleep", 0.1], ["kill"])
    assert states(logic.processMany(scans(2), LUNG)) == [FAILED, FAILED]
    assert all("memory was full" in item.message for item in logic.batch.items)


def test_a_program_that_cannot_be_started_fails_every_case(a_logic) -> None:
    logic = a_logic(*GOOD)
    logic.client.interpreter = "/nowhere/python"
    assert states(logic.processMany(scans(2), LUNG)) == [FAILED, FAILED]


def test_cancel_stops_the_case_under_way_and_those_that_wait(a_logic) -> None:
    logic = a_logic(["artifact", "aova"], ["stage", "repaint", 0.1], ["sleep", 60])
    ended = []
    batch = logic.startBatch(scans(3), LUNG, onDone=ended.append)
    assert gui.spin(lambda: logic.progress.stage == "repaint")
    logic.cancel()
    assert gui.spin(lambda: ended)
    assert states(batch) == [CANCELLED] * 3 and len(ended) == 1
    assert batch.items[0].run.nodes["aova"].GetAttribute("DiffuGTS.Partial") == "1"


def test_cancel_before_the_first_case_begins_leaves_all_of_them(a_logic) -> None:
    ended = []
    batch = a_logic(*GOOD).startBatch(scans(2), LUNG, onDone=ended.append)
    batch.cancel()
    assert gui.spin(lambda: ended) and states(batch) == [CANCELLED] * 2


def test_a_closing_scene_cancels_the_batch(a_logic) -> None:
    logic = a_logic(["stage", "repaint", 0.1], ["sleep", 60])
    batch = logic.startBatch(scans(2), LUNG)
    assert gui.spin(lambda: logic.progress.stage == "repaint")
    slicer.mrmlScene.Clear()
    assert gui.spin(lambda: batch.isOver) and states(batch) == [CANCELLED] * 2


def test_files_are_loaded_when_their_turn_comes(a_logic, tmp_path: Path) -> None:
    path = on_disk(GRID, noise(GRID), tmp_path / "scan.nrrd")
    garbled = tmp_path / "garbled.nrrd"
    garbled.write_text("no image")
    batch = a_logic(*GOOD).processMany([path, garbled, str(tmp_path / "missing.nrrd")], LUNG)
    vtk_messages.forget()
    assert states(batch) == [DONE, FAILED, FAILED]
    assert batch.items[0].scanNode.GetName() == "scan"
    assert "cannot be loaded" in batch.items[1].message and "does not exist" in batch.items[2].message


def test_the_table_tells_every_case(a_logic) -> None:
    batch = a_logic(*GOOD).processMany(scans(2), LUNG)
    head, first, _second = batch.table()
    assert head[:3] == ("Scan", "Status", "Findings") and first[:4] == ("Scan 0", "done", "0", "0.00")
    node = batch.tableNode()
    assert (node.GetNumberOfRows(), node.GetNumberOfColumns()) == (2, len(head))
    assert node.GetCellText(1, 0) == "Scan 1"


def test_the_tables_volumes_are_those_of_the_world(a_logic) -> None:
    first, second = scans(2)
    under(second, linear_transform(np.diag([2.0, 2.0, 2.0, 1.0])))
    found = [{"volume_ml": 1.5}, {"volume_ml": 0.25}]
    batch = a_logic(*GOOD[:-1], ["done", found]).processMany([first, second], LUNG)
    assert [row[2:4] for row in batch.table()[1:]] == [("2", "1.75"), ("2", "14.00")]


def test_a_batch_refuses_what_no_case_could_survive(a_logic) -> None:
    logic = a_logic(["sleep", 60])
    with pytest.raises(InputError) as refused:
        logic.startBatch([], LUNG)
    assert refused.value.code == "no_scan" and not logic.isRunning
    with pytest.raises(PromptError):
        logic.startBatch(scans(1), RunParameters(organ="heart"))
    logic.startBatch(scans(1), LUNG)
    for start in (logic.startBatch, logic.process):
        with pytest.raises(DiffuGTSError) as busy:
            start(scans(1)[0:1] if start == logic.startBatch else scans(1)[0], LUNG)
        assert busy.value.code == "busy"
