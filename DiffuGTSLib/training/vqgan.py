"""Recipe: train the 3D VQGAN, the first of the three steps of a latent tumor painter.

Follows DiffTumor (Chen et al., CVPR 2024), its first step: L1, commitment, a perceptual distance on slices, and, after a
while, two discriminators with feature matching.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from DiffuGTSLib.backbones.weights import load_module
from DiffuGTSLib.errors import InputError
from DiffuGTSLib.synthesis.anatomy import vary_intensity
from DiffuGTSLib.synthesis.vqgan import Reconstruction, Vqgan3D, depth_first, depth_last
from DiffuGTSLib.synthesis.vqgan_critics import PatchDiscriminator, PerceptualNet, VqganCritics
from DiffuGTSLib.training.autoencoder import flipped, gradient_loss, interesting_crop
from DiffuGTSLib.training.data import TrainingScan, random_crop
from DiffuGTSLib.training.reconstruction import fidelity
from DiffuGTSLib.training.trainer import Step

BETAS = (0.5, 0.9)
"""Adam's, for both sides of the game."""


@dataclass(frozen=True)
class VqganLosses:
    """Weights of the terms; the defaults are DiffTumor's.

    Attributes:
        l1: Of the absolute error.
        gradient: Of the absolute error of the differences between neighbors. Not DiffTumor's: it stands in where there
            is no perceptual network.
        perceptual: Of LPIPS on one random slice along each axis.
        adversarial: Of what each discriminator says.
        features: Of the distance between the discriminators' features of original and reconstruction, summed over their
            layers.
        adversarial_from: Batch, from 0, with which the discriminators begin; before it they add exactly nothing.
    """

    l1: float = 4.0
    gradient: float = 0.0
    perceptual: float = 4.0
    adversarial: float = 1.0
    features: float = 4.0
    adversarial_from: int = 10000


