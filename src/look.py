"""What the data are, before anything is trained: `look.py [CONFIG] [--data DIR] [--demo] [key=value …]` writes
looks/NAME/data.html. Needs no torch and no run."""

import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from answers import data_plots, data_report, shortcuts
from answers.data_report import Found, frame, signed
from answers.metrics import Costs
from core import folds, page
from core.commands import Parser
from core.data_set import Source
from core.data_set import Table as Labelled
from core.errors import UserError, command, some
from core.files import ROOT, SYNTHETIC, home, shown, write_bytes
from core.page import Block, Code, Facts, Folded, Picture, Section, Table, Text, Tiles
from core.runs import Run, clock
from core.tables import read_table
from core.task import Task
from images import lungs, prepare, sheets
from images import survey as surveys
from images.survey import Survey
from tasks import registry

MOST = 6000  # images whose pixels are looked at, at most
RARE = 60  # of a class that are looked at at least, where it has as many
BYTES = 4_000_000_000  # of image files that are decoded, at most: about 700 of PadChest's
TO_PREDICT = "to predict"
PAIRS = 12  # of the same image twice that are shown
SHOWN_CLASSES = 30


@dataclass(frozen=True)
class Data:
    """A data set as it is looked at: the labelled table with the part of every row, the ids without labels, where
    each image lies, and the survey of those whose pixels were looked at."""

    task: Task
    source: Source
    table: Labelled
    parts: np.ndarray
    unlabelled: np.ndarray
    survey: Survey
    fault: str = ""  # why there is no split

    @property
    def ids(self) -> np.ndarray:
        return np.array([*self.table.ids.tolist(), *self.unlabelled.tolist()], dtype=str)

    @property
    def paths(self) -> list[Path]:
        return [self.source.images / place for place in [*self.table.places.tolist(), *self.unlabelled.tolist()]]

    @property
    def every_part(self) -> np.ndarray:
        """The part of every id, those to predict included."""
        return np.array([*self.parts.tolist(), *[TO_PREDICT] * len(self.unlabelled)])

    @property
    def seen(self) -> tuple[np.ndarray, np.ndarray]:
        """The labelled rows that were looked at, and their rows in the survey."""
        rows = self.survey.rows(self.table.ids)
        return np.flatnonzero(rows >= 0), rows[rows >= 0]

    @property
    def sampled(self) -> str:
        """Of how many images the pixels are, in words."""
        asked = len(self.survey.ids) + len(self.survey.failed)
        if asked == len(self.ids):
            return f"All {asked:,} images were looked at."
        return (
            f"SAMPLE: of {len(self.ids):,} images {asked:,} were looked at, drawn at random with at least {RARE} of"
            " every class; counts of labels and of files are of all."
        )


def opened(task: Task, source: Source, name: str) -> Data:
    """Read the tables, part the labelled rows as a run would, and look at the pixels. A split that cannot be made is
    no hindrance here."""
    found, nowhere = prepare.tables(source, task), home() / "looks" / name
    table, fault = found.labelled, ""
    try:
        table = folds.numbered(table, task, nowhere)
        parts = folds.chosen(Run(nowhere), table, task)
    except UserError as error:
        parts, fault = np.full(len(table.ids), "labelled"), str(error)
    without = np.array([], dtype=str)
    data = Data(task, source, table, parts, found.unlabelled, surveys.survey([], without), fault)
    rows = sample(table, len(found.unlabelled), data.paths)
    looked_at = surveys.survey([data.paths[row] for row in rows], data.ids[rows])
    return Data(task, source, table, parts, found.unlabelled, looked_at, fault)


