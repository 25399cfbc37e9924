"""DiffuGTS: zero-shot tumor segmentation by anomaly attention, latent repainting and residuals."""

import getpass
import os

__version__ = "0.1.0"

try:
    getpass.getuser()
except (KeyError, OSError):  # a container's user without a name: MONAI asks for one when it is imported, and would fail
    if hasattr(os, "getuid"):
        os.environ["USER"] = str(os.getuid())
