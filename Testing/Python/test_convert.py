"""Published layouts at tiny width: what becomes of them bit for bit, and what is refused by name."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from model_store_parts import (
    AUTOENCODER,
    DDPM,
    DENOISER,
    SCALE,
    legacy,
    local,
    parallel,
    published,
    tiny_networks,
    trained,
    training_file,
    with_unused,
    write_published,
)
from monai.data import MetaTensor
from safetensors.torch import load_file
from torch import Tensor

from DiffuGTSLib.backbones import build_backbone
from DiffuGTSLib.backbones.maisi import published_networks
from DiffuGTSLib.backbones.weights import WEIGHTS_FILE, verify_checksums
from DiffuGTSLib.config import BackboneConfig
from DiffuGTSLib.errors import InputError, WeightsError
from DiffuGTSLib.model_store.convert import (
    Checkpoint,
    adopt_model,
    converted_bytes,
    install_model,
    read_network,
    read_scale_factor,
)
from DiffuGTSLib.model_store.store import SOURCE_FILE, find_stored
from DiffuGTSLib.synthesis.checkpoints import ReadingLimits

LIMITS = ReadingLimits(seconds=60)


@pytest.fixture(autouse=True)
def a_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty store of its own."""
    monkeypatch.setenv("DIFFUGTS_MODELS", str(tmp_path / "store"))
    return tmp_path / "store"


def convert(folder: Path, name: str = "maisi-ct", precision: str = "float32") -> Path:
    denoiser = DDPM if name == "maisi-ct-ddpm" else DENOISER
    files = {"autoencoder": local(folder / AUTOENCODER), "denoiser": local(folder / denoiser)}
    return install_model(published(name), files, precision, tiny_networks, LIMITS)


def weights(folder: Path) -> dict[str, Tensor]:
    return {name.removeprefix("net."): tensor for name, tensor in load_file(folder / WEIGHTS_FILE).items()}


def same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("name", ["maisi-ct", "maisi-ct-ddpm"])
def test_a_published_model_becomes_a_folder_bit_for_bit_that_a_preset_finds(tmp_path: Path, name: str) -> None:
    source = write_published(tmp_path / "files", name)
    folder = convert(source, name)
    autoencoder, denoiser = trained(name)
    assert same(weights(folder / "autoencoder"), autoencoder) and same(weights(folder / "denoiser"), denoiser)
    backbone = build_backbone(BackboneConfig(name=name))
    assert backbone.folder == folder and backbone.weights == verify_checksums(folder)
    latent = torch.randn(1, 4, 8, 8, 8)
    with torch.inference_mode():
        assert backbone.denoiser(latent, 500.0, (2.0, 2.0, 2.0), "CT").clean.shape == latent.shape
    assert backbone.autoencoder.config["scaling_factor"] == SCALE  # type: ignore[attr-defined]


def test_a_training_file_shrinks_to_a_third(tmp_path: Path) -> None:
    source = write_published(tmp_path / "files")
    folder = convert(source)
    sizes = [path.stat().st_size for path in (folder / "denoiser" / WEIGHTS_FILE, source / DENOISER)]
    assert sizes[0] < 0.4 * sizes[1]


def test_half_precision_halves_the_folder_and_is_the_rounded_numbers(tmp_path: Path) -> None:
    folder = convert(write_published(tmp_path / "files"), precision="bfloat16")
    for part, tensors in zip(("autoencoder", "denoiser"), trained(), strict=True):
        assert same(weights(folder / part), {name: tensor.bfloat16() for name, tensor in tensors.items()})


