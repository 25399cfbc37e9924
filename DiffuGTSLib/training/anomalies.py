"""Training windows for the AOVA head: real and painted tumors, healthy windows, and prompts that fit or do not."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from DiffuGTSLib.errors import InputError
from DiffuGTSLib.resources import organ_names
from DiffuGTSLib.synthesis.anatomy import (
    remap_contrast,
    sharpen,
    strip_skull,
    thicken_slices,
    vary_intensity,
)
from DiffuGTSLib.synthesis.decoys import paint_tubes
from DiffuGTSLib.synthesis.handcrafted import HandcraftedPainter
from DiffuGTSLib.synthesis.organs import OrganSpec, organ_spec
from DiffuGTSLib.synthesis.outline import outline_tumor
from DiffuGTSLib.synthesis.painter import paint_outline
from DiffuGTSLib.synthesis.placement import NoPlace, place
from DiffuGTSLib.synthesis.shapes import SIZE_NAMES, draw_shape, size_of_radius
from DiffuGTSLib.training.data import Crop, TrainingScan, View, random_crop, random_view
from DiffuGTSLib.volumes.canonical import IntensityMap

MINIMUM_VOXELS = 8
"""A window with fewer tumor voxels than this counts as normal: nobody could see it."""
MINIMUM_ORGAN_VOXELS = 100
"""Of a scan that shows less healthy tissue of an organ, nothing is painted into it."""


@dataclass(frozen=True)
class Mixture:
    """How often which kind of window is drawn.

    Attributes:
        real: Share of windows around a real outlined tumor; 0 trains label-free.
        healthy: Share of the other windows that stay healthy.
        other_organ: Share of windows with a tumor whose prompt names another organ, so that nothing is to be found.
        anywhere: Share of windows from any place of a scan, where the prompted organ need not be: a whole scan is
            mostly such windows.
        turned: Share of windows that are turned and scaled.
        thick: Share of CT windows that are shown as thick slices are.
        thick_mr: Likewise of MR windows, where the clinic's slices of a brain are 5 to 7 mm apart.
        sharp: Share of windows that are sharpened, as finer scans and harder kernels are.
        remapped: Share of MR windows that get another contrast.
        stripped: Share of the painted label maps of a head that show the brain alone.
        decoys: Share of the painted and healthy windows in which tubes are painted that are no tumors.
        further: Share of windows that are asked about a second organ of their scan. The window is encoded once for both, and
            most of what a whole scan shows is not the organ that is asked for.
        phase: Share of CT windows in which the prompted organ is brighter or darker as a whole, as in another phase of
            the contrast agent; in as many, another organ is. Of windows around a real tumor, none.
    """

    real: float = 0.2
    healthy: float = 0.25
    other_organ: float = 0.05
    anywhere: float = 0.3
    turned: float = 0.6
    thick: float = 0.25
    thick_mr: float = 0.4
    sharp: float = 0.2
    remapped: float = 0.35
    stripped: float = 0.4
    decoys: float = 0.45
    further: float = 0.0
    phase: float = 0.35


@dataclass(frozen=True, eq=False)
class Question:
    """What else a window is asked: another organ, whose every tumor is known.

    Attributes:
        organ: The prompted organ.
        shown: Where it and its tumor are, (X, Y, Z).
        mask: Its tumor, (X, Y, Z).
    """

    organ: str
    shown: NDArray[np.bool_]
    mask: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Sample:
    """One training window.

    Attributes:
        image: (X, Y, Z) in [0, 1].
        mask: Tumor of the prompted organ, (X, Y, Z).
        organ: The prompted organ.
        modality: "CT" or "MR".
        spacing_mm: Of the voxels, (x, y, z).
        inside: The part that is scan; of a whole scan the rest is padding.
        shown: The prompted organ and its tumor, (X, Y, Z); None where nobody outlined the organ.
        further: What else it is asked; None where no other organ of the scan is outlined.
        real: Whether its tumor, if it shows one, is a patient's; False where windows of painted tumors are judged by.
    """

    image: NDArray[np.float32]
    mask: NDArray[np.bool_]
    organ: str
    modality: str
    spacing_mm: tuple[float, float, float]
    inside: tuple[slice, slice, slice] = (slice(None), slice(None), slice(None))
    real: bool = True
    shown: NDArray[np.bool_] | None = None
    further: Question | None = None

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
        InputError: If there is no organ to paint into; where nothing is painted, if no tumor is outlined either.
    """

    def __init__(self, scans: Sequence[TrainingScan], side: int, mixture: Mixture) -> None:
        self._side = side
        self._mixture = mixture
        self._with_tumor = [scan for scan in scans if scan.tumor.any()]
        self._known = {scan: organs for scan in scans if (organs := _known_organs(scan))}
        self._scans_known = list(self._known)
        # Organs that can be painted into. Within an organ, scans that show much of it are drawn more often.
        self._places: dict[str, list[tuple[TrainingScan, NDArray[np.intp]]]] = {}
        for scan in scans:
            for organ, mask in scan.organs.items():
                voxels = np.argwhere(mask & scan.healthy)
                if len(voxels) >= MINIMUM_ORGAN_VOXELS:
                    few = voxels[:: max(1, len(voxels) // 20000)].copy()  # a view would keep all of them alive
                    self._places.setdefault(organ, []).append((scan, few))
        seen_alone = mixture.healthy >= 1 and self._with_tumor and self._scans_known
        if not self._places and not seen_alone:
            raise InputError(
                f"None of {len(scans)} scans shows {MINIMUM_ORGAN_VOXELS} voxels of a healthy organ that a tumor could be painted into.",
                hint="name an organ, a label map or lung_by_air in the protocol's cases; where tumors alone are outlined, "
                "mode=seen learns from these and paints none.",
            )
        self._organs = sorted(self._places)
        self._scan_chances = {}
        for organ, places in self._places.items():
            shown = np.sqrt([scan.organs[organ].sum() for scan, _ in places])
            self._scan_chances[organ] = shown / shown.sum()
        self._specs = {organ: training_spec(organ) for organ in self._organs}

    @property
    def organs(self) -> list[str]:
        """Organs that windows are drawn for."""
        real = {scan.case.organ for scan in self._with_tumor}
        return sorted({*self._organs, *real, *itertools.chain(*self._known.values())})

    def draw(self, rng: np.random.Generator) -> Sample:
        """Draw one window."""
        kind = rng.random()
        if self._with_tumor and kind < self._mixture.real:
            sample = self._real(rng)
        elif self._scans_known and (kind > 1 - self._mixture.anywhere or not self._places):
            sample = self._anywhere(rng)
        else:
            sample = self._painted(rng)
        if sample.mask.any() and rng.random() < self._mixture.other_organ:
            others = [organ for organ in self.organs if organ != sample.organ]
            if others:
                other = others[rng.integers(len(others))]
                sample = replace(sample, mask=np.zeros_like(sample.mask), organ=other, shown=None)
        return sample

    def _real(self, rng: np.random.Generator) -> Sample:
        scan = self._with_tumor[rng.integers(len(self._with_tumor))]
        voxels = np.argwhere(scan.tumor)
        around = voxels[rng.integers(len(voxels))] if rng.random() < 0.85 else None
        view = self._view(random_crop(scan.scan.image.shape, self._side, rng, around, overhang=0.3), rng)
        return self._sample(self._image(scan, view, rng), view.cut(scan.tumor), scan.case.organ, scan, view, rng)

    def _anywhere(self, rng: np.random.Generator) -> Sample:
        scan = self._scans_known[rng.integers(len(self._scans_known))]
        organ = one_organ(self._known[scan], rng)
        view = self._view(random_crop(scan.scan.image.shape, self._side, rng), rng)
        image = self._another_organ_shifted(self._image(scan, view, rng), organ, scan, view, rng)
        mask = view.cut(scan.tumor) if organ == scan.case.organ else np.zeros(image.shape, dtype=bool)
        return self._sample(image, mask, organ, scan, view, rng)

    def _painted(self, rng: np.random.Generator) -> Sample:
        organ = one_organ(self._organs, rng)
        scan, voxels = self._places[organ][rng.choice(len(self._places[organ]), p=self._scan_chances[organ])]
        crop = random_crop(scan.scan.image.shape, self._side, rng, voxels[rng.integers(len(voxels))])
        view = self._view(crop, rng)
        image = self._image(scan, view, rng)
        mask = np.zeros(image.shape, dtype=bool)
        shown = view.cut(scan.organs[organ])
        intensity = scan.scan.intensity if scan.case.painted_as == "CT" else None
        blur_voxels = edge_blur_voxels(scan, rng)
        if intensity is not None and rng.random() < self._mixture.phase:
            image = shift_organ(image, shown, intensity, rng)
        image = self._another_organ_shifted(image, organ, scan, view, rng)
        if rng.random() < self._mixture.decoys:
            image = paint_decoys(image, shown, intensity, blur_voxels, scan.scan.spacing_mm, rng)
        if rng.random() >= self._mixture.healthy:
            count = 1 + int(rng.random() < 0.25) + int(rng.random() < 0.1)
            image, mask = paint_tumors(
                image, shown & view.cut(scan.healthy), self._specs[organ], count, intensity, scan.scan.spacing_mm, rng,
                blur_voxels,
            )  # fmt: skip
        # A real tumor that happens to lie in the window is one of the soft tissue, never of the painted organ.
        if organ == scan.case.organ:
            mask = mask | view.cut(scan.tumor)
        return self._sample(image, mask, organ, scan, view, rng)

    def _view(self, crop: Crop, rng: np.random.Generator) -> Crop | View:
        return random_view(crop, rng) if rng.random() < self._mixture.turned else crop

    def _sample(
        self,
        image: NDArray[np.float32],
        mask: NDArray[np.bool_],
        organ: str,
        scan: TrainingScan,
        view: Crop | View,
        rng: np.random.Generator,
    ) -> Sample:
        brain = scan.organs.get("brain") if scan.painted and scan.case.painted_as == "MR" else None
        if brain is not None and rng.random() < self._mixture.stripped:
            image, kept = strip_skull(image, view.cut(brain), rng)
            mask = mask & kept
        modality = scan.case.painted_as
        shown = (view.cut(scan.organs[organ]) | mask) if organ in scan.outlined else None
        further = self._further(organ, scan, view, rng)
        thick = self._mixture.thick if modality == "CT" else self._mixture.thick_mr
        if rng.random() < thick:
            image = thicken_slices(image, scan.scan.spacing_mm[2], rng)
        elif rng.random() < self._mixture.sharp:
            image = sharpen(image, rng)
        for axis, chance in ((0, 0.5), (1, 0.2), (2, 0.2)):  # left-right is plausible; the others break habits
            if rng.random() < chance:
                image, mask = np.flip(image, axis), np.flip(mask, axis)
                shown = None if shown is None else np.flip(shown, axis)
                if further is not None:
                    further = replace(further, shown=np.flip(further.shown, axis), mask=np.flip(further.mask, axis))
        image, mask = np.ascontiguousarray(image), np.ascontiguousarray(mask)
        return Sample(image, mask, organ, modality, scan.scan.spacing_mm, shown=shown, further=further)

    def _further(self, organ: str, scan: TrainingScan, view: Crop | View, rng: np.random.Generator) -> Question | None:
        """Draw a second question; a tumor that was painted belongs to the first one's organ."""
        others = [name for name in self._known.get(scan, []) if name in scan.outlined - {organ}]
        if not others or rng.random() >= self._mixture.further:
            return None
        other = one_organ(others, rng)
        shown = view.cut(scan.organs[other])
        mask = view.cut(scan.tumor) if other == scan.case.organ else np.zeros_like(shown)
        return Question(other, shown | mask, mask)

    def _another_organ_shifted(
        self, image: NDArray[np.float32], organ: str, scan: TrainingScan, view: Crop | View, rng: np.random.Generator
    ) -> NDArray[np.float32]:
        """Take one organ of a CT that is not asked for through another phase of the contrast agent."""
        if scan.case.painted_as != "CT" or rng.random() >= self._mixture.phase:
            return image
        box = view.crop if isinstance(view, View) else view
        others = [name for name in sorted(scan.outlined - {organ}) if box.cut(scan.organs[name]).any()]
        if not others:
            return image
        shown = view.cut(scan.organs[others[rng.integers(len(others))]])
        return shift_organ(image, shown, scan.scan.intensity, rng, OTHER_ORGAN_SHIFT_HU)

    def _image(self, scan: TrainingScan, view: Crop | View, rng: np.random.Generator) -> NDArray[np.float32]:
        if scan.painted:
            return scan.paint_labels(view.cut(scan.scan.image.astype(np.uint8)).astype(np.float32), rng)
        image = view.cut(scan.scan.image)
        if scan.case.modality == "CT":
            return vary_intensity(image, rng, 0.1)
        image = vary_intensity(image, rng, 0.25)
        return remap_contrast(image, rng) if rng.random() < self._mixture.remapped else image


EXOPHYTIC_CHANCE = 0.3
"""Share of training tumors that may leave their organ, whatever the organ, so that the head follows them out."""


def training_spec(organ: str) -> OrganSpec:
    """Return the organ's file with the chance of leaving the organ raised; unknown organs get the general file."""
    spec = organ_spec(organ if organ in organ_names() else "other")
    chances = {name: max(EXOPHYTIC_CHANCE, spec.exophytic_chance.get(name, 0.0)) for name in SIZE_NAMES}
    return replace(spec, exophytic_chance=chances)


def paint_tumors(
    image: NDArray[np.float32],
    organ: NDArray[np.bool_],
    spec: OrganSpec,
    count: int,
    intensity: IntensityMap | None,
    spacing_mm: tuple[float, float, float],
    rng: np.random.Generator,
    blur_voxels: float = 0.5,
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Paint tumors into a canonical window; those that find no place are left out.

    Args:
        image: (X, Y, Z) in [0, 1].
        organ: Where they may lie.
        spec: The organ; radii are log-uniform in its range, so that small tumors are as frequent as large ones.
        count: How many are tried.
        intensity: The CT's map from HU, through which it is painted; None for MR and painted anatomy.
        spacing_mm: Of the window.
        rng: Source of randomness.
        blur_voxels: Of the scan as it lies on the canonical grid; a tumor's edge is at least that soft.

    Returns:
        (painted image, tumor mask).
    """
    modality = "MR" if intensity is None else "CT"
    blur_mm = (blur_voxels * spacing_mm[0], blur_voxels * spacing_mm[1], blur_voxels * spacing_mm[2])
    native = image if intensity is None else intensity.to_native(image)
    image, mask = image.copy(), np.zeros(image.shape, dtype=bool)
    for _ in range(count):
        size = size_of_radius(float(np.exp(rng.uniform(*np.log(spec.radius_mm)))), spec.sizes)
        shape = draw_shape(size, rng)
        found = place(organ, shape.radius_mm, spacing_mm, rng)
        if isinstance(found, NoPlace):
            continue
        center = found.center_voxel
        outline = outline_tumor(
            native, organ, shape, center, spec, size.name, spacing_mm, modality, rng, sharpness_mm=blur_mm
        )
        if isinstance(outline, NoPlace):
            continue
        box, changed = outline.box, outline.share > 0
        painted = paint_outline(native[box], organ[box], outline, _PAINTER, spec, spacing_mm, modality, rng)
        unit = painted[changed] if intensity is None else intensity.to_unit(painted[changed])
        image[box][changed] = np.clip(unit, 0, 1)
        native = native.copy()
        native[box] = painted
        mask[box] |= outline.mask
    return image, mask


_PAINTER = HandcraftedPainter()

AERATED_UNIT = 0.15
"""An organ of a CT whose median is darker than this on the canonical scale (about -500 HU) is lung."""
OTHER_ORGAN_SHIFT_HU = (-30.0, 180.0)
"""Of an organ that is not asked for; kidneys in the arterial phase gain most."""
DECOY_HU = (-60.0, 220.0)
"""Vessels of the lung, from one that is thinner than a voxel's edge to one full of contrast agent."""


def edge_blur_voxels(scan: TrainingScan, rng: np.random.Generator) -> float:
    """Draw how soft edges are painted: about as soft as the scan's own on the canonical grid, which its voxels decide.

    Paint that is always sharper than its scan would be known by that alone.
    """
    if scan.painted:
        return float(rng.uniform(0.3, 0.8))  # of `paint_labels`
    coarse = max(1.0, float(np.mean(scan.scan.source.spacing_mm)) / float(np.mean(scan.scan.spacing_mm)))
    return float(rng.uniform(0.35, 0.55) * coarse)


def shift_organ(
    image: NDArray[np.float32],
    organ: NDArray[np.bool_],
    intensity: IntensityMap,
    rng: np.random.Generator,
    shift_hu: tuple[float, float] = (-30.0, 80.0),
) -> NDArray[np.float32]:
    """Make a solid organ of a CT brighter or darker as a whole; lung and an absent organ stay."""
    if not organ.any() or float(np.median(image[organ])) < AERATED_UNIT:
        return image
    share = ndimage.gaussian_filter(organ.astype(np.float32), 0.7)
    shifted = intensity.to_native(image) + np.float32(rng.uniform(*shift_hu)) * share
    return np.clip(intensity.to_unit(shifted), 0, 1)


def paint_decoys(
    image: NDArray[np.float32],
    organ: NDArray[np.bool_],
    intensity: IntensityMap | None,
    blur_voxels: float,
    spacing_mm: tuple[float, float, float],
    rng: np.random.Generator,
) -> NDArray[np.float32]:
    """Paint one to five tubes into an organ: in lung as dense as blood, elsewhere brighter or darker than the organ."""
    if not organ.any():
        return image
    count, around = int(rng.integers(1, 6)), float(np.median(image[organ]))
    if intensity is not None and around < AERATED_UNIT:
        level = float(intensity.to_unit(rng.uniform(*DECOY_HU, 1))[0])
    else:
        level = around + float(rng.choice((-1, 1, 1))) * rng.uniform(0.05, 0.5)
    painted = paint_tubes(image, organ, count, float(np.clip(level, 0, 1)), blur_voxels, spacing_mm, rng)
    return np.clip(painted, 0, 1)


_ORGAN_WEIGHT = {
    "brain": 8.0, "lung": 7.0, "liver": 6.0, "kidney": 4.0, "pancreas": 3.0, "colon": 2.5, "soft tissue": 2.0,
}  # fmt: skip
"""Organs that people ask for more often are drawn more often; not fitted."""


def one_organ(organs: Sequence[str], rng: np.random.Generator) -> str:
    """Draw one of some organs, what people ask for more often more often."""
    weights = np.array([_ORGAN_WEIGHT.get(organ, 1.0) for organ in organs])
    return organs[rng.choice(len(organs), p=weights / weights.sum())]


def _known_organs(scan: TrainingScan) -> list[str]:
    """Return the organs whose every tumor in the scan is outlined, so that any window may be asked about them.

    Of the outlined tumor's own organ that holds even where nobody outlined the organ.
    """
    case = scan.case
    shown = [organ for organ, mask in scan.organs.items() if mask.any()]
    if scan.tumor.any() and case.organ not in shown:
        shown.append(case.organ)
    if case.healthy_only_in:
        return [organ for organ in shown if organ in case.healthy_only_in]
    return [organ for organ in shown if organ not in case.unmarked_near]
