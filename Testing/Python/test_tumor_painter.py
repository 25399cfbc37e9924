"""`train_part` from a data folder to a painter's folder that paints, with networks of a few channels."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from mini_data import write_case, write_labels, write_protocol
from phantoms import ct_phantom, mr_phantom

from DiffuGTSLib.backbones.weights import load_module, save_module
from DiffuGTSLib.datasets.trained_cases import read_training_cases
from DiffuGTSLib.errors import ConfigError, InputError, WeightsError
from DiffuGTSLib.synthesis.latent_painter import PainterView, load_painter
from DiffuGTSLib.synthesis.organs import organ_spec
from DiffuGTSLib.synthesis.painter import TumorRequest, synthesize
from DiffuGTSLib.synthesis.vqgan import Vqgan3D
from DiffuGTSLib.training import tumor_painter
from DiffuGTSLib.training.run import PARTS, train_part
from DiffuGTSLib.training.tumor_painter import SIZES, TumorPainterOptions, painter_size

TINY = replace(
    SIZES["mini"],
    view=PainterView(spacing_mm=4.0, side=32),
    vqgan={"n_hiddens": 4, "downsample": (4, 4, 4), "embedding_dim": 2, "n_codes": 16, "groups": 4},
    denoiser={"dim": 8, "channels": 5, "out_channels": 2, "dim_mults": (1, 2)},
    critic_channels=4,
    windows=((16, 1),),
    vqgan_iterations=1,
    batch=1,
    iterations=1,
)


@pytest.fixture
def tiny_networks() -> Iterator[None]:
    """Let the parts build networks of a few channels on a coarse grid."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SIZES, "mini", TINY)
        patch.setitem(SIZES, "published", TINY)
        yield


