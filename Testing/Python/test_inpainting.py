"""Repainting in a toy world whose healthy latents are N(0, 0.3²): there the best denoiser is known in closed form."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from DiffuGTSLib.backbones import DDPM_SCHEDULER, FLOW_SCHEDULER, build_backbone
from DiffuGTSLib.backbones.interfaces import NoiseSchedule, Prediction
from DiffuGTSLib.backbones.schedules import FlowSchedule, build_schedule
from DiffuGTSLib.config import BackboneConfig, InpaintingConfig
from DiffuGTSLib.errors import Cancelled
from DiffuGTSLib.inpainting import Conditions, cell_box, mask_to_latent, repaint

SPREAD = 0.3
TUMOR = 5.0
SHAPE = (1, 4, 24, 24, 16)
TOLD = Conditions((2.0, 2.0, 3.0), "CT")


@dataclass
class Oracle:
    """E[clean | noisy] for independent cells of N(0, 0.3²); remembers what it was told."""

    schedule: NoiseSchedule
    side_multiple: int = 1
    feature_channels: tuple[int, ...] = ()
    feature_strides: tuple[int, ...] = ()
    told: tuple[object, ...] = ()
    timesteps: tuple[float, ...] = ()

    def __call__(
        self, noisy: Tensor, timestep: float, spacing_mm: tuple[float, float, float], modality: str
    ) -> Prediction:
        """Return the best guess there is."""
        self.told = (spacing_mm, modality)
        self.timesteps = (*self.timesteps, timestep)
        signal, sigma = self.schedule.levels(timestep)
        clean = SPREAD**2 * signal * noisy / (sigma**2 + SPREAD**2 * signal**2)
        return Prediction(clean, (noisy - signal * clean) / sigma)

    def features(
        self,
        latent: Tensor,
        timestep: float,
        spacing_mm: tuple[float, float, float],
        modality: str,
    ) -> tuple[Tensor, ...]:
        """Return nothing: it has no layers."""
        return ()


@pytest.fixture(params=[FLOW_SCHEDULER, DDPM_SCHEDULER], ids=["flow", "ddim"])
def a_schedule(request: pytest.FixtureRequest) -> NoiseSchedule:
    """Both kinds of noise."""
    schedule: NoiseSchedule = build_schedule(request.param)
    return schedule


def a_sick_latent() -> tuple[Tensor, Tensor]:
    """A healthy latent with a tumor of constant 5, and its mask."""
    latent = SPREAD * torch.randn(SHAPE, generator=torch.Generator().manual_seed(7))
    mask = torch.zeros(1, 1, *SHAPE[2:])
    mask[..., 8:16, 8:16, 4:12] = 1
    return torch.where(mask > 0, torch.full_like(latent, TUMOR), latent), mask


def painted(schedule: NoiseSchedule, config: InpaintingConfig, seed: int = 0) -> Tensor:
    latent, mask = a_sick_latent()
    generator = torch.Generator().manual_seed(seed)
    return repaint(latent, mask, Oracle(schedule), schedule, TOLD, config, generator, lambda *_: None)


def inside(latent: Tensor) -> Tensor:
    return latent[:, :, 8:16, 8:16, 4:12]


@pytest.mark.parametrize("config", [InpaintingConfig(steps=50), InpaintingConfig(steps=100, resample=2)])
def test_the_tumor_becomes_a_sample_of_the_healthy_world(a_schedule: NoiseSchedule, config: InpaintingConfig) -> None:
    healthy = inside(painted(a_schedule, config))
    assert float(healthy.mean()) == pytest.approx(0.0, abs=0.03)
    assert float(healthy.std()) == pytest.approx(SPREAD, abs=0.05)


@pytest.mark.parametrize("seeds", [1, 2, 3])
def test_all_cells_outside_the_mask_stay_bit_for_bit(a_schedule: NoiseSchedule, seeds: int) -> None:
    latent, mask = a_sick_latent()
    healthy = painted(a_schedule, InpaintingConfig(steps=10, resample=2, seeds=seeds))
    outside = (mask == 0).expand_as(latent)
    assert torch.equal(healthy[outside], latent[outside])
    assert not torch.equal(healthy, latent)


def test_a_later_start_leaves_part_of_the_tumor(a_schedule: NoiseSchedule) -> None:
    left = [float(inside(painted(a_schedule, InpaintingConfig(steps=30, start=s))).mean()) for s in (0.1, 0.8, 1.0)]
    assert left[0] > 2.0 > left[1] > left[2], "of 5"
    assert left[2] == pytest.approx(0.0, abs=0.03)


def test_the_generator_alone_decides(a_schedule: NoiseSchedule) -> None:
    config = InpaintingConfig(steps=5, resample=2, seeds=2)
    torch.manual_seed(1)
    first = painted(a_schedule, config, seed=3)
    torch.manual_seed(2)
    assert torch.equal(painted(a_schedule, config, seed=3), first)
    assert not torch.equal(painted(a_schedule, config, seed=4), first)


@pytest.mark.parametrize("seeds", [2, 3, 4])
def test_several_seeds_give_their_median(a_schedule: NoiseSchedule, seeds: int) -> None:
    """One generator runs through all of them, so that they can be drawn one by one as well."""
    latent, mask = a_sick_latent()
    generator = torch.Generator().manual_seed(0)
    single = [
        repaint(
            latent, mask, Oracle(a_schedule), a_schedule, TOLD, InpaintingConfig(steps=4), generator, lambda *_: None
        )
        for _ in range(seeds)
    ]
    together = painted(a_schedule, InpaintingConfig(steps=4, seeds=seeds))
    torch.testing.assert_close(together, torch.stack(single).quantile(0.5, dim=0), rtol=0, atol=1e-5)


def test_an_even_number_of_seeds_does_not_darken_the_picture(a_schedule: NoiseSchedule) -> None:
    """The median of torch takes the lower of two: the mean would fall by 0.56 of a standard deviation."""
    healthy = inside(painted(a_schedule, InpaintingConfig(steps=30, seeds=2)))
    assert float(healthy.mean()) == pytest.approx(0.0, abs=0.03)


def test_an_empty_mask_returns_the_latent_unchanged(a_schedule: NoiseSchedule) -> None:
    latent, mask = a_sick_latent()
    same = repaint(
        latent, torch.zeros_like(mask), Oracle(a_schedule), a_schedule, TOLD, InpaintingConfig(steps=3),
        torch.Generator().manual_seed(0), lambda *_: None,
    )  # fmt: skip
    assert torch.equal(same, latent)


def test_each_call_of_the_denoiser_is_counted(a_schedule: NoiseSchedule) -> None:
    latent, mask = a_sick_latent()
    calls: list[tuple[int, int]] = []
    oracle = Oracle(a_schedule)
    config = InpaintingConfig(steps=3, resample=2, seeds=2)
    generator = torch.Generator().manual_seed(0)
    repaint(latent, mask, oracle, a_schedule, TOLD, config, generator, lambda *call: calls.append(call))
    times = a_schedule.timesteps(3, latent[0, 0].numel())[:-1]
    once = [time for time in times for _ in range(2 if a_schedule.levels(time)[0] else 1)]
    assert len(once) == (5 if isinstance(a_schedule, FlowSchedule) else 6)
    assert list(oracle.timesteps) == once * 2
    assert calls == [(done, 2 * len(once)) for done in range(1, 2 * len(once) + 1)]
    assert oracle.told == ((2.0, 2.0, 3.0), "CT")


def test_cancelling_between_steps_stops_there(a_schedule: NoiseSchedule) -> None:
    latent, mask = a_sick_latent()
    oracle = Oracle(a_schedule)

    def cancel(done: int, total: int) -> None:
        if done == 2:
            raise Cancelled("stopped")

    with pytest.raises(Cancelled):
        repaint(
            latent, mask, oracle, a_schedule, TOLD, InpaintingConfig(steps=9), torch.Generator().manual_seed(0), cancel
        )
    assert len(oracle.timesteps) == 2


def test_the_latent_that_was_given_is_left_as_it_was(a_schedule: NoiseSchedule) -> None:
    latent, mask = a_sick_latent()
    before = latent.clone()
    repaint(
        latent, mask, Oracle(a_schedule), a_schedule, TOLD, InpaintingConfig(steps=2),
        torch.Generator().manual_seed(0), lambda *_: None,
    )  # fmt: skip
    assert torch.equal(latent, before)


def test_real_networks_repaint_what_is_masked_and_finite(a_schedule: NoiseSchedule) -> None:
    backbone = build_backbone(BackboneConfig(name="tiny"))
    latent, mask = torch.randn(1, 4, 8, 8, 8), torch.zeros(1, 1, 8, 8, 8)
    mask[..., 2:5, 2:5, 2:5] = 1
    healthy = repaint(
        latent, mask, backbone.denoiser, backbone.schedule, TOLD, InpaintingConfig(steps=2, resample=2),
        torch.Generator().manual_seed(0), lambda *_: None,
    )  # fmt: skip
    assert torch.isfinite(healthy).all() and not healthy.requires_grad
    assert torch.equal((healthy != latent).any(dim=1, keepdim=True), mask > 0)


def test_a_lesion_of_one_voxel_keeps_its_latent_cell() -> None:
    mask = torch.zeros(1, 1, 16, 12, 8)
    mask[0, 0, 5, 11, 0] = 1
    cells = mask_to_latent(mask, 4)
    assert cells.shape == (1, 1, 4, 3, 2)
    assert cells.sum() == 1 and cells[0, 0, 1, 2, 0] == 1


def test_a_finding_lies_in_the_middle_of_its_box() -> None:
    """Its cell is 10; of the seven that make a multiple of eight, four come before it and three after."""
    found = (slice(40, 44), slice(41, 42), slice(43, 44))
    assert cell_box(found, (96, 96, 96), 4, 8, 0.0, (2.0, 2.0, 2.0)) == (slice(6, 14),) * 3


def test_the_margin_is_in_millimeters_along_each_axis_and_never_less_than_was_asked_for() -> None:
    """10 mm are 2.5 cells of 4 mm, 1.25 of 8 mm and 0.6 of 16 mm: three, two and one on both sides of cell 10."""
    box = cell_box((slice(40, 44),) * 3, (96, 96, 96), 4, 1, 10.0, (1.0, 2.0, 4.0))
    assert box == (slice(7, 14), slice(8, 13), slice(9, 12))
