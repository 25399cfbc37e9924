"""`segment` and `refine`: from a scan to a result folder, and from an edited coarse mask to a better one."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.text import Text

from DiffuGTSLib.cli.door import ERR, OUT, stop_if_asked
from DiffuGTSLib.cli.options import (
    AllowUntrained,
    AsJson,
    ConfigFile,
    Device,
    Memory,
    Overrides,
    Preset,
    Quiet,
    Seed,
    Steps,
    configured,
    examples,
)
from DiffuGTSLib.errors import ConfigError, InputError, PromptError, did_you_mean
from DiffuGTSLib.progress import TerminalProgress
from DiffuGTSLib.text.prompts import PromptPair, free_prompts, organ_prompts

if TYPE_CHECKING:
    from DiffuGTSLib.findings import Finding
    from DiffuGTSLib.planning.plan import Plan
    from DiffuGTSLib.volumes.volume import Geometry, Volume

SEGMENT_EXAMPLES = examples(
    "diffugts segment chest.nii.gz -o result --organ lung",
    "diffugts segment dicom_folder -o result --organ liver --organ-mask liver.nrrd",
    "Any organ, in your own words; the healthy sentence first:",
    "diffugts segment leg.nrrd -o result --normal 'muscle of the thigh' --abnormal 'sarcoma of the thigh'",
    "Only within a box of RAS millimeters, with more denoising steps:",
    "diffugts segment chest.nii.gz -o result --organ lung --roi '20,80,-60,10,-40,30' --steps 30",
    "Start from a mask of your own instead of detecting:",
    "diffugts segment chest.nii.gz -o result --organ lung --coarse-mask drawn.nii.gz",
)
REFINE_EXAMPLES = examples(
    "Edit result/coarse_mask.nii.gz in any editor and save it, then:",
    "diffugts refine result",
    "diffugts refine result --coarse-mask drawn.nrrd --seed 1",
)

_WHERE = "Where to look"
_WHAT = "What to look for"

ScanPath = Annotated[Path, typer.Argument(help="NIfTI, NRRD or MetaImage file, or a folder of one DICOM series.")]
Output = Annotated[Path, typer.Option("--output", "-o", help="Folder of the results; made if absent.")]
Organ = Annotated[
    str | None,
    typer.Option("--organ", help="Built-in sentences of an organ; see diffugts prompts.", rich_help_panel=_WHAT),
]
Normal = Annotated[
    str | None, typer.Option("--normal", help="Your own sentence: the healthy organ.", rich_help_panel=_WHAT)
]
Abnormal = Annotated[
    str | None, typer.Option("--abnormal", help="Your own sentence: the same with a tumor.", rich_help_panel=_WHAT)
]
Modality = Annotated[
    Literal["CT", "MR"] | None,
    typer.Option("--modality", help="Guessed, with the reason, when absent.", case_sensitive=False),
]
OrganMask = Annotated[
    Path | None,
    typer.Option(
        "--organ-mask", help="Look only where this mask, on the scan's grid, is not 0.", rich_help_panel=_WHERE
    ),
]
Roi = Annotated[
    str | None,
    typer.Option("--roi", metavar="R0,R1,A0,A1,S0,S1", help="Look only in this box, RAS mm.", rich_help_panel=_WHERE),
]
CoarseMask = Annotated[
    Path | None,
    typer.Option("--coarse-mask", help="Skip detection: repaint and refine this mask.", rich_help_panel=_WHERE),
]
Stages = Annotated[str | None, typer.Option("--stages", help="Run only these, comma-separated: aova,repaint,residual.")]
Format = Annotated[
    Literal["nifti", "nrrd"], typer.Option("--format", help="nrrd also writes Slicer's segmentation.seg.nrrd.")
]
Force = Annotated[bool, typer.Option("--force", help="Replace what an earlier run left in the folder.")]


def segment(
    scan: ScanPath,
    output: Output,
    organ: Organ = None,
    normal: Normal = None,
    abnormal: Abnormal = None,
    modality: Modality = None,
    organ_mask: OrganMask = None,
    roi: Roi = None,
    coarse_mask: CoarseMask = None,
    stages: Stages = None,
    image_format: Format = "nifti",
    force: Force = False,
    preset: Preset = "mini",
    config_file: ConfigFile = None,
    device: Device = None,
    seed: Seed = None,
    steps: Steps = None,
    memory: Memory = None,
    overrides: Overrides = None,
    allow_untrained: AllowUntrained = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Segment the tumors of one scan into a result folder."""
    require_prompt_choice(organ, normal, abnormal)
    config = configured(preset, config_file, overrides, device=device, seed=seed, steps=steps, memory=memory)
    box = None if roi is None else parse_roi(roi)

    volume, kind = open_scan(scan, modality, quiet)
    prompts = chosen_prompts(organ, normal, abnormal, kind)
    region = allowed_region(volume.geometry, organ_mask, box)
    drawn = None if coarse_mask is None else open_mask(coarse_mask, volume.geometry)

    from DiffuGTSLib import pipeline, results  # torch: seconds
    from DiffuGTSLib.planning.running import plan_here, segment_by_plan

    chosen = chosen_stages(stages, pipeline.STAGES)
    results.require_result_folder(output, force)
    plan = plan_here(volume.geometry, config)
    tell_rung(plan, quiet)
    asked = {"organ_mask": organ_mask and str(organ_mask), "roi_ras_mm": box, "coarse_mask": drawn and str(coarse_mask)}
    with TerminalProgress(ERR, quiet=quiet, check=stop_if_asked) as progress:
        progress("load", 0.0)
        components = pipeline.load_components(plan.config, allow_untrained=allow_untrained)
        progress("load", 1.0)
        result = segment_by_plan(
            volume, prompts, components, plan, on_step_down=tell_step_down, modality=modality, region=region,
            coarse_mask=drawn, stages=chosen, on_progress=progress,
        )  # fmt: skip
        progress("write", 0.0)
        findings = results.write_results(
            output, volume, scan, result, components, stages=chosen, region=region, image_format=image_format,
            notes={"asked": asked}, force=force,
        )  # fmt: skip
        progress("write", 1.0)
    show_result(output, findings, quiet, as_json)


