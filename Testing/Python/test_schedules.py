"""Noise levels and the one step for all: equal to diffusers' and MONAI's, where those are right."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
from monai.networks.schedulers.ddpm import DDPMScheduler
from monai.networks.schedulers.rectified_flow import RFlowScheduler
from torch import Tensor

from DiffuGTSLib.backbones import DDPM_SCHEDULER, FLOW_SCHEDULER
from DiffuGTSLib.backbones.schedules import DdimSchedule, FlowSchedule, build_schedule
from DiffuGTSLib.errors import WeightsError

CELLS = 16 * 16 * 8
SPREAD = 0.3
"""Of a toy world of latents N(0, 0.3²), for which the best denoiser is known in closed form."""


@pytest.fixture
def a_flow() -> FlowSchedule:
    """MAISI's rectified flow."""
    schedule = build_schedule(FLOW_SCHEDULER)
    assert isinstance(schedule, FlowSchedule)
    return schedule


@pytest.fixture
def a_ddim() -> DdimSchedule:
    """MAISI-v1's DDPM levels."""
    schedule = build_schedule(DDPM_SCHEDULER)
    assert isinstance(schedule, DdimSchedule)
    return schedule


def best_guess(noisy: Tensor, signal: float, sigma: float) -> tuple[Tensor, Tensor]:
    """Return the expected clean latent and the noise that goes with it."""
    clean = SPREAD**2 * signal * noisy / (sigma**2 + SPREAD**2 * signal**2)
    return clean, (noisy - signal * clean) / sigma


def some_noise(seed: int = 0) -> Tensor:
    return torch.randn(1, 4, 16, 16, 8, generator=torch.Generator().manual_seed(seed))


def our_step(schedule: FlowSchedule | DdimSchedule, sample: Tensor, time: float, next_time: float) -> Tensor:
    clean, noise = best_guess(sample, *schedule.levels(time))
    signal, sigma = schedule.levels(next_time)
    return signal * clean + sigma * noise


def our_walk(schedule: FlowSchedule | DdimSchedule, start: Tensor, steps: int) -> Tensor:
    times = schedule.timesteps(steps, start[0, 0].numel())
    for time, next_time in pairwise(times):
        start = our_step(schedule, start, time, next_time)
    return start


def test_the_levels_of_ddim_are_those_of_diffusers_at_every_timestep(a_ddim: DdimSchedule) -> None:
    powers = DDIMScheduler.from_config(DDPM_SCHEDULER).alphas_cumprod
    for timestep, power in enumerate(powers.double().tolist()):
        signal, sigma = a_ddim.levels(timestep)
        assert (signal, sigma) == pytest.approx((power**0.5, (1 - power) ** 0.5), abs=1e-12)


def test_the_levels_of_ddim_are_those_of_monai(a_ddim: DdimSchedule) -> None:
    monai = DDPMScheduler(1000, "scaled_linear_beta", beta_start=0.0015, beta_end=0.0195, clip_sample=False)
    ours = np.array([a_ddim.levels(t)[0] ** 2 for t in range(1000)])
    np.testing.assert_allclose(ours, monai.alphas_cumprod.numpy(), rtol=1e-6)


def test_the_first_level_of_ddim_worked_by_hand(a_ddim: DdimSchedule) -> None:
    # β_0 = 0.0015, so ᾱ_0 = 0.9985: signal 0.99924972, noise 0.03872983. Past the end there is no noise at all.
    assert a_ddim.levels(0) == pytest.approx((0.99924972, 0.03872983), abs=1e-6)
    assert a_ddim.levels(a_ddim.END) == (1.0, 0.0)


@pytest.mark.parametrize("steps", [30, 50, 100, 1000])
def test_the_timesteps_of_ddim_are_the_evenly_spaced_ones_of_diffusers(a_ddim: DdimSchedule, steps: int) -> None:
    scheduler = DDIMScheduler.from_config(DDPM_SCHEDULER)
    scheduler.set_timesteps(steps)
    assert a_ddim.timesteps(steps, CELLS) == [*scheduler.timesteps.tolist(), a_ddim.END]


