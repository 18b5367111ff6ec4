"""The reports of decisions, one answer an image, and how they are printed."""

from collections.abc import Sequence
from itertools import zip_longest

import numpy as np

from answers import metrics, single_label, stats
from answers.metrics import Costs, tally_one_hot
from answers.posterior import probabilities
from answers.rules import truth_of
from core.errors import UserError
from core.examples import Example, falling, in_turn
from core.logits_file import Logits, ids_of, pooled, same_rows
from core.task import Evidence, Rows

HEADINGS = {  # the figures that runs are compared by, and how they are headed
    "score": "score", "accuracy": "accuracy", "balanced_accuracy": "balanced accuracy", "macro_f1": "macro-F1",
    "auc": "macro AUC",
}  # fmt: skip
OPTIMISTIC = "These images also chose the epoch, so every figure here is optimistic; "
NOISY = "one rare hit moves the score by tenths."


def report(found: Evidence, rows: Rows) -> dict:
    """Every rule's figures on the validation rows, the chosen rule class by class, and the same for test rows whose
    labels are known."""
    vals, tests, calibration, *_ = found
    validation = single_label.report(vals, calibration, patients_of(ids_of(vals), rows))
    report = {"validation": validation | {"optimistic": found.chose}, "per_class": score(found, rows)["per_class"]}
    if tests is not None:
        report["test"] = single_label.report_test(tests, calibration, patients_of(tests[0].ids, rows))
    return report


def patients_of(ids: np.ndarray, rows: Rows) -> np.ndarray | None:
    """The patients of some images, str [N]; None where folds.csv does not name them all."""
    names = [rows.get(one, {}).get("patient") for one in ids.tolist()]
    return np.array(names) if all(names) else None


def score(found: Evidence, rows: Rows) -> dict:
    """The validation rows decided by one rule, cross-fitted: no image is decided by a fit that saw it."""
    vals, _, calibration, rule, _ = found
    answers = single_label.held_out(vals, calibration, [rule], patients_of(ids_of(vals), rows))[0][rule]
    targets, costs = np.concatenate([val.targets for val in vals]), Costs(**calibration["costs"])
    return figures(vals[0].classes.tolist(), tally_one_hot(targets, answers), costs) | {"rule": rule}


def figures(classes: list[str], counts: metrics.Tally, costs: Costs) -> dict:
    """The score, the figures beside it, and a row for every class: its counts, its score (null where the truth has no
    image of it), and what its hits, false alarms and misses add to the score of all."""
    scores, f1, present = metrics.class_scores(counts, costs), metrics.f1(counts), counts.present.sum()
    amounts = {
        "hits_add": costs.tp * counts.tp,
        "false_alarms_cost": costs.fp * counts.fp,
        "misses_cost": costs.fn * counts.fn,
    }
    shares = {name: counts.rate(amount) / present for name, amount in amounts.items()}
    rows = []
    for c, name in enumerate(classes):
        floats = {"score": scores[c], "f1": f1[c], **{what: share[c] for what, share in shares.items()}}
        rows.append(
            {
                "class": name,
                "images": int(counts.n[c]),
                "tp": int(counts.tp[c]),
                "fp": int(counts.fp[c]),
                "fn": int(counts.fn[c]),
                **{what: float(value) if counts.present[c] else None for what, value in floats.items()},
            }
        )
    commonest = int(np.argmax(counts.n))
    always = {"class": classes[commonest], **metrics.summary(metrics.constant(counts.n, commonest), costs)}
    return {**metrics.summary(counts, costs), "always": always, "per_class": rows}


def class_table(rows: list[dict]) -> list[str]:
    """Every class's counts, its score, and what its hits, false alarms and misses add to the score of all, as lines."""
    head = f"{'class':28}{'images':>7}{'tp':>7}{'fp':>7}{'fn':>7}{'score':>10}{'f1':>8}"
    lines = [f"{head}{'hits':>9}{'alarms':>9}{'misses':>9}"]
    for row in rows:
        line = f"{row['class']:28}{row['images']:7d}{row['tp']:7d}{row['fp']:7d}{row['fn']:7d}"
        if row["images"]:
            alarms, misses = 0 - row["false_alarms_cost"], 0 - row["misses_cost"]
            line += f"{row['score']:10.3f}{row['f1']:8.3f}{row['hits_add']:+9.4f}{alarms:+9.4f}{misses:+9.4f}"
        else:
            line += f"{'absent':>10}"
        lines.append(line)
    absent = [row["class"] for row in rows if not row["images"]]
    return lines + [f"left out of the mean, without an image: {', '.join(absent)}"] * bool(absent)


