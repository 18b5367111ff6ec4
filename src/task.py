"""The seam: what differs between the tasks, as one record of values and plain functions. Nothing compares its name."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

import decision
import folds
import labels
import metrics
from files import Logits, write_submission
from metrics import Costs, tally_one_hot
from rules import RULES


@dataclass(frozen=True)
class Task:
    name: str
    read: Callable[[Path], labels.Tables]  # data folder → labelled table and test ids
    strata: Callable[[np.ndarray], np.ndarray]  # targets [N, C] → int [N], what the split keeps in proportion
    split: Callable[[np.ndarray, float, int], np.ndarray]  # strata, fraction, seed → bool [N], True = validation
    loss: str  # a name in losses.LOSSES
    corrections: tuple[frozenset[str], ...]  # of class imbalance: the sets of them that may be used together
    conflict: str  # why other sets may not
    views: tuple[str, ...]  # names in infer.VIEWS that test-time augmentation may use
    monitor: str  # the figure of `metrics` that chooses the epoch
    mode: str  # "max" or "min"
    metrics: Callable[[np.ndarray, np.ndarray, np.ndarray], dict[str, float]]  # targets [N, C], logits [N, C], counts [C]
    rules: tuple[str, ...]  # names of decision rules
    calibrate: Callable[..., dict]  # validation logits, one file a network, and a fixed temperature or None → calibration.json
    decide: Callable[..., np.ndarray]  # test logits, one file a network; calibration; rule; natural counts or None → int [N]
    posterior: Callable[..., np.ndarray]  # test logits, calibration → float [N, C] under the natural class frequencies
    write: Callable[..., None]  # path, ids, classes, answers, test.csv's ids → the checked submission
    held_out: Callable[..., tuple]  # validation logits, calibration, rules → answers of each [N], posterior [N, C], by fits that did not see the row
    report: Callable[[Sequence[Logits], dict], dict]  # validation logits, calibration → figures of every rule beside the bar
    report_test: Callable[..., dict]  # test logits, calibration, targets → the same where test labels are known


def competition(costs: Costs = Costs()) -> Task:
    """The 20-class competition: one answer an image, scored by the asymmetric cost."""
    return Task(
        name="competition",
        read=labels.read_competition,
        strata=lambda targets: targets.argmax(axis=1),
        split=folds.stratified,
        loss="cross_entropy",
        corrections=(frozenset(), frozenset({"sampler"}), frozenset({"loss_weights"}), frozenset({"logit_adjustment"})),
        conflict="each of them shifts the class prior that the network learns, and together they drown the common classes (a sampler "
        "with loss weights and focal loss scored −117 on Kaggle): keep one",
        views=("original", "flip"),
        monitor="score",
        mode="max",
        metrics=partial(_monitor, costs),
        rules=tuple(RULES),
        calibrate=partial(decision.calibrate, costs),
        decide=decision.decide,
        posterior=decision.posterior,
        write=write_submission,
        held_out=decision.held_out,
        report=decision.report,
        report_test=decision.report_test,
    )


TASKS: dict[str, Callable[..., Task]] = {  # name → configuration → task
    "competition": lambda config: competition(Costs(*config.costs)),
}


def _monitor(costs: Costs, targets: np.ndarray, logits: np.ndarray, counts: np.ndarray) -> dict[str, float]:
    return metrics.summary(tally_one_hot(targets, np.where(counts > 0, logits, -np.inf).argmax(axis=1)), costs)
