"""`qt` as scripted modules of 3D Slicer see it: PySide6 made to answer as PythonQt.

What is imitated was checked against a real PythonQt 4.1: `test_qt_conformance.py` asks the same questions.
"""

from __future__ import annotations

import ctypes
import os
import sys

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
os.environ.setdefault("PYSIDE6_OPTION_PYTHON_ENUM", "0x02")  # enumerations compare with numbers

import pythonqt_properties
import pythonqt_signals
import pythonqt_spelling
import ui_loader
from PySide6 import QtCore, QtGui, QtNetwork, QtSvg, QtUiTools, QtWidgets

NONE_IN_RESERVE = 1 << 40


def _hold_none() -> None:
    """Give None references in reserve: PySide6 6.12 takes one away with each call that returns nothing.

    From Python 3.12 on nobody counts them; Python 3.11 ends the process with "deallocating None" after some ten
    thousand calls.
    """
    if sys.version_info < (3, 12) and sys.getrefcount(None) < NONE_IN_RESERVE:
        ctypes.c_ssize_t.from_address(id(None)).value += NONE_IN_RESERVE


_hold_none()
_MODULES = (QtCore, QtGui, QtWidgets, QtUiTools, QtNetwork, QtSvg)
_NAMES = {name: getattr(module, name) for module in _MODULES for name in dir(module) if name[0] in "Qqc"}
_APPLICATION = QtWidgets.QApplication.instance() or QtWidgets.QApplication(["Slicer"])
_SPECIAL = {"connect": pythonqt_signals.connect, "disconnect": pythonqt_signals.disconnect}

pythonqt_properties.patch(
    {value for value in _NAMES.values() if isinstance(value, type) and issubclass(value, QtCore.QObject)},
    _SPECIAL,
    pythonqt_signals.Signal,
)
pythonqt_spelling.patch()
for _name, _method in _SPECIAL.items():
    setattr(QtCore.QObject, _name, _method)

globals().update(_NAMES)
Signal, Slot, Property, SIGNAL = QtCore.Signal, QtCore.Slot, QtCore.Property, QtCore.SIGNAL
QUiLoader = ui_loader.QUiLoader
