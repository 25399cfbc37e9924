"""The folder of a painted scan: on the scan's grid, untouched outside the paint, with enough on record to repeat it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from phantoms import Phantom, ct_phantom, grid

from DiffuGTSLib.errors import InputError
from DiffuGTSLib.storage import sha256
from DiffuGTSLib.synthesis.case import (
    NAMES,
    NOTICE,
    Origin,
    as_the_scan_is_kept,
    is_case,
    make_case_record,
    patch_box,
    require_case_folder,
    require_patch,
    write_case,
)
from DiffuGTSLib.synthesis.handcrafted import HandcraftedPainter
from DiffuGTSLib.synthesis.organs import organ_spec
from DiffuGTSLib.synthesis.painter import Synthesis, TumorRequest, synthesize
from DiffuGTSLib.volumes.io import read_mask, read_volume, write_volume
from DiffuGTSLib.volumes.volume import Geometry, Volume

SMALL = TumorRequest(size="small", count=2)


@pytest.fixture(scope="module")
def a_body() -> Phantom:
    """A noisy trunk on an oblique, anisotropic grid, in whole HU."""
    body = ct_phantom(grid((44, 40, 30), (2.0, 2.2, 4.0), np.diag([-1.0, -1.0, 1.0]), (8, 0, 12)), noise_hu=12.0)
    scan = body.scan.with_array(np.rint(body.scan.array).astype(np.float32))
    return Phantom(scan, body.organ, body.lesion, body.lesion_ml, body.lesion_center_ras)


@pytest.fixture(scope="module")
def an_origin(a_body: Phantom, tmp_path_factory: pytest.TempPathFactory) -> Origin:
    """The phantom and its organ as files, and what is wished for."""
    folder = tmp_path_factory.mktemp("scan")
    write_volume(a_body.scan, folder / "ct.nrrd")
    write_volume(a_body.organ, folder / "liver.nrrd")
    return Origin(
        read_volume(folder / "ct.nrrd"), folder / "ct.nrrd", read_mask(folder / "liver.nrrd", a_body.scan.geometry),
        folder / "liver.nrrd", organ_spec("liver"), SMALL, "CT", "handcrafted", {}, 7,
    )  # fmt: skip


def painted(origin: Origin) -> Synthesis:
    """Paint what the origin says."""
    return synthesize(
        origin.scan, origin.organ, origin.spec, origin.request, HandcraftedPainter(), modality=origin.modality,
        rng=np.random.default_rng(origin.seed),
    )  # fmt: skip


def test_scan_tumor_and_labels_come_back_on_the_very_grid_and_unchanged_elsewhere(
    an_origin: Origin, tmp_path: Path
) -> None:
    write_case(tmp_path, an_origin, painted(an_origin), preview=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(NAMES)
    scan, geometry = read_volume(tmp_path / "scan.nii.gz"), an_origin.scan.geometry
    tumor = read_mask(tmp_path / "tumor.nii.gz", geometry).array > 0
    label = read_volume(tmp_path / "label.nii.gz").array
    assert scan.geometry.difference(geometry) == ""
    changed = scan.array != an_origin.scan.array
    assert tumor.any()
    assert changed[tumor].mean() > 0.9
    assert changed.sum() < 12 * tumor.sum()  # the blend reaches a little beyond, and nothing else moves
    assert np.array_equal(label == 2, tumor)
    assert np.array_equal(label == 1, (an_origin.organ.array > 0) & ~tumor)


def test_whole_hounsfield_units_stay_whole_and_small_on_disk(an_origin: Origin, tmp_path: Path) -> None:
    write_case(tmp_path, an_origin, painted(an_origin))
    import SimpleITK as sitk

    assert sitk.ReadImage(str(tmp_path / "scan.nii.gz")).GetPixelID() == sitk.sitkInt16


def test_paint_is_rounded_to_the_nearest_whole_hounsfield_unit() -> None:
    geometry = Geometry((1, 1, 2), np.eye(4))
    scan, paint = (Volume(np.array([[row]], dtype=np.float32), geometry) for row in ([40, -4], [40.6, -3.6]))
    assert as_the_scan_is_kept(scan, paint).ravel().tolist() == [41, -4]


def test_the_record_is_enough_to_paint_the_same_again(an_origin: Origin, tmp_path: Path) -> None:
    write_case(tmp_path / "one", an_origin, painted(an_origin))
    record = json.loads((tmp_path / "one" / "synthesis.json").read_text())
    again = synthesize(
        an_origin.scan, an_origin.organ, organ_spec(record["organ"]["name"]), TumorRequest(**record["request"]),
        HandcraftedPainter(), modality=record["modality"], rng=np.random.default_rng(record["seed"]),
    )  # fmt: skip
    assert np.array_equal(
        again.tumor.array, read_mask(tmp_path / "one" / "tumor.nii.gz", an_origin.scan.geometry).array
    )
    assert [tumor["volume_ml"] for tumor in record["tumors"]] == [tumor.volume_ml for tumor in again.tumors]
    assert record["rights"] == NOTICE
    assert record["painter"] == "handcrafted"


def test_the_record_names_the_files_as_they_were_read(a_body: Phantom, tmp_path: Path) -> None:
    for name, volume in (("ct", a_body.scan), ("liver", a_body.organ)):
        write_volume(volume, tmp_path / f"{name}.nrrd")
    paths = tmp_path / "ct.nrrd", tmp_path / "liver.nrrd"
    before = [sha256(path) for path in paths]
    origin = Origin(
        read_volume(paths[0]), paths[0], a_body.organ, paths[1], organ_spec("liver"), SMALL, "CT", "handcrafted", {}, 7
    )
    for path in paths:
        path.unlink()
    record = make_case_record(origin, Synthesis(a_body.scan, a_body.lesion, (), ()), None)
    assert [record["input"]["sha256"], record["organ_mask"]["sha256"]] == before


def test_a_patch_shows_the_tumors_where_they_are_in_the_world(an_origin: Origin, tmp_path: Path) -> None:
    result = painted(an_origin)
    record = write_case(tmp_path, an_origin, result, patch_mm=80)
    tumor = read_volume(tmp_path / "tumor.nii.gz")
    assert max(tumor.geometry.extent_mm) <= 84
    assert tumor.array.sum() == result.tumor.array.sum()
    center = tumor.geometry.to_ras(np.argwhere(tumor.array > 0).mean(axis=0))
    expected = result.tumor.geometry.to_ras(np.argwhere(result.tumor.array > 0).mean(axis=0))
    np.testing.assert_allclose(center, expected, atol=1e-3)
    (low, high), *_ = record["patch_ijk"]
    assert high - low == tumor.array.shape[0]


def test_tumors_that_do_not_fit_into_the_patch_are_refused_with_the_side_they_need() -> None:
    array = np.zeros((50, 20, 20), dtype=np.uint8)
    array[5, 10, 10] = array[44, 10, 10] = 1
    with pytest.raises(InputError, match="reach over 40 mm, the patch over 30 mm") as caught:
        patch_box(Volume(array, Geometry((50, 20, 20), np.eye(4))), 30)
    assert "--patch 40" in caught.value.hint


@pytest.mark.parametrize("side_mm", [0.0, -5.0, float("nan"), float("inf")])
def test_a_patch_whose_side_is_no_length_is_refused(side_mm: float) -> None:
    with pytest.raises(InputError, match="expected a side above 0 mm"):
        require_patch(side_mm)
    with pytest.raises(InputError, match="expected a side above 0 mm"):
        patch_box(Volume(np.ones((5, 5, 5), np.uint8), Geometry((5, 5, 5), np.eye(4))), side_mm)


def test_tumors_that_just_fit_into_the_patch_lie_in_it_whole() -> None:
    array = np.zeros((50, 20, 20), dtype=np.uint8)
    array[5, 10, 10] = array[44, 10, 10] = 1
    assert patch_box(Volume(array, Geometry((50, 20, 20), np.eye(4))), 40)[0] == slice(5, 45)


def test_a_patch_of_a_scan_without_a_tumor_lies_in_its_middle_and_inside_it() -> None:
    nothing = Volume(np.zeros((50, 20, 20), dtype=np.uint8), Geometry((50, 20, 20), np.eye(4)))
    assert patch_box(nothing, 30) == (slice(10, 40), slice(0, 20), slice(0, 20))


def test_a_mask_of_somebody_s_own_is_not_replaced_even_when_forced(tmp_path: Path) -> None:
    (tmp_path / "tumor.nii.gz").write_text("drawn by hand")
    with pytest.raises(InputError, match="holds tumor.nii.gz and no earlier result"):
        require_case_folder(tmp_path, force=True)
    assert (tmp_path / "tumor.nii.gz").read_text() == "drawn by hand"


def test_an_earlier_case_is_kept_unless_forced(an_origin: Origin, tmp_path: Path) -> None:
    result = painted(an_origin)
    assert not is_case(tmp_path)
    write_case(tmp_path, an_origin, result)
    assert is_case(tmp_path)
    with pytest.raises(InputError, match="already holds an earlier result"):
        write_case(tmp_path, an_origin, result)
    write_case(tmp_path, an_origin, result, force=True)
