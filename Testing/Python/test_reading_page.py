"""The page in a real browser: answered by keys alone, scrolled, windowed, saved, and taken up again."""

from __future__ import annotations

import base64
import json
import re
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from browser import ALT, CONTROL, SHIFT, TIMEOUT_S, Browser, chromium

from DiffuGTSLib.errors import InputError
from DiffuGTSLib.reader_study import page as reading_page
from DiffuGTSLib.reader_study.answers import SessionCard, read_answers
from DiffuGTSLib.reader_study.page import PackedScan, pack, page_text
from DiffuGTSLib.resources import resource_path

SHAPE, SPACING_MM = (12, 10, 8), (1.0, 1.0, 2.0)
CASES = 4
CARD = SessionCard(
    "0123456789abcdef", "Liver <b>& spleen", "CT", (0.0, 255.0), "HU", tuple(f"case_{n}.nii" for n in "1234")
)
SHOWN = (
    "document.querySelector('#position').textContent.startsWith('Slice') && document.activeElement.tagName === 'CANVAS'"
)


def voxels(number: int) -> np.ndarray:
    """Return a scan that is 20 z + number, with a bright corner at right, anterior, superior."""
    array = np.broadcast_to(20 * np.arange(SHAPE[2]) + number, SHAPE).astype(np.int16)
    array = array.copy()
    array[-3:, -3:, -2:] = 255
    return array


def page(card: SessionCard = CARD) -> str:
    return page_text(card, [PackedScan(SHAPE, SPACING_MM, pack(voxels(n))) for n in range(1, CASES + 1)])


