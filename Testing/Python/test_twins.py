"""Every finding is repainted in a box of its own and looked at in a view of its own, so that cost follows the findings."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from DiffuGTSLib import inpainting
from DiffuGTSLib.backbones.memory import WindowMemory
from DiffuGTSLib.components import Components, ScanContext, load_components
from DiffuGTSLib.config import Config, load_config
from DiffuGTSLib.inpainting import Box, Conditions
from DiffuGTSLib.twins import Twins, attend_again, box_and_view, find_places, pasted, repaint_findings, repainted_latent

SHAPE = (96, 96, 96)
FACTOR, MULTIPLE, WINDOW = 4, 2, 32
TOLD = Conditions((2.0, 2.0, 2.0), "CT")


def tiny(*overrides: str) -> Config:
    return load_config("tiny", overrides=["canonical.spacing_mm=2.0", "inpainting.margin_mm=24", *overrides])


@pytest.fixture(scope="module")
def some_components() -> Components:
    return load_components(tiny(), allow_untrained=True)


def around(center: Sequence[int], side: int) -> Box:
    x, y, z = (slice(at - side // 2, at - side // 2 + side) for at in center)
    return x, y, z


def marked(*boxes: Box) -> np.ndarray:
    mask = np.zeros(SHAPE, dtype=bool)
    for box in boxes:
        mask[box] = True
    return mask


def sides(box: Box) -> list[int]:
    return [part.stop - part.start for part in box]


def a_latent() -> torch.Tensor:
    cells = [side // FACTOR for side in SHAPE]
    return torch.randn((1, 4, *cells), generator=torch.Generator().manual_seed(3))


def a_context(components: Components, config: Config, memory: WindowMemory | None = None) -> ScanContext:
    prompts = torch.eye(2, components.text_encoder.dim)
    return ScanContext(components, config, TOLD, prompts, memory or WindowMemory(0))


def repaint(mask: np.ndarray, components: Components, config: Config, seed: int = 0) -> list[Twins]:
    generator = torch.Generator().manual_seed(seed)
    return repaint_findings(a_latent(), mask, a_context(components, config), generator, lambda share: None)


NEAR, FAR, BESIDE = around((20, 20, 20), 6), around((76, 70, 80), 6), around((30, 20, 20), 6)


@pytest.mark.parametrize("side", [1, 5, 20, 24, 25, 40, 90])
@pytest.mark.parametrize("center", [(48, 48, 48), (0, 48, 95), (13, 90, 31)])
@pytest.mark.parametrize("margin_mm", [8.0, 16.0, 500.0])
def test_a_finding_lies_in_its_view_and_the_view_in_the_box(
    side: int, center: tuple[int, int, int], margin_mm: float
) -> None:
    config = tiny(f"inpainting.margin_mm={margin_mm}")
    found = tuple(
        slice(max(0, part.start), min(length, part.stop))
        for part, length in zip(around(center, side), SHAPE, strict=True)
    )
    cells, view = box_and_view((found[0], found[1], found[2]), SHAPE, TOLD.spacing_mm, config, FACTOR, MULTIPLE)
    for inside, seen, part, length in zip(found, view, cells, SHAPE, strict=True):
        box = (part.start * FACTOR, part.stop * FACTOR)
        assert 0 <= box[0] <= seen.start <= inside.start < inside.stop <= seen.stop <= box[1] <= length
        assert seen.start % FACTOR == seen.stop % FACTOR == 0 and (part.stop - part.start) % MULTIPLE == 0
        extent, size = inside.stop - inside.start, seen.stop - seen.start
        assert size <= max(WINDOW, extent + 2 * WINDOW * config.backbone.overlap / 2 + 2 * FACTOR)
        if size >= WINDOW:  # as far from the border as in the scan's own windows, or at the box's own border
            assert inside.start - seen.start >= 4 or seen.start == box[0]
            assert seen.stop - inside.stop >= 4 or seen.stop == box[1]


def test_a_view_lies_as_far_around_its_finding_as_half_of_what_wider_windows_overlap() -> None:
    """A quarter of 64 voxels is 16."""
    wider = tiny("inpainting.margin_mm=500", "backbone.window_voxels=64")
    found = around((48, 48, 48), 56)
    _, view = box_and_view(found, SHAPE, TOLD.spacing_mm, wider, FACTOR, MULTIPLE)
    assert found == (slice(20, 76),) * 3 and view == (slice(12, 84),) * 3


def test_far_findings_have_places_of_their_own_and_neighbors_share_one(some_components: Components) -> None:
    config = tiny()
    mask = marked(NEAR, FAR, BESIDE)
    places = find_places(mask, TOLD.spacing_mm, some_components, config)
    assert [int(place.own.sum()) for place in places] == [2 * 6**3, 6**3]
    whole = np.zeros(SHAPE, dtype=int)
    for place in places:
        whole[place.view] += place.own
        assert sides(place.view) == [WINDOW] * 3
        assert [FACTOR * side for side in sides(place.view_cells)] == sides(place.view)
    assert np.array_equal(whole, mask.astype(int)), "every voxel is taken from exactly one view"


def test_where_the_whole_scan_is_repainted_views_are_still_those_of_the_findings(some_components: Components) -> None:
    places = find_places(marked(NEAR, FAR), TOLD.spacing_mm, some_components, tiny("inpainting.margin_mm=500"))
    assert [sides(place.cells) for place in places] == [[24] * 3] * 2
    assert [sides(place.view) for place in places] == [[WINDOW] * 3] * 2


def test_findings_whose_box_is_the_same_are_repainted_in_it_together(
    some_components: Components, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a margin as wide as the scan every box is the whole scan, which is repainted once."""
    boxes: list[torch.Size] = []

    def listening(latent: torch.Tensor, *how: Any) -> torch.Tensor:
        boxes.append(latent.shape[2:])
        return inpainting.repaint(latent, *how)

    monkeypatch.setattr("DiffuGTSLib.twins.repaint", listening)
    twins = repaint(marked(NEAR, FAR), some_components, tiny("inpainting.margin_mm=500"))
    assert len(twins) == 2 and boxes == [torch.Size([24, 24, 24])]
    for each in twins:
        assert (each.healthy != each.reconstruction).numpy()[each.place.own].mean() > 0.99


