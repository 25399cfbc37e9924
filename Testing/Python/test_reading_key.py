from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from DiffuGTSLib.errors import InputError
from DiffuGTSLib.reader_study.key import Key, KeyCase, read_key, write_key

KEY = Key(
    "0123456789abcdef", 7, (KeyCase(1, "real", "a.nii", "1a"), KeyCase(2, "synthetic", "b.nii", "2b")), {"crop": 1}
)


@pytest.fixture
def a_key(tmp_path: Path) -> Path:
    """A key on the disk."""
    write_key(KEY, tmp_path / "key.json")
    return tmp_path / "key.json"


def test_a_key_comes_back_as_it_was_written(a_key: Path) -> None:
    assert read_key(a_key) == KEY
    assert "Keep it away" in a_key.read_text()


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"format": "diffugts-reading-session"}, "expected the format 'diffugts-reading-key'"),
        ({"version": 9}, "version 9"),
        ({"cases": []}, "other numbers"),
        ({"cases": [{"case": 2, "truth": "real", "source": "", "sha256": ""}]}, "other numbers"),
        ({"cases": [{"case": 1, "truth": "fake", "source": "", "sha256": ""}]}, "got fake"),
        ({"cases": [{"case": 1}]}, "KeyError"),
        ({"made": None}, "TypeError"),
    ],
)
def test_what_is_no_key_is_refused(a_key: Path, changed: dict[str, Any], words: str) -> None:
    a_key.write_text(json.dumps(json.loads(a_key.read_text()) | changed))
    with pytest.raises(InputError) as caught:
        read_key(a_key)
    assert words in caught.value.message


@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff"])
def test_a_damaged_key_is_refused(a_key: Path, content: bytes) -> None:
    a_key.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_key(a_key)
    assert caught.value.code == "damaged" and "copy it again" in caught.value.hint


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no key .*key.json"):
        read_key(tmp_path / "key.json")
