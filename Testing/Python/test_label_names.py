"""Names of labels, as data sets write them: which are tumor, which organ, and which neither."""

from __future__ import annotations

import pytest

from DiffuGTSLib.datasets.label_names import Meaning, meaning_of, organ_in
from DiffuGTSLib.errors import InputError, PromptError


@pytest.mark.parametrize(
    ("labels", "dataset", "meaning"),
    [
        (
            [("background", [0]), ("liver", [1]), ("cancer", [2])], "Liver",
            Meaning("liver", [2], {"liver": [1, 2]}, []),
        ),
        ([("background", [0]), ("cancer", [1])], "LUNG Task06_Lung", Meaning("lung", [1], {}, [])),
        ([("colon cancer primaries", [1])], "", Meaning("colon", [1], {}, [])),
        ([("pancreas", [1]), ("cancer", [2])], "", Meaning("pancreas", [2], {"pancreas": [1, 2]}, [])),
        (
            [("Vessel", [1]), ("Tumour", [2])], "Task08_HepaticVessel",
            Meaning("hepatic vessel", [2], {"hepatic vessel": [1]}, []),
        ),
        (
            [("kidney", [1]), ("tumor", [2]), ("cyst", [3])], "KiTS",
            Meaning("kidney", [2], {"kidney": [1, 2, 3]}, [3]),
        ),
        (
            [("left kidney", [1]), ("spleen", [4]), ("aorta", [5]), ("whole tumour", [2, 3])], "Renal",
            Meaning("kidney", [2, 3], {"kidney": [1, 2, 3], "spleen": [4]}, []),
        ),
        (
            [("kidney", [1, 2, 3]), ("masses", [2, 3]), ("tumor", [2])], "KiTS",
            Meaning("kidney", [2], {"kidney": [1, 2, 3]}, [3]),
        ),
        (
            [("liver and tumor", [1, 2]), ("tumor", [2])], "LiTS",
            Meaning("liver", [2], {"liver": [1, 2]}, []),
        ),
        (
            [("kidney", [1]), ("tumor_and_cyst", [2, 3]), ("cyst", [3])], "",
            Meaning("kidney", [2], {"kidney": [1, 2, 3]}, [3]),
        ),
        (
            [("kidney", [1]), ("tumor_and_cyst", [2, 3]), ("tumor", [2])], "",
            Meaning("kidney", [2], {"kidney": [1, 2, 3]}, [3]),
        ),
        (
            [("whole tumor", [1, 2, 3]), ("tumor core", [2, 3]), ("enhancing tumor", [3])], "BrainTumour",
            Meaning("brain", [1, 2, 3], {}, []),
        ),
        (
            [("Vessel", [1, 2]), ("Tumour", [2])], "Task08_HepaticVessel",
            Meaning("hepatic vessel", [2], {"hepatic vessel": [1, 2]}, []),
        ),
        ([("left and right kidney tumor", [2, 3])], "", Meaning("kidney", [2, 3], {}, [])),
        ([("background", [0]), ("spleen", [1])], "Spleen", Meaning("spleen", [], {"spleen": [1]}, [])),
        (
            [("spleen", [1]), ("right kidney", [2]), ("left kidney", [3]), ("liver", [4]), ("aorta", [5])], "BTCV",
            Meaning("", [], {"spleen": [1], "kidney": [2, 3], "liver": [4]}, []),
        ),
    ],
)  # fmt: skip
def test_names_say_what_values_are(labels: list[tuple[str, list[int]]], dataset: str, meaning: Meaning) -> None:
    assert meaning_of(labels, dataset) == meaning


@pytest.mark.parametrize(
    "name",
    ["HCC", "ccRCC", "csPCa", "NSCLC", "PDAC", "GBM", "DCIS", "GTVp", "spleen_HCC2", "meningioma", "osteosarcoma",
     "low_grade_gliomas", "adenoma", "lymphoma", "polyp", "non-enhancing tumor", "non-small-cell carcinoma"],
)  # fmt: skip
def test_tumors_are_known_by_their_names_and_abbreviations(name: str) -> None:
    meaning = meaning_of([("spleen", [1]), (name, [2])], "Spleen")
    assert (meaning.tumor_values, meaning.label_names["spleen"]) == ([2], [1, 2])


