"""Organ files: how large, how many, where and how bright the tumors of an organ are; bundled ones and your own.

A file holds only what differs from the defaults below, as a preset does. Sizes follow DiffTumor's mask generator in mm;
contrasts come from textbook ranges and are not fitted to any scan.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from DiffuGTSLib.errors import ConfigError, did_you_mean
from DiffuGTSLib.resources import organ_names, resource_path
from DiffuGTSLib.storage import is_finite, read_json
from DiffuGTSLib.synthesis.shapes import DIFFTUMOR_SIZES, SizeClass

Range = tuple[float, float]

BLENDINGS = ("soft", "replace")
"""How paint meets scan: by the blurred tumor mask, or, where a painter repaints its whole box, all of that box."""


_LIMITS: dict[str, tuple[float, float]] = {
    "radius_mm": (0.1, 200), "semi_axis_mm": (0.1, 200), "elastic_mm": (0, 100), "count": (1, 100), "waviness": (0, 1),
    "spicules": (0, 200), "size_chances": (0, 100), "exophytic_chance": (0, 1), "erosion_mm": (0, 50),
    "closing_mm": (0, 50), "border_mm": (0, 50), "blend_sigma_mm": (0, 50), "organ_radius_mm": (0.1, 200),
    "shift_hu": (-3e4, 3e4), "absolute_hu": (-3e4, 3e4), "drop_hu": (-3e4, 3e4), "vessel_above_hu": (-3e4, 3e4),
    "part_solid_chance": (0, 1), "shift_sd": (-100, 100), "vessel_above_sd": (-100, 100),
}  # fmt: skip
"""Lowest and highest of each number that a file may hold: what painting can bear, far beyond any organ's tumors."""


@dataclass(frozen=True)
class CtContrast:
    """How tumors look on CT.

    Attributes:
        shift_hu: Ranges of the difference to the organ around the tumor; one range is drawn.
        absolute_hu: Ranges of the tumor's own intensity; where there are both, each is taken half of the time.
        drop_hu: Range of what SyntheticTumors' recipe subtracts; negative makes brighter.
        vessel_above_hu: A smoothed voxel of the organ this far above the organ's mean is a vessel; None: not looked for.
        part_solid_chance: Share of tumors that are a haze around a smaller solid part, as many lung nodules are.
    """

    shift_hu: tuple[Range, ...] = ((-90.0, -20.0), (20.0, 70.0))
    absolute_hu: tuple[Range, ...] = ()
    drop_hu: Range = (65.0, 145.0)
    vessel_above_hu: float | None = None
    part_solid_chance: float = 0.0

    def __post_init__(self) -> None:
        if not self.shift_hu and not self.absolute_hu:
            raise ConfigError("ct: expected at least one range in shift_hu or absolute_hu, got none.")


@dataclass(frozen=True)
class MrContrast:
    """How tumors look on MR, in standard deviations of the organ's own intensities (MR has no unit).

    Attributes:
        shift_sd: Ranges of the difference to the organ around the tumor; one range is drawn.
        vessel_above_sd: As `CtContrast.vessel_above_hu`.
    """

    shift_sd: tuple[Range, ...] = ((-5.0, -1.5), (1.5, 6.0), (1.5, 6.0))
    vessel_above_sd: float | None = None

    def __post_init__(self) -> None:
        if not self.shift_sd:
            raise ConfigError("mr.shift_sd: expected at least one range, got none.")


