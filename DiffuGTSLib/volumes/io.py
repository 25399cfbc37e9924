"""Scans and masks from and to files. The only place in the library that knows LPS and (k, j, i).

SimpleITK does the file work: NIfTI, NRRD, MetaImage, and DICOM folders. Its world is LPS and its numpy
arrays run (k, j, i); ours is RAS and (i, j, k).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from DiffuGTSLib.errors import GeometryError, InputError
from DiffuGTSLib.storage import require_name, whole_file
from DiffuGTSLib.volumes.dicom import (
    GAP_TOLERANCE,
    Series,
    Slice,
    ordered_slices,
    stored_files,
    the_scan,
    without_warnings,
)
from DiffuGTSLib.volumes.intact import require_intact
from DiffuGTSLib.volumes.volume import ORTHOGONALITY_TOLERANCE, Geometry, Volume, require_same_grid

READ_SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd")
WRITTEN_SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".mha")

_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_FLOAT32_EXACT = 1 << 24
_NEOPLASM = (
    "Segmentation category and type - DICOM master list"
    "~SCT^49755003^Morphologically Altered Structure~SCT^108369006^Neoplasm~^^"
    "~Anatomic codes - DICOM master list~^^~^^"
)


def scan_name(path: Path) -> str:
    """Return what a scan is called: its file's name without the suffix, however many points are in it."""
    suffix = next((known for known in READ_SUFFIXES if path.name.lower().endswith(known)), path.suffix)
    return path.name[: len(path.name) - len(suffix)]


def is_image(path: Path) -> bool:
    """Tell whether a file's name is an image's; macOS leaves `._name` beside what it packs."""
    return path.name.lower().endswith(READ_SUFFIXES) and not path.name.startswith(".")


@dataclass(frozen=True)
class Source:
    """What a scan is read from, looked up once for all that is done with it: a DICOM series has hundreds of headers.

    Attributes:
        path: The file, or the folder of the series.
        slices: Of the series, in order; none of a file.
        modality: Of the series.
    """

    path: Path
    slices: tuple[Slice, ...] = ()
    modality: str | None = None

    @property
    def name(self) -> str:
        """Of the file, or of the folder."""
        return self.path.name

    @property
    def files(self) -> list[Path]:
        """The files by which the scan is known; of a header whose voxels lie in another file, the header alone."""
        return [Path(each.file) for each in self.slices] or [self.path]


def find_source(path: Path | str | Source) -> Source:
    """Return what a scan is read from: a file, or of a DICOM folder its one series in slice order.

    Raises:
        InputError: If it is not there (code "missing"), or a folder is no one series.
        GeometryError: If the slices do not make a box.
    """
    if isinstance(path, Source):
        return path
    path = Path(path)
    with _reading(path):
        if not path.is_dir():
            return Source(path)
        series = the_scan(path)
        return Source(path, tuple(ordered_slices(series)), series.modality)


def read_volume(path: Path | str | Source) -> Volume:
    """Read a scan from a NIfTI, NRRD or MetaImage file, or from a folder that holds one DICOM series.

    Voxels become float32: whole numbers are kept exactly (refused where float32 could not), float64 is
    rounded. Slope and intercept of NIfTI and DICOM are applied to what is stored, also where DICOM says that the largest
    value is black (MONOCHROME1). The modality is known for DICOM only.

    Raises:
        InputError: If the path is missing, of unknown format, damaged, or not one value a voxel in 3D.
        GeometryError: If the file's axes are sheared, singular or unstated, or DICOM slices do not make a box.
    """
    source = find_source(path)
    path, image = source.path, _read(source)
    voxels = np.transpose(sitk.GetArrayViewFromImage(image))
    if (
        voxels.dtype.kind in "iu"
        and voxels.itemsize > 2
        and max(-int(voxels.min()), int(voxels.max())) > _FLOAT32_EXACT
    ):
        raise InputError(
            f"{path} holds whole numbers from {voxels.min()} to {voxels.max()}; beyond ±{_FLOAT32_EXACT} they cannot be kept exactly.",
            hint="check for a padding value, and write the scan as 16-bit or floating point.",
        )
    return Volume(voxels.astype(np.float32, order="C"), _geometry(image, path), source.modality)


