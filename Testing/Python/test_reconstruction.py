"""PSNR and SSIM: what identical volumes score, what known noise scores, and MONAI's SSIM as a witness."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.metrics import SSIMMetric
from numpy.typing import NDArray

from DiffuGTSLib.errors import InputError
from DiffuGTSLib.training.reconstruction import PSNR_CAP_DB, fidelity, psnr_db, ssim


@pytest.fixture
def a_texture() -> NDArray[np.float64]:
    """A sum of waves in [-1, 1]."""
    x, y, z = np.meshgrid(*(np.linspace(0, 9, 24),) * 3, indexing="ij")
    return np.asarray((np.sin(x) + np.cos(2 * y) + np.sin(y * z / 3)) / 3)


def test_a_perfect_reconstruction_scores_the_cap_and_one(a_texture: NDArray[np.float64]) -> None:
    perfect = fidelity(a_texture, a_texture, 2.0)
    assert (perfect.l1, perfect.psnr_db) == (0.0, PSNR_CAP_DB)
    assert perfect.ssim == pytest.approx(1.0, abs=1e-12)


def test_noise_of_known_strength_scores_as_computed_by_hand(a_texture: NDArray[np.float64]) -> None:
    """σ = 0.02 in a range of 2: 20 log10(2 / 0.02) = 40 dB."""
    noisy = a_texture + np.random.default_rng(0).normal(0, 0.02, (24, 24, 24))
    assert psnr_db(noisy, a_texture, 2.0) == pytest.approx(40.0, abs=0.1)
    assert fidelity(noisy, a_texture, 2.0).l1 == pytest.approx(0.02 * np.sqrt(2 / np.pi), rel=0.03)


def test_a_constant_offset_scores_exactly() -> None:
    flat = np.zeros((12, 12, 12))
    assert psnr_db(flat + 0.1, flat, 1.0) == pytest.approx(20.0)


def test_ssim_agrees_with_monai(a_texture: NDArray[np.float64]) -> None:
    noisy = a_texture + np.random.default_rng(1).normal(0, 0.2, (24, 24, 24))
    witness = SSIMMetric(spatial_dims=3, data_range=2.0)
    a, b = (torch.from_numpy(volume)[None, None].float() for volume in (noisy, a_texture))
    assert ssim(noisy, a_texture, 2.0) == pytest.approx(float(witness(a, b)), abs=1e-3)


def test_ssim_falls_with_noise(a_texture: NDArray[np.float64]) -> None:
    noise = np.random.default_rng(2).normal(0, 1, (24, 24, 24))
    scores = [ssim(a_texture + strength * noise, a_texture, 2.0) for strength in (0.02, 0.1, 0.5)]
    assert scores == sorted(scores, reverse=True) and scores[0] > 0.9 > scores[-1]


def test_a_volume_smaller_than_the_window_is_refused() -> None:
    small = np.zeros((11, 11, 10))
    with pytest.raises(InputError, match=r"at least 11 voxels a side, got \(11, 11, 10\)"):
        ssim(small, small, 1.0)
    assert ssim(np.zeros((11, 11, 11)), np.zeros((11, 11, 11)), 1.0) == 1.0


@pytest.mark.parametrize("measure", [psnr_db, ssim])
def test_a_range_that_is_not_positive_is_refused(measure: object) -> None:
    flat = np.zeros((12, 12, 12))
    with pytest.raises(InputError, match="positive range of values, got 0"):
        measure(flat, flat, 0.0)  # type: ignore[operator]
