"""From the logits of a multi-label network to the probability of every finding: calibration and operating points.

A calibration is what calibration.json holds: classes; for every network (fold) the counts, rows and prior of its logits
and the parameters of every rule; and the thresholds of every rule, set on validation rows.
"""

import warnings
from collections.abc import Sequence

import numpy as np

from answers import stats
from answers.rules import parted
from core.errors import UserError, some
from core.logits_file import Logits, different_images, same_classes, same_images

RULES = ("sigmoid", "calibrated")
HELD = 0.95  # the sensitivity, and the specificity, that a threshold holds on validation
# standard deviations of the priors of log-slope and offset: weak, and enough for a label with two positives
WIDTHS = np.array([1.0, 2.0])
REACH = 10.0, 100.0  # the fit looks no further in log-slope and offset
TINY = 1e-9  # a prevalence is kept so far from 0 and 1, for its logit


def sigmoid(logits: np.ndarray) -> np.ndarray:
    return np.exp(-np.logaddexp(0, -logits))


def calibrate(vals: Sequence[Logits], temperature: float | None = None) -> dict:
    """Every rule's parameters, fitted on each network's own validation rows, and its thresholds on all of them
    together.

    Rule `sigmoid` is sigmoid(z). Rule `calibrated` is sigmoid(slope_c · (z − logit prior_c + logit natural_c) +
    offset_c): the shift of the prevalence by oversampling is undone (Saerens et al. 2002, equation 2.4), then slope and
    offset of every label are fitted (Platt 1999) with weak Gaussian priors on log-slope and offset. A label without
    known positives or negatives keeps slope 1 and offset 0. With `temperature` nothing is fitted: slope 1 / temperature
    for all labels, and offsets that only undo the shift of the prevalence, in full: sigmoid(z / temperature − logit
    prior_c + logit natural_c).

    Thresholds, one a label, for "p ≥ τ is positive" (thesis, equation 15): `sens95` is the largest with a sensitivity
    of at least 0.95, `spec95` the smallest of the probabilities met with a specificity of at least 0.95 (where even the
    largest has less, the next number above it); None where validation lacks positives, or negatives. Raises UserError
    for unlabelled logits, targets other than 0 and 1, and files of different classes or of the same images.
    """
    _check_labels(vals)
    networks = [
        {
            "rows": val.rows,
            "counts": val.counts.tolist(),
            "prior": val.prior.tolist(),
            "rules": {"sigmoid": {}, "calibrated": _fit(val, temperature)},
        }
        for val in vals
    ]
    targets = np.concatenate([val.targets for val in vals])
    thresholds = {}
    for rule in RULES:
        p = np.concatenate(
            [_activated(val, network["rules"][rule]) for val, network in zip(vals, networks, strict=True)]
        )
        points = [_operating_points(targets[:, c], p[:, c]) for c in range(p.shape[1])]
        thresholds[rule] = {
            name: list(values) for name, values in zip(("sens95", "spec95"), zip(*points, strict=True), strict=True)
        }
    return {"classes": vals[0].classes.tolist(), "networks": networks, "thresholds": thresholds}


def _check_labels(vals: Sequence[Logits]) -> None:
    for val in vals:
        if np.isnan(val.targets).all():
            raise UserError(
                "these logits have no labels to calibrate on: give the validation part's file, val_logits.npz"
            )
        if not (np.isnan(val.targets) | np.isin(val.targets, (0, 1))).all():
            raise UserError(
                "these logits have targets other than 0, 1 and unknown (NaN), and a finding is there or not: give the"
                " labels as 0 and 1"
            )
    same_classes([val.classes.tolist() for val in vals], "the validation files")
    different_images(vals)


# ---- the rule `calibrated`
def _shift(content: Logits) -> np.ndarray:
    """logit natural − logit prior of every label, [C]: what added to the logits undoes oversampling."""
    natural, prior = (np.clip(p, TINY, 1 - TINY) for p in (content.counts / content.rows, np.float64(content.prior)))
    return np.log(natural / (1 - natural)) - np.log(prior / (1 - prior))


def _activated(content: Logits, params: dict) -> np.ndarray:
    """Probabilities of one network averaged over its views, float64 [N, C]; without parameters the plain sigmoid."""
    logits = np.float64(content.logits)
    if params:
        logits = np.array(params["slopes"]) * (logits + _shift(content)) + np.array(params["offsets"])
    return sigmoid(logits).mean(axis=0)


def corrected(content: Logits) -> np.ndarray:
    """The plain sigmoid with nothing but the shift of the prevalence undone, averaged over the views: float [N, C]."""
    return _activated(content, {"slopes": 1.0, "offsets": 0.0})


