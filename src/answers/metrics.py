"""The competition's score and the figures beside it, on integer class answers."""

from dataclasses import dataclass

import numpy as np

from core.errors import UserError


@dataclass(frozen=True)
class Costs:
    """What a hit earns, and what a false alarm and a miss cost. Raises UserError unless all are numbers from 0 to
    1e6."""

    tp: float = 1.0
    fp: float = 1.0
    fn: float = 5.0

    def __post_init__(self):
        for cost in (self.tp, self.fp, self.fn):
            if not isinstance(cost, (int, float)) or not 0 <= cost <= 1e6:
                raise UserError(
                    f"costs {self.tp} {self.fp} {self.fn}: the reward of a hit and the costs of a false alarm and of a"
                    " miss are numbers from 0 to a million"
                )


@dataclass(frozen=True)
class Tally:
    """True positives, false alarms, misses and images of every class, int [C] each; a class with n = 0 is absent."""

    tp: np.ndarray
    fp: np.ndarray
    fn: np.ndarray
    n: np.ndarray

    @property
    def present(self) -> np.ndarray:
        return self.n > 0

    def rate(self, amount: np.ndarray) -> np.ndarray:
        """`amount` of every class divided by the class's images, float [C]; NaN for absent classes."""
        return np.divide(amount, self.n, out=np.full(len(self.n), np.nan), where=self.present)


def tally(truth: np.ndarray, answers: np.ndarray, classes: int) -> Tally:
    """Count hits and errors of integer answers [N] against integer truth [N]."""
    n = np.bincount(truth, minlength=classes)
    answered = np.bincount(answers, minlength=classes)
    tp = np.bincount(truth[truth == answers], minlength=classes)
    return Tally(tp, answered - tp, n - tp, n)


def tally_one_hot(targets: np.ndarray, answers: np.ndarray) -> Tally:
    """The same against one-hot targets [N, C]."""
    return tally(targets.argmax(axis=1), answers, targets.shape[1])


def constant(n: np.ndarray, answer: int) -> Tally:
    """The tally of giving every image the same answer; n int [C] are the true images of every class."""
    chosen = np.arange(len(n)) == answer
    return Tally(n * chosen, (n.sum() - n) * chosen, n * ~chosen, n)


def class_scores(counts: Tally, costs: Costs = Costs()) -> np.ndarray:
    """(TP_c − FP_c − 5·FN_c) / N_c for every class, float [C]; NaN where the truth has no image of the class."""
    return counts.rate(costs.tp * counts.tp - costs.fp * counts.fp - costs.fn * counts.fn)


def competition_score(counts: Tally, costs: Costs = Costs()) -> float:
    """The mean of `class_scores` over the classes that the truth has: at best 1, no lower limit.

    Equal to 6·balanced_accuracy − 5 − mean_c(FP_c / N_c). How the organisers treat a class without images is not
    known; here it is left out of the mean, and whoever prints the score says so.
    """
    return float(np.nanmean(class_scores(counts, costs)))


def earned(truth: np.ndarray, answers: np.ndarray, n: np.ndarray, costs: Costs = Costs()) -> np.ndarray:
    """What every image adds to `competition_score` where class c has n_c images, float [N]: their sum is the score.

    A false alarm for a class with n_c = 0 is free, as in the score.
    """
    each = np.divide(1.0, n, out=np.zeros(len(n)), where=n > 0) / np.count_nonzero(n)
    return np.where(answers == truth, costs.tp * each[truth], -costs.fn * each[truth] - costs.fp * each[answers])


def weighted_scores(
    truth: np.ndarray, answers: np.ndarray, weights: np.ndarray, classes: int, costs: Costs = Costs()
) -> np.ndarray:
    """`competition_score` of every draw, where image i stands weights[d, i] times: float [draws]. The mean is over the
    classes that a draw has images of."""
    true, said = np.eye(classes)[truth], np.eye(classes)[answers]
    n, answered, hits = weights @ true, weights @ said, weights @ (true * said)
    total = costs.tp * hits - costs.fp * (answered - hits) - costs.fn * (n - hits)
    scores = np.divide(total, n, out=np.zeros(n.shape), where=n > 0)
    return scores.sum(axis=1) / (n > 0).sum(axis=1)


def f1(counts: Tally) -> np.ndarray:
    """2TP / (2TP + FP + FN) for every class, float [C]; NaN for absent classes."""
    below = 2 * counts.tp + counts.fp + counts.fn
    return np.divide(2 * counts.tp, below, out=np.full(len(counts.n), np.nan), where=counts.present)


def summary(counts: Tally, costs: Costs = Costs()) -> dict[str, float]:
    """Score, accuracy, balanced accuracy and macro-F1, each over the classes that are present."""
    return {
        "score": competition_score(counts, costs),
        "accuracy": float(counts.tp.sum() / counts.n.sum()),
        "balanced_accuracy": float(np.nanmean(counts.rate(counts.tp))),
        "macro_f1": float(np.nanmean(f1(counts))),
    }


def nll(probabilities: np.ndarray, truth: np.ndarray) -> float:
    """Mean negative log-likelihood in nats of integer truth [N] under probabilities [N, C]; a 0 counts as 1e-12."""
    return float(-np.log(np.maximum(probabilities[np.arange(len(truth)), truth], 1e-12)).mean())


def brier(probabilities: np.ndarray, truth: np.ndarray) -> float:
    """Mean over images of the squared distance to the one-hot truth, between 0 and 2 (Brier 1950, equation 2)."""
    return float(((probabilities - np.eye(probabilities.shape[1])[truth]) ** 2).sum(axis=1).mean())


def reliability(probabilities: np.ndarray, truth: np.ndarray, bins: int = 10) -> list[dict]:
    """The most probable class's probability beside how often it is right, in bins of equal width (Guo et al. 2017,
    equations 1–2)."""
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == truth
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    return [
        {
            "from": b / bins,
            "to": (b + 1) / bins,
            "images": int((place == b).sum()),
            "confidence": float(confidence[place == b].mean()),
            "accuracy": float(right[place == b].mean()),
        }
        for b in range(bins)
        if (place == b).any()
    ]
