"""What a page shows of a run that gives every image one answer: the verdict, its rules, every class, the confusion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from answers import metrics, single_label
from answers.metrics import Costs, tally
from answers.posterior import probabilities
from answers.rules import truth_of
from core import page
from core.examples import Example, falling, in_turn
from core.logits_file import Logits, pooled
from core.page import Cell, Section, Table, Text, Tiles, ends, estimate, shown
from core.task import Beside, Evidence, Rows, Standing, Verdict

if TYPE_CHECKING:  # it loads matplotlib
    from answers.plots import Material

GONE = 3  # of the classes that a class's misses were answered with: so many are named


# ---- the verdict
def verdict(report: dict, beside: Beside) -> Verdict:
    """Whether the run's rule clears always giving the commonest answer, and what to do with its submission."""
    part, rule = report["validation"], report["rule"]
    own, always = part["rules"][rule], part["always"]
    sentence = (
        f"{_decision(own, beside)}: rule {rule} scores {shown(own['score'], '.3f')} on {part['images']:,} validation"
        f" images, cross-fitted ({span(own['interval'])}), {_apart(own['over_always'])} always answering"
        f" {always['class']} ({shown(always['score'], '.3f')}; of the difference {span(own['over_always_interval'])})"
    )
    rows = [
        _row(f"this run, rule {rule}", own["score"], own["interval"]),
        _row(f"always {always['class']}", always["score"], None, own["over_always"], own["over_always_interval"]),
    ]
    if beside.gain:
        theirs, difference = beside.gain["theirs"], beside.gain["difference"]
        sentence += f", and {_apart(difference['score'])} its probe ({shown(theirs['score'], '.3f')})"
        probe = _row("its probe, regression on frozen features", theirs["score"], theirs["interval"])
        rows.append(probe | _minus(difference["score"], difference["interval"]))
    published = [] if beside.synthetic else beside.published
    rows += [_row(who, score) for who, score in published]
    return Verdict(sentence + ".", rows, _commands(report, beside))


def standing(report: dict) -> Standing:
    """The run's rule on the validation images, cross-fitted; the macro AUC of the plain posterior; the negative
    log-likelihood of the calibrated one, cross-fitted."""
    part = report["validation"]
    own, auc = part["rules"][report["rule"]], part.get("auc") or {}
    nll = part["calibration"]["after"]["nll"]
    return Standing(own["score"], own["interval"], auc.get("macro"), auc.get("interval"), nll)


def _decision(own: dict, beside: Beside) -> str:
    if beside.synthetic:
        return "Nothing to submit, the data are synthetic"
    if not beside.finished:
        return "Not finished"
    if not beside.leaderboard:
        return "No leaderboard takes it"
    if own["over_always"] <= 0:
        return "Do not submit it"
    return "Submit it" if own["over_always_interval"][0] > 0 else "Submit it only to learn, it may be luck"


def _commands(report: dict, beside: Beside) -> list[str]:
    rules, rule = report["validation"]["rules"], report["rule"]
    clears = [name for name, found in rules.items() if found["over_always_interval"][0] > 0]
    lines = []
    if beside.leaderboard and not beside.synthetic:
        forced = " --force   # not advised, and refused without --force" if rules[rule]["over_always"] <= 0 else ""
        lines.append(f'./run.sh submit submissions/{beside.name}.csv -m "{beside.name}"{forced}')
    better = report["validation"]["bayes_minus"].get(rule)
    if clears and rule not in clears:
        best = max(clears, key=lambda name: rules[name]["score"])
        lines.append(f"the command that made the run, with rule={best}   # which clears the constant answer")
    elif better and better["interval"][0] > 0:
        more = f"{shown(better['difference'], '+.3f')} [{ends(better['interval'], '+.3f')}]"
        lines.append(f"the command that made the run, with rule=bayes   # better on these images by {more}")
    return [*lines, *beside.bar]


def _apart(difference: float) -> str:
    """A difference as `0.027 above`, `0.027 below` or `level with`."""
    if abs(difference) < 0.0005:
        return "level with"
    return f"{abs(difference):.3f} {'above' if difference > 0 else 'below'}"


def span(interval: Sequence[float]) -> str:
    return f"95 % interval {shown(interval[0], '.3f')} to {shown(interval[1], '.3f')}"


def _row(name: str, score: float, interval=None, minus: float | None = None, its=None) -> dict:
    return {"what": name, "score": score, "95 % interval": ends(interval), **_minus(minus, its)}


def _minus(minus: float | None, its) -> dict:
    return {"this run minus it": minus, "95 % interval of the difference": ends(its, "+.3f")}


