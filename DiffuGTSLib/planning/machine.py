"""What a device has: memory that is free, and how fast it works through our networks.

A GPU's speed follows from its name: the peak of dense bfloat16 in its vendor's data sheet, of which we take a share. No
figure of a GPU here was measured by us; `--tflops` replaces them by one that you measured. A CPU is measured on the spot, with
one small window of the very network.
"""

import copy
import math
import re
import sys
import time
from dataclasses import dataclass, replace
from typing import TypeVar, cast

import psutil  # type: ignore[import-untyped]
import torch

from DiffuGTSLib.config import Config, RuntimeConfig
from DiffuGTSLib.device import find_device, has_bfloat16, use_fastest_layout
from DiffuGTSLib.errors import ConfigError
from DiffuGTSLib.planning.costs import Sketch, look_cost
from DiffuGTSLib.planning.job_limits import UNLIMITED, job_limits

Part = TypeVar("Part")

GB = 1e9

BASE_BYTES = {"cpu": 0.8 * GB, "cuda": 0.6 * GB}
"""Before any network: torch, MONAI and their companions in the process; CUDA's context and libraries on the card."""

PEAK_TFLOPS = {
    "gh200": 989.0, "h200": 989.0, "h100": 989.0, "h100 nvl": 835.0, "h100 pcie": 756.0, "a100": 312.0, "l40s": 362.0,
    "l40": 181.0, "l4": 121.0, "a10": 125.0, "a6000": 155.0, "a5000": 111.0, "a4000": 77.0, "rtx 6000 ada": 364.0,
    "4090": 165.0, "4080": 97.0, "4070": 58.0, "4060": 30.0, "3090": 71.0, "3080": 60.0, "3070": 41.0, "3060": 26.0,
}  # fmt: skip
"""Dense bfloat16 with float32 accumulation, 10^12 operations a second, of the vendor's data sheets; by words of the name."""

_LESS_THAN_ITS_NAME = re.compile(r"\b(laptop|mobile|max-q|mig)\b")
"""In the name of a card that is slower than the one it is named after, and of a part of one."""

SHARE_OF_PEAK = 0.2
"""What our networks reach of it: assumed. NVIDIA's published times come to 0.06 to 0.13, our aim is 0.35."""

FLOAT32_SHARE = 0.25
"""Speed in float32, as a share of that in bfloat16: assumed."""

_PROBE_FLOP = 2e11
"""About two seconds of a core."""


@dataclass(frozen=True)
class Machine:
    """The device that a plan is for.

    Attributes:
        device: "cpu" or "cuda".
        name: As people call it.
        memory_bytes: What the plan may use, all in all.
        memory_source: Where that figure comes from, in words.
        tflops: 10^12 operations a second in bfloat16 on CUDA, on a CPU in the precision that is asked for; None where
            nobody asked.
        tflops_source: Where that comes from, in words.
        main_memory_bytes: Beside a card, what the plan may use of this computer's; None on a CPU, where it is the same,
            and where the card is elsewhere.
        main_memory_source: Where that figure comes from, in words.
        bfloat16: Whether a card computes in half precision itself; one that is elsewhere is taken to.
    """

    device: str
    name: str
    memory_bytes: float
    memory_source: str
    tflops: float | None = None
    tflops_source: str = "not asked for"
    main_memory_bytes: float | None = None
    main_memory_source: str = ""
    bfloat16: bool = True

    def speed(self, precision: str) -> float | None:
        """Return operations a second in a precision, or None."""
        if self.tflops is None:
            return None
        slow = self.device == "cuda" and precision == "float32"
        return 1e12 * self.tflops * (FLOAT32_SHARE if slow else 1.0)


def find_machine(runtime: RuntimeConfig) -> Machine:
    """Return the device of a configuration with the memory that it may use; its speed is not looked for.

    Args:
        runtime: "cuda" may name a card that is not here, if `memory_gb` says what it has.

    Raises:
        ConfigError: If the device is not here and nothing is known of it.
    """
    wish = runtime.device if runtime.device != "auto" else ("cuda" if torch.cuda.is_available() else "cpu")
    absent = re.fullmatch(r"cuda(:\d+)?", wish) is not None and not torch.cuda.is_available()
    if absent and runtime.memory_gb == 0:
        raise ConfigError("There is no CUDA GPU here to plan for.", hint="say how much memory yours has: --memory 8GB.")
    device = torch.device("cuda") if absent else find_device(runtime)
    name = _name(device, absent)
    if device.type == "cpu":
        return Machine("cpu", name, *((runtime.memory_gb * GB, "as asked") if runtime.memory_gb else cpu_memory()))
    beside, beside_source = (None, "") if absent else cpu_memory()
    if runtime.memory_gb:
        memory, source = runtime.memory_gb * GB, "as asked"
    else:
        free, _ = torch.cuda.mem_get_info(device)
        memory, source = free + torch.cuda.memory_reserved(device) + BASE_BYTES["cuda"], "free on the card"
    return Machine(
        "cuda", name, memory, source, main_memory_bytes=beside, main_memory_source=beside_source,
        bfloat16=absent or has_bfloat16(device),
    )  # fmt: skip


