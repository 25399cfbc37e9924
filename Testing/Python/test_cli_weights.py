"""`diffugts weights`: list, fetch, import, verify and remove as a person meets them."""

import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import mini_data
import pytest
import typer
from hub_server import Hub, hub_of, serving
from huggingface_hub import close_session, constants
from model_store_parts import AUTOENCODER, DENOISER, tiny_networks, write_catalog, write_published
from phantoms import Phantom
from terminal import plain, refused, run, start, write_case
from typer.testing import Result

from DiffuGTSLib.backbones import maisi
from DiffuGTSLib.backbones.weights import WEIGHTS_FILE, write_checksums
from DiffuGTSLib.cli import weights as commands
from DiffuGTSLib.components import load_components
from DiffuGTSLib.config import load_config
from DiffuGTSLib.errors import WeightsError
from DiffuGTSLib.model_store import manifest
from DiffuGTSLib.model_store.store import find_stored
from DiffuGTSLib.training.run import train_part

OPEN = ("--accept-license", "nvidia-open-model")


@pytest.fixture(autouse=True)
def a_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty store, the networks of tiny width, and a catalog without the real autoencoder's checksum."""
    monkeypatch.setenv("DIFFUGTS_MODELS", str(tmp_path / "store"))
    monkeypatch.setattr(maisi, "published_networks", tiny_networks)
    path = write_catalog(tmp_path / "catalog.json")
    monkeypatch.setattr(manifest, "resource_path", lambda *_: path)
    return tmp_path / "store"


@pytest.fixture(scope="module")
def some_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The published CT files at tiny width."""
    return write_published(tmp_path_factory.mktemp("files"))


@pytest.fixture
def a_hub(some_files: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub that has them."""
    repository = "nvidia/NV-Generate-CT"
    with serving(hub_of(some_files, (repository, AUTOENCODER), (repository, DENOISER))) as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield hub
        close_session()


def said(done: Result) -> str:
    assert done.exit_code == 0, done.output
    return plain(done.output)


def test_list_says_what_there_is_and_what_is_here(some_files: Path) -> None:
    before = said(run("weights", "list"))
    for words in ("maisi-ct-ddpm", "maisi-mr-brain", "about 2.18 GB", "NVIDIA Non-Commercial License"):
        assert words in before
    said(run("weights", "import", some_files, *OPEN))
    assert "no head" in said(run("weights", "list"))
    facts = json.loads(run("weights", "list", "--json").output)
    assert facts["maisi-ct"]["folder"] == str(find_stored("maisi-ct").folder)  # type: ignore[union-attr]
    assert facts["maisi-mr"]["folder"] is None and facts["maisi-mr"]["licenses"] == ["nvidia-non-commercial"]


def test_list_of_one_tells_everything_that_is_known(some_files: Path) -> None:
    said(run("weights", "import", some_files, *OPEN))
    words = said(run("weights", "list", "maisi-ct"))
    for part in ("diff_unet_3d_rflow-ct.pt", "not pinned", "not known to us", "arXiv:2508.05772", "SHA-256"):
        assert part in words
    refused(run("weights", "list", "maisi-tc"), 2, "Unknown published model", "did you mean 'maisi-ct'")


def test_fetch_leaves_a_model_that_a_preset_finds_and_no_download(a_hub: Hub, a_store: Path) -> None:
    words = said(run("weights", "fetch", "maisi-ct", *OPEN))
    assert "Licensed by NVIDIA Corporation" in words and "a head that was trained on its features" in words
    assert not list((a_store / ".downloads").rglob("*.pt*"))
    assert "is here already" in said(run("weights", "fetch", "maisi-ct"))
    found = said(run("doctor", "--preset", "mini"))
    assert "fetched models" in found and "the published networks only, no head" in found


def test_downloads_can_be_kept_and_are_removed_with_the_model(a_hub: Hub, a_store: Path) -> None:
    said(run("weights", "fetch", "maisi-ct", *OPEN, "--keep-downloads", "--quiet"))
    assert len(list((a_store / ".downloads").rglob("*.pt"))) == 2
    assert "are free again" in said(run("weights", "remove", "maisi-ct"))
    assert not list((a_store / ".downloads").rglob("*.pt"))


def test_what_was_fetched_in_part_can_be_removed(a_store: Path) -> None:
    part = a_store / ".downloads" / "nvidia" / "NV-Generate-CT" / "version" / f"{DENOISER}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"half")
    assert "that a fetch or an import of maisi-ct had left" in said(run("weights", "remove", "maisi-ct"))
    assert not part.exists()