# ---- the sections
def sections(material: Material, pictures: Mapping[str, Sequence[page.Picture]]) -> list[Section]:
    """Rules, temperature, calibration, classes, confusion, counts, and the folds of a cross-validation."""
    report = material.report
    heat = Tiles([*pictures["temperature"], *pictures["likelihood"]], 380)
    found = [
        Section("Rules side by side", [_rules(report), *_notes(report), *pictures["rules"]]),
        Section("Temperature", [heat]),
        Section("Calibration", [Tiles([*pictures["confidence"], _calibration(report)], 380)]),
        Section("Every class", [_classes(material), *pictures["class_costs"]]),
        Section("Confusion", [_confusion(material)]),
        Section("Counts, answered and true", [Tiles([_counts(material), *pictures["counts"]], 540)]),
    ]
    return [*([_folds(material)] if len(material.vals) > 1 else []), *found]


def _rules(report: dict) -> Table:
    rows, part = [], report["validation"]
    for name, own in part["rules"].items():
        row = {
            "rule": name + " (the run's)" * (name == report["rule"]),
            "score": estimate(own["score"], own["interval"]),
            "minus always": estimate(own["over_always"], own["over_always_interval"], "+.3f"),
            "fitted": own["fitted"], "macro-F1": own["macro_f1"], "accuracy": own["accuracy"],
            "balanced accuracy": own["balanced_accuracy"],
        }  # fmt: skip
        if "test" in report:
            tested = report["test"]["rules"][name]
            row["test part"] = estimate(tested["score"], tested["interval"])
        rows.append(row)
    always = part["always"]
    last = {
        "rule": f"always {always['class']}", "score": always["score"], "macro-F1": always["macro_f1"],
        "accuracy": always["accuracy"], "balanced accuracy": always["balanced_accuracy"],
    }  # fmt: skip
    rows.append(last | ({"test part": report["test"]["always"]["score"]} if "test" in report else {}))
    caption = (
        f"Every rule on the {part['images']:,} validation images, cross-fitted: each fifth of them by a fit on the"
        " other four; in brackets 95 % intervals. Fitted: on the same images, which flatters."
    )
    return page.table(rows, caption, ".3f")


def _notes(report: dict) -> list[Text]:
    part, notes = report["validation"], []
    if part.get("auc"):
        auc = part["auc"]
        notes.append(f"Macro AUC of the classes, which no rule changes: {auc['macro']:.3f} [{ends(auc['interval'])}].")
    if part.get("optimistic", True):
        notes.append("These images also chose the epoch, so every figure here is optimistic.")
    if part["few_images"]:
        notes.append(
            f"Classes with 1 to 4 images here, whose luck no interval can show: {', '.join(part['few_images'])}."
        )
    if part["skipped_classes"]:
        notes.append(f"Left out of the mean, without an image here: {', '.join(part['skipped_classes'])}.")
    return [Text(notes, "note")] if notes else []


def _calibration(report: dict) -> Table:
    names = {"before": "plain softmax", "after": "calibrated posterior, cross-fitted"}
    found = report["validation"]["calibration"]
    rows = [
        {"probabilities": name, "NLL, nats": found[when]["nll"], "Brier": found[when]["brier"]}
        for when, name in names.items()
    ]
    return page.table(rows, "How far the probabilities are from what happened; less is better.", ".4f")


def _classes(material: Material) -> Table:
    counts, rows, training = material.confusion, [], material.val.counts
    names = material.val.classes.tolist()
    for c, row in enumerate(material.report["per_class"]):
        missed = [(number, names[k]) for k, number in enumerate(counts[c]) if k != c and number]
        missed.sort(key=lambda pair: -pair[0])
        gone = ", ".join(f"{name} {number}" for number, name in missed[:GONE])
        rows.append(
            {
                "class": row["class"], "images": row["images"], "training images": int(training[c]), "hits": row["tp"],
                "false alarms": row["fp"], "misses": row["fn"], "score": row["score"], "F1": row["f1"],
                "adds to the score": None if row["hits_add"] is None
                else row["hits_add"] - row["false_alarms_cost"] - row["misses_cost"],
                "its misses were answered": gone,
            }
        )  # fmt: skip
    caption = (
        f"Every class on the validation images by rule {material.rule}, cross-fitted. The score of a class is (hits −"
        " false alarms − 5 misses) / images at the competition's costs; the run's score is their mean, which is the sum"
        " of what all classes add."
    )
    return page.table(rows, caption, ".3f")


