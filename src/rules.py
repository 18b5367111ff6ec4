"""Decision rules: from logits to one class a row. Each is fitted on labelled logits and scores every class of every row.

`bayes` is the kit's own; `argmax` and `temperature` are the competition report's; `thresholds`, `bias` and `power` are
what public solutions use, kept here to be compared with.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

import folds
from calibrate import GRID, Posterior, fit_posterior, probabilities, trained
from files import Logits
from metrics import Costs, competition_score, earned, tally

PARTS = 5  # of the validation rows, in cross-fitting
TINY = 1e-12  # a probability's floor before its logarithm


@dataclass(frozen=True)
class Rule:
    """fit: labelled logits → parameters, as JSON holds them. scores: logits, parameters, costs, natural class counts → float [N, C]."""

    fit: Callable[[Logits, Costs], dict]
    scores: Callable[[Logits, dict, Costs, np.ndarray], np.ndarray]

    def answers(self, contents: Sequence[Logits], params: Sequence[dict], costs: Costs, counts: np.ndarray | None = None) -> np.ndarray:
        """The answer to every row, int [N], from one network's logits or several's (folds) of the same rows.

        The scores are averaged over the networks; a class that one of them was not trained on, or of which `counts` has
        none, is never answered.
        """
        total = 0
        for content, own in zip(contents, params, strict=True):
            frequency = content.counts if counts is None else counts
            total = total + np.where(trained(content) & (frequency > 0), self.scores(content, own, costs, frequency), -np.inf)
        return total.argmax(axis=1)


def truth_of(content: Logits) -> np.ndarray:
    return content.targets.argmax(axis=1)


def parted(vals: Sequence[Logits]) -> Iterator[tuple[np.ndarray, Logits, Logits]]:
    """Cross-fitting: every file is parted in five, class by class. Yields for each part where its rows stand in all files'
    rows together, int [n], the file's other parts to fit on, and the part itself."""
    start = 0
    for val in vals:
        part = folds.parts(truth_of(val), min(PARTS, len(val.ids)), seed=0)
        for k in np.unique(part):
            yield start + np.flatnonzero(part == k), val.take(part != k), val.take(part == k)
        start += len(val.ids)


# ---- the Bayes rule
def bayes_scores(p: np.ndarray, counts: np.ndarray, costs: Costs) -> np.ndarray:
    """What answering each class earns in expectation, up to a term that is the same for all: ((tp + fp + fn)·p − fp) / N.

    p float [N, C] under the natural class frequencies, counts [C] in proportion to them. Answering k gains tp with
    probability p_k and costs fp with 1 − p_k, over N_k; and it avoids the miss of k, fn·p_k / N_k. Elkan 2001, equation 1,
    with the metric's cost matrix.
    """
    return np.divide((costs.tp + costs.fp + costs.fn) * p - costs.fp, counts, out=np.full(p.shape, -np.inf), where=np.asarray(counts) > 0)


def _fit_bayes(val: Logits, costs: Costs) -> dict:
    found, spreads = fit_posterior(val)
    return {"slopes": found.slopes.tolist(), "offsets": found.offsets.tolist(), "spreads": list(spreads)}


def posterior_of(params: dict) -> Posterior:
    return Posterior(np.array(params["slopes"], float), np.array(params["offsets"], float))


def _score_bayes(content: Logits, params: dict, costs: Costs, counts: np.ndarray) -> np.ndarray:
    return bayes_scores(posterior_of(params).probabilities(content, counts), counts, costs)


# ---- the report's rule: a temperature chosen by the score
def _fit_temperature(val: Logits, costs: Costs) -> dict:
    """The best-scoring temperature of the grid and the whole curve; ties go to the smallest |log T|.

    The temperature decides nothing where all views have the same first class, so only the other rows are looked at again.
    """
    truth, known = truth_of(val), trained(val)
    first = np.where(known, val.logits, -np.inf).argmax(axis=-1)
    torn = (first != first[0]).any(axis=0)
    answers, logits, curve = first[0].copy(), val.logits[:, torn], []
    for temperature in GRID:
        answers[torn] = np.where(known, probabilities(logits, temperature), -1).argmax(axis=1)
        curve.append({"temperature": temperature, "score": competition_score(tally(truth, answers, len(known)), costs)})
    best = max(curve, key=lambda point: (point["score"], -abs(np.log(point["temperature"])), -point["temperature"]))
    return {"temperature": best["temperature"], "tuned": True, "curve": curve}


