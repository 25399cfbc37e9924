"""A file arrives whole, or what was there before stays; and how checksums, names and JSON are read and written."""

from __future__ import annotations

import errno
import os
import struct
import sys
from collections.abc import Callable, Iterator
from math import inf, nan
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from DiffuGTSLib.errors import InputError, StorageError, WeightsError
from DiffuGTSLib.storage import (
    for_json,
    is_finite,
    json_sha256,
    read_json,
    require_folder_for,
    require_name,
    sha256,
    shown,
    whole_file,
    write_json,
)


@pytest.fixture
def an_older_file(tmp_path: Path) -> Path:
    """A file that says "older", alone in its folder."""
    path = tmp_path / "scan.nii.gz"
    path.write_text("older", encoding="utf-8")
    return path


def assert_untouched(path: Path) -> None:
    assert path.read_text(encoding="utf-8") == "older"
    assert list(path.parent.iterdir()) == [path]


def test_the_file_appears_only_at_the_end_and_replaces_the_older_one(an_older_file: Path) -> None:
    with whole_file(an_older_file) as temporary:
        temporary.write_text("newer", encoding="utf-8")
        assert an_older_file.read_text(encoding="utf-8") == "older"
    assert an_older_file.read_text(encoding="utf-8") == "newer"
    assert list(an_older_file.parent.iterdir()) == [an_older_file]


@pytest.mark.parametrize(("name", "ending"), [("a.seg.nrrd", ".seg.nrrd"), ("A.NII.GZ", ".nii.gz"), ("plain", "")])
def test_the_lent_name_is_hidden_in_the_same_folder_and_keeps_the_suffixes(
    tmp_path: Path, name: str, ending: str
) -> None:
    with whole_file(str(tmp_path / name)) as temporary:
        assert temporary.parent == tmp_path
        assert temporary.name.startswith(".")
        assert temporary.name.endswith(ending)
        temporary.touch()
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_two_writers_of_one_file_do_not_share_a_name(tmp_path: Path) -> None:
    with whole_file(tmp_path / "a") as first, whole_file(tmp_path / "a") as second:
        assert first != second
        first.touch()
        second.touch()


def test_a_disk_that_fills_up_is_a_storage_error_with_the_room_that_is_left(an_older_file: Path) -> None:
    with (
        pytest.raises(StorageError, match=r"Cannot write .*scan.nii.gz: No space left") as caught,
        whole_file(an_older_file) as temporary,
    ):
        temporary.write_text("half", encoding="utf-8")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert "MB free" in caught.value.hint
    assert_untouched(an_older_file)


@pytest.fixture
def a_disk_with_room_for_4_kb() -> Iterator[None]:
    """No file of this process may be longer, as on a disk that fills up while it is written."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))  # Python is told by an error: it ignores SIGXFSZ
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def write_checkpoint(path: Path) -> None:
    with path.open("wb") as file:
        torch.save({"weights": torch.zeros(10_000)}, file)


def write_weights(path: Path) -> None:
    save_file({"weights": torch.zeros(10_000)}, path)


@pytest.mark.parametrize("write", [write_checkpoint, write_weights])
def test_a_disk_that_fills_up_under_torch_and_safetensors_is_one_too(
    an_older_file: Path, a_disk_with_room_for_4_kb: None, write: Callable[[Path], None]
) -> None:
    """They report it in words of their own, which a training would take for a mistake of ours."""
    with (
        pytest.raises(StorageError, match=r"Cannot write .*scan.nii.gz: .*File too large"),
        whole_file(an_older_file) as lent,
    ):
        write(lent)
    assert_untouched(an_older_file)


def test_an_error_without_words_is_named_by_its_class(an_older_file: Path) -> None:
    with pytest.raises(StorageError, match=r"scan.nii.gz: TimeoutError\."), whole_file(an_older_file):
        raise TimeoutError


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, InputError("bad"), StorageError("already said")])
def test_any_other_failure_passes_through_unchanged_and_leaves_nothing(
    an_older_file: Path, error: BaseException | type[BaseException]
) -> None:
    with pytest.raises(BaseException) as caught, whole_file(an_older_file) as temporary:  # noqa: PT011
        temporary.write_text("half", encoding="utf-8")
        raise error
    assert caught.value is error or caught.type is error
    assert_untouched(an_older_file)


def test_a_writer_that_wrote_nothing_is_a_storage_error(an_older_file: Path) -> None:
    with pytest.raises(StorageError, match="No such file"), whole_file(an_older_file):
        pass
    assert_untouched(an_older_file)


def test_a_missing_folder_is_refused_before_anything_is_computed(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in ("absent", "file"):
        with pytest.raises(StorageError, match=f"there is no folder .*{folder}") as caught:
            whole_file(tmp_path / folder / "a.csv").__enter__()
        assert caught.value.hint == "create the folder first."


def test_a_target_that_is_a_folder_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "a.csv").mkdir()
    with pytest.raises(StorageError, match=r"Cannot write .*a.csv"), whole_file(tmp_path / "a.csv") as temporary:
        temporary.touch()
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]


@pytest.mark.skipif(sys.platform == "win32", reason="folders have no such permission there")
def test_a_folder_that_may_not_be_written_is_a_storage_error(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        if os.access(tmp_path, os.W_OK):
            pytest.skip("this user may write everywhere")
        with (
            pytest.raises(StorageError, match="Permission denied") as caught,
            whole_file(tmp_path / "a.csv") as temporary,
        ):
            temporary.touch()
    finally:
        tmp_path.chmod(0o700)
    assert "not writable for you" in caught.value.hint


@pytest.mark.skipif(sys.platform != "linux", reason="other systems keep access lists otherwise")
def test_a_folder_with_an_access_list_of_its_own_gives_its_files_what_that_says(tmp_path: Path) -> None:
    """Shared with a group and closed to everybody else, whatever the umask."""
    owner, group, a_group, mask, other = 1, 4, 8, 16, 32
    entries = ((owner, 7, -1), (group, 7, -1), (a_group, 7, 100), (mask, 7, -1), (other, 0, -1))
    try:
        access = struct.pack("<I", 2) + b"".join(struct.pack("<HHi", *entry) for entry in entries)
        os.setxattr(tmp_path, "system.posix_acl_default", access)
    except OSError:
        pytest.skip("this file system has no access lists")
    (tmp_path / "plain").touch()
    with whole_file(tmp_path / "whole") as temporary:
        temporary.touch(0o600)  # as safetensors does
    plain, whole = ((tmp_path / name).stat().st_mode & 0o777 for name in ("plain", "whole"))
    assert oct(whole) == oct(plain) == "0o660"


def test_the_umask_is_not_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is every thread's: what another one writes in that moment would be closed to the group."""
    monkeypatch.delattr(os, "umask")
    with whole_file(tmp_path / "a") as temporary:
        temporary.touch()