def sample(table: Labelled, unlabelled: int, paths: Sequence[Path], most: int = MOST) -> np.ndarray:
    """Which images are looked at, as rows of the labelled and then the unlabelled ones: all, or `most` at random and
    at least RARE of every class; fewer where their files would be more than BYTES. The same for the same table."""
    number, rng = len(table.ids) + unlabelled, np.random.default_rng(0)
    order = rng.permutation(number)
    if number > most:
        first = [np.flatnonzero(column == 1) for column in table.targets.T]
        first = [rng.permutation(rows)[: min(RARE, most // max(1, len(first)))] for rows in first]
        order = np.array(list(dict.fromkeys(np.concatenate([*first, order]).astype(int).tolist())))
    sizes = np.array([_size(paths[row]) for row in order[:most]])
    return np.sort(order[: max(1, int((sizes.cumsum() <= BYTES).sum()))])


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


# ---- the pixels
def image_files(data: Data) -> Found:
    """Sizes, modes, and what resizing to the configuration's square does to the aspect; what cannot be read."""
    found, side = data.survey, data.task.config.size
    kinds = Counter(
        (f"{w} × {h}", mode) for (h, w), mode in zip(found.shape.tolist(), found.mode.tolist(), strict=True)
    )
    listed = frame({
        "width × height": [size for (size, _), _ in kinds.most_common(20)],
        "mode": [MODES.get(mode, mode) for (_, mode), _ in kinds.most_common(20)],
        "images": [number for _, number in kinds.most_common(20)],
    })  # fmt: skip
    blocks, said = [Text([data.sampled])], []
    if len(kinds):
        blocks.append(Table(listed, f"Sizes and modes of the files, the commonest of {len(kinds)}.", {"images": ","}))
        blocks.append(Text([_stretch(found.shape, side)]))
        same = "one size" if len(kinds) == 1 else f"{len(kinds)} kinds of size and mode"
        said.append(f"Files: {same}, the commonest {' '.join(listed.iloc[0, :2])}. {_stretch(found.shape, side)}")
    if found.failed:
        bad = some((f"{name} ({why})" for name, why in sorted(found.failed.items())), 20)
        text = f"{len(found.failed):,} of the images that were looked at cannot be read: {bad}"
        blocks.append(Text([f"{text}."], "warning"))
        said.append(f"{len(found.failed):,} images cannot be read: a run would stop and name them.")
    return blocks, said


MODES = {
    "L": "grey, 8 bits", "RGB": "colour, 8 bits (RGB)", "RGBA": "colour with transparency", "P": "palette",
    "I;16": "grey, 16 bits", "I": "grey, 32 bits", "1": "black and white", "LA": "grey with transparency",
}  # fmt: skip


def _stretch(shape: np.ndarray, side: int) -> str:
    """What resizing to a square does, in a sentence."""
    aspect = shape[:, 1] / shape[:, 0]
    smaller = (shape.min(axis=1) < side).mean()
    blown = f"; {smaller:.0%} of them are enlarged" if smaller else ""
    if (aspect == 1).all():
        return f"All are square, so resizing to {side} × {side} keeps their aspect{blown}."
    low, middle, high = np.quantile(aspect, [0.05, 0.5, 0.95])
    return (
        f"Resizing to {side} × {side} changes the aspect of {(np.abs(aspect - 1) > 0.01).mean():.0%} of the images: width"
        f" by height is {middle:.2f} (median; the middle 90 %: {low:.2f} to {high:.2f}) and becomes 1{blown}."
    )


def grey_levels(data: Data) -> Found:
    """The histogram of all pixels, and of every class."""
    found = data.survey
    if not len(found.ids):
        return [NOTHING], []
    levels = found.histogram.mean(axis=0)
    spans = {share: _span(levels, share) for share in (0.5, 0.9)}
    blocks: list[Block] = [data_plots.histogram(levels, spans)]
    rows, places = data.seen
    has = data.table.targets[rows] == 1
    there = np.flatnonzero(has.any(axis=0))[np.argsort(-has.sum(axis=0)[has.any(axis=0)], kind="stable")]
    names, mean = (
        [data.table.classes[c] for c in there],
        [found.histogram[places[has[:, c]]].mean(axis=0) for c in there],
    )
    if len(there):
        blocks.append(data_plots.by_class(names[:SHOWN_CLASSES], np.array(mean)[:SHOWN_CLASSES]))
        quantiles = np.array([[_quantile(one, q) for q in (0.05, 0.25, 0.5, 0.75, 0.95)] for one in mean])
        columns = {"class": names, "images looked at": has.sum(axis=0)[there]}
        columns |= dict(zip(("5 %", "25 %", "median", "75 %", "95 %"), quantiles.T, strict=True))
        forms = dict.fromkeys(("5 %", "25 %", "median", "75 %", "95 %"), ".0f") | {"images looked at": ","}
        blocks.append(Table(frame(columns), "Quantiles of the grey levels, by class.", forms))
    low, high = spans[0.5]
    said = (
        f"Grey levels: half of all pixels lie between {low:.0f} and {high:.0f}, {(high - low) / 256:.0%} of the scale;"
        f" nine tenths between {spans[0.9][0]:.0f} and {spans[0.9][1]:.0f}."
    )
    return blocks, [said]


def _quantile(levels: np.ndarray, share: float) -> float:
    """The grey level below which a share of the pixels lies; levels float [B] are shares."""
    reached = np.concatenate([[0], levels.cumsum() / levels.sum()])
    return float(np.interp(share, reached, np.linspace(0, 256, len(levels) + 1)))


def _span(levels: np.ndarray, share: float) -> tuple[float, float]:
    return _quantile(levels, (1 - share) / 2), _quantile(levels, (1 + share) / 2)


NOTHING = Text(["No image could be read, so there is nothing to show."])


def mean_images(data: Data) -> Found:
    """The mean image of every class, and where it is brighter or darker than that of all."""
    rows, places = data.seen
    has = data.table.targets[rows] == 1
    if not len(rows):
        return [NOTHING], []
    small, tiles = data.survey.small[places].astype(np.float32), []
    overall = small.mean(axis=0)
    tiles.append(Picture(sheets.png(overall), "The mean of all images", f"All {len(rows):,} images", width=128))
    for c in np.argsort(-has.sum(axis=0), kind="stable")[:SHOWN_CLASSES]:
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
    part = dict(zip(data.ids.tolist(), data.every_part.tolist(), strict=True))
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
        named = ", ".join(f"{times} {kind}" for kind, times in kinds.items())
        said.append(f"{number:,} pairs of images are the same or nearly so ({named}); {len(crossing)} cross parts.")
    blocks: list[Block] = [Text([*said, method])]
    if pairs:
        blocks += _shown_pairs(data, pairs, part)
    return blocks, said


def _shared(data: Data, apart: Sequence[tuple]) -> list[str]:
    """Whether an image stands both among the labelled ones and among those to predict, in sentences."""
    if not len(data.unlabelled):
        return ["There is no part without labels here, so no image can stand in both."]
    if apart:
        ids = {name for one, other, *_ in apart for name in (one, other)} & set(data.unlabelled.tolist())
        return [
            f"{len(ids)} of the {len(data.unlabelled):,} images to predict stand among the labelled ones too, or nearly."
        ]
    sample = " (near duplicates: among the sample)" if data.sampled.startswith("SAMPLE") else ""
    return [
        f"No image stands in both parts: none of the {len(data.unlabelled):,} to predict is one of the"
        f" {len(data.table.ids):,} labelled ones, nor nearly{sample}."
    ]


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


def _shown_pairs(data: Data, pairs: Sequence[tuple[str, str, str, float]], part: dict[str, str]) -> list[Block]:
    """The table of the pairs, and the first of them as pictures; those across parts come first."""
    row = {name: number for number, name in enumerate(data.table.ids.tolist())}
    patient = data.table.known.get("patient")
    pairs = sorted(pairs, key=lambda pair: part[pair[0]] == part[pair[1]])

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
    return [Tiles(tiles, least=230), Folded(f"All {len(pairs)} pairs", [shown_pairs])]


# ---- shortcuts
def shortcut_section(data: Data) -> Found:
    """How well the classes are told by what should not tell them."""
    rows, places = data.seen
    targets = data.table.targets[rows]
    if not len(rows) or not shortcuts.enough(targets).any():
        least = shortcuts.FEWEST
        return [
            Text([f"No class has {least} images that can be read and {least} others: nothing can be told of it."])
        ], []
    small, exclusive = data.survey.small[places], data.task.exclusive
    groups = data.table.known.get("patient")
    groups = None if groups is None else groups[rows]
    features, where = _features(data, rows, places), surveys.edge(surveys.SAME_AS)
    told = {name: shortcuts.told(one, targets, exclusive, groups) for name, one in features.items()}
    if groups is not None:
        shared = shortcuts.told(features[EDGE], targets, exclusive, None)
        told[f"{EDGE}, patients shared"] = shared
    luck = shortcuts.by_luck(features[EDGE], targets, exclusive, groups)
    told = dict(sorted(told.items(), key=lambda one: -one[1].macro))
    edge, unit = told[EDGE], "images" if groups is None else "patients"
    method = (
        f"Logistic regression on at most {shortcuts.COMPONENTS} principal components, {shortcuts.FOLDS}-fold"
        f" cross-validated by {unit[:-1]}; 95 % intervals by drawing {unit} again; the mean over the"
        f" {shortcuts.enough(targets).sum()} classes with {shortcuts.FEWEST} images and more. With the labels shuffled"
        f" {SHUFFLED} times: {luck.mean():.3f} ({luck.min():.3f} to {luck.max():.3f})."
    )
    if groups is None:
        method += " Patients are not known here: where they come back, part of what is told may be who they are."
    beyond = "more than" if edge.low > luck.max() else "no more than"
    said = (
        f"Shortcuts: corners and borders alone tell the classes with a macro AUC of {edge.macro:.3f}"
        f" ({edge.low:.3f} to {edge.high:.3f}, by {unit[:-1]}), {beyond} the {luck.mean():.3f} of shuffled labels."
    )
    chart = data_plots.areas([(name, *one[1:]) for name, one in told.items()], (luck.min(), luck.max()))
    faded = sheets.masked(small.mean(axis=0), np.kron(where, np.ones((4, 4), bool)))
    seen = Picture(
        sheets.png(faded), "A mean radiograph of which only corners and borders are left", EDGE_IS, width=160
    )
    return [Text([said]), chart, seen, Text([method], "note"), _each(data, told), *_marks(data, rows, places)], [said]


EDGE, SHUFFLED = "corners and borders", shortcuts.SHUFFLES
EDGE_IS = "What the classifier of corners and borders sees: the outer tenth, and an eighth by an eighth at each corner."


def _features(data: Data, rows: np.ndarray, places: np.ndarray) -> dict[str, np.ndarray]:
    """What a classifier is given, by its name: float [n, K] each."""
    found, known = data.survey, data.table.known
    small = surveys.shrunk(found.small[places], surveys.SAME_AS)
    features = {
        EDGE: small[:, surveys.edge(surveys.SAME_AS)],
        "the whole image at 32 × 32": small.reshape(len(small), -1),
        "brightness of middle, borders, corners": np.column_stack(list(surveys.places(found.small[places]).values())),
        "number of bright marks": surveys.marks(found.small[places])[:, None],
    }
    shape = found.shape[places]
    of_files = {
        "size": np.log(shape),
        "aspect": shape[:, 1] / shape[:, 0],
        "mode": shortcuts.one_hot(found.mode[places]),
    }
    person = {name: shortcuts.one_hot(known[name][rows]) for name in ("projection", "sex", "method") if name in known}
    names = {"projection": "view", "sex": "sex", "method": "who labelled"}
    more = {"size and mode of the file": shortcuts.features_of(of_files)}
    more |= {names[name]: shortcuts.features_of({name: columns}) for name, columns in person.items()}
    if "age" in known:
        ages = data_report.years(known["age"][rows])
        filled = np.where(np.isnan(ages), np.nanmean(ages) if (~np.isnan(ages)).any() else 0, ages)
        more["age"] = shortcuts.features_of({"age": filled, "unknown": np.isnan(ages)})
    return features | {name: columns for name, columns in more.items() if columns is not None}


def _each(data: Data, told: dict[str, shortcuts.Told]) -> Block:
    """Every class's area by each of the features."""
    some_of = np.flatnonzero(~np.isnan(told[EDGE].each))
    columns = {"class": [data.table.classes[c] for c in some_of]}
    columns |= {name: one.each[some_of] for name, one in told.items()}
    table = Table(frame(columns), "Area under the ROC curve of every class.", dict.fromkeys(told, ".3f"))
    return Folded("Class by class", [table])


def _marks(data: Data, rows: np.ndarray, places: np.ndarray) -> list[Block]:
    """Brightness of borders and corners and the number of marks, by class; the images with most marks."""
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
    said = f"The {len(most)} radiographs with most bright marks near their edge, {number[most].max()} to {number[most].min()}"
    return [
        Table(frame(columns), caption, forms | {"images": ","}),
        Picture(
            sheets.png(sheet), f"{said}: {', '.join(ids)}", f"{said}: letters and markers that a network can read."
        ),
    ]


# ---- the lung crop
def lung_crop(data: Data) -> Found:
    """What the lung crop leaves of some images, where masks are at hand: those of `masks=`, or a folder lung_masks
    beside the images."""
    config = data.task.config
    folder = Path(config.masks) if config.masks else data.source.folder / "lung_masks"
    if not config.masks and not folder.is_dir():
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
            if len(tiles) < 6:
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
        f" {middle:.0%} of the frame's side (median; the middle 90 %: {low:.0%} to {high:.0%}), {rejected} stay whole for"
        " a mask that is empty or too small."
    )
    return [Text([text]), Tiles(tiles, least=330)], []


# ---- the page
def sections(data: Data) -> tuple[list[Section], list[str]]:
    """The sections that there is something to say in, and the sentences for the top of the page."""
    table, parts, task = data.table, data.parts, data.task
    known = table.known
    parted = [(data_report.classes(table, parts, task.exclusive), "Classes" if task.exclusive else "Labels")]
    if task.exclusive:
        costs = Costs(*task.config.costs)
        parted.append((data_report.constants(table, costs), "Constant answers"))
        parted.append((data_report.noise(table, parts, costs), "Noise of the score"))
    parted.append((data_report.labels_an_image(table, task.exclusive), "Labels an image"))
    parted.append((data_report.patients(known, parts), "Patients"))
    parted.append((data_report.people(table), "Age, sex and view"))
    if not task.exclusive:
        parted.append((_whole(data), "The whole label file"))
    parted += [
        (image_files(data), "Image files"), (grey_levels(data), "Grey levels"), (mean_images(data), "Mean images"),
        (duplicates(data), "The same image twice"), (shortcut_section(data), "Shortcuts"), (lung_crop(data), "Lung crop"),
    ]  # fmt: skip
    found = [Section(title, blocks) for (blocks, _), title in parted if blocks]
    return found, [sentence for (_, said), _ in parted for sentence in said]


def _whole(data: Data) -> Found:
    name = data.task.published
    counts = None
    if name and not data.source.synthetic:
        counts = read_table(ROOT / "configs" / "published" / name, ["kind", "name", "count"])[["kind", "name", "count"]]
    return data_report.whole_file(data.task.whole(data.source), data.table.classes, counts, f"configs/published/{name}")


def look(task: Task, source: Source, words: Sequence[str]) -> tuple[Path, list[str]]:
    """Write the page; returns its path and the sentences on its top. `words`: of the command, for its last section."""
    began, name = time.monotonic(), task.config.name
    data = opened(task, source, name)
    found, said = sections(data)
    numbers = f"{len(data.table.ids):,} labelled images, {len(data.table.classes)} classes"
    numbers += f", {len(data.unlabelled):,} images to predict" if len(data.unlabelled) else ", none to predict"
    lead: list[Block] = [Text([f"{numbers}. {data.sampled}"], "verdict")]
    if data.fault:
        lead.append(Text([f"The labelled images cannot be parted as a run would: {data.fault}."], "warning"))
    lead.append(Text(said))
    facts = {
        "data": shown(source.folder), "configuration": name, "size": f"{task.config.size} × {task.config.size} pixels",
        "parts": ", ".join(f"{part} {number:,}" for part, number in Counter(data.parts.tolist()).items()),
        "made in": clock(time.monotonic() - began),
    }  # fmt: skip
    about = Section("How this page was made", [Facts(facts), Code([" ".join(["./run.sh look", *words])])])
    path = home() / "looks" / name / "data.html"
    title = f"What the data are: {name}"
    write_bytes(path, page.page(title, [*found, about], lead, SYNTHETIC if source.synthetic else ""))
    return path, [f"{numbers}. {data.sampled}", *([f"no split: {data.fault}"] if data.fault else []), *said]


def main(argv: list[str]) -> None:
    parser = Parser("look")
    parser.add_argument("config", nargs="?", default="modelB", help="a name below configs/, or a .yaml file")
    parser.add_argument("--data", metavar="DIR", help="folder of the data set (README: Where the data goes)")
    parser.add_argument("--demo", action="store_true", help="the built-in synthetic data")
    parser.add_argument("settings", nargs="*", metavar="key=value", help="settings that replace those of CONFIG")
    given = parser.parse_intermixed_args(argv)
    config, settings = given.config, given.settings
    if "=" in config:  # ./run.sh look size=64
        config, settings = "modelB", [config, *settings]
    first = registry.load(config, settings)
    source, quick = prepare.find(given.data, first.slug, registry.TASKS[first.task].layout, given.demo)
    task = registry.task_of(registry.load(config, settings, source.synthetic, quick))
    path, said = look(task, source, argv)
    print("\n".join(said))
    print(f"wrote {shown(path)}")


if __name__ == "__main__":
    raise SystemExit(command(main))
