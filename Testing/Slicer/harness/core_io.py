"""Stand-in for the I/O manager: it asks the same logics and storage nodes as the readers of the application."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import slicer
import vtk

KINDS = {
    "SceneFile": r"\.(mrb|mrml)$",
    "SegmentationFile": r"\.seg\.(nrrd|nhdr|vtm)$",
    "ModelFile": r"\.(vtk|vtp|stl|ply|obj)$",
    "VolumeFile": r"\.(nrrd|nhdr|nii|nii\.gz|mha|mhd)$",
}
"""Kind of file by its ending, the narrower ending first."""
CENTER, SINGLE_FILE, AUTO_WINDOW, LABELS = 2, 4, 8, 1
"""Bits of the options of `vtkSlicerVolumesLogic.AddArchetypeVolume`."""


class CoreIOManager:
    """The methods that `slicer.util.load…` and `save…` call."""

    def fileType(self, path: str) -> str:
        """Return the kind of a file."""
        for kind, ending in KINDS.items():
            if re.search(ending, str(path).lower()):
                return kind
        raise ValueError(f"no reader for {path}")

    def fileWriterFileType(self, node: vtk.vtkObject) -> str:
        """Return the kind of file that a node is written to."""
        return "NodeFile"

    def loadNodes(
        self, kind: str, properties: dict[str, Any], nodes: vtk.vtkCollection, messages: vtk.vtkObject | None = None
    ) -> bool:
        """Read a file into the scene and put its node into `nodes`."""
        path = str(properties["fileName"])
        if kind == "SceneFile":
            return self._load_scene(path, bool(properties.get("clear")), messages)
        name = properties.get("name") or re.sub(r"(\.seg)?\.(nii\.gz|[^.]+)$", "", Path(path).name)
        modules = slicer.modules
        if kind == "VolumeFile":
            node = modules.volumes.logic().AddArchetypeVolume(path, name, self._volume_options(properties))
        elif kind == "SegmentationFile":
            node = modules.segmentations.logic().LoadSegmentationFromFile(path, True, name)
        else:
            node = modules.models.logic().AddModel(path)
        if node is not None:
            nodes.AddItem(node)
        return node is not None

    @staticmethod
    def _volume_options(properties: dict[str, Any]) -> int:
        flags = [("labelmap", LABELS, False), ("center", CENTER, False), ("singleFile", SINGLE_FILE, False)]
        flags.append(("autoWindowLevel", AUTO_WINDOW, True))
        return sum(bit for name, bit, default in flags if properties.get(name, default))

    @staticmethod
    def _load_scene(path: str, clear: bool, messages: vtk.vtkObject | None) -> bool:
        scene = slicer.mrmlScene
        if clear:
            scene.Clear(False)
        if path.lower().endswith(".mrb"):
            return bool(scene.ReadFromMRB(path, clear, *([messages] if messages is not None else [])))
        scene.SetURL(path)
        return bool(scene.Connect() if clear else scene.Import())

    def saveNodes(self, kind: str, properties: dict[str, Any], messages: vtk.vtkObject | None = None) -> bool:
        """Write a node, or the scene."""
        path = str(properties["fileName"])
        scene = slicer.mrmlScene
        if kind == "SceneFile":
            if path.lower().endswith(".mrb"):
                return bool(scene.WriteToMRB(path, None))
            scene.SetURL(path)
            scene.SetRootDirectory(str(Path(path).parent))
            return bool(scene.Commit(path))
        node = scene.GetNodeByID(properties["nodeID"])
        if node.GetStorageNode() is None:
            node.AddDefaultStorageNode(path)
        storage = node.GetStorageNode()
        storage.SetFileName(path)
        storage.SetUseCompression(int(properties.get("useCompression", 1)))
        return bool(storage.WriteData(node))
