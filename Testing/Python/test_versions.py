"""What is installed."""

from __future__ import annotations

import importlib.metadata

import pytest

from DiffuGTSLib import __version__
from DiffuGTSLib.versions import versions


def test_versions_name_every_package_that_matters() -> None:
    found = versions()
    assert {"diffugts", "python", "torch", "monai", "diffusers", "transformers", "SimpleITK"} <= set(found)
    assert found["diffugts"] == __version__ and found["torch"][0].isdigit()


def test_a_package_that_is_not_there_is_said_to_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", nothing)
    assert versions()["torch"] == "not installed"
