"""Every choice in one place: frozen dataclasses, one for each section, presets by name, overrides by key.

Order: defaults here → preset (one JSON a name, only what differs) → file → `--set inpainting.steps=30`.
Where the paper is silent or could not be read, the default is our choice and the field says so.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from DiffuGTSLib.errors import ConfigError, InputError, did_you_mean
from DiffuGTSLib.resources import resource_path
from DiffuGTSLib.storage import is_finite, read_json


def _require(condition: bool, key: str, expected: str, given: Any) -> None:
    if not condition:
        raise ConfigError(f"{key}: expected {expected}, got {given!r}.")


def _either(names: Iterable[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)


FEATURE_RESIDUALS = ("attention", "projection")
"""Names of `residual.feature`."""

_SIDE_AT_MOST = 1024
"""Voxels that the sides of a grid may have to be at least, or multiples of: several times what any preset asks for."""


@dataclass(frozen=True)
class CanonicalConfig:
    """The model's grid and intensities."""

    spacing_mm: float = 2.0
    """Isotropic voxel size. With `fit_multiple` only the aim, since the field of view decides."""
    fit_multiple: int = 0
    """0: keep `spacing_mm` and pad. Otherwise stretch the whole field of view onto a grid of multiples (MAISI: 128)."""
    fit_minimum_xy: int = 0
    """With `fit_multiple`, sides X and Y are at least this (MAISI's CT: 256, whatever the field of view)."""
    side_multiple: int = 4
    """Pad every side to a multiple of this; the autoencoder halves twice."""
    minimum_side: int = 64
    """Pad shorter sides up to this many voxels: one window."""
    ct_knots_hu: tuple[float, ...] = (-1000.0, 1000.0)
    """HU of the rising intensity map; values beyond the ends are clipped (MAISI: -1000 to 1000)."""
    ct_knots_unit: tuple[float, ...] = (0.0, 1.0)
    """What those HU become."""
    mr_percentiles: tuple[float, float] = (0.0, 99.5)
    """MR intensities at these percentiles become 0 and 1 (MAISI's)."""
    mr_clip: bool = False
    """Whether MR intensities beyond the percentiles are clipped (MAISI: not)."""

    def __post_init__(self) -> None:
        _require(0.1 <= self.spacing_mm <= 20, "canonical.spacing_mm", "0.1 to 20 mm", self.spacing_mm)
        _require(
            0 <= self.fit_multiple <= _SIDE_AT_MOST and self.fit_multiple % 32 == 0,
            "canonical.fit_multiple",
            f"0 or a multiple of 32, at most {_SIDE_AT_MOST}",
            self.fit_multiple,
        )
        _require(
            0 <= self.fit_minimum_xy <= _SIDE_AT_MOST
            and (not self.fit_minimum_xy or self.fit_minimum_xy % (self.fit_multiple or 1) == 0),
            "canonical.fit_minimum_xy",
            f"0 or a multiple of fit_multiple, at most {_SIDE_AT_MOST}",
            self.fit_minimum_xy,
        )
        _require(
            4 <= self.side_multiple <= _SIDE_AT_MOST and self.side_multiple % 4 == 0,
            "canonical.side_multiple",
            f"a multiple of 4, at most {_SIDE_AT_MOST}",
            self.side_multiple,
        )
        _require(
            32 <= self.minimum_side <= _SIDE_AT_MOST and self.minimum_side % 32 == 0,
            "canonical.minimum_side",
            f"a multiple of 32, at most {_SIDE_AT_MOST}",
            self.minimum_side,
        )
        for name in ("ct_knots_hu", "ct_knots_unit", "mr_percentiles"):
            knots = getattr(self, name)
            rising = len(knots) >= 2 and all(a < b for a, b in itertools.pairwise(knots))
            _require(rising, f"canonical.{name}", "at least two rising values", knots)
        ends = (self.ct_knots_unit[0], self.ct_knots_unit[-1])
        _require(ends == (0.0, 1.0), "canonical.ct_knots_unit", "a rise from 0 to 1", self.ct_knots_unit)
        percent = len(self.mr_percentiles) == 2 and self.mr_percentiles[0] >= 0 and self.mr_percentiles[1] <= 100
        _require(percent, "canonical.mr_percentiles", "two values from 0 to 100", self.mr_percentiles)
        same = len(self.ct_knots_hu) == len(self.ct_knots_unit)
        _require(same, "canonical.ct_knots_unit", f"{len(self.ct_knots_hu)} values, one a knot", self.ct_knots_unit)


