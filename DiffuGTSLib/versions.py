"""What is installed, read from the packages' own notes: nothing is imported for it."""

from __future__ import annotations

import importlib.metadata
import platform

from DiffuGTSLib import __version__

PACKAGES = ("torch", "monai", "diffusers", "transformers", "safetensors", "SimpleITK", "scipy", "numpy")
"""Those that a result depends on."""


def versions() -> dict[str, str]:
    """Return what the result was made with: DiffuGTS, Python, platform, and the packages that matter."""
    found = {"diffugts": __version__, "python": platform.python_version(), "platform": platform.platform()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found