def _fit(val: Logits, temperature: float | None) -> dict:
    shift = _shift(val)
    slopes, offsets = np.ones(len(shift)), np.zeros(len(shift))
    if temperature is not None:
        slopes /= temperature
        offsets = (1 - slopes) * shift
    else:
        for c, labels in enumerate(val.targets.T):
            if (labels == 1).any() and (labels == 0).any():
                known = ~np.isnan(labels)
                slopes[c], offsets[c] = fitted_label(np.float64(val.logits[:, known, c]) + shift[c], labels[known] == 1)
    return {"slopes": slopes.tolist(), "offsets": offsets.tolist()}


def fitted_label(logits: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """Slope and offset that maximise the penalised likelihood of truth [N] under the mean over views of sigmoid(slope ·
    logits + offset)."""
    from scipy.optimize import minimize

    sign = np.where(truth, 1.0, -1.0)

    def loss(theta: np.ndarray) -> tuple[float, np.ndarray]:
        slope = np.exp(theta[0])
        margin = sign * (slope * logits + theta[1])
        each = -np.logaddexp(0, -margin)  # log-likelihood of a row by each of its views
        row = np.logaddexp.reduce(each, axis=0)
        error = -sign * np.exp(each - row) * sigmoid(-margin)
        value = len(truth) * np.log(len(logits)) - row.sum() + 0.5 * ((theta / WIDTHS) ** 2).sum()
        return value, np.array([slope * (error * logits).sum(), error.sum()]) + theta / WIDTHS**2

    log_slope, offset = minimize(
        loss, np.zeros(2), jac=True, method="L-BFGS-B", bounds=[(-far, far) for far in REACH]
    ).x
    return float(np.exp(log_slope)), float(offset)


# ---- thresholds
def _operating_points(targets: np.ndarray, p: np.ndarray) -> tuple[float | None, float | None]:
    from sklearn.metrics import roc_curve

    known = ~np.isnan(targets)
    sens95 = spec95 = None
    if known.any():
        with warnings.catch_warnings():  # of labels without positives or negatives, which have half of a curve
            warnings.simplefilter("ignore")
            # thresholds from infinity down
            false, true, at = roc_curve(targets[known], p[known], pos_label=1, drop_intermediate=False)
        if (targets == 1).any():
            sens95 = float(at[np.argmax(true >= HELD)])
        if (targets == 0).any():
            lowest = at[np.flatnonzero(false <= 1 - HELD)[-1]]
            spec95 = float(lowest if np.isfinite(lowest) else np.nextafter(at[1], 2))
    return sens95, spec95


# ---- use
def _check_rule(rule: str) -> None:
    if rule not in RULES:
        raise UserError(f"there is no rule {rule!r}; there are {some(RULES)}")


def _fitted(contents: Sequence[Logits], calibration: dict, rule: str) -> list[dict]:
    """The rule's parameters for every network, after checking that they were fitted for these networks."""
    _check_rule(rule)
    try:
        networks = calibration["networks"]
        same_classes(
            [calibration["classes"], *(content.classes.tolist() for content in contents)],
            "the logits and their calibration",
        )
        if len(networks) != len(contents):
            raise UserError(
                f"the calibration was fitted on {len(networks)} validation files, and {len(contents)} logits files are"
                " given: one each, in the same order"
            )
        for number, (network, content) in enumerate(zip(networks, contents, strict=True), start=1):
            for what in ("counts", "prior", "rows"):
                if not np.allclose(network[what], getattr(content, what), rtol=1e-6):
                    raise UserError(
                        f"the {what} of logits file {number} are not those of the network that was calibrated: run the"
                        " command that began the run once more"
                    )
            if params := network["rules"][rule]:
                slopes, offsets = (np.array(params[name], float) for name in ("slopes", "offsets"))
                if (
                    slopes.shape != offsets.shape
                    or len(slopes) != len(content.classes)
                    or not (np.isfinite(offsets) & (slopes > 0) & (slopes < np.inf)).all()
                ):
                    raise ValueError("slopes and offsets")
        return [network["rules"][rule] for network in networks]
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise UserError(
            f"the calibration has no usable parameters for rule {rule} ({error}): run the command that began the run"
            " once more"
        ) from error


def probabilities(contents: Sequence[Logits], calibration: dict, rule: str) -> np.ndarray:
    """The probability of every finding, averaged over views after activation and then over networks: float64 [N, C].

    One logits file a network (fold), all of the same images and in the calibration's order. Raises UserError for an
    unknown rule, and for classes, counts, prior or images that do not belong together.
    """
    params = _fitted(contents, calibration, rule)
    same_images(contents)
    return np.mean([_activated(content, own) for content, own in zip(contents, params, strict=True)], axis=0)


def out_of_fold(vals: Sequence[Logits], calibration: dict, rule: str) -> np.ndarray:
    """The same of validation rows, every network's (fold's) own, one after the other: float64 [N, C]."""
    params = _fitted(vals, calibration, rule)
    different_images(vals)
    return np.concatenate([_activated(val, own) for val, own in zip(vals, params, strict=True)])


def held_out(vals: Sequence[Logits], calibration: dict, patients: np.ndarray | None) -> np.ndarray:
    """`out_of_fold` of rule `calibrated`, each fifth of a network's rows (of its patients, str [N], where they are
    given) by a fit on the other four."""
    _fitted(vals, calibration, "calibrated")
    p = np.empty((sum(len(val.ids) for val in vals), len(vals[0].classes)))
    for where, _, others, part in parted(vals, patients):
        p[where] = _activated(part, _fit(others, None))
    return p


def decide(tests: Sequence[Logits], calibration: dict, rule: str, counts: np.ndarray | None = None) -> np.ndarray:
    """What is written for every row of the test logits: `probabilities`. Raises UserError when class counts are
    given."""
    if counts is not None:
        raise UserError(
            "class counts are for tasks with one class an image, and these findings are decided label by label: leave"
            " the counts out"
        )
    return probabilities(tests, calibration, rule)


def thresholds(calibration: dict, rule: str) -> dict[str, np.ndarray]:
    """The rule's thresholds of validation, `sens95` and `spec95`: float [C] each, NaN where there is none."""
    _check_rule(rule)
    try:
        # None becomes NaN
        found = {name: np.array(calibration["thresholds"][rule][name], float) for name in ("sens95", "spec95")}
        if any(values.shape != (len(calibration["classes"]),) or np.isinf(values).any() for values in found.values()):
            raise ValueError("one a label")
        return found
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"the calibration has no usable thresholds for rule {rule} ({error}): run the command that began the run"
            " once more"
        ) from error


