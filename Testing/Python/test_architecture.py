"""The house: who may import whom, what a file may be called, how long it may grow, and what goes into a wheel.

Only the source is read, nothing is imported. Each rule is also shown a planted house that breaks it.
"""

from __future__ import annotations

import ast
import itertools
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = "DiffuGTSLib"

FLOORS: tuple[tuple[str, ...], ...] = (
    ("errors", "resources", "storage", "versions"),
    (
        "config",
        "datasets",
        "model_store",
        "reader_study.answers",
        "text",
        "text.prompts",
        "volumes",
        "worker",
        "worker.protocol",
    ),
    ("backbones", "device", "model_store.fetch", "supervised.networks", "text.bank", "text.encoder"),
    ("aova", "drawn", "inpainting", "masks", "residual", "smoothing"),
    (
        "cache",
        "clock",
        "components",
        "outcome",
        "pipeline",
        "twins",
        "planning",
        "output",
        "refinement",
        "supervised",
        "model_store.convert",
        "synthesis",
        "evaluation",
        "reader_study",
    ),
    ("training",),
    (
        "cli",
        "progress",
        "worker.__main__",
        "worker.job",
        "worker.library",
        "worker.model",
        "worker.synthesis_job",
        "__main__",
    ),
)
"""Rooms by floor, lowest first. A file belongs to the longest of these names that its own name begins with."""

FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}

ALLOWED_UPWARD: dict[tuple[str, str], str] = {}
"""(importing module, imported room): why."""

LIGHT_FLOORS = 1
"""Up to here everything loads in a bare Slicer, before torch is installed."""
HEAVY = {"torch", "monai", "diffusers", "transformers", "accelerate", "huggingface_hub", "einops", "jaxtyping"}
SLICER = {"slicer", "qt", "vtk", "ctk"}
STANDARD_ONLY_FLOOR = 0

BANNED_NAMES = {"utils", "util", "helpers", "helper", "common", "misc", "base"}
LONGEST_FILE = 450
LONGEST_FUNCTION = 60
ALLOWED_LONG: dict[str, str] = {}
"""Module, or module:function: why it is longer. Empty is best."""


@dataclass(frozen=True)
class Source:
    """One file: its dotted name, its text and its tree."""

    path: Path
    module: str
    text: str
    tree: ast.Module

    @property
    def floor(self) -> int | None:
        """The floor of its room; -1 for the package's own __init__, which imports no room at all; None without one."""
        if self.module == PACKAGE:
            return -1
        room = room_of(self.module.removeprefix(f"{PACKAGE}."))
        return None if room is None else FLOOR_OF[room]


def room_of(name: str) -> str | None:
    """Return the longest room that is a prefix of a dotted name within the package."""
    parts = name.split(".")
    prefixes = (".".join(parts[:count]) for count in range(len(parts), 0, -1))
    return next((prefix for prefix in prefixes if prefix in FLOOR_OF), None)


def read_house(root: Path, package: str = PACKAGE) -> list[Source]:
    """Read every file of a package below `root`."""
    house = []
    for path in sorted((root / package).rglob("*.py")):
        parts = list(path.relative_to(root).with_suffix("").parts)
        if parts[-1] == "__init__":
            parts.pop()
        text = path.read_text(encoding="utf-8")
        house.append(Source(path, ".".join(parts), text, ast.parse(text)))
    return house


