"""The pictures of a run, drawn by matplotlib without a display. Needs no torch.

They are made for print: as wide as a column (8.5 cm) or a page (17.5 cm), letters of at least 7 points, the
colour-blind safe colours of Okabe and Ito (2008). The same run gives the same bytes on the same machine.
"""

import io
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from matplotlib import style
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator, NullLocator

from answers import metrics, multi_label, single_label, stats
from answers.posterior import GRID, probabilities
from answers.rules import RULES, truth_of
from core import page
from core.errors import UserError, some
from core.logits_file import Logits, pooled
from core.task import Rows

COLUMN, PAGE = 8.5, 17.5  # width in cm
DOTS = 300  # per inch
BLUE, ORANGE, GREEN, VERMILLION, GREY, PALE = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#595959", "#DDDDDD"
STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 7,
    "axes.titlesize": 7,
    "axes.labelsize": 7,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "figure.titlesize": 7,
    "figure.labelsize": 7,
    "axes.linewidth": 0.6,
    "lines.linewidth": 1.2,
    "lines.markersize": 4,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "axes.titlepad": 3,
}
WORDS = {  # for monitored figures
    "auc": "macro AUC-ROC",
    "score": "competition score",
    "expected_score": "score of the Bayes rule",
    "log_likelihood": "log-likelihood",
}
POINTS = {"sens95": (VERMILLION, "o", "Sens = 95 %"), "spec95": (BLUE, "s", "Spec = 95 %")}  # of operation
BAND = {"color": BLUE, "alpha": 0.2, "linewidth": 0}
FEW = 4  # labels of the pictures that show not all of them
A_PAGE = 20  # labels
BINS, SMALLEST = 10, 20  # of reliability: bins at most, and images that each should have
DRAWS = 200  # resamples that the band of a curve is made of


@dataclass(frozen=True)
class Picture:
    name: str  # of the file, without .png
    figure: Figure
    caption: str

    def png(self) -> bytes:
        """The same bytes for the same figure: neither a date nor a version is written into it."""
        buffer = io.BytesIO()
        with style.context(["default", STYLE]):
            self.figure.savefig(buffer, format="png", dpi=DOTS, metadata={"Software": None})
        return buffer.getvalue()

    def on_page(self) -> page.Picture:
        """The same for a page, which reads out the first sentence of the caption."""
        with style.context(["default", STYLE]):
            return page.drawn(self.figure, self.caption.partition(". ")[0], self.caption)


@dataclass(frozen=True)
class Material:
    """What a run left behind. `histories` are the rows of log.csv and the best epoch of every network by its name
    (none where nothing was trained by epochs), `report` is what report.json holds, `vals` and `tests` are validation
    logits and test logits with labels or None, a file a network, `labels` those that a picture of a few shall show.
    `rows` are those of folds.csv, `predicted` the test logits with or without labels, or None."""

    synthetic: bool
    histories: Mapping[str, tuple[Sequence[Mapping[str, str]], int | None]]
    monitor: str
    rule: str
    vals: Sequence[Logits]
    tests: Sequence[Logits] | None
    calibration: dict
    report: dict
    labels: Sequence[str] = ()
    patients: np.ndarray | None = None  # of the validation rows, where their intervals go by patient
    rows: Rows = field(default_factory=dict)
    predicted: Sequence[Logits] | None = None

    @cached_property
    def val(self) -> Logits:
        """The validation rows of all networks."""
        return pooled(self.vals, exclusive="costs" in self.calibration)

    @property
    def part(self) -> tuple[str, Logits]:
        """The name and the rows of the part that a multi-label run is judged on: the test part, where it is there."""
        return ("test", self.tests[0]) if self.tests is not None else ("validation", self.val)

    @cached_property
    def drawn(self) -> np.ndarray:
        """How often every resample of patients draws each image of that part, [DRAWS, N]; an image without a patient is
        its own."""
        ids = self.part[1].ids.tolist()
        return stats.cluster_weights(np.array([self.rows.get(one, {}).get("patient") or one for one in ids]), DRAWS)

    @cached_property
    def answers(self) -> np.ndarray:
        """The run's answers to the validation rows, cross-fitted, int [N]: each of one class an image."""
        return single_label.held_out(self.vals, self.calibration, [self.rule], self.patients)[0][self.rule]

    @cached_property
    def confusion(self) -> np.ndarray:
        """How many validation images of each class were answered with each, int [C, C]."""
        counts = np.zeros((len(self.val.classes),) * 2, int)
        np.add.at(counts, (truth_of(self.val), self.answers), 1)
        return counts


