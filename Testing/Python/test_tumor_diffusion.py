"""The denoiser's recipe on phantoms: windows with tumors, the loss, overfitting one patch, averages, and the published file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from mini_data import training_scan, write_case
from phantoms import ct_phantom
from scipy import ndimage
from torch import Tensor

from DiffuGTSLib.errors import Cancelled, InputError
from DiffuGTSLib.output.findings import ball_radius_mm
from DiffuGTSLib.synthesis.latent_diffusion import TABLES, CosineDiffusion
from DiffuGTSLib.synthesis.latent_painter import condition
from DiffuGTSLib.synthesis.latent_unet import LatentUNet3D
from DiffuGTSLib.synthesis.vqgan import Vqgan3D, depth_first
from DiffuGTSLib.synthesis.vqgan_critics import VqganCritics, published_tensors
from DiffuGTSLib.training.anomalies import Sample
from DiffuGTSLib.training.data import TrainingScan
from DiffuGTSLib.training.trainer import TrainingPlan, train
from DiffuGTSLib.training.tumor_diffusion import (
    TumorDiffusionRecipe,
    TumorSampler,
    of_stage,
    published_state,
    validation_windows,
    write_published,
)
from DiffuGTSLib.training.vqgan import to_network


@pytest.fixture(scope="module")
def a_scan(tmp_path_factory: pytest.TempPathFactory) -> TrainingScan:
    """A CT phantom with an outlined tumor on voxels of 4 mm."""
    data = tmp_path_factory.mktemp("data")
    return training_scan(data, write_case(data, "ct", ct_phantom(noise_hu=10), "train"))


@pytest.fixture(scope="module")
def a_healthy_scan(tmp_path_factory: pytest.TempPathFactory) -> TrainingScan:
    """The same without the outline."""
    data = tmp_path_factory.mktemp("data")
    return training_scan(data, write_case(data, "ct", ct_phantom(noise_hu=10), "train", tumor=""))


@pytest.fixture(scope="module")
def a_vqgan() -> Vqgan3D:
    """Untrained, with a codebook whose numbers run from -1 to 1, so that normalizing changes nothing."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        vqgan = Vqgan3D(n_hiddens=8, downsample=(2, 2, 2), embedding_dim=4, n_codes=16, groups=4)
    vqgan.codebook.embeddings.copy_(torch.linspace(-1, 1, 64).view(16, 4))
    vqgan.codebook.N.fill_(1)
    vqgan.eval().requires_grad_(False)
    return vqgan


def a_denoiser(seed: int = 0) -> LatentUNet3D:
    """Build a seeded UNet of two levels."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        denoiser: LatentUNet3D = LatentUNet3D(dim=8, channels=9, out_channels=4, dim_mults=(1, 2))
    return denoiser


class OneWindow(TumorSampler):
    """Draws the same window again and again."""

    def __init__(self, scans: list[TrainingScan]) -> None:
        super().__init__(scans, 16, 0.0)
        self.sample = super().draw(np.random.default_rng(3))

    def draw(self, rng: np.random.Generator) -> Sample:
        """Return it."""
        return self.sample


def test_every_window_shows_a_tumor_real_or_handcrafted(a_scan: TrainingScan, a_healthy_scan: TrainingScan) -> None:
    for scan, handcrafted in ((a_scan, 0.0), (a_healthy_scan, 1.0)):
        sampler, rng = TumorSampler([scan], 16, handcrafted), np.random.default_rng(0)
        samples = [sampler.draw(rng) for _ in range(5)]
        assert all(sample.abnormal and sample.image.shape == (16, 16, 16) for sample in samples)


def test_handcrafted_windows_are_drawn_as_often_as_asked(a_scan: TrainingScan) -> None:
    """The phantom's real tumor is dark; of windows without it every tumor is handcrafted."""
    sampler, rng = TumorSampler([a_scan], 16, 0.0), np.random.default_rng(0)
    real = [sampler.draw(rng) for _ in range(20)]
    assert {sample.organ for sample in real} == {"liver"}
    with pytest.raises(InputError, match="None of 0 scans has an outlined tumor") as caught:
        TumorSampler([], 16, 0.0)
    assert "handcrafted=1" in caught.value.hint


