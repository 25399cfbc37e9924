"""Refuses image files whose damage or silence ITK would pass over.

Tried with ITK 5.4: a NIfTI file that ends early is read as zeros, a damaged compressed stream as noise; a
sheared sform is replaced by the qform, and so is one of code 2 or 4 beside a qform of code 1; of a qform a side of 0
becomes 1 mm and NaN no turn; a header without spacing, orientation or offset gets 1 mm, an identity and 0; NaN
and infinite voxels of a NIfTI file become 0; an intercept counts where the slope is 0, which says that neither does;
lengths of a NRRD file count as mm whatever their unit, and a MetaImage's slope and offset do not count at all.
Each of these would move or shrink a tumor without a word.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import BinaryIO

import numpy as np
from scipy.spatial.transform import Rotation

from DiffuGTSLib.errors import GeometryError, InputError
from DiffuGTSLib.volumes.volume import Geometry, not_finite

SPACING_TOLERANCE = 1e-3
"""Largest relative difference between the two voxel sizes that a NIfTI header states (half a voxel in 512)."""

_APART_VOXELS = 0.5
"""How far the two places that a NIfTI header states may lie apart; a quaternion of float32 is not exact."""

_ROUNDED = 1e-7
"""niftilib's limit for the same."""

_CHUNK_BYTES = 1 << 16
_BLOCK_BYTES = 1 << 24
_NIFTI1_BYTES, _NIFTI2_BYTES = 348, 540
"""Size of the header, which is its first number."""

_NIFTI_FLOATS = {16: "f4", 64: "f8"}
_NRRD_MM = {"mm", "millimeter", "millimetre", ""}
_NRRD_SPACES = {"LPS", "LAS", "RAS", "LEFT-POSTERIOR-SUPERIOR", "LEFT-ANTERIOR-SUPERIOR", "RIGHT-ANTERIOR-SUPERIOR"}


_META_BYTES = {
    "MET_CHAR": 1, "MET_UCHAR": 1, "MET_SHORT": 2, "MET_USHORT": 2, "MET_INT": 4, "MET_UINT": 4, "MET_LONG": 4,
    "MET_ULONG": 4, "MET_LONG_LONG": 8, "MET_ULONG_LONG": 8, "MET_FLOAT": 4, "MET_DOUBLE": 8,
}  # fmt: skip


def require_intact(path: Path) -> None:
    """Refuse a NIfTI, NRRD or MetaImage file that is cut short, damaged, or silent about its place in the world.

    Voxels in a second file (.nhdr, .mhd) are left to ITK, which notices when they are too few.

    Raises:
        InputError: If the file ends early, its compressed data fail their checksum, a NIfTI file holds NaN or infinite voxels or
            an intercept without a slope, or a MetaImage a slope or offset.
        GeometryError: If spacing or orientation are missing, sheared, singular, not in mm or contradict each other.
    """
    with path.open("rb") as file:
        name = path.name.lower()
        if name.endswith((".nii", ".nii.gz")):
            _check_nifti(file, path)
        elif name.endswith((".nrrd", ".nhdr")):
            _check_nrrd(file, path)
        else:
            _check_metaimage(file, path)


@dataclass(frozen=True)
class _Nifti:
    """What a NIfTI-1 header says of its voxels: the bytes' order, the axes' sides, from where to where they lie, a float's type."""

    order: str
    sides: tuple[int, ...]
    first: int
    stop: int
    float_type: str

    @classmethod
    def of(cls, header: bytes, path: Path) -> _Nifti:
        """Read a header's bytes.

        Raises:
            InputError: If they are none, or those of NIfTI-2.
        """
        sizes = {o: struct.unpack_from(f"{o}i", header)[0] for o in "<>" if len(header) == _NIFTI1_BYTES}
        order = next((o for o, size in sizes.items() if size == _NIFTI1_BYTES), "")
        if _NIFTI2_BYTES in sizes.values():
            raise InputError(
                f"{path} is a NIfTI-2 file; expected NIfTI-1.",
                hint="write it as NIfTI-1 (.nii.gz) or as .nrrd in the program that made it.",
                code="unreadable",
            )
        if not order:
            raise InputError(
                f"{path} is not a NIfTI-1 file: its header is missing or damaged.", hint=_COPY_AGAIN, code="unreadable"
            )
        count, *sides = struct.unpack_from(f"{order}8h", header, 40)
        kind, bits = struct.unpack_from(f"{order}2h", header, 70)
        first = int(struct.unpack_from(f"{order}f", header, 108)[0])
        stop = first + int(np.prod(np.maximum(sides[:count], 1), dtype=np.int64)) * bits // 8
        float_type = f"{order}{_NIFTI_FLOATS[kind]}" if kind in _NIFTI_FLOATS else ""
        return cls(order, tuple(sides[:count]), first, stop, float_type)


