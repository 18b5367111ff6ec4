"""The page: one file that shows all it is given, as text, in a real browser."""

import re

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

import browser
from core import page
from core.page import Cell, Code, Facts, Folded, Picture, Section, Table, Text, Tiles

HOSTILE = '<script>alert("x")</script>'


def figure() -> Figure:
    drawn = Figure(figsize=(4, 2), layout="constrained")
    axis = drawn.subplots()
    axis.plot([0, 1], [1, 0], color="#0072B2", label="a line")
    axis.set(xlabel="x", ylabel="y")
    return drawn


def everything() -> bytes:
    frame = pd.DataFrame(
        {
            "class": [HOSTILE, "Hernia", "Edema", "Mass"],
            "images": [2, 11, 110, 5],
            "score": [-0.5, np.nan, 0.125, -4.0],
            "AUC": [Cell(0.8, "0.800 [0.7, 0.9]"), Cell(None), Cell(0.91, "0.910"), Cell(0.09, "0.090")],
        }
    )
    wide = pd.DataFrame([["a row", *[Cell(n, title=HOSTILE, shade=n / 40) for n in range(40)]]])
    one = Picture(page.drawn(figure(), "a falling line").content, HOSTILE, "A line.")
    blocks = [
        Text(["Said.", HOSTILE]), Text(["Beware."], "warning"), Table(frame, "Four classes", {"score": "+.3f"}),
        Table(wide, "A wide one", matrix=True), page.drawn(figure(), "a falling line", "It falls."),
        Tiles([one] * 3), Facts({"seed": 0, "a" * 300: "b" * 300}), Code(["word " * 80]),
        Folded("More", [Text(["Folded."])]),
    ]  # fmt: skip
    sections = [Section("All & everything", blocks), Section(HOSTILE, [Text(["The end."], "verdict")])]
    return page.page(HOSTILE, sections, [Text(["A page."])], banner="SYNTHETIC DATA")


def test_a_page_is_one_file_that_shows_text_as_text():
    content = everything().decode()
    assert HOSTILE not in content and content.count("<script>") == 1
    assert not re.search(r"https?:(?!//www\.w3\.org/)|@import|url\(", content)
    assert all(source.startswith("data:") for source in re.findall(r'(?:src|href)="([^"#][^"]*)"', content))
    assert "SYNTHETIC DATA" in content and "−0.500" in content and "0.800 [0.7, 0.9]" in content
    assert everything() == everything()


def test_a_drawing_turns_dark_with_the_page():
    svg = page.drawn(figure(), "a line").content.decode()
    assert "#0072b2;" in svg and "stroke: var(--c0)" in svg and "prefers-color-scheme:dark" in svg
    assert "stroke: #000000" not in svg


@browser.needs_browser
def test_a_browser_shows_it(tmp_path):
    place = tmp_path / "page.html"
    place.write_bytes(everything())
    for seen in browser.check(place, tmp_path):
        assert HOSTILE in seen["text"] and "SYNTHETIC DATA" in seen["text"]
        (names, images, score, area) = seen["tables"][0]
        assert [text for _, text in images["once"]] == ["110", "11", "5", "2"]
        assert [text for _, text in score["once"]] == ["+0.125", "−0.500", "−4.000", "–"]
        assert [text for _, text in area["twice"]][0] == "0.090" and names["first"] == "ascending"
        assert len(seen["images"]) == 4


@browser.needs_browser
def test_the_browser_sees_what_is_wrong(tmp_path):
    place = tmp_path / "page.html"
    faults = (
        "<div style='width: 2000px'>wide</div><img src='data:image/png;base64,AA'><img src='http://localhost:1/a.png'"
        " alt='away'><script>console.error('no')</script><h1>"
    )
    place.write_text(everything().decode().replace("<h1>", faults, 1))
    for one in browser.look(place, tmp_path):
        assert one["scrolls"] and "wide" in one["outside"][0]
        assert ["", 0] in one["images"] and ["away", 0] in one["images"]
        assert "no" in one["faults"] and any("localhost" in fault for fault in one["faults"])