def draw(names: Sequence[str], material: Material) -> Iterator[Picture]:
    """The pictures of those names in PLOTS, one after the other. Raises UserError for labels that are not there, or
    not to be drawn."""
    for name in names:
        with style.context(["default", STYLE]):
            drawn = list(PLOTS[name](material))
            for picture in drawn:
                if material.synthetic:
                    picture.figure.suptitle("synthetic data", x=0.99, ha="right", color=GREY)
                picture.figure.draw_without_rendering()  # lays it out, once for paper and screen
                picture.figure.set_layout_engine("none")
        yield from drawn


def _panels(
    titles: Sequence[str],
    columns: int,
    width: float,
    x: str,
    y: str,
    panel: float = 1.0,
    legend: bool = False,
    **shared,
) -> tuple[Figure, list]:
    """A figure `width` cm wide with a panel for every title, `panel` times as high as wide; x and y are written on the
    outer ones."""
    columns = min(columns, len(titles))
    rows = -(-len(titles) // columns)
    side = min((width - 1.6) / columns, 7.0)
    lines = max(title.count("\n") for title in titles) + 1
    height = rows * (side * panel + 0.31 * lines + 0.2) + 1.6 + 0.5 * legend + (0 if shared else 0.35 * (rows - 1))
    figure = Figure(figsize=(width / 2.54, height / 2.54), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **shared)
    for number, axis in enumerate(axes.flat):
        axis.set_box_aspect(panel)
        if number >= len(titles):
            axis.set_axis_off()
            continue
        axis.set_title(titles[number], loc="left")
        if number % columns == 0:
            axis.set_ylabel(y)
        if number + columns >= len(titles):  # nothing stands below
            axis.set_xlabel(x)
            axis.tick_params(labelbottom=True)
    return figure, list(axes.flat[: len(titles)])


def _wrapped(name: str, width: int = 22) -> str:
    return "\n".join(textwrap.wrap(name, width))


def _name_ends(axis, ends: Sequence[tuple[float, str, str]], gap: float) -> None:
    """Write names (height in data, text, colour) to the right of where their lines end, at least `gap` of the axis
    apart."""
    low, high = axis.get_ylim()
    place = -np.inf
    heights = sorted(((value - low) / (high - low), text, colour) for value, text, colour in ends)
    for number, (height, text, colour) in enumerate(heights):
        place = min(max(height, place + gap), 1 - gap * (len(heights) - 1 - number))
        axis.text(1.02, place, text, color=colour, va="center", transform=axis.transAxes)


# ---- of every task
def training(material: Material) -> Iterator[Picture]:
    """Losses, the monitored figure and the learning rate over the epochs, of every network by itself."""
    for name, (rows, best_epoch) in material.histories.items():
        yield _training(name, rows, best_epoch, material.monitor)


def _training(name: str, rows: Sequence[Mapping[str, str]], best_epoch: int | None, watched: str) -> Picture:
    epochs = [int(row["epoch"]) for row in rows]
    column = {what: np.array([float(row[what]) for row in rows]) for what in ("train_loss", "val_loss", watched, "lr")}
    frozen = sum(row["stage"] == "frozen" for row in rows)
    figure = Figure(figsize=(COLUMN / 2.54, 11 / 2.54), layout="constrained")
    loss, monitored, rate = figure.subplots(3, 1, sharex=True, height_ratios=(1.2, 1.2, 0.6))
    mark = "o" if len(rows) == 1 else ""
    for which, colour in (("train_loss", BLUE), ("val_loss", ORANGE)):
        loss.plot(epochs, column[which], color=colour, marker=mark)
    loss.set_ylabel("loss")
    _name_ends(
        loss, [(column["train_loss"][-1], "training", BLUE), (column["val_loss"][-1], "validation", ORANGE)], 0.1
    )
    what = WORDS.get(watched, watched)
    monitored.plot(epochs, column[watched], color=GREEN, marker=mark)
    monitored.set_ylabel(f"validation\n{what}")
    rate.plot(epochs, column["lr"], color=GREY, drawstyle="steps-mid", marker=mark)
    rate.set_yscale("log")
    rate.set_ylabel("learning\nrate")
    rates = sorted(set(column["lr"]), reverse=True)
    shown = []
    for value in rates[:: -(-len(rates) // 3)]:  # no two so close that their numbers overlap, as on a cosine
        if not shown or np.log(shown[-1] / value) > np.log(rates[0] / rates[-1]) / 4:
            shown.append(value)
    rate.yaxis.set_minor_locator(NullLocator())
    rate.set_yticks(shown, [f"{value:.1g}" if f"{value:.1g}" == f"{value:g}" else f"{value:.2g}" for value in shown])
    rate.set_ylim(min(rates) / 1.5, max(rates) * 1.5)
    rate.set_xlabel("epoch")
    rate.xaxis.set_major_locator(MaxNLocator(integer=True))
    rate.set_xlim(epochs[0] - 0.5, epochs[-1] + 0.5)
    caption = f"{name}: ".capitalize() * bool(name) + (
        "Training and validation loss (training: on the images as they were drawn, augmented and mixed), the figure"
        " that chooses the epoch, and the learning rate."
    )
    if best_epoch in epochs:
        best = column[watched][epochs.index(best_epoch)]
        for axis in (loss, monitored, rate):
            axis.axvline(best_epoch, color=VERMILLION, linewidth=0.8, linestyle=":")
        monitored.plot([best_epoch], [best], "o", color=VERMILLION)
        caption += f" Dotted: the best epoch, {best_epoch}, whose weights are kept ({what} {page.shown(best, '.3f')})."
        _name_ends(monitored, [(best, f"best: {page.shown(best, '.3f')}\nepoch {best_epoch}", VERMILLION)], 0.1)
    if frozen:
        for axis in (loss, monitored, rate):
            axis.axvspan(0.5, frozen + 0.5, color=PALE, linewidth=0, zorder=0)
        loss.annotate(
            "body frozen", (0.5, 1), (0, 2), xycoords=("data", "axes fraction"), textcoords="offset points", color=GREY
        )
        first = "the first epoch" if frozen == 1 else f"the first {frozen} epochs"
        caption += f" Grey: {first}, with the body frozen."
    return Picture("training" + f"-{name.replace(' ', '-')}" * bool(name), figure, caption)


# ---- of labels, any number of them an image
@dataclass(frozen=True)
class Label:
    """One label on the known rows of a part: truth bool [N], probabilities float [N] by each rule, the run's rule and
    the thresholds that validation gave it."""

    name: str
    truth: np.ndarray
    p: dict[str, np.ndarray]
    rule: str
    at: dict[str, float]
    row: Mapping  # of the report
    drawn: np.ndarray  # how often every resample draws each row, [DRAWS, N]

    @property
    def chosen(self) -> np.ndarray:
        return self.p[self.rule]

    @cached_property
    def reached(self) -> tuple[np.ndarray, np.ndarray]:
        """Positives and negatives at or above every probability that is met, from above, beginning with 0."""
        true, false = stats.reached(self.truth, self.chosen, np.ones((1, len(self.truth))))
        return true[0], false[0]

    def operating_points(self) -> dict[str, tuple[float, float]]:
        """Sensitivity and specificity on these rows at every threshold that validation gave: p ≥ τ is positive."""
        found = {point: self.chosen >= threshold for point, threshold in self.at.items() if not np.isnan(threshold)}
        return {
            point: (float(said[self.truth].mean()), float(1 - said[~self.truth].mean()))
            for point, said in found.items()
        }


def labels_of(material: Material, wanted: Sequence[str] | None = None) -> tuple[list[Label], str]:
    """The labels to draw, on the test part when it is there, and the sentences of every caption: the part, and who is
    left out.

    `wanted` none: those with both positives and negatives; empty: the four of them with most positives, in the run's
    order. Raises UserError for a wanted label that the run does not have, and when none can be drawn.
    """
    tested, calibration = material.tests is not None, material.calibration
    part, content = material.part
    names = content.classes.tolist()
    unknown = [name for name in wanted or () if name not in names]
    if unknown:
        raise UserError(f"there is no label {some(unknown)} in this run; it has {some(names, 40)}")
    countable = dict(zip(names, multi_label.countable(content.targets), strict=True))
    drawn = [name for name in wanted or names if countable[name]]
    if wanted is not None and not wanted:
        positives = dict(zip(names, (content.targets == 1).sum(axis=0), strict=True))
        drawn = sorted(sorted(drawn, key=lambda name: -positives[name])[:FEW], key=names.index)
    if not drawn:
        raise UserError(
            f"none of {some(wanted or names)} has both positives and negatives in the {part} part: choose other labels"
        )
    of_part, contents = (
        (multi_label.probabilities, material.tests) if tested else (multi_label.out_of_fold, material.vals)
    )
    p = {rule: of_part(contents, calibration, rule) for rule in multi_label.RULES}
    at, rows = (
        multi_label.thresholds(calibration, material.rule),
        {row["class"]: row for row in material.report["per_class"]},
    )
    found = []
    for name in drawn:
        c = names.index(name)
        known = ~np.isnan(content.targets[:, c])
        found.append(
            Label(
                name,
                content.targets[known, c] == 1,
                {rule: each[known, c] for rule, each in p.items()},
                material.rule,
                {point: values[c] for point, values in at.items()},
                rows[name],
                material.drawn[:, known],
            )
        )
    said = f" {part.capitalize()} part, {len(content.ids)} images; rule {material.rule}."
    if part == "validation":
        said += " These images also chose the epoch and the thresholds, so this is optimistic."
    skipped = [name for name in wanted or names if not countable[name]]
    return found, said + (
        f" Not drawn, without a positive or without a negative here: {', '.join(skipped)}." if skipped else ""
    )


def _few_ticks(axis) -> None:
    for one in (axis.xaxis, axis.yaxis):
        one.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))


def _unit_square(axis) -> None:
    axis.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    axis.set_xticks((0, 0.5, 1), ("0", "0.5", "1"))
    axis.set_yticks((0, 0.5, 1), ("0", "0.5", "1"))


def _roc(labels: Sequence[Label], columns: int, width: float) -> Figure:
    titles = [_wrapped(label.name) for label in labels]
    figure, axes = _panels(
        titles, columns, width, "1 − specificity", "sensitivity", legend=True, sharex=True, sharey=True
    )
    for axis, label in zip(axes, labels, strict=True):
        true, false = label.reached
        axis.plot([0, 1], [0, 1], color=GREY, linewidth=0.6, linestyle="--", label="chance")
        axis.fill_between(stats.LEVELS, *stats.roc_band(label.truth, label.chosen, label.drawn), **BAND)
        axis.plot(false / false[-1], true / true[-1], color="black", label="ROC")
        for point, (sens, spec) in label.operating_points().items():
            colour, marker, _ = POINTS[point]
            axis.plot([1 - spec], [sens], marker, color=colour, label=point, clip_on=False, zorder=3)
        row = label.row
        ends = f"\n[{row['auc_low']:.3f}, {row['auc_high']:.3f}]" if row["auc_low"] is not None else ""
        text = f"AUC {row['auc']:.3f}{ends}\n{label.truth.sum()} of {len(label.truth)}"
        axis.text(1.0, 0.02, text, ha="right", va="bottom", transform=axis.transAxes)
        _unit_square(axis)
    handles = [
        Line2D([], [], color=colour, marker=marker, linestyle="", label=f"threshold for {name}")
        for colour, marker, name in POINTS.values()
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, columnspacing=1, handletextpad=0.2)
    return figure


ROC = (
    "Circle and square: the thresholds that hold 95 % sensitivity and 95 % specificity on validation, applied"
    " unchanged. Dashed: chance. Band: 95 % of the sensitivities at each specificity when patients are"
    " resampled. Below: area under the curve with its 95 % interval by resampling patients, positives"
    " of all images."
)


def roc(material: Material) -> Iterator[Picture]:
    """The thesis' Figure 4: ROC of a few labels with both operating points."""
    labels, said = labels_of(material, material.labels)
    yield Picture("roc", _roc(labels, 2, COLUMN), f"ROC curves. {ROC}{said}")


def roc_all(material: Material) -> Iterator[Picture]:
    """The same of every label, twenty a picture."""
    labels, said = labels_of(material)
    for number, start in enumerate(range(0, len(labels), A_PAGE), start=1):
        yield Picture(
            f"roc_all{number if number > 1 else ''}",
            _roc(labels[start : start + A_PAGE], 4, PAGE),
            f"ROC curves of all labels. {ROC}{said}",
        )


def precision_recall(material: Material) -> Iterator[Picture]:
    """Precision over recall with the prevalence, which is what chance reaches."""
    labels, said = labels_of(material, material.labels)
    titles = [
        f"{_wrapped(label.name)}\nPR-AUC {label.row['average_precision']:.3f}, chance {label.truth.mean():.3f}"
        for label in labels
    ]
    figure, axes = _panels(titles, 2, COLUMN, "recall (sensitivity)", "precision", sharex=True, sharey=True)
    for axis, label in zip(axes, labels, strict=True):
        true, false = (each[:0:-1] for each in label.reached)  # from the lowest threshold up
        precision = true / (true + false)
        recall, precision = [*true / true[0], 0], [*precision, precision[-1]]  # the last point is no threshold's
        # the area below is the average precision
        axis.fill_between(stats.LEVELS, *stats.pr_band(label.truth, label.chosen, label.drawn), **BAND)
        axis.plot(recall, precision, color="black", drawstyle="steps-post", label="PR")
        axis.axhline(label.truth.mean(), color=VERMILLION, linewidth=0.8, linestyle="--", label="prevalence")
        _unit_square(axis)
    yield Picture(
        "precision_recall",
        figure,
        f"Precision over recall; PR-AUC is average precision. Dashed: chance, which is the prevalence. Band: 95 % of"
        f" the precisions at each recall when patients are resampled.{said}",
    )


def wilson(hits: np.ndarray, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The 95 % interval of a share of `hits` out of `images` > 0: low, high (Wilson 1927; Brown, Cai & DasGupta 2001,
    equation 4)."""
    z = 1.959963984540054
    hits, images = np.asarray(hits, float), np.asarray(images, float)
    share = hits / images
    middle = (share + z**2 / (2 * images)) / (1 + z**2 / images)
    reach = z / (1 + z**2 / images) * np.sqrt(share * (1 - share) / images + z**2 / (4 * images**2))
    return np.where(hits == 0, 0.0, middle - reach), np.where(hits == images, 1.0, middle + reach)


def equal_mass(p: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Bins of about as many images each, at most ten and 20 images or more: images, mean probability and positives of
    every bin.

    p float [N], truth bool [N]. Equal probabilities stay together, so that bins may be fewer and not quite equal.
    """
    bins = int(np.clip(len(p) // SMALLEST, 1, BINS))
    _, member, times = np.unique(p, return_inverse=True, return_counts=True)
    place = ((times.cumsum() - times / 2) * bins / len(p)).astype(int)[member]  # by the middle of its rank among equals
    images = np.bincount(place)
    there = images > 0
    return images[there], np.bincount(place, p)[there] / images[there], np.bincount(place, truth)[there].astype(int)


def _reliable(axis, forecast: np.ndarray, hits: np.ndarray, images: np.ndarray, colour: str) -> float:
    """Observed shares with Wilson intervals over the mean forecasts; returns how far up it reaches."""
    low, high = wilson(hits, images)
    share = hits / images
    reach = np.maximum(share - low, 0), np.maximum(high - share, 0)
    axis.errorbar(forecast, share, yerr=reach, color=colour, fmt="o-", linewidth=0.8, elinewidth=0.8, markersize=3)
    return float(max(forecast.max(), high.max()))


def reliability(material: Material) -> Iterator[Picture]:
    """What was forecast beside what happened, by the plain sigmoid and calibrated."""
    labels, said = labels_of(material, material.labels)
    rules = tuple(zip(multi_label.RULES, (ORANGE, BLUE), strict=True))
    bins = [[equal_mass(label.p[rule], label.truth) for rule, _ in rules] for label in labels]
    titles = []
    for label, row in zip(labels, bins, strict=True):
        for (rule, _), (images, _, _) in zip(rules, row, strict=True):
            many = f"{images.min()}" if np.ptp(images) == 0 else f"{images.min()}–{images.max()}"
            titles.append(f"{_wrapped(label.name)}\n{rule}, n = {many}")
    figure, axes = _panels(titles, len(rules), COLUMN, "mean probability", "share of positives", panel=0.75)
    for number, row in enumerate(bins):
        pair = axes[number * len(rules) :][: len(rules)]
        together = zip(pair, rules, row, strict=True)
        reach = max(
            _reliable(axis, forecast, hits, images, colour) for axis, (_, colour), (images, forecast, hits) in together
        )
        end = min(1.0, np.ceil(reach * 10.5) / 10)
        for axis in pair:
            axis.plot([0, 1], [0, 1], color=GREY, linewidth=0.6, linestyle="--", zorder=0)
            axis.set(xlim=(-0.02 * end, end), ylim=(-0.02 * end, end))
            _few_ticks(axis)
    caption = (
        "Reliability: bins of about equally many images (n), each at its mean probability and its share of positives"
        " with 95 % Wilson interval, by the plain sigmoid and calibrated on validation. On the dashed line forecasts"
        " are right. A label's scale ends where its values do."
    )
    yield Picture("reliability", figure, caption + said)


def histograms(material: Material) -> Iterator[Picture]:
    """The thesis' Figure 5: probabilities of the positives and of the negatives, each as shares of its own kind."""
    labels, said = labels_of(material, material.labels)
    titles = [f"{_wrapped(label.name)}\n{label.truth.sum()} of {len(label.truth)} positive" for label in labels]
    figure, axes = _panels(titles, 2, COLUMN, "probability", "relative frequency", panel=0.8, legend=True)
    for axis, label in zip(axes, labels, strict=True):
        end = max(0.1, np.ceil(label.chosen.max() * 10) / 10)
        for rows, colour in ((label.truth, BLUE), (~label.truth, ORANGE)):
            values, edges = np.histogram(
                label.chosen[rows], bins=20, range=(0, end), weights=np.full(rows.sum(), 1 / rows.sum())
            )
            axis.stairs(values, edges, fill=True, color=colour, alpha=0.35, linewidth=0)
            axis.stairs(values, edges, color=colour, linewidth=0.9)
        axis.set_xlim(0, end)
        _few_ticks(axis)
    handles = [
        Patch(facecolor=colour, alpha=0.6, label=name) for name, colour in (("positives", BLUE), ("negatives", ORANGE))
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2)
    caption = (
        "Predicted probabilities of positives and negatives, each in shares of its own number, twentieths of the scale."
    )
    yield Picture("histograms", figure, caption + said)


# ---- of one answer an image
def temperature(material: Material) -> Iterator[Picture]:
    """The score over the temperature, on the rows that the temperature is fitted on."""
    val, costs = material.val, metrics.Costs(**material.calibration["costs"])
    fitted = [network["rules"]["temperature"] for network in material.calibration["networks"]]
    chosen, alone = [one["temperature"] for one in fitted], len(fitted) == 1
    curve = {point["temperature"]: point["score"] for point in fitted[0].get("curve", ())} if alone else {}
    heats = sorted({*(curve or GRID), *chosen})
    truth, n = truth_of(val), val.targets.sum(axis=0).astype(int)
    scores, band = [], []
    for heat in heats:
        divided = [RULES["temperature"].answers([one], [{"temperature": heat}], costs) for one in material.vals]
        worth = metrics.earned(truth, np.concatenate(divided), n, costs)
        scores.append(curve.get(heat, worth.sum()))
        band.append(np.array(stats.interval(stats.bootstrap(worth, truth))) - worth.sum() + scores[-1])
    low, high = np.transpose(band)
    always = material.report["validation"]["always"]
    figure = Figure(figsize=(COLUMN / 2.54, 6.5 / 2.54), layout="constrained")
    axis = figure.subplots()
    axis.fill_between(heats, low, high, color=BLUE, alpha=0.2, linewidth=0)
    axis.plot(heats, scores, color=BLUE)
    how = "chosen" if fitted[0].get("tuned") else "given"
    best = [scores[heats.index(heat)] for heat in chosen]
    axis.plot(chosen, best, "o", color=VERMILLION, zorder=3)
    said = f"{how}: T = {chosen[0]:g}, score {best[0]:.3f}".replace("-", "−")
    axis.annotate(
        said if alone else f"{how}, fold by fold: T = {', '.join(f'{heat:g}' for heat in chosen)}",
        (chosen[0], 1),
        (0, 4),
        xycoords=("data", "axes fraction"),
        textcoords="offset points",
        color=VERMILLION,
        ha="left" if chosen[0] < (heats[0] + heats[-1]) / 2 else "right",
    )
    for heat in chosen:
        axis.axvline(heat, color=VERMILLION, linewidth=0.8, linestyle=":")
    text = f"always {always['class']}: {always['score']:.3f}".replace("-", "−")
    reach = max(high.max() - low.min(), 0.01)
    axis.set_ylim(low.min() - 0.2 * reach, high.max() + 0.05 * reach)
    if low.min() - 4 * reach < always["score"] < high.max() + 4 * reach:
        bottom, top = axis.get_ylim()
        axis.set_ylim(min(bottom, always["score"] - 0.1 * reach), max(top, always["score"] + 0.4 * reach))
        axis.axhline(always["score"], color=GREY, linewidth=0.8, linestyle="--")
        where, beside = (1, always["score"]), ("axes fraction", "data")
    else:
        where, beside = (1, 0), "axes fraction"
        text += ", below ↓" if always["score"] < low.min() else ", above ↑"
    axis.annotate(text, where, (0, 3), xycoords=beside, textcoords="offset points", color=GREY, ha="right")
    axis.set(xlabel="temperature T", ylabel="competition score, validation", xlim=(heats[0], heats[-1]))
    caption = (
        f"The score of argmax softmax(z / T) on the {len(truth)} validation images, which it is fitted on"
        f"{'' if alone else ', each fold on its own'}. Band: 95 %"
        " bootstrap interval at each temperature by itself, the number of images of every class kept. Beside it the"
        " score of always giving the commonest answer."
    )
    yield Picture("temperature", figure, caption)


def likelihood(material: Material) -> Iterator[Picture]:
    """The negative log-likelihood over the temperature, whose minimum is the temperature of calibration."""
    truth = truth_of(material.val)
    fitted = [network["rules"]["temperature"]["temperature"] for network in material.calibration["networks"]]
    heats = sorted({*GRID, *fitted})
    losses = np.array(
        [
            metrics.nll(np.concatenate([probabilities(val.logits, heat) for val in material.vals]), truth)
            for heat in heats
        ]
    )
    after = material.report["validation"]["calibration"]["after"]["nll"]
    figure = Figure(figsize=(COLUMN / 2.54, 6.5 / 2.54), layout="constrained")
    axis = figure.subplots()
    axis.plot(heats, losses, color=BLUE)
    least = int(losses.argmin())
    beyond = {0: " or below", len(heats) - 1: " or above"}.get(least, "")
    axis.plot(heats[least], losses[least], "o", color=GREEN, zorder=3)
    for heat in fitted:
        axis.axvline(heat, color=VERMILLION, linewidth=0.8, linestyle=":")
    axis.axhline(after, color=GREY, linewidth=0.8, linestyle="--")
    reach = max(losses.max(), after) - min(losses.min(), after)
    axis.set_ylim(min(losses.min(), after) - 0.15 * reach, max(losses.max(), after) + 0.1 * reach)
    axis.annotate(
        f"calibrated posterior: {after:.3f}", (1, after), (0, -3), xycoords=("axes fraction", "data"),
        textcoords="offset points", color=GREY, ha="right", va="top",
    )  # fmt: skip
    axis.set(xlabel="temperature T", ylabel="negative log-likelihood, nats", xlim=(heats[0], heats[-1]))
    caption = (
        f"The negative log-likelihood of softmax(z / T), averaged over the views, on the {len(truth)} validation"
        f" images: least at T = {heats[least]:g}{beyond} (dot). Dotted: the temperature that the score chose."
        " Dashed: the calibrated posterior, cross-fitted."
    )
    yield Picture("likelihood", figure, caption)


def rules(material: Material) -> Iterator[Picture]:
    """Every rule's score with its interval beside the constant answer."""
    report = material.report["validation"]
    names, always = list(report["rules"]), report["always"]
    figure = Figure(figsize=(COLUMN / 2.54, (0.55 * len(names) + 2.2) / 2.54), layout="constrained")
    axis = figure.subplots()
    for place, name in enumerate(names):
        found, colour = report["rules"][name], VERMILLION if name == material.rule else BLUE
        axis.plot(found["interval"], [place, place], color=colour)
        axis.plot(found["score"], place, "o", color=colour)
        axis.plot(found["fitted"], place, "o", color=colour, fillstyle="none")
    axis.axvline(always["score"], color=GREY, linewidth=0.8, linestyle="--")
    axis.set_yticks(range(len(names)), names)
    axis.tick_params(axis="y", length=0)
    axis.set(xlabel="competition score, validation", ylabel="rule", ylim=(len(names) - 0.5, -0.5))
    axis.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}".replace("-", "−"))
    caption = (
        "Every rule's score on the validation images, cross-fitted, with its 95 % interval; the run's own in red."
        " Hollow: fitted on the same images, which flatters. Dashed: always answering"
        f" {always['class']}, {page.shown(always['score'], '.3f')}."
    )
    yield Picture("rules", figure, caption)


def counts(material: Material) -> Iterator[Picture]:
    """How many validation images have a class, and how often it was answered."""
    val = material.val
    true = val.targets.sum(axis=0).astype(int)
    said = np.bincount(material.answers, minlength=len(true))
    order = np.flatnonzero((true > 0) | (said > 0))
    order = order[np.argsort(-true[order], kind="stable")]
    place = np.arange(len(order))
    figure = Figure(figsize=(COLUMN / 2.54, (0.42 * len(order) + 2.6) / 2.54), layout="constrained")
    axis = figure.subplots()
    axis.hlines(place, true[order], said[order], color=GREY, linewidth=0.8)
    axis.plot(true[order], place, "o", color=GREY, label="true", zorder=3)
    axis.plot(said[order], place, "D", color=VERMILLION, label="answered", zorder=3)
    axis.set_xscale("symlog", linthresh=1)
    axis.set_xlim(-0.15, max(true.max(), said.max()) * 1.3)
    ticks = [tick for tick in (0, 1, 10, 100, 1000, 10_000, 100_000) if tick <= max(true.max(), said.max())]
    axis.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axis.xaxis.set_minor_locator(NullLocator())
    axis.set_yticks(place, [str(val.classes[c]) for c in order])
    axis.tick_params(axis="y", length=0)
    axis.set(xlabel="validation images", ylabel="class", ylim=(len(order) - 0.4, -0.6))
    axis.spines["left"].set_visible(False)
    figure.legend(loc="outside lower center", ncols=2)
    caption = (
        f"Images of every class on the validation part, and how often rule {material.rule} answered it, cross-fitted;"
        " the scale is logarithmic from 1 on. A rule that gains by rare hits answers rare classes more often than they"
        " are."
    )
    yield Picture("counts", figure, caption)


def confidence(material: Material) -> Iterator[Picture]:
    """How often the most probable class is right, before and after calibration."""
    report = material.report["validation"]["calibration"]
    figure = Figure(figsize=(COLUMN / 2.54, 7.5 / 2.54), layout="constrained")
    axes = figure.subplots(2, 2, sharex=True, sharey="row", height_ratios=(3, 1))
    for (name, colour, key), axis, below in zip(
        (("plain softmax", ORANGE, "before"), ("calibrated posterior", BLUE, "after")), *axes, strict=True
    ):
        bins = report[key]["reliability"]
        forecast, share, images = (
            np.array([one[what] for one in bins]) for what in ("confidence", "accuracy", "images")
        )
        axis.plot([0, 1], [0, 1], color=GREY, linewidth=0.6, linestyle="--", zorder=0)
        _reliable(axis, forecast, np.round(share * images), images, colour)
        axis.set_title(f"{name}\nNLL {report[key]['nll']:.3f}, Brier {report[key]['brier']:.3f}", loc="left")
        _unit_square(axis)
        start, end = (np.array([one[what] for one in bins]) for what in ("from", "to"))
        below.bar(start, images, end - start, align="edge", color=colour, edgecolor="white", linewidth=0.5)
        below.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    axes[0, 0].set_ylabel("share that is right")
    axes[1, 0].set_ylabel("images")
    figure.supxlabel("probability of the most probable class")
    caption = (
        f"Reliability of the most probable class on the {len(material.val.ids)} validation images, in bins of equal"
        " width, with 95 % Wilson intervals, and the images of every bin. Left: the plain softmax. Right: the"
        " posterior that rule bayes decides by, calibrated, cross-fitted, under the natural class frequencies."
    )
    yield Picture("confidence", figure, caption)


def confusion(material: Material) -> Iterator[Picture]:
    """Which class was answered for which, by the run's rule, cross-fitted."""
    classes, counts = material.val.classes.tolist(), material.confusion
    images = counts.sum(axis=1)
    share = counts / np.maximum(images, 1)[:, None]
    width = PAGE if len(classes) > 8 else COLUMN
    cell = (width - 5.2) / len(classes) if width == PAGE else min(1.0, (width - 4.5) / len(classes))
    figure = Figure(figsize=(width / 2.54, (cell * len(classes) + 6.2) / 2.54), layout="constrained")
    axis = figure.subplots()
    drawn = axis.imshow(share, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for true, said in zip(*np.nonzero(counts), strict=True):
        number = counts[true, said]
        text = str(number) if number < 1000 else f"{number / 1000:.1f}k"  # as wide as the cell
        axis.text(said, true, text, ha="center", va="center", color="white" if share[true, said] > 0.55 else "black")
    axis.set_xticks(range(len(classes)), classes, rotation=90)
    axis.set_yticks(range(len(classes)), [f"{name} ({number})" for name, number in zip(classes, images, strict=True)])
    axis.set_xticks(np.arange(0.5, len(classes) - 1), minor=True)
    axis.set_yticks(np.arange(0.5, len(classes) - 1), minor=True)
    axis.grid(which="minor", color=PALE, linewidth=0.4)
    axis.tick_params(length=0, which="both")
    axis.spines[:].set_visible(False)
    axis.set(xlabel="answered class", ylabel="true class (images)")
    figure.colorbar(
        drawn, ax=axis, location="top", shrink=0.6, aspect=40, pad=0.01, label="share of the true class's images"
    )
    caption = (
        f"Answers to the {len(material.answers)} validation images by rule {material.rule}, cross-fitted: each fifth of"
        " them by a fit on the other four. A row is a true class; the colour is the share of its images, the number how"
        " many; 0 is left blank."
    )
    yield Picture("confusion", figure, caption)


def class_costs(material: Material) -> Iterator[Picture]:
    """What each class adds to the score by its hits, and loses by false alarms and misses."""
    rows = [row for row in material.report["per_class"] if row["images"]]
    absent = [row["class"] for row in material.report["per_class"] if not row["images"]]
    rows.sort(key=lambda row: -row["false_alarms_cost"] - row["misses_cost"])
    place = np.arange(len(rows))
    hits, alarms, misses = (
        np.array([row[name] for row in rows]) for name in ("hits_add", "false_alarms_cost", "misses_cost")
    )
    figure = Figure(figsize=(COLUMN / 2.54, (0.42 * len(rows) + 2.6) / 2.54), layout="constrained")
    axis = figure.subplots()
    axis.barh(place, hits, color=GREEN, label="hits")
    axis.barh(place, -misses, color=VERMILLION, label="misses")
    axis.barh(place, -alarms, left=-misses, color=ORANGE, label="false alarms")
    axis.axvline(0, color="black", linewidth=0.6)
    axis.set_yticks(place, [f"{row['class']} ({row['images']})" for row in rows])
    axis.tick_params(axis="y", length=0)
    axis.set(xlabel="added to the score", ylabel="class (images)", ylim=(len(rows) - 0.4, -0.6))
    axis.use_sticky_edges = False
    axis.margins(x=0.03)
    axis.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}".replace("-", "−"))
    axis.spines["left"].set_visible(False)
    total = (hits - alarms - misses).sum()
    figure.legend(loc="outside lower center", ncols=3, columnspacing=1, handletextpad=0.4, handlelength=1.2)
    caption = (
        "What the hits of every class add to the score, and what its misses and its false alarms take from it, the"
        f" most costly class first: all bars together are the score, {page.shown(total, '.4f')} (validation,"
        f" rule {material.rule}, cross-fitted)."
    )
    yield Picture(
        "class_costs", figure, caption + (f" Not drawn, without an image here: {', '.join(absent)}." if absent else "")
    )


PLOTS: dict[str, Callable[[Material], Iterator[Picture]]] = {
    "training": training,
    "roc": roc,
    "roc_all": roc_all,
    "precision_recall": precision_recall,
    "reliability": reliability,
    "histograms": histograms,
    "rules": rules,
    "temperature": temperature,
    "likelihood": likelihood,
    "confidence": confidence,
    "confusion": confusion,
    "counts": counts,
    "class_costs": class_costs,
}
OF_LABELS = {"roc", "precision_recall", "reliability", "histograms"}  # show the labels that were asked for
