"""The result folder: its names, its record, all or nothing, and the way back for refinement."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import SimpleITK as sitk
from phantoms import Phantom, ct_phantom, grid

from DiffuGTSLib.config import from_dict, load_config
from DiffuGTSLib.errors import Cancelled, DiffuGTSError, GeometryError, InputError, StorageError, WeightsError
from DiffuGTSLib.output.results import (
    AOVA,
    CACHE,
    COARSE_MASK,
    FINDINGS,
    NAMES,
    OVERVIEW,
    PSEUDO_HEALTHY,
    RECORD,
    RESIDUAL,
    SEGMENTATION,
    SLICER_SEGMENTATION,
    read_record,
    read_results,
    require_result_folder,
    write_results,
)
from DiffuGTSLib.pipeline import STAGES, Components, Segmentation, load_components, segment
from DiffuGTSLib.storage import whole_folder
from DiffuGTSLib.text.prompts import organ_prompts
from DiffuGTSLib.volumes.hounsfield import in_hounsfield
from DiffuGTSLib.volumes.io import read_volume, write_volume
from DiffuGTSLib.volumes.volume import Volume

ROOT = Path(__file__).parents[2]
NIFTI_NAMES = sorted(set(NAMES) - {SLICER_SEGMENTATION})


@dataclasses.dataclass(frozen=True)
class Case:
    """A scan on disk, and what untrained networks see in it."""

    phantom: Phantom
    scan: Volume
    path: Path
    components: Components
    result: Segmentation

    def write(self, folder: Path, **choices: Any) -> None:
        """Write the result folder; `result` may be another one."""
        result = choices.pop("result", self.result)
        write_results(folder, self.scan, self.path, result, self.components, stages=STAGES, **choices)


@pytest.fixture(scope="module")
def a_case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """The lesion of a phantom, given as the coarse mask and repainted by the tiny networks."""
    phantom = ct_phantom(grid((36, 40, 30), (3.0, 2.5, 3.0), degrees=(5, -4, 8)))
    path = tmp_path_factory.mktemp("scan") / "scan.nii.gz"
    write_volume(phantom.scan, path)
    scan = read_volume(path)
    lesion = Volume(phantom.lesion.array, scan.geometry)
    config = load_config("tiny", overrides=["runtime.seed=7"])
    components = load_components(config, allow_untrained=True)
    result = segment(scan, organ_prompts("liver", "CT"), components, config, coarse_mask=lesion)
    return Case(dataclasses.replace(phantom, lesion=lesion), scan, path, components, result)


@pytest.fixture(scope="module")
def a_written_folder(tmp_path_factory: pytest.TempPathFactory, a_case: Case) -> Path:
    """The result folder of that case, restricted to the organ; not to be changed."""
    folder = tmp_path_factory.mktemp("written") / "result"
    a_case.write(folder, region=a_case.phantom.organ)
    return folder


@pytest.fixture
def a_result_folder(tmp_path: Path, a_written_folder: Path) -> Path:
    """A copy of it that may be spoiled."""
    return Path(shutil.copytree(a_written_folder, tmp_path / "result"))


def _contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_every_promised_file_is_there_on_exactly_the_scans_grid(a_case: Case, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "result"
    a_case.write(folder)
    assert sorted(path.name for path in folder.iterdir()) == NIFTI_NAMES
    kinds = {
        SEGMENTATION: sitk.sitkUInt8,
        COARSE_MASK: sitk.sitkUInt8,
        AOVA: sitk.sitkFloat32,
        PSEUDO_HEALTHY: sitk.sitkFloat32,
        RESIDUAL: sitk.sitkFloat32,
    }
    for name, kind in kinds.items():
        assert sitk.ReadImage(str(folder / name)).GetPixelID() == kind, name
        assert read_volume(folder / name).geometry.difference(a_case.scan.geometry) == "", name
    assert np.array_equal(read_volume(folder / SEGMENTATION).array, a_case.result.mask.array)
    assert np.array_equal(read_volume(folder / COARSE_MASK).array, a_case.phantom.lesion.array)
    assert (folder / OVERVIEW).read_bytes().startswith(b"\x89PNG")
    assert (folder / FINDINGS).read_text().startswith("label,volume_ml,centroid_r_mm")


def test_maps_are_written_in_steps_without_digits_that_say_nothing(a_case: Case, a_written_folder: Path) -> None:
    written = read_volume(a_written_folder / AOVA).array
    assert np.abs(written - a_case.result.aova.array).max() <= 0.5 / 4096
    assert np.array_equal(written * 4096, np.round(written * 4096))
    assert a_case.result.residual is not None
    assert np.abs(read_volume(a_written_folder / RESIDUAL).array - a_case.result.residual.array).max() <= 0.5 / 4096


def test_each_image_that_is_written_is_told_and_a_stop_between_two_leaves_the_earlier_result(
    a_case: Case, a_result_folder: Path
) -> None:
    told: list[tuple[str, float]] = []
    a_case.write(a_result_folder, force=True, on_progress=lambda *share: told.append(share))
    assert {stage for stage, _ in told} == {"write"}
    shares = [share for _, share in told]
    assert shares == sorted(shares) and shares[0] == 0 and shares[-1] == 1 and len(shares) == 7
    before = _contents(a_result_folder)

    def stop(stage: str, share: float) -> None:
        if share > 0.3:
            raise Cancelled("Stopped.")

    with pytest.raises(Cancelled):
        a_case.write(a_result_folder, force=True, on_progress=stop)
    assert _contents(a_result_folder) == before


def test_the_format_nrrd_adds_a_slicer_segmentation(a_case: Case, tmp_path: Path) -> None:
    a_case.write(tmp_path, image_format="nrrd")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(NAMES)
    image = sitk.ReadImage(str(tmp_path / SLICER_SEGMENTATION))
    assert image.GetMetaData("Segment0_Name") == a_case.result.prompts.abnormal


def test_the_record_says_what_was_run_with_what_on_what(a_case: Case, tmp_path: Path) -> None:
    a_case.write(tmp_path, notes={"asked": {"roi_ras_mm": None}})
    record = read_record(tmp_path)
    assert record["input"]["name"] == "scan.nii.gz"
    assert record["input"]["sha256"] == hashlib.sha256(a_case.path.read_bytes()).hexdigest()
    assert from_dict(record["config"]) == a_case.result.config
    assert record["seed"] == 7
    assert record["prompts"]["normal"] == "A normal CT scan of the liver"
    assert record["modality"] == "CT"
    assert record["modality_reason"] == a_case.result.modality_reason
    assert record["trained"] is False
    assert record["device"] == "cpu"
    assert set(record["timings_s"]) >= set(STAGES)
    assert record["outcome"] == a_case.result.outcome.rstrip(".")
    assert record["asked"] == {"roi_ras_mm": None}
    assert record["stages"] == list(STAGES)
    assert record["region"] is False
    assert "Research use only" in record["notice"]
    assert record["versions"]["python"] == ".".join(str(part) for part in sys.version_info[:3])


def test_a_score_that_does_not_exist_is_null_in_the_record(a_case: Case, tmp_path: Path) -> None:
    a_case.write(tmp_path, result=dataclasses.replace(a_case.result, anomaly_score=math.nan))
    assert read_record(tmp_path)["anomaly_score"] is None


def test_where_nothing_was_repainted_the_pseudo_healthy_image_equals_the_scan(a_case: Case, tmp_path: Path) -> None:
    empty = a_case.result.mask.with_array(np.zeros_like(a_case.result.mask.array))
    nothing = dataclasses.replace(
        a_case.result, mask=empty, coarse_mask=empty, pseudo_healthy=None, residual=None, outcome="nothing found."
    )
    a_case.write(tmp_path, result=nothing)
    assert sorted(path.name for path in tmp_path.iterdir()) == NIFTI_NAMES
    assert np.array_equal(read_volume(tmp_path / PSEUDO_HEALTHY).array, a_case.scan.array)
    assert not read_volume(tmp_path / RESIDUAL).array.any()
    assert read_record(tmp_path)["outcome"] == (
        "nothing found; nothing was repainted: the pseudo-healthy image equals the scan and the residual is 0"
    )
    assert (tmp_path / FINDINGS).read_text().count("\n") == 1


def test_where_nothing_was_compared_the_record_says_so(a_case: Case, tmp_path: Path) -> None:
    a_case.write(tmp_path, result=dataclasses.replace(a_case.result, residual=None))
    assert read_record(tmp_path)["outcome"].endswith("; nothing was compared: the residual is 0")
    assert not read_volume(tmp_path / RESIDUAL).array.any()


def test_an_unknown_format_is_refused(a_case: Case, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Unknown format 'nifty'") as caught:
        a_case.write(tmp_path, image_format="nifty")
    assert "did you mean 'nifti'" in caught.value.hint


def test_a_folder_with_other_files_is_refused_and_left_alone(a_case: Case, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match=r"holds files that are not ours \(thesis.txt") as caught:
        a_case.write(tmp_path)
    assert caught.value.code == "exists"
    assert _contents(tmp_path) == {"thesis.txt": b"mine"}
    a_case.write(tmp_path, force=True)
    assert (tmp_path / "thesis.txt").read_text() == "mine"
    assert (tmp_path / RECORD).exists()


def test_a_file_of_somebody_s_own_is_not_replaced_even_when_told_to(a_case: Case, tmp_path: Path) -> None:
    (tmp_path / "segmentation.nii.gz").write_text("drawn by hand")
    with pytest.raises(
        InputError, match=r"holds segmentation.nii.gz and no earlier result: they are not ours"
    ) as caught:
        a_case.write(tmp_path, force=True)
    assert caught.value.code == "exists" and "move these files" in caught.value.hint
    assert _contents(tmp_path) == {"segmentation.nii.gz": b"drawn by hand"}


def test_an_earlier_result_is_replaced_only_when_told_to(a_case: Case, a_result_folder: Path) -> None:
    (a_result_folder / SLICER_SEGMENTATION).write_text("of an earlier run")
    before = _contents(a_result_folder)
    with pytest.raises(InputError, match="already holds an earlier result") as caught:
        a_case.write(a_result_folder)
    assert "--force" in caught.value.hint
    assert _contents(a_result_folder) == before
    a_case.write(a_result_folder, force=True, notes={"again": True})
    # Slicer's file would be out of date.
    assert sorted(path.name for path in a_result_folder.iterdir()) == NIFTI_NAMES
    assert read_record(a_result_folder)["again"] is True


def test_what_a_killed_run_left_behind_does_not_count_as_a_file(tmp_path: Path) -> None:
    (tmp_path / ".diffugts-killed").mkdir()
    require_result_folder(tmp_path)


def test_a_file_cannot_be_a_result_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError, match="it is a file") as caught:
        require_result_folder(tmp_path / "file")
    assert caught.value.hint == "name a folder."
    with pytest.raises(StorageError, match="Cannot write to .*Not a directory"):
        require_result_folder(tmp_path / "file" / "below")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc is a folder that nobody can write to")
def test_a_folder_that_cannot_be_written_is_refused_before_anything_is_computed() -> None:
    with pytest.raises(StorageError, match="Cannot write to /proc/diffugts/result") as caught:
        require_result_folder("/proc/diffugts/result")
    assert "the disk of /proc has" in caught.value.hint


def test_a_target_that_cannot_be_replaced_leaves_the_earlier_result_as_it_was(
    a_case: Case, a_result_folder: Path
) -> None:
    (a_result_folder / AOVA).unlink()
    (a_result_folder / AOVA / "precious").mkdir(parents=True)
    before = _contents(a_result_folder)
    with pytest.raises(StorageError, match="Cannot replace .*aova.nii.gz: it is a folder"):
        a_case.write(a_result_folder, force=True, notes={"again": True})
    assert _contents(a_result_folder) == before
    assert (a_result_folder / AOVA / "precious").is_dir()
    assert sorted(path.name for path in a_result_folder.iterdir()) == NIFTI_NAMES


@pytest.mark.parametrize("stop", [KeyboardInterrupt, MemoryError])
def test_nothing_is_left_when_writing_is_stopped(tmp_path: Path, stop: type[BaseException]) -> None:
    with pytest.raises(stop), whole_folder(tmp_path / "new" / "result", NAMES) as staging:
        (staging / SEGMENTATION).write_bytes(b"half")
        raise stop
    assert list(tmp_path.iterdir()) == []


_FILLS_THE_DISK = """
import resource, sys
from pathlib import Path
from DiffuGTSLib.errors import StorageError
from DiffuGTSLib.output.results import NAMES
from DiffuGTSLib.storage import whole_folder
resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))  # no file may grow beyond 20 kB
try:
    with whole_folder(Path(sys.argv[1]), NAMES) as staging:
        (staging / "record.json").write_text("new")
        (staging / "cache.safetensors").write_bytes(bytes(30000))
