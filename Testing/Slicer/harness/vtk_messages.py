"""What VTK complained about: its errors and warnings are kept, so that a test can fail on them."""

from __future__ import annotations

import vtk

_heard: list[str] = []


def listen() -> None:
    """Keep every error and warning of VTK instead of printing it."""
    vtk.vtkLogger.SetStderrVerbosity(vtk.vtkLogger.VERBOSITY_OFF)
    window = vtk.vtkOutputWindow()
    window.SetDisplayModeToNever()
    vtk.vtkOutputWindow.SetInstance(window)

    @vtk.calldata_type(vtk.VTK_STRING)
    def hear(caller: vtk.vtkObject, event: str, text: str) -> None:
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
