"""The drawings of what the data are, for the page that `look` makes. Needs no torch."""

import textwrap
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from matplotlib import style
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from answers.plots import BLUE, COLUMN, GREY, ORANGE, PALE, STYLE, VERMILLION
from core import page
from core.page import Picture

LEVELS = 256  # grey levels
LEAST_IMAGES = 50  # of a class: the competition report counts those that have fewer


def _picture(draw: Callable[[Figure], None], height: float, alternative: str, caption: str) -> Picture:
    """What `draw` draws on a figure as wide as a column, which a phone can show, and `height` cm high."""
    with style.context(["default", STYLE]):
        figure = Figure(figsize=(COLUMN / 2.54, height / 2.54), layout="constrained")
        draw(figure)
        return page.drawn(figure, alternative, caption)


def _named(axis, names: Sequence[str]) -> None:
    """Names down the left side, the first on top."""
    said = ["\n".join(textwrap.wrap(name, 24, max_lines=2)) or " " for name in names]
    axis.set_yticks(range(len(names)), [name.replace("$", r"\$") for name in said])  # a $ would begin a formula
    axis.set_ylim(len(names) - 0.4, -0.6)
    axis.tick_params(axis="y", length=0)


def counts(classes: Sequence[str], images: np.ndarray) -> Picture:
    """Images of every class on a logarithmic scale, the commonest first, those below fifty in another colour."""
    order = np.argsort(-images, kind="stable")

    def draw(figure: Figure) -> None:
        axis = figure.subplots()
        few = images[order] < LEAST_IMAGES
        axis.barh(
            range(len(order)), np.maximum(images[order] - 0.5, 0), color=np.where(few, VERMILLION, BLUE), left=0.5
        )
        for row, number in enumerate(images[order]):
            axis.annotate(f"{number:,}", (max(number, 0.5), row), (3, 0), textcoords="offset points", va="center")
        axis.axvline(LEAST_IMAGES, color=GREY, linewidth=0.8, linestyle="--")
        axis.set_xscale("log")
        most = max(images.max(initial=1), LEAST_IMAGES) * 5
        axis.set_xlim(0.5, most)
        axis.set_xticks([10**k for k in range(7) if 10**k < most], [f"{10**k:,}" for k in range(7) if 10**k < most])
        axis.xaxis.set_minor_locator(NullLocator())
        axis.set_xlabel("labelled images (logarithmic)")
        _named(axis, [classes[c] for c in order])

    said = (
        f"Bars: labelled images of {len(classes)} classes, from {images.max(initial=0):,} to {images.min(initial=0):,}"
    )
    return _picture(draw, 0.45 * len(order) + 1.6, said, f"Images of every class; dashed: {LEAST_IMAGES}.")


def histogram(levels: np.ndarray, spans: Mapping[float, tuple[float, float]]) -> Picture:
    """The share of pixels of every grey level, with the spans that hold a share of all pixels; levels float [B]."""
    width = LEVELS / len(levels)

    def draw(figure: Figure) -> None:
        axis = figure.subplots()
        for share, colour in zip(sorted(spans, reverse=True), (PALE, ORANGE), strict=False):
            axis.axvspan(*spans[share], color=colour, alpha=0.5, linewidth=0, label=f"{share:.0%} of the pixels")
        axis.stairs(levels / width, np.arange(len(levels) + 1) * width, fill=True, color=BLUE)
        axis.set(xlim=(0, LEVELS), xlabel="grey level, 0 black to 255 white", ylabel="share of the pixels")
        axis.legend(loc="upper right")

    ends = ", ".join(
        f"{share:.0%} of the pixels lie from {low:.0f} to {high:.0f}" for share, (low, high) in spans.items()
    )
    return _picture(
        draw, 6, f"Histogram of grey levels: {ends}", "Grey levels of the pixels, every image counting the same."
    )


def by_class(classes: Sequence[str], levels: np.ndarray) -> Picture:
    """The histogram of every class as a row of shades; levels float [C, B]."""

    def draw(figure: Figure) -> None:
        axis = figure.subplots()
        axis.pcolormesh(
            np.linspace(0, LEVELS, levels.shape[1] + 1), np.arange(len(classes) + 1) - 0.5, levels, cmap="cividis",
            vmin=0, vmax=np.quantile(levels, 0.995) if levels.size else 1, rasterized=True,
        )  # fmt: skip
        axis.set_xlabel("grey level, 0 black to 255 white")
        _named(axis, classes)
        axis.spines[:].set_visible(False)

    said = f"Shades: how often each grey level occurs in {len(classes)} classes"
    return _picture(
        draw, 0.45 * len(classes) + 1.6, said, "Grey levels by class: the brighter, the more of its pixels."
    )


def spread(names: Sequence[str], quantiles: np.ndarray, what: str, alternative: str, caption: str) -> Picture:
    """Lines from the 5 % to the 95 % quantile, thick between the quartiles, with the median; quantiles [R, 5]."""

    def draw(figure: Figure) -> None:
        axis = figure.subplots()
        rows = np.arange(len(names))
        axis.hlines(rows, quantiles[:, 0], quantiles[:, 4], color=BLUE, linewidth=0.8)
        axis.hlines(rows, quantiles[:, 1], quantiles[:, 3], color=BLUE, linewidth=4)
        axis.plot(quantiles[:, 2], rows, "o", color=VERMILLION, markersize=3.5)
        axis.set_xlabel(what)
        _named(axis, names)

    return _picture(draw, 0.45 * len(names) + 1.6, alternative, caption)


def sizes(times: np.ndarray) -> Picture:
    """How many patients have one image, two, …; the last bar holds the rest. times int [patients]."""
    most = int(min(times.max(initial=1), 20))
    numbers = np.bincount(np.minimum(times, most), minlength=most + 1)[1:]

    def draw(figure: Figure) -> None:
        axis = figure.subplots()
        axis.bar(range(1, most + 1), numbers, color=BLUE)
        shown = [n for n in range(1, most + 1) if n in (1, most) or (n % 5 == 0 or most <= 10)]
        axis.set_xticks(shown, [f"{n}+" if n == most < times.max() else str(n) for n in shown])
        axis.set(xlabel="images of a patient", ylabel="patients")

    said = f"Bars: patients by the number of their images; {numbers[0]:,} of {len(times):,} have one"
    return _picture(draw, 5.5, said, "How many images the patients have.")


def areas(rows: Sequence[tuple[str, float, float, float]], luck: tuple[float, float] | None) -> Picture:
    """Areas under the ROC curve with their intervals, (name, area, low, high), over the band that luck reaches."""

    def draw(figure: Figure) -> None:
        axis = figure.subplots()
        if luck:
            axis.axvspan(*luck, color=PALE, linewidth=0)
        axis.axvline(0.5, color=GREY, linewidth=0.8, linestyle="--")
        for place, (_, area, low, high) in enumerate(rows):
            axis.plot([low, high], [place, place], color=BLUE, linewidth=1.5)
            axis.plot([area], [place], "o", color=VERMILLION)
            axis.annotate(f"{area:.3f}", (high, place), (4, 0), textcoords="offset points", va="center")
        axis.set_xlabel("macro AUC-ROC, 0.5: nothing is told")
        axis.margins(x=0.15)
        _named(axis, [name for name, *_ in rows])

    said = "; ".join(f"{name} {area:.3f}" for name, area, *_ in rows)
    caption = "How well a linear classifier tells the classes from each of these alone, with 95 % intervals."
    caption += " Grey: what it reaches with shuffled labels." if luck else ""
    return _picture(draw, 0.7 * len(rows) + 1.6, f"Areas under the ROC curve: {said}", caption)
