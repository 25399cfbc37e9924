"""`difftumor main` and `difftumor validation`: the command lines of DiffTumor and of its early README, understood.

Every flag of upstream's `main.py` and `validation.py`, of today and of the early README, is accepted; one that does
nothing here says so. Our own flags beside them: --painter, --device, --seed, --largest_organ.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from DiffuGTSLib.cli.interrupts import print_progress, stop_if_asked
from DiffuGTSLib.cli.options import examples
from DiffuGTSLib.cli.scan_inputs import require_folder
from DiffuGTSLib.cli.terminal import print_line, print_warning
from DiffuGTSLib.cli.training import stopped
from DiffuGTSLib.errors import Cancelled, InputError, did_you_mean

if TYPE_CHECKING:
    from DiffuGTSLib.supervised.prediction import TrainedSegmenter
    from DiffuGTSLib.training.case_lists import ListedCase
    from DiffuGTSLib.training.segmenter_run import SegmenterOptions

EXAMPLES = examples(
    "DiffTumor's command, on its own lists:",
    "diffugts difftumor main --model_name unet --organ_type liver --organ_model liver --fold 0 --logdir runs/liver.unet "
    "--data_root LiTS --healthy_data_root HealthyCT --datafold_dir cross_eval/liver_aug_data_fold",
    "The early README's, on a Decathlon list:",
    "diffugts difftumor main --model_name unet --syn --logdir runs/synt --train_dir data --val_dir data --json_dir healthy.json",
    "diffugts difftumor validation --model unet --val_dir data --json_dir lits.json --log_dir runs/synt --save_dir out",
)


@dataclass(frozen=True)
class Flag:
    """One flag of upstream.

    Attributes:
        name: Without dashes.
        kind: Type of its value; bool is a switch.
        default: Where it is not given; None where upstream needs it or has none.
        idle: Why it does nothing here; "" where it does what it did.
    """

    name: str
    kind: type = str
    default: Any = None
    idle: str = ""


_UPSTREAM = "upstream parses it and never reads it"
_TORCHRUN = "several processes are started by torchrun, which says all of this"
_MEMORY = "cases are read once and kept in memory, or in the folder of --prepared"
_FIXED = "the network of that name has its published shape"

_SHARED = (
    Flag("fold", int, 0), Flag("tumor_type", str, "tumor", "labels say what is a tumor"), Flag("organ_type", str, "liver"),
    Flag("swin_type", str, "base"), Flag("val_overlap", float, 0.5), Flag("data_root"), Flag("healthy_data_root"),
    Flag("datafold_dir"), Flag("val_dir"), Flag("json_dir"), Flag("checkpoint"), Flag("roi_x", int, 96),
    Flag("roi_y", int, 96), Flag("roi_z", int, 96), Flag("device", str, "auto"), Flag("feature_size", int, None, _FIXED),
    Flag("in_channels", int, 1, _FIXED), Flag("out_channels", int, 3, _FIXED), Flag("num_classes", int, 3, _FIXED),
    Flag("a_min", float, -175.0), Flag("a_max", float, 250.0), Flag("b_min", float, 0.0, "intensities run from 0 to 1"),
    Flag("b_max", float, 1.0, "intensities run from 0 to 1"), Flag("space_x", float, 1.0),
    Flag("space_y", float, 1.0, "voxels are cubes of space_x"), Flag("space_z", float, 1.0, "voxels are cubes of space_x"),
)  # fmt: skip

MAIN = (
    *_SHARED,
    Flag("model_name", str, "unet"), Flag("logdir", str, "runs/test"), Flag("train_dir"), Flag("syn", bool, False),
    Flag("organ_model", str, ""), Flag("max_epochs", int, 3000), Flag("batch_size", int, 1), Flag("optim_lr", float, 4e-4),
    Flag("optim_name", str, "adamw"), Flag("reg_weight", float, 1e-5), Flag("lrschedule", str, "warmup_cosine"),
    Flag("warmup_epochs", int, 100), Flag("val_every", int, 200), Flag("workers", int, 4), Flag("noamp", bool, False),
    Flag("painter", str, "handcrafted"), Flag("seed", int, 0), Flag("prepared"),
    Flag("save_checkpoint", bool, False, "checkpoints are always written"),
    Flag("cache_rate", float, 0.5, _MEMORY), Flag("cache_num", int, 200, _MEMORY),
    Flag("distributed", bool, False, _TORCHRUN), Flag("world_size", int, 1, _TORCHRUN), Flag("rank", int, 0, _TORCHRUN),
    Flag("dist-url", str, "tcp://127.0.0.1:23457", _TORCHRUN), Flag("dist-backend", str, "nccl", _TORCHRUN),
    Flag("ddim_ts", int, 50, "a trained painter's folder says how many steps it takes"),
    Flag("fg_thresh", int, 10, "the organ file says it, as upstream's organ overwrote it"),
    Flag("resume_ckpt", bool, False, "a run goes on from its own folder"),
    Flag("pretrained_dir", str, None, "a run goes on from its own folder"),
    Flag("use_pretrained", bool, False, "MONAI's self-supervised Swin weights are not bundled"),
    Flag("diff_model", str, None, _UPSTREAM), Flag("healthy_num", int, None, _UPSTREAM),
    Flag("healthy_seed", int, None, _UPSTREAM), Flag("pos_embedd", str, None, _UPSTREAM),
    Flag("pos_embed", str, None, _UPSTREAM), Flag("num_heads", int, None, _UPSTREAM),
    Flag("hidden_size", int, None, _UPSTREAM), Flag("mlp_dim", int, None, _UPSTREAM),
    Flag("momentum", float, None, "AdamW has none"), Flag("optuna", bool, False, "there is no search"),
)  # fmt: skip
"""Flags of `main.py`."""

VALIDATION = (
    *_SHARED,
    Flag("model", str, "unet"), Flag("model_name", str, None), Flag("log_dir"), Flag("save_dir", str, "out"),
    Flag("largest_organ", bool, False), Flag("organ_masks"),
)  # fmt: skip
"""Flags of `validation.py`, and where organ masks lie: upstream has them in a folder of its own beside the code."""

FREE_PREFIX = "seg_"
"""Flags that begin so parse with any value and do nothing, here as upstream."""

MODEL_NAMES = {"unet": "unet", "nnunet": "nnunet", "swinunetr": "swin_unetr", "swin_unetrv2": "swin_unetr"}
"""Upstream's name → ours."""

