"""What one part of a training run is given, and what a part must say about itself."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.models.modeling_utils import ModelMixin
from numpy.typing import NDArray

from DiffuGTSLib.backbones import build_backbone
from DiffuGTSLib.backbones.interfaces import Denoiser
from DiffuGTSLib.backbones.maisi import MaisiAutoencoder
from DiffuGTSLib.backbones.trained_grid import write_trained_grid
from DiffuGTSLib.backbones.weights import WEIGHTS_FILE, load_module, read_json, save_module
from DiffuGTSLib.config import CanonicalConfig, Config, load_config
from DiffuGTSLib.datasets.protocol import MODALITIES, row_of
from DiffuGTSLib.errors import ConfigError, WeightsError, did_you_mean
from DiffuGTSLib.storage import make_folder, sha256, write_json
from DiffuGTSLib.synthesis.painters import BY_HAND
from DiffuGTSLib.training.data import TrainingScan
from DiffuGTSLib.training.distributed import rank, wait_for_all, world_size
from DiffuGTSLib.training.model_folder import adopt
from DiffuGTSLib.training.prepared import PreparedFolder
from DiffuGTSLib.training.trainer import Outcome, Recipe, TrainingPlan, read_state, train

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
        """The model folder with the head to look at scans with: the run's own, where it has one."""
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
            **(self.scans_sha256 if self.listed is None else self.listed_sha256), "config": learned_with(self.config),
        }  # fmt: skip

    @functools.cached_property
    def scans_sha256(self) -> dict[str, str]:
        """What stands for all that is outlined in each split's scans, and for their voxels: see `digests`."""
        labels = {split: labels_sha256(loaded) for split, loaded in self.scans.items()}
        return digests(labels, {split: [scan.scan.image for scan in loaded] for split, loaded in self.scans.items()})

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
            require_as_begun(path.parent, read_json(path), self.begun(self.plan.seed))

    def left(self, folder: str, plan: TrainingPlan, frozen: Mapping[str, str]) -> int:
        """Return how many iterations `run` has still to go in a folder, if what it grows from stays as it is.

        Raises:
            ConfigError: As `run`.
            WeightsError: If the checkpoint is damaged.
        """
        state, record = self.output / folder / "state.pt", self.output / folder / BEGUN
        if not state.is_file():
            return plan.iterations
        begun = read_json(record) if record.is_file() else {}
        if begun:
            require_as_begun(state.parent, begun, self.begun(plan.seed))
        if _why_anew(begun, {"grown_from": begun.get("grown_from", ""), "frozen": frozen}):
            return plan.iterations
        kept = _checkpoint(state, plan)
        early = 0 < plan.patience <= kept.get("best", {}).get("waited", 0)
        return 0 if early else plan.iterations - int(kept["iteration"])

    def _begin(self, folder: Path, plan: TrainingPlan, grown: Mapping[str, Any]) -> None:
        state, record = folder / "state.pt", folder / BEGUN
        now = {**self.begun(plan.seed), **grown}
        if state.is_file() and record.is_file():
            begun = read_json(record)
            require_as_begun(folder, begun, now)
            if why := _why_anew(begun, now):
                self.report(f"{folder.name}: begun anew, since {why}")
                wait_for_all()  # nobody is to find what is just being removed
                if rank() == 0:
                    for left in (state, folder / "log.csv", *folder.glob("events.out.tfevents.*")):
                        left.unlink(missing_ok=True)
            else:
                _checkpoint(state, plan)
        wait_for_all()
        if rank() == 0:
            make_folder(folder)
            write_json(record, now)

    def looking_with(self, model: Path) -> Config:
        """Return the configuration to look at scans with a whole model: on the job's device, in the precision asked for."""
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
        """Put a trained part into the model folder, beside the networks it belongs to; the first process writes."""
        if rank() == 0:
            adopt(self.base, self.output / "model")
            save_module(module.cpu(), self.output / "model" / name, torch.float16)
            if name == "aova":
                write_trained_grid(self.output / "model" / name, self.config)


BEGUN = "begun.json"
"""Beside a checkpoint: what its training was begun with."""
STAGES = ("canonical", "backbone", "text")
"""What of the configuration decides what is learned. Not where networks lie: their weights are known, see `Job.run`."""
MAY_CHANGE = ("workers", "patience", "validate_every", "cache_gb", "windows", "judges")
"""Options that a run may go on with in another value: they change how it is run, or begin anew what they change (`Job.run`)."""


_SPLITS = {"train": "cases", "validation": "validation"}
"""Splits, and what a record calls them."""
_SAME = {
    "preset": "another preset", "cases": "another set of training scans",
    "validation": "another set of validation scans", "seed": "another seed",
    "precision": "another precision", "processes": "another number of processes",
}  # fmt: skip
"""What stays the same; what it was otherwise, in words."""
_SAME_LABELS = {
    "cases_sha256": "other organs or outlines in its training scans",
    "validation_sha256": "other organs or outlines in its validation scans",
    "cases_images_sha256": "other voxels in its training scans",
    "validation_images_sha256": "other voxels in its validation scans",
}
"""Likewise, on the same grid."""


