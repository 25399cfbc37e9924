"""The loader of .ui files: promoted widgets as Slicer's designer plugins give them, and connections of MRML signals."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from typing import Any

from PySide6 import QtCore, QtUiTools
from pythonqt_properties import property_value

_CUSTOM: dict[str, type] = {}


def register(cls: type) -> type:
    """Offer a widget class to .ui files."""
    _CUSTOM[cls.__name__] = cls
    return cls


class QUiLoader(QtUiTools.QUiLoader):
    """Refuses what Slicer would only warn of: an unknown class, a connection to a widget that is not there."""

    def __init__(self, parent: QtCore.QObject | None = None) -> None:
        super().__init__(parent)
        for cls in _CUSTOM.values():
            self.registerCustomWidget(cls)

    def load(self, file: Any, parent: Any = None) -> Any:
        """Make the widgets of a .ui file."""
        path = file.fileName() if isinstance(file, QtCore.QFile) else str(file)
        root = ET.parse(path).getroot()
        unknown = {tag.findtext("class") for tag in root.iter("customwidget")} - set(_CUSTOM)
        if unknown:
            raise RuntimeError(f"{path}: no stand-in for {', '.join(sorted(map(str, unknown)))}")
        connections = [c for holder in root.iter("connections") for c in _without_mrml(holder)]
        text = QtCore.QBuffer()
        text.setData(ET.tostring(root))
        text.open(QtCore.QIODevice.ReadOnly)
        widget = super().load(text, parent)
        for connection in connections:
            _connect(path, widget, *(connection.findtext(tag) for tag in ("sender", "signal", "receiver", "slot")))
        return widget


def _without_mrml(holder: ET.Element) -> list[ET.Element]:
    """Take the connections that carry an MRML object, which Qt's own loader cannot make, out of their holder."""
    found = [connection for connection in holder if "vtk" in (connection.findtext("signal") or "")]
    for connection in found:
        holder.remove(connection)
    return found


def _connect(path: str, root: Any, sender: str, signal: str, receiver: str, slot: str) -> None:
    ends = [_named(root, name) for name in (sender, receiver)]
    if None in ends:
        raise RuntimeError(f"{path}: the connection from {sender} to {receiver} has an end that is not there")
    if not ends[0].connect(signal, getattr(ends[1], slot.split("(", maxsplit=1)[0])):
        raise RuntimeError(f"{path}: {sender} has no signal {signal}")


def _named(root: Any, name: str) -> Any:
    return root if property_value(root, "objectName") == name else root.findChild(QtCore.QObject, name)
