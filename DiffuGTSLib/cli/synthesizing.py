"""`synthesize`: paint tumors into one healthy scan, or into a folder of them."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.table import Table
from rich.text import Text

from DiffuGTSLib.cli.interrupts import stop_if_asked
from DiffuGTSLib.cli.options import AsJson, OffsetHu, Quiet, examples
from DiffuGTSLib.cli.scan_inputs import open_organ, open_scan, require_mask_each
from DiffuGTSLib.cli.terminal import ERR, OUT, print_error, print_json, print_note, print_warning
from DiffuGTSLib.errors import Cancelled, DiffuGTSError, InputError
from DiffuGTSLib.progress import TerminalProgress

if TYPE_CHECKING:
    from DiffuGTSLib.synthesis.organs import OrganSpec
    from DiffuGTSLib.synthesis.painter import Painter, TumorRequest

EXAMPLES = examples(
    "A liver tumor of any size, and a picture of it:",
    "diffugts synthesize ct.nii.gz --organ liver --organ-mask liver.nii.gz -o painted --preview",
    "Three small ones; the same seed paints the same tumors:",
    "diffugts synthesize ct.nii.gz --organ liver --organ-mask liver.nii.gz -o painted --size small --count 3 --seed 7",
    "One of about 12 mm radius, near a place in RAS mm:",
    "diffugts synthesize ct.nii.gz --organ lung --organ-mask lungs.nii.gz -o painted --radius 12 --at=-60,10,120",
    "Every scan of a folder, masks under the same names; run it again to go on:",
    "diffugts synthesize scans --organ liver --organ-mask masks -o painted --repeat 4",
    "",
    "The content of the papers whose approach this follows is covered by patents pending, say their authors, and their "
    "published weights are under conflicting licenses: see synthesis.json or the README before commercial use.",
)

_TUMORS, _PAINT, _FILES = "Tumors", "Paint", "Files"

OrganLabel = Annotated[
    list[int] | None,
    typer.Option("--organ-label", min=1, help="The organ's label in the mask, if it holds several. May be repeated."),
]
Size = Annotated[
    Literal["tiny", "small", "medium", "large", "mix"],
    typer.Option(
        "--size",
        help="Radius about 4, 8, 16, 32 mm; mix draws as the organ file says.",
        rich_help_panel=_TUMORS,
    ),
]
Count = Annotated[
    int | None,
    typer.Option(
        "--count", min=1, help="Default: as the organ file says; one with --radius or --at.", rich_help_panel=_TUMORS
    ),
]
Radius = Annotated[
    float | None,
    typer.Option(
        "--radius",
        metavar="MM",
        help="Radius in mm instead of a size, approximate: 12 gives 9 to 15 mm.",
        rich_help_panel=_TUMORS,
    ),
]
At = Annotated[
    str | None,
    typer.Option(
        "--at", metavar="R,A,S", help="Approximate center, in RAS mm. Default: random.", rich_help_panel=_TUMORS
    ),
]
AvoidVessels = Annotated[
    bool,
    typer.Option(
        "--avoid-vessels/--ignore-vessels",
        help="Keep small tumors clear of bright vessels, where the organ file says what a vessel is (of ours: liver).",
        rich_help_panel=_TUMORS,
    ),
]
MassEffect = Annotated[
    bool, typer.Option("--mass-effect", help="Push the tissue around it outwards.", rich_help_panel=_TUMORS)
]
Capsule = Annotated[
    bool, typer.Option("--capsule", help="A bright rim, as liver carcinomas have.", rich_help_panel=_TUMORS)
]
PainterName = Annotated[
    str,
    typer.Option(
        "--painter",
        help="handcrafted, recipe (SyntheticTumors' texture), or a trained painter's folder.",
        rich_help_panel=_PAINT,
    ),
]
PainterDevice = Annotated[
    str, typer.Option("--device", help="Device of a trained painter: auto, cpu, cuda.", rich_help_panel=_PAINT)
]
Repeat = Annotated[
    int, typer.Option("--repeat", min=1, help="How many times each scan is painted, each into its own folder.")
]
Patch = Annotated[
    float | None,
    typer.Option(
        "--patch", metavar="MM", help="Write only a cube of this side around the tumors.", rich_help_panel=_FILES
    ),
]
Preview = Annotated[
    bool, typer.Option("--preview", help="Write preview.png: before, after, outline.", rich_help_panel=_FILES)
]


def synthesize(
    scan: Annotated[Path, typer.Argument(help="A healthy scan, or a folder of them.")],
    organ: Annotated[
        str, typer.Option("--organ", help="A name with an organ file (liver, lung, …), or an organ file of your own.")
    ],
    organ_mask: Annotated[
        Path, typer.Option("--organ-mask", help="The organ on the scan's grid; for a folder, masks of the same names.")
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder of the painted case, or of all cases' folders.")
    ],
    organ_label: OrganLabel = None,
    size: Size = "mix",
    count: Count = None,
    radius: Radius = None,
    at: At = None,
    avoid_vessels: AvoidVessels = True,
    mass_effect: MassEffect = False,
    capsule: Capsule = False,
    painter: PainterName = "handcrafted",
    device: PainterDevice = "auto",
    modality: Annotated[Literal["CT", "MR"] | None, typer.Option("--modality", help="Default: guessed.")] = None,
    offset_hu: OffsetHu = None,
    seed: Annotated[
        int, typer.Option("--seed", min=0, help="Every random draw follows from it; in a folder, and the scan's name.")
    ] = 0,
    repeat: Repeat = 1,
    patch: Patch = None,
    preview: Preview = False,
    force: Annotated[bool, typer.Option("--force", help="Replace earlier cases.")] = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Paint tumors into a healthy scan. Scan and tumor mask keep its grid; outside the paint nothing changes."""
    from DiffuGTSLib.synthesis.case import require_patch
    from DiffuGTSLib.synthesis.organs import organ_spec
    from DiffuGTSLib.synthesis.painter import TumorRequest
    from DiffuGTSLib.synthesis.painters import find_painter

    if patch is not None:
        require_patch(patch)
    if not scan.exists():
        raise InputError(f"There is no {scan}.", hint="check the spelling.", code="missing")
    spec = organ_spec(organ)
    request = TumorRequest(
        size=size, count=count, center_ras_mm=None if at is None else parse_point(at), radius_mm=radius,
        avoid_vessels=avoid_vessels, mass_effect=mass_effect, capsule=capsule,
    )  # fmt: skip
    cases = synthesis_cases(scan, organ_mask, output, repeat, seed)
    brush, weights = find_painter(painter, device)
    labels = tuple(organ_label or ())
    how = _How(spec, request, brush, weights, labels, modality, offset_hu, patch, preview, force, quiet)
    if len(cases) == 1 and not organ_mask.is_dir():  # a folder is gone on with, however many scans are in it
        rows = [(cases[0], how.paint(cases[0]))]
    else:
        rows = list(how.paint_each(cases))
    _show(rows, quiet, as_json)


