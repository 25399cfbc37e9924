"""Finds the files that are not code: the same relative place in a clone, in a wheel and in Slicer."""

from __future__ import annotations

from pathlib import Path

from DiffuGTSLib.errors import InputError

_PACKAGE = Path(__file__).resolve().parent


def resource_path(*parts: str) -> Path:
    """Return the path of one resource, for example `resource_path("Presets", "mini.json")`.

    In a wheel `Resources` lies inside the package; in a clone and in a Slicer extension it lies beside it.

    Raises:
        InputError: If there is no such resource; the message names the places that were looked at.
    """
    places = [_PACKAGE / "Resources", _PACKAGE.parent / "Resources"]
    for place in places:
        path = place.joinpath(*parts)
        if path.exists():
            return path
    looked = ", ".join(str(place) for place in places)
    raise InputError(
        f"Resource '{'/'.join(parts)}' not found; looked in {looked}.",
        hint="the installation is incomplete: install DiffuGTS again.",
        code="resource_missing",
    )


def organ_names() -> tuple[str, ...]:
    """Return the organs with a bundled organ file, see `synthesis/organs.py`, in alphabetical order."""
    return tuple(sorted(path.stem.replace("_", " ") for path in resource_path("Organs").glob("*.json")))