def test_the_source_names_files_license_scale_and_what_was_left_out(tmp_path: Path) -> None:
    folder = convert(write_published(tmp_path / "files", "maisi-ct-ddpm"), "maisi-ct-ddpm")
    source = json.loads((folder / SOURCE_FILE).read_text())
    reading = source["files"]["denoiser"]["reading"]
    assert reading["group"] == "unet_state_dict" and reading["values"]["epoch"] == 4
    assert all(".attn.out_proj." in name for name in reading["left_out"]) and reading["left_out"]
    assert source["files"]["denoiser"]["repository"] == "nvidia/NV-Generate-CT"
    assert str(tmp_path) not in json.dumps(source), "no path of this machine"
    card = (folder / "README.md").read_text()
    assert card.startswith("---\nlicense: NVIDIA Open Model License\n---")
    assert "Licensed by NVIDIA Corporation under the NVIDIA Open Model License" in card


Change = Callable[[dict[str, Tensor]], Any]


@pytest.mark.parametrize(
    ("wrap", "group", "renamed"),
    [
        (lambda tensors: tensors, "", False),
        (lambda tensors: {"unet_state_dict": tensors}, "unet_state_dict", False),
        (lambda tensors: {"network": tensors, "epoch": 1}, "network", False),
        (lambda tensors: {"state_dict": tensors}, "state_dict", False),
        (parallel, "", False),
        (lambda tensors: {"unet_state_dict": parallel(tensors)}, "unet_state_dict", False),
        (legacy, "", True),
        (lambda tensors: {"network": parallel(legacy(tensors))}, "network", True),
        (lambda tensors: {name: MetaTensor(tensor) for name, tensor in tensors.items()}, "", False),
        (lambda tensors: {name: torch.nn.Parameter(tensor) for name, tensor in tensors.items()}, "", False),
    ],
)
def test_every_layout_of_an_autoencoder_gives_the_same_numbers(
    tmp_path: Path, wrap: Change, group: str, renamed: bool
) -> None:
    tensors, _ = trained()
    torch.save(wrap(tensors), tmp_path / AUTOENCODER)
    network = tiny_networks("maisi-ct")[0].net
    reading = read_network(Checkpoint(tmp_path / AUTOENCODER, tmp_path, LIMITS), network)
    assert reading.group == group and (reading.renamed > 0) == renamed and reading.left_out == ()
    assert same(network.state_dict(), tensors) and reading.tensors == len(tensors)
    assert sorted(path.name for path in tmp_path.iterdir()) == [AUTOENCODER], "no copy is left"


@pytest.mark.parametrize(
    "scale",
    [SCALE, torch.tensor(SCALE), torch.tensor([SCALE]), MetaTensor(torch.tensor(SCALE)), torch.tensor(1.25).double()],
)
def test_the_scale_factor_is_read_from_a_number_a_tensor_and_a_metatensor(tmp_path: Path, scale: object) -> None:
    torch.save({"unet_state_dict": {"a": torch.ones(1)}, "scale_factor": scale}, tmp_path / "a.pt")
    assert read_scale_factor(Checkpoint(tmp_path / "a.pt", tmp_path, LIMITS)) == SCALE


@pytest.mark.parametrize("scale", [SCALE, torch.tensor(SCALE)])
def test_a_bare_denoiser_has_the_scale_factor_among_its_tensors(tmp_path: Path, scale: object) -> None:
    _, tensors = trained()
    torch.save({**tensors, "scale_factor": scale, "num_train_timesteps": torch.tensor(1000)}, tmp_path / DENOISER)
    network = tiny_networks("maisi-ct")[1].net
    checkpoint = Checkpoint(tmp_path / DENOISER, tmp_path, LIMITS)
    assert read_scale_factor(checkpoint) == SCALE
    assert read_network(checkpoint, network).tensors == len(tensors) and same(network.state_dict(), tensors)


@pytest.mark.parametrize("scale", [None, "1.2", True, 0.0, float("nan"), torch.ones(2), torch.tensor(-1.0)])
def test_a_scale_factor_that_is_none_is_refused(tmp_path: Path, scale: object) -> None:
    torch.save({"unet_state_dict": {"a": torch.ones(1)}, "scale_factor": scale}, tmp_path / "a.pt")
    with pytest.raises(WeightsError, match=r"holds no usable scale factor") as caught:
        read_scale_factor(Checkpoint(tmp_path / "a.pt", tmp_path, LIMITS))
    assert caught.value.code == "weights_scale"


