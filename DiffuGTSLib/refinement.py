"""From residuals to the refined mask on the scan's own grid; another mixture of the same residuals costs no network."""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from DiffuGTSLib.config import ResidualConfig
from DiffuGTSLib.masks import drop_small, fine_threshold
from DiffuGTSLib.residual import ResidualMaps
from DiffuGTSLib.volumes import CanonicalScan


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
        drawn: Whether a person drew the candidates. By the relative rule each is then measured by its own highest value:
            what was drawn is not to be dropped because another finding is stronger. What was only detected may be.
    """

    scan: CanonicalScan
    box: tuple[slice, slice, slice]
    candidate: np.ndarray
    inside: np.ndarray
    maps: ResidualMaps
    minimum_ml: float
    drawn: bool = False

    def outlined(self, mixture: ResidualConfig) -> tuple[np.ndarray, np.ndarray]:
        """Return mask (uint8) and fused residual (float32) of a mixture, both on the scan's own grid.

        The soft map is thresholded there, so that edges are not staircases of canonical voxels.
        """
        residual = self.scan.restore(self._fused(mixture))
        own = self.drawn and mixture.rule == "relative"
        threshold = self._own_thresholds(residual, mixture) if own else self.threshold(mixture)
        return self.cut(residual, threshold).astype(np.uint8), residual

    def threshold(self, mixture: ResidualConfig) -> float:
        """Return where a mixture is cut, by its rule."""
        return fine_threshold(self._fused(mixture), self.candidate, mixture)

    def _fused(self, mixture: ResidualConfig) -> np.ndarray:
        fused = np.zeros(self.scan.image.shape, dtype=np.float32)
        fused[self.box] = self.maps.fused(mixture).numpy()
        return fused

    def _own_thresholds(self, residual: np.ndarray, mixture: ResidualConfig) -> np.ndarray:
        """Return where each connected part (26 neighbors) of what may be reported is cut, on the scan's own grid."""
        parts, count = ndimage.label(self.inside, structure=np.ones((3, 3, 3)))
        highest = np.asarray(ndimage.maximum(residual, parts, np.arange(count + 1)), dtype=np.float32)
        own: np.ndarray = np.float32(mixture.threshold) * highest[parts]
        return own

    def cut(self, residual: np.ndarray, threshold: float | np.ndarray) -> np.ndarray:
        """Return what lies above a threshold, boolean: inside the grown candidate, without small parts."""
        return drop_small((residual > threshold) & self.inside, self.scan.source.spacing_mm, self.minimum_ml)
