"""A scan in windows: how many, how they are blended, and that every one of them lies on whole latent cells."""

import pytest
import torch
from torch import Tensor

from DiffuGTSLib.backbones import build_backbone
from DiffuGTSLib.backbones.windows import aligned_overlap, decode_scan, encode_scan, over_windows, window_count
from DiffuGTSLib.config import BackboneConfig
from DiffuGTSLib.errors import Cancelled


def silent(done: int, total: int) -> None:
    """Report to nobody."""


@pytest.mark.parametrize("shape", [(64, 64, 64), (80, 64, 48), (96, 64, 112), (65, 130, 32), (20, 20, 20)])
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.4, 0.6])
@pytest.mark.parametrize("side", [32, 64])
def test_the_count_is_what_monai_visits(shape: tuple[int, int, int], overlap: float, side: int) -> None:
    sides = tuple(min(side, length) for length in shape)
    total = window_count(shape, sides, overlap)
    calls: list[tuple[int, int]] = []
    over_windows(
        torch.zeros(1, 1, *shape), side, overlap, lambda window: (window.clone(),), lambda *call: calls.append(call)
    )
    assert calls == [(done, total) for done in range(1, total + 1)]


def test_a_count_worked_by_hand() -> None:
    # Windows of 64 with a quarter in common begin every 48 voxels: 160 is covered from 0, 48 and 96.
    assert window_count((160, 64, 40), (64, 64, 40), 0.25) == 3
    assert window_count((161, 112, 64), (64, 64, 64), 0.25) == 4 * 2


def test_what_is_the_same_everywhere_survives_the_blending() -> None:
    volume = torch.rand(1, 2, 80, 48, 100)
    same, coarse = over_windows(
        volume, 48, 0.25, lambda window: (window.clone(), torch.nn.functional.avg_pool3d(window, 4)), silent
    )
    torch.testing.assert_close(same, volume, rtol=0, atol=1e-6)
    torch.testing.assert_close(coarse, torch.nn.functional.avg_pool3d(volume, 4), rtol=0, atol=1e-6)


def test_a_shorter_side_is_seen_whole() -> None:
    seen: list[tuple[int, ...]] = []

    def look(window: Tensor) -> tuple[Tensor, ...]:
        seen.append(tuple(window.shape[2:]))
        return (window.clone(),)

    over_windows(torch.zeros(1, 1, 100, 64, 20), 64, 0.25, look, silent)
    assert set(seen) == {(64, 64, 20)}


@pytest.mark.parametrize("overlap", [0.0, 0.1, 0.25, 0.33, 0.4, 0.5, 0.77, 0.89])
@pytest.mark.parametrize("side", [32, 48, 64, 80, 128])
@pytest.mark.parametrize("multiple", [4, 8])
def test_an_aligned_overlap_is_at_least_the_one_asked_for_and_strides_over_whole_cells(
    side: int, overlap: float, multiple: int
) -> None:
    aligned = aligned_overlap(side, overlap, multiple)
    stride = int(side * (1 - aligned))
    assert stride % multiple == 0 and stride > 0
    assert side - stride >= int(side * overlap) or stride == multiple
    assert stride > int(side * (1 - overlap)) - multiple


def test_overlaps_that_are_aligned_already_stay_as_they_are() -> None:
    assert aligned_overlap(64, 0.25, 4) == 0.25
    assert aligned_overlap(128, 0.4, 4) == 0.4, "a stride of 76"


def test_an_overlap_worked_by_hand() -> None:
    # 64 * 0.67 = 42.88: a stride of 42, which is 10.5 cells; 40 is the next below.
    assert int(64 * (1 - aligned_overlap(64, 0.33, 4))) == 40


class MeanPooler:
    """An autoencoder whose latent is the mean of each cell: windows must not change it at all."""

    downsampling = 4
    latent_channels = 1
    feature_channels = (1,)
    feature_strides = (1,)

    def encode(self, image: Tensor) -> "MeanPooler":
        """Return the mean of each cell."""
        self.latent = torch.nn.functional.avg_pool3d(image, 4)
        return self

    def decode(self, latent: Tensor) -> Tensor:
        """Return each cell as 4 x 4 x 4 voxels."""
        return torch.nn.functional.interpolate(latent, scale_factor=4.0)


@pytest.mark.parametrize("overlap", [0.25, 0.33, 0.6])
def test_a_latent_lies_where_its_voxels_are_whatever_the_overlap(an_unchecked_library: None, overlap: float) -> None:
    image = torch.rand(1, 1, 112, 64, 96)
    latent = encode_scan(image, MeanPooler(), 64, overlap, silent)  # type: ignore[arg-type]
    torch.testing.assert_close(latent, torch.nn.functional.avg_pool3d(image, 4), rtol=0, atol=1e-6)
    again = decode_scan(latent, MeanPooler(), 64, overlap, silent)  # type: ignore[arg-type]
    torch.testing.assert_close(again, torch.nn.functional.interpolate(latent, scale_factor=4.0), rtol=0, atol=1e-6)


def test_one_window_is_the_autoencoder_itself() -> None:
    autoencoder = build_backbone(BackboneConfig(name="tiny")).autoencoder
    image = torch.rand(1, 1, 32, 32, 32)
    with torch.inference_mode():
        latent = autoencoder.encode(image).latent
        torch.testing.assert_close(encode_scan(image, autoencoder, 64, 0.25, silent), latent, rtol=0, atol=1e-6)
        decoded = autoencoder.decode(latent)
        torch.testing.assert_close(decode_scan(latent, autoencoder, 64, 0.25, silent), decoded, rtol=0, atol=1e-6)


def test_a_scan_of_several_windows_comes_back_in_its_own_size() -> None:
    autoencoder = build_backbone(BackboneConfig(name="tiny")).autoencoder
    image = torch.rand(1, 1, 48, 32, 80)
    latent = encode_scan(image, autoencoder, 32, 0.25, silent)
    assert latent.shape == (1, 4, 12, 8, 20)
    assert decode_scan(latent, autoencoder, 32, 0.25, silent).shape == image.shape
    assert not latent.requires_grad


def test_cancelling_in_a_window_stops_there() -> None:
    done: list[int] = []

    def cancel(number: int, total: int) -> None:
        done.append(number)
        raise Cancelled("stopped")

    with pytest.raises(Cancelled):
        over_windows(torch.zeros(1, 1, 64, 64, 64), 32, 0.0, lambda window: (window,), cancel)
    assert done == [1]


def test_windows_without_a_wanted_voxel_are_passed_over_and_the_wanted_ones_stay_the_same() -> None:
    backbone = build_backbone(BackboneConfig(name="tiny"))
    volume = torch.rand(1, 1, 96, 64, 32, generator=torch.Generator().manual_seed(0))
    wanted = torch.zeros(96, 64, 32, dtype=torch.bool)
    wanted[70:80, 40:50, 8:20] = True
    looked: list[Tensor] = []

    def look(window: Tensor) -> tuple[Tensor, ...]:
        looked.append(window)
        encoding = backbone.autoencoder.encode(window)
        return encoding.features[0].clone(), encoding.latent

    calls: list[tuple[int, int]] = []
    every = over_windows(volume, 32, 0.25, look, silent)
    all_windows = len(looked)
    looked.clear()
    some = over_windows(volume, 32, 0.25, look, lambda *call: calls.append(call), wanted)

    assert torch.equal(some[0][..., wanted], every[0][..., wanted])
    assert len(looked) < all_windows == len(calls)
    assert all(window.shape[1] == 1 for window in looked)
