"""Prompts: the built-in organs, the user's own words, and what is refused."""

import subprocess
import sys

import pytest

from DiffuGTSLib.errors import PromptError
from DiffuGTSLib.resources import resource_path
from DiffuGTSLib.text import PromptPair, check_prompt, free_prompts, organ_prompts, organs, phrasings
from DiffuGTSLib.text.prompts import bank_sentences, find_organ, sentence_key, training_sentences, tumor_words

ORGANS = [
    "adrenal gland",
    "bladder",
    "bone",
    "brain",
    "breast",
    "colon",
    "esophagus",
    "hepatic vessel",
    "kidney",
    "liver",
    "lung",
    "lymph node",
    "pancreas",
    "prostate",
    "small bowel",
    "soft tissue",
    "spleen",
    "stomach",
    "thyroid",
    "uterus",
]


def test_the_pair_of_an_organ_is_one_healthy_sentence_and_one_with_a_tumor() -> None:
    assert organ_prompts("liver", "CT") == PromptPair(
        "liver", "A normal CT scan of the liver", "An abnormal CT scan of the liver showing a tumor"
    )
    assert organ_prompts("liver", "MR") == PromptPair(
        "liver", "A normal MRI of the liver", "An abnormal MRI of the liver showing a tumor"
    )


def test_every_promised_organ_is_known() -> None:
    assert sorted(organs()) == ORGANS


@pytest.mark.parametrize(
    ("given", "organ"),
    [
        ("hepatic", "liver"),
        ("  HEPATIC ", "liver"),
        ("Pulmonary", "lung"),
        ("left  kidney", "kidney"),
        ("urinary bladder", "bladder"),
        ("muscle", "soft tissue"),
        ("Portal Vein", "hepatic vessel"),
        ("oesophagus", "esophagus"),
        ("adrenals", "adrenal gland"),
        ("small intestine", "small bowel"),
    ],
)
def test_synonyms_are_understood_in_any_case_and_spacing(given: str, organ: str) -> None:
    assert find_organ(given) == organ
    assert organ_prompts(given, "CT") == organ_prompts(organ, "CT")


def test_no_synonym_names_two_organs() -> None:
    names = [sentence_key(word) for organ, words in organs().items() for word in (organ, *words)]
    assert len(names) == len(set(names))


def test_every_organ_has_several_tumor_words() -> None:
    assert all(len(tumor_words(organ)) >= 5 for organ in organs())
    assert "lung nodule" in tumor_words("pulmonary")
    assert "soft tissue sarcoma" in tumor_words("muscle")


def test_an_unknown_organ_is_answered_with_the_nearest_one() -> None:
    with pytest.raises(PromptError, match="Unknown organ 'pancraes'") as caught:
        organ_prompts("pancraes", "CT")
    assert "did you mean 'pancreas'?" in caught.value.hint
    assert caught.value.code == "organ"


def test_an_organ_like_nothing_known_is_answered_with_the_list_and_the_free_text() -> None:
    with pytest.raises(PromptError) as caught:
        organ_prompts("xyzzy", "CT")
    assert "adrenal gland, bladder" in caught.value.hint
    assert "hepatic parenchyma" not in caught.value.hint  # organs only, not all the synonyms
    assert "write both prompts yourself" in caught.value.hint


def test_an_unknown_modality_is_refused() -> None:
    with pytest.raises(PromptError, match="Unknown modality 'PET'") as caught:
        organ_prompts("liver", "PET")
    assert (caught.value.code, caught.value.hint) == ("modality", "known: CT, MR.")


def test_free_text_is_taken_at_its_word_with_white_space_tidied() -> None:
    assert free_prompts(" lung ", "lung\n  nodule") == PromptPair("", "lung", "lung nodule")


def test_the_same_sentence_twice_is_refused_whatever_its_case() -> None:
    with pytest.raises(PromptError, match="must differ") as caught:
        free_prompts("Lung nodule", "lung  NODULE")
    assert caught.value.code == "identical"


@pytest.mark.parametrize("text", ["", "   ", "\n\t", "?!", "42"])
def test_a_prompt_with_no_word_is_refused(text: str) -> None:
    with pytest.raises(PromptError, match="at least one word") as caught:
        check_prompt(text)
    assert caught.value.code == "empty"


def test_300_characters_pass_and_301_are_refused() -> None:
    assert check_prompt("a" * 300) == "a" * 300
    with pytest.raises(PromptError, match="at most 300 characters, got 301") as caught:
        check_prompt("a" * 301)
    assert caught.value.code == "too_long"


