"""The decorator: a class of typed members over a parameter node, and the two-way bond with widgets.

As in Slicer, what was read is kept until the node says that it was modified: what changes in the node without that event,
a reference to a node that comes later in an import for one, is not seen.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import Any, ClassVar

import qt
import slicer
import vtk

from .bindings import Binding, bind
from .encoding import Codec, codec_of, default_of, hints

SlicerParameterNamePropertyName = "SlicerParameterName"


class _Wrapper:
    """What every decorated class can do."""

    allParameters: ClassVar[dict[str, Codec]] = {}
    _defaults: ClassVar[dict[str, Any]] = {}
    _hints: ClassVar[dict[str, Any]] = {}
    _is_parameter_node_wrapper = True

    def __init__(self, parameterNode: Any, prefix: str | None = None) -> None:
        self.parameterNode = parameterNode
        self._prefix = prefix or ""
        self._bindings: dict[int, dict[str, Binding]] = {}
        self._observers: dict[int, int] = {}
        self._showing = False
        for name, codec in self.allParameters.items():
            if not codec.has(parameterNode, self._prefix + name):
                codec.write(parameterNode, self._prefix + name, self._defaults[name])
        self._values: dict[str, Any] = {}
        self._writing: set[str] = set()
        self._read_all()
        own = weakref.ref(self)  # the node must not keep its wrapper alive
        self._value_tag = parameterNode.AddObserver(vtk.vtkCommand.ModifiedEvent, lambda *_: own()._read_all())

    def __del__(self) -> None:
        self.parameterNode.RemoveObserver(self._value_tag)

    def _read_all(self) -> None:
        for name, codec in self.allParameters.items():
            if codec.isCached and name not in self._writing:
                self._values[name] = self._read(name)

    def _read(self, name: str) -> Any:
        """Read a member from the node; one that the node has lost gets its default again."""
        codec, key = self.allParameters[name], self._prefix + name
        if not codec.has(self.parameterNode, key):
            codec.write(self.parameterNode, key, self._defaults[name])
        return codec.read(self.parameterNode, key)

    def _write(self, name: str, value: Any) -> None:
        """Write a member and read it back before anybody hears of it."""
        codec = self.allParameters[name]
        self._writing.add(name)
        try:
            with slicer.util.NodeModify(self.parameterNode):
                codec.write(self.parameterNode, self._prefix + name, value)
                if codec.isCached:
                    self._values[name] = self._read(name)
        finally:
            self._writing.discard(name)

    def isCached(self, name: str) -> bool:
        """Say whether a member is kept until the node is modified."""
        self._check(name)
        return self.allParameters[name].isCached

    def _check(self, name: str) -> None:
        if name.split(".", maxsplit=1)[0] not in self.allParameters:
            raise ValueError(f"Cannot find a param with the given name: {name}; known: {sorted(self.allParameters)}")

    def getValue(self, name: str) -> Any:
        """Return a member by name, `pack.member` too."""
        self._check(name)
        top, _, rest = name.partition(".")
        value = self._values[top] if self.allParameters[top].isCached else self._read(top)
        return value.getValue(rest) if rest else value

    def setValue(self, name: str, value: Any) -> None:
        """Set a member by name, `pack.member` too."""
        self._check(name)
        top, _, rest = name.partition(".")
        if rest:
            self.getValue(top).setValue(rest, value)
        else:
            self._write(top, value)

    def dataType(self, name: str) -> Any:
        """Return the annotated type of a member."""
        self._check(name)
        top, _, rest = name.partition(".")
        return self.allParameters[top].kind.dataType(rest) if rest else self._hints[top]

    def connectGui(self, gui: Any) -> None:
        """Bind every widget with the dynamic property SlicerParameterName; as in Slicer, no tag comes back."""
        found = gui.findChildren(qt.QWidget) if hasattr(gui, "findChildren") else list(vars(gui).values())
        widgets = [widget for widget in found if widget.property(SlicerParameterNamePropertyName)]
        self.connectParametersToGui({w.property(SlicerParameterNamePropertyName): w for w in widgets})

    def connectParametersToGui(self, mapping: Mapping[str, Any]) -> int:
        """Bind widgets to members by name; return what `disconnectGui` takes."""
        bindings = {name: bind(widget, self.dataType(name)) for name, widget in mapping.items()}
        tag = len(self._observers)
        self._bindings[tag] = bindings
        for name, binding in bindings.items():
            binding.write(self.getValue(name))
            binding.listen(lambda name=name, binding=binding: self._keep(name, binding))
        self._observers[tag] = self.AddObserver(vtk.vtkCommand.ModifiedEvent, lambda *_: self._show())
        return tag

    def disconnectGui(self, tag: int) -> None:
        """Loosen what `connectParametersToGui` has bound."""
        for binding in self._bindings.pop(tag, {}).values():
            binding.listen(None)
        self.RemoveObserver(self._observers.get(tag, 0))

    def _keep(self, name: str, binding: Binding) -> None:
        if not self._showing:
            with slicer.util.NodeModify(self):
                self.setValue(name, binding.read())

    def _show(self) -> None:
        if self._showing:
            return
        self._showing = True
        try:
            for bindings in self._bindings.values():
                for name, binding in bindings.items():
                    binding.write(self.getValue(name))
        finally:
            self._showing = False

    def StartModify(self) -> int:
        """Hold events back."""
        return self.parameterNode.StartModify()

    def EndModify(self, was: int) -> int:
        """Send the events that were held back."""
        return self.parameterNode.EndModify(was)

    def AddObserver(self, event: Any, call: Any, priority: float = 0.0) -> int:
        """Observe the node."""
        return self.parameterNode.AddObserver(event, call, priority)

    def RemoveObserver(self, tag: int) -> None:
        """Observe no longer."""
        self.parameterNode.RemoveObserver(tag)

    def Modified(self) -> None:
        """Tell observers of a change."""
        self.parameterNode.Modified()


def _member(name: str) -> property:
    return property(lambda self: self.getValue(name), lambda self, value: self.setValue(name, value))


def parameterNodeWrapper(cls: type | None = None) -> Any:
    """Make a class of annotated members keep them in a parameter node. Works with and without parentheses."""
    if cls is None:
        return parameterNodeWrapper
    annotated = hints(cls)
    codecs = {name: codec_of(hint) for name, hint in annotated.items()}
    reserved = sorted(set(codecs) & set(dir(_Wrapper)))
    if reserved:
        raise ValueError(f"Cannot use reserved name '{reserved[0]}' in a parameterNodeWrapper")
    members = {
        "allParameters": codecs,
        "_hints": annotated,
        "_defaults": {name: default_of(cls, name, annotated[name], codecs[name]) for name in codecs},
        "__doc__": cls.__doc__,
        "__module__": cls.__module__,
        **{name: _member(name) for name in codecs},
    }
    methods = {name: value for name, value in vars(cls).items() if callable(value) or isinstance(value, property)}
    others = {name: value for name, value in methods.items() if name not in codecs and not name.startswith("__")}
    return type(cls.__name__, (_Wrapper,), {**others, **members})


def isParameterNodeWrapper(target: Any) -> bool:
    """Say whether a class or an object was made by `parameterNodeWrapper`."""
    return bool(getattr(target, "_is_parameter_node_wrapper", False))
