"""Scans as they were brought to a training's grid, kept in files, so that no start brings them there twice.

Each is a safetensors file that is mapped into memory: the processes of a training share it, and what does not fit into
main memory is read from the disk when it is looked at.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from DiffuGTSLib import __version__
from DiffuGTSLib.errors import StorageError
from DiffuGTSLib.storage import json_sha256, make_folder, whole_file
from DiffuGTSLib.volumes import CanonicalScan, Geometry
from DiffuGTSLib.volumes.canonical import IntensityMap

FORMAT = 1
"""Counted up when a scan is prepared otherwise than before; what another version prepared is never taken."""


@dataclass(frozen=True, eq=False)
class Prepared:
    """What is kept of a scan.

    Attributes:
        arrays: By name. What is read from a file may be written to; the file stays as it is.
        facts: What else is known of it, in JSON's words.
    """

    arrays: dict[str, NDArray[Any]]
    facts: dict[str, Any]


@dataclass(frozen=True)
class PreparedFolder:
    """A folder of prepared scans. Several processes and trainings may use it at a time.

    Attributes:
        folder: Made when there is something to keep.
    """

    folder: Path

    def take(self, made_of: str, make: Callable[[], Prepared]) -> Prepared:
        """Return what is kept under a name; make and keep it first, where nothing is.

        Args:
            made_of: Digest of all that decides how it comes out, see `digest_of`.
            make: Makes it.

        Raises:
            StorageError: If it cannot be written, or what is there is damaged.
        """
        path = self.folder / f"{made_of}.safetensors"
        if not path.is_file():
            _write(path, make())
        return _read(path)


def digest_of(**made_of: Any) -> str:
    """Return a name for what is made of something: another one where that, the version or the way is another."""
    return json_sha256({"format": FORMAT, "version": __version__, **made_of})


def _write(path: Path, made: Prepared) -> None:
    tensors = {name: torch.from_numpy(np.array(array, order="C")) for name, array in made.arrays.items()}
    make_folder(path.parent)
    with whole_file(path) as temporary:
        save_file(tensors, temporary, metadata={"facts": json.dumps(made.facts)})


def _read(path: Path) -> Prepared:
    try:
        with safe_open(path, "pt") as file:
            return Prepared(
                {name: file.get_tensor(name).numpy() for name in file.keys()},  # noqa: SIM118 - not a mapping
                json.loads(file.metadata()["facts"]),
            )
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise StorageError(f"{path} is no prepared scan: {error}.", hint="remove it; it is made anew.") from error


def facts_of(scan: CanonicalScan) -> dict[str, Any]:
    """Return what a scan is beside its image."""
    return {
        "geometry": _grid(scan.geometry),
        "source": _grid(scan.source),
        "intensity": {"native": scan.intensity.native, "unit": scan.intensity.unit, "clip": scan.intensity.clip},
        "modality": scan.modality,
        "inside": scan.inside,
    }


def scan_of(image: NDArray[np.float32], facts: Mapping[str, Any]) -> CanonicalScan:
    """Return the scan of an image and of what `facts_of` told."""
    intensity = facts["intensity"]
    x, y, z = ((first, end) for first, end in facts["inside"])
    return CanonicalScan(
        image,
        _geometry(facts["geometry"]),
        _geometry(facts["source"]),
        IntensityMap(tuple(intensity["native"]), tuple(intensity["unit"]), intensity["clip"]),
        facts["modality"],
        (x, y, z),
    )


def _grid(geometry: Geometry) -> dict[str, Any]:
    return {"shape": geometry.shape, "ijk_to_ras": geometry.ijk_to_ras.tolist()}


def _geometry(grid: Mapping[str, Any]) -> Geometry:
    i, j, k = grid["shape"]
    return Geometry((i, j, k), np.array(grid["ijk_to_ras"]))
