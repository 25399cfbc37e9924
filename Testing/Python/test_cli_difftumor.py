"""`difftumor`: every flag of the upstream command lines does what it did or says why not; the READMEs' lines run."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from phantoms import ct_phantom, grid
from terminal import plain, refused, run
from test_validation import write_scans
from typer.testing import Result

from DiffuGTSLib.cli import difftumor
from DiffuGTSLib.datasets.trained_cases import read_training_cases
from DiffuGTSLib.errors import ConfigError, InputError
from DiffuGTSLib.supervised.networks import Segmenter
from DiffuGTSLib.supervised.prediction import load_segmenter
from DiffuGTSLib.training.lock import alone_in
from DiffuGTSLib.training.segmenter_run import build_segmenter
from DiffuGTSLib.volumes import read_volume, write_volume

README_TRAIN = (
    "--model_name unet --cache_rate 1.0 --dist-url=tcp://127.0.0.1:12235 --workers 12 --max_epochs 2000 --val_every 50 "
    "--batch_size=12 --save_checkpoint --distributed --noamp --organ_type liver --organ_model liver --tumor_type tumor "
    "--fold 0 --ddim_ts 50 --logdir=runs/liver.fold0.unet --healthy_data_root H --data_root D --datafold_dir F"
)
EARLY_TRAIN = (
    "--optim_lr=4e-4 --batch_size=2 --lrschedule=warmup_cosine --optim_name=adamw --model_name=swin_unetrv2 "
    "--swin_type=tiny --val_every=200 --max_epochs=4000 --save_checkpoint --workers=2 --noamp --distributed "
    "--dist-url=tcp://127.0.0.1:12235 --cache_num=200 --val_overlap=0.5 --syn --logdir=runs/synt.no_pretrain.unet "
    "--train_dir D --val_dir D --json_dir datafolds/healthy.json --use_pretrained"
)
OTHERS = (
    "--checkpoint x --reg_weight 1e-5 --world_size 2 --rank 1 --dist-backend gloo --fg_thresh 5 --roi_x 64 --roi_y 64 "
    "--roi_z 64 --warmup_epochs 10 --resume_ckpt --pretrained_dir p --syn --diff_model m --healthy_num 3 "
    "--healthy_seed 1 --cache_num 9 --seg_block 2 --seg_anything=9 --pos_embedd perceptron --num_heads 12 "
    "--hidden_size 768 --feature_size 12 --optuna"
)
README_VALIDATE = (
    "--model nnunet --swin_type base --data_root D --datafold_dir F --tumor_type tumor --organ_type liver --fold 0 "
    "--log_dir L --save_dir out --val_overlap 0.75 --checkpoint c"
)
EARLY_VALIDATE = (
    "--model=swin_unetrv2 --swin_type=small --val_overlap=0.75 --val_dir D --json_dir datafolds/lits.json "
    "--log_dir runs/synt.no_pretrain.unet --save_dir out"
)


def words(line: str) -> list[str]:
    return line.split()


@pytest.mark.parametrize("line", [README_TRAIN, EARLY_TRAIN, OTHERS])
def test_every_training_flag_of_upstream_parses(line: str) -> None:
    given = difftumor.parse("main", difftumor.MAIN, words(line))
    for word in words(line):
        if word.startswith("--"):
            assert word[2:].split("=")[0] in given["given"]


@pytest.mark.parametrize("line", [README_VALIDATE, EARLY_VALIDATE])
def test_every_validation_flag_of_upstream_parses(line: str) -> None:
    given = difftumor.parse("validation", difftumor.VALIDATION, words(line))
    assert given["val_overlap"] == 0.75 and given["save_dir"] == "out"


def test_the_defaults_are_upstreams() -> None:
    given = difftumor.parse("main", difftumor.MAIN, [])
    expected = {
        "fold": 0, "max_epochs": 3000, "batch_size": 1, "optim_lr": 4e-4, "optim_name": "adamw", "reg_weight": 1e-5,
        "val_every": 200, "val_overlap": 0.5, "cache_rate": 0.5, "world_size": 1, "rank": 0, "workers": 4,
        "dist-url": "tcp://127.0.0.1:23457", "dist-backend": "nccl", "model_name": "unet", "swin_type": "base",
        "tumor_type": "tumor", "organ_type": "liver", "ddim_ts": 50, "fg_thresh": 10, "roi_x": 96, "roi_y": 96,
        "roi_z": 96, "lrschedule": "warmup_cosine", "warmup_epochs": 100, "noamp": False, "checkpoint": None,
    }  # fmt: skip
    assert {name: given[name] for name in expected} == expected and given["given"] == set()


def test_flags_that_do_nothing_say_why() -> None:
    given = difftumor.parse("main", difftumor.MAIN, words(OTHERS))
    said = difftumor.idle_flags(difftumor.MAIN, given)
    named = {line.split()[0] for line in said}
    idle = ("syn", "diff_model", "healthy_num", "healthy_seed", "cache_num", "seg_block", "seg_anything", "pos_embedd",
            "num_heads", "hidden_size", "world_size", "rank", "dist-backend", "fg_thresh", "resume_ckpt")  # fmt: skip
    assert {f"--{name}" for name in idle} <= named
    assert "--warmup_epochs" not in named and "--roi_x" not in named
    assert "--seg_anything does nothing: upstream parses it and never reads it." in said


def test_flags_that_do_nothing_in_a_validation_say_why() -> None:
    line = "--json_dir x --fold 3 --healthy_data_root h --a_min -21 --a_max 189 --space_x 2 --roi_x 64 --swin_type tiny"
    given = difftumor.parse("validation", difftumor.VALIDATION, words(line))
    said = {line.split()[0] for line in difftumor.idle_flags(difftumor.VALIDATION, given)}
    assert said == {"--fold", "--healthy_data_root"}
    of_run = difftumor.idle_flags(difftumor.VALIDATION, given, difftumor._OF_NETWORK | difftumor._OF_GRID)
    assert "--a_min does nothing: a run's folder says on which grid it was trained." in of_run
    assert len(of_run) == 2 + 1 + 4


def test_an_optimizer_other_than_adamw_is_said_to_be_none() -> None:
    given = difftumor.parse("main", difftumor.MAIN, words("--optim_name sgd"))
    assert difftumor.idle_flags(difftumor.MAIN, given) == [
        "--optim_name sgd does nothing: segmenters are trained with AdamW."
    ]
    quiet = difftumor.parse("main", difftumor.MAIN, words("--optim_name adamw --fold 1"))
    assert difftumor.idle_flags(difftumor.MAIN, quiet) == []


def test_the_flags_reach_the_training() -> None:
    given = difftumor.parse("main", difftumor.MAIN, words(EARLY_TRAIN))
    options = difftumor.segmenter_options(given)
    assert (options.model, options.swin_type, options.batch, options.workers) == ("swin_unetr", "tiny", 2, 2)
    assert (options.learning_rate, options.validate_every, options.window, options.overlap) == (4e-4, 200, 96, 0.5)
    other = difftumor.parse("main", difftumor.MAIN, words("--model_name swinunetr --lrschedule cosine_anneal"))
    assert difftumor.segmenter_options(other).schedule == "cosine_anneal"


def test_painters_of_another_organ_are_found_in_a_folder(tmp_path: Path) -> None:
    given = difftumor.parse("main", difftumor.MAIN, ["--painter", str(tmp_path), "--organ_type", "liver"])
    options = difftumor.segmenter_options({**given, "organ_model": "kidney"})
    assert options.organs == "liver" and options.painter == str(tmp_path / "kidney_early")
    assert options.late_painter == str(tmp_path / "kidney_noearly")
    assert difftumor.segmenter_options(given).painter == str(tmp_path / "liver_early")


@pytest.mark.parametrize(
    ("line", "message", "hint"),
    [
        ("--model_nam unet", "unknown flag '--model_nam'", "did you mean 'model_name'?"),
        ("--fold zero", "argument --fold: invalid int value: 'zero'", "difftumor --help"),
        ("stray", "unknown flag 'stray'", ""),
        ("--logdir", "expected one argument", "difftumor --help"),
    ],
)
def test_a_flag_that_upstream_does_not_have_is_refused(line: str, message: str, hint: str) -> None:
    refused(run("difftumor", "main", *words(line)), 2, message, hint)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--model_name unett", "Unknown model 'unett'"),
        ("--roi_x 64", "window of equal sides, got 64 x 96 x 96"),
        ("--lrschedule step", "Unknown lrschedule 'step'"),
        ("", "Expected --datafold_dir FOLDER"),
        ("--json_dir x.json", "one folder that the list's paths start from, got none"),
        ("--json_dir x.json --train_dir a --val_dir b", "one folder that the list's paths start from, got a, b"),
        ("--json_dir x.json --val_dir nowhere", "--val_dir: there is no folder nowhere"),
        ("--datafold_dir nowhere", "--datafold_dir: there is no folder nowhere"),
    ],
)
def test_a_wish_that_cannot_be_granted_is_refused(line: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        given = difftumor.parse("main", difftumor.MAIN, words(line))
        difftumor.segmenter_options(given)
        difftumor.listed_cases(given)


@pytest.fixture(scope="module")
def a_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with scans, lists, and what one epoch of the early README's command left in `runs/synt`."""
    folder = tmp_path_factory.mktemp("difftumor")
    write_scans(folder, ("a", "b"), healthy=("b",))
    entry = [{"image": f"scans/{name}.nii.gz", "label": f"labels/{name}.nii.gz"} for name in "ab"]
    (folder / "healthy.json").write_text(json.dumps({"training": entry[1:], "validation": entry[1:]}))
    (folder / "lits.json").write_text(json.dumps({"training": entry[:1], "validation": entry[:1]}))
    done = run(
        "difftumor", "main", "--model_name", "unet", "--syn", "--max_epochs", "1", "--noamp", "--workers", "0",
        "--roi_x", "32", "--roi_y", "32", "--roi_z", "32", "--space_x", "4", "--device", "cpu", "--cache_num", "2",
        f"--logdir={folder}/runs/synt", "--train_dir", folder, "--val_dir", folder, "--json_dir", folder / "healthy.json",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "Warning: --cache_num does nothing: cases are read once" in plain(done.stderr)
    assert "0 real and 1 healthy cases" in plain(done.stdout)
    return folder


def test_syn_leaves_a_case_with_outlined_tumors_real(a_run: Path, tmp_path: Path) -> None:
    """SyntheticTumors paints where label 2 is absent: of `a`, tumors would be taught, and judged, as organ."""
    entry = [{"image": f"scans/{name}.nii.gz", "label": f"labels/{name}.nii.gz"} for name in "ab"]
    mix = tmp_path / "mix.json"
    mix.write_text(json.dumps({"training": entry, "validation": entry[:1]}))
    call = (
        "difftumor", "main", "--syn", "--max_epochs", "1", "--noamp", "--workers", "0", "--roi_x", "32", "--roi_y", "32",
        "--roi_z", "32", "--space_x", "4", "--device", "cpu", f"--logdir={tmp_path}/run", "--val_dir", a_run,
    )  # fmt: skip
    said = plain(run(*call, "--json_dir", mix, "--prepared", tmp_path / "prepared").stdout)
    assert "train: 1 of 2 cases have tumors in their label maps: real ones, not painted into" in said
    assert "1 real and 1 healthy cases; the best is chosen on 1 scans" in said
    record = json.loads((tmp_path / "run" / "segmenter" / "begun.json").read_text())
    assert record["cases"] == ["scans/a.nii.gz labels/a.nii.gz", "scans/b.nii.gz labels/b.nii.gz healthy"]
    assert len(list((tmp_path / "prepared").iterdir())) == 2, "one a case, of which the first is in both lists"


def test_what_is_left_to_difftumors_defaults_is_said_of_synthetictumors_command() -> None:
    (said,) = difftumor.other_defaults(difftumor.parse("main", difftumor.MAIN, words(EARLY_TRAIN)))
    assert said.endswith("SyntheticTumors had --a_min -21 --a_max 189 --painter recipe.")
    asked = f"{EARLY_TRAIN} --a_min -21 --a_max 189 --painter recipe"
    for line in (asked, README_TRAIN, EARLY_TRAIN.replace("--syn ", "")):
        assert difftumor.other_defaults(difftumor.parse("main", difftumor.MAIN, words(line))) == []


def test_the_early_command_trains_into_the_folder_it_names(a_run: Path) -> None:
    assert load_segmenter(a_run / "runs" / "synt").window_voxels == 32
    assert (a_run / "runs" / "synt" / "segmenter" / "log.csv").is_file()


def test_the_early_command_validates_into_the_folder_it_names(a_run: Path) -> None:
    call = (
        "difftumor", "validation", "--model=unet", "--val_overlap=0.5", "--val_dir", a_run, "--log_dir",
        a_run / "runs" / "synt", "--save_dir", a_run / "out", "--device", "cpu", "--organ_masks", a_run / "organs",
        "--largest_organ", "--json_dir",
    )  # fmt: skip
    seen = run(*call, a_run / "healthy.json")
    assert "SEEN IN TRAINING, so that their figures say nothing: b (" in plain(seen.stdout)
    done = run(*call, a_run / "lits.json")
    assert done.exit_code == 0, done.output
    found = read_volume(a_run / "out" / "synt" / "0.5" / "pred" / "a.nii.gz")
    assert found.geometry.difference(read_volume(a_run / "scans" / "a.nii.gz").geometry) == ""
    with (a_run / "out" / "synt" / "0.5" / "metrics.csv").open() as file:
        assert [row["name"] for row in csv.DictReader(file)] == ["a", "mean"]
    assert "mean: organ_dice 1.000" in plain(done.stdout)
    assert "No case is among the 2 scans trained or tuned on" in plain(done.stdout)


def test_a_ct_without_its_offset_is_refused_without_a_hint_at_an_option_that_is_not_there(
    a_run: Path, tmp_path: Path
) -> None:
    for kind in ("scans", "labels"):
        shutil.copytree(a_run / kind, tmp_path / kind)
    scan = read_volume(tmp_path / "scans" / "a.nii.gz")
    write_volume(scan.with_array((scan.array + 1024).clip(0)), tmp_path / "scans" / "a.nii.gz")
    done = run(
        "difftumor", "validation", "--val_dir", tmp_path, "--json_dir", a_run / "lits.json", "--log_dir",
        a_run / "runs" / "synt", "--save_dir", tmp_path / "out", "--device", "cpu", "--roi_x", "64",
    )  # fmt: skip
    refused(done, 2, "not in Hounsfield units", "write the files anew")
    assert "--offset-hu" not in done.stderr and "--roi_x does nothing" in plain(done.stderr)


def test_a_run_of_another_model_is_not_validated(a_run: Path) -> None:
    done = run(
        "difftumor", "validation", "--model=nnunet", "--val_dir", a_run, "--json_dir", a_run / "lits.json", "--log_dir",
        a_run / "runs" / "synt", "--save_dir", a_run / "none",
    )  # fmt: skip
    refused(done, 2, "holds a unet, not a nnunet", "check --log_dir")


def test_difftumors_command_trains_on_a_fold_of_real_and_healthy_cases(a_run: Path) -> None:
    (a_run / "liver_label").mkdir(exist_ok=True)
    (a_run / "liver_label" / "b.nii.gz").write_bytes((a_run / "labels" / "b.nii.gz").read_bytes())
    lines = "scans/a.nii.gz  labels/a.nii.gz\nscans/b.nii.gz  liver_label/b.nii.gz\n"
    for split in ("train", "val"):
        (a_run / f"real_tumor_{split}_0.txt").write_text(lines)
    done = run(
        "difftumor", "main", "--max_epochs", "1", "--roi_x", "32", "--roi_y", "32", "--roi_z", "32", "--space_x", "4",
        "--workers", "0", "--device", "cpu", "--logdir", a_run / "runs" / "fold0", "--data_root", a_run,
        "--healthy_data_root", a_run, "--datafold_dir", a_run, "--organ_model", "kidney",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "1 real and 1 healthy cases; the best is chosen on 1 scans" in plain(done.stdout)
    assert load_segmenter(a_run / "runs" / "fold0").network.config["model"] == "unet"


def test_another_fold_does_not_go_on_with_the_network_of_a_fold(tmp_path: Path) -> None:
    """Fold 1 is validated on what fold 0 was trained on: its model is not fold 1's."""
    write_scans(tmp_path, ("a", "b"), healthy=())
    for fold, (train, val) in enumerate(("ab", "ba")):
        for split, name in (("train", train), ("val", val)):
            line = f"scans/{name}.nii.gz  labels/{name}.nii.gz\n"
            (tmp_path / f"real_tumor_{split}_{fold}.txt").write_text(line)

    def trained(fold: int) -> Result:
        return run(
            "difftumor", "main", "--max_epochs", "1", "--roi_x", "32", "--roi_y", "32", "--roi_z", "32", "--space_x", "4",
            "--workers", "0", "--device", "cpu", "--logdir", tmp_path / "run", "--data_root", tmp_path,
            "--datafold_dir", tmp_path, "--fold", str(fold),
        )  # fmt: skip

    first = trained(0)
    assert first.exit_code == 0, first.output
    told = read_training_cases(tmp_path / "run" / "segmenter" / "model") or ()
    assert [(case.name, case.use) for case in told] == [("a", "trained"), ("b", "tuned")]
    other = trained(1)
    assert other.exit_code == 2 and "was begun with another set of training scans" in plain(other.stderr)
    with alone_in(tmp_path / "run" / "segmenter", print):
        refused(trained(0), 6, "Another training writes into", "another folder")
    assert trained(0).exit_code == 0, "its own fold goes on"
    label = tmp_path / "labels" / "a.nii.gz"
    truth = read_volume(label)
    write_volume(truth.with_array(np.minimum(truth.array, 1)), label)
    mended = trained(0)
    assert mended.exit_code == 2 and "begun with other organs or outlines in its training scans" in plain(mended.stderr)


def published_unet(path: Path) -> Segmenter:
    """Write a full-size UNet as upstream's training leaves it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    network = Segmenter("unet")
    tensors = {f"module.backbone.{name}": tensor for name, tensor in network.net.state_dict().items()}
    torch.save({"epoch": 3, "best_acc": 0.5, "state_dict": tensors}, path)
    return network


def test_a_published_file_is_validated_and_trained_on(a_run: Path, tmp_path: Path) -> None:
    network = published_unet(tmp_path / "liver.fold0.unet" / "model.pt")
    common = ["--json_dir", a_run / "lits.json", "--val_dir", a_run, "--device", "cpu"]
    done = run(
        "difftumor", "validation", *common, "--log_dir", tmp_path / "liver.fold0.unet", "--save_dir", tmp_path / "out",
        "--a_min", "-21", "--a_max", "189", "--space_x", "2", "--roi_x", "64", "--roi_y", "64", "--roi_z", "64",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert (tmp_path / "out" / "liver.fold0.unet" / "0.75" / "metrics.csv").is_file()
    model = load_segmenter(tmp_path / "out" / "liver.fold0.unet" / "0.75" / "model")
    assert (model.grid.ct_knots_hu, model.grid.spacing_mm, model.window_voxels) == ((-21.0, 189.0), 2.0, 64)
    kept = model.network.net.state_dict()
    assert all(torch.equal(kept[name], tensor) for name, tensor in network.net.state_dict().items())
    options = difftumor.segmenter_options(difftumor.parse("main", difftumor.MAIN, []))
    start = difftumor.converted(tmp_path / "liver.fold0.unet" / "model.pt", tmp_path / "start")
    begun = build_segmenter(replace(options, start=str(start)))
    assert all(torch.equal(value, kept[name]) for name, value in begun.net.state_dict().items())
    assert all(parameter.requires_grad for parameter in begun.parameters()) and begun.training
    assert difftumor.converted(start, tmp_path / "nowhere") == start
    with pytest.raises(ConfigError, match="holds a unet, not a nnunet"):
        build_segmenter(replace(options, start=str(start), model="nnunet"))


def test_a_file_that_is_no_segmenter_is_not_started_from(a_run: Path, tmp_path: Path) -> None:
    torch.save({"state_dict": {"layer.weight": torch.zeros(3)}}, tmp_path / "other.pt")
    done = run(
        "difftumor", "main", "--train_dir", a_run, "--json_dir", a_run / "healthy.json", "--logdir", tmp_path / "run",
        "--checkpoint", tmp_path / "other.pt",
    )  # fmt: skip
    refused(done, 3, "is neither an autoencoder, a diffusion model nor a segmenter", "")


def test_no_epoch_is_refused(a_run: Path) -> None:
    done = run(
        "difftumor", "main", "--max_epochs", "0", "--train_dir", a_run, "--json_dir", a_run / "healthy.json",
        "--logdir", a_run / "none",
    )  # fmt: skip
    refused(done, 2, "at least one epoch, got 0", "")


def test_no_process_group_and_no_graphics_card_are_needed(a_run: Path) -> None:
    """Whatever was trained above was trained by one process on a CPU."""
    assert not torch.distributed.is_initialized()
    assert next(load_segmenter(a_run / "runs" / "synt").network.parameters()).device.type == "cpu"
    assert isinstance(load_segmenter(a_run / "runs" / "synt").network, Segmenter)
    write_volume(ct_phantom(grid((8, 8, 8))).scan, a_run / "small.nii.gz")
