"""What may stand in `Annotated[type, ...]` beside the type of a member."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any, get_args, get_origin


class Validator:
    """Refuses values with ValueError."""

    def validate(self, value: Any) -> None:
        """Raise ValueError for a value that is not allowed."""


@dataclass
class Minimum(Validator):
    """Nothing below."""

    minimum: float

    def validate(self, value: Any) -> None:
        """Raise ValueError for less."""
        if value < self.minimum:
            raise ValueError(f"Value must be greater than or equal to {self.minimum}, got {value}")


@dataclass
class Maximum(Validator):
    """Nothing above."""

    maximum: float

    def validate(self, value: Any) -> None:
        """Raise ValueError for more."""
        if value > self.maximum:
            raise ValueError(f"Value must be less than or equal to {self.maximum}, got {value}")


@dataclass
class WithinRange(Validator):
    """Nothing outside; both ends belong to it."""

    minimum: float
    maximum: float

    def validate(self, value: Any) -> None:
        """Raise ValueError for what lies outside."""
        if not self.minimum <= value <= self.maximum:
            raise ValueError(f"Value must be within [{self.minimum}, {self.maximum}], got {value}")


@dataclass
class RangeBounds(Validator):
    """Both ends of a range must lie within."""

    minimum: float
    maximum: float

    def validate(self, value: Any) -> None:
        """Raise ValueError for a range that reaches out."""
        for end in (value.minimum, value.maximum):
            WithinRange(self.minimum, self.maximum).validate(end)


class Choice(Validator):
    """One of these."""

    def __init__(self, choices: Iterable[Any]) -> None:
        self.choices = list(choices)

    def validate(self, value: Any) -> None:
        """Raise ValueError for another value."""
        if value not in self.choices:
            raise ValueError(f"Value must be one of {self.choices}, got {value!r}")


@dataclass
class Default:
    """The value to start with."""

    value: Any


@dataclass
class Decimals:
    """Digits that a widget shows after the point."""

    value: int


@dataclass
class SingleStep:
    """Step of a widget."""

    value: float


def split(annotated: Any) -> tuple[Any, tuple[Any, ...]]:
    """Return the type and what stands beside it."""
    if get_origin(annotated) is Annotated:
        plain, *beside = get_args(annotated)
        return plain, tuple(beside)
    return annotated, ()


def find(annotations: Iterable[Any], *kinds: type) -> Any:
    """Return the first annotation of one of these kinds, or None."""
    return next((found for found in annotations if isinstance(found, kinds)), None)