def require_as_begun(folder: Path, begun: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse to go on with another choice than a run was begun with: its figures would belong to neither.

    Args:
        folder: Of the run, for the words.
        begun: As `Job.begun` said it then.
        now: As it says it now.

    Raises:
        ConfigError: If an option, the preset or a key of it, the scans, their outlines or voxels, the seed, the precision or the
            number of processes is another one, or there was no such choice then, or is none now.
    """
    try:
        _require_same_choices(folder, begun, now, "choose another --output, or go on with the same choices.")
    except KeyError as error:
        raise ConfigError(
            f"{folder} was begun by another version of DiffuGTS, which had other choices: {error.args[0]}.",
            hint="choose another --output.",
        ) from error


def _require_same_choices(folder: Path, begun: Mapping[str, Any], now: Mapping[str, Any], hint: str) -> None:
    for name in begun["options"] | now["options"]:
        known, value = begun["options"][name], now["options"][name]
        if known != value and name not in MAY_CHANGE:
            raise ConfigError(f"{folder} was begun with {name}={known}, not {name}={value}.", hint=hint)
    _require_same(_SAME, folder, begun, now, hint)
    for stage, values in now["config"].items():
        for key, value in values.items():
            known = begun["config"][stage][key]
            if known != value:
                raise ConfigError(
                    f"{folder} was begun with {stage}.{key}={known}, not {stage}.{key}={value}.", hint=hint
                )
    _require_same(_SAME_LABELS, folder, begun, now, hint)


def _require_same(
    same: Mapping[str, str], folder: Path, begun: Mapping[str, Any], now: Mapping[str, Any], hint: str
) -> None:
    for name, words in same.items():
        if name in now and begun[name] != now[name]:
            raise ConfigError(f"{folder} was begun with {words}.", hint=hint)


def learned_with(config: Config) -> dict[str, Any]:
    """Return what of a configuration decides what is learned: see `STAGES`."""
    plain = config.to_dict()
    return {stage: {key: value for key, value in plain[stage].items() if key != "folder"} for stage in STAGES}


def overrides(config: Config) -> list[str]:
    """Return what `--set` says after the preset's name to get a configuration."""
    wanted, preset = config.to_dict(), load_config(config.preset).to_dict()
    return [
        f"{stage}.{key}={value if isinstance(value, str) else json.dumps(value, separators=(',', ':'))}"
        for stage, values in wanted.items()
        if isinstance(values, dict)
        for key, value in values.items()
        if value != preset[stage][key]
    ]


def networks_sha256(folders: Iterable[Path]) -> dict[str, str]:
    """Return the SHA-256 of the weights of some networks, by the names of their folders."""
    return {folder.name: sha256(folder / WEIGHTS_FILE) for folder in folders}


_TOLD_ELSEWHERE = ("name", "patient", "split", "image", "tumor", "labels", "organ_files", "contrast")
"""Of a case what changes nothing of what is learned from it: names, and paths of files whose masks are looked at."""


def labels_sha256(scans: Iterable[TrainingScan]) -> str:
    """Return what stands for all that is said and outlined of some scans: another digest where a label was mended."""
    digest = hashlib.sha256()
    for scan in scans:
        said = {key: value for key, value in row_of(scan.case).items() if key not in _TOLD_ELSEWHERE}
        digest.update(json.dumps(said, sort_keys=True).encode())
        for name, mask in (("tumor", scan.tumor), ("healthy", scan.healthy), *sorted(scan.organs.items())):
            digest.update(f"{name} {mask.shape}".encode())
            digest.update(np.packbits(mask).data)
    return digest.hexdigest()


def arrays_sha256(arrays: Iterable[NDArray[Any]]) -> str:
    """Return what stands for the voxels of some images or label maps, in this order."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def digests(labels: Mapping[str, str], images: Mapping[str, Iterable[NDArray[Any]]]) -> dict[str, str]:
    """Return what a record says of the scans of each split: what stands for their outlines, and for their voxels."""
    said = {f"{_SPLITS[split]}_sha256": digest for split, digest in labels.items()}
    return said | {f"{_SPLITS[split]}_images_sha256": arrays_sha256(arrays) for split, arrays in images.items()}


def _checkpoint(path: Path, plan: TrainingPlan) -> dict[str, Any]:
    """Return a checkpoint that a plan may go on with.

    Raises:
        ConfigError: If it has had more iterations than the plan's.
        WeightsError: If it is damaged.
    """
    state = read_state(path, torch.device("cpu"))
    if state["iteration"] > plan.iterations:
        raise ConfigError(
            f"{path.parent} has had {state['iteration']} iterations already; it would now have {plan.iterations}.",
            hint="ask for as many --iterations as before or more, or choose another --output.",
        )
    return state


def _why_anew(begun: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Say why what is kept has grown from something else than it would now; empty where it has not, or does not tell."""
    if begun.get("grown_from", now["grown_from"]) != now["grown_from"]:
        return f"it had grown from {begun['grown_from']}"
    earlier = begun.get("frozen", {})
    others = [name for name, digest in now["frozen"].items() if earlier.get(name, digest) != digest]
    return f"it had been trained on another {' and another '.join(others)}" if others else ""


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
        tunes: Whether it has no weights there, and chooses what they are used with.
        after: The part that must have been trained into the run before, and the folder of its weights there.
        on_preset: Whether it may be trained on the networks of any preset; other parts make `mini`'s own.
    """

    train: Callable[[Job], None]
    rehearse: Callable[[Job], None]
    iterations: int | Callable[[Any], int]
    options: Any = None
    grid: Callable[[Any], CanonicalConfig] | None = None
    modalities: tuple[str, ...] = MODALITIES
    model: str = "model"
    tunes: bool = False
    after: tuple[str, str] | None = None
    on_preset: bool = False

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
