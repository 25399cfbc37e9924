"""From residuals to the refined mask on the scan's own grid; another mixture of the same residuals costs no network."""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.spatial import KDTree

from DiffuGTSLib.config import ResidualConfig
from DiffuGTSLib.masks import drop_small, fine_threshold
from DiffuGTSLib.residual import ResidualMaps
from DiffuGTSLib.volumes import CanonicalScan
from DiffuGTSLib.volumes.boxes import Box, bounding_box
from DiffuGTSLib.volumes.lesions import label_lesions


@dataclass(frozen=True, eq=False)
class Refinement:
    """What the refined mask of a repainted scan is made of.

    Attributes:
        scan: On the model's grid, with the way back.
        box: Of the repainted region, in canonical voxels.
        candidate: The grown candidate, on the whole canonical grid.
        inside: Where anything may be reported, on the scan's own grid.
        maps: Residuals of the box.
        minimum_ml: Smaller parts are dropped.
        drawn: The candidates that a person drew, on the scan's own grid, before they were grown; None where they were
            detected. By the rules that follow the values (relative, Otsu's) each drawn region is measured by its own, and
            so is what lies nearest to it: none is to be dropped because another is stronger. What was only detected may be.
    """

    scan: CanonicalScan
    box: tuple[slice, slice, slice]
    candidate: np.ndarray
    inside: np.ndarray
    maps: ResidualMaps
    minimum_ml: float
    drawn: np.ndarray | None = None

    def outlined(self, mixture: ResidualConfig) -> tuple[np.ndarray, np.ndarray]:
        """Return mask (uint8) and fused residual (float32) of a mixture, both on the scan's own grid.

        The soft map is thresholded there, so that edges are not staircases of canonical voxels.
        """
        fused, residual = self._fused(mixture), np.zeros(self.scan.source.shape, dtype=np.float32)
        for piece in self.scan.pieces(self.box):
            residual[piece] = self.scan.restore(fused, piece)
        if self.drawn is not None and mixture.rule != "fixed":
            return self.cut(residual, self._own_thresholds(self.drawn, residual, mixture)).astype(np.uint8), residual
        return self.cut(residual, self.threshold(mixture)).astype(np.uint8), residual

    def threshold(self, mixture: ResidualConfig) -> float:
        """Return where a mixture is cut, by its rule."""
        return fine_threshold(self._fused(mixture), self.candidate, mixture)

    def _fused(self, mixture: ResidualConfig) -> np.ndarray:
        fused = np.zeros(self.scan.image.shape, dtype=np.float32)
        fused[self.box] = self.maps.fused(mixture).numpy()
        return fused

    def _own_thresholds(self, drawn: np.ndarray, residual: np.ndarray, mixture: ResidualConfig) -> np.ndarray:
        """Return where each voxel is cut, on the scan's own grid: by the drawn region (26 neighbors) nearest to it."""
        box = bounding_box(self.inside | drawn)
        inside, own = self.inside[box], np.full(residual.shape, np.inf, dtype=np.float32)
        parts = _nearest_regions(drawn[box], inside, self.scan.source.spacing_mm)
        for number, where in enumerate(ndimage.find_objects(parts), start=1):
            part = (parts[where] == number) & inside[where]
            if part.any():
                own[box][where][part] = fine_threshold(residual[box][where], part, mixture)
        return own

    def cut(self, residual: np.ndarray, threshold: float | np.ndarray) -> np.ndarray:
        """Return what lies above a threshold, boolean: inside the grown candidate, without small parts."""
        return drop_small((residual > threshold) & self.inside, self.scan.source.spacing_mm, self.minimum_ml)


def _nearest_regions(drawn: np.ndarray, inside: np.ndarray, spacing_mm: tuple[float, float, float]) -> np.ndarray:
    """Number the drawn regions (26 neighbors), and what else lies inside as the one nearest to it.

    Only what lies inside is measured, not all that lies between regions far apart.
    """
    parts, count = label_lesions(drawn)
    near = np.argwhere(inside & (parts == 0))
    if len(near) and count:
        boxes = enumerate(ndimage.find_objects(parts), start=1)
        edge = np.concatenate([_edge(parts, number, box) for number, box in boxes])
        _, nearest = KDTree(edge * spacing_mm).query(near * spacing_mm)
        parts[tuple(near.T)] = parts[tuple(edge[nearest].T)]
    return parts


def _edge(parts: np.ndarray, number: int, box: Box) -> np.ndarray:
    """Return the voxels (n, 3) of a region that have a neighbor outside of it: to whatever lies there one of them is nearest."""
    own = parts[box] == number
    voxels: np.ndarray = np.argwhere(own & ~ndimage.binary_erosion(own)) + [side.start for side in box]
    return voxels
