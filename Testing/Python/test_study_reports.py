"""What the commands of `study` share."""

from pathlib import Path

import pytest

from DiffuGTSLib.cli.study_reports import numbers, require_report_folder, show
from DiffuGTSLib.errors import InputError


def test_numbers_are_parted_by_commas() -> None:
    assert numbers("5,10.5", "--edges") == (5.0, 10.5)
    with pytest.raises(InputError, match="--edges: expected numbers parted by commas, got ''"):
        numbers("", "--edges")


def test_a_folder_with_other_files_is_refused(tmp_path: Path) -> None:
    require_report_folder(tmp_path, force=False)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="files that are not ours") as caught:
        require_report_folder(tmp_path, force=False)
    assert caught.value.code == "exists"
    require_report_folder(tmp_path, force=True)


def test_rows_are_shown_as_a_table_as_json_or_not_at_all(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"size": "all", "found": 2, "share": 0.5}, {"size": "none", "found": 0, "share": float("nan")}]
    show(rows, "Title", Path("out"), quiet=False, as_json=True)
    assert '"share": null' in capsys.readouterr().out
    show(rows, "Title", Path("out"), quiet=True, as_json=False)
    assert capsys.readouterr().out == ""
    show([], "Title", Path("out"), quiet=True, as_json=True)
    assert capsys.readouterr().out == "[]\n"
