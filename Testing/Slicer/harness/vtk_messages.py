"""What VTK complained about: its errors and warnings are kept, so that a test can fail on them."""

from __future__ import annotations

import vtk

IGNORED = ("DataNodeCache", "item was missing")
"""A node that dies leaves its item in the subject hierarchy, where a Qt plugin of the application would remove it; VTK
notices at some later time, in whichever test that is."""

_heard: list[str] = []


def listen() -> None:
    """Keep every error and warning of VTK instead of printing it."""
    vtk.vtkLogger.SetStderrVerbosity(vtk.vtkLogger.VERBOSITY_OFF)
    window = vtk.vtkOutputWindow()
    window.SetDisplayModeToNever()
    vtk.vtkOutputWindow.SetInstance(window)

    @vtk.calldata_type(vtk.VTK_STRING)
    def hear(caller: vtk.vtkObject, event: str, text: str) -> None:
        if not any(words in text for words in IGNORED):
            _heard.append(text.strip())

    window.AddObserver("ErrorEvent", hear)
    window.AddObserver("WarningEvent", hear)


def heard() -> list[str]:
    """Return what was said since the last `forget`."""
    return list(_heard)


def forget() -> list[str]:
    """Return what was said and forget it: for a test that makes VTK complain on purpose."""
    said = heard()
    _heard.clear()
    return said
