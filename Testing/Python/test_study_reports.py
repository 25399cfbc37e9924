"""What the commands of `study` share."""

from pathlib import Path

import pytest

from DiffuGTSLib.cli.study_reports import require_not_read, require_report_folder, require_table, show
from DiffuGTSLib.errors import InputError

FILES = ("sizes.csv", "report.md", "report.json")


def test_a_folder_with_other_files_is_refused(tmp_path: Path) -> None:
    require_report_folder(tmp_path, False, "Sizes", FILES)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="files that are not ours") as caught:
        require_report_folder(tmp_path, False, "Sizes", FILES)
    assert caught.value.code == "exists"
    require_report_folder(tmp_path, True, "Sizes", FILES)


def test_a_file_of_somebodys_own_is_not_replaced_even_when_forced(tmp_path: Path) -> None:
    (tmp_path / "sizes.csv").write_text("mine")
    with pytest.raises(InputError, match="holds sizes.csv and no earlier result"):
        require_report_folder(tmp_path, True, "Sizes", FILES)


@pytest.mark.parametrize(
    ("text", "said"),
    [('{"title": "Similarity"}', "something else, Similarity"), ("[]", "something else"), ("?", "something else")],
)
def test_another_studys_report_is_not_replaced_even_when_forced(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "report.json").write_text(text)
    with pytest.raises(InputError, match=f"holds report.json of {said}\\."):
        require_report_folder(tmp_path, True, "Sizes", FILES)
    (tmp_path / "report.json").write_text('{"title": "Sizes"}')
    require_report_folder(tmp_path, True, "Sizes", FILES)


def test_what_is_read_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text('{"title": "Sizes"}')
    (tmp_path / "link.csv").symlink_to(tmp_path / "sizes.csv")
    for path in (tmp_path / "sizes.csv", tmp_path / "link.csv"):
        with pytest.raises(InputError, match="is read here, and would be replaced"):
            require_report_folder(tmp_path, True, "Sizes", FILES, [path])
    require_not_read([tmp_path / "a.csv"], [tmp_path / "b.csv"])


def test_a_table_replaces_an_earlier_one_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "groups.csv"
    require_table(path, ("by", "group"))
    path.write_text("by,group,mean\nsex,F,1\n")
    require_table(path, ("by", "group"))
    for content in (b"case,dice\n", b"", b"\xff\xfe\x00"):
        path.write_bytes(content)
        with pytest.raises(InputError, match="is no earlier table of this study"):
            require_table(path, ("by", "group"))


def test_rows_are_shown_as_a_table_as_json_or_not_at_all(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"size": "all", "found": 2, "share": 0.5}, {"size": "none", "found": 0, "share": float("nan")}]
    show(rows, "Title", Path("out"), quiet=False, as_json=True)
    assert '"share": null' in capsys.readouterr().out
    show(rows, "Title", Path("out"), quiet=True, as_json=False)
    assert capsys.readouterr().out == ""
    show([], "Title", Path("out"), quiet=True, as_json=True)
    assert capsys.readouterr().out == "[]\n"
