"""The latent painter: real networks, small; what they are shown, what comes back, what is refused."""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from DiffuGTSLib.backbones.weights import write_checksums
from DiffuGTSLib.errors import InputError, WeightsError
from DiffuGTSLib.synthesis.latent_diffusion import CosineDiffusion
from DiffuGTSLib.synthesis.latent_painter import (
    PAINTER_FILE,
    LatentPainter,
    PainterView,
    condition,
    load_painter,
    repaint,
    save_painter,
)
from DiffuGTSLib.synthesis.latent_unet import LatentUNet3D
from DiffuGTSLib.synthesis.organs import OrganSpec
from DiffuGTSLib.synthesis.painter import Painter, Site, TumorRequest, synthesize
from DiffuGTSLib.synthesis.painters import find_painter
from DiffuGTSLib.synthesis.vqgan import Vqgan3D
from DiffuGTSLib.volumes.volume import Geometry, Volume

SMALL = PainterView(side=32)
LATER = PainterView(side=32, timesteps=20, ddim_steps=4)
ON_MR = PainterView(modality="MR", window=(0.5, 99.5), side=32)


def networks() -> tuple[Vqgan3D, LatentUNet3D]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vqgan: Vqgan3D = Vqgan3D(4, embedding_dim=2, n_codes=64, groups=4)
        vqgan.codebook.embeddings.normal_()
        unet: LatentUNet3D = LatentUNet3D(8, channels=5, out_channels=2, dim_mults=(1, 2))
    return vqgan.eval().requires_grad_(False), unet.eval().requires_grad_(False)


class Copyist(nn.Module):
    """A VQGAN that forgets nothing: its latent is the image, and so is what it decodes."""

    downsample = (1, 1, 1)
    device = torch.device("cpu")

    def encode(self, image: Tensor) -> Tensor:
        """Return the image."""
        return image

    decode = normalize = denormalize = encode


class KnowsTheImage(nn.Module):
    """A denoiser that sees a known image in any noise: around the tumor what it is told, in the tumor 0.5."""

    side_multiple = 8

    def __init__(self, diffusion: CosineDiffusion) -> None:
        super().__init__()
        self.diffusion = diffusion

    def forward(self, latent: Tensor, t: Tensor, known: Tensor) -> Tensor:
        """Return the noise."""
        clean = torch.where(known[:, 1:] > 0, 0.5, known[:, :1])
        power = self.diffusion.tables["alphas_cumprod"][t].view(-1, 1, 1, 1, 1)
        return (latent - power.sqrt() * clean) / (1 - power).sqrt()


@pytest.fixture
def an_honest_painter(an_unchecked_library: None) -> LatentPainter:
    """Copies what it is shown and paints 0.5 (143.75 HU) into tumors: whatever else changes is the painter's fault."""
    painter: Any = LatentPainter
    honest: LatentPainter = painter(Copyist(), KnowsTheImage(CosineDiffusion(4)), SMALL)
    return honest


@pytest.fixture(scope="module")
def a_painter() -> LatentPainter:
    """Untrained, in cubes of 32 mm."""
    return LatentPainter(*networks(), SMALL)


def a_site(shape: tuple[int, int, int] = (40, 36, 34), **changes: Any) -> Site:
    """A liver of 60 HU with grain, a ramp to the right, and a tumor of 6 mm in its middle."""
    spacing_mm = changes.pop("spacing_mm", (1.0, 1.0, 1.0))
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    way_mm = (grid - np.array(shape) / 2) * spacing_mm
    share = np.clip(6.5 - np.sqrt((way_mm**2).sum(axis=-1)), 0, 1)
    image = 60 + 0.5 * way_mm[..., 0] + np.random.default_rng(0).normal(0, 5, shape)
    parts: dict[str, Any] = {
        "image": image.astype(np.float32), "share": share.astype(np.float32), "organ": np.ones(shape, dtype=bool),
        "spacing_mm": spacing_mm, "modality": "CT", "spec": OrganSpec("liver"), "size": "small",
    }  # fmt: skip
    return Site(**{**parts, **changes})


