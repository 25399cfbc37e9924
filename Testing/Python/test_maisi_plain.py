"""MAISI the plain way: MONAI's parts with the published switches, and the numbers that ours must equal."""

import pytest
import torch
from monai.apps.generation.maisi.networks.autoencoderkl_maisi import MaisiConvolution, MaisiGroupNorm3D
from torch import Tensor

from DiffuGTSLib.backbones import maisi_plain
from DiffuGTSLib.backbones.maisi import MaisiAutoencoder, MaisiUNet
from DiffuGTSLib.backbones.maisi_plain import PlainMaisi

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def our_networks() -> tuple[MaisiAutoencoder, MaisiUNet]:
    """Real and small; nothing starts at zero, so that everything counts."""
    torch.manual_seed(0)
    autoencoder = MaisiAutoencoder((8, 8, 8), (1, 1, 1), norm_num_groups=4, scaling_factor=2.0).eval()
    unet = MaisiUNet(
        num_channels=(8, 16), attention_levels=(False, True), num_head_channels=(0, 8), num_res_blocks=1,
        norm_num_groups=4,
    ).eval()  # fmt: skip
    for parameter in [*autoencoder.parameters(), *unet.parameters()]:
        torch.nn.init.normal_(parameter, std=0.1)
    return autoencoder, unet


@pytest.fixture(scope="module")
def the_plain_way(our_networks: tuple[MaisiAutoencoder, MaisiUNet]) -> PlainMaisi:
    """MONAI's own, with the same weights."""
    return PlainMaisi(*our_networks, CPU)


def test_the_switches_are_the_published_ones(the_plain_way: PlainMaisi) -> None:
    modules = list(the_plain_way.autoencoder.modules())
    assert any(isinstance(module, MaisiGroupNorm3D) for module in modules)
    splits = {module.num_splits for module in modules if isinstance(module, MaisiConvolution)}
    assert splits == {4}
    assert all(module.save_mem for module in modules if isinstance(module, MaisiConvolution))


def test_the_weights_are_ours_bit_for_bit(
    our_networks: tuple[MaisiAutoencoder, MaisiUNet], the_plain_way: PlainMaisi
) -> None:
    for plain, ours in zip((the_plain_way.autoencoder, the_plain_way.unet), our_networks, strict=True):
        expected = ours.net.state_dict()
        assert list(plain.state_dict()) == list(expected)
        assert all(torch.equal(tensor, expected[name]) for name, tensor in plain.state_dict().items())


def test_native_norm_without_splits_equals_the_plain_autoencoder(
    our_networks: tuple[MaisiAutoencoder, MaisiUNet], the_plain_way: PlainMaisi
) -> None:
    """Splits, MONAI's norm and its inferer against none of them: within 1e-5 of values of about 1."""
    autoencoder, _ = our_networks
    image = torch.rand(1, 1, 64, 64, 48)
    with torch.inference_mode():
        latent = autoencoder.encode(image).latent
        torch.testing.assert_close(latent, the_plain_way.encode(image), rtol=0, atol=1e-5)
        torch.testing.assert_close(autoencoder.decode(latent), the_plain_way.decode(latent), rtol=0, atol=1e-5)


def test_fused_attention_equals_the_plain_denoiser(
    our_networks: tuple[MaisiAutoencoder, MaisiUNet], the_plain_way: PlainMaisi
) -> None:
    _, unet = our_networks
    noisy = torch.randn(1, 4, 16, 16, 8)
    with torch.inference_mode():
        ours = unet(noisy, torch.tensor([500.0]), torch.tensor([[1.5, 1.5, 1.5]]), torch.tensor([1]))
    torch.testing.assert_close(the_plain_way.velocity(noisy, 500.0, (1.5, 1.5, 1.5), 1), ours, rtol=0, atol=1e-5)
    assert ours.abs().max() > 0.01


@pytest.mark.parametrize(
    ("side", "seen"),
    [(16, [(20, 16, 12)]), (12, [(12, 12, 12)] * 6)],
    ids=["no more cells than a window: at once", "more: in windows"],
)
def test_windows_are_taken_as_maisi_takes_them(
    the_plain_way: PlainMaisi, monkeypatch: pytest.MonkeyPatch, side: int, seen: list[tuple[int, ...]]
) -> None:
    monkeypatch.setattr(maisi_plain, "DECODE_WINDOW", (side, side, side))
    decoded: list[tuple[int, ...]] = []
    decode = the_plain_way.autoencoder.decode

    def watched(latent: Tensor) -> Tensor:
        decoded.append(tuple(latent.shape[2:]))
        return decode(latent)

    monkeypatch.setattr(the_plain_way.autoencoder, "decode", watched)
    assert the_plain_way.decode(torch.randn(1, 4, 20, 16, 12)).shape == (1, 1, 80, 64, 48)
    assert decoded == seen
