"""Sessions on the disk: balanced, reproducible, and without a trace of the truth."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from reading_parts import SPACING_MM, case, grid, write_cases

from DiffuGTSLib.errors import InputError, StorageError
from DiffuGTSLib.reader_study.answers import read_session
from DiffuGTSLib.reader_study.key import read_key
from DiffuGTSLib.reader_study.session import BuiltSession, SessionOptions, build_session, key_path_of
from DiffuGTSLib.volumes.io import read_volume, write_volume

CROP_MM = 60.0
NIFTI_HEADER_BYTES = 352


@pytest.fixture(scope="module")
def some_scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders real and synthetic of five scans each; not to be changed."""
    folder = tmp_path_factory.mktemp("scans")
    write_cases(folder / "real", range(5), painted=False)
    write_cases(folder / "synthetic", range(10, 15), painted=True)
    return folder


@pytest.fixture(scope="module")
def a_session(some_scans: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, BuiltSession]:
    """The session of all ten; not to be changed."""
    folder = tmp_path_factory.mktemp("built") / "session"
    return folder, build(some_scans, folder, seed=1, with_page=True)


@pytest.fixture
def scans_of_their_own(some_scans: Path, tmp_path: Path) -> Iterator[Path]:
    """Folders real and synthetic of three scans each, for a test to change."""
    for name, numbers in (("real", (0, 1, 2)), ("synthetic", (10, 11, 12))):
        (tmp_path / name).mkdir()
        for path in sorted((some_scans / name).iterdir()):
            if any(f"_{number:02d}" in path.name for number in numbers):
                shutil.copy(path, tmp_path / name / path.name)
    yield tmp_path
    assert not any(tmp_path.glob("session*")), "a refusal leaves nothing behind"


def build(scans: Path, folder: Path, key_path: Path | None = None, **options: object) -> BuiltSession:
    """Build a session of cubes, unless another options says otherwise."""
    values = {"seed": 0, "crop_mm": CROP_MM, "with_page": False, **options}
    return build_session(
        scans / "real",
        scans / "synthetic",
        folder,
        SessionOptions(**values),
        key_path=key_path,  # type: ignore[arg-type]
    )


def refusal(scans: Path, **options: object) -> InputError:
    """Return why a session is refused."""
    with pytest.raises(InputError) as caught:
        build(scans, scans / "session", **options)
    return caught.value


def rewrite(scans: Path, pattern: str, change: object) -> None:
    """Change the voxels of some scans; masks stay."""
    for path in scans.glob(pattern):
        if "_tumor" not in path.name:
            volume = read_volume(path)
            write_volume(volume.with_array(change(volume.array)), path)  # type: ignore[operator]


def test_a_session_holds_every_scan_once_and_as_many_of_each(
    a_session: tuple[Path, BuiltSession], some_scans: Path
) -> None:
    folder, built = a_session
    key = read_key(key_path_of(folder))
    assert key == built.key and read_session(folder) == built.card
    assert sorted(case.truth for case in key.cases) == ["real"] * 5 + ["synthetic"] * 5
    sources = {Path(case.source) for case in key.cases}
    assert sources == {p for p in some_scans.rglob("*.nii.gz") if "_tumor" not in p.name}
    assert sorted(p.name for p in folder.iterdir()) == sorted([*built.card.files, "reading.html", "session.json"])
    assert built.card.window == (-160.0, 240.0) and built.card.modality == "CT"


def test_each_case_shows_its_source_around_the_tumor(a_session: tuple[Path, BuiltSession]) -> None:
    folder, built = a_session
    for truth in built.key.cases:
        shown = read_volume(folder / built.card.files[truth.case - 1])
        source = read_volume(truth.source)
        assert shown.geometry.shape == (24, 24, 20)
        windows = np.lib.stride_tricks.sliding_window_view(source.array, shown.array.shape)
        assert (windows[:, :, :, ::6, ::6, ::6] == shown.array[::6, ::6, ::6]).all(axis=(3, 4, 5)).any()


