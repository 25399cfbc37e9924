"""Our `qt` is asked what a real PythonQt was asked, and must give the same answers.

`pythonqt_answers.json` holds questions as the body of a function over `qt`, each with the `repr` of what PythonQt 4.1
returned, or with the exception's name after an exclamation mark. Where a real PythonQt is at hand, the same file can be
asked there.
"""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Any

import pytest
import qt

PROBES: list[dict[str, Any]] = json.loads(
    Path(__file__).with_name("pythonqt_answers.json").read_text(encoding="utf-8")
)["probes"]


def answer(code: list[str]) -> str:
    """Run a question and return what is compared: the repr, or the name of the exception."""
    scope: dict[str, Any] = {"qt": qt}
    exec("def probe():\n" + textwrap.indent("\n".join(code), "    "), scope)
    try:
        return repr(scope["probe"]())
    except Exception as error:  # noqa: BLE001 - its name is the answer
        return f"!{type(error).__name__}"


@pytest.fixture
def a_quiet_interpreter(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Files go to a folder of their own, and exceptions in slots, which some questions provoke, are not printed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.excepthook", lambda *_: None)


@pytest.mark.parametrize("probe", PROBES, ids=lambda probe: probe["question"].replace(" ", "_"))
def test_qt_answers_as_pythonqt(probe: dict[str, Any], a_quiet_interpreter: None) -> None:
    assert answer(probe["code"]) == probe["answer"]


def test_every_question_is_still_asked() -> None:
    assert len(PROBES) == 105