class _NotFinite:
    """Counts the NaN and infinite voxels of a NIfTI file whose bytes pass by, so that it is read once and never held."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.bad = self.voxels = 0
        self._nifti: _Nifti | None = None
        self._rest, self._at = b"", 0

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the file.

        Raises:
            InputError: As soon as the header is no NIfTI-1's, before the rest is read.
        """
        self._rest += data
        if self._nifti is None and len(self._rest) >= _NIFTI1_BYTES:
            self._nifti = _Nifti.of(self._rest[:_NIFTI1_BYTES], self._path)
        if self._nifti is None:
            return
        begin = max(0, self._nifti.first - self._at)
        end = min(len(self._rest), self._nifti.stop - self._at)
        size = np.dtype(self._nifti.float_type).itemsize if self._nifti.float_type else 1
        end = max(begin, end - (end - begin) % size)
        if self._nifti.float_type and end > begin:
            voxels = np.frombuffer(memoryview(self._rest)[begin:end], self._nifti.float_type)
            self.voxels += voxels.size
            self.bad += int(voxels.size - np.isfinite(voxels).sum())
        kept = min(end, len(self._rest))
        self._rest, self._at = self._rest[kept:], self._at + kept


def _check_nifti(file: BinaryIO, path: Path) -> None:
    packed = file.read(2) == b"\x1f\x8b"
    file.seek(0)
    seen = _NotFinite(path)
    if packed:
        header, length = _unpack(file, path, seen.feed)
    else:
        header, length = file.read(_NIFTI1_BYTES), path.stat().st_size
    nifti = _Nifti.of(header, path)
    if length < nifti.stop:
        raise _ends_early(path, f"expected {nifti.stop} bytes, got {length}")
    if nifti.float_type and not packed:
        seen.feed(header)
        while block := file.read(_BLOCK_BYTES):
            seen.feed(block)
    if seen.bad:
        raise not_finite(seen.bad, seen.voxels)
    _check_scale(path, *struct.unpack_from(f"{nifti.order}2f", header, 112))
    _check_place(path, header, nifti)


def _check_scale(path: Path, slope: float, intercept: float) -> None:
    """Refuse an intercept without a slope: NIfTI says that neither counts then, and ITK adds it."""
    if slope == 0 and intercept != 0:
        raise InputError(
            f"{path} states an intercept of {intercept:g} (scl_inter) without a slope (scl_slope is 0): readers differ in "
            "whether it counts.",
            hint="find out which values are right and write the file again, with a slope of 1.",
            code="unreadable",
        )


def _check_place(path: Path, header: bytes, nifti: _Nifti) -> None:
    order, sides = nifti.order, nifti.sides
    qform, sform = struct.unpack_from(f"{order}2h", header, 252)
    if qform <= 0 and sform <= 0:
        raise _no_place(path, "qform_code and sform_code are both 0")
    if qform > 0 and len(sides) >= 3:
        _check_qform(path, header, order)
    if sform > 0 and len(sides) >= 3:
        matrix = np.vstack([np.reshape(struct.unpack_from(f"{order}12f", header, 280), (3, 4)), [0, 0, 0, 1]])
        _check_sform(path, matrix, np.array(struct.unpack_from(f"{order}3f", header, 80), dtype=np.float64))
        if qform > 0:
            _check_agreement(path, _qform(header, order), matrix, sides[:3])


