"""Files that are written whole or not at all."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from DiffuGTSLib.errors import StorageError


@contextmanager
def whole_file(path: Path | str) -> Iterator[Path]:
    """Lend a temporary name in the same folder and move it to `path` at the end; on any failure nothing is left.

    The temporary name ends in the suffixes of `path`, in lower case, since writers choose the format by them. The
    file gets the permissions of any new file; some writers (safetensors) would keep it to its owner.

    Raises:
        StorageError: If the folder is missing or not writable, the disk is full, or `path` is a folder: for any
            OSError from the lent name or the move. What was at `path` before is then untouched.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise StorageError(f"Cannot write {path}: there is no folder {path.parent}.", hint="create the folder first.")
    temporary = path.with_name(f".{uuid.uuid4().hex}{''.join(path.suffixes).lower()}")
    try:
        try:
            yield temporary
            temporary.chmod(_new_file_mode())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except StorageError:
        raise
    except OSError as error:
        reason = error.strerror or str(error) or type(error).__name__
        raise StorageError(f"Cannot write {path}: {reason.rstrip('.')}.", hint=_state_of(path.parent)) from error


def _new_file_mode() -> int:
    umask = os.umask(0o077)  # it can only be read by setting it: to the careful one for that moment
    os.umask(umask)
    return 0o666 & ~umask


def _state_of(folder: Path) -> str:
    writable = "writable" if os.access(folder, os.W_OK) else "not writable for you"
    return f"the folder is {writable}, its disk has {shutil.disk_usage(folder).free / 2**20:.0f} MB free."