def paint(painter: LatentPainter, site: Site, seed: int = 0) -> NDArray[np.float32]:
    return painter.paint(site, np.random.default_rng(seed))


def test_it_is_a_painter(a_painter: LatentPainter) -> None:
    assert isinstance(a_painter, Painter)
    assert (a_painter.name, a_painter.context_mm, a_painter.whole_box) == ("latent", 32.0, True)


def test_a_box_comes_back_in_its_shape_and_repeats_by_seed(a_painter: LatentPainter) -> None:
    site = a_site()
    painted = paint(a_painter, site)
    assert painted.shape == site.image.shape and painted.dtype == np.float32 and np.isfinite(painted).all()
    assert np.array_equal(painted, paint(a_painter, site))
    assert not np.array_equal(painted, paint(a_painter, site, seed=1))


def test_later_tumors_walk_by_ddim() -> None:
    painter = LatentPainter(*networks(), LATER)
    assert np.array_equal(paint(painter, a_site()), paint(painter, a_site()))


def test_what_is_copied_comes_back_in_place_and_the_tumor_where_it_was_asked_for(
    an_honest_painter: LatentPainter,
) -> None:
    site = a_site()
    painted = paint(an_honest_painter, site)
    assert np.abs(painted[site.share == 0] - site.image[site.share == 0]).max() < 1e-2, "axes, units and grid agree"
    assert np.allclose(painted[site.share > 0.9], 143.75, atol=1e-2)


@pytest.mark.parametrize("spacing_mm", [(0.7, 0.7, 2.5), (1.5, 1.0, 0.8)])
def test_other_spacings_are_led_to_1_mm_and_back(
    an_honest_painter: LatentPainter, spacing_mm: tuple[float, float, float]
) -> None:
    site = a_site((50, 46, 24), spacing_mm=spacing_mm)
    smooth = Site(
        np.broadcast_to(60 + 0.5 * np.arange(50, dtype=np.float32)[:, None, None], (50, 46, 24)).copy(),
        site.share, site.organ, spacing_mm, "CT", site.spec, "small",
    )  # fmt: skip
    painted = paint(an_honest_painter, smooth)
    core, far = site.share == 1, np.abs(np.arange(50) - 25) * spacing_mm[0] > 9
    assert painted[core].mean() == pytest.approx(143.75, abs=8)
    inner = painted[far][:, 10:-10, 6:-6] - smooth.image[far][:, 10:-10, 6:-6]
    assert np.abs(inner).max() < 1.0


def test_bone_and_air_stay_as_they_are_outside_the_tumor(an_honest_painter: LatentPainter) -> None:
    site = a_site()
    site.image[8:12, 8:12, 8:12] = 900
    site.image[28:30, 28:30, 28:30] = -900
    painted = paint(an_honest_painter, site)
    assert np.array_equal(painted[8:12, 8:12, 8:12], site.image[8:12, 8:12, 8:12])
    assert np.array_equal(painted[28:30, 28:30, 28:30], site.image[28:30, 28:30, 28:30])


def test_what_lies_beyond_the_cube_is_left_alone(an_honest_painter: LatentPainter) -> None:
    site = a_site((60, 40, 40))
    painted = paint(an_honest_painter, site)
    assert np.array_equal(painted[:13], site.image[:13]) and np.array_equal(painted[47:], site.image[47:])


def test_a_tumor_larger_than_the_cube_is_seen_whole(an_honest_painter: LatentPainter) -> None:
    share = np.zeros((60, 50, 50), dtype=np.float32)
    share[10:50, 20:30, 20:30] = 1
    site = a_site((60, 50, 50), share=share)
    painted = paint(an_honest_painter, site)
    assert np.allclose(painted[share > 0], 143.75, atol=1e-2)