@pytest.fixture(scope="module")
def a_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with four small scans."""
    path = tmp_path_factory.mktemp("page") / "reading.html"
    path.write_text(page(), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def one_browser() -> Iterator[Browser]:
    """A browser for this file: to start one takes a second."""
    chromium()
    with Browser(1000, 700) as browser:
        yield browser


@pytest.fixture
def a_browser(one_browser: Browser, a_page: Path) -> Iterator[Browser]:
    """The page, just opened, nothing stored; the test may not make it throw or ask for anything."""
    one_browser.open(a_page)
    one_browser.value("localStorage.clear()")
    one_browser.open(a_page)
    yield one_browser
    assert one_browser.problems == []
    assert {address for address in one_browser.requests if not address.startswith("blob:")} <= {a_page.as_uri()}


def begin(browser: Browser, reader: str = "R1") -> None:
    """Type a name, press Enter, and wait for a scan that takes answers."""
    browser.write(reader)
    browser.press("Enter")
    browser.until(SHOWN)


def answer(browser: Browser, keys: str) -> None:
    """Answer scan after scan, each as soon as it takes an answer."""
    for key in keys:
        here = browser.text("#count")
        moved = f"!document.querySelector('#end').hidden || document.querySelector('#count').innerText !== {here!r}"
        end = time.monotonic() + TIMEOUT_S
        while not browser.value(moved):
            assert time.monotonic() < end, here
            browser.press(key)
            time.sleep(0.02)


def drawn(browser: Browser) -> None:
    """Wait until what was asked for is on the screen."""
    browser.value("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(1))))")


def pixel(browser: Browser, view: int, x: float, y: float) -> int:
    """Return the gray of a view at a share of its width and height, after it was drawn."""
    drawn(browser)
    canvas = f"document.querySelectorAll('.view canvas')[{view}]"
    at = f"Math.round({x} * {canvas}.width), Math.round({y} * {canvas}.height), 1, 1"
    return int(browser.value(f"{canvas}.getContext('2d').getImageData({at}).data[0]"))


def stored(browser: Browser) -> list[str]:
    """Return the answers that the browser keeps."""
    record = json.loads(browser.value(f"localStorage.getItem('diffugts-reading:{CARD.session}:R1')"))
    return [row["answer"] for row in record["answers"]]


# --- The text


def test_voxels_are_packed_exactly() -> None:
    array = np.random.default_rng(0).integers(-32768, 32768, SHAPE).astype(np.int16)
    planes = (
        np.frombuffer(zlib.decompress(base64.b64decode(pack(array))), np.uint8).reshape(2, *SHAPE[::-1]).astype(int)
    )
    assert np.array_equal((planes[0] + 256 * planes[1] - 32768).transpose(2, 1, 0), array)


def test_forty_cubes_of_ct_fit_into_40_mb() -> None:
    """CT of the sample data, repeated to 96 voxels a side, is as hard to pack as any."""
    from DiffuGTSLib.volumes.io import read_volume

    scan = read_volume(resource_path("SampleData", "chest_ct.nii.gz")).array
    cube = np.resize(scan[20:116, 20:116].transpose(2, 0, 1), (96, 96, 96)).astype(np.int16)
    assert 40 * len(pack(cube)) < 40e6


def test_the_page_is_whole_and_asks_for_nothing() -> None:
    text = page()
    assert not re.search(r"%[A-Z]+%", text)
    assert not re.search(r"(https?:)?//[a-z]", re.sub(r"// .*", "", text)), "no address"
    assert "default-src 'none'" in text and "Liver &lt;b&gt;&amp; spleen" in text
    assert text.count("</script>") == CASES + 2


def test_a_title_cannot_break_out_of_the_page() -> None:
    card = SessionCard(CARD.session, "</script><script>alert(1)//%SCANS%", "CT", None, "HU", CARD.files)
    text = page(card)
    assert "<script>alert" not in text and text.count('id="scan-1"') == 1


def test_a_page_that_no_browser_reads_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading_page, "LARGEST_PAGE_MB", 0.0001)
    with pytest.raises(InputError, match="browsers read up to") as caught:
        page()
    assert caught.value.code == "page_size"


def test_without_a_browser_its_tests_are_skipped_with_the_package_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(pytest.skip.Exception, match="apt-get install --no-install-recommends chromium"):
        chromium()


# --- In the browser


def test_a_session_is_read_with_the_keyboard_alone(a_browser: Browser) -> None:
    begin(a_browser, "Dr. Ä. Reader, R1")
    assert a_browser.text("#count") == f"Scan 1 of {CASES}"
    answer(a_browser, "rsus")
    assert a_browser.text("#summary").startswith("All 4 scans are answered: 1 real, 2 synthetic, 1 unsure.")
    a_browser.press("j")
    a_browser.press("c")
    sheets = [read_answers(a_browser.downloaded(f"answers_Dr_Ä_Reader_R1.{kind}")) for kind in ("json", "csv")]
    assert sheets[0] == sheets[1]
    assert (sheets[0].session, sheets[0].reader) == (CARD.session, "Dr. Ä. Reader, R1")
    assert [a.answer for a in sheets[0].answers] == ["real", "synthetic", "unsure", "synthetic"]
    assert all(0.2 < a.time_s < 20 for a in sheets[0].answers)


def test_the_last_answer_is_taken_back(a_browser: Browser) -> None:
    begin(a_browser)
    answer(a_browser, "rs")
    a_browser.press("z")
    assert a_browser.text("#count") == f"Scan 2 of {CASES}" and stored(a_browser) == ["real"]
    a_browser.press("Backspace")
    assert a_browser.text("#count") == f"Scan 1 of {CASES}" and stored(a_browser) == []
    a_browser.press("z")
    answer(a_browser, "usrr")
    a_browser.press("z")
    assert a_browser.text("#count") == f"Scan 4 of {CASES}"
    assert a_browser.value("document.querySelector('#progress').value") == 3


def test_a_key_that_bounces_answers_one_scan(a_browser: Browser) -> None:
    begin(a_browser)
    answer(a_browser, "r")
    a_browser.press("r")
    a_browser.press("r")
    assert stored(a_browser) == ["real"]


def test_reading_goes_on_where_it_was_left(a_browser: Browser, a_page: Path) -> None:
    begin(a_browser)
    answer(a_browser, "rs")
    a_browser.open(a_page)
    a_browser.write("R1")
    assert a_browser.text("#resume").startswith("2 of 4 scans are answered already")
    a_browser.press("Enter")
    a_browser.until(SHOWN)
    assert a_browser.text("#count") == f"Scan 3 of {CASES}"
    a_browser.open(a_page)
    begin(a_browser, "R2")
    assert a_browser.text("#count") == f"Scan 1 of {CASES}", "another reader begins anew"


@pytest.mark.parametrize(
    "kept",
    [
        "{", "[]", '{"session": "other", "answers": [{"case": 1, "answer": "real", "seconds": 1}]}',
        '{"session": "0123456789abcdef", "answers": [{"case": 9, "answer": "real", "seconds": 1}, {"case": 1, "answer": "fake", "seconds": 1}, null]}',
    ],
)  # fmt: skip
def test_what_is_stored_by_others_is_passed_over(a_browser: Browser, kept: str) -> None:
    a_browser.value(f"localStorage.setItem('diffugts-reading:{CARD.session}:R1', {json.dumps(kept)})")
    begin(a_browser)
    assert a_browser.text("#count") == f"Scan 1 of {CASES}"
    answer(a_browser, "r")
    assert stored(a_browser) == ["real"]


def test_a_browser_that_stores_nothing_says_so_and_reads_on(a_page: Path) -> None:
    chromium()
    with Browser(1000, 700) as browser:
        browser.open(
            a_page, before="Object.defineProperty(window, 'localStorage', { get() { throw new Error('denied'); } });"
        )
        begin(browser)
        assert "keeps nothing" in browser.text("#note")
        answer(browser, "rsur")
        assert "All 4 scans" in browser.text("#summary") and browser.problems == []


def test_slices_run_from_feet_to_head(a_browser: Browser) -> None:
    begin(a_browser)
    assert a_browser.text("#position").startswith("Slice 5 of 8") and pixel(a_browser, 0, 0.5, 0.5) == 20 * 4 + 1
    a_browser.press("ArrowUp")
    assert pixel(a_browser, 0, 0.5, 0.5) == 20 * 5 + 1
    a_browser.press("PageDown")
    assert pixel(a_browser, 0, 0.5, 0.5) == 1
    a_browser.mouse("mouseWheel", 300, 300, deltaX=0, deltaY=-100)
    assert pixel(a_browser, 0, 0.5, 0.5) == 21
    a_browser.mouse("mouseWheel", 300, 300, deltaX=0, deltaY=100)
    assert pixel(a_browser, 0, 0.5, 0.5) == 1


def test_pictures_are_turned_as_radiologists_turn_them(a_browser: Browser) -> None:
    """The bright corner lies right, anterior and superior: at the left and the top of every picture."""
    begin(a_browser)
    a_browser.press("PageUp")
    assert [a_browser.text(f".letter.{side}") for side in ("left", "right", "top", "bottom")] == list("RLAP")
    # The view is wider than the picture, which fills its height: 12 by 10 mm.
    wide = a_browser.value("document.querySelector('canvas').width / document.querySelector('canvas').height")
    left, right = 0.5 - 0.55 / wide, 0.5 + 0.55 / wide
    assert pixel(a_browser, 0, left, 0.05) == 255 and pixel(a_browser, 0, right, 0.05) == 141
    assert pixel(a_browser, 0, left, 0.95) == 141
    a_browser.press("v")
    drawn(a_browser)
    assert a_browser.text("#plane") == "Coronal"
    assert [a_browser.text(f".letter.{side}") for side in ("left", "right", "top", "bottom")] == list("RLSI")
    assert pixel(a_browser, 0, 0.5, 0.02) > 130 and pixel(a_browser, 0, 0.5, 0.98) < 10, "head up"
    a_browser.press("PageUp")
    assert pixel(a_browser, 0, 0.5 - 0.35 / wide, 0.05) == 255, "the front slice"


def test_a_click_on_a_small_view_brings_it_forward(a_browser: Browser) -> None:
    begin(a_browser)
    a_browser.value("document.querySelectorAll('.view canvas')[2].click()")
    drawn(a_browser)
    assert a_browser.text("#plane") == "Sagittal"


def test_a_click_shows_the_point_in_the_other_planes(a_browser: Browser) -> None:
    begin(a_browser)
    a_browser.press("PageUp")
    a_browser.value(
        "{ const box = document.querySelector('canvas').getBoundingClientRect();"
        "  window.middle = [box.left + box.width / 2, box.top + box.height / 2, box.height / 10]; }"
    )
    x, y, mm = a_browser.value("window.middle")
    for kind in ("mousePressed", "mouseReleased"):
        a_browser.mouse(kind, x - 5.5 * mm, y - 4.5 * mm, button="left", clickCount=1)
    a_browser.press("v")
    assert pixel(a_browser, 0, 0.5, 0.5) < 255
    assert a_browser.text("#position").startswith("Slice 10 of 10"), "the most anterior coronal slice"


def test_the_window_follows_keys_and_drags(a_browser: Browser) -> None:
    begin(a_browser)
    assert a_browser.text("#contrast") == "W 255 L 128 HU"
    a_browser.press("3")
    drawn(a_browser)
    assert a_browser.text("#contrast") == "W 150 L 60 HU"
    a_browser.press("1")
    before = pixel(a_browser, 0, 0.5, 0.5)
    a_browser.press("ArrowUp", SHIFT)
    assert pixel(a_browser, 0, 0.5, 0.5) > before
    a_browser.press("1")
    a_browser.press("ArrowRight", SHIFT)
    drawn(a_browser)
    assert a_browser.text("#contrast").startswith("W 268")
    a_browser.press("1")
    a_browser.mouse("mousePressed", 300, 300, button="left", clickCount=1)
    a_browser.mouse("mouseMoved", 340, 300, button="left", buttons=1)
    a_browser.mouse("mouseReleased", 340, 300, button="left", clickCount=1)
    drawn(a_browser)
    assert a_browser.text("#contrast").startswith("W 291"), "e^(40/300) as wide"


def test_the_picture_is_zoomed_and_moved(a_browser: Browser) -> None:
    begin(a_browser)
    a_browser.press("+")
    a_browser.press("+")
    drawn(a_browser)
    assert "zoom 144 %" in a_browser.text("#position")
    a_browser.mouse("mouseWheel", 300, 300, deltaX=0, deltaY=100, modifiers=CONTROL)
    drawn(a_browser)
    assert "zoom 112 %" in a_browser.text("#position")
    for _ in range(4):
        a_browser.press("ArrowRight", ALT)
    assert pixel(a_browser, 0, 0.5, 0.5) == 0, "moved out of the middle"
    a_browser.press("0")
    assert pixel(a_browser, 0, 0.5, 0.5) == 81 and "zoom 100 %" in a_browser.text("#position")


def test_keys_are_explained_and_do_not_answer_meanwhile(a_browser: Browser) -> None:
    begin(a_browser)
    a_browser.press("h")
    assert a_browser.value("document.querySelector('#keys').open")
    a_browser.value("new Promise((done) => setTimeout(done, 400))")
    a_browser.press("r")
    a_browser.press("Escape")
    assert stored(a_browser) == [] and not a_browser.value("document.querySelector('#keys').open")
    answer(a_browser, "r")
    assert stored(a_browser) == ["real"]


def test_time_stands_still_while_the_page_is_hidden(a_browser: Browser) -> None:
    begin(a_browser)
    hide = "Object.defineProperty(document, 'hidden', { value: %s, configurable: true }); document.dispatchEvent(new Event('visibilitychange'))"
    a_browser.value(f"{{ {hide % 'true'} }}")
    a_browser.value("new Promise((done) => setTimeout(done, 1500))")
    a_browser.value(f"{{ {hide % 'false'} }}")
    answer(a_browser, "r")
    record = json.loads(a_browser.value(f"localStorage.getItem('diffugts-reading:{CARD.session}:R1')"))
    assert record["answers"][0]["seconds"] < 1.4


def test_everything_can_be_reached_with_tab(a_browser: Browser) -> None:
    begin(a_browser)
    a_browser.value("new Promise((done) => setTimeout(done, 400))")
    reached = []
    for _ in range(8):
        a_browser.press("Tab")
        reached.append(a_browser.value("document.activeElement.innerText || document.activeElement.tagName"))
    assert [word.split()[0] for word in reached if word.split()[0] in ("Real", "Unsure", "Synthetic")][:3] == [
        "Real", "Unsure", "Synthetic",
    ]  # fmt: skip


def test_a_damaged_scan_is_told(a_browser: Browser, a_page: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.html"
    text = a_page.read_text(encoding="utf-8")
    broken.write_text(text.replace('id="scan-1">', 'id="scan-1">AAAA'), encoding="utf-8")
    with Browser(1000, 700) as browser:
        browser.open(broken)
        browser.write("R1")
        browser.press("Enter")
        browser.until("!document.querySelector('#failure').hidden")
        assert "damaged" in browser.text("#failure")


def test_a_scan_without_a_window_is_shown_by_its_percentiles(tmp_path: Path) -> None:
    chromium()
    card = SessionCard(CARD.session, "MR", "MR", None, "", CARD.files)
    (tmp_path / "mr.html").write_text(page(card), encoding="utf-8")
    with Browser(1000, 700) as browser:
        browser.open(tmp_path / "mr.html")
        begin(browser)
        assert browser.text("#contrast").startswith("W 254 L 128")
        browser.press("3")
        drawn(browser)
        assert browser.text("#contrast").startswith("W 254"), "windows of CT mean nothing in MR"
        assert browser.problems == []
