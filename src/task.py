"""The seam: what differs between the tasks, as one record of values and plain functions. Nothing compares its name."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import calibrate
import folds
import labels
import metrics
import rules
from errors import UserError, some
from files import Logits, write_submission


@dataclass(frozen=True)
class Task:
    name: str
    read: Callable[[Path], labels.Tables]  # data folder → labelled table and test ids
    strata: Callable[[np.ndarray], np.ndarray]  # targets [N, C] → int [N], what the split keeps in proportion
    split: Callable[[np.ndarray, float, int], np.ndarray]  # strata, fraction, seed → bool [N], True = validation
    loss: str  # a name in losses.LOSSES
    views: tuple[str, ...]  # names in infer.VIEWS that test-time augmentation may use
    monitor: str  # the figure of `metrics` that chooses the epoch
    mode: str  # "max" or "min"
    metrics: Callable[[np.ndarray, np.ndarray, np.ndarray], dict[str, float]]  # targets [N, C], logits [N, C], counts [C]
    rules: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]]  # name → probabilities [N, C], counts [C] → int [N]
    calibrate: Callable[[Logits, float | None], dict]  # validation logits, a fixed temperature → calibration.json
    decide: Callable[[Logits, dict, str], np.ndarray]  # logits, calibration, rule → int [N]
    write: Callable[..., None]  # path, ids, classes, answers, test.csv's ids → the checked submission
    report: Callable[[Logits, dict], dict]  # validation logits, calibration → figures of every rule beside the bar


def competition() -> Task:
    """The 20-class competition: one answer an image, scored by the asymmetric cost."""
    return Task(
        name="competition",
        read=labels.read_competition,
        strata=lambda targets: targets.argmax(axis=1),
        split=folds.stratified,
        loss="cross_entropy",
        views=("original", "flip"),
        monitor="score",
        mode="max",
        metrics=_monitor,
        rules=RULES,
        calibrate=_calibrate,
        decide=_decide,
        write=write_submission,
        report=_report,
    )


TASKS = {"competition": competition}
RULES = {"argmax": rules.argmax, "temperature": rules.argmax}  # they differ in the temperature before the views are averaged


def _monitor(targets: np.ndarray, logits: np.ndarray, counts: np.ndarray) -> dict[str, float]:
    return metrics.summary(tally(targets, rules.argmax(logits, counts)))


def tally(targets: np.ndarray, answers: np.ndarray) -> metrics.Tally:
    """Count integer answers [N] against one-hot targets [N, C]."""
    return metrics.tally(targets.argmax(axis=1), answers, targets.shape[1])


def _calibrate(val: Logits, temperature: float | None) -> dict:
    """Every rule's parameters, fitted on validation logits; a given temperature is kept instead of the tuned one."""
    if np.isnan(val.targets).any():
        raise UserError("these logits have no labels to tune on: give the validation fold's file, val_logits.npz")

    def score_at(value: float) -> float:
        answers = rules.argmax(calibrate.probabilities(val.logits, value), val.counts)
        return metrics.competition_score(tally(val.targets, answers))

    tuned, curve = calibrate.tune_temperature(score_at)
    return {
        "classes": [str(name) for name in val.classes],
        "rows": len(val.ids),
        "rules": {
            "argmax": {"temperature": 1.0},
            "temperature": {"temperature": temperature or tuned, "tuned": temperature is None, "curve": curve},
        },
    }


def _decide(content: Logits, calibration: dict, rule: str) -> np.ndarray:
    if rule not in RULES:
        raise UserError(f"there is no rule {rule!r}; there are {some(RULES)}")
    try:
        temperature, classes = float(calibration["rules"][rule]["temperature"]), calibration["classes"]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"the calibration has no usable {error} for rule {rule}: make it again with tune") from error
    if not 0 < temperature < np.inf:
        raise UserError(f"the calibration's temperature {temperature} is no positive number: make it again with tune")
    if classes != [str(name) for name in content.classes]:
        raise UserError("the calibration was fitted for other classes than the logits have")
    return RULES[rule](calibrate.probabilities(content.logits, temperature), content.counts)


def _report(val: Logits, calibration: dict) -> dict:
    """Figures of every rule and of the constant answer on the validation fold; absent classes are named."""
    answers = {rule: _decide(val, calibration, rule) for rule in RULES}
    always = metrics.constant(val.targets.sum(axis=0).astype(int), int(np.argmax(val.counts)))
    names = np.asarray(val.classes)
    return {
        "always": {"class": str(names[np.argmax(val.counts)]), **metrics.summary(always)},
        "rules": {rule: metrics.summary(tally(val.targets, answer)) for rule, answer in answers.items()},
        "skipped_classes": [str(name) for name in names[~always.present]],
        "untrained_classes": [str(name) for name in names[np.asarray(val.counts) == 0]],
    }

