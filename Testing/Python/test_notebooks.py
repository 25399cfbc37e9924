"""The notebooks run from the first cell to the last, as a person would run them, and show a picture at every step."""

from __future__ import annotations

import time
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[2] / "Resources" / "Notebooks").glob("*.ipynb"))
LIMIT_S = 300


def pictures(cell: nbformat.NotebookNode) -> int:
    """Count the pictures below a cell."""
    return sum("image/png" in output.get("data", {}) for output in cell.get("outputs", ()))


# Jupyter's own packages warn of what changes in their next versions, and leave sockets to the garbage collector.
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_headless_and_shows_the_same_pictures_as_the_stored_one(path: Path, tmp_path: Path) -> None:
    stored = nbformat.read(path, as_version=4)
    fresh = nbformat.read(path, as_version=4)
    for cell in fresh.cells:
        cell.pop("outputs", None)
        if cell.cell_type == "code":
            cell["outputs"] = []
    client = NotebookClient(
        fresh, timeout=LIMIT_S, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    )
    begun_s = time.monotonic()
    client.execute()
    assert time.monotonic() - begun_s < LIMIT_S
    assert [pictures(cell) for cell in fresh.cells] == [pictures(cell) for cell in stored.cells]
    assert sum(map(pictures, fresh.cells)) >= 6


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_stored_notebook_is_small_and_names_no_place_of_the_machine_that_ran_it(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text) < 1_500_000
    assert not [word for word in ("/home/", "/Users/", "/root/", "site-packages", "Traceback") if word in text]
