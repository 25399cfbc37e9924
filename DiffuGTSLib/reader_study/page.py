"""The page of a reading session: one HTML file with every scan in it, which needs no network and no installation."""

import base64
import html
import json
import re
import zlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from DiffuGTSLib.errors import InputError
from DiffuGTSLib.reader_study.answers import SessionCard, session_record
from DiffuGTSLib.resources import resource_path

LARGEST_PAGE_MB = 400
"""Browsers refuse texts of more than about 512 MB."""


@dataclass(frozen=True)
class PackedScan:
    """A scan as the page carries it.

    Attributes:
        shape: Voxels along R, A, S.
        spacing_mm: Along R, A, S.
        text: The voxels, see `pack`.
    """

    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    text: str


def pack(array: Int[np.ndarray, "x y z"]) -> str:
    """Return 16-bit voxels as text: x fastest, low bytes and then high bytes, zlib, base64.

    The bytes are kept in two planes, since the high ones hardly change: about 1 MB for a CT cube of 96 voxels a side.
    """
    words = np.ascontiguousarray(array.transpose(2, 1, 0)).astype(np.int32) + 32768
    planes = np.stack([words & 255, words >> 8]).astype(np.uint8)
    return base64.b64encode(zlib.compress(planes.tobytes(), 9)).decode("ascii")


def page_text(card: SessionCard, scans: Iterable[PackedScan]) -> str:
    """Return the page.

    Every scan takes the same room: a smooth one compresses better, which must not show in the source.

    Raises:
        InputError: If the page would be too large for a browser.
    """
    scans = list(scans)
    room = max(len(scan.text) for scan in scans)
    size_mb = room * len(scans) / 1e6
    if size_mb > LARGEST_PAGE_MB:
        raise InputError(
            f"The page would have {size_mb:.0f} MB; browsers read up to about {LARGEST_PAGE_MB} MB.",
            hint="cut the scans with --crop-mm, or write none with --no-page and read in 3D Slicer.",
            code="page_size",
        )
    record = session_record(card) | {"grids": [{"shape": s.shape, "spacing_mm": s.spacing_mm} for s in scans]}
    blocks = [
        f'<script type="text/plain" id="scan-{number}">{scan.text.ljust(room)}</script>'
        for number, scan in enumerate(scans, start=1)
    ]
    filled = {
        "TITLE": html.escape(card.title),
        "STYLE": _resource("reading.css"),
        "SCRIPT": _resource("reading.js"),
        "SESSION": json.dumps(record).replace("<", "\\u003c"),
        "SCANS": "\n".join(blocks),
    }
    return re.sub(f"%({'|'.join(filled)})%", lambda place: filled[place[1]], _resource("reading.html"))


def _resource(name: str) -> str:
    return resource_path("Reading", name).read_text(encoding="utf-8")
