"""The competition's score and the figures beside it, on integer class answers."""

from dataclasses import dataclass

import numpy as np

REWARD, FALSE_ALARM, MISS = 1.0, 1.0, 5.0


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


def tally(truth: np.ndarray, answers: np.ndarray, classes: int) -> Tally:
    """Count hits and errors of integer answers [N] against integer truth [N]."""
    n = np.bincount(truth, minlength=classes)
    answered = np.bincount(answers, minlength=classes)
    tp = np.bincount(truth[truth == answers], minlength=classes)
    return Tally(tp, answered - tp, n - tp, n)


def constant(n: np.ndarray, answer: int) -> Tally:
    """The tally of giving every image the same answer; n int [C] are the true images of every class."""
    chosen = np.arange(len(n)) == answer
    return Tally(n * chosen, (n.sum() - n) * chosen, n * ~chosen, n)


def class_scores(counts: Tally) -> np.ndarray:
    """(TP_c − FP_c − 5·FN_c) / N_c for every class, float [C]; NaN where the truth has no image of the class."""
    earned = REWARD * counts.tp - FALSE_ALARM * counts.fp - MISS * counts.fn
    return np.divide(earned, counts.n, out=np.full(len(counts.n), np.nan), where=counts.present)


def competition_score(counts: Tally) -> float:
    """The mean of `class_scores` over the classes that the truth has: at best 1, no lower limit.

    Equal to 6·balanced_accuracy − 5 − mean_c(FP_c / N_c). How the organisers treat a class without images is not
    known; here it is left out of the mean, and whoever prints the score says so.
    """
    return float(np.nanmean(class_scores(counts)))


def f1(counts: Tally) -> np.ndarray:
    """2TP / (2TP + FP + FN) for every class, float [C]; NaN for absent classes."""
    below = 2 * counts.tp + counts.fp + counts.fn
    return np.divide(2 * counts.tp, below, out=np.full(len(counts.n), np.nan), where=counts.present)


def summary(counts: Tally) -> dict[str, float]:
    """Score, accuracy, balanced accuracy and macro-F1, each over the classes that are present."""
    recall = np.divide(counts.tp, counts.n, out=np.full(len(counts.n), np.nan), where=counts.present)
    return {
        "score": competition_score(counts),
        "accuracy": float(counts.tp.sum() / counts.n.sum()),
        "balanced_accuracy": float(np.nanmean(recall)),
        "macro_f1": float(np.nanmean(f1(counts))),
    }