def refine(
    folder: Annotated[Path, typer.Argument(help="A result folder.")],
    coarse_mask: Annotated[
        Path | None, typer.Option("--coarse-mask", help="Default: coarse_mask.nii.gz in the folder, as you edited it.")
    ] = None,
    scan: Annotated[Path | None, typer.Option("--scan", help="Where the scan lies now, if it was moved.")] = None,
    device: Device = None,
    seed: Seed = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Repaint and refine again from an edited coarse mask, and replace the results in the folder."""
    from DiffuGTSLib import pipeline, results
    from DiffuGTSLib.components import as_here
    from DiffuGTSLib.planning.running import plan_here, segment_by_plan

    stored = results.read_results(folder, scan)
    results.require_result_folder(folder, force=True)
    mask_path = coarse_mask or folder / results.COARSE_MASK
    drawn = open_mask(mask_path, stored.scan.geometry)
    then = stored.config.runtime
    runtime = dataclasses.replace(then, device=device or then.device, seed=then.seed if seed is None else seed)
    here = as_here(runtime)
    if here != runtime and not quiet:
        ERR.print(f"On this CPU: in {here.precision}, not compiled; the result was made otherwise.", highlight=False)
    config = dataclasses.replace(stored.config, runtime=here)
    if stored.cache is None and not quiet:
        ERR.print(f"{results.CACHE} is gone: the scan is encoded again.", highlight=False)
    reset = {f"runtime.{key}" for key, value in vars(here).items() if value != getattr(runtime, key)}
    given_up = [key for key in stored.given_up_before if key not in reset]
    plan = plan_here(stored.scan.geometry, config, grid_fixed=stored.cache is not None, given_up=given_up)
    tell_rung(plan, quiet)
    with TerminalProgress(ERR, quiet=quiet, check=stop_if_asked) as progress:
        progress("load", 0.0)
        components = pipeline.load_components(plan.config, allow_untrained=not stored.record["trained"])
        stored.require_weights(components)
        progress("load", 1.0)
        result = segment_by_plan(
            stored.scan, stored.prompts, components, plan, on_step_down=tell_step_down, modality=stored.modality,
            region=stored.region, coarse_mask=drawn, cache=stored.cache, on_progress=progress,
        )  # fmt: skip
        result = dataclasses.replace(result, modality_reason=stored.modality_reason)
        progress("write", 0.0)
        findings = results.write_results(
            folder, stored.scan, stored.scan_path, result, components, stages=pipeline.STAGES, region=stored.region,
            image_format=stored.image_format, force=True,
            notes={"asked": stored.record.get("asked"), "refined_from": str(mask_path)},
        )  # fmt: skip
        progress("write", 1.0)
    show_result(folder, findings, quiet, as_json)


def tell_rung(plan: Plan, quiet: bool) -> None:
    """Say aloud what the plan gives up of what was asked for, if anything."""
    if plan.rung and not quiet:
        asked = f"{plan.machine.memory_bytes / 1e9:.1f} GB ({plan.machine.memory_source})"
        ERR.print(Text(f"Planned for {asked}: {', '.join(plan.ladder[1 : plan.rung + 1])}."), soft_wrap=True)


def tell_step_down(said: str) -> None:
    """Say aloud that memory ran out, and what is done now; an error's worth, so that quiet runs say it too."""
    ERR.print(Text(said, style="yellow"), soft_wrap=True)


def require_prompt_choice(organ: str | None, normal: str | None, abnormal: str | None) -> None:
    """Refuse anything but an organ, or both sentences.

    Raises:
        PromptError: Saying which is missing or too many.
    """
    hint = "write --organ liver, or both --normal and --abnormal sentences of your own."
    if organ is not None and (normal is not None or abnormal is not None):
        raise PromptError("Expected an organ or sentences of your own, got both.", hint=hint, code="choice")
    if organ is None and (normal is None or abnormal is None):
        missing = "nothing to look for" if normal is None and abnormal is None else "only one of two sentences"
        raise PromptError(f"Expected an organ or two sentences, got {missing}.", hint=hint, code="choice")


def chosen_prompts(organ: str | None, normal: str | None, abnormal: str | None, modality: str) -> PromptPair:
    """Return the organ's built-in pair, or the user's own.

    Raises:
        PromptError: As `organ_prompts` and `free_prompts`.
    """
    return organ_prompts(organ, modality) if organ is not None else free_prompts(normal or "", abnormal or "")


def chosen_stages(text: str | None, known: Sequence[str]) -> tuple[str, ...]:
    """Return the stages of a comma-separated list in the order of the pipeline; all of them for None.

    Raises:
        ConfigError: Unknown or no stage, or one without those before it.
    """
    if text is None:
        return tuple(known)
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in known:
            raise ConfigError(f"Unknown stage '{name}'.", hint=did_you_mean(name, known))
    if not names:
        raise ConfigError("--stages names no stage.", hint=f"known: {', '.join(known)}.")
    chosen = tuple(known[: len(set(names))])
    if set(chosen) != set(names):
        raise ConfigError(
            f"--stages: expected a beginning of {', '.join(known)}, got {', '.join(names)}.",
            hint="each stage builds on those before it.",
        )
    return chosen


def open_scan(path: Path, modality: str | None, quiet: bool) -> tuple[Volume, str]:
    """Read a scan that a method can work on, and its modality, which is said aloud where it had to be guessed.

    Raises:
        InputError: As `read_volume`, `require_scan` and `guess_modality`.
    """
    from DiffuGTSLib.volumes.canonical import guess_modality
    from DiffuGTSLib.volumes.io import read_volume
    from DiffuGTSLib.volumes.volume import require_scan

    volume = read_volume(path)
    require_scan(volume)
    if modality is not None:
        return volume, modality
    guessed, reason = guess_modality(volume)
    if not quiet:
        ERR.print(f"Modality: {guessed}, since {reason}.", markup=False, highlight=False, soft_wrap=True)
    return volume, guessed


def open_mask(path: Path, geometry: Geometry) -> Volume:
    """Read a mask on the scan's grid.

    Raises:
        InputError: As `read_mask`; also if nothing is painted in it (code "empty_mask").
    """
    from DiffuGTSLib.volumes.io import read_mask

    mask = read_mask(path, geometry)
    if not mask.array.any():
        raise InputError(
            f"The mask {path} is empty: no voxel is above 0.", hint="paint it, or leave it away.", code="empty_mask"
        )
    return mask


def parse_roi(text: str) -> list[float]:
    """Return six bounds in RAS mm: right, anterior and superior, from and to each.

    Raises:
        InputError: If they are not six finite numbers that rise in pairs.
    """
    hint = "write --roi 'r0,r1,a0,a1,s0,s1', R, A and S growing to the patient's right, front and head."
    try:
        bounds = [float(part) for part in text.split(",")]
    except ValueError:
        bounds = []
    if len(bounds) != 6 or not all(abs(bound) < 1e6 for bound in bounds):
        raise InputError(f"--roi: expected six numbers in mm, got '{text}'.", hint=hint, code="roi")
    for axis, (low, high) in zip("RAS", zip(bounds[::2], bounds[1::2], strict=True), strict=True):
        if low >= high:
            raise InputError(f"--roi: {axis} must rise, got {low:g} to {high:g} mm.", hint=hint, code="roi")
    return bounds


def allowed_region(geometry: Geometry, organ_mask: Path | None, box: Sequence[float] | None) -> Volume | None:
    """Return where an anomaly may be: the organ, and of it what lies in the box; None for everywhere.

    Args:
        geometry: The scan's.
        organ_mask: A mask on that grid.
        box: Six bounds in RAS mm; a voxel is inside when its center is.

    Raises:
        InputError: If nothing is left, besides what `read_mask` refuses.
    """
    import numpy as np

    from DiffuGTSLib.volumes.volume import Volume

    if organ_mask is None and box is None:
        return None
    region = None if organ_mask is None else open_mask(organ_mask, geometry)
    if box is None:
        return region
    low, high = np.array(box[::2]), np.array(box[1::2])
    inside = np.empty(geometry.shape, dtype=np.uint8)
    plane = np.moveaxis(np.indices(geometry.shape[:2]), 0, -1)
    for k in range(geometry.shape[2]):  # a slice at a time: coordinates of a whole chest would take a gigabyte
        points = geometry.to_ras(np.concatenate([plane, np.full((*plane.shape[:2], 1), k)], axis=-1))
        inside[:, :, k] = ((points >= low) & (points <= high)).all(axis=-1)
    if region is not None:
        inside &= region.array
    if not inside.any():
        first, last = geometry.to_ras(np.array([[0, 0, 0], [n - 1 for n in geometry.shape]]))
        of_what = "the organ mask" if region is not None else "the scan"
        raise InputError(
            f"--roi: no voxel of {of_what} lies in the box; the scan's opposite corners are "
            f"{np.round(first).tolist()} and {np.round(last).tolist()} mm.",
            hint="R, A and S are world millimeters, not voxels; programs that show LPS have R and A reversed.",
            code="roi",
        )
    return Volume(inside, geometry)


def show_result(folder: Path, findings: Sequence[Finding], quiet: bool, as_json: bool) -> None:
    """Print what was found and where it lies."""
    from DiffuGTSLib import results
    from DiffuGTSLib.findings import findings_table
    from DiffuGTSLib.record import RESEARCH_USE

    record = results.read_record(folder)
    if as_json:
        rows = [_plain(dataclasses.asdict(finding)) for finding in findings]
        shown = {"folder": str(folder.absolute()), "record": record, "findings": rows}
        typer.echo(json.dumps(shown, indent=1, allow_nan=False))  # ASCII: a pipe on Windows may take no more
        return
    if quiet:
        return
    outcome = record["outcome"]
    OUT.print(Text(f"{outcome[:1].upper()}{outcome[1:]}."), soft_wrap=True)
    if findings:
        OUT.print(findings_table(findings))
    if not record["trained"]:
        OUT.print(Text(results.UNTRAINED, style="yellow"))
    OUT.print(Text(f"Overview: {folder / results.OVERVIEW}"), soft_wrap=True)
    OUT.print(Text(RESEARCH_USE, style="dim"))


def _plain(finding: dict[str, Any]) -> dict[str, Any]:
    """Return a finding with null for NaN, which JSON has no word for."""
    return {key: None if isinstance(value, float) and isnan(value) else value for key, value in finding.items()}
