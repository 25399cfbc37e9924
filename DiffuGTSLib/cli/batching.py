"""`batch`: many scans into a result folder each, and two tables of all of them."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from math import isnan, nan
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from DiffuGTSLib.cli.failures import report_exception
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
)
from DiffuGTSLib.cli.segment_run import SegmentRequest, request_record
from DiffuGTSLib.cli.terminal import OUT, guarded_printing, print_json, print_line, print_note
from DiffuGTSLib.errors import Cancelled, ConfigError, InputError, StorageError, WeightsError
from DiffuGTSLib.storage import for_json, make_folder, mend_folder, require_folder_for, shown, whole_file

if TYPE_CHECKING:
    from DiffuGTSLib.components import Components

EXAMPLES = examples(
    "Every image file of a folder; run it again to go on:",
    "diffugts batch scans -o results --organ liver",
    "Files by name, each within the mask of its name:",
    "diffugts batch scans/*.nii.gz -o results --organ liver --organ-mask masks",
    "An archive of DICOM series, each called by its path as patient1_CT1, within masks in a folder of that name:",
    "diffugts batch archive -o results --organ liver --organ-mask 'organs/{name}/liver.nii.gz'",
)

CASES = "cases.csv"
ALL_FINDINGS = "findings.csv"
DONE, KEPT, SKIPPED, FAILED = "done", "kept", "skipped", "failed"


@dataclass(frozen=True)
class BatchCase:
    """One scan, and the folder of its result."""

    name: str
    scan: Path
    organ_mask: Path | None
    folder: Path


@dataclass(frozen=True)
class Row:
    """A row of `cases.csv`.

    Attributes:
        name: Of the scan, and of its folder.
        status: `DONE`, `KEPT` from an earlier call, `SKIPPED` where a series is no scan, or `FAILED`.
        outcome: What the result says in words; else why there is none.
        findings: How many.
        volume_ml: Of all of them.
        anomaly_score: Of the scan, 0 to 1; NaN where nothing was detected.
        modality: As used.
        scan: Where it lies.
    """

    name: str
    status: str
    outcome: str
    findings: int
    volume_ml: float
    anomaly_score: float
    modality: str
    scan: str


def batch(
    scans: Annotated[
        list[Path], typer.Argument(help="Image files, folders of them, or folders of DICOM series at any depth.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the results, one folder per scan.")],
    organ: Organ = None,
    normal: Normal = None,
    abnormal: Abnormal = None,
    modality: Modality = None,
    offset_hu: OffsetHu = None,
    organ_mask: Annotated[
        str | None,
        typer.Option(
            "--organ-mask",
            help="Look only where a scan's mask is not 0: a folder of masks of the scans' names, or a path with {name} in it.",
            rich_help_panel="Where to look",
        ),
    ] = None,
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
    """Segment many scans, with the networks loaded once. Finished results are kept; a failed scan does not stop the others.

    Beside the results are cases.csv, one row per scan of the call, and findings.csv, one row per lesion. Both are
    rewritten after each scan.
    """
    config = configured(preset, config_file, overrides, device=device, seed=seed, steps=steps, memory=memory)
    request = SegmentRequest(
        config, organ, normal, abnormal, modality, stages, image_format, force=force, quiet=quiet,
        allow_untrained=allow_untrained, offset_hu=offset_hu,
    )  # fmt: skip
    request.prompts(modality or "CT")  # an organ or a stage that is not known is none for any scan
    _ = request.chosen_stages
    cases = batch_cases(scans, output, organ_mask)
    require_batch_folder(output)
    make_folder(output)
    work, rows = _Batch(request), []
    for number, case in enumerate(cases, start=1):
        if not quiet:
            print_note(f"{number} of {len(cases)}: {shown(case.name)}")
        rows.append(work.do(case))
        write_tables(output, cases, rows)
    with guarded_printing(f"The results are whole in {output}"):
        _show(rows, output, quiet, as_json)


def batch_cases(scans: Sequence[Path], output: Path, organ_mask: str | None = None) -> list[BatchCase]:
    """Return what is to be segmented, each scan with its mask.

    Raises:
        InputError: As `scans_below` and `mask_named`; or where a mask of a scan is missing (code "missing").
    """
    from DiffuGTSLib.cli.scan_folders import mask_named, scans_below

    def mask_of(name: str) -> Path | None:
        if organ_mask is None:
            return None
        if "{name}" not in organ_mask and Path(organ_mask).is_dir():
            return mask_named(name, Path(organ_mask))
        if "{name}" not in organ_mask:
            raise InputError(
                f"--organ-mask: {organ_mask} is no folder, and many scans have no mask in common.",
                hint="give a folder with a mask of each scan's name, or a path as 'organs/{name}/liver.nii.gz'.",
                code="missing",
            )
        path = Path(organ_mask.replace("{name}", name))
        if not path.exists():
            raise InputError(f"{name}: there is no mask {path}.", hint="check --organ-mask.", code="missing")
        return path

    def mask_if_scan(name: str, scan: Path) -> Path | None:
        try:
            return mask_of(name)
        except InputError:
            if is_no_scan(scan):  # asked last: it reads a header a slice
                return None
            raise

    return [
        BatchCase(name, scan, mask_if_scan(name, scan), output / name)
        for name, scan in scans_below(scans, leave_out=output).items()
    ]


def is_no_scan(path: Path) -> bool:
    """Tell whether a folder holds what an archive holds beside scans: a segmentation, a report or a scout."""
    from DiffuGTSLib.volumes.dicom import NO_SCANS
    from DiffuGTSLib.volumes.io import find_source

    try:
        find_source(path)
    except InputError as error:
        return error.code in NO_SCANS
    return False


def require_batch_folder(output: Path) -> None:
    """Refuse a folder that is a single scan's result, or whose tables are somebody else's.

    Raises:
        InputError: If the folder holds other results or tables (code "exists").
        StorageError: If nothing can be created there.
    """
    from DiffuGTSLib.output.results import is_result

    if is_result(output):
        raise InputError(
            f"{output} is the result of one scan.", hint="choose another folder for many of them.", code="exists"
        )
    require_folder_for(output, CASES, force=True, hint="")
    present = [name for name in (CASES, ALL_FINDINGS) if (output / name).exists()]
    if present and not _is_ours(output / CASES):
        raise InputError(
            f"{output} holds {', '.join(present)}, which no batch wrote and this one would replace.",
            hint="choose another folder, or move these files.",
            code="exists",
        )


def _is_ours(table: Path) -> bool:
    """Tell whether a `cases.csv` is a batch's, by its columns: an evaluation's and a study's have the same name."""
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            return next(csv.reader(file), None) == list(Row.__dataclass_fields__)
    except (OSError, UnicodeDecodeError, csv.Error):
        return False


