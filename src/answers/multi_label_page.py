"""What a page shows of a run with any number of labels an image: the verdict, every label, operating points,
subgroups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from answers import multi_label, stats
from answers.multi_label_report import HEADINGS, judged
from core import page
from core.examples import Example, falling, in_turn
from core.logits_file import Logits
from core.page import Cell, Folded, Section, Table, Text, Tiles, ends, estimate, shown
from core.task import Beside, Evidence, Rows, Standing, Verdict

if TYPE_CHECKING:  # it loads matplotlib
    from answers.plots import Material

ROUND = 20  # resamples at a time, of all labels' rows together


# ---- the verdict
def verdict(report: dict, beside: Beside) -> Verdict:
    """How well the labels are ranked, beside chance, the probe and published figures."""
    name, part = _part(report)
    area, interval = part["macro"]["auc"], part["interval"]["auc"]
    low = interval[0] if interval else 0.0
    ranked = "ranks better than chance" if low > 0.5 else "may rank no better than chance"
    state = "" if beside.finished else "Not finished: "
    sentence = (
        f"{state}{'On synthetic data this' if beside.synthetic else 'This'} network {ranked}: macro AUC"
        f" {shown(area, '.3f')} [{ends(interval)}] over {len(report['per_class']) - len(part['skipped'])} labels on"
        f" {part['images']:,} {name} images of {part['patients']:,} patients"
    )
    rows = [
        {"what": f"this run, rule {report['rule']}", "macro AUC": area, "95 % interval": ends(interval)},
        {"what": "chance", "macro AUC": 0.5, "this run minus it": area and area - 0.5},
    ]
    if beside.gain:
        theirs, difference = beside.gain["theirs"], beside.gain["difference"]
        more = difference["auc"]
        sentence += f", {abs(more):.3f} {'above' if more > 0 else 'below'} its probe ({shown(theirs['auc'], '.3f')})"
        rows.append(
            {
                "what": "its probe, regression on frozen features", "macro AUC": theirs["auc"],
                "95 % interval": ends(theirs["interval"]), "this run minus it": more,
                "95 % interval of the difference": ends(difference["interval"], "+.3f"),
            }
        )  # fmt: skip
    rows += [{"what": who, "macro AUC": its} for who, its in beside.published if not beside.synthetic]
    return Verdict(sentence + ".", rows, beside.bar)


def standing(report: dict) -> Standing:
    """The macro AUC of the test part, or of validation where there is none."""
    _, part = _part(report)
    return Standing(None, None, part["macro"]["auc"], part["interval"]["auc"], None)


def _part(report: dict) -> tuple[str, dict]:
    name = "test" if "test" in report else "validation"
    return name, report[name]


# ---- the sections
def sections(material: Material, pictures: Mapping[str, Sequence[page.Picture]]) -> list[Section]:
    """Labels, curves, operating points, calibration, subgroups, and the folds of a cross-validation."""
    report = material.report
    every = Folded("ROC curves of all labels", pictures["roc_all"])
    groups = _part(report)[1]["subgroups"]
    found = [
        Section("Macro and micro", [_means(material), *_notes(report)]),
        Section("Every label", [_labels(report)]),
        Section("ROC and precision", [Tiles([*pictures["roc"], *pictures["precision_recall"]], 380), every]),
        Section("Operating points", [_points(report)]),
        Section(
            "Calibration and probabilities",
            [_calibration(report), Tiles([*pictures["reliability"], *pictures["histograms"]], 380)],
        ),
        *([Section("Subgroups", [_groups(groups)])] if groups else []),
    ]
    return [*([_folds(material)] if len(material.vals) > 1 else []), *found]


def _with_ends(row: Mapping, figure: str, form: str = ".3f") -> Cell:
    return estimate(row[figure], (row.get(f"{figure}_low"), row.get(f"{figure}_high")), form)


def _labels(report: dict) -> Table:
    rows = [
        {
            "label": row["class"], "positives": row["positives"], "images": row["images"],
            "AUC": _with_ends(row, "auc"), "PR-AUC": _with_ends(row, "average_precision"),
            "prevalence": row["prevalence"],
            "Brier": row["brier"], "Brier skill": Cell(row["brier_skill"], shown(row["brier_skill"], "+.3f")),
        }
        for row in report["per_class"]
    ]  # fmt: skip
    caption = (
        f"Every label on the {_part(report)[0]} part, in brackets 95 % intervals by resampling patients. PR-AUC is"
        " average precision, and chance has the prevalence. A Brier skill of 0 is that of always forecasting the"
        " training prevalence."
    )
    return page.table(rows, caption, ".3f")


def _points(report: dict) -> Table:
    rows = [
        {
            "label": row["class"],
            "threshold for sensitivity 95 %": row["threshold_sens95"],
            "sensitivity there": _with_ends(row, "sens_at_sens95"),
            "specificity there": _with_ends(row, "spec_at_sens95"),
            "threshold for specificity 95 %": row["threshold_spec95"],
            "specificity": _with_ends(row, "spec_at_spec95"),
            "sensitivity": _with_ends(row, "sens_at_spec95"),
        }
        for row in report["per_class"]
    ]
    name = _part(report)[0]
    set_where = (
        "Thresholds were set on validation and applied unchanged to the test part"
        if name == "test"
        else "Thresholds were set on these same images, so what they hold is no surprise"
    )
    return page.table(rows, f"{set_where}; in brackets 95 % intervals, in which the thresholds vary too.", ".3f")


def _means(material: Material) -> Table:
    """Macro and micro averages of AUC and PR-AUC, and the other macro figures."""
    _, part = _part(material.report)
    macro, interval = part["macro"], part["interval"]
    micro = _micro(material)
    rows = [
        {"figure": heading, "macro": estimate(macro[name], interval[name]), **micro.get(name, {})}
        for name, heading in HEADINGS.items()
    ]
    caption = (
        "Macro: the mean of all labels, each alike. Micro: all pairs of image and label ranked in one list, where"
        " common labels count more. In brackets 95 % intervals by resampling patients (micro:"
        f" {len(material.drawn)} resamples)."
    )
    return page.table(rows, caption)


def _micro(material: Material) -> dict[str, dict[str, Cell]]:
    """AUC and average precision of all known pairs of image and label in one list."""
    name, content = material.part
    of_part, contents = (
        (multi_label.probabilities, material.tests) if name == "test" else (multi_label.out_of_fold, material.vals)
    )
    p = of_part(contents, material.calibration, material.rule).ravel()
    targets = content.targets.ravel()
    truth, known = targets == 1, ~np.isnan(targets)
    size, every = content.targets.shape[1], [np.ones((1, len(content.ids))), material.drawn]
    weights = np.concatenate(every)
    parts = [
        stats.ranking(truth, p, known, np.repeat(weights[start : start + ROUND], size, axis=1))
        for start in range(0, len(weights), ROUND)
    ]
    areas, precisions = (np.concatenate(each) for each in zip(*parts, strict=True))
    return {
        figure: {"micro": estimate(float(values[0]), stats.interval(values[1:]))}
        for figure, values in (("auc", areas), ("average_precision", precisions))
        if not np.isnan(values).any()
    }


def _notes(report: dict) -> list[Text]:
    name, part = _part(report)
    notes = []
    if name == "validation":
        notes.append("Thresholds, calibration and epoch were chosen on these same images: every figure is optimistic.")
    if part["skipped"]:
        notes.append(f"Left out, without a positive or without a negative here: {', '.join(part['skipped'])}.")
    return [Text(notes, "note")] if notes else []


def _calibration(report: dict) -> Table:
    found = _part(report)[1]["calibration"]
    rows = [
        {
            "rule": rule,
            "macro Brier": own["brier"],
            "macro Brier skill": Cell(own["brier_skill"], shown(own["brier_skill"], "+.3f")),
        }
        for rule, own in found.items()
    ]
    caption = "How far the probabilities are from what happened: a smaller Brier score, a larger skill are better."
    return page.table(rows, caption, ".4f")


def _groups(groups: Sequence[dict]) -> Table:
    rows = [
        {
            "subgroup": f"{one['by']} {one['group']}", "images": one["images"], "patients": one["patients"],
            "labels": one["labels"], "macro AUC": estimate(one["auc"], one["interval"]),
        }
        for one in groups
    ]  # fmt: skip
    return page.table(rows, "Macro AUC of subgroups, over the labels that have positives and negatives there.")


def _folds(material: Material) -> Section:
    """A column a fold: macro figures of its own validation rows, by the plain ranking."""
    columns = {}
    for number, val in enumerate(material.vals, start=1):
        own = multi_label.monitor(val.targets, multi_label.corrected(val))
        columns[f"fold {number}"] = {
            "validation images": f"{len(val.ids):,}",
            "macro AUC": shown(own["auc"], ".3f"),
            "macro PR-AUC": shown(own["average_precision"], ".3f"),
            "labels counted": str(int(multi_label.countable(val.targets).sum())),
        }
    return Section("Folds", [page.turned(columns, "figure", "Every fold's validation images by its own network.")])


# ---- images worth a look
def striking(
    found: Evidence, rows: Rows, answers: np.ndarray | None, number: int
) -> tuple[Logits, dict[str, list[Example]]]:
    """The negatives that were given the highest probability of a label, each label in turn, and the positives of the
    rarest labels that were given theirs; of the test part, where its labels are known."""
    content, p = judged(found)
    positives = (content.targets == 1).sum(axis=0)
    labels = [c for c in np.argsort(positives, kind="stable").tolist() if positives[c]]

    def queue(c: int, value: int, why: str) -> list[Example]:
        there = np.flatnonzero(content.targets[:, c] == value)
        return [Example(row, c, float(p[row, c]), why) for row in falling(there, p[:, c])[:2]]

    wrong = [queue(c, 0, "it is not there") for c in labels]
    wrong = sorted((each for each in wrong if each), key=lambda each: -each[0].p)
    hits = [queue(c, 1, f"it is there; {positives[c]} positives") for c in labels]
    return content, {
        "Most confident false alarms": in_turn(wrong[:number], number),
        "Positives of the rarest labels, the most probable ones": in_turn(hits[:number], number),
    }
