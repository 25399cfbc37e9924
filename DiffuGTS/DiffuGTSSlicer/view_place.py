"""Saves and restores the position of a slice view as text: its plane, field of view and origin.

The name of the orientation is not enough: an oblique plane has none.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import slicer
import slicer.util


def viewPosition(view: Any) -> str:
    """Return matrix, field of view and origin of a slice view as text, with all digits."""
    matrix = slicer.util.arrayFromVTKMatrix(view.GetSliceToRAS())
    return " ".join(repr(float(value)) for value in (*matrix.flat, *view.GetFieldOfView(), *view.GetXYZOrigin()))


def restorePosition(view: Any, position: str) -> None:
    """Restore a position from `viewPosition`; older scenes have the name of an orientation instead."""
    try:
        numbers = [float(word) for word in position.split()]
        matrix = np.reshape(numbers[:16], (4, 4))
        (width, _height, depth), origin = numbers[16:19], numbers[19:22]
    except ValueError:
        view.SetOrientation(position)
        return
    view.GetSliceToRAS().DeepCopy(slicer.util.vtkMatrixFromArray(matrix))
    setWidth(view, width, depth)
    view.SetXYZOrigin(*origin)
    view.UpdateMatrices()


def setWidth(view: Any, widthMm: float, depthMm: float) -> None:
    """Set the width of a slice view's field of view; its height follows from the aspect ratio of the window."""
    pixels = view.GetDimensions()
    view.SetFieldOfView(widthMm, widthMm * pixels[1] / max(pixels[0], 1), depthMm)