def test_a_name_that_is_no_text_is_refused_and_shown_nevertheless(tmp_path: Path) -> None:
    odd = tmp_path / os.fsdecode(b"M\xfcller")
    for path in (odd, odd / "scan.nii"):
        with pytest.raises(InputError, match="is not UTF-8") as caught:
            require_name(path)
        assert caught.value.code == "name" and shown(caught.value.message) == caught.value.message
    with pytest.raises(InputError, match="is not UTF-8"):
        require_folder_for(odd, "record", False, "")
    require_name(tmp_path / "Müller")


def test_the_checksum_of_nothing_is_the_known_one(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    assert sha256(tmp_path / "empty") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_the_checksum_of_a_value_is_that_of_its_json_whatever_the_order_of_its_keys(tmp_path: Path) -> None:
    (tmp_path / "value.json").write_text('{"a": [1.5, null], "b": true}', encoding="utf-8")
    expected = sha256(tmp_path / "value.json")
    assert json_sha256({"b": True, "a": (1.5, None)}) == json_sha256({"a": [1.5, None], "b": True}) == expected


def test_a_json_file_ends_in_a_new_line_and_keeps_its_letters_where_people_read_it(tmp_path: Path) -> None:
    write_json(tmp_path / "plain.json", {"organ": "größer"})
    assert (tmp_path / "plain.json").read_bytes() == b'{\n "organ": "gr\\u00f6\\u00dfer"\n}\n'
    write_json(tmp_path / "read.json", {"organ": "größer"}, indent=2, ensure_ascii=False)
    assert (tmp_path / "read.json").read_bytes() == '{\n  "organ": "größer"\n}\n'.encode()


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "does not exist"),
        (b"", "is not valid JSON: Expecting value"),
        (b"\xff\xfe{\0}\0", "is not valid JSON: 'utf-8' codec"),
        (b'{"masks": {"peak": 1, "peak": 2}}', "is not valid JSON: the key 'peak' stands in one object twice"),
        (b"[" * 100_000, "is not valid JSON"),  # a RecursionError of Python's
        (b'{"seed": ' + b"1" * 5000 + b"}", "is not valid JSON: Exceeds the limit"),
        (b"[1]", "expected an object, got list"),
    ],
)
def test_a_json_file_that_cannot_be_used_is_refused_in_the_words_and_the_class_of_who_reads_it(
    tmp_path: Path, content: bytes | None, why: str
) -> None:
    path = tmp_path / "source.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(WeightsError, match=f"source.json:? {why}") as caught:
        read_json(path, WeightsError, hint="copy the folder again.", code="weights_corrupt")
    assert caught.value.hint == "copy the folder again." and caught.value.code == "weights_corrupt"
    with pytest.raises(InputError) as caught:
        read_json(path)
    assert caught.value.code == ("missing" if content is None else "input")


def test_only_what_a_float_can_hold_is_a_finite_number() -> None:
    assert all(map(is_finite, (0, -3, 2.5, 1e308)))
    assert not any(map(is_finite, (True, None, "3", [3], inf, -inf, nan, 10**400)))


def test_a_json_file_with_the_mark_that_some_editors_put_first_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b'\xef\xbb\xbf{"organ": "lung"}')
    assert read_json(tmp_path / "a.json") == {"organ": "lung"}
    with pytest.raises(InputError, match=r"cannot be read: Is a directory"):
        read_json(tmp_path)


def test_what_json_has_no_word_for_becomes_null_at_any_depth() -> None:
    value = {
        1: (np.float32(0.5), nan, [inf, {"a": np.float64(-inf)}]),
        "n": np.int64(3),
        "b": np.bool_(True),
        "t": "nan",
    }
    assert for_json(value) == {"1": [0.5, None, [None, {"a": None}]], "n": 3, "b": True, "t": "nan"}
    assert type(for_json(np.int64(3))) is int and type(for_json(np.float32(0.5))) is float
