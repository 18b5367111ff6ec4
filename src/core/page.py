"""A page to look at: one HTML file that holds everything it shows, by the template beside this file (page.html, with
page.css and page.js).

A page is a list of sections, a section a list of blocks. Whatever is given as text is shown as text, never as HTML.
Nothing is fetched; without scripts the page shows the same, only its tables cannot be sorted.
"""

import base64
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, NamedTuple

if TYPE_CHECKING:  # they take their time
    import pandas as pd
    from matplotlib.figure import Figure

MINUS = "−"
TYPES = {b"\x89PNG": "image/png", b"\xff\xd8\xff": "image/jpeg", b"<?xml": "image/svg+xml", b"<svg": "image/svg+xml"}
DARK = {  # the colours of Okabe and Ito and two greys, and what they turn into on a dark screen
    "#0072b2": "#56b4e9", "#d55e00": "#ff8c42", "#e69f00": "#f2b632", "#009e73": "#34c99b", "#595959": "#a9adb3",
    "#dddddd": "#3a3f46",
}  # fmt: skip


class Cell(NamedTuple):
    """A cell of a table that is not shown as it is: what it is sorted by, what it says, what is said on hovering, how
    strongly it is coloured (0 to 1), and the page that it leads to, by its place beside this one."""

    value: object
    text: str = ""
    title: str = ""
    shade: float | None = None
    link: str = ""


@dataclass(frozen=True)
class Text:
    """Paragraphs. `kind`: "" plain, "verdict" large, "warning" in a frame, "note" small."""

    kind_of_block: ClassVar[str] = "text"
    paragraphs: Sequence[str]
    kind: str = ""


@dataclass(frozen=True)
class Table:
    """A data frame whose columns can be sorted by; its first column heads the rows.

    forms: column → format of its numbers that are no whole ones, such as "+.3f"; a Cell says its own. `matrix`: narrow
    columns, their heads upright, not to be sorted. What is missing is shown as –.
    """

    kind_of_block: ClassVar[str] = "table"
    frame: "pd.DataFrame"
    caption: str
    forms: Mapping[str, str] = field(default_factory=dict)
    matrix: bool = False

    @cached_property
    def heads(self) -> list[tuple[str, bool]]:
        """The name of every column, and whether it holds numbers."""
        columns = (self.frame[name] for name in self.frame)
        return [(str(column.name), all(_number(_cell(one).value) for one in column)) for column in columns]

    @property
    def rows(self) -> list[list[Cell]]:
        forms = [self.forms.get(name, "") for name in self.frame]
        rows = self.frame.astype(object).itertuples(index=False, name=None)
        return [[_said(one, form) for one, form in zip(row, forms, strict=True)] for row in rows]


@dataclass(frozen=True)
class Picture:
    """An image file (PNG, JPEG or SVG), what it shows in words for who cannot see it, and its caption. `width` is the
    largest it is shown at, in pixels."""

    kind_of_block: ClassVar[str] = "picture"
    content: bytes
    alternative: str
    caption: str = ""
    width: int | None = None

    @property
    def source(self) -> str:
        kind = next(name for start, name in TYPES.items() if self.content.startswith(start))
        return f"data:{kind};base64,{base64.b64encode(self.content).decode()}"


@dataclass(frozen=True)
class Tiles:
    """Blocks side by side, as many as there is room for, each at least `least` pixels wide."""

    kind_of_block: ClassVar[str] = "tiles"
    blocks: Sequence["Block"]
    least: int = 260


@dataclass(frozen=True)
class Facts:
    """Names and what is to be said of each."""

    kind_of_block: ClassVar[str] = "facts"
    values: Mapping[str, object]


@dataclass(frozen=True)
class Code:
    """Lines in letters of one width, such as a command."""

    kind_of_block: ClassVar[str] = "code"
    lines: Sequence[str]


@dataclass(frozen=True)
class Folded:
    """Blocks that are shown when asked for; a printed page shows them all."""

    kind_of_block: ClassVar[str] = "folded"
    summary: str
    blocks: Sequence["Block"]


Block = Text | Table | Picture | Tiles | Facts | Code | Folded
Found = tuple[list[Block], list[str]]  # the blocks of a section, and the sentences that belong on top of the page


