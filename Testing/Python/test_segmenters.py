"""The segmentation networks: sizes and tensors of the published files, and what they refuse."""

from __future__ import annotations

import pytest
import torch
from monai.networks.nets import DynUNet
from torch import Tensor, nn

from DiffuGTSLib.backbones.weights import load_module, save_module
from DiffuGTSLib.errors import ConfigError, GeometryError, WeightsError
from DiffuGTSLib.supervised.networks import (
    MERGINGS,
    SWIN_FEATURES,
    HistoricalMerging,
    Segmenter,
    historical_keys,
    load_published,
)

PUBLISHED = [
    ({"model": "unet"}, 4_807_482),
    ({"model": "nnunet"}, 16_538_563),
    ({"model": "swin_unetr", "swin_type": "tiny"}, 4_078_077),
    ({"model": "swin_unetr", "swin_type": "small"}, 15_703_029),
    ({"model": "swin_unetr", "swin_type": "base"}, 62_186_757),
]


def parameters(segmenter: Segmenter) -> int:
    return sum(parameter.numel() for parameter in segmenter.net.parameters())


def published_file(segmenter: Segmenter) -> dict[str, Tensor]:
    """Return a file as upstream wrote it: wrapped twice, with MONAI 0.9's names and a norm that nothing uses."""
    tensors = {}
    for name, tensor in segmenter.net.state_dict().items():
        old = name.replace(".mlp.linear1.", ".mlp.fc1.").replace(".mlp.linear2.", ".mlp.fc2.")
        tensors[f"module.backbone.{old}"] = torch.full_like(tensor, 0.25) if tensor.is_floating_point() else tensor
    if segmenter.config["model"] == "swin_unetr":
        tensors |= {f"module.backbone.swinViT.norm.{kind}": torch.ones(192) for kind in ("weight", "bias")}
    return tensors


@pytest.mark.parametrize(("options", "count"), PUBLISHED)
def test_the_networks_have_the_published_numbers_of_parameters(options: dict[str, str], count: int) -> None:
    assert parameters(Segmenter(**options)) == count


def test_the_unet_has_the_published_tensors() -> None:
    names = list(Segmenter("unet").net.state_dict())
    assert len(names) == 63
    assert "model.0.conv.unit0.conv.weight" in names and "model.0.conv.unit1.adn.A.weight" in names
    assert Segmenter("unet").net.state_dict()["model.2.0.conv.weight"].shape == (32, 3, 3, 3, 3)


def test_the_nnunet_has_the_published_tensors_each_once() -> None:
    ours = Segmenter("nnunet", channels=(4, 8, 8))
    theirs = DynUNet(3, 1, 3, (3,) * 3, (1, 2, 2), (2, 2), filters=(4, 8, 8), norm_name="instance").state_dict()
    assert set(ours.net.state_dict()) == {name for name in theirs if not name.startswith("skip_layers.")}
    full = Segmenter("nnunet").net.state_dict()
    assert full["output_block.conv.conv.weight"].shape == (3, 32, 1, 1, 1)
    assert full["upsamples.3.transp_conv.conv.weight"].ndim == 5
    assert len(full) == 24  # 46 in the file, of which 22 are second names


def test_the_swin_has_the_published_tensors_after_renaming() -> None:
    network = Segmenter("swin_unetr", swin_type="tiny", merging="historical")
    published = published_file(network)
    assert len(published) == 161
    assert set(historical_keys(published)) == set(network.net.state_dict())


@pytest.mark.parametrize(
    "options",
    [
        {"model": "unet", "channels": (4, 8, 8)},
        {"model": "nnunet", "channels": (4, 8, 8)},
        {"model": "swin_unetr", "swin_type": "tiny", "merging": "historical"},
    ],
)
def test_a_published_file_fills_every_tensor(options: dict[str, object]) -> None:
    network = Segmenter(**options)
    load_published(network, published_file(network), "unet.pt")
    assert all((value == 0.25).all() for value in network.net.parameters())


