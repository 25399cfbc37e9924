"""Scans: a grid with millimeters, files, and the way to the model's grid and exactly back."""

from DiffuGTSLib.volumes.canonical import CanonicalScan, to_canonical
from DiffuGTSLib.volumes.io import read_mask, read_volume, write_volume
from DiffuGTSLib.volumes.volume import Geometry, Volume

__all__ = ["CanonicalScan", "Geometry", "Volume", "read_mask", "read_volume", "to_canonical", "write_volume"]
