"""The evaluation of a multi-label run: figures of every label and their macro means, intervals by patients, subgroups,
tables."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from answers import stats
from answers.multi_label import HELD, RULES, countable, monitor, out_of_fold, probabilities, sigmoid, thresholds
from core.config import differences
from core.errors import UserError, some
from core.examples import Example, falling, in_turn
from core.files import SYNTHETIC
from core.logits_file import Logits, pooled, same_rows
from core.task import Evidence, Rows

FIGURES = (
    *("auc", "average_precision", "brier", "brier_skill"),
    *("spec_at_sens95", "sens_at_spec95", "sens_at_sens95", "spec_at_spec95"),
)
HEADINGS = {  # the macro figures that runs are compared by, and how they are headed
    "auc": "AUC-ROC", "average_precision": "PR-AUC", "brier": "Brier", "brier_skill": "Brier skill",
    "spec_at_sens95": "Spec@Sens=95%", "sens_at_spec95": "Sens@Spec=95%",
    "sens_at_sens95": "held sensitivity", "spec_at_spec95": "held specificity",
}  # fmt: skip
POINTS = ("sens95", "spec95")
SUBGROUPS: dict[str, Callable[[Mapping[str, str]], str]] = {  # name → row → group, '' unknown
    "sex": lambda row: row.get("sex") or "",
    "age": lambda row: _age_band(row.get("age") or ""),
    "projection": lambda row: row.get("projection") or "",
    "method": lambda row: row.get("method") or "",
}
SMALLEST = 20  # images of a subgroup that is shown
BANDS = {"<40": 40, "40–59": 60, "60–79": 80, "≥80": np.inf}  # of age in years, and where they end


def _age_band(age: str) -> str:
    try:
        years = float(age)
    except ValueError:
        return ""
    return next((band for band, end in BANDS.items() if 0 <= years < end), "")


def report(found: Evidence, rows: Rows) -> dict:
    """Every figure of a run on its validation part and, where its labels are known, on its test part.

    rows: image id → its row of folds.csv (patient, sex, age, projection, method, as far as they are known; without a
    patient an image is its own). Figures of a label: auc (thesis, equation 18), average_precision, brier (equation 19),
    brier_skill = 1 − brier / brier of always forecasting the training part's prevalence, and sensitivity and
    specificity (equation 16) at the calibration's two thresholds. `macro` are their means over the labels with both
    positives and negatives, the others are named in `skipped`; `interval` are 95 % percentile intervals of 500
    resamples of patients, where a label that lost its positives or negatives is left out of the draw's mean. The
    patients that set the thresholds are resampled too: with few positives most of an operating point's uncertainty is
    theirs. `per_class` is of the test part when there is one. What is undefined is None. Raises UserError when a part
    has no label to measure, or images that `rows` lacks.
    """
    figures = {name: _part(name, found, rows) for name in ("validation", "test")[: 1 + (found.tests is not None)]}
    return {
        "rule": found.rule,
        **{name: part for name, (part, _) in figures.items()},
        "per_class": figures[list(figures)[-1]][1],
    }


def _shown_part(report: dict) -> str:
    """The part whose labels `per_class` is of."""
    return "test" if "test" in report else "validation"


def score(found: Evidence, rows: Rows) -> dict:
    """The validation part alone: `score` is its macro AUC, which chose the epoch."""
    part, per_class = _part("validation", found, rows)
    return {"score": part["macro"]["auc"], "rule": found.rule, "validation": part, "per_class": per_class}


def _part(name: str, found: Evidence, rows: Rows) -> tuple[dict, list[dict]]:
    """The figures of one part, `validation` or `test`, and a row of them for every label."""
    vals, tests, calibration, rule, _ = found
    val, counts = pooled(vals, exclusive=False), sum(each.counts for each in vals)
    content, of_part = (val, out_of_fold) if name == "validation" else (tests[0], probabilities)
    targets, prevalence = content.targets, counts / sum(each.rows for each in vals)
    at = thresholds(calibration, rule)
    p = {each: of_part(vals if name == "validation" else tests, calibration, each) for each in RULES}
    counted = countable(targets)
    if not counted.any():
        raise UserError(
            f"the {name} part has no positive image beside a negative one of any label, so there is nothing to measure:"
            " split with another seed, or choose other labels"
        )
    patients = _patients(content, rows)
    weights = _weights(patients)
    if name == "validation":
        drawn = _drawn_thresholds(targets, p[rule], weights)
    else:
        val_weights = _weights(_patients(val, rows), seed=1)
        drawn = _drawn_thresholds(val.targets, out_of_fold(vals, calibration, rule), val_weights)

    points = _points(targets, p[rule], prevalence, at)
    draws = _draws(targets, p[rule], prevalence, drawn, weights)
    lost = np.isnan(draws["auc"]) | ~counted  # of a draw's labels, those without positives or negatives
    part = {
        "images": len(targets),
        "patients": len(np.unique(patients)),
        "macro": {figure: _number(_mean(values[counted])) for figure, values in points.items()},
        "interval": {figure: _interval(_mean(np.where(lost, np.nan, values))) for figure, values in draws.items()},
        "skipped": content.classes.astype(str)[~counted].tolist(),
        "subgroups": _subgroups(targets, p[rule], patients, _about(content, rows), weights),
        "calibration": {each: _forecasts(targets, p[each], prevalence, counted) for each in RULES},
    }
    return part, _per_class(content, points, draws, at)


def _per_class(
    content: Logits, points: dict[str, np.ndarray], draws: dict[str, np.ndarray], at: dict[str, np.ndarray]
) -> list[dict]:
    """A row for every label: its numbers of images, its figures with their intervals, its thresholds."""
    found = []
    for c, name in enumerate(content.classes):
        targets = content.targets[:, c]
        row = {
            "class": str(name),
            "images": int((~np.isnan(targets)).sum()),
            "positives": int((targets == 1).sum()),
            "prevalence": _number(_mean(targets)),
        }
        for figure in FIGURES:
            row |= _with_interval(figure, points[figure][c], draws[figure][:, c])
        found.append(row | {f"threshold_{point}": _number(at[point][c]) for point in POINTS})
    return found


def paired(ours: Sequence[Evidence], theirs: Sequence[Evidence], rows: Rows) -> dict:
    """Macro AUC of several runs and of as many others on the same images, the means over the runs, and their difference
    with its interval from the same draws of patients: {"ours", "theirs", "difference": each {"auc", "interval"},
    "part", "images", "resampled" (what), "pairs": the difference of each run to the other of the same number}.

    Of the test part where all have it. A rule changes no label's ranking on a single view, so none is applied. Raises
    UserError for other images, labels or targets.
    """
    tested = all(run.tests is not None for run in (*ours, *theirs))
    said = [[_ranked(run, tested) for run in runs] for runs in (ours, theirs)]
    return {
        "part": "test" if tested else "validation",
        "images": len(said[0][0][0].ids),
        "resampled": "patients",
        **_paired(*said, rows),
    }


def _ranked(run: Evidence, tested: bool) -> tuple[Logits, np.ndarray]:
    """The rows of a run's test part or of its validation part, and the plain probability of every label, float
    [N, C]."""
    if not tested:
        val = pooled(run.vals, exclusive=False)
        return val, sigmoid(val.logits.astype(float)).mean(axis=0)
    return run.tests[0], np.mean([sigmoid(test.logits.astype(float)).mean(axis=0) for test in run.tests], axis=0)


def _paired(ours: Sequence[tuple[Logits, np.ndarray]], theirs: Sequence[tuple[Logits, np.ndarray]], rows: Rows) -> dict:
    first = ours[0][0]
    forecasts = [p[_places(content, first)] for content, p in (*ours, *theirs)]
    labels = np.flatnonzero(countable(first.targets))
    if not len(labels):
        raise UserError(
            "the two runs' test images have no label with both positives and negatives, so there is nothing to compare"
        )
    weights = _weights(_patients(first, rows))
    macro = []  # of the networks: macro AUC as it is [1] and in every draw [draws]
    for p in forecasts:
        areas = [_areas(first.targets, p, labels, each) for each in (np.ones((1, len(p))), weights)]
        macro.append([_mean(each.T) for each in areas])
    mine, others = macro[: len(ours)], macro[len(ours) :]
    means = [[np.mean(each, axis=0) for each in zip(*group, strict=True)] for group in (mine, others)]
    difference = [our - other for our, other in zip(*means, strict=True)]
    found = {"ours": means[0], "theirs": means[1], "difference": difference}
    pairs = [float(our[0][0] - other[0][0]) for our, other in zip(mine, others, strict=True)]
    figures = {name: {"auc": float(point[0]), "interval": _interval(draws)} for name, (point, draws) in found.items()}
    figures["difference"]["both"] = stats.both(pairs, difference[1])
    return {**figures, "pairs": pairs}


def _places(content: Logits, first: Logits) -> np.ndarray:
    """Where the rows of `first` stand in another file, int [N]. Raises UserError for other images, classes or
    labels."""
    places = same_rows(content, first)
    if places is None:
        raise UserError(
            "the two runs were tested on different images or labels, so they cannot be compared image by image:"
            " give both the same split"
        )
    if not np.array_equal(content.targets[places], first.targets, equal_nan=True):
        raise UserError(
            "the two runs were tested on the same images with different labels of them, so they cannot be compared:"
            " train both from one label file"
        )
    return places


# ---- images and their patients
def _about(content: Logits, rows: Rows) -> list[Mapping[str, str]]:
    lacking = [one for one in content.ids if one not in rows]
    if lacking:
        raise UserError(
            f"{len(lacking)} images of the logits are not in the run's folds.csv: {some(lacking)}; predict again with"
            " this run"
        )
    return [rows[one] for one in content.ids]


def _patients(content: Logits, rows: Rows) -> np.ndarray:
    """Whose every image is, str [N]; an image without a patient is its own."""
    owners = [row.get("patient") for row in _about(content, rows)]
    named = zip(content.ids, owners, strict=True)
    return np.array([f"patient {owner}" if owner else f"image {one}" for one, owner in named])


def _weights(patients: np.ndarray, seed: int = 0) -> np.ndarray:
    """How often every resample of patients draws each image, float [draws, N]."""
    return stats.cluster_weights(patients, seed=seed).astype(float)


# ---- figures
def _figures(targets: np.ndarray, p: np.ndarray, prevalence: float, at: dict[str, float]) -> dict[str, float]:
    """The figures of one label that are defined, by scikit-learn."""
    from sklearn.metrics import average_precision_score, brier_score_loss, recall_score, roc_auc_score

    known = ~np.isnan(targets)
    truth, p = (targets[known] == 1).astype(int), p[known]
    found, positive, negative = {}, truth.any(), not truth.all()
    if positive and negative:
        found["auc"] = roc_auc_score(truth, p)
    if positive:
        found["average_precision"] = average_precision_score(truth, p)
    if len(truth):
        found["brier"] = brier_score_loss(truth, p, pos_label=1)
        reference = brier_score_loss(truth, np.full(len(truth), prevalence), pos_label=1)
        if reference > 0:
            found["brier_skill"] = 1 - found["brier"] / reference
    for point, threshold in at.items():
        if not np.isnan(threshold):
            if positive:
                found[f"sens_at_{point}"] = recall_score(truth, p >= threshold)
            if negative:
                found[f"spec_at_{point}"] = recall_score(truth, p >= threshold, pos_label=0)
    return found


def _points(
    targets: np.ndarray, p: np.ndarray, prevalence: np.ndarray, at: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """The same of every label, float [C] each, NaN where undefined."""
    found = [
        _figures(targets[:, c], p[:, c], prevalence[c], {point: at[point][c] for point in POINTS})
        for c in range(p.shape[1])
    ]
    return {figure: np.array([label.get(figure, np.nan) for label in found]) for figure in FIGURES}


def _areas(
    targets: np.ndarray, p: np.ndarray, labels: np.ndarray, weights: np.ndarray, among: np.ndarray | bool = True
) -> np.ndarray:
    """AUC of some labels in every draw, on the images `among`: [labels, draws]."""
    known = ~np.isnan(targets) & np.reshape(among, (-1, 1))
    return np.array([stats.ranking(targets[:, c] == 1, p[:, c], known[:, c], weights)[0] for c in labels])


def _draws(
    targets: np.ndarray, p: np.ndarray, prevalence: np.ndarray, at: dict[str, np.ndarray], weights: np.ndarray
) -> dict[str, np.ndarray]:
    """The same figures of every label in every draw, [draws, C] each, NaN where undefined."""
    known, positive, negative = ~np.isnan(targets), targets == 1, targets == 0
    labels = range(p.shape[1])
    ranked = np.array([stats.ranking(positive[:, c], p[:, c], known[:, c], weights) for c in labels])  # [C, 2, draws]
    brier, reference = (stats.weighted_means((forecast - targets) ** 2, known, weights) for forecast in (p, prevalence))
    found = {
        "auc": ranked[:, 0].T,
        "average_precision": ranked[:, 1].T,
        "brier": brier,
        "brier_skill": 1 - np.divide(brier, reference, out=np.full(reference.shape, np.nan), where=reference > 0),
    }
    for point in POINTS:
        above = [
            [stats.share_above(p[rows[:, c], c], weights[:, rows[:, c]], at[point][:, c]) for c in labels]
            for rows in (positive, negative)
        ]
        found |= {f"sens_at_{point}": np.array(above[0]).T, f"spec_at_{point}": 1 - np.array(above[1]).T}
    return found


def _drawn_thresholds(targets: np.ndarray, p: np.ndarray, weights: np.ndarray) -> dict[str, np.ndarray]:
    """The two thresholds that every draw of validation patients sets, [draws, C] each, NaN where it has no positives,
    or negatives."""
    found = []
    for truth, forecast in zip(targets.T, p.T, strict=True):
        known = ~np.isnan(truth)
        if known.any():
            found.append(stats.held_thresholds(truth[known] == 1, forecast[known], weights[:, known], HELD))
        else:
            found.append([np.full(len(weights), np.nan)] * 2)
    return {point: np.array([each[place] for each in found]).T for place, point in enumerate(POINTS)}


def _forecasts(
    targets: np.ndarray, p: np.ndarray, prevalence: np.ndarray, counted: np.ndarray
) -> dict[str, float | None]:
    """Macro Brier score and skill of some probabilities."""
    brier, reference = (_mean(((forecast - targets) ** 2).T)[counted] for forecast in (p, prevalence))
    return {"brier": _number(brier.mean()), "brier_skill": _number((1 - brier / reference).mean())}


def _subgroups(
    targets: np.ndarray, p: np.ndarray, patients: np.ndarray, about: Sequence[Mapping[str, str]], weights: np.ndarray
) -> list[dict]:
    """Macro AUC of every subgroup with an interval from the same draws of patients, over the labels it has positives
    and negatives of."""
    found, once = [], np.ones((1, len(patients)))
    for by, group_of in SUBGROUPS.items():
        groups = np.array([group_of(row) for row in about])
        names = BANDS if by == "age" else sorted(set(groups) - {""})
        names = [name for name in names if (groups == name).sum() >= SMALLEST]
        for name in names if len(names) > 1 else []:
            rows = groups == name
            labels = np.flatnonzero(countable(targets[rows]))
            point, draws = (_areas(targets, p, labels, each, rows) for each in (once, weights))
            found.append(
                {
                    "by": by,
                    "group": str(name),
                    "images": int(rows.sum()),
                    "patients": len(np.unique(patients[rows])),
                    "labels": len(labels),
                    "auc": _number(point.mean()) if len(labels) else None,
                    "interval": _interval(_mean(draws.T)) if len(labels) else None,
                }
            )
    return found


def _mean(values: np.ndarray) -> np.ndarray:
    """The mean over the last axis of what is not NaN; NaN where nothing is."""
    there = ~np.isnan(values)
    number = there.sum(axis=-1)
    return np.divide(
        np.where(there, values, 0).sum(axis=-1), number, out=np.full(np.shape(number), np.nan), where=number > 0
    )


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _interval(draws: np.ndarray) -> list[float] | None:
    draws = draws[~np.isnan(draws)]
    return stats.interval(draws) if len(draws) else None


def _with_interval(figure: str, value: float, draws: np.ndarray) -> dict[str, float | None]:
    low, high = (not np.isnan(value) and _interval(draws)) or (None, None)
    return {figure: _number(value), f"{figure}_low": low, f"{figure}_high": high}


# ---- tables to print
def _shown(value: float | None, form: str = ".3f") -> str:
    return "–" if value is None else f"{value:{form}}"


def _ends(interval: Sequence[float | None] | None) -> str:
    return "" if not interval or interval[0] is None else f"[{interval[0]:.3f}, {interval[1]:.3f}]"


def lines(report: dict, calibration: dict | None = None) -> list[str]:
    """The report as lines to print: a table of the labels, the macro means, the subgroups, and what the figures rest
    on."""
    name = _shown_part(report)
    part = report[name]
    found = [
        f"{name} part: {part['images']} images of {part['patients']} patients; 95 % intervals by resampling patients",
        *_label_table(report["per_class"], part),
        *_macro_intervals(part["interval"]),
        *_left_out(report["per_class"], part["skipped"]),
        *_grounds(name, report["rule"], part["calibration"]),
        *_subgroup_table(part["subgroups"]),
    ]
    return [line.rstrip() for line in found]


def _label_table(classes: Sequence[dict], part: dict) -> list[str]:
    width = max(len("label"), *(len(row["class"]) for row in classes))

    def row(label: str, positives: str, figures: dict, interval: Sequence[float | None] | None) -> str:
        at = [
            f"{_shown(figures[figure])} ({_shown(figures[held])})"
            for figure, held in (("spec_at_sens95", "sens_at_sens95"), ("sens_at_spec95", "spec_at_spec95"))
        ]
        return (
            f"{label:{width}}{positives:>10}{_shown(figures['auc']):>8}"
            f" {_ends(interval):14}{_shown(figures['average_precision']):>7}"
            f"{_shown(figures['brier']):>7}{_shown(figures['brier_skill'], '+.3f'):>8}{at[0]:>23}{at[1]:>23}"
        )

    return [
        f"{'label':{width}}{'positives':>10}{'AUC-ROC':>8} {'':14}{'PR-AUC':>7}{'Brier':>7}{'skill':>8}"
        f"{'Spec@Sens=95% (Sens)':>23}{'Sens@Spec=95% (Spec)':>23}",
        *(row(one["class"], str(one["positives"]), one, (one["auc_low"], one["auc_high"])) for one in classes),
        row("macro", "", part["macro"], part["interval"]["auc"]),
    ]


def _macro_intervals(interval: dict) -> list[str]:
    return [
        "macro intervals: " + ", ".join(f"{what} {_ends(interval[figure])}" for what, figure in figures.items())
        for figures in (
            {"PR-AUC": "average_precision", "Brier": "brier", "skill": "brier_skill"},
            {"Spec@Sens=95%": "spec_at_sens95", "Sens@Spec=95%": "sens_at_spec95"},
        )
    ]


def _left_out(classes: Sequence[dict], skipped: Sequence[str]) -> list[str]:
    bare = [one["class"] for one in classes if one["threshold_sens95"] is None or one["threshold_spec95"] is None]
    told = {
        "left out of the macro means, without a positive or without a negative here": skipped,
        "without a threshold, since validation lacks positives or negatives": bare,
    }
    return [f"{what}: {', '.join(labels)}" for what, labels in told.items() if labels]


def _grounds(name: str, rule: str, calibration: dict) -> list[str]:
    """What the figures of the part `name` rest on."""
    forecasts = [
        f"{each} {_shown(figures['brier'])} ({_shown(figures['brier_skill'], '+.3f')})"
        for each, figures in calibration.items()
    ]
    return [
        "Thresholds were set on validation only and applied unchanged; in brackets what they held here."
        if name == "test"
        else "Thresholds, calibration and epoch were chosen on these same images: every figure here is optimistic.",
        f"Brier and its skill are of rule {rule}; a skill of 0 is that of always forecasting the training prevalence.",
        f"macro Brier (skill) by rule: {'; '.join(forecasts)}",
    ]


def _subgroup_table(subgroups: Sequence[dict]) -> list[str]:
    head = [f"{'subgroup':28}{'images':>9}{'patients':>10}{'labels':>8}{'macro AUC-ROC':>15}"]
    return head * bool(subgroups) + [
        f"{one['by'] + ' ' + one['group']:28}{one['images']:9d}{one['patients']:10d}{one['labels']:8d}"
        f"{_shown(one['auc']):>15} {_ends(one['interval'])}"
        for one in subgroups
    ]


def warning(report: dict) -> list[str]:
    """Lines that cannot be missed when the macro AUC may be that of chance."""
    low = (report[_shown_part(report)]["interval"]["auc"] or [0.0])[0]
    if low > 0.5:
        return []
    line = "!" * 100
    return [
        line,
        f"WARNING: the 95 % interval of the macro AUC begins at {low:.3f}: these labels may be ranked no better than by"
        " chance.",
        line,
    ]


def score_lines(report: dict) -> list[str]:
    """A score of the validation part as lines; the last is `score 0.734000`, its macro AUC."""
    return [*lines(report), f"score {report['score']:.6f}"]


def tuned(vals: Sequence[Logits], calibration: dict) -> list[str]:
    """A calibration that was just fitted on these files, as lines: macro figures of every rule on the very rows, and
    its thresholds."""
    targets = np.concatenate([val.targets for val in vals])
    counted = countable(targets)
    prevalence = sum(val.counts for val in vals) / sum(val.rows for val in vals)
    lines = [f"{'':12}{'AUC-ROC':>9}{'PR-AUC':>9}{'Brier':>9}{'skill':>9}"]
    for rule in RULES:
        alone = [calibration | {"networks": [network]} for network in calibration["networks"]]
        p = np.concatenate([probabilities([val], its, rule) for val, its in zip(vals, alone, strict=True)])
        row = monitor(targets, p) | _forecasts(targets, p, prevalence, counted)
        lines.append(
            f"{rule:12}{row['auc']:9.3f}{row['average_precision']:9.3f}{row['brier']:9.3f}{row['brier_skill']:+9.3f}"
        )
    lines.append(
        f"macro means over {counted.sum()} labels of the {len(targets)} images that the calibration was fitted on:"
        " optimistic"
    )
    if not counted.all():
        lines.append(f"left out, without a positive or without a negative: {some(vals[0].classes[~counted])}")
    return lines


def headline(report: dict) -> dict[str, float | None]:
    """The macro figures of the test part, or of validation where there is none."""
    return dict(report[_shown_part(report)]["macro"])


def compare(reports: Sequence[dict]) -> list[str]:
    """Several runs, such as replicates: the row of the thesis' table 1 and its table 10, mean ± s.d. (ddof 1) over the
    runs; a single run in full.

    Raises UserError for runs with other labels, rules, splits or settings than the first (but for the seed), or of
    which only some have a test part.
    """
    first = reports[0]
    if len(reports) == 1:
        return [*[SYNTHETIC] * bool(first["synthetic"]), *lines(first), *warning(first)]
    for other in reports[1:]:
        _check_replicates(first, other)
    name = _shown_part(first)
    macro = [report[name]["macro"] for report in reports]
    width = max(len("label"), *(len(row["class"]) for row in first["per_class"]))
    areas, precisions = ([one[figure] for one in macro] for figure in ("auc", "average_precision"))
    skipped = sorted({label for report in reports for label in report[name]["skipped"]})
    return [
        *[SYNTHETIC] * any(report["synthetic"] for report in reports),
        f"{name} part, mean ± s.d. over the runs: {some(report['run'] for report in reports)}",
        f"{'':{width}}{'AUC-ROC':>16}{'PR-AUC':>16}{'n':>5}",
        f"{'macro':{width}}{_spread(areas):>16}{_spread(precisions):>16}{len(reports):5d}",
        "",
        *_spread_table(reports, macro, width),
        *[f"left out of a macro mean, without a positive or without a negative: {', '.join(skipped)}"] * bool(skipped),
        f"Thresholds were set on validation only; Brier and its skill are of rule {first['rule']}.",
    ]


def _check_replicates(first: dict, other: dict) -> None:
    """Raises UserError unless two reports are of runs that differ in nothing but their seed."""
    both = f"{first['run']} and {other['run']}"
    ours, theirs = ([row["class"] for row in report["per_class"]] for report in (first, other))
    if ours != theirs:
        odd = sorted(set(ours) ^ set(theirs))
        raise UserError(
            f"{both} have different lists of labels ({some(odd) if odd else 'in different orders'}): compare runs with"
            " the same labels"
        )
    if other["rule"] != first["rule"]:
        raise UserError(
            f"{first['run']} was decided by rule {first['rule']} and {other['run']} by {other['rule']}: compare runs of"
            " one rule"
        )
    changed = [each for each in differences(first["settings"], other["settings"]) if not each.startswith("seed ")]
    changed += [f"{key} ({first[key]} → {other[key]})" for key in ("split", "baseline") if first[key] != other[key]]
    if changed:
        raise UserError(
            f"{both} are no replicates, whose mean could be taken: they differ in {some(changed)}; evaluate them one by"
            " one"
        )
    if ("test" in other) != ("test" in first):
        raise UserError(f"of {both} only one has a test part: compare runs evaluated on the same part")


def _spread_table(reports: Sequence[dict], macro: Sequence[dict], width: int) -> list[str]:
    """The thesis' table 10: a line for every label, then one for the macro means."""
    columns = (
        ("Brier", "brier", ".3f"),
        ("skill", "brier_skill", "+.3f"),
        ("Spec@Sens=95%", "spec_at_sens95", ".3f"),
        ("Sens@Spec=95%", "sens_at_spec95", ".3f"),
    )
    rows = [(found[0]["class"], found) for found in zip(*(report["per_class"] for report in reports), strict=True)]
    table = [f"{'label':{width}}" + "".join(f"{title:>17}" for title, _, _ in columns)]
    for label, found in [*rows, ("macro", macro)]:
        cells = [_spread([one[figure] for one in found], form) for _, figure, form in columns]
        table.append(f"{label:{width}}" + "".join(f"{cell:>17}" for cell in cells))
    return table


