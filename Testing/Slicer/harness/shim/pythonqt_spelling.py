"""Methods that PythonQt over Qt 5 spells or answers in another way than PySide6."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import shiboken6
from PySide6 import QtCore, QtGui, QtWidgets

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


def _is_instance(cls: type, value: object) -> bool:
    """Say what `isinstance` says in PythonQt, whose classes do not inherit from one another; those of Python do."""
    kind = type(value)
    if all(each.__module__.startswith("PySide6.") for each in (cls, kind)):
        return kind is cls
    return cls in kind.__mro__


def _let_icons_find_their_file_late() -> None:
    """Have an icon of a file that is missing not be null: Qt 5 finds out when it draws it, Qt 6 at once."""
    made, is_null = QtGui.QIcon.__init__, QtGui.QIcon.isNull

    def make(self: QtGui.QIcon, *arguments: Any) -> None:
        made(self, *arguments)
        self.is_of_file = bool(arguments and isinstance(arguments[0], str) and arguments[0])

    QtGui.QIcon.__init__ = make
    QtGui.QIcon.isNull = lambda self: is_null(self) and not getattr(self, "is_of_file", False)


def patch() -> None:
    """Change the classes of PySide6."""
    type(QtCore.QObject).__instancecheck__ = _is_instance
    _let_icons_find_their_file_late()
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
