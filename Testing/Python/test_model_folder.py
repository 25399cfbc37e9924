"""The model folder that a head is trained into: whose networks it holds, and what its index says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from mini_data import tiny_autoencoder, tiny_unet

from DiffuGTSLib.backbones import DDPM_SCHEDULER, FLOW_SCHEDULER
from DiffuGTSLib.backbones.weights import save_module, verify_checksums, write_checksums
from DiffuGTSLib.config import load_config
from DiffuGTSLib.errors import ConfigError, WeightsError
from DiffuGTSLib.resources import resource_path
from DiffuGTSLib.training.model_folder import adopt, model_of, other_networks, require_same_networks, write_index


def write_networks(folder: Path, scheduler: dict[str, Any] | None = None, seed: int = 0) -> Path:
    """Write frozen networks of a few channels."""
    save_module(tiny_autoencoder(seed), folder / "autoencoder")
    save_module(tiny_unet(seed), folder / "denoiser")
    if scheduler is not None:
        (folder / "scheduler").mkdir()
        (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler))
    write_index(folder)
    return folder


def index_of(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "model_index.json").read_text())
    return content


@pytest.mark.parametrize(("scheduler", "prediction"), [(FLOW_SCHEDULER, "flow"), (DDPM_SCHEDULER, "epsilon")])
def test_the_index_says_what_the_schedule_s_denoiser_predicts(
    tmp_path: Path, scheduler: dict[str, Any], prediction: str
) -> None:
    index = index_of(write_networks(tmp_path, scheduler))
    assert index == {
        "_class_name": "DiffuGTSPipeline", "prediction": prediction,
        "autoencoder": ["DiffuGTSLib.backbones.maisi", "MaisiAutoencoder"],
        "denoiser": ["DiffuGTSLib.backbones.maisi", "MaisiUNet"],
    }  # fmt: skip


def test_the_index_keeps_what_else_it_names_as_long_as_that_is_there(tmp_path: Path) -> None:
    write_networks(tmp_path)
    assert index_of(tmp_path)["prediction"] == "flow", "before there is a schedule"
    (tmp_path / "other").mkdir()
    more = {**index_of(tmp_path), "other": ["a.module", "Other"], "gone": ["a.module", "Gone"], "note": "ours"}
    (tmp_path / "model_index.json").write_text(json.dumps(more))
    write_index(tmp_path)
    index = index_of(tmp_path)
    assert index["other"] == ["a.module", "Other"] and index["note"] == "ours" and "gone" not in index


def test_published_networks_are_adopted_with_their_license(tmp_path: Path) -> None:
    base, model = write_networks(tmp_path / "base", DDPM_SCHEDULER), tmp_path / "run" / "model"
    for name in ("README.md", "source.json"):
        (base / name).write_text(name)
    save_module(tiny_autoencoder(), base / "aova")  # stands for another head
    adopt(base, model)
    write_index(model)
    assert sorted(path.name for path in model.iterdir()) == [
        "README.md", "autoencoder", "checksums.json", "denoiser", "model_index.json", "scheduler", "source.json",
    ]  # fmt: skip
    assert index_of(model) == index_of(base)
    assert verify_checksums(model) == {name: sha for name, sha in verify_checksums_of(base) if "aova" not in name}


def verify_checksums_of(folder: Path) -> list[tuple[str, str]]:
    write_checksums(folder)
    return list(verify_checksums(folder).items())


def test_a_bundled_model_is_adopted_without_its_card_but_with_its_training_cases(tmp_path: Path) -> None:
    base, model = write_networks(tmp_path / "base", FLOW_SCHEDULER), tmp_path / "run"
    (base / "README.md").write_text("a card that speaks of another head")
    (base / "training_cases.json").write_text('{"format": 1, "cases": []}')
    adopt(base, model)
    present = {path.name for path in model.iterdir()}
    assert "training_cases.json" in present and "README.md" not in present


def test_networks_of_a_read_only_disk_are_adopted_writable(tmp_path: Path) -> None:
    base, model = write_networks(tmp_path / "base", FLOW_SCHEDULER), tmp_path / "run"
    (base / "autoencoder").chmod(0o500)
    try:
        adopt(base, model)
    finally:
        (base / "autoencoder").chmod(0o700)
    assert (model / "autoencoder").stat().st_mode & 0o200, "or it could never be removed"


def test_what_was_adopted_is_not_copied_again(tmp_path: Path) -> None:
    base, model = write_networks(tmp_path / "base", FLOW_SCHEDULER), tmp_path / "run"
    adopt(base, model)
    mark = model / "autoencoder" / "mark"
    mark.touch()
    adopt(base, model)
    adopt(model, model)
    assert mark.exists()


def test_what_a_killed_copy_left_is_no_part_of_the_model(tmp_path: Path) -> None:
    base, model = write_networks(tmp_path / "base"), tmp_path / "run" / "model"
    left = model / ".denoiser-0123" / "half.safetensors"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"cut off")
    adopt(base, model)
    write_index(model)
    assert not left.exists() and len(verify_checksums(model)) == 2


def test_a_run_with_another_autoencoder_is_refused(tmp_path: Path) -> None:
    first, same, other = (
        write_networks(tmp_path / name, FLOW_SCHEDULER, seed) for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    require_same_networks(first, same)
    require_same_networks(first, tmp_path / "nothing yet")
    with pytest.raises(WeightsError, match="holds another autoencoder than") as caught:
        require_same_networks(first, other)
    assert "another --output" in caught.value.hint


def test_the_networks_of_a_configuration_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIFFUGTS_MODELS", str(tmp_path / "store"))
    assert model_of(load_config("mini").backbone) == resource_path("Models", "mini")
    own = write_networks(tmp_path / "own", FLOW_SCHEDULER)
    assert model_of(load_config("mini", overrides=[f"backbone.folder={own}"]).backbone) == own
    with pytest.raises(WeightsError, match="weights of 'maisi-ct' are not here"):
        model_of(load_config("maisi-ct").backbone)
    stored = write_networks(tmp_path / "store" / "maisi-ct", FLOW_SCHEDULER)
    assert model_of(load_config("maisi-ct").backbone) == stored
    (stored / "autoencoder" / "diffusion_pytorch_model.safetensors").write_bytes(b"cut off")
    with pytest.raises(WeightsError, match="is not the file that checksums.json names"):
        model_of(load_config("maisi-ct").backbone)
    with pytest.raises(ConfigError, match="The networks of preset 'tiny' are untrained"):
        model_of(load_config("tiny").backbone)


def test_networks_that_differ_are_named_where_both_folders_tell(tmp_path: Path) -> None:
    first, second = write_networks(tmp_path / "first"), write_networks(tmp_path / "second")
    assert other_networks(first, second) == []
    save_module(tiny_unet(7), second / "denoiser")
    write_index(second)
    assert other_networks(first, second) == ["denoiser"]
    with pytest.raises(WeightsError, match="holds another denoiser than"):
        require_same_networks(first, second)
    assert other_networks(first, tmp_path / "nothing") == []