def test_what_is_made_of_a_finding_does_not_depend_on_another_one_far_away(some_components: Components) -> None:
    (alone,) = repaint(marked(NEAR), some_components, tiny())
    first, second = repaint(marked(NEAR, FAR), some_components, tiny())
    for name in ("reconstruction", "healthy", "latent", "healthy_latent"):
        assert torch.equal(getattr(alone, name), getattr(first, name)), name
    assert not torch.equal(second.healthy, second.reconstruction)


def test_twins_differ_in_the_candidates_alone(some_components: Components) -> None:
    mask = marked(NEAR, FAR, BESIDE)
    for each in repaint(mask, some_components, tiny()):
        changed = (each.healthy != each.reconstruction).numpy()
        assert changed[each.place.own].mean() > 0.99
        assert not changed[~mask[each.place.view]].any()


def test_a_neighbor_that_reaches_into_a_view_is_repainted_there_too_and_taken_from_its_own(
    some_components: Components,
) -> None:
    """A large finding needs four windows, and twice as many with its small neighbor, which has a view of its own."""
    large, small = (slice(0, 24), slice(0, 90), slice(0, 24)), around((30, 84, 12), 4)
    twins = repaint(marked(large, small), some_components, tiny())
    assert len(twins) == 2
    of_small = min(twins, key=lambda each: each.place.own.sum())
    intruding = marked(large)[of_small.place.view]
    changed = (of_small.healthy != of_small.reconstruction).numpy()
    assert intruding.any() and changed[intruding].mean() > 0.99
    assert not of_small.place.own[intruding].any()
    canvas = pasted(
        twins, [torch.full_like(each.healthy, number) for number, each in enumerate(twins, 1)], torch.zeros(SHAPE)
    )
    assert set(canvas[torch.from_numpy(marked(large))].tolist()) == {1.0}
    assert set(canvas[torch.from_numpy(marked(small))].tolist()) == {2.0}
    assert canvas[torch.from_numpy(~marked(large, small))].abs().sum() == 0
    whole = repainted_latent(twins, a_latent())
    of_large = max(twins, key=lambda each: each.place.own.sum())
    for each, box in ((of_large, large), (of_small, small)):
        cells = tuple(slice(part.start // FACTOR, part.stop // FACTOR) for part in box)
        of_view = tuple(
            slice(part.start - seen.start, part.stop - seen.start)
            for part, seen in zip(cells, each.place.view_cells, strict=True)
        )
        assert torch.equal(whole[(..., *cells)], each.healthy_latent[(..., *of_view)])


def test_the_whole_latent_takes_the_cells_of_every_finding(some_components: Components) -> None:
    twins, latent = repaint(marked(NEAR, FAR), some_components, tiny()), a_latent()
    whole = repainted_latent(twins, latent)
    changed = (whole != latent).any(dim=1)[0].numpy()
    expected = np.zeros(changed.shape, dtype=bool)
    for x, y, z in np.argwhere(marked(NEAR, FAR)) // FACTOR:
        expected[x, y, z] = True
    assert np.array_equal(changed, expected)
    for each in twins:
        view = (..., *each.place.view_cells)
        assert torch.equal(whole[view], each.healthy_latent)


def test_what_is_seen_of_a_reconstruction_is_remembered_finding_by_finding(some_components: Components) -> None:
    memory = WindowMemory(64)
    context = a_context(some_components, tiny(), memory)

    def looked(mask: np.ndarray) -> list[tuple[torch.Tensor, torch.Tensor]]:
        memory.begin("one model")
        twins = repaint_findings(a_latent(), mask, context, torch.Generator().manual_seed(0), lambda share: None)
        return attend_again(twins, context, lambda share: None)

    first = looked(marked(FAR))
    assert memory.recalled == 0
    second = looked(marked(NEAR, FAR))
    assert memory.recalled == 2, "the reconstruction of the one that was there before, and the look at it"
    assert torch.equal(first[0][0], second[1][0])


def test_progress_rises_through_all_findings(some_components: Components) -> None:
    told: list[float] = []
    generator = torch.Generator().manual_seed(0)
    repaint_findings(a_latent(), marked(NEAR, FAR), a_context(some_components, tiny()), generator, told.append)
    assert told == sorted(told) and told[-1] == pytest.approx(1.0) and 0 < told[0] < 0.2


def test_a_view_of_several_windows_is_seen_in_all_of_them(
    some_components: Components, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[torch.Size] = []
    decode = some_components.autoencoder.decode
    monkeypatch.setattr(
        some_components.autoencoder, "decode", lambda each: (decoded.append(each.shape[2:]), decode(each))[1]
    )
    repaint(marked(around((48, 48, 48), 40)), some_components, tiny())
    assert len(decoded) == 2 * 2**3 and set(decoded) == {torch.Size((8, 8, 8))}
    decoded.clear()
    wider = dataclasses.replace(tiny(), backbone=dataclasses.replace(tiny().backbone, window_voxels=64))
    repaint(marked(around((48, 48, 48), 40)), some_components, wider)
    assert len(decoded) == 2
