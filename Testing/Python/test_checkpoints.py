"""Checkpoints with the published names, made small here: what they are, what they become, and what is refused."""

import collections
import json
import sys
import types
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from DiffuGTSLib.backbones.weights import load_module
from DiffuGTSLib.errors import InputError, StorageError, WeightsError
from DiffuGTSLib.storage import sha256
from DiffuGTSLib.supervised.networks import Segmenter
from DiffuGTSLib.supervised.prediction import load_segmenter
from DiffuGTSLib.synthesis import checkpoints
from DiffuGTSLib.synthesis.checkpoints import (
    SOURCE_FILE,
    ReadingLimits,
    ask_reader,
    convert_checkpoint,
    inspect_checkpoint,
)
from DiffuGTSLib.synthesis.latent_diffusion import CosineDiffusion
from DiffuGTSLib.synthesis.latent_painter import load_painter
from DiffuGTSLib.synthesis.latent_unet import LatentUNet3D
from DiffuGTSLib.synthesis.vqgan import Vqgan3D
from DiffuGTSLib.synthesis.vqgan_critics import VqganCritics, published_tensors

Tensors = dict[str, Tensor]


class DictConfig(dict[str, object]):
    """Stands for the configuration that Lightning pickles into its checkpoints."""


DictConfig.__module__ = "omegaconf.dictconfig"


def a_container(*, with_critics: bool = False) -> Tensors:
    """The tensors of a small VQGAN, and of its critics."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vqgan: Vqgan3D = Vqgan3D(4, embedding_dim=3, n_codes=16, groups=8)
        vqgan.codebook.embeddings.normal_()
        return published_tensors(vqgan, VqganCritics(4)) if with_critics else dict(vqgan.state_dict())


def a_diffusion(timesteps: int, container: Tensors) -> Tensors:
    """The 12 tables, a small denoiser and a container, under the published names."""
    with torch.random.fork_rng():
        torch.manual_seed(timesteps)
        unet: LatentUNet3D = LatentUNet3D(8, channels=7, out_channels=3, dim_mults=(1, 2))
    tensors = dict(CosineDiffusion(timesteps).tables)
    tensors |= {f"denoise_fn.{name}": tensor for name, tensor in unet.state_dict().items()}
    return tensors | {f"vqgan.{name}": tensor for name, tensor in container.items()}


def write_diffusion(path: Path, timesteps: int = 4, change: Callable[[Tensors], object] = lambda _: None) -> Path:
    ema = a_diffusion(timesteps, a_container())
    change(ema)
    model = {name: torch.zeros_like(tensor) for name, tensor in ema.items()}
    torch.save({"step": 60000, "model": model, "ema": collections.OrderedDict(ema), "scaler": {}}, path)
    return path


@pytest.fixture(scope="module")
def an_autoencoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As Lightning writes it: omegaconf, callbacks and all 154 tensors."""
    path = tmp_path_factory.mktemp("published") / "AutoencoderModel.ckpt"
    modules = {name: types.ModuleType(name) for name in ("omegaconf", "omegaconf.dictconfig")}
    modules["omegaconf.dictconfig"].DictConfig = DictConfig  # type: ignore[attr-defined]
    sys.modules.update(modules)
    try:
        torch.save(
            {
                "state_dict": a_container(with_critics=True), "hyper_parameters": {"cfg": DictConfig(n_codes=16)},
                "epoch": 2, "global_step": 80000, "pytorch-lightning_version": "1.6.4",
                "callbacks": collections.defaultdict(int), "optimizer_states": [{"state": {0: torch.zeros(2)}}],
            },
            path,
        )  # fmt: skip
    finally:
        for name in modules:
            del sys.modules[name]
    return path


def segmenter_file(path: Path, model: str, **sizes: Any) -> tuple[Path, Segmenter]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        segmenter: Segmenter = Segmenter(model, **sizes)
    tensors = {f"module.backbone.{name}": tensor for name, tensor in segmenter.net.state_dict().items()}
    tensors = {name.replace(".mlp.linear", ".mlp.fc"): tensor for name, tensor in tensors.items()}
    if model == "swin_unetr":
        tensors["module.backbone.swinViT.norm.weight"] = torch.ones(192)
    torch.save({"state_dict": tensors, "epoch": 99, "best_acc": np.float64(0.5)}, path)
    return path, segmenter


