"""The catalog of published models: complete, honest about what is not known, and in step with presets and networks."""

import hashlib
import json
from pathlib import Path

import pytest
from model_store_parts import AUTOENCODER, DENOISER, published, write_catalog

from DiffuGTSLib.backbones import BACKBONES, PUBLISHED
from DiffuGTSLib.backbones.maisi import PUBLISHED_UNETS
from DiffuGTSLib.errors import ConfigError, InputError
from DiffuGTSLib.model_store.manifest import catalog, find_model, with_checksums


def test_it_fills_every_published_backbone() -> None:
    assert set(catalog()) == set(PUBLISHED) == set(PUBLISHED_UNETS) <= set(BACKBONES)


def test_every_model_names_files_license_and_citation() -> None:
    for model in catalog().values():
        assert model.title and "arXiv:" in model.citation and model.prediction in ("flow", "epsilon")
        for file in model.files:
            assert file.path.startswith("models/") and file.repository.startswith("nvidia/NV-Generate-")
            assert 50e6 < file.about_bytes < 3e9
            assert file.license.url.startswith("https://") and file.license.terms and file.license.notice


def test_only_the_general_mr_model_is_non_commercial() -> None:
    terms = {name: all(license_.commercial for license_ in model.licenses) for name, model in catalog().items()}
    assert terms == {"maisi-ct": True, "maisi-ct-ddpm": True, "maisi-mr-brain": True, "maisi-mr": False}


def test_what_is_not_known_is_null_and_said() -> None:
    files = [file for model in catalog().values() for file in model.files]
    assert all(file.revision is None and file.sha256 is None for file in files)
    assert {file.name for file in files if file.md5} == {AUTOENCODER}
    assert published().denoiser.checksum == "not known to us"
    assert "third party" in published().autoencoder.checksum


def test_a_license_is_named_once_for_both_files() -> None:
    assert [license_.name for license_ in published("maisi-ct").licenses] == ["nvidia-open-model"]


def test_an_unknown_model_is_answered_with_the_closest() -> None:
    with pytest.raises(InputError, match="Unknown published model 'maisi-tc'") as caught:
        find_model("maisi-tc", catalog())
    assert "did you mean 'maisi-ct'" in caught.value.hint


def test_a_checksum_of_the_user_s_replaces_what_is_known() -> None:
    digest = hashlib.sha256(b"x").hexdigest()
    model = with_checksums(published(), [f"models/{AUTOENCODER}={digest.upper()}"])
    assert (model.autoencoder.sha256, model.autoencoder.md5) == (digest, None)
    assert model.denoiser == published().denoiser
    assert model.autoencoder.checksum == f"SHA-256 {digest[:12]}…"


@pytest.mark.parametrize("text", [DENOISER, f"{DENOISER}=12", f"{DENOISER}={'g' * 64}", "=" + "a" * 63])
def test_a_checksum_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="Cannot read the checksum"):
        with_checksums(published(), [text])


def test_a_checksum_of_another_file_is_refused() -> None:
    with pytest.raises(InputError, match="maisi-ct has no file other.pt") as caught:
        with_checksums(published(), [f"other.pt={'a' * 64}"])
    assert DENOISER in caught.value.hint


def test_a_pinned_catalog_is_read(tmp_path: Path) -> None:
    path = write_catalog(tmp_path / "catalog.json", autoencoder_v1={"sha256": "ab" * 32, "revision": "c" * 40})
    assert catalog(path)["maisi-ct"].autoencoder.revision == "c" * 40
    assert catalog(path)["maisi-ct"].autoencoder.checksum.startswith("SHA-256 abab")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", r"^[^ ]*catalog.json is not valid JSON"),
        ("[]", r"^[^ ]*catalog.json: expected an object"),
        ("{}", "is no catalog of models"),
        ('{"licenses": {"a": {}}}', "is no catalog of models"),
    ],
)
def test_a_catalog_that_is_none_is_refused(tmp_path: Path, text: str, why: str) -> None:
    (tmp_path / "catalog.json").write_text(text)
    with pytest.raises(ConfigError, match=why) as caught:
        catalog(tmp_path / "catalog.json")
    assert caught.value.hint == "install DiffuGTS again."


def test_a_catalog_that_names_what_it_does_not_hold_is_refused(tmp_path: Path) -> None:
    values = json.loads(write_catalog(tmp_path / "catalog.json").read_text())
    values["models"]["maisi-ct"]["denoiser"] = "other"
    (tmp_path / "catalog.json").write_text(json.dumps(values))
    with pytest.raises(ConfigError, match="KeyError: 'other'"):
        catalog(tmp_path / "catalog.json")
