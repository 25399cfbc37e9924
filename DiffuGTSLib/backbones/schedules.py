"""Noise schedules, backed by diffusers' schedulers, reduced to one question: how much signal, how much noise?

With `levels(t) = (signal, sigma)` one inpainting step serves every backbone:
next = signal' · clean + sigma' · noise. It equals DDIM's step (η = 0) and rectified flow's Euler step; both are tests.
"""

import numpy as np
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler

from DiffuGTSLib.errors import WeightsError

_MOST_STEPS = 100_000
"""Of training; the published networks have 1000."""


class FlowSchedule:
    """Rectified flow: latent = (1 - s) · clean + s · noise, timestep = 1000 s (MAISI's `RFlowScheduler`).

    More latent voxels need more noise to hide the same picture: MAISI shifts the levels by
    (voxels / 32³)^(1/3). Without it ("shift" 1) levels are even.
    """

    def __init__(self, scheduler: FlowMatchEulerDiscreteScheduler) -> None:
        self.scheduler = scheduler
        self.train_timesteps = int(scheduler.config["num_train_timesteps"])
        self._resolution_shift = bool(scheduler.config.get("use_dynamic_shifting", False))

    def timesteps(self, steps: int, latent_voxels: int, start: float = 1.0) -> list[float]:
        """Return `steps` + 1 falling timesteps from `start` (1 = pure noise) to 0."""
        shift = (latent_voxels / 32**3) ** (1 / 3) if self._resolution_shift else 1.0
        levels = np.linspace(start, 0.0, steps + 1)
        levels = shift * levels / (1 + (shift - 1) * levels)
        return [float(level * self.train_timesteps) for level in levels]

    def levels(self, timestep: float) -> tuple[float, float]:
        """Return (1 - s, s)."""
        sigma = timestep / self.train_timesteps
        return 1.0 - sigma, sigma


class DdimSchedule:
    """DDPM's noise levels, walked in DDIM's strides: latent = √ᾱ · clean + √(1 - ᾱ) · noise.

    MONAI's own `DDPMScheduler.step` is wrong for strided steps (it takes t - 1 as predecessor), so MAISI-v1 is
    run by DDIM here.
    """

    END = -1.0
    """The timestep after the last: no noise."""

    def __init__(self, scheduler: DDIMScheduler) -> None:
        self.scheduler = scheduler
        self.train_timesteps = int(scheduler.config["num_train_timesteps"])
        self._signal_power = scheduler.alphas_cumprod.double().numpy()
        if not ((self._signal_power >= 0) & (self._signal_power <= 1)).all():
            raise ValueError("its betas leave a share of signal that does not lie within 0 and 1")

    def timesteps(self, steps: int, latent_voxels: int, start: float = 1.0) -> list[float]:
        """Return `steps` + 1 falling timesteps, evenly spaced ("linspace"), the last one `END`."""
        grid = np.linspace(start * (self.train_timesteps - 1), 0, steps).round()
        return [*(float(t) for t in grid), self.END]

    def levels(self, timestep: float) -> tuple[float, float]:
        """Return (√ᾱ_t, √(1 - ᾱ_t)); (1, 0) at `END`."""
        power = 1.0 if timestep == self.END else float(self._signal_power[round(timestep)])
        return power**0.5, (1.0 - power) ** 0.5


def build_schedule(config: dict[str, object]) -> FlowSchedule | DdimSchedule:
    """Build a schedule from diffusers' `scheduler_config.json`.

    Raises:
        WeightsError: If the scheduler class is neither flow matching nor DDIM, or its values make no schedule.
    """
    name, steps = config.get("_class_name"), config.get("num_train_timesteps", 1000)
    hint = "check scheduler/scheduler_config.json of the model folder."
    if name not in ("FlowMatchEulerDiscreteScheduler", "DDIMScheduler"):
        raise WeightsError(
            f"Unknown noise scheduler '{name}'; expected FlowMatchEulerDiscreteScheduler or DDIMScheduler.", hint=hint
        )
    if type(steps) is not int or not 1 <= steps <= _MOST_STEPS:
        raise WeightsError(f"num_train_timesteps: expected 1 to {_MOST_STEPS}, got {steps!r}.", hint=hint)
    try:
        if name == "DDIMScheduler":
            return DdimSchedule(DDIMScheduler.from_config(config))
        return FlowSchedule(FlowMatchEulerDiscreteScheduler.from_config(config))
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise WeightsError(f"scheduler_config.json describes no {name}: {error}.", hint=hint) from error
