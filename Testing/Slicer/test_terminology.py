"""Every organ and kind of lesion as SNOMED CT, resolved by Slicer's own terminology logic."""

from __future__ import annotations

import pytest
import slicer
from DiffuGTSSlicer.terminology import hasRegion, terminologyEntry

from DiffuGTSLib.text.prompts import organs


def resolved(entry: str) -> object:
    result = slicer.vtkSlicerTerminologyEntry()
    assert slicer.modules.terminologies.logic().DeserializeTerminologyEntry(entry, result)
    return result


@pytest.mark.parametrize("organ", list(organs()))
def test_every_built_in_organ_has_a_place(a_scene, organ) -> None:
    entry = terminologyEntry(organ, f"{organ} tumor")
    assert hasRegion(entry)
    place = resolved(entry).GetRegionObject()
    assert place.GetCodingSchemeDesignator() == "SCT" and place.GetCodeValue().isdigit() and place.GetCodeMeaning()
    logic = slicer.modules.terminologies.logic()
    assert logic.SerializeTerminologyEntry(resolved(entry)) == entry


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("Lung tumor", "108369006"),
        ("", "108369006"),
        ("Pulmonary nodules", "27925004"),
        ("Renal mass", "4147007"),
        ("Kidney cyst", "367643001"),
        ("Cystadenoma", "108369006"),
        ("Liver metastases", "14799000"),
        ("metastatic nodule", "14799000"),
        ("Primary tumor", "86049000"),
    ],
)
def test_the_words_choose_the_kind(a_scene, words, code) -> None:
    assert resolved(terminologyEntry("liver", words)).GetTypeObject().GetCodeValue() == code


@pytest.mark.parametrize(
    ("organ", "words", "side"),
    [
        ("left kidney", "", "Left"),
        ("kidney", "Right kidney tumor", "Right"),
        ("lung", "left and right", None),
        ("liver", "left lobe", None),
        ("Renal", "", None),
    ],
)
def test_a_side_is_told_for_pairs_only_and_only_when_it_is_one(a_scene, organ, words, side) -> None:
    assert resolved(terminologyEntry(organ, words)).GetRegionModifierObject().GetCodeMeaning() == side


@pytest.mark.parametrize("organ", ["", "pituitary", "Unnamed"])
def test_an_organ_that_is_not_built_in_leaves_the_place_open(a_scene, organ) -> None:
    entry = terminologyEntry(organ, "tumor")
    assert not hasRegion(entry) and not hasRegion("")
    assert resolved(entry).GetTypeObject().GetCodeMeaning() == "Neoplasm"