except StorageError as error:
    print(error)
    sys.exit(error.exit_code)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs RLIMIT_FSIZE")
def test_a_full_disk_leaves_the_earlier_result_as_it_was(tmp_path: Path) -> None:
    (tmp_path / RECORD).write_text("earlier")
    done = subprocess.run(
        [sys.executable, "-c", _FILLS_THE_DISK, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == StorageError.exit_code, done.stderr
    assert f"Cannot write to {tmp_path}: File too large" in done.stdout
    assert _contents(tmp_path) == {RECORD: b"earlier"}
    assert len(list(tmp_path.iterdir())) == 1


def test_a_result_is_read_back_for_refinement(a_case: Case, a_result_folder: Path) -> None:
    stored = read_results(a_result_folder)
    assert stored.config == a_case.result.config
    assert stored.prompts == a_case.result.prompts
    assert stored.modality == "CT"
    assert stored.scan_path == a_case.path
    assert np.array_equal(stored.scan.array, a_case.scan.array)
    assert stored.region is not None
    assert np.array_equal(stored.region.array, a_case.phantom.organ.array)
    assert stored.cache is not None
    assert np.array_equal(stored.cache.latent, a_case.result.cache.latent)
    assert np.array_equal(stored.cache.aova, a_case.result.cache.aova)
    assert stored.cache.anomaly_score == a_case.result.cache.anomaly_score
    stored.require_weights(a_case.components)


@pytest.mark.parametrize("offset_hu", [-1024.0, 300.0, 0.0])
def test_a_ct_that_was_brought_to_hu_is_read_back_as_it_was_segmented(
    a_case: Case, tmp_path: Path, offset_hu: float
) -> None:
    """In Python by `in_hounsfield`, at the command line by --offset-hu: the record keeps either, and refining adds it."""
    path, folder = tmp_path / "stored.nii.gz", tmp_path / "result"
    write_volume(a_case.scan.with_array(a_case.scan.array - offset_hu), path)
    write_results(
        folder, in_hounsfield(read_volume(path), offset_hu), path, a_case.result, a_case.components, stages=STAGES
    )
    assert read_record(folder)["input"]["offset_hu"] == offset_hu
    stored = read_results(folder)
    assert stored.scan.offset_hu == offset_hu
    assert np.array_equal(stored.scan.array, in_hounsfield(read_volume(path), offset_hu).array)


def test_other_weights_than_those_on_record_are_refused(a_case: Case, a_result_folder: Path) -> None:
    stored = read_results(a_result_folder)
    others = dataclasses.replace(a_case.components, weights={"aova/head.safetensors": "abc"})
    with pytest.raises(WeightsError, match=r"aova/head.safetensors has the SHA-256 abc, expected of no file"):
        stored.require_weights(others)


def test_a_scan_that_was_moved_is_found_where_it_is_said_to_be(
    a_case: Case, a_result_folder: Path, tmp_path: Path
) -> None:
    record = read_record(a_result_folder)
    record["input"]["path"] = str(tmp_path / "old" / "scan.nii.gz")
    (a_result_folder / RECORD).write_text(json.dumps(record))
    with pytest.raises(InputError, match=r"The scan of this result, .*scan.nii.gz, does not exist") as caught:
        read_results(a_result_folder)
    assert "--scan" in caught.value.hint
    scan = Path(shutil.copy(a_case.path, tmp_path / "moved.nii.gz"))
    assert read_results(a_result_folder, scan).scan_path == scan
    write_volume(a_case.scan.with_array(a_case.scan.array + 1), scan)
    with pytest.raises(InputError, match=r"has changed since .*expected the SHA-256 [0-9a-f]{64}, got") as caught:
        read_results(a_result_folder, scan)
    assert caught.value.code == "scan_changed"


def test_without_its_cache_a_result_can_still_be_read(a_result_folder: Path) -> None:
    record = read_record(a_result_folder) | {"region": False}
    (a_result_folder / RECORD).write_text(json.dumps(record))
    (a_result_folder / CACHE).unlink()
    stored = read_results(a_result_folder)
    assert (stored.cache, stored.region) == (None, None)


def test_without_its_cache_a_result_of_a_region_is_refused(a_result_folder: Path) -> None:
    (a_result_folder / CACHE).unlink()
    with pytest.raises(InputError, match=r"cache.safetensors is missing, and with it the region"):
        read_results(a_result_folder)


def _rewrite_cache(folder: Path, **changed: Any) -> None:
    with safetensors.safe_open(str(folder / CACHE), framework="np") as file:
        about = json.loads(file.metadata()["cache"])
    tensors = safetensors.numpy.load_file(folder / CACHE)
    about |= {key: value for key, value in changed.items() if key in about}
    tensors |= {key: value for key, value in changed.items() if key not in about}
    kept = {key: value for key, value in tensors.items() if value is not None}
    safetensors.numpy.save_file(kept, folder / CACHE, metadata={"cache": json.dumps(about)})


@pytest.mark.parametrize(
    ("changed", "kind", "message"),
    [
        ({"scan_sha256": "another"}, InputError, "belongs to another scan than record.json"),
        ({"latent": None}, InputError, "is damaged: KeyError"),
        ({"anomaly_score": "high"}, InputError, "is damaged: ValueError"),
        ({"region_bits": np.zeros(3, dtype=np.uint8)}, GeometryError, "has room for 24 voxels, the scan has 43200"),
    ],
)
def test_a_cache_that_does_not_fit_is_refused(
    a_result_folder: Path, changed: dict[str, Any], kind: type[DiffuGTSError], message: str
) -> None:
    _rewrite_cache(a_result_folder, **changed)
    with pytest.raises(kind, match=message):
        read_results(a_result_folder)


def test_a_cache_that_was_cut_off_is_refused(a_result_folder: Path) -> None:
    path = a_result_folder / CACHE
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"cache.safetensors is damaged") as caught:
        read_results(a_result_folder)
    assert caught.value.hint == "run diffugts segment again."


def test_a_folder_without_a_record_is_no_result(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a result folder: it has no record.json"):
        read_results(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not valid JSON"),
        ("[]", "expected an object, got list"),
        ("{}", "expected a record of schema 1, got None"),
        ('{"schema": 99}', "expected a record of schema 1, got 99"),
        ('{"schema": 1}', "lacks or garbles the entry 'input'"),
    ],
)
def test_a_record_that_is_not_ours_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / RECORD).write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        read_results(tmp_path)
    assert caught.value.code == "record"


def test_a_record_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / RECORD).mkdir()
    with pytest.raises(InputError, match=r"record.json cannot be read: Is a directory"):
        read_record(tmp_path)