app = typer.Typer(
    help="The command lines of DiffTumor and its early README, whose authors state that patents are pending.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    epilog=EXAMPLES,
)
_ANYTHING = {"ignore_unknown_options": True}

Words = Annotated[list[str] | None, typer.Argument(metavar="UPSTREAM'S FLAGS", help="As upstream writes them.")]


@app.command("main", context_settings=_ANYTHING, epilog=EXAMPLES)
def main(words: Words = None) -> None:
    """Train a segmenter as main.py did, into the folder that --logdir names."""
    given = parse("main", MAIN, words or [])
    for line in (*idle_flags(MAIN, given), *other_defaults(given)):
        print_warning(line)
    options = segmenter_options(given)
    cases = listed_cases(given)
    if given["checkpoint"] is not None:
        options = replace(
            options, start=str(converted(Path(given["checkpoint"]), Path(given["logdir"]) / "checkpoint"))
        )
    from DiffuGTSLib.training.segmenter_run import train_listed

    try:
        with _hu_in_files():
            train_listed(
                cases, options, epochs=given["max_epochs"], output=Path(given["logdir"]), amp=not given["noamp"],
                seed=given["seed"], device=given["device"], all_healthy=given["syn"] and given["json_dir"] is not None,
                prepared=None if given["prepared"] is None else Path(given["prepared"]), report=print_progress,
            )  # fmt: skip
    except (KeyboardInterrupt, Cancelled):
        raise stopped(Path(given["logdir"]) / "segmenter") from None


