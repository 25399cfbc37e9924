"""What the Extensions Index's robots and reviewers look at, and that the build installs every file the module needs."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
CMAKE = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
ENTRY = json.loads((ROOT / "DiffuGTS.json").read_text(encoding="utf-8"))
README = (ROOT / "README.md").read_text(encoding="utf-8")
KEYS = {
    "$schema", "category", "scm_url", "scm_revision", "scm_type", "build_dependencies", "dicom_support_rule",
    "build_subdirectory", "enabled", "tier",
}  # fmt: skip
"""All that the catalog's schema 1.0.1 allows."""
AT_FILE_SCOPE = {"slicer", "qt", "ctk", "vtk", "numpy", "scipy", "SimpleITK", "DiffuGTSLib", "DiffuGTSSlicer"}
STUB = """
set(Slicer_USE_FILE "${CMAKE_CURRENT_LIST_DIR}/use.cmake")
set(Slicer_EXTENSION_GENERATE_CONFIG "${CMAKE_CURRENT_LIST_DIR}/nothing.cmake")
set(Slicer_EXTENSION_CPACK "${CMAKE_CURRENT_LIST_DIR}/nothing.cmake")
"""
USE = """
function(slicerMacroBuildScriptedModule)
  cmake_parse_arguments(MODULE "WITH_GENERIC_TESTS" "NAME" "SCRIPTS;RESOURCES" ${ARGN})
  string(REPLACE ";" "\\n" files "${MODULE_SCRIPTS};${MODULE_RESOURCES}")
  file(WRITE "${CMAKE_BINARY_DIR}/${MODULE_NAME}.txt" "${files}")
endfunction()
"""


def variable(name: str) -> str:
    """Return an extension's variable as the robots find it: one quoted string."""
    return re.findall(rf'set\(EXTENSION_{name} "([^"]*)"\)', CMAKE)[0]


def repository() -> str:
    return str(ENTRY["scm_url"])


def raw_file(url: str) -> Path:
    """Return the file of this repository that a raw URL names."""
    start = repository().replace("https://github.com/", "https://raw.githubusercontent.com/") + "/main/"
    assert url.startswith(start)
    return ROOT / url.removeprefix(start)


def test_the_catalog_entry_has_what_its_schema_asks_and_nothing_else() -> None:
    assert set(ENTRY) <= KEYS and {"$schema", "category", "scm_url"} <= set(ENTRY)
    assert ENTRY["category"] == "Segmentation" and ENTRY["tier"] in range(1, 6)
    assert b"\r" not in (ROOT / "DiffuGTS.json").read_bytes()
    assert ENTRY["build_dependencies"] == variable("DEPENDS").split()


def test_names_agree_and_the_repository_is_called_as_slicers_are() -> None:
    assert re.search(r"project\((\w+)\)", CMAKE).group(1) == "DiffuGTS"
    assert repository().endswith("/SlicerDiffuGTS") and not repository().endswith(".git")
    assert "EXTENSION_CATEGORY" not in CMAKE, "the category stands in the entry only"
    assert "VERSION 3.28.0...3.28.0 FATAL_ERROR" in CMAKE


def test_every_address_of_the_repository_is_the_catalogs() -> None:
    module = (ROOT / "DiffuGTS" / "DiffuGTS.py").read_text(encoding="utf-8")
    found = [
        address
        for text in (CMAKE, module, README)
        for address in re.findall(r"https://(?:raw\.githubusercontent|github)\.com/[\w-]+/SlicerDiffuGTS", text)
    ]
    assert len(found) >= 4
    assert {address.replace("raw.githubusercontent", "github") for address in found} == {repository()}
    assert variable("HOMEPAGE") == repository()


def test_icon_and_screenshots_are_there_and_of_the_form_that_the_catalog_shows() -> None:
    icon = raw_file(variable("ICONURL"))
    with Image.open(icon) as picture:
        assert picture.size == (128, 128) and picture.mode == "RGBA"
    assert icon.read_bytes() == (ROOT / "Resources" / "Icons" / "DiffuGTS.png").read_bytes()
    pictures = [raw_file(url) for url in variable("SCREENSHOTURLS").split()]
    assert len(pictures) >= 3 and all(path.suffix == ".png" and path.is_file() for path in pictures)