def test_a_tumor_at_the_border_of_the_scan_gets_a_cube_too(an_honest_painter: LatentPainter) -> None:
    share = np.zeros((40, 20, 9), dtype=np.float32)
    share[:6, :6, :6] = 1
    painted = paint(an_honest_painter, a_site((40, 20, 9), share=share))
    assert np.allclose(painted[share > 0], 143.75, atol=1e-2)


def test_without_a_tumor_nothing_is_blanked(an_honest_painter: LatentPainter) -> None:
    site = a_site(share=np.zeros((40, 36, 34), dtype=np.float32))
    assert np.allclose(paint(an_honest_painter, site), site.image, atol=1e-2)


def test_the_network_is_told_everything_but_the_tumor() -> None:
    vqgan, _ = networks()
    image, mask = torch.rand(1, 1, 16, 16, 16) * 2 - 1, torch.zeros(1, 1, 16, 16, 16)
    mask[..., 4:12, 4:12, 4:12] = 1
    known = condition(vqgan, image, mask)
    assert known.shape == (1, 3, 4, 4, 4)
    assert known[0, 2].unique().tolist() == [-1, 1] and float((known[0, 2] > 0).sum()) == 8
    changed = torch.where(mask > 0, torch.ones(()), image)
    assert torch.equal(condition(vqgan, changed, mask), known), "what is in the tumor is not seen"
    assert torch.equal(known[:, :2], vqgan.normalize(vqgan.encode(image * (1 - mask))))


def test_several_sites_are_painted_at_once_as_one_by_one() -> None:
    vqgan, unet = networks()
    diffusion, drawn = CosineDiffusion(4), torch.Generator().manual_seed(0)
    image = torch.rand(2, 1, 16, 16, 16, generator=drawn) * 2 - 1
    mask = (torch.rand(2, 1, 16, 16, 16, generator=drawn) > 0.8).float()
    seeds = [torch.Generator().manual_seed(n) for n in range(2)]
    together = repaint(vqgan, unet, diffusion, image, mask, seeds)
    seeds = [torch.Generator().manual_seed(n) for n in range(2)]
    alone = [repaint(vqgan, unet, diffusion, image[n : n + 1], mask[n : n + 1], [seeds[n]]) for n in range(2)]
    assert together.shape == image.shape
    assert torch.allclose(together, torch.cat(alone), atol=1e-3)


def test_another_modality_is_refused_in_words(a_painter: LatentPainter) -> None:
    with pytest.raises(InputError, match="trained on CT; the scan is MR") as caught:
        paint(a_painter, a_site(modality="MR"))
    assert caught.value.code == "modality" and "handcrafted" in caught.value.hint


def test_an_organ_that_the_window_does_not_show_is_refused(a_painter: LatentPainter) -> None:
    site = a_site(spec=OrganSpec("lung"))
    with pytest.raises(InputError, match="sees -175 to 250 HU; the lung around the tumor lies at -8") as caught:
        paint(a_painter, a_site(spec=OrganSpec("lung"), image=site.image - 900))
    assert caught.value.code == "window"


def test_a_painter_of_mr_reads_the_intensities_of_its_cube() -> None:
    painter = LatentPainter(*networks(), ON_MR)
    site = a_site(modality="MR")
    first = paint(painter, site)
    brighter = paint(painter, a_site(modality="MR", image=site.image * 10))
    inside = site.share > 0.5
    assert np.allclose(first[inside] * 10, brighter[inside], rtol=1e-2, atol=5)


