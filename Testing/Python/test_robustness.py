"""The robustness benchmark: the axis that is asked for varies, all else stays (DiffTumor description, row 31)."""

from pathlib import Path

import numpy as np
import pytest
from phantoms import CENTER_RAS, Ellipsoid, grid, orientations

from DiffuGTSLib.errors import GeometryError, InputError
from DiffuGTSLib.evaluation.robustness import (
    AXES,
    Axis,
    GradedPainter,
    Variant,
    _Places,
    build_benchmark,
    default_axes,
    properties,
    read_manifest,
    variants,
)
from DiffuGTSLib.synthesis.organs import organ_spec
from DiffuGTSLib.synthesis.painter import Painter
from DiffuGTSLib.volumes import Volume, read_volume

LIVER = organ_spec("liver")
SMALL = {"size": Axis(8.0, 1.5, "mm radius")}


def a_scan(orientation: int = 0, modality: str = "CT") -> tuple[Volume, Volume]:
    """An organ of 34 x 32 x 44 mm half axes and some noise; scan and mask."""
    geometry = grid((44, 40, 50), (2.0, 2.0, 2.0), list(orientations())[orientation])
    points = geometry.to_ras(np.moveaxis(np.indices(geometry.shape), 0, -1))
    inside = Ellipsoid((0, 0, 0), (34, 32, 44), 0).covers(points)
    noise = np.random.default_rng(3).normal(0, 8, geometry.shape)
    image = np.where(inside, 110, -80) + noise if modality == "CT" else np.where(inside, 300, 60) + noise
    return Volume(np.round(image).astype(np.float32), geometry, modality), Volume(inside.astype(np.uint8), geometry)


