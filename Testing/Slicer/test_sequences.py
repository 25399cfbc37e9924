"""Scans over time: one volume of a sequence is a scan, the sequence itself and what has many values a voxel are not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gui
import numpy as np
import pytest
import slicer
from DiffuGTSSlicer.logic import DiffuGTSLogic
from DiffuGTSSlicer.parameters import RunParameters
from DiffuGTSSlicer.run import DONE, FAILED
from DiffuGTSSlicer.scene import SCAN_ROLE
from DiffuGTSSlicer.worker_client import WorkerClient
from scene_parts import OBLIQUE, matrix_of, noise, scan_node

from DiffuGTSLib.errors import InputError
from DiffuGTSLib.volumes import read_volume
from DiffuGTSLib.worker import protocol

SCRIPT = Path(__file__).parent / "scripted_worker.py"
WISH = RunParameters(organ="lung", modality="CT", keepFiles=True)


@pytest.fixture
def a_logic(a_scene: Any, a_qt_application: Any, tmp_path: Path) -> Iterator[DiffuGTSLogic]:
    steps = tmp_path / "steps.json"
    steps.write_text(json.dumps([["artifact", "aova"], ["sleep", 0.2], ["artifact", "segmentation"], ["done"]]))
    logic = DiffuGTSLogic(client=WorkerClient(arguments=[str(SCRIPT), "", str(steps)]))
    yield logic
    logic.cleanup()
    assert gui.spin(lambda: not logic.client.isWarm, 10)


@pytest.fixture
def a_sequence(a_scene: Any) -> tuple[Any, Any]:
    """A browser at the first of two time points, and its proxy volume."""
    sequence = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceNode", "Cine")
    for seed in range(2):
        node = scan_node(OBLIQUE, noise(OBLIQUE, seed), f"Time {seed}")
        sequence.SetDataNodeAtValue(node, str(seed))
        slicer.mrmlScene.RemoveNode(node)
    browser = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceBrowserNode", "Browser")
    browser.SetAndObserveMasterSequenceNodeID(sequence.GetID())
    return browser, browser.GetProxyNode(sequence)


def test_the_time_point_that_is_shown_is_a_scan_and_results_belong_to_it(
    a_logic: DiffuGTSLogic, a_sequence: tuple[Any, Any]
) -> None:
    browser, proxy = a_sequence
    browser.SetSelectedItemNumber(1)
    slicer.modules.sequences.logic().UpdateProxyNodesFromSequences(browser)
    run = a_logic.process(proxy, WISH)
    assert run.state == DONE, run.failure
    sent = read_volume(run.folder / protocol.SCAN_FILE)
    assert np.array_equal(sent.array, noise(OBLIQUE, 1)), "the second, not the first"
    for kind in ("aova", "segmentation"):
        assert proxy.GetName() in run.nodes[kind].GetName()
        assert run.nodes[kind].GetNodeReference(SCAN_ROLE) is proxy
    assert np.array_equal(matrix_of(run.nodes["aova"]), matrix_of(proxy))
    run.parameters = RunParameters()
    run.removeFolder()


def test_a_browser_that_plays_on_during_the_run_changes_nothing_of_it(
    a_logic: DiffuGTSLogic, a_sequence: tuple[Any, Any]
) -> None:
    browser, proxy = a_sequence

    def play(event: dict[str, Any]) -> None:
        if event["event"] == "imported":
            browser.SetSelectedItemNumber(1)
            slicer.modules.sequences.logic().UpdateProxyNodesFromSequences(browser)

    run = a_logic.process(proxy, RunParameters(organ="lung", modality="CT"), onEvent=play)
    assert run.state == DONE, run.failure
    assert set(run.nodes) == {"aova", "segmentation"}
    assert a_logic.process(proxy, RunParameters(organ="lung", modality="CT")).cacheKey != run.cacheKey


def test_what_has_many_values_a_voxel_is_refused_with_a_way_out(a_logic: DiffuGTSLogic) -> None:
    rgb = np.zeros((3, 4, 5, 3), np.uint8)
    color = slicer.util.addVolumeFromArray(rgb, name="RGB", nodeClassName="vtkMRMLVectorVolumeNode")
    with pytest.raises(InputError, match="'RGB' is a VectorVolume; expected a scalar volume") as refused:
        a_logic.process(color, WISH)
    assert "of a series over time extract one volume" in refused.value.hint and refused.value.code == "components"
    sequence = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceNode", "Cine")
    with pytest.raises(InputError, match="'Cine' is a Sequence") as refused:
        a_logic.process(sequence, WISH)
    assert "one volume" in refused.value.hint and not a_logic.client.isWarm


def test_a_batch_names_the_one_that_is_no_scan_and_does_the_others(a_logic: DiffuGTSLogic) -> None:
    sequence = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceNode", "Cine")
    scan = scan_node(OBLIQUE, noise(OBLIQUE))
    batch = a_logic.processMany([sequence, scan], RunParameters(organ="lung", modality="CT"))
    assert [case.status for case in batch.cases] == [FAILED, DONE]
    assert "expected a scalar volume" in batch.cases[0].message
