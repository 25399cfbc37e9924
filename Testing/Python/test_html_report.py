"""The page: whole, safe, without a network, sortable; opened in a browser where there is one."""

from __future__ import annotations

import html
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest
from browser import Browser
from scored_cases import a_phantom, a_result, scored

from DiffuGTSLib.errors import InputError
from DiffuGTSLib.evaluation import html_report
from DiffuGTSLib.evaluation.case_picture import case_picture
from DiffuGTSLib.evaluation.case_scores import CaseScore, case_file
from DiffuGTSLib.evaluation.html_report import FIGURES, page_text, write_page
from DiffuGTSLib.evaluation.pooled import pool
from DiffuGTSLib.evaluation.report import write_report

NAUGHTY = "<img src=x onerror=alert(1)>"
ABOUT = {
    "created": "2026-01-01T00:00:00+00:00", "protocol": "my protocol.json", "protocol_sha256": "a" * 64,
    "description": "Phantoms.", "split": "test", "splits": {"train": 1, "validation": 0, "test": 9}, "preset": "mini",
    "seed": 0, "weights": {"aova/model": "b" * 64}, "trained": True, "device": "cpu", "versions": {"diffugts": "9.9"},
}  # fmt: skip


def write(folder: Path, scores: list[CaseScore]) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "cases").mkdir()
    phantom = a_phantom()
    result = a_result(phantom, shift=1)
    jpeg = case_picture(phantom.scan, phantom.lesion, result.mask, result.aova, "CT")
    for score in scores:
        case_file(folder / "cases", str(score.row["case"]), ".jpg").write_bytes(jpeg)
    more = {"pooled": pool(scores).as_json(), "about": ABOUT, "scans": {"a": {"scan.nii.gz": "c" * 64}}}
    write_report(
        [score.row for score in scores],
        folder,
        title="Phantoms & more",
        group_by="patient",
        more=more,
        notes=["A note."],
    )
    return folder


@pytest.fixture(scope="module")
def a_report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine cases: seven tumors, better and worse, one healthy scan, one of a naughty name."""
    scores = [scored(f"case {shift}", shift) for shift in (4, 0, 1, 9, 2, 3)]
    scores += [scored(NAUGHTY, 1, "MR"), scored("healthy", healthy=True)]
    return write(tmp_path_factory.mktemp("report"), scores)


@pytest.fixture(scope="module")
def a_page(a_report: Path) -> str:
    return write_page(a_report).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def a_page_of_odd_names(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Better, worse and folded away; the last has a percent sign, one is too long for a line."""
    scores = [scored("case 0", 0), scored("thorax_abdomen_pelvis_" * 6, 9), scored("all 100%", healthy=True)]
    return write_page(write(tmp_path_factory.mktemp("odd_names"), scores))


