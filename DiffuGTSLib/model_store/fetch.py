"""Published files come here: from the hub, cut downloads going on where they stopped, or from a folder; then checked.

huggingface_hub 2 throws a download away when its process ends before the file does. Our part file stays, in a folder named
by the version that it belongs to, so that 2 GB over a bad line are fetched once.

Two models share an autoencoder, and two terminals may ask for one model: `alone` lets one process at a time fetch, use and
forget downloads, and import and remove models; the system releases the lock of a process that dies.
"""

import hashlib
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout
from httpx2 import HTTPError, InvalidURL, ReadError
from huggingface_hub import constants, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError
from huggingface_hub.file_download import HfFileMetadata, get_hf_file_metadata, http_get
from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

from DiffuGTSLib.errors import InputError, StorageError, WeightsError
from DiffuGTSLib.model_store.manifest import PublishedFile, PublishedModel
from DiffuGTSLib.model_store.store import MODELS_VARIABLE, all_downloads_folder, downloads_folder, require_room
from DiffuGTSLib.storage import sha256

Report = Callable[[str, float], None]
"""Is told (file name, fraction 0 to 1 of it)."""

_SHA256 = re.compile(r"[0-9a-f]{64}")
_LOCK_FILE = ".lock"
_ATTEMPTS, _PAUSE_S = 5, 5.0
"""How often a download is tried whose line breaks or whose hub is busy, and the pause before the next attempt."""
_BUSY = (502, 503, 504)
_SEARCHED_DEPTH = 6
"""Folders below the one to import from; a copied cache of the hub needs five."""


@dataclass(frozen=True)
class LocalFile:
    """A published file on this computer, checked.

    Attributes:
        path: Where it lies.
        origin: "hub", "cache" (of huggingface_hub) or "folder".
        revision: The commit it came from; "" where nobody said.
        size_bytes: Its size.
        sha256: Of the file.
        checked_by: What its checksum was compared with, in words.
    """

    path: Path
    origin: str
    revision: str
    size_bytes: int
    sha256: str
    checked_by: str