def _show(rows: Sequence[tuple[SynthesisCase, dict[str, Any]]], quiet: bool, as_json: bool) -> None:
    """Print what was painted.

    Raises:
        InputError: If a case failed (code "cases_failed").
    """
    if as_json:
        print_json([{"folder": str(case.folder), **record} for case, record in rows])
    elif not quiet:
        OUT.print(_table(rows))
    for case, record in rows:
        if record.get("tumors") == []:
            print_warning(f"{case.folder} shows no tumor, none found a place: {'; '.join(record['skipped'])}.")
    failed = [record for _, record in rows if "error" in record]
    if failed:
        raise InputError(
            f"{len(failed)} of {len(rows)} cases failed; the others are whole.",
            hint="mend them and run the same command again: what is there already is kept.",
            code="cases_failed",
        )


@dataclass(frozen=True)
class SynthesisCase:
    """One case to paint: which scan, within which mask, into which folder, from which seed."""

    scan: Path
    organ_mask: Path
    folder: Path
    seed: int


def synthesis_cases(scan: Path, organ_mask: Path, output: Path, repeat: int, seed: int) -> list[SynthesisCase]:
    """Return what is to be painted: one scan, or where both are folders each scan in it; `repeat` times.

    In a folder the seed of a scan depends on its name too. With one seed for all, every scan would get tumors of the same
    number, size and shape; a number by its place in the folder would change when a scan is added.

    Raises:
        InputError: No scan in the folder, or one without a mask of the same name (code "missing"); one of scan and mask
            is a folder of files and the other a file (code "folder"); two scans are called alike (code "names").
    """
    from DiffuGTSLib.cli.scan_folders import mask_named, require_names_apart, scans_in
    from DiffuGTSLib.volumes.io import scan_name

    if organ_mask.is_dir() and scan.is_dir():
        require_names_apart(scans_in(scan))
        starts = [
            SynthesisCase(path, mask_named(name, organ_mask), output / name, seed + zlib.crc32(name.encode()))
            for name, path in ((scan_name(path), path) for path in scans_in(scan))
        ]
    else:
        require_mask_each(scan, organ_mask, "--organ-mask")
        if organ_mask.is_dir():
            raise InputError(
                f"--organ-mask: {organ_mask} is a folder, and {scan} one scan.",
                hint="give the file of its mask, or a folder of scans.",
                code="folder",
            )
        starts = [SynthesisCase(scan, organ_mask, output, seed)]
    if repeat == 1:
        return starts
    return [
        replace(case, folder=case.folder / f"{number:03d}", seed=_seed_of(case.seed, number))
        for case in starts
        for number in range(1, repeat + 1)
    ]


