"""Segmenting by plan: where memory runs out all the same, one rung down, with a message, and on."""

import gc
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import torch

from DiffuGTSLib.components import Components
from DiffuGTSLib.config import Config
from DiffuGTSLib.device import find_device
from DiffuGTSLib.errors import MemoryLimitError
from DiffuGTSLib.pipeline import Segmentation, segment
from DiffuGTSLib.planning.machine import cpu_memory
from DiffuGTSLib.planning.plan import Plan, make_plan
from DiffuGTSLib.text.prompts import PromptPair
from DiffuGTSLib.volumes import Geometry, Volume


def plan_here(geometry: Geometry, config: Config, *, grid_fixed: bool = False, given_up: Iterable[str] = ()) -> Plan:
    """Return the plan of a run that begins now, on this machine; see `make_plan`.

    Raises:
        ConfigError: If the device that was asked for is not here; a mere plan may be for another machine.
        Others: As `make_plan`.
    """
    find_device(config.runtime)
    return make_plan(geometry, config, grid_fixed=grid_fixed, given_up=given_up)


def left_over_mb(plan: Plan) -> int:
    """Return the main memory that a plan leaves, MB (2^20): what may be remembered beside it."""
    if plan.machine.device == "cpu":
        return max(0, int((plan.machine.memory_bytes - plan.peak_bytes) / 2**20))
    return max(0, int((cpu_memory()[0] - plan.host_bytes) / 2**20))


def segment_by_plan(
    volume: Volume,
    prompts: PromptPair,
    components: Components,
    plan: Plan,
    *,
    on_step_down: Callable[[str], None] = lambda said: None,
    **options: Any,
) -> Segmentation:
    """Run `pipeline.segment` as planned; out of memory, take the next rung of the ladder and begin the scan again.

    The result's configuration is the one that was used; `plan` and `stepped_down` say how it came to be.

    Args:
        volume: As for `segment`.
        prompts: As for `segment`.
        components: Loaded with the configuration of the plan, or with the one that was asked for.
        plan: Of this scan.
        on_step_down: Is told, in a sentence, what ran out and what is done now.
        options: What else `segment` takes, by name. Out of memory, a `memory` among it forgets all and keeps nothing more.

    Raises:
        MemoryLimitError: If memory runs out on the last rung too.
        Others: As `segment`.
    """
    stepped: list[str] = []
    while True:
        result = _attempt(volume, prompts, components, plan, options)
        if isinstance(result, Segmentation):
            return replace(result, plan=plan.to_dict(), stepped_down=tuple(stepped))
        plan = make_plan(
            plan.geometry, plan.asked, plan.machine, grid_fixed=plan.grid_fixed, first=plan.rung + 1, trust=True,
            given_up=plan.given_up,
        )  # fmt: skip
        stepped.append(f"{result.rstrip('.')}; went on with {plan.ladder[plan.rung]}")
        on_step_down(f"{stepped[-1]}.")
        if options.get("memory") is not None:
            options["memory"].limit(0)  # what is remembered would only run out sooner again
        give_memory_back()


def _attempt(
    volume: Volume, prompts: PromptPair, components: Components, plan: Plan, options: dict[str, Any]
) -> Segmentation | str:
    """Return the result, or what ran out; the failed attempt's tensors go with its frames when this returns."""
    try:
        return segment(volume, prompts, components, plan.config, **options)
    except MemoryLimitError as error:
        if plan.rung + 1 == len(plan.ladder):
            raise
        return error.message


def give_memory_back() -> None:
    """Free what nobody holds any more, on the graphics card too: other programs need it."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
