"""How a value becomes text in a parameter node, and text a value.

Numbers and text as they print, truth as True or False, an enumeration by its name, a node as a node reference with an
empty parameter of the same name, a pack as one parameter a member, `pack.member`.
"""

from __future__ import annotations

import ast
import enum
import pathlib
import types
import typing
from dataclasses import dataclass
from typing import Any

import slicer

from .annotations import Default, Validator, find, split


@dataclass
class FloatRange:
    """Two ends."""

    minimum: float
    maximum: float


class Codec:
    """Text of a plain type.

    Attributes:
        isCached: Whether what was read is kept until the node is modified.
    """

    isCached = True

    def __init__(self, kind: Any, validators: tuple[Validator, ...] = ()) -> None:
        self.kind, self.validators = kind, validators

    def default(self) -> Any:
        """Return the value to start with where none is given."""
        if isinstance(self.kind, type) and issubclass(self.kind, enum.Enum):
            return next(iter(self.kind))
        return self.kind()

    def check(self, value: Any) -> None:
        """Raise TypeError or ValueError for a value that is not allowed."""
        allowed = (int, float) if self.kind is float else self.kind
        if (isinstance(value, bool) and self.kind is not bool) or not isinstance(value, allowed):
            raise TypeError(f"Value must be of {self.kind}, got {value!r}")
        for validator in self.validators:
            validator.validate(value)

    def has(self, node: Any, name: str) -> bool:
        """Say whether a node has the parameter."""
        return bool(node.HasParameter(name))

    def write(self, node: Any, name: str, value: Any) -> None:
        """Check a value and keep it."""
        self.check(value)
        node.SetParameter(name, value.name if isinstance(value, enum.Enum) else str(value))

    def read(self, node: Any, name: str) -> Any:
        """Return the value that was kept."""
        text = node.GetParameter(name)
        if self.kind is bool:
            return text == "True"
        if issubclass(self.kind, enum.Enum):
            return self.kind[text]
        return self.kind(text)


class LiteralCodec(Codec):
    """Lists, tuples and dictionaries, as they print."""

    isCached = False

    def default(self) -> Any:
        """Return an empty one."""
        return (typing.get_origin(self.kind) or self.kind)()

    def check(self, value: Any) -> None:
        """Refuse another container."""
        Codec(typing.get_origin(self.kind) or self.kind, self.validators).check(value)

    def read(self, node: Any, name: str) -> Any:
        """Return a copy: changing it in place changes nothing, assign it anew."""
        return ast.literal_eval(node.GetParameter(name))


class OptionalCodec(Codec):
    """A plain type, or None as an empty text with a mark."""

    NONE = "None"

    def __init__(self, inner: Codec) -> None:
        super().__init__(inner.kind, inner.validators)
        self.inner = inner

    def default(self) -> Any:
        """Return None."""

    def write(self, node: Any, name: str, value: Any) -> None:
        """Check a value and keep it."""
        if value is None:
            node.SetParameter(name, self.NONE)
        else:
            self.inner.write(node, name, value)

    def read(self, node: Any, name: str) -> Any:
        """Return the value that was kept."""
        return None if node.GetParameter(name) == self.NONE else self.inner.read(node, name)


class NodeCodec(Codec):
    """A node of the scene, or None."""

    def default(self) -> None:
        """Return None."""

    def check(self, value: Any) -> None:
        """Refuse a node of another class."""
        if value is not None and not isinstance(value, self.kind):
            raise TypeError(f"Value must be a {self.kind.__name__}, got {value!r}")

    def write(self, node: Any, name: str, value: Any) -> None:
        """Keep a reference."""
        self.check(value)
        node.SetParameter(name, "")
        node.SetNodeReferenceID(name, value.GetID() if value is not None else None)

    def read(self, node: Any, name: str) -> Any:
        """Return the node, None also where it is gone."""
        return node.GetNodeReference(name)


class PackCodec(Codec):
    """A pack of members; what is read stays connected, so that setting a member of it is kept."""

    def __init__(self, kind: Any) -> None:
        super().__init__(kind)
        self.members = {name: codec_of(hint) for name, hint in hints(kind).items()}

    def has(self, node: Any, name: str) -> bool:
        """Say whether a node has all members."""
        return all(codec.has(node, f"{name}.{member}") for member, codec in self.members.items())

    def write(self, node: Any, name: str, value: Any) -> None:
        """Keep every member."""
        self.check(value)
        for member, codec in self.members.items():
            codec.write(node, f"{name}.{member}", getattr(value, member))

    def read(self, node: Any, name: str) -> Any:
        """Return a pack whose members are kept as they are set."""
        pack = self.kind(**{member: codec.read(node, f"{name}.{member}") for member, codec in self.members.items()})
        pack.__dict__["_keep"] = lambda member, value: self.members[member].write(node, f"{name}.{member}", value)
        return pack


def hints(kind: type) -> dict[str, Any]:
    """Return the annotated members of a class."""
    return typing.get_type_hints(kind, include_extras=True)


def default_of(owner: type, name: str, hint: Any, codec: Codec) -> Any:
    """Return what a member starts with: what is assigned, or `Default`, or what its type starts with."""
    given = find(split(hint)[1], Default)
    return owner.__dict__.get(name, given.value if given else codec.default())


def codec_of(hint: Any) -> Codec:
    """Return the codec of a member's type.

    Raises:
        TypeError: For a type that cannot be kept.
    """
    kind, beside = split(hint)
    validators = tuple(found for found in beside if isinstance(found, Validator))
    origin = typing.get_origin(kind)
    if origin in (typing.Union, types.UnionType):
        inner = [part for part in typing.get_args(kind) if part is not type(None)]
        if len(inner) == 1:
            codec = codec_of(inner[0])
            return codec if isinstance(codec, NodeCodec) else OptionalCodec(codec)
    if (origin or kind) in (list, tuple, dict):
        return LiteralCodec(kind, validators)
    if isinstance(kind, type):
        if issubclass(kind, slicer.vtkMRMLNode):
            return NodeCodec(kind, validators)
        if getattr(kind, "_is_parameter_pack", False):
            return PackCodec(kind)
        if kind in (bool, int, float, str) or issubclass(kind, enum.Enum | pathlib.PurePath):
            return Codec(kind, validators)
    raise TypeError(f"Unable to create serializer for {kind}")


def parameterPack(cls: type) -> type:
    """Make a class of members that can be one member of a parameter node."""
    codecs = {name: codec_of(hint) for name, hint in hints(cls).items()}
    defaults = {name: default_of(cls, name, hint, codecs[name]) for name, hint in hints(cls).items()}

    def initialize(self: Any, *positional: Any, **named: Any) -> None:
        given = {**dict(zip(codecs, positional, strict=False)), **named}
        for name, value in {**defaults, **given}.items():
            setattr(self, name, value)

    def set_member(self: Any, name: str, value: Any) -> None:
        codecs[name].check(value) if name in codecs else None
        self.__dict__[name] = value
        if name in codecs and "_keep" in self.__dict__:
            self.__dict__["_keep"](name, value)

    def equals(self: Any, other: object) -> bool:
        return type(self) is type(other) and all(getattr(self, name) == getattr(other, name) for name in codecs)

    cls.__init__, cls.__setattr__, cls.__eq__ = initialize, set_member, equals
    cls.getValue = cls.__getattribute__
    cls.setValue = set_member
    cls.dataType = staticmethod(lambda name: hints(cls)[name])
    cls.allParameters = codecs
    cls._is_parameter_pack = True
    for name in codecs:
        if name in cls.__dict__:
            delattr(cls, name)
    return cls
