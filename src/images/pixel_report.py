"""What the images of a data set are, as sections of a page: files, mean images, the same image twice, bright marks,
the lung crop. Needs no torch.

Every function returns the blocks of a section and the sentences that belong on top of the page.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from core.data_set import Source
from core.data_set import Table as Labelled
from core.errors import UserError, some
from core.files import shown
from core.page import Block, Folded, Found, Picture, Table, Text, Tiles, frame
from images import lungs, sheets
from images import survey as surveys
from images.survey import Survey

TO_PREDICT = "to predict"  # the part of the images without labels
PAIRS = 12  # of the same image twice that are shown
LISTED = 500  # of them in the table
CLASSES = 30  # whose mean images are shown
CROPS = 6  # lung crops that are shown
MODES = {
    "L": "grey, 8 bits",
    "RGB": "colour, 8 bits (RGB)",
    "RGBA": "colour with transparency",
    "P": "palette",
    "I;16": "grey, 16 bits",
    "I": "grey, 32 bits",
    "1": "black and white",
    "LA": "grey with transparency",
}
NOTHING = Text(["No image could be read, so there is nothing to show."])


@dataclass(frozen=True)
class Data:
    """A data set as it is looked at: the labelled table with the part of every row (str [N]), the ids without labels,
    and the survey of the images whose pixels were looked at."""

    source: Source
    table: Labelled
    parts: np.ndarray
    unlabelled: np.ndarray
    survey: Survey

    @cached_property
    def ids(self) -> np.ndarray:
        """Those with labels, then those without."""
        return np.array([*self.table.ids.tolist(), *self.unlabelled.tolist()], dtype=str)

    @cached_property
    def paths(self) -> list[Path]:
        return [self.source.images / place for place in [*self.table.places.tolist(), *self.unlabelled.tolist()]]

    @cached_property
    def part_of(self) -> dict[str, str]:
        """The part of every id."""
        parts = [*self.parts.tolist(), *[TO_PREDICT] * len(self.unlabelled)]
        return dict(zip(self.ids.tolist(), parts, strict=True))

    @cached_property
    def seen(self) -> tuple[np.ndarray, np.ndarray]:
        """The labelled rows that were looked at, and their rows in the survey."""
        rows = self.survey.rows(self.table.ids)
        return np.flatnonzero(rows >= 0), rows[rows >= 0]

    @property
    def looked_at(self) -> int:
        return len(self.survey.ids) + len(self.survey.failed)

    @property
    def whole(self) -> bool:
        """Whether all images were looked at."""
        return self.looked_at == len(self.ids)


# ---- the pixels
def files(data: Data, side: int) -> Found:
    """Sizes, modes, and what resizing to side × side does to the aspect; what cannot be read."""
    found = data.survey
    kinds = Counter(
        (f"{w} × {h}", mode) for (h, w), mode in zip(found.shape.tolist(), found.mode.tolist(), strict=True)
    )
    listed = frame({
        "width × height": [size for (size, _), _ in kinds.most_common(20)],
        "mode": [MODES.get(mode, mode) for (_, mode), _ in kinds.most_common(20)],
        "images": [number for _, number in kinds.most_common(20)],
    })  # fmt: skip
    blocks: list[Block] = []
    said = []
    if kinds:
        most = f", the commonest 20 of {len(kinds)}" if len(kinds) > 20 else ""
        blocks.append(Table(listed, f"Sizes and modes of the files{most}."))
        blocks.append(Text([_stretch(found.shape, side)]))
        same = "one size" if len(kinds) == 1 else f"{len(kinds)} kinds of size and mode"
        said.append(f"Files: {same}, the commonest {' '.join(listed.iloc[0, :2])}. {_stretch(found.shape, side)}")
    blank = int((np.ptp(found.small, axis=(1, 2)) == 0).sum()) if len(found.ids) else 0
    said += [f"Blank: {blank:,} images are of a single grey level."] if blank else []
    if found.failed:
        bad = some((f"{name} ({why})" for name, why in sorted(found.failed.items())), 20)
        text = f"{len(found.failed):,} of the images that were looked at cannot be read: {bad}"
        blocks.append(Text([f"{text}."], "warning"))
        said.append(f"{len(found.failed):,} images cannot be read: a run would stop and name them.")
    return blocks, said


def _stretch(shape: np.ndarray, side: int) -> str:
    """What resizing to a square does, in a sentence."""
    aspect = shape[:, 1] / shape[:, 0]
    smaller = (shape.min(axis=1) < side).mean()
    blown = f"; {smaller:.0%} of them are enlarged" if smaller else ""
    if (aspect == 1).all():
        return f"All are square, so resizing to {side} × {side} keeps their aspect{blown}."
    low, middle, high = np.quantile(aspect, [0.05, 0.5, 0.95])
    return (
        f"Resizing to {side} × {side} changes the aspect of {(np.abs(aspect - 1) > 0.01).mean():.0%} of the images:"
        f" width by height is {middle:.2f} (median; the middle 90 %: {low:.2f} to {high:.2f}) and becomes 1{blown}."
    )


def mean_images(data: Data) -> Found:
    """The mean image of every class, and where it is brighter or darker than that of all."""
    rows, places = data.seen
    has = data.table.targets[rows] == 1
    if not len(rows):
        return [NOTHING], []
    small, tiles = data.survey.small[places].astype(np.float32), []
    overall = small.mean(axis=0)
    tiles.append(Picture(sheets.png(overall), "The mean of all images", f"All {len(rows):,} images", width=128))
    for c in np.argsort(-has.sum(axis=0), kind="stable")[:CLASSES]:
        if not (number := int(has[:, c].sum())):
            continue
        mean, name = small[has[:, c]].mean(axis=0), data.table.classes[c]
        both = sheets.side_by_side([sheets.coloured(mean), sheets.difference(mean - overall)])
        alternative = f"The mean of {number} images of {name}, and where it is brighter or darker than the mean of all"
        tiles.append(Picture(sheets.png(both), alternative, f"{name}, {number:,} images", width=264))
    key = (
        f"Left: the mean image. Right: its difference from the mean of all, red brighter, blue darker, full colour at"
        f" {sheets.REACH} of 255 grey levels. With few images one patient's shape shows; colour in corners and at"
        " borders is a hint at a shortcut."
    )
    return [Text([key]), Tiles(tiles, least=150)], []


# ---- the same image twice
def duplicates(data: Data) -> Found:
    """Images that are the same file, have the same pixels, or are all but the same, and whether parts share any."""
    pairs, number = _pairs(data)
    part = data.part_of
    crossing = [pair for pair in pairs if part[pair[0]] != part[pair[1]]]
    apart = [pair for pair in crossing if TO_PREDICT in (part[pair[0]], part[pair[1]])]
    method = (
        f"Compared were all {len(data.ids):,} files byte for byte, and of the {len(data.survey.ids):,} images that were"
        " looked at the decoded pixels, and as near duplicates the pixels at 32 × 32 (correlation at least"
        f" {surveys.ALIKE}, all pairs, also mirrored): blind to compression, size, brightness and contrast, not to"
        " shifts beyond 1 % of the width. Two takes of one patient can reach it."
    )
    said = _shared(data, apart)
    kinds = Counter(kind for *_, kind, _ in pairs)
    if pairs:
        named = ", ".join(f"{times:,} {kind}" for kind, times in kinds.items())
        said.append(
            f"Images twice: {number:,} pairs are the same or nearly so ({named}); across parts: {len(crossing):,}."
        )
    blocks: list[Block] = [Text([*said, method])]
    if pairs:
        blocks += _shown_pairs(data, pairs)
    return blocks, said


def _shared(data: Data, apart: Sequence[tuple[str, str, str, float]]) -> list[str]:
    """Whether an image stands both among the labelled ones and among those to predict, in sentences; `apart` are the
    pairs across the two."""
    if not len(data.unlabelled):
        return ["There is no part without labels here, so no image can stand in both."]
    number, whole = f"of the {len(data.unlabelled):,} images to predict", set(data.unlabelled.tolist())
    same, near = (
        {name for pair in apart if pair[2].startswith("same") == wanted for name in pair[:2]} & whole
        for wanted in (True, False)
    )
    said = [f"IN BOTH PARTS: {len(same):,} {number} are labelled ones, too." if same else ""]
    if not same:
        sample = "" if data.whole else " (by file; by pixels, among the sample)"
        nor = "" if near else ", nor nearly"
        said = [
            f"No image stands in both parts: none {number} is one of the {len(data.table.ids):,} labelled{nor}{sample}."
        ]
    if near:
        said.append(
            f"Nearly in both parts: {len(near):,} {number} are near duplicates of labelled ones: see the pairs."
        )
    return said


def _pairs(data: Data) -> tuple[list[tuple[str, str, str, float]], int]:
    """Pairs of ids, what they have in common, and their correlation, the likest first; and their number, as not all
    near ones are listed."""
    found: dict[frozenset, tuple[str, str, str, float]] = {}
    ids, seen = data.ids, data.survey.ids
    groups = [("same file", [[str(ids[row]) for row in group] for group in surveys.same_files(data.paths)])]
    groups.append(("same pixels", [[str(seen[row]) for row in group] for group in surveys.same_pixels(data.survey)]))
    for kind, named in groups:
        for first, *others in named:
            for other in others:
                found.setdefault(frozenset((first, other)), (first, other, kind, 1.0))
    number = 0
    for kind, mirrored in (("near", False), ("near, mirrored", True)):
        near, all_of_them = surveys.alike(data.survey, mirrored)
        number += all_of_them - len(near)
        for one, other, correlation in near:
            pair = str(seen[one]), str(seen[other])
            found.setdefault(frozenset(pair), (*pair, kind, correlation))
    return list(found.values()), number + len(found)


def _shown_pairs(data: Data, pairs: Sequence[tuple[str, str, str, float]]) -> list[Block]:
    """The table of the pairs, and the first of them as pictures; those across parts come first."""
    row = {name: number for number, name in enumerate(data.table.ids.tolist())}
    patient, part = data.table.known.get("patient"), data.part_of
    number, pairs = len(pairs), sorted(pairs, key=lambda pair: part[pair[0]] == part[pair[1]])[:LISTED]

    def labels(name: str) -> str:
        if name not in row:
            return "–"
        return ", ".join(data.table.classes[c] for c in np.flatnonzero(data.table.targets[row[name]] == 1)) or "none"

    columns = {
        "one": [one for one, *_ in pairs], "other": [other for _, other, *_ in pairs],
        "what": [kind for *_, kind, _ in pairs], "correlation": [r for *_, r in pairs],
        "parts": [" / ".join(sorted({part[one], part[other]})) for one, other, *_ in pairs],
        "labels": [" / ".join(dict.fromkeys((labels(one), labels(other)))) for one, other, *_ in pairs],
    }  # fmt: skip
    if patient is not None:
        who = [[str(patient[row[name]]) if name in row else "?" for name in pair[:2]] for pair in pairs]
        columns["patients"] = [" / ".join(dict.fromkeys(names)) for names in who]
    place = dict(zip(data.survey.ids.tolist(), range(len(data.survey.ids)), strict=True))
    tiles = []
    for one, other, kind, r in [pair for pair in pairs if pair[0] in place and pair[1] in place][:PAIRS]:
        both = sheets.side_by_side([sheets.coloured(data.survey.small[place[name]]) for name in (one, other)])
        caption = f"{kind}, {r:.4f}: {one} ({part[one]}: {labels(one)}) and {other} ({part[other]}: {labels(other)})"
        tiles.append(Picture(sheets.png(both), f"Two radiographs, {one} and {other}", caption, width=264))
    shown_pairs = Table(
        frame(columns), "Pairs that are the same or nearly so; across parts first.", {"correlation": ".4f"}
    )
    return [Tiles(tiles, least=230), Folded(f"{len(pairs)} of {number:,} pairs in a table", [shown_pairs])]


# ---- marks
def marks(data: Data) -> list[Block]:
    """Brightness of borders and corners and the number of marks, by class; the images with most marks."""
    rows, places = data.seen
    small, has = data.survey.small[places], data.table.targets[rows] == 1
    measured, number = surveys.places(small), surveys.marks(small)
    lines = [("all images", np.ones(len(rows), bool))]
    lines += [(name, column) for name, column in zip(data.table.classes, has.T, strict=True) if column.any()]
    columns: dict[str, list] = {"class": [name for name, _ in lines], "images": [int(row.sum()) for _, row in lines]}
    for name, values in (measured | {"bright marks": number}).items():
        columns[name] = [float(values[row].mean()) for _, row in lines]
    forms = dict.fromkeys(("middle", "borders", "corners"), ".0f") | {"black border": ".0%", "bright marks": ".1f"}
    caption = (
        "Mean grey level of the middle and the edges, the black share of the borders, and the number of bright marks"
        " (letters, side markers, lines) in the outer fifth: candidates for burnt-in text."
    )
    most = np.argsort(-number, kind="stable")[:12]
    ids = [str(data.survey.ids[places[one]]) for one in most]
    sheet = sheets.grid([small[one] for one in most], 6)
    reach = f"{number[most].max()} to {number[most].min()}"
    said = f"The {len(most)} radiographs with most bright marks near their edge, {reach}"
    return [
        Table(frame(columns), caption, forms),
        Picture(
            sheets.png(sheet), f"{said}: {', '.join(ids)}", f"{said}: letters and markers that a network can read."
        ),
    ]


# ---- the lung crop
def lung_crop(data: Data, given: str) -> Found:
    """What the lung crop leaves of some images, where masks are at hand: those of the folder `given`, or of a folder
    lung_masks beside the images."""
    folder = Path(given) if given else data.source.folder / "lung_masks"
    if not given and not folder.is_dir():
        return [], []
    try:
        masks = lungs.Masks(folder, data.ids.tolist())
    except UserError as error:
        return [Text([f"No lung crop can be shown: {error}"], "note")], []
    tiles, sides, rejected = [], [], 0
    for name, path in zip(data.ids.tolist(), data.paths, strict=True):
        if Path(name).stem not in masks.files or name in data.survey.failed or not path.is_file():
            continue
        box, image = lungs.lung_box(masks.mask(np.zeros((1, 1)), name)), surveys.decoded(path)
        if image is None:
            continue
        rejected += box is None
        if box is not None:
            sides.append(box.right - box.left)
            if len(tiles) < CROPS:
                both = sheets.before_and_after(image, box)
                caption = f"{name}: before, with the square, and after"
                tiles.append(
                    Picture(sheets.png(both), f"A radiograph before and after the lung crop, {name}", caption, 400)
                )
    if not sides:
        return [Text([f"None of the masks in {shown(folder)} gives a crop ({rejected} rejected)."], "note")], []
    low, middle, high = np.quantile(sides, [0.05, 0.5, 0.95])
    text = (
        f"{len(sides) + rejected} images have a lung mask in {shown(folder)}: {len(sides)} are cropped to a square of"
        f" {middle:.0%} of the frame's side (median; the middle 90 %: {low:.0%} to {high:.0%}), {rejected} stay whole"
        " for a mask that is empty or too small."
    )
    return [Text([text]), Tiles(tiles, least=330)], []
