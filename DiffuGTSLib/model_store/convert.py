"""A published checkpoint becomes a model folder: read without trusting it, strictly fitted, safetensors only.

The file is read by `synthesis.checkpoint_reader`, a process of its own in which nothing that a pickle names is run, also
where it holds MONAI's MetaTensor. Of a training file (2.1 GB with the optimizer's moments) only the network is copied.

Layouts that are understood: the tensors under one of `WRAPPERS` or bare; names with DataParallel's "module."; an
autoencoder's names of MONAI before 1.4, with one ".conv" less; the scale factor of the latents beside the denoiser, as a
number, a tensor or a MetaTensor.
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from DiffuGTSLib.backbones import DDPM_SCHEDULER, FLOW_SCHEDULER
from DiffuGTSLib.backbones.maisi import MaisiAutoencoder, MaisiUNet, published_networks
from DiffuGTSLib.backbones.weights import (
    WEIGHTS_FILE,
    load_strictly,
    require_numbers,
    save_module,
    verify_checksums,
    write_checksums,
)
from DiffuGTSLib.errors import WeightsError
from DiffuGTSLib.model_store.fetch import LocalFile
from DiffuGTSLib.model_store.manifest import PublishedFile, PublishedModel
from DiffuGTSLib.model_store.store import SOURCE_FILE, new_model, require_room, size_bytes
from DiffuGTSLib.storage import copy_contents, whole_file, write_json
from DiffuGTSLib.synthesis.checkpoints import ReadingLimits, ask_reader
from DiffuGTSLib.versions import versions

_OF_A_MODEL = (
    "model_index.json", "scheduler/scheduler_config.json", f"autoencoder/{WEIGHTS_FILE}", f"denoiser/{WEIGHTS_FILE}"
)  # fmt: skip
"""Without one of these a folder is no model of published networks."""

Networks = Callable[[str], tuple[MaisiAutoencoder, MaisiUNet]]

WRAPPERS = ("unet_state_dict", "autoencoder_state_dict", "network", "state_dict", "model", "")
"""Where the tensors of a network are looked for, the autoencoder's too; "" is the file itself."""

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
FORMAT = 1
SCALE_FACTOR = "scale_factor"
TIMESTEPS = "num_train_timesteps"
_PARALLEL = "module."
_UNUSED = ".attn.out_proj."
"""Tensors of the published DDPM denoiser that its published configuration (include_fc false) does not use."""
_TRAINED_TIMESTEPS = 1000


@dataclass(frozen=True)
class CheckpointContents:
    """What was found in a checkpoint.

    Attributes:
        group: Key of the dictionary that held the network; "" for a bare one.
        tensors: How many were taken.
        elements: Numbers in them.
        dtypes: Their types in the file.
        renamed: How many had names of MONAI before 1.4.
        left_out: Tensors that the network does not use.
        values: Plain values beside the tensors, as the epoch.
        replaced: Names in the pickle that were answered by nothing.
    """

    group: str
    tensors: int
    elements: int
    dtypes: tuple[str, ...]
    renamed: int
    left_out: tuple[str, ...]
    values: dict[str, Any]
    replaced: tuple[str, ...]


def converted_bytes(name: str, networks: Networks = published_networks) -> int:
    """Return the room that converting a model needs: the float32 networks, twice while it is written."""
    with torch.device("meta"):
        parts = networks(name)
    return sum(2 * 4 * int(tensor.numel()) for part in parts for tensor in part.state_dict().values())


def install_model(
    model: PublishedModel,
    files: dict[str, LocalFile],
    precision: str = "float32",
    networks: Networks = published_networks,
    limits: ReadingLimits | None = None,
) -> Path:
    """Convert a model's files into its folder of the store, whole or not at all; return the folder.

    Args:
        model: Which.
        files: "autoencoder" and "denoiser" → the checked file.
        precision: A key of `PRECISIONS`, of the numbers in the folder; they are widened again on loading.
        networks: Builds the networks that the files must fill.
        limits: Of the reading process.

    Raises:
        InputError: If the store has it already (code "exists").
        WeightsError: A file that cannot be read, or does not hold exactly the network's tensors and the scale factor.
        StorageError: If the folder cannot be written.
    """
    limits = limits or ReadingLimits()
    with new_model(model.name) as folder:
        contents = _write_networks(model, files, folder, PRECISIONS[precision], networks, limits)
        _write_descriptions(model, files, folder, precision, contents)
        write_checksums(folder)
    return folder.with_name(model.name)