@dataclass(frozen=True)
class OrganSpec:
    """Everything that the synthesis knows about one organ.

    Attributes:
        name: As prompts call it.
        sizes: Size class by name.
        size_chances: How often a "mix" takes each class (DiffTumor: 80 % early, half of them tiny).
        radius_mm: Range of radii in the training windows of the attention's head, log-uniform; `synthesize` goes by `sizes`.
        exophytic_chance: Size name → how often a tumor may grow out of the organ.
        centered: Size names that sit in the middle of the organ's box.
        erosion_mm: How far inside the organ a center must lie, within the slice.
        closing_mm: Holes of the organ mask up to this width are closed before tumors are kept inside it: a lung mask
            leaves out vessels, and a nodule does not.
        border_mm: How far a tumor may cross the border of the mask: a lung mask by threshold ends short of the pleura.
        blending: One of `BLENDINGS`. DiffTumor replaces in the pancreas; we blend there too, because a box that is
            repainted as a whole tells a network where to look. Write "replace" to have it.
        blend_sigma_mm: Range of the blur of the tumor mask before blending, beside the scan's own (DiffTumor: 0 to 4; SyntheticTumors 1 to 2).
        ct: Contrast on CT.
        mr: Contrast on MR.
        vessel_sizes: Size names that keep clear of vessels; larger tumors grow around what they meet.
        organ_radius_mm: A crop counts as showing the organ when it holds a ball of this radius of it (DiffTumor).
    """

    name: str
    sizes: Mapping[str, SizeClass] = field(default_factory=lambda: dict(DIFFTUMOR_SIZES))
    size_chances: Mapping[str, float] = field(
        default_factory=lambda: {"tiny": 0.4, "small": 0.4, "medium": 0.1, "large": 0.1}
    )
    radius_mm: Range = (6.0, 30.0)
    exophytic_chance: Mapping[str, float] = field(default_factory=dict)
    centered: tuple[str, ...] = ()
    erosion_mm: float = 0.0
    closing_mm: float = 0.0
    border_mm: float = 0.0
    blending: str = "soft"
    blend_sigma_mm: Range = (0.0, 1.0)
    ct: CtContrast = field(default_factory=CtContrast)
    mr: MrContrast = field(default_factory=MrContrast)
    vessel_sizes: tuple[str, ...] = ("tiny", "small")
    organ_radius_mm: float = 15.0

    def __post_init__(self) -> None:
        if self.blending not in BLENDINGS:
            raise ConfigError(
                f"blending: expected one of {', '.join(BLENDINGS)}, got '{self.blending}'.",
                hint=did_you_mean(self.blending, BLENDINGS),
            )
        if not self.sizes or sum(self.size_chances.get(name, 0.0) for name in self.sizes) <= 0:
            raise ConfigError(f"size_chances: expected a positive chance for one of {', '.join(self.sizes) or 'none'}.")

    def vessel_above(self, modality: str) -> float | None:
        """Return the vessel threshold: HU above the organ's mean on CT, standard deviations above it on MR."""
        return self.ct.vessel_above_hu if modality == "CT" else self.mr.vessel_above_sd


def organ_spec(name_or_path: str | Path) -> OrganSpec:
    """Read an organ file: a bundled one by its organ's name, or your own by a path that ends in .json.

    Raises:
        ConfigError: Unknown organ, key or size ("did you mean"), a value of the wrong type or out of range, no such file.
    """
    text = str(name_or_path)
    if text.endswith(".json"):
        return _read_spec(Path(text))
    name = " ".join(text.lower().replace("_", " ").split())
    if name not in organ_names():
        raise ConfigError(
            f"There is no organ file for '{text}'.",
            hint=f"{did_you_mean(name, organ_names())} A file of your own works too: give its path, ending in .json.",
        )
    return _bundled(name)


@cache
def _bundled(name: str) -> OrganSpec:
    return _read_spec(resource_path("Organs", f"{name.replace(' ', '_')}.json"))


def _read_spec(path: Path) -> OrganSpec:
    values = read_json(path, ConfigError, hint="Resources/Organs/liver.json shows the form of an organ file.")
    if values.get("format", 1) != 1:
        raise ConfigError(f"Organ file {path}: expected format 1, got {values['format']!r}.")
    values = {key: value for key, value in values.items() if key not in ("format", "description")}
    values.setdefault("name", path.stem.replace("_", " "))
    if "sizes" in values:
        values["sizes"] = _sizes(values["sizes"], f"{path}: sizes")
    for key in ("size_chances", "exophytic_chance"):
        _require_sizes(values.get(key, {}), values.get("sizes", DIFFTUMOR_SIZES), f"{path}: {key}")
    for key in ("centered", "vessel_sizes"):
        _require_sizes(values.get(key, []), values.get("sizes", DIFFTUMOR_SIZES), f"{path}: {key}")
    spec: OrganSpec = _built(OrganSpec, values, f"{path}: ")
    return spec


