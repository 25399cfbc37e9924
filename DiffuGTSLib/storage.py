"""Files and folders that are written whole or not at all, and values as JSON has them."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shutil
import sys
import tempfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeGuard

from DiffuGTSLib.errors import DiffuGTSError, InputError, StorageError

_STAGING_PREFIX = ".diffugts-"
_ASIDE, _MOVING_IN = "earlier", "moving-in"
"""Within a staging folder: the earlier result's files, and a mark that the new one's are on their way."""
_DEAD_AFTER_S = 60.0
"""Moving in takes milliseconds: a staging folder that stood so long in the middle of it belongs to a run that was killed."""
_STALE_AFTER_S = 24 * 3600.0
"""Writing takes minutes at the most: a staging folder that nobody wrote to for so long is no run's any more."""


@contextmanager
def whole_file(path: Path | str) -> Iterator[Path]:
    """Lend a temporary name in the same folder and move it to `path` at the end; on any failure nothing is left.

    The temporary name ends in the suffixes of `path`, in lower case, since writers choose the format by them. The
    file gets the permissions of any new file there; some writers (safetensors) would keep it to its owner.

    Raises:
        StorageError: If the folder is missing or not writable, the disk is full, or `path` is a folder: for any
            OSError from the lent name or the move, also where torch or safetensors, who write there, tell it in an
            error of their own. What was at `path` before is then untouched.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise StorageError(f"Cannot write {path}: there is no folder {path.parent}.", hint="create the folder first.")
    temporary = path.with_name(f".{uuid.uuid4().hex}{''.join(path.suffixes).lower()}")
    try:
        try:
            mode = _mode_of_new(temporary)
            yield temporary
            temporary.chmod(mode)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except StorageError:
        raise
    except Exception as error:
        cause = _os_error_of(error)
        if cause is None:
            raise
        reason = cause.strerror or str(cause) or type(cause).__name__
        raise StorageError(f"Cannot write {path}: {reason.rstrip('.')}.", hint=_state_of(path.parent)) from error


def _os_error_of(error: Exception) -> OSError | None:
    """Return the OSError that an error of writing is or tells of; None where it is something else.

    torch's file ends in a RuntimeError of its own when a write failed; safetensors, which imports nothing of Python's,
    says Rust's words: "... I/O error: No space left on device (os error 28)".
    """
    if isinstance(error, OSError):
        return error
    if type(error) is RuntimeError and isinstance(error.__context__, OSError):
        return error.__context__
    return OSError(str(error)) if re.search(r"\(os error \d+\)$", str(error)) else None


def require_name(path: Path) -> None:
    """Refuse a path that is no text: SimpleITK would end the whole process, and a record could not hold it.

    Raises:
        InputError: If it, or a folder above it, has bytes in its name that are not UTF-8 (code "name").
    """
    try:
        str(path.absolute()).encode("utf-8")
    except UnicodeEncodeError:
        raise InputError(
            f"{shown(path)}: its name, or that of a folder above it, is not UTF-8.",
            hint="rename it, with plain letters.",
            code="name",
        ) from None


def shown(text: Path | str) -> str:
    """Return a path, or words about one, as they can be printed and written, whatever bytes the name is of."""
    return str(text).encode("utf-8", "backslashreplace").decode("utf-8")


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def json_sha256(value: Any) -> str:
    """Return the SHA-256 of a value as JSON has it, in hexadecimal; the order of its keys does not matter."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def read_json(
    path: Path, error: type[DiffuGTSError] = InputError, *, hint: str = "", code: str | None = None
) -> dict[str, Any]:
    """Return the object that a JSON file in UTF-8 holds.

    Args:
        path: Of the file.
        error: What is raised.
        hint: What to do about it.
        code: Of the error; "missing" where none is given and the file is not there.

    Raises:
        error: If it is missing or cannot be read, or as `parse_json`.
    """
    try:
        text = path.read_bytes()
    except FileNotFoundError as cause:
        raise error(f"{path} does not exist.", hint=hint, code=code or "missing") from cause
    except OSError as cause:
        raise error(f"{path} cannot be read: {cause.strerror or cause}.", hint=hint, code=code) from cause
    return parse_json(text, str(path), error, hint=hint, code=code)


