"""Application settings, which no scene may change: interpreter, folders of models and of a painter, last organ."""

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
"""Last selected organ, used for new scenes; each scene stores its own."""


def setting(key: str) -> str:
    """Return an application setting, "" if it is not set."""
    return str(slicer.app.settings().value(key, "") or "")


def setSetting(key: str, value: str) -> None:
    """Store an application setting."""
    slicer.app.settings().setValue(key, value)
