"""The command line as users meet it: what it does, what it says, and how it ends."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from phantoms import CENTER_RAS, Phantom, grid, mr_phantom, write_dicom
from terminal import TINY, plain, refused, run, start

from DiffuGTSLib import __version__, pipeline
from DiffuGTSLib.cli import evaluating, segment_run
from DiffuGTSLib.cli.options import configured
from DiffuGTSLib.cli.scan_inputs import allowed_region, parse_roi
from DiffuGTSLib.cli.segment_run import chosen_stages
from DiffuGTSLib.errors import ConfigError, InputError
from DiffuGTSLib.output import results
from DiffuGTSLib.pipeline import STAGES
from DiffuGTSLib.volumes import canonical, io
from DiffuGTSLib.volumes.io import read_volume, write_volume

pytest_plugins = ["terminal_fixtures"]


# What works


def test_segment_says_what_it_guessed_and_found_and_where_the_picture_is(a_folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "new" / "result"
    done = run("segment", a_folder / "scan.nii.gz", "-o", output, "--organ", "liver", *TINY, "--format", "nrrd")
    assert done.exit_code == 0, done.stderr
    assert "Modality: CT, since the darkest voxels are air in Hounsfield units (-1000)." in done.stderr
    assert "Repainting: done in" in done.stderr
    assert results.read_record(output)["outcome"].lower() in done.stdout.lower()
    assert f"Overview: {output / 'overview.png'}" in done.stdout
    assert "Volume" in done.stdout
    assert "Untrained networks" in done.stdout
    assert "Research use only" in done.stdout
    assert sorted(path.name for path in output.iterdir()) == sorted(results.NAMES)


def test_a_modality_is_guessed_once_a_run(a_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = ("CT", "somebody thought so")
    monkeypatch.setattr(canonical, "guess_modality", lambda scan: said)
    monkeypatch.setattr(pipeline, "guess_modality", lambda scan: pytest.fail("judged again"))
    done = run("segment", a_folder / "scan.nii.gz", "-o", tmp_path, "--organ", "liver", *TINY, "--stages", "aova")
    assert done.exit_code == 0, done.stderr
    record = results.read_record(tmp_path)
    assert (record["modality"], record["modality_reason"]) == said


def test_a_dicom_series_is_looked_up_once_a_run(
    a_body: Phantom, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_dicom(a_body.scan, tmp_path / "series")
    looked_up, the_scan = [], io.the_scan
    monkeypatch.setattr(io, "the_scan", lambda folder: looked_up.append(folder) or the_scan(folder))
    done = run("segment", tmp_path / "series", "-o", tmp_path / "out", "--organ", "liver", *TINY, "--stages", "aova")
    assert done.exit_code == 0, done.stderr
    assert looked_up == [tmp_path / "series"]


def test_every_choice_reaches_the_record(a_folder: Path, tmp_path: Path) -> None:
    own = tmp_path / "own.json"
    own.write_text('{"masks": {"dilation_mm": 2.0, "minimum_ml": 0.1}}')
    done = run(
        *("segment", a_folder / "scan.nii.gz", "-o", tmp_path / "result", *TINY, "--json", "--modality", "mr"),
        *("--normal", "a normal CT scan of the liver", "--abnormal", "liver tumor", "--config", own),
        *("--seed", "5", "--steps", "3", "--device", "cpu", "--set", "masks.minimum_ml=0.2"),
        *("--coarse-mask", a_folder / "lesion.nii.gz", "--roi", "-1000,1000,-1000,1000,-1000,1000"),
    )
    assert done.exit_code == 0, done.stderr
    shown = json.loads(done.stdout)
    record = shown["record"]
    config = record["config"]
    assert record == results.read_record(tmp_path / "result")
    assert (config["runtime"]["seed"], config["inpainting"]["steps"], config["runtime"]["device"]) == (5, 3, "cpu")
    assert (config["masks"]["dilation_mm"], config["masks"]["minimum_ml"]) == (2.0, 0.2)
    assert record["prompts"]["abnormal"] == "liver tumor"
    assert (record["modality"], record["modality_reason"]) == ("MR", "as asked")
    assert record["asked"]["roi_ras_mm"] == [-1000, 1000, -1000, 1000, -1000, 1000]
    assert record["asked"]["coarse_mask"] == str(a_folder / "lesion.nii.gz")
    assert shown["findings"][0]["volume_ml"] > 0
    coarse = read_volume(tmp_path / "result" / results.COARSE_MASK)
    assert np.array_equal(coarse.array, read_volume(a_folder / "lesion.nii.gz").array)


def test_a_scan_that_changes_during_the_run_is_on_record_as_it_was_read(
    a_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Written anew: the result is not taken for that one's. Gone: the result is there nevertheless."""
    path = Path(shutil.copy(a_folder / "scan.nii.gz", tmp_path / "scan.nii.gz"))
    scan = read_volume(path)
    call = ("segment", path, "--organ", "liver", *TINY, "--quiet", "--stages", "aova", "-o")
    monkeypatch.setattr(segment_run, "stop_if_asked", lambda: write_volume(scan.with_array(scan.array + 1), path))
    assert run(*call, tmp_path / "one").exit_code == 0
    with pytest.raises(InputError) as caught:
        results.read_results(tmp_path / "one")
    assert caught.value.code == "scan_changed"
    monkeypatch.setattr(segment_run, "stop_if_asked", lambda: path.unlink(missing_ok=True))
    assert run(*call, tmp_path / "two").exit_code == 0
    assert len(results.read_record(tmp_path / "two")["input"]["sha256"]) == 64