class VqganRecipe:
    """Windows → codes → windows, and critics who tell them apart.

    Args:
        vqgan: The network to train.
        critics: Their discriminators are trained against it.
        perceptual: LPIPS with its weights; None leaves the term out.
        scans: Training scans; tumors may be seen here, the autoencoder only copies.
        validation: Scans that the reconstruction is measured on.
        windows: (side in voxels, how many a batch); one pair is drawn each time.
        losses: Weights of the terms.

    Attributes:
        trainable: VQGAN, discriminators, and how many batches they saw, so that a resumed run knows.

    Raises:
        InputError: Nothing to train on, or nothing to validate on.
    """

    def __init__(
        self,
        vqgan: Vqgan3D,
        critics: VqganCritics,
        perceptual: PerceptualNet | None,
        scans: Sequence[TrainingScan],
        validation: Sequence[TrainingScan],
        windows: Sequence[tuple[int, int]],
        losses: VqganLosses,
    ) -> None:
        if not scans or not validation:
            raise InputError(
                f"Expected scans to train the VQGAN on and to validate it on, got {len(scans)} and {len(validation)}.",
                hint="add cases of modality CT to the protocol's splits 'train' and 'validation'.",
            )
        self._flat, self._deep = critics.image_discriminator, critics.video_discriminator
        self._discriminators = nn.ModuleList([self._flat, self._deep])
        self.trainable = nn.ModuleDict({"vqgan": vqgan, "discriminators": self._discriminators})
        self.trainable.register_buffer("batches", torch.zeros((), dtype=torch.long))
        self._vqgan, self._perceptual = vqgan, perceptual
        self._scans, self._validation = scans, validation
        self._windows, self._weights = windows, losses
        self._for_discriminators: list[tuple[Tensor, Tensor]] = []
        volumes = np.sqrt([float(scan.scan.image.size) for scan in scans])
        self._chances = volumes / volumes.sum()

    @property
    def adversarial(self) -> bool:
        """Whether the discriminators have begun."""
        return int(self.trainable.get_buffer("batches")) >= self._weights.adversarial_from

    def steps(self) -> tuple[Step, ...]:
        """Return the VQGAN's step, then the discriminators'."""
        return (
            Step(self._vqgan, self.losses, BETAS),
            Step(self._discriminators, self.discriminator_losses, BETAS),
        )

    def losses(self, rng: np.random.Generator) -> dict[str, Tensor]:
        """Reconstruct one batch of random windows; the codebook learns from it."""
        image = self._batch(rng)
        found = reconstruct(self._vqgan, image, torch.Generator().manual_seed(int(rng.integers(2**62))))
        weights, zero = self._weights, torch.zeros((), device=image.device)
        terms = {
            "l1": functional.l1_loss(found.image, image),
            "gradient": gradient_loss(found.image, image) if weights.gradient else zero,
            "commitment": found.commitment,
            "perceptual": zero if self._perceptual is None else perceived(self._perceptual, found.image, image, rng),
            "adversarial": zero,
            "features": zero,
        }
        if self.adversarial:
            self._discriminators.requires_grad_(False)
            terms["adversarial"], terms["features"] = self._opposed(found.image, image, rng)
            self._for_discriminators.append((image, found.image.detach()))
        total = sum((getattr(weights, name, 1.0) * value for name, value in terms.items()), zero)
        return {"total": total, **terms, "perplexity": found.perplexity.detach()}

    def discriminator_losses(self, rng: np.random.Generator) -> dict[str, Tensor]:
        """Return the hinge loss on the batch that the VQGAN was just trained on; nothing before they begin."""
        self.trainable.get_buffer("batches").add_(1)
        if not self._for_discriminators:
            return {}
        image, made = self._for_discriminators.pop(0)
        self._discriminators.requires_grad_(True)
        total = torch.zeros((), device=image.device)
        for critic, real, fake in self._pairs(image, made, rng):
            real_scores, fake_scores = critic(real)[0].float(), critic(fake)[0].float()
            total = total + (functional.relu(1 - real_scores).mean() + functional.relu(1 + fake_scores).mean()) / 2
        return {"total": total, "discriminators": total}

    def validate(self) -> dict[str, float]:
        """Return mean absolute error, PSNR in dB and SSIM on fixed windows of the validation scans, in [-1, 1]."""
        rng = np.random.default_rng(1)
        side = max(side for side, _ in self._windows)
        found = []
        for scan in self._validation:
            window = random_crop(scan.scan.image.shape, side, rng, overhang=0.0).cut(scan.scan.image)
            image = to_network(window[None], self._device)
            back = depth_last(reconstruct(self._vqgan, image, None).image.clamp(-1, 1))[0, 0].cpu().numpy()
            found.append(fidelity(back, 2 * window - 1, data_range=2.0))
        return {
            "l1": float(np.mean([one.l1 for one in found])),
            "psnr_db": float(np.mean([one.psnr_db for one in found])),
            "ssim": float(np.mean([one.ssim for one in found])),
        }

    @property
    def _device(self) -> torch.device:
        device: torch.device = next(self._vqgan.parameters()).device
        return device

    def _batch(self, rng: np.random.Generator) -> Tensor:
        side, count = self._windows[int(rng.integers(len(self._windows)))]
        windows = []
        for _ in range(count):
            scan = self._scans[rng.choice(len(self._scans), p=self._chances)]
            windows.append(flipped(vary_intensity(interesting_crop(scan, side, rng).cut(scan.scan.image), rng), rng))
        return to_network(np.stack(windows), self._device)

    def _opposed(self, made: Tensor, image: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Return how little the discriminators believe a reconstruction, and how far its features are from the original's."""
        disbelief = features = torch.zeros((), device=image.device)
        for critic, real, fake in self._pairs(image, made, rng):
            scores, made_features = critic(fake)
            with torch.no_grad():
                _, real_features = critic(real)
            disbelief = disbelief - scores.float().mean()
            for a, b in zip(made_features, real_features, strict=True):
                features = features + functional.l1_loss(a.float(), b.float())
        return disbelief, features

    def _pairs(
        self, image: Tensor, made: Tensor, rng: np.random.Generator
    ) -> list[tuple[PatchDiscriminator, Tensor, Tensor]]:
        """Return discriminator, original and reconstruction: a random slice for the one, the volume for the other."""
        index = int(rng.integers(image.shape[2]))
        return [(self._flat, image[:, :, index], made[:, :, index]), (self._deep, image, made)]


def to_network(windows: Float[np.ndarray, "b X Y Z"], device: torch.device) -> Float[Tensor, "b 1 Z X Y"]:
    """Return windows in [0, 1] as the latent painter's networks see them: in [-1, 1], depth first."""
    return depth_first(torch.from_numpy(2 * windows.astype(np.float32) - 1)[:, None]).contiguous().to(device)


def reconstruct(vqgan: Vqgan3D, image: Float[Tensor, "b 1 Z X Y"], generator: torch.Generator | None) -> Reconstruction:
    """Encode, quantize and decode as the VQGAN does, with the quantizer in float32 under whatever precision.

    In bfloat16 a moving average with a decay of 0.99 stands still, and the nearest code is often not the nearest.
    """
    latent = vqgan.encode(image)
    with torch.autocast(image.device.type, enabled=False):
        quantized = vqgan.codebook(latent.float(), generator)
    decoded = vqgan.decoder(vqgan.post_vq_conv(quantized.latent)).float()
    return Reconstruction(decoded, quantized.commitment, quantized.perplexity, quantized.indices)


def perceived(
    perceptual: PerceptualNet,
    made: Float[Tensor, "b 1 Z X Y"],
    image: Float[Tensor, "b 1 Z X Y"],
    rng: np.random.Generator,
) -> Float[Tensor, ""]:
    """Return LPIPS, summed over one random slice along each axis."""
    total = torch.zeros((), device=image.device)
    for axis in (2, 3, 4):
        index = int(rng.integers(image.shape[axis]))
        total = total + perceptual(made.select(axis, index), image.select(axis, index)).mean()
    return total


def load_perceptual(folder: Path) -> PerceptualNet:
    """Read LPIPS from a folder of converted critics.

    Raises:
        WeightsError: If the folder is not one, or damaged.
        InputError: If its critics have no perceptual network.
    """
    critics: VqganCritics = load_module(VqganCritics, folder)
    perceptual = critics.perceptual_model
    if perceptual is None:
        raise InputError(f"{folder} holds no perceptual network.", hint="convert a checkpoint that has one.")
    return perceptual