@app.command("validation", context_settings=_ANYTHING, epilog=EXAMPLES)
def validation(words: Words = None) -> None:
    """Score a segmenter as validation.py did, into SAVE_DIR/RUN/OVERLAP/pred and metrics.csv."""
    given = parse("validation", VALIDATION, words or [])
    run = _required(given, "log_dir")
    published = Path(given["checkpoint"]) if given["checkpoint"] is not None else run / "model.pt"
    for line in idle_flags(VALIDATION, given, _OF_NETWORK if published.is_file() else _OF_NETWORK | _OF_GRID):
        print_warning(line)
    wanted = model_name(given["model_name"] or given["model"])
    overlap = given["val_overlap"] if "val_overlap" in given["given"] else 0.75
    cases = listed_cases(given)["validation"]
    output = Path(given["save_dir"]) / run.name / f"{overlap:g}"

    from DiffuGTSLib.config import RuntimeConfig
    from DiffuGTSLib.device import find_device
    from DiffuGTSLib.evaluation.validation import SEEN_NOTE, HowToPredict, ListedScan, validate_scans
    from DiffuGTSLib.supervised.prediction import PostProcessing, find_segmenter, load_segmenter, save_grid
    from DiffuGTSLib.volumes.io import scan_name

    masks = None if given["organ_masks"] is None else Path(given["organ_masks"])
    scans = [
        ListedScan(
            case.name, case.image, case.label, None if masks is None else masks / f"{scan_name(case.label)}.nii.gz"
        )
        for case in cases
    ]
    largest = bool(given["largest_organ"])
    post = PostProcessing(0.0, largest, 30.0 if largest else None)
    folder = converted(published, output / "model") if given["checkpoint"] or published.is_file() else run
    trained = load_segmenter(folder, find_device(RuntimeConfig(device=given["device"])))
    if published.is_file():
        trained = on_given_grid(trained, given)
        save_grid(trained, folder)
    if trained.network.config["model"] != wanted:
        raise InputError(
            f"{folder} holds a {trained.network.config['model']}, not a {wanted}.", hint="check --log_dir."
        )
    with _hu_in_files():
        rows = validate_scans(
            trained, scans, output, HowToPredict(overlap, post, "CT"), lambda case, done: stop_if_asked(),
            model_folder=find_segmenter(folder), allow_seen=True,
        )  # fmt: skip
    for row in rows:
        figures = " ".join(f"{key} {value:.3f}" for key, value in row.items() if isinstance(value, float))
        print_line(f"{row['name']}: {figures}")
    print_line((output / SEEN_NOTE).read_text(encoding="utf-8").rstrip())


@contextmanager
def _hu_in_files() -> Iterator[None]:
    """Refuse a CT that is not in HU with what can be done here: these command lines have no offset to add."""
    try:
        yield
    except InputError as error:
        if error.code != "not_hu":
            raise
        hint = "write the files anew with what they lost, as volumes.hounsfield.in_hounsfield(scan, -1024) adds it."
        raise InputError(error.message, hint=hint, code=error.code) from error


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InputError(f"difftumor {self.prog}: {message}.", hint="see diffugts difftumor --help.", code="usage")


def parse(command: str, flags: Sequence[Flag], words: Sequence[str]) -> dict[str, Any]:
    """Return flag → value, with upstream's defaults; "given" holds the names that were given.

    Raises:
        InputError: For an unknown flag, a value of another type, or a word that belongs to no flag.
    """
    parser = _Parser(prog=command, add_help=False, allow_abbrev=False)
    for flag in flags:
        if flag.kind is bool:
            parser.add_argument(f"--{flag.name}", dest=flag.name, action="store_true", default=argparse.SUPPRESS)
        else:
            parser.add_argument(f"--{flag.name}", dest=flag.name, type=flag.kind, default=argparse.SUPPRESS)
    parsed, rest = parser.parse_known_args(list(words))
    known = [flag.name for flag in flags]
    free = []
    for number, word in enumerate(rest):
        name = word.lstrip("-").partition("=")[0]
        if word.startswith(f"--{FREE_PREFIX}"):
            free.append(name)
        elif word.startswith("-") or not (number and rest[number - 1].startswith(f"--{FREE_PREFIX}")):
            raise InputError(
                f"difftumor {command}: unknown flag '{word}'.", hint=did_you_mean(name, known), code="usage"
            )
    given = vars(parsed)
    return {**{flag.name: flag.default for flag in flags}, **given, "given": {*given, *free}}


