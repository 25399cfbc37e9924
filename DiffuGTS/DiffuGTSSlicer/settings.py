"""Settings of this computer, which no scene may change: interpreter, folders of models and of a painter, last organ."""

from __future__ import annotations

import slicer

MODEL_FOLDER_KEY = "DiffuGTS/modelFolder"
"""Model folder in use instead of the preset's own; empty: the preset's."""
MODEL_FOLDERS_KEY = "DiffuGTS/modelFolders"
"""Folders that the user has added, as a JSON list."""
INTERPRETER_KEY = "DiffuGTS/interpreter"
PAINTER_FOLDER_KEY = "DiffuGTS/painterFolder"
"""Folder of a trained painter."""
ORGAN_KEY = "DiffuGTS/organ"
"""The organ that was chosen last; a new scene begins with it. Which one a scene has, it keeps itself."""


def setting(key: str) -> str:
    """Return a setting of this computer, empty where there is none."""
    return str(slicer.app.settings().value(key, "") or "")


def setSetting(key: str, value: str) -> None:
    """Keep a setting of this computer."""
    slicer.app.settings().setValue(key, value)
