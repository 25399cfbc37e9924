"""The cosine schedule of the latent painter, and the two ways to walk it: DDPM for 4 steps, DDIM for 200.

    paper                  here
    x0, xt                 clean, noisy latent
    ε                      noise
    β, ᾱ                   betas, alphas_cumprod
    posterior mean c1, c2  posterior_mean_coef1 · x0 + posterior_mean_coef2 · xt

Follows DiffTumor (Chen et al., CVPR 2024), its second step, the diffusion model. What a sampler asks for noise is any
function of (noisy latent, timestep of each sample), so that the network, its condition and its device stay with the
caller. Random numbers are drawn on the CPU: a seed means the same on every device; a list of generators, one a sample,
makes a batch equal its samples one by one.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from diffusers.utils.torch_utils import randn_tensor
from jaxtyping import Float, Int
from torch import Tensor

from DiffuGTSLib.errors import ConfigError

PredictNoise = Callable[[Tensor, Tensor], Tensor]
"""(noisy latent (b, e, z, x, y), timesteps (b,)) → the noise in it."""

Generators = torch.Generator | Sequence[torch.Generator]

TABLES = (
    "betas", "alphas_cumprod", "alphas_cumprod_prev", "sqrt_alphas_cumprod", "sqrt_one_minus_alphas_cumprod",
    "log_one_minus_alphas_cumprod", "sqrt_recip_alphas_cumprod", "sqrt_recipm1_alphas_cumprod", "posterior_variance",
    "posterior_log_variance_clipped", "posterior_mean_coef1", "posterior_mean_coef2",
)  # fmt: skip
"""The twelve tables of a published file, each as long as there are timesteps."""


class CosineDiffusion:
    """A fixed schedule: how much noise each timestep holds, and how to get rid of it.

    Args:
        timesteps: 4 for early tumors, 200 for later ones (DiffTumor).

    Attributes:
        timesteps: How many there are.
        tables: Name in `TABLES` → float32 (timesteps,), on the CPU.

    Raises:
        ConfigError: For less than one timestep.
    """

    def __init__(self, timesteps: int) -> None:
        if timesteps < 1:
            raise ConfigError(f"timesteps: expected 1 or more, got {timesteps}.")
        self.timesteps = timesteps
        self.tables = {name: torch.from_numpy(table).float() for name, table in _cosine_tables(timesteps).items()}

    def add_noise(
        self, x0: Float[Tensor, "b e z x y"], t: Int[Tensor, " b"], noise: Float[Tensor, "b e z x y"]
    ) -> Float[Tensor, "b e z x y"]:
        """Return √ᾱ · x0 + √(1 - ᾱ) · noise."""
        return self._at("sqrt_alphas_cumprod", t, x0) * x0 + self._at("sqrt_one_minus_alphas_cumprod", t, x0) * noise

    def predict_x0(
        self, xt: Float[Tensor, "b e z x y"], t: Int[Tensor, " b"], noise: Float[Tensor, "b e z x y"]
    ) -> Float[Tensor, "b e z x y"]:
        """Return the clean latent that a noisy one and the noise in it imply; undoes `add_noise`."""
        recip, recipm1 = (self._at(f"sqrt_{name}_alphas_cumprod", t, xt) for name in ("recip", "recipm1"))
        return recip * xt - recipm1 * noise

    @torch.no_grad()
    def ddpm_sample(
        self,
        predict_noise: PredictNoise,
        shape: Sequence[int],
        generator: Generators,
        *,
        device: torch.device | str = "cpu",
    ) -> Float[Tensor, "b e z x y"]:
        """Walk every timestep from pure noise to a clean latent (ancestral sampling).

        Each clean estimate is kept within -1 to 1: with 4 timesteps the first multiplies the network's error by 263.

        Args:
            predict_noise: The network with its condition.
            shape: (b, e, z, x, y) of the latent.
            generator: On the CPU; one, or one a sample.
            device: Where the latents are.
        """
        xt = _noise(shape, generator, device)
        for step in reversed(range(self.timesteps)):
            t = torch.full((shape[0],), step, device=device)
            x0 = self.predict_x0(xt, t, predict_noise(xt, t)).clamp(-1, 1)
            xt = self._at("posterior_mean_coef1", t, xt) * x0 + self._at("posterior_mean_coef2", t, xt) * xt
            if step > 0:
                deviation = (0.5 * self._at("posterior_log_variance_clipped", t, xt)).exp()
                xt = xt + deviation * _noise(shape, generator, device)
        return xt

    @torch.no_grad()
    def ddim_sample(
        self,
        predict_noise: PredictNoise,
        shape: Sequence[int],
        generator: Generators,
        *,
        steps: int = 50,
        device: torch.device | str = "cpu",
    ) -> Float[Tensor, "b e z x y"]:
        """Walk evenly spaced timesteps from pure noise to a clean latent; nothing is clipped, nor drawn on the way.

        Args:
            predict_noise: The network with its condition.
            shape: (b, e, z, x, y) of the latent.
            generator: On the CPU; one, or one a sample.
            steps: How many; see `ddim_timesteps`.
            device: Where the latents are.

        Raises:
            ConfigError: As `ddim_timesteps`.
        """
        walk = self.ddim_timesteps(steps)
        powers = self.tables["alphas_cumprod"]
        before = [0, *walk[:-1]]  # DiffTumor ends at ᾱ[0], not at 1
        xt = _noise(shape, generator, device)
        for step, previous in zip(reversed(walk), reversed(before), strict=True):
            power, next_power = float(powers[step]), float(powers[previous])
            noise = predict_noise(xt, torch.full((shape[0],), step, device=device))
            x0 = (xt - (1 - power) ** 0.5 * noise) / power**0.5
            xt = next_power**0.5 * x0 + (1 - next_power) ** 0.5 * noise
        return xt

    def ddim_timesteps(self, steps: int) -> list[int]:
        """Return the timesteps of a walk, rising: every (timesteps / steps)-th, starting at 1.

        Raises:
            ConfigError: If the steps do not divide the timesteps, or leave no timestep out.
        """
        possible = [count for count in range(1, self.timesteps // 2 + 1) if self.timesteps % count == 0]
        if steps not in possible:
            raise ConfigError(
                f"steps: {steps} evenly spaced steps do not fit {self.timesteps} timesteps.",
                hint=f"choose one of {', '.join(map(str, possible)) or 'none: walk every timestep instead'}.",
            )
        return list(range(1, self.timesteps + 1, self.timesteps // steps))

    @property
    def usual_ddim_steps(self) -> int:
        """How many DDIM steps are usual: 50 or the most below that fit; 0, every timestep by DDPM, for short schedules."""
        if self.timesteps < 20:
            return 0
        return max(steps for steps in range(1, 51) if steps * 2 <= self.timesteps and self.timesteps % steps == 0)

    def _at(self, name: str, t: Tensor, like: Tensor) -> Tensor:
        """Return a table's values at the timesteps of a batch, shaped to multiply it."""
        return self.tables[name].to(like.device)[t].view(-1, 1, 1, 1, 1)