@pytest.mark.parametrize(
    "name", ["non-tumor liver", "liver without tumor", "liver_outside_the_tumor", "tumor-free liver"]
)
def test_a_name_that_denies_a_tumor_is_the_organ(name: str) -> None:
    assert meaning_of([(name, [1]), ("tumor", [2])], "x") == Meaning("liver", [2], {"liver": [1, 2]}, [])


@pytest.mark.parametrize("name", ["haematoma", "seroma", "granuloma"])
def test_not_all_that_ends_in_oma_is_a_tumor(name: str) -> None:
    assert meaning_of([("tumor", [1]), (name, [2])], "Brain").other_lesion_values == [2]


def test_a_label_that_says_nothing_is_known_to_be_unknown() -> None:
    labels = [("liver", [1]), ("Klatskin", [2]), ("stroma", [3]), ("aorta", [4]), ("all", [1, 2])]
    assert meaning_of(labels, "Liver") == Meaning("liver", [], {"liver": [1]}, [], {"Klatskin": [2], "stroma": [3]})
    assert meaning_of([("Klatskin", [1])], "Liver").label_names == {}, "the only label need not be the organ"
    assert meaning_of(labels, "Liver", tumor_values=[2]).unknown_labels == {"stroma": [3]}


def test_labels_of_voxels_that_nobody_looked_at_are_refused() -> None:
    labels = [("liver", [1]), ("tumor", [2]), ("ignore", [3])]
    for chosen in ((), (2,)):
        with pytest.raises(
            InputError, match=r"The label 'ignore' \(3\) of 'Liver' says that nobody looked there"
        ) as caught:
            meaning_of(labels, "Liver", tumor_values=chosen)
        assert caught.value.code == "ignore" and "labeled in whole" in caught.value.hint


def test_the_user_s_word_goes_before_the_names() -> None:
    labels = [("structure", [1]), ("finding", [2])]
    assert meaning_of(labels, "x", "Hepatic", [2]) == Meaning("liver", [2], {"liver": [1, 2]}, [])


def test_of_several_kinds_of_lesions_the_chosen_values_are_tumor() -> None:
    labels = [("liver", [1]), ("tumor", [2]), ("cyst", [3])]
    assert meaning_of(labels, "", tumor_values=[3]).tumor_values == [3]


@pytest.mark.parametrize(
    ("labels", "unclear", "meaning"),
    [
        ([("liver and tumor", [1, 2])], "liver and tumor", Meaning("liver", [2], {"liver": [1, 2]}, [])),
        (
            [("liver", [1]), ("liver tumor", [2, 3]), ("tumor", [2])], "liver tumor",
            Meaning("liver", [2], {"liver": [1, 2, 3]}, [3]),
        ),
        (
            [("kidney", [1]), ("tumor or cyst", [2, 3])], "tumor or cyst",
            Meaning("kidney", [2], {"kidney": [1, 2, 3]}, [3]),
        ),
    ],
)  # fmt: skip
def test_a_region_of_tumor_and_something_else_needs_a_word(
    labels: list[tuple[str, list[int]]], unclear: str, meaning: Meaning
) -> None:
    with pytest.raises(InputError, match=f"The label '{unclear}' stands for the values") as caught:
        meaning_of(labels, "x")
    assert caught.value.code == "regions" and "--tumor-values" in caught.value.hint
    assert meaning_of(labels, "x", tumor_values=[2]) == meaning


def test_tumors_of_no_organ_or_of_an_unknown_one_are_refused() -> None:
    with pytest.raises(InputError, match="do not say which organ its tumors are in: liver or spleen") as caught:
        meaning_of([("liver", [1]), ("spleen", [2]), ("tumor", [3])], "abdomen")
    assert caught.value.code == "organ" and "--organ" in caught.value.hint
    with pytest.raises(PromptError, match="Unknown organ 'livre'"):
        meaning_of([("tumor", [1])], "x", "livre")


@pytest.mark.parametrize(
    ("words", "organ"),
    [
        ("Task08_HepaticVessel", "hepatic vessel"),
        ("lung_upper_lobe_left", "lung"),
        ("kidney_right", "kidney"),
        ("vertebrae_L1", "bone"),
        ("urinary_bladder", "bladder"),
        ("aorta", ""),
        ("", ""),
    ],
)
def test_an_organ_is_found_among_words(words: str, organ: str) -> None:
    assert organ_in(words) == organ
