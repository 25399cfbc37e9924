"""DiffuGTS: zero-shot tumor segmentation by anomaly attention, latent repainting and residuals."""

import getpass
import os

__version__ = "0.1.0"

try:
    getpass.getuser()
except (KeyError, OSError, ImportError):  # no name, as in a container: MONAI, imported, asks for it and would fail
    os.environ["USER"] = str(os.getuid()) if hasattr(os, "getuid") else "unknown"
