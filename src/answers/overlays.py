"""Maps laid over radiographs: a picture each, and a contact sheet."""

import io
import textwrap
from collections.abc import Sequence
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

# ---- pictures
# Perceptually uniform, and readable without red and green; and how far up each is used.
COLOURS = {"grad-cam": ("viridis", 1.0), "against": ("plasma", 0.6), "none": ("viridis", 1.0)}


BARS = {"grad-cam": "Grad-CAM / its maximum", "against": "against it / its maximum"}


OPACITY = 0.65  # of the largest value; 0 is transparent


POINTS = 7.0  # of the text


# inches: height of a line, mean width of a letter, width of a digit
LINE, LETTER, DIGIT = (1.25 * POINTS / 72, 0.53 * POINTS / 72, 0.64 * POINTS / 72)


DPI = 300


# inches: the width of a printed column, of a page, and of a colour bar with its text
COLUMN, PAGE, BAR = (8.5 / 2.54, 17.4 / 2.54, 0.42)


class Tile(NamedTuple):
    """An image uint8 [S, S], its map [S, S] from 0 to 1 and that map's kind, lines of caption, and its lung mask bool
    [S, S] or None."""

    image: np.ndarray
    shown: np.ndarray
    kind: str
    caption: Sequence[str]
    mask: np.ndarray | None = None


def overlay(image: np.ndarray, shown: np.ndarray, kind: str = "grad-cam") -> np.ndarray:
    """The map laid over the grey image, the more opaque the larger its value: float RGB [S, S, 3] from 0 to 1."""
    opacity, (colours, end) = OPACITY * shown[..., None], COLOURS[kind]
    return (1 - opacity) * (image / 255.0)[..., None] + opacity * matplotlib.colormaps[colours](end * shown)[..., :3]


def pair(image: np.ndarray, shown: np.ndarray | None, kind: str = "grad-cam", side: int = 256) -> bytes:
    """A JPEG for a screen: the radiograph uint8 [S, S], and beside it the same under its map, each `side` pixels wide;
    without a map (None) the radiograph alone."""
    grey = np.repeat(image[..., None], 3, axis=2)
    both = grey if shown is None else np.concatenate([grey, np.uint8(255 * overlay(image, shown, kind))], axis=1)
    high, wide = both.shape[:2]
    file = io.BytesIO()
    resized = Image.fromarray(both).resize((side * wide // high, side), Image.Resampling.BILINEAR)
    resized.save(file, format="jpeg", quality=85)
    return file.getvalue()


def picture(tile: Tile) -> bytes:
    """A PNG as wide as a column: the caption, the radiograph (with the outline of its lungs), the same under its map,
    the colours."""
    lines = [line for text in tile.caption for line in _wrapped(text, COLUMN / LETTER)]
    gap, bar = 0.05, BAR
    side = (COLUMN - 3 * gap - bar) / 2
    height = side + 2 * gap + len(lines) * LINE
    figure = Figure(figsize=(COLUMN, height))
    figure.text(gap / COLUMN, 1 - gap / 2 / height, "\n".join(lines), va="top", fontsize=POINTS, linespacing=1.2)
    left, right = (_axes(figure, gap + place * (side + gap), gap, side, side) for place in (0, 1))
    left.imshow(tile.image, cmap="gray", vmin=0, vmax=255)
    if tile.mask is not None and tile.mask.any() and not tile.mask.all():
        left.contour(tile.mask, levels=[0.5], colors="white", linewidths=0.6)
    right.imshow(overlay(tile.image, tile.shown, tile.kind))
    _colour_bars(figure, {tile.kind}, COLUMN - bar, gap, side)
    return _png(figure)


def sheet(tiles: Sequence[Tile], title: str, columns: int = 4) -> bytes:
    """A PNG as wide as a page: every image under its map, with its caption above it, its first line shortened to fit,
    and the colours."""
    kinds = {tile.kind for tile in tiles}
    gap, bar = 0.08, BAR * max(len(kinds & BARS.keys()), 1)
    columns = min(columns, len(tiles))
    side = min((PAGE - bar) / columns - gap, 1.6)
    wrapped = [
        [
            shortened(tile.caption[0], int(side / DIGIT)),
            *(line for text in tile.caption[1:] for line in _wrapped(text, side / LETTER)),
        ]
        for tile in tiles
    ]
    rows = [range(start, min(start + columns, len(tiles))) for start in range(0, len(tiles), columns)]
    heads = [max(len(wrapped[n]) for n in row) * LINE + gap / 2 for row in rows]
    titles = _wrapped(title, (columns * (side + gap) + bar) / DIGIT)
    width, height = (
        columns * (side + gap) + gap + bar,
        sum(heads) + len(rows) * (side + gap) + len(titles) * LINE + 2 * gap,
    )
    figure = Figure(figsize=(width, height))
    top = height - gap
    figure.text(gap / width, top / height, "\n".join(titles), va="top", fontsize=POINTS, weight="bold", linespacing=1.2)
    top -= len(titles) * LINE + gap / 2
    for row, head in zip(rows, heads, strict=True):
        for place, n in enumerate(row):
            left = gap + place * (side + gap)
            figure.text(
                left / width,
                (top - head + gap / 2) / height,
                "\n".join(wrapped[n]),
                va="bottom",
                fontsize=POINTS,
                linespacing=1.2,
            )
            _axes(figure, left, top - head - side, side, side).imshow(
                overlay(tiles[n].image, tiles[n].shown, tiles[n].kind)
            )
        top -= head + side + gap
        if row is rows[0]:
            _colour_bars(figure, kinds, width - bar, top + gap, side)
    return _png(figure)


def shortened(name: str, most: int) -> str:
    """A long name with its middle left out."""
    return name if len(name) <= most else f"{name[: most // 2 - 1]}…{name[len(name) - (most - most // 2) :]}"


def _wrapped(text: str, most: float) -> list[str]:
    """Lines of at most so many letters; `p = 0.12` and `p > 0.9` stay on one."""
    return textwrap.wrap(text.replace(" = ", "\xa0=\xa0").replace(" > ", "\xa0>\xa0"), int(most))


def _axes(figure: Figure, left: float, bottom: float, width: float, height: float):
    whole = figure.get_size_inches()
    axes = figure.add_axes((left / whole[0], bottom / whole[1], width / whole[0], height / whole[1]))
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    return axes


def _colour_bars(figure: Figure, kinds: set[str], left: float, bottom: float, height: float) -> None:
    """The colours of these kinds as they lie over a mid-grey radiograph, side by side."""
    ramp = np.linspace(0, 1, 256, dtype=np.float32)[:, None]
    for place, kind in enumerate(kind for kind in BARS if kind in kinds):
        axes = _axes(figure, left + place * BAR, bottom, 0.09, height)
        axes.imshow(
            overlay(np.full(ramp.shape, 128, np.uint8), ramp, kind), origin="lower", aspect="auto", extent=(0, 1, 0, 1)
        )
        axes.yaxis.tick_right()
        axes.yaxis.set_label_position("right")
        axes.set_yticks([0, 1], ["0", "1"], fontsize=POINTS)
        axes.tick_params(length=2, pad=1)
        axes.set_ylabel(BARS[kind], fontsize=POINTS, labelpad=-2)


def _png(figure: Figure) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=DPI, metadata={"Software": None})
    return file.getvalue()