@dataclass(frozen=True)
class BackboneConfig:
    """The frozen networks and how they are run over a scan."""

    name: str = "mini"
    """A model in Resources/Models, or a name in `DiffuGTSLib.backbones.BACKBONES`."""
    folder: str = ""
    """A model folder of your own (diffusers layout); empty: the bundled or fetched one of that name."""
    class_label: dict[str, int] = field(default_factory=lambda: {"CT": 1, "MR": 8})
    """MAISI's modality codes given to the denoiser."""
    window_voxels: int = 64
    """Side of the cubes in which a scan is encoded and decoded; cost is proportional to the scan."""
    overlap: float = 0.25
    """Share of a window that it has in common with its neighbor; blended with a Gaussian."""
    mirror: bool = False
    """Look at every window's left-right mirror image too and average the maps; twice the time of this stage."""

    def __post_init__(self) -> None:
        _require(
            self.window_voxels >= 32 and self.window_voxels % 16 == 0,
            "backbone.window_voxels",
            "a multiple of 16, at least 32",
            self.window_voxels,
        )
        _require(0 <= self.overlap < 0.9, "backbone.overlap", "0 to 0.9", self.overlap)

    def require_known(self, modalities: Iterable[str], hint: str) -> None:
        """Refuse modalities that the denoiser has no code for.

        Raises:
            InputError: In that case (code "modality").
        """
        strange = sorted({*modalities} - {*self.class_label})
        if strange:
            known = ", ".join(sorted(self.class_label))
            raise InputError(
                f"The denoiser of '{self.name}' knows {known}, not {', '.join(strange)}.", hint=hint, code="modality"
            )


@dataclass(frozen=True)
class TextConfig:
    """The frozen sentence encoder."""

    encoder: str = "minilm"
    """A name in `DiffuGTSLib.text.encoder.ENCODERS`; built-in prompts come from its bank and need no text model."""
    folder: str = ""
    """The text model's own folder, where it is not bundled (clinicalbert)."""
    ensemble: bool = False
    """Average several phrasings of each prompt. Paper not available to us; we chose the single sentence."""


@dataclass(frozen=True)
class MasksConfig:
    """From a map to a mask."""

    smooth_mm: float = 0.0
    """How far the attention is first smoothed within the scan's edges, mm: what has no edge of its own fades. Ours, not the
    paper's; 0: it is not."""
    smooth_edge: float = 0.014
    """Difference of neighboring voxels, in canonical intensity, that stops the smoothing as an edge does (to 1/e; twice as
    much to 1/50). On CT in soft tissue about 9 HU with `mini`'s window."""
    threshold: float = 0.5
    """Abnormal share of the attention above which a voxel is a candidate (equal to argmax over two prompts)."""
    rule: str = "fixed"
    """"fixed"; "relative": threshold and peak are shares of the map's highest value, so that a scan is judged by its own
    most suspicious place; or "otsu": Otsu's threshold on the map where calibration drifts on unseen tumors."""
    floor: float = 0.0
    """With the relative rule: a map that nowhere reaches this has no candidate. Ours, not the paper's."""
    region_floor: float = 0.0
    """The same where a region says where to look: no other organ can be taken for a tumor there, so that less attention is
    enough. Ours, not the paper's."""
    organ_share: float = 0.0
    """Without a region: look only where the head sees the organ (P > 0.5), in connected parts that are at least this share of
    the largest one. Ours, not the paper's; 0: everywhere. Heads that do not say where the organ is look everywhere."""
    peak: float = 0.0
    """Drop connected candidates whose highest attention stays below this: hysteresis, so that a low threshold draws the
    outline and a high one decides. Ours, not the paper's; 0 keeps all."""
    gate: float = 0.5
    """Judge the scan normal, and stop, when its anomaly score is below this. 0: never."""
    minimum_ml: float = 0.05
    """Drop connected candidates smaller than this. Paper not available; the sketch dropped under 10 voxels."""
    dilation_mm: float = 4.0
    """Grow the candidate before repainting: the encoder's receptive field leaks tumor across its border."""

    def __post_init__(self) -> None:
        _require(0 <= self.smooth_mm <= 50, "masks.smooth_mm", "0 to 50 mm", self.smooth_mm)
        _require(self.smooth_edge >= 1e-4, "masks.smooth_edge", "0.0001 or more", self.smooth_edge)
        _require(0 < self.threshold < 1, "masks.threshold", "between 0 and 1", self.threshold)
        rules = ("fixed", "relative", "otsu")
        _require(self.rule in rules, "masks.rule", "'fixed', 'relative' or 'otsu'", self.rule)
        _require(0 <= self.floor < 1, "masks.floor", "0, or below 1", self.floor)
        _require(0 <= self.region_floor < 1, "masks.region_floor", "0, or below 1", self.region_floor)
        _require(0 <= self.organ_share <= 1, "masks.organ_share", "0 to 1", self.organ_share)
        _require(0 <= self.peak < 1, "masks.peak", "0, or below 1", self.peak)
        _require(0 <= self.gate <= 1, "masks.gate", "0 to 1", self.gate)
        _require(self.minimum_ml >= 0, "masks.minimum_ml", "0 or more ml", self.minimum_ml)
        _require(0 <= self.dilation_mm <= 50, "masks.dilation_mm", "0 to 50 mm", self.dilation_mm)


