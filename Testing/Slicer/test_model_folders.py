"""What is told of a model folder without torch: size, license, and the verdict of the library's own checksums."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from DiffuGTSSlicer import model_folders
from DiffuGTSSlicer.model_folders import (
    isPermissive,
    licenseOf,
    modelFolder,
    requireModel,
    sizeBytes,
    sizeText,
    verification,
)

from DiffuGTSLib.backbones.weights import verify_checksums
from DiffuGTSLib.config import load_config
from DiffuGTSLib.errors import WeightsError
from DiffuGTSLib.resources import resource_path

WEIGHTS = "aova/diffusion_pytorch_model.safetensors"


@pytest.fixture
def a_model(tmp_path: Path) -> Path:
    """A copy of the bundled model."""
    return Path(shutil.copytree(resource_path("Models", "mini"), tmp_path / "mini"))


def faults(folder: Path) -> list[str]:
    """Run a check to its end."""
    steps = verification(folder)
    shares = []
    while True:
        try:
            shares.append(next(steps))
        except StopIteration as end:
            assert shares == sorted(shares) and (not shares or shares[-1] == pytest.approx(1))
            return list(end.value)


def library_refuses(folder: Path) -> bool:
    try:
        verify_checksums(folder)
    except WeightsError:
        return True
    return False


def test_the_bundled_model_is_whole_and_the_worker_says_so_too(a_model: Path) -> None:
    assert faults(a_model) == [] and not library_refuses(a_model)


@pytest.mark.parametrize(
    "damage", ["altered", "missing", "unlisted", "description", "undescribed", "no list", "damaged list", "no object"]
)
def test_each_damage_is_named_and_the_worker_refuses_it_too(a_model: Path, damage: str) -> None:
    weights, listed = a_model / WEIGHTS, a_model / "checksums.json"
    if damage == "altered":
        weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    elif damage == "missing":
        weights.unlink()
    elif damage == "unlisted":
        shutil.copy(weights, a_model / "extra.safetensors")
    elif damage == "description":
        (a_model / "aova" / "config.json").write_text("{}")
    elif damage == "undescribed":
        (a_model / "aova" / "config.json").unlink()
    elif damage == "no list":
        listed.unlink()
    else:
        listed.write_text("{" if damage == "damaged list" else "[]")
    [fault] = faults(a_model)
    expected = {"altered": WEIGHTS, "missing": WEIGHTS, "unlisted": "extra.safetensors"}
    expected |= dict.fromkeys(("description", "undescribed"), "aova/config.json")
    assert expected.get(damage, "checksums.json") in fault
    if damage != "no object":  # a list of a wrong kind is an inner error of the library's reader
        assert library_refuses(a_model)


def test_a_model_in_pieces_is_read_in_pieces(a_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_folders, "CHUNK_BYTES", 1 << 20)
    assert len(list(verification(a_model))) > 14


def test_sizes_are_sums_of_files_in_words_of_people(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "a").write_bytes(b"12345")
    (tmp_path / "sub" / "b").write_bytes(b"1")
    assert sizeBytes(tmp_path) == 6
    assert [sizeText(size) for size in (1_500_000, 15_800_000, 5_900_000_000)] == ["1.5 MB", "16 MB", "5.9 GB"]


@pytest.mark.parametrize(
    ("name", "text", "license_"),
    [
        ("README.md", "---\nlicense: cc-by-4.0\n---\n", "cc-by-4.0"),
        ("LICENSE.txt", "\nNVIDIA Open Model License\nVersion 1", "NVIDIA Open Model License"),
        ("README.md", "Scans: CC BY 3.0.\nThe weights come under the Apache License 2.0.", "Apache License 2.0"),
        ("README.md", "Scans: CC BY 3.0.", ""),
        ("README.md", "", ""),
    ],
)
def test_the_license_is_what_the_folder_states_of_its_weights(
    tmp_path: Path, name: str, text: str, license_: str
) -> None:
    (tmp_path / name).write_text(text)
    assert licenseOf(tmp_path) == license_


def test_a_folder_is_a_model_by_its_index(a_model: Path, tmp_path: Path) -> None:
    requireModel(a_model)
    with pytest.raises(WeightsError, match="holds no model") as caught:
        requireModel(tmp_path)
    assert caught.value.code == "weights_missing"


def test_a_presets_model_is_its_folder_or_not_there(a_model: Path) -> None:
    assert modelFolder(load_config("mini")) == resource_path("Models", "mini")
    assert modelFolder(load_config("maisi-ct")) is None
    assert modelFolder(load_config("mini", overrides=[f"backbone.folder={a_model}"])) == a_model
    shutil.rmtree(a_model)
    assert modelFolder(load_config("mini", overrides=[f"backbone.folder={a_model}"])) is None


def test_the_list_of_checksums_is_json_of_names_and_digests() -> None:
    listed = json.loads(resource_path("Models", "mini", "checksums.json").read_text())
    assert WEIGHTS in listed and all(len(digest) == 64 for digest in listed.values())


@pytest.mark.parametrize("license_", ["Apache License 2.0", "apache-2.0", "MIT License", "BSD-3-Clause", "CC BY 4.0"])
def test_licenses_for_everybody_and_everything_are_known(license_: str) -> None:
    assert isPermissive(license_)


@pytest.mark.parametrize(
    "license_",
    [
        "",
        "NVIDIA Open Model License",
        "CC BY-NC 4.0",
        "cc-by-nc-nd-4.0",
        "PERMITTED",
        "CC BY-NC 4.0 (weights), Apache-2.0 (code)",
        "Apache License 2.0, weights for non-commercial use",
    ],
)
def test_any_other_license_is_asked_about(license_: str) -> None:
    assert not isPermissive(license_)