def score_lines(report: dict) -> list[str]:
    """The per-class table and the summary as lines; the last is `score -4.724889`."""
    lines = [
        *class_table(report["per_class"]),
        f"accuracy {report['accuracy']:.4f}  balanced accuracy {report['balanced_accuracy']:.4f}"
        f"  macro-F1 {report['macro_f1']:.4f}",
        f"always {report['always']['class']} would score {report['always']['score']:.6f}",
    ]
    if "rule" in report:
        lines.append(f"decided by rule {report['rule']}, each fifth of the images by a fit on the other four")
    return [*lines, f"score {report['score']:.6f}"]


def table(report: dict) -> list[str]:
    """Every rule's score on the validation images beside the constant answer, as lines to print."""
    always, span = report["always"], "95 % interval"
    bar = f"always {always['class']}"
    width = max(map(len, [*report["rules"], bar]))
    lines = [
        f"{'':{width}}  {'fitted':>8}  {'cross-fitted':>12}  {span:>18}  {f'minus {bar}':>24}  {span:>18}  macro-F1"
    ]
    for rule, figures in report["rules"].items():
        over = f"{figures['over_always']:+24.4f}  {ends(figures['over_always_interval']):>18}"
        lines.append(
            f"{rule:{width}}  {figures['fitted']:8.4f}  {figures['score']:12.4f}  {ends(figures['interval']):>18}"
            f"  {over}  {figures['macro_f1']:8.3f}"
        )
    lines.append(f"{bar:{width}}  {always['score']:8.4f}  {always['score']:12.4f}{'':66}  {always['macro_f1']:8.3f}")
    lines.append(
        f"fitted: on the {report['images']} images it is shown for; cross-fitted: each fifth of them by a fit on the"
        " other four."
    )
    lines.append(area_line(report))
    if "patients" in report:
        lines.append(f"intervals and cross-fitting by patient: {report['patients']} patients")
    if report["few_images"]:
        lines.append(
            f"classes with 1 to 4 images here, whose luck no interval can show: {', '.join(report['few_images'])}"
        )
    if report["skipped_classes"]:
        lines.append(f"left out of the mean, without an image here: {', '.join(report['skipped_classes'])}")
    optimistic = report.get("optimistic", True)  # in a report from before this was said
    return [*lines, OPTIMISTIC + NOISY if optimistic else NOISY.capitalize()]


def area_line(report: dict) -> str:
    """The macro AUC of the plain posterior, which no rule changes."""
    if not report.get("auc"):
        return "macro AUC: not defined for one class"
    return f"macro AUC of the classes {report['auc']['macro']:.4f}, 95 % interval {ends(report['auc']['interval'])}"


def ends(interval: Sequence[float]) -> str:
    return f"{interval[0]:+.3f} … {interval[1]:+.3f}"


def doubt(report: dict, rule: str) -> list[str]:
    """Lines that cannot be missed when a rule does not beat the constant answer; a note when it may be luck; else
    nothing."""
    figures, always = report["rules"][rule], f"always answering {report['always']['class']}"
    if figures["over_always_interval"][0] > 0:
        return []
    if figures["over_always"] > 0:
        return [
            f"note: rule {rule} is {figures['over_always']:.3f} above {always}, and its interval reaches below: it may"
            " be luck."
        ]
    line = "!" * 100
    better = [
        f"{name} ({found['score']:.4f})"
        for name, found in report["rules"].items()
        if found["over_always_interval"][0] > 0
    ]
    advice = f", or choose rule={' or '.join(better)}" if better else ""
    return [
        line,
        f"WARNING: rule {rule} scores {figures['score']:.4f} cross-fitted, no better than {always}"
        f" ({report['always']['score']:.4f}).",
        f"Think before you submit its answers{advice}.",
        line,
    ]


def describe(calibration: dict) -> list[str]:
    """What was fitted, a line a network."""
    lines = []
    for number, network in enumerate(calibration["networks"], start=1):
        heat, posterior = network["rules"]["temperature"], network["rules"]["bayes"]
        name = f"network {number}: " if len(calibration["networks"]) > 1 else ""
        how = "tuned" if heat["tuned"] else "given"
        spans = [f"{what} {min(posterior[what]):.2f} to {max(posterior[what]):.2f}" for what in ("slopes", "offsets")]
        lines.append(f"{name}temperature {heat['temperature']} ({how}); bayes: {', '.join(spans)}")
    return lines