def half_a_model(store: Path) -> Path:
    """What a killed import or fetch leaves."""
    left = store / f".maisi-ct-{'0' * 32}" / "group.safetensors"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"x" * 3_000_000)
    return left.parent


def test_what_a_killed_import_left_can_be_removed_and_goes_with_the_next_one(
    some_files: Path, a_store: Path, a_hub: Hub, tmp_path: Path
) -> None:
    left = half_a_model(a_store)
    assert "Removed 3.0 MB that a fetch or an import of maisi-ct had left." in said(
        run("weights", "remove", "maisi-ct")
    )
    assert not left.exists()
    refused(run("weights", "remove", "maisi-ct"), 3, "are not here", "diffugts weights fetch maisi-ct")
    stick = tmp_path / "stick"
    for how in (("fetch", "maisi-ct"), ("import", some_files), ("import", stick)):
        left = half_a_model(a_store)
        part = a_store / ".downloads" / "nvidia" / "NV-Generate-CT" / "older-version" / f"{DENOISER}.part"
        part.parent.mkdir(parents=True)
        part.write_bytes(b"half")
        said(run("weights", *how, *OPEN))
        assert not part.exists(), "nor what was cut off of another version"
        assert not left.exists() and find_stored("maisi-ct") is not None, how
        shutil.copytree(a_store / "maisi-ct", stick, dirs_exist_ok=True)
        said(run("weights", "remove", "maisi-ct"))


def test_a_wrong_checksum_leaves_no_model(a_hub: Hub) -> None:
    a_hub.announced = "0" * 64
    refused(run("weights", "fetch", "maisi-ct", *OPEN, "-q"), 3, "is not the published file", "fetch it again")
    assert find_stored("maisi-ct") is None


def test_a_license_is_accepted_first_and_nothing_is_fetched_before(a_hub: Hub) -> None:
    refused(run("weights", "fetch", "maisi-ct"), 3, "NVIDIA Open Model License", "--accept-license nvidia-open-model")
    done = run("weights", "fetch", "maisi-mr", *OPEN)
    refused(done, 3, "It allows no commercial use", "--accept-license nvidia-non-commercial")
    refused(run("weights", "fetch", "maisi-ct", "--accept-license", "mit"), 2, "Unknown license 'mit'", "nvidia")
    assert a_hub.requests == []


def test_where_standard_input_is_closed_nobody_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)  # what Python makes of <&-
    with pytest.raises(WeightsError, match="was not accepted"):
        commands.accept_licenses(manifest.catalog()["maisi-mr"], [])