def adopt_model(folder: Path, name: str) -> Path:
    """Copy a model folder that DiffuGTS converted elsewhere into the store, checked before and after; return its place.

    Raises:
        InputError: If the store has it already (code "exists").
        WeightsError: If a file is missing, altered or not listed, or the folder lacks a part of a model, or holds what is
            neither a file nor a folder.
        StorageError: If there is no room, or the folder cannot be written.
    """
    verify_checksums(folder)
    lacking = [name for name in _OF_A_MODEL if not (folder / name).is_file()]
    if lacking:
        raise WeightsError(
            f"{folder} is no whole model: it lacks {', '.join(lacking)}.",
            hint="copy the whole model folder, as diffugts weights fetch or import made it.",
            code="weights_missing",
        )
    strange = [path for path in folder.rglob("*") if not path.is_file() and (path.is_symlink() or not path.is_dir())]
    if strange:
        raise WeightsError(
            f"{folder} holds what is neither a file nor a folder: {', '.join(map(str, sorted(strange)[:5]))}.",
            hint="copy the whole model folder again, links as what they lead to.",
            code="weights_corrupt",
        )
    require_room(size_bytes(folder))
    with new_model(name) as staging:
        copy_contents(folder, staging)
        verify_checksums(staging)
    return staging.with_name(name)


class Checkpoint:
    """A published file, read by a process of its own; its tensors are copied when they are asked for.

    Args:
        path: Of the file.
        scratch: Folder for a temporary copy of the tensors.
        limits: Of the reading process.

    Raises:
        InputError: If there is no such file.
        WeightsError: If it cannot be read.
    """

    def __init__(self, path: Path, scratch: Path, limits: ReadingLimits) -> None:
        self.path, self.scratch, self.limits = path, scratch, limits
        found = ask_reader(path, limits)
        self.groups: dict[str, Any] = found["groups"]
        self.values: dict[str, Any] = found["values"]
        self.replaced: tuple[str, ...] = tuple(found["replaced"])

    @cached_property
    def numbers(self) -> dict[str, Any]:
        """The plain values beside the tensors, and what is known by name and was saved as a tensor: its number, or None."""
        saved = self.groups.get("", {}).keys() & {SCALE_FACTOR, TIMESTEPS}
        tensors = self.tensors("") if saved else {}
        return self.values | {n: tensors[n].item() if tensors[n].numel() == 1 else None for n in saved}

    def tensors(self, group: str) -> dict[str, Tensor]:
        """Return the tensors of a group.

        Raises:
            WeightsError: If they cannot be read.
            OSError: If the temporary copy cannot be written.
        """
        copy = self.scratch / "group.safetensors"
        try:
            ask_reader(self.path, self.limits, group, copy)
            return {name: tensor.clone() for name, tensor in load_file(copy).items()}
        finally:
            copy.unlink(missing_ok=True)


def read_network(checkpoint: Checkpoint, network: nn.Module) -> CheckpointContents:
    """Fill a network of MONAI with exactly the tensors of a checkpoint, as float32.

    Raises:
        WeightsError: If it holds no network, or tensors are missing, unexpected, of another shape, or not finite.
    """
    origin = checkpoint.path.name
    group = next((name for name in WRAPPERS if name in checkpoint.groups), None)
    if group is None:
        raise WeightsError(
            f"{origin} holds no network: it has {', '.join(sorted(checkpoint.groups)) or 'no tensors'}.",
            hint=f"expected the tensors themselves, or one of {', '.join(WRAPPERS[:-1])}.",
            code="weights_kind",
        )
    found = {
        name: tensor for name, tensor in checkpoint.tensors(group).items() if name not in (SCALE_FACTOR, TIMESTEPS)
    }
    tensors = _renamed(found, lambda name: name.removeprefix(_PARALLEL), origin)
    tensors, renamed = _modern(tensors, network, origin)
    left_out = _unused(tensors, network)
    taken = {name: tensor for name, tensor in tensors.items() if name not in left_out}
    load_strictly(network, taken, origin)
    require_numbers(
        network.state_dict(), f"{origin} holds", "it came apart in its training or on its way: fetch it again."
    )
    return CheckpointContents(
        group, len(taken), sum(tensor.numel() for tensor in taken.values()),
        tuple(sorted({str(tensor.dtype).removeprefix("torch.") for tensor in taken.values()})),
        renamed, left_out, checkpoint.values, checkpoint.replaced,
    )  # fmt: skip


def read_scale_factor(checkpoint: Checkpoint) -> float:
    """Return the factor that a denoiser's checkpoint scales latents by: 1 / their standard deviation.

    Raises:
        WeightsError: If there is none, or it is no single positive number.
    """
    value = checkpoint.numbers.get(SCALE_FACTOR)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value <= 0:
        raise WeightsError(
            f"{checkpoint.path.name} holds no usable scale factor: expected one positive number, found {value}.",
            hint="without it the denoiser sees latents of another size; is it a denoiser's file?",
            code="weights_scale",
        )
    return float(value)


