"""What the data are, before anything is trained: `look.py [CONFIG] [--data DIR] [--demo] [key=value …]` writes
looks/NAME/data.html. Needs no torch and no run."""

import shlex
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from answers import data_plots, data_report, shortcuts
from answers.metrics import Costs
from core import folds, page
from core.commands import Parser
from core.data_set import Source
from core.data_set import Table as Labelled
from core.errors import UserError, command
from core.files import ROOT, SYNTHETIC, home, shown, write_bytes
from core.page import Block, Code, Facts, Folded, Found, Picture, Section, Table, Text, Tiles, frame
from core.runs import Run, clock
from core.tables import read_table
from core.task import Task
from images import pixel_report, prepare, sheets
from images import survey as surveys
from images.pixel_report import Data
from tasks import registry

MOST = 6000  # images whose pixels are looked at, at most
RARE = 60  # of a class that are looked at at least, where it has as many
BYTES = 4_000_000_000  # of image files that are decoded, at most: about 700 of PadChest's


def opened(task: Task, source: Source, name: str) -> tuple[Data, str]:
    """Read the tables, part the labelled rows as a run would, and look at the pixels; and why there is no split, where
    it cannot be made, which is no hindrance here."""
    found, nowhere = prepare.tables(source, task), home() / "looks" / name
    table, fault = found.labelled, ""
    try:
        table = folds.numbered(table, task, nowhere)
        parts = folds.chosen(Run(nowhere), table, task)
    except UserError as error:
        parts, fault = np.full(len(table.ids), "labelled"), str(error)
    nothing = surveys.survey([], np.array([], dtype=str))
    data = Data(source, table, parts, found.unlabelled, nothing)
    rows, paths = sample(table, len(found.unlabelled), data.paths, MOST), data.paths
    return replace(data, survey=surveys.survey([paths[row] for row in rows], data.ids[rows])), fault


def sample(table: Labelled, unlabelled: int, paths: Sequence[Path], most: int) -> np.ndarray:
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


# ---- shortcuts
def told_by(data: Data, exclusive: bool) -> Found:
    """How well the classes are told by what should not tell them."""
    rows, places = data.seen
    targets = data.table.targets[rows]
    if not len(rows) or not shortcuts.enough(targets).any():
        least = shortcuts.FEWEST
        return [
            Text([f"No class has {least} images that can be read and {least} others: nothing can be told of it."])
        ], []
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
    faded = sheets.masked(data.survey.small[places].mean(axis=0), np.kron(where, np.ones((4, 4), bool)))
    seen = Picture(
        sheets.png(faded), "A mean radiograph of which only corners and borders are left", EDGE_IS, width=160
    )
    shown = [Tiles([chart, seen], least=380), Text([method], "note"), _each(data, told)]
    return [Text([said]), *shown, *pixel_report.marks(data)], [said]


EDGE, SHUFFLED = "corners and borders", shortcuts.SHUFFLES
EDGE_IS = (
    "What the classifier of corners and borders sees: the outer sixteenth, and three by three of them at each corner."
)


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


# ---- the page
def sections(data: Data, task: Task) -> tuple[list[Section], list[str]]:
    """The sections that there is something to say in, and the sentences for the top of the page."""
    table, parts, exclusive, config = data.table, data.parts, task.exclusive, task.config
    rows, places = data.seen
    levels, has = data.survey.histogram, table.targets[rows] == 1
    found = {"Classes" if exclusive else "Labels": data_report.classes(table, parts, exclusive)}
    if exclusive:
        costs = Costs(*config.costs)
        found["Constant answers"] = data_report.constants(table, costs)
        found["Noise of the score"] = data_report.noise(table, parts, costs)
    found["Labels an image"] = data_report.labels_an_image(table, exclusive)
    found["Patients"] = data_report.patients(table.known, parts)
    found["Age, sex and view"] = data_report.people(table)
    if not exclusive:
        found["The whole label file"] = _whole(data, task)
    found["Image files"] = pixel_report.files(data, config.size)
    found["Grey levels"] = data_report.grey_levels(table.classes, has, levels[places], levels)
    found["Mean images"] = pixel_report.mean_images(data)
    found["The same image twice"] = pixel_report.duplicates(data)
    found["Shortcuts"] = told_by(data, exclusive)
    found["Lung crop"] = pixel_report.lung_crop(data, config.masks)
    drawn = [Section(title, blocks) for title, (blocks, _) in found.items() if blocks]
    return drawn, [sentence for _, said in found.values() for sentence in said]


def _whole(data: Data, task: Task) -> Found:
    name, counts = task.counts_published, None
    if name and not data.source.synthetic:
        counts = read_table(ROOT / "configs" / "published" / name, ["kind", "name", "count"])[["kind", "name", "count"]]
    whole = task.whole(data.source)
    return data_report.whole_file(whole, data.table.classes, counts, f"configs/published/{name}")


def _numbers(data: Data, what: str) -> str:
    """How much there is, and of how many images the pixels are, in sentences."""
    rest = f"{len(data.unlabelled):,} images to predict" if len(data.unlabelled) else "none to predict"
    seen = "All images were looked at."
    if not data.whole:
        seen = (
            f"SAMPLE: the pixels of {data.looked_at:,} of the {len(data.ids):,} images were looked at, drawn at random"
            f" with at least {RARE} of every class where it has as many; counts of labels and of files are of all."
        )
    return f"{len(data.table.ids):,} labelled images, {len(data.table.classes)} {what}, {rest}. {seen}"


def look(task: Task, source: Source, words: Sequence[str]) -> tuple[Path, list[str]]:
    """Write the page; returns its path and the sentences on its top. `words`: of the command, for its last section."""
    began, name = time.monotonic(), task.config.name
    data, fault = opened(task, source, name)
    found, said = sections(data, task)
    numbers = _numbers(data, "classes" if task.exclusive else "labels")
    lead: list[Block] = [Text([numbers], "verdict")]
    without = f"The labelled images cannot be parted as a run would: {fault}."
    lead += [Text([without], "warning")] if fault else []
    lead.append(Text(said))
    parts = Counter(data.parts.tolist())
    facts = {
        "data": shown(source.folder),
        "configuration": name,
        "size of the square": f"{task.config.size} × {task.config.size} pixels",
        "parts": ", ".join(f"{part} {number:,}" for part, number in parts.items()),
        "made in": clock(time.monotonic() - began),
    }
    command_line = Code([" ".join(["./run.sh look", *map(shlex.quote, words)])])
    path = home() / "looks" / name / "data.html"
    found.append(Section("How this page was made", [Facts(facts), command_line]))
    banner = SYNTHETIC if source.synthetic else ""
    write_bytes(path, page.page(f"What the data are: {name}", found, lead, banner))
    return path, [numbers, *([without] if fault else []), *said]


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
    config, source = registry.with_data(config, settings, given.data, given.demo)
    path, said = look(registry.task_of(config), source, argv)
    print("\n".join(said))
    print(f"wrote {shown(path)}")


if __name__ == "__main__":
    raise SystemExit(command(main))
