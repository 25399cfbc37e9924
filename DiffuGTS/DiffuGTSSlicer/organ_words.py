"""Translatable names of organs; the library's names are the same in every language."""

from __future__ import annotations

from slicer.i18n import tr as _


def organWord(organ: str) -> str:
    """Return the name of an organ in the current language; an organ that is not built in is returned as it is."""
    words = {
        "adrenal gland": _("adrenal gland"),
        "bladder": _("bladder"),
        "bone": _("bone"),
        "brain": _("brain"),
        "breast": _("breast"),
        "colon": _("colon"),
        "esophagus": _("esophagus"),
        "hepatic vessel": _("hepatic vessel"),
        "kidney": _("kidney"),
        "liver": _("liver"),
        "lung": _("lung"),
        "lymph node": _("lymph node"),
        "other": _("other"),
        "pancreas": _("pancreas"),
        "prostate": _("prostate"),
        "small bowel": _("small bowel"),
        "soft tissue": _("soft tissue"),
        "spleen": _("spleen"),
        "stomach": _("stomach"),
        "thyroid": _("thyroid"),
        "uterus": _("uterus"),
    }
    return words.get(organ, organ)


def withCapital(text: str) -> str:
    """Return a text with its first letter capitalized; the rest is kept, since nouns may have capitals."""
    return text[:1].upper() + text[1:]
