"""Where a slice view looks, kept as a text and restored: its plane, how far it is zoomed, and its shift in the plane.

The name of an orientation would not do: an oblique plane has none.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import slicer
import slicer.util


def placeOf(view: Any) -> str:
    """Return matrix, field of view and origin of a slice view as numbers, with every digit."""
    matrix = slicer.util.arrayFromVTKMatrix(view.GetSliceToRAS())
    return " ".join(repr(float(value)) for value in (*matrix.flat, *view.GetFieldOfView(), *view.GetXYZOrigin()))


def putBack(view: Any, place: str) -> None:
    """Have a slice view look where `placeOf` has found it; a text of before, the name of an orientation, does too."""
    try:
        numbers = [float(word) for word in place.split()]
        matrix = np.reshape(numbers[:16], (4, 4))
        (width, _height, depth), origin = numbers[16:19], numbers[19:22]
    except ValueError:
        view.SetOrientation(place)
        return
    view.GetSliceToRAS().DeepCopy(slicer.util.vtkMatrixFromArray(matrix))
    setWidth(view, width, depth)
    view.SetXYZOrigin(*origin)
    view.UpdateMatrices()


def setWidth(view: Any, widthMm: float, depthMm: float) -> None:
    """Zoom a slice view to a width; the height follows from the shape of its window, so that nothing is stretched."""
    pixels = view.GetDimensions()
    view.SetFieldOfView(widthMm, widthMm * pixels[1] / max(pixels[0], 1), depthMm)
