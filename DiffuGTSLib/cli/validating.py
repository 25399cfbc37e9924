"""`validate`: a trained segmenter on one scan, a folder of scans, or the cases of a protocol."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.table import Table
from rich.text import Text

from DiffuGTSLib.cli.interrupts import stop_if_asked
from DiffuGTSLib.cli.options import AsJson, OffsetHu, Quiet, examples
from DiffuGTSLib.cli.scan_inputs import protocol_path, require_ct, require_folder, require_mask_each, warn_of_mr
from DiffuGTSLib.cli.study_reports import cell, print_warnings
from DiffuGTSLib.cli.terminal import ERR, OUT, print_json, print_line, print_note
from DiffuGTSLib.errors import InputError
from DiffuGTSLib.progress import TerminalProgress
from DiffuGTSLib.storage import read_json

if TYPE_CHECKING:
    from DiffuGTSLib.evaluation.validation import ListedScan

EXAMPLES = examples(
    "One scan, or every scan of a folder:",
    "diffugts validate run ct.nii.gz -o found",
    "With true label maps (0 background, 1 organ, 2 tumor) of the same names: found/metrics.csv",
    "diffugts validate run scans --labels labels -o found",
    "Inside organ masks of the same names, without tumors below 5 mm radius:",
    "diffugts validate run scans --organ-masks masks --minimum-radius 5 -o found",
    "Held-out cases of a protocol: report/report.md, with the figures of diffugts evaluate",
    "diffugts validate run --protocol mini --data scans --split test -o report",
)


_WHAT, _TRUTH, _POST = "What", "Truth", "Afterwards"


Model = Annotated[Path, typer.Argument(help="Run folder of diffugts train segmenter, or its model folder.")]
Scans = Annotated[Path | None, typer.Argument(help="A scan, or a folder of them.")]
Labels = Annotated[
    Path | None, typer.Option("--labels", help="True label map, or a folder of them.", rich_help_panel=_TRUTH)
]
Tumors = Annotated[
    Path | None, typer.Option("--tumors", help="True tumor mask, or a folder of them.", rich_help_panel=_TRUTH)
]
OrganMasks = Annotated[
    Path | None,
    typer.Option("--organ-masks", help="Organ mask, or a folder of them: tumors lie inside.", rich_help_panel=_WHAT),
]
ProtocolName = Annotated[
    str | None, typer.Option("--protocol", help="A bundled protocol's name, or a JSON file.", rich_help_panel=_WHAT)
]
Data = Annotated[Path | None, typer.Option("--data", help="Folder that its paths start from.", rich_help_panel=_WHAT)]
Split = Annotated[str, typer.Option("--split", help="validation or test.", rich_help_panel=_WHAT)]
AllowSeen = Annotated[
    bool,
    typer.Option(
        "--allow-seen",
        help="Also score scans that the model was trained on; the report is marked.",
        rich_help_panel=_WHAT,
    ),
]
Modality = Annotated[
    Literal["CT", "MR"] | None,
    typer.Option("--modality", help="Default: the segmenter's; of scans guessed where it knows both."),
]
Organs = Annotated[
    list[str] | None,
    typer.Option(
        "--organ",
        help="Cases of a protocol to score. Default: those whose tumors the segmenter was trained to find. May be repeated.",
        rich_help_panel=_WHAT,
    ),
]
MinimumRadius = Annotated[
    float, typer.Option("--minimum-radius", metavar="MM", help="Drop smaller tumors; 0: none.", rich_help_panel=_POST)
]
LargestOrgan = Annotated[
    bool, typer.Option("--largest-organ", help="Keep the largest part of the organ.", rich_help_panel=_POST)
]
Reach = Annotated[
    float | None,
    typer.Option("--reach", metavar="MM", help="Drop tumors further from the organ.", rich_help_panel=_POST),
]


def validate(
    model: Model,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the predictions and figures.")],
    scans: Scans = None,
    labels: Labels = None,
    tumors: Tumors = None,
    organ_masks: OrganMasks = None,
    protocol: ProtocolName = None,
    data: Data = None,
    split: Split = "test",
    allow_seen: AllowSeen = False,
    modality: Modality = None,
    organ: Organs = None,
    offset_hu: OffsetHu = None,
    overlap: Annotated[float, typer.Option("--overlap", help="Of neighboring windows, 0 to 0.9.")] = 0.75,
    minimum_radius: MinimumRadius = 3.0,
    largest_organ: LargestOrgan = False,
    reach: Reach = None,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1.")] = "auto",
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Run a trained segmenter (of `train segmenter`), each scan on its own grid, and score it where the truth is known.

    Scores are Dice and surface Dice (NSD) at 2 mm: 1 where nothing is to find and nothing was found, 0 where only one
    of both is empty. In a protocol's report scans without a tumor count by their false positives instead, as in diffugts evaluate's.
    """
    _require_one_kind(scans, protocol, data, labels, tumors)
    _require_fitting(protocol, data, modality, offset_hu, labels, tumors, organ_masks)
    _require_meant(protocol, organ, organ_masks, largest_organ=largest_organ, reach=reach)
    listed = list_scans(scans, labels or tumors, organ_masks, tumor_only=tumors is not None) if scans else []
    path = protocol_path(protocol) if protocol else Path()

    from DiffuGTSLib.config import RuntimeConfig
    from DiffuGTSLib.device import find_device
    from DiffuGTSLib.evaluation.validation import HowToPredict, begin, validate_protocol, validate_scans
    from DiffuGTSLib.supervised.prediction import PostProcessing, find_segmenter, load_segmenter

    how = HowToPredict(overlap, PostProcessing(minimum_radius, largest_organ, reach), modality, offset_hu)
    trained = load_segmenter(model, find_device(RuntimeConfig(device=device)))
    begin(output, find_segmenter(model), how, asked(protocol, split, organ, scans, labels or tumors, organ_masks))
    with TerminalProgress(ERR, quiet=quiet, check=stop_if_asked) as progress:
        rows: list[dict[str, str | float]] = []
        if data is None:
            rows = validate_scans(
                trained, listed, output, how, lambda case, done: progress("cases", done),
                on_guess=partial(_print_guess, quiet), model_folder=find_segmenter(model), allow_seen=allow_seen,
            )  # fmt: skip
        else:
            validate_protocol(
                trained, path, data, output, split=split, modalities=[modality] if modality else [], organs=organ or [], how=how,
                on_case=lambda case, done: progress("cases", done), model_folder=find_segmenter(model),
                allow_seen=allow_seen,
            )  # fmt: skip
            print_warnings(output, quiet)
        progress("cases", 1.0)
    if as_json:
        print_json(rows if scans else read_json(output / "report.json"))
    elif not quiet:
        _show(rows, output)


