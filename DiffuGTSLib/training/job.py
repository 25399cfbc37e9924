"""What one part of a training run is given, and what a part must say about itself."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch
from diffusers.models.modeling_utils import ModelMixin

from DiffuGTSLib.backbones import build_backbone
from DiffuGTSLib.backbones.interfaces import Denoiser
from DiffuGTSLib.backbones.maisi import MaisiAutoencoder
from DiffuGTSLib.backbones.trained_grid import write_trained_grid
from DiffuGTSLib.backbones.weights import load_module, save_module
from DiffuGTSLib.config import CanonicalConfig, Config, load_config
from DiffuGTSLib.datasets.protocol import MODALITIES
from DiffuGTSLib.errors import ConfigError, WeightsError, did_you_mean
from DiffuGTSLib.storage import make_folder, write_json
from DiffuGTSLib.synthesis.painters import BY_HAND
from DiffuGTSLib.training.data import TrainingScan
from DiffuGTSLib.training.distributed import rank, wait_for_all, world_size
from DiffuGTSLib.training.model_folder import adopt, write_index
from DiffuGTSLib.training.prepared import PreparedFolder
from DiffuGTSLib.training.resuming import (
    BEGUN,
    labels_sha256,
    learned_settings,
    read_checkpoint,
    read_record,
    require_as_begun,
    restart_reason,
    split_digests,
)
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
        listed: The cases by split, in words that tell them apart, where they come from lists and not as `scans`.
        listed_sha256: Of these what `scans_sha256` says of others.
        prepared: Where scans on their grid are kept; None holds them in memory.
    """

    scans: dict[str, list[TrainingScan]]
    config: Config
    plan: TrainingPlan
    output: Path
    device: torch.device
    report: Report
    options: Any = None
    networks: Path | None = None
    listed: Mapping[str, Sequence[str]] | None = None
    listed_sha256: Mapping[str, str] = field(default_factory=dict)
    prepared: PreparedFolder | None = None

    @property
    def base(self) -> Path:
        """The model folder with the frozen networks to train on."""
        return self.networks or self.output / "model"

    @property
    def head_base(self) -> Path:
        """The model folder with the head to use: the run's own, where it has one."""
        own = self.output / "model"
        return own if (own / "aova").is_dir() else self.base

    @property
    def made_from(self) -> list[Path]:
        """Folders of models that a part is made from: of the weights it begins from, the frozen networks, its painters."""
        words = [getattr(self.options, name, "") for name in ("start", "painter", "late_painter")]
        named = [Path(word) for word in words if word not in ("", "none", *BY_HAND)]
        return named if self.networks is None else [*named, self.networks]

    def run(
        self,
        recipe: Recipe,
        plan: TrainingPlan,
        folder: str,
        grown_from: str = "",
        frozen: Mapping[str, str] | None = None,
    ) -> Outcome:
        """Train a recipe in a folder of the run, going on from its checkpoint.

        Args:
            recipe: What is trained.
            plan: How long, how fast.
            folder: Below the run's.
            grown_from: What it grows from beside the choices, as the phase before; from another one it is begun anew.
            frozen: The networks that it is trained on, as `networks_sha256` says; on others it is begun anew.

        Raises:
            ConfigError: If the checkpoint was begun with other choices, or has had more iterations than the plan.
        """
        name = Path(folder).name
        self._begin(self.output / folder, plan, {"grown_from": grown_from, "frozen": dict(frozen or {})})

        def progress(done: int, total: int, row: dict[str, float]) -> None:
            figures = ", ".join(f"{key} {value:.4g}" for key, value in row.items() if key != "iteration")
            self.report(f"{name} {done}/{total}: {figures}")

        outcome = train(recipe, plan, self.output / folder, progress)
        if words := outcome.in_words(plan):
            self.report(f"{': '.join(Path(folder).parts)}: {words}")
        return outcome

    def begun(self, seed: int) -> dict[str, Any]:
        """Return what a part is begun with, and goes on with."""
        options = {} if self.options is None else asdict(self.options)
        named = {split: [scan.case.name for scan in loaded] for split, loaded in self.scans.items()}
        cases = named if self.listed is None else {split: list(names) for split, names in self.listed.items()}
        return {
            "options": options, "preset": self.config.preset, "cases": cases.get("train", []),
            "validation": cases.get("validation", []), "seed": seed, "precision": self.plan.precision,
            "processes": world_size(),
            **(self.scans_sha256 if self.listed is None else self.listed_sha256), "config": learned_settings(self.config),
        }  # fmt: skip

    @functools.cached_property
    def scans_sha256(self) -> dict[str, str]:
        """What stands for all that is outlined in each split's scans, and for their voxels: see `split_digests`."""
        labels = {split: labels_sha256(loaded) for split, loaded in self.scans.items()}
        return split_digests(
            labels, {split: [scan.scan.image for scan in loaded] for split, loaded in self.scans.items()}
        )

    def require_as_begun(self, folder: str, record: str = "") -> None:
        """Refuse now what `run` in a folder would refuse: other choices than it was begun with.

        Args:
            folder: Below the run's.
            record: File in it with what was begun; "" takes that beside the checkpoint.

        Raises:
            ConfigError: As `require_as_begun`.
        """
        path = self.output / folder / (record or BEGUN)
        if path.is_file():
            require_as_begun(path.parent, read_record(path), self.begun(self.plan.seed))

    def left(self, folder: str, plan: TrainingPlan, frozen: Mapping[str, str]) -> int:
        """Return how many iterations `run` has still to go in a folder, if what it grows from stays as it is.

        Raises:
            ConfigError: As `run`.
            WeightsError: If the checkpoint is damaged.
        """
        state = self.output / folder / "state.pt"
        if not state.is_file():
            return plan.iterations
        begun = read_record(state.with_name(BEGUN))
        require_as_begun(state.parent, begun, self.begun(plan.seed))
        if restart_reason(begun, {"grown_from": begun.get("grown_from", ""), "frozen": frozen}):
            return plan.iterations
        kept = read_checkpoint(state, plan)
        early = 0 < plan.patience <= kept.get("best", {}).get("waited", 0)
        return 0 if early else plan.iterations - int(kept["iteration"])

    def _begin(self, folder: Path, plan: TrainingPlan, grown: Mapping[str, Any]) -> None:
        state, record = folder / "state.pt", folder / BEGUN
        now = {**self.begun(plan.seed), **grown}
        if state.is_file():
            begun = read_record(record)
            require_as_begun(folder, begun, now)
            if why := restart_reason(begun, now):
                self.report(f"{folder.name}: begun anew, since {why}")
                wait_for_all()  # nobody is to find what is just being removed
                if rank() == 0:
                    for left in (state, folder / "log.csv", *folder.glob("events.out.tfevents.*")):
                        left.unlink(missing_ok=True)
            else:
                read_checkpoint(state, plan)
        wait_for_all()
        if rank() == 0:
            make_folder(folder)
            write_json(record, now)

    def inference_config(self, model: Path) -> Config:
        """Return the configuration to run a whole model with: on the job's device, in the precision asked for."""
        asked = self.plan.precision
        precision = self.config.runtime.precision if asked == "float32" else asked  # a preset may ask for it, too
        return replace(
            self.config,
            backbone=replace(self.config.backbone, folder=str(model)),
            runtime=replace(self.config.runtime, device=str(self.device), precision=precision),
        )

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
        """Put a trained part into the model folder, beside the networks it belongs to; the first process writes.

        The folder is whole at once: what comes after may take long, and be stopped.
        """
        if rank() == 0:
            adopt(self.base, self.output / "model")
            save_module(module.cpu(), self.output / "model" / name, torch.float16)
            if name == "aova":
                write_trained_grid(self.output / "model" / name, self.config)
            write_index(self.output / "model")


