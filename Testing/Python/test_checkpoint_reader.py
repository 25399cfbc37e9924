"""The reader of checkpoints: what torch writes is read bit for bit, and whatever else a file names does nothing."""

import collections
import io
import json
import pickle
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from DiffuGTSLib.synthesis import checkpoint_reader as reader

PROGRAM = Path(reader.__file__)


def read(path: Path, *copy: object, memory_mb: int = 1024, seconds: int = 30) -> tuple[int, dict[str, Any]]:
    """Run the reader as a process, as the library does."""
    command = [sys.executable, "-P", PROGRAM, path, memory_mb, seconds, *copy]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    return done.returncode, json.loads(done.stdout or "{}")


def a_zip(path: Path, raw_pickle: bytes, **records: bytes) -> Path:
    """An archive like torch's, around any pickle."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", raw_pickle)
        for name, record in records.items():
            archive.writestr(f"archive/{name}", record)
    return path


class Trap:
    """Pickles as a call of any function that can be named."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


def test_groups_values_and_shapes_are_read(tmp_path: Path) -> None:
    weights = collections.OrderedDict(weight=torch.rand(2, 3), steps=torch.tensor(7))
    torch.save({"state_dict": weights, "epoch": 3, "best_acc": np.float64(0.5), "note": "x"}, tmp_path / "a.pt")
    code, answer = read(tmp_path / "a.pt")
    assert code == 0
    assert answer["groups"] == {"state_dict": {"weight": ["F32", [2, 3]], "steps": ["I64", []]}}
    assert answer["values"] == {"epoch": 3, "best_acc": 0.5, "note": "x"}
    assert answer["replaced"] == []


def test_a_dictionary_of_tensors_is_a_group_without_a_name(tmp_path: Path) -> None:
    torch.save({"weight": torch.rand(2)}, tmp_path / "a.pt")
    assert read(tmp_path / "a.pt")[1]["groups"] == {"": {"weight": ["F32", [2]]}}


@pytest.mark.parametrize(
    "dtype",
    [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.uint8, torch.bool],
)
def test_numbers_are_copied_bit_for_bit(tmp_path: Path, dtype: torch.dtype) -> None:
    tensors = {"a": torch.arange(6).reshape(2, 3).to(dtype), "empty": torch.zeros(0, 2, dtype=dtype)}
    torch.save({"ema": tensors}, tmp_path / "a.pt")
    assert read(tmp_path / "a.pt", "ema", tmp_path / "a.safetensors")[0] == 0
    copied = load_file(tmp_path / "a.safetensors")
    assert all(torch.equal(copied[name], tensor) and copied[name].dtype == dtype for name, tensor in tensors.items())


def test_views_and_parameters_are_copied_as_they_look(tmp_path: Path) -> None:
    whole = torch.arange(24.0).reshape(2, 3, 4)
    tensors = {
        "part": whole[1, 1:], "turned": whole.permute(2, 0, 1), "wide": torch.ones(1, 1).expand(1, 5),
        "learned": torch.nn.Parameter(whole[0]),
    }  # fmt: skip
    torch.save({"g": tensors}, tmp_path / "a.pt")
    read(tmp_path / "a.pt", "g", tmp_path / "a.safetensors")
    copied = load_file(tmp_path / "a.safetensors")
    assert all(torch.equal(copied[name], tensor) for name, tensor in tensors.items())


@pytest.mark.parametrize("protocol", [0, 1, 2, 4, 5])
@pytest.mark.parametrize("kind", ["system", "getattr", "open", "exec", "import"])
def test_nothing_that_a_file_names_is_run(tmp_path: Path, kind: str, protocol: int) -> None:
    import os

    marker = tmp_path / "marker"
    traps = {
        "system": Trap(os.system, f"touch {marker}"),
        "getattr": Trap(getattr, Trap(__import__, "os"), "system"),
        "open": Trap(open, str(marker), "w"),
        "exec": Trap(exec, f"open({str(marker)!r}, 'w')"),
        "import": Trap(__import__, "this"),
    }
    raw = pickle.dumps({"epoch": 1, "trap": traps[kind]}, protocol)
    if kind == "system":
        pickle.loads(raw)
        assert marker.exists(), "the trap works where it is not defused"
        marker.unlink()
    code, answer = read(a_zip(tmp_path / "evil.pt", raw))
    assert not marker.exists()
    assert code == 0 and answer["values"] == {"epoch": 1}
    assert any(name.endswith((kind, "__import__")) for name in answer["replaced"])


