"""Pictures of the views with a result in them, as the README's tutorial shows them; every one is first set up by clicks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gui
import numpy as np
import slicer
from DiffuGTSSlicer import slice_views
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Pixels = NDArray[np.uint8]
BARS = {"Red": (243, 74, 51), "Green": (110, 176, 75), "Yellow": (237, 213, 76), "3D": (126, 128, 218)}
"""Slicer's colors of the bars above its views."""
BAR_PX = 18
GAP_PX = 2
WORLD = (("L", "R"), ("P", "A"), ("I", "S"))
LARGEST_KB = 160
NODULE_RAS_MM = (-56.0, -86.0, -115.0)
THUMBNAIL_PX = (260, 280)
"""What Sample Data has room for."""
NONE, AOVA, RESIDUAL = range(3)
"""Choices of the overlay."""


class Views:
    """The views of the current layout, photographed one after the other and put together as Slicer lays them out."""

    def __init__(self, widget: Any, folder: Path) -> None:
        self._widget, self._folder = widget, folder
        self._manager = slicer.app.layoutManager()
        slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLCrosshairNode").SetCrosshairMode(0)

    def arrange(self, layout: str, finding: int, width: int, height: int, field_mm: float) -> None:
        """Click a layout and a finding, and give every slice view a size and a field of view across."""
        ui = self._widget.ui
        {
            "overlay": ui.overlayLayoutButton,
            "side by side": ui.sideBySideLayoutButton,
            "four up": ui.fourUpLayoutButton,
        }[layout].click()
        self.frame(width, height, field_mm)
        ui.findingsTable.cellClicked.emit(finding - 1, 1)
        gui.spin(lambda: False, 0.1)

    def frame(self, width: int, height: int, field_mm: float) -> None:
        """Give every slice view a size and a field of view across."""
        for name in self._manager.sliceViewNames():
            view = self._manager.sliceWidget(name)
            view.resize(width, height)
            node = view.mrmlSliceNode()
            depth = node.GetFieldOfView()[2]
            node.SetFieldOfView(field_mm, field_mm * height / width, depth)
            node.SetRulerType(node.RulerTypeThin)
            node.SetOrientationMarkerType(node.OrientationMarkerTypeAxes)
            node.SetOrientationMarkerSize(node.OrientationMarkerSizeSmall)

    def overlay(self, index: int) -> None:
        """Choose what lies over the scan. Each view is drawn once before a legend comes: it needs the renderer."""
        ui = self._widget.ui
        ui.legendCheckBox.checked = False
        ui.overlayComboBox.setCurrentIndex(index)
        for name in self._manager.sliceViewNames():
            self._manager.sliceWidget(name).picture()
        ui.legendCheckBox.checked = True
        gui.spin(lambda: False, 0.1)

    def slice_picture(self, name: str) -> Image.Image:
        """Return a slice view under its bar: plane, place, and which images are shown."""
        view = self._manager.sliceWidget(name)
        layers = view.mrmlSliceCompositeNode()
        shown = [slicer.mrmlScene.GetNodeByID(layers.GetBackgroundVolumeID() or "")]
        if layers.GetForegroundOpacity() > 0:
            shown.append(slicer.mrmlScene.GetNodeByID(layers.GetForegroundVolumeID() or ""))
        node = view.mrmlSliceNode()
        to_ras = slicer.util.arrayFromVTKMatrix(node.GetSliceToRAS())
        axis = int(np.abs(to_ras[:3, 2]).argmax())
        offset = to_ras[axis, 3]
        words = f"{node.GetOrientation()}  {WORLD[axis][int(offset > 0)]} {abs(offset):.0f} mm"
        names = " + ".join(each.GetName() for each in shown if each is not None)
        return framed(view.picture(), BARS[name], f"{words}   {names}")

    def surface_picture(self, width: int, height: int, direction: str = "Anterior") -> Image.Image:
        """Return the 3D view under its bar."""
        self._manager.sliceWidget("Red").sliceController().setSliceVisible(True)  # the eye in the bar of the view
        view = self._manager.threeDWidget(0)
        view.resize(width, height)
        view.lookFrom(direction)
        camera = view.camera().GetCamera()
        camera.Azimuth(20)
        camera.Elevation(25)
        view.resetFocalPoint()
        return framed(view.picture(), BARS["3D"], "3D")

    def save(self, name: str, rows: Sequence[Sequence[Image.Image]]) -> None:
        """Put views together, row by row, and write a small picture."""
        wide = max(sum(each.width + GAP_PX for each in row) - GAP_PX for row in rows)
        high = sum(max(each.height for each in row) + GAP_PX for row in rows) - GAP_PX
        whole, top = Image.new("RGB", (wide, high), (40, 40, 40)), 0
        for row in rows:
            left = 0
            for each in row:
                whole.paste(each, (left, top))
                left += each.width + GAP_PX
            top += max(each.height for each in row) + GAP_PX
        write_small(whole, self._folder / f"{name}.png", LARGEST_KB)


