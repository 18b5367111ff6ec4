"""What a labelled table says before anything is trained, as sections of a page: classes, the score of constant
answers and its noise, labels an image, patients, age, sex and view. Needs no torch.

Every function returns the blocks of a section and the sentences that belong on top of the page.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from answers import data_plots, metrics, stats
from answers.metrics import Costs
from core.data_set import Table as Labelled
from core.errors import some
from core.page import Block, Cell, Facts, Folded, Found, Table, Text, Tiles, frame, shown

if TYPE_CHECKING:
    import pandas as pd

FEW = data_plots.LEAST_IMAGES
RECALL = 0.15  # of the rare classes, at which the luck of a score is shown; the documents' networks reach about that
MATRIX = 30  # labels of a matrix at most


# ---- classes
def classes(table: Labelled, parts: np.ndarray, exclusive: bool) -> Found:
    """Images of every class, in every part, and how long the tail is. parts str [N]."""
    has = table.targets == 1
    images, what = has.sum(axis=0), "classes" if exclusive else "labels"
    columns: dict[str, object] = {what[:-2] if exclusive else "label": table.classes, "images": images}
    columns["share"] = images / max(len(has), 1)
    patients = table.known.get("patient")
    if patients is not None:
        columns["patients"] = [len(np.unique(patients[column])) for column in has.T]
    for part in (name for name in ("training", "validation", "test") if (parts == name).any()):
        columns[part] = has[parts == part].sum(axis=0)
    if not exclusive:
        columns["sd of AUC by luck"] = _luck(has[parts == "validation"])
    caption = f"The {len(table.classes)} {what} of {len(has):,} labelled images"
    if not exclusive:
        caption += (
            "; last column: how far an area under the ROC curve strays by luck alone on the validation part, images"
            " taken as independent (Mann and Whitney 1947)"
        )
    listed = Table(frame(columns), caption + ".", {"share": ".2%", "sd of AUC by luck": ".3f"})
    chart = data_plots.counts(table.classes, images)
    return [chart, listed], _tail(table.classes, images, what)


def _luck(has: np.ndarray) -> list[float]:
    """The standard deviation of every label's AUC where nothing is known, √((P + N + 1) / 12PN); NaN without both."""
    positive = has.sum(axis=0).astype(float)
    negative = len(has) - positive
    with np.errstate(divide="ignore", invalid="ignore"):
        found = np.sqrt((len(has) + 1) / (12 * positive * negative))
    return np.where((positive > 0) & (negative > 0), found, np.nan).tolist()


def _tail(names: Sequence[str], images: np.ndarray, what: str) -> list[str]:
    """How unequal the classes are, in sentences."""
    empty = [name for name, number in zip(names, images, strict=True) if not number]
    few = [f"{name} ({number})" for name, number in zip(names, images, strict=True) if 0 < number < FEW]
    said = []
    if empty:
        said.append(f"Without an image: {len(empty)} of the {len(names)} {what}, {some(empty, 20)}.")
    if few:
        said.append(f"Fewer than {FEW} images: {len(few)} of the {len(names)} {what}, {some(few, 10)}.")
    if (images > 0).any():
        common, rare = images.argmax(), np.where(images > 0, images, images.max()).argmin()
        said.append(
            f"Imbalance: {names[common]} has {images[common]:,} images, {images[common] / images[rare]:,.0f} times"
            f" those of {names[rare]} ({images[rare]:,})."
        )
    return said


# ---- the score
def constants(table: Labelled, costs: Costs) -> Found:
    """What always giving the same answer scores on all labelled images, for every class that has any."""
    n = (table.targets == 1).sum(axis=0)
    there = np.flatnonzero(n)
    scores = np.array([metrics.competition_score(metrics.constant(n, c), costs) for c in there])
    order = np.argsort(-scores, kind="stable")
    columns = {"always": [table.classes[c] for c in there[order]], "images": n[there[order]], "score": scores[order]}
    caption = "The score of every constant answer on all labelled images, the best first"
    if len(there) < len(n):
        caption += "; the mean is over the classes that have images, as everywhere in this kit"
    listed = Table(frame(columns), caption + ".", {"score": ",.4f"})
    best = order[0]
    return [listed], [
        f"The bar: always answering {table.classes[there[best]]} scores {shown(scores[best], '.4f')} on these images."
    ]