def differing_overrides(config: Config) -> list[str]:
    """Return what `--set` says after the preset's name to get a configuration."""
    wanted, preset = config.to_dict(), load_config(config.preset).to_dict()
    return [
        f"{stage}.{key}={value if isinstance(value, str) else json.dumps(value, separators=(',', ':'))}"
        for stage, values in wanted.items()
        if isinstance(values, dict)
        for key, value in values.items()
        if value != preset[stage][key]
    ]


@dataclass(frozen=True)
class Part:
    """One thing that `train` can train: an entry of `DiffuGTSLib.training.run.PARTS`.

    Attributes:
        train: Does it.
        rehearse: Says, in a dry run, what training would do, and refuses what it would refuse.
        iterations: Where nothing is asked for; a number, or what gives it from the part's options.
        options: The defaults of its own choices: an instance of a frozen dataclass of str, int, float and bool, or
            None. `--set key=value` changes a field.
        grid: The grid that its scans are loaded on, from its options; None takes the preset's.
        modalities: Cases of other modalities are not loaded.
        model: Folder of the run with its weights, in which its cases are recorded. "model" is the one that `segment` reads,
            whose index is then written anew.
        learns_weights: Whether it writes weights there; otherwise it only chooses settings for them.
        requires: The part that must have been trained into the run before, and the folder of its weights there.
        any_preset: Whether it may be trained on the networks of any preset; other parts make `mini`'s own.
    """

    train: Callable[[Job], None]
    rehearse: Callable[[Job], None]
    iterations: int | Callable[[Any], int]
    options: Any = None
    grid: Callable[[Any], CanonicalConfig] | None = None
    modalities: tuple[str, ...] = MODALITIES
    model: str = "model"
    learns_weights: bool = True
    requires: tuple[str, str] | None = None
    any_preset: bool = False

    def missing(self, run: Path) -> str:
        """Return, in words, which part must be trained before this one; nothing where all is there."""
        if self.requires is None or (run / self.requires[1]).is_dir():
            return ""
        return f"it needs the {self.requires[0]} of the run, and there is no {run / self.requires[1]}"

    def iterations_for(self, options: Any) -> int:
        """Return how many iterations its options ask for."""
        return self.iterations if isinstance(self.iterations, int) else self.iterations(options)

    def parse_options(self, values: Mapping[str, str]) -> Any:
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