def test_one_step_of_ours_is_one_of_diffusers_ddim_at_each_of_50_timesteps(a_ddim: DdimSchedule) -> None:
    """The next level of diffusers is t - 20 though its next timestep is t - 20.39: given its level, we agree."""
    scheduler = DDIMScheduler.from_config(DDPM_SCHEDULER)
    scheduler.set_timesteps(50)
    sample = some_noise()
    for time in scheduler.timesteps.tolist():
        _, noise = best_guess(sample, *a_ddim.levels(time))
        theirs = scheduler.step(noise, time, sample, eta=0.0).prev_sample
        ours = our_step(a_ddim, sample, time, time - 20 if time >= 20 else a_ddim.END)
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
        sample = theirs
    assert float(sample.std()) == pytest.approx(SPREAD, abs=0.05), "the walk ends in the toy world"


def test_the_whole_walk_of_1000_steps_is_that_of_diffusers_ddim(a_ddim: DdimSchedule) -> None:
    scheduler = DDIMScheduler.from_config(DDPM_SCHEDULER)
    scheduler.set_timesteps(1000)
    theirs = start = some_noise()
    for time in scheduler.timesteps.tolist():
        _, noise = best_guess(theirs, *a_ddim.levels(time))
        theirs = scheduler.step(noise, time, theirs, eta=0.0).prev_sample
    torch.testing.assert_close(our_walk(a_ddim, start, 1000), theirs, rtol=0, atol=1e-4)


def test_strided_steps_of_monais_ddpm_leave_noise_that_ours_do_not(a_ddim: DdimSchedule) -> None:
    """MONAI's step goes from t to t - 1 whatever the stride; after 30 of 1000 steps most of the noise is still there."""
    monai = DDPMScheduler(1000, "scaled_linear_beta", beta_start=0.0015, beta_end=0.0195, clip_sample=False)
    monai.set_timesteps(30)
    theirs = start = some_noise()
    generator = torch.Generator().manual_seed(1)
    for time in monai.timesteps.tolist():
        _, noise = best_guess(theirs, *a_ddim.levels(time))
        theirs, _ = monai.step(noise, time, theirs, generator=generator)
    ours = our_walk(a_ddim, start, 30)
    assert float(ours.std()) == pytest.approx(SPREAD, abs=0.06)
    assert abs(float(theirs.std()) - SPREAD) > 0.2, "MONAI has mended it: say so where we speak of the trap"


def test_the_shift_grows_with_the_cube_root_of_the_latent(a_flow: FlowSchedule) -> None:
    # 64 x 64 x 64 cells: (64/32) = 2. Levels 1, 1/2, 0 become 1, 2 * 0.5 / (1 + 0.5) = 2/3, 0.
    assert a_flow.timesteps(2, 64**3) == pytest.approx([1000.0, 666.6667, 0.0], abs=1e-3)
    assert a_flow.timesteps(2, 32**3) == pytest.approx([1000.0, 500.0, 0.0])
    assert a_flow.levels(250.0) == (0.75, 0.25)


def test_without_shift_the_levels_are_even_whatever_the_size() -> None:
    schedule = build_schedule({**FLOW_SCHEDULER, "use_dynamic_shifting": False})
    assert schedule.timesteps(4, 64**3) == pytest.approx([1000, 750, 500, 250, 0])


@pytest.mark.parametrize("cells", [16 * 16 * 8, 32**3, 64 * 64 * 32])
@pytest.mark.parametrize("steps", [10, 30])
def test_the_timesteps_of_the_flow_are_those_of_diffusers(a_flow: FlowSchedule, steps: int, cells: int) -> None:
    shift = (cells / 32**3) ** (1 / 3)
    scheduler = FlowMatchEulerDiscreteScheduler.from_config(FLOW_SCHEDULER)
    scheduler.set_timesteps(sigmas=np.linspace(1, 1 / steps, steps).tolist(), mu=shift)
    assert a_flow.timesteps(steps, cells) == pytest.approx([*scheduler.timesteps.tolist(), 0.0], abs=1e-3)


@pytest.mark.parametrize("cells", [32**3, 64 * 64 * 32])
def test_the_timesteps_of_the_flow_are_those_of_monai(a_flow: FlowSchedule, cells: int) -> None:
    """To a quarter of a timestep: MONAI rounds them to half precision."""
    monai = RFlowScheduler(1000, use_discrete_timesteps=False, use_timestep_transform=True, scale=1.4)
    monai.set_timesteps(30, input_img_size_numel=cells)
    theirs = [float(t) for t in monai.timesteps]
    assert a_flow.timesteps(30, cells)[:-1] == pytest.approx(theirs, abs=0.26)


