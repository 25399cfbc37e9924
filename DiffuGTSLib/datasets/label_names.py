"""What the values of a data set's label map mean: organs, tumors, and lesions that are neither.

Data sets name their labels in words of their own ("cancer", "colon cancer primaries", "Tumour"). These words decide;
a label of which they tell nothing is taken for neither healthy nor tumor, and said. Regions of nnU-Net hold others:
"kidney" [1, 2, 3], "masses" [2, 3], "tumor" 2. The smallest is read first, so that what a larger one holds is known
already.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from DiffuGTSLib.datasets.protocol import Case
from DiffuGTSLib.errors import InputError, PromptError
from DiffuGTSLib.resources import organ_names
from DiffuGTSLib.text.prompts import find_organ

_NO_NEOPLASM = r"ha?ematoma|seroma|hygroma|urinoma|biloma|granuloma"
_NO_LESION = r"stoma|stroma|zygoma|glaucoma|scotoma|atheroma"
_TUMOR = re.compile(
    r"cancer|tumou?r|neoplas|metasta|malignan|lesion|nodule|polyp|fibroid|\bglio|o?edema|enhancing|necro"
    rf"|\b(?!(?:{_NO_NEOPLASM}|{_NO_LESION})s?\b)[a-z]{{2,}}oma(?:s|ta)?\b"
    r"|\b(?:hcc|(?:cc|p|ch)?rcc|n?sclc|pdac|gbm|[lh]gg|cspca|dcis|gist|gtv[a-z]*)\b",
    re.IGNORECASE,
)
"""Words for tumors, among them all that end in -oma but for those of fluid, inflammation and healthy tissue."""
_DENIED = re.compile(
    r"\b(?:non|no|not|without|free of|outside|healthy|normal)\s+(?:(?:a|an|any|the)\s+)?"
    r"(?:cancer|tumou?r|neoplas|metasta|malignan|lesion|nodule|carcinoma)[a-z]*"
    r"|\b(?:cancer|tumou?r|lesion|nodule)s?\s+free\b",
    re.IGNORECASE,
)
_OTHER_LESION = re.compile(rf"cyst|cavity|{_NO_NEOPLASM}", re.IGNORECASE)
_IGNORED = re.compile(r"\bignored?\b", re.IGNORECASE)
"""What nnU-Net calls voxels that nobody has labeled."""
_MASS = re.compile(r"\bmass|abnormal|patholog", re.IGNORECASE)
"""Words for whatever is not healthy, tumor or not."""
_JOINED = re.compile(r"\b(?:and|with|plus|incl|including)\b|[+&]", re.IGNORECASE)
_POSITION = {"left", "right", "upper", "middle", "lower", "lobe"}
_ANATOMY = re.compile(
    r"heart|cardi|atri(?:um|al)|ventric|aort|arter|\bve(?:in|na|nous)|vessel|vascul|duct|gall ?bladder|glute|psoas"
    r"|autochthon|\bcord\b|medulla|\bstem\b|brainstem|cerebell|matter\b|\bcsf\b|hippocamp|thalam|amygdal|putamen"
    r"|caudate|pallid|accumbens|callosum|nerve|chiasm|\beyes?\b|\blens|cochlea|trachea|bronch|airway|\bskin|\bfat\b"
    r"|adipos|\bbody\b|parenchyma|capsule|cortex|\bzone|\b[pt]z\b|fissure|diaphragm|cartilage|\bface\b|mandib|parotid"
    r"|gland|larynx|pharynx|tongue|teeth|tooth|\bdis[ck]|ligament|tendon|anterior|posterior",
    re.IGNORECASE,
)
"""Parts of a body that are no organ of ours, and healthy as any tissue around one."""
_BONES = {"vertebrae", "rib", "femur", "hip", "sacrum", "sternum", "skull", "humerus", "scapula", "clavicula"}
_OUTSIDE_THE_ORGAN = {"hepatic vessel"}
"""Organs whose tumors do not lie in them: a tumor of the Decathlon's hepatic vessels lies in the liver beside."""