@pytest.mark.parametrize(
    "text",
    [
        "CT of the liver without tumor",
        "CT of the liver WITHOUT a tumor",
        "liver w/o lesion",
        "no tumor",
        "lung, no nodule",
        "No evidence of disease",
        "the liver does not contain a tumor",
        "there isn't a lesion",
        "there isn\u2019t a lesion",
        "neither cyst nor tumor",
        "the lung never held a nodule",
        "none of the lesions",
        "free of tumor",
        "a liver free from metastases",
        "absence of a mass",
        "tumor absent",
        "unremarkable for mass",
        "negative for metastasis",
        "lacks a lesion",
        "lack of lesions",
        "clear of nodules",
        "devoid of lesions",
        "tumor-free liver",
        "disease free liver",
        "cancer ruled out",
        "excluding the tumor",
        "everything except the tumor",
        "nothing in the lung",
        "cannot see a nodule",
        "liver rather than tumor",
    ],
)
def test_negation_is_refused_with_the_reason(text: str) -> None:
    with pytest.raises(PromptError, match="something is absent") as caught:
        check_prompt(text)
    assert caught.value.code == "negation"
    assert "do not understand negation" in caught.value.hint
    assert "A normal CT scan of the liver" in caught.value.hint


@pytest.mark.parametrize(
    "text",
    [
        "lung nodule",
        "lymph node",
        "nodes",
        "abnormal node in the neck",
        "normal tissue",
        "notochord",
        "knot of vessels",
        "nonspecific lesion",
        "non-small cell lung cancer",
        "annotation of the northern pole",
        "carcinoma",
        "adenoma of the nose",
        "free fluid around the liver",
        "unremarkable liver",
        "an unremarkable appearance of the lung",
        "exceptional mass",
    ],
)
def test_words_that_only_look_like_negation_pass(text: str) -> None:
    assert check_prompt(text) == text


def test_negation_is_refused_in_either_of_two_free_prompts() -> None:
    with pytest.raises(PromptError, match="absent"):
        free_prompts("lung without nodule", "lung nodule")
    with pytest.raises(PromptError, match="absent"):
        free_prompts("lung", "not a lung")


def test_the_bundled_sentences_pass_their_own_check() -> None:
    for sentence in bank_sentences():
        assert check_prompt(sentence) == sentence


@pytest.mark.parametrize("modality", ["CT", "MR"])
@pytest.mark.parametrize("organ", ORGANS)
def test_the_ensemble_has_six_normal_phrasings_and_starts_with_the_pair(organ: str, modality: str) -> None:
    pair = organ_prompts(organ, modality)
    normals, abnormals = phrasings(pair, modality)
    assert (normals[0], abnormals[0]) == (pair.normal, pair.abnormal)
    assert len(normals) == 6
    assert len(abnormals) == 1 + 5 * len(tumor_words(organ))
    assert not set(normals) & set(abnormals)
    assert not any("{" in sentence for sentence in (*normals, *abnormals))


def test_the_ensemble_of_a_users_own_pair_is_the_pair() -> None:
    assert phrasings(free_prompts("lung", "lung nodule"), "CT") == (("lung",), ("lung nodule",))


def test_articles_follow_the_sound() -> None:
    _, abnormals = phrasings(organ_prompts("adrenal gland", "MR"), "MR")
    assert "An MRI showing an adrenal mass in the adrenal gland" in abnormals
    _, abnormals = phrasings(organ_prompts("uterus", "CT"), "CT")
    assert "A CT scan showing a uterine mass in the uterus" in abnormals


def test_training_hears_bare_names_as_users_type_them() -> None:
    normals, abnormals = training_sentences("pulmonary", "CT")
    assert {"lung", "normal lung", "healthy lung", "A normal CT scan of the lung"} <= set(normals)
    assert {"lung nodule", "lung tumor", "pulmonary mass", "lung cancer", "lung nodules"} <= set(abnormals)
    assert not {sentence_key(text) for text in normals} & {sentence_key(text) for text in abnormals}


def test_the_bank_lists_every_built_in_sentence_once() -> None:
    sentences = bank_sentences()
    assert len({sentence_key(sentence) for sentence in sentences}) == len(sentences)
    keys = {sentence_key(sentence) for sentence in sentences}
    for organ, synonyms in organs().items():
        assert {sentence_key(word) for word in (organ, *synonyms)} <= keys
        for modality in ("CT", "MR"):
            pair = organ_prompts(organ, modality)
            for half in (*phrasings(pair, modality), *training_sentences(organ, modality)):
                assert {sentence_key(sentence) for sentence in half} <= keys


def test_prompts_load_without_torch_and_transformers() -> None:
    code = (
        "import sys, DiffuGTSLib.text as t; t.organ_prompts('liver', 'CT'); "
        "sys.exit(bool({'torch', 'transformers', 'numpy'} & set(sys.modules)))"
    )
    root = resource_path("Prompts").parents[1]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0