def test_the_seed_and_the_sources_give_the_same_session_again(
    some_scans: Path, a_session: tuple[Path, BuiltSession], tmp_path: Path
) -> None:
    again = build(some_scans, tmp_path / "session", seed=1, with_page=True)
    assert (again.card, again.key.cases) == (a_session[1].card, a_session[1].key.cases)
    assert (tmp_path / "session" / "reading.html").read_bytes() == (a_session[0] / "reading.html").read_bytes()
    other = build(some_scans, tmp_path / "other", seed=2)
    assert other.card.session != again.card.session
    assert [c.truth for c in other.key.cases] != [c.truth for c in again.key.cases]


def test_the_seed_alone_does_not_tell_the_order(some_scans: Path, tmp_path: Path) -> None:
    """Whoever guesses the seed would otherwise draw the same permutation of five real and five synthetic scans."""
    orders = set()
    for first in range(3):
        for side, numbers in (("real", range(first, first + 3)), ("synthetic", range(first + 10, first + 13))):
            lines = [f"{number}.nii.gz, {number}_tumor.nii.gz" for number in numbers]
            for path in (some_scans / side).iterdir():
                number = path.name.partition("_")[2].lstrip("0") or "0"
                shutil.copy(path, tmp_path / (number if number[0] not in "._" else f"0{number}"))
            (tmp_path / f"{side}.txt").write_text("\n".join(lines))
        options = SessionOptions(0, with_page=False)
        built = build_session(tmp_path / "real.txt", tmp_path / "synthetic.txt", tmp_path / f"session{first}", options)
        orders.add(tuple(c.truth for c in built.key.cases))
    assert len(orders) > 1


def test_truth_is_everywhere_in_the_order(some_scans: Path, tmp_path: Path) -> None:
    firsts = [build(some_scans, tmp_path / f"s{n}", seed=n, per_side=3).key.cases[0].truth for n in range(5)]
    assert {"real", "synthetic"} == set(firsts)


