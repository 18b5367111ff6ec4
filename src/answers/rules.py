"""Decision rules: from logits to one class a row. Each is fitted on labelled logits and scores every class of every
row.

`bayes` is the kit's own; `argmax` and `temperature` are the competition report's; `thresholds`, `bias` and `power` are
what public solutions use, kept here to be compared with.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from answers.metrics import Costs, earned
from answers.posterior import GRID, Posterior, fit_posterior, probabilities, trained
from core import folds
from core.errors import UserError
from core.logits_file import Logits

VECTORS = {"slopes", "offsets", "thresholds", "bias"}
PARTS = 5  # of the validation rows, in cross-fitting
TEMPERATURES = 0.01, 100.0  # what a temperature may be
TINY = 1e-12  # a probability's floor before its logarithm


@dataclass(frozen=True)
class Rule:
    """fit: labelled logits → parameters, as JSON holds them. scores: logits, parameters, costs, natural class counts →
    float [N, C].

    `limits` are the parameters and their range; those in VECTORS have a number for every class.
    """

    fit: Callable[[Logits, Costs], dict]
    scores: Callable[[Logits, dict, Costs, np.ndarray], np.ndarray]
    limits: dict[str, tuple[float, float]]

    def check(self, params: dict, classes: int) -> None:
        """Raise ValueError unless these are parameters that `fit` could have returned for so many classes."""
        if not isinstance(params, dict):
            raise ValueError("no names and values")
        for name, (low, high) in self.limits.items():
            value = np.array(params[name])
            if (
                value.dtype.kind not in "fi"
                or value.shape != ((classes,) if name in VECTORS else ())
                or not ((value >= low) & (value <= high)).all()
            ):
                raise ValueError(name)

    def answers(
        self, contents: Sequence[Logits], params: Sequence[dict], costs: Costs, counts: np.ndarray | None = None
    ) -> np.ndarray:
        """The answer to every row, int [N], from one network's logits or several's (folds) of the same rows.

        The scores are averaged over the networks. A class that one of them was not trained on, or of which `counts` has
        none, is never answered. Without `counts` the natural ones are those of all networks together.
        """
        frequency = sum(content.counts for content in contents) if counts is None else counts
        possible = np.all([trained(content) for content in contents], axis=0) & (frequency > 0)
        if not possible.any():
            raise UserError(
                "there is no class to answer: none was trained in every network and has natural counts above 0"
            )
        total = sum(self.scores(content, own, costs, frequency) for content, own in zip(contents, params, strict=True))
        return np.where(possible, total, -np.inf).argmax(axis=1)


def truth_of(content: Logits) -> np.ndarray:
    return content.targets.argmax(axis=1)


def parted(
    vals: Sequence[Logits], patients: np.ndarray | None = None
) -> Iterator[tuple[np.ndarray, int, Logits, Logits]]:
    """Cross-fitting: every file is parted in five, class by class, or by the patients of all its rows, str [N]. Yields
    for each part where its rows stand in all files' rows together, int [n], the file's number, its other parts to fit
    on, and the part itself."""
    start = 0
    for number, val in enumerate(vals):
        own = None if patients is None else patients[start : start + len(val.ids)]
        part = folds.parts(truth_of(val), PARTS, seed=0, patients=own)
        for k in np.unique(part):
            yield start + np.flatnonzero(part == k), number, val.take(part != k), val.take(part == k)
        start += len(val.ids)


def _pricing(val: Logits, costs: Costs) -> Callable[[np.ndarray], np.ndarray]:
    """What answers [N] add to the score on these rows, row by row, float [N]: what the rules below are fitted by.

    A class without a row here has the images that the natural frequencies let expect, or its false alarms would be
    free.
    """
    truth = truth_of(val)
    n = np.bincount(truth, minlength=len(val.classes)).astype(float)
    n = np.where(n > 0, n, val.counts / val.counts.sum() * len(truth))
    return lambda answers: earned(truth, answers, n, costs)


# ---- the Bayes rule
def bayes_scores(p: np.ndarray, counts: np.ndarray, costs: Costs) -> np.ndarray:
    """What answering each class earns in expectation, up to a term that is the same for all: ((tp + fp + fn)·p − fp) /
    N.

    p float [N, C] under the natural class frequencies, counts [C] in proportion to them. Answering k gains tp with
    probability p_k and costs fp with 1 − p_k, over N_k; and it avoids the miss of k, fn·p_k / N_k. Elkan 2001, equation
    1, with the metric's cost matrix.
    """
    frequency = np.asarray(counts) / np.sum(counts)
    return np.divide(
        (costs.tp + costs.fp + costs.fn) * p - costs.fp, frequency, out=np.full(p.shape, -np.inf), where=frequency > 0
    )


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

    The temperature decides nothing where all views have the same first class, so only the other rows are looked at
    again.
    """
    known, worth = trained(val), _pricing(val, costs)
    first = np.where(known, val.logits, -np.inf).argmax(axis=-1)
    torn = (first != first[0]).any(axis=0)
    answers, logits, curve = first[0].copy(), val.logits[:, torn], []
    for temperature in GRID:
        answers[torn] = np.where(known, probabilities(logits, temperature), -1).argmax(axis=1)
        curve.append({"temperature": temperature, "score": float(worth(answers).sum())})
    best = max(curve, key=lambda point: (point["score"], -abs(np.log(point["temperature"])), -point["temperature"]))
    return {"temperature": best["temperature"], "tuned": True, "curve": curve}


