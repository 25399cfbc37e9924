"""Training windows for the AOVA head: real and painted tumors, healthy windows, and prompts that fit or do not."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from DiffuGTSLib.errors import InputError
from DiffuGTSLib.synthesis.anatomy import (
    remap_contrast,
    sharpen,
    strip_skull,
    thicken_slices,
    vary_intensity,
)
from DiffuGTSLib.synthesis.organs import Range
from DiffuGTSLib.training.data import Crop, TrainingScan, View, random_crop, random_view
from DiffuGTSLib.training.window_paint import (
    OTHER_ORGAN_SHIFT_HU,
    edge_blur_voxels,
    paint_decoys,
    paint_tumors,
    shift_organ,
    training_spec,
)

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
        anywhere: Share of windows from any place of a scan, where the prompted organ need not be: a whole scan is
            mostly such windows.
        turned: Share of windows that are turned and scaled.
        thick: Share of CT windows that are shown as thick slices are.
        thick_mr: Share of MR windows that are shown as thick slices are: the clinic's slices of a brain are 5 to 7 mm apart.
        sharp: Share of windows that are sharpened, as finer scans and harder kernels are.
        remapped: Share of MR windows that get another contrast.
        stripped: Share of the painted label maps of a head that show the brain alone.
        decoys: Share of the painted and healthy windows in which tubes are painted that are no tumors.
        further: How many other organs a window is asked about as well. The window is encoded once for all of them, and
            most of what a whole scan shows is not the organ that is asked for.
        phase: Share of CT windows in which the prompted organ is brighter or darker, as in another phase of the contrast
            agent; in as many, the other organs are, each for itself. Of windows around a real tumor, none.
    """

    real: float = 0.2
    healthy: float = 0.25
    anywhere: float = 0.3
    turned: float = 0.6
    thick: float = 0.25
    thick_mr: float = 0.4
    sharp: float = 0.2
    remapped: float = 0.35
    stripped: float = 0.4
    decoys: float = 0.45
    further: int = 0
    phase: float = 0.35


