"""A CT whose offset was lost is refused, a crop of the inside of the body is not."""

from __future__ import annotations

import numpy as np
import pytest
from phantoms import Phantom, grid

from DiffuGTSLib.config import CanonicalConfig
from DiffuGTSLib.errors import InputError
from DiffuGTSLib.resources import resource_path
from DiffuGTSLib.volumes.canonical import guess_modality, to_canonical
from DiffuGTSLib.volumes.hounsfield import in_hounsfield, require_hu
from DiffuGTSLib.volumes.io import read_volume
from DiffuGTSLib.volumes.volume import Volume


@pytest.fixture(scope="module")
def a_chest() -> Volume:
    """The bundled CT, in HU."""
    return read_volume(resource_path("SampleData", "chest_ct.nii.gz"))


def drawn(mean_hu: float, deviation_hu: float) -> Volume:
    """Tissue that fills the picture."""
    array = np.random.default_rng(0).normal(mean_hu, deviation_hu, (24, 24, 24)).astype(np.float32)
    return Volume(array, grid(array.shape), "CT")


@pytest.mark.parametrize("padding", [None, -1024.0, -2000.0], ids=["plain", "padded as air", "padded below it"])
@pytest.mark.parametrize("lost", [1000.0, 1024.0])
def test_a_ct_whose_offset_was_lost_is_refused(a_chest: Volume, lost: float, padding: float | None) -> None:
    array = np.maximum(a_chest.array, -lost) + lost
    if padding is not None:
        array[:4] = padding
    with pytest.raises(InputError, match="not in Hounsfield units: expected air near -1000 and water near 0") as caught:
        to_canonical(a_chest.with_array(array), CanonicalConfig(), "CT")
    assert caught.value.code == "not_hu"
    assert "--offset-hu -1024" in caught.value.hint and "--offset-hu 0" in caught.value.hint


def test_a_few_odd_voxels_are_no_air(a_chest: Volume) -> None:
    array = a_chest.array + 1024
    array[0, 0, :3] = -500
    with pytest.raises(InputError, match="not in Hounsfield units") as caught:
        require_hu(a_chest.with_array(array))
    assert caught.value.code == "not_hu"


def test_ct_in_hu_passes_with_and_without_air(a_chest: Volume, a_ct_phantom: Phantom) -> None:
    require_hu(a_chest)
    require_hu(a_ct_phantom.scan)
    require_hu(drawn(60, 30))  # inside the liver
    liver = drawn(110, 25)
    require_hu(liver.with_array(np.where(np.indices(liver.array.shape)[0] < 12, liver.array, 0)))  # masked by zeros
    require_hu(drawn(700, 350))  # mostly bone
    require_hu(drawn(400, 300))


def test_an_offset_brings_a_ct_to_hu_and_is_not_doubted(a_chest: Volume) -> None:
    stored = a_chest.with_array(a_chest.array + 1024)
    mended = in_hounsfield(stored, -1024)
    assert np.array_equal(mended.array, a_chest.array) and mended.array.dtype == np.float32
    assert (a_chest.offset_hu, mended.offset_hu, in_hounsfield(mended, 24).offset_hu) == (None, -1024, -1000)
    assert guess_modality(mended) == ("CT", "its values were said to be Hounsfield units")
    insisted = in_hounsfield(stored, 0)
    assert insisted.array is stored.array
    part = insisted.cut((slice(0, 40), slice(0, 40), slice(0, 8)))
    for each in (insisted, part, part.with_array(part.array)):
        assert each.offset_hu == 0
        to_canonical(each, CanonicalConfig(), "CT")


def test_an_offset_is_for_ct_and_a_number() -> None:
    tissue = drawn(60, 30)
    with pytest.raises(InputError, match="the scan.s file says that it is MR") as caught:
        in_hounsfield(Volume(tissue.array, tissue.geometry, "MR"), -1024)
    assert caught.value.code == "offset_hu"
    with pytest.raises(InputError, match="expected a number of HU, got nan"):
        in_hounsfield(tissue, float("nan"))
