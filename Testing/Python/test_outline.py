"""Where a tumor lies in a scan: kept inside its organ or not, in one piece, softened for the blend."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from DiffuGTSLib.synthesis.organs import OrganSpec, organ_spec
from DiffuGTSLib.synthesis.outline import LEAST_VOXELS, Outline, ends_of, outline_tumor, soften
from DiffuGTSLib.synthesis.placement import NoPlace, Placement, place
from DiffuGTSLib.synthesis.shapes import DIFFTUMOR_SIZES, TumorShape, draw_shape
from DiffuGTSLib.volumes.canonical import IntensityMap

SPACING = (2.0, 2.0, 3.0)
SHAPE = (50, 50, 36)


@pytest.fixture(scope="module")
def an_organ() -> np.ndarray:
    """A ball of 34 mm radius in the middle."""
    x, y, z = np.meshgrid(*((np.arange(n) - n // 2) * s for n, s in zip(SHAPE, SPACING, strict=True)), indexing="ij")
    return np.asarray(x**2 + y**2 + z**2 <= 34**2)


@pytest.fixture(scope="module")
def a_scan(an_organ: np.ndarray) -> np.ndarray:
    """An organ of 100 HU in fat, with a rib beside it and air above."""
    image = np.where(an_organ, 100.0, -90.0).astype(np.float32)
    image[:4] = 700
    image[:, :, -4:] = -1000
    return image


def outlined(
    image: np.ndarray,
    organ: np.ndarray,
    spec: OrganSpec,
    seed: int = 0,
    center: tuple[int, int, int] | None = None,
    radius_mm: float = 16.0,
    **options: object,
) -> Outline | NoPlace:
    rng = np.random.default_rng(seed)
    shape = TumorShape((radius_mm,) * 3, waviness=0.1)
    if center is None:
        found = place(organ, radius_mm, SPACING, rng)
        assert isinstance(found, Placement)
        center = found.center_voxel
    return outline_tumor(image, organ, shape, center, spec, "medium", SPACING, "CT", rng, **options)


def full(mask: np.ndarray, outline: Outline) -> np.ndarray:
    whole = np.zeros(SHAPE, mask.dtype)
    whole[outline.box] = mask
    return whole


def test_a_tumor_stays_inside_its_organ(a_scan: np.ndarray, an_organ: np.ndarray) -> None:
    for seed in range(20):
        outline = outlined(a_scan, an_organ, organ_spec("liver"), seed)
        assert isinstance(outline, Outline)
        assert not (full(outline.mask, outline) & ~an_organ).any()
        assert full(outline.share, outline)[~an_organ].max() == 0


def test_half_of_the_medium_tumors_of_a_kidney_grow_out_of_it(a_scan: np.ndarray, an_organ: np.ndarray) -> None:
    """At the organ's rim every tumor that may does: .5 ± .05 of 400."""
    rim, out = (25, 40, 18), []
    for seed in range(400):
        outline = outlined(a_scan, an_organ, organ_spec("kidney"), seed, rim, radius_mm=9.0)
        assert isinstance(outline, Outline)
        out.append((outline.mask & ~an_organ[outline.box]).any())
    assert np.mean(out) == pytest.approx(0.5, abs=0.05)


def test_an_exophytic_tumor_grows_neither_into_bone_nor_into_air(a_scan: np.ndarray, an_organ: np.ndarray) -> None:
    always = replace(organ_spec("kidney"), exophytic_chance={"medium": 1.0})
    for center in ((9, 25, 18), (25, 25, 28)):
        outline = outlined(a_scan, an_organ, always, 0, center)
        assert isinstance(outline, Outline)
        mask = full(outline.mask, outline)
        assert (mask & ~an_organ).any()
        assert a_scan[mask].max() < 300 and a_scan[mask].min() > -250