def test_an_autoencoder_is_recognized_with_its_154_tensors(an_autoencoder: Path) -> None:
    report = inspect_checkpoint(an_autoencoder)
    assert (report.kind, report.group, report.tensors, report.faults) == ("autoencoder", "state_dict", 154, "")
    assert report.sizes == {
        "n_hiddens": 4, "downsample": (4, 4, 4), "embedding_dim": 3, "n_codes": 16, "groups": 8,
    }  # fmt: skip
    assert report.values == {"epoch": 2, "global_step": 80000, "pytorch-lightning_version": "1.6.4"}
    assert "omegaconf.dictconfig.DictConfig" in report.replaced
    assert report.sha256 == sha256(an_autoencoder)


def test_an_autoencoder_becomes_a_vqgan_and_its_critics(an_autoencoder: Path, tmp_path: Path) -> None:
    convert_checkpoint(an_autoencoder, tmp_path / "out")
    vqgan, critics = load_module(Vqgan3D, tmp_path / "out/vqgan"), load_module(VqganCritics, tmp_path / "out/critics")
    theirs = a_container(with_critics=True)
    ours = published_tensors(vqgan, critics)
    assert set(ours) == set(theirs) and all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())
    source = json.loads((tmp_path / "out" / SOURCE_FILE).read_text())
    assert (source["kind"], source["name"], source["sha256"]) == (
        "autoencoder", "AutoencoderModel.ckpt", sha256(an_autoencoder),
    )  # fmt: skip
    assert "patents pending" in source["rights"]
    assert str(tmp_path) not in json.dumps(source)


@pytest.mark.parametrize(("timesteps", "ddim_steps"), [(4, 0), (200, 50)])
def test_a_diffusion_model_becomes_a_painter_with_its_averaged_weights(
    tmp_path: Path, timesteps: int, ddim_steps: int
) -> None:
    path = write_diffusion(tmp_path / "liver.pt", timesteps)
    report = convert_checkpoint(path, tmp_path / "painter")
    assert (report.kind, report.group, report.timesteps) == ("diffusion", "ema", timesteps)
    assert report.tensors == 12 + len(LatentUNet3D(8, 7, 3, (1, 2)).state_dict()) + 71
    assert report.values == {"step": 60000}
    painter = load_painter(tmp_path / "painter")
    assert (painter.view.timesteps, painter.view.ddim_steps) == (timesteps, ddim_steps)
    theirs = a_diffusion(timesteps, a_container())
    assert all(
        torch.equal(tensor, theirs[f"denoise_fn.{name}"]) for name, tensor in painter._denoiser.state_dict().items()
    )
    assert all(torch.equal(tensor, theirs[f"vqgan.{name}"]) for name, tensor in painter._vqgan.state_dict().items())


@pytest.mark.parametrize(
    ("model", "sizes"),
    [
        ("unet", {"channels": (4, 8, 16)}), ("nnunet", {"channels": (4, 8, 16, 16)}),
        ("swin_unetr", {"swin_type": "tiny", "merging": "historical"}),
    ],
)  # fmt: skip
def test_a_segmenter_loses_its_prefixes_and_keeps_its_numbers(
    tmp_path: Path, model: str, sizes: dict[str, Any]
) -> None:
    path, theirs = segmenter_file(tmp_path / f"{model}.pt", model, **sizes)
    report = convert_checkpoint(path, tmp_path / "out")
    assert (report.kind, report.sizes["model"], report.faults) == ("segmenter", model, "")
    assert report.values == {"epoch": 99, "best_acc": 0.5}
    trained = load_segmenter(tmp_path / "out")
    ours = trained.network.net.state_dict()
    assert all(torch.equal(tensor, ours[name]) for name, tensor in theirs.net.state_dict().items())
    assert (trained.window_voxels, trained.grid.spacing_mm, trained.grid.ct_knots_hu) == (96, 1.0, (-175.0, 250.0))
    assert trained.modalities == ("CT",)
    if model == "swin_unetr":
        assert trained.network.config["merging"] == "historical"


