"""The head's training from a data folder to a model folder: resumed, stopped early, started, on any preset's networks."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from layouts import write_msd
from mini_data import GRID, mini_config, shared_run, tiny_autoencoder, tiny_networks, write_case, write_protocol
from model_store_parts import tiny_networks as published_networks
from phantoms import ct_phantom

from DiffuGTSLib.aova import AovaHead
from DiffuGTSLib.backbones import DDPM_SCHEDULER
from DiffuGTSLib.backbones.weights import load_module, save_module
from DiffuGTSLib.components import load_components
from DiffuGTSLib.config import load_config
from DiffuGTSLib.datasets.protocol import Case
from DiffuGTSLib.datasets.trained_cases import check_unseen
from DiffuGTSLib.errors import Cancelled, ConfigError, InputError, WeightsError
from DiffuGTSLib.training.head_run import PART, phases
from DiffuGTSLib.training.model_folder import write_index
from DiffuGTSLib.training.run import train_part
from DiffuGTSLib.training.trainer import TrainingPlan

ROOT = Path(__file__).parents[2]
WIDTHS = {"context_widths": "8,8,8,8,8"}
COARSE = {
    "canonical.spacing_mm": "4.0", "canonical.fit_multiple": "0", "canonical.minimum_side": "32",
    "canonical.side_multiple": "16", "backbone.window_voxels": "32", "text.encoder": "minilm",
}  # fmt: skip
"""A published preset's grid as coarse as the phantoms, with the text model that is here."""