def test_in_a_clipped_image_it_does_not_either(a_scan: np.ndarray, an_organ: np.ndarray) -> None:
    """Air is -175 HU there and bone 250, each within what soft tissue may have elsewhere."""
    always = replace(organ_spec("kidney"), exophytic_chance={"medium": 1.0})
    window = IntensityMap((-175.0, 250.0), (0.0, 1.0), clip=True)
    clipped = window.to_native(window.to_unit(a_scan))
    for center in ((9, 25, 18), (25, 25, 28)):
        outline = outlined(clipped, an_organ, always, 0, center, clipped_at=ends_of(window))
        assert isinstance(outline, Outline)
        mask = full(outline.mask, outline)
        assert (mask & ~an_organ).any() and a_scan[mask].max() < 300 and a_scan[mask].min() > -250


def test_an_image_that_is_not_clipped_has_no_ends() -> None:
    assert ends_of(None) == ends_of(IntensityMap((0.0, 1.0), (0.0, 1.0), clip=False)) == (-np.inf, np.inf)


@pytest.mark.parametrize("gain", [1.0, 0.002])
def test_on_mr_an_exophytic_tumor_stays_out_of_the_black_around_the_head(an_organ: np.ndarray, gain: float) -> None:
    """Whatever the scan's units are: tissue of 300 and 200, a skull that gives no signal, and noisy air above."""
    noise = np.random.default_rng(1).rayleigh(3, SHAPE)
    tissue = np.where(an_organ, 300.0, 200.0)
    tissue[:4], tissue[:, :, -4:] = 0, 0
    image = (gain * (tissue + noise)).astype(np.float32)
    always = replace(organ_spec("brain"), exophytic_chance={"medium": 1.0})
    for center in ((9, 25, 18), (25, 25, 28)):
        rng = np.random.default_rng(0)
        outline = outline_tumor(image, an_organ, TumorShape((16.0,) * 3), center, always, "medium", SPACING, "MR", rng)
        assert isinstance(outline, Outline)
        mask = full(outline.mask, outline)
        assert (mask & ~an_organ).any() and tissue[mask].min() == 200


def test_holes_of_a_lung_mask_are_closed_and_its_border_crossed(a_scan: np.ndarray, an_organ: np.ndarray) -> None:
    """Vessels that a threshold leaves out of the mask lie inside the nodule; the aorta beside the lung does not."""
    lung = an_organ.copy()
    lung[24:26, 24:26] = False
    outline = outlined(a_scan, lung, organ_spec("lung"), 0, (22, 25, 18))
    assert isinstance(outline, Outline) and full(outline.mask, outline)[24:26, 25, 18].all()
    at_rim = outlined(a_scan, lung, organ_spec("lung"), 0, (25, 40, 18))
    assert isinstance(at_rim, Outline)
    beyond = full(at_rim.mask, at_rim) & ~an_organ
    reach_mm = ndimage.distance_transform_edt(~an_organ, sampling=SPACING)
    assert beyond.any() and reach_mm[beyond].max() < 5
    contrast = np.where(an_organ, a_scan, np.float32(300))
    refused = outlined(contrast, lung, organ_spec("lung"), 0, (25, 40, 18))
    assert isinstance(refused, Outline) and not (full(refused.mask, refused) & ~an_organ).any()


def test_a_tumor_is_one_piece(a_scan: np.ndarray, an_organ: np.ndarray) -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        shape = draw_shape(DIFFTUMOR_SIZES["small"], rng)
        outline = outline_tumor(a_scan, an_organ, shape, (25, 25, 18), organ_spec("liver"), "small", SPACING, "CT", rng)
        assert isinstance(outline, Outline) and ndimage.label(outline.mask)[1] == 1


def test_earlier_tumors_stay_as_they_are(a_scan: np.ndarray, an_organ: np.ndarray) -> None:
    blocked = np.zeros(SHAPE, bool)
    blocked[25:] = True
    outline = outlined(a_scan, an_organ, organ_spec("liver"), 0, (24, 25, 18), blocked=blocked)
    assert isinstance(outline, Outline)
    assert full(outline.share, outline)[blocked].max() == 0 and outline.mask.any()


