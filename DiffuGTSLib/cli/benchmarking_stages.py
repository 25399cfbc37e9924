"""`bench-stages`: one way of running MAISI at its published size, stage by stage, in a process of its own.

The weights are drawn from a seed: times, memory and numbers of two ways can be compared, results mean nothing and are
never looked at. Floating-point operations are counted by torch on tensors without memory, a multiply-add as two.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from DiffuGTSLib.cli.options import Device
from DiffuGTSLib.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from torch import Tensor

    from DiffuGTSLib.aova import AovaHead
    from DiffuGTSLib.backbones.maisi import MaisiAutoencoder, MaisiUNet

OURS, PLAIN = "ours", "monai"
MODELS = ("maisi-ct", "tiny")
"""Whose size is timed; the second one is for tests."""

SPACING_MM = (1.5, 1.5, 1.5)
LESION_RADIUS_MM = 20.0
MARGIN_MM = 48.0
"""Around the lesion: about what the pipeline decodes of a scan with windows of 96 voxels; more where they are larger."""
WINDOW_VOXELS = {"cpu": 128, "cuda": 256}
"""Side of our windows: the largest that fit beside the networks into 8 GB and, in bfloat16, into a large card."""
OVERLAP = 0.25
TIMESTEP = 500.0
TEXT_DIM = 384


@dataclass(frozen=True)
class Figures:
    """What one stage costs.

    Attributes:
        stage: Its name.
        seconds: Of the clock on the wall.
        cpu_seconds: Of all cores together; what remains comparable when other programs want the cores too.
        windows: How many were computed.
        tflop: Computed in all of them, in 10^12 operations.
        base_mb: Memory in use before it began, MB (2^20): of the process on a CPU, of torch on a GPU.
        peak_mb: The most that was in use while it ran.
    """

    stage: str
    seconds: float
    cpu_seconds: float
    windows: int
    tflop: float
    base_mb: float | None
    peak_mb: float | None


def bench_stages(
    way: Annotated[str, typer.Argument(help=f"{OURS} or {PLAIN}.")],
    shape: Annotated[str, typer.Argument(help="As in 256x256x128.")],
    folder: Annotated[Path, typer.Argument(help="Takes what each stage puts out.")],
    model: Annotated[str, typer.Option("--model")] = MODELS[0],
    device: Device = "cpu",
    precision: Annotated[str, typer.Option(help="Of our way; MONAI's has the published one.")] = "float32",
    repeats: Annotated[int, typer.Option("--repeats")] = 1,
) -> None:
    """Run the stages of one way, keep what they put out, and print their figures as JSON."""
    import torch

    from DiffuGTSLib.config import RuntimeConfig
    from DiffuGTSLib.device import find_device

    where = find_device(RuntimeConfig(device=device or "cpu", precision=precision))
    sides = parse_shape(shape)
    half = where.type == "cuda" if way == PLAIN else precision == "bfloat16"
    with torch.inference_mode():
        stages = _plain_stages(model, sides, where) if way == PLAIN else _our_stages(model, sides, where, precision)
        peak = matmul_tflops(where, half)
        figures = [_measured(stage, where, repeats, folder) for stage in stages]
    found = {
        "way": way,
        "shape": list(sides),
        "device": torch.cuda.get_device_name(where) if where.type == "cuda" else "CPU",
        "threads": torch.get_num_threads(),
        "matmul_tflops": peak,
        "stages": [asdict(each) for each in figures],
    }
    typer.echo(json.dumps(found))


def parse_shape(text: str) -> tuple[int, int, int]:
    """Read "128" or "256x256x128", voxels.

    Raises:
        ConfigError: If it is neither, or no multiple of 32.
    """
    parts = text.strip().lower().split("x")
    sides = [int(part) for part in parts if part.isdecimal()]
    if len(sides) != len(parts) or len(sides) not in (1, 3) or any(side < 32 or side % 32 for side in sides):
        raise ConfigError(
            f"Cannot take the size '{text}': expected one side or three, as in 128 or 256x256x128, multiples of 32."
        )
    x, y, z = sides * 3 if len(sides) == 1 else sides
    return x, y, z


# What is measured


@dataclass(frozen=True)
class _Stage:
    """Something to run; `windows` counts while it runs, `flop` is of one window."""

    name: str
    run: Callable[[], Tensor]
    windows: Callable[[], int]
    flop: float


def random_networks(model: str) -> tuple[MaisiAutoencoder, MaisiUNet]:
    """Build networks of a published size with weights drawn from seed 0.

    Raises:
        ConfigError: Unknown model.
    """
    from DiffuGTSLib.backbones.maisi import MaisiAutoencoder, MaisiUNet, published_networks
    from DiffuGTSLib.backbones.weights import draw_where_zero, freeze, seeded

    if model not in MODELS:
        raise ConfigError(f"Unknown model '{model}'.", hint=did_you_mean(model, MODELS))
    with seeded(0):
        if model == "tiny":
            autoencoder = MaisiAutoencoder((8, 8, 8), (1, 1, 1), norm_num_groups=4)
            unet = MaisiUNet(
                num_channels=(8, 16), attention_levels=(False, True), num_head_channels=(0, 8), num_res_blocks=1,
                norm_num_groups=4,
            )  # fmt: skip
        else:
            autoencoder, unet = published_networks(model)
        draw_where_zero(unet)
    return freeze(autoencoder), freeze(unet)


def _our_stages(model: str, shape: tuple[int, int, int], device: Any, precision: str) -> list[_Stage]:
    """Return the stages as the pipeline runs them."""
    import torch

    from DiffuGTSLib.backbones import FLOW_SCHEDULER
    from DiffuGTSLib.backbones.maisi import MaisiDenoiser
    from DiffuGTSLib.backbones.schedules import build_schedule
    from DiffuGTSLib.backbones.windows import decode_scan, encode_scan
    from DiffuGTSLib.device import use_fastest_layout
    from DiffuGTSLib.inpainting import cell_box
    from DiffuGTSLib.volumes.boxes import bounding_box

    autoencoder, unet = (network.to(device) for network in random_networks(model))
    head = _random_head(autoencoder).to(device)
    for network in (autoencoder, unet, head):
        use_fastest_layout(network, device, precision)
    denoiser = MaisiDenoiser(unet, build_schedule(FLOW_SCHEDULER), "flow", {"CT": 1})
    image, noisy, lesion = (tensor.to(device) for tensor in _inputs(shape))
    side = min(max(shape), WINDOW_VOXELS[device.type])
    window = tuple(min(side, length) for length in shape)
    autoencoder_calls = _Calls(autoencoder)
    half = torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")

    def encode() -> Tensor:
        with half:
            return encode_scan(image, autoencoder_calls, side, OVERLAP, _nobody).float()

    def attend() -> Tensor:
        with half:
            maps: Tensor = head(autoencoder_calls.features, prompts).maps
            return maps.float()

    def denoise() -> Tensor:
        with half:
            said = denoiser(noisy, TIMESTEP, SPACING_MM, "CT")
            velocity: Tensor = said.clean - said.noise
            return velocity.float()

    def decode() -> Tensor:
        with half:
            return decode_scan(noisy, autoencoder_calls, side, OVERLAP, _nobody, lesion).float()

    def decode_box() -> Tensor:
        with half:
            return decode_scan(noisy[(..., *box)], autoencoder_calls, side, OVERLAP, _nobody, lesion[box]).float()

    margin_mm = MARGIN_MM / autoencoder.downsampling  # of cells that are taken for voxels
    box = cell_box(bounding_box(lesion.cpu().numpy()), lesion.shape, 1, unet.side_multiple, margin_mm, SPACING_MM)
    box_window = tuple(min(side, autoencoder.downsampling * (part.stop - part.start)) for part in box)
    prompts = torch.eye(2, TEXT_DIM, device=device)[None]
    flop, flop_of_box = _flop(model, window, shape), _flop(model, box_window, shape)
    return [
        _Stage("encode", encode, autoencoder_calls.taken, flop["encode"]),
        _Stage("attend", attend, lambda: 1, flop["attend"]),
        _Stage("denoise step", denoise, lambda: 1, flop["denoise step"]),
        _Stage("decode", decode, autoencoder_calls.taken, flop["decode"]),
        _Stage("decode box", decode_box, autoencoder_calls.taken, flop_of_box["decode"]),
    ]


def _plain_stages(model: str, shape: tuple[int, int, int], device: Any) -> list[_Stage]:
    """Return the same stages from MONAI's parts; it has no attention."""
    from DiffuGTSLib.backbones import maisi_plain
    from DiffuGTSLib.backbones.windows import window_count

    plain = maisi_plain.PlainMaisi(*random_networks(model), device)
    image, noisy, _ = (tensor.to(device) for tensor in _inputs(shape))
    cells = noisy.shape[2:]
    window = tuple(min(pair) for pair in zip(maisi_plain.ENCODE_WINDOW, shape, strict=True))
    cell_window = tuple(min(pair) for pair in zip(maisi_plain.DECODE_WINDOW, cells, strict=True))
    windows = window_count(shape, window, maisi_plain.OVERLAP)
    cell_windows = window_count(cells, cell_window, maisi_plain.OVERLAP)
    decoded = tuple(side * image.shape[2] // cells[0] for side in cell_window)
    flop, flop_of_decoded = _flop(model, window, shape), _flop(model, decoded, shape)

    def denoise() -> Tensor:
        return plain.velocity(noisy, TIMESTEP, SPACING_MM, 1).float()

    return [
        _Stage("encode", lambda: plain.encode(image).float(), lambda: windows, flop["encode"]),
        _Stage("denoise step", denoise, lambda: 1, flop["denoise step"]),
        _Stage("decode", lambda: plain.decode(noisy).float(), lambda: cell_windows, flop_of_decoded["decode"]),
    ]


class _Calls:
    """An autoencoder that counts its windows and keeps the features of the last one."""

    def __init__(self, inner: MaisiAutoencoder) -> None:
        self._inner = inner
        self._calls = 0
        self.features: tuple[Tensor, ...] = ()
        self.downsampling, self.latent_channels = inner.downsampling, inner.latent_channels
        self.feature_channels, self.feature_strides = inner.feature_channels, inner.feature_strides

    def encode(self, image: Tensor) -> Any:
        self._calls += 1
        encoding = self._inner.encode(image)
        self.features = encoding.features
        return encoding

    def decode(self, latent: Tensor) -> Tensor:
        self._calls += 1
        self.features = ()
        return self._inner.decode(latent)

    def taken(self) -> int:
        """Return the count since the last time it was asked."""
        calls, self._calls = self._calls, 0
        return calls


def _inputs(shape: tuple[int, int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """Draw an image and a noisy latent from seed 0, and mark the latent cells of a ball in the middle."""
    import torch

    draw = torch.Generator().manual_seed(0)
    image = torch.rand(1, 1, *shape, generator=draw)
    cells = [side // 4 for side in shape]
    noisy = torch.randn(1, 4, *cells, generator=draw)
    axes = [(torch.arange(count) - (count - 1) / 2) * 4 * mm for count, mm in zip(cells, SPACING_MM, strict=True)]
    distance_mm = sum(axis**2 for axis in torch.meshgrid(*axes, indexing="ij")) ** 0.5
    return image, noisy, distance_mm <= LESION_RADIUS_MM


def _random_head(autoencoder: MaisiAutoencoder) -> AovaHead:
    """Return a head of the bundled one's form for these features."""
    from DiffuGTSLib.aova import AovaHead
    from DiffuGTSLib.backbones.weights import freeze, seeded
    from DiffuGTSLib.planning.costs import HEAD_FORM

    with seeded(0):
        head: AovaHead = freeze(AovaHead(autoencoder.feature_channels, TEXT_DIM, **HEAD_FORM))
    return head


def _nobody(done: int, total: int) -> None:
    """Report to nobody."""


# How it is measured


def _measured(stage: _Stage, device: Any, repeats: int, folder: Path) -> Figures:
    """Run a stage, after one run for practice on a GPU; keep its fastest time and its last output."""
    import numpy as np
    import torch

    if device.type == "cuda":
        stage.run()
    base_mb = _begin_peak(device)
    times = []
    for _ in range(repeats):
        stage.windows()
        wall_s, cpu_s = time.perf_counter(), time.process_time()
        output = stage.run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append((time.perf_counter() - wall_s, time.process_time() - cpu_s))
    windows = stage.windows()
    np.save(folder / f"{stage.name}.npy", output.cpu().numpy())
    seconds, cpu_seconds = (round(min(column), 4) for column in zip(*times, strict=True))
    tflop = round(windows * stage.flop / 1e12, 6)
    return Figures(stage.name, seconds, cpu_seconds, windows, tflop, base_mb, _peak_mb(device))


def _flop(model: str, window: tuple[int, ...], shape: tuple[int, int, int]) -> dict[str, float]:
    """Return the floating-point operations of each stage: of one window of the autoencoder, of one step of the scan.

    Args:
        model: Whose size.
        window: What the autoencoder sees at once, voxels.
        shape: Of the scan, whose latent the denoiser sees whole.
    """
    import torch

    from DiffuGTSLib.backbones import FLOW_SCHEDULER
    from DiffuGTSLib.backbones.maisi import MaisiDenoiser
    from DiffuGTSLib.backbones.schedules import build_schedule
    from DiffuGTSLib.planning.costs import Sketch, decode_cost, encode_cost, look_cost, step_cost

    with torch.device("meta"):
        autoencoder, unet = random_networks(model)
        head = _random_head(autoencoder)
    networks = Sketch(autoencoder, MaisiDenoiser(unet, build_schedule(FLOW_SCHEDULER), "flow", {"CT": 1}), head, "CT")
    encode = encode_cost(networks, window, "float32").flop
    return {
        "encode": encode,
        "attend": look_cost(networks, window, "float32").flop - encode,
        "denoise step": step_cost(networks, shape, "float32").flop,
        "decode": decode_cost(networks, window, "float32").flop,
    }


def matmul_tflops(device: Any, half: bool) -> dict[str, float]:
    """Return the best of some matrix products, 10^12 operations a second: what this device can do at all.

    In bfloat16 or float32; "cpu" is a second of all cores together, what `Figures.cpu_seconds` counts.
    """
    import torch

    side = 8192 if device.type == "cuda" else 2048
    factor = torch.rand(side, side, device=device, dtype=torch.bfloat16 if half else torch.float32)
    wall_best, cpu_best = float("inf"), float("inf")
    for _ in range(5):
        wall_s, cpu_s = time.perf_counter(), time.process_time()
        factor @ factor
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        wall_best = min(wall_best, time.perf_counter() - wall_s)
        cpu_best = min(cpu_best, time.process_time() - cpu_s)
    return {"wall": round(2 * side**3 / wall_best / 1e12, 4), "cpu": round(2 * side**3 / cpu_best / 1e12, 4)}


def _begin_peak(device: Any) -> float | None:
    """Forget the peak so far, where the system can, and return what is in use, MB (2^20)."""
    import torch

    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return round(torch.cuda.memory_allocated(device) / 2**20, 1)
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # Linux: the peak begins anew
    except OSError:
        return None
    return _linux_memory_mb("VmRSS")


def _peak_mb(device: Any) -> float | None:
    """Return the most that was in use, MB (2^20); outside Linux since the process began, on Windows None."""
    import torch

    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 2**20, 1)
    return _linux_memory_mb("VmHWM") if sys.platform == "linux" else peak_memory_mb()


def peak_memory_mb() -> float | None:
    """Return the most memory that this process has held so far, in MB (2^20); None where the system does not say."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10), 1)


def _linux_memory_mb(name: str) -> float | None:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{name}:"):
            return round(int(line.split()[1]) / 2**10, 1)
    return None
