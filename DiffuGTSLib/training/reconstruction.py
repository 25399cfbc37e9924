"""How well an autoencoder gives back what it was shown: PSNR and SSIM of volumes."""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy import ndimage

from DiffuGTSLib.errors import InputError

PSNR_CAP_DB = 100.0
"""What identical volumes score: infinity would spoil every mean."""

_SIGMA = 1.5
_RADIUS = 5


@dataclass(frozen=True)
class Fidelity:
    """How near a reconstruction comes.

    Attributes:
        l1: Mean absolute error, in the volumes' units.
        psnr_db: See `psnr_db`.
        ssim: See `ssim`.
    """

    l1: float
    psnr_db: float
    ssim: float


def fidelity(
    reconstruction: Float[np.ndarray, "X Y Z"], original: Float[np.ndarray, "X Y Z"], data_range: float
) -> Fidelity:
    """Compare a reconstruction with its original; arguments and errors as `ssim`."""
    l1 = float(np.abs(reconstruction.astype(np.float64) - original).mean())
    return Fidelity(l1, psnr_db(reconstruction, original, data_range), ssim(reconstruction, original, data_range))


def psnr_db(
    reconstruction: Float[np.ndarray, "X Y Z"], original: Float[np.ndarray, "X Y Z"], data_range: float
) -> float:
    """Return the peak signal-to-noise ratio, 10 log10(range² / mean squared error), at most 100 dB.

    Args:
        reconstruction: Any unit.
        original: The same unit.
        data_range: Largest less smallest possible value: 2 for [-1, 1].

    Raises:
        InputError: For a range that is not positive.
    """
    _require_range(data_range)
    error = float(np.square(reconstruction.astype(np.float64) - original).mean())
    return PSNR_CAP_DB if error == 0 else min(PSNR_CAP_DB, 10 * math.log10(data_range**2 / error))


def ssim(reconstruction: Float[np.ndarray, "X Y Z"], original: Float[np.ndarray, "X Y Z"], data_range: float) -> float:
    """Return the mean structural similarity in 3D (Wang et al. 2004): Gaussian window of 11³, σ 1.5, K 0.01 and 0.03.

    The mean is taken where the whole window lies inside the volume.

    Args:
        reconstruction: At least 11 voxels a side.
        original: The same unit.
        data_range: As in `psnr_db`.

    Raises:
        InputError: If a side is shorter, or the range is not positive.
    """
    _require_range(data_range)
    if min(original.shape) < 2 * _RADIUS + 1:
        raise InputError(f"SSIM needs at least {2 * _RADIUS + 1} voxels a side, got {original.shape}.")
    a, b = reconstruction.astype(np.float64), original.astype(np.float64)
    mean_a, mean_b = _blurred(a), _blurred(b)
    variance_a, variance_b = _blurred(a * a) - mean_a**2, _blurred(b * b) - mean_b**2
    covariance = _blurred(a * b) - mean_a * mean_b
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    structure = (2 * covariance + c2) / (variance_a + variance_b + c2)
    inner = (slice(_RADIUS, -_RADIUS or None),) * 3
    return float((luminance * structure)[inner].mean())


def _blurred(array: Float[np.ndarray, "X Y Z"]) -> Float[np.ndarray, "X Y Z"]:
    blurred: Float[np.ndarray, "X Y Z"] = ndimage.gaussian_filter(array, _SIGMA, radius=_RADIUS)
    return blurred


def _require_range(data_range: float) -> None:
    if not data_range > 0:
        raise InputError(f"Expected a positive range of values, got {data_range:g}.")