def test_a_tumor_of_which_nearly_nothing_fits_is_refused_in_words(a_scan: np.ndarray) -> None:
    one = np.zeros(SHAPE, bool)
    one[25, 25, 18] = True
    assert outlined(a_scan, one, organ_spec("liver"), 0, (25, 25, 18)) == NoPlace(
        f"fewer than {LEAST_VOXELS} voxels of it fit into the organ"
    )
    sliver = np.zeros(SHAPE, bool)
    sliver[20:30, 25, 18] = True
    refused = outlined(a_scan, sliver, organ_spec("liver"), 0, (25, 25, 18))
    assert isinstance(refused, NoPlace) and "the organ leaves 1 % of it" in refused.reason


def test_the_box_is_cut_at_the_edge_of_the_scan(a_scan: np.ndarray, an_organ: np.ndarray) -> None:
    everywhere = np.ones_like(an_organ)
    outline = outlined(a_scan, everywhere, organ_spec("liver"), 0, (0, 49, 0))
    assert isinstance(outline, Outline)
    assert outline.share.shape == outline.mask.shape == outline.distance.shape
    assert tuple(outline.center_voxel) == (0.0, 49.0 - outline.box[1].start, 0.0)
    assert outline.mask[0, int(outline.center_voxel[1]), 0]


def test_a_painter_sees_as_much_as_it_asks_for(a_scan: np.ndarray, an_organ: np.ndarray) -> None:
    outline = outlined(a_scan, an_organ, organ_spec("liver"), 0, (25, 25, 18), 4.0, context_mm=60.0)
    assert isinstance(outline, Outline)
    assert all(n * s >= 60 for n, s in zip(outline.share.shape, SPACING, strict=True))


def test_the_edge_is_at_least_as_soft_as_the_scan(a_scan: np.ndarray, an_organ: np.ndarray) -> None:
    spec = replace(organ_spec("liver"), blend_sigma_mm=(0.0, 0.0))
    widths = []
    for sharpness in (0.0, 3.0):
        outline = outlined(a_scan, an_organ, spec, 0, (25, 25, 18), 14.0, sharpness_mm=(sharpness,) * 3)
        assert isinstance(outline, Outline)
        widths.append(float(((outline.share > 0.1) & (outline.share < 0.9)).sum()))
    assert widths[1] > 1.8 * widths[0]


# The weights of the blend


@pytest.fixture(scope="module")
def a_ball() -> np.ndarray:
    x, y, z = np.meshgrid(*((np.arange(41) - 20,) * 3), indexing="ij")
    return np.asarray(x**2 + y**2 + z**2 <= 100)


def test_without_blur_the_weights_are_the_mask(a_ball: np.ndarray) -> None:
    share = soften(a_ball.astype(np.float32), a_ball, np.ones_like(a_ball), 0.0, (1.0, 1.0, 1.0))
    assert np.array_equal(share, a_ball.astype(np.float32))


def test_blurred_weights_fall_from_the_center_outwards(a_ball: np.ndarray) -> None:
    share = soften(a_ball.astype(np.float32), a_ball, np.ones_like(a_ball), 4.0, (1.0, 1.0, 1.0))
    along = share[20:, 20, 20]
    assert (np.diff(along) <= 1e-6).all() and 0.85 < along[0] <= 1 and along[-1] < 0.01
    assert along[10] == pytest.approx(0.4, abs=0.1)  # a little below one half on a bent border


def test_weights_are_0_outside_the_room(a_ball: np.ndarray) -> None:
    room = np.indices(a_ball.shape)[0] < 22
    share = soften(a_ball.astype(np.float32), a_ball & room, room, 2.0, (1.0, 1.0, 1.0))
    assert share[~room].max() == 0 and share[21, 20, 20] > 0.3
