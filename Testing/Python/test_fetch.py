"""Downloads from a hub of our own: cut at several bytes, announced wrongly, offline; and the same files from a folder."""

import hashlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hub_server import COMMIT, Hub, serving
from huggingface_hub import close_session, constants
from model_store_parts import AUTOENCODER, DENOISER, published

from DiffuGTSLib.errors import InputError, StorageError, WeightsError
from DiffuGTSLib.model_store import fetch as fetching
from DiffuGTSLib.model_store.fetch import LocalFile, alone, fetch_model, find_files, forget_downloads
from DiffuGTSLib.model_store.manifest import PublishedModel, catalog, with_checksums

CONTENT = bytes(range(256)) * 40
CHUNK = 256
REPOSITORY = "nvidia/NV-Generate-CT"


@pytest.fixture(autouse=True)
def a_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty store of its own."""
    monkeypatch.setenv("DIFFUGTS_MODELS", str(tmp_path / "store"))
    return tmp_path / "store"


@pytest.fixture
def a_model() -> PublishedModel:
    """The published CT model, its autoencoder's checksum as of our file."""
    return with_checksums(published(), [f"{AUTOENCODER}={hashlib.sha256(b'autoencoder').hexdigest()}"])


@pytest.fixture
def a_hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub of two small files."""
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between attempts
    files = {f"{REPOSITORY}/models/{AUTOENCODER}": b"autoencoder", f"{REPOSITORY}/models/{DENOISER}": CONTENT}
    with serving(Hub(files)) as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", CHUNK)  # 10 MB: what a cut can cost
        template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield hub
        close_session()


def silent(_: str, __: float) -> None:
    """Hear nothing."""


def parts(store: Path) -> list[Path]:
    return sorted(store.rglob("*.part"))


def test_both_files_come_with_their_version_checksum_and_progress(a_hub: Hub, a_model: PublishedModel) -> None:
    told: list[tuple[str, float]] = []
    files = fetch_model(a_model, lambda name, fraction: told.append((name, fraction)))
    assert files["denoiser"].path.read_bytes() == CONTENT and files["autoencoder"].path.read_bytes() == b"autoencoder"
    assert files["denoiser"].revision == COMMIT and files["denoiser"].sha256 == hashlib.sha256(CONTENT).hexdigest()
    assert files["denoiser"].checked_by == "SHA-256 that the hub announced"
    assert "SHA-256 given with --sha256" in files["autoencoder"].checked_by, "the catalog has none"
    assert (DENOISER, 1.0) in told and all(0 <= fraction <= 1 for _, fraction in told)


def test_a_log_in_stays_on_the_hub(a_hub: Hub, a_model: PublishedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """The content lies on another host."""
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    fetch_model(a_model, silent)
    assert set(a_hub.told) == {"hub Bearer hf_secret", "content"}


def test_what_is_here_is_not_fetched_again(a_hub: Hub, a_model: PublishedModel) -> None:
    fetch_model(a_model, silent)
    before = len(a_hub.gets())
    fetch_model(a_model, silent)
    assert len(a_hub.gets()) == before


@pytest.mark.parametrize("cut", [0, 1, 4096, len(CONTENT) - 1])
def test_a_line_that_breaks_once_goes_on_where_it_stopped(a_hub: Hub, a_model: PublishedModel, cut: int) -> None:
    fetch_model(a_model, silent)
    forget_downloads(a_model)
    a_hub.cuts, a_hub.requests = [11, cut], []  # the first is all of the autoencoder
    files = fetch_model(a_model, silent)
    assert files["denoiser"].path.read_bytes() == CONTENT


def test_a_reset_and_a_busy_hub_do_not_end_a_download(a_hub: Hub, a_model: PublishedModel) -> None:
    a_hub.cuts, a_hub.resets, a_hub.busy = [11, 4096], True, 2
    assert fetch_model(a_model, silent)["denoiser"].path.read_bytes() == CONTENT
    assert a_hub.gets()[-1] == "bytes=4096-"


@pytest.mark.parametrize("cut", [256, 4000, 4096, len(CONTENT) - 1])
def test_the_next_attempt_goes_on_where_the_last_one_stopped(
    a_hub: Hub, a_model: PublishedModel, a_store: Path, cut: int
) -> None:
    a_hub.cuts, a_hub.dead_after_cut = [11, cut], True
    with pytest.raises(WeightsError, match=r"cannot be fetched: the hub answered 503") as caught:
        fetch_model(a_model, silent)
    assert caught.value.code == "weights_network"
    (part,) = parts(a_store)
    kept = cut // CHUNK * CHUNK
    assert part.read_bytes() == CONTENT[:kept], "what came is kept, under another name"
    a_hub.dead_after_cut, a_hub.requests = False, []
    assert fetch_model(a_model, silent)["denoiser"].path.read_bytes() == CONTENT
    assert a_hub.gets() == [f"bytes={kept}-"] and parts(a_store) == []


def test_a_server_without_ranges_is_asked_for_the_whole(a_hub: Hub, a_model: PublishedModel, a_store: Path) -> None:
    a_hub.cuts, a_hub.dead_after_cut = [11, 4096], True
    with pytest.raises(WeightsError, match="503"):
        fetch_model(a_model, silent)
    a_hub.dead_after_cut, a_hub.ignores_ranges = False, True
    assert fetch_model(a_model, silent)["denoiser"].path.read_bytes() == CONTENT


def test_a_part_longer_than_the_file_is_begun_anew(a_hub: Hub, a_model: PublishedModel, a_store: Path) -> None:
    a_hub.cuts, a_hub.dead_after_cut = [11, 4096], True
    with pytest.raises(WeightsError, match="503"):
        fetch_model(a_model, silent)
    parts(a_store)[0].write_bytes(CONTENT + b"more")
    a_hub.dead_after_cut = False
    assert fetch_model(a_model, silent)["denoiser"].path.read_bytes() == CONTENT


def test_a_new_version_does_not_go_on_from_the_old_one(a_hub: Hub, a_model: PublishedModel, a_store: Path) -> None:
    a_hub.cuts, a_hub.dead_after_cut = [11, 4096], True
    with pytest.raises(WeightsError, match="503"):
        fetch_model(a_model, silent)
    a_hub.dead_after_cut, a_hub.files[f"{REPOSITORY}/models/{DENOISER}"] = False, CONTENT[::-1]
    assert fetch_model(a_model, silent)["denoiser"].path.read_bytes() == CONTENT[::-1]


def test_a_part_that_was_altered_is_never_used(a_hub: Hub, a_model: PublishedModel, a_store: Path) -> None:
    a_hub.cuts, a_hub.dead_after_cut = [11, 4096], True
    with pytest.raises(WeightsError, match="503"):
        fetch_model(a_model, silent)
    parts(a_store)[0].write_bytes(b"x" * 4096)
    a_hub.dead_after_cut = False
    with pytest.raises(WeightsError, match=r"is not the published file: SHA-256 that the hub announced"):
        fetch_model(a_model, silent)
    assert list(a_store.rglob(f"{DENOISER}*")) == [], "and it is gone, so that the next attempt begins anew"
    assert fetch_model(a_model, silent)["denoiser"].path.read_bytes() == CONTENT


def test_another_checksum_than_the_pinned_one_is_refused_with_both(a_hub: Hub, a_model: PublishedModel) -> None:
    pinned = with_checksums(a_model, [f"{DENOISER}={'ab' * 32}"])
    with pytest.raises(WeightsError, match="SHA-256 given with --sha256, is abababab") as caught:
        fetch_model(pinned, silent)
    assert caught.value.code == "weights_hash"
    assert f"--sha256 {DENOISER}={hashlib.sha256(CONTENT).hexdigest()}" in caught.value.hint


def test_a_download_that_is_not_what_the_hub_announced_is_not_to_be_trusted(
    a_hub: Hub, a_model: PublishedModel
) -> None:
    """Its own checksum would be refused just so, and might be that of a spoiled file."""
    a_hub.announced = "ab" * 32
    with pytest.raises(WeightsError, match="SHA-256 that the hub announced, is abababab") as caught:
        fetch_model(a_model, silent)
    assert "may have altered it" in caught.value.hint and "--sha256" not in caught.value.hint


def test_the_known_md5_is_compared_too(a_hub: Hub) -> None:
    with pytest.raises(
        WeightsError, match=r"MD5 of the catalog, seen in a third party's log, .* is 917cfb1e"
    ) as caught:
        fetch_model(published(), silent)
    assert f"--sha256 {AUTOENCODER}=" in caught.value.hint


@pytest.mark.parametrize(
    ("status", "said", "hint"),
    [(500, "the hub answered 500", "try again later"), (429, "the hub answered 429", "try again later"),
     (404, "the hub answered 404", "moved or withdrawn"), (401, "the hub answered 401", "check HF_TOKEN"),
     (407, "the hub answered 407", "the proxy wants a log-in")],
)  # fmt: skip
def test_what_the_hub_refuses_is_told_with_the_other_way(
    a_hub: Hub, a_model: PublishedModel, status: int, said: str, hint: str
) -> None:
    a_hub.status = status
    with pytest.raises(WeightsError, match=said) as caught:
        fetch_model(a_model, silent)
    assert hint in caught.value.hint and "import FOLDER" in caught.value.hint
    assert ("try again" in caught.value.hint) == (status in (429, 500))


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("ALL_PROXY", "socks5://127.0.0.1:1080", "ImportError: Using SOCKS proxy"),
        ("HTTP_PROXY", "foo:bar", "InvalidURL: Invalid port: 'bar'"),
        ("HF_TOKEN", "hf_é", "UnicodeEncodeError"),
        ("SSL_CERT_FILE", "/nonexistent", "FileNotFoundError"),
    ],
)
def test_a_mistyped_variable_of_the_way_to_the_hub_is_told(
    a_hub: Hub, a_model: PublishedModel, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, said: str
) -> None:
    """A SOCKS proxy needs a package that does not come with huggingface_hub."""
    monkeypatch.setenv(variable, value)
    close_session()  # which has read the variables
    with pytest.raises(WeightsError, match=said) as caught:
        fetch_model(a_model, silent)
    assert variable in caught.value.hint or "proxy variables" in caught.value.hint
    assert "import FOLDER" in caught.value.hint and caught.value.code == "weights_network"


def test_a_repository_with_terms_asks_for_a_log_in(a_hub: Hub, a_model: PublishedModel) -> None:
    a_hub.status = 403
    with pytest.raises(WeightsError, match="the hub wants to know who you are") as caught:
        fetch_model(a_model, silent)
    assert f"{a_hub.url}/{REPOSITORY}" in caught.value.hint and "hf auth login" in caught.value.hint


def test_a_file_that_ends_before_it_should_is_never_used(a_hub: Hub, a_model: PublishedModel, a_store: Path) -> None:
    a_hub.longer = 5
    with pytest.raises(WeightsError, match="what came is not as long as the hub announced") as caught:
        fetch_model(a_model, silent)
    assert "tries again" in caught.value.hint
    assert list(a_store.rglob("*.pt")) == [] and len(parts(a_store)) == 1


def test_a_page_in_the_place_of_a_hub_is_refused(a_hub: Hub, a_model: PublishedModel) -> None:
    a_hub.plain = True
    with pytest.raises(WeightsError, match="does not answer as a hub does") as caught:
        fetch_model(a_model, silent)
    assert "proxy" in caught.value.hint


def test_without_network_the_message_names_the_files_and_the_command(
    a_hub: Hub, a_model: PublishedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    nowhere = "http://127.0.0.1:1"
    monkeypatch.setattr(constants, "ENDPOINT", nowhere)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", nowhere + "/{repo_id}/resolve/{revision}/{filename}")
    with pytest.raises(WeightsError, match=rf"no connection to {nowhere}") as caught:
        fetch_model(a_model, silent)
    assert f"models/{DENOISER} of {REPOSITORY}" in caught.value.hint
    assert "diffugts weights import FOLDER --model maisi-ct" in caught.value.hint


def test_offline_only_the_hub_s_own_cache_is_looked_at(
    tmp_path: Path, a_model: PublishedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    with pytest.raises(WeightsError, match="HF_HUB_OFFLINE is set") as caught:
        fetch_model(a_model, silent)
    assert "weights import FOLDER" in caught.value.hint
    repository = tmp_path / "cache" / "models--nvidia--NV-Generate-CT"
    snapshot = repository / "snapshots" / COMMIT / "models"
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    (snapshot / AUTOENCODER).write_bytes(b"autoencoder")
    (snapshot / DENOISER).write_bytes(CONTENT)
    with pytest.raises(StorageError, match="has no room"):
        fetch_model(a_model, silent, extra_bytes=10**18)
    files = fetch_model(a_model, silent)
    assert files["denoiser"].origin == "cache" and files["denoiser"].revision == COMMIT
    forget_downloads(a_model)
    assert (snapshot / DENOISER).is_file(), "the cache is not ours to clear"


def test_no_room_is_said_before_anything_is_fetched(a_hub: Hub, a_model: PublishedModel, a_store: Path) -> None:
    with pytest.raises(StorageError, match=r"has no room: .* are needed, .* are free"):
        fetch_model(a_model, silent, extra_bytes=10**18)
    assert a_hub.gets() == [] and not a_store.exists()


def test_a_store_that_cannot_be_written_is_a_storage_error(a_hub: Hub, a_model: PublishedModel, a_store: Path) -> None:
    a_store.mkdir()
    (a_store / ".downloads").write_text("a file in its place")
    with pytest.raises(StorageError, match="cannot be written"):
        fetch_model(a_model, silent)


def test_downloads_are_forgotten_when_they_were_used(a_hub: Hub, a_model: PublishedModel, a_store: Path) -> None:
    files = fetch_model(a_model, silent)
    forget_downloads(a_model)
    assert not any(file.path.exists() for file in files.values())
    assert forget_downloads(a_model) == 0


def test_what_was_cut_off_of_another_version_goes_too_and_alone_where_downloads_are_kept(
    a_hub: Hub, a_model: PublishedModel, a_store: Path
) -> None:
    files = fetch_model(a_model, silent)
    part = a_store / ".downloads" / REPOSITORY / "older-version" / f"{DENOISER}.part"
    for keep_whole in (True, False):
        part.parent.mkdir()
        part.write_bytes(b"cut off")
        forget_downloads(a_model, keep_whole=keep_whole)
        assert not part.exists() and files["denoiser"].path.exists() == keep_whole


def folder_of(tmp_path: Path, *places: str) -> Path:
    for place in places:
        path = tmp_path / "stick" / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"autoencoder" if path.name == AUTOENCODER else CONTENT)
    return tmp_path / "stick"


@pytest.mark.parametrize(
    "places",
    [
        (AUTOENCODER, DENOISER),
        (f"models/{AUTOENCODER}", f"models/{DENOISER}"),
        (f"models--nvidia--NV-Generate-CT/snapshots/{COMMIT}/models/{AUTOENCODER}", f"a/b/{DENOISER}"),
        (AUTOENCODER, f"models/{AUTOENCODER}", DENOISER),
    ],
)
def test_files_are_found_in_a_folder_wherever_they_lie(
    tmp_path: Path, a_model: PublishedModel, places: tuple[str, ...]
) -> None:
    files = find_files(a_model, folder_of(tmp_path, *places))
    assert files is not None
    assert files["denoiser"].origin == "folder" and files["denoiser"].path.read_bytes() == CONTENT
    assert "no checksum of it is known to us" in files["denoiser"].checked_by
    forget_downloads(a_model)
    assert files["denoiser"].path.is_file(), "a folder is not ours to clear"


def test_six_folders_deep_is_found_and_seven_are_not(tmp_path: Path, a_model: PublishedModel) -> None:
    six = "1/2/3/4/5/6"
    assert find_files(a_model, folder_of(tmp_path, f"{six}/{AUTOENCODER}", f"{six}/{DENOISER}")) is not None
    assert find_files(a_model, folder_of(tmp_path / "more", f"{six}/{AUTOENCODER}", f"{six}/7/{DENOISER}")) is None


def test_a_folder_with_half_of_a_model_holds_none(tmp_path: Path, a_model: PublishedModel) -> None:
    assert find_files(a_model, folder_of(tmp_path, AUTOENCODER)) is None


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path, a_model: PublishedModel) -> None:
    with pytest.raises(InputError, match="There is no folder"):
        find_files(a_model, tmp_path / "none")


def test_an_imported_file_with_another_checksum_is_refused_and_left_alone(
    tmp_path: Path, a_model: PublishedModel
) -> None:
    folder = folder_of(tmp_path, AUTOENCODER, DENOISER)
    (folder / AUTOENCODER).write_bytes(b"something else")
    with pytest.raises(WeightsError, match="is not the published file"):
        find_files(a_model, folder)
    assert (folder / AUTOENCODER).is_file()


def test_two_files_of_one_name_that_differ_are_not_chosen_between(tmp_path: Path, a_model: PublishedModel) -> None:
    folder = folder_of(tmp_path, AUTOENCODER, DENOISER, f"old/{DENOISER}")
    (folder / "old" / DENOISER).write_bytes(CONTENT[::-1])
    with pytest.raises(InputError, match=r"is there 2 times, with different content"):
        find_files(a_model, folder)


def test_files_of_other_models_are_told_apart_by_their_names() -> None:
    names = [file.name for model in catalog().values() for file in model.files]
    assert len({AUTOENCODER, *names}) == 6
    assert isinstance(fetching.LocalFile(Path("a"), "hub", "", 0, "", ""), LocalFile)


A_PROCESS = """
import sys
from DiffuGTSLib.model_store.fetch import alone, fetch_model, forget_downloads
from DiffuGTSLib.model_store.manifest import catalog, with_checksums
model = with_checksums(catalog()["maisi-ct"], [sys.argv[1]])
print("ready", flush=True)
sys.stdin.readline()
with alone():
    files = fetch_model(model, lambda name, fraction: None)
    print(files["denoiser"].sha256, files["denoiser"].path.read_bytes() == bytes(range(256)) * 40)
    if sys.argv[2] == "forget":
        forget_downloads(model)