def cpu_memory() -> tuple[float, str]:
    """Return what this process may hold in all, and what limits it: the machine, its container, job or shell."""
    process = psutil.Process()
    held = process.memory_info()
    limits = [(held.rss + psutil.virtual_memory().available, "free in this computer")]
    limits += job_limits(held.rss)
    if sys.platform != "win32":
        import resource

        address_space = resource.getrlimit(resource.RLIMIT_AS)[0]
        if 0 < address_space < UNLIMITED:  # counts what is mapped, of which we hold a part
            limits.append((held.rss + max(0, address_space - held.vms), "the limit of address space (ulimit -v)"))
    return min(limits)


def with_speed(machine: Machine, networks: Sketch, config: Config, tflops: float | None) -> Machine:
    """Return the machine with its speed: as told, of its name's table, or measured.

    Raises:
        ConfigError: A GPU that is not in the table, and nobody said how fast it is; a speed that is none.
    """
    if tflops is not None:
        if not (tflops > 0 and math.isfinite(tflops)):
            raise ConfigError(f"--tflops: expected a number above 0, got {tflops}.")
        return replace(machine, tflops=tflops, tflops_source="as asked")
    if machine.device == "cpu":
        return replace(machine, tflops=_measured(networks, config), tflops_source="measured now, one small window")
    key = _known_card(machine.name.lower())
    if key is None:
        raise ConfigError(
            f"How fast '{machine.name}' is is not known to us.",
            hint="say it in bfloat16 TFLOP/s that are reached, about a fifth of the data sheet's: --tflops 30.",
        )
    words = f"assumed: {SHARE_OF_PEAK:.0%} of the data sheet's {PEAK_TFLOPS[key]:.0f} TFLOP/s of '{key}'"
    return replace(machine, tflops=SHARE_OF_PEAK * PEAK_TFLOPS[key], tflops_source=words)


def _known_card(name: str) -> str | None:
    """Return the longest entry of the table whose words stand in a card's name, whole: an A1000 is no A100."""
    if _LESS_THAN_ITS_NAME.search(name):
        return None
    known = sorted(PEAK_TFLOPS, key=len, reverse=True)
    return next((key for key in known if re.search(rf"\b{re.escape(key)}\b", name)), None)


def _measured(networks: Sketch, config: Config) -> float:
    """Return 10^12 operations a second of this CPU, encoding a small window with the configuration's own network.

    In the configuration's precision. Its numbers are drawn anew, since speed does not depend on them; the second of two
    passes counts.
    """
    precision = config.runtime.precision
    side, multiple = config.backbone.window_voxels, max(networks.feature_encoder().feature_strides)
    while side > 32 and look_cost(networks, (side, side, side), "float32").flop > _PROBE_FLOP:
        side = max(32, side // 2 // multiple * multiple)
    cost = look_cost(networks, (side, side, side), "float32")
    filled: Sketch = replace(
        networks, **{name: _filled(getattr(networks, name), precision) for name in networks.looking}
    )
    generator = torch.Generator().manual_seed(0)
    image = torch.rand((1, 1, side, side, side), generator=generator)
    prompts = torch.rand((1, 2, int(filled.head.config["text_dim"])), generator=generator)
    seconds = math.inf
    for _ in range(2):
        begin = time.perf_counter()
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            filled.head(filled.feature_encoder().encode(image).features, prompts)
        seconds = time.perf_counter() - begin
    return cost.flop / seconds / 1e12


def _filled(part: Part, precision: str) -> Part:
    """Return a network of the same build with memory and small numbers in it."""
    filled = copy.deepcopy(part)
    module = cast(torch.nn.Module, filled).to_empty(device="cpu")
    use_fastest_layout(module, torch.device("cpu"), precision)
    for tensor in module.state_dict().values():
        tensor.fill_(0.01)
    return filled


def _name(device: torch.device, absent: bool) -> str:
    if device.type == "cuda":
        return "a CUDA GPU that is not here" if absent else torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} threads"