class _Batch:
    """Does case after case with the same networks."""

    def __init__(self, request: SegmentRequest) -> None:
        self._request = request
        self._components: Components | None = None

    def do(self, case: BatchCase) -> Row:
        """Segment a case, or keep what is there; what is wrong with this scan alone is said, and is its row."""
        from DiffuGTSLib.output.results import NAMES, RECORD, is_result
        from DiffuGTSLib.volumes.dicom import NO_SCANS

        try:
            mend_folder(case.folder, RECORD, NAMES)
            if is_result(case.folder) and not self._request.force:
                self._require_made_so(case)
                return _row(case, KEPT)
            components = self._networks(case)
            self._request.run(case.scan, case.folder, organ_mask=case.organ_mask, components=components)
            return _row(case, DONE)
        except (ConfigError, WeightsError, StorageError, Cancelled, BrokenPipeError):  # so would every other one
            raise
        except Exception as error:  # noqa: BLE001, whatever is odd about one scan stops no other
            stop_if_asked()  # a library that is interrupted may raise anything
            if isinstance(error, InputError) and error.code in NO_SCANS:
                return Row(case.name, SKIPPED, error.message, 0, nan, nan, "", str(case.scan))
            said = shown(report_exception(error).message)
            return Row(shown(case.name), FAILED, said, 0, nan, nan, "", shown(case.scan))

    def _networks(self, case: BatchCase) -> Components:
        from DiffuGTSLib.planning.running import plan_here
        from DiffuGTSLib.volumes.io import read_geometry

        if self._components is None:
            self._components = self._request.load(plan_here(read_geometry(case.scan), self._request.config))
        return self._components

    def _require_made_so(self, case: BatchCase) -> None:
        from DiffuGTSLib.output.results import read_record, require_made_so

        request, modality = self._request, self._request.modality or read_record(case.folder).get("modality", "CT")
        more = {"modality": modality, "stages": list(request.chosen_stages), "format": request.image_format}
        require_made_so(
            case.folder, case.scan, request.prompts(modality), request.config, self._networks(case),
            asked=request_record(case.organ_mask, offset_hu=request.offset_hu), more=more,
        )  # fmt: skip


