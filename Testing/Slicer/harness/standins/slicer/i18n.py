"""Stand-in for `slicer.i18n`: texts stay as they are."""

from __future__ import annotations


def tr(text: str) -> str:
    """Return the text; in Slicer the translation in the context of the calling module."""
    return text


def translate(context: str, text: str) -> str:
    """Return the text; in Slicer the translation in a named context."""
    return text


def getContext(source_file: str) -> str:
    """Return the context of a source file: its name."""
    return source_file.rsplit("/", 1)[-1].removesuffix(".py")
