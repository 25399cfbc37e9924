"""`diffugts synthesize` as a person uses it: one scan, a folder of them, again after a stop, and what it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from phantoms import Phantom
from terminal import plain, refused, run
from test_latent_painter import SMALL, networks

from DiffuGTSLib.synthesis.latent_painter import save_painter
from DiffuGTSLib.volumes.io import read_mask, read_volume, write_volume

pytest_plugins = ["terminal_fixtures"]

LIVER = ("--organ", "liver", "--size", "small", "--count", "1")


@pytest.fixture
def a_cohort(tmp_path: Path, a_folder: Path) -> Path:
    """Two scans, and masks of the same names; the mask of the second shows nothing."""
    for name in ("one", "two"):
        for kind, source in (("scans", "scan"), ("masks", "organ")):
            (tmp_path / kind).mkdir(exist_ok=True)
            shutil.copy(a_folder / f"{source}.nii.gz", tmp_path / kind / f"{name}.nii.gz")
    organ = read_volume(tmp_path / "masks" / "two.nii.gz")
    write_volume(organ.with_array(np.zeros_like(organ.array)), tmp_path / "masks" / "two.nii.gz")
    return tmp_path


def test_a_scan_is_painted_and_the_same_seed_paints_the_same(a_folder: Path, tmp_path: Path) -> None:
    one = ("synthesize", a_folder / "scan.nii.gz", "--organ-mask", a_folder / "organ.nii.gz", *LIVER, "--seed", "4")
    done = run(*one, "-o", tmp_path / "a", "--preview")
    assert done.exit_code == 0, done.output
    assert "Painted tumors" in done.stdout
    assert "Modality: CT" in plain(done.stderr)
    assert (tmp_path / "a" / "preview.png").stat().st_size > 10_000
    again = run(*one, "-o", tmp_path / "b", "--json", "--quiet")
    (record,) = json.loads(again.stdout)
    assert record["folder"] == str(tmp_path / "b")
    scans = [read_volume(tmp_path / name / "scan.nii.gz") for name in "ab"]
    assert np.array_equal(scans[0].array, scans[1].array)
    other = run(*one[:-1], "5", "-o", tmp_path / "c", "--json", "--quiet")
    assert json.loads(other.stdout)[0]["tumors"] != record["tumors"]


def test_a_place_and_a_radius_are_taken_as_given(a_folder: Path, a_body: Phantom, tmp_path: Path) -> None:
    wanted = np.argwhere(a_body.organ.array > 0).mean(axis=0)
    r, a, s = a_body.organ.geometry.to_ras(wanted)
    done = run(
        "synthesize", a_folder / "scan.nii.gz", "--organ", "liver", "--organ-mask", a_folder / "organ.nii.gz",
        f"--at={r:.1f},{a:.1f},{s:.1f}", "--radius", "10", "--painter", "recipe", "-o", tmp_path, "--json", "--quiet",
    )  # fmt: skip
    (tumor,) = json.loads(done.stdout)[0]["tumors"]
    assert np.linalg.norm(np.array(tumor["center_ras_mm"]) - (r, a, s)) < 5
    assert 6 < tumor["radius_mm"] < 14
    assert tumor["mean_shift"] < 0  # the recipe makes darker


def test_a_scan_is_painted_several_times_and_sets_of_other_seeds_share_no_case(a_folder: Path, tmp_path: Path) -> None:
    """A training and a validation set, say: with seeds that rise one by one they would share all cases but one."""

    def painted(seed: int) -> list[dict[str, Any]]:
        done = run(
            "synthesize", a_folder / "scan.nii.gz", "--organ-mask", a_folder / "organ.nii.gz", *LIVER,
            "-o", tmp_path / str(seed), "--repeat", "2", "--seed", seed, "--json", "--quiet",
        )  # fmt: skip
        return list(json.loads(done.stdout))

    records = painted(8) + painted(9)
    assert [Path(record["folder"]).name for record in records] == ["001", "002", "001", "002"]
    assert [records[0]["seed"], records[2]["seed"]] == [8, 9]
    assert len({record["seed"] for record in records}) == 4
    assert len({json.dumps(record["tumors"]) for record in records}) == 4


def test_of_a_map_of_several_organs_the_organ_has_to_be_named(a_folder: Path, a_body: Phantom, tmp_path: Path) -> None:
    """TotalSegmentator and nnU-Net write such maps; taken together, liver tumors would be painted into the lung."""
    labels = a_body.organ.array.astype(np.uint8)
    labels[:, :, : labels.shape[2] // 2] *= 2
    write_volume(a_body.organ.with_array(labels), tmp_path / "labels.nii.gz")
    call = ("synthesize", a_folder / "scan.nii.gz", "--organ-mask", tmp_path / "labels.nii.gz", *LIVER, "--quiet")
    refused(run(*call, "-o", tmp_path / "out"), 2, "holds the labels 1, 2: expected one", "--organ-label 1")
    assert not (tmp_path / "out").exists()
    for number in (1, 2):
        done = run(*call, "--organ-label", number, "-o", tmp_path / f"{number}", "--json")
        (record,) = json.loads(done.stdout)
        r, a, s = np.round(a_body.organ.geometry.to_ijk(np.array(record["tumors"][0]["center_ras_mm"]))).astype(int)
        assert labels[r, a, s] == number and record["organ_mask"]["labels"] == [number]
        assert np.array_equal(
            read_volume(tmp_path / f"{number}" / "label.nii.gz").array > 0,
            (labels == number) | (read_volume(tmp_path / f"{number}" / "tumor.nii.gz").array > 0),
        )
    both = run(*call, "--organ-label", "1", "--organ-label", "2", "-o", tmp_path / "both")
    assert both.exit_code == 0, both.output
    refused(
        run(*call, "--organ-label", "7", "-o", tmp_path / "7"),
        2,
        "the labels 1, 2: expected the organ",
        "--organ-label",
    )


def test_what_was_painted_into_another_organ_is_not_taken_for_this_runs(a_cohort: Path) -> None:
    shutil.copy(a_cohort / "masks" / "one.nii.gz", a_cohort / "masks" / "two.nii.gz")
    call = ("synthesize", a_cohort / "scans", "--organ-mask", a_cohort / "masks", *LIVER, "-o", a_cohort / "out", "-q")
    assert run(*call, "--organ-label", "1").exit_code == run(*call, "--organ-label", "1").exit_code == 0
    assert "painted with another organ label" in plain(run(*call).stderr)


def test_where_no_tumor_finds_a_place_that_is_said_even_with_quiet(
    a_folder: Path, a_body: Phantom, tmp_path: Path
) -> None:
    few = np.zeros_like(a_body.organ.array)
    few[tuple(np.argwhere(a_body.organ.array > 0)[0])] = 1
    write_volume(a_body.organ.with_array(few), tmp_path / "few.nii.gz")
    done = run(
        "synthesize", a_folder / "scan.nii.gz", "--organ", "liver", "--size", "medium", "--count", "1",
        "--organ-mask", tmp_path / "few.nii.gz", "-o", tmp_path / "out", "--quiet",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "out shows no tumor, none found a place: medium tumor: the organ" in plain(done.stderr)
    record = json.loads((tmp_path / "out" / "synthesis.json").read_text())
    assert record["synthetic"] == "no tumor found a place; this scan is the input, voxel by voxel"
    scans = [read_volume(folder / "scan.nii.gz").array for folder in (a_folder, tmp_path / "out")]
    assert np.array_equal(*scans)


def test_of_a_folder_a_case_that_fails_does_not_stop_the_others_and_a_second_call_goes_on(a_cohort: Path) -> None:
    call = ("synthesize", a_cohort / "scans", "--organ-mask", a_cohort / "masks", *LIVER, "-o", a_cohort / "out")
    first = run(*call)
    assert first.exit_code == 2
    assert "1 of 2 cases failed" in plain(first.stderr)
    assert "The mask" in plain(first.stderr)
    made = a_cohort / "out" / "one" / "scan.nii.gz"
    written = made.stat().st_mtime_ns
    shutil.copy(a_cohort / "masks" / "one.nii.gz", a_cohort / "masks" / "two.nii.gz")
    second = run(*call)
    assert second.exit_code == 0, second.output
    assert made.stat().st_mtime_ns == written
    assert read_mask(a_cohort / "out" / "two" / "tumor.nii.gz", read_volume(made).geometry).array.any()


def test_a_folder_of_one_scan_is_gone_on_with_as_any_other(a_cohort: Path) -> None:
    (a_cohort / "scans" / "two.nii.gz").unlink()
    call = ("synthesize", a_cohort / "scans", "--organ-mask", a_cohort / "masks", *LIVER, "-o", a_cohort / "out")
    first, second = run(*call), run(*call)
    assert first.exit_code == 0, first.output
    assert second.exit_code == 0, second.output


def test_what_was_painted_otherwise_is_not_taken_for_this_runs(a_cohort: Path) -> None:
    shutil.copy(a_cohort / "masks" / "one.nii.gz", a_cohort / "masks" / "two.nii.gz")
    call = ("synthesize", a_cohort / "scans", "--organ-mask", a_cohort / "masks", *LIVER, "-o", a_cohort / "out", "-q")
    assert run(*call).exit_code == 0
    before = (a_cohort / "out" / "one" / "scan.nii.gz").read_bytes()
    other = run(*call, "--seed", "5", "--mass-effect")
    assert other.exit_code == 2 and "2 of 2 cases failed" in plain(other.stderr)
    assert "painted with another request, another seed" in plain(other.stderr)
    assert (a_cohort / "out" / "one" / "scan.nii.gz").read_bytes() == before
    assert run(*call, "--seed", "5", "--mass-effect", "--force").exit_code == 0
    again = (*call, "--seed", "5", "--mass-effect")
    assert run(*again).exit_code == 0, "the same is kept"
    assert "another patch" in plain(run(*again, "--patch", "60").stderr)
    assert "with another modality" in plain(run(*again, "--modality", "MR").stderr)
    assert run(*again, "--modality", "CT").exit_code == 0, "as it was guessed"
    assert run(*again, "--modality", "MR", "--force").exit_code == 0
    assert "with another modality" in plain(run(*again).stderr), "it would be guessed to be a CT"
    shutil.copy(a_cohort / "masks" / "one.nii.gz", a_cohort / "scans" / "two.nii.gz")
    assert "two holds a case that was painted with another scan" in plain(run(*again).stderr)
    (a_cohort / "out" / "one" / "synthesis.json").write_text("{")
    assert "synthesis.json is not valid JSON" in plain(run(*again).stderr)


def test_a_ct_without_its_offset_is_painted_in_hounsfield_units(a_cohort: Path) -> None:
    scan = read_volume(a_cohort / "scans" / "one.nii.gz")
    for name in ("one", "two"):
        write_volume(scan.with_array((scan.array + 1024).clip(0)), a_cohort / "scans" / f"{name}.nii.gz")
    shutil.copy(a_cohort / "masks" / "one.nii.gz", a_cohort / "masks" / "two.nii.gz")
    call = ("synthesize", a_cohort / "scans", "--organ-mask", a_cohort / "masks", *LIVER, "-o", a_cohort / "out", "-q")
    assert "--offset-hu -1024" in plain(run(*call, "--modality", "CT").stderr)
    offset = ("--offset-hu", "-1024")
    assert run(*call, *offset).exit_code == run(*call, *offset).exit_code == 0, "what was painted so is kept"
    painted = a_cohort / "out" / "one"
    assert read_volume(painted / "scan.nii.gz").array.min() <= -900
    assert json.loads((painted / "synthesis.json").read_text())["offset_hu"] == -1024
    assert "painted with another offset" in plain(run(*call, "--offset-hu", "-1000").stderr)
    assert "painted with another offset" in plain(run(*call).stderr)


def test_a_cube_of_another_side_is_another_case_and_a_picture_that_is_missing_is_told(a_cohort: Path) -> None:
    shutil.copy(a_cohort / "masks" / "one.nii.gz", a_cohort / "masks" / "two.nii.gz")
    call = ("synthesize", a_cohort / "scans", "--organ-mask", a_cohort / "masks", *LIVER, "-o", a_cohort / "out", "-q")
    assert run(*call, "--patch", "90").exit_code == 0
    record = a_cohort / "out" / "one" / "synthesis.json"
    assert json.loads(record.read_text())["patch_mm"] == 90
    other = run(*call, "--patch", "95")
    assert other.exit_code == 2 and "one holds a case that was painted with another patch" in plain(other.stderr)
    same = run(*call, "--patch", "90", "--preview")
    assert same.exit_code == 0 and not (record.parent / "preview.png").exists()
    assert "one is kept without preview.png: it was painted without" in plain(same.stderr)
    assert "preview" not in plain(run(*call, "--patch", "90").stderr), "nobody asked for one"
    earlier = {key: value for key, value in json.loads(record.read_text()).items() if key != "patch_mm"}
    record.write_text(json.dumps(earlier))
    assert "one holds" not in plain(run(*call, "--patch", "95").stderr), "an earlier record does not tell the side"
    assert "one holds a case that was painted with another patch" in plain(run(*call).stderr)


def test_scans_of_a_folder_get_tumors_of_their_own_and_each_seed_paints_its_scan_again(a_cohort: Path) -> None:
    """Both scans and both masks are the same: with one seed for all, their tumors would be the same too."""
    shutil.copy(a_cohort / "masks" / "one.nii.gz", a_cohort / "masks" / "two.nii.gz")
    call = ("synthesize", a_cohort / "scans", "--organ-mask", a_cohort / "masks", *LIVER, "--json", "--quiet")
    one, two = json.loads(run(*call, "-o", a_cohort / "out").stdout)
    assert one["seed"] != two["seed"] and one["tumors"] != two["tumors"]
    alone = run(
        "synthesize", a_cohort / "scans" / "two.nii.gz", "--organ-mask", a_cohort / "masks" / "two.nii.gz", *LIVER,
        "--seed", str(two["seed"]), "-o", a_cohort / "alone", "--json", "--quiet",
    )  # fmt: skip
    assert json.loads(alone.stdout)[0]["tumors"] == two["tumors"]


def test_a_painter_s_folder_paints_and_its_weights_are_in_the_record(a_folder: Path, tmp_path: Path) -> None:
    """Untrained weights of a few channels: what they paint is noise, and it stays where it belongs."""
    save_painter(tmp_path / "painter", *networks(), SMALL)
    call = (
        "synthesize", a_folder / "scan.nii.gz", "--organ-mask", a_folder / "organ.nii.gz", "--organ", "liver",
        "--radius", "9", "--seed", "3", "--painter", tmp_path / "painter", "--device", "cpu", "--json", "--quiet",
    )  # fmt: skip
    (record,) = json.loads(run(*call, "-o", tmp_path / "a").stdout)
    assert record["painter"] == "latent" and record["versions"] and record["seed"] == 3
    assert set(record["weights"]) == {
        f"{part}/diffusion_pytorch_model.safetensors" for part in ("vqgan", "denoiser")
    } and all(len(digest) == 64 for digest in record["weights"].values())
    (tumor,) = record["tumors"]
    assert len(tumor["center_ras_mm"]) == 3 and tumor["size"] == "small"
    before, after = (read_volume(folder / "scan.nii.gz") for folder in (a_folder, tmp_path / "a"))
    assert after.geometry.difference(before.geometry) == ""
    changed = after.array != before.array
    assert changed.any() and not changed[read_volume(a_folder / "organ.nii.gz").array == 0].any()
    run(*call, "-o", tmp_path / "b")
    assert np.array_equal(read_volume(tmp_path / "b" / "scan.nii.gz").array, after.array)


def test_an_organ_file_of_one_s_own_says_how_large_and_how_many(a_folder: Path, tmp_path: Path) -> None:
    own = {
        "sizes": {"small": {"semi_axis_mm": [8, 9], "elastic_mm": [0, 0], "count": [2, 2]}},
        "blend_sigma_mm": [0, 0],
    }
    (tmp_path / "own.json").write_text(json.dumps(own))
    done = run(
        "synthesize", a_folder / "scan.nii.gz", "--organ-mask", a_folder / "organ.nii.gz", "--organ",
        tmp_path / "own.json", "--size", "small", "-o", tmp_path / "out", "--json", "--quiet",
    )  # fmt: skip
    (record,) = json.loads(done.stdout)
    radii = [tumor["radius_mm"] for tumor in record["tumors"]]
    assert len(radii) + len(record["skipped"]) == 2 and radii and max(radii) <= 9.5
    assert record["organ"]["name"] == "own" and record["organ"]["blend_sigma_mm"] == [0, 0]


def test_the_help_teaches_and_says_what_is_patented() -> None:
    words = plain(run("synthesize", "--help").stdout)
    assert "diffugts synthesize ct.nii.gz --organ liver" in words
    assert "patents pending" in words


@pytest.mark.parametrize(
    ("options", "message", "hint"),
    [
        (("--organ", "livr"), "no organ file for 'livr'", "liver"),
        (("--organ", "liver", "--at=1,2"), "--at: expected three numbers", "--at=-60,10,120"),
        (("--organ", "liver", "--at=9000,0,0"), "outside the scan", "right, anterior, superior"),
        (("--organ", "liver", "--radius", "0"), "radius of more than 0", ""),
        (("--organ", "liver", "--painter", "monet"), "Unknown painter 'monet'", "handcrafted or recipe"),
        (("--organ", "liver", "--size", "large", "--radius", "30", "--patch", "20"), "the patch over 20 mm", "--patch"),
        (("--organ", "livr", "--patch", "nan"), "expected a side above 0 mm, got nan", "--patch 96"),
    ],
)
def test_a_request_that_cannot_be_met_is_refused_and_nothing_is_written(
    a_folder: Path, tmp_path: Path, options: tuple[str, ...], message: str, hint: str
) -> None:
    output = tmp_path / "out"
    done = run(
        "synthesize",
        a_folder / "scan.nii.gz",
        "--organ-mask",
        a_folder / "organ.nii.gz",
        "-o",
        output,
        "--quiet",
        *options,
    )
    refused(done, 2, message, hint)
    assert not output.exists()


def test_a_mask_on_another_grid_is_refused(a_folder: Path, a_body: Phantom, tmp_path: Path) -> None:
    write_volume(a_body.organ.cut((slice(0, 30), slice(0, 40), slice(0, 30))), tmp_path / "cut.nii.gz")
    done = run(
        "synthesize", a_folder / "scan.nii.gz", "--organ-mask", tmp_path / "cut.nii.gz", *LIVER, "-o", tmp_path / "out",
        "--quiet",
    )  # fmt: skip
    refused(done, 2, "mask", "")


@pytest.mark.parametrize(("where", "message"), [("scans", "There is no scan in"), ("masks", "expected one mask")])
def test_a_folder_without_scans_or_masks_is_refused(a_cohort: Path, where: str, message: str) -> None:
    for path in (a_cohort / where).iterdir():
        path.unlink()
    done = run("synthesize", a_cohort / "scans", "--organ-mask", a_cohort / "masks", *LIVER, "-o", a_cohort / "out")
    refused(done, 2, message, "")


def test_one_mask_for_a_folder_and_a_folder_of_masks_for_one_scan_are_refused(a_cohort: Path) -> None:
    scans, masks = a_cohort / "scans", a_cohort / "masks"
    for scan, mask, message in (
        (scans, masks / "one.nii.gz", "is a folder of scans and"),
        (scans / "one.nii.gz", masks, "is a folder, and"),
    ):
        done = run("synthesize", scan, "--organ-mask", mask, *LIVER, "-o", a_cohort / "out")
        refused(done, 2, message, "mask")
        assert not (a_cohort / "out").exists()


def test_scans_of_one_name_are_refused_since_one_result_would_replace_the_other(a_cohort: Path) -> None:
    shutil.copy(a_cohort / "scans" / "one.nii.gz", a_cohort / "scans" / "One.nii")
    for force in ((), ("--force",)):
        done = run(
            "synthesize", a_cohort / "scans", "--organ-mask", a_cohort / "masks", *LIVER, "-o", a_cohort / "out", *force
        )
        refused(done, 2, "would both be called", "rename one")
        assert not (a_cohort / "out").exists()


def test_a_scan_that_is_not_there_is_refused(tmp_path: Path) -> None:
    done = run("synthesize", tmp_path / "no.nii.gz", "--organ-mask", tmp_path / "no.nii.gz", *LIVER, "-o", tmp_path)
    refused(done, 2, "There is no", "spelling")