def noise(table: Labelled, parts: np.ndarray, costs: Costs, draws: int = 1000) -> Found:
    """How far the score of a constant answer, and one of networks with a little recall, strays by luck alone, on a
    validation part like this one."""
    rows = np.flatnonzero(parts == "validation")
    if not len(rows):
        return [Text(["There is no validation part, so nothing can be said of its noise."])], []
    truth, patients = table.targets[rows].argmax(axis=1), table.known.get("patient")
    n = np.bincount(truth, minlength=len(table.classes))
    there = np.flatnonzero(n)
    answer = there[np.argmax([metrics.competition_score(metrics.constant(n, c), costs) for c in there])]
    groups = rows.astype(str) if patients is None else patients[rows]
    weights = stats.cluster_weights(groups, draws)
    scores = metrics.weighted_scores(truth, np.full(len(rows), answer), weights, len(n), costs)
    step = (costs.tp + costs.fn) / len(there)  # what a hit is worth for a class of one image
    by_recall = step * np.sqrt((RECALL * (1 - RECALL) / n[there]).sum())
    unit = "images" if patients is None else f"{len(np.unique(groups)):,} patients"
    facts = {
        "validation images": f"{len(rows):,}",
        "classes among them": f"{len(there)} of {len(n)}",
        f"always {table.classes[answer]}: score": shown(
            float(metrics.competition_score(metrics.constant(n, answer), costs)), ".3f"
        ),
        f"its sd, {unit} drawn again": shown(float(scores.std()), ".3f"),
        f"sd with {RECALL:.0%} of each class hit": shown(float(by_recall), ".3f"),
    }
    rarest = there[n[there].argmin()]
    facts[f"a hit of {table.classes[rarest]} ({n[rarest]} here) adds"] = shown(step / n[rarest], ".3f")
    note = (
        "sd: standard deviation. The first comes from which images (or whole patients) happen to be drawn; the"
        f" second, from which of the rare ones happen to be hit: {step:.2f} · √(Σ {RECALL:g} · {1 - RECALL:g} / n), n"
        " the images of a class. Two models whose scores are closer than this are not told apart here."
    )
    said = f"Noise: on {len(rows):,} validation images a score strays by {by_recall:.2f} (one sd) by luck alone"
    return [Facts(facts), Text([note], "note")], [f"{said}, once a model hits {RECALL:.0%} of every class."]


# ---- labels an image
def labels_an_image(table: Labelled, exclusive: bool) -> Found:
    """How many labels an image has, and which come together."""
    has = table.targets == 1
    number, times = np.unique(has.sum(axis=1), return_counts=True)
    if exclusive:
        exact = bool((number == 1).all())
        said = f"Every one of the {len(has):,} labelled images has exactly one class." if exact else "Not every one is."
        return [Text([said])], []
    columns = {"labels": number, "images": times, "share": times / len(has)}
    counts = Table(frame(columns), "Images by the number of their labels.", {"share": ".1%"})
    chosen = np.argsort(-has.sum(axis=0), kind="stable")[:MATRIX]
    both = has[:, chosen].T.astype(int) @ has[:, chosen].astype(int)
    names = [table.classes[c] for c in chosen]
    rows = {"label": names} | {
        name: [_pair(both[r, c], both[r, r], names[r], name) for r in range(len(names))] for c, name in enumerate(names)
    }
    caption = "Images that have both labels; the shade is their share of the row's label. The diagonal: all it has."
    none = int((has.sum(axis=1) == 0).sum())
    said = [f"{none:,} of {len(has):,} images ({none / len(has):.0%}) have none of the {len(table.classes)} labels."]
    return [counts, Table(frame(rows), caption, matrix=True)], said


def _pair(both: int, images: int, row: str, column: str) -> Cell:
    share = both / images if images else 0.0
    return Cell(int(both), f"{both:,}" if both else "·", f"{row} with {column}: {both:,}, {share:.0%}", float(share))