def test_50_steps_of_the_flow_are_those_of_diffusers(a_flow: FlowSchedule) -> None:
    scheduler = FlowMatchEulerDiscreteScheduler.from_config(FLOW_SCHEDULER)
    scheduler.set_timesteps(sigmas=np.linspace(1, 1 / 50, 50).tolist(), mu=(CELLS / 32**3) ** (1 / 3))
    theirs = start = some_noise()
    for time in scheduler.timesteps:
        clean, noise = best_guess(theirs, *a_flow.levels(float(time)))
        theirs = scheduler.step(noise - clean, time, theirs).prev_sample
    torch.testing.assert_close(our_walk(a_flow, start, 50), theirs, rtol=0, atol=1e-4)


def test_30_steps_of_the_flow_are_close_to_monais_which_overshoots_by_a_hundredth(a_flow: FlowSchedule) -> None:
    """MONAI cuts each next timestep to a whole number, so that its strides add up to more than 1."""
    monai = RFlowScheduler(1000, use_discrete_timesteps=False, use_timestep_transform=True, scale=1.4)
    monai.set_timesteps(30, input_img_size_numel=CELLS)
    theirs = start = some_noise()
    times = [float(t) for t in monai.timesteps]
    for time, next_time in zip(times, [*times[1:], 0.0], strict=True):
        clean, noise = best_guess(theirs, *a_flow.levels(time))
        theirs, _ = monai.step(clean - noise, time, theirs, next_time)
    difference = (our_walk(a_flow, start, 30) - theirs).abs()
    assert float(difference.max()) < 0.05
    assert float(difference.mean()) < 0.01


@pytest.mark.parametrize("scheduler", [FLOW_SCHEDULER, DDPM_SCHEDULER])
def test_a_later_start_holds_less_noise_and_ends_clean(scheduler: dict[str, object]) -> None:
    schedule = build_schedule(scheduler)
    full, half = schedule.timesteps(10, CELLS), schedule.timesteps(10, CELLS, start=0.5)
    assert len(half) == len(full) == 11
    assert half == sorted(half, reverse=True)
    assert schedule.levels(half[0])[1] < schedule.levels(full[0])[1]
    assert schedule.levels(half[-1]) == (1.0, 0.0)


def test_half_a_start_of_the_flow_worked_by_hand(a_flow: FlowSchedule) -> None:
    # Shift 2 on level 0.5: 2/3; on 0.25: 0.5 / 1.25 = 0.4.
    assert a_flow.timesteps(2, 64**3, start=0.5) == pytest.approx([666.6667, 400.0, 0.0], abs=1e-3)


def test_another_scheduler_is_refused_by_name() -> None:
    with pytest.raises(WeightsError, match=r"Unknown noise scheduler 'PNDMScheduler'; expected FlowMatch") as caught:
        build_schedule({"_class_name": "PNDMScheduler"})
    assert "scheduler_config.json" in caught.value.hint


@pytest.mark.parametrize(
    ("scheduler", "changed", "said"),
    [
        (FLOW_SCHEDULER, {"num_train_timesteps": None}, "num_train_timesteps: expected 1 to 100000, got None"),
        (FLOW_SCHEDULER, {"num_train_timesteps": "x"}, "num_train_timesteps: expected 1 to 100000, got 'x'"),
        (DDPM_SCHEDULER, {"num_train_timesteps": 0}, "num_train_timesteps: expected 1 to 100000, got 0"),
        (DDPM_SCHEDULER, {"num_train_timesteps": 10**30}, "num_train_timesteps: expected 1 to 100000"),
        (FLOW_SCHEDULER, {"time_shift_type": "x"}, "describes no FlowMatchEulerDiscreteScheduler"),
        (DDPM_SCHEDULER, {"beta_start": "x"}, "describes no DDIMScheduler"),
        (DDPM_SCHEDULER, {"beta_start": math.nan}, "describes no DDIMScheduler: its betas leave"),
    ],
)
def test_a_scheduler_s_values_that_make_no_schedule_are_refused(
    scheduler: dict[str, object], changed: dict[str, object], said: str
) -> None:
    with pytest.raises(WeightsError, match=said) as caught:
        build_schedule({**scheduler, **changed})
    assert "scheduler_config.json" in caught.value.hint