@pytest.fixture(scope="module")
def a_protocol(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CT to train on, one to validate on, and cases that a painter of CT does not look at."""
    data = tmp_path_factory.mktemp("data")
    rows = [
        write_case(data, "ct_1", ct_phantom(noise_hu=10, seed=1), "train"),
        write_case(data, "mr_1", mr_phantom(), "train"),
        write_labels(data, "labels_1", "train"),
        write_case(data, "ct_2", ct_phantom(noise_hu=10, seed=2), "validation"),
    ]
    return write_protocol(data / "protocol.json", rows)


def trained(part: str, protocol: Path, output: Path, **options: object) -> list[str]:
    """Train a part and return what it reported."""
    lines: list[str] = []
    arguments: dict[str, object] = {"device": "cpu", "data": protocol.parent, "report": lines.append, **options}
    train_part(part, protocol_path=protocol, output=output, **arguments)  # type: ignore[arg-type]
    return lines


@pytest.mark.usefixtures("tiny_networks")
def test_both_parts_leave_a_folder_that_paints(a_protocol: Path, tmp_path: Path) -> None:
    said = trained("vqgan", a_protocol, tmp_path)
    assert said[0] == "train: 1 scans of 1 patients", "MR and label maps are not loaded"
    assert any("the perceptual term is off" in line for line in said)
    assert any("the discriminators stay off" in line for line in said)
    said = trained("tumor-painter", a_protocol, tmp_path, options={"handcrafted": "0.25"})
    assert said[-1] == f"the painter is in {tmp_path / 'painter'}"
    assert not (tmp_path / "model").exists(), "it is no part of the model folder that segment reads"

    painter = load_painter(tmp_path / "painter")
    phantom = ct_phantom()
    made = synthesize(
        phantom.scan, phantom.organ, organ_spec("liver"), TumorRequest(size="small", count=1), painter,
        modality="CT", rng=np.random.default_rng(0),
    )  # fmt: skip
    assert len(made.tumors) == 1 and len(painter.weights) == 2

    source = json.loads((tmp_path / "painter" / "painter.json").read_text())["source"]
    assert source["handcrafted tumors"] == 0.25 and source["scans"] == ["ct_1"]
    told = [(case.name, case.use) for case in read_training_cases(tmp_path / "painter") or ()]
    assert told == [("ct_1", "trained"), ("ct_2", "tuned")]


@pytest.mark.usefixtures("tiny_networks")
def test_on_a_retrained_vqgan_the_denoiser_is_begun_anew(a_protocol: Path, tmp_path: Path) -> None:
    trained("vqgan", a_protocol, tmp_path)
    assert any(line.startswith("tumor-painter 1/1") for line in trained("tumor-painter", a_protocol, tmp_path))
    again = trained("tumor-painter", a_protocol, tmp_path)
    assert not any("begun anew" in line or " 1/1" in line for line in again), "nothing is left to do"
    outdated = f"vqgan: the painter in {tmp_path / 'painter'} was made for the one before"
    assert not any(line.startswith(outdated) for line in trained("vqgan", a_protocol, tmp_path)), "it is the same one"
    said = trained("vqgan", a_protocol, tmp_path, iterations=3)
    assert said[-1].startswith(outdated) and said[-1].endswith("train tumor-painter again")
    said = trained("tumor-painter", a_protocol, tmp_path)
    assert "tumor-painter: begun anew, since it had been trained on another vqgan" in said
    assert any(line.startswith("tumor-painter 1/1") for line in said)
    load_painter(tmp_path / "painter")


@pytest.mark.usefixtures("tiny_networks")
def test_the_published_form_holds_weights_and_average(a_protocol: Path, tmp_path: Path) -> None:
    size = {"size": "published"}
    trained("vqgan", a_protocol, tmp_path, options=size)
    wishes = {**size, "published": "yes", "timesteps": "200", "ddim_steps": "50"}
    trained("tumor-painter", a_protocol, tmp_path, options=wishes)
    state = torch.load(tmp_path / "painter.pt", weights_only=True)
    assert state["step"] == 1 and len(state["ema"]["betas"]) == 200
    assert any(name.startswith("vqgan.encoder.") for name in state["model"])
    view = json.loads((tmp_path / "painter" / "painter.json").read_text())
    assert (view["timesteps"], view["ddim_steps"], view["spacing_mm"]) == (200, 50, 4.0)


@pytest.mark.usefixtures("tiny_networks")
def test_a_dry_run_shows_the_options_and_writes_nothing(a_protocol: Path, tmp_path: Path) -> None:
    said = trained("tumor-painter", a_protocol, tmp_path / "run", options={"timesteps": "200"}, dry_run=True)
    assert said[-3:-1] == [
        "tumor-painter: 1 iterations, float32, seed 0, on cpu",
        "tumor-painter: size mini, timesteps 200, ddim_steps 0, stage all, handcrafted 0.5, published False",
    ]
    assert said[-1].startswith("tumor-painter: it needs the vqgan of the run")
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("tiny_networks")
def test_the_denoiser_needs_the_vqgan(a_protocol: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="it needs the vqgan of the run") as caught:
        trained("tumor-painter", a_protocol, tmp_path)
    assert "diffugts train vqgan" in caught.value.hint


@pytest.mark.usefixtures("tiny_networks")
def test_perceptual_weights_that_are_not_there_are_refused(a_protocol: Path, tmp_path: Path) -> None:
    for dry_run in (True, False):
        with pytest.raises(WeightsError, match="none/config.json"):
            trained("vqgan", a_protocol, tmp_path, options={"perceptual": str(tmp_path / "none")}, dry_run=dry_run)


@pytest.mark.usefixtures("tiny_networks")
@pytest.mark.parametrize("part", ["vqgan", "tumor-painter"])
def test_a_dry_run_refuses_another_seed_and_says_what_is_left(a_protocol: Path, tmp_path: Path, part: str) -> None:
    for each in ("vqgan", "tumor-painter"):
        trained(each, a_protocol, tmp_path)
    with pytest.raises(ConfigError, match="was begun with another seed"):
        trained(part, a_protocol, tmp_path, dry_run=True, seed=5)
    assert trained(part, a_protocol, tmp_path, dry_run=True)[-1] == f"{part}: nothing is left to do"
    said = trained(part, a_protocol, tmp_path, dry_run=True, iterations=4)
    assert said[-1] == f"{part}: 3 of 4 iterations are left"


@pytest.mark.usefixtures("tiny_networks")
def test_without_outlined_tumors_only_handcrafted_ones_are_left(tmp_path: Path) -> None:
    rows = [
        write_case(tmp_path, name, ct_phantom(), split, tumor="")
        for name, split in (("a", "train"), ("b", "validation"))
    ]
    protocol = write_protocol(tmp_path / "protocol.json", rows)
    trained("vqgan", protocol, tmp_path / "run")
    with pytest.raises(InputError, match="None of 1 scans has an outlined tumor"):
        trained("tumor-painter", protocol, tmp_path / "run")
    trained("tumor-painter", protocol, tmp_path / "run", options={"handcrafted": "1"})
    load_painter(tmp_path / "run" / "painter")


@pytest.mark.usefixtures("tiny_networks")
def test_a_vqgan_of_another_size_is_refused_by_a_dry_run_too(a_protocol: Path, tmp_path: Path) -> None:
    trained("vqgan", a_protocol, tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SIZES, "published", replace(TINY, vqgan={**TINY.vqgan, "embedding_dim": 4}))
        for dry_run in (True, False):
            with pytest.raises(ConfigError, match="is of size=mini, the painter is to be of size=published") as caught:
                trained("tumor-painter", a_protocol, tmp_path, options={"size": "published"}, dry_run=dry_run)
            assert "give the size of the VQGAN" in caught.value.hint
        patch.setitem(SIZES, "mini", SIZES["published"])
        with pytest.raises(ConfigError, match="is of no size that is known"):
            trained("tumor-painter", a_protocol, tmp_path, dry_run=True)
    trained("tumor-painter", a_protocol, tmp_path, dry_run=True)


@pytest.mark.usefixtures("tiny_networks")
def test_a_dry_run_refuses_a_stage_that_no_outlined_tumor_is_of(a_protocol: Path, tmp_path: Path) -> None:
    """The phantom's tumor has a radius of 11 mm."""
    trained("vqgan", a_protocol, tmp_path)
    with pytest.raises(InputError, match="None of 1 scans has an outlined tumor of the stage 'early'"):
        trained("tumor-painter", a_protocol, tmp_path, options={"stage": "early"}, dry_run=True)
    trained("tumor-painter", a_protocol, tmp_path, options={"stage": "late"})
    assert json.loads((tmp_path / "painter" / "painter.json").read_text())["source"]["stage"] == "late"


def test_a_use_of_codes_beyond_half_precision_is_kept(tmp_path: Path) -> None:
    """The sums of a codebook may exceed 65504, the greatest number of float16, in which a trained VQGAN is written."""
    vqgan = Vqgan3D(**TINY.vqgan)
    vqgan.codebook.N.fill_(70000.5)
    vqgan.codebook.z_avg.fill_(-1e6)
    save_module(vqgan, tmp_path, torch.float16)
    back = load_module(Vqgan3D, tmp_path)
    assert (back.codebook.N == 70000.5).all() and (back.codebook.z_avg == -1e6).all()


def test_an_unknown_size_and_a_share_beyond_one_are_refused() -> None:
    with pytest.raises(ConfigError, match="Unknown size 'publish'") as caught:
        painter_size("publish")
    assert caught.value.hint == "did you mean 'published'?"
    with pytest.raises(ConfigError, match="stage: expected one of all, early, late, got 'earl'"):
        TumorPainterOptions(stage="earl")
    with pytest.raises(ConfigError, match="share of 0 to 1, got 1.5"):
        TumorPainterOptions(handcrafted=1.5)
    with pytest.raises(ConfigError, match="timesteps: expected 1 or more, got 0"):
        TumorPainterOptions(timesteps=0)
    with pytest.raises(ConfigError, match="50 evenly spaced steps do not fit 4 timesteps"):
        TumorPainterOptions(ddim_steps=50)
    with pytest.raises(ConfigError, match="published: the form of the published files is for size=published only"):
        TumorPainterOptions(published=True)


def test_the_published_size_is_difftumor_s() -> None:
    size = SIZES["published"]
    assert (size.view.spacing_mm, size.view.side, size.view.window) == (1.0, 96, (-175.0, 250.0))
    assert (size.iterations, size.average, size.average_after, size.accumulate, size.batch) == (
        60000,
        0.995,
        2000,
        2,
        10,
    )
    assert size.losses.adversarial_from == 10000 and size.losses.gradient == 0
    assert PARTS["vqgan"].iterations_for(replace(tumor_painter.VqganOptions(), size="published")) == 80000


def test_the_mini_painter_stays_small() -> None:
    from DiffuGTSLib.synthesis.latent_unet import LatentUNet3D
    from DiffuGTSLib.synthesis.vqgan import Vqgan3D

    size = SIZES["mini"]
    networks = (Vqgan3D(**size.vqgan), LatentUNet3D(**size.denoiser))
    numbers = sum(value.numel() for network in networks for value in network.state_dict().values())
    assert 2 * numbers < 4e6, "bytes in half precision"