def refused(tmp_path: Path, content: Any, said: str) -> WeightsError:
    """A model whose denoiser's file holds this is refused, and nothing of it is in the store."""
    source = write_published(tmp_path / "files")
    if isinstance(content, bytes):
        (source / DENOISER).write_bytes(content)
    else:
        torch.save(content, source / DENOISER)
    with pytest.raises(WeightsError, match=said) as caught:
        convert(source)
    assert find_stored("maisi-ct") is None and list((tmp_path / "store").iterdir()) == []
    return caught.value


def changed(change: Change) -> dict[str, Any]:
    tensors = trained()[1]
    change(tensors)
    return training_file(tensors)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.pop("conv_in.conv.weight"), r"1 tensors missing \(conv_in.conv.weight\)"),
        (lambda t: t.update(extra=torch.ones(1)), r"1 tensors unexpected \(extra\)"),
        (lambda t: t.update({"conv_in.conv.bias": torch.ones(3)}), r"conv_in.conv.bias: \(3,\) instead of \(8,\)"),
        (lambda t: t.update({"module.conv_in.conv.bias": torch.ones(8)}), r"1 tensors twice"),
    ],
)
def test_tensors_that_do_not_fit_are_named(tmp_path: Path, change: Change, said: str) -> None:
    refused(tmp_path, changed(change), said)


def test_projections_are_left_out_only_where_the_network_has_none(tmp_path: Path) -> None:
    """A rectified flow denoiser uses them: one that is missing is an error, as is another one too many."""
    refused(tmp_path, changed(lambda t: t.update({"a.attn.out_proj.bias": torch.ones(1)})), r"unexpected \(a.attn.out")
    ddpm = {**with_unused(trained("maisi-ct-ddpm")[1]), "a.attn.to_out.bias": torch.ones(1)}
    torch.save(training_file(ddpm), tmp_path / "files" / DDPM)
    with pytest.raises(WeightsError, match=r"1 tensors unexpected \(a.attn.to_out.bias\)"):
        convert(tmp_path / "files", "maisi-ct-ddpm")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"scale_factor": 1.2, "controlnet_state_dict": {"a": torch.ones(1)}}, r"no network: it has controlnet_state"),
        ({"scale_factor": 1.2}, r"no network: it has no tensors"),
        ({"unet_state_dict": {"a": torch.ones(1)}}, r"no usable scale factor"),
        ([1, 2], r"holds no dictionary"),
        (b"", r"no checkpoint of torch 1.6"),
        (b"<html>Not found</html>", r"no checkpoint of torch 1.6"),
    ],
)
def test_files_that_hold_something_else_are_refused(tmp_path: Path, content: Any, said: str) -> None:
    refused(tmp_path, content, said)


@pytest.mark.parametrize("timesteps", [250, torch.tensor(250)])
def test_other_noise_levels_are_refused(tmp_path: Path, timesteps: object) -> None:
    refused(tmp_path, training_file(trained()[1], num_train_timesteps=timesteps), r"250 timesteps; expected 1000")


@pytest.mark.parametrize("number", [float("nan"), float("inf"), 1e300])
def test_numbers_that_are_none_are_told_with_the_file_they_stand_in(tmp_path: Path, number: float) -> None:
    content = changed(lambda t: t.update({"conv_in.conv.bias": torch.full((8,), number, dtype=torch.float64)}))
    error = refused(tmp_path, content, rf"^{DENOISER} holds 1 tensors with infinite values or NaN \(conv_in.conv.bias")
    assert error.code == "weights_corrupt" and "fetch it again" in error.hint


@pytest.mark.parametrize("share", [0.001, 0.5, 0.999])
def test_a_file_that_was_cut_off_is_refused(tmp_path: Path, share: float) -> None:
    whole = (write_published(tmp_path / "files") / DENOISER).read_bytes()
    assert refused(tmp_path, whole[: int(share * len(whole))], r"cannot be used").code == "weights_corrupt"