def test_what_stands_for_a_name_can_be_called_filled_and_set(tmp_path: Path) -> None:
    counted = collections.Counter("aab")
    nested = collections.defaultdict(list, a=[1])
    torch.save({"epoch": 1, "x": counted, "y": nested, "z": {1, 2}, "shape": torch.Size([2])}, tmp_path / "a.pt")
    code, answer = read(tmp_path / "a.pt")
    assert code == 0 and answer["values"] == {"epoch": 1}
    assert set(answer["replaced"]) >= {"collections.Counter", "collections.defaultdict"}


BOMB = b"\x80\x02Nr\xff\xff\xff\x7f."
"""Asks for a memo of two thousand million entries."""


@pytest.mark.skipif(sys.platform != "linux", reason="the limit of addresses is Linux's")
def test_a_file_that_wants_all_memory_is_stopped(tmp_path: Path) -> None:
    code, answer = read(a_zip(tmp_path / "bomb.pt", BOMB), memory_mb=512)
    assert (code, answer) == (reader.OUT_OF_MEMORY, {})


def refused(path: Path, *copy: object) -> str:
    code, answer = read(path, *copy)
    assert code == reader.REFUSED and answer["hint"]
    return str(answer["error"])


def test_a_copy_that_cannot_be_written_is_told_apart_from_a_file_that_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save({"a": torch.ones(2)}, tmp_path / "a.pt")
    code, answer = read(tmp_path / "a.pt", "", tmp_path / "nowhere" / "copy")
    assert (code, answer["strerror"]) == (reader.NOT_WRITTEN, "No such file or directory")
    archive = reader.Archive(tmp_path / "a.pt")

    def broken(*_: object) -> bytes:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(zipfile.ZipFile, "read", broken)
    with pytest.raises(reader.Refusal, match="it cannot be read: Input/output error"):
        archive.read("data.pkl")


def test_a_file_that_was_cut_off_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    torch.save({"g": {"a": torch.rand(1000)}}, path)
    path.write_bytes(path.read_bytes()[:2000])
    assert "not whole" in refused(path)


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>", b"version https://git-lfs.github.com/spec/v1\n"])
def test_something_else_in_its_place_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.pt").write_bytes(content)
    assert "no checkpoint of torch 1.6 or later" in refused(tmp_path / "a.pt")


def test_a_damaged_record_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    torch.save({"g": {"a": torch.full((1000,), 7.0)}}, path)
    content = path.read_bytes()
    at = content.index(struct.pack("<2f", 7.0, 7.0))
    path.write_bytes(content[:at] + b"\x01" + content[at + 1 :])
    assert "damaged" in refused(path, "g", tmp_path / "out.safetensors")


@pytest.mark.parametrize("raw", [b"", b"\x80\x02", b"garbage", b"\x80\x02}q\x00(K\x01", b"\x80\x04\x8c\x01x\x93."])
def test_a_broken_pickle_is_refused(tmp_path: Path, raw: bytes) -> None:
    assert "its pickle cannot be read" in refused(a_zip(tmp_path / "a.pt", raw))


def test_a_zip_without_a_pickle_and_a_pickle_without_a_dictionary_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("readme.txt", "hello")
    assert "holds 0 pickles" in refused(tmp_path / "a.zip")
    assert "no dictionary" in refused(a_zip(tmp_path / "b.pt", pickle.dumps([1])))


def test_the_other_byte_order_is_refused(tmp_path: Path) -> None:
    assert "byte order" in refused(a_zip(tmp_path / "a.pt", pickle.dumps({}), byteorder=b"big"))