def test_second_names_of_layers_in_a_published_file_are_passed_over() -> None:
    network = Segmenter("nnunet", channels=(4, 8, 8))
    load_published(network, {**published_file(network), "skip_layers.downsample.x": torch.ones(1)}, "nnunet.pt")


def test_a_file_that_does_not_fit_is_refused_by_name() -> None:
    network = Segmenter("unet", channels=(4, 8, 8))
    tensors = published_file(network)
    tensors["stranger"] = tensors.pop("module.backbone.model.2.0.conv.bias")
    with pytest.raises(
        WeightsError, match=r"1 tensors missing \(model.2.0.conv.bias\); 1 tensors unexpected \(stranger\)"
    ):
        load_published(network, tensors, "unet.pt")


def test_a_segmenter_comes_back_from_its_folder(tmp_path_factory: pytest.TempPathFactory) -> None:
    for model in ("unet", "nnunet"):
        folder = tmp_path_factory.mktemp(model)
        network = Segmenter(model, channels=(4, 8, 8)).eval()
        save_module(network, folder)
        image = torch.rand(1, 1, 16, 16, 16)
        with torch.no_grad():
            assert torch.equal(load_module(Segmenter, folder)(image), network(image))


def test_historical_merging_takes_the_corners_in_the_old_order() -> None:
    """One channel a corner, valued by its place 100 x + 10 y + z."""
    merging = HistoricalMerging(1)
    merging.norm = nn.Identity()
    merging.reduction = nn.Identity()
    x, y, z = torch.meshgrid(*(torch.arange(2.0),) * 3, indexing="ij")
    corners = merging((100 * x + 10 * y + z)[None, ..., None])
    assert corners.flatten().tolist() == [0, 100, 10, 1, 101, 10, 1, 111]


def test_todays_mergings_give_other_corners_and_the_same_tensors() -> None:
    hidden = torch.rand(1, 3, 4, 5, 2, generator=torch.Generator().manual_seed(0))
    results = {}
    for name, kind in MERGINGS.items():
        merging = kind(2)
        for parameter in merging.parameters():
            nn.init.uniform_(parameter, generator=torch.Generator().manual_seed(1))
        results[name] = merging(hidden)
    assert {result.shape for result in results.values()} == {(1, 2, 2, 3, 4)}
    assert not torch.allclose(results["historical"], results["merging"])
    assert not torch.allclose(results["historical"], results["mergingv2"])


@pytest.mark.parametrize(
    ("options", "message", "hint"),
    [
        ({"model": "unett"}, "Unknown model 'unett'", "did you mean 'unet'?"),
        ({"model": "swin_unetr", "swin_type": "huge"}, "Unknown swin_type 'huge'", "known: base, small, tiny."),
        ({"model": "swin_unetr", "merging": "historic"}, "Unknown merging 'historic'", "did you mean 'historical'?"),
    ],
)
def test_an_unknown_wish_is_refused(options: dict[str, str], message: str, hint: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        Segmenter(**options)
    assert caught.value.hint == hint


def test_a_network_of_two_levels_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"at least three levels, got \(8, 8\)"):
        Segmenter("unet", channels=(8, 8))


@pytest.mark.parametrize(("model", "multiple"), [("unet", 16), ("nnunet", 16), ("swin_unetr", 32)])
def test_sides_that_the_network_cannot_halve_are_refused(model: str, multiple: int) -> None:
    network = Segmenter(model, swin_type="tiny")
    with pytest.raises(GeometryError, match=f"multiples of {multiple}"):
        network(torch.zeros(1, 1, 40, 32, 32))


@pytest.mark.slow
@pytest.mark.parametrize("options", [options for options, _ in PUBLISHED])
def test_every_published_network_sees_a_window_of_64(options: dict[str, str]) -> None:
    with torch.inference_mode():
        assert Segmenter(**options)(torch.rand(1, 1, 64, 64, 64)).shape == (1, 3, 64, 64, 64)


def test_every_swin_size_has_a_feature_size() -> None:
    assert SWIN_FEATURES == {"tiny": 12, "small": 24, "base": 48}
