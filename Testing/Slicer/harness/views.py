"""Slice and 3D views without a window, drawn by Slicer's own displayable managers into numpy arrays.

A view costs little until its first picture: only then a render window is made. EGL or OSMesa draw it, whichever
`VTK_DEFAULT_OPENGL_WINDOW` names.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import slicer
import vtk
from numpy.typing import NDArray
from vtk.util.numpy_support import vtk_to_numpy

SLICE_MANAGERS = (
    "vtkMRMLModelSliceDisplayableManager",
    "vtkMRMLCrosshairDisplayableManager",
    "vtkMRMLOrientationMarkerDisplayableManager",
    "vtkMRMLRulerDisplayableManager",
    "vtkMRMLScalarBarDisplayableManager",
    "vtkMRMLSegmentationsDisplayableManager2D",
    "vtkMRMLMarkupsDisplayableManager",
    "vtkMRMLTransformsDisplayableManager2D",
    "vtkMRMLColorLegendDisplayableManager",
)
THREED_MANAGERS = (
    "vtkMRMLCameraDisplayableManager",
    "vtkMRMLViewDisplayableManager",
    "vtkMRMLModelDisplayableManager",
    "vtkMRMLThreeDReformatDisplayableManager",
    "vtkMRMLCrosshairDisplayableManager3D",
    "vtkMRMLOrientationMarkerDisplayableManager",
    "vtkMRMLRulerDisplayableManager",
    "vtkMRMLSegmentationsDisplayableManager3D",
    "vtkMRMLMarkupsDisplayableManager",
    "vtkMRMLTransformsDisplayableManager3D",
    "vtkMRMLVolumeRenderingDisplayableManager",
    "vtkMRMLColorLegendDisplayableManager",
)
SIZE = (400, 400)

Picture = NDArray[np.uint8]
"""(row, column, red green blue), the first row on top."""


class View:
    """What slice and 3D views have in common: a render window and the displayable managers in it."""

    factory: type
    managers: tuple[str, ...]

    def __init__(self, node: vtk.vtkObject) -> None:
        self.node = node
        self.size = SIZE
        self.window: vtk.vtkRenderWindow | None = None
        self.renderer: vtk.vtkRenderer | None = None
        self.group: vtk.vtkObject | None = None

    def close(self) -> None:
        """Let go of the window and of the node."""
        if self.group is not None:
            self.group.SetMRMLDisplayableNode(None)
            self.group.SetRenderer(None)
            self.window.Finalize()
        self.window = self.renderer = self.group = None
        if slicer.mrmlScene.GetNodeByID(self.node.GetID() or "") is self.node:
            slicer.mrmlScene.RemoveNode(self.node)

    def resize(self, width: int, height: int) -> None:
        """Set the size in pixels."""
        self.size = (width, height)
        if self.window is not None:
            self.window.SetSize(width, height)

    def _open(self) -> None:
        if self.window is not None:
            return
        self.window = vtk.vtkRenderWindow()
        self.window.SetOffScreenRendering(1)
        self.window.SetMultiSamples(0)
        self.window.SetSize(*self.size)
        self.renderer = vtk.vtkRenderer()
        self.window.AddRenderer(self.renderer)
        self._interactor = vtk.vtkRenderWindowInteractor()
        self._interactor.SetRenderWindow(self.window)
        self._interactor.SetInteractorStyle(vtk.vtkInteractorStyleUser())
        self._interactor.Initialize()
        self._furnish()
        factory = self.factory.GetInstance()
        for name in self.managers:
            if not factory.IsDisplayableManagerRegistered(name):
                factory.RegisterDisplayableManager(name)
        self.group = slicer.vtkMRMLDisplayableManagerGroup()
        self.group.Initialize(factory, self.renderer)
        self.group.SetMRMLDisplayableNode(self.node)

    def _furnish(self) -> None:
        """Prepare the renderer, before the displayable managers come."""

    def forceRender(self) -> None:
        """Draw."""
        self._open()
        self.window.Render()

    scheduleRender = forceRender

    def picture(self) -> Picture:
        """Draw and return the pixels."""
        self.forceRender()
        grab = vtk.vtkWindowToImageFilter()
        grab.SetInput(self.window)
        grab.SetInputBufferTypeToRGB()
        grab.ReadFrontBufferOff()
        grab.Update()
        image = grab.GetOutput()
        width, height, _ = image.GetDimensions()
        pixels = vtk_to_numpy(image.GetPointData().GetScalars()).reshape(height, width, 3)
        return np.ascontiguousarray(pixels[::-1])

    def save(self, path: Path) -> Picture:
        """Draw, write a PNG file and return the pixels."""
        from PIL import Image

        pixels = self.picture()
        Image.fromarray(pixels).save(path)
        return pixels

    def renderWindow(self) -> vtk.vtkRenderWindow:
        """Return the render window."""
        self._open()
        return self.window


class SliceView(View):
    """A slice view: the blended layers, segmentations, color legends, markups."""

    factory = slicer.vtkMRMLSliceViewDisplayableManagerFactory
    managers = SLICE_MANAGERS

    def __init__(self, node: vtk.vtkObject, application_logic: vtk.vtkObject) -> None:
        super().__init__(node)
        self._application_logic = application_logic
        self._logic = slicer.vtkMRMLSliceLogic()
        self._logic.SetMRMLApplicationLogic(application_logic)
        self._logic.SetMRMLScene(slicer.mrmlScene)
        self._logic.SetSliceNode(node)
        application_logic.GetSliceLogics().AddItem(self._logic)
        self._logic.ResizeSliceNode(*self.size)

    def close(self) -> None:
        """Let go of the window, the logic and the nodes."""
        composite = self.mrmlSliceCompositeNode()
        self._application_logic.GetSliceLogics().RemoveItem(self._logic)
        super().close()
        if composite is not None and composite.GetScene() is not None:
            slicer.mrmlScene.RemoveNode(composite)
        self._logic.SetMRMLScene(None)

    def resize(self, width: int, height: int) -> None:
        """Set the size in pixels and what of the world fits into it."""
        super().resize(width, height)
        self._logic.ResizeSliceNode(width, height)

    def sliceLogic(self) -> vtk.vtkObject:
        """Return the logic that blends the layers."""
        return self._logic

    def sliceView(self) -> SliceView:
        """Return the view, which in Slicer lies in a frame with a controller."""
        return self

    def sliceController(self) -> SliceController:
        """Return the part of the controller that is offered here."""
        return SliceController(self)

    def mrmlSliceNode(self) -> vtk.vtkObject:
        """Return the node with plane and size."""
        return self.node

    def mrmlSliceCompositeNode(self) -> vtk.vtkObject:
        """Return the node with the layers."""
        return self._logic.GetSliceCompositeNode()

    def fitSliceToBackground(self) -> None:
        """Show the whole background."""
        self._logic.FitSliceToBackground()

    def _furnish(self) -> None:
        # No displayable manager draws the layers: in Slicer a CTK widget does.
        self.renderer.GetActiveCamera().ParallelProjectionOn()
        overlay = vtk.vtkRenderer()
        overlay.SetLayer(1)
        overlay.GetActiveCamera().ParallelProjectionOn()
        self.window.SetNumberOfLayers(2)
        self.window.AddRenderer(overlay)
        self._mapper = vtk.vtkImageMapper()
        self._mapper.SetColorWindow(255)
        self._mapper.SetColorLevel(127.5)
        self._layers = vtk.vtkActor2D()
        self._layers.SetMapper(self._mapper)
        self._layers.GetProperty().SetDisplayLocationToBackground()

    def forceRender(self) -> None:
        """Draw, the layers first."""
        self._open()
        blended = self._logic.GetImageDataConnection()
        if blended is not None:
            self._mapper.SetInputConnection(blended)
            if not self.renderer.HasViewProp(self._layers):
                self.renderer.AddViewProp(self._layers)
        self._layers.SetVisibility(blended is not None)
        super().forceRender()


class SliceController:
    """What scripts ask of the bar above a slice view."""

    def __init__(self, view: SliceView) -> None:
        self._view = view

    def fitSliceToBackground(self) -> None:
        """Show the whole background."""
        self._view.fitSliceToBackground()

    def setSliceVisible(self, visible: bool) -> None:
        """Show the slice in the 3D views."""
        self._view.node.SetSliceVisible(visible)


class ThreeDView(View):
    """A 3D view: segmentations, models, markups, slices that are shown in 3D, volume rendering."""

    factory = slicer.vtkMRMLThreeDViewDisplayableManagerFactory
    managers = THREED_MANAGERS

    def _furnish(self) -> None:
        self.renderer.GradientBackgroundOn()

    def threeDView(self) -> ThreeDView:
        """Return the view, which in Slicer lies in a frame with a controller."""
        return self

    def mrmlViewNode(self) -> vtk.vtkObject:
        """Return the node of the view."""
        return self.node

    def resetFocalPoint(self) -> None:
        """Frame everything; without a picture yet there is nothing to frame."""
        self.forceRender()  # actors exist only after the first picture
        self.renderer.ResetCamera()

    def lookFrom(self, direction: str) -> None:
        """Look from Anterior, Posterior, Left, Right, Superior or Inferior, and frame everything."""
        self._open()
        self.node.SetBoxVisible(False)
        self.node.SetAxisLabelsVisible(False)
        self.forceRender()
        self.camera().RotateTo(getattr(slicer.vtkMRMLCameraNode, direction))
        self.renderer.ResetCamera()

    def camera(self) -> Any:
        """Return the camera's node."""
        return self.group.GetDisplayableManagerByClassName("vtkMRMLCameraDisplayableManager").GetCameraNode()
