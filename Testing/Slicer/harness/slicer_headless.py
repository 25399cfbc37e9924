"""The real MRML core of 3D Slicer (package `slicer-core`) without the application around it.

After `boot()` these answer as they do inside Slicer: `slicer.mrmlScene`, `slicer.util`, `slicer.modules.<name>.logic()`,
`slicer.app.applicationLogic()`, `.coreIOManager()` and `.layoutManager()`. What the wheel lacks comes from `standins/`
(always) and from `fallback/`, or from a Slicer source tree where the environment variable SLICER_SOURCE_DIR names one.
"""

from __future__ import annotations

import os
import sys
import tempfile
import types
from pathlib import Path

import application
import color_files
import slicer
import slicer.util
import vtk
import vtk_messages

HERE = Path(__file__).parent

LOGICS = {
    "Terminologies": "vtkSlicerTerminologiesModuleLogic",
    "SubjectHierarchy": "vtkSlicerSubjectHierarchyModuleLogic",
    "Colors": "vtkSlicerColorLogic",
    "Volumes": "vtkSlicerVolumesLogic",
    "Segmentations": "vtkSlicerSegmentationsModuleLogic",
    "Models": "vtkSlicerModelsLogic",
    "Markups": "vtkSlicerMarkupsLogic",
    "CropVolume": "vtkSlicerCropVolumeLogic",
    "VolumeRendering": "vtkSlicerVolumeRenderingLogic",
    "Data": "vtkSlicerDataModuleLogic",
    "Transforms": "vtkSlicerTransformLogic",
    "Tables": "vtkSlicerTablesLogic",
    "Texts": "vtkSlicerTextsLogic",
    "Plots": "vtkSlicerPlotsLogic",
    "Units": "vtkSlicerUnitsLogic",
    "Sequences": "vtkSlicerSequencesLogic",
}
"""Module by class of its logic. Terminologies first: segmentations ask them."""

IN_SUBJECT_HIERARCHY = (
    "vtkMRMLVolumeNode",
    "vtkMRMLSegmentationNode",
    "vtkMRMLModelNode",
    "vtkMRMLMarkupsNode",
    "vtkMRMLTransformNode",
    "vtkMRMLTableNode",
    "vtkMRMLTextNode",
)
"""What a plugin of the application (not in the wheel) gives an item of the subject hierarchy as soon as it is added."""


def boot() -> types.ModuleType:
    """Make the scene and its logics, once a process, and return `slicer`."""
    if hasattr(slicer, "mrmlScene"):
        return slicer
    vtk_messages.listen()
    scene = slicer.mrmlScene = slicer.vtkMRMLScene()
    _name_spaces()
    slicer.app = application.Application(scene, share=_share())
    _crosshair(scene)
    application_logic = slicer.app.applicationLogic()
    for name, class_name in LOGICS.items():
        _register(name, getattr(slicer, class_name)(), application_logic)
    slicer.vtkMRMLSliceNode.AddDefaultSliceOrientationPresets(scene, True)
    scene.AddObserver(scene.NodeAddedEvent, _place_in_subject_hierarchy)
    return slicer


def reset() -> None:
    """Empty the scene, close every view and forget what modules have put into `slicer.modules`."""
    slicer.app.layoutManager().close()
    slicer.mrmlScene.Clear(False)
    for node in slicer.util.getNodesByClass("vtkMRMLScriptedModuleNode"):  # a parameter node is a singleton
        slicer.mrmlScene.RemoveNode(node)
    slicer.app.layoutManager().open()
    vtk_messages.forget()


def _name_spaces() -> None:
    """Make `slicer.modules`, the folders of stand-ins, and the top-level names that compiled modules have in Slicer."""
    import slicer_core

    for name in ("modules", "moduleNames"):
        module = sys.modules[f"slicer.{name}"] = types.ModuleType(f"slicer.{name}")
        setattr(slicer, name, module)
    for name, module in vars(slicer_core).items():
        if isinstance(module, types.ModuleType) and module.__name__.startswith("slicer_core."):
            sys.modules.setdefault(name, module)
            sys.modules.setdefault(f"{name}Python", module)
    slicer.__path__.append(str(HERE / "standins" / "slicer"))
    source = os.environ.get("SLICER_SOURCE_DIR")
    slicer.__path__.append(str(Path(source, "Base/Python/slicer") if source else HERE / "fallback"))
    sys.path.append(str(HERE / "standins"))


def _share() -> Path:
    """Make the folder that Slicer calls share: terminologies (ours, short) and color tables."""
    folder = Path(tempfile.mkdtemp(prefix="slicer_share_"))
    color_files.write(folder / "ColorFiles")
    (folder / "terminologies").symlink_to(HERE / "share" / "terminologies", target_is_directory=True)
    return folder


def _register(name: str, logic: vtk.vtkObject, application_logic: vtk.vtkObject) -> None:
    """Give a logic its folder, the application's logic and the scene, in the order that Slicer keeps."""
    if hasattr(logic, "SetModuleShareDirectory"):
        logic.SetModuleShareDirectory(str(slicer.app.share / "terminologies"))
    logic.SetMRMLApplicationLogic(application_logic)
    logic.SetMRMLScene(slicer.mrmlScene)
    application_logic.SetModuleLogic(name, logic)
    setattr(slicer.modules, name.lower(), application.Module(name, logic))
    setattr(slicer.moduleNames, name, name)


def _crosshair(scene: vtk.vtkObject) -> None:
    node = slicer.vtkMRMLCrosshairNode()
    node.SetCrosshairName("default")
    scene.AddNode(node)


@vtk.calldata_type(vtk.VTK_OBJECT)
def _place_in_subject_hierarchy(scene: vtk.vtkObject, event: str, node: vtk.vtkObject) -> None:
    if node.GetHideFromEditors() or not any(node.IsA(name) for name in IN_SUBJECT_HIERARCHY):
        return
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    if not hierarchy.GetItemByDataNode(node):
        hierarchy.CreateItem(hierarchy.GetSceneItemID(), node)