def read_geometry(path: Path | str) -> Geometry:
    """Read a scan's grid from its header, or from those of its slices: no voxel is read.

    Raises:
        InputError: If the path is missing, of unknown format, or not one value a voxel in 3D.
        GeometryError: As `read_volume`.
    """
    source = find_source(path)
    with _reading(source.path):
        if source.slices:
            return _stacked(source.slices)
        _require_suffix(source.path, READ_SUFFIXES)
        return _geometry(_header(source.path), source.path)


def read_series(series: Series) -> Volume:
    """Read one DICOM series, for folders that hold several; see `DiffuGTSLib.volumes.dicom.list_series`.

    Raises:
        InputError: If a file is damaged, or not one value a voxel.
        GeometryError: If the slices do not make a box.
    """
    folder = Path(series.files[0]).parent
    with _reading(folder):
        image = _read_slices(ordered_slices(series))
    voxels = np.transpose(sitk.GetArrayViewFromImage(image))
    return Volume(voxels.astype(np.float32, order="C"), _geometry(image, folder), series.modality)


def read_mask(path: Path | str, like: Geometry, values: Sequence[int] = ()) -> Volume:
    """Read a mask on the scan's own grid as uint8: every label above 0 becomes 1, or of a label map some of them.

    Args:
        path: The mask, or a label map.
        like: The scan's grid.
        values: The labels that become 1; none for every one above 0.

    Raises:
        InputError: As `read_volume`; also if voxels are not the whole numbers 0, 1, 2…
        GeometryError: If the mask lies on another grid than the scan.
    """
    voxels = read_labels(path, like).array
    chosen = np.isin(voxels, values) if values else voxels > 0
    return Volume(chosen.astype(np.uint8), like)


def read_labels(path: Path | str, like: Geometry) -> Volume:
    """Read a label map on the scan's own grid, in the file's own type.

    Raises:
        InputError: As `read_volume`; also if voxels are not the whole numbers 0, 1, 2…
        GeometryError: If the map lies on another grid than the scan.
    """
    path = Path(path)
    image = _read(find_source(path))
    voxels = np.transpose(sitk.GetArrayFromImage(image))
    require_labels(voxels, path, "mask")
    require_same_grid(like, _geometry(image, path), "mask")
    return Volume(voxels, like)


def require_labels(voxels: NDArray[Any], path: Path, what: str) -> None:
    """Refuse what a file holds instead of labels.

    Raises:
        InputError: If voxels are not the whole numbers 0, 1, 2…; what the file should be is named (code "not_a_mask").
    """
    if voxels.min() < 0 or not np.array_equal(voxels, np.round(voxels)):
        raise InputError(
            f"{path} is not a {what}: expected the labels 0, 1, 2…, got values from {voxels.min()} to {voxels.max()}.",
            hint="was the scan given in place of its mask, or a probability map?",
            code="not_a_mask",
        )


def write_volume(volume: Volume, path: Path | str, *, compressed: bool = True) -> None:
    """Write voxels, in their own type, and their grid to .nii.gz, .nii, .nrrd or .mha.

    NIfTI keeps the matrix as float32: a grid comes back within 1e-4 mm, from the others within 1e-9 mm.

    Args:
        volume: Any.
        path: Where to.
        compressed: Off is several times faster, for a file that is read once and deleted; .nii.gz stays gzip.

    Raises:
        InputError: If the suffix is another one.
        StorageError: If the folder is missing or not writable, or the disk is full. Nothing is left behind.
    """
    _write(_image(volume), Path(path), WRITTEN_SUFFIXES, compressed)


