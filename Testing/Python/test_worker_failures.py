"""Every kind of failure as a code, a message and a next step."""

from __future__ import annotations

import errno
import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from DiffuGTSLib.errors import (
    DiffuGTSError,
    GeometryError,
    InputError,
    MemoryLimitError,
    PromptError,
    StorageError,
    WeightsError,
    WorkerError,
)
from DiffuGTSLib.storage import whole_file
from DiffuGTSLib.worker.failures import FULL_BELOW_BYTES, describe, import_failure

NO_KERNEL = "CUDA error: no kernel image is available for execution on the device"


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (MemoryError(), "oom", "Not enough memory: no details given."),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 9 bytes."), "oom", "9 bytes."),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), "oom", "cublasCreate"),
        (RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"), "oom", "DEVICE_ALLOCATION"),
        (MemoryLimitError("Out of memory in stage 'aova' on cuda."), "oom", "Out of memory in stage 'aova' on cuda."),
        (RuntimeError(NO_KERNEL), "cuda_arch", "was not built for this graphics card"),
        (RuntimeError("CUDA error: an illegal memory access"), "cuda", "The graphics card failed: CUDA error: an ill"),
        (OSError(errno.ENOSPC, "No space left on device", "x"), "disk_full", "The disk is full: [Errno 28]"),
        (PermissionError(errno.EACCES, "Permission denied", "x"), "storage", "Permission denied"),
        (ModuleNotFoundError("No module named 'torch'", name="torch"), "import_failed", "package torch is not insta"),
        (ImportError("libcudnn.so.9: cannot open shared object file"), "import_failed", "libcudnn.so.9"),
        (WeightsError("x", code="weights_hash"), "weights_corrupt", "x"),
        (WeightsError("x", code="weights_missing"), "weights_missing", "x"),
        (GeometryError("grids differ"), "geometry", "grids differ"),
        (PromptError("no word", code="empty"), "empty", "no word"),
        (InputError("holes", hint="fill them", code="not_finite"), "not_finite", "holes"),
        (WorkerError("x", code="protocol"), "protocol", "x"),
        (ZeroDivisionError("one over none"), "error", "Unexpected ZeroDivisionError: one over none."),
        (AssertionError(), "error", "Unexpected AssertionError: no message."),
    ],
)
def test_a_failure_has_its_code(error: BaseException, code: str, said: str) -> None:
    failure = describe(error)
    assert failure.code == code and said in failure.message
    assert failure.is_fatal == (code in ("import_failed", "cuda"))
    if not isinstance(error, DiffuGTSError) or code == "oom":
        assert failure.hint, "who did not write a hint himself is given one"


def test_a_graphics_cards_memory_is_known_by_the_type_of_its_error() -> None:
    import torch

    assert describe(torch.OutOfMemoryError("Tried to allocate 9 GiB")).code == "oom"


def test_a_hint_of_the_library_is_kept() -> None:
    assert describe(InputError("holes", hint="fill them")).hint == "fill them"


def test_a_library_that_the_system_blocks_is_a_failed_import() -> None:
    failure = import_failure(OSError("[WinError 126] Error loading fbgemm.dll"))
    assert failure.code == "import_failed" and "fbgemm.dll" in failure.message and "Install" in failure.hint


def test_a_full_disk_is_known_through_the_error_that_wraps_it(tmp_path: Path) -> None:
    with pytest.raises(StorageError) as caught, whole_file(tmp_path / "x.nrrd"):
        raise OSError(errno.ENOSPC, "No space left on device")
    failure = describe(caught.value)
    assert failure.code == "disk_full" and "x.nrrd" in failure.message and "make room" in failure.hint


@pytest.mark.parametrize(("free", "code"), [(FULL_BELOW_BYTES - 1, "disk_full"), (FULL_BELOW_BYTES, "storage")])
def test_where_the_writer_does_not_say_why_the_disk_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, code: str
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(0, 0, free))
    assert describe(StorageError("Cannot write x: ITK ERROR."), tmp_path).code == code
    assert describe(StorageError("Cannot write x: ITK ERROR."), tmp_path / "gone").code == "storage"
    assert describe(GeometryError("grids differ"), tmp_path).code == "geometry"
