"""Cases of a segmenter: to its grid and back, label maps as DiffTumor's lists have them, organs of a protocol."""

from __future__ import annotations

from pathlib import Path

import mini_data
import numpy as np
import pytest
from phantoms import CENTER_RAS, Phantom, ct_phantom, grid, mr_phantom, reoriented

from DiffuGTSLib.datasets.protocol import Case
from DiffuGTSLib.errors import GeometryError, InputError
from DiffuGTSLib.training.data import inner_body_mask, load_case
from DiffuGTSLib.training.segmenter_cases import SEGMENTER_GRID, SegmenterScan, from_protocol, load_listed
from DiffuGTSLib.volumes import Volume, to_canonical, write_volume

LPS = np.diag([-1.0, -1.0, 1.0])
ANISOTROPIC = grid((70, 80, 40), (1.5, 1.25, 3.0))


def labels_of(phantom: Phantom) -> np.ndarray:
    return (phantom.organ.array + (phantom.lesion.array & phantom.organ.array)).astype(np.uint8)


def listed(folder: Path, labels: np.ndarray | None = None, *, healthy: bool | None = False) -> SegmenterScan:
    """Write an LPS phantom with thick slices and read it as a case of a list."""
    phantom = ct_phantom(ANISOTROPIC)
    label_map = phantom.organ.with_array(labels_of(phantom) if labels is None else labels)
    for name, volume in (("scan", phantom.scan), ("label", label_map)):
        write_volume(reoriented(volume, LPS), folder / f"{name}.nii.gz")
    return load_listed("case", folder / "scan.nii.gz", folder / "label.nii.gz", "liver", healthy=healthy)


def test_a_landmark_of_a_scan_in_lps_goes_to_the_grid_and_back_within_a_voxel() -> None:
    scan = np.zeros(ANISOTROPIC.shape, dtype=np.float32)
    scan[20, 33, 12] = 1000.0
    volume = reoriented(Volume(scan, ANISOTROPIC, "CT"), LPS)
    place = np.unravel_index(volume.array.argmax(), volume.array.shape)
    canonical = to_canonical(volume, SEGMENTER_GRID, "CT")
    assert np.allclose(canonical.geometry.direction, np.eye(3)) and canonical.spacing_mm == (1.0, 1.0, 1.0)
    seen = np.argwhere(canonical.image >= canonical.image.max() * 0.999).mean(axis=0)
    there = canonical.geometry.to_ras(seen)
    assert np.abs(there - volume.geometry.to_ras(np.array(place))).max() <= 1.0
    back = canonical.restore(canonical.image)
    assert back.shape == volume.array.shape
    assert np.abs(np.array(np.unravel_index(back.argmax(), back.shape)) - np.array(place)).max() <= 1


def test_the_window_takes_175_below_to_0_and_250_to_1() -> None:
    scan = np.full((12, 12, 12), -175.0, dtype=np.float32)
    scan[:, :, 4:8], scan[:, :, 8:] = 37.5, 250.0
    scan[0, 0, 0], scan[0, 0, 11] = -3000.0, 3000.0
    canonical = to_canonical(Volume(scan, grid((12, 12, 12), (1.0, 1.0, 1.0)), "CT"), SEGMENTER_GRID, "CT")
    assert canonical.image.shape == (96, 96, 96)
    box = tuple(slice(a, b) for a, b in canonical.inside)
    inside = canonical.image[box]
    assert inside[5, 5, 2] == 0.0 and inside[5, 5, 6] == pytest.approx(0.5) and inside[5, 5, 10] == 1.0
    assert canonical.image.min() == 0.0 and canonical.image.max() == 1.0


def test_a_real_case_keeps_its_three_classes(tmp_path: Path) -> None:
    case = listed(tmp_path)
    assert not case.healthy and case.known.all() and case.organ_name == "liver"
    assert np.unique(case.labels()).tolist() == [0, 1, 2]
    phantom = ct_phantom(ANISOTROPIC)
    voxel_ml = float(np.prod(ANISOTROPIC.spacing_mm)) / 1000
    for value in (1, 2):
        truth_ml = (labels_of(phantom) >= value).sum() * voxel_ml
        assert (case.labels() >= value).sum() / 1000 == pytest.approx(truth_ml, rel=0.03)
    middle = case.scan.geometry.to_ras(np.argwhere(case.tumor).mean(axis=0))
    assert np.abs(middle - phantom.lesion_center_ras).max() < 2.0, CENTER_RAS


def test_a_cyst_counts_as_organ(tmp_path: Path) -> None:
    phantom = ct_phantom(ANISOTROPIC)
    labels = labels_of(phantom)
    labels[labels == 2] = 3
    case = listed(tmp_path, labels)
    assert not case.tumor.any() and case.organ.any()