@dataclass(frozen=True)
class Meaning:
    """What the values of a label map stand for.

    Attributes:
        organ: Where the tumors are; "" where there are none, and nothing names an organ.
        tumor_values: Values that are tumor.
        label_names: Organ → its values, those of lesions in it among them.
        other_lesion_values: Values that are neither healthy nor tumor.
        unknown_labels: Name → values of the labels that are no word for a tumor, another lesion or a part of the body.
    """

    organ: str
    tumor_values: list[int]
    label_names: dict[str, list[int]]
    other_lesion_values: list[int]
    unknown_labels: dict[str, list[int]] = field(default_factory=dict)


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
        InputError: If there are tumors whose organ cannot be told (code "organ"), or which values of a region are tumor (code
            "regions"), or a label says that nobody looked there (code "ignore").
        PromptError: If `organ` is none that we know.
    """
    tumors: set[int] = set(tumor_values)
    others: set[int] = set()
    organs: dict[str, set[int]] = {}
    unnamed: list[tuple[str, set[int]]] = []
    tumor_organs: list[str] = []
    for name, given in sorted(labels, key=lambda label: len(set(label[1]) - {0})):
        values = {value for value in given if value != 0}
        if not values:
            continue
        if _IGNORED.search(_plain(name)):
            raise _not_looked_at(name, values, dataset)
        lesions = (_chosen if tumor_values else _lesions)(name, values, tumors, others)
        if lesions is not None:
            if lesions[0]:
                tumor_organs.append(organ_in(name))
            tumors, others = tumors | lesions[0], others | lesions[1]
        elif found := organ_in(name):
            organs.setdefault(found, set()).update(values)
        else:
            unnamed.append((name, values))
    if organ:
        where = find_organ(organ)
    else:  # without tumors nothing depends on it
        where = _organ_of(tumor_organs, list(organs), dataset) if tumors else organ_in(dataset)
    if where and tumors and where not in organs and len(unnamed) == 1:  # the Decathlon's "Vessel"
        organs[where] = unnamed.pop()[1]
    unknown = _unknown(unnamed, tumors.union(others, *organs.values()))
    if where in organs and where not in _OUTSIDE_THE_ORGAN:
        organs[where] |= tumors | others
    named = {name: sorted(values) for name, values in organs.items()}
    return Meaning(where, sorted(tumors), named, sorted(others), unknown)


def unknown_said(cases: Sequence[Case]) -> list[str]:
    """Say once for all cases of which labels nothing is known, and what to do; nothing where there are none."""
    unknown = {f"{name} ({', '.join(map(str, v))})": None for case in cases for name, v in case.unknown_labels.items()}
    words = (
        f"Nothing is known of the labels {', '.join(unknown)}: they count as neither healthy nor tumor. For what is tumor, "
        "'diffugts data protocol' has --tumor-values; what is healthy, take out of unknown_labels in the protocol."
    )
    return [words] if unknown else []


def _unknown(unnamed: Sequence[tuple[str, set[int]]], known: set[int]) -> dict[str, list[int]]:
    """Return the labels of which nothing is known, the smallest first, without the values that others name."""
    unknown = {}
    for name, values in unnamed:
        if values - known and not _ANATOMY.search(_plain(name)):
            unknown[name] = sorted(values - known)
        known = known | values
    return unknown


def _plain(name: str) -> str:
    """Return a label's words parted by blanks: "non-tumor_liver2" is "non tumor liver"."""
    return re.sub(r"[\W\d_]+", " ", name).strip()


def _is_tumor(name: str) -> bool:
    """Say whether a name speaks of a tumor and does not deny it, as "non-tumor liver" does."""
    return bool(_TUMOR.search(_DENIED.sub(" ", _plain(name))))


def _lesions(name: str, values: set[int], tumors: set[int], others: set[int]) -> tuple[set[int], set[int]] | None:
    """Return the values that a label makes tumor, and other lesions; None where it is an organ, its tumors included.

    Args:
        name: The label's.
        values: Its own, none of them 0.
        tumors: Values that smaller regions have made tumor.
        others: The same of other lesions.

    Raises:
        InputError: If its name speaks of a tumor and of something else, and no smaller region parts the two.
    """
    tumor, other = _is_tumor(name), bool(_OTHER_LESION.search(name))
    if tumor and _is_joint(name):  # "liver and tumor"
        if values & tumors:
            return None
        raise _unclear(name, values)
    if tumor and other:  # "tumor and cyst"; of one value, "cystic lesion"
        if values & tumors:
            return set(), values - tumors
        if values & others:
            return values - others, set()
        if len(values) > 1:
            raise _unclear(name, values)
        return set(), values
    if tumor:
        if values & tumors and values - tumors and organ_in(name):  # "liver tumor" [1, 2] beside "tumor" 2
            raise _unclear(name, values)
        return values, set()
    if other or (_MASS.search(name) and values & tumors):
        return set(), values - tumors
    return None


def _chosen(name: str, values: set[int], tumors: set[int], others: set[int]) -> tuple[set[int], set[int]] | None:  # noqa: ARG001
    """Return the same where the user has said which values are tumor: whatever else is no organ is another lesion."""
    if values <= tumors:
        return values, set()
    lesion = _is_tumor(name) or bool(_OTHER_LESION.search(name) or _MASS.search(name))
    if lesion and not _is_joint(name):
        return set(), values - tumors
    return None


def _is_joint(name: str) -> bool:
    """Say whether a name joins an organ with a tumor, as "liver and tumor"; "left and right kidney tumor" does not."""
    parts = [(bool(organ_in(part)), _is_tumor(part)) for part in _JOINED.split(name.replace("_", " "))]
    return (True, False) in parts and (False, True) in parts


def _unclear(name: str, values: set[int]) -> InputError:
    listed = ", ".join(map(str, sorted(values)))
    return InputError(
        f"The label '{name}' stands for the values {listed}, and no other label tells which of them are tumor.",
        hint="say it: --tumor-values 2.",
        code="regions",
    )


def _not_looked_at(name: str, values: set[int], dataset: str) -> InputError:
    listed = ", ".join(map(str, sorted(values)))
    return InputError(
        f"The label '{name}' ({listed}) of '{dataset}' says that nobody looked there: whether it is organ, tumor or healthy "
        "tissue is not known, and cannot be left open here.",
        hint=f"keep the scans that are labeled in whole, and take '{name}' out of the labels of dataset.json.",
        code="ignore",
    )


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
