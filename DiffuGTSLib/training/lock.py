"""One training at a time in a part's folder of a run: a second one would mix their logs and checkpoints."""

from __future__ import annotations

import errno
import os
import platform
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

from DiffuGTSLib.errors import InputError, StorageError
from DiffuGTSLib.storage import make_folder, read_json, write_json
from DiffuGTSLib.training.distributed import rank

_LOCK, _HOLDER = ".lock", ".training.json"
"""What is locked, and who holds it; both files may stay, the lock does not."""
_NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOLCK)
"""What a disk says that knows no locks."""


@contextmanager
def alone_in(folder: Path, report: Callable[[str], None]) -> Iterator[None]:
    """Keep other trainings out of a folder until the end; of several processes the first one does.

    The lock is the system's, and ends with the process, however that ends. Other computers heed it where their disk
    shares its locks, as NFS does; a disk that knows none is used without, which is said.

    Args:
        folder: Of a part within a run; made if absent.
        report: Is told one line.

    Raises:
        StorageError: If another training holds it, or the folder cannot be made or written to.
    """
    if rank() > 0:
        yield
        return
    make_folder(folder)
    lock = _acquired(folder)
    if lock is None:
        report(f"{folder}: its disk knows no locks; see to it that no other training writes there")
        yield
        return
    try:
        now = datetime.now().astimezone().isoformat(" ", timespec="seconds")
        write_json(folder / _HOLDER, {"process": os.getpid(), "host": platform.node(), "since": now})
        yield
    finally:
        with suppress(OSError):
            (folder / _HOLDER).unlink(missing_ok=True)
        lock.release()


def _acquired(folder: Path) -> BaseFileLock | None:
    """Return the folder's lock, held; None on a disk without locks.

    There, filelock makes do with a file, which a killed process leaves behind and a copied run brings along: it says nothing.
    """
    lock: BaseFileLock = FileLock(folder / _LOCK)
    try:
        with warnings.catch_warnings(action="ignore"):
            lock.acquire(timeout=0)
    except Timeout:
        if isinstance(lock, SoftFileLock):
            return None
        raise StorageError(
            f"Another training writes into {folder}: {_holder(folder)}.",
            hint="wait for its end, or end it, and start again to go on from its checkpoint; or choose another folder.",
        ) from None
    except NotImplementedError:
        return None
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return None
        raise StorageError(
            f"Cannot write to {folder}: {error.strerror or error}.", hint="choose another --output."
        ) from error
    if isinstance(lock, SoftFileLock):
        lock.release()
        return None
    return lock


def _holder(folder: Path) -> str:
    try:
        known = read_json(folder / _HOLDER)
        return f"process {known['process']} on {known['host']}, since {known['since']}"
    except (InputError, KeyError):  # it has only just begun
        return "one that has only just begun"