def test_everything_that_a_healthy_case_labels_is_organ(tmp_path: Path) -> None:
    case = listed(tmp_path, labels_of(ct_phantom(ANISOTROPIC)) * 6, healthy=True)
    assert case.healthy and not case.tumor.any() and np.array_equal(case.places, case.organ)


def test_a_case_of_unknown_health_is_healthy_where_its_labels_hold_no_tumor(tmp_path: Path) -> None:
    """SyntheticTumors paints into those alone; a cyst (3) is organ, there too."""
    labels = labels_of(ct_phantom(ANISOTROPIC))
    real = listed(tmp_path, healthy=None)
    assert not real.healthy and real.tumor.any() and not real.places.any()
    for value in (1, 3):
        healthy = listed(tmp_path, np.where(labels == 2, value, labels).astype(np.uint8), healthy=None)
        assert healthy.healthy and not healthy.tumor.any()


def test_a_label_that_no_list_has_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"holds the label 6; expected 0 background, 1 organ, 2 tumor, 3 cyst"
    ) as caught:
        listed(tmp_path, labels_of(ct_phantom(ANISOTROPIC)) * 6)
    assert "healthy case" in caught.value.hint


def test_a_case_without_an_organ_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no organ"):
        listed(tmp_path, np.zeros(ANISOTROPIC.shape, dtype=np.uint8), healthy=True)


def test_a_label_map_on_another_grid_is_refused(tmp_path: Path) -> None:
    phantom, other = ct_phantom(ANISOTROPIC), ct_phantom()
    write_volume(phantom.scan, tmp_path / "scan.nii.gz")
    write_volume(other.organ, tmp_path / "label.nii.gz")
    with pytest.raises(GeometryError, match="label map and the scan lie on different grids"):
        load_listed("case", tmp_path / "scan.nii.gz", tmp_path / "label.nii.gz", "liver", healthy=True)


def protocol_case(tmp_path: Path, **keys: object) -> list[SegmenterScan]:
    organs, real = keys.pop("organs", ("liver",)), keys.pop("real", False)
    row = mini_data.write_case(tmp_path, "ct", ct_phantom(mini_data.GRID), "train", **keys)
    case = load_case(Case(**row), tmp_path, mini_data.canonical())
    return from_protocol(case, organs, real=bool(real))  # type: ignore[arg-type]


def test_a_protocols_tumor_is_a_real_case(tmp_path: Path) -> None:
    (scan,) = protocol_case(tmp_path, real=True)
    assert scan.tumor.any() and not scan.healthy and scan.known.all()


def test_the_same_scan_without_its_outline_is_healthy_away_from_the_tumor(tmp_path: Path) -> None:
    (real,) = protocol_case(tmp_path / "1", real=True)
    (scan,) = protocol_case(tmp_path / "2")
    assert scan.healthy and not scan.tumor.any()
    assert not (scan.known & real.tumor).any() and not (scan.places & real.tumor).any()
    assert (scan.places <= scan.organ).all()


def test_with_several_organs_class_1_is_the_body(tmp_path: Path) -> None:
    (scan,) = protocol_case(tmp_path, organs=("liver", "lung"))
    (alone,) = protocol_case(tmp_path / "2")
    assert scan.organ.sum() > 2 * alone.organ.sum() and scan.organ_name == "liver"


def test_near_a_tumor_that_nobody_outlined_nothing_is_learned(tmp_path: Path) -> None:
    (scan,) = protocol_case(tmp_path, real=True, unmarked_near={"liver": 4.0})
    assert scan.known.any() and not scan.known.all() and scan.known[scan.tumor].all()


def test_class_1_is_an_outline_and_not_what_only_says_where_to_paint(tmp_path: Path) -> None:
    assert protocol_case(tmp_path, tumor="", labels="", label_names={}) == [], "of this liver nobody says where it is"
    row = mini_data.write_case(tmp_path, "mr", mr_phantom(mini_data.GRID), "train", labels="", label_names={}, tumor="")
    brain = mini_data.training_scan(tmp_path, row)
    (scan,) = from_protocol(brain, ("brain",), real=False)
    assert np.array_equal(scan.organ, inner_body_mask(brain.scan, 6.0)) and np.array_equal(
        scan.places, brain.organs["brain"]
    )
    assert scan.places.sum() < scan.organ.sum()


def test_a_case_without_the_organ_gives_nothing(tmp_path: Path) -> None:
    assert protocol_case(tmp_path, organs=("lung",)) == []
    row = mini_data.write_labels(tmp_path, "labels", "train")
    assert from_protocol(mini_data.training_scan(tmp_path, row), ("brain",), real=False) == []
    healthy = {"tumor": "", "real": True}
    assert protocol_case(tmp_path / "2", **healthy) == []
