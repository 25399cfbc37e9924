"""Attributes of Qt objects as PythonQt shows them.

Properties are attributes and cannot be called, `name` is `objectName`, children are attributes, conversions are loose,
a plain C++ object takes no new attribute, and a deleted one answers with ValueError.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Iterable
from typing import Any

import shiboken6
from PySide6 import QtCore

QObject = QtCore.QObject

VIRTUAL_GETTERS = {"sizeHint", "minimumSizeHint"}
"""Shiboken takes an attribute of this name for an override and calls it."""

_read, _write = QObject.property, QObject.setProperty
_plain_getattribute = QObject.__getattribute__


def property_value(target: QObject, name: str) -> Any:
    """Return a property, also a dynamic one."""
    return _read(target, name)


def _converted(type_name: str, value: Any) -> Any:
    """Convert as PythonQt does on assignment: anything becomes a string, text never becomes a number."""
    if type_name == "QString":
        return value if isinstance(value, str) else str(value)
    if type_name in ("int", "uint", "double", "bool", "float") and isinstance(value, str):
        raise AttributeError(f"cannot convert {value!r} to {type_name}")
    if type_name in ("int", "uint") and not hasattr(value, "name"):
        return int(value)
    if type_name in ("double", "float"):
        return float(value)
    return bool(value) if type_name == "bool" else value


class Property:
    """A property of Qt as an attribute."""

    __slots__ = ("name", "type_name", "writable")

    def __init__(self, name: str, type_name: str, writable: bool) -> None:
        self.name, self.type_name, self.writable = name, type_name, writable

    def __get__(self, target: QObject | None, owner: type | None = None) -> Any:
        return self if target is None else _read(target, self.name)

    def __set__(self, target: QObject, value: Any) -> None:
        if not self.writable:
            raise AttributeError(f"Property '{self.name}' of {type(target).__name__} object is not writable")
        if not _write(target, self.name, _converted(self.type_name, value)):
            raise AttributeError(f"Property '{self.name}' of type '{self.type_name}' does not accept {value!r}")


def _show_properties(cls: type) -> None:
    """Replace the accessors of a class's own properties. `cls.__dict__` stays untouched: reading it here crashes."""
    meta = cls.staticMetaObject
    for index in range(meta.propertyOffset(), meta.propertyCount()):
        found = meta.property(index)
        name = found.name()
        if name not in VIRTUAL_GETTERS and not (name == "singleShot" and meta.className() == "QTimer"):
            setattr(cls, name, Property(name, found.typeName(), found.isWritable()))


def _set_attribute(self: QObject, name: str, value: Any) -> None:
    cls = type(self)
    known = inspect.getattr_static(cls, name, None)
    if isinstance(known, QtCore.Property):
        _write(self, name, value)
        return
    if known is not None and hasattr(type(known), "__set__"):
        type(known).__set__(known, self, value)
        return
    is_plain = cls.__module__.startswith("PySide6.") and not name.startswith("_")
    if is_plain and (known is None or name == "singleShot"):
        raise AttributeError(
            f"'{name}' does not exist on {cls.__name__} and creating new attributes on C++ objects is not allowed"
        )
    self.__dict__[name] = value


def _missing_attribute(self: QObject, name: str) -> Any:
    """Look among the children and the dynamic properties."""
    if not name.startswith("__"):
        for child in QObject.children(self):
            if _read(child, "objectName") == name:
                return child
        value = _read(self, name)
        if value is not None:
            return value
    raise AttributeError(f"{type(self).__name__} has no attribute named '{name}'")


def patch(classes: Iterable[type], special: dict[str, Callable[..., Any]], signal: Callable[..., Any]) -> None:
    """Give all classes their attributes.

    Args:
        classes: Every class that derives from QObject.
        special: Methods that instances would otherwise take from shiboken, whatever the class says.
        signal: Makes what a signal's name shall answer from the object, the name and the signal.
    """

    def get_attribute(self: QObject, name: str) -> Any:
        if name in special:
            return types.MethodType(special[name], self)
        if not name.startswith("_") and not shiboken6.isValid(self):
            raise ValueError(f"Trying to read attribute '{name}' of a destroyed {type(self).__name__} object")
        value = _plain_getattribute(self, name)
        return signal(self, name, value) if isinstance(value, QtCore.SignalInstance) else value

    for cls in classes:
        _show_properties(cls)
        cls.__setattr__ = _set_attribute
    QObject.name = Property("objectName", "QString", True)
    QObject.__getattribute__ = get_attribute
    QObject.__getattr__ = _missing_attribute
