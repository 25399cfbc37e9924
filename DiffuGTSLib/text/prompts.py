"""The two sentences that a scan is compared with: one healthy, one with a tumor.

Words come from `Resources/Prompts/prompts.json`: the organs, their synonyms and tumor words, and templates.
A user may write both sentences instead. Negation is refused, since sentence encoders read over it.
"""

from __future__ import annotations

import difflib
import functools
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from DiffuGTSLib.errors import PromptError, did_you_mean
from DiffuGTSLib.resources import resource_path

MAXIMUM_CHARACTERS = 300

# Whole words only: "no" must not fire in "nodule", nor "not" in "notochord". "non" is absent from the list on
# purpose, for "non-small cell lung cancer" and "non-contrast" describe what is there.
_NEGATION = re.compile(
    r"\b(?:without|w/o|no|not|none|nothing|nor|neither|never|cannot|\w+n['\u2019]t|lacks?|lacking|lack of|absent|absence"
    r"|free of|free from|clear of|devoid of|negative for|unremarkable for|exclud(?:e|es|ed|ing)|except(?: for)?"
    r"|ruled? out|ruling out|instead of|rather than"
    r"|(?:tumou?r|lesion|nodule|mass|cancer|disease|metastas[ie]s)[- ]free)(?!\w)",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class PromptPair:
    """A healthy sentence and the same with a tumor.

    Attributes:
        organ: The organ's name in `organs()`; empty where the user wrote the sentences.
        normal: Row 0 of the embedding.
        abnormal: Row 1.
    """

    organ: str
    normal: str
    abnormal: str


def require_choice(organ: str | None, normal: str | None, abnormal: str | None, hint: str) -> None:
    """Refuse anything but an organ, or both sentences; None stands for what was left away.

    Raises:
        PromptError: Saying which is missing or too many, with this hint (code "choice").
    """
    sentences = [sentence for sentence in (normal, abnormal) if sentence is not None]
    if organ is not None and sentences:
        raise PromptError("Expected an organ or sentences of your own, got both.", hint=hint, code="choice")
    if organ is None and len(sentences) < 2:
        missing = "only one of two sentences" if sentences else "nothing to look for"
        raise PromptError(f"Expected an organ or two sentences, got {missing}.", hint=hint, code="choice")


def chosen_prompts(organ: str | None, normal: str | None, abnormal: str | None, modality: str) -> PromptPair:
    """Return the organ's built-in pair, or the user's own where no organ is named.

    Raises:
        PromptError: As `organ_prompts` and `free_prompts`.
    """
    return organ_prompts(organ, modality) if organ is not None else free_prompts(normal or "", abnormal or "")


def organ_prompts(organ: str, modality: str) -> PromptPair:
    """Return the built-in pair of an organ.

    "A normal CT scan of the liver", "An abnormal CT scan of the liver showing a tumor". Paper not available to us; we
    chose one tumor word for every organ, since the step from row 0 to row 1 then points the same way for all of them
    (mean cosine 0.90 over the 20 organs with all-MiniLM-L6-v2, against 0.73 for the public reimplementation's
    "An abnormal CT scan of liver tumor"), which is what an unseen organ has to rely on.

    Args:
        organ: A name or synonym, in any case and spacing ("Hepatic", " liver ").
        modality: "CT" or "MR".

    Raises:
        PromptError: Unknown organ ("did you mean") or modality.
    """
    name = find_organ(organ)
    normals, abnormals = _templated(name, modality)
    return PromptPair(name, normals[0], abnormals[0])


def free_prompts(normal: str, abnormal: str) -> PromptPair:
    """Return the user's own two sentences, checked; a bare "lung" and "lung nodule" will do.

    Raises:
        PromptError: As `check_prompt`, or if both say the same (code "identical").
    """
    pair = PromptPair("", check_prompt(normal), check_prompt(abnormal))
    if sentence_key(pair.normal) == sentence_key(pair.abnormal):
        raise PromptError(
            f"The normal and the abnormal prompt must differ, got '{pair.normal}' twice.",
            hint="write the healthy organ first and the organ with its tumor second, as in 'lung' and 'lung nodule'.",
            code="identical",
        )
    return pair


def check_prompt(text: str) -> str:
    """Return the prompt with its white space tidied.

    Raises:
        PromptError: If it holds no word (code "empty"), is over 300 characters (code "too_long"), or says that
            something is absent (code "negation").
    """
    tidy = " ".join(text.split())
    if not any(character.isalpha() for character in tidy):
        raise PromptError(
            f"A prompt needs at least one word, got '{tidy}'.",
            hint="describe the organ, for example 'A normal CT scan of the liver'.",
            code="empty",
        )
    if len(tidy) > MAXIMUM_CHARACTERS:
        raise PromptError(
            f"A prompt may have at most {MAXIMUM_CHARACTERS} characters, got {len(tidy)}.",
            hint="one short sentence is enough, for example 'A normal CT scan of the liver'.",
            code="too_long",
        )
    negation = _NEGATION.search(tidy)
    if negation:
        raise PromptError(
            f"The prompt '{tidy}' says that something is absent ('{negation.group(0)}').",
            hint="sentence encoders do not understand negation: 'without a tumor' lies next to 'with a tumor'. "
            "Write what is there, for example 'A normal CT scan of the liver'.",
            code="negation",
        )
    return tidy


def organs() -> dict[str, tuple[str, ...]]:
    """Return the built-in organs: name → synonyms, in the file's order."""
    return {name: tuple(entry["synonyms"]) for name, entry in _library()["organs"].items()}


def find_organ(name: str) -> str:
    """Return the built-in name of an organ given by name or synonym, in any case and spacing.

    Raises:
        PromptError: If nothing is known by that name (code "organ").
    """
    known = {sentence_key(word): organ for organ, words in organs().items() for word in (organ, *words)}
    key = sentence_key(name)
    if key not in known:
        close = difflib.get_close_matches(key, sorted(known), n=1)
        hint = did_you_mean(key, close or organs())
        raise PromptError(
            f"Unknown organ '{name}'.", hint=f"{hint} Any other organ: write both prompts yourself.", code="organ"
        )
    return known[key]


def tumor_words(organ: str) -> tuple[str, ...]:
    """Return the names of an organ's tumors, the most general one first.

    Raises:
        PromptError: Unknown organ.
    """
    return tuple(_library()["organs"][find_organ(organ)]["tumors"])


def phrasings(pair: PromptPair, modality: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return (normal, abnormal) sentences that say the same as a pair, for an ensemble; the pair's own come first.

    An organ's pair has six templates, five of them with every tumor word in the abnormal sentence. The user's own
    pair is taken at its word and stays alone.

    Raises:
        PromptError: Unknown organ or modality.
    """
    if not pair.organ:
        return (pair.normal,), (pair.abnormal,)
    normals, abnormals = _templated(find_organ(pair.organ), modality)
    return _unique((pair.normal, *normals)), _unique((pair.abnormal, *abnormals))


def training_sentences(organ: str, modality: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return (normal, abnormal) sentences of an organ for augmentation: every template, and bare names as users type.

    Any normal one may be paired with any abnormal one.

    Raises:
        PromptError: Unknown organ or modality.
    """
    name = find_organ(organ)
    normals, abnormals = _templated(name, modality)
    bare_normals, bare_abnormals = _bare(name)
    return _unique((*normals, *bare_normals)), _unique((*abnormals, *bare_abnormals))


def bank_sentences() -> tuple[str, ...]:
    """Return every sentence that the bundled bank answers without a text model, in a fixed order, once each."""
    general = _library()["general"]
    sentences = [*general["normal"], *general["abnormal"]]
    for name, synonyms in organs().items():
        sentences.extend(synonyms)
        for modality in _library()["scans"]:
            for half in training_sentences(name, modality):
                sentences.extend(half)
    return _unique(sentences)


def sentence_key(text: str) -> str:
    """Return what two spellings of one sentence have in common: lower case, single spaces."""
    return " ".join(text.lower().split())


def _templated(name: str, modality: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Fill every template; normal ones once, abnormal ones with every tumor word, the first word first."""
    entry = _library()["organs"][name]
    scans: Mapping[str, str] = _library()["scans"]
    if modality not in scans:
        raise PromptError(
            f"Unknown modality '{modality}'.", hint=did_you_mean(modality.upper(), scans), code="modality"
        )
    scan = scans[modality]
    words = {"scan": scan, "a_scan": _with_article(scan), "organ": entry.get("phrase", name)}
    templates = _library()["templates"]
    normals = [_sentence(template["normal"], words) for template in templates]
    abnormals = [
        _sentence(template["abnormal"], {**words, "a_tumor": _with_article(tumor)})
        for tumor in entry["tumors"]
        for template in templates
    ]
    return _unique(normals), _unique(abnormals)


def _bare(name: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    entry, bare = _library()["organs"][name], _library()["bare"]
    normals = [text.format(organ=name) for text in bare["normal"]]
    abnormals = [text.format(organ=name) for text in bare["abnormal"]]
    return _unique(normals), _unique((*entry["tumors"], *entry["also"], *abnormals))


def _sentence(template: str, words: Mapping[str, str]) -> str:
    text = template.format(**words)
    return text[0].upper() + text[1:]


def _with_article(noun: str) -> str:
    """Return "an MRI", "a CT scan", "an adrenal mass"; u is left out for "a uterine mass"."""
    return f"an {noun}" if noun[0] in "aeio" or noun == "MRI" else f"a {noun}"


def _unique(sentences: Iterable[str]) -> tuple[str, ...]:
    first: dict[str, str] = {}
    for sentence in sentences:
        first.setdefault(sentence_key(sentence), sentence)
    return tuple(first.values())


@functools.cache
def _library() -> dict[str, Any]:
    library: dict[str, Any] = json.loads(resource_path("Prompts", "prompts.json").read_text(encoding="utf-8"))
    return library