def lines(report: dict, calibration: dict) -> list[str]:
    """Every rule beside the constant answer, on the validation images and, where its labels are known, on the test
    part."""
    lines = ["validation score:", *table(report["validation"])]
    if "test" in report:
        lines.append("test part, by the labels kept aside in solution.csv, with 95 % intervals:")
        lines += [
            f"  {rule:11} {figures['score']:8.4f}  {ends(figures['interval'])}"
            for rule, figures in report["test"]["rules"].items()
        ]
        lines.append(f"  {area_line(report['test'])}")
        lines.append(f"  always {report['test']['always']['class']} {report['test']['always']['score']:.4f}")
    return [*lines, *describe(calibration)]


def warning(report: dict) -> list[str]:
    """The same of a whole report: of the rule that decides, on the validation images."""
    return doubt(report["validation"], report["rule"])


def headline(report: dict) -> dict[str, float]:
    """The chosen rule's figures, and the macro AUC: on the test images where their labels are known, otherwise on the
    validation images, cross-fitted."""
    part = report.get("test", report["validation"])
    found = {**part["rules"][report["rule"]], "auc": part["auc"] and part["auc"]["macro"]}
    return {name: found[name] for name in HEADINGS}


def paired(ours: Sequence[Evidence], theirs: Sequence[Evidence], rows: Rows) -> dict:
    """The score of several runs' own rules and of as many others' on the same images, the means over the runs and their
    difference: {"ours", "theirs", "difference": each {"score", "interval"}, "part", "images", "resampled" (what),
    "pairs": the difference of each run to the other of the same number, "further": that of the macro AUC}.

    On the test images where all have their labels, otherwise on the validation images, cross-fitted. The 95 % intervals
    resample patients where they are known, otherwise images, as many of every class. Raises
    UserError for other images, classes, labels or costs.
    """
    tested = all(run.tests is not None for run in (*ours, *theirs))
    first, costs = None, ours[0].calibration["costs"]
    answers, forecasts = [], []
    for run in (*ours, *theirs):
        if run.calibration["costs"] != costs:
            raise UserError(
                "the two runs are scored by different costs, so their scores cannot be compared: "
                "give both the same costs"
            )
        content, own, p = _answered(run, tested, rows)
        first = first or content
        places = _places(content, first)
        answers.append(own[places])
        forecasts.append(p[places])
    mine, others = answers[: len(ours)], answers[len(ours) :]
    truth = first.targets.argmax(axis=1)
    sample = single_label.Sample(truth, len(first.classes), Costs(**costs), patients_of(first.ids, rows))
    scores = [
        [metrics.summary(tally_one_hot(first.targets, one), Costs(**costs))["score"] for one in side]
        for side in (mine, others)
    ]
    means = [float(np.mean(side)) for side in scores]
    areas = [sample.areas(p) for p in forecasts]
    pairs, drawn = [our - other for our, other in zip(*scores, strict=True)], sample.draws(mine, others)
    return {
        "part": "test" if tested else "validation",
        "images": len(truth),
        "resampled": sample.resampled,
        "further": {"macro AUC": _difference(areas[: len(ours)], areas[len(ours) :])},
        "ours": {"score": means[0], "interval": stats.interval(sample.draws(mine))},
        "theirs": {"score": means[1], "interval": stats.interval(sample.draws(others))},
        "difference": {
            "score": means[0] - means[1],
            "interval": stats.interval(drawn),
            "both": stats.both(pairs, drawn),
        },
        "pairs": pairs,
    }


def _difference(ours: Sequence[tuple[float, np.ndarray]], theirs: Sequence[tuple[float, np.ndarray]]) -> dict:
    """The mean of figures that come with their draws, less that of others: {"ours", "theirs", "difference",
    "interval", "both"}."""
    (mine, drawn), (other, drawn_other) = (
        [np.mean(each, axis=0) for each in zip(*side, strict=True)] for side in (ours, theirs)
    )
    return {
        "ours": float(mine), "theirs": float(other), "difference": float(mine - other),
        "interval": stats.interval(drawn - drawn_other),
        "both": stats.both([our[0] - one[0] for our, one in zip(ours, theirs, strict=True)], drawn - drawn_other),
    }  # fmt: skip


def _places(content: Logits, first: Logits) -> np.ndarray:
    """Where the rows of `first` stand in another file of the same images, int [N]. Raises UserError for other images,
    classes or labels."""
    places = same_rows(content, first)
    if places is None or not np.array_equal(content.targets[places], first.targets):
        raise UserError(
            "the two runs were tested on different images or labels, so they cannot be compared image by image:"
            " give both the same split"
        )
    return places


def _answered(run: Evidence, tested: bool, rows: Rows) -> tuple[Logits, np.ndarray, np.ndarray]:
    """The rows of a run's test part or of its validation part, its own answers to them, int [N], those of the
    validation part cross-fitted, and its plain posterior, float [N, C]."""
    if tested:
        answers = single_label.classes_of(run.tests, run.calibration, run.rule)
        return run.tests[0], answers, single_label.natural_test(run.tests)
    patients = patients_of(ids_of(run.vals), rows)
    answers = single_label.held_out(run.vals, run.calibration, [run.rule], patients)[0][run.rule]
    return pooled(run.vals, exclusive=True), answers, single_label.natural(run.vals)