def write_segmentation(mask: Volume, path: Path | str, segment_name: str, color: tuple[float, float, float]) -> None:
    """Write a mask as a 3D Slicer segmentation (.seg.nrrd) of one neoplasm segment, marked as in progress.

    Args:
        mask: 0 and 1.
        path: Ends in .seg.nrrd.
        segment_name: What Slicer shows; may be in any language.
        color: Red, green, blue, each 0 to 1.

    Raises:
        InputError: If the suffix, the name, the color or the mask's values are not as above.
        StorageError: As `write_volume`.
    """
    if not segment_name.strip() or min(color) < 0 or max(color) > 1:
        raise InputError(f"Expected a segment name and a color of 0 to 1, got '{segment_name}' and {color}.")
    if not np.isin(mask.array, (0, 1)).all():
        raise InputError(
            f"Expected a mask of 0 and 1, got values from {mask.array.min()} to {mask.array.max()}.", code="not_a_mask"
        )
    image = _image(mask.with_array(mask.array.astype(np.uint8)))
    extent = " ".join(f"0 {side - 1}" for side in mask.geometry.shape)
    header = {
        "Segment0_ID": "Segment_1",
        "Segment0_Name": " ".join(segment_name.split()),
        "Segment0_NameAutoGenerated": "0",
        "Segment0_Color": " ".join(f"{channel:.6g}" for channel in color),
        "Segment0_ColorAutoGenerated": "0",
        "Segment0_LabelValue": "1",
        "Segment0_Layer": "0",
        "Segment0_Extent": extent,
        "Segment0_Tags": f"Segmentation.Status:inprogress|TerminologyEntry:{_NEOPLASM}|",
        "Segmentation_ContainedRepresentationNames": "Binary labelmap|",
        "Segmentation_MasterRepresentation": "Binary labelmap",  # read by Slicer before 5.2
        "Segmentation_SourceRepresentation": "Binary labelmap",
        "Segmentation_ReferenceImageExtentOffset": "0 0 0",
    }
    for key, value in header.items():
        image.SetMetaData(key, value)
    _write(image, Path(path), (".seg.nrrd",))


def _read(source: Source) -> sitk.Image:
    """Return a 3D image of one value a voxel."""
    with _reading(source.path):
        if source.slices:
            return _read_slices(source.slices)
        _require_suffix(source.path, READ_SUFFIXES)
        require_intact(source.path)
        return _read_file(source.path)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Refuse a path that is not there or cannot be read, whatever says so and in whichever of its files."""
    try:
        require_name(path)
        if not path.exists():
            raise _missing(path)
        with without_warnings():
            yield
    except RuntimeError as error:
        raise _unreadable(path, error) from error
    except OSError as error:
        raise InputError(
            f"{error.filename or path} cannot be read: {error.strerror or error}.",
            hint="check that you may read it, and its disk.",
            code="unreadable",
        ) from error


def _read_slices(slices: Sequence[Slice]) -> sitk.Image:
    reader = sitk.ImageSeriesReader()
    # Without it the first slice's type would cut the fractions off later slices with another rescale slope.
    reader.SetOutputPixelType(sitk.sitkFloat32)
    with stored_files(slices) as files:
        reader.SetFileNames(files)
        image: sitk.Image = reader.Execute()
    _require_place(image, slices)
    return image


def _require_place(image: sitk.Image, slices: Sequence[Slice]) -> None:
    """Refuse a box whose first or last slice is not where its file says; between them `ordered_slices` has looked.

    Raises:
        GeometryError: If one strays by more than the uneven spacing that is allowed.
    """
    allowed_mm = GAP_TOLERANCE * image.GetSpacing()[2]
    for index in (0, len(slices) - 1):
        strayed_mm = float(np.linalg.norm(image.TransformIndexToPhysicalPoint((0, 0, index)) - slices[index].position))
        if strayed_mm > allowed_mm:
            raise GeometryError(
                f"{slices[index].name} was read {strayed_mm:.4g} mm from where it says that it lies "
                f"(allowed {allowed_mm:.4g} mm).",
                hint="load it in 3D Slicer and save the volume as .nrrd.",
            )


def _stacked(slices: Sequence[Slice]) -> Geometry:
    """Return the box that slices in order make."""
    first, last = slices[0], slices[-1]
    columns, rows, horizontal_mm, vertical_mm = first.grid
    matrix = np.eye(4)
    matrix[:3, 0], matrix[:3, 1] = first.row * horizontal_mm, first.column * vertical_mm
    normal = np.cross(first.row, first.column)  # slices may lie a little aside of it, and the reader straightens them
    matrix[:3, 2] = normal * (normal @ (last.position - first.position)) / (len(slices) - 1)
    matrix[:3, 3] = first.position
    return Geometry((columns, rows, len(slices)), _LPS_TO_RAS @ matrix)


def _missing(path: Path) -> InputError:
    return InputError(
        f"{path} does not exist.", hint="check the spelling and that the disk is connected.", code="missing"
    )


def _read_file(path: Path) -> sitk.Image:
    image: sitk.Image = _header(path).Execute()
    return image


def _header(path: Path) -> sitk.ImageFileReader:
    """Return a reader that knows the header of a 3D image of one value a voxel."""
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    size = reader.GetSize()
    kind = sitk.GetPixelIDValueAsString(reader.GetPixelID())
    if reader.GetNumberOfComponents() != 1:
        raise InputError(
            f"{path}: expected one value a voxel, got {kind} ({reader.GetNumberOfComponents()} a voxel).",
            code="components",
        )
    if len(size) != 3:
        raise GeometryError(
            f"{path}: expected a 3D scan, got {len(size)} dimensions of {size} voxels.",
            hint="save one 3D volume of it, for example one time point.",
        )
    return reader


def _unreadable(path: Path, error: RuntimeError) -> InputError:
    if "orthonormal" in str(error) or "determinant" in str(error):
        return GeometryError(
            f"{path}: the voxel axes are sheared or singular; expected perpendicular axes.",
            hint="resample the scan to an orthogonal grid first, or export it again.",
        )
    return InputError(
        f"{path} cannot be read: {_last_line(error)}", hint="copy or export the file again.", code="unreadable"
    )


def _require_suffix(path: Path, known: tuple[str, ...]) -> str:
    suffix = next((s for s in known if path.name.lower().endswith(s)), None)
    if suffix is None:
        hint = "for DICOM pass the folder of the series." if path.suffix.lower() in (".dcm", ".ima", "") else ""
        raise InputError(f"{path}: unknown suffix; expected {', '.join(known)}.", hint=hint, code="suffix")
    return suffix


def _geometry(image: Any, path: Path) -> Geometry:
    """Return the grid of an image, or of a reader that knows its header."""
    matrix = np.eye(4)
    matrix[:3, :3] = perpendicular(np.reshape(image.GetDirection(), (3, 3))) * image.GetSpacing()
    matrix[:3, 3] = image.GetOrigin()
    try:
        return Geometry(image.GetSize(), _LPS_TO_RAS @ matrix)
    except GeometryError as error:
        raise GeometryError(f"{path}: {error.message}", hint=error.hint) from None


def perpendicular(direction: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the nearest perpendicular axes to some whose cosines were rounded; truly sheared ones as they are.

    Some formats store directions with five digits and NIfTI allows no shear at all: without this, what is written for a scan would
    lie on another grid than the scan does.
    """
    shear = float(np.abs(direction.T @ direction - np.eye(3)).max())
    if not _ROUNDED < shear <= ORTHOGONALITY_TOLERANCE:
        return direction
    left, _, right = np.linalg.svd(direction)
    return np.asarray(left @ right)