@pytest.fixture(scope="module")
def a_benchmark(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All axes at ± 3 and 2 standard deviations, one tumor; not to be changed."""
    folder = tmp_path_factory.mktemp("robustness")
    axes = {**default_axes(LIVER, "CT"), **SMALL}
    build_benchmark(*a_scan(), LIVER, folder, modality="CT", axes=axes, levels=(-3, -2, 2, 3), seed=4)
    return folder


def rows_of(folder: Path, axis: str) -> list[dict]:
    rows = [row for row in read_manifest(folder)["scans"] if row["axis"] in (axis, "base")]
    return sorted(rows, key=lambda row: row["level"])


def measured(folder: Path, name: str) -> dict[str, float]:
    """Measure the painted tumor in the files themselves."""
    scan, _ = a_scan()
    image = read_volume(folder / "scans" / f"{name}.nii.gz").array
    tumor = read_volume(folder / "references" / f"{name}.nii.gz").array > 0
    inner = tumor & (np.abs(image - scan.array) > 0)
    index = np.argwhere(tumor)
    extent = np.sqrt(np.linalg.eigvalsh(np.cov(index.T)))
    return {
        "size": float((3 * tumor.sum() * 8 / (4 * np.pi)) ** (1 / 3)),
        "intensity": float(image[inner].mean()),
        "shape": float(extent[-1] / extent[0]),
        "place": float(scan.geometry.to_ras(index.mean(axis=0))[2]),
        "texture": float(image[tumor].std()),
    }


def test_only_the_axis_that_was_asked_for_varies(a_benchmark: Path) -> None:
    names = {axis: [row["name"] for row in rows_of(a_benchmark, axis)] for axis in AXES}
    figures = {axis: [measured(a_benchmark, name) for name in names[axis]] for axis in AXES}
    for axis in AXES:
        values = [figure[axis] for figure in figures[axis]]
        assert values[-1] > values[2] > values[0], f"{axis} does not rise: {values}"
        assert np.ptp([row["requested"][axis] for row in rows_of(a_benchmark, axis)]) > 0
        for other in set(AXES) - {axis}:
            assert np.ptp([row["requested"][other] for row in rows_of(a_benchmark, axis)]) == 0
    for axis in set(AXES) - {"size", "shape"}:
        assert np.ptp([figure["size"] for figure in figures[axis]]) < 0.05 * figures[axis][0]["size"]
    for axis in set(AXES) - {"intensity", "size"}:  # a tumor of two voxels' radius is mostly border
        assert np.ptp([figure["intensity"] for figure in figures[axis]]) < 20
    for axis in set(AXES) - {"place"}:
        assert np.ptp([figure["place"] for figure in figures[axis]]) < 3


def test_size_and_intensity_are_what_was_requested(a_benchmark: Path) -> None:
    for row in rows_of(a_benchmark, "size"):
        assert measured(a_benchmark, row["name"])["size"] == pytest.approx(row["requested"]["size"], rel=0.15)
        assert row["painted"]["radius_mm"] == pytest.approx(row["requested"]["size"], rel=0.15)
    base, low = (next(r for r in rows_of(a_benchmark, "intensity") if r["level"] == level) for level in (0, -2))
    change = low["painted"]["mean_shift"] - base["painted"]["mean_shift"]
    assert change == pytest.approx(-2 * default_axes(LIVER, "CT")["intensity"].sd, rel=0.15)


def test_the_scan_is_untouched_elsewhere_and_the_manifest_names_all(a_benchmark: Path) -> None:
    scan, organ = a_scan()
    manifest = read_manifest(a_benchmark)
    assert len(manifest["scans"]) == 1 + 5 * 4 and not any("skipped" in row for row in manifest["scans"])
    for row in manifest["scans"]:
        image = read_volume(a_benchmark / "scans" / f"{row['name']}.nii.gz")
        assert image.geometry.difference(scan.geometry) == ""
        assert np.array_equal(image.array[organ.array == 0], scan.array[organ.array == 0])
    assert manifest["settings"]["axes"]["size"] == {"mean": 8.0, "sd": 1.5, "unit": "mm radius"}


def test_a_stopped_benchmark_goes_on_to_the_same_scans(tmp_path: Path) -> None:
    scan, organ = a_scan()
    arguments = {
        "modality": "CT",
        "axes": {"intensity": Axis(-60, 10, "HU"), **SMALL},
        "levels": (-1, 1),
        "replicates": 1,
    }

    def stop(stage: str, done: float) -> None:
        if done > 0.5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_benchmark(scan, organ, LIVER, tmp_path / "a", **arguments, on_progress=stop)
    assert 0 < len(read_manifest(tmp_path / "a")["scans"]) < 5
    first = tmp_path / "a" / "scans" / "base_0.nii.gz"
    made = first.stat().st_mtime_ns
    resumed = build_benchmark(scan, organ, LIVER, tmp_path / "a", **arguments)
    assert first.stat().st_mtime_ns == made
    fresh = build_benchmark(scan, organ, LIVER, tmp_path / "b", **arguments)
    assert resumed["scans"] == fresh["scans"]
    with pytest.raises(InputError, match="holds a benchmark of other seed") as caught:
        build_benchmark(scan, organ, LIVER, tmp_path / "a", **arguments, seed=1)
    assert caught.value.code == "exists"


def test_mr_is_graded_in_standard_deviations_of_the_organ(tmp_path: Path) -> None:
    axes = {"intensity": Axis(5.0, 1.0, "organ sd"), **SMALL}
    manifest = build_benchmark(
        *a_scan(17, "MR"), LIVER, tmp_path, modality="MR", axes=axes, levels=(-2, 2), replicates=1
    )
    shift = {row["level"]: row["painted"]["mean_shift"] for row in manifest["scans"] if row["axis"] != "size"}
    assert shift[2] > shift[0] > shift[-2] > 8


def test_a_lung_nodule_has_an_intensity_of_its_own() -> None:
    lung = organ_spec("lung")
    axis = default_axes(lung, "CT")["intensity"]
    low, high = lung.ct.absolute_hu[0]
    assert (axis.mean, axis.unit) == ((low + high) / 2, "HU")
    assert axis.sd == pytest.approx((high - low) / 12**0.5)


def test_a_place_is_a_quantile_along_the_patient_whatever_the_axes() -> None:
    for orientation in (0, 17, 40):
        _, organ = a_scan(orientation)
        places = _Places(organ, 5.0)
        heights = [places.at(q, np.random.default_rng(0))[2] for q in (0.0, 0.5, 1.0)]
        assert heights[0] < heights[1] < heights[2]
        assert heights[1] == pytest.approx(CENTER_RAS[2], abs=2.1)
        assert CENTER_RAS[2] - 44 + 5 <= heights[0] and heights[2] <= CENTER_RAS[2] + 44 - 5


def test_variants_are_named_and_level_zero_is_made_once() -> None:
    made = variants(("size", "place"), (-1, 0, 2), 2)
    assert [variant.name for variant in made[:4]] == ["base_0", "base_1", "size_m1_0", "size_m1_1"]
    assert len(made) == 2 + 2 * 2 * 2 and made[-1].name == "place_p2_1"
    wanted = properties(Variant("size", 2, 0), {"size": Axis(8, 1, "mm"), "place": Axis(0, 1, "")})
    assert wanted == {"size": 10, "place": 0}


def test_the_painter_is_a_painter() -> None:
    assert isinstance(GradedPainter(1.0, False, 1.0), Painter)


def test_what_cannot_be_built_is_refused(tmp_path: Path) -> None:
    scan, organ = a_scan()
    with pytest.raises(InputError, match="Unknown axis 'sise'") as caught:
        variants(("sise",), (1,), 1)
    assert caught.value.hint == "did you mean 'size'?"
    with pytest.raises(InputError, match="at least one axis and one replicate, got 1 and 0"):
        variants(("size",), (1,), 0)
    with pytest.raises(InputError, match="The size falls to -2 mm; expected at least 1"):
        build_benchmark(scan, organ, LIVER, tmp_path, modality="CT", axes={"size": Axis(10, 4, "mm")})
    with pytest.raises(InputError, match="The organ mask is empty"):
        build_benchmark(scan, organ.with_array(organ.array * 0), LIVER, tmp_path, modality="CT")
    with pytest.raises(GeometryError, match="organ mask"):
        build_benchmark(scan, a_scan(17)[1], LIVER, tmp_path, modality="CT")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "is not valid JSON"),
        ("[]", "expected an object"),
        ("{}", "holds no benchmark: .* got schema None and nothing else"),
        ('{"schema": 2}', "holds no benchmark: manifest.json: expected schema 1"),
        ('{"schema": 1, "settings": {}}', "holds no benchmark: manifest.json: expected schema 1, settings and scans"),
    ],
)
def test_what_is_no_benchmark_is_refused(tmp_path: Path, text: str, why: str) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(InputError, match=why):
        read_manifest(tmp_path)
