"""`train_part` from a data folder to a model folder that segments: end to end, with networks of a few channels."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from layouts import write_msd
from mini_data import GRID, mini_config, shared_run, tiny_networks, write_case, write_labels, write_protocol
from phantoms import ct_phantom
from safetensors.torch import load_file

from DiffuGTSLib.backbones.weights import WEIGHTS_FILE, verify_checksums
from DiffuGTSLib.config import load_config
from DiffuGTSLib.datasets.trained_cases import read_training_cases
from DiffuGTSLib.errors import ConfigError, InputError, StorageError, WeightsError
from DiffuGTSLib.pipeline import load_components, segment
from DiffuGTSLib.text.prompts import organ_prompts
from DiffuGTSLib.training import autoencoder_run, data, denoiser_run, job, lock, log, run, trainer
from DiffuGTSLib.training.lock import alone_in
from DiffuGTSLib.training.resuming import learned_settings
from DiffuGTSLib.training.run import train_part


@pytest.fixture(scope="module")
def a_protocol(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Phantoms in three splits."""
    return shared_run(tmp_path_factory) / "data" / "protocol.json"


@pytest.fixture(scope="module")
def a_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every part, trained for one iteration a phase."""
    return shared_run(tmp_path_factory)


@pytest.fixture
def small_networks() -> Iterator[None]:
    with tiny_networks():
        yield


def trained(part: str, protocol: Path, output: Path, **options: object) -> list[str]:
    """Train a part and return what it reported."""
    lines: list[str] = []
    arguments: dict[str, object] = {"iterations": 1, "device": "cpu", "data": protocol.parent, **options}
    train_part(part, protocol_path=protocol, output=output, report=lines.append, **arguments)  # type: ignore[arg-type]
    return lines


def test_the_run_leaves_a_whole_model_folder(a_run: Path) -> None:
    model = a_run / "model"
    index = json.loads((model / "model_index.json").read_text())
    assert index["autoencoder"] == ["DiffuGTSLib.backbones.maisi", "MaisiAutoencoder"]
    assert index["denoiser"] == ["DiffuGTSLib.backbones.maisi", "MaisiUNet"]
    assert index["aova"] == ["DiffuGTSLib.aova", "AovaHead"] and index["prediction"] == "flow"
    names = [f"{part}/diffusion_pytorch_model.safetensors" for part in ("aova", "autoencoder", "denoiser")]
    assert sorted(verify_checksums(model)) == names
    scheduler = json.loads((model / "scheduler" / "scheduler_config.json").read_text())
    assert scheduler["_class_name"] == "FlowMatchEulerDiscreteScheduler"
    assert json.loads((model / "autoencoder" / "config.json").read_text())["scaling_factor"] > 0
    assert json.loads((model / "aova" / "grid.json").read_text())["canonical"]["spacing_mm"] == 4.0, (
        "what the head was trained on"
    )
    assert "aova/grid.json" in (model / "checksums.json").read_text()
    trained = read_training_cases(model)
    assert trained is not None and [case.name for case in trained if case.use == "trained"] == [
        "ct_1",
        "mr_1",
        "labels_1",
    ]
    assert [case.name for case in trained if case.use == "tuned"] == ["ct_2", "mr_2"]


def test_each_part_leaves_its_log_and_checkpoint(a_run: Path) -> None:
    for folder in ("autoencoder/phase_1", "autoencoder/phase_2", "denoiser", "aova/phase_1", "aova/phase_2"):
        present = sorted(path.name for path in (a_run / folder).iterdir())
        lock = [".lock"] if "/" not in folder else []  # one a part
        assert present == [*lock, "begun.json", "log.csv", "plan.json", "state.pt"], folder
    assert "validation_psnr_db" in (a_run / "autoencoder/phase_2/log.csv").read_text()
    assert "validation_flow" in (a_run / "denoiser/log.csv").read_text()
    assert "validation_dice_CT_liver" in (a_run / "aova/phase_2/log.csv").read_text()


@pytest.mark.usefixtures("small_networks")
def test_training_leaves_the_draws_of_the_program_around_it_as_they_were(a_protocol: Path, tmp_path: Path) -> None:
    """Two trainings of one notebook would else put all that follows on the same draws. Paths may be strings."""
    torch.manual_seed(123)
    before = torch.get_rng_state()
    train_part(
        "autoencoder", protocol_path=str(a_protocol), data=str(a_protocol.parent), output=str(tmp_path / "run"),
        iterations=1, device="cpu", report=lambda line: None,
    )  # fmt: skip
    assert torch.equal(torch.get_rng_state(), before)
    assert (tmp_path / "run" / "autoencoder" / "phase_1" / "log.csv").is_file()


def test_the_model_folder_segments_a_scan(a_run: Path) -> None:
    config = mini_config()
    config = replace(
        config,
        backbone=replace(config.backbone, folder=str(a_run / "model")),
        runtime=replace(config.runtime, device="cpu"),
    )
    components = load_components(config)
    assert components.trained and len(components.weights) == 4
    phantom = ct_phantom(GRID, noise_hu=10)
    result = segment(
        phantom.scan, organ_prompts("liver", "CT"), components, config, coarse_mask=phantom.lesion, modality="CT"
    )
    assert result.pseudo_healthy is not None and result.residual is not None
    assert result.mask.geometry.difference(phantom.scan.geometry) == ""
    far = phantom.lesion.array == 0
    far[:, :, 6:] = False  # two voxels below the dilated lesion
    assert np.array_equal(result.pseudo_healthy.array[far], phantom.scan.array[far])
    assert float(result.aova.array.min()) >= 0 and float(result.aova.array.max()) <= 1


@pytest.mark.usefixtures("small_networks")
def test_a_finished_part_is_not_trained_again_and_gives_the_same_file(
    a_run: Path, a_protocol: Path, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    shutil.copytree(a_run, output)
    before = verify_checksums(output / "model")
    lines = trained("denoiser", a_protocol, output)
    assert not any(line.startswith("denoiser 1/1") for line in lines), "no iteration was left to do"
    assert verify_checksums(output / "model") == before


@pytest.mark.usefixtures("small_networks")
def test_a_part_that_is_stopped_while_its_cases_are_recorded_leaves_a_whole_model_folder(
    a_protocol: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "record_training", stop)
    with pytest.raises(KeyboardInterrupt):
        trained("autoencoder", a_protocol, tmp_path / "run")
    assert list(verify_checksums(tmp_path / "run" / "model")) == ["autoencoder/diffusion_pytorch_model.safetensors"]


@pytest.mark.usefixtures("small_networks")
def test_a_denoiser_goes_on_from_another_run_s_in_the_same_latent_space(
    a_run: Path, a_protocol: Path, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    shutil.copytree(a_run / "model", output / "model")
    trained("denoiser", a_protocol, output, options={"start": str(a_run / "model"), "learning_rate": "1e-9"})
    before, after = (load_file(m / "denoiser" / WEIGHTS_FILE) for m in (a_run / "model", output / "model"))
    assert all(torch.allclose(before[name], after[name], atol=1e-4) for name in before), "hardly a step away"
    fresh = tmp_path / "fresh"
    shutil.copytree(a_run / "model", fresh / "model")
    trained("denoiser", a_protocol, fresh, seed=5)
    other = load_file(fresh / "model" / "denoiser" / WEIGHTS_FILE)
    assert not all(torch.allclose(before[name], other[name], atol=1e-4) for name in before)


@pytest.mark.usefixtures("small_networks")
def test_a_denoiser_of_another_latent_space_and_a_senseless_rate_are_refused(
    a_run: Path, a_protocol: Path, tmp_path: Path
) -> None:
    start, output = tmp_path / "start", tmp_path / "run"
    shutil.copytree(a_run / "model", start)
    shutil.copytree(a_run / "model", output / "model")
    sums = json.loads((start / "checksums.json").read_text())
    (start / "checksums.json").write_text(json.dumps({**sums, f"autoencoder/{WEIGHTS_FILE}": "0" * 64}))
    with pytest.raises(WeightsError, match="was trained on another autoencoder's latents"):
        trained("denoiser", a_protocol, output, options={"start": str(start)})
    with pytest.raises(ConfigError, match=r"learning_rate: expected above 0, at most 0\.1, got -1\.0"):
        trained("denoiser", a_protocol, output, options={"learning_rate": "-1"})


@pytest.mark.usefixtures("small_networks")
def test_a_part_goes_on_where_it_stopped(a_run: Path, a_protocol: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    shutil.copytree(a_run, output)
    before = verify_checksums(output / "model")["aova/diffusion_pytorch_model.safetensors"]
    lines = trained("aova", a_protocol, output, iterations=5)
    assert [line.split(":")[0] for line in lines if line.startswith("phase_")] == [
        "phase_1 3/3", "phase_2", "phase_2 2/2",
    ]  # fmt: skip
    assert "phase_2: begun anew, since it had grown from the weights after 1 iterations of phase_1" in lines
    assert torch.load(output / "aova" / "phase_2" / "state.pt", weights_only=True)["iteration"] == 2
    assert verify_checksums(output / "model")["aova/diffusion_pytorch_model.safetensors"] != before


@pytest.mark.usefixtures("small_networks")
def test_on_a_retrained_autoencoder_the_later_parts_are_begun_anew(
    a_run: Path, a_protocol: Path, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    shutil.copytree(a_run, output)
    before = verify_checksums(output / "model")
    scale = json.loads((output / "aova" / "head.json").read_text())["feature_scale"]
    said = trained("autoencoder", a_protocol, output, iterations=9)
    assert said[-1] == (
        f"autoencoder: made for the one before, in {output / 'model'}: denoiser, aova; train them again, in this order"
    )
    assert "autoencoder: made" not in trained("autoencoder", a_protocol, output, iterations=9)[-1], "it is the same one"
    for part, folders in (("denoiser", ("denoiser",)), ("aova", ("phase_1", "phase_2"))):
        said = trained(part, a_protocol, output)
        for folder in folders:
            assert f"{folder}: begun anew, since it had been trained on another autoencoder" in said
            assert any(line.startswith(f"{folder} 1/1") for line in said)
        again = trained(part, a_protocol, output)
        assert not any("begun anew" in line or " 1/1" in line for line in again)
    after = verify_checksums(output / "model")
    assert all(after[name] != before[name] for name in before)
    assert json.loads((output / "aova" / "head.json").read_text())["feature_scale"] != scale, "measured again"


@pytest.mark.usefixtures("small_networks")
@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"seed": 4}, "was begun with another seed"),
        ({"options": {"learning_rate": "1e-4"}}, r"was begun with learning_rate=0.001, not learning_rate=0.0001"),
    ],
)
def test_a_part_that_was_begun_with_other_choices_does_not_go_on(
    a_run: Path, a_protocol: Path, tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    output = tmp_path / "run"
    shutil.copytree(a_run, output)
    before = (output / "denoiser" / "state.pt").read_bytes()
    with pytest.raises(ConfigError, match=said) as caught:
        trained("denoiser", a_protocol, output, iterations=9, **change)
    assert "another --output" in caught.value.hint
    assert (output / "denoiser" / "state.pt").read_bytes() == before


@pytest.mark.usefixtures("small_networks")
def test_a_dry_run_says_what_would_be_done_and_writes_nothing(a_protocol: Path, tmp_path: Path) -> None:
    lines = trained("autoencoder", a_protocol, tmp_path / "run", iterations=None, dry_run=True, seed=3)
    assert lines == [
        "train: 3 scans of 3 patients",
        "validation: 2 scans of 2 patients",
        "autoencoder: 2250 iterations, float32, seed 3, on cpu",
        "reading train 1 of 3: ct_1",
        "reading train 2 of 3: mr_1",
        "reading train 3 of 3: labels_1",
        "reading validation 1 of 2: ct_2",
        "reading validation 2 of 2: mr_2",
        "autoencoder: the scans take 0.00 GB of main memory",
        "autoencoder: phase_1: 1800 of 1800 iterations are left",
        "autoencoder: phase_2: 450 of 450 iterations are left",
    ]
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("small_networks")
@pytest.mark.parametrize("part", ["autoencoder", "denoiser", "aova"])
def test_a_dry_run_refuses_what_training_would_refuse_and_says_what_is_left(
    a_run: Path, a_protocol: Path, tmp_path: Path, part: str
) -> None:
    output = tmp_path / "run"
    shutil.copytree(a_run, output)
    whole = {path: path.stat().st_mtime_ns for path in output.rglob("*") if path.is_file()}
    with pytest.raises(ConfigError, match="was begun with another seed"):
        trained(part, a_protocol, output, dry_run=True, seed=5)
    assert trained(part, a_protocol, output, dry_run=True)[-1] == f"{part}: nothing is left to do"
    said = trained(part, a_protocol, output, dry_run=True, iterations=10)
    assert not any("nothing is left" in line for line in said)
    if part == "denoiser":
        assert said[-1] == "denoiser: 9 of 10 iterations are left"
    if part == "autoencoder":
        assert said[-2:] == [
            "autoencoder: phase_1: 7 of 8 iterations are left",
            "autoencoder: phase_2: 2 of 2 iterations are left",
        ], "the second phase grows from the first one, and begins anew after it"
    assert {path: path.stat().st_mtime_ns for path in output.rglob("*") if path.is_file()} == whole


@pytest.mark.usefixtures("small_networks")
def test_a_head_that_is_trained_before_the_denoiser_says_what_is_missing(
    a_run: Path, a_protocol: Path, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    shutil.copytree(a_run, output)
    assert "cannot segment yet" not in trained("aova", a_protocol, output)[-1]
    shutil.rmtree(output / "model" / "denoiser")
    said = trained("aova", a_protocol, output)
    assert said[-1] == (
        f"aova: {output / 'model'} cannot segment yet: it has no denoiser; train it: diffugts train denoiser"
    )


@pytest.mark.usefixtures("small_networks")
@pytest.mark.parametrize("dry_run", [True, False])
def test_label_maps_alone_are_refused_before_the_autoencoder_is_trained_on_them(tmp_path: Path, dry_run: bool) -> None:
    rows = [
        write_labels(tmp_path, "labels", "train"),
        write_case(tmp_path, "ct", ct_phantom(GRID), "validation"),
    ]
    protocol = write_protocol(tmp_path / "protocol.json", rows)
    with pytest.raises(InputError, match="the training split holds label maps only"):
        trained("autoencoder", protocol, tmp_path / "run", dry_run=dry_run)
    assert not (tmp_path / "run" / "autoencoder" / "phase_1").exists()


@pytest.mark.usefixtures("small_networks")
def test_of_several_processes_the_others_do_not_look_for_the_autoencoder_that_the_first_one_writes(
    a_protocol: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It need not be there yet when they come to their end."""
    for module in (run, autoencoder_run, job, log, lock, trainer):
        monkeypatch.setattr(module, "rank", lambda: 1)
    trained("autoencoder", a_protocol, tmp_path / "run")
    assert not (tmp_path / "run" / "model").exists()


