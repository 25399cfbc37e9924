"""Paints a tumor by diffusion in the latent of a VQGAN: everything but the tumor is shown to the network, it fills the hole.

    site ──► 1 mm, 96³, window to [-1, 1] ──► tumor blanked, encoded ──► diffusion ──► decoded ──► the site's own grid

Follows the approach of DiffTumor (Chen et al., CVPR 2024): its diffusion model, and how it paints while a segmenter
trains. Written from our own description. A painter's folder:

    painter.json        what the networks were shown, how they are sampled, where they come from
    checksums.json      SHA-256 of every weight file
    vqgan/  denoiser/   config.json + diffusion_pytorch_model.safetensors
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from DiffuGTSLib.backbones.weights import load_module, read_model_json, save_module, verify_checksums, write_checksums
from DiffuGTSLib.config import CanonicalConfig
from DiffuGTSLib.errors import InputError, WeightsError
from DiffuGTSLib.storage import write_json
from DiffuGTSLib.synthesis.handcrafted import reference_tissue
from DiffuGTSLib.synthesis.latent_diffusion import CosineDiffusion, Generators
from DiffuGTSLib.synthesis.latent_unet import LatentUNet3D
from DiffuGTSLib.synthesis.painter import Site
from DiffuGTSLib.synthesis.vqgan import Vqgan3D, depth_first, depth_last
from DiffuGTSLib.volumes.boxes import Box, bounding_box
from DiffuGTSLib.volumes.canonical import to_canonical
from DiffuGTSLib.volumes.volume import Geometry, Volume

PAINTER_FILE = "painter.json"
FORMAT = 1

_MARGIN_MM = 8.0
"""Tissue around a tumor that the network sees at least, where it is too large for its usual cube."""


@dataclass(frozen=True)
class PainterView:
    """What the networks of a painter were shown, and how they are sampled. The defaults are DiffTumor's early painter.

    Attributes:
        modality: "CT" or "MR".
        window: What becomes -1 and 1: HU for CT, percentiles of the cube's intensities for MR.
        spacing_mm: Voxel size, isotropic.
        side: Voxels along a cube.
        timesteps: Of the diffusion.
        ddim_steps: 0 walks every timestep and clips the estimates (DiffTumor with 4); otherwise so many DDIM steps
            without clipping (DiffTumor with 200: 50).
    """

    modality: str = "CT"
    window: tuple[float, float] = (-175.0, 250.0)
    spacing_mm: float = 1.0
    side: int = 96
    timesteps: int = 4
    ddim_steps: int = 0

    def canonical(self, side_multiple: int) -> CanonicalConfig:
        """Return the grid and the intensities of the cube, 0 to 1."""
        grid: dict[str, Any] = {
            "spacing_mm": self.spacing_mm,
            "minimum_side": self.side,
            "side_multiple": side_multiple,
        }
        if self.modality == "MR":
            return CanonicalConfig(**grid, mr_percentiles=self.window, mr_clip=True)
        return CanonicalConfig(**grid, ct_knots_hu=self.window, ct_knots_unit=(0.0, 1.0))


def condition(
    vqgan: Vqgan3D, image: Float[Tensor, "b 1 Z X Y"], mask: Float[Tensor, "b 1 Z X Y"]
) -> Float[Tensor, "b d z x y"]:
    """Return what the denoiser is told: the normalized latent of the image without its tumor, and the tumor's mask.

    The tumor is blanked in the image, as DiffTumor's code does (its paper blanks the latent): its voxels become 0, the
    middle of the window. The mask is reduced to the latent's grid by its nearest voxels and runs from -1 to 1.

    Args:
        vqgan: Encodes.
        image: In [-1, 1], depth first.
        mask: 1 = tumor.
    """
    latent = vqgan.normalize(vqgan.encode(image * (1 - mask)))
    return torch.cat((latent, functional.interpolate(2 * mask - 1, size=latent.shape[2:], mode="nearest")), dim=1)


@torch.no_grad()
def repaint(
    vqgan: Vqgan3D,
    denoiser: LatentUNet3D,
    diffusion: CosineDiffusion,
    image: Float[Tensor, "b 1 Z X Y"],
    mask: Float[Tensor, "b 1 Z X Y"],
    generator: Generators,
    ddim_steps: int = 0,
) -> Float[Tensor, "b 1 Z X Y"]:
    """Return the image, decoded as a whole, with a tumor where the mask says so; nothing is blended.

    Args:
        vqgan: Encodes and decodes.
        denoiser: Predicts noise.
        diffusion: Its schedule.
        image: In [-1, 1], depth first.
        mask: 1 = tumor.
        generator: On the CPU; one, or one a sample.
        ddim_steps: See `PainterView`.
    """
    known = condition(vqgan, image, mask)
    shape = (known.shape[0], known.shape[1] - 1, *known.shape[2:])

    def predict_noise(latent: Tensor, t: Tensor) -> Tensor:
        noise: Tensor = denoiser(latent, t, known)
        return noise

    if ddim_steps:
        latent = diffusion.ddim_sample(predict_noise, shape, generator, steps=ddim_steps, device=image.device)
    else:
        latent = diffusion.ddpm_sample(predict_noise, shape, generator, device=image.device)
    return vqgan.decode(vqgan.denormalize(latent))


class LatentPainter:
    """A `Painter` with trained weights.

    Args:
        vqgan: Trained, in evaluation mode.
        denoiser: Trained on its latents.
        view: What both were shown.
        weights: File → SHA-256, for records.
    """

    name = "latent"
    whole_box = True

    def __init__(
        self, vqgan: Vqgan3D, denoiser: LatentUNet3D, view: PainterView, weights: Mapping[str, str] | None = None
    ) -> None:
        self.view = view
        self.weights = dict(weights or {})
        self.context_mm = view.side * view.spacing_mm
        self._vqgan, self._denoiser = vqgan, denoiser
        self._diffusion = CosineDiffusion(view.timesteps)
        self._canonical = view.canonical(max(vqgan.downsample) * denoiser.side_multiple)

    def paint(self, site: Site, rng: np.random.Generator) -> NDArray[np.float32]:
        """Return the box as the networks see it, with tumor where `site.share` is above 0.

        What the window does not show, such as bone and air, stays as it is outside the tumor.

        Raises:
            InputError: If the scan is of another modality, or the organ lies outside the window.
        """
        self._require_seen(site)
        part = self._cube(site)
        scan = Volume(site.image[part], _local_geometry(site.image[part].shape, site.spacing_mm))
        seen = to_canonical(scan, self._canonical, site.modality)
        share = seen.project(scan.with_array(site.share[part]))
        mask = (share > 0) & (share >= min(0.5, float(share.max())))
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        device = self._vqgan.device
        image, hole = (
            depth_first(torch.from_numpy(array.astype(np.float32))[None, None]).to(device)
            for array in (2 * seen.image - 1, mask)
        )
        painted = repaint(self._vqgan, self._denoiser, self._diffusion, image, hole, generator, self.view.ddim_steps)
        unit = (depth_last(painted)[0, 0].cpu().numpy() + 1) / 2
        native = seen.intensity.to_native(seen.restore(unit))
        low, high = seen.intensity.native[0], seen.intensity.native[-1]
        shown = (scan.array >= low) & (scan.array <= high)
        result = site.image.copy()
        result[part] = np.where(shown | (site.share[part] > 0), native, scan.array)
        return result

    def _require_seen(self, site: Site) -> None:
        if site.modality != self.view.modality:
            raise InputError(
                f"This painter was trained on {self.view.modality}; the scan is {site.modality}.",
                hint="choose the painter 'handcrafted', or one that was trained on such scans.",
                code="modality",
            )
        low, high = self.view.window
        around = float(np.median(site.image[reference_tissue(site)]))
        if site.modality == "CT" and not low <= around <= high:
            raise InputError(
                f"This painter sees {low:g} to {high:g} HU; the {site.spec.name} around the tumor lies at {around:.0f} HU.",
                hint="choose the painter 'handcrafted', or one that was trained with a window that shows the organ.",
                code="window",
            )

    def _cube(self, site: Site) -> Box:
        """Return the part of a site that the networks see: their cube around the tumor, more only if that is larger."""
        parts, tumor = [], bounding_box(site.share > 0)
        for side, count, spacing_mm in zip(tumor, site.image.shape, site.spacing_mm, strict=True):
            usual = int(self.context_mm / spacing_mm + 1e-6)
            own = side.stop - side.start
            needed = own + 2 * int(np.ceil(_MARGIN_MM / spacing_mm))
            length = min(count, max(usual, 1) if own <= usual else needed)
            start = min(max((side.start + side.stop - length) // 2, 0), count - length)
            parts.append(slice(start, start + length))
        x, y, z = parts
        return x, y, z


def save_painter(
    folder: Path, vqgan: Vqgan3D, denoiser: LatentUNet3D, view: PainterView, source: Mapping[str, Any] | None = None,
    dtype: torch.dtype = torch.float32,
) -> None:  # fmt: skip
    """Write a painter's folder.

    Args:
        folder: Made if absent.
        vqgan: Encodes and decodes.
        denoiser: Predicts noise.
        view: What both were shown.
        source: Where the weights come from, as plain JSON.
        dtype: Of the files; half precision is widened again on loading.

    Raises:
        StorageError: If a file cannot be written.
    """
    save_module(vqgan, folder / "vqgan", dtype)
    save_module(denoiser, folder / "denoiser", dtype)
    values = {"format": FORMAT, **dataclasses.asdict(view), "source": dict(source or {})}
    write_json(folder / PAINTER_FILE, values)
    write_checksums(folder)


def load_painter(folder: Path, device: torch.device | str = "cpu") -> LatentPainter:
    """Read a painter's folder: ours, or a published file that was converted.

    Raises:
        WeightsError: If a file is missing, altered or unreadable, or the parts do not fit each other.
    """
    values = read_model_json(folder / PAINTER_FILE)
    view = _read_view(values, folder / PAINTER_FILE)
    weights = verify_checksums(folder)
    vqgan, denoiser = load_module(Vqgan3D, folder / "vqgan"), load_module(LatentUNet3D, folder / "denoiser")
    latent_channels = vqgan.config["embedding_dim"]
    if (denoiser.in_channels, denoiser.config["out_channels"]) != (2 * latent_channels + 1, latent_channels):
        raise WeightsError(
            f"The denoiser of {folder} takes {denoiser.in_channels} channels; "
            f"latents of {latent_channels} need {2 * latent_channels + 1}.",
            hint="the folder mixes parts of two painters.",
        )
    return LatentPainter(vqgan.to(device), denoiser.to(device), view, weights)


def _read_view(values: dict[str, Any], path: Path) -> PainterView:
    if values.get("format") != FORMAT:
        raise WeightsError(
            f"{path}: expected format {FORMAT}, got {values.get('format')!r}.",
            hint="the painter was made with another version of DiffuGTS.",
        )
    known = {field.name: values[field.name] for field in dataclasses.fields(PainterView) if field.name in values}
    unknown = sorted(values.keys() - known.keys() - {"format", "source"})
    if unknown:
        raise WeightsError(
            f"{path} names what this version does not know: {', '.join(unknown)}.",
            hint="the painter was made with another version of DiffuGTS.",
        )
    try:
        if known.get("modality", "CT") not in ("CT", "MR"):
            raise ValueError(f"modality: expected CT or MR, got {known['modality']!r}")
        known["window"] = tuple(known.get("window", PainterView.window))
        view = PainterView(**known)
        view.canonical(side_multiple=4)
        diffusion = CosineDiffusion(view.timesteps)
        if view.ddim_steps:
            diffusion.ddim_timesteps(view.ddim_steps)
    except (TypeError, ValueError) as error:
        raise WeightsError(f"{path} describes no painter: {error}.") from error
    return view


def _local_geometry(shape: tuple[int, ...], spacing_mm: tuple[float, float, float]) -> Geometry:
    x, y, z = shape
    return Geometry((x, y, z), np.diag([*spacing_mm, 1.0]))