"""


@pytest.mark.parametrize(("afterwards", "downloads"), [("keep", 2), ("forget", 4)])
def test_two_processes_that_fetch_the_same_at_once_do_no_harm(
    a_hub: Hub, a_store: Path, afterwards: str, downloads: int
) -> None:
    """The second waits, then finds what the first has kept, or fetches anew what the first has used up."""
    a_hub.pause_s = 0.2
    pinned = f"{AUTOENCODER}={hashlib.sha256(b'autoencoder').hexdigest()}"
    environment = {**os.environ, "HF_ENDPOINT": a_hub.url, "PYTHONPATH": str(Path(__file__).parents[2])}
    program = [sys.executable, "-c", A_PROCESS, pinned, afterwards]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    processes = [subprocess.Popen(program, env=environment, text=True, **pipes) for _ in range(2)]
    for process in processes:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        said, complaint = process.communicate(timeout=60)
        assert (process.returncode, said) == (0, f"{hashlib.sha256(CONTENT).hexdigest()} True\n"), complaint
    assert len(a_hub.gets()) == downloads, "nothing was fetched twice at a time"
    assert parts(a_store) == []


@pytest.mark.skipif(sys.platform == "win32", reason="another program's lock is made as on Unix")
def test_whoever_has_to_wait_is_told_so_once(a_store: Path) -> None:
    import fcntl

    told: list[str] = []
    with alone(lambda: told.append("not alone")), alone(lambda: told.append("not alone")):
        assert told == [], "nested is still alone"
    other = (a_store / ".downloads" / ".lock").open("w")
    fcntl.flock(other, fcntl.LOCK_EX)
    threading.Timer(0.7, other.close).start()
    with alone(lambda: told.append("waiting")):
        assert told == ["waiting"] and other.closed


def test_a_store_that_cannot_be_locked_is_refused(a_store: Path) -> None:
    a_store.write_text("a file")
    with pytest.raises(StorageError, match="cannot be written"), alone():
        pass