# ---- the rules of public solutions, on the plain softmax
def _plain(content: Logits) -> np.ndarray:
    return probabilities(content.logits) * trained(content)


def _fit_thresholds(val: Logits, costs: Costs) -> dict:
    """For every class by itself the threshold in 0.30, 0.31 … 0.94 that maximises the class's own score when p ≥ t means
    yes; then argmax p/t. All thresholds are 1 when that does not beat argmax on these rows."""
    p, truth, grid = _plain(val), truth_of(val), np.arange(0.30, 0.945, 0.01)
    thresholds = np.ones(len(val.classes))
    for c in range(len(thresholds)):
        place = np.searchsorted(grid, p[:, c], side="right")  # how many thresholds the row passes
        hits = np.bincount(place[truth == c], minlength=len(grid) + 1)[::-1].cumsum()[::-1][1:]
        alarms = np.bincount(place[truth != c], minlength=len(grid) + 1)[::-1].cumsum()[::-1][1:]
        thresholds[c] = grid[np.argmax((costs.tp + costs.fn) * hits - costs.fp * alarms)]
    score = {name: competition_score(tally(truth, (p / t).argmax(axis=1), len(thresholds)), costs) for name, t in (("with", thresholds), ("without", 1.0))}
    return {"thresholds": (thresholds if score["with"] > score["without"] else np.ones(len(thresholds))).tolist()}


BIASES = np.array([-2.0, -1.5, -1.0, -0.7, -0.5, -0.3, 0.0, 0.3, 0.5, 0.7, 1.0])


def _fit_bias(val: Logits, costs: Costs) -> dict:
    """Greedy search of an offset for every class's logit: three passes over the classes, each taking the offset of a fixed
    list that gives the best score with the others as they are."""
    logits, truth = np.log(_plain(val) + TINY), truth_of(val)
    rows, classes = np.arange(len(truth)), len(val.classes)
    worth = np.stack([earned(truth, np.full(len(truth), c), classes, costs) for c in range(classes)])  # [C, N] of answering c
    bias = np.zeros(classes)
    for _ in range(3):
        before = bias.copy()
        for c in range(classes):
            if c == 0 or changed:
                total = logits + bias
                first = total.argmax(axis=1)
                top = total[rows, first]
                total[rows, first] = -np.inf
                second = total.argmax(axis=1)
            rival = np.where(first == c, second, first)
            margin = np.where(first == c, total[rows, second], top) - logits[:, c]  # the offset that answering c takes
            gain = worth[c] - worth[rival, rows]
            gains = np.bincount(np.searchsorted(BIASES, margin), gain, minlength=len(BIASES) + 1).cumsum()[:-1]
            best = BIASES[gains >= gains.max() - 1e-12]
            choice = best[np.argmin(abs(best - bias[c]))]  # of equally good ones the nearest
            changed, bias[c] = choice != bias[c], choice
        if (bias == before).all():
            break
    return {"bias": bias.tolist()}


POWERS = np.linspace(-1.5, 1.5, 31)


def _fit_power(val: Logits, costs: Costs) -> dict:
    """The α in −1.5, −1.4 … 1.5 with the best score of argmax p·(N + 1)^−α; of equally good ones the nearest to 0."""
    p, truth = _plain(val), truth_of(val)
    scores = [competition_score(tally(truth, (p * (val.counts + 1.0) ** -power).argmax(axis=1), len(val.classes)), costs) for power in POWERS]
    return {"alpha": float(max(zip(scores, -abs(POWERS), POWERS, strict=True))[2])}


RULES = {
    "argmax": Rule(lambda val, costs: {}, lambda content, params, costs, counts: probabilities(content.logits)),
    "temperature": Rule(_fit_temperature, lambda content, params, costs, counts: probabilities(content.logits, params["temperature"])),
    "bayes": Rule(_fit_bayes, _score_bayes),
    "thresholds": Rule(_fit_thresholds, lambda content, params, costs, counts: probabilities(content.logits) / np.array(params["thresholds"])),
    "bias": Rule(_fit_bias, lambda content, params, costs, counts: np.log(probabilities(content.logits) + TINY) + np.array(params["bias"])),
    "power": Rule(_fit_power, lambda content, params, costs, counts: probabilities(content.logits) * (content.counts + 1.0) ** -params["alpha"]),
}
