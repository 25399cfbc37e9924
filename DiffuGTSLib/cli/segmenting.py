"""`segment` and `refine`: from a scan to a result folder, and from an edited coarse mask to a better one."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from DiffuGTSLib.cli.interrupts import stop_if_asked
from DiffuGTSLib.cli.options import (
    Abnormal,
    AllowUntrained,
    AsJson,
    ConfigFile,
    Device,
    Force,
    Format,
    Memory,
    Modality,
    Normal,
    OffsetHu,
    Organ,
    Overrides,
    Preset,
    Quiet,
    Seed,
    Stages,
    Steps,
    configured,
    examples,
    parse_size_gb,
)
from DiffuGTSLib.cli.scan_inputs import open_mask, parse_roi
from DiffuGTSLib.cli.segment_run import SegmentRequest, print_always, print_plan
from DiffuGTSLib.cli.terminal import ERR, OUT, guarded_printing, print_json, print_line, print_note
from DiffuGTSLib.errors import WeightsError
from DiffuGTSLib.progress import TerminalProgress
from DiffuGTSLib.storage import mend_folder

if TYPE_CHECKING:
    from DiffuGTSLib.config import Config
    from DiffuGTSLib.output.findings import Finding
    from DiffuGTSLib.output.results import StoredResult

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

ScanPath = Annotated[Path, typer.Argument(help="NIfTI, NRRD or MetaImage file, or a folder of one DICOM series.")]
Output = Annotated[Path, typer.Option("--output", "-o", help="Folder of the results; made if absent.")]
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


def segment(
    scan: ScanPath,
    output: Output,
    organ: Organ = None,
    normal: Normal = None,
    abnormal: Abnormal = None,
    modality: Modality = None,
    offset_hu: OffsetHu = None,
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
    config = configured(preset, config_file, overrides, device=device, seed=seed, steps=steps, memory=memory)
    box = None if roi is None else parse_roi(roi)
    request = SegmentRequest(
        config, organ, normal, abnormal, modality, stages, image_format, force=force, quiet=quiet,
        allow_untrained=allow_untrained, offset_hu=offset_hu,
    )  # fmt: skip
    findings = request.run(scan, output, organ_mask=organ_mask, box=box, coarse_mask=coarse_mask)
    with guarded_printing(f"The result is whole in {output}"):
        show_result(output, findings, quiet, as_json)


def refine(
    folder: Annotated[Path, typer.Argument(help="A result folder.")],
    coarse_mask: Annotated[
        Path | None, typer.Option("--coarse-mask", help="Default: coarse_mask.nii.gz in the folder, as you edited it.")
    ] = None,
    scan: Annotated[Path | None, typer.Option("--scan", help="Where the scan lies now, if it was moved.")] = None,
    model: Annotated[
        Path | None, typer.Option("--model", help="Where the model folder lies now, if it was moved; the same weights.")
    ] = None,
    device: Device = None,
    seed: Seed = None,
    memory: Memory = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Repaint and refine again from an edited coarse mask, and replace the results in the folder."""
    from DiffuGTSLib import pipeline
    from DiffuGTSLib.components import load_components
    from DiffuGTSLib.drawn import inside_region
    from DiffuGTSLib.output import results
    from DiffuGTSLib.planning.running import plan_here, segment_by_plan

    mend_folder(folder, results.RECORD, results.NAMES)
    stored = results.read_results(folder, scan)
    results.require_result_folder(folder, force=True)
    mask_path = coarse_mask or folder / results.COARSE_MASK
    drawn = open_mask(mask_path, stored.scan.geometry)
    print_always(inside_region(drawn, stored.region)[1])
    config, reset = config_here(stored, model, device, seed, memory, quiet)
    if stored.cache is None and not quiet:
        print_note(f"{results.CACHE} is gone: the scan is encoded again.")
    given_up = [key for key in stored.given_up_before if key not in reset]
    plan = plan_here(stored.scan.geometry, config, grid_fixed=stored.cache is not None, given_up=given_up)
    print_plan(plan, quiet)
    with TerminalProgress(ERR, quiet=quiet, check=stop_if_asked) as progress:
        progress("load", 0.0)
        components = load_components(plan.config, allow_untrained=not stored.record["trained"])
        stored.require_weights(components)
        progress("load", 1.0)
        result = segment_by_plan(
            stored.scan, stored.prompts, components, plan, on_step_down=print_always, modality=stored.modality,
            region=stored.region, coarse_mask=drawn, cache=stored.cache, on_progress=progress,
        )  # fmt: skip
        result = dataclasses.replace(result, modality_reason=stored.modality_reason)
        findings = results.write_results(
            folder, stored.scan, stored.scan_path, result, components, stages=pipeline.STAGES, region=stored.region,
            image_format=stored.image_format, force=True, digest=stored.record["input"]["sha256"],
            notes={"asked": stored.record.get("asked"), "refined_from": str(mask_path)}, on_progress=progress,
        )  # fmt: skip
    with guarded_printing(f"The result is whole in {folder}"):
        show_result(folder, findings, quiet, as_json)


def config_here(
    stored: StoredResult, model: Path | None, device: str | None, seed: int | None, memory: str | None, quiet: bool
) -> tuple[Config, set[str]]:
    """Return a result's configuration as it goes on here, and the keys in which this machine makes it another one.

    Raises:
        ConfigError: If the device is not here, or the memory is no size.
        WeightsError: If the model folder is not where it was.
    """
    from DiffuGTSLib.device import continued_here, find_device

    then = stored.config.runtime
    asked = dataclasses.replace(then, device=device or then.device, seed=then.seed if seed is None else seed)
    here = continued_here(asked, str(stored.record.get("device", "")))
    reset = {key for key, value in vars(here).items() if value != getattr(asked, key)}
    words = {
        "precision": f"in {here.precision}",
        "compile": "not compiled",
        "memory_gb": "with the memory that is free",
    }
    said = [sentence for key, sentence in words.items() if key in reset]
    if said and not quiet:
        place = "CPU" if find_device(here).type == "cpu" else "card"
        print_note(f"On this {place}: {', '.join(said)}; the result was made otherwise.")
    if memory is not None:
        here = dataclasses.replace(here, memory_gb=parse_size_gb(memory))
    backbone = stored.config.backbone
    if model is not None:
        backbone = dataclasses.replace(backbone, folder=str(model.absolute()))
    if backbone.folder and not Path(backbone.folder).is_dir():
        raise WeightsError(
            f"There is no model folder {backbone.folder}.", hint="it was moved: name its place with --model.",
            code="weights_missing",
        )  # fmt: skip
    return dataclasses.replace(stored.config, backbone=backbone, runtime=here), {f"runtime.{key}" for key in reset}


def show_result(folder: Path, findings: Sequence[Finding], quiet: bool, as_json: bool) -> None:
    """Print what was found and where it lies."""
    from DiffuGTSLib.output import results
    from DiffuGTSLib.output.findings import findings_table
    from DiffuGTSLib.output.record import RESEARCH_USE

    record = results.read_record(folder)
    if as_json:
        rows = [dataclasses.asdict(finding) for finding in findings]
        print_json({"folder": str(folder.absolute()), "record": record, "findings": rows})
        return
    if quiet:
        return
    outcome = record["outcome"]
    print_line(f"{outcome[:1].upper()}{outcome[1:]}.")
    if findings:
        OUT.print(findings_table(findings))
    if not record["trained"]:
        print_line(results.UNTRAINED, "yellow")
    print_line(f"Overview: {folder / results.OVERVIEW}")
    print_line(RESEARCH_USE, "dim")