def radii_mm(sample: Sample) -> list[float]:
    """Return the radii of the balls as large as a window's tumors."""
    parts, _ = ndimage.label(sample.mask)
    return [
        ball_radius_mm(float(voxels * np.prod(sample.spacing_mm)) / 1000) for voxels in np.bincount(parts.ravel())[1:]
    ]


@pytest.mark.parametrize("handcrafted", [0.0, 1.0])
def test_a_stage_keeps_to_its_tumors_outlined_and_painted_alike(a_scan: TrainingScan, handcrafted: float) -> None:
    """Beside the phantom's tumor, of 11 mm in radius, lies one of 8 mm. An early painter learns tumors up to 10 mm."""
    small = np.zeros_like(a_scan.tumor)
    inside = np.argwhere(a_scan.organs["liver"] & a_scan.healthy)
    small[tuple(np.argwhere(np.ones((4, 3, 3))).T + inside[len(inside) // 2][:, None])] = True
    scan = replace(a_scan, tumor=a_scan.tumor | small)
    assert np.array_equal(of_stage(scan, "all").tumor, scan.tumor)
    assert np.array_equal(of_stage(scan, "early").tumor, small)
    assert np.array_equal(of_stage(scan, "late").tumor, a_scan.tumor)

    def largest(stage: str) -> list[float]:
        sampler, rng = TumorSampler([scan], 24, handcrafted, stage), np.random.default_rng(0)
        return [max(radii_mm(sampler.draw(rng))) for _ in range(30)]

    assert max(largest("early")) <= 10.0
    assert max(largest("all")) > 10.0 and np.median(largest("late")) > 10.0


def test_painted_tumors_are_as_large_as_difftumors_of_their_stage(a_healthy_scan: TrainingScan) -> None:
    """Nominal radii of 4 to 8 mm (tiny to small), and of 16 to 32 mm (medium to large), cut at the organ's border."""
    found = {}
    for stage in ("early", "late"):
        sampler, rng = TumorSampler([a_healthy_scan], 24, 1.0, stage), np.random.default_rng(0)
        found[stage] = [max(radii_mm(sampler.draw(rng))) for _ in range(20)]
    assert min(found["early"]) < 6.0 and max(found["early"]) <= 10.0
    assert min(found["late"]) > 10.0 and max(found["late"]) > 20.0


def test_validation_windows_keep_to_the_stage(a_scan: TrainingScan) -> None:
    windows = validation_windows([a_scan], 16, 1.0, stage="early")
    assert max(radius for window in windows for radius in radii_mm(window)) <= 10.0
    with pytest.raises(InputError, match="None of 1 scans has an outlined tumor of the stage 'early'"):
        validation_windows([a_scan], 16, 0.5, stage="early")


def test_an_organ_that_the_window_does_not_show_is_not_painted_into(a_scan: TrainingScan) -> None:
    """Of an organ as black as the window gets and the liver, the liver is left."""
    outside = np.zeros_like(a_scan.tumor)
    outside[:4] = True
    seen = replace(a_scan, organs={**a_scan.organs, "lung": outside})
    assert float(np.median(seen.scan.image[outside])) == 0.0
    rng = np.random.default_rng(0)
    sampler = TumorSampler([seen], 16, 1.0)
    assert {sampler.draw(rng).organ for _ in range(5)} == {"liver"}


def test_validation_windows_are_fixed(a_scan: TrainingScan) -> None:
    first, second = (validation_windows([a_scan], 16, 0.5) for _ in range(2))
    assert all(np.array_equal(a.image, b.image) for a, b in zip(first, second, strict=True))


def test_the_loss_is_the_l1_distance_to_the_noise(a_scan: TrainingScan, a_vqgan: Vqgan3D) -> None:
    """Worked again by hand from the same draws: timestep, then noise."""
    sampler, denoiser = OneWindow([a_scan]), a_denoiser()
    recipe = TumorDiffusionRecipe(denoiser, a_vqgan, 4, sampler, [sampler.sample], 1)
    loss = recipe.losses(np.random.default_rng(5))["total"]
    rng = np.random.default_rng(5)
    t = torch.from_numpy(rng.integers(4, size=1))
    image = to_network(sampler.sample.image[None], torch.device("cpu"))
    mask = depth_first(torch.from_numpy(sampler.sample.mask.astype(np.float32))[None, None])
    clean = a_vqgan.normalize(a_vqgan.encode(image))
    noise = torch.from_numpy(rng.standard_normal(tuple(clean.shape), dtype=np.float32))
    noisy = CosineDiffusion(4).add_noise(clean, t, noise)
    expected = (denoiser(noisy, t, condition(a_vqgan, image, mask)) - noise).abs().mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def learned(
    scan: TrainingScan, vqgan: Vqgan3D, folder: Path, timesteps: int, iterations: int
) -> list[dict[str, float]]:
    """Train on one window alone, and return the figures before and after."""
    sampler = OneWindow([scan])
    recipe = TumorDiffusionRecipe(a_denoiser(), vqgan, timesteps, sampler, [sampler.sample], 1)
    plan = TrainingPlan(iterations, learning_rate=1e-2, warmup=5, weight_decay=0.0, every=100, checkpoint_every=1000)
    with torch.no_grad():
        before = recipe.validate()
    train(recipe, plan, folder)
    with torch.no_grad():
        return [before, recipe.validate()]


def test_the_first_steps_on_one_window_go_downhill(a_scan: TrainingScan, a_vqgan: Vqgan3D, tmp_path: Path) -> None:
    before, after = learned(a_scan, a_vqgan, tmp_path, 4, 20)
    assert list(before) == ["noise_t0", "noise_t1", "noise_t3"]
    assert sum(after.values()) < 0.95 * sum(before.values())


@pytest.mark.slow
@pytest.mark.parametrize("timesteps", [4, 200])
def test_one_window_is_learned_by_heart(a_scan: TrainingScan, a_vqgan: Vqgan3D, tmp_path: Path, timesteps: int) -> None:
    before, after = learned(a_scan, a_vqgan, tmp_path, timesteps, 500)
    assert sum(after.values()) < 0.5 * sum(before.values())


def test_the_average_is_a_copy_at_first_and_then_follows_the_formula(
    a_scan: TrainingScan, a_vqgan: Vqgan3D, tmp_path: Path
) -> None:
    """As DiffTumor's, sooner: every 2nd iteration, from the 4th on 0.995 of the average and 0.005 of the weights."""
    sampler = OneWindow([a_scan])
    name = "init_conv.weight"

    def trained(iterations: int) -> dict[str, dict[str, Tensor]]:
        recipe = TumorDiffusionRecipe(a_denoiser(), a_vqgan, 4, sampler, [sampler.sample], 1)
        plan = TrainingPlan(
            10000, warmup=1, weight_decay=0.0, average=0.995, average_every=2, average_after=4, every=1,
            checkpoint_every=1,
        )  # fmt: skip
        folder = tmp_path / str(iterations)

        def stop(done: int, total: int, row: dict[str, float]) -> None:
            if done == iterations:
                raise Cancelled("enough")

        with pytest.raises(Cancelled):
            train(recipe, plan, folder, stop)
        return dict(torch.load(folder / "state.pt", weights_only=True))

    early, late = trained(3), trained(5)
    assert torch.equal(early["averaged"][name], early["model"][name])
    expected = 0.995 * early["averaged"][name] + 0.005 * late["model"][name]
    assert torch.allclose(late["averaged"][name], expected, atol=1e-7)


def test_the_published_file_comes_back(a_vqgan: Vqgan3D, tmp_path: Path) -> None:
    weights, averaged = a_denoiser(0), a_denoiser(1)
    tensors = published_tensors(a_vqgan, VqganCritics(channels=4, perceptual=False))
    path = tmp_path / "painter.pt"
    write_published(path, published_state(7, weights.state_dict(), averaged.state_dict(), tensors, 200))
    back = torch.load(path, weights_only=True)
    assert list(back) == ["step", "model", "ema", "scaler"] and back["step"] == 7 and back["scaler"] == {}
    for key, denoiser in (("model", weights), ("ema", averaged)):
        for name, value in denoiser.state_dict().items():
            assert torch.equal(back[key][f"denoise_fn.{name}"], value), name
        for name, value in tensors.items():
            assert torch.equal(back[key][f"vqgan.{name}"], value), name
        assert len(back[key]) == len(TABLES) + len(tensors) + len(denoiser.state_dict())
    assert len(back["ema"]["betas"]) == 200
