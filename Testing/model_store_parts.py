"""Published checkpoints at tiny width, in exactly the published layouts, and a catalog that speaks of them."""

from __future__ import annotations

import json
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from monai.data import MetaTensor

from DiffuGTSLib.backbones.maisi import MaisiAutoencoder, MaisiUNet
from DiffuGTSLib.model_store.fetch import LocalFile
from DiffuGTSLib.model_store.manifest import PublishedModel, catalog
from DiffuGTSLib.resources import resource_path

SCALE = 1.25
AUTOENCODER, DENOISER, DDPM = "autoencoder_v1.pt", "diff_unet_3d_rflow-ct.pt", "diff_unet_3d_ddpm-ct.pt"


def tiny_networks(name: str) -> tuple[MaisiAutoencoder, MaisiUNet]:
    """Build the networks of a published model with a few channels: the same parts, the same names."""
    ddpm = {"num_class_embeds": None, "region_index": True, "resblock_updown": False, "include_fc": False}
    flow = {"num_class_embeds": 16, "resblock_updown": True, "include_fc": True}
    autoencoder: MaisiAutoencoder = MaisiAutoencoder((8, 8, 16), (1, 1, 1), norm_num_groups=4)
    unet: MaisiUNet = MaisiUNet(
        num_channels=(8, 16), attention_levels=(False, True), num_head_channels=(0, 8), num_res_blocks=1,
        norm_num_groups=4, **(ddpm if name == "maisi-ct-ddpm" else flow),
    )  # fmt: skip
    return autoencoder, unet


def trained(name: str = "maisi-ct") -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Make tensors for both networks, in MONAI's own names, every number drawn anew."""
    generator = torch.Generator().manual_seed(7)
    return tuple(  # type: ignore[return-value]
        {key: torch.randn(value.shape, generator=generator) for key, value in part.net.state_dict().items()}
        for part in tiny_networks(name)
    )


def legacy(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Name an autoencoder's tensors as MONAI before 1.4 did: one ".conv" less."""
    return {name.replace(".conv.conv.", ".conv.", 1): tensor for name, tensor in tensors.items()}


def parallel(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Name tensors as DistributedDataParallel does."""
    return {f"module.{name}": tensor for name, tensor in tensors.items()}


def with_unused(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Add the projections that the published DDPM file carries and its configuration does not use."""
    stems = [name.removesuffix("to_q.weight") for name in tensors if name.endswith("attn.to_q.weight")]
    extra = {f"{stem}out_proj.{kind}": torch.rand(16) for stem in stems for kind in ("weight", "bias")}
    return {**tensors, **extra}


def training_file(tensors: dict[str, torch.Tensor], **changes: Any) -> dict[str, Any]:
    """Wrap a denoiser's tensors as its training did: with the optimizer's two moments, three times the size."""
    moments = {
        number: {"step": torch.tensor(5.0), "exp_avg": torch.rand_like(value), "exp_avg_sq": torch.rand_like(value)}
        for number, value in enumerate(tensors.values())
    }
    scale = MetaTensor(torch.tensor(SCALE))
    values = {"epoch": 4, "loss": torch.tensor(0.1), "num_train_timesteps": 1000, "scale_factor": scale}
    optimizer = {"state": moments, "param_groups": [{"lr": 1e-4, "params": list(moments)}]}
    return {**values, "unet_state_dict": OrderedDict(tensors), "optimizer_state_dict": optimizer, **changes}


def write_published(folder: Path, name: str = "maisi-ct") -> Path:
    """Write the files of a model as they are published, at tiny width; return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    autoencoder, denoiser = trained(name)
    torch.save(autoencoder, folder / AUTOENCODER)
    ddpm = name == "maisi-ct-ddpm"
    torch.save(training_file(with_unused(denoiser) if ddpm else denoiser), folder / (DDPM if ddpm else DENOISER))
    return folder


def write_catalog(path: Path, **changes: dict[str, Any]) -> Path:
    """Write a catalog like the bundled one, in which nothing is known of the autoencoder's checksum."""
    values = json.loads(resource_path("Models", "catalog.json").read_text(encoding="utf-8"))
    values["files"]["autoencoder_v1"]["md5"] = None
    for file, change in changes.items():
        values["files"][file].update(change)
    path.write_text(json.dumps(values), encoding="utf-8")
    return path


def published(name: str = "maisi-ct") -> PublishedModel:
    """Return an entry of the bundled catalog."""
    return catalog()[name]


def local(path: Path) -> LocalFile:
    """Return a file as if it had been fetched."""
    return LocalFile(path, "folder", "", path.stat().st_size, "0" * 64, "nothing")