class Reader(HTMLParser):
    """Collects where a page would reach out to, and whether each tag is closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.reaches: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note what it reaches for, and that it is open."""
        values = dict(attrs)
        self.reaches += [
            v for k in ("src", "href", "action") if (v := values.get(k)) and not v.startswith(("#", "data:"))
        ]
        if tag not in ("meta", "img", "input", "br", "link"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Pass over what closes itself."""

    def handle_endtag(self, tag: str) -> None:
        """Ask that the last one open is what is closed."""
        assert self.open.pop() == tag, f"</{tag}> closes something else"


def test_the_page_is_whole_and_reaches_out_to_nothing(a_page: str) -> None:
    reader = Reader(a_page)
    assert reader.open == [] and reader.reaches == []
    assert not re.search(r"https?://|@import|url\(", a_page)
    assert len(a_page) < 1_500_000


def test_what_comes_from_data_is_escaped(a_page: str) -> None:
    assert NAUGHTY not in a_page and "&lt;img src=x" in a_page
    assert "Phantoms &amp; more" in a_page


def test_every_figure_is_told_with_its_interval(a_page: str) -> None:
    for column, figure in FIGURES.items():
        assert figure.name in a_page, column
    assert "95 % percentile bootstrap interval" in a_page


def test_the_page_says_how_to_make_it_again(a_page: str) -> None:
    for said in ("a" * 64, "b" * 64, "c" * 64, "my protocol.json", "9.9", "A note.", "Research use only", "Phantoms."):
        assert said in a_page, said
    command = (
        "diffugts evaluate --protocol 'my protocol.json' --data SCANS -o REPORT --split test --preset mini --config"
    )
    assert html.escape(f"{command} config.json") in a_page


def test_worst_and_best_cases_are_shown_first_and_the_others_folded_away(a_page: str) -> None:
    shown, folded = a_page[a_page.index("Cases in pictures") :].split("<details>", 1)
    worst, best = shown.split("<h3>Best</h3>")
    assert "Three planes of case 9" in worst and "Three planes of case 0" in best
    assert "Three planes of healthy" in folded
    assert a_page.count("data:image/jpeg") == 8


def test_one_case_makes_a_page_too(tmp_path: Path) -> None:
    for name, score in (("one", scored()), ("healthy", scored(healthy=True))):
        text = write_page(write(tmp_path / name, [score])).read_text(encoding="utf-8")
        assert Reader(text).open == []
        assert not re.search(r"[>\" ]-?(nan|None)\b", text[text.index("<body>") : text.index("<script>")])


def test_untrained_networks_are_said_to_be(a_report: Path) -> None:
    report = json.loads((a_report / "report.json").read_text(encoding="utf-8"))
    report["about"]["trained"] = False
    assert "these figures mean nothing" in page_text(report, {})
    assert "data:image" not in page_text(report, {})


def test_a_folder_without_a_report_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"report.json does not exist\.$") as caught:
        write_page(tmp_path)
    assert caught.value.code == "report"
    (tmp_path / "report.json").write_text('{"cases": []}')
    with pytest.raises(InputError, match="holds no report of a protocol: KeyError"):
        write_page(tmp_path)


def test_a_name_leads_to_a_picture_only_where_the_page_has_it(a_report: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(html_report, "MOST_PICTURES", 7)
    report = json.loads((a_report / "report.json").read_text(encoding="utf-8"))
    page = page_text(report, {row["case"]: b"a picture" for row in report["cases"]})
    links = [unquote(link) for link in re.findall(r'href="#(case-.*?)"', page)]
    targets = [html.unescape(name) for name in re.findall(r'<figure id="(case-.*?)"', page)]
    assert len(targets) == 7 and sorted(links) == sorted(targets), "one of eight is not shown"


def test_a_printed_page_loses_no_column(a_page_of_odd_names: Path) -> None:
    with Browser(980, 700) as browser:  # a US letter on its side, less its margins
        browser.open(a_page_of_odd_names)
        browser.ask("Emulation.setEmulatedMedia", media="print")
        assert browser.value("getComputedStyle(document.querySelector('.scroll')).overflowX") == "visible"
        right = "Math.max(...[...document.querySelectorAll('th, td')].map(c => c.getBoundingClientRect().right))"
        assert browser.value(f"{right} <= window.innerWidth")


def test_a_name_with_a_percent_sign_unfolds_its_picture(a_page_of_odd_names: Path) -> None:
    with Browser() as browser:
        browser.open(a_page_of_odd_names)
        browser.value("[...document.querySelectorAll('.cases a')].find(a => a.textContent === 'all 100%').click()")
        browser.until("document.querySelector('details').open")
        assert browser.value("document.querySelector('figure:target b').textContent") == "all 100%"
        assert browser.problems == []


def test_a_reader_sorts_filters_and_unfolds(a_report: Path, a_page: str) -> None:
    with Browser() as browser:
        browser.open(a_report / "report.html")
        order = "[...document.querySelectorAll('.cases tbody tr')].map(r => r.cells[0].textContent)"
        click = "document.querySelectorAll('.cases th button')[{}].click()"
        browser.value(click.format(4))
        rising = browser.value(order)
        assert rising[0] == "case 9" and rising[-1] == "healthy", "n/a comes last"
        browser.value(click.format(4))
        falling = browser.value(order)
        assert falling[0] == "case 0" and falling[-1] == "healthy", "both ways"
        browser.value(click.format(0))
        assert [name for name in browser.value(order) if name.startswith("case")] == [
            f"case {n}" for n in (0, 1, 2, 3, 4, 9)
        ]
        browser.value("const s = document.querySelector('input[type=search]'); s.value = 'brain'; "
                      "s.dispatchEvent(new Event('input'))")  # fmt: skip
        assert browser.value(f"{order}.length") == 8
        assert browser.value("document.querySelectorAll('.cases tbody tr:not([hidden])').length") == 1
        browser.value("location.hash = '#case-healthy'")
        browser.until("document.querySelector('details').open")
        assert browser.value("document.documentElement.scrollWidth <= window.innerWidth"), "nothing sticks out"
        assert browser.problems == []
        assert [request for request in browser.requests if not request.startswith(("file:", "data:"))] == []