def test_stopping_after_detection_is_a_whole_result(a_folder: Path, tmp_path: Path) -> None:
    done = run("segment", a_folder / "scan.nii.gz", "-o", tmp_path, "--organ", "liver", *TINY, "--stages", "aova")
    assert done.exit_code == 0, done.stderr
    assert "nothing was repainted" in done.stdout
    healthy = read_volume(tmp_path / results.PSEUDO_HEALTHY)
    assert np.array_equal(healthy.array, read_volume(a_folder / "scan.nii.gz").array)


def test_nothing_found_is_a_result_in_words(a_folder: Path, tmp_path: Path) -> None:
    high = ("--set", "masks.threshold=0.99")
    done = run("segment", a_folder / "scan.nii.gz", "-o", tmp_path, "--organ", "liver", *TINY, *high)
    assert done.exit_code == 0, done.stderr
    assert "Nothing above the threshold" in done.stdout
    assert not read_volume(tmp_path / results.SEGMENTATION).array.any()


def test_a_scan_judged_normal_is_a_result_in_words(a_folder: Path, tmp_path: Path) -> None:
    gate = ("--set", "masks.gate=1")
    done = run("segment", a_folder / "scan.nii.gz", "-o", tmp_path, "--organ", "liver", *TINY, *gate)
    assert done.exit_code == 0, done.stderr
    assert "Judged normal" in done.stdout


def test_nothing_lies_outside_the_organ_mask(a_written_result: Path, a_body: Phantom) -> None:
    coarse = read_volume(a_written_result / results.COARSE_MASK).array > 0
    assert coarse.any()
    assert not (coarse & ~_grown(a_body.organ.array > 0)).any()


def _grown(mask: Any) -> Any:
    from scipy import ndimage

    # The organ is carried to the tiny grid of 4 mm and back: one voxel of it may stick out.
    return ndimage.binary_dilation(mask, np.ones((3, 3, 3)), iterations=2)


def test_the_same_seed_gives_the_same_result(a_written_result: Path, a_folder: Path, tmp_path: Path) -> None:
    organ = ("--organ", "liver", "--organ-mask", a_folder / "organ.nii.gz")
    run("segment", a_folder / "scan.nii.gz", "-o", tmp_path, *organ, *TINY, "--seed", "3", "--quiet")
    for name in (results.SEGMENTATION, results.PSEUDO_HEALTHY, results.RESIDUAL):
        assert (tmp_path / name).read_bytes() == (a_written_result / name).read_bytes(), name


def test_evaluate_judges_both_masks_against_a_reference(a_written_result: Path, a_folder: Path) -> None:
    coarse = a_written_result / results.COARSE_MASK
    done = run("evaluate", "--result", a_written_result, "--reference", coarse, "--json")
    assert done.exit_code == 0, done.stderr
    refined, same = json.loads(done.stdout)
    assert (refined["mask"], same["mask"]) == ("refined", "coarse")
    assert (same["dice"], same["nsd_2mm"], same["lesion_sensitivity"], same["false_positives"]) == (1, 1, 1, 0)
    assert 0 <= refined["dice"] < 1
    table = run("evaluate", "--result", a_written_result, "--reference", coarse).stdout
    assert "1.000" in table