def test_of_several_processes_that_convert_one_file_into_one_folder_all_end_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As torchrun's do: while this one reads, another one has written the folder."""
    path, theirs = segmenter_file(tmp_path / "unet.pt", "unet")
    asked: list[tuple[str | Path, ...]] = []

    def slow_reader(path: Path, limits: ReadingLimits, *copy: str | Path) -> dict[str, Any]:
        asked.append(copy)
        if copy and len(asked) == 2:
            convert_checkpoint(path, tmp_path / "out")
        return ask_reader(path, limits, *copy)

    monkeypatch.setattr(checkpoints, "ask_reader", slow_reader)
    assert convert_checkpoint(path, tmp_path / "out").kind == "segmenter"
    assert len(asked) == 4, "both have read it"
    ours = load_segmenter(tmp_path / "out").network.net.state_dict()
    assert all(torch.equal(tensor, ours[name]) for name, tensor in theirs.net.state_dict().items())
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["out", "unet.pt"], "nothing is left beside it"
    (tmp_path / "out" / SOURCE_FILE).unlink()
    with pytest.raises(InputError, match="already holds something else"):
        convert_checkpoint(path, tmp_path / "out")


def test_what_is_missing_unexpected_and_misshapen_is_listed(tmp_path: Path) -> None:
    def spoil(tensors: Tensors) -> None:
        del tensors["denoise_fn.init_conv.bias"], tensors["betas"]
        tensors["denoise_fn.text.weight"] = torch.zeros(2)
        tensors["vqgan.codebook.N"] = torch.zeros(3)

    report = inspect_checkpoint(write_diffusion(tmp_path / "a.pt", change=spoil))
    assert report.missing == ("betas", "denoise_fn.init_conv.bias")
    assert report.unexpected == ("denoise_fn.text.weight",)
    assert "vqgan.codebook.N: (3,) instead of (16,)" in report.misshapen
    with pytest.raises(WeightsError, match=r"does not fit its kind, diffusion: 2 tensors missing \(betas, denois") as e:
        convert_checkpoint(tmp_path / "a.pt", tmp_path / "out")
    assert "1 tensors unexpected (denoise_fn.text.weight)" in e.value.message
    assert not (tmp_path / "out").exists()


def test_shapes_that_speak_of_no_network_are_held_against_the_published_one(tmp_path: Path) -> None:
    def spoil(tensors: Tensors) -> None:
        tensors["denoise_fn.init_conv.weight"] = torch.zeros(0, 7, 1, 7, 7)

    report = inspect_checkpoint(write_diffusion(tmp_path / "a.pt", change=spoil))
    assert report.kind == "diffusion" and report.sizes["dim"] == 24
    assert len(report.misshapen) > 50


def test_a_small_file_that_claims_a_large_network_is_refused(tmp_path: Path) -> None:
    """A tensor may show one number many times: nothing is built from what only its shape says."""

    def claimed(*shape: int) -> Tensor:
        return torch.zeros(1).expand(*shape)

    tensors = {f"model.{'1.submodule.' * n}0.conv.unit0.conv.weight": claimed(800, 800, 3, 3, 3) for n in range(4)}
    torch.save({"state_dict": tensors}, tmp_path / "a.pt")
    with pytest.raises(WeightsError, match=r"claims tensors of 69120000 numbers and has \d+ bytes") as caught:
        inspect_checkpoint(tmp_path / "a.pt")
    assert caught.value.code == "weights_corrupt"


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("model.0.conv.unit0.conv.weight", (200_000, 1)),
        ("model.2.0.conv.weight", (1, 2000)),
        *((f"model.{'1.submodule.' * level}0.conv.unit0.conv.weight", (4,)) for level in (20,)),
        ("input_block.conv1.conv.weight", (200_000,)),
        ("swinViT.patch_embed.proj.weight", (12,)),
    ],
)
def test_sizes_of_no_network_are_held_against_the_published_one(
    tmp_path: Path, name: str, shape: tuple[int, ...]
) -> None:
    """Built from these few numbers a network would take all memory."""
    tensors = {name: torch.zeros(shape), "out.conv.conv.weight": torch.zeros(100_000, 1)}
    for level in range(20):
        tensors.setdefault(f"model.{'1.submodule.' * level}0.conv.unit0.conv.weight", torch.zeros(150_000, 1))
    torch.save({"state_dict": tensors}, tmp_path / "a.pt")
    report = inspect_checkpoint(tmp_path / "a.pt")
    assert report.kind == "segmenter" and report.sizes.get("channels", ()) == () and report.sizes["classes"] == 3