def _check_qform(path: Path, header: bytes, order: str) -> None:
    """Refuse what ITK would mend in silence: a side of 0 to 1 mm, a quaternion that is none to no turn at all."""
    place = struct.unpack_from(f"{order}6f", header, 256)
    pixdim = struct.unpack_from(f"{order}3f", header, 80)
    if not np.isfinite([*place, *pixdim]).all() or min(pixdim) <= 0:
        raise GeometryError(
            f"{path}: expected finite numbers in its qform and voxel sides above 0, got "
            f"{np.round(place, 5).tolist()} (quaternion, offset) and {np.round(pixdim, 5).tolist()} mm (pixdim).",
            hint=_WRITE_AGAIN,
        )


def _check_sform(path: Path, matrix: np.ndarray, pixdim: np.ndarray) -> None:
    try:
        spacing = np.array(Geometry((1, 1, 1), matrix).spacing_mm)
    except GeometryError as error:
        raise GeometryError(f"{path}: {error.message}", hint=error.hint) from None
    if np.abs(spacing / np.maximum(pixdim, 1e-6) - 1).max() > SPACING_TOLERANCE:
        raise GeometryError(
            f"{path} states two voxel sizes: {np.round(pixdim, 5).tolist()} mm (pixdim) and "
            f"{np.round(spacing, 5).tolist()} mm (sform).",
            hint="find out which is right and write the file again; volumes in ml would be wrong.",
        )


def _qform(header: bytes, order: str) -> np.ndarray:
    """Return the matrix of NIfTI's method 2: a quaternion, a place, and the voxel's sides; qfac turns the third axis."""
    b, c, d, *place = struct.unpack_from(f"{order}6f", header, 256)
    qfac, *pixdim = struct.unpack_from(f"{order}4f", header, 76)
    rest = 1 - b * b - c * c - d * d  # a²; of a turn by 180° it is 0, and what float32 leaves of it would tilt the grid
    rotation = Rotation.from_quat([b, c, d, 0.0 if rest < _ROUNDED else np.sqrt(rest)]).as_matrix()
    matrix = np.eye(4)
    matrix[:3, :3] = rotation * [pixdim[0], pixdim[1], pixdim[2] * (-1 if qfac < 0 else 1)]
    matrix[:3, 3] = place
    return matrix


def _check_agreement(path: Path, qform: np.ndarray, sform: np.ndarray, sides: Sequence[int]) -> None:
    """Refuse a file that states two places: readers take one or the other, and a mask would lie beside its scan."""
    corners = np.array([[*corner, 1] for corner in product(*((0, side - 1) for side in sides))], dtype=np.float64)
    apart_mm = float(np.linalg.norm((corners @ (qform - sform).T)[:, :3], axis=1).max())
    if apart_mm > _APART_VOXELS * np.linalg.norm(sform[:3, :3], axis=0).min():
        raise GeometryError(
            f"{path} states two places that lie up to {apart_mm:.3g} mm apart: qform and sform differ.",
            hint="find out which is right and write the file again with that one in both.",
        )


def _check_nrrd(file: BinaryIO, path: Path) -> None:
    fields = {}
    for raw in file:
        line = raw.decode("utf-8", errors="replace").strip()
        if not line:
            break
        if match := re.match(r"([^#:=][^:=]*): (.*)", line):
            fields[match[1].lower()] = match[2]
    missing = [name for name in ("space", "space directions", "space origin") if name not in fields]
    if fields.get("dimension") != "3":
        return  # the reader refuses it, for the better reason
    if missing:
        raise _no_place(path, f"the header has no '{missing[0]}'")
    if fields["space"].upper() not in _NRRD_SPACES:
        raise _no_place(
            path, f"its space is '{fields['space']}', expected one of left/right-posterior/anterior-superior"
        )
    units = [unit for unit in re.findall(r'"([^"]*)"', fields.get("space units", "")) if unit.lower() not in _NRRD_MM]
    if units:
        raise GeometryError(
            f"{path} states lengths in '{units[0]}' (space units); expected mm.",
            hint="write it again in mm: readers take its numbers for mm, and volumes in ml would be wrong.",
        )
    attached = "data file" not in fields and "datafile" not in fields
    if attached and fields.get("encoding", "") in ("gzip", "gz"):
        _unpack(file, path)