def framed(pixels: Pixels, color: tuple[int, int, int], words: str) -> Image.Image:
    """Return a view with a bar above it."""
    height, width = pixels.shape[:2]
    whole = Image.new("RGB", (width, height + BAR_PX), color)
    whole.paste(Image.fromarray(pixels.astype(np.uint8)), (0, BAR_PX))
    draw = ImageDraw.Draw(whole)
    draw.text((6, 2), words, fill=(0, 0, 0), font=ImageFont.load_default(11))
    return whole


def write_small(picture: Image.Image, path: Path, largest_kb: int) -> None:
    """Write a picture with a palette of its own; one that is too large is refused."""
    picture = picture.convert("RGB")
    picture.quantize(palette=_palette(picture), dither=Image.Dither.NONE).save(path, optimize=True)
    size_kb = path.stat().st_size / 1024
    if size_kb > largest_kb:
        raise SystemExit(f"{path.name} has {size_kb:.0f} kB, more than {largest_kb}")
    print(path.name, f"{size_kb:.0f} kB")


def _palette(picture: Image.Image) -> Image.Image:
    """Return 128 grays, and 128 colors chosen from what is colored: chosen together, anatomy would swallow the maps."""
    pixels = np.asarray(picture).reshape(-1, 3)
    grays = [level for gray in np.linspace(0, 255, 128).round().astype(int).tolist() for level in (gray,) * 3]
    colored = pixels[np.ptp(pixels.astype(int), axis=1) > 12]
    colors: list[int] = []
    if len(colored):
        chosen = Image.fromarray(colored[None]).quantize(128)
        colors = list(chosen.getpalette() or [])[: 3 * 128]
    palette = Image.new("P", (1, 1))
    palette.putpalette((grays + colors + [0] * 768)[:768])
    return palette


def take_all(widget: Any, folder: Path) -> None:
    """Take the pictures of the tutorial, from the state after a run."""
    views, ui = Views(widget, folder), widget.ui
    ui.show3DButton.checked = True
    views.arrange("four up", 1, 330, 270, 122)
    views.overlay(AOVA)
    red, green, yellow = (views.slice_picture(name) for name in ("Red", "Green", "Yellow"))
    views.save("view_four_up", [[red, views.surface_picture(330, 270)], [green, yellow]])
    views.save("view_surface", [[views.surface_picture(420, 330)]])

    views.arrange("side by side", 1, 330, 330, 105)
    views.overlay(NONE)
    views.save("view_side_by_side", [[views.slice_picture("Red"), views.slice_picture("Yellow")]])

    views.arrange("overlay", 1, 420, 330, 122)
    views.overlay(RESIDUAL)
    views.save("view_residual", [[views.slice_picture("Red")]])

    views.overlay(NONE)
    views.save("view_outline", [[views.slice_picture("Red")]])


def take_synthesis(widget: Any, folder: Path) -> None:
    """Take the picture of a scan before and after a tumor was painted into it, from the state after a synthesis."""
    views = Views(widget, folder)
    widget.ui.beforeAfterButton.click()
    views.frame(330, 300, 84)
    [tumor] = widget.logic.run.result["tumors"]
    slice_views.jumpTo(tumor["center_ras_mm"])
    gui.spin(lambda: False, 0.1)
    views.save("view_synthesis", [[views.slice_picture("Red"), views.slice_picture("Yellow")]])


def take_thumbnail(path: Path) -> None:
    """Take the picture by which Slicer's Sample Data shows the scan: one axial slice, nothing over it."""
    slicer.util.setSliceViewerLayers(background=slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLScalarVolumeNode"))
    view = slicer.app.layoutManager().sliceWidget("Red")
    view.resize(*THUMBNAIL_PX)
    view.fitSliceToBackground()
    slicer.vtkMRMLSliceNode.JumpAllSlices(slicer.mrmlScene, *NODULE_RAS_MM, slicer.vtkMRMLSliceNode.OffsetJumpSlice)
    write_small(Image.fromarray(view.picture()), path, LARGEST_KB)
