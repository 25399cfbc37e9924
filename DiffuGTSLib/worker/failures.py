"""What went wrong, as a code, a message and the next step: for a program to act on and for a person to read."""

from __future__ import annotations

import errno
import shutil
from dataclasses import dataclass
from pathlib import Path

from DiffuGTSLib.errors import DiffuGTSError, StorageError, causes, says_out_of_memory

FULL_BELOW_BYTES = 64 << 20
"""ITK does not say why a file could not be written: with less room than this left on the disk, that was why."""

_NO_KERNELS = ("no kernel image is available", "not compiled with CUDA support for this GPU")
_CUDA = ("CUDA error", "cuDNN error", "CUBLAS_STATUS", "CUDA driver", "NVIDIA driver")
_DISK_FULL = {errno.ENOSPC, errno.EDQUOT}
_DISK_FULL_WINDOWS = {39, 112}

_OOM_HINT = (
    "close other programs that need memory; or cut the scan, or choose smaller windows (backbone.window_voxels), or the "
    "processor instead of the graphics card."
)


@dataclass(frozen=True)
class Failure:
    """What an `error` event carries."""

    code: str
    message: str
    hint: str

    @property
    def is_fatal(self) -> bool:
        """Whether this process is of no more use: half a package loaded, or a graphics card that lost its context."""
        return self.code in ("import_failed", "cuda")


def describe(error: BaseException, folder: Path | None = None) -> Failure:
    """Say what an exception means.

    Args:
        error: Anything that a run raised.
        folder: The job's; a disk that is full is recognized by it where the writer does not say so.
    """
    said = " ".join(str(error).split())[:300].rstrip(".")
    if says_out_of_memory(error):
        return Failure("oom", getattr(error, "message", f"Not enough memory: {said or 'no details given'}."), _OOM_HINT)
    if isinstance(error, OSError) and _is_disk_full(error, folder):
        message = getattr(error, "message", f"The disk is full: {said}.")
        return Failure("disk_full", message, "make room on that disk, or choose another folder for temporary files.")
    if isinstance(error, DiffuGTSError):
        code = "weights_corrupt" if error.code == "weights_hash" else error.code
        return Failure(code, error.message, error.hint)
    if isinstance(error, ImportError):
        return import_failure(error)
    if any(words in str(error) for words in _NO_KERNELS):
        return Failure(
            "cuda_arch",
            f"The installed PyTorch was not built for this graphics card: {said}.",
            "install a PyTorch for this card (in Slicer: the PyTorch module), or choose the processor.",
        )
    if any(words in str(error) for words in _CUDA):
        return Failure(
            "cuda",
            f"The graphics card failed: {said}.",
            "run it again; if it fails again, restart the computer or choose the processor.",
        )
    if isinstance(error, OSError):
        return Failure("storage", f"A file cannot be read or written: {said}.", "check the folder and its disk.")
    return Failure(
        "error",
        f"Unexpected {type(error).__name__}: {said or 'no message'}.",
        "a mistake in DiffuGTS: copy the log and report it.",
    )


def import_failure(error: BaseException) -> Failure:
    """Say which package cannot be loaded; an OSError is a library of the system's that is missing or blocked."""
    name = getattr(error, "name", None)
    missing = isinstance(error, ModuleNotFoundError) and name
    said = " ".join(str(error).split())[:300].rstrip(".")
    return Failure(
        "import_failed",
        f"The package {name} is not installed." if missing else f"A package cannot be loaded: {said}.",
        "install the packages again (in Slicer: Setup, Install), then run it again.",
    )


def _is_disk_full(error: OSError, folder: Path | None) -> bool:
    for each in causes(error):
        if isinstance(each, OSError):
            if each.errno in _DISK_FULL or getattr(each, "winerror", None) in _DISK_FULL_WINDOWS:
                return True
            if "No space left" in str(each):
                return True
    if folder is None or not isinstance(error, StorageError) or not folder.is_dir():
        return False
    return shutil.disk_usage(folder).free < FULL_BELOW_BYTES