class Trap:
    """Pickles as a command of the system."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.system, (f"touch {self.marker}",)


def test_nothing_that_a_file_names_is_run(tmp_path: Path) -> None:
    """The tensors beside it are whole, so that the model is used; what the file named is on record."""
    marker = tmp_path / "marker"
    source = write_published(tmp_path / "files")
    torch.save(training_file(trained()[1], trap=Trap(marker)), source / DENOISER)
    folder = convert(source)
    assert not marker.exists()
    replaced = json.loads((folder / SOURCE_FILE).read_text())["files"]["denoiser"]["reading"]["replaced"]
    assert any(name.endswith(".system") for name in replaced)
    torch.load(source / DENOISER, weights_only=False)
    assert marker.exists(), "the trap works where it is not defused"


def test_a_trap_in_the_place_of_a_tensor_is_a_missing_tensor(tmp_path: Path) -> None:
    tensors = {**trained()[1], "conv_in.conv.weight": Trap(tmp_path / "marker")}
    refused(tmp_path, {"scale_factor": SCALE, "unet_state_dict": tensors}, r"1 tensors missing \(conv_in.conv.weight\)")
    assert not (tmp_path / "marker").exists()


def test_a_model_that_is_there_is_not_written_over(tmp_path: Path) -> None:
    convert(write_published(tmp_path / "files"))
    with pytest.raises(InputError, match=r"is there already") as caught:
        convert(tmp_path / "files")
    assert caught.value.code == "exists" and "weights remove maisi-ct" in caught.value.hint


def test_a_model_from_a_read_only_disk_can_be_removed_again(tmp_path: Path, a_store: Path) -> None:
    disk = convert(write_published(tmp_path / "files")).rename(tmp_path / "disk")
    folders = [disk, *(path for path in disk.rglob("*") if path.is_dir())]
    for folder in folders:
        folder.chmod(0o500)
    try:
        adopted = adopt_model(disk, "maisi-ct")
    finally:
        for folder in folders:
            folder.chmod(0o700)
    assert all(path.stat().st_mode & 0o200 for path in (adopted, *adopted.rglob("*"))), "writable for its owner"


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there that few have")
@pytest.mark.parametrize("target", ["/nowhere", "."])
def test_a_model_folder_that_holds_a_link_to_nothing_or_to_a_folder_is_refused(
    tmp_path: Path, a_store: Path, target: str
) -> None:
    stick = convert(write_published(tmp_path / "files")).rename(tmp_path / "stick")
    (stick / "odd").symlink_to(target)
    with pytest.raises(WeightsError, match=r"holds what is neither a file nor a folder: .*stick.odd") as caught:
        adopt_model(stick, "maisi-ct")
    assert "links as what they lead to" in caught.value.hint and list(a_store.iterdir()) == []


def test_the_published_networks_need_the_room_that_was_measured() -> None:
    """83.8 MB and 722 MB as float32, twice."""
    assert converted_bytes("maisi-ct") == 2 * 4 * (20_944_897 + 180_500_868)
    assert converted_bytes("maisi-ct", tiny_networks) < 4e6


@pytest.mark.slow
@pytest.mark.parametrize("name", ["maisi-ct", "maisi-ct-ddpm"])
def test_a_model_of_full_size_is_converted_bit_for_bit(tmp_path: Path, name: str) -> None:
    autoencoder, unet = published_networks(name)
    tensors = [dict(part.net.state_dict()) for part in (autoencoder, unet)]
    torch.save(tensors[0], tmp_path / AUTOENCODER)
    torch.save(training_file(tensors[1]), tmp_path / DENOISER)
    files = {"autoencoder": local(tmp_path / AUTOENCODER), "denoiser": local(tmp_path / DENOISER)}
    folder = install_model(published(name), files)
    assert same(weights(folder / "autoencoder"), tensors[0]) and same(weights(folder / "denoiser"), tensors[1])