def _sizes(values: Any, path: str) -> dict[str, SizeClass]:
    """Read a size table; each class holds what differs from DiffTumor's, `null` takes a class out."""
    _require_sizes(values, DIFFTUMOR_SIZES, path)
    if not isinstance(values, Mapping):
        raise ConfigError(f"{path}: expected an object of size classes, got {values!r}.")
    sizes = dict(DIFFTUMOR_SIZES)
    for name, changes in values.items():
        if changes is None:
            del sizes[name]
            continue
        if not isinstance(changes, Mapping):
            raise ConfigError(f"{path}.{name}: expected an object of keys, got {changes!r}.")
        sizes[name] = replace(sizes[name], **_converted_fields(SizeClass, changes, f"{path}.{name}."))
    return sizes


def _require_sizes(given: Any, known: Any, path: str) -> None:
    if not isinstance(given, (Mapping, list)):
        raise ConfigError(f"{path}: expected size names, got {given!r}.")
    for name in given:
        if not isinstance(name, str) or name not in known:
            raise ConfigError(f"{path}: unknown size '{name}'.", hint=did_you_mean(str(name), known))


def _built(cls: type[Any], values: Mapping[str, Any], path: str) -> Any:
    return cls(**_converted_fields(cls, values, path))


def _converted_fields(cls: type[Any], values: Mapping[str, Any], path: str) -> dict[str, Any]:
    kinds = typing.get_type_hints(cls)
    for key in values:
        if key not in kinds:
            raise ConfigError(f"{path}unknown key '{key}'.", hint=did_you_mean(key, kinds))
    converted = {key: _converted(kinds[key], value, f"{path}{key}") for key, value in values.items()}
    for key, value in converted.items():
        low, high = _LIMITS.get(key, (-math.inf, math.inf))
        for number in _numbers_in(value):
            if not low <= number <= high:
                raise ConfigError(f"{path}{key}: expected {low:g} to {high:g}, got {number!s:.20}.")
    return converted


def _numbers_in(value: Any) -> Iterator[float]:
    if isinstance(value, int | float):
        yield value
    elif isinstance(value, tuple | Mapping):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _numbers_in(item)


def _converted(kind: Any, value: Any, path: str) -> Any:
    """Turn a JSON value into a field's type, refusing what does not fit."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin is types.UnionType:
        return None if value is None else _converted(inner[0], value, path)
    if isinstance(value, Mapping):
        if dataclasses.is_dataclass(kind):
            return _built(typing.cast(type, kind), value, f"{path}.")
        if origin is Mapping:
            return {
                name: item if isinstance(item, SizeClass) else _converted(inner[1], item, f"{path}.{name}")
                for name, item in value.items()
            }
    if origin is tuple and isinstance(value, list):
        return _converted_list(kind, value, path)
    if kind is float and is_finite(value):
        return float(value)
    if kind in (int, str) and type(value) is kind:
        return value
    raise ConfigError(f"{path}: expected {_named(kind)}, got {value!r}.")


def _converted_list(kind: Any, value: list[Any], path: str) -> tuple[Any, ...]:
    inner = typing.get_args(kind)
    if inner[-1] is Ellipsis:
        return tuple(_converted(inner[0], item, path) for item in value)
    pair = tuple(_converted(inner[0], item, path) for item in value)
    if len(pair) != 2 or pair[0] > pair[1]:
        raise ConfigError(f"{path}: expected a range [low, high], got {value!r}.")
    return pair


def _named(kind: Any) -> str:
    if typing.get_origin(kind) is tuple:
        return "a list" if typing.get_args(kind)[-1] is Ellipsis else "a range [low, high]"
    return {float: "a number", int: "a whole number", str: "a word"}.get(kind, "an object of keys")
