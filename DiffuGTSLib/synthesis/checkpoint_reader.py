"""Reads a torch checkpoint that nobody vouches for. Runs as a program of its own; `checkpoints` starts it.

A checkpoint is a pickle, and unpickling runs whatever the file names. Here no name leads anywhere: each one is answered
by a class of this file that holds what it is given, or holds nothing. The program limits its own memory and time, uses the
standard library only, and says in JSON what it found. Asked to, it copies one group of tensors, byte for byte, into a
safetensors file.

    python checkpoint_reader.py FILE MEMORY_MB SECONDS [GROUP OUTPUT]
"""

from __future__ import annotations

import io
import json
import pickle
import struct
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ENTRIES_AT_MOST = 100_000
PICKLE_BYTES_AT_MOST = 64 * 2**20

REFUSED, OUT_OF_MEMORY, NOT_WRITTEN = 3, 4, 5
"""Exit codes."""

_DTYPES = {
    "DoubleStorage": ("F64", 8), "FloatStorage": ("F32", 4), "HalfStorage": ("F16", 2), "BFloat16Storage": ("BF16", 2),
    "LongStorage": ("I64", 8), "IntStorage": ("I32", 4), "ShortStorage": ("I16", 2), "CharStorage": ("I8", 1),
    "ByteStorage": ("U8", 1), "BoolStorage": ("BOOL", 1),
}  # fmt: skip
"""Torch's storages → safetensors' name of the type, and its bytes."""

_FLOATS = {"f8": "<d", "f4": "<f", "f2": "<e", "i8": "<q", "i4": "<i", "i2": "<h", "i1": "<b", "u1": "<B", "b1": "<?"}


class Refusal(Exception):
    """The file is not read; says why, and what to do."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


class Inert:
    """Stands where the file names something: can be called, filled and set, and does nothing."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __call__(self, *_: Any, **__: Any) -> Inert:
        """Do nothing."""
        return self

    def __setstate__(self, state: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, item: Any) -> None:
        """Forget the item."""

    def extend(self, items: Any) -> None:
        """Forget the items."""

    def add(self, item: Any) -> None:
        """Forget the item."""


class Table(dict[Any, Any]):
    """An ordered dictionary whose further state is forgotten."""

    def __setstate__(self, state: Any) -> None:
        pass


class Storage:
    """Where a tensor's numbers lie in the file.

    Attributes:
        dtype: Safetensors' name of their type.
        width: Bytes of a number.
        key: Of the record.
        count: How many numbers.
    """

    def __init__(self, dtype: str, width: int, key: str, count: int) -> None:
        self.dtype, self.width, self.key, self.count = dtype, width, key, count

    def __setstate__(self, state: Any) -> None:
        """Stay as it was when its tensors were checked against it."""


class TensorRecord:
    """A tensor as torch's pickle describes it: a view of a storage.

    Raises:
        Refusal: If the view does not lie within its storage.
    """

    def __init__(self, storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> None:
        numbers = [offset, *shape, *strides]
        if not isinstance(storage, Storage) or not all(type(n) is int and n >= 0 for n in numbers):
            raise Refusal("it holds a tensor without a proper storage, shape or strides", "fetch the file again.")
        self.storage, self.offset = storage, int(offset)
        self.shape, self.strides = tuple(shape), tuple(strides)
        if self.reach > storage.count:
            raise Refusal("a tensor of it reaches beyond its storage", "fetch the file again; it was altered.")

    def __setstate__(self, state: Any) -> None:
        pass

    @property
    def count(self) -> int:
        """How many numbers it has."""
        total = 1
        for side in self.shape:
            total *= side
        return total

    @property
    def reach(self) -> int:
        """How many numbers of its storage it needs: up to its last one."""
        steps = ((n - 1) * step for n, step in zip(self.shape, self.strides, strict=True))
        return self.offset + sum(steps) + 1 if self.count else 0

    @property
    def contiguous(self) -> bool:
        """Whether its numbers lie in the file as they are to be written."""
        step = 1
        for side, stride in zip(reversed(self.shape), reversed(self.strides), strict=True):
            if side != 1 and stride != step:
                return False
            step *= side
        return True


class Parameter:
    """A tensor that was trained: the tensor."""

    def __new__(cls, data: Any = None, *_: Any) -> Any:
        """Return what it wraps."""
        return data


class Subclassed:
    """A tensor of another class than torch's, as MONAI's MetaTensor: the plain tensor; its class and state are forgotten."""

    def __new__(cls, build: Any = None, _kind: Any = None, arguments: Any = (), *_: Any) -> Any:
        """Return the tensor."""
        known = build is TensorRecord and isinstance(arguments, tuple)
        return TensorRecord(*arguments) if known else Inert()


class StorageType:
    """One of torch's classes of storages, as the file names them."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __setstate__(self, state: Any) -> None:
        pass


class ScalarType:
    """A type of numpy, as the file names it."""

    def __init__(self, name: Any = "", *_: Any) -> None:
        self.name = name

    def __setstate__(self, state: Any) -> None:
        pass


class Scalar:
    """A number of numpy: a number of Python's, or nothing where its type is not known."""

    def __new__(cls, kind: Any = None, raw: Any = b"", *_: Any) -> Any:
        """Return the number."""
        code = _FLOATS.get(kind.name if isinstance(kind, ScalarType) and isinstance(kind.name, str) else "")
        known = code is not None and isinstance(raw, bytes) and struct.calcsize(code) == len(raw)
        return struct.unpack(code or "", raw)[0] if known else Inert()


class Encoded:
    """Text that stands for bytes, as Python 2 could read it."""

    def __new__(cls, text: Any = "", *_: Any) -> Any:
        """Return the bytes."""
        return text.encode("latin1", "replace") if isinstance(text, str) else b""


_ANSWERS: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): Table,
    ("torch._utils", "_rebuild_tensor"): TensorRecord,
    ("torch._utils", "_rebuild_tensor_v2"): TensorRecord,
    ("torch._utils", "_rebuild_parameter"): Parameter,
    ("torch._tensor", "_rebuild_from_type_v2"): Subclassed,
    ("numpy.core.multiarray", "scalar"): Scalar,
    ("numpy._core.multiarray", "scalar"): Scalar,
    ("numpy", "dtype"): ScalarType,
    ("_codecs", "encode"): Encoded,
}
"""The names that mean something to us, and what stands for them."""


