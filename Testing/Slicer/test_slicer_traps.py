"""Traps of PythonQt and MRML that our stand-ins cannot show, found by reading the source of the Slicer side.

Nothing is imported, so that this runs without Slicer's packages. Each trap is also shown a planted line that falls into it.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SLICER_SIDE = Path(__file__).parents[2] / "DiffuGTS"
QT = ("qt.", "ctk.", "slicer.qMRML", "slicer.qSlicer")
SINCE_PYTHONQT_4 = {"qt.Signal", "qt.Property", "qt.Slot"}
GONE_IN_QT_6 = {"qt.QRegExp", "qt.QDesktopWidget"}
NOT_BOUND = {"QPlainTextEdit", "QRadioButton"}
REFUSED_BY_NODES = {"int64", "uint64", "float16", "bool"}
SHOWN_ERRORS = {
    "InputError", "GeometryError", "PromptError", "ConfigError", "WeightsError", "WorkerError", "StorageError",
    "InstallationError",
}  # fmt: skip
CALLS_OF_PROPERTIES = {
    "text", "value", "checked", "enabled", "visible", "currentText", "currentIndex", "toolTip", "plainText", "title",
    "minimum", "maximum", "collapsed", "objectName", "windowTitle", "placeholderText",
}  # fmt: skip
"""Properties that code for PyQt reads by a call; items of tables, whose `text()` is a call, are named `…item`."""


def name_of(node: ast.AST) -> str:
    """Return a dotted name as it is written, or an empty text."""
    return ast.unparse(node) if isinstance(node, ast.Attribute | ast.Name) else ""


def is_qt(node: ast.AST) -> bool:
    """Say whether an expression names a class of Qt, CTK or Slicer's widgets."""
    return name_of(node).startswith(QT)


def isinstance_of_qt(node: ast.AST) -> bool:
    """PythonQt's classes do not inherit from one another: isinstance is False, `inherits` answers."""
    if not (isinstance(node, ast.Call) and name_of(node.func) in ("isinstance", "issubclass") and len(node.args) == 2):
        return False
    kinds = node.args[1].elts if isinstance(node.args[1], ast.Tuple) else [node.args[1]]
    return any(is_qt(kind) for kind in kinds)


def keyword_to_qt(node: ast.AST) -> bool:
    """C++ takes no keywords: ValueError."""
    return isinstance(node, ast.Call) and is_qt(node.func) and bool(node.keywords)


def with_qt(node: ast.AST) -> bool:
    """A QSignalBlocker is no context manager in PythonQt."""
    return isinstance(node, ast.With) and any(
        isinstance(item.context_expr, ast.Call) and is_qt(item.context_expr.func) for item in node.items
    )


def newer_or_older_qt(node: ast.AST) -> bool:
    """Signals of Python classes need PythonQt 4, that is Slicer 5.12; others are gone with Qt 6."""
    return name_of(node) in SINCE_PYTHONQT_4 | GONE_IN_QT_6


def default_argument_in_slot(node: ast.AST) -> bool:
    """`clicked.connect(lambda n=7: …)` receives False as n: connect "clicked()" by its signature."""
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "connect"):
        return False
    emitter = node.func.value
    is_click = isinstance(emitter, ast.Attribute) and emitter.attr in ("clicked", "triggered", "toggled")
    return is_click and any(isinstance(a, ast.Lambda) and bool(a.args.defaults) for a in node.args)


def property_called(node: ast.AST) -> bool:
    """`button.text()` calls a string: TypeError."""
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and not node.args):
        return False
    owner = name_of(node.func.value)
    return node.func.attr in CALLS_OF_PROPERTIES and (owner.startswith("self.ui.") or ".ui." in owner)


def single_shot_assigned(node: ast.AST) -> bool:
    """`timer.singleShot` is the static method: use setSingleShot."""
    return isinstance(node, ast.Assign) and any(
        isinstance(target, ast.Attribute) and target.attr == "singleShot" for target in node.targets
    )


def attribute_by_dict(node: ast.AST) -> bool:
    """`self.__dict__[…] = …` on an object of Qt is lost."""
    return isinstance(node, ast.Assign) and any(
        isinstance(target, ast.Subscript) and name_of(target.value).endswith("__dict__") for target in node.targets
    )


def array_that_nodes_refuse(node: ast.AST) -> bool:
    """64-bit integers, half precision and bool cannot become a volume."""
    if not (isinstance(node, ast.Call) and name_of(node.func).startswith("slicer.util.")):
        return False
    if not name_of(node.func).endswith(("updateVolumeFromArray", "addVolumeFromArray")):
        return False
    casts = [n for n in ast.walk(node) if isinstance(n, ast.Call) and name_of(n.func).endswith("astype")]
    return any(name_of(a).split(".")[-1].rstrip("_") in REFUSED_BY_NODES for cast in casts for a in cast.args)


def removed_module(node: ast.AST) -> bool:
    """`imp` is gone since Python 3.12, which Slicer has."""
    return isinstance(node, ast.Import) and any(alias.name == "imp" for alias in node.names)