@dataclass(frozen=True)
class InpaintingConfig:
    """Repainting the candidate as healthy tissue in latent space."""

    steps: int = 10
    """Denoising steps. MAISI's rectified flow uses 30, its DDPM 1000 (or DDIM 100)."""
    resample: int = 1
    """RePaint's resampling jumps a step; 1 means none. But for a step from pure noise, cost grows linearly."""
    start: float = 1.0
    """Share of the schedule to start from, 1 being pure noise; below 1 part of the tumor survives."""
    seeds: int = 1
    """Repaint with this many seeds and take the median of each latent number, when the denoiser may paint the tumor back."""
    margin_mm: float = 48.0
    """Healthy context around the candidate that the denoiser sees."""

    def __post_init__(self) -> None:
        _require(1 <= self.steps <= 1000, "inpainting.steps", "1 to 1000", self.steps)
        _require(1 <= self.resample <= 50, "inpainting.resample", "1 to 50", self.resample)
        _require(0 < self.start <= 1, "inpainting.start", "above 0, at most 1", self.start)
        _require(1 <= self.seeds <= 32, "inpainting.seeds", "1 to 32", self.seeds)
        _require(8 <= self.margin_mm <= 5000, "inpainting.margin_mm", "8 to 5000 mm", self.margin_mm)


@dataclass(frozen=True)
class ResidualConfig:
    """What the repainting changed, and the refined mask from it."""

    feature: str = "attention"
    """"attention" (the drop in abnormal attention, nothing to train) or "projection" (the paper's form as we know it: a
    trained projection of the latent residual, of which the model folder needs one: diffugts train residual)."""
    beta_pixel: float = 0.5
    """Weight of the pixel residual (β1)."""
    beta_feature: float = 0.5
    """Weight of the feature residual (β2), whichever `feature` names."""
    beta_attention: float = 0.0
    """Weight of the attention map itself (β3). Differs from the paper's form: ours, 0 turns it off."""
    rule: str = "otsu"
    """"otsu" inside the dilated candidate; "fixed"; or "relative": threshold is a share of the highest value inside the
    candidate, as with `masks.rule`."""
    threshold: float = 0.5
    """Used with the fixed and the relative rule."""

    def __post_init__(self) -> None:
        _require(self.feature in FEATURE_RESIDUALS, "residual.feature", _either(FEATURE_RESIDUALS), self.feature)
        for name in ("beta_pixel", "beta_feature", "beta_attention"):
            _require(0 <= getattr(self, name) <= 1e6, f"residual.{name}", "0 to 1000000", getattr(self, name))
        _require(self.beta_pixel + self.beta_feature + self.beta_attention > 0, "residual", "one weight above 0", 0)
        rules = ("fixed", "relative", "otsu")
        _require(self.rule in rules, "residual.rule", "'fixed', 'relative' or 'otsu'", self.rule)
        _require(0 < self.threshold < 1, "residual.threshold", "between 0 and 1", self.threshold)


@dataclass(frozen=True)
class RuntimeConfig:
    """Where it runs."""

    device: str = "auto"
    """"auto" (CUDA when there is one, said in the record), "cpu", "cuda", "cuda:1"."""
    precision: str = "float32"
    """"float32", or "bfloat16" on CUDA and on CPUs with instructions for it; on others it is a hundred times slower: refused."""
    seed: int = 0
    """Every random draw follows from it."""
    memory_gb: float = 0.0
    """Memory that the plan may use on the device, GB (10^9 bytes). 0: what the device has free."""
    offload: bool = False
    """On CUDA, networks that are not in use wait in main memory; chosen by the plan where they would not all fit."""
    compile: bool = False
    """Compile the denoiser at its first step of each shape (torch.compile); needs Triton. CUDA only: on a CPU, compiling
    took minutes and the bundled denoiser was ten times slower after it."""
    remember_mb: int = 2048
    """The most that a warm program keeps of a scan's features, MB; they answer another prompt without encoding. 0: nothing."""

    def __post_init__(self) -> None:
        _require(self.remember_mb >= 0, "runtime.remember_mb", "0 or more MB", self.remember_mb)
        _require(
            self.precision in ("float32", "bfloat16"), "runtime.precision", "'float32' or 'bfloat16'", self.precision
        )
        _require(0 <= self.seed < 2**63, "runtime.seed", "0 to 2^63 - 1", self.seed)
        _require(self.memory_gb >= 0, "runtime.memory_gb", "0 or more GB", self.memory_gb)