def imports(source: Source) -> Iterator[str]:
    """Yield the dotted name of everything that a file imports, at whatever depth, type checking included."""
    package = source.module.split(".")
    if source.path.name != "__init__.py":
        package = package[:-1]
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else []
            stem = [*start, *([node.module] if node.module else [])]
            yield from (".".join([*stem, alias.name]) for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("importlib.import_module", "__import__"):
            yield from (a.value for a in node.args[:1] if isinstance(a, ast.Constant) and isinstance(a.value, str))


def roots(source: Source) -> set[str]:
    """Return the top-level packages that a file imports."""
    return {name.split(".")[0] for name in imports(source)}


def inner(name: str) -> str | None:
    """Return an imported name relative to the package, or None for other packages and for the package itself."""
    head, _, rest = name.partition(".")
    return rest if head == PACKAGE and rest else None


def homeless(house: list[Source]) -> Iterator[str]:
    for source in house:
        if source.floor is None:
            yield f"{source.module} has no floor: give it one in FLOORS"


def upward_imports(house: list[Source]) -> Iterator[str]:
    for source in house:
        floor = len(FLOORS) if source.floor is None else source.floor
        for name in imports(source):
            room = room_of(inner(name) or "")
            if room and FLOOR_OF[room] > floor and (source.module, room) not in ALLOWED_UPWARD:
                yield f"{source.module} (floor {floor}) imports {room} (floor {FLOOR_OF[room]})"


def cycles(house: list[Source]) -> Iterator[str]:
    """Yield each circle of modules; a submodule's import runs its package's __init__ first, which is not counted."""
    known = {source.module for source in house}
    graph = {source.module: {m for name in imports(source) if (m := owner(name, known))} for source in house}
    finished: set[str] = set()

    def visit(module: str, trail: list[str]) -> Iterator[str]:
        if module in trail:
            yield " -> ".join([*trail[trail.index(module) :], module])
            return
        if module in finished:
            return
        for other in sorted(graph[module] - {module}):
            yield from visit(other, [*trail, module])
        finished.add(module)

    for module in sorted(graph):
        yield from visit(module, [])


def owner(name: str, known: set[str]) -> str | None:
    """Return the module that an imported name lives in: itself, or what it was imported from."""
    return name if name in known else next((m for m in [name.rpartition(".")[0]] if m in known), None)


def heavy_on_light_floors(house: list[Source]) -> Iterator[str]:
    for source in house:
        if source.floor is not None and source.floor <= LIGHT_FLOORS:
            yield from (f"{source.module} imports {name}" for name in sorted(roots(source) & HEAVY))
        if source.floor is not None and source.floor <= STANDARD_ONLY_FLOOR:
            others = roots(source) - set(sys.stdlib_module_names) - {PACKAGE}
            yield from (f"{source.module} imports {name}: the standard library only" for name in sorted(others))


def slicer_in_the_library(house: list[Source]) -> Iterator[str]:
    for source in house:
        yield from (f"{source.module} imports {name}" for name in sorted(roots(source) & SLICER))


def banned_names(house: list[Source]) -> Iterator[str]:
    for source in house:
        banned = set(source.module.lower().split(".")) & BANNED_NAMES
        yield from (f"{source.module}: '{name}' says nothing about what is in it" for name in sorted(banned))


def too_long(house: list[Source]) -> Iterator[str]:
    for source in house:
        lines = source.text.count("\n")
        if lines > LONGEST_FILE and source.module not in ALLOWED_LONG:
            yield f"{source.module}: {lines} lines"
        for node in ast.walk(source.tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                name, length = f"{source.module}:{node.name}", length_without_docstring(node)
                if length > LONGEST_FUNCTION and name not in ALLOWED_LONG:
                    yield f"{name}: {length} lines"


def length_without_docstring(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Count the lines from `def` to the end; the docstring is free, so that nobody saves on it."""
    first = node.body[0]
    has_docstring = ast.get_docstring(node) is not None
    return (node.end_lineno or 0) - node.lineno + 1 - has_docstring * ((first.end_lineno or 0) - first.lineno + 1)


def undocumented(house: list[Source]) -> Iterator[str]:
    for source in house:
        if ast.get_docstring(source.tree) is None:
            yield f"{source.module} says nothing about itself"
        yield from (f"{source.module}:{name} has no docstring" for name in public_without_docstring(source.tree))


def public_without_docstring(tree: ast.Module | ast.ClassDef, within: str = "") -> Iterator[str]:
    """Yield public functions, classes and methods without docstring; overloads and dunders speak by their names."""
    for node in tree.body:
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) or node.name.startswith("_"):
            continue
        if ast.get_docstring(node) is None:
            yield within + node.name
        if isinstance(node, ast.ClassDef):
            yield from public_without_docstring(node, f"{within}{node.name}.")


RULES = {
    rule.__name__: rule
    for rule in (
        homeless,
        upward_imports,
        cycles,
        heavy_on_light_floors,
        slicer_in_the_library,
        banned_names,
        too_long,
        undocumented,
    )
}


@pytest.fixture(scope="module")
def our_house() -> list[Source]:
    """Every file of the library."""
    house = read_house(ROOT)
    assert len(house) > 20, "the library was not found"
    return house


@pytest.mark.parametrize("rule", RULES)
def test_the_house_keeps_the_rule(our_house: list[Source], rule: str) -> None:
    assert list(RULES[rule](our_house)) == []


def test_the_tests_and_their_parts_are_no_longer_than_the_house_allows() -> None:
    tests = read_house(ROOT, "Testing")
    assert len(tests) > 100, "the tests were not found"
    assert list(too_long(tests)) == []


def test_an_exception_that_is_not_used_is_removed(our_house: list[Source]) -> None:
    names = {source.module for source in our_house}
    functions = {f"{s.module}:{n.name}" for s in our_house for n in ast.walk(s.tree) if isinstance(n, ast.FunctionDef)}
    assert set(ALLOWED_LONG) <= names | functions
    assert {module for module, _ in ALLOWED_UPWARD} <= names


def test_what_the_pipeline_hands_on_is_imported_from_where_it_is_defined(our_house: list[Source]) -> None:
    """Scripts may take it from the pipeline, as the README does."""
    handed_on = {f"{PACKAGE}.pipeline.{name}" for name in ("Cache", "Components", "load_components")}
    assert [source.module for source in our_house if handed_on & set(imports(source))] == []


SOUND = {
    "__init__.py": '"""The house."""\n__version__ = "0"\n',
    "errors.py": '"""Errors."""\nimport difflib\n',
    "volumes/__init__.py": '"""Scans."""\nfrom DiffuGTSLib.volumes.volume import Volume\n',
    "volumes/volume.py": '"""A scan."""\nimport numpy\nfrom DiffuGTSLib import __version__\nfrom ..errors import X\n',
    "aova.py": '"""Maps."""\nimport torch\nfrom DiffuGTSLib.volumes import Volume\n',
}

BODY = "    pass\n"

PLANTED = [
    ("homeless", "cellar.py", '"""Nobody gave it a floor."""\n', "DiffuGTSLib.cellar has no floor"),
    ("upward_imports", "aova.py", "from DiffuGTSLib.pipeline import segment\n", "aova (floor 3) imports pipeline"),
    ("upward_imports", "aova.py", "from DiffuGTSLib import cli\n", "aova (floor 3) imports cli (floor 6)"),
    ("upward_imports", "aova.py", "from . import pipeline\n", "aova (floor 3) imports pipeline"),
    ("upward_imports", "volumes/io.py", "from ..text.encoder import x\n", "imports text.encoder (floor 2)"),
    ("upward_imports", "errors.py", "def f():\n    import DiffuGTSLib.config\n", "errors (floor 0) imports config"),
    ("upward_imports", "errors.py", "importlib.import_module('DiffuGTSLib.aova')\n", "errors (floor 0) imports aova"),
    ("upward_imports", "__init__.py", "from DiffuGTSLib.errors import X\n", "imports errors (floor 0)"),
    ("cycles", "errors.py", "from DiffuGTSLib.errors_b import x\n", "errors -> DiffuGTSLib.errors_b -> DiffuGTSLib"),
    ("cycles", "volumes/volume.py", "import DiffuGTSLib.volumes\n", "volumes -> DiffuGTSLib.volumes.volume -> Diffu"),
    ("heavy_on_light_floors", "config.py", "def f():\n    import torch.nn\n", "DiffuGTSLib.config imports torch"),
    ("heavy_on_light_floors", "__init__.py", "from monai import x\n", "DiffuGTSLib imports monai"),
    ("heavy_on_light_floors", "errors.py", "import numpy as np\n", "errors imports numpy: the standard library only"),
    (
        "slicer_in_the_library",
        "pipeline.py",
        "try:\n    import slicer\nexcept X:\n    pass\n",
        "pipeline imports slicer",
    ),
    ("banned_names", "volumes/utils.py", "", "DiffuGTSLib.volumes.utils: 'utils'"),
    ("banned_names", "common/masks.py", "", "DiffuGTSLib.common.masks: 'common'"),
    ("too_long", "masks.py", "x = 1\n" * 451, "DiffuGTSLib.masks: 451 lines"),
    ("too_long", "masks.py", "class A:\n    def f(self):\n" + "        x = 1\n" * 60, "DiffuGTSLib.masks:f: 61 lines"),
    ("undocumented", "masks.py", "", "DiffuGTSLib.masks says nothing"),
    ("undocumented", "masks.py", '"""M."""\ndef f():\n' + BODY, "DiffuGTSLib.masks:f has no docstring"),
    ("undocumented", "masks.py", '"""M."""\nclass A:\n    """A."""\n    def f(self): ...\n', "masks:A.f has no"),
]


def build_house(root: Path, files: dict[str, str]) -> list[Source]:
    for name, text in files.items():
        path = root / PACKAGE / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return read_house(root)


@pytest.mark.parametrize("rule", RULES)
def test_a_sound_house_keeps_the_rule(tmp_path: Path, rule: str) -> None:
    assert list(RULES[rule](build_house(tmp_path, SOUND | {"volumes/__init__.py": '"""Scans."""\n'}))) == []


@pytest.mark.parametrize(("rule", "name", "text", "said"), PLANTED)
def test_a_planted_violation_is_found(tmp_path: Path, rule: str, name: str, text: str, said: str) -> None:
    house = build_house(tmp_path, SOUND | {"errors_b.py": '"""B."""\nfrom .errors import y\n', name: text})
    if name == "volumes/volume.py":
        house = build_house(tmp_path, {"volumes/__init__.py": SOUND["volumes/__init__.py"]})
    found = list(RULES[rule](house))
    assert any(said in line for line in found), found


def test_limits_are_met_to_the_line_and_docstrings_are_free(tmp_path: Path) -> None:
    function = 'def f():\n    """F.\n\n    More.\n    """\n' + "    x = 1\n" * 59
    house = build_house(tmp_path, {"masks.py": function, "aova.py": "x = 1\n" * 450})
    assert list(too_long(house)) == []


def test_the_slicer_side_stays_on_the_light_floors() -> None:
    """Nothing to see until there is a Slicer module; then it may import floors 0 and 1 only, and never torch."""
    for path in sorted((ROOT / "DiffuGTS").rglob("*.py")):
        source = Source(path, f"DiffuGTS.{path.stem}", "", ast.parse(path.read_text(encoding="utf-8")))
        assert not roots(source) & HEAVY, path
        rooms = {room for name in imports(source) if (room := room_of(inner(name) or ""))}
        assert all(FLOOR_OF[room] <= LIGHT_FLOORS for room in rooms), (path, rooms)
    assert not (ROOT / "DiffuGTS" / "__init__.py").exists(), "it would shadow the scripted module DiffuGTS.py"


def test_every_folder_of_the_library_goes_into_the_wheel(our_house: list[Source]) -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    folders = {s.module for s in our_house if s.path.name == "__init__.py"} | {f"{PACKAGE}.Resources"}
    assert set(settings["tool"]["setuptools"]["packages"]) == folders
    without = {s.path.parent for s in our_house} - {s.path.parent for s in our_house if s.path.name == "__init__.py"}
    assert without == set(), "a folder of code without __init__.py is left out of the wheel"


LIGHT_IMPORTS = """
import importlib, sys
class Wall:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {heavy!r}:
            raise ImportError("behind the wall: " + name)
sys.meta_path.insert(0, Wall())
for name in {modules!r}:
    importlib.import_module(name)
"""


def test_the_light_floors_load_where_nothing_heavy_is_installed(our_house: list[Source]) -> None:
    light = [source.module for source in our_house if source.floor is not None and source.floor <= LIGHT_FLOORS]
    program = LIGHT_IMPORTS.format(heavy=HEAVY, modules=light)
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    program = LIGHT_IMPORTS.format(heavy=HEAVY, modules=["DiffuGTSLib.text.encoder"])
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert "behind the wall" in done.stderr, "the wall does not hold"


def test_floors_are_numbered_without_doubles() -> None:
    rooms = list(itertools.chain.from_iterable(FLOORS))
    assert len(rooms) == len(set(rooms))
