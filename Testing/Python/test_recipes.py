"""The three recipes on networks of a few channels and phantoms: what they minimize, and what must not reach them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mini_data import GRID, HEAD, tiny_autoencoder, tiny_unet, training_scan, write_case, write_labels
from monai.apps.generation.maisi.networks.autoencoderkl_maisi import MaisiResBlock
from phantoms import ct_phantom, mr_phantom

from DiffuGTSLib.aova import AovaHead
from DiffuGTSLib.backbones.interfaces import Encoding
from DiffuGTSLib.backbones.maisi import MaisiAutoencoder, MaisiUNet
from DiffuGTSLib.errors import InputError
from DiffuGTSLib.text.encoder import build_encoder
from DiffuGTSLib.training.anomalies import AnomalySampler, Mixture, Question, Sample
from DiffuGTSLib.training.aova import HeadRecipe
from DiffuGTSLib.training.autoencoder import (
    AutoencoderRecipe,
    flipped,
    gradient_loss,
    latent_scaling_factor,
    start_linear,
)
from DiffuGTSLib.training.data import TrainingScan
from DiffuGTSLib.training.denoiser import DenoiserRecipe, LatentScan, cache_latents
from DiffuGTSLib.training.trainer import AheadRecipe, Recipe, TrainingPlan, train

SIDE = 32
CLASS_LABEL = {"CT": 1, "MR": 8}


@pytest.fixture(scope="module")
def some_scans(tmp_path_factory: pytest.TempPathFactory) -> list[TrainingScan]:
    """A CT, an MR and a label map."""
    data = tmp_path_factory.mktemp("scans")
    rows = [
        write_case(data, "ct", ct_phantom(GRID, noise_hu=10), "train"),
        write_case(data, "mr", mr_phantom(GRID, noise=10), "train"),
        write_labels(data, "labels", "train"),
    ]
    return [training_scan(data, row) for row in rows]


# Autoencoder


def test_the_gradient_loss_of_a_ramp() -> None:
    """A slope of 0.1 a voxel along x and none along y and z: 0.1 / 3."""
    ramp = (0.1 * torch.arange(4.0))[None, None, :, None, None].expand(1, 1, 4, 4, 4)
    assert float(gradient_loss(ramp, torch.zeros_like(ramp))) == pytest.approx(0.1 / 3)
    assert float(gradient_loss(ramp + 0.5, ramp)) == pytest.approx(0.0, abs=1e-7), "an offset has no edge"


@pytest.fixture
def an_autoencoder_recipe(some_scans: list[TrainingScan]) -> AutoencoderRecipe:
    return AutoencoderRecipe(tiny_autoencoder(), some_scans, some_scans[:2], SIDE, batch=1)


def test_the_autoencoder_s_total_is_the_weighted_sum(an_autoencoder_recipe: AutoencoderRecipe) -> None:
    terms = an_autoencoder_recipe.losses(np.random.default_rng(0))
    terms["total"].backward()
    total, pixel, gradient, kl = (float(terms[name].detach()) for name in ("total", "pixel", "gradient", "kl"))
    assert total == pytest.approx(3 * pixel + gradient + 1e-6 * kl)
    assert all(p.grad is not None for p in an_autoencoder_recipe.trainable.parameters())


def test_the_same_generator_gives_the_same_loss(an_autoencoder_recipe: AutoencoderRecipe) -> None:
    first, second = (float(an_autoencoder_recipe.losses(np.random.default_rng(3))["total"].detach()) for _ in range(2))
    assert first == second


def test_the_autoencoder_learns_to_copy(some_scans: list[TrainingScan], tmp_path: Path) -> None:
    autoencoder = tiny_autoencoder()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # the start draws its weights
        start_linear(autoencoder)
    recipe = AutoencoderRecipe(autoencoder, some_scans, some_scans[:2], side=16, batch=1)
    with torch.no_grad():
        before = recipe.validate()
    train(recipe, TrainingPlan(25, learning_rate=3e-3, warmup=5), tmp_path)
    with torch.no_grad():
        after = recipe.validate()
    assert after["l1"] < 0.7 * before["l1"] and after["psnr_db"] > before["psnr_db"]


def test_psnr_belongs_to_the_mean_squared_error(an_autoencoder_recipe: AutoencoderRecipe) -> None:
    """An autoencoder that answers 0 on images of 0.1 has an error of 0.1 everywhere: 20 dB."""
    autoencoder = an_autoencoder_recipe.trainable
    for parameter in autoencoder.parameters():
        torch.nn.init.zeros_(parameter)
    scan = an_autoencoder_recipe._validation[0]
    image = np.full_like(scan.scan.image, 0.1)
    flat = dataclasses.replace(scan, scan=dataclasses.replace(scan.scan, image=image))
    recipe = AutoencoderRecipe(autoencoder, [flat], [flat], side=16)
    with torch.no_grad():
        figures = recipe.validate()
    assert figures["l1"] == pytest.approx(0.1, rel=1e-5) and figures["psnr_db"] == pytest.approx(20.0, abs=1e-3)


def test_a_linear_start_silences_residual_branches_and_the_posterior_s_noise() -> None:
    autoencoder = tiny_autoencoder()
    start_linear(autoencoder)
    block = next(module for module in autoencoder.modules() if isinstance(module, MaisiResBlock))
    x = torch.randn(1, block.in_channels, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(block(x), block.nin_shortcut(x))
    _, log_variance, _ = autoencoder.posterior(torch.rand(1, 1, 8, 8, 8))
    assert torch.allclose(log_variance, torch.full_like(log_variance, -6.0))


def test_scaled_latents_have_unit_deviation(some_scans: list[TrainingScan]) -> None:
    autoencoder = tiny_autoencoder()
    factor = latent_scaling_factor(autoencoder, some_scans, SIDE)
    autoencoder.register_to_config(scaling_factor=factor)
    assert latent_scaling_factor(autoencoder, some_scans, SIDE) == pytest.approx(factor), "measured before scaling"
    images = torch.stack([torch.from_numpy(scan.scan.image)[None] for scan in some_scans[:2]])
    with torch.no_grad():
        assert float(autoencoder.encode(images).latent.std()) == pytest.approx(1.0, rel=0.35)


def test_a_latent_scale_needs_a_scan(some_scans: list[TrainingScan]) -> None:
    with pytest.raises(InputError, match="label maps only"):
        latent_scaling_factor(tiny_autoencoder(), some_scans[2:], SIDE)


def test_mirroring_turns_left_and_right_only() -> None:
    window = np.arange(8, dtype=np.float32).reshape(2, 2, 2)
    seen = {flipped(window, np.random.default_rng(seed)).tobytes() for seed in range(12)}
    assert seen == {window.tobytes(), np.ascontiguousarray(window[::-1]).tobytes()}


def test_an_autoencoder_without_scans_is_refused(some_scans: list[TrainingScan]) -> None:
    for scans, validation in (([], some_scans), (some_scans, [])):
        with pytest.raises(InputError, match="to train the autoencoder on and to validate it on"):
            AutoencoderRecipe(tiny_autoencoder(), scans, validation)


# Denoiser


def latent_scan(clean: torch.Tensor, healthy: torch.Tensor) -> LatentScan:
    return LatentScan(clean, healthy, (2.0, 2.0, 2.0), "CT")


@pytest.fixture
def a_latent_with_a_tumor() -> LatentScan:
    """Noise of 4 channels in 8³ cells; a corner of 4³ cells is not healthy."""
    latent = torch.randn(4, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    healthy = torch.ones(8, 8, 8)
    healthy[:4, :4, :4] = 0
    return latent_scan(latent, healthy)


def lively_unet() -> MaisiUNet:
    """A UNet whose answer depends on its input: MONAI starts the last convolution at zero."""
    unet = tiny_unet()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        torch.nn.init.normal_(unet.net.out[-1].conv.weight, std=0.1)
    return unet


def flow_loss(scan: LatentScan, seed: int = 0) -> float:
    recipe = DenoiserRecipe(lively_unet(), [scan], [scan], CLASS_LABEL, cells=(8,), batch=2)
    return float(recipe.losses(np.random.default_rng(seed))["total"].detach())


def test_unhealthy_cells_never_enter_the_denoiser(a_latent_with_a_tumor: LatentScan) -> None:
    other = a_latent_with_a_tumor.latent.clone()
    other[:, :4, :4, :4] = 100.0
    assert flow_loss(latent_scan(other, a_latent_with_a_tumor.healthy)) == flow_loss(a_latent_with_a_tumor)


def test_healthy_cells_do_enter_the_denoiser(a_latent_with_a_tumor: LatentScan) -> None:
    other = a_latent_with_a_tumor.latent.clone()
    other[:, 5:, 5:, 5:] += 1.0
    assert flow_loss(latent_scan(other, a_latent_with_a_tumor.healthy)) != flow_loss(a_latent_with_a_tumor)


def test_a_network_that_answers_zero_pays_the_mean_square_of_the_flow() -> None:
    """Clean latents are 3, noise is N(0, 1): the mean of (3 - ε)² is 9 + 1, whatever the unhealthy cells hold."""
    healthy = torch.ones(16, 16, 16)
    healthy[:8] = 0
    scan = latent_scan(torch.full((4, 16, 16, 16), 3.0), healthy)
    recipe = DenoiserRecipe(tiny_unet(), [scan], [scan], CLASS_LABEL, cells=(16,), batch=4)
    assert float(recipe.losses(np.random.default_rng(0))["total"].detach()) == pytest.approx(10.0, abs=0.15)


def test_the_denoiser_s_validation_is_the_same_each_time(a_latent_with_a_tumor: LatentScan) -> None:
    recipe = DenoiserRecipe(lively_unet(), [a_latent_with_a_tumor], [a_latent_with_a_tumor], CLASS_LABEL, (8,), 1)
    with torch.no_grad():
        assert recipe.validate() == recipe.validate()


def test_every_weight_of_the_denoiser_is_trained(a_latent_with_a_tumor: LatentScan) -> None:
    recipe = DenoiserRecipe(lively_unet(), [a_latent_with_a_tumor], [a_latent_with_a_tumor], CLASS_LABEL, (8,), 1)
    recipe.losses(np.random.default_rng(0))["total"].backward()
    assert all(p.grad is not None for p in recipe.trainable.parameters())


def test_latents_are_cached_for_scans_with_healthy_tissue_only(some_scans: list[TrainingScan]) -> None:
    sick = dataclasses.replace(some_scans[0], healthy=np.zeros_like(some_scans[0].healthy))
    autoencoder = tiny_autoencoder()
    cached = cache_latents([*some_scans, sick], autoencoder, SIDE, 0.25)
    assert [scan.modality for scan in cached] == ["CT", "MR"]
    assert cached[0].latent.shape == (4, 8, 8, 8) and cached[0].spacing_mm == pytest.approx((4.0, 4.0, 4.0))


def test_a_cell_is_healthy_only_if_each_of_its_voxels_is(some_scans: list[TrainingScan]) -> None:
    healthy = np.ones((32, 32, 32), bool)
    healthy[5, 6, 7] = False
    (cached,) = cache_latents([dataclasses.replace(some_scans[0], healthy=healthy)], tiny_autoencoder(), SIDE, 0.25)
    assert cached.healthy.sum() == 8**3 - 1 and cached.healthy[1, 1, 1] == 0


def test_a_scan_s_mirror_image_is_encoded_too_where_it_is_wished(some_scans: list[TrainingScan]) -> None:
    """Encoded anew: a mirrored latent is not the latent of a mirrored scan."""
    scan, autoencoder = some_scans[0], tiny_autoencoder()
    healthy = np.ones((32, 32, 32), bool)
    healthy[5, 6, 7] = False
    seen, mirrored = cache_latents([dataclasses.replace(scan, healthy=healthy)], autoencoder, SIDE, 0.25, mirror=True)
    flipped = dataclasses.replace(scan, scan=dataclasses.replace(scan.scan, image=scan.scan.image[::-1].copy()))
    (expected,) = cache_latents([flipped], autoencoder, SIDE, 0.25)
    assert torch.equal(mirrored.latent, expected.latent) and not torch.equal(mirrored.latent, seen.latent.flip(1))
    assert torch.equal(mirrored.healthy, seen.healthy.flip(0)) and seen.healthy[1, 1, 1] == 0


def test_a_prior_without_healthy_tissue_is_refused(a_latent_with_a_tumor: LatentScan) -> None:
    sick = latent_scan(a_latent_with_a_tumor.latent, torch.zeros(8, 8, 8))
    for latents, validation in (([], [sick]), ([sick], [sick]), ([a_latent_with_a_tumor], [])):
        with pytest.raises(InputError, match="The healthy prior needs scans with healthy tissue"):
            DenoiserRecipe(tiny_unet(), latents, validation, CLASS_LABEL)


# Head


def head_recipe(scans: list[TrainingScan], autoencoder: MaisiAutoencoder, batch: int = 1, **more: Any) -> HeadRecipe:
    text = build_encoder("minilm")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        head = AovaHead(autoencoder.feature_channels, text.dim, **HEAD)
    sampler = AnomalySampler(scans, SIDE, Mixture(real=1.0, healthy=0.0))
    scan = scans[0]
    seen = Sample(scan.scan.image, scan.tumor, "liver", "CT", scan.scan.spacing_mm)
    healthy = Sample(scan.scan.image, np.zeros_like(scan.tumor), "brain", "CT", scan.scan.spacing_mm)
    return HeadRecipe(head, lambda spacing_mm, modality: autoencoder, text, sampler, [seen, healthy], batch, **more)


def test_the_frozen_encoder_gets_no_gradient_and_every_weight_of_the_head_does(some_scans: list[TrainingScan]) -> None:
    autoencoder = tiny_autoencoder()
    assert all(p.requires_grad for p in autoencoder.parameters()), "nothing but the recipe keeps it frozen here"
    before = {name: value.clone() for name, value in autoencoder.state_dict().items()}
    recipe = head_recipe(some_scans, autoencoder, batch=2)
    terms = recipe.losses(np.random.default_rng(0))
    terms["total"].backward()
    assert all(p.grad is None for p in autoencoder.parameters())
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in recipe.trainable.parameters())
    assert all(torch.equal(value, before[name]) for name, value in autoencoder.state_dict().items())


def test_the_head_s_validation_names_organ_and_modality(some_scans: list[TrainingScan]) -> None:
    recipe = head_recipe(some_scans, tiny_autoencoder())
    recipe.trainable.eval()
    with torch.no_grad():
        figures, again = recipe.validate(), recipe.validate()
    assert set(figures) == {"dice_CT_liver", "dice", "flagged", "score_auroc"} and figures == again
    assert all(0 <= value <= 1 for value in figures.values())


def test_a_head_that_knows_of_an_elsewhere_is_validated_by_where_it_finds_the_organ(
    some_scans: list[TrainingScan],
) -> None:
    scan, autoencoder, text = some_scans[0], tiny_autoencoder(), build_encoder("minilm")
    organ = scan.organs["liver"] | scan.tumor
    window = Sample(scan.scan.image, scan.tumor, "liver", "CT", scan.scan.spacing_mm, shown=organ)
    head = AovaHead(autoencoder.feature_channels, text.dim, **HEAD, elsewhere=True).eval()
    sampler = AnomalySampler(some_scans, SIDE, Mixture(real=1.0))
    recipe = HeadRecipe(head, lambda spacing_mm, modality: autoencoder, text, sampler, [window])
    with torch.no_grad():
        figures = recipe.validate()
    everywhere = 2 * organ.sum() / (organ.sum() + organ.size)
    assert figures["organ_dice"] == pytest.approx(everywhere), "an untrained one finds it everywhere"
    terms = recipe.losses(np.random.default_rng(0))
    terms["total"].backward()
    assert float(terms["organ"].detach()) > 0
    assert head.presence_bias.grad is not None and float(head.presence_bias.grad) > 0


class CountingAutoencoder:
    """An autoencoder that counts what it encodes."""

    def __init__(self) -> None:
        self.inner = tiny_autoencoder()
        self.feature_channels = self.inner.feature_channels
        self.count = 0

    def encode(self, image: torch.Tensor) -> Encoding:
        """Encode and count."""
        self.count += 1
        return self.inner.encode(image)


@pytest.mark.parametrize(("windows_kept", "encoded"), [(0, 6), (1, 4), (2, 2)])
def test_the_validation_s_features_are_kept_as_far_as_there_is_room(
    some_scans: list[TrainingScan], an_unchecked_library: None, windows_kept: int, encoded: int
) -> None:
    """Two windows, three times: 8 channels at strides 1, 2 and 4, 4 bytes each."""
    size = 4 * 8 * sum((SIDE // stride) ** 3 for stride in (1, 2, 4))
    autoencoder = CountingAutoencoder()
    recipe = head_recipe(some_scans, autoencoder, cache_bytes=windows_kept * size)  # type: ignore[arg-type]
    plain = head_recipe(some_scans, tiny_autoencoder())
    for known in (recipe, plain):
        known.trainable.eval()
    with torch.no_grad():
        figures = [recipe.validate() for _ in range(3)]
        assert figures == [plain.validate()] * 3
    assert autoencoder.count == encoded


def test_batches_that_were_drawn_ahead_give_the_losses_of_those_drawn_here(some_scans: list[TrainingScan]) -> None:
    class Ahead:
        def look_ahead(self, seeds: Iterable[list[int]]) -> None:
            self.seeds = iter(seeds)

        def take(self) -> tuple[list[Sample], np.random.Generator]:
            rng = np.random.default_rng(next(self.seeds))
            return [sampler.draw(rng) for _ in range(2)], rng

    sampler = AnomalySampler(some_scans, SIDE, Mixture(real=1.0, healthy=0.0))
    here, ahead = (
        head_recipe(some_scans, tiny_autoencoder(), 2),
        head_recipe(some_scans, tiny_autoencoder(), 2, ahead=Ahead()),
    )
    assert isinstance(ahead, AheadRecipe)
    for recipe in (here, ahead):
        recipe.look_ahead([[0, 5], [0, 6]])
    for number in (5, 6):
        losses = [float(r.losses(np.random.default_rng([0, number]))["total"].detach()) for r in (here, ahead)]
        assert losses[0] == losses[1]


class Given:
    """Windows that were drawn before."""

    def __init__(self, samples: list[Sample]) -> None:
        self.samples = samples

    def look_ahead(self, seeds: Iterable[list[int]]) -> None:
        """Nothing to draw."""

    def take(self) -> tuple[list[Sample], np.random.Generator]:
        """Return them, with the same phrasings every time."""
        return self.samples, np.random.default_rng(0)


def test_a_second_question_counts_as_a_window_of_its_own_and_is_not_encoded_again(
    some_scans: list[TrainingScan], an_unchecked_library: None
) -> None:
    scan = some_scans[0]
    other = Question("brain", np.roll(scan.organs["liver"], 3, axis=0), np.roll(scan.tumor, 3, axis=0))
    plain = Sample(scan.scan.image, scan.tumor, "liver", "CT", scan.scan.spacing_mm, shown=scan.organs["liver"])
    both = dataclasses.replace(plain, further=(other,))
    second = dataclasses.replace(plain, organ="brain", mask=other.mask, shown=other.shown)
    terms, encoded = [], []
    for samples in ([both], [plain, second]):
        autoencoder = CountingAutoencoder()
        recipe = head_recipe(some_scans, autoencoder, ahead=Given(samples))  # type: ignore[arg-type]
        losses = recipe.losses(np.random.default_rng(1))
        terms.append({name: float(term.detach()) for name, term in losses.items()})
        encoded.append(autoencoder.count)
    assert terms[0] == pytest.approx(terms[1], rel=1e-5)
    assert encoded == [1, 2]


def test_an_organ_that_may_hold_unmarked_tumors_is_asked_for_its_place_alone(some_scans: list[TrainingScan]) -> None:
    scan = some_scans[0]
    plain = Sample(scan.scan.image, scan.tumor, "liver", "CT", scan.scan.spacing_mm, shown=scan.organs["liver"])
    asked = dataclasses.replace(plain, further=(Question("brain", np.zeros_like(scan.tumor), None),))
    terms = []
    for sample in (plain, asked):
        recipe = head_recipe(some_scans, tiny_autoencoder(), ahead=Given([sample]))
        terms.append({name: float(t.detach()) for name, t in recipe.losses(np.random.default_rng(1)).items()})
    assert terms[1]["voxel"] == pytest.approx(terms[0]["voxel"]) and terms[1]["dice"] == pytest.approx(terms[0]["dice"])
    assert all(np.isfinite(value) for value in terms[1].values())


def test_the_head_learns_a_window_by_heart(some_scans: list[TrainingScan], tmp_path: Path) -> None:
    recipe = head_recipe(some_scans, tiny_autoencoder())
    with torch.no_grad():
        before = float(recipe.losses(np.random.default_rng(0))["voxel"])
    train(recipe, TrainingPlan(10, learning_rate=1e-2, warmup=2), tmp_path)
    with torch.no_grad():
        after = float(recipe.losses(np.random.default_rng(0))["voxel"])
    assert after < 0.8 * before


def test_each_recipe_is_what_the_trainer_asks_for(
    an_autoencoder_recipe: AutoencoderRecipe, a_latent_with_a_tumor: LatentScan, some_scans: list[TrainingScan]
) -> None:
    denoiser = DenoiserRecipe(tiny_unet(), [a_latent_with_a_tumor], [a_latent_with_a_tumor], CLASS_LABEL)
    for recipe in (an_autoencoder_recipe, denoiser, head_recipe(some_scans, tiny_autoencoder())):
        assert isinstance(recipe, Recipe)