class Unpickler(pickle.Unpickler):
    """Builds what a pickle describes out of the classes above; imports nothing.

    Attributes:
        replaced: Names that were answered by something inert.
    """

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self.replaced: set[str] = set()

    def find_class(self, module: str, name: str) -> Any:
        """Return what stands for a name."""
        if module == "torch" and name in _DTYPES:
            return StorageType(name)
        if (module, name) in _ANSWERS:
            return _ANSWERS[module, name]
        self.replaced.add(f"{module}.{name}"[:200])
        return Inert

    def persistent_load(self, pid: Any) -> Any:
        """Return the storage that a tensor names."""
        if isinstance(pid, tuple) and len(pid) == 5 and pid[0] == "storage":
            _, kind, key, _, count = pid
            if isinstance(kind, StorageType) and isinstance(key, str) and type(count) is int:
                dtype, width = _DTYPES[kind.name]
                return Storage(dtype, width, key, count)
        raise Refusal("it names a storage in a way that we do not know", "save it again with torch 1.6 or later.")


class Archive:
    """A checkpoint of torch ≥ 1.6: a zip of one pickle and one record a storage.

    Raises:
        Refusal: If it is cut off, compressed, of the other byte order, or no such archive.
    """

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            begins_as_zip = file.read(2) == b"PK"
        if not begins_as_zip:
            raise Refusal(
                "it is no checkpoint of torch 1.6 or later (a zip archive)",
                "download it again: a web page or a pointer may have been saved in its place.",
            )
        try:
            self.zip = zipfile.ZipFile(path)
        except zipfile.BadZipFile:
            raise Refusal("it is not whole: the end of the archive is missing", "download it again.") from None
        self._last: tuple[str, bytes] = ("", b"")
        self.records = {info.filename: info for info in self.zip.infolist()}
        pickles = [name for name in self.records if name == "data.pkl" or name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise Refusal(f"it holds {len(pickles)} pickles; expected one", "is it a checkpoint of torch?")
        self.root = pickles[0].removesuffix("data.pkl")
        if self.records.get(f"{self.root}byteorder") and self.read("byteorder") != b"little":
            raise Refusal("it was written by a machine of the other byte order", "save it again on another machine.")

    def read(self, name: str) -> bytes:
        """Return a record, checked against its checksum."""
        info = self.records.get(f"{self.root}{name}")
        if info is None:
            raise Refusal(f"its record {name} is missing", "download it again.")
        if info.compress_type != zipfile.ZIP_STORED:
            raise Refusal("its records are compressed, which torch never does", "fetch it from its source again.")
        try:
            return self.zip.read(info)
        except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError):
            raise Refusal(f"its record {name} is damaged", "download it again.") from None
        except OSError as error:
            raise Refusal(f"it cannot be read: {error.strerror}", "check the path and the disk.") from None

    def unpickle(self) -> tuple[Any, set[str]]:
        """Return what the pickle describes, and the names that were replaced."""
        if self.records[f"{self.root}data.pkl"].file_size > PICKLE_BYTES_AT_MOST:
            raise Refusal("its pickle is larger than any model's", "is it a checkpoint of torch?")
        unpickler = Unpickler(io.BytesIO(self.read("data.pkl")))
        try:
            return unpickler.load(), unpickler.replaced
        except _UNREADABLE as error:
            said = f"its pickle cannot be read ({type(error).__name__}: {str(error)[:200]})"
            raise Refusal(said, "download it again; it was cut off, altered or made to do harm.") from None

    def numbers(self, tensor: TensorRecord) -> bytes:
        """Return the bytes of a tensor, in order."""
        key = tensor.storage.key
        if key != self._last[0]:  # tensors that share a storage come one after the other
            self._last = (key, self.read(f"data/{key}"))
        raw = self._last[1]
        width = tensor.storage.width
        if len(raw) < max(tensor.storage.count, tensor.reach) * width:
            raise Refusal(f"its record data/{key} is too short", "download it again.")
        if tensor.contiguous:
            return raw[tensor.offset * width : (tensor.offset + tensor.count) * width]
        import numpy as np  # a transposed view: seldom

        view = np.lib.stride_tricks.as_strided(
            np.frombuffer(raw, f"V{width}", offset=tensor.offset * width),
            tensor.shape,
            [stride * width for stride in tensor.strides],
        )
        return view.tobytes()


