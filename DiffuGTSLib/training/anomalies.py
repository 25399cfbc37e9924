"""Training windows for the AOVA head: real and painted tumors, healthy windows, and prompts that fit or do not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from DiffuGTSLib.errors import InputError
from DiffuGTSLib.synthesis.anatomy import paint_anatomy, vary_intensity
from DiffuGTSLib.synthesis.handcrafted import paint_tumor
from DiffuGTSLib.training.data import Crop, TrainingScan, random_crop

MINIMUM_VOXELS = 8
"""A window with fewer tumor voxels than this counts as normal: nobody could see it."""


@dataclass(frozen=True)
class Mixture:
    """How often which kind of window is drawn.

    Attributes:
        real: Share of windows around a real outlined tumor; 0 trains label-free.
        healthy: Share of the other windows that stay healthy.
        other_organ: Share of windows with a tumor whose prompt names another organ, so that nothing is to be found.
    """

    real: float = 0.25
    healthy: float = 0.15
    other_organ: float = 0.05


@dataclass(frozen=True, eq=False)
class Sample:
    """One training window.

    Attributes:
        image: (X, Y, Z) in [0, 1].
        mask: Tumor of the prompted organ, (X, Y, Z).
        organ: The prompted organ.
        modality: "CT" or "MR".
    """

    image: NDArray[np.float32]
    mask: NDArray[np.bool_]
    organ: str
    modality: str

    @property
    def abnormal(self) -> bool:
        """Whether the prompted organ shows a tumor large enough to see."""
        return int(self.mask.sum()) >= MINIMUM_VOXELS


class AnomalySampler:
    """Draws training windows from scans.

    Args:
        scans: On the canonical grid.
        side: Window side in voxels.
        mixture: Shares of the kinds of windows.

    Raises:
        InputError: If there is no organ to paint into.
    """

    def __init__(self, scans: Sequence[TrainingScan], side: int, mixture: Mixture) -> None:
        self._side = side
        self._mixture = mixture
        self._with_tumor = [scan for scan in scans if scan.tumor.any()]
        # Organs that can be painted into, each organ of each scan an equal chance within its organ, organs alike.
        self._places: dict[str, list[tuple[TrainingScan, NDArray[np.intp]]]] = {}
        for scan in scans:
            for organ, mask in scan.organs.items():
                voxels = np.argwhere(mask & scan.healthy)
                if len(voxels) >= 100:
                    self._places.setdefault(organ, []).append((scan, voxels[:: max(1, len(voxels) // 20000)]))
        if not self._places:
            raise InputError(
                f"None of {len(scans)} scans shows 100 voxels of a healthy organ that a tumor could be painted into.",
                hint="name an organ, a label map or lung_by_air in the protocol's cases.",
            )
        self._organs = sorted(self._places)
        weights = np.array([_ORGAN_WEIGHT.get(organ, 1.0) for organ in self._organs])
        self._chances = weights / weights.sum()

    @property
    def organs(self) -> list[str]:
        """Organs that windows are drawn for."""
        real = {scan.case.organ for scan in self._with_tumor}
        return sorted({*self._organs, *real})

    def draw(self, rng: np.random.Generator) -> Sample:
        """Draw one window."""
        if self._with_tumor and rng.random() < self._mixture.real:
            sample = self._real(rng)
        else:
            sample = self._painted(rng)
        if sample.mask.any() and rng.random() < self._mixture.other_organ:
            others = [organ for organ in self.organs if organ != sample.organ]
            if others:
                other = others[rng.integers(len(others))]
                sample = Sample(sample.image, np.zeros_like(sample.mask), other, sample.modality)
        return sample

    def _real(self, rng: np.random.Generator) -> Sample:
        scan = self._with_tumor[rng.integers(len(self._with_tumor))]
        voxels = np.argwhere(scan.tumor)
        around = voxels[rng.integers(len(voxels))] if rng.random() < 0.85 else None
        crop = random_crop(scan.scan.image.shape, self._side, rng, around, overhang=0.3)
        image = vary_intensity(crop.cut(scan.scan.image), rng)
        return _mirrored(image, crop.cut(scan.tumor), scan.case.organ, scan.scan.modality, rng)

    def _painted(self, rng: np.random.Generator) -> Sample:
        organ = self._organs[rng.choice(len(self._organs), p=self._chances)]
        scan, voxels = self._places[organ][rng.integers(len(self._places[organ]))]
        crop = random_crop(scan.scan.image.shape, self._side, rng, voxels[rng.integers(len(voxels))])
        image = self._image(scan, crop, rng)
        place = crop.cut(scan.organs[organ] & scan.healthy)
        mask = np.zeros(image.shape, dtype=bool)
        if rng.random() >= self._mixture.healthy:
            for _ in range(1 + int(rng.random() < 0.25) + int(rng.random() < 0.1)):
                intensity = scan.scan.intensity if scan.case.modality == "CT" else None
                painted = paint_tumor(image, place, organ, intensity, scan.scan.spacing_mm, rng)
                if painted is not None:
                    image, mask = painted[0], mask | painted[1]
        modality = "CT" if scan.case.modality == "CT" else "MR"
        # A real tumor that happens to lie in the window is one of the soft tissue, never of the painted organ.
        if organ == scan.case.organ:
            mask = mask | crop.cut(scan.tumor)
        return _mirrored(image, mask, organ, modality, rng)

    @staticmethod
    def _image(scan: TrainingScan, crop: Crop, rng: np.random.Generator) -> NDArray[np.float32]:
        window = crop.cut(scan.scan.image)
        return paint_anatomy(window, rng) if scan.case.modality == "labels" else vary_intensity(window, rng)


_ORGAN_WEIGHT = {"lung": 8.0, "brain": 3.0, "soft tissue": 2.0, "liver": 3.0, "kidney": 1.5}
"""Organs that people ask for more often are drawn more often; not fitted."""


def _mirrored(
    image: NDArray[np.float32], mask: NDArray[np.bool_], organ: str, modality: str, rng: np.random.Generator
) -> Sample:
    for axis, chance in ((0, 0.5), (1, 0.2), (2, 0.2)):  # left-right is plausible; the others break habits
        if rng.random() < chance:
            image, mask = np.flip(image, axis), np.flip(mask, axis)
    return Sample(np.ascontiguousarray(image), np.ascontiguousarray(mask), organ, modality)
