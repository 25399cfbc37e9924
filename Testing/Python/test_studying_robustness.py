"""The commands of `study` that look at tumors themselves."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from phantoms import ct_phantom, grid
from terminal import plain, refused, run

from DiffuGTSLib.cli.studying_robustness import chosen_axes
from DiffuGTSLib.errors import InputError
from DiffuGTSLib.evaluation.robustness import Axis
from DiffuGTSLib.volumes.io import read_volume, write_volume

SMALL = grid((36, 34, 40), (3.0, 3.0, 3.0))


@pytest.fixture(scope="module")
def a_scan(tmp_path_factory: pytest.TempPathFactory) -> tuple[str | Path, ...]:
    """The scan and organ of a phantom, as arguments."""
    folder = tmp_path_factory.mktemp("scan")
    phantom = ct_phantom(SMALL, noise_hu=8)
    write_volume(phantom.scan, folder / "scan.nii.gz")
    write_volume(phantom.organ, folder / "organ.nii.gz")
    return (folder / "scan.nii.gz", "--organ", "liver", "--organ-mask", folder / "organ.nii.gz")


@pytest.fixture(scope="module")
def a_list(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine patients with a real tumor each, and a coarser painted one."""
    folder = tmp_path_factory.mktemp("list")
    lines = ["case,patient,group,scan,mask"]
    for patient in range(9):
        for group, noise in (("real", 10.0), ("hand", 60.0)):
            name = f"{group}_{patient}"
            phantom = ct_phantom(SMALL, noise_hu=noise, seed=patient + 100 * (group == "real"))
            write_volume(phantom.scan, folder / f"{name}.nii.gz")
            write_volume(phantom.lesion, folder / f"{name}_mask.nii.gz")
            lines.append(f"{name},p{patient},{group},{name}.nii.gz,{name}_mask.nii.gz")
    (folder / "tumors.csv").write_text("\n".join(lines) + "\n")
    return folder / "tumors.csv"


