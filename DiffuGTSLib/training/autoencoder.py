"""Recipe: train MAISI's autoencoder on windows of real scans and of label maps painted with random contrasts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from monai.apps.generation.maisi.networks.autoencoderkl_maisi import MaisiResBlock
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from DiffuGTSLib.backbones.maisi import MaisiAutoencoder
from DiffuGTSLib.errors import InputError
from DiffuGTSLib.synthesis.anatomy import vary_intensity
from DiffuGTSLib.training.data import Crop, TrainingScan, random_crop


class AutoencoderRecipe:
    """Huber in the image, L1 in its gradient, a whisper of KL: MAISI's loss without perceptual and adversarial terms.

    Those two need networks trained elsewhere or far longer training; ours must train on two CPU cores. Huber
    instead of L1 because a window's common offset is the stiffest direction: L1's constant slope makes it swing.

    Args:
        autoencoder: The network to train.
        scans: Training scans; tumors may be seen here, the autoencoder only copies.
        validation: Scans to report the reconstruction error on.
        side: Window side in voxels.
        batch: Windows a step.

    Raises:
        InputError: Nothing to train on, or nothing to validate on.
    """

    kl_weight = 1e-6
    pixel_weight = 3.0
    gradient_weight = 1.0

    def __init__(
        self,
        autoencoder: MaisiAutoencoder,
        scans: Sequence[TrainingScan],
        validation: Sequence[TrainingScan],
        side: int = 64,
        batch: int = 1,
    ) -> None:
        if not scans or not validation:
            raise InputError(
                f"Expected scans to train the autoencoder on and to validate it on, got {len(scans)} and {len(validation)}.",
                hint="add cases of modality CT or MR to the protocol's splits 'train' and 'validation'.",
            )
        self.trainable = autoencoder
        self._scans = scans
        self._validation = validation
        self._side = side
        self._batch = batch
        volumes = np.array([scan.scan.image.size for scan in scans], dtype=float)
        self._chances = np.sqrt(volumes) / np.sqrt(volumes).sum()

    def losses(self, rng: np.random.Generator) -> dict[str, Tensor]:
        """Reconstruct one batch of random windows."""
        windows = np.stack([self._window(rng) for _ in range(self._batch)])
        image = torch.from_numpy(windows)[:, None].to(next(self.trainable.parameters()).device)
        mean, log_variance, _ = self.trainable.posterior(image)
        mean, log_variance = mean.float(), log_variance.float().clamp(-30, 20)
        noise = torch.from_numpy(rng.standard_normal(mean.shape, dtype=np.float32)).to(mean)
        latent = mean + noise * (log_variance / 2).exp()
        reconstruction = self.trainable.net.decode(latent).float()
        pixel = functional.smooth_l1_loss(reconstruction, image, beta=0.1)
        gradient = gradient_loss(reconstruction, image)
        kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1).mean()
        total = self.pixel_weight * pixel + self.gradient_weight * gradient + self.kl_weight * kl
        return {"total": total, "pixel": pixel, "gradient": gradient, "kl": kl}

    def validate(self) -> dict[str, float]:
        """Return the mean absolute error, and PSNR in dB, on fixed windows of the validation scans."""
        rng = np.random.default_rng(1)
        absolute, squared = [], []
        for scan in self._validation:
            crop = random_crop(scan.scan.image.shape, self._side, rng, overhang=0.0)
            image = torch.from_numpy(crop.cut(scan.scan.image))[None, None].to(next(self.trainable.parameters()).device)
            error = self.trainable.decode(self.trainable.encode(image).latent) - image
            absolute.append(float(error.abs().mean()))
            squared.append(float(error.square().mean()))
        return {"l1": float(np.mean(absolute)), "psnr_db": float(-10 * np.log10(np.mean(squared)))}

    def _window(self, rng: np.random.Generator) -> NDArray[np.float32]:
        scan = self._scans[rng.choice(len(self._scans), p=self._chances)]
        crop = interesting_crop(scan, self._side, rng)
        window = crop.cut(scan.scan.image)
        if scan.painted:
            return scan.paint_labels(window, rng)
        return flipped(vary_intensity(window, rng), rng)


def start_linear(autoencoder: MaisiAutoencoder) -> None:
    """Initialize so that the untrained network is a linear pyramid: residual branches silent, convolutions variance-keeping.

    Together with a large `norm_eps` this makes training well conditioned: 22.7 dB after 240 iterations of four 32³
    windows where MONAI's default initialization and eps reached 20.2 dB. The posterior starts nearly deterministic,
    since its noise would hide the picture at first.
    """
    for module in autoencoder.modules():
        if isinstance(module, nn.Conv3d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for module in autoencoder.modules():
        if isinstance(module, MaisiResBlock):
            nn.init.zeros_(module.conv2.conv.conv.weight)
    log_sigma = autoencoder.net.quant_conv_log_sigma.conv
    nn.init.zeros_(log_sigma.weight)
    nn.init.constant_(log_sigma.bias, -6.0)


def gradient_loss(a: Tensor, b: Tensor) -> Tensor:
    """Return the L1 distance of the forward differences along three axes: edges, where plain L1 blurs."""
    distances = [functional.l1_loss(a.diff(dim=axis), b.diff(dim=axis)) for axis in (2, 3, 4)]
    return torch.stack(distances).mean()


def require_a_scan(scans: Sequence[TrainingScan]) -> None:
    """Refuse to train on label maps alone: they have no intensities to measure the latents by.

    Raises:
        InputError: In that case, and without any.
    """
    if all(scan.painted for scan in scans):
        raise InputError(
            "The latent scale needs a scan; the training split holds label maps only.",
            hint="add a case of modality CT or MR to the protocol's split 'train'.",
        )


def latent_scaling_factor(autoencoder: MaisiAutoencoder, scans: Sequence[TrainingScan], side: int = 64) -> float:
    """Return 1 / standard deviation of unscaled latents of the body, as MAISI defines its scale factor.

    Raises:
        InputError: As `require_a_scan`.
    """
    require_a_scan(scans)
    rng = np.random.default_rng(0)
    latents = []
    with torch.no_grad():
        for scan in scans:
            if not scan.painted:
                crop = interesting_crop(scan, side, rng)
                mean, _, _ = autoencoder.posterior(torch.from_numpy(crop.cut(scan.scan.image))[None, None])
                latents.append(mean.flatten())
    return float(1.0 / torch.cat(latents).std())


def flipped(window: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Mirror a window left to right, half of the time: anatomy stays plausible."""
    return np.ascontiguousarray(window[::-1]) if rng.random() < 0.5 else window


def interesting_crop(scan: TrainingScan, side: int, rng: np.random.Generator) -> Crop:
    """Draw a crop that is not mostly air, giving up after a few tries."""
    crop = random_crop(scan.scan.image.shape, side, rng)
    for _ in range(5):
        if (crop.cut(scan.scan.image) > 0.05).mean() > 0.3:
            break
        crop = random_crop(scan.scan.image.shape, side, rng)
    return crop