def compare(reports: Sequence[dict]) -> list[str]:
    """The rules of several runs on each run's own images; of a single run every rule and every class too."""
    lines = []
    if len(reports) == 1:
        report = reports[0]
        before, after = (report["validation"]["calibration"][when] for when in ("before", "after"))
        lines = [
            *table(report["validation"]),
            "",
            f"rule {report['rule']}, cross-fitted, class by class:",
            *class_table(report["per_class"]),
            f"plain softmax: NLL {before['nll']:.4f}, Brier {before['brier']:.4f}; calibrated posterior, cross-fitted:"
            f" NLL {after['nll']:.4f}, Brier {after['brier']:.4f}",
            "",
        ]
    for part in ("validation", "test"):
        if all(part in report for report in reports):
            lines += _beside_bayes(reports, part)
    return lines


def _beside_bayes(reports: Sequence[dict], part: str) -> list[str]:
    """A line a run: the report's rules and the Bayes rule on the same images, and the differences with their
    intervals."""
    width, span = max(len(report["run"]) for report in reports), "95 % interval"
    head = f"{part + ':':{width}}  {'argmax':>9}{'temperature':>13}{'bayes':>9}"
    lines = [f"{head}{'bayes − argmax':>18}{span:>20}{'bayes − temperature':>22}{span:>20}{'always':>9}"]

    def line(name: str, row: Sequence[float], one: str = "", other: str = "") -> str:
        scores = f"{row[0]:9.4f}{row[1]:13.4f}{row[2]:9.4f}"
        return f"{name:{width}}  {scores}{row[3]:+18.4f}{one:>20}{row[4]:+22.4f}{other}"

    rows = []
    for report in reports:
        figures = report[part]
        scores = [figures["rules"][rule]["score"] for rule in ("argmax", "temperature", "bayes")]
        minus = [figures["bayes_minus"][rule] for rule in ("argmax", "temperature")]
        rows.append([*scores, *(each["difference"] for each in minus)])
        one, other = (ends(each["interval"]) for each in minus)
        lines.append(line(report["run"], rows[-1], one, f"{other:>20}{figures['always']['score']:9.4f}"))
    if len(rows) > 1:
        lines += [line("mean", np.mean(rows, axis=0)), line("s.d.", np.std(rows, axis=0, ddof=1))]
    return lines


RAREST = 0.25  # of the classes: those with the fewest training images


def examples(found: Evidence, labels: Sequence[int], number: int) -> tuple[Logits, list[Example]]:
    """Images of the validation part, whose labels are known: a third each of the rarest classes, hits and misses of
    `rule`, cross-fitted, at most `number` in all.

    Every example is explained for its true class, one of the columns `labels`; p is the plain softmax, averaged over
    views. Rarest: the quarter of `labels` with the fewest training images, the most probable image of each. Hits and
    misses: every class in turn, the most probable hits first, and the misses whose wrong answer was the most probable.
    Raises UserError when no image is of these classes.
    """
    vals, _, calibration, rule, _ = found
    answers, val = single_label.held_out(vals, calibration, [rule])[0][rule], pooled(vals, exclusive=True)
    truth, p = truth_of(val), probabilities(val.logits)
    every = np.arange(len(truth))
    there = [c for c in labels if (truth == c).any()]
    if not there:
        raise UserError("no image of the validation part is of the wanted classes: name others with --labels")

    def example(row: int, what: str) -> Example:
        answer = answers[row]
        hit = answer == truth[row]
        outcome = "hit" if hit else f"missed: answered {val.classes[answer]}, p = {p[row, answer]:.2f}"
        return Example(int(row), int(truth[row]), float(p[row, truth[row]]), what + outcome)

    def queue(right: bool) -> list[Example]:
        sure = p[every, answers]
        each = [falling(np.flatnonzero((truth == c) & ((answers == truth) == right)), sure) for c in there]
        each = sorted((rows for rows in each if len(rows)), key=lambda rows: -sure[rows[0]])
        return [example(row, "") for turn in zip_longest(*each) for row in turn if row is not None]

    rarest = sorted(there, key=lambda c: val.counts[c])[: int(np.ceil(RAREST * len(there)))]
    rare = [
        example(falling(np.flatnonzero(truth == c), p[:, c])[0], f"rare, {val.counts[c]} training images; ")
        for c in rarest
    ]
    return val, in_turn([rare, queue(True), queue(False)], number)