def test_compressed_records_are_refused(tmp_path: Path) -> None:
    torch.save({"g": {"a": torch.zeros(100_000)}}, tmp_path / "a.pt")
    with (
        zipfile.ZipFile(tmp_path / "a.pt") as stored,
        zipfile.ZipFile(tmp_path / "b.pt", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for name in stored.namelist():
            packed.writestr(name, stored.read(name))
    assert "compressed" in refused(tmp_path / "b.pt")


def test_a_record_that_is_not_there_is_refused(tmp_path: Path) -> None:
    torch.save({"g": {"a": torch.zeros(4)}}, tmp_path / "a.pt")
    with zipfile.ZipFile(tmp_path / "a.pt") as whole:
        raw = whole.read("a/data.pkl")
    assert "record data/0 is missing" in refused(a_zip(tmp_path / "b.pt", raw), "g", tmp_path / "out")
    short = a_zip(tmp_path / "c.pt", raw)
    with zipfile.ZipFile(short, "a") as archive:
        archive.writestr("archive/data/0", b"1234")
    assert "too short" in refused(short, "g", tmp_path / "out")


def a_storage(count: int = 4) -> reader.Storage:
    return reader.Storage("F32", 4, "0", count)


@pytest.mark.parametrize(
    ("offset", "shape", "strides"), [(1, (4,), (1,)), (0, (2, 2), (4, 1)), (0, (5,), (1,)), (0, (2,), (4,))]
)
def test_a_tensor_that_reaches_beyond_its_storage_is_refused(
    offset: int, shape: tuple[int, ...], strides: tuple[int, ...]
) -> None:
    with pytest.raises(reader.Refusal, match="beyond its storage"):
        reader.TensorRecord(a_storage(), offset, shape, strides)


def test_a_storage_that_is_shrunk_after_its_tensor_was_checked_is_not_read_beyond(tmp_path: Path) -> None:
    """A pickle may set the state of what it built: here the claimed thousand numbers of the storage become one."""

    def text(word: str) -> bytes:
        return b"X" + struct.pack("<I", len(word)) + word.encode()

    def number(value: int) -> bytes:
        return b"J" + struct.pack("<i", value)

    storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + number(1000) + b"tQq\x01"
    view = number(0) + number(50) + number(2) + b"\x86" + number(1) + number(60) + b"\x86\x89}t"
    shrunk = b"h\x01}" + text("count") + number(1) + b"sb0"
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + view + b"R" + shrunk
    raw = b"\x80\x02}" + text("g") + b"}" + text("w") + tensor + b"ss."
    path = a_zip(tmp_path / "a.pt", raw, **{"data/0": struct.pack("<f", 1.0)})
    assert read(path)[1]["groups"] == {"g": {"w": ["F32", [50, 2]]}}
    assert "record data/0 is too short" in refused(path, "g", tmp_path / "out.safetensors")


@pytest.mark.parametrize("made", [reader.Storage("F32", 4, "0", 4), reader.StorageType("FloatStorage")])
def test_what_stands_for_a_storage_takes_no_state(made: Any) -> None:
    before = dict(vars(made))
    made.__setstate__({"count": 1, "name": "LongStorage"})
    assert vars(made) == before


@pytest.mark.parametrize(("offset", "shape"), [(-1, (2,)), (0, (-2,)), (0, (2.0,)), (True, (2,))])
def test_a_tensor_without_proper_numbers_is_refused(offset: int, shape: tuple[int, ...]) -> None:
    with pytest.raises(reader.Refusal, match="without a proper storage"):
        reader.TensorRecord(a_storage(), offset, shape, (1,))
    with pytest.raises(reader.Refusal, match="without a proper storage"):
        reader.TensorRecord("nowhere", 0, (2,), (1,))


def test_a_storage_named_in_another_way_is_refused() -> None:
    unpickler = reader.Unpickler(io.BytesIO())
    for pid in ("storage", ("module", 1, 2, 3, 4), ("storage", "FloatStorage", "0", "cpu", 1), ("storage",)):
        with pytest.raises(reader.Refusal, match="names a storage in a way"):
            unpickler.persistent_load(pid)


def test_tensors_larger_than_their_file_are_refused(tmp_path: Path) -> None:
    torch.save({"g": {"a": torch.zeros(1).expand(100_000_000)}}, tmp_path / "a.pt")
    assert "larger than the file" in refused(tmp_path / "a.pt", "g", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_more_entries_or_a_longer_pickle_than_any_model_has_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "ENTRIES_AT_MOST", 2)
    with pytest.raises(reader.Refusal, match="holds 3 entries"):
        reader.contents({"g": dict.fromkeys("abc", 1)}, set())
    monkeypatch.setattr(reader, "PICKLE_BYTES_AT_MOST", 3)
    with pytest.raises(reader.Refusal, match="larger than any model's"):
        reader.Archive(a_zip(tmp_path / "a.pt", pickle.dumps({}))).unpickle()


def test_a_file_that_cannot_be_opened_is_told(tmp_path: Path) -> None:
    assert "cannot be read: " in refused(tmp_path)


@pytest.mark.parametrize(
    ("number", "value"), [(np.float32(0.25), 0.25), (np.int64(-3), -3), (np.bool_(True), True), (np.float16(2), 2.0)]
)
def test_numbers_of_numpy_become_plain_numbers(tmp_path: Path, number: np.generic, value: float) -> None:
    torch.save({"best_acc": number}, tmp_path / "a.pt")
    assert read(tmp_path / "a.pt")[1]["values"] == {"best_acc": value}


def test_scalars_of_an_unknown_type_become_nothing() -> None:
    assert isinstance(reader.Scalar(reader.ScalarType("O8"), b"12345678"), reader.Inert)
    assert isinstance(reader.Scalar("f8", b"12345678"), reader.Inert)
    assert isinstance(reader.Scalar(reader.ScalarType("f8"), b"1"), reader.Inert)
    assert reader.Encoded(7) == b""