def _write_networks(
    model: PublishedModel,
    files: dict[str, LocalFile],
    folder: Path,
    dtype: torch.dtype,
    networks: Networks,
    limits: ReadingLimits,
) -> dict[str, CheckpointContents]:
    autoencoder, denoiser = networks(model.name)
    checkpoint = Checkpoint(files["denoiser"].path, folder, limits)
    autoencoder.register_to_config(scaling_factor=read_scale_factor(checkpoint))
    contents = {"denoiser": read_network(checkpoint, denoiser.net)}
    _require_timesteps(checkpoint)
    save_module(denoiser, folder / "denoiser", dtype)
    contents["autoencoder"] = read_network(Checkpoint(files["autoencoder"].path, folder, limits), autoencoder.net)
    save_module(autoencoder, folder / "autoencoder", dtype)
    return contents


def _require_timesteps(checkpoint: Checkpoint) -> None:
    timesteps = checkpoint.numbers.get(TIMESTEPS, _TRAINED_TIMESTEPS)
    if timesteps != _TRAINED_TIMESTEPS:
        raise WeightsError(
            f"{checkpoint.path.name} was trained with {timesteps} timesteps; expected {_TRAINED_TIMESTEPS}.",
            hint="its noise levels are not those of the published model.",
            code="weights_kind",
        )


def _modern(tensors: dict[str, Tensor], network: nn.Module, origin: str) -> tuple[dict[str, Tensor], int]:
    """Return tensors by today's names, and how many had older ones: `a.conv.weight`, now `a.conv.conv.weight`."""
    own = network.state_dict().keys()

    def today(name: str) -> str:
        stem, _, kind = name.rpartition(".")
        longer = f"{stem}.conv.{kind}"
        return longer if name not in own and stem.endswith("conv") and longer in own else name

    return _renamed(tensors, today, origin), sum(today(name) != name for name in tensors)


def _renamed(tensors: dict[str, Tensor], rename: Callable[[str], str], origin: str) -> dict[str, Tensor]:
    renamed = {rename(name): tensor for name, tensor in tensors.items()}
    if len(renamed) != len(tensors):
        raise WeightsError(
            f"{origin} holds {len(tensors) - len(renamed)} tensors twice, under an older and a newer name.",
            hint="it mixes two networks; fetch it again.",
            code="weights_kind",
        )
    return renamed


def _unused(tensors: dict[str, Tensor], network: nn.Module) -> tuple[str, ...]:
    own = network.state_dict().keys()
    if any(_UNUSED in name for name in own):
        return ()
    return tuple(sorted(name for name in tensors.keys() - own if _UNUSED in name))


def _write_descriptions(
    model: PublishedModel,
    files: dict[str, LocalFile],
    folder: Path,
    precision: str,
    contents: dict[str, CheckpointContents],
) -> None:
    index = {
        "_class_name": "DiffuGTSPipeline",
        "prediction": model.prediction,
        "autoencoder": ["DiffuGTSLib.backbones.maisi", "MaisiAutoencoder"],
        "denoiser": ["DiffuGTSLib.backbones.maisi", "MaisiUNet"],
    }
    (folder / "scheduler").mkdir()
    scheduler = {"flow": FLOW_SCHEDULER, "epsilon": DDPM_SCHEDULER}[model.prediction]
    source = {
        "format": FORMAT,
        "model": model.name,
        "title": model.title,
        "precision": precision,
        "citation": model.citation,
        "licenses": [asdict(license_) for license_ in model.licenses],
        "files": {
            role: _provenance(getattr(model, role), files[role]) | {"reading": asdict(contents[role])}
            for role in ("autoencoder", "denoiser")
        },
        "versions": versions(),
    }
    write_json(folder / "model_index.json", index)
    write_json(folder / "scheduler" / "scheduler_config.json", scheduler)
    write_json(folder / SOURCE_FILE, source)
    with whole_file(folder / "README.md") as temporary:
        temporary.write_text(_card(model) + "\n", encoding="utf-8")


def _provenance(published: PublishedFile, local: LocalFile) -> dict[str, Any]:
    return {
        "path": published.path,
        "repository": published.repository,
        "license": published.license.name,
        "revision": local.revision or "not known to us",
        "origin": local.origin,
        "size_bytes": local.size_bytes,
        "sha256": local.sha256,
        "checked_by": local.checked_by,
    }


def _card(model: PublishedModel) -> str:
    titles = ", ".join(license_.title for license_ in model.licenses)
    notices = "\n".join(
        f"{license_.notice}\n\n{license_.terms}\n\nText: <{license_.url}>" for license_ in model.licenses
    )
    files = "\n".join(f"- `{file.path}` of `{file.repository}`" for file in model.files)
    return (
        f"---\nlicense: {titles}\n---\n\n# `{model.name}`: {model.title}\n\n{notices}\n\n"
        f"Converted by DiffuGTS, numbers unchanged up to their precision, from\n\n{files}\n\n"
        f"`{SOURCE_FILE}` names their checksums. Cite: {model.citation}."
    )
