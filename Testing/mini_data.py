"""A data folder and a protocol of phantoms, and networks of a few channels: everything that training needs, in seconds."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from phantoms import Phantom, ct_phantom, grid, mr_phantom

from DiffuGTSLib.backbones.maisi import MaisiAutoencoder, MaisiUNet
from DiffuGTSLib.config import CanonicalConfig, Config, load_config
from DiffuGTSLib.datasets.protocol import Case
from DiffuGTSLib.training import autoencoder_run, denoiser_run, run
from DiffuGTSLib.training.data import TrainingScan, load_case
from DiffuGTSLib.volumes import Volume, write_volume

GRID = grid((28, 26, 30), (4.0, 4.0, 4.0))
AUTOENCODER: dict[str, Any] = {
    "num_channels": (8, 8, 8), "num_res_blocks": (1, 1, 1), "norm_num_groups": 1, "norm_eps": 1.0,
}  # fmt: skip
UNET: dict[str, Any] = {
    "num_channels": (8, 16), "attention_levels": (False, True), "num_head_channels": (0, 8), "num_res_blocks": 1,
    "norm_num_groups": 4, "num_class_embeds": 16, "resblock_updown": False,
}  # fmt: skip
HEAD: dict[str, Any] = {"adapter": "context", "alpha": 0.5, "fuse": "logit", "context_widths": (8, 8, 8, 8, 8)}


def mini_config(**canonical: Any) -> Config:
    """Return `mini` on voxels of 4 mm in windows of 32."""
    config = load_config("mini", overrides=["backbone.window_voxels=32", "inpainting.steps=2"])
    small = replace(config.canonical, **{"spacing_mm": 4.0, "minimum_side": 32, **canonical})
    return replace(config, canonical=small)


def canonical() -> CanonicalConfig:
    """Return the grid of `mini_config`."""
    return mini_config().canonical


def tiny_autoencoder(seed: int = 0) -> MaisiAutoencoder:
    """Build a seeded autoencoder of 8 channels."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        autoencoder: MaisiAutoencoder = MaisiAutoencoder(**AUTOENCODER)
    return autoencoder


def tiny_unet(seed: int = 0) -> MaisiUNet:
    """Build a seeded UNet of two levels; as MONAI leaves it, it predicts exactly zero."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet: MaisiUNet = MaisiUNet(**UNET)
    return unet


def write_case(data: Path, name: str, phantom: Phantom, split: str, **keys: Any) -> dict[str, Any]:
    """Write a phantom's files and return its row of the protocol."""
    folder = data / name
    folder.mkdir(parents=True)
    modality = phantom.scan.modality
    write_volume(phantom.scan, folder / "scan.nii.gz")
    write_volume(phantom.organ, folder / "organ.nii.gz")
    write_volume(phantom.lesion, folder / "tumor.nii.gz")
    organ = "liver" if modality == "CT" else "brain"
    row = {
        "name": name, "patient": f"patient of {name}", "split": split, "modality": modality, "organ": organ,
        "image": f"{name}/scan.nii.gz", "tumor": f"{name}/tumor.nii.gz", "labels": f"{name}/organ.nii.gz",
        "label_names": {organ: [1]},
    }  # fmt: skip
    return {**row, **keys}


def write_labels(data: Path, name: str, split: str) -> dict[str, Any]:
    """Write a label map with large, unlike numbers for its organs, and return its row of the protocol."""
    phantom = mr_phantom(GRID)
    array = phantom.organ.array.astype(np.float32) * 500
    array[phantom.lesion.array > 0] = 41
    (data / name).mkdir(parents=True)
    write_volume(Volume(array, GRID), data / name / "labels.nii.gz")
    return {
        "name": name, "patient": name, "split": split, "modality": "labels", "image": f"{name}/labels.nii.gz",
        "labels": f"{name}/labels.nii.gz", "label_names": {"brain": [500, 41]},
    }  # fmt: skip


def write_protocol(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Write a protocol file."""
    path.write_text(json.dumps({"format": 1, "cases": rows}), encoding="utf-8")
    return path


def write_mini_data(data: Path) -> Path:
    """Write three training cases, two validation cases and two test cases, and return the protocol's path."""
    rows = [
        write_case(data, "ct_1", ct_phantom(GRID, noise_hu=10, seed=1), "train"),
        write_case(data, "mr_1", mr_phantom(GRID, noise=10, seed=2), "train"),
        write_labels(data, "labels_1", "train"),
        write_case(data, "ct_2", ct_phantom(GRID, noise_hu=10, seed=3), "validation"),
        write_case(data, "mr_2", mr_phantom(GRID, noise=10, seed=4), "validation"),
        write_case(data, "ct_3", ct_phantom(GRID, noise_hu=10, seed=5), "test", framed_on_tumor=True),
        write_case(data, "mr_3", mr_phantom(GRID, noise=10, seed=6), "test"),
    ]
    return write_protocol(data / "protocol.json", rows)


def training_scan(data: Path, row: dict[str, Any]) -> TrainingScan:
    """Load one row that was written."""
    return load_case(Case(**row), data, canonical())


@contextmanager
def tiny_networks() -> Iterator[None]:
    """Let `train_part` build networks of a few channels on a coarse grid."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(autoencoder_run, "MINI_AUTOENCODER", AUTOENCODER)
        patch.setattr(denoiser_run, "MINI_UNET", UNET)
        head = run.PARTS["aova"]
        narrow = replace(head.options, context_widths=",".join(map(str, HEAD["context_widths"])))
        patch.setitem(run.PARTS, "aova", replace(head, options=narrow))
        patch.setattr(run, "load_config", lambda preset, overrides: mini_config())
        yield


def train_mini(protocol: Path, output: Path, iterations: int = 1, device: str = "cpu") -> Path:
    """Train every part of a model folder for a few iterations and return it."""
    with tiny_networks():
        for part in ("autoencoder", "denoiser", "aova"):
            run.train_part(
                part, protocol_path=protocol, data=protocol.parent, output=output, iterations=iterations,
                device=device, report=lambda line: None,
            )  # fmt: skip
    return output / "model"


def shared_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return one run folder for the whole session: its `data/`, and every part trained for one iteration a phase."""
    output = tmp_path_factory.getbasetemp() / "mini_run"
    if not output.exists():
        train_mini(write_mini_data(output / "data"), output)
    return output