@contextmanager
def alone(waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Keep other processes from changing the store until the end; may be nested.

    `fetch_model` does so by itself. Whoever reads or forgets what it returned does both within one `alone`, since another
    process forgets its downloads when it is done, and may share them.

    Args:
        waiting: Called once where another process is there first.

    Raises:
        StorageError: If the store cannot be written.
    """
    path = all_downloads_folder() / _LOCK_FILE
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = _acquired(path, waiting)
    except OSError as error:
        raise _not_writable(path, error) from error
    try:
        yield
    finally:
        lock.release()


def _acquired(path: Path, waiting: Callable[[], None]) -> BaseFileLock:
    """Return the lock of the downloads, held; on file systems without locks a file stands in, as in huggingface_hub."""
    lock: BaseFileLock = FileLock(path, is_singleton=True)  # one a process, so that it may be nested
    try:
        lock.acquire(timeout=0.5)
    except Timeout:
        waiting()
        lock.acquire()
    except NotImplementedError:
        lock = SoftFileLock(path, is_singleton=True)
        lock.acquire()
    return lock


def fetch_model(model: PublishedModel, report: Report, extra_bytes: int = 0) -> dict[str, LocalFile]:
    """Fetch the files of a model from the hub into the store's downloads; "autoencoder" and "denoiser" → file.

    What is there already is not fetched again. With HF_HUB_OFFLINE only the hub's own cache is looked at.

    Args:
        model: Which.
        report: Is told how far each file is.
        extra_bytes: What is to be written afterwards; counted before anything is fetched.

    Raises:
        WeightsError: No network, a file that the hub does not give, or another checksum than the known one.
        StorageError: No room, or the downloads cannot be written.
    """
    if constants.is_offline_mode():
        require_room(extra_bytes)
        return {role: _from_cache(model, file) for role, file in _by_role(model)}
    announced = {role: _ask_hub(model, file) for role, file in _by_role(model)}
    places = {role: _Place.of(file, announced[role]) for role, file in _by_role(model)}
    missing = sum(place.missing_bytes for place in {place.path: place for place in places.values()}.values())
    require_room(missing + extra_bytes)
    with alone():
        return {role: _fetch(model, file, places[role], report) for role, file in _by_role(model)}


def find_files(model: PublishedModel, folder: Path) -> dict[str, LocalFile] | None:
    """Return a model's files from a folder, at whatever depth, checked; None where one is not there.

    Raises:
        InputError: If there is no such folder (code "missing"), or a name is there twice with different content.
        WeightsError: Another checksum than the known one.
    """
    if not folder.is_dir():
        raise InputError(f"There is no folder {folder}.", hint="check the spelling.", code="missing")
    found = {role: _candidates(folder, file) for role, file in _by_role(model)}
    if not all(found.values()):
        return None
    return {role: _checked(file, _only(found[role]), "folder", "", None) for role, file in _by_role(model)}


def missing_files(model: PublishedModel, folder: Path) -> list[str]:
    """Return the names of a model's files that `find_files` does not find in a folder."""
    return [file.name for file in model.files if not _candidates(folder, file)]


def forget_downloads(model: PublishedModel, *, keep_whole: bool = False) -> int:
    """Remove what was fetched of a model, of any version; files of the hub's cache or of a folder stay.

    Args:
        model: Which.
        keep_whole: Only what was cut off is removed.

    Returns:
        How many bytes that was.
    """
    freed = 0
    for file in model.files:
        for path in downloads_folder(file.repository).glob(f"*/{file.name}{'.part' if keep_whole else '*'}"):
            freed += path.stat().st_size
            shutil.rmtree(path.parent, ignore_errors=True)
    return freed


def _by_role(model: PublishedModel) -> list[tuple[str, PublishedFile]]:
    return [("autoencoder", model.autoencoder), ("denoiser", model.denoiser)]


@dataclass(frozen=True)
class _Place:
    """Where a download goes, and from where.

    Attributes:
        path: Of the whole file; the part lies beside it.
        url: Of exactly this version.
        commit: The version.
        size_bytes: As the hub says; 0 where it does not.
        sha256: As the hub says; None for files that are kept outside its large file storage.
    """

    path: Path
    url: str
    commit: str
    size_bytes: int
    sha256: str | None

    @classmethod
    def of(cls, file: PublishedFile, metadata: HfFileMetadata) -> "_Place":
        """Return the place of a file of which the hub said this."""
        etag, commit = metadata.etag or "", metadata.commit_hash or ""
        version = (
            etag if re.fullmatch(r"[\w.-]{8,128}", etag) else hashlib.sha256((etag or commit).encode()).hexdigest()
        )
        url = hf_hub_url(file.repository, file.path, revision=commit)
        path = downloads_folder(file.repository) / version / file.name
        return cls(path, url, commit, metadata.size or 0, etag if _SHA256.fullmatch(etag) else None)

    @property
    def part(self) -> Path:
        """The download as far as it is."""
        return self.path.with_name(f"{self.path.name}.part")

    @property
    def missing_bytes(self) -> int:
        """What is still to be fetched."""
        present = next((path.stat().st_size for path in (self.path, self.part) if path.is_file()), 0)
        return max(0, self.size_bytes - present)


def _ask_hub(model: PublishedModel, file: PublishedFile) -> HfFileMetadata:
    url = hf_hub_url(file.repository, file.path, revision=file.revision)
    try:
        with _as_weights_error(model, file):
            metadata = get_hf_file_metadata(url, retry_on_errors=False)
    except OSError as error:  # of the certificates, as nothing is written yet
        raise _not_set_up(model, file, error) from error
    if not metadata.etag or not metadata.commit_hash:
        said = f"{constants.ENDPOINT} does not answer as a hub does"
        hint = f"a proxy or a log-in page may stand before it. {_elsewhere(model)}"
        raise _not_fetched(model, file, said, hint)
    return metadata


def _fetch(model: PublishedModel, file: PublishedFile, place: _Place, report: Report) -> LocalFile:
    if not place.path.is_file():
        try:
            place.path.parent.mkdir(parents=True, exist_ok=True)
            place.part.touch()
            with _as_weights_error(model, file), place.part.open("r+b") as part:
                _fetch_rest(part, place, file, report)
            place.part.rename(place.path)
        except OSError as error:
            raise _not_writable(place.path, error) from error
    report(file.name, 1.0)
    return _checked(file, place.path, "hub", place.commit, place.sha256)


def _fetch_rest(part: Any, place: _Place, file: PublishedFile, report: Report) -> None:
    """Fetch what is missing, taken up again where huggingface_hub gives up: after a reset, and when the hub is busy."""
    for left in reversed(range(_ATTEMPTS)):
        try:
            _go_on(part, place, file, report)
            return
        except (ReadError, HfHubHTTPError) as error:
            if not left or (isinstance(error, HfHubHTTPError) and error.response.status_code not in _BUSY):
                raise
            time.sleep(_PAUSE_S)


def _go_on(part: Any, place: _Place, file: PublishedFile, report: Report) -> None:
    """Fetch what is missing of a part file, over plain HTTP: the hub's Xet storage begins anew after a stop."""
    present = part.seek(0, 2)
    if place.size_bytes and present > place.size_bytes:
        part.truncate(0)
        present = part.seek(0)

    class Bar(_Bar):
        def tell(self, fraction: float) -> None:
            report(file.name, fraction)

    size = place.size_bytes or None
    http_get(
        place.url, part, resume_size=present, headers=build_hf_headers(), expected_size=size,
        displayed_filename=file.name, tqdm_class=Bar,
    )  # fmt: skip


class _Bar:
    """What huggingface_hub needs of a progress bar."""

    def __init__(self, *_: Any, total: int | None = None, initial: int = 0, **__: Any) -> None:
        self.total, self.n = total or 0, initial

    def update(self, count: float | None = 1) -> None:
        self.n += int(count or 0)
        self.tell(min(self.n / self.total, 0.999) if self.total else 0.0)

    def tell(self, fraction: float) -> None:
        """Hear how much is here."""

    def close(self) -> None:
        """Nothing is on the screen."""

    def __enter__(self) -> "_Bar":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _from_cache(model: PublishedModel, file: PublishedFile) -> LocalFile:
    found = try_to_load_from_cache(file.repository, file.path, revision=file.revision)
    if not isinstance(found, str):
        raise _not_fetched(model, file, "HF_HUB_OFFLINE is set, and it is not in the hub's cache", _elsewhere(model))
    path = Path(found)
    return _checked(file, path, "cache", path.parents[file.path.count("/")].name, None)


@contextmanager
def _as_weights_error(model: PublishedModel, file: PublishedFile) -> Iterator[None]:
    """Say in our words what went wrong on the way to the hub."""
    try:
        yield
    except GatedRepoError as error:
        hint = f"accept its terms at {constants.ENDPOINT}/{file.repository} and log in: hf auth login."
        raise _not_fetched(model, file, "the hub wants to know who you are", hint) from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        todo = _WHAT_TO_DO.get(status, "try again later.")
        raise _not_fetched(model, file, f"the hub answered {status}", f"{todo} {_elsewhere(model)}") from error
    except HTTPError as error:
        said = f"no connection to {constants.ENDPOINT} ({type(error).__name__}: {str(error)[:200]})"
        raise _not_fetched(model, file, said, f"what is fetched already is kept. {_elsewhere(model)}") from error
    except (InvalidURL, ImportError, ValueError) as error:
        raise _not_set_up(model, file, error) from error
    except OSError as error:
        if "Consistency check" not in str(error):
            raise
        said = "what came is not as long as the hub announced"
        hint = "the same command tries again; where that does not help, a proxy may have altered it."
        raise _not_fetched(model, file, said, hint) from error


_WHAT_TO_DO = {
    401: "check HF_TOKEN, or log in anew: hf auth login.",
    403: "check HF_TOKEN, or log in anew: hf auth login.",
    407: "the proxy wants a log-in: HTTPS_PROXY=http://NAME:PASSWORD@HOST:PORT.",
    404: "its publisher has moved or withdrawn it; a newer DiffuGTS may know where it is.",
}
"""By what the hub answered; the rest may pass by itself."""


def _not_set_up(model: PublishedModel, file: PublishedFile, error: Exception) -> WeightsError:
    said = f"the way to {constants.ENDPOINT} is not set up as it should be ({type(error).__name__}: {str(error)[:200]})"
    hint = (
        "check HF_ENDPOINT, HF_TOKEN, SSL_CERT_FILE and the proxy variables; a SOCKS proxy needs the package socksio."
    )
    return _not_fetched(model, file, said, f"{hint} {_elsewhere(model)}")


def _elsewhere(model: PublishedModel) -> str:
    files = " and ".join(f"{file.path} of {file.repository}" for file in model.files)
    return f"Without network: get {files} elsewhere, then diffugts weights import FOLDER --model {model.name}."


def _not_fetched(model: PublishedModel, file: PublishedFile, why: str, hint: str) -> WeightsError:
    return WeightsError(
        f"{model.name}: {file.path} of {file.repository} cannot be fetched: {why}.", hint=hint, code="weights_network"
    )


def _candidates(folder: Path, file: PublishedFile) -> list[Path]:
    """Return the files of that name, the ones in their own folders first."""
    paths = [path for path in folder.rglob(file.name) if len(path.relative_to(folder).parent.parts) <= _SEARCHED_DEPTH]
    return sorted((path for path in paths if path.is_file()), key=lambda path: (len(path.parts), path))


def _only(paths: list[Path]) -> Path:
    """Return the one file of a name, also where copies of it lie around.

    Raises:
        InputError: If they differ.
    """
    if len(paths) > 1 and len({sha256(path) for path in paths}) > 1:
        raise InputError(
            f"{paths[0].name} is there {len(paths)} times, with different content: {', '.join(map(str, paths[:3]))}.",
            hint="name the folder of the one that counts.",
        )
    return paths[0]


def _checked(file: PublishedFile, path: Path, origin: str, revision: str, announced: str | None) -> LocalFile:
    """Return a file whose checksum is the known one; a download with another one is removed.

    Raises:
        WeightsError: Otherwise (code "weights_hash").
    """
    given = sha256(path)
    known = [
        ("SHA-256 that the hub announced", announced, given),
        (f"SHA-256 {file.sha256_origin}", file.sha256, given),
    ]
    if file.md5:
        known.append((f"MD5 of the catalog, {file.md5_origin}", file.md5, _md5(path)))
    checks = [check for check in known if check[1]]
    for what, expected, found in checks:
        if expected != found:
            if origin == "hub":
                path.unlink()
            replaced = f"If its publisher has replaced it and you trust that file: --sha256 {file.name}={given}."
            spoiled = "a proxy, or what checks this computer for viruses, may have altered it."
            raise WeightsError(
                f"{path.name} is not the published file: {what}, is {expected}; this file has {found}.",
                hint=f"fetch it again. {spoiled if announced and given != announced else replaced}",
                code="weights_hash",
            )
    words = "; ".join(what for what, _, _ in checks) or "nothing: no checksum of it is known to us"
    return LocalFile(path, origin, revision, path.stat().st_size, given, words)


def _not_writable(path: Path, error: OSError) -> StorageError:
    return StorageError(
        f"{path} cannot be written: {(error.strerror or str(error)).rstrip('.')}.",
        hint=f"check the rights and the room of the store's disk, or name another folder with {MODELS_VARIABLE}; what is "
        "fetched already is kept.",
    )


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()