# ---- patients
def patients(known: Mapping[str, np.ndarray], parts: np.ndarray) -> Found:
    """Patients and their images, who has most of them, and whether parts share any. parts str [N]."""
    if "patient" not in known:
        said = "No patients are known here, so images of one patient cannot be told: the split is by image, and so are"
        return [Text([f"{said} all intervals below. Where they are known, groups=FILE names them."])], [
            "Patients are not known: intervals below go by image, and are too narrow if patients come back."
        ]
    names, times = np.unique(known["patient"], return_counts=True)
    most, tenth = names[times == times.max()], np.sort(times)[-max(1, len(times) // 10) :].sum()
    facts = {
        "patients": f"{len(names):,}",
        "images a patient, mean": f"{times.mean():.2f}",
        "median": f"{np.median(times):g}",
        "patients with one image": f"{(times == 1).sum():,}",
        "most images of one": f"{times.max():,}",
        "images of the tenth of patients with most": f"{tenth / times.sum():.0%}",
    }
    order = ("training", "validation", "test", "labelled")
    there = sorted(np.unique(parts).tolist(), key=lambda part: order.index(part) if part in order else len(order))
    rows = frame({
        "part": there,
        "images": [int((parts == part).sum()) for part in there],
        "patients": [len(np.unique(known["patient"][parts == part])) for part in there],
    })  # fmt: skip
    others = f" and {len(most) - 1:,} others have" if len(most) > 1 else " has"
    said = f"{len(names):,} patients with {times.mean():.1f} images each; patient {most[0]}{others} most,"
    said += f" {times.max():,} images."
    listed = Table(rows, "Images and patients of the parts.")
    return [Text([said]), Facts(facts), data_plots.sizes(times), listed], [said]


# ---- who they are
def years(ages: np.ndarray) -> np.ndarray:
    """Ages as text, such as 57 or NIH's older 057Y, in years; NaN where none or above 120: float [N]."""
    found = [re.fullmatch(r"\s*0*(\d{1,3})(?:\.0*)?Y?\s*", str(age)) for age in ages]
    values = np.array([float(one[1]) if one else np.nan for one in found], float)
    return np.where(values <= 120, values, np.nan)


def people(table: Labelled) -> Found:
    """Age, sex, view and who labelled, by label: a column for each that is known."""
    has, known = table.targets == 1, table.known
    rows = [("all images", np.ones(len(has), bool)), *zip(table.classes, has.T, strict=True)]
    columns: dict[str, list] = {"label": [name for name, _ in rows], "images": [int(row.sum()) for _, row in rows]}
    forms, blocks, said = {}, [], []
    ages = years(known["age"]) if "age" in known else np.array([np.nan])
    if not np.isnan(ages).all():
        columns["mean age"] = [_mean(ages[row]) for _, row in rows]
        forms["mean age"] = ".1f"
        blocks += _ages(rows, ages)
        unknown = int(np.isnan(ages).sum())
        said += [f"{unknown:,} ages are missing or above 120 years."] if unknown else []
    for what in ("sex", "projection", "method"):
        for value, share in _shares(known.get(what), rows):
            columns[f"{what} {value or 'unknown'}"] = share
            forms[f"{what} {value or 'unknown'}"] = ".1%"
    if len(columns) == 2:
        return [], []
    if "projection" in known:
        names, times = np.unique(known["projection"], return_counts=True)
        parts = some((f"{name} {number / len(has):.0%}" for name, number in zip(names, times, strict=True)), 6)
        said.append(f"Views: {parts}.")
    caption = "Who is in the pictures and how they were taken, by label. A column that differs much from its first row"
    return [Table(frame(columns), f"{caption} is a shortcut a network may take.", forms), *blocks], said


def _mean(values: np.ndarray) -> float:
    values = values[~np.isnan(values)]
    return float(values.mean()) if len(values) else float("nan")


def _shares(values: np.ndarray | None, rows: Sequence[tuple[str, np.ndarray]]) -> Iterator[tuple[str, list[float]]]:
    """Every value (the six commonest) and its share in each of the rows."""
    if values is None or not len(values):
        return
    names, times = np.unique(values, return_counts=True)
    for name in sorted(names[np.argsort(-times, kind="stable")][:6].tolist()):
        yield name, [float((values[row] == name).mean()) if row.any() else float("nan") for _, row in rows]


def _ages(rows: Sequence[tuple[str, np.ndarray]], ages: np.ndarray) -> list[Block]:
    there = [(name, ages[row & ~np.isnan(ages)]) for name, row in rows if (row & ~np.isnan(ages)).any()]
    if not there:
        return []
    quantiles = np.array([np.quantile(values, [0.05, 0.25, 0.5, 0.75, 0.95]) for _, values in there])
    names = [name for name, _ in there]
    said = "Lines: the ages of " + some(
        (f"{name}, median {q[2]:.0f}" for name, q in zip(names, quantiles, strict=True)), 40
    )
    caption = "Ages by label: median, quartiles (thick) and the middle 90 %."
    return [data_plots.spread(names, quantiles, "years", said, caption)]


# ---- the pixels, as histograms
def grey_levels(classes: Sequence[str], has: np.ndarray, labelled: np.ndarray, every: np.ndarray) -> Found:
    """The grey levels of all images and of every class. has bool [n, C], labelled [n, B] and every [N, B] the
    histograms of labelled images and of all, as shares."""
    if not len(every):
        return [Text(["No image could be read, so there is nothing to show."])], []
    levels = every.mean(axis=0)
    spans = {share: (_level(levels, (1 - share) / 2), _level(levels, (1 + share) / 2)) for share in (0.5, 0.9)}
    drawn: list[Block] = [data_plots.histogram(levels, spans)]
    there = [c for c in np.argsort(-has.sum(axis=0), kind="stable") if has[:, c].any()]
    blocks: list[Block] = [Tiles(drawn, least=420)]
    if there:
        names, means = [classes[c] for c in there], np.array([labelled[has[:, c]].mean(axis=0) for c in there])
        drawn.append(data_plots.by_class(names[:MATRIX], means[:MATRIX]))
        columns: dict[str, Sequence] = {"class": names, "images looked at": has.sum(axis=0)[there]}
        marked = {"5 %": 0.05, "25 %": 0.25, "median": 0.5, "75 %": 0.75, "95 %": 0.95}
        columns |= {name: [_level(one, share) for one in means] for name, share in marked.items()}
        forms = dict.fromkeys(marked, ".0f")
        blocks.append(Table(frame(columns), "Quantiles of the grey levels, by class.", forms))
    (low, high), wide = spans[0.5], spans[0.9]
    said = (
        f"Grey levels: half of all pixels lie between {low:.0f} and {high:.0f}, {(high - low) / 256:.0%} of the scale"
    )
    return blocks, [f"{said}; nine tenths between {wide[0]:.0f} and {wide[1]:.0f}."]


def _level(levels: np.ndarray, share: float) -> float:
    """The grey level below which a share of the pixels lies; levels [B] are shares."""
    reached = np.concatenate([[0], levels.cumsum() / levels.sum()])
    return float(np.interp(share, reached, np.linspace(0, 256, len(levels) + 1)))


# ---- the whole file, and what was published of it
def whole_file(whole: Labelled, used: Sequence[str], published: pd.DataFrame | None, where: str) -> Found:
    """Everything that a label file names, whatever the configuration chooses of it, beside published counts of the
    same file: a frame of `kind` (label names, label, projection), `name` and `count`."""
    has = whole.targets == 1
    images = has.sum(axis=0)
    facts: dict[str, object] = {"rows with labels": f"{len(has):,}", "label names": f"{(images > 0).sum():,}"}
    for what in ("patient", "projection", "method", "sex"):
        if what in whole.known:
            names, times = np.unique(whole.known[what], return_counts=True)
            order = np.argsort(-times, kind="stable")
            listed = some((f"{names[k] or 'unknown'} {times[k]:,}" for k in order), 8)
            facts["patients" if what == "patient" else what] = f"{len(names):,}" if what == "patient" else listed
    columns: dict[str, object] = {"label": whole.classes, "images": images, "share": images / len(has)}
    forms = {"share": ".2%"}
    if "method" in whole.known:
        for method in np.unique(whole.known["method"]).tolist():
            columns[f"by {method or 'unknown'}"] = has[whole.known["method"] == method].sum(axis=0)
    columns["used here"] = ["yes" if name in used else "" for name in whole.classes]
    order = np.argsort(-images, kind="stable")
    listed = frame({name: np.asarray(values, object)[order] for name, values in columns.items()})
    every = Table(listed, "Every label that the file names, all views, the commonest first.", forms)
    blocks: list[Block] = [Facts(facts), Folded(f"All {len(whole.classes)} labels", [every])]
    if published is None:
        return blocks, []
    beside, said = _beside(whole, published, where)
    return blocks + beside, said


def _beside(whole: Labelled, published: pd.DataFrame, where: str) -> Found:
    """Our counts and the published ones, where both are of the same file: by its number of images in each view."""
    views = dict(zip(*np.unique(whole.known.get("projection", []), return_counts=True), strict=True))
    labels = dict(zip(whole.classes, (whole.targets == 1).sum(axis=0).tolist(), strict=True))
    ours = {"projection": views, "label": labels, "label names": {"": sum(map(bool, labels.values()))}}
    theirs = [(kind, name, int(count)) for kind, name, count in published.itertuples(index=False)]
    total = sum(count for kind, _, count in theirs if kind == "projection")
    if len(whole.ids) != total:
        said = f"{where} counts {total:,} images; this file has {len(whole.ids):,}, so the two are not compared."
        return [Text([said], "note")], []
    rows = [(f"{kind} {name}".strip(), int(ours[kind].get(name, 0)), count) for kind, name, count in theirs]
    other = [row for row in rows if row[1] != row[2]]
    columns = dict(zip(("what", "here", "published"), map(list, zip(*rows, strict=True)), strict=True))
    columns["difference"] = [here - there for _, here, there in rows]
    listed = Table(frame(columns), f"Counts of this file beside those in {where}.")
    said = some((f"{name}: {here:,} here, {there:,} published" for name, here, there in other), 12)
    return [listed], [f"Counts that differ from {where}: {said}."] if other else []