_OF_LISTS = dict.fromkeys(("fold", "healthy_data_root", "datafold_dir"), "--json_dir names the cases")
_OF_NETWORK = {"swin_type": "the network's file says it", "organ_type": "the labels say what is an organ"}
_OF_GRID = dict.fromkeys(
    ("a_min", "a_max", "space_x", "roi_x", "roi_y", "roi_z"), "a run's folder says on which grid it was trained"
)
"""Flags that do nothing in some calls, and why."""


def idle_flags(flags: Sequence[Flag], given: dict[str, Any], further: Mapping[str, str] | None = None) -> list[str]:
    """Return a sentence for every flag that was given and does nothing: why.

    Args:
        flags: Of the command.
        given: See `parse`.
        further: Flags that do nothing in this call, and why.
    """
    idle = {flag.name: flag.idle for flag in flags if flag.idle} | dict(further or {})
    idle |= _OF_LISTS if given["json_dir"] is not None else {}
    idle |= {name: _UPSTREAM for name in given["given"] if name.startswith(FREE_PREFIX)}
    said = [f"--{name} does nothing: {idle[name]}." for name in sorted(given["given"]) if name in idle]
    if given.get("syn") and given["json_dir"] is None:
        said.append("--syn does nothing: the lists say which cases are healthy, and tumors are painted into those.")
    if given.get("optim_name", "adamw") != "adamw":
        said.append(f"--optim_name {given['optim_name']} does nothing: segmenters are trained with AdamW.")
    return said


SYNTHETIC_TUMORS = {"a_min": "-21", "a_max": "189", "painter": "recipe", "optim_lr": "1e-4"}
"""What makes another network where it is left to the defaults: SyntheticTumors' own are not DiffTumor's."""


def other_defaults(given: dict[str, Any]) -> list[str]:
    """Return the sentence that says which flags SyntheticTumors' command would have meant otherwise; none for none."""
    other = [f"--{name} {value}" for name, value in SYNTHETIC_TUMORS.items() if name not in given["given"]]
    if not (given["syn"] and given["json_dir"] is not None and other):
        return []
    return [f"What is not given is as in DiffTumor; SyntheticTumors had {' '.join(other)}."]


def segmenter_options(given: dict[str, Any]) -> SegmenterOptions:
    """Return upstream's flags as our options.

    Raises:
        InputError: For an unknown model, a window that is no cube, or an unknown schedule.
    """
    from DiffuGTSLib.training.segmenter_run import SegmenterOptions

    schedules = {"warmup_cosine": "warmup_cosine", "cosine_anneal": "cosine_anneal", "none": "none", "None": "none"}
    if given["lrschedule"] not in schedules:
        hint = did_you_mean(given["lrschedule"], schedules)
        raise InputError(f"Unknown lrschedule '{given['lrschedule']}'.", hint=hint)
    early, late = painters(given["painter"], given["organ_model"] or given["organ_type"])
    return SegmenterOptions(
        model=model_name(given["model_name"]), swin_type=given["swin_type"], organs=given["organ_type"], painter=early,
        late_painter=late, window=window_voxels(given), batch=given["batch_size"], workers=given["workers"],
        learning_rate=given["optim_lr"], weight_decay=given["reg_weight"], warmup_epochs=given["warmup_epochs"],
        validate_every=given["val_every"], schedule=schedules[given["lrschedule"]], overlap=given["val_overlap"],
        spacing_mm=given["space_x"], low_hu=given["a_min"], high_hu=given["a_max"],
    )  # fmt: skip


