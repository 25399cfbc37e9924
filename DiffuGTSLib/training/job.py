"""What one part of a training run is given, and what a part must say about itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from diffusers.models.modeling_utils import ModelMixin

from DiffuGTSLib.backbones import build_backbone
from DiffuGTSLib.backbones.interfaces import Denoiser
from DiffuGTSLib.backbones.maisi import MaisiAutoencoder
from DiffuGTSLib.backbones.weights import load_module, save_module
from DiffuGTSLib.config import CanonicalConfig, Config
from DiffuGTSLib.errors import ConfigError, WeightsError, did_you_mean
from DiffuGTSLib.protocol import MODALITIES
from DiffuGTSLib.training.data import TrainingScan
from DiffuGTSLib.training.distributed import rank
from DiffuGTSLib.training.model_folder import adopt
from DiffuGTSLib.training.trainer import Outcome, Recipe, TrainingPlan, train

Report = Callable[[str], None]


@dataclass(frozen=True)
class Job:
    """What every part is trained with.

    Attributes:
        scans: Loaded scans by split, on the part's grid.
        config: Of the preset.
        plan: How long, how precise, from which seed.
        output: Run folder.
        device: Of this process.
        report: Is told one line at a time.
        options: The part's own choices, an instance of the class of `Part.options`; None where it has none.
        networks: Model folder with the frozen networks to train on; None takes the run's own.
    """

    scans: dict[str, list[TrainingScan]]
    config: Config
    plan: TrainingPlan
    output: Path
    device: torch.device
    report: Report
    options: Any = None
    networks: Path | None = None

    @property
    def base(self) -> Path:
        """The model folder with the frozen networks to train on."""
        return self.networks or self.output / "model"

    def run(self, recipe: Recipe, plan: TrainingPlan, folder: str) -> Outcome:
        """Train a recipe in a folder of the run, going on from its checkpoint."""
        name = Path(folder).name

        def progress(done: int, total: int, row: dict[str, float]) -> None:
            figures = ", ".join(f"{key} {value:.4g}" for key, value in row.items() if key != "iteration")
            self.report(f"{name} {done}/{total}: {figures}")

        return train(recipe, plan, self.output / folder, progress)

    def load_autoencoder(self) -> MaisiAutoencoder:
        """Return the autoencoder to train on, frozen."""
        autoencoder: MaisiAutoencoder = load_module(MaisiAutoencoder, self.base / "autoencoder")
        return autoencoder

    def load_denoiser(self) -> Denoiser:
        """Return the denoiser whose features a head looks at, frozen.

        Raises:
            WeightsError: If the model folder has none.
        """
        if not (self.base / "denoiser").is_dir():
            raise WeightsError(
                f"{self.base} holds no denoiser, and denoiser_timestep asks for its features.",
                hint="train it first, diffugts train denoiser, or leave denoiser_timestep at 0.",
                code="weights_missing",
            )
        return build_backbone(replace(self.config.backbone, folder=str(self.base))).denoiser

    def save(self, name: str, module: ModelMixin) -> None:
        """Put a trained part into the model folder, beside the networks it belongs to; the first process writes."""
        if rank() == 0:
            adopt(self.base, self.output / "model")
            save_module(module.cpu(), self.output / "model" / name, torch.float16)


@dataclass(frozen=True)
class Part:
    """One thing that `train` can train: an entry of `DiffuGTSLib.training.run.PARTS`.

    Attributes:
        train: Does it.
        iterations: Where nothing is asked for; a number, or what gives it from the part's options.
        options: The defaults of its own choices: an instance of a frozen dataclass of str, int, float and bool, or
            None. `--set key=value` changes a field.
        grid: The grid that its scans are loaded on, from its options; None takes the preset's.
        modalities: Cases of other modalities are not loaded.
        in_model: Whether it belongs to the model folder that `segment` reads, whose index is then written anew.
        tunes: Whether it chooses what that model folder is used with, so that its cases count as seen there.
        after: The part that must have been trained into the run before, and the folder of its weights there.
        on_preset: Whether it may be trained on the networks of any preset; other parts make `mini`'s own.
        rehearse: Says, in a dry run, what training would need; None has nothing to say.
    """

    train: Callable[[Job], None]
    iterations: int | Callable[[Any], int]
    options: Any = None
    grid: Callable[[Any], CanonicalConfig] | None = None
    modalities: tuple[str, ...] = MODALITIES
    in_model: bool = False
    tunes: bool = False
    after: tuple[str, str] | None = None
    on_preset: bool = False
    rehearse: Callable[[Job], None] | None = None

    def missing(self, run: Path) -> str:
        """Return, in words, which part must be trained before this one; nothing where all is there."""
        if self.after is None or (run / self.after[1]).is_dir():
            return ""
        return f"it needs the {self.after[0]} of the run, and there is no {run / self.after[1]}"

    def length(self, options: Any) -> int:
        """Return how many iterations its options ask for."""
        return self.iterations if isinstance(self.iterations, int) else self.iterations(options)

    def chosen(self, values: Mapping[str, str]) -> Any:
        """Return the options with some fields changed, each value read as its default's type.

        Raises:
            ConfigError: For a key that the part does not have, or a value of another type.
        """
        defaults = {} if self.options is None else {f.name: getattr(self.options, f.name) for f in fields(self.options)}
        read = {}
        for key, value in values.items():
            if key not in defaults:
                hint = did_you_mean(key, defaults) if defaults else "this part has no options."
                raise ConfigError(f"Unknown option '{key}'.", hint=hint)
            read[key] = _read(key, value, type(defaults[key]))
        return replace(self.options, **read) if read else self.options


def _read(key: str, value: str, kind: type) -> Any:
    """Read a word of the command line as a number, a truth value or a text."""
    if kind is bool:
        known = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
        if value.lower() in known:
            return known[value.lower()]
    else:
        try:
            return kind(value)
        except ValueError:
            pass
    wanted = {bool: "yes or no", int: "a whole number", float: "a number"}[kind]
    raise ConfigError(f"{key}: expected {wanted}, got '{value}'.", hint=f"write --set {key}=VALUE.")