def _check_metaimage(file: BinaryIO, path: Path) -> None:
    fields = {}
    for raw in file:
        key, _, value = raw.decode("utf-8", errors="replace").partition("=")
        fields[key.strip()] = value.strip()
        if key.strip() == "ElementDataFile":
            break
    if fields.get("NDims") != "3":
        return
    if not {"ElementSpacing", "ElementSize"} & fields.keys():
        raise _no_place(path, "the header has no 'ElementSpacing'")
    if not {"TransformMatrix", "Rotation", "Orientation"} & fields.keys():
        raise _no_place(path, "the header has no 'TransformMatrix'")
    if not {"Offset", "Position", "Origin"} & fields.keys():
        raise _no_place(path, "the header has no 'Offset'")
    _check_meta_scale(path, fields)
    if fields.get("ElementDataFile") != "LOCAL":
        return
    if fields.get("CompressedData") == "True":
        _unpack(file, path)
        return
    voxels = int(np.prod([int(side) for side in re.findall(r"\d+", fields.get("DimSize", ""))], dtype=np.int64))
    needed = voxels * _META_BYTES.get(fields.get("ElementType", ""), 0)
    if path.stat().st_size - file.tell() < needed:
        raise _ends_early(path, f"expected {needed} bytes of voxels, got {path.stat().st_size - file.tell()}")


def _check_meta_scale(path: Path, fields: Mapping[str, str]) -> None:
    """Refuse a slope or an offset: ITK leaves them out, and CT would not be in HU."""
    slope = fields.get("ElementToIntensityFunctionSlope", "1")
    offset = fields.get("ElementToIntensityFunctionOffset", "0")
    if not (re.fullmatch(r"\+?1(\.0*)?", slope) and re.fullmatch(r"[+-]?0(\.0*)?", offset)):
        raise InputError(
            f"{path} states a slope of {slope} and an offset of {offset} (ElementToIntensityFunction…), which are not applied.",
            hint="write it again with the values themselves.",
            code="unreadable",
        )


def _unpack(
    file: BinaryIO, path: Path, on_data: Callable[[bytes], None] = lambda data: None
) -> tuple[bytes, int]:  # fmt: skip
    """Unpack a gzip or zlib stream to its end; return its first bytes and its length. Checksums are compared.

    What is unpacked is shown to `on_data`, piece by piece, and not kept.
    """
    header, length = b"", 0
    decoder = zlib.decompressobj(zlib.MAX_WBITS | 32)  # 32: gzip or zlib, whichever it is
    try:
        while chunk := file.read(_CHUNK_BYTES):
            if decoder.eof:  # zeros may follow, to fill a block
                chunk = chunk.lstrip(b"\0")
            while chunk:
                if decoder.eof:  # gzip allows several members one after the other
                    decoder = zlib.decompressobj(zlib.MAX_WBITS | 32)
                data = decoder.decompress(chunk)
                header = header if len(header) >= _NIFTI1_BYTES else (header + data)[:_NIFTI1_BYTES]
                length += len(data)
                on_data(data)
                chunk = decoder.unused_data.lstrip(b"\0")
    except zlib.error as error:
        raise InputError(
            f"{path} is damaged: its compressed data do not unpack ({error}).", hint=_COPY_AGAIN, code="unreadable"
        ) from None
    if not decoder.eof:
        raise _ends_early(path, f"its compressed data stop after {length} unpacked bytes")
    return header, length


_COPY_AGAIN = "copy or export the file again."
_WRITE_AGAIN = "write it again with spacing and orientation, for example from 3D Slicer."


def _ends_early(path: Path, found: str) -> InputError:
    return InputError(f"{path} ends early: {found}.", hint=_COPY_AGAIN, code="unreadable")


def _no_place(path: Path, found: str) -> GeometryError:
    return GeometryError(
        f"{path} does not say where its voxels lie: {found}.",
        hint=_WRITE_AGAIN,
    )
