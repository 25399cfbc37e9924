"""The harness itself: a real scene, pictures of it, and a panel that is bound to a node."""

from __future__ import annotations

import numpy as np
import slicer
import vtk_messages


def test_the_scene_is_real_and_empty(a_scene) -> None:
    assert slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode") == []
    assert slicer.app.layoutManager().sliceViewNames() == ("Red", "Green", "Yellow")
    assert vtk_messages.heard() == []


def test_a_scan_is_drawn_in_its_slice_view(a_demo_scan) -> None:
    slicer.util.setSliceViewerLayers(background=a_demo_scan, fit=True)
    picture = slicer.app.layoutManager().sliceWidget("Red").picture()
    assert picture.shape == (400, 400, 3)
    assert np.ptp(picture) > 200