@dataclass(frozen=True, eq=False)
class Question:
    """What a window is asked, and what is known of the answer.

    Attributes:
        organ: The prompted organ.
        shown: Where it and its tumor are, (X, Y, Z); None where nobody outlined the organ.
        mask: Its tumor, (X, Y, Z); None where it may have one that nobody outlined.
    """

    organ: str
    shown: NDArray[np.bool_] | None
    mask: NDArray[np.bool_] | None

    def flipped(self, axis: int) -> Question:
        """Return the question about the mirrored window."""
        shown, mask = (None if known is None else np.flip(known, axis) for known in (self.shown, self.mask))
        return Question(self.organ, shown, mask)

    def within(self, kept: NDArray[np.bool_]) -> Question:
        """Return the question about a window of which only a part is left."""
        shown, mask = (None if known is None else known & kept for known in (self.shown, self.mask))
        return Question(self.organ, shown, mask)

    @property
    def abnormal(self) -> float:
        """Whether the prompted organ shows a tumor large enough to see; NaN where nobody knows."""
        return float("nan") if self.mask is None else float(self.mask.sum() >= MINIMUM_VOXELS)


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
        further: What else it is asked, see `questions`.
        real: Whether its tumor, if it shows one, is a patient's; False where it is a validation window, whose tumors are painted.
    """

    image: NDArray[np.float32]
    mask: NDArray[np.bool_]
    organ: str
    modality: str
    spacing_mm: tuple[float, float, float]
    inside: tuple[slice, slice, slice] = (slice(None), slice(None), slice(None))
    real: bool = True
    shown: NDArray[np.bool_] | None = None
    further: tuple[Question, ...] = ()

    @property
    def abnormal(self) -> bool:
        """Whether the prompted organ shows a tumor large enough to see."""
        return int(self.mask.sum()) >= MINIMUM_VOXELS

    @property
    def questions(self) -> tuple[Question, ...]:
        """All that it is asked."""
        return (Question(self.organ, self.shown, self.mask), *self.further)


class AnomalySampler:
    """Draws training windows from scans.

    Args:
        scans: On the canonical grid.
        side: Window side in voxels.
        mixture: Shares of the kinds of windows.
        radius_mm: Range of the painted tumors' radii, log-uniform; None takes that of the organ's file.

    Raises:
        InputError: If there is no organ to paint into; where nothing is painted, if no tumor is outlined either.
    """

    def __init__(
        self, scans: Sequence[TrainingScan], side: int, mixture: Mixture, radius_mm: Range | None = None
    ) -> None:
        self._side = side
        self._mixture = mixture
        self._with_tumor = [scan for scan in scans if scan.tumor.any()]
        self._known = {scan: organs for scan in scans if (organs := _known_organs(scan))}
        self._scans_known = list(self._known)
        self._outlined = frozenset().union(*(scan.outlined for scan in scans))
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
        specs = {organ: training_spec(organ) for organ in self._organs}
        self._specs = {organ: replace(spec, radius_mm=radius_mm or spec.radius_mm) for organ, spec in specs.items()}

    @property
    def organs(self) -> list[str]:
        """Organs that windows are asked about."""
        real = {scan.case.organ for scan in self._with_tumor}
        return sorted({*self._organs, *real, *itertools.chain(*self._known.values()), *self._outlined})

    def draw(self, rng: np.random.Generator) -> Sample:
        """Draw one window."""
        kind = rng.random()
        if self._with_tumor and kind < self._mixture.real:
            return self._real(rng)
        if self._scans_known and (kind > 1 - self._mixture.anywhere or not self._places):
            return self._anywhere(rng)
        return self._painted(rng)

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
        image = self._others_shifted(self._image(scan, view, rng), organ, scan, view, rng)
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
            image = shift_organ(image, shown, intensity, scan.scan.spacing_mm, rng)
        image = self._others_shifted(image, organ, scan, view, rng)
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
        modality, kept = scan.case.painted_as, np.ones_like(mask)
        if brain is not None and rng.random() < self._mixture.stripped:
            image, kept = strip_skull(image, view.cut(brain), rng)
            mask = mask & kept
        shown = (view.cut(scan.organs[organ]) | mask) & kept if organ in scan.outlined else None
        further = tuple(question.within(kept) for question in self._further(organ, mask, scan, view, rng))
        thick = self._mixture.thick if modality == "CT" else self._mixture.thick_mr
        if rng.random() < thick:
            image = thicken_slices(image, scan.scan.spacing_mm[2], rng)
        elif rng.random() < self._mixture.sharp:
            image = sharpen(image, rng)
        for axis, chance in ((0, 0.5), (1, 0.2), (2, 0.2)):  # left-right is plausible; the others break habits
            if rng.random() < chance:
                image, mask = np.flip(image, axis), np.flip(mask, axis)
                shown = None if shown is None else np.flip(shown, axis)
                further = tuple(question.flipped(axis) for question in further)
        image, mask = np.ascontiguousarray(image), np.ascontiguousarray(mask)
        return Sample(image, mask, organ, modality, scan.scan.spacing_mm, shown=shown, further=further)

    def _further(
        self, organ: str, mask: NDArray[np.bool_], scan: TrainingScan, view: Crop | View, rng: np.random.Generator
    ) -> tuple[Question, ...]:
        """Draw further questions; a tumor that was painted belongs to the first one's organ.

        Of an organ that may hold tumors nobody outlined, only where it is can be asked. Where no other organ is outlined, a
        window that shows a tumor is asked about any one: this is not its tumor.
        """
        healthy = scan.case.healthy_only_in or set(self.organs).difference(scan.case.unmarked_near)
        others = sorted(scan.outlined - {organ}) or [name for name in sorted(healthy) if name != organ and mask.any()]
        unmarked = scan.outlined.difference(self._known.get(scan, []))
        questions: list[Question] = []
        while others and len(questions) < self._mixture.further:
            other = one_organ(others, rng)
            others.remove(other)
            tumor = view.cut(scan.tumor) if other == scan.case.organ else np.zeros_like(mask)
            shown = view.cut(scan.organs[other]) | tumor if other in scan.outlined else None
            questions.append(Question(other, shown, None if other in unmarked else tumor))
        return tuple(questions)

    def _others_shifted(
        self, image: NDArray[np.float32], organ: str, scan: TrainingScan, view: Crop | View, rng: np.random.Generator
    ) -> NDArray[np.float32]:
        """Take the organs of a CT that are not asked for through other phases of the contrast agent, half of them each time."""
        if scan.case.painted_as != "CT" or rng.random() >= self._mixture.phase:
            return image
        box = view.crop if isinstance(view, View) else view
        for name in sorted(scan.outlined - {organ}):
            if rng.random() < 0.5 and box.cut(scan.organs[name]).any():
                shown = view.cut(scan.organs[name])
                image = shift_organ(image, shown, scan.scan.intensity, scan.scan.spacing_mm, rng, OTHER_ORGAN_SHIFT_HU)
        return image

    def _image(self, scan: TrainingScan, view: Crop | View, rng: np.random.Generator) -> NDArray[np.float32]:
        if scan.painted:
            return scan.paint_labels(view.cut(scan.scan.image.astype(np.uint8)).astype(np.float32), rng)
        image = view.cut(scan.scan.image)
        if scan.case.modality == "CT":
            return vary_intensity(image, rng, 0.1)
        image = vary_intensity(image, rng, 0.25)
        return remap_contrast(image, rng) if rng.random() < self._mixture.remapped else image


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

    Of the outlined tumor's own organ that holds even where nobody outlined the organ; so it does of a healthy scan's.
    """
    case = scan.case
    shown = [organ for organ, mask in scan.organs.items() if mask.any()]
    if case.organ and case.organ not in shown:
        shown.append(case.organ)
    if case.healthy_only_in:
        return [organ for organ in shown if organ in case.healthy_only_in]
    return [organ for organ in shown if organ not in case.unmarked_near]