def evaluated_text(node: ast.AST) -> bool:
    """A scene file could carry code to `eval`."""
    return isinstance(node, ast.Call) and name_of(node.func) in ("eval", "exec")


def formatted_translation(node: ast.AST) -> bool:
    """A translator sees literal texts only, no f-string and nothing computed: format after `_()`."""
    return (
        isinstance(node, ast.Call)
        and name_of(node.func) in ("_", "tr", "translate")
        and any(not isinstance(argument, ast.Constant) for argument in node.args)
    )


def untranslated_error(node: ast.AST) -> bool:
    """What the panel shows of an error is translated: the message, and a hint, which stands where no next step is known."""
    if not (isinstance(node, ast.Call) and name_of(node.func) in SHOWN_ERRORS):
        return False
    shown = [*node.args[:1], *(each.value for each in node.keywords if each.arg == "hint")]
    return any(has_words(text) for text in shown)


def has_words(node: ast.AST) -> bool:
    """Say whether an expression is a text with letters of its own."""
    parts = node.values if isinstance(node, ast.JoinedStr) else [node]
    literals = (part.value for part in parts if isinstance(part, ast.Constant) and isinstance(part.value, str))
    return any(letter.isalpha() for literal in literals for letter in literal)


TRAPS = {
    trap.__name__: trap
    for trap in (
        isinstance_of_qt, keyword_to_qt, with_qt, newer_or_older_qt, default_argument_in_slot, property_called,
        single_shot_assigned, attribute_by_dict, array_that_nodes_refuse, removed_module,
        evaluated_text, formatted_translation, untranslated_error,
    )
}  # fmt: skip

PLANTED = {
    "isinstance_of_qt": "isinstance(w, (int, qt.QWidget))",
    "keyword_to_qt": "qt.QLabel('x', parent=w)",
    "with_qt": "with qt.QSignalBlocker(w):\n    pass",
    "newer_or_older_qt": "class A:\n    changed = qt.Signal(int)",
    "default_argument_in_slot": "button.clicked.connect(lambda n=7: f(n))",
    "property_called": "x = self.ui.applyButton.text()",
    "single_shot_assigned": "timer.singleShot = True",
    "attribute_by_dict": "self.__dict__['k'] = 1",
    "array_that_nodes_refuse": "slicer.util.updateVolumeFromArray(node, a.astype(np.int64))",
    "removed_module": "import imp",
    "evaluated_text": "eval(node.GetParameter('x'))",
    "formatted_translation": "_(name.capitalize())",
    "untranslated_error": "InputError(_('Wrong.'), hint=f'choose {name}.')",
}

HARMLESS = """
widget.inherits("QWidget")
qt.QLabel("x", parent)
blocked = widget.blockSignals(True)
button.connect("clicked()", lambda n=7: f(n))
button.clicked.connect(self.onApply)
text = self.ui.applyButton.text + table.item(0, 0).text()
timer.setSingleShot(True)
slicer.util.updateVolumeFromArray(node, a.astype(np.int16))
_("{n} findings").format(n=n)
InputError(_("{n} scans.").format(n=n), hint=f"{a}: {b}", code="no_scan")
process.start(program, arguments)
"""


def falls(tree: ast.AST, trap: str) -> Iterator[int]:
    """Yield the lines that fall into a trap."""
    yield from (node.lineno for node in ast.walk(tree) if TRAPS[trap](node))


@pytest.mark.parametrize("trap", TRAPS)
def test_the_slicer_side_falls_into_no_trap(trap: str) -> None:
    sources = sorted(SLICER_SIDE.rglob("*.py"))
    assert sources, "the Slicer side was not found"
    fallen = [f"{path.name}:{line}" for path in sources for line in falls(ast.parse(path.read_text("utf-8")), trap)]
    assert fallen == []


@pytest.mark.parametrize("trap", TRAPS)
def test_a_planted_line_falls_into_its_trap(trap: str) -> None:
    assert list(falls(ast.parse(PLANTED[trap]), trap)) != []


@pytest.mark.parametrize("trap", TRAPS)
def test_good_lines_fall_into_no_trap(trap: str) -> None:
    assert list(falls(ast.parse(HARMLESS), trap)) == []


def test_bound_widgets_are_those_that_slicer_can_bind() -> None:
    for path in SLICER_SIDE.rglob("*.ui"):
        assert unbindable(path.read_text("utf-8")) == [], path
    planted = '<ui><widget class="QPlainTextEdit" name="p"><property name="SlicerParameterName"/></widget></ui>'
    assert unbindable(planted) == ["p"]


def unbindable(text: str) -> list[str]:
    """Return the widgets of a .ui file that are bound to a parameter and cannot be."""
    import xml.etree.ElementTree as ET

    return [
        str(widget.get("name"))
        for widget in ET.fromstring(text).iter("widget")
        if any(p.get("name") == "SlicerParameterName" for p in widget.findall("property"))
        and widget.get("class") in NOT_BOUND
    ]
