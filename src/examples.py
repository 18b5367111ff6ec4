"""Which images of a run are worth a look: rows of its logits, a class for each, and why."""

from collections.abc import Iterable, Sequence
from itertools import zip_longest
from typing import NamedTuple

import numpy as np

import calibrate
import decision
import findings
from errors import UserError
from files import Logits
from rules import truth_of

CERTAIN = 0.9  # the probability that the thesis asks of an image that it explains
RAREST = 0.25  # of the classes: those with the fewest training images


class Example(NamedTuple):
    """A row of a logits file, the column of the class to explain there, that class's probability, and why this image."""

    row: int
    label: int
    p: float
    why: str


def of_findings(val: Logits, test: Logits | None, calibration: dict, rule: str, labels: Sequence[int], number: int) -> tuple[Logits, list[Example]]:
    """Images of the test part as the thesis chose them: exactly one positive label, and p > 0.9 for it under `rule`.

    Of the columns `labels` each in turn, its most probable image first, at most `number` in all. Where no image passes 0.9 the
    most probable ones are taken, and `why` says so. Also returns the logits file whose rows they are. Raises UserError
    without a test part, or without an image that has exactly one positive label, one of `labels`.
    """
    if test is None:
        raise UserError("the run has no test_logits.npz yet, and its examples are test images: run the command that began it once more")
    p, positive = findings.probabilities([test], calibration, rule), test.targets == 1
    single, label = (positive.sum(axis=1) == 1) & ~np.isnan(test.targets).any(axis=1), positive.argmax(axis=1)
    rows = np.flatnonzero(single & np.isin(label, labels))
    if not len(rows):
        raise UserError("no image of the test part has exactly one positive label that is among the wanted ones: name others with --labels, or split with more test images")
    sure = rows[p[rows, label[rows]] > CERTAIN]
    why = f"one positive label, p > {CERTAIN}" if len(sure) else f"one positive label; none has p > {CERTAIN}, so the most probable"
    rows = sure if len(sure) else rows
    queues = [[Example(row, c, p[row, c], why) for row in _falling(rows[label[rows] == c], p[:, c])] for c in labels]
    return test, _in_turn(queues, number)


def of_decisions(val: Logits, test: Logits | None, calibration: dict, rule: str, labels: Sequence[int], number: int) -> tuple[Logits, list[Example]]:
    """Images of the validation part, whose labels are known: a third each of the rarest classes, hits and misses of `rule`,
    cross-fitted, at most `number` in all.

    Every example is explained for its true class, one of the columns `labels`; p is the plain softmax, averaged over views.
    Rarest: the quarter of `labels` with the fewest training images, the most probable image of each. Hits and misses: every
    class in turn, the most probable hits first, and the misses whose wrong answer was the most probable. Raises UserError
    when no image is of these classes.
    """
    answers = decision.held_out([val], calibration, [rule])[0][rule]
    truth, p = truth_of(val), calibrate.probabilities(val.logits)
    every = np.arange(len(truth))
    there = [c for c in labels if (truth == c).any()]
    if not there:
        raise UserError("no image of the validation part is of the wanted classes: name others with --labels")

    def example(row: int, what: str) -> Example:
        outcome = "hit" if answers[row] == truth[row] else f"missed: answered {val.classes[answers[row]]}, p = {p[row, answers[row]]:.2f}"
        return Example(int(row), int(truth[row]), float(p[row, truth[row]]), what + outcome)

    def queue(right: bool) -> list[Example]:
        sure = p[every, answers]
        each = [_falling(np.flatnonzero((truth == c) & ((answers == truth) == right)), sure) for c in there]
        each = sorted((rows for rows in each if len(rows)), key=lambda rows: -sure[rows[0]])
        return [example(row, "") for turn in zip_longest(*each) for row in turn if row is not None]

    rarest = sorted(there, key=lambda c: val.counts[c])[: int(np.ceil(RAREST * len(there)))]
    rare = [example(_falling(np.flatnonzero(truth == c), p[:, c])[0], f"rare, {val.counts[c]} training images; ") for c in rarest]
    return val, _in_turn([rare, queue(True), queue(False)], number)


def _falling(rows: np.ndarray, p: np.ndarray) -> list[int]:
    """The rows by falling p [N]; of equal ones the first first."""
    return rows[np.argsort(-p[rows], kind="stable")].tolist()


def _in_turn(queues: Iterable[list[Example]], number: int) -> list[Example]:
    """One of every queue in turn until there are `number`, no row twice; then queue by queue."""
    first: dict[int, tuple[int, Example]] = {}
    for turn in zip_longest(*queues):
        for place, example in enumerate(turn):
            if example is not None:
                first.setdefault(example.row, (place, example))
    return [example for _, example in sorted(list(first.values())[:number], key=lambda pair: pair[0])]