def test_a_map_of_several_organs_is_no_mask_of_one(a_scan: tuple[str | Path, ...], tmp_path: Path) -> None:
    scan, *middle, mask = a_scan
    organ = read_volume(Path(mask))
    labels = organ.array.astype(np.uint8)
    labels[:, :, : labels.shape[2] // 2] *= 2
    write_volume(organ.with_array(labels), tmp_path / "labels.nii.gz")
    call = ("study", "robustness", scan, *middle, tmp_path / "labels.nii.gz", "-o", tmp_path / "stress", "-q")
    refused(run(*call), 2, "holds the labels 1, 2: expected one", "mask of the organ alone")


def test_a_benchmark_is_painted_gone_on_with_and_scored(a_scan: tuple[str | Path, ...], tmp_path: Path) -> None:
    command = ("study", "robustness", *a_scan, "-o", tmp_path / "stress", "--axis", "size=9,2", "--levels=-1,1")
    done = run(*command)
    assert done.exit_code == 0, done.stderr
    assert "3 scans in" in plain(done.stdout) and "Modality: CT, since" in done.stderr
    manifest = json.loads(run(*command, "--json").stdout)
    assert [row["requested"]["size"] for row in manifest["scans"]] == [9.0, 7.0, 11.0]
    refused(run(*command, "--seed", "5", "-q"), 2, "holds a benchmark of other seed", "another folder")
    shutil.copytree(tmp_path / "stress" / "references", tmp_path / "found")
    score = (
        "study",
        "robustness-score",
        tmp_path / "stress",
        "--predictions",
        tmp_path / "found",
        "-o",
        tmp_path / "s",
    )
    done = run(*score)
    assert done.exit_code == 0 and "Robustness" in done.stdout, done.stderr
    rows = json.loads(run(*score, "--force", "--json").stdout)
    assert [(row["level"], row["dice"], row["sensitivity"]) for row in rows] == [(-1, 1, 1), (0, 1, 1), (1, 1, 1)]


def test_a_benchmark_of_a_ct_without_its_offset_is_painted_in_hounsfield_units(
    a_scan: tuple[str | Path, ...], tmp_path: Path
) -> None:
    scan = read_volume(a_scan[0])
    write_volume(scan.with_array((scan.array + 1024).clip(0)), tmp_path / "lost.nii.gz")
    command = ("study", "robustness", tmp_path / "lost.nii.gz", *a_scan[1:], "-o", tmp_path / "stress", "-q",
               "--axis", "size=9,2", "--levels", "0")  # fmt: skip
    refused(run(*command, "--modality", "CT"), 2, "not in Hounsfield units", "--offset-hu -1024")
    assert run(*command, "--offset-hu", "-1024").exit_code == 0
    manifest = json.loads((tmp_path / "stress" / "manifest.json").read_text())
    assert (manifest["settings"]["offset_hu"], manifest["settings"]["modality"]) == (-1024, "CT")
    assert read_volume(tmp_path / "stress" / "scans" / "base_0.nii.gz").array.min() <= -900
    refused(run(*command), 2, "holds a benchmark of other", "another folder")


def test_groups_are_told_apart_or_not(a_list: Path, tmp_path: Path) -> None:
    command = ("study", "similarity", a_list, "-o", tmp_path / "out", "--permutations", "99")
    done = run(*command)
    assert done.exit_code == 0, done.stderr
    assert "the groups are told apart." in plain(done.stdout)
    found = json.loads(run(*command, "--force", "--json", "-q").stdout)
    assert found["p_value"] < 0.05 and found["accuracy"]["total"] == 18


def test_painted_tumors_are_shown_beside_real_ones(a_list: Path, tmp_path: Path) -> None:
    command = ("study", "realism", a_list, "-o", tmp_path / "out", "--rows", "2")
    done = run(*command)
    assert done.exit_code == 0, done.stderr
    assert "9 real, 9 hand" in done.stdout and "sheet.png" in done.stdout
    names = {"tumors.csv", "features.csv", "histograms.csv", "report.json", "report.md", "sheet.png"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names
    found = json.loads(run(*command, "--force", "--json", "-q").stdout)
    texture = next(row for row in found["features"] if row["feature"] == "sd_native")
    assert texture["mean"] > 1.5 * texture["real_mean"]
    assert 10 < found["histograms"][0]["shape_native"] < 60


@pytest.mark.parametrize("study", ["similarity", "realism"])
def test_the_list_is_not_replaced_by_the_report_even_when_forced(a_list: Path, study: str) -> None:
    before = a_list.read_bytes()
    done = run("study", study, a_list, "-o", a_list.parent, "--force", "-q")
    refused(done, 2, "tumors.csv is read here, and would be replaced", "another --output")
    assert a_list.read_bytes() == before


def test_a_list_of_somebodys_own_is_not_replaced_even_when_forced(
    a_list: Path, a_scan: tuple[str | Path, ...], tmp_path: Path
) -> None:
    (tmp_path / "sheet.png").write_text("mine")
    done = run("study", "realism", a_list, "-o", tmp_path, "--force", "-q")
    refused(done, 2, "holds sheet.png and no earlier result", "another folder")
    (tmp_path / "curves.png").write_text("mine")
    done = run("study", "robustness-score", a_list.parent, "--predictions", tmp_path, "-o", tmp_path, "--force", "-q")
    refused(done, 2, "holds curves.png and no earlier result", "another folder")
    (tmp_path / "scans").mkdir()
    done = run("study", "robustness", *a_scan, "-o", tmp_path, "-q")
    refused(done, 2, "holds scans and no earlier result", "another folder")


def test_a_list_without_real_tumors_is_refused(a_list: Path, tmp_path: Path) -> None:
    (a_list.parent / "hand.csv").write_text(
        "\n".join(a_list.read_text().splitlines()[:1] + a_list.read_text().splitlines()[2:3])
    )
    done = run("study", "realism", a_list.parent / "hand.csv", "-o", tmp_path / "out", "-q")
    refused(done, 2, "Expected real and painted tumors, got 0 real and 1 painted", "'real'")
    assert not (tmp_path / "out").exists()


def test_axes_have_a_distribution_of_their_own_or_the_usual_one() -> None:
    known = {"size": Axis(10.0, 2.5, "mm radius"), "place": Axis(0.0, 1.0, "")}
    assert chosen_axes(None, known) is None
    assert chosen_axes(["size=12,3", "place"], known) == {"size": Axis(12.0, 3.0, "mm radius"), "place": known["place"]}
    for text in ("size=12", "size=a,b", "size=1,2,3"):
        with pytest.raises(InputError, match="expected NAME or NAME=MEAN,SD"):
            chosen_axes([text], known)
    with pytest.raises(InputError, match="standard deviation above 0, got 0"):
        chosen_axes(["size=12,0"], known)


def test_an_unknown_axis_is_refused_with_a_guess(a_scan: tuple[str | Path, ...], tmp_path: Path) -> None:
    done = run("study", "robustness", *a_scan, "-o", tmp_path / "stress", "--axis", "sise=9,2", "-q")
    refused(done, 2, "Unknown axis 'sise'", "did you mean 'size'?")