def countable(targets: np.ndarray) -> np.ndarray:
    """The labels that have both positives and negatives among the known targets [N, C]: bool [C]."""
    return (targets == 1).any(axis=0) & (targets == 0).any(axis=0)


def monitor(targets: np.ndarray, logits: np.ndarray) -> dict[str, float]:
    """Macro AUC-ROC and macro average precision of targets [N, C] by logits [N, C], over the labels that `countable`
    tells.

    A ranking needs no sigmoid. Raises UserError when no label counts.
    """
    labels = np.flatnonzero(countable(targets))
    if not len(labels):
        raise UserError(
            "the validation part has no label with both a positive and a negative image, so no epoch can be chosen by"
            " it: make it larger or choose other labels"
        )
    once = np.ones((1, len(targets)))
    auc, precision = np.mean(
        [stats.ranking(targets[:, c] == 1, logits[:, c], ~np.isnan(targets[:, c]), once) for c in labels], axis=(0, 2)
    )
    return {"auc": float(auc), "average_precision": float(precision)}


def log_likelihood(val: Logits) -> float:
    """Mean log-likelihood in nats of the known targets under sigmoid(z − logit prior_c + logit natural_c), the shift of
    the prevalence by oversampling undone (Saerens et al. 2002, equation 2.4); of the first view."""
    z, known = np.float64(val.logits[0]) + _shift(val), ~np.isnan(val.targets)
    return float(-np.logaddexp(0, np.where(val.targets == 1, -z, z))[known].mean())


def figures(classes: Sequence[str], targets: np.ndarray, p: np.ndarray) -> dict:
    """How well p [N, C] ranks the targets [N, C] of a file, label by label: `score` is the macro AUC-ROC, over the
    labels that `countable` tells; the others have no figures. Raises UserError where there is none."""
    macro, counted, rows = monitor(targets, p), countable(targets), []
    for c, name in enumerate(classes):
        own = monitor(targets[:, [c]], p[:, [c]]) if counted[c] else {"auc": None, "average_precision": None}
        rows.append({"class": name, "images": len(targets), "positives": int((targets[:, c] == 1).sum()), **own})
    return {"score": macro["auc"], **macro, "per_class": rows}


def figure_lines(found: dict) -> list[str]:
    """Such figures as lines; the last is `score 0.734000`."""
    width = max(len("label"), *(len(row["class"]) for row in found["per_class"]))
    lines = [f"{'label':{width}}{'positives':>10}{'AUC-ROC':>9}{'PR-AUC':>9}"]
    for row in found["per_class"]:
        own = [row[name] for name in ("auc", "average_precision")]
        shown = "".join("–".rjust(9) if value is None else f"{value:9.3f}" for value in own)
        lines.append(f"{row['class']:{width}}{row['positives']:10d}{shown}")
    over = "over the labels with positives and negatives"
    lines.append(f"macro PR-AUC {found['average_precision']:.3f}; the score is the macro AUC-ROC, {over}")
    return [*lines, f"score {found['score']:.6f}"]
