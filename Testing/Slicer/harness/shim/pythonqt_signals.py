"""Signals as PythonQt connects them.

`object.connect('signal(types)', slot)` says whether the signal exists, a slot gets as many arguments as it takes, and
a connection keeps its slot alive.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from typing import Any

from PySide6 import QtCore

QObject = QtCore.QObject
Slot = Callable[..., Any]

_plain_connect, _plain_disconnect = QObject.connect, QObject.disconnect
_KEPT = "_pythonqt_connections"


class _Connection:
    """One slot behind a signal; Qt keeps calling, and it decides whether to listen."""

    def __init__(self, slot: Slot, arguments: int | None) -> None:
        self.slot = slot
        self.alive = True
        taken = _positional_arguments(slot)
        self._arguments = min((n for n in (arguments, taken) if n is not None), default=None)

    def __call__(self, *arguments: Any) -> None:
        if self.alive:
            self.slot(*arguments[: self._arguments])


def _positional_arguments(slot: Slot) -> int | None:
    """Return how many arguments a slot can take, None for any number."""
    try:
        parameters = inspect.signature(slot).parameters.values()
    except (TypeError, ValueError):
        return None
    if any(p.kind == p.VAR_POSITIONAL for p in parameters):
        return None
    return sum(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters)


def _normalized(signature: str) -> str:
    found = QtCore.QMetaObject.normalizedSignature(signature)
    return found if isinstance(found, str) else bytes(found).decode()


def _connections(target: QObject, key: str) -> list[_Connection]:
    return target.__dict__.setdefault(_KEPT, {}).setdefault(key, [])


def _attach(target: QObject, key: str, signature: str, connection: _Connection) -> None:
    _connections(target, key).append(connection)

    def slot(*arguments: Any) -> None:
        connection(*arguments)

    if target.metaObject().indexOfSignal(signature) >= 0:
        _plain_connect(target, QtCore.SIGNAL(signature), slot)
    else:  # declared in Python, where every argument crosses as an object
        QObject.__getattribute__(target, signature.split("(", maxsplit=1)[0]).raw.connect(slot)


def _detach(target: QObject, key: str, slot: Slot) -> bool:
    for connection in _connections(target, key):
        if connection.alive and connection.slot == slot:
            connection.alive = False
            return True
    return False


def connect(self: QObject, *arguments: Any) -> Any:
    """Connect by signature, or as PySide does where there is no signature."""
    if len(arguments) != 2 or not isinstance(arguments[0], str):
        return _plain_connect(self, *arguments)
    signature = _normalized(arguments[0])
    declared_in_python = any(signature in getattr(cls, "SIGNALS", ()) for cls in type(self).__mro__)
    if self.metaObject().indexOfSignal(signature) < 0 and not declared_in_python:
        print(
            f"QObject::connect() signal '{arguments[0]}' does not exist on {self.metaObject().className()}",
            file=sys.stderr,
        )
        return False
    count = 0 if signature.endswith("()") else signature.count(",") + 1
    _attach(self, signature, signature, _Connection(arguments[1], count))
    return True


def disconnect(self: QObject, *arguments: Any) -> Any:
    """Disconnect by signature, or as PySide does where there is no signature."""
    if len(arguments) == 2 and isinstance(arguments[0], str):
        return _detach(self, _normalized(arguments[0]), arguments[1])
    return _plain_disconnect(self, *arguments)


class Signal:
    """`object.signal`: connect, disconnect and emit."""

    def __init__(self, target: QObject, name: str, raw: QtCore.SignalInstance) -> None:
        self._target, self._name, self.raw = target, name, raw

    def connect(self, slot: Slot) -> bool:
        """Connect to the overload that comes first."""
        _attach(self._target, self._name, self._signature(), _Connection(slot, None))
        return True

    def disconnect(self, slot: Slot) -> bool:
        """Disconnect; say whether it was connected."""
        return _detach(self._target, self._name, slot)

    def emit(self, *arguments: Any) -> None:
        """Emit."""
        self.raw.emit(*arguments)

    __call__ = emit

    def _signature(self) -> str:
        meta = self._target.metaObject()
        for index in range(meta.methodCount()):
            method = meta.method(index)
            is_signal = method.methodType() == QtCore.QMetaMethod.Signal
            if is_signal and bytes(method.name()).decode() == self._name:
                signature = bytes(method.methodSignature()).decode()
                return self._name if "PyObject" in signature else signature
        return self._name
