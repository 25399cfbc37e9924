from __future__ import annotations

import json
from pathlib import Path

import pytest
from reading_parts import write_cases
from terminal import plain, refused, run

from DiffuGTSLib.reader_study.answers import Answer, AnswerSheet, write_answers
from DiffuGTSLib.reader_study.key import read_key


@pytest.fixture(scope="module")
def some_scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders real and painted of three scans each; not to be changed."""
    folder = tmp_path_factory.mktemp("scans")
    write_cases(folder / "real", range(3), painted=False)
    write_cases(folder / "painted", range(10, 13), painted=True)
    return folder


@pytest.fixture(scope="module")
def a_study(some_scans: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a session, its key, and the sheets of a reader who is right and of one who is unsure once."""
    folder = tmp_path_factory.mktemp("study")
    sides = ("--real", some_scans / "real", "--synthetic", some_scans / "painted")
    done = run("reading", "build", *sides, "-o", folder / "session", "--seed", "4", "--crop-mm", "60", "--quiet")
    assert done.exit_code == 0 and done.output == "", done.output
    key = read_key(folder / "session_key.json")
    for reader, unsure in (("R1", 0), ("R2", 1)):
        answers = [Answer(c.case, "unsure" if c.case <= unsure else c.truth, 10.0 * c.case) for c in key.cases]
        write_answers(AnswerSheet(key.session, reader, tuple(answers)), folder / f"{reader}.json")
    return folder


def test_a_session_says_what_is_for_whom(some_scans: Path, tmp_path: Path) -> None:
    sides = ("--real", some_scans / "real", "--synthetic", some_scans / "painted")
    done = run("reading", "build", *sides, "-o", tmp_path / "session", "--crop-mm", "60", "--key", tmp_path / "k.json")
    assert done.exit_code == 0, done.output
    assert "6 scans, page of 0." in done.stdout and "For the readers." in done.stdout
    assert f"Key:     {tmp_path / 'k.json'}. Not for the readers." in done.stdout
    assert (tmp_path / "session" / "reading.html").exists() and read_key(tmp_path / "k.json").seed == 0


def test_what_was_harmonized_is_said(some_scans: Path, tmp_path: Path) -> None:
    from reading_parts import grid

    write_cases(tmp_path / "painted", range(10, 13), painted=True, geometry=grid((2.0, 2.0, 4.0)))
    sides = ("--real", some_scans / "real", "--synthetic", tmp_path / "painted", "--crop-mm", "60", "--no-page")
    refused(run("reading", "build", *sides, "-o", tmp_path / "s"), 2, "could be told apart", "--harmonize changes all")
    done = run("reading", "build", *sides, "-o", tmp_path / "s", "--harmonize")
    assert done.exit_code == 0 and "Changed: their voxels differ in size" in done.stderr
    assert not (tmp_path / "s" / "reading.html").exists()


def test_figures_are_shown_and_kept(a_study: Path) -> None:
    key, out = a_study / "session_key.json", a_study / "figures.json"
    done = run("reading", "score", a_study / "R1.json", a_study / "R2.json", "--key", key, "-o", out)
    assert done.exit_code == 0, done.output
    said = plain(done.stdout)
    assert "3 real and 3 synthetic scans" in said and "100.0 %" in said and "all readers" in said
    assert "Agreement between readers" in said and "83 %" in said and "low means convincing tumors" in said
    record = json.loads(out.read_text(encoding="utf-8"))
    assert [reader["excluded"]["accuracy"]["of"] for reader in record["readers"]] == [6, 5]
    assert [reader["wrong"]["accuracy"]["count"] for reader in record["readers"]] == [6, 5]


def test_json_is_all_that_is_printed(a_study: Path) -> None:
    done = run("reading", "score", a_study / "R1.json", "--key", a_study / "session_key.json", "--json")
    assert json.loads(done.stdout)["readers"][0]["time"]["total_s"] == 210.0
    assert json.loads(done.stdout)["agreement"] == []


