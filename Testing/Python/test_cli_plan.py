"""`diffugts plan`, and `segment --memory`: what is said before anything runs."""

import json
from pathlib import Path

import pytest
from phantoms import Phantom
from typer.testing import CliRunner

from DiffuGTSLib.cli import app
from DiffuGTSLib.cli.options import configured, parse_size_gb
from DiffuGTSLib.errors import ConfigError
from DiffuGTSLib.output import results
from DiffuGTSLib.volumes.io import write_volume

TINY = ["--preset", "tiny", "--device", "cpu"]


@pytest.fixture
def a_scan(tmp_path: Path, a_ct_phantom: Phantom) -> Path:
    """A phantom's file."""
    write_volume(a_ct_phantom.scan, tmp_path / "scan.nii.gz")
    return tmp_path / "scan.nii.gz"


def test_a_plan_reads_the_header_only(a_scan: Path) -> None:
    """Half of the file is enough for it, and too little for a scan."""
    a_scan.write_bytes(a_scan.read_bytes()[: a_scan.stat().st_size // 2])
    done = CliRunner().invoke(app, ["plan", str(a_scan), *TINY, "--memory", "8GB", "--tflops", "0.1", "--json"])
    assert done.exit_code == 0, done.output
    plan = json.loads(done.stdout)
    assert plan["rung"] == 0 and plan["machine"]["memory_bytes"] == 8_000_000_000
    assert [stage["stage"] for stage in plan["stages"]] == ["read", "aova", "repaint", "residual", "write back"]
    assert plan["seconds"] > 0 and plan["peak_bytes"] < 8e9 and plan["steps"] == 2 and plan["precision"] == "float32"


def test_a_plan_for_people_says_rung_grid_windows_and_stages(a_scan: Path) -> None:
    done = CliRunner().invoke(app, ["plan", str(a_scan), *TINY, "--memory", "8GB", "--tflops", "0.1"])
    assert done.exit_code == 0, done.output
    words = " ".join(done.stdout.split())
    for part in ("8.0 GB (as asked)", "0.1 TFLOP/s (as asked)", "as asked", "voxels of 4.00 × 4.00", "32 voxels"):
        assert part in words, part
    assert "time for a candidate of 40 mm (each further one" in words and "write back" in words


def test_too_little_memory_is_refused_before_anything_is_loaded(a_scan: Path, tmp_path: Path) -> None:
    arguments = ["segment", str(a_scan), "-o", str(tmp_path / "out"), "--organ", "liver", *TINY, "--allow-untrained"]
    done = CliRunner().invoke(app, [*arguments, "--memory", "100MB"])
    assert done.exit_code == 4 and "at the least" in done.stderr and "0.1 GB may be used" in done.stderr
    assert "Loading" not in done.stderr and not (tmp_path / "out").exists()


def test_a_smaller_plan_is_said_and_recorded(a_scan: Path, tmp_path: Path) -> None:
    wide = ["--set", "canonical.spacing_mm=1.25", "--set", "backbone.window_voxels=96", *TINY]
    asked = CliRunner().invoke(app, ["plan", str(a_scan), *wide, "--memory", "64GB", "--tflops", "1", "--json"])
    less = f"{json.loads(asked.stdout)['peak_bytes'] / 1e6 - 10:.0f}MB"
    arguments = ["segment", str(a_scan), "-o", str(tmp_path / "out"), "--organ", "liver", "--allow-untrained"]
    done = CliRunner().invoke(app, [*arguments, *wide, "--stages", "aova", "--memory", less])
    assert done.exit_code == 0, done.output
    record = json.loads((tmp_path / "out" / "record.json").read_text(encoding="utf-8"))
    assert record["config"]["backbone"]["window_voxels"] == 64
    assert record["plan"]["differs_from_asked"] == {"backbone.window_voxels": 64} and record["stepped_down"] == []
    assert "(as asked): windows of 64 voxels." in " ".join(done.stderr.split())
    assert results.read_results(tmp_path / "out").given_up_before == ("backbone.window_voxels",)


def test_what_the_plan_bewares_of_is_said_by_segment_too(a_scan: Path, tmp_path: Path) -> None:
    """On a grid that the field of view is stretched onto, as the published models' are."""
    arguments = ["segment", str(a_scan), "--organ", "liver", "--allow-untrained", *TINY, "--stages", "aova"]
    arguments += ["--set", "canonical.fit_multiple=32"]
    done = CliRunner().invoke(app, [*arguments, "-o", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    record = json.loads((tmp_path / "out" / "record.json").read_text(encoding="utf-8"))
    assert record["plan"]["notes"] and f"Beware: {'; '.join(record['plan']['notes'])}." in " ".join(done.stderr.split())
    quiet = CliRunner().invoke(app, [*arguments, "-o", str(tmp_path / "quiet"), "--quiet"])
    assert quiet.exit_code == 0 and "Beware" not in quiet.stderr


@pytest.mark.parametrize(
    ("text", "expected"), [("8GB", 8.0), ("8", 8.0), ("7.5 gib", 8.053063680), ("900MB", 0.9), ("16g", 16.0)]
)
def test_sizes_are_read_as_people_write_them(text: str, expected: float) -> None:
    assert parse_size_gb(text) == pytest.approx(expected)
    assert configured("tiny", memory=text).runtime.memory_gb == pytest.approx(expected)


@pytest.mark.parametrize("text", ["much", "", "-8GB", "0"])
def test_a_size_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--memory: expected a size"):
        parse_size_gb(text)


def test_negative_memory_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"runtime.memory_gb: expected 0 or more"):
        configured("tiny", overrides=["runtime.memory_gb=-1"])