def window_voxels(given: dict[str, Any]) -> int:
    """Return the side of the windows.

    Raises:
        InputError: If they are no cubes.
    """
    sides = {int(given[f"roi_{axis}"]) for axis in "xyz"}
    if len(sides) > 1:
        raise InputError(f"Expected a window of equal sides, got {' x '.join(str(given[f'roi_{a}']) for a in 'xyz')}.")
    return sides.pop()


def on_given_grid(trained: TrainedSegmenter, given: dict[str, Any]) -> TrainedSegmenter:
    """Return a published segmenter with the voxels, intensities and windows that the flags name: its file has none.

    SyntheticTumors' networks see -21 to 189 HU, DiffTumor's -175 to 250.

    Raises:
        InputError: If the windows are no cubes.
    """
    side = window_voxels(given)
    grid = replace(
        trained.grid, spacing_mm=given["space_x"], ct_knots_hu=(given["a_min"], given["a_max"]),
        minimum_side=32 * ceil(side / 32),
    )  # fmt: skip
    return replace(trained, grid=grid, window_voxels=side)


def painters(painter: str, organ_model: str) -> tuple[str, str]:
    """Return the painters of early and of later tumors: by hand, or from a folder of trained ones, by organ.

    A folder holds `{organ}_early` and `{organ}_noearly`, named as the published files are.
    """
    folder = Path(painter)
    if folder.is_dir():
        return str(folder / f"{organ_model}_early"), str(folder / f"{organ_model}_noearly")
    return painter, ""


def converted(path: Path, folder: Path) -> Path:
    """Return a segmenter's folder: `path` itself, or what a published file becomes, converted once into `folder`.

    Raises:
        InputError: If there is no such file.
        WeightsError: If it is no segmenter.
    """
    if path.is_dir():
        return path
    from DiffuGTSLib.synthesis.checkpoints import convert_checkpoint

    made = convert_checkpoint(path, folder)
    if made.kind != "segmenter":
        raise InputError(f"{path} holds a {made.kind}, not a segmenter.", hint="check --checkpoint.")
    return folder


def model_name(name: str) -> str:
    """Return our name of one of upstream's models.

    Raises:
        InputError: If there is none.
    """
    if name not in MODEL_NAMES:
        raise InputError(f"Unknown model '{name}'.", hint=did_you_mean(name, MODEL_NAMES))
    return MODEL_NAMES[name]


def listed_cases(given: dict[str, Any]) -> dict[str, list[ListedCase]]:
    """Return the cases of the lists that were named, "train" and "validation".

    Raises:
        InputError: Without a list; or as `DiffuGTSLib.training.case_lists`.
    """
    from DiffuGTSLib.training.case_lists import read_decathlon, read_fold

    if given["json_dir"] is not None:
        roots = {given[name] for name in ("train_dir", "val_dir", "data_root") if given.get(name)}
        if len(roots) != 1:
            raise InputError(
                f"Expected one folder that the list's paths start from, got {', '.join(sorted(roots)) or 'none'}.",
                hint="give the same folder as --train_dir and --val_dir; validation needs --val_dir only.",
            )
        root = Path(roots.pop())
        require_folder(root, "--val_dir")
        return read_decathlon(Path(given["json_dir"]), root)
    folder, data = _required(given, "datafold_dir"), _required(given, "data_root")
    healthy = None if given["healthy_data_root"] is None else Path(given["healthy_data_root"])
    return read_fold(folder, given["fold"], data, healthy)


def _required(given: dict[str, Any], name: str) -> Path:
    if not given[name]:
        raise InputError(f"Expected --{name} FOLDER.", hint="see diffugts difftumor --help.", code="usage")
    require_folder(Path(given[name]), f"--{name}")
    return Path(given[name])