def test_a_whole_scan_is_painted_and_unchanged_outside_the_blend(a_painter: LatentPainter) -> None:
    shape = (48, 40, 40)
    image = np.random.default_rng(1).normal(60, 8, shape).astype(np.float32)
    organ = np.zeros(shape, dtype=np.uint8)
    organ[4:-4, 4:-4, 4:-4] = 1
    geometry = Geometry(shape, np.diag([-1.0, 1.0, 1.0, 1.0]))
    scan, mask = Volume(image, geometry), Volume(organ, geometry)
    painted = synthesize(
        scan, mask, OrganSpec("liver"), TumorRequest(radius_mm=6), a_painter, modality="CT",
        rng=np.random.default_rng(0),
    )  # fmt: skip
    assert len(painted.tumors) == 1 and painted.tumor.array.sum() > 300
    changed = painted.image.array != scan.array
    near = np.argwhere(painted.tumor.array > 0)
    assert changed.any() and (np.argwhere(changed) >= near.min(0) - 8).all()
    assert (np.argwhere(changed) <= near.max(0) + 8).all()


@pytest.fixture
def a_folder(tmp_path: Path) -> Path:
    """A painter's folder."""
    save_painter(tmp_path / "painter", *networks(), SMALL, {"made": "here"})
    return tmp_path / "painter"


def test_it_comes_back_from_its_folder_and_paints_the_same(a_folder: Path, a_painter: LatentPainter) -> None:
    painter = load_painter(a_folder)
    assert painter.view == SMALL
    assert set(painter.weights) == {f"{part}/diffusion_pytorch_model.safetensors" for part in ("vqgan", "denoiser")}
    assert json.loads((a_folder / PAINTER_FILE).read_text())["source"] == {"made": "here"}
    assert np.array_equal(paint(painter, a_site()), paint(a_painter, a_site()))


def test_it_is_found_by_its_folder(a_folder: Path) -> None:
    painter, weights = find_painter(str(a_folder), "cpu")
    assert isinstance(painter, LatentPainter) and len(weights) == 2


def edit(folder: Path, **values: Any) -> None:
    path = folder / PAINTER_FILE
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"format": 2}, "expected format 1, got 2"),
        ({"brush": "wide"}, "names what this version does not know: brush"),
        ({"timesteps": 0}, "describes no painter: timesteps"),
        ({"timesteps": 200, "ddim_steps": 60}, "describes no painter: steps"),
        ({"window": 7}, "describes no painter"),
        ({"window": [250, -175]}, "describes no painter: canonical.ct_knots_hu"),
        ({"side": 5}, "describes no painter: canonical.minimum_side"),
        ({"modality": "PET"}, "describes no painter: modality"),
        ({"side": "wide"}, "describes no painter"),
    ],
)
def test_a_folder_that_describes_no_painter_is_refused(
    a_folder: Path, values: dict[str, Any], said: str, an_unchecked_library: None
) -> None:
    edit(a_folder, **values)
    with pytest.raises(WeightsError, match=said):
        load_painter(a_folder)


def test_parts_that_do_not_fit_each_other_are_refused(a_folder: Path) -> None:
    vqgan, _ = networks()
    save_painter(a_folder, vqgan, LatentUNet3D(8, channels=7, out_channels=3, dim_mults=(1, 2)), SMALL)
    with pytest.raises(WeightsError, match="takes 7 channels; latents of 2 need 5"):
        load_painter(a_folder)


def test_an_altered_weight_file_is_refused(a_folder: Path) -> None:
    weights = next((a_folder / "vqgan").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    with pytest.raises(WeightsError, match="is not the file that checksums.json names"):
        load_painter(a_folder)
    write_checksums(a_folder)
    load_painter(a_folder)


@pytest.mark.slow
def test_one_tumor_at_full_size_on_this_processor() -> None:
    vqgan, unet = Vqgan3D(), LatentUNet3D()
    vqgan.codebook.embeddings.normal_()
    painter = LatentPainter(vqgan.eval().requires_grad_(False), unet.eval().requires_grad_(False), PainterView())
    site = a_site((96, 96, 96))
    began, began_processor = time.perf_counter(), time.process_time()
    painted = paint(painter, site)
    spent = time.process_time() - began_processor
    print(
        f"\n96³, T = 4, {torch.get_num_threads()} threads: {time.perf_counter() - began:.1f} s, processor {spent:.1f} s"
    )
    assert np.isfinite(painted).all()
