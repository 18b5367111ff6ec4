"""How well a linear classifier tells the classes from something that should not tell them: borders, brightness, view.

Cross-validated logistic regression (scikit-learn) on the principal components of the features, judged by the macro
AUC-ROC with its bootstrap interval, beside the same with the labels shuffled.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from answers import stats
from core import folds

COMPONENTS = (
    32  # of the features at most: 93 % of the variance of borders; 64 tell no more, and take four times as long
)
STRENGTH = 1.0  # C of the logistic regression
FOLDS = 5
FEWEST = 10  # images of a class (and others) that are needed to tell anything of it
DRAWS = 200
SHUFFLES = 5


class Told(NamedTuple):
    """Areas under the ROC curve: `each` [C] (NaN where a class has too few images), their mean, and its 95 %
    interval."""

    each: np.ndarray
    macro: float
    low: float
    high: float


def told(features: np.ndarray, targets: np.ndarray, exclusive: bool, groups: np.ndarray | None, seed: int = 0) -> Told:
    """How well `features`, float [N, K], tell the classes of `targets`, [N, C] of 0 and 1.

    Each row is judged by the classifier of the four folds that it is not in; with `groups`, str [N], whole groups
    (patients) make the folds and the draws of the interval.
    """
    shown = enough(targets)
    scores = _held_out(components(features), targets[:, shown], exclusive, groups, seed)
    members = np.arange(len(targets)).astype(str) if groups is None else groups
    weights = stats.cluster_weights(members, DRAWS, seed)
    once, every = np.ones((1, len(targets))), np.ones(len(targets), bool)
    each, draws = np.full(targets.shape[1], np.nan), []
    for place, column in enumerate(np.flatnonzero(shown)):
        truth = targets[:, column] == 1
        each[column] = stats.ranking(truth, scores[:, place], every, once)[0][0]
        draws.append(stats.ranking(truth, scores[:, place], every, weights)[0])
    if not draws:
        return Told(each, *[float("nan")] * 3)
    low, high = np.nanquantile(np.nanmean(draws, axis=0), [0.025, 0.975])
    return Told(each, float(np.nanmean(each)), float(low), float(high))


def by_luck(features: np.ndarray, targets: np.ndarray, exclusive: bool, groups: np.ndarray | None) -> np.ndarray:
    """The macro area when every image is given the labels of another one, float [5]: what no information reaches."""
    found, shown = components(features), enough(targets)
    once, every, macro = np.ones((1, len(targets))), np.ones(len(targets), bool), []
    for seed in range(SHUFFLES):
        mixed = targets[np.random.default_rng(seed).permutation(len(targets))][:, shown]
        scores = _held_out(found, mixed, exclusive, groups, seed)
        areas = [stats.ranking(mixed[:, c] == 1, scores[:, c], every, once)[0][0] for c in range(mixed.shape[1])]
        macro.append(np.mean(areas) if areas else np.nan)
    return np.array(macro)


def enough(targets: np.ndarray) -> np.ndarray:
    """The classes with ten images and more, and as many without: bool [C]."""
    return ((targets == 1).sum(axis=0) >= FEWEST) & ((targets == 0).sum(axis=0) >= FEWEST)


def components(features: np.ndarray) -> np.ndarray:
    """The standardised features in their principal components, the first with variance 1: float [N, ≤ 32]."""
    features = np.asarray(features, float)
    spread = features.std(axis=0)
    standard = (features - features.mean(axis=0))[:, spread > 1e-6] / spread[spread > 1e-6]
    if not standard.shape[1]:
        return np.zeros((len(features), 1))
    from scipy.linalg import eigh  # which can leave the small ones out

    number = standard.shape[1]
    kept = [max(0, number - COMPONENTS), number - 1]
    values, axes = eigh(standard.T @ standard / len(standard), subset_by_index=kept)
    return standard @ axes[:, ::-1] / np.sqrt(values[-1])


def one_hot(values: np.ndarray) -> np.ndarray:
    """Categories str [N] to a column of 0 and 1 each: float [N, K]."""
    return (values[:, None] == np.unique(values)[None]).astype(float)


def _held_out(
    found: np.ndarray, targets: np.ndarray, exclusive: bool, groups: np.ndarray | None, seed: int
) -> np.ndarray:
    """The log-odds (exclusive: log-probabilities) of every row by a classifier that did not see it, over those of the
    classes' frequencies there, float [N, C]: without the latter, a fold whose share of a class is high by chance is
    ranked low by the others, and an area without any information falls below 0.5."""
    from threadpoolctl import threadpool_limits

    scores = np.zeros(targets.shape)
    if not targets.shape[1]:
        return scores
    strata = targets.argmax(axis=1) if exclusive else (targets * 2.0 ** np.arange(targets.shape[1])).sum(axis=1)
    part = folds.parts(strata, FOLDS, seed, groups)
    with threadpool_limits(1):  # with more the many small fits take ten times as long where others compute, too
        for fold in np.unique(part):
            learn, judge = part != fold, part == fold
            scores[judge] = (_softmax if exclusive else _sigmoids)(found[learn], targets[learn], found[judge])
    return scores


def _softmax(learn: np.ndarray, targets: np.ndarray, judge: np.ndarray) -> np.ndarray:
    from sklearn.linear_model import LogisticRegression

    known = targets.any(axis=1)  # of a class that is judged
    truth, scores = targets[known].argmax(axis=1), np.zeros((len(judge), targets.shape[1]))
    there, times = np.unique(truth, return_counts=True)
    if len(there) < 2:
        return scores
    fitted = LogisticRegression(C=STRENGTH, max_iter=500).fit(learn[known], truth)
    scores[:, there] = fitted.predict_log_proba(judge) - np.log(times / times.sum())
    return scores


def _sigmoids(learn: np.ndarray, targets: np.ndarray, judge: np.ndarray) -> np.ndarray:
    from sklearn.linear_model import LogisticRegression

    scores = np.zeros((len(judge), targets.shape[1]))
    for column, truth in enumerate(targets.T == 1):
        if truth.any() and not truth.all():
            fitted = LogisticRegression(C=STRENGTH).fit(learn, truth)
            scores[:, column] = fitted.decision_function(judge) - np.log(truth.mean() / (1 - truth.mean()))
    return scores


def features_of(columns: Mapping[str, np.ndarray]) -> np.ndarray | None:
    """Columns of numbers, float [N] or [N, K] each, beside each other; None where all are the same in every row."""
    beside = np.column_stack(list(columns.values())) if columns else np.zeros((0, 0))
    return beside if beside.size and (np.ptp(beside, axis=0) > 0).any() else None