def _require_one_kind(
    scans: Path | None, protocol: str | None, data: Path | None, labels: Path | None, tumors: Path | None
) -> None:
    """Refuse both scans and a protocol, or neither; and both kinds of truth."""
    if (scans is None) == (protocol is None) or (protocol is None) != (data is None) or (labels and tumors):
        raise InputError(
            "Expected scans, or one protocol and its data; and label maps or tumor masks, not both.",
            hint="write MODEL SCANS -o DIR [--labels DIR], or MODEL --protocol NAME --data FOLDER -o DIR.",
            code="choice",
        )


def _require_fitting(
    protocol: str | None, data: Path | None, modality: str | None, offset_hu: float | None, *masks: Path | None
) -> None:
    """Refuse masks and an offset beside a protocol, a folder of data that is not there, and an offset for MR."""
    if protocol is not None and any(masks):
        words = "A protocol names its masks itself: --labels, --tumors and --organ-masks are for scans."
        raise InputError(words, hint="omit them.", code="choice")
    if protocol is not None and offset_hu is not None:
        words = "A protocol names the offset of each case itself: --offset-hu is for scans."
        raise InputError(words, hint="write offset_hu into the cases that need it.", code="choice")
    require_ct(offset_hu, modality)
    if data is not None:
        require_folder(data, "--data")


def _require_meant(
    protocol: str | None, organ: list[str] | None, organ_masks: Path | None, *, largest_organ: bool, reach: float | None
) -> None:
    """Refuse options that would change nothing: a choice of organs without a protocol, and of the network's own organ beside masks."""
    if organ and protocol is None:
        words = "Of scans nobody knows which organ they show: --organ chooses among a protocol's cases."
        raise InputError(words, hint="omit it.", code="choice")
    if organ_masks is not None and (largest_organ or reach is not None):
        words = "Organ masks take the place of the segmenter's own organ, of which --largest-organ and --reach speak."
        raise InputError(words, hint="omit these two, or --organ-masks.", code="choice")


def _print_guess(quiet: bool, name: str, modality: str, reason: str) -> None:
    """Say what a scan was taken for, as `segment` does."""
    if not quiet:
        print_note(f"{name}: {modality}, since {reason}.")
    elif modality == "MR":
        warn_of_mr(name, reason)


def asked(protocol: str | None, split: str, organs: list[str] | None, *places: Path | None) -> list[str]:
    """Return in words what is validated: a protocol's split and organs, or scans and masks."""
    return [protocol, split, *(organs or [])] if protocol else [str(place and place.absolute()) for place in places]


def list_scans(
    scans: Path, truth: Path | None, organ_masks: Path | None, *, tumor_only: bool = False
) -> list[ListedScan]:
    """Pair scans with masks: one file with one file, or files of one name in folders.

    Raises:
        InputError: No scan, or one without its mask (code "missing"); or one mask for a folder of scans (code "folder").
    """
    from DiffuGTSLib.cli.scan_folders import scans_in
    from DiffuGTSLib.evaluation.validation import ListedScan
    from DiffuGTSLib.volumes.io import scan_name

    if not scans.exists():
        raise InputError(f"There is no {scans}.", hint="check the spelling.", code="missing")
    for option, masks in ((("--labels", "--tumors")[tumor_only], truth), ("--organ-masks", organ_masks)):
        if masks is not None:
            require_mask_each(scans, masks, option)
    paths = scans_in(scans) if scans.is_dir() else [scans]
    return [
        ListedScan(scan_name(path), path, _mask_of(path, truth), _mask_of(path, organ_masks), tumor_only)
        for path in paths
    ]


def _mask_of(scan: Path, masks: Path | None) -> Path | None:
    from DiffuGTSLib.cli.scan_folders import mask_named
    from DiffuGTSLib.volumes.io import scan_name

    if masks is None:
        return None
    return mask_named(scan_name(scan), masks) if masks.is_dir() else masks


def _show(rows: list[dict[str, str | float]], output: Path) -> None:
    """Print the figures of scans, whether they were trained on, and where everything is."""
    from DiffuGTSLib.evaluation.validation import SEEN_NOTE

    if rows:
        OUT.print(_table(rows))
        note = (output / SEEN_NOTE).read_text(encoding="utf-8").rstrip()
        print_line(note)
    print_line(f"Written: {output}")


def _table(rows: list[dict[str, str | float]]) -> Table:
    table = Table(title="Agreement with the truth")
    for column in rows[0]:
        table.add_column(column, justify="left" if column == "name" else "right")
    for row in rows:
        table.add_row(*(Text(cell(value)) for value in row.values()))
    return table