@dataclass(frozen=True)
class Config:
    """The resolved configuration of one run; written beside every result."""

    preset: str = "mini"
    canonical: CanonicalConfig = field(default_factory=CanonicalConfig)
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    text: TextConfig = field(default_factory=TextConfig)
    masks: MasksConfig = field(default_factory=MasksConfig)
    inpainting: InpaintingConfig = field(default_factory=InpaintingConfig)
    residual: ResidualConfig = field(default_factory=ResidualConfig)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values, every key present."""
        plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        return plain


def presets() -> dict[str, str]:
    """Return the bundled presets: name → one line of description."""
    found = {}
    for path in sorted(resource_path("Presets").glob("*.json")):
        found[path.stem] = str(read_json(path, ConfigError).get("description", ""))
    return found


def load_config(preset: str = "mini", file: Path | str | None = None, overrides: Iterable[str] = ()) -> Config:
    """Resolve preset → file → overrides into one checked configuration.

    Args:
        preset: A name from `presets()`.
        file: A JSON file of your own in the preset's form, read after the preset. If it names its preset, as the configuration
            in a result's record does, that must be the one.
        overrides: Strings "section.key=value", applied last, in order.

    Raises:
        ConfigError: Unknown preset, section or key ("did you mean"), a file for another preset, or a value of the wrong type or
            range.
    """
    known = presets()
    if preset not in known:
        raise ConfigError(f"Unknown preset '{preset}'.", hint=did_you_mean(preset, known))
    merged = _merged({}, read_json(resource_path("Presets", f"{preset}.json"), ConfigError), f"preset {preset}")
    if file is not None:
        file = Path(file)
        own = read_json(file, ConfigError, hint="it holds sections and their keys, as Resources/Presets do.")
        _require_same_preset(own.get("preset", preset), preset, file)
        merged = _merged(merged, own, str(file))
    for override in overrides:
        merged = _merged(merged, _parse_override(override), "--set")
    config: Config = _build(Config, {**merged, "preset": preset}, "")
    return config


def _require_same_preset(named: Any, preset: str, file: Path) -> None:
    if named != preset:
        raise ConfigError(
            f"{file} is for preset {named!r}, not for '{preset}'.",
            hint=f"say --preset {named}, or take 'preset' out of the file.",
        )


def from_dict(values: Mapping[str, Any]) -> Config:
    """Rebuild a configuration from `Config.to_dict()`, for example from a result's record.

    Raises:
        ConfigError: As `load_config`.
    """
    config: Config = _build(Config, values, "")
    return config


def _merged(below: dict[str, Any], above: Mapping[str, Any], origin: str) -> dict[str, Any]:
    result = {key: dict(value) if isinstance(value, dict) else value for key, value in below.items()}
    for key, value in above.items():
        if key in ("description", "format", "preset", "tuned_on"):
            continue
        if not isinstance(value, Mapping):
            raise ConfigError(f"{origin}: '{key}' must hold an object of keys, got {value!r}.")
        result.setdefault(key, {}).update(value)
    return result


def _parse_override(text: str) -> dict[str, dict[str, Any]]:
    key, separator, value = text.partition("=")
    section, dot, name = key.strip().partition(".")
    if not (separator and dot and section and name):
        raise ConfigError(
            f"Cannot read the override '{text}'.", hint="write section.key=value, as in inpainting.steps=30."
        )
    try:
        return {section: {name: json.loads(value)}}
    except (ValueError, RecursionError):  # of thousands of digits or brackets, too
        return {section: {name: value}}


def _build(cls: type[Any], values: Mapping[str, Any], path: str) -> Any:
    if not isinstance(values, Mapping):
        raise ConfigError(f"{path.rstrip('.') or 'configuration'}: expected an object of keys, got {values!r}.")
    kinds = typing.get_type_hints(cls)
    for key in values:
        if key not in kinds:
            raise ConfigError(f"Unknown configuration key '{path}{key}'.", hint=did_you_mean(key, kinds))
    return cls(**{key: _converted(kinds[key], value, f"{path}{key}") for key, value in values.items()})


def _converted(kind: Any, value: Any, path: str) -> Any:
    """Turn a JSON value into a field's type, refusing what does not fit."""
    if dataclasses.is_dataclass(kind):
        return _build(typing.cast(type, kind), value, f"{path}.")
    origin = typing.get_origin(kind)
    if origin is tuple and isinstance(value, (list, tuple)):
        return tuple(_converted(float, item, path) for item in value)
    if origin is dict and isinstance(value, Mapping):
        return {str(name): _converted(int, item, path) for name, item in value.items()}
    if kind is float and is_finite(value):
        return float(value)
    if kind in (int, str, bool) and type(value) is kind:
        return value
    expected = getattr(kind, "__name__", str(kind))
    raise ConfigError(f"{path}: expected {expected}, got {value!r} ({type(value).__name__}).")