@pytest.mark.parametrize(("answer", "accepted"), [("nvidia-non-commercial", True), ("yes", False), ("", False)])
def test_a_person_accepts_a_license_by_typing_its_name(
    answer: str, accepted: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr(typer, "prompt", lambda *_, **__: answer)
    model = manifest.catalog()["maisi-mr"]
    if accepted:
        commands.accept_licenses(model, [])
    else:
        with pytest.raises(WeightsError, match="was not accepted") as caught:
            commands.accept_licenses(model, [])
        assert caught.value.code == "license"
    shown = capsys.readouterr().err
    assert "research or evaluation purposes only" in plain(shown) and "arXiv:2508.05772" in plain(shown)


def test_import_takes_every_model_whose_files_are_there(some_files: Path, tmp_path: Path) -> None:
    assert "maisi-ct is in" in said(run("weights", "import", some_files, *OPEN))
    done = run("weights", "import", some_files, "--model", "maisi-ct", *OPEN)
    refused(done, 2, "is there already", "diffugts weights remove maisi-ct")
    refused(run("weights", "import", tmp_path / "none"), 2, "There is no folder", "check the spelling")
    done = run("weights", "import", some_files, "--model", "maisi-mr", *OPEN)
    refused(done, 2, "holds all files of no model", "autoencoder_v2.pt")


def test_a_folder_of_several_models_gives_those_that_are_not_here_yet(tmp_path: Path) -> None:
    both = write_published(tmp_path / "both", "maisi-ct-ddpm")
    said(run("weights", "import", write_published(both), "--model", "maisi-ct", *OPEN))
    words = said(run("weights", "import", both, *OPEN))
    assert "maisi-ct is here already" in words and "maisi-ct-ddpm is in" in words


def test_import_takes_a_model_that_was_converted_elsewhere(some_files: Path, tmp_path: Path, a_store: Path) -> None:
    said(run("weights", "import", some_files, *OPEN, "--precision", "bfloat16"))
    stick = (a_store / "maisi-ct").rename(tmp_path / "stick")
    refused(run("weights", "import", stick), 3, "was not accepted", "--accept-license")
    for wish in (("--model", "maisi-mr"), ("--sha256", f"{DENOISER}={'a' * 64}"), ("--precision", "bfloat16")):
        refused(run("weights", "import", stick, *OPEN, *wish), 2, "is the converted model maisi-ct", "omit them")
    assert "maisi-ct is in" in said(run("weights", "import", stick, *OPEN))
    said(run("weights", "verify", "maisi-ct"))
    said(run("weights", "remove", "maisi-ct"))
    (stick / "denoiser" / WEIGHTS_FILE).write_bytes(b"altered")
    refused(run("weights", "import", stick, *OPEN), 3, "is not the file that checksums.json names", "copy it again")
    assert find_stored("maisi-ct") is None


def test_import_says_which_file_is_missing_or_which_folder_is_the_converted_model(
    some_files: Path, tmp_path: Path, a_store: Path
) -> None:
    stick = tmp_path / "stick"
    stick.mkdir()
    shutil.copy(some_files / AUTOENCODER, stick)
    done = run("weights", "import", stick, "--model", "maisi-ct", *OPEN)
    refused(done, 2, "holds all files of no model", f"maisi-ct lacks {DENOISER}.")
    said(run("weights", "import", some_files, *OPEN))
    (a_store / "maisi-ct").rename(stick / "maisi-ct")
    done = run("weights", "import", stick, *OPEN)
    refused(done, 2, "holds all files of no model", f"diffugts weights import {stick / 'maisi-ct'}.")
    done = run("weights", "import", stick, "--model", "maisi-mr", *OPEN)
    refused(done, 2, "holds all files of no model", "maisi-mr lacks autoencoder_v2.pt")


@pytest.mark.parametrize("files", [[], {"autoencoder": 1}, {"autoencoder": {"revision": "abc"}}])
def test_a_source_of_another_form_is_shown_as_far_as_it_goes(some_files: Path, a_store: Path, files: object) -> None:
    said(run("weights", "import", some_files, *OPEN))
    source = a_store / "maisi-ct" / "source.json"
    source.write_text(json.dumps({"model": "maisi-ct", "files": files}))
    words = said(run("weights", "list", "maisi-ct"))
    assert ("revision abc, SHA-256 not said" in words) == (isinstance(files, dict) and files["autoencoder"] != 1)


def test_a_checksum_of_the_user_s_is_held_against_an_imported_file(some_files: Path) -> None:
    done = run("weights", "import", some_files, "--model", "maisi-ct", *OPEN, "--sha256", f"{DENOISER}={'a' * 64}")
    refused(done, 3, "is not the published file", f"--sha256 {DENOISER}=")
    done = run("weights", "import", some_files, "--sha256", f"{DENOISER}={'a' * 64}")
    refused(done, 2, "--sha256 is for one model", "--model")


def test_verify_finds_the_altered_file_and_remove_makes_room(some_files: Path, a_store: Path) -> None:
    assert "holds no model" in said(run("weights", "verify"))
    said(run("weights", "import", some_files, *OPEN))
    assert "2 weight files and what describes them, as they were written" in said(run("weights", "verify"))
    path = a_store / "maisi-ct" / "denoiser" / WEIGHTS_FILE
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    done = run("weights", "verify")
    assert done.exit_code == 3 and "diffugts weights remove maisi-ct" in plain(done.stderr)
    assert "Removed maisi-ct" in said(run("weights", "remove", "maisi-ct"))
    refused(run("weights", "verify", "maisi-ct"), 3, "are not here", "diffugts weights fetch maisi-ct")
    refused(run("weights", "remove", "maisi-ct"), 3, "are not here", "diffugts weights fetch maisi-ct")


def test_what_is_no_whole_model_is_not_taken_and_can_be_removed(
    some_files: Path, a_store: Path, a_hub: Hub, tmp_path: Path
) -> None:
    said(run("weights", "import", some_files, "--model", "maisi-ct", *OPEN))
    stick = Path(shutil.copytree(a_store / "maisi-ct", tmp_path / "stick"))
    said(run("weights", "remove", "maisi-ct"))
    shutil.rmtree(stick / "scheduler")
    write_checksums(stick)
    done = run("weights", "import", stick, *OPEN)
    refused(done, 3, "is no whole model: it lacks scheduler/scheduler_config.json", "whole model folder")
    assert not (a_store / "maisi-ct").exists()
    (stick / "model_index.json").unlink()
    stick.rename(a_store / "maisi-ct")  # as an earlier version took it
    refused(run("weights", "fetch", "maisi-ct", *OPEN), 2, "is there already", "diffugts weights remove maisi-ct")
    assert a_hub.requests == [], "nothing is fetched for it"
    assert "Removed maisi-ct" in said(run("weights", "remove", "maisi-ct"))
    assert not (a_store / "maisi-ct").exists()


def test_an_unknown_precision_is_refused(some_files: Path) -> None:
    done = run("weights", "import", some_files, *OPEN, "--precision", "float8")
    assert done.exit_code == 2 and "Invalid value for '--precision'" in plain(done.stderr)


def test_a_preset_whose_weights_are_missing_names_the_command(tmp_path: Path, a_ct_phantom: object) -> None:
    done = run("doctor", "--preset", "maisi-ct")
    assert done.exit_code == 1 and "diffugts weights fetch maisi-ct" in plain(done.output)


def test_a_fetched_model_without_a_head_says_what_is_missing(
    some_files: Path, a_ct_phantom: Phantom, tmp_path: Path
) -> None:
    said(run("weights", "import", some_files, *OPEN))
    scan = write_case(tmp_path, a_ct_phantom) / "scan.nii.gz"
    done = run("segment", scan, "-o", tmp_path / "result", "--organ", "lung", "--preset", "maisi-ct")
    refused(done, 3, "holds no anomaly head", "docs/weights.md")  # before a text encoder is asked for


@pytest.mark.slow
def test_a_head_is_trained_on_the_published_features_as_the_document_says(
    tmp_path_factory: pytest.TempPathFactory, some_files: Path, a_store: Path, tmp_path: Path
) -> None:
    said(run("weights", "import", some_files, *OPEN))
    shutil.copytree(a_store / "maisi-ct", tmp_path / "run" / "model")
    protocol = mini_data.shared_run(tmp_path_factory) / "data" / "protocol.json"
    with mini_data.tiny_networks():
        train_part(
            "aova", protocol_path=protocol, data=protocol.parent, output=tmp_path / "run", iterations=1, device="cpu"
        )
    own = {"folder": str(tmp_path / "run" / "model")}
    config = mini_data.mini_config()
    components = load_components(replace(config, backbone=replace(config.backbone, **own)))
    assert components.trained and len(components.weights) == 4
    with pytest.raises(WeightsError, match=r"was trained with canonical.spacing_mm=4.0, not with 2.0"):
        load_components(load_config("mini", overrides=[f"backbone.folder={own['folder']}"]))


@pytest.mark.slow
def test_a_process_that_was_killed_goes_on_where_it_stopped(a_store: Path, some_files: Path) -> None:
    """Two processes of their own, spoken to by the variables that huggingface_hub knows."""
    repository = "nvidia/NV-Generate-CT"
    with serving(hub_of(some_files, (repository, AUTOENCODER), (repository, DENOISER))) as hub:
        size = len(hub.files[f"{repository}/models/{DENOISER}"])
        hub.cuts, hub.dead_after_cut = [10**9, size // 2], True
        before = (
            f"import os, sys\nos.environ.update(HF_ENDPOINT={hub.url!r}, DIFFUGTS_MODELS={str(a_store)!r})\n"
            "sys.path.insert(0, 'Testing')\n"
            "from huggingface_hub import constants\nconstants.DOWNLOAD_CHUNK_SIZE = 1024\n"
            "from pathlib import Path\nfrom model_store_parts import tiny_networks\n"
            "from DiffuGTSLib.backbones import maisi\nmaisi.published_networks = tiny_networks\n"
            "from DiffuGTSLib.model_store import manifest\n"
            f"manifest.resource_path = lambda *_: Path({str(a_store.parent / 'catalog.json')!r})"
        )
        first = start(before, "weights", "fetch", "maisi-ct", *OPEN)
        _, words = first.communicate(timeout=120)
        assert first.returncode == 3 and "the hub answered 503" in plain(words)
        hub.dead_after_cut, hub.requests = False, []
        second = start(before, "weights", "fetch", "maisi-ct", *OPEN)
        _, words = second.communicate(timeout=120)
        assert second.returncode == 0, words
        assert [text for text in hub.gets() if text] == [f"bytes={size // 2 // 1024 * 1024}-"]
    assert find_stored("maisi-ct") is not None
