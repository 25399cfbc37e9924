"""Which widget can stand for which type, how it is read and written, and which signal tells of a change.

The widget's class must be exactly one of these, as in Slicer: a QPlainTextEdit, a QRadioButton, a ctkDoubleSpinBox or a
Python subclass is refused.
"""

from __future__ import annotations

import enum
import pathlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ctk
import qt
import slicer

from .annotations import Choice, Decimals, Maximum, Minimum, RangeBounds, SingleStep, WithinRange, find, split
from .encoding import FloatRange, NodeCodec, codec_of


@dataclass
class Binding:
    """A widget that stands for a value."""

    widget: Any
    signal: str
    read: Callable[[], Any]
    write: Callable[[Any], None]
    _slot: Callable[..., None] | None = None

    def listen(self, call: Callable[[], None] | None) -> None:
        """Call on every change; None: no longer."""
        signal = getattr(self.widget, self.signal)
        if self._slot is not None:
            signal.disconnect(self._slot)
        self._slot = None if call is None else (lambda *_: call())
        if self._slot is not None:
            signal.connect(self._slot)


def bind(widget: Any, hint: Any) -> Binding:
    """Return the binding of a widget to a member's type.

    Raises:
        RuntimeError: Where Slicer has no connector for the two, or misses a range or the choices.
    """
    kind, beside = split(hint)
    for widgets, fits, make in _TABLE:
        if type(widget) in widgets and fits(kind):
            return make(widget, kind, beside)
    raise RuntimeError(f"Unable to create GUI connector from datatype '{hint}' to widget type '{type(widget)}'")


def _property(name: str, signal: str) -> Callable[..., Binding]:
    def make(widget: Any, kind: Any, beside: tuple[Any, ...]) -> Binding:
        return Binding(widget, signal, lambda: getattr(widget, name), lambda value: setattr(widget, name, value))

    return make


def _number(widget: Any, kind: Any, beside: tuple[Any, ...]) -> Binding:
    for annotation, name in ((Decimals, "decimals"), (SingleStep, "singleStep")):
        given = find(beside, annotation)
        if given is not None:
            setattr(widget, name, given.value)
    lower, upper = find(beside, WithinRange, Minimum), find(beside, WithinRange, Maximum)
    if type(widget) in (qt.QSlider, ctk.ctkSliderWidget) and (lower is None or upper is None):
        raise RuntimeError(f"{widget.objectName}: a slider needs a member with a range")
    unbounded = float("inf") if kind is float else 2**31 - 1
    widget.minimum = lower.minimum if lower else -unbounded
    widget.maximum = upper.maximum if upper else unbounded
    return _property("value", "valueChanged")(widget, kind, beside)


def _choice(widget: Any, kind: Any, beside: tuple[Any, ...]) -> Binding:
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        values = list(kind)
        labels = [getattr(kind, "label", lambda member: member.name)(member) for member in values]
    else:
        choice = find(beside, Choice)
        if choice is None:
            raise RuntimeError(f"{widget.objectName}: a combo box needs a member with the annotation Choice")
        values, labels = choice.choices, [str(value) for value in choice.choices]
    widget.clear()
    widget.addItems(labels)

    def write(value: Any) -> None:
        widget.currentIndex = values.index(value)

    return Binding(widget, "currentIndexChanged", lambda: values[widget.currentIndex], write)


def _checkable(widget: Any, kind: Any, beside: tuple[Any, ...]) -> Binding:
    widget.checkable = True
    return _property("checked", "toggled")(widget, kind, beside)


def _text(widget: Any, kind: Any, beside: tuple[Any, ...]) -> Binding:
    return Binding(widget, "textChanged", widget.toPlainText, widget.setPlainText)


def _path(name: str) -> Callable[..., Binding]:
    def make(widget: Any, kind: Any, beside: tuple[Any, ...]) -> Binding:
        write = lambda value: setattr(widget, name, str(value))  # noqa: E731
        return Binding(widget, f"{name}Changed", lambda: kind(getattr(widget, name)), write)

    return make


def _node(widget: Any, kind: Any, beside: tuple[Any, ...]) -> Binding:
    codec = codec_of(kind)
    # vtkMRMLScalarVolumeNode is both its class in Python and its name in the scene
    widget.nodeTypes = [codec.kind.__name__]
    return Binding(widget, "currentNodeChanged", widget.currentNode, widget.setCurrentNode)


def _range(widget: Any, kind: Any, beside: tuple[Any, ...]) -> Binding:
    bounds = find(beside, RangeBounds)
    if bounds is None:
        raise RuntimeError(f"{widget.objectName}: a range widget needs a member with the annotation RangeBounds")
    widget.setRange(bounds.minimum, bounds.maximum)
    read = lambda: FloatRange(widget.minimumValue, widget.maximumValue)  # noqa: E731
    return Binding(widget, "valuesChanged", read, lambda value: widget.setValues(value.minimum, value.maximum))


def _is(*kinds: type) -> Callable[[Any], bool]:
    return lambda kind: kind in kinds


def _is_subclass(base: type) -> Callable[[Any], bool]:
    return lambda kind: isinstance(kind, type) and issubclass(kind, base)


def _is_node(kind: Any) -> bool:
    try:
        return isinstance(codec_of(kind), NodeCodec)
    except TypeError:
        return False


_TABLE: list[tuple[tuple[type, ...], Callable[[Any], bool], Callable[..., Binding]]] = [
    ((qt.QCheckBox,), _is(bool), _property("checked", "toggled")),
    ((qt.QPushButton,), _is(bool), _checkable),
    ((qt.QSlider, qt.QSpinBox), _is(int), _number),
    ((qt.QDoubleSpinBox, ctk.ctkSliderWidget), _is(float), _number),
    ((qt.QComboBox,), _is(int, float, str, bool), _choice),
    ((qt.QComboBox,), _is_subclass(enum.Enum), _choice),
    ((qt.QLineEdit,), _is(str), _property("text", "textChanged")),
    ((qt.QTextEdit,), _is(str), _text),
    ((ctk.ctkPathLineEdit,), _is_subclass(pathlib.PurePath), _path("currentPath")),
    ((ctk.ctkDirectoryButton,), _is_subclass(pathlib.PurePath), _path("directory")),
    ((ctk.ctkRangeWidget,), _is(FloatRange), _range),
    ((slicer.qMRMLNodeComboBox,), _is_node, _node),
]
