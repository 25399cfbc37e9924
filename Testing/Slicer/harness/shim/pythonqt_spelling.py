"""Methods that PythonQt over Qt 5 spells or answers in another way than PySide6."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import shiboken6
from PySide6 import QtCore, QtWidgets

TAKE_ANY_TEXT = (
    (QtWidgets.QLabel, "setText"),
    (QtWidgets.QLineEdit, "setText"),
    (QtWidgets.QAbstractButton, "setText"),
    (QtWidgets.QPlainTextEdit, "setPlainText"),
    (QtWidgets.QTextEdit, "setPlainText"),
    (QtWidgets.QWidget, "setToolTip"),
    (QtWidgets.QWidget, "setWindowTitle"),
)
TAKE_ANY_NUMBER = (
    (QtWidgets.QProgressBar, "setValue"),
    (QtWidgets.QSpinBox, "setValue"),
    (QtWidgets.QAbstractSlider, "setValue"),
)
RETURN_THE_NAME_ONLY = ("getOpenFileName", "getSaveFileName", "getOpenFileNames")


def _converting(cls: type, method: str, convert: Callable[[Any], Any]) -> None:
    original = getattr(cls, method)

    def call(self: QtCore.QObject, value: Any, *more: Any) -> Any:
        return original(self, convert(value), *more)

    setattr(cls, method, call)


def _settings_value(original: Callable[..., Any]) -> Callable[..., Any]:
    def value(self: QtCore.QSettings, *arguments: Any) -> Any:
        found = original(self, *arguments)
        return tuple(found) if isinstance(found, list) else found

    return value


def _delete(self: QtCore.QObject) -> None:
    shiboken6.delete(self)


def patch() -> None:
    """Change the classes of PySide6."""
    QtCore.QObject.className = lambda self: self.metaObject().className()
    QtCore.QObject.delete = _delete
    QtCore.QSettings.value = _settings_value(QtCore.QSettings.value)
    for cls, method in TAKE_ANY_TEXT:
        _converting(cls, method, str)
    for cls, method in TAKE_ANY_NUMBER:
        _converting(cls, method, int)
    for cls in (QtWidgets.QDialog, QtWidgets.QMenu, QtCore.QEventLoop):
        if not hasattr(cls, "exec_"):
            cls.exec_ = cls.exec
    for name in RETURN_THE_NAME_ONLY:
        original = getattr(QtWidgets.QFileDialog, name)
        setattr(QtWidgets.QFileDialog, name, staticmethod(lambda *a, _call=original: _call(*a)[0]))
