"""What pages are made of: numbers as they are written, and a document that is whole."""

from __future__ import annotations

import math

from test_html_report import Reader

from DiffuGTSLib.evaluation.html_parts import document, number_text, p_text, range_text, signed_text, table


def test_numbers_are_written_alike_everywhere() -> None:
    assert (number_text(0.12345), number_text(2, 0), number_text(None), number_text(math.nan)) == (
        "0.123", "2", "n/a", "n/a",
    )  # fmt: skip
    assert (signed_text(-0.1), signed_text(0.1), signed_text(None)) == ("−0.100", "+0.100", "n/a")
    assert (p_text(0.0004), p_text(0.25), p_text(None)) == ("< 0.001", "0.250", "n/a")
    assert range_text(0.1, 0.2) == "0.100 to 0.200" and range_text(math.nan, 0.2) == "n/a"
    assert range_text(-0.1, 0.2, signed=True) == "−0.100 to +0.200"


def test_a_document_is_whole_and_its_title_escaped() -> None:
    page = document("<b>", [table(("<Left & right", "Right"), ['<tr><td class="text">a</td><td>1</td></tr>'])])
    assert Reader(page).open == [] and "<title>&lt;b&gt;</title>" in page and "Left &amp; right" in page
    assert "Research use only" in page and "<style>" in page and "<script>" in page