def _seed_of(seed: int, number: int) -> int:
    """Return the seed of a repetition, counted from 1: the first's is the seed itself.

    Were they to rise one by one, sets of seeds 0 and 1, as for training and validation, would share all cases but one.
    """
    import numpy as np

    return seed if number == 1 else int(np.random.SeedSequence((seed, number)).generate_state(1)[0])


def parse_point(text: str) -> tuple[float, float, float]:
    """Return three RAS coordinates in mm.

    Raises:
        InputError: If they are not three finite numbers (code "point").
    """
    try:
        point = [float(part) for part in text.split(",")]
    except ValueError:
        point = []
    if len(point) != 3 or not all(abs(value) < 1e6 for value in point):
        raise InputError(
            f"--at: expected three numbers in mm, got '{text}'.",
            hint="write --at=-60,10,120: R, A and S grow to the patient's right, front and head.",
            code="point",
        )
    return point[0], point[1], point[2]


@dataclass(frozen=True)
class _How:
    """Everything that all cases of one call share."""

    spec: OrganSpec
    request: TumorRequest
    painter: Painter
    weights: dict[str, str]
    organ_labels: tuple[int, ...]
    modality: str | None
    offset_hu: float | None
    patch_mm: float | None
    preview: bool
    force: bool
    quiet: bool

    def paint(self, case: SynthesisCase) -> dict[str, Any]:
        """Paint one case into its folder and return its record."""
        import numpy as np

        from DiffuGTSLib.synthesis.case import Origin, require_case_folder, write_case
        from DiffuGTSLib.synthesis.painter import synthesize as paint

        require_case_folder(case.folder, self.force)
        volume, modality, _ = open_scan(case.scan, self.modality, self.quiet, self.offset_hu)
        organ = open_organ(case.organ_mask, volume.geometry, self.organ_labels, "name the organ's: --organ-label 1.")
        origin = Origin(
            volume, case.scan, organ, case.organ_mask, self.spec, self.request, modality, self.painter.name, self.weights,
            case.seed, self.modality is not None, self.offset_hu, self.organ_labels,
        )  # fmt: skip
        with TerminalProgress(ERR, quiet=self.quiet, check=stop_if_asked) as progress:
            painted = paint(
                volume, organ, self.spec, self.request, self.painter, modality=modality,
                rng=np.random.default_rng(case.seed), on_progress=progress,
            )  # fmt: skip
            progress("write", 0.0)
            record = write_case(
                case.folder, origin, painted, patch_mm=self.patch_mm, preview=self.preview, force=self.force
            )
            progress("write", 1.0)
        return record

    def paint_each(self, cases: Sequence[SynthesisCase]) -> Iterator[tuple[SynthesisCase, dict[str, Any]]]:
        """Paint many cases; what was painted so already is kept, and one that fails does not stop the others."""
        from DiffuGTSLib.synthesis.case import PREVIEW, is_case, kept_record

        for number, case in enumerate(cases, start=1):
            is_kept = is_case(case.folder) and not self.force
            if not (self.quiet or is_kept):
                print_note(f"{number} of {len(cases)}: {case.folder}")
            try:
                if is_kept:
                    record = kept_record(
                        case.folder, self.spec, self.request, self.painter.name, self.weights, case.seed,
                        scan=case.scan, organ=case.organ_mask, patch_mm=self.patch_mm, modality=self.modality,
                        offset_hu=self.offset_hu, organ_labels=self.organ_labels,
                    )  # fmt: skip
                    if self.preview and not (case.folder / PREVIEW).is_file():
                        said = (
                            f"{case.folder} is kept without {PREVIEW}: it was painted without; --force paints it again."
                        )
                        print_warning(said)
                    yield case, record
                else:
                    yield case, self.paint(case)
            except DiffuGTSError as error:
                if isinstance(error, Cancelled):
                    raise
                print_error(error)
                yield case, {"error": error.message, "hint": error.hint}


def _table(rows: Sequence[tuple[SynthesisCase, dict[str, Any]]]) -> Table:
    table = Table(title="Painted tumors")
    for heading in ("Folder", "Size"):
        table.add_column(heading)
    for heading in ("Volume\nml", "Radius\nmm", "Center\nR, A, S mm"):
        table.add_column(heading, justify="right")
    for case, record in rows:
        if "error" in record:
            table.add_row(str(case.folder), Text(f"failed: {record['error']}", style="red"), "", "", "")
        for tumor in record.get("tumors", ()):
            center = ", ".join(f"{value:z.0f}" for value in tumor["center_ras_mm"])
            table.add_row(
                str(case.folder), tumor["size"], f"{tumor['volume_ml']:.2f}", f"{tumor['radius_mm']:.1f}", center
            )
        for reason in record.get("skipped", ()):
            table.add_row(str(case.folder), Text(f"skipped: {reason}", style="yellow"), "", "", "")
    return table