def _spread(values: Sequence[float | None], form: str = ".3f") -> str:
    """Mean ± s.d. of a figure over runs."""
    return "–" if None in values else f"{np.mean(values):{form}} ± {np.std(values, ddof=1):.3f}"


CERTAIN = 0.9  # the probability that the thesis asks of an image that it explains


def examples(found: Evidence, labels: Sequence[int], number: int) -> tuple[Logits, list[Example]]:
    """Images of the test part (without one, of the validation part, each by the network that did not see it) as the
    thesis chose them: exactly one positive label, and p > 0.9 for it under `rule`.

    Of the columns `labels` each in turn, its most probable image first, at most `number` in all. Where no image passes
    0.9 the most probable ones are taken, and `why` says so. Also returns the logits file whose rows they are. Raises
    UserError without an image that has exactly one positive label, one of `labels`.
    """
    content, p = judged(found)
    positive, part = content.targets == 1, "validation" if found.tests is None else "test"
    single, label = (positive.sum(axis=1) == 1) & ~np.isnan(content.targets).any(axis=1), positive.argmax(axis=1)
    rows = np.flatnonzero(single & np.isin(label, labels))
    if not len(rows):
        raise UserError(
            f"no image of the {part} part has exactly one positive label that is among the wanted ones: name others"
            f" with --labels, or split with more {part} images"
        )
    why, sure = f"one positive label, p > {CERTAIN}", rows[p[rows, label[rows]] > CERTAIN]
    if len(sure):
        rows = sure
    else:
        why = f"one positive label; none has p > {CERTAIN}, so the most probable"
    queues = [[Example(row, c, p[row, c], why) for row in falling(rows[label[rows] == c], p[:, c])] for c in labels]
    return content, in_turn(queues, number)


def judged(found: Evidence) -> tuple[Logits, np.ndarray]:
    """The images by which a run is shown, and their probabilities [N, C] under its rule: those of the test part, where
    its labels are known, otherwise of the validation part."""
    if found.tests is not None:
        return found.tests[0], probabilities(found.tests, found.calibration, found.rule)
    return pooled(found.vals, exclusive=False), out_of_fold(found.vals, found.calibration, found.rule)
