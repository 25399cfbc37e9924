"""What the values of a data set's label map mean: organs, tumors, and lesions that are neither.

Data sets name their labels in words of their own ("cancer", "colon cancer primaries", "Tumour"). These words decide.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from DiffuGTSLib.errors import InputError, PromptError
from DiffuGTSLib.resources import organ_names
from DiffuGTSLib.text.prompts import find_organ

_TUMOR = re.compile(
    r"cancer|tumou?r|carcinoma|neoplas|metasta|malignan|lesion|nodule|\bglio|o?edema|enhancing|necro", re.IGNORECASE
)
_OTHER_LESION = re.compile(r"cyst|ignore|cavity|hematoma|haematoma", re.IGNORECASE)
_POSITION = {"left", "right", "upper", "middle", "lower", "lobe"}
_BONES = {"vertebrae", "rib", "femur", "hip", "sacrum", "sternum", "skull", "humerus", "scapula", "clavicula"}
_OUTSIDE_THE_ORGAN = {"hepatic vessel"}
"""Organs whose tumors do not lie in them: a tumor of the Decathlon's hepatic vessels lies in the liver beside."""


@dataclass(frozen=True)
class Meaning:
    """What the values of a label map stand for.

    Attributes:
        organ: Where the tumors are.
        tumor_values: Values that are tumor.
        label_names: Organ → its values, those of lesions in it among them.
        other_lesion_values: Values that are neither healthy nor tumor.
    """

    organ: str
    tumor_values: list[int]
    label_names: dict[str, list[int]]
    other_lesion_values: list[int]


def meaning_of(
    labels: Sequence[tuple[str, Sequence[int]]], dataset: str, organ: str = "", tumor_values: Sequence[int] = ()
) -> Meaning:
    """Read the meaning of label values out of their names.

    Args:
        labels: (name, values); value 0 is background. A region of nnU-Net has several values.
        dataset: The data set's name, in which the organ is looked for when no label names it.
        organ: Where the tumors are; "" lets the names decide.
        tumor_values: The values that are tumor; none lets the names decide.

    Raises:
        InputError: If the organ of the tumors cannot be told (code "organ").
        PromptError: If `organ` is none that we know.
    """
    tumors, others = set(tumor_values), set()
    organs: dict[str, set[int]] = {}
    unnamed: list[set[int]] = []
    tumor_organs: list[str] = []
    for name, given in labels:
        values = {value for value in given if value != 0}
        if not values:
            continue
        if _OTHER_LESION.search(name) and not values & tumors:
            others |= values
        elif values <= tumors or (_TUMOR.search(name) and not tumor_values):
            tumors |= values
            tumor_organs.append(organ_in(name))
        elif found := organ_in(name):
            organs.setdefault(found, set()).update(values)
        else:
            unnamed.append(values)
    where = find_organ(organ) if organ else _organ_of(tumor_organs, list(organs), dataset)
    if where not in organs and len(unnamed) == 1:  # the Decathlon's "Vessel"
        organs[where] = unnamed[0]
    if where in organs and where not in _OUTSIDE_THE_ORGAN:
        organs[where] |= tumors | others
    return Meaning(where, sorted(tumors), {name: sorted(values) for name, values in organs.items()}, sorted(others))


def organ_in(words: str) -> str:
    """Return the organ that some words name, the longest name first, or "".

    "Task08_HepaticVessel" → "hepatic vessel", "lung_upper_lobe_left" → "lung", "vertebrae_L1" → "bone".
    """
    parted = re.sub(r"(?<=[a-z])(?=[A-Z])|[^A-Za-z]+", " ", words).lower().split()
    words_left = [word for word in parted if word not in _POSITION]
    for phrase in _phrases(words_left):
        try:
            found = find_organ(phrase)
        except PromptError:
            continue
        return found if found in organ_names() else ""
    return "bone" if words_left and words_left[0] in _BONES else ""


def _phrases(words: Sequence[str]) -> Iterator[str]:
    for length in range(len(words), 0, -1):
        for start in range(len(words) - length + 1):
            yield " ".join(words[start : start + length])


def _organ_of(tumor_organs: list[str], organs: list[str], dataset: str) -> str:
    """Choose by the tumors' own names, by the one organ that is outlined, or by the data set's name."""
    named = sorted({organ for organ in tumor_organs if organ})
    by_dataset = organ_in(dataset)
    if len(named) == 1:
        return named[0]
    if by_dataset:
        return by_dataset
    if len(organs) == 1:
        return organs[0]
    raise InputError(
        f"The labels of '{dataset}' do not say which organ its tumors are in"
        f"{': ' + ' or '.join(named or organs) if named or organs else ''}.",
        hint="say it: --organ liver.",
        code="organ",
    )
