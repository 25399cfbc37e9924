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
from DiffuGTSSlicer.grids import segmentMask
from DiffuGTSSlicer.logic import DiffuGTSLogic
from DiffuGTSSlicer.parameters import RunParameters
from DiffuGTSSlicer.run import DONE, FAILED
from DiffuGTSSlicer.scene import SCAN_ROLE
from DiffuGTSSlicer.time_point import nameWithTime, timePointOf, timePointOfResult
from panel_parts import GRID, Opened
from scene_parts import OBLIQUE, matrix_of, noise, scan_node

from DiffuGTSLib.errors import InputError
from DiffuGTSLib.volumes import Geometry, read_volume
from DiffuGTSLib.worker import protocol

pytest_plugins = ["panel_fixtures"]

SCRIPT = Path(__file__).parent / "scripted_worker.py"
WISH = RunParameters(organ="lung", modality="CT", keepFiles=True)


@pytest.fixture
def a_logic(a_scene: Any, a_qt_application: Any, tmp_path: Path) -> Iterator[DiffuGTSLogic]:
    steps = tmp_path / "steps.json"
    steps.write_text(json.dumps([["artifact", "aova"], ["sleep", 0.2], ["artifact", "segmentation"], ["done"]]))
    logic = DiffuGTSLogic()
    logic.client.arguments = [str(SCRIPT), "", str(steps)]
    yield logic
    logic.cleanup()
    assert gui.spin(lambda: not logic.client.isWarm)


def sequenceOn(geometry: Geometry) -> tuple[Any, Any]:
    """Return a browser at the first of two time points, and its proxy volume."""
    sequence = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceNode", "Cine")
    for seed in range(2):
        node = scan_node(geometry, noise(geometry, seed), f"Time {seed}")
        sequence.SetDataNodeAtValue(node, str(seed))
        slicer.mrmlScene.RemoveNode(node)
    browser = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceBrowserNode", "Browser")
    browser.SetAndObserveMasterSequenceNodeID(sequence.GetID())
    return browser, browser.GetProxyNode(sequence)


def scroll(browser: Any, item: int) -> None:
    browser.SetSelectedItemNumber(item)
    slicer.modules.sequences.logic().UpdateProxyNodesFromSequences(browser)


@pytest.fixture
def a_sequence(a_scene: Any) -> tuple[Any, Any]:
    return sequenceOn(OBLIQUE)


def test_the_time_point_that_is_shown_is_a_scan_and_results_belong_to_it(
    a_logic: DiffuGTSLogic, a_sequence: tuple[Any, Any]
) -> None:
    browser, proxy = a_sequence
    scroll(browser, 1)
    run = a_logic.process(proxy, WISH)
    assert run.state == DONE, run.failure
    sent = read_volume(run.folder / protocol.SCAN_FILE)
    assert np.array_equal(sent.array, noise(OBLIQUE, 1)), "the second, not the first"
    for kind in ("aova", "segmentation"):
        assert run.nodes[kind].GetName().startswith("Cine [time=1s] ")
        assert timePointOfResult(run.nodes[kind]) == "1"
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
            scroll(browser, 1)

    run = a_logic.process(proxy, RunParameters(organ="lung", modality="CT"), onEvent=play)
    assert run.state == DONE, run.failure
    assert set(run.nodes) == {"aova", "segmentation"}
    for node in run.nodes.values():
        assert timePointOfResult(node) == "0" and "[time=0s]" in node.GetName(), "what was segmented, not what is shown"
    assert a_logic.process(proxy, RunParameters(organ="lung", modality="CT")).cacheKey != run.cacheKey