def test_another_schedule_is_refused(tmp_path: Path) -> None:
    path = write_diffusion(tmp_path / "a.pt", change=lambda tensors: tensors["alphas_cumprod"].mul_(0.9))
    with pytest.raises(WeightsError, match="another schedule than the cosine one"):
        convert_checkpoint(path, tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["a.pt"], "nothing is left behind"


def test_a_file_of_another_kind_is_told_and_not_converted(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(2, 3), "bias": torch.zeros(2)}, tmp_path / "a.pt")
    report = inspect_checkpoint(tmp_path / "a.pt")
    assert (report.kind, report.tensors, report.elements, report.faults) == ("unknown", 2, 8, "")
    with pytest.raises(WeightsError, match="neither an autoencoder, a diffusion model nor a segmenter") as caught:
        convert_checkpoint(tmp_path / "a.pt", tmp_path / "out")
    assert caught.value.code == "weights_kind"


def test_a_folder_that_was_made_from_the_file_is_left_alone(tmp_path: Path) -> None:
    path = write_diffusion(tmp_path / "a.pt")
    convert_checkpoint(path, tmp_path / "out")
    before = (tmp_path / "out" / SOURCE_FILE).stat().st_mtime_ns
    convert_checkpoint(path, tmp_path / "out")
    assert (tmp_path / "out" / SOURCE_FILE).stat().st_mtime_ns == before


def test_a_folder_that_holds_something_else_is_left_alone(tmp_path: Path) -> None:
    path = write_diffusion(tmp_path / "a.pt")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="already holds something else") as caught:
        convert_checkpoint(path, tmp_path / "out")
    assert caught.value.code == "exists"
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["mine.txt"]


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    convert_checkpoint(write_diffusion(tmp_path / "a.pt"), tmp_path / "out")
    assert (tmp_path / "out" / SOURCE_FILE).is_file()


def test_a_file_that_is_not_there_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="There is no file") as caught:
        inspect_checkpoint(tmp_path / "absent.pt")
    assert caught.value.code == "missing"


@pytest.mark.parametrize("kept", [0, 10, 5000, -100])
def test_a_download_that_was_cut_off_is_refused_with_a_hint(tmp_path: Path, kept: int) -> None:
    path = write_diffusion(tmp_path / "a.pt")
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(WeightsError, match="a.pt cannot be used") as caught:
        inspect_checkpoint(path)
    assert "download it again" in caught.value.hint and caught.value.code == "weights_corrupt"


def test_reading_that_takes_too_long_or_too_much_is_stopped(tmp_path: Path) -> None:
    path = write_diffusion(tmp_path / "a.pt")
    with pytest.raises(WeightsError, match="took longer than 0 s and was stopped") as caught:
        inspect_checkpoint(path, ReadingLimits(seconds=0))
    assert caught.value.code == "weights_limit"


def test_a_bomb_is_stopped_by_the_limit_of_memory(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "bomb.pt", "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02Nr\xff\xff\xff\x7f.")
    with pytest.raises(WeightsError, match="took more than 512 MB") as caught:
        inspect_checkpoint(tmp_path / "bomb.pt", ReadingLimits(memory_mb=512))
    assert caught.value.code == "weights_limit"


def test_a_reader_that_fails_is_told_with_its_last_words(tmp_path: Path) -> None:
    path = write_diffusion(tmp_path / "a.pt")
    with pytest.raises(WeightsError, match="a.pt cannot be read: KeyError: 'nowhere'"):
        ask_reader(path, ReadingLimits(), "nowhere", tmp_path / "out")
    with pytest.raises(WeightsError, match="took more than 1 MB"):
        inspect_checkpoint(path, ReadingLimits(memory_mb=1))


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limit")
def test_a_full_disk_is_not_blamed_on_the_checkpoint(tmp_path: Path) -> None:
    """The tensors' copy fails as by a quota: files may have 1000 bytes and no more."""
    import resource

    path = write_diffusion(tmp_path / "liver.pt")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(StorageError, match=r"Cannot write to .*folder: File too large") as caught:
            convert_checkpoint(path, tmp_path / "folder")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "choose another folder" in caught.value.hint


def test_a_place_that_cannot_be_written_is_no_mistake_of_ours(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="Cannot write to .*out: Not a directory"):
        convert_checkpoint(write_diffusion(tmp_path / "liver.pt"), tmp_path / "file" / "out")