@dataclass(frozen=True)
class Section:
    title: str
    blocks: Sequence[Block]

    @property
    def anchor(self) -> str:
        return re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-") or "section"


def frame(columns: Mapping[str, Sequence]) -> "pd.DataFrame":
    """The data frame of a Table, column by column."""
    import pandas as pd

    return pd.DataFrame(columns)


def page(title: str, sections: Sequence[Section], lead: Sequence[Block] = (), banner: str = "") -> bytes:
    """The HTML file. `lead` stands before the table of contents, `banner` above everything, where it cannot be
    missed."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    place = FileSystemLoader(Path(__file__).parent)
    templates = Environment(loader=place, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    of_page = templates.get_template("page.html")
    return of_page.render(title=title, sections=list(sections), lead=list(lead), banner=banner).encode()


def drawn(figure: "Figure", alternative: str, caption: str = "") -> Picture:
    """A matplotlib figure as SVG that follows the page from light to dark, the same bytes for the same figure. Black
    and the colours in DARK are exchanged on a dark screen; the ground is left transparent."""
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "page", "svg.fonttype": "path"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    for place, colour in enumerate(DARK):
        svg = svg.replace(colour, f"var(--c{place})")
    svg = re.sub(r"(fill|stroke): #000000", r"\1: var(--ink)", svg)
    light = "".join(f"--c{place}:{colour};" for place, colour in enumerate(DARK))
    dark = "".join(f"--c{place}:{colour};" for place, colour in enumerate(DARK.values()))
    rules = f"svg{{--ink:#000;{light}fill:var(--ink)}}@media(prefers-color-scheme:dark){{svg{{--ink:#e6e8eb;{dark}}}}}"
    svg = svg.replace(">", f"><style>{rules}</style>", 1)
    return Picture(svg.encode(), alternative, caption, width=round(figure.get_figwidth() * 96 * 1.5))


def _cell(value) -> Cell:
    return value if isinstance(value, Cell) else Cell(value)


def _number(value) -> bool:
    """Whether a column with this in it may still be one of numbers: one, or nothing."""
    import numpy as np

    return value is None or (isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool))


def _said(value, form: str) -> Cell:
    """The cell with the text that it is shown with; its value is None where it is missing."""
    import numpy as np

    cell = _cell(value)
    if cell.value is None or cell.value != cell.value:
        return cell._replace(value=None, text=cell.text or "–")
    if cell.text:
        return cell
    if not _number(cell.value):
        return cell._replace(text=str(cell.value))
    whole = isinstance(cell.value, (int, np.integer))
    return cell._replace(text=shown(cell.value, "," if whole else form or ".4f"))


def shown(value: float | None, form: str) -> str:
    """A number as text, with a true minus; – where there is none."""
    return "–" if value is None or value != value else format(value, form).replace("-", MINUS)


def ends(interval: Sequence[float | None] | None, form: str = ".3f") -> str:
    """An interval as `low … high`; nothing where there is none."""
    known = interval and interval[0] is not None
    return f"{shown(interval[0], form)} … {shown(interval[1], form)}" if known else ""


def estimate(value: float | None, interval: Sequence[float | None] | None, form: str = ".3f") -> Cell:
    """A value with its interval in brackets, where there is one; sorted by the value."""
    said = ends(interval, form)
    return Cell(value, shown(value, form) + (f" [{said}]" if said else ""))


def turned(columns: Mapping[str, Mapping[str, object]], first: str, caption: str) -> Table:
    """A table of columns, each a mapping of the same names to what the column says of them; `first` heads the names."""
    names = next(iter(columns.values()))
    return table([{first: name, **{head: said[name] for head, said in columns.items()}} for name in names], caption)


def table(rows: Sequence[Mapping], caption: str, form: str = "", matrix: bool = False) -> Table:
    """A table of rows, each a mapping of column to value or Cell; what a row lacks is missing. `form` is that of all
    numbers that are no whole ones."""
    import pandas as pd

    frame = pd.DataFrame(rows, columns=list(dict.fromkeys(name for row in rows for name in row)), dtype=object)
    return Table(frame, caption, dict.fromkeys(frame.columns, form), matrix)
