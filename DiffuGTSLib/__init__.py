"""DiffuGTS: zero-shot tumor segmentation by anomaly attention, latent repainting and residuals."""

import getpass
import os

__version__ = "0.1.0"

try:
    getpass.getuser()
except (KeyError, OSError, ImportError):  # a container's user without a name: MONAI asks for it on import, and would fail
    os.environ["USER"] = str(os.getuid()) if hasattr(os, "getuid") else "unknown"