# ---- the rules of public solutions, on the plain softmax
def _plain(content: Logits) -> np.ndarray:
    return probabilities(content.logits) * trained(content)


def _fit_thresholds(val: Logits, costs: Costs) -> dict:
    """For every class by itself the threshold in 0.30, 0.31 … 0.94 that maximises the class's own score when p ≥ t
    means yes, the lowest of equally good ones; then argmax p/t. All thresholds are 1 when that does not beat argmax on
    these rows.
    """
    p, truth, worth, grid = _plain(val), truth_of(val), _pricing(val, costs), np.arange(0.30, 0.945, 0.01)
    thresholds = np.ones(len(val.classes))
    for c in range(len(thresholds)):
        place = np.searchsorted(grid, p[:, c], side="right")  # how many thresholds the row passes
        hits = np.bincount(place[truth == c], minlength=len(grid) + 1)[::-1].cumsum()[::-1][1:]
        alarms = np.bincount(place[truth != c], minlength=len(grid) + 1)[::-1].cumsum()[::-1][1:]
        thresholds[c] = grid[np.argmax((costs.tp + costs.fn) * hits - costs.fp * alarms)]
    better = worth((p / thresholds).argmax(axis=1)).sum() > worth(p.argmax(axis=1)).sum()
    return {"thresholds": (thresholds if better else np.ones(len(thresholds))).tolist()}


BIASES = np.array([-2.0, -1.5, -1.0, -0.7, -0.5, -0.3, 0.0, 0.3, 0.5, 0.7, 1.0])


def _fit_bias(val: Logits, costs: Costs) -> dict:
    """Greedy search of an offset for every class's logit: three passes over the classes, each taking the offset of a
    fixed list that gives the best score with the others as they are."""
    logits = np.log(_plain(val) + TINY)
    rows, classes = np.arange(len(logits)), len(val.classes)
    # [C, N] of answering c
    worth = np.stack([*map(_pricing(val, costs), np.repeat(np.arange(classes)[:, None], len(rows), axis=1))])
    bias, total = np.zeros(classes), logits.copy()
    answers, top = logits.argmax(axis=1), logits.max(axis=1)
    for c in [*range(classes)] * 3:
        mine = np.flatnonzero(answers == c)
        others = total[mine]
        others[:, c] = -np.inf
        rival, bar = answers.copy(), top.copy()  # the best answer but c, and its logit
        rival[mine], bar[mine] = others.argmax(axis=1), others.max(axis=1)
        gain = worth[c] - worth[rival, rows]
        gains = np.bincount(np.searchsorted(BIASES, bar - logits[:, c]), gain, minlength=len(BIASES) + 1).cumsum()[:-1]
        best = BIASES[gains >= gains.max() - 1e-12]
        bias[c] = best[np.argmin(abs(best - bias[c]))]  # of equally good ones the nearest
        total[:, c] = logits[:, c] + bias[c]
        answers, top = np.where(total[:, c] >= bar, c, rival), np.maximum(total[:, c], bar)
    return {"bias": bias.tolist()}


POWERS = np.linspace(-1.5, 1.5, 31)


def _fit_power(val: Logits, costs: Costs) -> dict:
    """The α in −1.5, −1.4 … 1.5 with the best score of argmax p·(N + 1)^−α; of equally good ones the nearest to 0."""
    p, worth = _plain(val), _pricing(val, costs)
    scores = [worth((p * ((val.counts + 1.0) ** -power).astype(p.dtype)).argmax(axis=1)).sum() for power in POWERS]
    return {"alpha": float(max(zip(scores, -abs(POWERS), POWERS, strict=True))[2])}


RULES = {
    "argmax": Rule(lambda val, costs: {}, lambda content, params, costs, counts: probabilities(content.logits), {}),
    "temperature": Rule(
        _fit_temperature,
        lambda content, params, costs, counts: probabilities(content.logits, params["temperature"]),
        {"temperature": TEMPERATURES},
    ),
    "bayes": Rule(_fit_bayes, _score_bayes, {"slopes": (1e-6, 1e6), "offsets": (-1e3, 1e3)}),
    "thresholds": Rule(
        _fit_thresholds,
        lambda content, params, costs, counts: probabilities(content.logits) / np.array(params["thresholds"]),
        {"thresholds": (1e-6, 1.0)},
    ),
    "bias": Rule(
        _fit_bias,
        lambda content, params, costs, counts: np.log(probabilities(content.logits) + TINY) + np.array(params["bias"]),
        {"bias": (-1e3, 1e3)},
    ),
    "power": Rule(
        _fit_power,
        lambda content, params, costs, counts: (
            probabilities(content.logits) * (content.counts + 1.0) ** -params["alpha"]
        ),
        {"alpha": (-10, 10)},
    ),
}