def _confusion(material: Material) -> Table:
    counts, names, rows = material.confusion, material.val.classes.tolist(), []
    for c, name in enumerate(names):
        images = int(counts[c].sum())
        row = {"true class": f"{name} ({images})"}
        for k, answer in enumerate(names):
            number = int(counts[c, k])
            title = f"{number} of {images} images of {name} were answered {answer}"
            percent = f"{100 * number / images:.0f}" if number else ""
            row[answer] = Cell(number, percent or " ", title, number / images if number else None)
        rows.append(row)
    caption = (
        "Answers by true class: percent of the row's images, their number on hovering. Validation images, rule"
        f" {material.rule}, cross-fitted."
    )
    return page.table(rows, caption, matrix=True)


def _counts(material: Material) -> Table:
    val = material.val
    truth, names = np.bincount(truth_of(val), minlength=len(val.classes)), val.classes.tolist()
    said = np.bincount(material.answers, minlength=len(names))
    found = {"class": names, "true": truth.tolist(), "answered": said.tolist()}
    if material.predicted:
        tests = material.predicted
        answers = single_label.classes_of(tests, material.calibration, material.rule)
        natural = sum(test.counts for test in tests) / sum(test.rows for test in tests)
        found["expected in the test set"] = np.round(natural * len(answers), 1).tolist()
        found["answered there"] = np.bincount(answers, minlength=len(names)).tolist()
    rows = [dict(zip(found, row, strict=True)) for row in zip(*found.values(), strict=True)]
    caption = (
        "How often every class is, and how often it was answered, on the validation images; and on the test set, where"
        " expected is by the frequencies of the training images."
    )
    return page.table(rows, caption, ".1f")


def _folds(material: Material) -> Section:
    """A column a fold."""
    costs, start, columns = Costs(**material.calibration["costs"]), 0, {}
    for number, (val, network) in enumerate(zip(material.vals, material.calibration["networks"], strict=True), start=1):
        answers, truth = material.answers[start : start + len(val.ids)], truth_of(val)
        start += len(val.ids)
        own = metrics.summary(tally(truth, answers, len(val.classes)), costs)
        always = metrics.constant(np.bincount(truth, minlength=len(val.classes)), int(val.counts.argmax()))
        p = single_label.corrected(val)
        columns[f"fold {number}"] = {
            "validation images": str(len(val.ids)),
            f"score, rule {material.rule}": shown(own["score"], ".3f"),
            "always the commonest": shown(metrics.summary(always, costs)["score"], ".3f"),
            "macro-F1": shown(own["macro_f1"], ".3f"),
            "accuracy": shown(own["accuracy"], ".3f"),
            "macro AUC": shown(single_label.auc(val, costs), ".3f"),
            "NLL, training prior undone": shown(metrics.nll(p, truth), ".3f"),
            "temperature": f"{network['rules']['temperature']['temperature']:g}",
            "classes without an image": str(int((np.bincount(truth, minlength=len(val.classes)) == 0).sum())),
        }
    caption = "Every fold by itself: a fold's score is mostly the luck of its rarest classes."
    return Section("Folds", [page.turned(columns, "figure", caption)])


# ---- images worth a look
def striking(
    found: Evidence, rows: Rows, answers: np.ndarray | None, number: int
) -> tuple[Logits, dict[str, list[Example]]]:
    """The mistakes whose answer was the most probable, at most two of one class for another, and the most probable hits
    of the rarest classes, each explained for the answer; p is the plain softmax of the answer, averaged over views."""
    val = pooled(found.vals, exclusive=True)
    truth, p = truth_of(val), probabilities(val.logits)
    if answers is None:
        answers = single_label.held_out(found.vals, found.calibration, [found.rule])[0][found.rule]
    sure, names = p[np.arange(len(p)), answers], val.classes.tolist()

    pairs: dict[tuple[int, int], int] = {}
    mistakes = []
    for row in falling(np.flatnonzero(answers != truth), sure):
        pair = int(truth[row]), int(answers[row])
        pairs[pair] = pairs.get(pair, 0) + 1
        if pairs[pair] <= 2 and len(mistakes) < number:
            why = f"is {names[pair[0]]}, p = {p[row, pair[0]]:.2f}"
            mistakes.append(Example(int(row), pair[1], float(sure[row]), why))
    rarest = [c for c in np.argsort(val.counts, kind="stable").tolist()[:-1] if val.counts[c] > 0]
    hits = [
        [
            Example(row, c, float(sure[row]), f"hit; {val.counts[c]} training images")
            for row in falling(np.flatnonzero((answers == c) & (truth == c)), sure)[:2]
        ]
        for c in rarest
    ]
    return val, {
        "Most confident mistakes: the answer, then what the image is": mistakes,
        "Hits of the rarest classes": in_turn([queue for queue in hits if queue][:number], number),
    }
