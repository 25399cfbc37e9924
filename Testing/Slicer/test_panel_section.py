"""Widgets and parameter node say the same, whichever of them changes."""

from __future__ import annotations

import pytest
import slicer
from DiffuGTSSlicer.parameters import RunParameters
from panel_parts import Opened

from DiffuGTSLib.config import load_config
from DiffuGTSLib.resources import resource_path

pytest_plugins = ["panel_fixtures"]


def test_every_bound_name_is_one_of_the_parameter_node(a_panel: Opened) -> None:
    import xml.etree.ElementTree as ET

    names = [
        each.findtext("string")
        for each in ET.parse(resource_path("UI", "DiffuGTS.ui")).iter("property")
        if each.get("name") == "SlicerParameterName"
    ]
    assert len(names) == len(set(names)) > 12
    assert [name for name in names if not hasattr(a_panel.state, name)] == []


@pytest.mark.parametrize(
    ("widget", "value", "name"),
    [
        ("stepsSpinBox", 23, "steps"),
        ("seedSpinBox", 5, "seed"),
        ("candidateThresholdSlider", 0.31, "candidateThreshold"),
        ("candidateFloorSlider", 0.45, "candidateFloor"),
        ("dilationSlider", 2.5, "dilationMm"),
        ("refinementThresholdSlider", 0.61, "refinementThreshold"),
        ("opacitySlider", 0.35, "opacity"),
        ("overlayThresholdSlider", 0.77, "overlayThreshold"),
    ],
)
def test_numbers_are_bound_both_ways(a_panel: Opened, widget: str, value: float, name: str) -> None:
    before = getattr(a_panel.state, name)
    getattr(a_panel.ui, widget).value = value
    assert getattr(a_panel.state, name) == pytest.approx(value)
    setattr(a_panel.state, name, before)
    assert getattr(a_panel.ui, widget).value == pytest.approx(before)


@pytest.mark.parametrize("end", ["minimum", "maximum"])
@pytest.mark.parametrize(
    "widget",
    ["stepsSpinBox", "seedSpinBox", "candidateThresholdSlider", "candidateFloorSlider", "dilationSlider",
     "refinementThresholdSlider"],
)  # fmt: skip
def test_the_library_takes_what_a_slider_can_show(a_panel: Opened, widget: str, end: str) -> None:
    bound = getattr(a_panel.ui, widget)
    bound.value = getattr(bound, end)
    assert RunParameters.fromNode(a_panel.state, organ="lung").config().preset == "mini"


@pytest.mark.parametrize("name", ["keepFiles", "autoRefinement", "legend"])
def test_check_boxes_are_bound(a_panel: Opened, name: str) -> None:
    box = getattr(a_panel.ui, f"{name}CheckBox")
    box.checked = not box.checked
    assert getattr(a_panel.state, name) == box.checked


def test_combo_boxes_choose_words_of_the_library(a_panel: Opened) -> None:
    ui, state = a_panel.ui, a_panel.state
    ui.deviceComboBox.setCurrentIndex(1)
    assert state.device == "cpu"
    ui.modalityComboBox.setCurrentIndex(2)
    assert state.modality == "MR" and "MRI" in ui.normalPromptEdit.plainText
    ui.organComboBox.setCurrentIndex(ui.organComboBox.findText("Liver"))
    assert state.organ == "liver" and "liver" in state.abnormalPrompt
    ui.presetComboBox.setCurrentIndex(ui.presetComboBox.findText("maisi-ct"))
    assert state.preset == "maisi-ct" and state.steps == load_config("maisi-ct").inpainting.steps
    assert not ui.candidateFloorSlider.enabled, "this preset does not measure by the highest"
    assert "not installed" in ui.modelLabel.text
    assert ui.presetComboBox.findText("tiny") == -1
    state.device = "cuda"
    assert ui.deviceComboBox.currentIndex == 2


def test_another_organ_segmentation_whose_segments_have_the_same_ids_is_shown_by_its_own_names(a_panel: Opened) -> None:
    box = a_panel.ui.organSegmentComboBox
    for names in (("Liver", "Spleen"), ("Left kidney", "Right kidney")):
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", names[0])
        for number, name in enumerate(names, start=1):
            node.GetSegmentation().AddEmptySegment(f"Segment_{number}", name)
        a_panel.state.organSegmentation = node
        a_panel.state.organSegmentId = "Segment_2"
        assert [box.itemText(index) for index in range(box.count)] == list(names)
        assert box.currentText == names[1]