def _row(case: BatchCase, status: str) -> Row:
    from DiffuGTSLib.output.results import read_record

    record = read_record(case.folder)
    score = record.get("anomaly_score")
    volumes = [float(row["volume_ml"]) for row in _findings(case)]
    return Row(
        case.name, status, str(record["outcome"]), len(volumes), sum(volumes), nan if score is None else float(score),
        str(record["modality"]), str(case.scan),
    )  # fmt: skip


def _findings(case: BatchCase) -> list[dict[str, str]]:
    from DiffuGTSLib.output.results import FINDINGS

    with (case.folder / FINDINGS).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def write_tables(output: Path, cases: Iterable[BatchCase], rows: Sequence[Row]) -> None:
    """Write a row a scan, and a row a lesion, of what has been done.

    Raises:
        StorageError: If a table cannot be written.
    """
    from DiffuGTSLib.output.findings import COLUMNS

    whole = {row.name for row in rows if row.status in (DONE, KEPT)}
    found = [{"name": case.name, **row} for case in cases if case.name in whole for row in _findings(case)]
    _write(output / CASES, list(Row.__dataclass_fields__), [_with_words(row) for row in rows])
    _write(output / ALL_FINDINGS, ["name", *COLUMNS], found)


def _with_words(row: Row) -> dict[str, Any]:
    return {key: "n/a" if value is None else value for key, value in for_json(asdict(row)).items()}


def _write(path: Path, columns: Sequence[str], rows: Iterable[dict[str, Any]]) -> None:
    with whole_file(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, columns)
        table.writeheader()
        table.writerows(rows)


def _show(rows: Sequence[Row], output: Path, quiet: bool, as_json: bool) -> None:
    """Print what became of each scan.

    Raises:
        InputError: If one failed (code "cases_failed"), or none is a scan (code "no_scan").
    """
    from DiffuGTSLib.output.record import RESEARCH_USE

    if as_json:
        print_json([asdict(row) for row in rows])
    elif not quiet:
        OUT.print(_table(rows))
        print_line(f"Tables: {output / CASES}, {output / ALL_FINDINGS}")
        print_line(RESEARCH_USE, "dim")
    failed = sum(row.status == FAILED for row in rows)
    if failed:
        raise InputError(
            f"{failed} of {len(rows)} scans failed; the others' results are whole.",
            hint="mend them and run the same command again: what is there already is kept.",
            code="cases_failed",
        )
    if all(row.status == SKIPPED for row in rows):
        raise InputError(
            f"None of {len(rows)} series is a CT or MR scan of several slices.",
            hint="name other folders.",
            code="no_scan",
        )


def _table(rows: Sequence[Row]) -> Table:
    table = Table(title="1 scan" if len(rows) == 1 else f"{len(rows)} scans")
    for heading in ("Scan", "Status", "Outcome"):
        table.add_column(heading)
    for heading in ("Findings", "Volume\nml", "Anomaly\nscore"):
        table.add_column(heading, justify="right")
    for row in rows:
        style = {FAILED: "red", KEPT: "dim", SKIPPED: "dim"}.get(row.status, "")
        figures = ("", "", "") if row.status in (SKIPPED, FAILED) else (
            str(row.findings), f"{row.volume_ml:.2f}", "n/a" if isnan(row.anomaly_score) else f"{row.anomaly_score:.2f}",
        )  # fmt: skip
        table.add_row(row.name, Text(row.status, style=style), row.outcome, *figures)
    return table
