"""From residuals to the refined mask on the scan's own grid; another mixture of the same residuals costs no network."""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from DiffuGTSLib.config import ResidualConfig
from DiffuGTSLib.masks import drop_small, fine_threshold
from DiffuGTSLib.residual import ResidualMaps
from DiffuGTSLib.volumes import CanonicalScan
from DiffuGTSLib.volumes.boxes import bounding_box
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
        parts, _ = label_lesions(drawn[box])
        nearest = ndimage.distance_transform_edt(
            parts == 0, self.scan.source.spacing_mm, return_distances=False, return_indices=True
        )
        parts, inside, own = parts[tuple(nearest)], self.inside[box], np.full(residual.shape, np.inf, dtype=np.float32)
        for number, where in enumerate(ndimage.find_objects(parts), start=1):
            part = (parts[where] == number) & inside[where]
            if part.any():
                own[box][where][part] = fine_threshold(residual[box][where], part, mixture)
        return own

    def cut(self, residual: np.ndarray, threshold: float | np.ndarray) -> np.ndarray:
        """Return what lies above a threshold, boolean: inside the grown candidate, without small parts."""
        return drop_small((residual > threshold) & self.inside, self.scan.source.spacing_mm, self.minimum_ml)