def test_evaluate_reads_each_mask_once_and_no_scan(
    a_written_result: Path, a_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, execute = [], sitk.ImageFileReader.Execute
    monkeypatch.setattr(
        sitk.ImageFileReader, "Execute", lambda self: read.append(Path(self.GetFileName())) or execute(self)
    )
    evaluating.judged(a_written_result, a_folder / "lesion.nii.gz")
    assert [path.name for path in read] == ["lesion.nii.gz", results.SEGMENTATION, results.COARSE_MASK]


def test_evaluate_takes_no_organ_for_a_tumor(a_written_result: Path, a_body: Phantom, tmp_path: Path) -> None:
    """Organ and tumor in one label map: which is which has to be said."""
    write_volume(a_body.organ.with_array(a_body.organ.array + a_body.lesion.array), tmp_path / "labels.nii.gz")
    case = ("evaluate", "--result", a_written_result, "--reference", tmp_path / "labels.nii.gz")
    refused(run(*case), 2, "holds the labels 1, 2", "--reference-label 2")
    tumor_ml = float(a_body.lesion.array.sum()) * a_body.lesion.geometry.voxel_volume_ml
    told = json.loads(run(*case, "--reference-label", "2", "--json").stdout)
    assert [row["reference_ml"] for row in told] == pytest.approx([tumor_ml] * 2)
    both = json.loads(run(*case, "--reference-label", "1", "--reference-label", "2", "--json").stdout)
    assert both[0]["reference_ml"] > 2 * tumor_ml


def test_evaluate_says_not_applicable_where_there_is_nothing_to_find(
    a_written_result: Path, a_body: Phantom, tmp_path: Path
) -> None:
    write_volume(a_body.lesion.with_array(np.zeros_like(a_body.lesion.array)), tmp_path / "none.nii.gz")
    case = ("evaluate", "--result", a_written_result, "--reference", tmp_path / "none.nii.gz")
    assert "n/a" in run(*case).stdout
    assert json.loads(run(*case, "--json").stdout)[0]["lesion_sensitivity"] is None


def test_bench_times_each_stage_in_a_process_of_its_own(a_folder: Path, tmp_path: Path) -> None:
    case = ("bench", "--no-sample", "--scan", a_folder / "scan.nii.gz", *TINY, "-o", tmp_path / "bench.json")
    more = ("--seed", "1", "--organ", "liver", "--set", "inpainting.steps=1", "--device", "cpu")
    done = run(*case, *more)
    assert done.exit_code == 0, done.stderr
    figures = json.loads((tmp_path / "bench.json").read_text())
    stages = {stage["stage"]: stage for stage in figures["cases"][0]["stages"]}
    assert {"import", "open", "load", "aova", "repaint", "residual", "write"} <= set(stages)
    assert stages["import"]["peak_mb"] > 50
    assert figures["cases"][0]["peak_mb"] >= stages["aova"]["peak_mb"]
    assert "whole program" in done.stdout


def test_a_case_of_bench_prints_json(a_folder: Path) -> None:
    done = run("bench-case", a_folder / "scan.nii.gz", "--organ", "liver", *TINY)
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["shape"] == [36, 40, 30]


def test_a_case_of_bench_that_fails_ends_the_bench_with_its_exit_code(a_folder: Path) -> None:
    done = run("bench", "--no-sample", "--scan", a_folder / "organ.nii.gz", "--preset", "tiny", "--quiet")
    assert done.exit_code == 3  # untrained networks, not allowed
    assert "failed with exit code 3" in done.stderr


def test_presets_and_prompts_are_listed(a_folder: Path) -> None:
    listed = run("presets").stdout
    assert "mini" in listed
    assert "tiny" in listed
    assert "pancreas" in run("prompts").stdout
    assert "An abnormal CT scan of the liver showing a tumor" in run("prompts", "--organ", "hepatic").stdout


def test_help_teaches_by_examples() -> None:
    front = plain(run("--help").stdout)
    assert "diffugts segment chest.nii.gz -o result --organ lung" in front
    assert "130 Ctrl-C" in front
    assert "bench-case" not in front
    for command in ("segment", "refine", "evaluate", "train", "bench", "prompts"):
        page = run(command, "--help")
        assert page.exit_code == 0
        assert f"diffugts {command}" in page.stdout, command


def test_the_version_is_shown() -> None:
    assert run("--version").stdout == f"diffugts {__version__}\n"


@pytest.mark.parametrize("arguments", [["--help"], ["segment", "--help"], ["presets"], ["prompts", "--organ", "lung"]])
def test_help_and_lists_do_not_wait_for_heavy_imports(arguments: list[str]) -> None:
    after = "import atexit, sys\natexit.register(lambda: print(sorted({'torch', 'numpy', 'scipy'} & set(sys.modules))))"
    process = start(after, *arguments)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert out.endswith("[]\n")


# Parts


def test_stages_are_a_beginning_of_the_pipeline_in_any_order() -> None:
    assert chosen_stages(None, STAGES) == STAGES
    assert chosen_stages("repaint, aova", STAGES) == ("aova", "repaint")


def test_a_box_allows_the_voxels_whose_centers_lie_in_it_on_any_grid() -> None:
    geometry = grid((9, 10, 11), (2.0, 3.0, 4.0), degrees=(10, 20, -15))
    r, a, s = CENTER_RAS
    region = allowed_region(geometry, None, [r - 5, r + 6, a - 4, a + 100, s - 8, s + 7])
    assert region is not None
    points = geometry.to_ras(np.moveaxis(np.indices(geometry.shape), 0, -1))
    expected = np.all((points >= (r - 5, a - 4, s - 8)) & (points <= (r + 6, a + 100, s + 7)), axis=-1)
    assert np.array_equal(region.array, expected)
    assert 0 < expected.sum() < expected.size
    assert allowed_region(geometry, None, None) is None


def test_a_box_within_an_organ_is_what_both_allow(a_folder: Path, a_body: Phantom) -> None:
    box = parse_roi("10,1000,-1000,1000,-1000,1000")
    region = allowed_region(a_body.scan.geometry, a_folder / "organ.nii.gz", box)
    assert region is not None
    right = a_body.scan.geometry.to_ras(np.moveaxis(np.indices(region.array.shape), 0, -1))[..., 0] >= 10
    assert np.array_equal(region.array > 0, right & (a_body.organ.array > 0))


def test_short_options_win_over_set() -> None:
    assert configured("tiny", None, ["runtime.seed=1", "inpainting.steps=7"], seed=2).runtime.seed == 2
    with pytest.raises(ConfigError, match=r"runtime.seed: expected 0 to 2\^63 - 1, got -1"):
        configured("tiny", seed=-1)


def test_mr_is_guessed_and_said(tmp_path: Path) -> None:
    write_volume(mr_phantom(grid((30, 30, 30), (4.0, 4.0, 4.0))).scan, tmp_path / "scan.nrrd")
    done = run("segment", tmp_path / "scan.nrrd", "-o", tmp_path / "result", "--organ", "brain", *TINY)
    assert done.exit_code == 0, done.stderr
    assert "Modality: MR, since no voxel is negative" in done.stderr
    assert "MRI" in results.read_record(tmp_path / "result")["prompts"]["normal"]


def test_a_scan_taken_for_mr_is_said_even_quietly(tmp_path: Path) -> None:
    """A CT whose offset was lost has no negative values, and looks like MR."""
    write_volume(mr_phantom(grid((32, 32, 32), (6, 6, 6))).scan, tmp_path / "mr.nii.gz")
    done = run("segment", tmp_path / "mr.nii.gz", "-o", tmp_path / "r", "--organ", "brain", *TINY, "--quiet")
    assert done.exit_code == 0, done.stderr
    assert "Warning: mr.nii.gz is taken for MR, since no voxel is negative" in plain(done.stderr)
    assert done.stdout == ""


def test_a_ct_that_is_not_in_hu_is_refused_and_an_offset_mends_it(
    tmp_path: Path, a_body: Phantom, a_folder: Path
) -> None:
    stored = tmp_path / "stored.nii.gz"
    write_volume(a_body.scan.with_array(a_body.scan.array + 1024), stored)
    call = ("segment", stored, "--organ", "liver", "--coarse-mask", a_folder / "lesion.nii.gz", *TINY, "--quiet")
    refused(run(*call, "-o", tmp_path / "r", "--modality", "CT"), 2, "not in Hounsfield units", "--offset-hu -1024")
    mended = run(*call, "-o", tmp_path / "r", "--offset-hu", "-1024")
    assert mended.exit_code == 0 and mended.output == "", mended.stderr
    true = run("segment", a_folder / "scan.nii.gz", *call[2:], "-o", tmp_path / "t", "--modality", "CT")
    assert true.exit_code == 0, true.stderr
    record = results.read_record(tmp_path / "r")
    assert (record["input"]["offset_hu"], record["modality"]) == (-1024.0, "CT")
    for name in (results.AOVA, results.PSEUDO_HEALTHY, results.RESIDUAL, results.SEGMENTATION):
        assert np.array_equal(read_volume(tmp_path / "r" / name).array, read_volume(tmp_path / "t" / name).array), name
    healthy = read_volume(tmp_path / "r" / results.PSEUDO_HEALTHY).array
    again = run("refine", tmp_path / "r", "--quiet")
    assert again.exit_code == 0, again.stderr
    assert np.array_equal(read_volume(tmp_path / "r" / results.PSEUDO_HEALTHY).array, healthy)
    assert results.read_record(tmp_path / "r")["input"]["offset_hu"] == -1024.0
    insisted = run(*call, "-o", tmp_path / "i", "--offset-hu", "0")
    assert insisted.exit_code == 0, insisted.stderr
    mr = run(*call, "-o", tmp_path / "x", "--offset-hu", "0", "--modality", "MR")
    refused(mr, 2, "--offset-hu is for CT", "omit one")


def test_a_box_must_be_finite() -> None:
    with pytest.raises(InputError, match="six numbers"):
        parse_roi("nan,1,0,1,0,1")
