"""Finding the files that are not code."""

from __future__ import annotations

from pathlib import Path

import pytest

from DiffuGTSLib import resources
from DiffuGTSLib.errors import InputError
from DiffuGTSLib.resources import organ_names, resource_path


def test_a_bundled_preset_is_found() -> None:
    assert resource_path("Presets", "mini.json").is_file()


def test_a_missing_resource_is_refused_with_the_places_looked_at() -> None:
    with pytest.raises(
        InputError, match=r"'Presets/nothing\.json' not found; looked in .*Resources, .*Resources"
    ) as caught:
        resource_path("Presets", "nothing.json")
    assert caught.value.code == "resource_missing"
    assert "install" in caught.value.hint


def test_an_installed_wheel_finds_its_own_resources_before_those_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "DiffuGTSLib"
    for place in (package, tmp_path):
        (place / "Resources").mkdir(parents=True)
        (place / "Resources" / "a.txt").write_text(place.name)
    monkeypatch.setattr(resources, "_PACKAGE", package)
    assert resource_path("a.txt").read_text() == "DiffuGTSLib"


def test_organ_files_are_listed_by_their_organs_without_loading_the_synthesis() -> None:
    names = organ_names()
    assert "lung" in names and "lymph node" in names
    assert list(names) == sorted(names)


def test_no_published_weights_are_shipped() -> None:
    """DiffTumor's files are pickles of 66 MB and more; ours are safetensors, told with their source in a model card."""
    root = resource_path("Models").parent
    weights = [path for path in root.rglob("*") if path.suffix in {".safetensors", ".pt", ".pth", ".ckpt", ".bin"}]
    assert weights and {path.suffix for path in weights} == {".safetensors"}
    assert sum(path.stat().st_size for path in weights) < 40e6
    ours = {"mini", "Prompts"}
    assert all(ours & set(path.relative_to(root).parts) for path in weights)
    assert (root / "Models" / "mini" / "README.md").is_file()