def test_no_name_and_no_file_tells_the_truth(a_session: tuple[Path, BuiltSession], some_scans: Path) -> None:
    folder, built = a_session
    words = [str(some_scans), "patient_", "painted_", "_tumor", *(case.sha256[:12] for case in built.key.cases)]
    for path in folder.iterdir():
        content = path.read_bytes().lower()
        assert not [word for word in words if word.lower().encode() in content or word in path.name], path.name
    for path in (folder / "session.json", folder / "reading.html"):
        text = re.sub(r"<script type=\"text/plain\".*?</script>", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
        for number, truth in enumerate(built.key.cases, start=1):
            assert not re.search(rf"case_0?{number}\.nii\W+{truth.truth}", text)
    record = json.loads((folder / "session.json").read_text())
    assert set(record) == {"format", "version", "session", "title", "modality", "window", "unit", "cases"}


def test_the_files_differ_in_nothing_but_voxels(a_session: tuple[Path, BuiltSession]) -> None:
    folder, built = a_session
    files = [folder / name for name in built.card.files]
    assert len({path.read_bytes()[:NIFTI_HEADER_BYTES] for path in files}) == 1
    assert len({path.stat().st_size for path in files}) == 1
    assert len({path.stat().st_mtime for path in folder.iterdir()} | {folder.stat().st_mtime}) == 1
    header = files[0].read_bytes()[:NIFTI_HEADER_BYTES]
    assert header[228:252].strip(b"\0") == b"", "aux_file"
    assert header[328:344].strip(b"\0") == b"", "intent_name"
    assert header[348:352] == b"\0" * 4, "no extension"
    assert read_volume(files[0]).geometry.to_ras(np.array([11.5, 11.5, 9.5])) == pytest.approx([0, 0, 0], abs=1e-3)


def test_every_scan_takes_the_same_room_in_the_page(a_session: tuple[Path, BuiltSession]) -> None:
    page = (a_session[0] / "reading.html").read_text(encoding="utf-8")
    blocks = re.findall(r'<script type="text/plain" id="scan-(\d+)">(.*?)</script>', page, flags=re.DOTALL)
    assert [int(number) for number, _ in blocks] == list(range(1, 11))
    assert len({len(text) for _, text in blocks}) == 1


def test_simple_figures_of_the_voxels_tell_nothing(a_session: tuple[Path, BuiltSession]) -> None:
    """No threshold on a figure that needs no eye separates the two kinds."""
    folder, built = a_session
    arrays = [read_volume(folder / name).array for name in built.card.files]
    truths = np.array([case.truth == "real" for case in built.key.cases])
    figures = {
        "zeros": lambda a: (a == 0).mean(),
        "smallest": np.min,
        "largest": np.max,
        "fractions": lambda a: (a != np.round(a)).mean(),
        "at the limits": lambda a: ((a == a.min()) | (a == a.max())).mean(),
        "commonest": lambda a: np.unique(a, return_counts=True)[1].max() / a.size,
        "empty edge": lambda a: float(np.ptp(a[0]) == 0),
        "distinct": lambda a: np.unique(a).size,
    }
    for name, figure in figures.items():
        values = np.array([figure(array) for array in arrays])
        real, synthetic = values[truths], values[~truths]
        assert real.max() >= synthetic.min() and synthetic.max() >= real.min(), name


def test_whole_scans_are_kept_whole(some_scans: Path, tmp_path: Path) -> None:
    built = build(some_scans, tmp_path / "session", crop_mm=None)
    assert built.page_mb == 0 and not (tmp_path / "session" / "reading.html").exists()
    first = built.key.cases[0]
    shown = read_volume(tmp_path / "session" / built.card.files[0])
    assert np.array_equal(shown.array, read_volume(first.source).array)


def test_as_many_as_asked_are_drawn_from_each_side(some_scans: Path, tmp_path: Path) -> None:
    drawn = [build(some_scans, tmp_path / f"s{seed}", seed=seed, per_side=3).key.cases for seed in (0, 1, 2)]
    assert all(sorted(c.truth for c in cases) == ["real"] * 3 + ["synthetic"] * 3 for cases in drawn)
    assert len({frozenset(c.source for c in cases) for cases in drawn}) > 1


def test_more_of_one_kind_is_taken_where_that_is_meant(
    scans_of_their_own: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    write_cases(scans_of_their_own / "real", range(3, 4), painted=False)
    error = refusal(scans_of_their_own)
    assert error.code == "unbalanced" and "4 real and 3 synthetic" in error.message and "--per-side 3" in error.hint
    folder = tmp_path_factory.mktemp("elsewhere") / "session"
    assert len(build(scans_of_their_own, folder, allow_unbalanced=True).key.cases) == 7


@pytest.mark.parametrize(("count", "words"), [(2, "at least 3 real and 3 synthetic"), (4, "Asked for 4 scans of each")])
def test_too_few_scans_are_refused(scans_of_their_own: Path, count: int, words: str) -> None:
    error = refusal(scans_of_their_own, per_side=count)
    assert error.code == "too_few" and words in error.message


def test_a_scan_twice_is_refused(scans_of_their_own: Path) -> None:
    real = scans_of_their_own / "real"
    shutil.copy(real / "patient_00.nii.gz", real / "copy.nii.gz")
    error = refusal(scans_of_their_own)
    assert error.code == "duplicate" and "have the same content" in error.message


def test_a_scan_on_both_sides_is_refused(scans_of_their_own: Path) -> None:
    shutil.copy(scans_of_their_own / "real" / "patient_00.nii.gz", scans_of_their_own / "synthetic" / "x.nii.gz")
    assert refusal(scans_of_their_own).code == "both_sides"
    listed = scans_of_their_own / "list.txt"
    listed.write_text("real/patient_00.nii.gz\nreal/patient_01.nii.gz\nreal/patient_02.nii.gz\n")
    with pytest.raises(InputError, match="are one file: a scan is both real and synthetic"):
        build_session(scans_of_their_own / "real", listed, scans_of_their_own / "session", SessionOptions(0))


def test_a_scan_and_its_painted_copy_are_refused(scans_of_their_own: Path) -> None:
    scan, mask = case(0, painted=False)
    painted = np.where(mask.array > 0, scan.array + 30, scan.array)
    write_volume(scan.with_array(painted), scans_of_their_own / "synthetic" / "painted_12.nii.gz")
    write_volume(mask, scans_of_their_own / "synthetic" / "painted_12_tumor.nii.gz")
    error = refusal(scans_of_their_own)
    assert error.code == "twins" and "patient_00.nii.gz" in error.message and "painted_12.nii.gz" in error.message


@pytest.mark.parametrize("shift", [0, 3])
def test_crops_of_one_scan_around_two_tumors_are_refused(scans_of_their_own: Path, shift: int) -> None:
    scan, _ = case(0, painted=False)
    painted, mask = scan.array.copy(), np.zeros(scan.array.shape, np.uint8)
    mask[22 + shift : 26 + shift, 20:24, 16:20] = 1
    write_volume(
        scan.with_array(np.where(mask > 0, painted + 30, painted)),
        scans_of_their_own / "synthetic" / "painted_12.nii.gz",
    )
    write_volume(scan.with_array(mask), scans_of_their_own / "synthetic" / "painted_12_tumor.nii.gz")
    error = refusal(scans_of_their_own)
    assert error.code == "twins" and "painted_12.nii.gz" in error.message


def test_a_piece_that_was_painted_into_a_scan_of_the_session_is_refused(scans_of_their_own: Path) -> None:
    source = scans_of_their_own / "real" / "patient_00.nii.gz"
    folder = scans_of_their_own / "synthetic" / "piece"
    folder.mkdir()
    for number in (10, 11, 12):
        place = scans_of_their_own / "synthetic" / str(number)
        place.mkdir()
        for old, new in ((".nii.gz", "scan.nii.gz"), ("_tumor.nii.gz", "tumor.nii.gz")):
            (scans_of_their_own / "synthetic" / f"painted_{number}{old}").rename(place / new)
    record = {"input": {"sha256": hashlib.sha256(source.read_bytes()).hexdigest()}}
    (scans_of_their_own / "synthetic" / "11" / "synthesis.json").write_text(json.dumps(record))
    error = refusal(scans_of_their_own)
    assert error.code == "twins" and "was painted into" in error.message and "patient_00.nii.gz" in error.message


def test_of_one_scan_painted_several_times_one_copy_is_drawn(some_scans: Path, tmp_path: Path) -> None:
    shutil.copytree(some_scans / "real", tmp_path / "real")
    for number in (10, 11, 12, 13):
        place = tmp_path / "synthetic" / str(number)
        place.mkdir(parents=True)
        shutil.copy(some_scans / "synthetic" / f"painted_{number}.nii.gz", place / "scan.nii.gz")
        shutil.copy(some_scans / "synthetic" / f"painted_{number}_tumor.nii.gz", place / "tumor.nii.gz")
        record = {"input": {"sha256": "the same" if number < 12 else str(number)}}
        (place / "synthesis.json").write_text(json.dumps(record))
    for seed in range(4):
        built = build(tmp_path, tmp_path / f"built{seed}", seed=seed, per_side=3)
        drawn = {Path(case.source).parent.name for case in built.key.cases if case.truth == "synthetic"}
        assert len(drawn) == 3 and not {"10", "11"} <= drawn


def test_a_scan_into_which_nothing_was_painted_is_not_synthetic(scans_of_their_own: Path) -> None:
    _, mask = case(11, painted=True)
    write_volume(
        mask.with_array(np.zeros_like(mask.array)), scans_of_their_own / "synthetic" / "painted_11_tumor.nii.gz"
    )
    error = refusal(scans_of_their_own, crop_mm=None)
    assert error.code == "unpainted" and "painted_11.nii.gz shows no painted tumor" in error.message


def test_fractions_are_refused_and_rounded_on_request(
    scans_of_their_own: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    rewrite(scans_of_their_own, "synthetic/*.nii.gz", lambda array: array + np.float32(0.25))
    error = refusal(scans_of_their_own)
    assert error.code == "giveaway" and "fractions" in error.message and "--harmonize" in error.hint
    built = build(scans_of_their_own, tmp_path_factory.mktemp("elsewhere") / "session", harmonize=True)
    assert built.changed == (
        "whole numbers only in 3 of 3 real and 0 of 3 synthetic scans, fractions in the others: all were rounded",
    )


def test_limits_are_refused_and_cut_off_on_request(
    scans_of_their_own: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    rewrite(scans_of_their_own, "synthetic/*.nii.gz", lambda array: np.clip(array, -175, 250))
    error = refusal(scans_of_their_own)
    assert "smallest voxel" in error.message and "largest voxel" in error.message
    folder = tmp_path_factory.mktemp("elsewhere") / "session"
    built = build(scans_of_their_own, folder, harmonize=True)
    arrays = [read_volume(folder / name).array for name in built.card.files]
    assert {float(a.min()) for a in arrays} == {-175.0}
    assert max(float(a.max()) for a in arrays) == 250.0
    assert built.key.made["cut_off_at"] == (-175.0, 250.0)


def test_grids_are_refused_and_made_one_on_request(
    scans_of_their_own: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    shutil.rmtree(scans_of_their_own / "synthetic")
    write_cases(scans_of_their_own / "synthetic", range(10, 13), painted=True, geometry=grid((2.0, 2.0, 4.0)))
    error = refusal(scans_of_their_own)
    assert error.code == "giveaway" and "from 2 x 2 x 3 to 2.5 x 2.5 x 4 mm" in error.message
    folder = tmp_path_factory.mktemp("elsewhere") / "session"
    built = build(scans_of_their_own, folder, harmonize=True)
    grids = {read_volume(folder / name).geometry.shape for name in built.card.files}
    assert grids == {(24, 24, 15)}
    assert read_volume(folder / built.card.files[0]).geometry.spacing_mm == pytest.approx((2.5, 2.5, 4.0))
    headers = {(folder / name).read_bytes()[:NIFTI_HEADER_BYTES] for name in built.card.files}
    assert len(headers) == 1


def blank(array: np.ndarray) -> np.ndarray:
    """Put zeros around what was painted."""
    blanked = array.copy()
    blanked[:, :, :16] = 0
    return blanked


def test_zeros_around_what_was_painted_cannot_be_harmonized(scans_of_their_own: Path) -> None:
    rewrite(scans_of_their_own, "synthetic/*.nii.gz", blank)
    error = refusal(scans_of_their_own, harmonize=True)
    assert error.code == "giveaway" and "commonest value" in error.message and "cannot be harmonized" in error.hint


def test_what_harmonizing_leaves_is_refused_at_the_end(scans_of_their_own: Path) -> None:
    rewrite(scans_of_their_own, "synthetic/*.nii.gz", lambda array: blank(np.clip(array, -175, None)))
    error = refusal(scans_of_their_own, harmonize=True)
    assert error.code == "giveaway" and "commonest value" in error.message and "smallest" not in error.message


def test_mixed_modalities_are_refused(scans_of_their_own: Path) -> None:
    rewrite(scans_of_their_own, "synthetic/*.nii.gz", lambda array: np.abs(array + 1000))
    error = refusal(scans_of_their_own)
    assert error.code == "modality" and "CT (patient_0" in error.message


def test_pieces_without_air_need_their_modality_said(scans_of_their_own: Path) -> None:
    rewrite(scans_of_their_own, "*/*.nii.gz", lambda array: np.clip(array, -100, 300))
    error = refusal(scans_of_their_own)
    assert error.code == "modality" and "Cannot tell" in error.message


def test_one_piece_with_air_tells_for_all(scans_of_their_own: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    rewrite(scans_of_their_own, "*/*_00.nii.gz", lambda array: np.clip(array, -100, 300))
    folder = tmp_path_factory.mktemp("elsewhere") / "session"
    assert build(scans_of_their_own, folder).card.modality == "CT"


def test_scans_without_steps_are_refused(scans_of_their_own: Path) -> None:
    rewrite(scans_of_their_own, "*/*.nii.gz", lambda array: (array - array.min()) / 4000)
    error = refusal(scans_of_their_own, modality="MR")
    assert error.code == "range" and "at least 100" in error.message


def test_mr_scans_are_windowed_by_themselves(
    scans_of_their_own: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    rewrite(scans_of_their_own, "*/*.nii.gz", lambda array: array - array.min())
    built = build(scans_of_their_own, tmp_path_factory.mktemp("elsewhere") / "session")
    assert (built.card.modality, built.card.window, built.card.unit) == ("MR", None, "")


def test_a_session_of_lungs_begins_with_the_lung_window(
    scans_of_their_own: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    rewrite(scans_of_their_own, "*/*.nii.gz", lambda array: np.where(array > -500, array - 850, array))
    built = build(scans_of_their_own, tmp_path_factory.mktemp("elsewhere") / "session", modality="CT")
    assert built.card.window == (-1350.0, 150.0)


def test_the_key_never_lies_in_the_session(scans_of_their_own: Path) -> None:
    with pytest.raises(InputError, match="session's own folder") as caught:
        build(scans_of_their_own, scans_of_their_own / "session", scans_of_their_own / "session" / "sub" / "key.json")
    assert caught.value.code == "key_inside"


def test_an_earlier_session_or_key_is_not_replaced(
    scans_of_their_own: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("elsewhere") / "session"
    build(scans_of_their_own, folder)
    with pytest.raises(InputError, match="already holds"):
        build(scans_of_their_own, folder)
    shutil.rmtree(folder)
    with pytest.raises(InputError, match="There is a key already"):
        build(scans_of_their_own, folder)


def test_where_the_key_cannot_be_written_there_is_no_session(scans_of_their_own: Path) -> None:
    with pytest.raises(StorageError):
        build(scans_of_their_own, scans_of_their_own / "session", scans_of_their_own / "nowhere" / "key.json")


def test_headers_apart_from_their_voxels_are_no_duplicates(tmp_path: Path) -> None:
    for side, first in (("real", 0), ("synthetic", 10)):
        for seed in range(first, first + 3):
            folder = tmp_path / side / str(seed)
            folder.mkdir(parents=True)
            scan, mask = case(seed, painted=side == "synthetic")
            write_detached(scan.array, folder / "scan.mhd")
            write_volume(mask, folder / "mask.nii.gz")
        lines = [f"{seed}/scan.mhd" for seed in range(first, first + 3)]
        (tmp_path / side / "list.txt").write_text("\n".join(lines))
    built = build_session(
        tmp_path / "real" / "list.txt", tmp_path / "synthetic" / "list.txt", tmp_path / "session", SessionOptions(0)
    )
    assert len({case.sha256 for case in built.key.cases}) == 6


def write_detached(array: np.ndarray, path: Path) -> None:
    sides = " ".join(map(str, array.shape))
    spacing = " ".join(map(str, SPACING_MM))
    header = (
        f"ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\nDimSize = {sides}\n"
        f"ElementSpacing = {spacing}\nOffset = 0 0 0\nTransformMatrix = 1 0 0 0 1 0 0 0 1\n"
        "ElementType = MET_SHORT\nElementDataFile = scan.raw\n"
    )
    path.write_text(header)
    path.with_name("scan.raw").write_bytes(np.asfortranarray(array.astype("<i2")).tobytes(order="F"))