@pytest.fixture
def a_run(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Path:
    """A run folder with a trained autoencoder, and no head yet."""
    shutil.copytree(shared_run(tmp_path_factory) / "model", tmp_path / "run" / "model")
    shutil.rmtree(tmp_path / "run" / "model" / "aova")
    return tmp_path / "run"


@pytest.fixture
def a_protocol(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shared_run(tmp_path_factory) / "data" / "protocol.json"


@pytest.fixture(autouse=True)
def small_networks(request: pytest.FixtureRequest) -> Iterator[None]:
    """Networks of a few channels on a coarse grid, but where a test names a preset."""
    if "a_published_model" in request.fixturenames:
        yield
        return
    with tiny_networks():
        yield


def train_aova(
    protocol: Path | None,
    output: Path,
    options: dict[str, object],
    report: Callable[[str], None] | None = None,
    **more: object,
) -> list[str]:
    """Train a head and return what was reported."""
    lines: list[str] = []

    def keep(line: str) -> None:
        lines.append(line)
        if report is not None:
            report(line)

    data = protocol.parent if protocol is not None else Path(str(more.pop("data")))
    arguments = {"iterations": 2, "device": "cpu", **more}
    words = {name: str(value) for name, value in options.items()}
    train_part("aova", protocol_path=protocol, data=data, output=output, options=words, report=keep, **arguments)  # type: ignore[arg-type]
    return lines


def weights(run: Path) -> dict[str, torch.Tensor]:
    return dict(load_module(AovaHead, run / "model" / "aova").state_dict())


def test_most_iterations_are_on_smaller_windows_at_twice_the_rate() -> None:
    first, second = phases(PART.options, TrainingPlan(20000, seed=3), 64)
    assert (first.name, first.side, first.plan.iterations, first.plan.learning_rate) == ("phase_1", 48, 15000, 1e-3)
    assert (second.name, second.side, second.plan.iterations, second.plan.learning_rate) == ("phase_2", 64, 5000, 5e-4)
    assert first.plan.average == second.plan.average == 0.999 and (first.plan.seed, second.plan.seed) == (3, 4)
    chosen = replace(PART.options, window_voxels=80, average=0.0, validate_every=30, patience=2)
    first, second = phases(chosen, TrainingPlan(1), 64)
    assert (first.side, second.side) == (56, 80) and first.plan.iterations == second.plan.iterations == 1
    assert first.plan.every == first.plan.checkpoint_every == 30 and first.plan.watch == "dice"


def test_windows_fit_what_the_networks_halve() -> None:
    first, second = phases(PART.options, TrainingPlan(20000), 128, 32)
    assert (first.side, second.side) == (96, 128)
    first, _ = phases(PART.options, TrainingPlan(20000), 64, 32)
    assert first.side == 64, "three quarters would be 48, and 32 one cell"
    with pytest.raises(ConfigError, match="multiples of 32 voxels, 64 or more, got 80") as caught:
        phases(replace(PART.options, window_voxels=80), TrainingPlan(20000), 64, 32)
    assert "window_voxels=64" in caught.value.hint


def test_a_stopped_run_goes_on_to_the_same_weights_whoever_draws_its_windows(
    a_protocol: Path, a_run: Path, tmp_path: Path
) -> None:
    """With an average, with patience, and with a process that draws ahead after the stop: bit for bit."""
    other = tmp_path / "other"
    shutil.copytree(a_run, other)
    options = {"average": 0.9, "patience": 9, "validate_every": 1, "learning_rate": 0.01}
    train_aova(a_protocol, a_run, options, iterations=4)

    def stop(line: str) -> None:
        if line.startswith("phase_1 2/3"):
            raise Cancelled("enough")

    with pytest.raises(Cancelled):
        train_aova(a_protocol, other, options, stop, iterations=4)
    train_aova(a_protocol, other, {**options, "workers": 1}, iterations=4)
    first, second = weights(a_run), weights(other)
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    for phase in ("phase_1", "phase_2"):
        states = [torch.load(run / "aova" / phase / "state.pt", weights_only=True) for run in (a_run, other)]
        assert states[0]["best"]["iteration"] == states[1]["best"]["iteration"]
        assert all(torch.equal(value, states[1]["model"][name]) for name, value in states[0]["model"].items())


def test_training_stops_when_the_figure_stands_still_and_says_so(a_protocol: Path, a_run: Path) -> None:
    options = {"patience": 1, "validate_every": 1, "learning_rate": 1e-9}
    lines = train_aova(a_protocol, a_run, options, iterations=12)
    ends = [line for line in lines if "kept are the weights after" in line]
    assert len(ends) == 2 and ends[0].startswith(
        "aova: phase_1: stopped after 2 of 9; kept are the weights after 1, dice"
    )
    with (a_run / "aova" / "phase_2" / "log.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 2
    lines = train_aova(a_protocol, a_run, {**options, "patience": 3}, iterations=12)
    assert "stopped after 4 of 9" in next(line for line in lines if "phase_1: stopped" in line), "with more it goes on"
    assert not any("begun anew" in line for line in lines), "from the same weights of phase 1"
    lines = train_aova(a_protocol, a_run, {**options, "patience": 0}, iterations=12)
    assert "phase_2: begun anew, since it had grown from the weights after 1 iterations of phase_1" in lines


def test_fewer_iterations_do_not_throw_away_what_is_done_and_a_dry_run_says_what_is_left(
    a_protocol: Path, a_run: Path
) -> None:
    train_aova(a_protocol, a_run, {}, iterations=8)
    before = {path: path.read_bytes() for path in a_run.glob("aova/*/state.pt")}
    for dry_run in (False, True):
        with pytest.raises(ConfigError, match="phase_1 has had 6 iterations already; it would now have 3"):
            train_aova(a_protocol, a_run, {}, iterations=4, dry_run=dry_run)
        with pytest.raises(ConfigError, match="was begun with mode=mixture, not mode=seen"):
            train_aova(a_protocol, a_run, {"mode": "seen"}, iterations=8, dry_run=dry_run)
    assert {path: path.read_bytes() for path in a_run.glob("aova/*/state.pt")} == before
    lines = train_aova(a_protocol, a_run, {}, iterations=8, dry_run=True)
    assert lines[-1] == "aova: nothing is left to do"
    said = "\n".join(train_aova(a_protocol, a_run, {}, iterations=12, dry_run=True))
    assert "phase_1: 9 iterations on windows of 24³, 6 of them done, " in said
    assert re.search(r"phase_2: 3 iterations on windows of 32³, [\d.]+ s each", said), (
        "it will grow from another phase 1"
    )


def test_a_mode_leaves_out_what_it_may_not_see_and_says_so(a_protocol: Path, a_run: Path) -> None:
    lines = train_aova(a_protocol, a_run, {"mode": "seen", "similarity_form": "label"})
    said = "\n".join(lines)
    assert "mode seen: real outlined tumors and healthy windows" in said
    assert "losses: anomaly 0.2, similarity 0.05, dice 1, voxel 1, organ 0.5; similarity label" in said
    assert "% with painted tumors" not in said


def test_other_choices_do_not_go_on_with_a_run(a_protocol: Path, a_run: Path) -> None:
    train_aova(a_protocol, a_run, {})
    record = json.loads((a_run / "aova" / "head.json").read_text())
    assert record["options"]["mode"] == "mixture" and record["cases"] == ["ct_1", "mr_1", "labels_1"]
    assert record["feature_scale"] == load_module(AovaHead, a_run / "model" / "aova").config["feature_scale"] > 0
    train_aova(a_protocol, a_run, {"workers": 0, "patience": 2, "cache_gb": 0})
    with pytest.raises(ConfigError, match="was begun with mode=mixture, not mode=seen") as caught:
        train_aova(a_protocol, a_run, {"mode": "seen"})
    assert "another --output" in caught.value.hint
    fewer = json.loads(a_protocol.read_text())
    fewer["cases"] = [case for case in fewer["cases"] if case["name"] != "labels_1"]
    protocol = a_protocol.parent / "fewer.json"
    protocol.write_text(json.dumps(fewer))
    with pytest.raises(ConfigError, match="was begun with another set of training scans"):
        train_aova(protocol, a_run, {})


def test_training_goes_on_from_a_trained_head(a_protocol: Path, a_run: Path, tmp_path: Path) -> None:
    train_aova(a_protocol, a_run, {})
    second = tmp_path / "second"
    shutil.copytree(a_run / "model", second / "model")
    lines = train_aova(a_protocol, second, {"start": a_run / "model", "learning_rate": 1e-9, "average": 0})
    assert any(line.endswith(f"from {a_run / 'model'}") for line in lines)
    begun, ended = weights(a_run), weights(second)
    assert all(torch.allclose(value, ended[name], atol=2e-3) for name, value in begun.items()), "it was at its end"


def test_a_head_of_two_answers_goes_on_as_one_of_three_and_never_back(
    a_protocol: Path, a_run: Path, tmp_path: Path
) -> None:
    train_aova(a_protocol, a_run, {"elsewhere": False})
    three = tmp_path / "three"
    shutil.copytree(a_run / "model", three / "model")
    train_aova(a_protocol, three, {"start": a_run / "model", "learning_rate": 1e-9, "average": 0})
    begun, ended = weights(a_run), weights(three)
    assert set(ended) > set(begun) and "presence_bias" in ended
    assert all(torch.allclose(value, ended[name], atol=2e-3) for name, value in begun.items())
    shutil.copytree(a_run / "model" / "autoencoder", tmp_path / "back" / "model" / "autoencoder")
    with pytest.raises(ConfigError, match="has elsewhere True, not False") as caught:
        train_aova(a_protocol, tmp_path / "back", {"start": three / "model", "elsewhere": False})
    assert "--set elsewhere=" in caught.value.hint


def test_a_narrower_head_is_widened_and_goes_on(a_protocol: Path, a_run: Path, tmp_path: Path) -> None:
    train_aova(a_protocol, a_run, {})
    wide = tmp_path / "wide"
    shutil.copytree(a_run / "model", wide / "model")
    options = {"start": a_run / "model", "context_widths": "8,16,16,8,8", "learning_rate": 1e-9, "average": 0}
    train_aova(a_protocol, wide, options)
    narrow, wider = (load_module(AovaHead, run / "model" / "aova") for run in (a_run, wide))
    assert list(wider.config["context_widths"]) == [8, 16, 16, 8, 8]
    features = [
        torch.rand(1, channels, 32 // 2**level, 32 // 2**level, 32 // 2**level)
        for level, channels in enumerate((8, 8, 8))
    ]
    prompts = torch.randn(1, 2, 384)
    torch.testing.assert_close(wider(features, prompts).maps, narrow(features, prompts).maps, atol=5e-3, rtol=0)


@pytest.mark.parametrize(
    ("options", "message", "hint"),
    [
        ({"adapter": "mlp"}, "has adapter context, not mlp", "--set adapter=context"),
        ({"alpha": 0.1}, "has alpha 0.5, not 0.1", "--set alpha=0.5"),
        ({"fuse": "probability"}, "has fuse logit, not probability", "--set fuse=logit"),
        ({"feature_scale": 123}, "has feature_scale", "--set feature_scale="),
        ({"context_widths": "8,8,8,8"}, "has context_widths", "--set context_widths=8,8,8,8,8, or whole multiples"),
    ],
)
def test_a_start_of_another_kind_is_refused(
    a_protocol: Path,
    a_run: Path,
    tmp_path_factory: pytest.TempPathFactory,
    options: dict[str, object],
    message: str,
    hint: str,
) -> None:
    start = shared_run(tmp_path_factory) / "model" / "aova"
    with pytest.raises(ConfigError, match=message) as caught:
        train_aova(a_protocol, a_run, {"start": start, **options})
    assert hint in caught.value.hint


def test_a_start_on_other_features_is_refused_and_one_on_other_weights_is_told(
    a_protocol: Path, a_run: Path, tmp_path: Path
) -> None:
    save_module(AovaHead((8, 8), 384), tmp_path / "narrow")
    with pytest.raises(WeightsError, match=r"has feature_channels \[8, 8\]; these networks give \[8, 8, 8\]"):
        train_aova(a_protocol, a_run, {"start": tmp_path / "narrow"})
    with pytest.raises(WeightsError, match="nothing/config.json does not exist") as caught:
        train_aova(a_protocol, a_run, {"start": tmp_path / "nothing"})
    assert "train the part that is missing" in caught.value.hint
    train_aova(a_protocol, a_run, {})
    other = tmp_path / "other"
    shutil.copytree(a_run / "model", other / "model")
    save_module(tiny_autoencoder(seed=9), other / "model" / "autoencoder")
    write_index(other / "model")
    lines = train_aova(a_protocol, other, {"start": a_run / "model"})
    assert f"aova: the head in {a_run / 'model'} was trained on another autoencoder's features" in lines


def test_an_autoencoder_that_answers_nothing_is_refused(a_protocol: Path, a_run: Path) -> None:
    silent = tiny_autoencoder()
    for parameter in silent.parameters():
        torch.nn.init.zeros_(parameter)
    save_module(silent, a_run / "model" / "autoencoder")
    with pytest.raises(WeightsError, match="have a spread of 0: there is nothing to learn from"):
        train_aova(a_protocol, a_run, {})


def test_a_head_looks_through_the_denoiser_and_goes_on_only_with_it(
    a_protocol: Path, a_run: Path, tmp_path: Path
) -> None:
    tap = {"denoiser_timestep": 50}
    shutil.rmtree(a_run / "model" / "denoiser")
    with pytest.raises(WeightsError, match="holds no denoiser") as caught:
        train_aova(a_protocol, a_run, tap)
    assert "diffugts train denoiser" in caught.value.hint
    train_part("denoiser", protocol_path=a_protocol, data=a_protocol.parent, output=a_run, iterations=1, device="cpu")
    said = "\n".join(train_aova(a_protocol, a_run, tap))
    assert "; the denoiser's at timestep 50, times " in said
    head = load_module(AovaHead, a_run / "model" / "aova")
    assert head.tap is not None and head.tap.timestep == 50
    config = mini_config()
    components = load_components(replace(config, backbone=replace(config.backbone, folder=str(a_run / "model"))))
    assert components.feature_encoder((4.0, 4.0, 4.0), "CT").feature_channels == tuple(head.config["feature_channels"])
    second = tmp_path / "second"
    shutil.copytree(a_run / "model", second / "model")
    with pytest.raises(WeightsError, match="has feature_channels"):
        train_aova(a_protocol, second, {"start": a_run / "model"})
    train_aova(a_protocol, second, {"start": a_run / "model", **tap})
    with pytest.raises(WeightsError, match="looks through the denoiser there"):
        train_part(
            "denoiser", protocol_path=a_protocol, data=a_protocol.parent, output=second, iterations=1, device="cpu"
        )


def test_a_dry_run_tells_windows_losses_time_and_memory_and_writes_nothing(a_protocol: Path, a_run: Path) -> None:
    rows = json.loads(a_protocol.read_text())
    healthy = [{**case, "tumor": ""} if case["name"] == "ct_2" else case for case in rows["cases"]]
    protocol = write_protocol(a_protocol.parent / "healthy.json", healthy)
    before = sorted(a_run.rglob("*"))
    said = "\n".join(train_aova(protocol, a_run, {"mode": "label-free"}, iterations=4000, dry_run=True))
    assert "mode label-free" in said and "; 3 scans with an outlined tumor are left out" in said
    assert "aova: phase_1: 3000 iterations on windows of 24³" in said and "aova: phase_2: 1000 iterations" in said
    assert "in all, validations not counted" in said and "GB of main memory for the validation's features" in said
    assert sorted(a_run.rglob("*")) == before


@pytest.mark.parametrize(
    ("name", "labels"),
    [("Spleen", {"0": "background", "1": "spleen"}), ("BTCV", {"1": "spleen", "2": "left kidney", "3": "liver"})],
)
def test_a_data_set_without_tumors_trains_a_head_label_free(
    a_run: Path, tmp_path: Path, name: str, labels: dict[str, str]
) -> None:
    data = write_msd(tmp_path / name, 3, name=name, labels=labels)
    said = "\n".join(train_aova(None, a_run, {"mode": "label-free"}, data=data, dry_run=True))
    assert "train: 2 scans of 2 patients" in said and "validation: 1 scans of 1 patients" in said
    assert "aova: phase_1: " in said and "held out" not in said


def test_label_free_training_holds_patients_out_where_the_validation_has_none_without_a_tumor(
    a_run: Path, tmp_path: Path
) -> None:
    rows = [write_case(tmp_path, "sick", ct_phantom(GRID, noise_hu=10), "validation")]
    for number in range(2):
        phantom = ct_phantom(GRID, noise_hu=10, seed=number + 1)
        rows.append(write_case(tmp_path, f"healthy_{number}", phantom, "train", tumor=""))
    protocol = write_protocol(tmp_path / "p.json", rows)
    said = train_aova(protocol, a_run, {"mode": "label-free"}, dry_run=True)
    (line,) = [line for line in said if "held out of training for it: patient of healthy_" in line]
    assert line.count("patient of") == 1


@pytest.fixture
def a_published_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store that holds the DDPM model with a few channels."""
    monkeypatch.setenv("DIFFUGTS_MODELS", str(tmp_path / "store"))
    folder = tmp_path / "store" / "maisi-ct-ddpm"
    autoencoder, unet = published_networks("maisi-ct-ddpm")
    save_module(autoencoder, folder / "autoencoder")
    save_module(unet, folder / "denoiser")
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(DDPM_SCHEDULER))
    for name in ("README.md", "source.json"):
        (folder / name).write_text("{}")
    write_index(folder)
    return folder


def test_a_head_for_published_networks_is_trained_from_a_task_of_the_decathlon(
    a_published_model: Path, tmp_path: Path
) -> None:
    data, run = write_msd(tmp_path / "Task03_Liver", 6), tmp_path / "run"
    lines = train_aova(None, run, {**WIDTHS, **COARSE}, preset="maisi-ct-ddpm", data=data)
    assert any("in the layout msd, split 70/10/20 by patient" in line for line in lines)
    assert any(line == f"aova: on the networks in {a_published_model}" for line in lines)
    assert "--preset maisi-ct-ddpm" in lines[-1] and f"--set backbone.folder={run / 'model'}" in lines[-1]
    assert all(f"--set {key}={value}" in lines[-1] for key, value in COARSE.items()), "segment needs the grid, too"
    assert json.loads((run / "model" / "model_index.json").read_text())["prediction"] == "epsilon"
    overrides = [f"{key}={value}" for key, value in {**COARSE, "backbone.folder": run / "model"}.items()]
    components = load_components(load_config("maisi-ct-ddpm", overrides=[*overrides, "runtime.device=cpu"]))
    assert components.trained and tuple(components.head.config["feature_channels"]) == (8, 8, 16)
    again = train_aova(None, run, {**WIDTHS, **COARSE}, preset="maisi-ct-ddpm", data=data, iterations=4)
    assert any(line == f"protocol: {run / 'protocol.json'}" for line in again), "it goes on with its own"
    coarser = {**COARSE, "canonical.spacing_mm": "5.0"}
    with pytest.raises(ConfigError, match=r"begun with canonical.spacing_mm=4.0, not canonical.spacing_mm=5.0"):
        train_aova(None, run, {**WIDTHS, **coarser}, preset="maisi-ct-ddpm", data=data, iterations=4)
    told = check_unseen(
        [Case("new", "new", "test", "CT", "imagesTr/liver_0.nii.gz")], data, run / "model", allow_seen=True
    )
    assert told.note.startswith("SEEN IN TRAINING")
    new = [Case("new", "new", "test", "CT", "dataset.json")]
    assert "weights that do not tell" in check_unseen(new, data, run / "model", allow_seen=False).note


def test_scans_that_the_denoiser_does_not_know_are_refused_where_it_is_looked_through(
    a_published_model: Path, a_protocol: Path, tmp_path: Path
) -> None:
    tap = {**WIDTHS, **COARSE, "denoiser_timestep": 50}
    with pytest.raises(InputError, match="The denoiser of 'maisi-ct-ddpm' knows CT, not MR") as caught:
        train_aova(a_protocol, tmp_path / "run", tap, preset="maisi-ct-ddpm")
    assert "denoiser_timestep=0" in caught.value.hint


def test_a_preset_whose_weights_are_not_here_says_how_to_get_them(tmp_path: Path, a_published_model: Path) -> None:
    shutil.rmtree(a_published_model)
    with pytest.raises(WeightsError) as caught:
        train_aova(None, tmp_path / "run", {}, preset="maisi-ct-ddpm", data=tmp_path)
    assert "diffugts weights fetch maisi-ct-ddpm" in caught.value.hint


TOGETHER = """
import sys
sys.path.insert(0, "Testing")
from pathlib import Path
from mini_data import tiny_networks
from DiffuGTSLib.training.run import train_part
if __name__ == "__main__":
    options = {"patience": "9", "validate_every": "1", "average": "0.9", "workers": "1"}
    with tiny_networks():
        train_part("aova", protocol_path=Path(sys.argv[1]), data=Path(sys.argv[1]).parent, output=Path(sys.argv[2]),
                   iterations=3, device="cpu", options=options)
"""


@pytest.mark.slow
def test_two_processes_train_one_head(a_protocol: Path, a_run: Path, tmp_path: Path) -> None:
    script = tmp_path / "together.py"
    script.write_text(TOGETHER)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    paths = f"{ROOT}{os.pathsep}{ROOT / 'Testing'}"
    done = subprocess.run(
        [*launcher, script, a_protocol, a_run], cwd=ROOT, capture_output=True, text=True, check=False, timeout=600,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("on cpu, 2 processes") == 1, "the first one speaks"
    config = mini_config()
    components = load_components(replace(config, backbone=replace(config.backbone, folder=str(a_run / "model"))))
    assert components.trained