def test_pictures_are_small_and_the_documents_show_them() -> None:
    pictures = sorted((ROOT / "Resources" / "Screenshots").glob("*.png"))
    assert sum(path.stat().st_size for path in pictures) < 1.5e6
    shown = re.findall(
        r"\(\.\./Resources/Screenshots/(\w+\.png)\)", (ROOT / "docs" / "slicer.md").read_text(encoding="utf-8")
    )
    assert {path.name for path in pictures if path.stem.startswith(("view_", "panel_"))} == set(shown)
    section = README.split("## In 3D Slicer", 1)[1].split("\n## ", 1)[0]
    assert len(re.findall(r"\(Resources/Screenshots/\w+\.png\)", section)) >= 3


def test_what_reviewers_read_is_there() -> None:
    description = variable("DESCRIPTION")
    assert 60 < len(description) < 300 and description.count(". ") <= 2 and "research" in description
    assert "patents are pending" in description, "the Extensions Index wants known patents named"
    assert (ROOT / "LICENSE.txt").is_file() and "Apache License 2.0" in README
    for words in ("Research use only", "## Cite", "Sample Data", "### Tutorial", "Nothing leaves this computer"):
        assert words in README, words


def test_only_slicers_own_packages_are_imported_at_file_scope() -> None:
    for path in (ROOT / "DiffuGTS").rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        names = {alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names}
        names |= {str(node.module) for node in tree.body if isinstance(node, ast.ImportFrom)}
        roots = {name.split(".")[0] for name in names}
        assert roots <= AT_FILE_SCOPE | set(sys.stdlib_module_names), path


def test_torch_is_never_asked_of_pip_directly() -> None:
    for path in (ROOT / "DiffuGTS").rglob("*.py"):
        assert not re.search(r"pip_install\([^)]*torch", path.read_text(encoding="utf-8")), path


def test_the_module_folder_is_no_package() -> None:
    assert not (ROOT / "DiffuGTS" / "__init__.py").exists()


def tree(*folders: str) -> set[str]:
    """Return the files below some folders that belong to the extension."""
    return {
        path.relative_to(ROOT).as_posix()
        for folder in folders
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


@pytest.mark.skipif(shutil.which("cmake") is None, reason="CMake is not installed")
def test_the_build_installs_every_file_that_the_module_needs(tmp_path: Path) -> None:
    """CMake itself reads our files, over stand-ins for Slicer's macros and over empty files of the same names."""
    source, slicer = tmp_path / "source", tmp_path / "slicer"
    for name in tree("DiffuGTS", "DiffuGTSLib", "Resources"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).touch()
    adapted = CMAKE.replace("VERSION 3.28.0...3.28.0 FATAL_ERROR", "VERSION 3.16").replace(
        "project(DiffuGTS)", "project(DiffuGTS NONE)"
    )
    (source / "CMakeLists.txt").write_text(adapted, encoding="utf-8")
    shutil.copy(ROOT / "DiffuGTS" / "CMakeLists.txt", source / "DiffuGTS")
    slicer.mkdir()
    for name, words in (("SlicerConfig", STUB), ("use", USE), ("nothing", "")):
        (slicer / f"{name}.cmake").write_text(words, encoding="utf-8")
    command = ["cmake", "-S", str(source), "-B", str(tmp_path / "build"), f"-DSlicer_DIR={slicer}"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    library = set((tmp_path / "build" / "DiffuGTSLib.txt").read_text().splitlines()) - {""}
    module = set((tmp_path / "build" / "DiffuGTS.txt").read_text().splitlines()) - {""}
    pictures = {name for name in tree("Resources") if name.startswith("Resources/Screenshots/")}
    assert library == {name for name in tree("DiffuGTSLib") if name.endswith(".py")} | tree("Resources") - pictures
    assert {f"DiffuGTS/{name}" for name in module} == {name for name in tree("DiffuGTS") if name.endswith(".py")}