def _noise(shape: Sequence[int], generator: Generators, device: torch.device | str) -> Tensor:
    generators = generator if isinstance(generator, torch.Generator) else list(generator)
    noise: Tensor = randn_tensor(tuple(shape), generator=generators, device=torch.device("cpu"))
    return noise.to(device)


def _cosine_tables(timesteps: int) -> dict[str, np.ndarray]:
    """Return the tables in float64. ᾱ(u) = cos²((u + 0.008) / 1.008 · π / 2), and no β above 0.9999."""
    u = np.linspace(0, 1, timesteps + 1)
    signal = np.cos((u + 0.008) / 1.008 * np.pi / 2) ** 2
    betas = np.clip(1 - signal[1:] / signal[:-1], 0, 0.9999)
    powers = np.cumprod(1 - betas)
    previous = np.append(1.0, powers[:-1])
    variance = betas * (1 - previous) / (1 - powers)
    return {
        "betas": betas,
        "alphas_cumprod": powers,
        "alphas_cumprod_prev": previous,
        "sqrt_alphas_cumprod": np.sqrt(powers),
        "sqrt_one_minus_alphas_cumprod": np.sqrt(1 - powers),
        "log_one_minus_alphas_cumprod": np.log(1 - powers),
        "sqrt_recip_alphas_cumprod": np.sqrt(1 / powers),
        "sqrt_recipm1_alphas_cumprod": np.sqrt(1 / powers - 1),
        "posterior_variance": variance,
        "posterior_log_variance_clipped": np.log(np.maximum(variance, 1e-20)),
        "posterior_mean_coef1": betas * np.sqrt(previous) / (1 - powers),
        "posterior_mean_coef2": (1 - previous) * np.sqrt(1 - betas) / (1 - powers),
    }
