"""`dicom-to-nifti`: a tree of DICOM folders to one NIfTI file a study."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from DiffuGTSLib.cli.interrupts import stop_if_asked
from DiffuGTSLib.cli.options import AsJson, Quiet, examples
from DiffuGTSLib.cli.scan_inputs import require_folder
from DiffuGTSLib.cli.terminal import ERR, print_json, print_line, print_note
from DiffuGTSLib.errors import InputError
from DiffuGTSLib.progress import TerminalProgress

EXAMPLES = examples(
    "Folders are MRN/accession/series; out/MRN/accession/series/ct.nii.gz is the largest series that makes a box:",
    "diffugts dicom-to-nifti archive -o out",
    "Run it again to go on where it stopped; what became of each study stands in out/conversion.csv.",
    "A study without a series of enough slices is skipped; one in which something is wrong fails, and the exit code is 2.",
    "Patients, dates and descriptions in DICOM headers are not copied. Names of folders are: they are the keys.",
)


def dicom_to_nifti(
    tree: Annotated[Path, typer.Argument(help="Folder above the patients: MRN/accession/series below it.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the scans and of conversion.csv.")],
    minimum_slices: Annotated[
        int, typer.Option("--minimum-slices", min=2, help="Series with fewer are localizers, not scans.")
    ] = 10,
    force: Annotated[bool, typer.Option("--force", help="Convert again what is there already.")] = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Convert every study of a DICOM tree to one NIfTI file, checked against what was read."""
    require_folder(tree, "TREE")

    from DiffuGTSLib.volumes.dicom_tree import CONVERTED, FAILED, KEPT, LOG, convert_tree

    with TerminalProgress(ERR, quiet=quiet, check=stop_if_asked) as progress:
        rows = convert_tree(tree, output, minimum_slices=minimum_slices, force=force, on_progress=progress)
        progress("cases", 1.0)
    for row in rows:
        if row.remarks and (row.status == FAILED or not quiet):
            style = "red" if row.status == FAILED else "yellow"
            print_note(f"{row.mrn}/{row.accession}: {row.status}: {row.remarks}", style)
    made, failed = (sum(row.status in kinds for row in rows) for kinds in ((CONVERTED, KEPT), (FAILED,)))
    if as_json:
        print_json([asdict(row) for row in rows])
    elif not quiet:
        print_line(f"{made} of {len(rows)} studies. Log: {output / LOG}")
    if not made:
        raise InputError(
            "No study could be converted.", hint=f"the reasons stand in {output / LOG}.", code="nothing_converted"
        )
    if failed:
        raise InputError(
            f"{failed} of {len(rows)} studies failed; the others' scans are whole.",
            hint=f"the reasons stand in {output / LOG}; mend them and run the same command again.",
            code="cases_failed",
        )
