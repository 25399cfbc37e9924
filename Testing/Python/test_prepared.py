"""Prepared scans: what comes from the folder is what was brought to the grid, and it is made anew where that would differ."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mini_data import GRID, canonical, tiny_networks, write_case, write_labels, write_mini_data
from phantoms import ct_phantom
from safetensors.torch import load_file

from DiffuGTSLib.backbones.weights import WEIGHTS_FILE
from DiffuGTSLib.datasets.protocol import Case
from DiffuGTSLib.errors import StorageError
from DiffuGTSLib.training import data, segmenter_cases
from DiffuGTSLib.training.data import TrainingScan, load_case
from DiffuGTSLib.training.prepared import PreparedFolder
from DiffuGTSLib.training.run import train_part
from DiffuGTSLib.training.segmenter_cases import SEGMENTER_GRID, SegmenterScan, from_protocol, load_listed
from DiffuGTSLib.volumes import write_volume


@pytest.fixture
def a_folder(tmp_path: Path) -> PreparedFolder:
    return PreparedFolder(tmp_path / "prepared")


@pytest.fixture
def a_case(tmp_path: Path) -> Case:
    return Case(
        **write_case(tmp_path / "data", "ct", ct_phantom(GRID), "train", organ_files={"spleen": ["ct/tumor.nii.gz"]})
    )


@contextmanager
def nothing_prepared(monkeypatch: pytest.MonkeyPatch, module: Any, maker: str) -> Iterator[None]:
    """Let bringing a scan to the grid fail, so that what comes all the same was kept."""

    def fail(*_: object) -> None:
        raise AssertionError("brought to the grid again")

    with monkeypatch.context() as patch:
        patch.setattr(module, maker, fail)
        yield


def alike(one: Any, other: Any) -> bool:
    """Say whether two dataclasses hold the same to the last bit, arrays and all."""
    plain, same = asdict(one), asdict(other)
    plain.pop("made_of", None), same.pop("made_of", None)
    np.testing.assert_equal(plain, same)
    return True


@pytest.mark.parametrize("kind", ["a CT with an organ in a file of its own", "a label map that is painted as a CT"])
def test_what_was_kept_is_what_was_prepared_to_the_last_bit(
    tmp_path: Path, a_case: Case, a_folder: PreparedFolder, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    case = a_case
    if "label map" in kind:
        case = Case(
            **write_labels(tmp_path / "data", "head", "train"), label_hu={"0": [0], "20 to 40": [500], "28": [41]}
        )
    scan = load_case(case, tmp_path / "data", canonical())
    first = load_case(case, tmp_path / "data", canonical(), a_folder)
    with nothing_prepared(monkeypatch, data, "_prepare"):
        again = load_case(case, tmp_path / "data", canonical(), a_folder)
    assert alike(scan, first) and alike(scan, again) and list(again.organs) == list(scan.organs)
    assert again.outlined == scan.outlined and first.made_of == again.made_of != scan.made_of == ""


def test_the_same_scan_in_another_split_under_another_name_is_not_prepared_twice(
    tmp_path: Path, a_case: Case, a_folder: PreparedFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_case(a_case, tmp_path / "data", canonical(), a_folder)
    other = replace(a_case, name="b", patient="b", split="validation")
    with nothing_prepared(monkeypatch, data, "_prepare"):
        assert load_case(other, tmp_path / "data", canonical(), a_folder).case == other


def test_a_scan_is_prepared_anew_when_anything_that_it_is_made_of_has_changed(
    tmp_path: Path, a_case: Case, a_folder: PreparedFolder
) -> None:
    names = {load_case(a_case, tmp_path / "data", canonical(), a_folder).made_of}
    names.add(load_case(a_case, tmp_path / "data", replace(canonical(), spacing_mm=5.0), a_folder).made_of)
    names.add(
        load_case(replace(a_case, unmarked_near={"liver": 5.0}), tmp_path / "data", canonical(), a_folder).made_of
    )
    mended = ct_phantom(GRID).lesion
    mended.array[tuple(np.argwhere(mended.array)[0])] = 0  # one voxel
    write_volume(mended, tmp_path / "data" / "ct" / "tumor.nii.gz")
    scan = load_case(a_case, tmp_path / "data", canonical(), a_folder)
    assert len(names | {scan.made_of}) == 4
    assert alike(scan, load_case(a_case, tmp_path / "data", canonical()))


def test_what_is_written_into_a_scan_does_not_reach_the_file(
    tmp_path: Path, a_case: Case, a_folder: PreparedFolder
) -> None:
    scan = load_case(a_case, tmp_path / "data", canonical(), a_folder)
    scan.scan.image[:] = 7
    assert load_case(a_case, tmp_path / "data", canonical(), a_folder).scan.image.max() <= 1


def test_a_damaged_file_is_named_and_may_be_removed(tmp_path: Path, a_case: Case, a_folder: PreparedFolder) -> None:
    load_case(a_case, tmp_path / "data", canonical(), a_folder)
    (file,) = a_folder.folder.iterdir()
    content = file.read_bytes()
    for broken in (b"", content[:-1], b"\xff" * 16, content.replace(b'"facts"', b'"fakts"')):
        file.write_bytes(broken)
        with pytest.raises(StorageError, match=f"{file.name} is no prepared scan") as caught:
            load_case(a_case, tmp_path / "data", canonical(), a_folder)
        assert caught.value.hint == "remove it; it is made anew."
    file.unlink()
    load_case(a_case, tmp_path / "data", canonical(), a_folder)


def test_a_full_disk_is_told_and_leaves_nothing_half_written(
    tmp_path: Path, a_case: Case, a_folder: PreparedFolder
) -> None:
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(StorageError, match="Cannot write .*safetensors: .*File too large"):
            load_case(a_case, tmp_path / "data", canonical(), a_folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(a_folder.folder.iterdir()) == []


def test_training_on_prepared_scans_gives_the_same_weights(tmp_path: Path) -> None:
    protocol, lines = write_mini_data(tmp_path / "data"), list[str]()
    weights = []
    for name, prepared in (("memory", None), ("files", tmp_path / "prepared"), ("again", tmp_path / "prepared")):
        with tiny_networks():
            train_part(
                "autoencoder", protocol_path=protocol, data=tmp_path / "data", output=tmp_path / name, iterations=2,
                device="cpu", prepared=prepared, report=lines.append,
            )  # fmt: skip
        weights.append(load_file(tmp_path / name / "model" / "autoencoder" / WEIGHTS_FILE))
    for other in weights[1:]:
        assert all(np.array_equal(value, other[name]) for name, value in weights[0].items())
    said = [line for line in lines if "the scans take" in line]
    assert said[0].endswith("GB of main memory") and said[1].endswith(f"GB in {tmp_path / 'prepared'}")
    assert len(list((tmp_path / "prepared").iterdir())) == 5, "three scans to train on and two to choose by"


def protocol_cases(scan: TrainingScan, folder: PreparedFolder | None = None) -> list[SegmenterScan]:
    return [
        *from_protocol(scan, ["liver"], real=True, prepared=folder),
        *from_protocol(scan, ["liver", "spleen"], real=False, prepared=folder),
    ]


def test_what_a_segmenter_is_shown_of_a_protocols_case_is_kept_too(
    tmp_path: Path, a_case: Case, a_folder: PreparedFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    near = replace(a_case, unmarked_near={"spleen": 5.0})
    expected = protocol_cases(load_case(near, tmp_path / "data", canonical()))
    scan = load_case(near, tmp_path / "data", canonical(), a_folder)
    first = protocol_cases(scan, a_folder)
    with nothing_prepared(monkeypatch, segmenter_cases, "_shown"):
        again = protocol_cases(scan, a_folder)
    assert [case.name for case in expected] == ["ct", "ct liver"]
    for kept in (first, again):
        assert len(kept) == len(expected) and all(map(alike, kept, expected))
    assert again[0].scan is scan.scan, "the image is kept once"


@pytest.mark.parametrize("healthy", [True, False, None])
def test_a_listed_case_is_kept_too(
    tmp_path: Path, a_case: Case, a_folder: PreparedFolder, monkeypatch: pytest.MonkeyPatch, healthy: bool | None
) -> None:
    image, label = tmp_path / "data" / "ct" / "scan.nii.gz", tmp_path / "data" / "ct" / "organ.nii.gz"
    grid = replace(SEGMENTER_GRID, spacing_mm=4.0, minimum_side=32)
    expected = load_listed("one", image, label, "liver", healthy=healthy, config=grid)
    first = load_listed("one", image, label, "liver", healthy=healthy, config=grid, prepared=a_folder)
    with nothing_prepared(monkeypatch, segmenter_cases, "_listed"):
        again = load_listed("two", image, label, "kidney", healthy=healthy, config=grid, prepared=a_folder)
    assert alike(expected, first) and alike(replace(expected, name="two", organ_name="kidney"), again)
    assert again.healthy == (healthy is not False), "without a tumor in its label map it is a healthy one"