def test_letters_beyond_ascii_stand_in_the_file_and_are_escaped_on_stdout(a_study: Path, tmp_path: Path) -> None:
    """A pipe on Windows may not take them."""
    key = read_key(a_study / "session_key.json")
    write_answers(AnswerSheet(key.session, "Müller", (Answer(1, "real", 1.0),)), tmp_path / "m.json")
    done = run(
        "reading", "score", tmp_path / "m.json", "--key", a_study / "session_key.json", "--allow-incomplete", "--json",
        "-o", tmp_path / "figures.json",
    )  # fmt: skip
    assert done.stdout.isascii() and json.loads(done.stdout)["readers"][0]["name"] == "Müller"
    assert '"Müller"' in (tmp_path / "figures.json").read_text(encoding="utf-8")


def test_a_reader_who_is_always_unsure_is_shown_with_dashes(a_study: Path) -> None:
    key = read_key(a_study / "session_key.json")
    sheet = AnswerSheet(key.session, "R3", tuple(Answer(c.case, "unsure", 1.0) for c in key.cases))
    write_answers(sheet, a_study / "R3.json")
    done = run("reading", "score", a_study / "R3.json", "--key", a_study / "session_key.json")
    assert done.exit_code == 0 and "–" in done.stdout


def test_readers_who_share_no_case_have_no_agreement_and_keep_their_names(a_study: Path, tmp_path: Path) -> None:
    key = read_key(a_study / "session_key.json")
    for number, reader in enumerate(("Dr. A [site 1]", "Dr. B :heart:")):
        answers = tuple(Answer(c.case, "real", 1.0) for c in key.cases if c.case % 2 == number)
        write_answers(AnswerSheet(key.session, reader, answers), tmp_path / f"{number}.json")
    sheets = (tmp_path / "0.json", tmp_path / "1.json", "--key", a_study / "session_key.json")
    done = run("reading", "score", *sheets, "--allow-incomplete")
    row = next(line for line in done.stdout.splitlines() if "Dr. A [site 1], Dr. B :heart:" in line)
    assert row.split()[-5:] == ["│", "–", "│", "–", "│"]


def test_answers_of_another_session_are_refused(a_study: Path, tmp_path: Path) -> None:
    write_answers(AnswerSheet("ffffffffffffffff", "R1", (Answer(1, "real", 1.0),)), tmp_path / "a.json")
    done = run("reading", "score", tmp_path / "a.json", "--key", a_study / "session_key.json")
    refused(
        done, 2, "The answers of R1 belong to session ffffffffffffffff", "the key that was written with that session"
    )


def test_an_unfinished_sheet_is_refused_or_counted(a_study: Path, tmp_path: Path) -> None:
    key = read_key(a_study / "session_key.json")
    write_answers(AnswerSheet(key.session, "R1", (Answer(1, "real", 1.0),)), tmp_path / "a.json")
    arguments = ("reading", "score", tmp_path / "a.json", "--key", a_study / "session_key.json")
    refused(run(*arguments), 2, "answered 1 of 6 cases", "--allow-incomplete")
    done = run(*arguments, "--allow-incomplete")
    assert done.exit_code == 0 and "R1 answered 1 of 6 cases." in plain(done.stdout)


@pytest.mark.parametrize(
    ("option", "message"),
    [(("--modality", "PET"), "Unknown modality 'PET'"), (("--window", "100", "-100"), "Expected black below white")],
)
def test_wishes_that_mean_nothing_are_refused(
    some_scans: Path, tmp_path: Path, option: tuple[str, ...], message: str
) -> None:
    sides = ("--real", some_scans / "real", "--synthetic", some_scans / "painted", "-o", tmp_path / "s")
    done = run("reading", "build", *sides, *option)
    assert done.exit_code == 2 and message in done.stderr and not (tmp_path / "s").exists()


def test_help_says_what_the_session_is_for() -> None:
    said = plain(run("reading").output)
    assert "build" in said and "score" in said and "Can readers tell synthetic tumors from real ones?" in said