_ROUNDED = 1e-9


def _image(volume: Volume) -> sitk.Image:
    array: NDArray[Any] = volume.array
    if array.dtype == np.bool_:
        array = array.astype(np.uint8)
    elif array.dtype == np.float16:
        array = array.astype(np.float32)
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    image = sitk.GetImageFromArray(np.ascontiguousarray(np.transpose(array)))
    matrix = _LPS_TO_RAS @ volume.geometry.ijk_to_ras
    image.SetOrigin(matrix[:3, 3].tolist())
    image.SetSpacing(volume.geometry.spacing_mm)
    image.SetDirection((_LPS_TO_RAS[:3, :3] @ volume.geometry.direction).ravel().tolist())
    return image


def _write(image: sitk.Image, path: Path, known: tuple[str, ...], compressed: bool = True) -> None:
    """Write and check what arrived on the disk before the file gets its name."""
    require_name(path)
    _require_suffix(path, known)
    with whole_file(path) as temporary:
        try:
            with without_warnings():
                sitk.WriteImage(image, str(temporary), useCompression=compressed)
            require_intact(temporary)  # ITK's NIfTI writer says nothing when the disk is full
            voxel_bytes = image.GetNumberOfPixels() * image.GetSizeOfPixelComponent()
            if not compressed and temporary.suffix != ".gz" and temporary.stat().st_size < voxel_bytes:
                raise OSError(f"expected at least {voxel_bytes} bytes, got {temporary.stat().st_size}")
        except (RuntimeError, InputError) as error:
            raise OSError(_last_line(error)) from error


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