def parse_json(
    text: str | bytes, name: str, error: type[DiffuGTSError] = InputError, *, hint: str = "", code: str | None = None
) -> dict[str, Any]:
    """Return the object that a text is in JSON; `name` is what the text is called, the others as of `read_json`.

    Raises:
        error: If it is not UTF-8 or not JSON, is nested too deep, has a number of too many digits, says a key twice, or is no
            object.
    """
    try:
        decoded = text if isinstance(text, str) else text.decode("utf-8-sig")
        values = json.loads(decoded, object_pairs_hook=_each_key_once)
    except (ValueError, RecursionError) as cause:
        raise error(f"{name} is not valid JSON: {cause}.", hint=hint, code=code) from cause
    if not isinstance(values, dict):
        raise error(f"{name}: expected an object, got {type(values).__name__}.", hint=hint, code=code)
    return values


def _each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object of JSON; Python's own reader would keep the last of two values of a key, and say nothing."""
    values = dict(pairs)
    if len(values) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key '{next(key for key in keys if keys.count(key) > 1)}' stands in one object twice")
    return values


def is_finite(value: object) -> TypeGuard[float]:
    """Tell whether a value from JSON is a number that a float can hold: not true or false, infinite, NaN or too long."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) <= sys.float_info.max


def write_json(path: Path | str, value: Any, *, indent: int = 1, ensure_ascii: bool = True) -> None:
    """Write a value as a JSON file, whole or not at all.

    Args:
        path: In a folder that is there.
        value: As JSON has it, see `for_json`.
        indent: Blanks a level.
        ensure_ascii: Off: letters beyond ASCII stand as they are, as people read them.

    Raises:
        StorageError: As `whole_file`.
    """
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(value, indent=indent, ensure_ascii=ensure_ascii) + "\n", encoding="utf-8")


def for_json(value: Any) -> Any:
    """Return a value in JSON's words, at any depth: numpy's scalars as Python's, NaN and infinity as null."""
    if isinstance(value, Mapping):
        return {str(key): for_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [for_json(item) for item in value]
    if hasattr(value, "item"):  # numpy's, which is not imported on this floor
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def make_folder(folder: Path) -> None:
    """Make a folder and those above it; one that is there stays as it is.

    Raises:
        StorageError: If it cannot be made, or is a file.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(
            f"Cannot make the folder {folder}: {error.strerror}.", hint="choose another --output."
        ) from error


def copy_contents(source: Path, target: Path) -> None:
    """Copy every file below a folder into another one, with the rights of new files and folders there.

    Not those of the source: what was read from a read-only disk could never be removed. Links to files become files, links
    to folders are not followed.

    Raises:
        OSError: If something cannot be read or written.
    """
    for path in source.rglob("*"):
        place = target / path.relative_to(source)
        (place if path.is_dir() else place.parent).mkdir(parents=True, exist_ok=True)
        if not path.is_dir():
            shutil.copyfile(path, place)


def require_folder_for(folder: Path | str, mark: str, force: bool, hint: str, names: Sequence[str] = ()) -> None:
    """Refuse, before anything is computed, a folder that results could not or should not be written to.

    Args:
        folder: Need not exist.
        mark: The file by which an earlier result of ours is known.
        force: Whether files that are there already may be replaced.
        hint: What to do about an earlier result.
        names: Files that the result will bring. Where no earlier result is, one of these names is somebody's own, and is not replaced
            even with `force`.

    Raises:
        InputError: If it holds files already, and `force` is off; or one of `names` that is not ours (code "exists"); or
            as `require_name`.
        StorageError: If it is a file, nothing can be created there, or another run is just moving its result in.
    """
    folder = Path(folder)
    require_name(folder)
    try:
        if names:
            mend_folder(folder, mark, names)
        if folder.exists() and not folder.is_dir():
            raise StorageError(f"Cannot write to {folder}: it is a file.", hint="name a folder.")
        present = sorted(p.name for p in folder.iterdir() if not p.name.startswith(".")) if folder.exists() else []
    except StorageError:
        raise
    except OSError as error:
        raise _not_writable(folder, error) from error
    if present and not force:
        earlier = mark in present
        what = "an earlier result" if earlier else f"files that are not ours ({', '.join(present[:3])}…)"
        raise InputError(
            f"{folder} already holds {what}.",
            hint=hint if earlier else "choose an empty or new folder.",
            code="exists",
        )
    foreign = [] if mark in present else sorted(set(present) & set(names))
    if foreign:
        raise InputError(
            f"{folder} holds {', '.join(foreign)} and no earlier result: they are not ours, and would be replaced.",
            hint="choose another folder, or move these files.",
            code="exists",
        )
    existing = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    try:
        Path(tempfile.mkdtemp(prefix=_STAGING_PREFIX, dir=existing)).rmdir()
    except OSError as error:
        raise _not_writable(folder, error) from error


def mend_folder(folder: Path, mark: str, names: Sequence[str]) -> None:
    """Put back what a run that was killed while it moved its result in had put aside, and remove what killed runs left.

    A run that is writing is left alone: it is known by how lately its staging folder has changed.

    Args:
        folder: Need not exist.
        mark: The file by which a whole result is known.
        names: Every file of one.

    Raises:
        StorageError: If a run is just moving its result in, or was killed in it less than a minute ago.
        OSError: If the folder cannot be read or written.
    """
    found = [path for path in sorted(folder.glob(f"{_STAGING_PREFIX}*")) if path.is_dir()] if folder.is_dir() else []
    if not found:
        return
    probe = Path(tempfile.mkdtemp(prefix=_STAGING_PREFIX, dir=folder))
    now = probe.stat().st_mtime  # by the clock of that disk, which may be another computer's
    probe.rmdir()
    for staging in found:
        try:
            quiet_s = now - max(path.stat().st_mtime for path in (staging, *staging.iterdir()))
        except FileNotFoundError:  # its run is done
            continue
        moving = (staging / _ASIDE).is_dir()
        if moving and not (folder / mark).exists():
            if quiet_s < _DEAD_AFTER_S:
                raise StorageError(
                    f"Cannot write to {folder}: another run is moving its result in, or was killed in it.",
                    hint="wait a minute and try again.",
                )
            _put_back(staging, folder, names)
        if quiet_s > (_DEAD_AFTER_S if moving else _STALE_AFTER_S):
            shutil.rmtree(staging, ignore_errors=True)


def _put_back(staging: Path, folder: Path, names: Sequence[str]) -> None:
    """Undo `_move_in` where it was cut off, and, should this be cut off too, leave it so that it can be done again."""
    aside = staging / _ASIDE
    if (staging / _MOVING_IN).exists():  # whatever is in place and not aside is of the result that never came whole
        for name in names:
            if not (aside / name).exists():
                (folder / name).unlink(missing_ok=True)
        (staging / _MOVING_IN).unlink()
    for name in names:
        if (aside / name).exists():
            os.replace(aside / name, folder / name)


@contextmanager
def whole_folder(folder: Path, names: Sequence[str]) -> Iterator[Path]:
    """Lend an empty folder inside `folder` and move what it holds up at the end.

    Inside, since beside it may be another disk, as where `folder` is a mount.

    Args:
        folder: Made if absent. Files of other names in it are left alone.
        names: Every file that may be lent, the one that marks a whole result last.

    Raises:
        StorageError: For any OSError; named after the final place, and with everything as it was before. Where even putting
            back failed, or was stopped, the staging folder stays: `mend_folder` does the rest from it.
    """
    made: list[Path] = []
    try:
        for missing in reversed([p for p in (folder, *folder.parents) if not p.exists()]):
            missing.mkdir(exist_ok=True)
            made.append(missing)
        staging = Path(tempfile.mkdtemp(prefix=_STAGING_PREFIX, dir=folder))
        arrived = False
        try:
            yield staging
            _move_in(staging, folder, names)
            made.clear()
            arrived = True
        except StorageError as error:
            message = error.message.replace(f"{staging}{os.sep}", f"{folder}{os.sep}").replace(
                str(staging), str(folder)
            )
            raise StorageError(message, hint=error.hint, code=error.code) from error
        finally:
            if arrived or not _is_cut_off(staging):
                shutil.rmtree(staging, ignore_errors=True)
    except StorageError:
        raise
    except OSError as error:
        raise _not_writable(folder, error) from error
    finally:
        for path in reversed(made):
            with suppress(OSError):  # another run has begun to write there
                path.rmdir()


@contextmanager
def new_folder(folder: Path, hint: str = "choose another folder") -> Iterator[Path]:
    """Lend an empty folder beside `folder` and give it that name at the end; on any failure nothing of it is left.

    Args:
        folder: Absent, or empty; those above it are made.
        hint: What to do where it cannot be written.

    Raises:
        StorageError: For any OSError, and if there is something in `folder` by then.
    """
    staging = folder.absolute().with_name(f".{folder.name}-{uuid.uuid4().hex}")
    try:
        try:
            staging.mkdir(parents=True)
            yield staging
            if folder.exists():
                folder.rmdir()
            staging.rename(folder)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    except StorageError:
        raise
    except OSError as error:
        raise _not_writable(folder, error, hint) from error


def _move_in(staging: Path, folder: Path, names: Sequence[str]) -> None:
    """Put an earlier result aside, the new one in its place; on any failure put everything back."""
    aside, on_its_way = staging / _ASIDE, staging / f"{_MOVING_IN}.later"
    on_its_way.touch()  # before anything is moved: a full disk must not matter then
    aside.mkdir()
    moves = [(folder / name, aside / name) for name in reversed(names) if (folder / name).exists()]
    moves += [(on_its_way, staging / _MOVING_IN)]
    moves += [(staging / name, folder / name) for name in names if (staging / name).exists()]
    done: list[tuple[Path, Path]] = []
    try:
        for source, target in moves:
            if source.is_dir():
                raise StorageError(f"Cannot replace {source}: it is a folder.", hint="move or rename that folder.")
            done.append((source, target))  # first: a signal may come as soon as it is moved
            os.replace(source, target)
    except BaseException:
        for source, target in reversed(done):
            if target.exists() and not source.exists():
                os.replace(target, source)
        raise


def _is_cut_off(staging: Path) -> bool:
    """Tell whether files of an earlier result are still aside, or files of the new one in their place."""
    return (staging / _MOVING_IN).exists() or any((staging / _ASIDE).glob("*"))


def _not_writable(folder: Path, error: OSError, hint: str = "choose another folder") -> StorageError:
    existing = next(p for p in (folder, *folder.absolute().parents) if p.is_dir())
    free_mb = shutil.disk_usage(existing).free / 2**20
    return StorageError(
        f"Cannot write to {folder}: {(error.strerror or str(error)).rstrip('.')}.",
        hint=f"{hint}; the disk of {existing} has {free_mb:.0f} MB free.",
    )


def _mode_of_new(path: Path) -> int:
    """Make and remove a file, and return the permissions it had: by the umask, or by the folder's default access list."""
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    try:
        return os.fstat(descriptor).st_mode & 0o777
    finally:
        os.close(descriptor)
        path.unlink()


def _state_of(folder: Path) -> str:
    writable = "writable" if os.access(folder, os.W_OK) else "not writable for you"
    return f"the folder is {writable}, its disk has {shutil.disk_usage(folder).free / 2**20:.0f} MB free."
