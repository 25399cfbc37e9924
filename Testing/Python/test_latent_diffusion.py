"""The schedule against DiffTumor's table, and the samplers against an oracle that knows the noise."""

import pytest
import torch
from torch import Tensor

from DiffuGTSLib.errors import ConfigError
from DiffuGTSLib.synthesis.latent_diffusion import TABLES, CosineDiffusion, PredictNoise

OF_FOUR = {
    "betas": (0.15298784, 0.41695809, 0.70785874, 0.99989998),
    "alphas_cumprod": (0.84701216, 0.49384359, 0.14427210, 1.4427210e-5),
    "posterior_variance": (0, 0.12602729, 0.41869295, 0.85565466),
    "posterior_log_variance_clipped": (-46.0517, -2.0712568, -0.8706175, -0.1558884),
    "posterior_mean_coef1": (1, 0.7581454, 0.5813071, 0.3797992),
    "posterior_mean_coef2": (0, 0.2307927, 0.3197021, 0.0085574),
    "sqrt_recip_alphas_cumprod": (1.0865637, 1.4230013, 2.6327450, 263.2745),
}
"""DiffTumor's schedule of 4 timesteps."""

SHAPE = (2, 3, 2, 4, 4)


def a_seed(number: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(number)


@pytest.fixture
def a_clean_latent() -> Tensor:
    """Within -1 to 1."""
    return torch.rand(SHAPE, generator=a_seed(9)) * 2 - 1


def an_oracle(diffusion: CosineDiffusion, clean: Tensor) -> PredictNoise:
    """Knows the clean latent, and tells exactly the noise in a noisy one."""

    def tell(noisy: Tensor, t: Tensor) -> Tensor:
        power = diffusion.tables["alphas_cumprod"][t].view(-1, 1, 1, 1, 1).double()
        return ((noisy.double() - power.sqrt() * clean.double()) / (1 - power).sqrt()).float()

    return tell


def a_network(noisy: Tensor, t: Tensor) -> Tensor:
    """Predicts something of latent and time, sample by sample."""
    return torch.tanh(noisy * 0.7 + t.view(-1, 1, 1, 1, 1) * 0.01)


def test_the_schedule_of_four_is_the_published_one() -> None:
    tables = CosineDiffusion(4).tables
    for name, values in OF_FOUR.items():
        assert tables[name].tolist() == pytest.approx(values, rel=1e-6, abs=1e-7), name


def test_the_schedule_of_two_hundred_has_the_published_ends() -> None:
    powers = CosineDiffusion(200).tables["alphas_cumprod"]
    assert powers[:2].tolist() == pytest.approx([0.99975, 0.99937], abs=1e-5)
    assert powers[-3:].tolist() == pytest.approx([2.4286e-4, 6.0718e-5, 6.0718e-9], rel=1e-4)


@pytest.mark.parametrize("timesteps", [1, 4, 200])
def test_there_are_the_twelve_published_tables_one_number_a_timestep(timesteps: int) -> None:
    tables = CosineDiffusion(timesteps).tables
    assert set(tables) == set(TABLES) and len(tables) == 12
    assert all(table.shape == (timesteps,) and table.dtype == torch.float32 for table in tables.values())
    assert all(table.isfinite().all() for table in tables.values())


def test_noise_is_added_by_the_formula_and_taken_away_again(a_clean_latent: Tensor) -> None:
    diffusion = CosineDiffusion(4)
    noise, t = torch.randn(SHAPE, generator=a_seed()), torch.tensor([0, 2])
    noisy = diffusion.add_noise(a_clean_latent, t, noise)
    assert torch.allclose(noisy[1], 0.1442721**0.5 * a_clean_latent[1] + (1 - 0.1442721) ** 0.5 * noise[1], atol=1e-6)
    assert torch.allclose(diffusion.predict_x0(noisy, t, noise), a_clean_latent, atol=1e-5)


@pytest.mark.parametrize("timesteps", [1, 4, 200])
def test_ddpm_finds_the_latent_that_an_oracle_knows(timesteps: int, a_clean_latent: Tensor) -> None:
    diffusion = CosineDiffusion(timesteps)
    found = diffusion.ddpm_sample(an_oracle(diffusion, a_clean_latent), SHAPE, a_seed())
    assert torch.allclose(found, a_clean_latent, atol=1e-4)


def test_ddpm_keeps_each_clean_estimate_within_bounds() -> None:
    diffusion = CosineDiffusion(4)

    def silent(noisy: Tensor, t: Tensor) -> Tensor:
        return torch.zeros_like(noisy)  # the first estimate is 263 times the noise

    assert float(diffusion.ddpm_sample(silent, SHAPE, a_seed()).abs().max()) <= 1


def test_ddpm_draws_nothing_at_the_last_step(a_clean_latent: Tensor) -> None:
    diffusion = CosineDiffusion(1)
    first, second = (
        diffusion.ddpm_sample(an_oracle(diffusion, a_clean_latent), SHAPE, a_seed(number)) for number in (1, 2)
    )
    assert torch.allclose(first, second, atol=1e-4)


def test_ddim_walks_every_fourth_timestep() -> None:
    assert CosineDiffusion(200).ddim_timesteps(50) == list(range(1, 198, 4))


def test_ddim_ends_with_as_much_noise_as_the_first_timestep_holds(a_clean_latent: Tensor) -> None:
    diffusion = CosineDiffusion(200)
    found = diffusion.ddim_sample(an_oracle(diffusion, a_clean_latent), SHAPE, a_seed())
    power = float(diffusion.tables["alphas_cumprod"][0])
    rest = (found - power**0.5 * a_clean_latent) / (1 - power) ** 0.5
    assert torch.allclose(found, a_clean_latent, atol=0.1)
    assert torch.allclose(rest, torch.randn(SHAPE, generator=a_seed()), atol=2e-2), "the noise that it began with"


def test_ddim_clips_nothing() -> None:
    found = CosineDiffusion(200).ddim_sample(lambda noisy, t: torch.zeros_like(noisy), SHAPE, a_seed())
    assert float(found.abs().max()) > 10


def test_ddim_draws_nothing_on_the_way() -> None:
    diffusion, generator = CosineDiffusion(200), a_seed()
    diffusion.ddim_sample(a_network, SHAPE, generator)
    only_the_start = a_seed()
    torch.randn(SHAPE, generator=only_the_start)
    assert torch.equal(generator.get_state(), only_the_start.get_state())


def test_one_ddim_step_is_the_one_worked_by_hand() -> None:
    """From ᾱ = 0.4938436 at timestep 1 to ᾱ = 0.8470122 at 0, with a predicted noise of 0.5."""
    start: list[Tensor] = []

    def remember(noisy: Tensor, t: Tensor) -> Tensor:
        assert t.tolist() == [1]
        start.append(noisy)
        return torch.full_like(noisy, 0.5)

    found = CosineDiffusion(4).ddim_sample(remember, (1, 1, 1, 1, 1), a_seed(), steps=1)
    x0 = (start[0] - 0.5061564**0.5 * 0.5) / 0.4938436**0.5
    assert torch.allclose(found, 0.8470122**0.5 * x0 + 0.1529878**0.5 * 0.5, atol=1e-5)


@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
def test_a_batch_is_its_samples_one_by_one(sampler: str) -> None:
    def sample(count: int, seeds: list[torch.Generator]) -> Tensor:
        shape = (count, *SHAPE[1:])
        if sampler == "ddpm":
            return CosineDiffusion(4).ddpm_sample(a_network, shape, seeds)
        return CosineDiffusion(200).ddim_sample(a_network, shape, seeds, steps=10)

    together = sample(2, [a_seed(1), a_seed(2)])
    alone = torch.cat([sample(1, [a_seed(1)]), sample(1, [a_seed(2)])])
    assert torch.allclose(together, alone, atol=1e-5)


def test_the_same_seed_is_the_same_latent() -> None:
    diffusion = CosineDiffusion(4)
    first, again, other = (diffusion.ddpm_sample(a_network, SHAPE, a_seed(number)) for number in (1, 1, 2))
    assert torch.equal(first, again) and not torch.allclose(first, other, atol=1e-2)


def test_no_timesteps_are_refused() -> None:
    with pytest.raises(ConfigError, match="timesteps: expected 1 or more, got 0"):
        CosineDiffusion(0)


@pytest.mark.parametrize(("timesteps", "steps", "hint"), [(200, 60, "40, 50, 100"), (4, 4, "1, 2"), (1, 1, "none")])
def test_steps_that_do_not_fit_are_refused_with_those_that_do(timesteps: int, steps: int, hint: str) -> None:
    with pytest.raises(ConfigError, match=f"{steps} evenly spaced steps do not fit {timesteps}") as caught:
        CosineDiffusion(timesteps).ddim_timesteps(steps)
    assert hint in caught.value.hint


@pytest.mark.parametrize(("timesteps", "steps"), [(4, 0), (200, 50), (1000, 50), (90, 45), (19, 0)])
def test_short_schedules_are_walked_whole_and_long_ones_in_some_fifty_steps(timesteps: int, steps: int) -> None:
    assert CosineDiffusion(timesteps).usual_ddim_steps == steps