_UNREADABLE = (
    pickle.UnpicklingError, EOFError, AttributeError, TypeError, ValueError, LookupError, ImportError, OverflowError,
    RecursionError,
)  # fmt: skip
"""What a broken or hostile pickle may raise."""


def contents(loaded: Any, replaced: set[str]) -> dict[str, Any]:
    """Return the groups of tensors and the plain values of a checkpoint, as JSON knows them.

    A group is a dictionary of tensors under a key; a dictionary that holds tensors itself is the group "".
    """
    if not isinstance(loaded, dict):
        raise Refusal("it holds no dictionary", "it may be a whole pickled network; ask for its state_dict.")
    groups = {name: {n: [t.storage.dtype, t.shape] for n, t in group.items()} for name, group in tensors(loaded)}
    values = {
        key: value[:200] if isinstance(value, str) else value
        for key, value in list(loaded.items())[:1000]
        if isinstance(key, str) and isinstance(value, str | int | float | bool)
    }
    return {"groups": groups, "values": values, "replaced": sorted(replaced)[:1000]}


def tensors(loaded: dict[Any, Any]) -> Iterator[tuple[str, dict[str, TensorRecord]]]:
    """Yield each group that holds tensors."""
    for key, group in [("", loaded), *loaded.items()]:
        if not isinstance(key, str) or not isinstance(group, dict):
            continue
        if len(group) > ENTRIES_AT_MOST:
            raise Refusal(f"it holds {len(group)} entries", "is it a checkpoint of a network?")
        found = {n: t for n, t in group.items() if isinstance(n, str) and isinstance(t, TensorRecord)}
        if found:
            yield key, found


def copy_group(archive: Archive, group: dict[str, TensorRecord], output: Path) -> None:
    """Write a group as safetensors: the length of a header in JSON, the header, the numbers.

    Raises:
        OSError: If it cannot be written; what cannot be read is a Refusal.
    """
    header: dict[str, Any] = {}
    end = 0
    for name, tensor in group.items():
        start, end = end, end + tensor.count * tensor.storage.width
        header[name] = {"dtype": tensor.storage.dtype, "shape": tensor.shape, "data_offsets": [start, end]}
    if end > 4 * sum(info.file_size for info in archive.records.values()):
        raise Refusal("its tensors are larger than the file", "fetch it from its source again.")
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with output.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for tensor in group.values():
            file.write(archive.numbers(tensor))


def limit(memory_mb: int, seconds: int) -> None:
    """Let the system end this process when it wants more memory, time or open files than that; Windows has no such limits."""
    try:
        import resource
    except ImportError:
        return
    wishes = {resource.RLIMIT_AS: memory_mb * 2**20, resource.RLIMIT_CPU: seconds, resource.RLIMIT_CORE: 0}
    for kind, wish in wishes.items():
        hard = resource.getrlimit(kind)[1]
        bound = wish if hard == resource.RLIM_INFINITY else min(wish, hard)
        try:
            resource.setrlimit(kind, (bound, bound))
        except (ValueError, OSError):  # macOS knows no limit of addresses
            continue


def main(arguments: list[str]) -> int:
    """Read one checkpoint; return the exit code."""
    path, memory_mb, seconds, *copy = arguments
    limit(int(memory_mb), int(seconds))
    try:
        archive = Archive(Path(path))
        loaded, replaced = archive.unpickle()
        answer = contents(loaded, replaced)
        code = _copied(archive, dict(tensors(loaded))[copy[0]], Path(copy[1]), answer) if copy else 0
    except Refusal as refusal:
        code, answer = REFUSED, {"error": str(refusal), "hint": refusal.hint}
    except OSError as error:
        code, answer = (
            REFUSED,
            {"error": f"it cannot be read: {error.strerror}", "hint": "check the path and the disk."},
        )
    except MemoryError:
        return OUT_OF_MEMORY
    sys.stdout.write(json.dumps(answer))
    return code


def _copied(archive: Archive, group: dict[str, TensorRecord], output: Path, answer: dict[str, Any]) -> int:
    """Copy a group and return the exit code; why it cannot be written is put into the answer."""
    try:
        copy_group(archive, group, output)
    except OSError as error:
        answer.update(errno=error.errno, strerror=error.strerror)
        return NOT_WRITTEN
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