@pytest.mark.usefixtures("small_networks")
def test_a_second_training_of_a_part_is_refused_before_a_scan_is_read(
    a_run: Path, a_protocol: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a job is begun again by the scheduler while the first one still lives."""
    output = tmp_path / "run"
    shutil.copytree(a_run, output)
    with alone_in(output / "denoiser", print):
        assert trained("denoiser", a_protocol, output, dry_run=True)[-1] == "denoiser: nothing is left to do", (
            "looks on"
        )
        trained("autoencoder", a_protocol, output)
        monkeypatch.setattr(data, "load_case", lambda *_: pytest.fail("a scan was read"))
        with pytest.raises(StorageError, match="Another training writes into .*denoiser: process"):
            trained("denoiser", a_protocol, output)


@pytest.mark.usefixtures("small_networks")
def test_what_can_be_said_without_a_scan_is_said_before_one_is_read(
    a_protocol: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data, "load_case", lambda *_: pytest.fail("a scan was read"))
    said = trained("aova", a_protocol, tmp_path / "run", dry_run=True)
    assert said[0] == "train: 3 scans of 3 patients" and said[-1].endswith("train that first")


@pytest.mark.usefixtures("small_networks")
def test_the_other_parts_need_the_autoencoder(a_protocol: Path, tmp_path: Path) -> None:
    for part in ("denoiser", "aova"):
        with pytest.raises(WeightsError, match=f"{part}: it needs the autoencoder of the run") as caught:
            trained(part, a_protocol, tmp_path / "run")
        assert "diffugts train autoencoder" in caught.value.hint
        assert trained(part, a_protocol, tmp_path / "run", dry_run=True)[-1].endswith("train that first")


@pytest.mark.usefixtures("small_networks")
def test_a_checkpoint_of_another_network_is_refused(
    a_run: Path, a_protocol: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "run"
    shutil.copytree(a_run, output)
    monkeypatch.setattr(denoiser_run, "MINI_UNET", {**denoiser_run.MINI_UNET, "num_channels": (8, 24)})
    with pytest.raises(WeightsError, match="does not fit this network"):
        trained("denoiser", a_protocol, output, iterations=2)


def test_a_preset_is_for_the_head_alone(a_protocol: Path, tmp_path: Path) -> None:
    for wishes in ({"preset": "maisi-ct"}, {"options": {"canonical.spacing_mm": "1"}}):
        with pytest.raises(ConfigError, match="denoiser is always trained as a part of mini") as caught:
            trained("denoiser", a_protocol, tmp_path, **wishes)
        assert "a preset may be named for aova" in caught.value.hint
    with pytest.raises(ConfigError, match="Unknown preset 'maisi-tc'"):
        trained("aova", a_protocol, tmp_path, preset="maisi-tc")


@pytest.mark.parametrize("part", ["thresholds", "residual"])
def test_what_follows_the_head_takes_its_preset_and_its_grid(tmp_path: Path, part: str) -> None:
    data, output = write_msd(tmp_path / "Task03_Liver", 4), tmp_path / "run"
    words = ["canonical.spacing_mm=4.0", "backbone.window_voxels=32", "text.encoder=minilm"]
    head = {"preset": "maisi-ct-ddpm", "config": learned_settings(load_config("maisi-ct-ddpm", overrides=words))}
    (output / "aova").mkdir(parents=True)
    (output / "aova" / "head.json").write_text(json.dumps(head))
    wishes: dict[str, Any] = {"protocol_path": None, "data": data, "output": output, "device": "cpu", "dry_run": True}
    if part == "thresholds":
        wishes["options"] = {"painted": "1", "healthy": "0", "absent": "0", "side": "32"}
    lines: list[str] = []
    train_part(part, report=lines.append, **wishes)
    assert f"{part}: preset maisi-ct-ddpm, {', '.join(words)}" in lines
    wishes["options"] = {**wishes.get("options", {}), "backbone.window_voxels": "48"}
    train_part(part, report=lines.append, **wishes)
    assert f"{part}: preset maisi-ct-ddpm, {', '.join(words).replace('32', '48')}" in lines, "what is asked for holds"
    for other in ("mini", "maisi-ct-ddpm"):
        with pytest.raises(
            ConfigError, match="was trained with --preset maisi-ct-ddpm --set canonical.spacing"
        ) as caught:
            train_part(part, preset=other, **wishes)
        assert "omit --preset" in caught.value.hint


def test_an_unknown_part_is_refused(a_protocol: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Unknown part 'denoser'") as caught:
        trained("denoser", a_protocol, tmp_path)
    assert caught.value.hint == "did you mean 'denoiser'?"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"iterations": 0}, "at least one training iteration, got 0"),
        ({"precision": "float16"}, "expected 'float32' or 'bfloat16'"),
        ({"device": "gpu0"}, "Unknown device 'gpu0'"),
    ],
)
def test_a_wish_that_cannot_be_granted_is_refused_before_data_is_read(
    tmp_path: Path, options: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        trained("autoencoder", tmp_path / "no protocol.json", tmp_path, **options)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
def test_a_graphics_card_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="torch sees no CUDA GPU"):
        trained("autoencoder", tmp_path / "no protocol.json", tmp_path, device="cuda")


@pytest.mark.usefixtures("small_networks")
def test_the_device_may_choose_itself(a_protocol: Path, tmp_path: Path) -> None:
    chosen = "cuda" if torch.cuda.is_available() else "cpu"
    said = trained("autoencoder", a_protocol, tmp_path, dry_run=True, device="auto")
    assert any(line.endswith(f"seed 0, on {chosen}") for line in said)


@pytest.mark.usefixtures("small_networks")
def test_a_protocol_without_validation_is_refused(tmp_path: Path) -> None:
    row = write_case(tmp_path, "ct", ct_phantom(GRID), "train")
    (tmp_path / "p.json").write_text(json.dumps({"cases": [row]}))
    with pytest.raises(InputError, match="no case in split 'validation'"):
        trained("autoencoder", tmp_path / "p.json", tmp_path)


def test_the_bundled_recipe_builds_the_windows_of_its_preset() -> None:
    config = load_config("mini")
    assert config.backbone.window_voxels % 16 == 0 and config.canonical.side_multiple % 16 == 0
    assert [name for name, part in run.PARTS.items() if part.model == "model"][:3] == [
        "autoencoder",
        "denoiser",
        "aova",
    ]
