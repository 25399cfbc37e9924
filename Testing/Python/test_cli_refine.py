"""A result folder at work: a drawn candidate is refined in place, on any machine, and nothing in a folder is lost."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from phantoms import Phantom
from terminal import plain, refused, run

from DiffuGTSLib.cli.segmenting import config_here
from DiffuGTSLib.output import results
from DiffuGTSLib.volumes.io import read_volume, write_volume

pytest_plugins = ["terminal_fixtures"]


@pytest.fixture
def a_result(a_written_result: Path, tmp_path: Path) -> Path:
    """A copy of it that may be changed."""
    return Path(shutil.copytree(a_written_result, tmp_path / "result"))


def test_refine_repaints_an_edited_mask_in_place(a_result: Path, a_folder: Path) -> None:
    before = results.read_record(a_result)
    aova = read_volume(a_result / results.AOVA).array
    shutil.copy(a_folder / "lesion.nii.gz", a_result / results.COARSE_MASK)
    done = run("refine", a_result)
    assert done.exit_code == 0, done.stderr
    after = results.read_record(a_result)
    assert after["outcome"].lower() in done.stdout.lower()
    for same in ("config", "prompts", "input", "modality_reason", "asked", "region"):
        assert after[same] == before[same], same
    assert after["refined_from"] == str(a_result / results.COARSE_MASK)
    assert np.array_equal(read_volume(a_result / results.AOVA).array, aova)  # from the cache
    coarse = read_volume(a_result / results.COARSE_MASK).array
    assert np.array_equal(coarse, read_volume(a_folder / "lesion.nii.gz").array)


def test_refine_refuses_what_was_drawn_outside_the_region_and_leaves_the_drawing(
    a_result: Path, a_body: Phantom
) -> None:
    path = a_result / results.COARSE_MASK
    drawn = a_body.lesion.array.copy()
    drawn[0:3, 0:3, 0:3] = 1
    write_volume(a_body.lesion.with_array(drawn), path)
    before = path.read_bytes()
    refused(run("refine", a_result), 2, "1 of 2 drawn candidates lies outside the region", "another --organ-mask")
    assert path.read_bytes() == before


def test_refine_says_even_quietly_that_what_was_drawn_was_cut_off(a_result: Path, a_body: Phantom) -> None:
    """The lesion, and from there on a bar that leaves the organ."""
    drawn = a_body.lesion.array.copy()
    i, j, k = (int(v) for v in np.argwhere(drawn).mean(axis=0))
    drawn[i, j, k:] = 1
    assert (drawn > a_body.organ.array).any()
    write_volume(a_body.lesion.with_array(drawn), a_result / results.COARSE_MASK)
    done = run("refine", a_result, "--quiet")
    assert done.exit_code == 0, done.stderr
    assert "ml that were drawn lie outside the region and were cut off" in plain(done.stderr)
    assert "were cut off" in results.read_record(a_result)["outcome"]


def test_refine_takes_another_mask_a_seed_and_a_moved_scan_and_does_without_the_cache(
    a_result: Path, a_folder: Path, tmp_path: Path
) -> None:
    record = results.read_record(a_result) | {"region": False}
    (a_result / results.RECORD).write_text(json.dumps(record))
    (a_result / results.CACHE).unlink()
    scan = shutil.copy(a_folder / "scan.nii.gz", tmp_path / "moved.nii.gz")
    drawn = ("--coarse-mask", a_folder / "lesion.nii.gz")
    done = run("refine", a_result, *drawn, "--scan", scan, "--seed", "9", "--device", "cpu")
    assert done.exit_code == 0, done.stderr
    assert "cache.safetensors is gone: the scan is encoded again." in done.stderr
    record = results.read_record(a_result)
    assert record["seed"] == 9
    assert record["input"]["path"] == str(scan)


@pytest.mark.parametrize("device", [["--device", "cpu"], []])
def test_a_result_of_a_card_in_half_precision_is_refined_on_a_processor(
    a_result: Path, a_folder: Path, device: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked for, or because there is no card here: the result itself was made on whatever there was."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.cpu.get_capabilities", dict)
    record = results.read_record(a_result)
    made = {"precision": "bfloat16", "compile": True, "device": "auto", "offload": True, "memory_gb": 0.001}
    record["config"]["runtime"] |= made
    record["device"] = "cuda:0"
    record["plan"]["differs_from_asked"] = {"runtime.offload": True, "runtime.precision": "bfloat16"}
    (a_result / results.RECORD).write_text(json.dumps(record))
    shutil.copy(a_folder / "lesion.nii.gz", a_result / results.COARSE_MASK)
    done = run("refine", a_result, *device)
    assert done.exit_code == 0, done.stderr
    said = "On this CPU: in float32, not compiled, with the memory that is free; the result was made otherwise."
    assert said in plain(done.stderr)
    record = results.read_record(a_result)
    now = record["config"]["runtime"]
    assert (now["precision"], now["compile"], now["offload"], now["memory_gb"]) == ("float32", False, False, 0)
    assert record["plan"]["differs_from_asked"] == {}, "that it was made otherwise does not stay on record"


def test_refine_is_told_the_memory_of_this_computer(a_result: Path) -> None:
    record = results.read_record(a_result)
    record["config"]["runtime"]["memory_gb"] = 0.001
    (a_result / results.RECORD).write_text(json.dumps(record))
    refused(run("refine", a_result, "--device", "cpu"), 4, "0.0 GB may be used (as asked)", "--memory")
    done = run("refine", a_result, "--memory", "64GB")
    assert done.exit_code == 0, done.stderr
    assert results.read_record(a_result)["config"]["runtime"]["memory_gb"] == 64


def test_on_a_card_without_half_precision_refine_does_not_speak_of_a_processor(
    a_result: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda device: (7, 5))
    monkeypatch.setattr("torch.backends.cudnn.allow_tf32", True)  # put back afterwards
    stored = results.read_results(a_result)
    made = dataclasses.replace(stored.config.runtime, precision="bfloat16", compile=True, device="cuda")
    stored = dataclasses.replace(
        stored, record={**stored.record, "device": "cuda:0"}, config=dataclasses.replace(stored.config, runtime=made)
    )
    config, reset = config_here(stored, None, None, None, None, False)
    assert (config.runtime.precision, config.runtime.compile, reset) == ("float32", True, {"runtime.precision"})
    assert "On this card: in float32; the result was made otherwise." in plain(capsys.readouterr().err)


def test_a_folder_that_holds_something_is_refused_without_force(tmp_path: Path, a_folder: Path, a_result: Path) -> None:
    case = ("segment", a_folder / "scan.nii.gz", "--organ", "liver", "--preset", "tiny", "-o")
    refused(run(*case, a_result), 2, "already holds an earlier result", "--force replaces it")
    refused(run(*case, a_folder), 2, "already holds files that are not ours", "choose an empty or new folder")
    assert run(*case, a_result, "--force", "--allow-untrained", "-q").exit_code == 0


def test_refine_refuses_what_is_no_result_and_a_mask_that_was_emptied(
    tmp_path: Path, a_result: Path, a_body: Phantom
) -> None:
    refused(run("refine", tmp_path), 2, "is not a result folder: it has no record.json", "diffugts segment -o")
    empty = a_body.lesion.with_array(np.zeros_like(a_body.lesion.array))
    write_volume(empty, a_result / results.COARSE_MASK)
    refused(run("refine", a_result), 2, "coarse_mask.nii.gz is empty", "paint it")
    (a_result / results.COARSE_MASK).unlink()
    refused(run("refine", a_result), 2, "coarse_mask.nii.gz does not exist", "spelling")
