"""The check before a DICOM export: one sentence for each thing that is missing, and none where nothing is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import slicer
from DiffuGTSSlicer import scene
from DiffuGTSSlicer.dicom_check import checkForDicom
from DiffuGTSSlicer.terminology import terminologyEntry
from phantoms import grid
from scene_parts import blob, linear_transform, noise, rigid, scan_node, set_segment_mask, under

GRID = grid((14, 12, 10), (1.0, 1.0, 2.0))
SEGMENTS = slicer.vtkSlicerSegmentationsModuleLogic


def hierarchy() -> Any:
    return slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)


def put_under_study(node: Any, study: int) -> None:
    hierarchy().SetItemParent(hierarchy().GetItemByDataNode(node), study)


def a_study() -> int:
    patient = hierarchy().CreateSubjectItem(hierarchy().GetSceneItemID(), "Patient")
    return int(hierarchy().CreateStudyItem(patient, "Study"))


@pytest.fixture
def a_scan(a_scene: Any) -> Any:
    """A scan as the DICOM module loads it."""
    node = scan_node(GRID, noise(GRID))
    node.SetAttribute("DICOM.instanceUIDs", "1.2.3 1.2.4")
    put_under_study(node, a_study())
    return node


@pytest.fixture
def a_segmentation(a_scan: Any) -> Any:
    """A reviewed segmentation to which nothing is missing."""
    node = scene.newSegmentation(a_scan, "Tumor")
    node.GetSegmentation().AddEmptySegment("tumor", "Lung tumor")
    set_segment_mask(blob(GRID, (7, 6, 5), 3).T, a_scan, node, "tumor")
    segment = node.GetSegmentation().GetSegment("tumor")
    segment.SetTerminology(terminologyEntry("lung", "tumor"))
    SEGMENTS.SetSegmentStatus(segment, SEGMENTS.Completed)
    return node


def test_where_nothing_is_missing_nothing_is_said(a_segmentation: Any) -> None:
    check = checkForDicom(a_segmentation)
    assert check.missing == check.advice == () and check.text() == ""


def test_a_scan_without_a_patient_and_a_study(a_segmentation: Any, a_scan: Any) -> None:
    for node in (a_scan, a_segmentation):
        put_under_study(node, hierarchy().GetSceneItemID())
    [words] = checkForDicom(a_segmentation).missing
    assert "no patient and study" in words and "Data module" in words


def test_a_study_without_a_patient(a_segmentation: Any, a_scan: Any) -> None:
    study = hierarchy().CreateStudyItem(hierarchy().GetSceneItemID(), "Alone")
    for node in (a_scan, a_segmentation):
        put_under_study(node, study)
    assert "no patient and study" in checkForDicom(a_segmentation).missing[0]


def test_scan_and_segmentation_in_different_studies(a_segmentation: Any) -> None:
    put_under_study(a_segmentation, a_study())
    [words] = checkForDicom(a_segmentation).missing
    assert "different studies" in words


def test_a_scan_that_was_not_loaded_from_dicom(a_segmentation: Any, a_scan: Any) -> None:
    a_scan.RemoveAttribute("DICOM.instanceUIDs")
    [words] = checkForDicom(a_segmentation).missing
    assert "'Scan' was not loaded from DICOM" in words


def test_a_segmentation_that_refers_to_no_scan(a_segmentation: Any) -> None:
    a_segmentation.SetNodeReferenceID(scene.SCAN_ROLE, None)
    a_segmentation.SetNodeReferenceID(a_segmentation.GetReferenceImageGeometryReferenceRole(), None)
    words = " ".join(checkForDicom(a_segmentation).missing)
    assert "has no reference volume" in words and "nothing to export" in words


def test_a_segmentation_that_only_we_know_the_scan_of(a_segmentation: Any) -> None:
    a_segmentation.SetNodeReferenceID(a_segmentation.GetReferenceImageGeometryReferenceRole(), None)
    assert a_segmentation.GetNodeReference(scene.SCAN_ROLE) is not None
    [words] = checkForDicom(a_segmentation).missing
    assert "has no reference volume" in words


class Database:
    """Answers as Slicer's DICOM database: a file's path, or an empty string."""

    def __init__(self, *known: str) -> None:
        self.known = known

    def fileForInstance(self, uid: str) -> str:
        """Return where an image lies."""
        return f"/dicom/{uid}.dcm" if uid in self.known else ""


def test_images_that_the_database_does_not_hold_are_counted(
    a_segmentation: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slicer, "dicomDatabase", Database("1.2.3", "1.2.4"), raising=False)
    assert checkForDicom(a_segmentation).missing == ()
    monkeypatch.setattr(slicer, "dicomDatabase", Database("1.2.3"))
    [words] = checkForDicom(a_segmentation).missing
    assert words.startswith("Slicer's DICOM database lacks 1 images of 'Scan'.") and "Import its series" in words


def test_a_segmentation_under_a_transform(a_segmentation: Any) -> None:
    under(a_segmentation, linear_transform(rigid((0, 0, 10), (0, 0, 0))))
    [words] = checkForDicom(a_segmentation).missing
    assert "has a parent transform" in words


def test_segments_that_hold_nothing(a_segmentation: Any, a_scan: Any) -> None:
    set_segment_mask(np.zeros(GRID.shape[::-1], np.uint8), a_scan, a_segmentation, "tumor")
    [words] = checkForDicom(a_segmentation).missing
    assert "nothing to export" in words


def test_a_segment_without_terminology_is_named(a_segmentation: Any) -> None:
    a_segmentation.GetSegmentation().GetSegment("tumor").SetTerminology("~^^~^^~^^~~^^~^^")
    check = checkForDicom(a_segmentation)
    assert check.missing == ("No terminology: Lung tumor. Set it in the Segmentations module.",)


def test_a_place_left_open_and_a_draft_are_advice_and_stop_nothing(a_segmentation: Any) -> None:
    segment = a_segmentation.GetSegmentation().GetSegment("tumor")
    segment.SetTerminology(terminologyEntry("somewhere", "tumor"))
    SEGMENTS.SetSegmentStatus(segment, SEGMENTS.InProgress)
    check = checkForDicom(a_segmentation)
    assert check.missing == ()
    assert [words.split(":")[0] for words in check.advice] == ["No anatomic region", "Still a draft"]
    assert check.text().count("•") == 2


def test_what_is_hidden_is_named_since_a_tumor_must_not_be_exported_twice(a_segmentation: Any, a_scan: Any) -> None:
    segmentation = a_segmentation.GetSegmentation()
    segmentation.AddEmptySegment("earlier", "Lung tumor (edited)")
    set_segment_mask(blob(GRID, (7, 6, 5), 2).T, a_scan, a_segmentation, "earlier")
    earlier = segmentation.GetSegment("earlier")
    earlier.SetTerminology(terminologyEntry("lung", "tumor"))
    SEGMENTS.SetSegmentStatus(earlier, SEGMENTS.Completed)
    a_segmentation.GetDisplayNode().SetSegmentVisibility("earlier", False)
    check = checkForDicom(a_segmentation)
    assert check.missing == ()
    assert check.advice == (
        "Hidden: Lung tumor (edited). Remove segments that should not be exported in the Segment Editor.",
    )
