"""A page looked at by a real browser, Chromium without a display, in frames as wide as a phone and a desk's screen."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

WIDTHS = (400, 1400)
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here (Debian: apt install chromium)")

WATCH = """<script>window.faults = []; addEventListener("error", e => faults.push(String(e.message)));
addEventListener("securitypolicyviolation", e => faults.push("fetched " + e.blockedURI));
for (const what of ["error", "warn"]) console[what] = (...said) => faults.push(said.join(" "));</script>"""
ALONE = (  # the page may fetch nothing
    '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:;'
    " style-src 'unsafe-inline'; script-src 'unsafe-inline'\">"
)
# what is said of the page in each frame; of a table's columns the cells after one press of the head, and after two
LOOK = """
const seen = [], shown = one => one.textContent.trim();
for (const frame of document.querySelectorAll("iframe")) {
  const page = frame.contentDocument, wide = page.documentElement, inside = frame.contentWindow.innerWidth;
  for (const one of page.querySelectorAll("details")) one.open = true;  // what is folded is looked at, too
  const outside = [...page.body.querySelectorAll("*")].filter(one => !one.parentElement.closest(".wide") &&
    one.getBoundingClientRect().width && one.getBoundingClientRect().right > inside + 1);
  const images = [...page.images], all = what => [...page.querySelectorAll(what)];
  const tables = all("table.sortable").map(table => [...table.tHead.rows[0].cells].map((head, c) => {
    const cells = () => [...table.tBodies[0].rows].map(row => row.cells[c]);
    const column = () => cells().map(cell => [cell.dataset.value ?? null, shown(cell)]);
    const press = () => { head.querySelector("button").focus(); page.activeElement.click(); };
    press(); const once = column(), first = head.getAttribute("aria-sort"); press();
    return {name: shown(head), number: head.classList.contains("number"), first, once, twice: column()};
  }));
  seen.push({
    width: inside, scrolls: wide.scrollWidth > inside, outside: outside.map(one => one.outerHTML.slice(0, 120)),
    faults: frame.contentWindow.faults, tables, headings: all("h1, h2, h3").map(one => [one.tagName, shown(one)]),
    images: images.map(one => [one.alt, one.naturalWidth]), text: page.body.innerText,
    bare: all("table").filter(one => !one.caption || one.querySelector("th:not([scope])")).length,
    ids: all("[id]").map(one => one.id),
    lost: all("a[href^='#']").filter(a => !page.getElementById(a.hash.slice(1))).map(a => a.hash),
    scripts: page.scripts.length,
  });
}
document.body.replaceChildren(Object.assign(document.createElement("pre"), {textContent: JSON.stringify(seen)}));
"""


def run(*words: str) -> str:
    """What Chromium prints when it is called so, without a display."""
    call = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", *words]
    return subprocess.run(call, capture_output=True, text=True, check=True, timeout=120).stdout


def look(page: Path, folder: Path) -> list[dict]:
    """What a browser finds of a page in frames of WIDTHS pixels; see LOOK. `folder`: to write in."""
    content = page.read_text(encoding="utf-8").replace("<head>", f"<head>{ALONE}{WATCH}", 1)
    frames = "".join(f'<iframe width="{w}" height="900" srcdoc="{html.escape(content)}"></iframe>' for w in WIDTHS)
    outer = f'<!doctype html><meta charset="utf-8"><body>{frames}<script>onload = () => {{{LOOK}}}</script>'
    place = folder / "frames.html"
    place.write_text(outer, encoding="utf-8")
    words = (f"--user-data-dir={folder / 'chromium'}", "--dump-dom", place.as_uri())
    return json.loads(html.unescape(re.search(r"<pre>(.*)</pre>", run(*words), re.DOTALL)[1]))


def check(page: Path, folder: Path) -> list[dict]:
    """Assert what every page must hold, in every width; returns what was found."""
    seen = look(page, folder)
    assert [one["width"] for one in seen] == list(WIDTHS)
    for one in seen:
        assert not one["faults"] and not one["lost"] and not one["bare"]
        assert not one["scrolls"] and not one["outside"]
        assert all(alternative.strip() and width for alternative, width in one["images"])
        assert [name for name, _ in one["headings"]].count("H1") == 1 and len(set(one["ids"])) == len(one["ids"])
        assert one["scripts"] == 2  # the page's own, and the one that watches
        for column in (column for table in one["tables"] for column in table):
            assert_sorted(column)
    return seen


def assert_sorted(column: dict) -> None:
    """The first press puts the largest number, or the first name, at the top; the second turns it round; what is
    missing stays last."""
    for rows, turned in ((column["once"], False), (column["twice"], True)):
        values = [text if value is None else value for value, text in rows]
        there = [value for value in values if value != ""]
        assert values[len(there) :] == [""] * (len(values) - len(there)), column["name"]
        if column["number"]:
            numbers = [float(value) for value in there]
            assert numbers == sorted(numbers, reverse=not turned), column["name"]
    assert column["first"] == ("descending" if column["number"] else "ascending")
