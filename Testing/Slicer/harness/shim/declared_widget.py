"""Makes stand-ins for widgets of CTK and of Slicer from what their headers declare: properties, signals, base."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from PySide6.QtCore import Property, Signal
from ui_loader import register

PYTHON_TYPES: dict[str, Callable[[Any], Any]] = {
    "bool": bool, "int": int, "double": float, "QString": str, "QStringList": list,
}  # fmt: skip
SHOWN_TYPES = {**PYTHON_TYPES, "QStringList": "QStringList"}


def declare(
    name: str,
    base: type,
    properties: Sequence[tuple[str, str, Any, str]] = (),
    signals: Sequence[str] = (),
    mixins: tuple[type, ...] = (),
) -> type:
    """Make and register a class that a stand-in then derives from, or that is one already.

    Args:
        name: Of the class, as in the .ui file.
        base: A widget of Qt, or another stand-in.
        properties: (type, name, default, signal of change or ""). Each gets `setName` too, as PythonQt shows it. A
            method `clamp_name` may correct a value and `on_name` hears of the new one.
        signals: Signatures. Arguments cross as Python objects, so that VTK nodes keep their identity.
        mixins: Classes that come first in the order of resolution.
    """
    names = dict.fromkeys(signature.split("(")[0] for signature in signals)
    counts = {n: max(_arguments(s) for s in signals if s.split("(")[0] == n) for n in names}
    members: dict[str, Any] = {n: Signal(*[object] * count) for n, count in counts.items()}
    for type_name, property_name, default, signal in properties:
        getter, setter = _accessors(type_name, property_name, default, signal)
        members[property_name] = Property(SHOWN_TYPES[type_name], getter, setter)
        members[f"set{property_name[0].upper()}{property_name[1:]}"] = setter
    members["SIGNALS"] = tuple(signals)
    members["className"] = lambda self: type(self).__name__
    cls = type(name, (*mixins, base), members)
    return register(cls)


def _arguments(signature: str) -> int:
    return 0 if signature.endswith("()") else signature.count(",") + 1


def _accessors(type_name: str, name: str, default: Any, signal: str) -> tuple[Callable[..., Any], Callable[..., None]]:
    key = f"_value_{name}"

    def getter(self: Any) -> Any:
        return self.__dict__.get(key, default)

    def setter(self: Any, value: Any) -> None:
        clamp = getattr(type(self), f"clamp_{name}", None)
        value = PYTHON_TYPES[type_name](value)
        value = clamp(self, value) if clamp else value
        if value == getter(self):
            return
        self.__dict__[key] = value
        hear = getattr(type(self), f"on_{name}", None)
        if hear:
            hear(self, value)
        if signal:
            getattr(self, signal).emit(value)

    return getter, setter
