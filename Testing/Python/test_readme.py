"""What the README and the documents say holds: the Python lines run, commands, files, presets and keys exist."""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
from pathlib import Path

import click
import numpy as np
import pytest
import typer.main

from DiffuGTSLib import __version__
from DiffuGTSLib.cli import app
from DiffuGTSLib.config import Config, presets
from DiffuGTSLib.datasets.protocol import Case, read_protocol
from DiffuGTSLib.datasets.tables import COLUMNS
from DiffuGTSLib.evaluation.metrics import dice
from DiffuGTSLib.evaluation.protocol_cases import is_healthy
from DiffuGTSLib.output.results import NAMES
from DiffuGTSLib.resources import resource_path
from DiffuGTSLib.text.prompts import organs
from DiffuGTSLib.volumes import read_mask, read_volume

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
HAS_MODEL = (resource_path("Models") / "mini" / "model_index.json").is_file()
needs_model = pytest.mark.skipif(not HAS_MODEL, reason="the bundled model is not here yet")


def blocks(text: str, language: str) -> list[str]:
    """Return the fenced blocks of one language; "" stands for none."""
    return [
        body for kind, body in re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL) if kind == language
    ]


def first_column(heading: str) -> list[str]:
    """Return the names in backticks of the first column of the table under a heading."""
    section = README.split(f"{heading}\n", 1)[1].split("\n#", 1)[0]
    return re.findall(r"^\| `([^`]+)` \|", section, re.MULTILINE)


@needs_model
def test_the_python_lines_segment_the_bundled_scan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (block,) = blocks(README, "python")
    (tmp_path / "Resources").symlink_to(ROOT / "Resources")
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "README.md", "exec"), {})
    assert capsys.readouterr().out.strip()
    scan = read_volume(ROOT / "Resources/SampleData/chest_ct.nii.gz")
    mask = read_mask(tmp_path / "tumor.nii.gz", scan.geometry)
    assert set(np.unique(mask.array)) == {0, 1}
    truth = read_mask(ROOT / "Resources/SampleData/chest_ct_tumor.nii.gz", scan.geometry)
    assert dice(mask.array > 0, truth.array > 0) > 0.85


def test_the_citation_is_of_this_version() -> None:
    assert f"\nversion: {__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")


def test_the_python_lines_name_what_exists() -> None:
    """Without a model they stop at its door, and not before."""
    (block,) = blocks(README, "python")
    names = {name for line in re.findall(r"^from .* import (.*)$", block, re.MULTILINE) for name in line.split(", ")}
    assert names == {"load_config", "load_components", "segment", "organ_prompts", "read_volume", "write_volume"}
    exec(compile("\n".join(line for line in block.splitlines() if line.startswith("from")), "README.md", "exec"), {})


def commands() -> list[list[str]]:
    """Return every `diffugts ...` line of the documents, in words."""
    found = []
    for document in DOCUMENTS:
        for block in blocks(document.read_text(encoding="utf-8"), ""):
            found += [shlex.split(line) for line in block.splitlines() if line.startswith("diffugts ")]
    return found


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_every_command_that_is_shown_can_be_given(words: list[str]) -> None:
    """Only the words are read here: that options exist and that nothing is missing."""
    group = typer.main.get_command(app)
    assert isinstance(group, click.Group) or hasattr(group, "commands")
    command, *rest = words[1:]
    found = group.commands[command]
    while hasattr(found, "commands"):  # a room of commands, such as `study`
        command, *rest = rest
        found = found.commands[command]
    found.make_context(command, rest, resilient_parsing=False)


def test_every_make_target_that_is_shown_exists() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
    shown = set(re.findall(r"^make ([a-z]+)", README, re.MULTILINE))
    assert {"demo", "test"} <= shown <= targets


def test_the_table_of_presets_is_complete() -> None:
    assert sorted(first_column("## Presets")) == sorted(presets())


def test_the_table_of_results_is_complete() -> None:
    assert sorted(first_column("### What comes out")) == sorted(NAMES)


def test_the_number_of_organs_is_right() -> None:
    assert f"one of {len(organs())} organs" in README


def test_the_readme_holds_no_accuracy() -> None:
    """Figures of the model stand in its card, beside the command that measured them."""
    assert not re.search(r"\b(?:Dice|DSC|AUROC|NSD)\b[^.\n]{0,30}\b0?\.\d", README)
    assert not re.search(r"\d\s?%", README)


def anchors(document: Path) -> set[str]:
    """Return what GitHub calls the headings of a document in links."""
    headings = re.findall(r"^#+ (.+)$", document.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize(
    "document", [*DOCUMENTS, *sorted((ROOT / "Resources").rglob("*.md"))], ids=lambda path: str(path.relative_to(ROOT))
)
def test_every_linked_file_and_heading_exists(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    for link, anchor in re.findall(r"\]\(([^)#]*)(?:#([^)]*))?\)", text):
        if link.startswith(("http://", "https://")):
            continue
        if not HAS_MODEL and ("Models/mini" in link or "Screenshots" in link):
            continue  # they come with the model
        linked = document.parent / link if link else document
        assert linked.exists(), link
        assert not anchor or anchor in anchors(linked), f"{link}#{anchor}"


def test_every_key_in_the_method_s_table_exists_and_has_the_default_that_it_says() -> None:
    text = (ROOT / "docs" / "method.md").read_text(encoding="utf-8")
    values = dataclasses.asdict(Config())
    table = text[text.index("| # | open point") :].split("\n\n")[0].splitlines()
    assert [row for row in table if row.count("|") != 6] == [], "a row of other than five cells is shown shifted"
    seen = set()
    for keys, default in re.findall(r"^\|[^|]*\|[^|]*\|[^|]*\|([^|]*)\|([^|]*)\|$", text, re.MULTILINE):
        for stage, name in re.findall(r"`(\w+)\.(\w+)`", keys):
            if stage not in values:
                continue  # an argument of a class
            seen.add(f"{stage}.{name}")
            shown = default.strip().strip("`")
            actual = values[stage][name]
            if isinstance(actual, str | bool | int | float):
                assert shown == (actual if isinstance(actual, str) else json.dumps(actual)), f"{stage}.{name}"
    assert len(seen) >= 15


def test_every_key_that_a_document_mentions_exists() -> None:
    values = dataclasses.asdict(Config())
    stages = "|".join(stage for stage in values if isinstance(values[stage], dict))
    for document in DOCUMENTS:
        for stage, name in re.findall(rf"[` ]({stages})\.(\w+)[`=]", document.read_text(encoding="utf-8")):
            is_module = (ROOT / "DiffuGTSLib" / stage / f"{name}.py").exists()
            assert name in values[stage] or name == "py" or is_module, f"{document.name}: {stage}.{name}"


def test_every_key_of_a_protocol_is_explained_and_the_example_is_one(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`.+?) \|", text, re.MULTILINE)
    explained = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert explained == {field.name for field in dataclasses.fields(Case)}
    (example,) = blocks(text, "json")
    (tmp_path / "p.json").write_text(example)
    labeled, healthy = read_protocol(tmp_path / "p.json")
    assert not is_healthy(labeled) and is_healthy(healthy)
    for column in COLUMNS:
        assert f"`{column}`" in text, column
