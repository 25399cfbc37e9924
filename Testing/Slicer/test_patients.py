"""One patient's organ and box are no place to look in for another's tumors; where nobody knows whose they are, it is said."""

from __future__ import annotations

from typing import Any

import pytest
import slicer
from DiffuGTSSlicer.patients import requireOwnRegions
from panel_parts import GRID, PAINTING, Opened
from scene_parts import blob, noise, roi_node, scan_node
from test_batch import patient
from test_panel_synthesis import add_organ, synthesize

from DiffuGTSLib.errors import InputError
from DiffuGTSLib.volumes import Geometry

pytest_plugins = ["panel_fixtures"]
ORGAN = blob(GRID, (18, 17, 10), 9).T


@pytest.fixture
def another_scan(a_coarse_scan: Any) -> Any:
    """A second scan on the same grid."""
    return scan_node(GRID, noise(GRID, 3), "Other")


def test_an_organ_and_a_box_of_another_patient_are_refused_in_a_single_run(
    a_panel: Opened, a_coarse_scan: Any, another_scan: Any
) -> None:
    ui, state = a_panel.ui, a_panel.state
    state.organSegmentation, _ = add_organ(a_coarse_scan, ORGAN)
    patient(a_coarse_scan, state.organSegmentation)
    patient(another_scan)
    ui.fitRoiButton.click()
    a_panel.segment()
    assert state.resultVolume is a_coarse_scan and "belongs to" not in ui.messageLabel.text
    ui.inputSelector.setCurrentNode(another_scan)
    a_panel.segment()
    assert "The organ segment of 'Organs' belongs to 'Scan', another patient's scan." in ui.messageLabel.text
    state.organSegmentation = None
    a_panel.segment()
    assert "The region of interest 'Scan ROI' belongs to 'Scan', another patient's scan." in ui.messageLabel.text
    assert state.resultVolume is a_coarse_scan
    ui.fitRoiButton.click()
    a_panel.segment()
    assert state.resultVolume is another_scan and "belongs to" not in ui.messageLabel.text


def test_nothing_is_painted_into_another_patients_organ(a_panel: Opened, a_coarse_scan: Any, another_scan: Any) -> None:
    state = a_panel.state
    state.organSegmentation, _ = add_organ(a_coarse_scan, ORGAN)
    patient(a_coarse_scan)
    patient(another_scan)
    state.inputVolume, state.synthesisOrgan, state.modality = another_scan, "liver", "CT"
    a_panel.script(*PAINTING)
    synthesize(a_panel)
    assert "another patient's scan" in a_panel.ui.synthesisMessageLabel.text and state.painted is None


def test_where_no_patient_is_known_it_is_said_whose_organ_and_box_were_taken(
    a_panel: Opened, a_coarse_scan: Any, another_scan: Any
) -> None:
    ui, state = a_panel.ui, a_panel.state
    state.organSegmentation, _ = add_organ(a_coarse_scan, ORGAN)
    ui.fitRoiButton.click()
    state.inputVolume = another_scan
    a_panel.segment()
    assert state.resultVolume is another_scan
    for name in ("The organ segment of 'Organs'", "The region of interest 'Scan ROI'"):
        assert f"{name} belongs to 'Scan': check that this is the same patient." in ui.messageLabel.text
    a_panel.script(*PAINTING)
    state.synthesisOrgan, state.modality = "liver", "CT"
    synthesize(a_panel)
    assert "'Organs' belongs to 'Scan': check that" in state.synthesisOutcome
    state.inputVolume, painted = a_coarse_scan, state.painted
    assert requireOwnRegions(a_coarse_scan, state.organSegmentation, state.roi) == []
    painted.SetNodeReferenceID("DiffuGTS.Scan", a_coarse_scan.GetID())
    assert requireOwnRegions(painted, state.organSegmentation, state.roi) == [], "made from the scan"


def test_a_box_that_was_drawn_by_hand_belongs_to_the_scan_that_it_is_first_used_for(a_scene: Any) -> None:
    first, second, series = (scan_node(GRID, noise(GRID, seed), f"Scan {seed}") for seed in range(3))
    patient(first, series)
    patient(second)
    roi = roi_node((40, 40, 40), GRID.ijk_to_ras)
    assert requireOwnRegions(first, roiNode=roi) == requireOwnRegions(series, roiNode=roi) == []
    with pytest.raises(InputError, match="'Box' belongs to 'Scan 0', another patient's scan") as caught:
        requireOwnRegions(second, roiNode=roi)
    assert caught.value.code == "other_patient"


def test_an_organ_that_refers_to_no_scan_is_its_patients(a_scene: Any) -> None:
    first, second = (scan_node(GRID, noise(GRID, seed), f"Scan {seed}") for seed in range(2))
    organs = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Organs")
    assert requireOwnRegions(second, organs) == [], "nobody knows whose it is"
    patient(first, organs)
    patient(second)
    assert requireOwnRegions(first, organs) == []
    with pytest.raises(InputError, match="The organ segment of 'Organs' is another patient's"):
        requireOwnRegions(second, organs)


def test_where_nobody_watches_and_no_patient_is_known_another_grid_is_another_patients(a_scene: Any) -> None:
    scan, alike = (scan_node(GRID, noise(GRID, seed), f"Scan {seed}") for seed in range(2))
    other = Geometry(GRID.shape, GRID.ijk_to_ras @ Geometry.from_spacing(GRID.shape, (1.0, 1.0, 2.0)).ijk_to_ras)
    elsewhere = scan_node(other, noise(other), "Elsewhere")
    roi = roi_node((40, 40, 40), GRID.ijk_to_ras)
    assert requireOwnRegions(scan, roiNode=roi, isWatched=False) == []
    assert requireOwnRegions(alike, roiNode=roi, isWatched=False) == [
        "The region of interest 'Box' belongs to 'Scan 0': check that this is the same patient."
    ]
    with pytest.raises(InputError, match="a scan on another grid; if both are of one patient"):
        requireOwnRegions(elsewhere, roiNode=roi, isWatched=False)