def test_after_scrolling_the_change_is_left_open_and_a_run_makes_a_result_of_its_own(a_panel: Opened) -> None:
    browser, proxy = sequenceOn(GRID)
    state, ui = a_panel.state, a_panel.ui
    ui.inputSelector.setCurrentNode(proxy)
    a_panel.segment()
    first = {name: getattr(state, name) for name in ("aova", "pseudoHealthy", "residual", "candidate", "segmentation")}
    mask = segmentMask(state.segmentation, state.tumorSegmentId, proxy)
    change = ui.findingsTable.item(0, 5).text()
    assert change != "–" and "time point" not in ui.syntheticLabel.text

    scroll(browser, 1)
    a_panel.panel.refresh()
    a_panel.settle()
    assert ui.findingsTable.item(0, 5).text() == "–" and ui.findingsTable.item(0, 3).text() != "–"
    assert "another time point" in ui.syntheticLabel.text
    assert first["segmentation"].GetDisplayNode().GetVisibility(), "it is still under review"
    ui.candidateFromThresholdButton.click()
    assert "another time point" in ui.refineMessageLabel.text and state.candidate is first["candidate"]

    a_panel.segment()
    for name, node in first.items():
        assert getattr(state, name) is not node and slicer.mrmlScene.IsNodePresent(node), name
    assert state.segmentation.GetName() == "Cine [time=1s] tumor" and ui.findingsTable.item(0, 5).text() != "–"
    assert np.array_equal(segmentMask(first["segmentation"], "", proxy), mask)
    assert not first["segmentation"].GetDisplayNode().GetVisibility()

    second = state.segmentation
    ui.segmentationSelector.setCurrentNode(first["segmentation"])
    a_panel.settle()
    assert state.segmentation is first["segmentation"] and "another time point" in ui.syntheticLabel.text, "as chosen"
    scroll(browser, 0)
    a_panel.panel.refresh()
    for time, node in ((1, second), (0, first["segmentation"])):
        scroll(browser, time)
        a_panel.panel.refresh()
        a_panel.settle()
        assert state.segmentation is node, "scrolling brings the result of the time point back"
    assert ui.findingsTable.item(0, 5).text() == change and "time point" not in ui.syntheticLabel.text
    a_panel.segment()
    assert all(getattr(state, name) is node for name, node in first.items()), "the same time point is the same scan"


def test_a_name_says_the_time_point_once(a_sequence: tuple[Any, Any]) -> None:
    browser, proxy = a_sequence
    assert nameWithTime(proxy) == "Cine [time=0s]"
    browser.SetOverwriteProxyName(browser.GetMasterSequenceNode(), True)
    scroll(browser, 1)
    assert nameWithTime(proxy) == proxy.GetName() == "Cine [time=1s]"
    still = scan_node(OBLIQUE, noise(OBLIQUE), "Still")
    assert (nameWithTime(still), timePointOf(still), timePointOf(None)) == ("Still", "", "")


def test_what_has_many_values_a_voxel_is_refused_with_a_way_out(a_logic: DiffuGTSLogic) -> None:
    rgb = np.zeros((3, 4, 5, 3), np.uint8)
    color = slicer.util.addVolumeFromArray(rgb, name="RGB", nodeClassName="vtkMRMLVectorVolumeNode")
    with pytest.raises(InputError, match="'RGB' is a VectorVolume; expected a scalar volume") as refused:
        a_logic.process(color, WISH)
    assert "extract one volume of a time series" in refused.value.hint and refused.value.code == "components"
    sequence = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceNode", "Cine")
    with pytest.raises(InputError, match="'Cine' is a Sequence") as refused:
        a_logic.process(sequence, WISH)
    assert "one volume" in refused.value.hint and not a_logic.client.isWarm


def test_a_batch_names_the_one_that_is_no_scan_and_does_the_others(a_logic: DiffuGTSLogic) -> None:
    sequence = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceNode", "Cine")
    scan = scan_node(OBLIQUE, noise(OBLIQUE))
    batch = a_logic.processMany([sequence, scan], RunParameters(organ="lung", modality="CT"))
    assert [item.status for item in batch.items] == [FAILED, DONE]
    assert "expected a scalar volume" in batch.items[0].message
