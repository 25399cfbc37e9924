"""The plan of one scan: which rung of the ladder fits into memory, and what each stage will take of it and of time.

    plan = make_plan(read_geometry(path), config)

Needs the scan's grid only. Memory is that of the worst case, a candidate that fills the scan; time is that of one candidate
of `CANDIDATE_MM`, since nobody knows before what will be found; each further one takes the same again.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from DiffuGTSLib.backbones.interfaces import require_whole_cells
from DiffuGTSLib.backbones.windows import aligned_overlap, window_count
from DiffuGTSLib.config import Config
from DiffuGTSLib.errors import MemoryLimitError
from DiffuGTSLib.planning.costs import Sketch, decode_cost, look_cost, sketch, step_cost
from DiffuGTSLib.planning.ladder import Rung, ladder
from DiffuGTSLib.planning.machine import BASE_BYTES, GB, Machine, find_machine
from DiffuGTSLib.twins import box_and_view
from DiffuGTSLib.volumes.canonical import canonical_grid
from DiffuGTSLib.volumes.volume import Geometry

CANDIDATE_MM = 40.0
"""Side of the candidate for which time is predicted."""

ALLOWANCE = 1.25
"""Memory of a network's pass beyond what its tensors hold: workspaces of the convolutions, fragments of the allocator.
On a CPU, 1.1 (decoding 128³) to 1.25 (encoding 128³) were measured with the published networks; on a GPU assumed."""

_VOXELS_PER_S = 16e6
"""To the model's grid and back, of the scan's own voxels: 3 to 6 s for 512 × 512 × 300, estimated."""

_F32 = 4
_HOST = {"read": 16, "aova": 14, "repaint": 18, "residual": 18, "write back": 28}
"""Bytes that numpy holds a voxel of the scan, the scan itself included; measured, also with candidates that fill the scan.
Only a region that a person drew over all of it takes more, 42, while its own cut is sought."""

EVERY = ("autoencoder", "denoiser", "head")
"""Networks that hold weights."""

_SMOOTHED = 16
"""Grids of float32 that `smooth_within_edges` holds, in main memory, of the largest part, which may be the scan: 15.2 measured."""


@dataclass(frozen=True)
class StagePlan:
    """One stage of the road.

    Attributes:
        stage: As in progress.
        what: What is done how often, in words.
        windows: How many are seen or decoded; denoising steps are none.
        tflop: In 10^12 operations.
        seconds: None where nobody asked how fast the machine is.
        peak_bytes: On the device, everything included.
    """

    stage: str
    what: str
    windows: int
    tflop: float
    seconds: float | None
    peak_bytes: float


@dataclass(frozen=True)
class Plan:
    """How one scan will be segmented.

    Attributes:
        rung: Of the ladder, 0 = as asked.
        ladder: Names of all rungs.
        config: How it is run; differs from what was asked for below rung 0.
        geometry: The scan's.
        shape: Of the canonical grid.
        spacing_mm: Voxel size of the canonical grid.
        machine: What it is for.
        stages: In the order of the road.
        host_bytes: Main memory beside a GPU; 0 on a CPU, where it is in the stages.
        skipped: What will not be done, in words.
        notes: What to know of this grid, in words.
        grid_fixed: Whether the grid must stay.
        asked: What was asked for, or, for a further look at a scan, how it was looked at before.
        given_up: Keys in which that had already left what was asked for at first.
    """

    rung: int
    ladder: tuple[str, ...]
    config: Config
    geometry: Geometry
    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    machine: Machine
    stages: tuple[StagePlan, ...]
    host_bytes: float
    skipped: tuple[str, ...]
    notes: tuple[str, ...]
    grid_fixed: bool
    asked: Config
    given_up: tuple[str, ...] = ()

    @property
    def differs_from_asked(self) -> dict[str, Any]:
        """The keys whose values are not those that were asked for at first, with the values that are used."""
        used = self.config.to_dict()
        earlier = {key: used[key.split(".")[0]][key.split(".")[1]] for key in self.given_up}
        return {**earlier, **differences(self.asked, self.config)}

    @property
    def peak_bytes(self) -> float:
        """The most of all stages."""
        return max(stage.peak_bytes for stage in self.stages)

    @property
    def fits(self) -> bool:
        """Whether the machine has the memory; beside a card, of the computer too, where that is known."""
        beside = self.machine.main_memory_bytes
        return self.peak_bytes <= self.machine.memory_bytes and (beside is None or self.host_bytes <= beside)

    @property
    def seconds(self) -> float | None:
        """Of all stages, without loading and writing files."""
        known = [stage.seconds for stage in self.stages if stage.seconds is not None]
        return sum(known) if len(known) == len(self.stages) else None

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        stages = [{**asdict(stage), "peak_bytes": round(stage.peak_bytes)} for stage in self.stages]
        return {
            "rung": self.rung,
            "rung_name": self.ladder[self.rung],
            "ladder": list(self.ladder),
            "differs_from_asked": self.differs_from_asked,
            "grid": list(self.shape),
            "spacing_mm": [round(side, 4) for side in self.spacing_mm],
            "window_voxels": self.config.backbone.window_voxels,
            "precision": self.config.runtime.precision,
            "offload": self.config.runtime.offload,
            "steps": self.config.inpainting.steps,
            "machine": {
                key: round(value) if key.endswith("_bytes") and value is not None else value
                for key, value in asdict(self.machine).items()
            },
            "stages": stages,
            "peak_bytes": round(self.peak_bytes),
            "host_bytes": round(self.host_bytes),
            "seconds": self.seconds,
            "candidate_mm": CANDIDATE_MM,
            "skipped": list(self.skipped),
            "notes": list(self.notes),
        }


def make_plan(
    geometry: Geometry,
    config: Config,
    machine: Machine | None = None,
    *,
    networks: Sketch | None = None,
    grid_fixed: bool = False,
    first: int = 0,
    trust: bool = False,
    given_up: Iterable[str] = (),
) -> Plan:
    """Return the plan of the first rung that fits into the machine's memory.

    Args:
        geometry: The scan's grid.
        config: What is asked for.
        machine: With its speed where time matters; None: what `find_machine` finds.
        networks: Of the configuration; None builds them.
        grid_fixed: Leave the grid alone.
        first: The rung to begin with.
        trust: Take that rung whatever it needs: memory ran out above it, and nobody knows better.
        given_up: See `Plan`.

    Raises:
        MemoryLimitError: If not even the last rung fits.
        ConfigError: As `find_machine` and `require_whole_cells`.
    """
    machine = machine or find_machine(config.runtime)
    networks = networks or sketch(config)
    rungs = ladder(geometry, config, machine.device, grid_fixed=grid_fixed, bfloat16=machine.bfloat16)
    plans = []
    for index in range(first, len(rungs)):
        plan = _plan(index, rungs, geometry, machine, networks, grid_fixed, tuple(given_up))
        if trust or plan.fits:
            return plan
        plans.append(plan)
    raise _too_large(plans, machine)


def _too_large(plans: Sequence[Plan], machine: Machine) -> MemoryLimitError:
    """Say what the smallest way lacks: memory of the device, or, beside a card, of the computer."""
    smallest = min(plans, key=lambda plan: plan.peak_bytes)
    if smallest.peak_bytes > machine.memory_bytes:
        return MemoryLimitError(
            f"The scan needs {smallest.peak_bytes / GB:.1f} GB of memory at the least ({smallest.ladder[smallest.rung]}); "
            f"{machine.memory_bytes / GB:.1f} GB may be used ({machine.memory_source}).",
            hint="cut the scan to the region of interest, choose a smaller preset such as mini, or give it more: --memory.",
        )
    least = min((plan for plan in plans if plan.peak_bytes <= machine.memory_bytes), key=lambda plan: plan.host_bytes)
    return MemoryLimitError(
        f"Beside the card the scan needs {least.host_bytes / GB:.1f} GB of main memory at the least "
        f"({least.ladder[least.rung]}); {(machine.main_memory_bytes or 0) / GB:.1f} GB may be used "
        f"({machine.main_memory_source}).",
        hint="cut the scan to the region of interest, or ask the cluster or container for more main memory.",
    )


def differences(asked: Config, used: Config) -> dict[str, Any]:
    """Return the keys whose values differ, with the values that are used."""
    before, after = asked.to_dict(), used.to_dict()
    found = {}
    for stage, values in after.items():
        if isinstance(values, dict):
            found.update({f"{stage}.{key}": value for key, value in values.items() if before[stage].get(key) != value})
    return found


def _plan(
    index: int, rungs: Sequence[Rung], geometry: Geometry, machine: Machine, networks: Sketch, grid_fixed: bool,
    given_up: tuple[str, ...],
) -> Plan:  # fmt: skip
    config = rungs[index].config
    grid, _ = canonical_grid(geometry, config.canonical)
    require_whole_cells(grid.shape, networks.autoencoder, networks.denoiser)
    estimate = _Estimate(config, geometry, grid, machine, networks)
    stages = estimate.stages()
    host = 0.0 if machine.device == "cpu" else BASE_BYTES["cpu"] + max(map(estimate.numpy_bytes, _HOST))
    host += networks.weights_bytes(*EVERY) if estimate.offloads else 0.0
    return Plan(
        index, tuple(rung.name for rung in rungs), config, geometry, grid.shape, grid.spacing_mm, machine, stages,
        host, _skipped(config), _notes(config, grid, estimate.box_mm()), grid_fixed, rungs[0].config, given_up,
    )  # fmt: skip


@dataclass(frozen=True)
class _Estimate:
    """The stages of one rung."""

    config: Config
    geometry: Geometry
    grid: Geometry
    machine: Machine
    networks: Sketch

    def stages(self) -> tuple[StagePlan, ...]:
        """Return them in the order of the road."""
        voxels = math.prod(self.grid.shape)
        grid_bytes = _F32 * voxels
        carried_s = None if self.machine.tflops is None else math.prod(self.geometry.shape) / _VOXELS_PER_S
        window, precision = self._window(self.grid.shape), self.config.runtime.precision
        look = look_cost(self.networks, window, precision)
        box, view = self._box_and_view()
        step, widest_step = (step_cost(self.networks, shape, precision) for shape in (box, self.grid.shape))
        decode, widest_decode = (
            decode_cost(self.networks, self._window(s), precision) for s in (view, self.grid.shape)
        )
        again = look_cost(self.networks, self._window(view), precision)
        looks = 2 if self.config.backbone.mirror else 1
        seen, decoded = self._windows(self.grid.shape, looks), 2 * self._windows(view, 1)
        compare = f"{2 * self._windows(view, looks)} windows of both twins, encoded and attended to"
        compared, scratch = 2 * self._windows(view, looks), ALLOWANCE * look.peak_bytes
        if self.config.residual.feature == "projection":  # next to no work, but the whole latent at once
            compare, compared, scratch = "the twins' latents, projected", 0, self._projection_bytes()
        how = self.config.inpainting
        calls = how.steps * how.resample * how.seeds
        most = "up to " if how.resample > 1 else ""  # a step from pure noise is not repeated
        reach = " × ".join(map(str, window))
        # Offloaded, the denoiser alone is on the card, then the smaller autoencoder. Tensors of the whole scan: image,
        # blended map and its weights; then both twins, their maps and weights.
        return (
            self._stage("read", "to the model's grid", 0, 0.0, carried_s, 0.0, grid_bytes),
            self._stage("aova", f"{seen} windows of {reach}, encoded and attended to", seen, seen * look.flop, None,
                        ALLOWANCE * look.peak_bytes, 4 * grid_bytes, *self.networks.looking),
            self._stage("repaint", f"{most}{calls} steps on {_by(box)}, then {decoded} windows decoded", decoded,
                        calls * step.flop + decoded * decode.flop, None,
                        ALLOWANCE * max(widest_step.peak_bytes, widest_decode.peak_bytes), 6 * grid_bytes,
                        "denoiser"),
            self._stage("residual", compare, compared, compared * again.flop, None, scratch, 10 * grid_bytes,
                        *self.networks.looking),
            self._stage("write back", "to the scan's grid", 0, 0.0, carried_s, 0.0, 3 * grid_bytes),
        )  # fmt: skip

    def _stage(
        self, stage: str, what: str, windows: int, flop: float, seconds: float | None, scratch: float, tensors: float,
        *used: str,
    ) -> StagePlan:  # fmt: skip
        speed = self.machine.speed(self.config.runtime.precision)
        if seconds is None and speed is not None:
            seconds = flop / speed
        resident = self.networks.weights_bytes(*(used if self.offloads else EVERY))
        held = scratch
        if self.machine.device == "cpu":
            held = max(scratch + self._scan_bytes(stage), self.numpy_bytes(stage))  # smoothed when no window is left
        peak = BASE_BYTES[self.machine.device] + resident + held + tensors
        return StagePlan(stage, what, windows, flop / 1e12, seconds, peak)

    @property
    def offloads(self) -> bool:
        """Whether networks that are not in use wait in main memory; on a CPU they are there anyway."""
        return self.config.runtime.offload and self.machine.device == "cuda"

    def numpy_bytes(self, stage: str) -> float:
        """Return what numpy holds in a stage at the most, in main memory."""
        smoothed = stage == "aova" and self.config.masks.smooth_mm > 0
        return self._scan_bytes(stage) + (_SMOOTHED * _F32 * math.prod(self.grid.shape) if smoothed else 0)

    def _scan_bytes(self, stage: str) -> float:
        return float(_HOST[stage] * math.prod(self.geometry.shape))

    def _projection_bytes(self) -> float:
        """Return what projecting the whole scan's latent into the text's space holds: the projection and copies of it."""
        cells = math.prod(self.grid.shape) / self.networks.autoencoder.downsampling**3
        return 3.0 * _F32 * float(self.networks.head.config["text_dim"]) * cells

    def _window(self, shape: Sequence[int]) -> tuple[int, int, int]:
        x, y, z = (min(self.config.backbone.window_voxels, side) for side in shape)
        return x, y, z

    def _windows(self, shape: Sequence[int], looks: int) -> int:
        side, factor = self.config.backbone.window_voxels, self.networks.autoencoder.downsampling
        overlap = aligned_overlap(side, self.config.backbone.overlap, factor)
        return looks * window_count(shape, self._window(shape), overlap)

    def box_mm(self) -> tuple[float, ...]:
        """Return the sides of what the denoiser sees of a candidate in the scan's middle."""
        return tuple(n * s for n, s in zip(self._box_and_view()[0], self.grid.spacing_mm, strict=True))

    def _box_and_view(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the sides, in canonical voxels, of what is repainted and decoded of a candidate in the scan's middle."""
        shape, spacing_mm = self.grid.shape, self.grid.spacing_mm
        reach_mm = CANDIDATE_MM + 2 * self.config.masks.dilation_mm
        extents = [min(side, math.ceil(reach_mm / spacing)) for side, spacing in zip(shape, spacing_mm, strict=True)]
        starts = [(side - extent) // 2 for side, extent in zip(shape, extents, strict=True)]
        x, y, z = (slice(start, start + extent) for start, extent in zip(starts, extents, strict=True))
        factor = self.networks.autoencoder.downsampling
        cells, view = box_and_view(
            (x, y, z), shape, spacing_mm, self.config, factor, self.networks.denoiser.side_multiple
        )
        return tuple(factor * (c.stop - c.start) for c in cells), tuple(v.stop - v.start for v in view)


def _skipped(config: Config) -> tuple[str, ...]:
    skipped = ["decoding and comparing where nothing was repainted"]
    if config.masks.gate > 0:
        skipped.append(f"repainting, where the anomaly score is below {config.masks.gate:g}")
    return tuple(skipped)


def _notes(config: Config, grid: Geometry, box_mm: Sequence[float]) -> tuple[str, ...]:
    """Say where a published denoiser is led beyond the fields of view and voxels that it was trained with.

    Args:
        config: As it is run.
        grid: The whole scan's.
        box_mm: What the denoiser sees of it.
    """
    if not config.canonical.fit_multiple:
        return ()
    notes = []
    if "CT" in config.backbone.class_label:
        if round(min(box_mm[:2])) < 256:
            whole = round(min(box_mm[:2])) == round(min(grid.extent_mm[:2]))
            notes.append(
                f"the field of view {'is' if whole else 'around a candidate is'} {min(box_mm[:2]):.0f} mm wide: MAISI's CT "
                "models saw 256 mm and more" + ("" if whole else "; raise inpainting.margin_mm")
            )
        if not all(0.5 <= side <= 3 for side in grid.spacing_mm[:2]) or not 0.5 <= grid.spacing_mm[2] <= 5:
            notes.append(
                "voxels are outside of 0.5 to 3 mm across and 0.5 to 5 mm along the body, which MAISI's CT models saw"
            )
        if grid.shape[0] != grid.shape[1]:
            notes.append("the grid is not square across: MAISI's CT models saw only square ones")
    return tuple(notes)


def _by(shape: Sequence[int]) -> str:
    return " × ".join(map(str, shape))
