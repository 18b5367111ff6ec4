"""How sure a figure is: bootstrap intervals, and tests between replicates."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


def bootstrap(values: np.ndarray, strata: np.ndarray, draws: int = 500, seed: int = 0) -> np.ndarray:
    """Sums of `values` [N] over resamples that keep the size of every stratum, float [draws] (Efron and Tibshirani
    1993, section 8.3).

    The values of a stratum are resampled through the counts of its distinct values, which is the same distribution and
    takes milliseconds. A stratum of one row is always drawn as it is: its luck is in no interval.
    """
    rng = np.random.default_rng(seed)
    sums = np.zeros(draws)
    for stratum in np.unique(strata):
        found, times = np.unique(values[strata == stratum], return_counts=True)
        sums += rng.multinomial(times.sum(), times / times.sum(), size=draws) @ found
    return sums


def interval(sums: np.ndarray, level: float = 0.95) -> list[float]:
    """The percentile interval of bootstrap sums: [low, high]."""
    return [float(end) for end in np.quantile(sums, [(1 - level) / 2, (1 + level) / 2])]


def both(pairs: Sequence[float], draws: np.ndarray) -> list[float] | None:
    """The 95 % interval of a mean over networks that were trained by themselves, for others of their kind and other
    patients: [low, high]; None for a single one, which says nothing of training again.

    pairs [K]: the figure, or the difference of a pair, of each; draws: of their mean under resamples of the patients.
    The two variances add up: s²/K of training, with K − 1 degrees of freedom, and that of the draws, with many; the sum
    has as many as Satterthwaite (1946) says. Resampling the K networks in the bootstrap too covers too little where K
    is 3: a simulation in tests/test_compare.py.
    """
    from scipy.stats import t

    if len(pairs) < 2:
        return None
    training, patients = np.var(pairs, ddof=1) / len(pairs), np.nanvar(draws, ddof=1)
    total = training + patients
    freedom = (len(pairs) - 1) * (total / training) ** 2 if training else np.inf
    reach = float(t.ppf(0.975, freedom) * np.sqrt(total))
    return [float(np.mean(pairs)) - reach, float(np.mean(pairs)) + reach]


def cluster_weights(groups: np.ndarray, draws: int = 500, seed: int = 0) -> np.ndarray:
    """How often each row is drawn when whole groups (patients) are resampled with replacement, int16 [draws, N].

    groups str [N]. The cluster bootstrap (Efron and Tibshirani 1993, section 8.3, with patients as the units): images
    of one patient are alike, and resampling them one by one would make an interval too narrow.
    """
    names, member = np.unique(groups, return_inverse=True)
    rng = np.random.default_rng(seed)
    times = np.empty((len(names), draws), np.int16)
    for draw in range(draws):
        times[:, draw] = np.bincount(rng.integers(len(names), size=len(names)), minlength=len(names))
    return times[member].T  # the draws of a row lie side by side, as `ranking` reads them


def stratified_weights(strata: np.ndarray, draws: int = 500, seed: int = 0) -> np.ndarray:
    """The same where rows are resampled one by one and every stratum keeps its size, as in `bootstrap`: int16 [draws,
    N]."""
    rng = np.random.default_rng(seed)
    times = np.empty((draws, len(strata)), np.int16)
    for stratum in np.unique(strata):
        rows = np.flatnonzero(strata == stratum)
        times[:, rows] = rng.multinomial(len(rows), np.full(len(rows), 1 / len(rows)), size=draws)
    return times


AT_ONCE = 2**21  # rows × draws that `ranking` takes together


def ranking(
    truth: np.ndarray, scores: np.ndarray, among: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Area under the ROC curve and average precision of the rows of `among` under every draw's weights: float [draws]
    each.

    truth bool [N] · scores [N] · among bool [N] · weights [draws, N], not negative. Equal to scikit-learn's
    roc_auc_score and average_precision_score with sample_weight, ties included, with one sort for all draws. NaN in a
    draw that lacks positives (both figures) or negatives (the area). Of many rows few draws are taken at a time, so
    that memory stays as it is.
    """
    from scipy.sparse import csr_array

    order = np.flatnonzero(among)
    order = order[np.argsort(-scores[order], kind="stable")]
    truth, scores = truth[order], scores[order]
    run = np.cumsum(np.append(True, scores[1:] != scores[:-1])[: len(order)]) - 1  # of tied scores
    hit = np.bincount(run, truth) > 0
    runs = hit.sum()  # only runs with a positive add to either figure, and with rare labels those are few
    place = (hit.cumsum() - hit)[run]
    part = np.where(truth, place, np.where(hit[run], runs + place, 2 * runs + place))
    sorted_into = csr_array((np.ones(len(order)), (part, order)), shape=(3 * runs + 1, len(among)))
    step = max(1, AT_ONCE // max(1, len(among)))
    figures = [_ranked(sorted_into, runs, weights[start : start + step]) for start in range(0, len(weights), step)]
    area, precision = np.concatenate(figures, axis=1)
    return area, precision


def _ranked(sorted_into, runs: int, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both figures of `ranking`: `sorted_into` sums the weights of the rows of every run and between them."""
    sums = sorted_into @ np.ascontiguousarray(weights.T, dtype=float)
    # between: negatives above each run, and below the last
    positives, tied, between = np.split(np.ascontiguousarray(sums.T), [runs, 2 * runs], axis=1)

    hits, above = positives.cumsum(axis=1), (between[:, :-1] + tied).cumsum(axis=1)  # of the run and all above
    negatives = above[:, -1:] + between[:, -1:] if runs else between
    precision = np.divide(hits, hits + above, out=np.zeros(hits.shape), where=hits > 0)
    with np.errstate(invalid="ignore"):
        area = (positives * (negatives - above + tied / 2)).sum(axis=1) / (positives.sum(axis=1) * negatives[:, 0])
        return area, (positives * precision).sum(axis=1) / positives.sum(axis=1)


LEVELS = np.linspace(0, 1, 101)  # where the band of a curve has its ends


def roc_band(truth: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The 95 % percentile band of the sensitivity over draws at every 1 − specificity of LEVELS: low, high.

    truth bool [N] · scores [N] · weights [draws, N], not negative. A draw without positives or negatives is left out.
    """
    hits, alarms = reached(truth, scores, weights)
    whole = (hits[:, -1] > 0) & (alarms[:, -1] > 0)
    curves = [np.interp(LEVELS, f / f[-1], t / t[-1]) for t, f in zip(hits[whole], alarms[whole], strict=True)]
    return _band(curves)


def pr_band(truth: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same of the precision at every recall of LEVELS: that of the first threshold that reaches it."""
    hits, alarms = reached(truth, scores, weights)
    curves = []
    for true, false in zip(hits, alarms, strict=True):
        if true[-1] > 0:
            first = np.searchsorted(true, np.maximum(LEVELS * true[-1] - 1e-9, 1e-9))
            curves.append(true[first] / (true[first] + false[first]))
    return _band(curves)


def reached(truth: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positives and negatives at or above every score that is met, from above, under every draw's weights: each float
    [draws, 1 + scores], beginning with 0."""
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.diff(scores[order]) != 0, True)  # of tied scores
    start = np.zeros((len(weights), 1))
    found = [(weights[:, order] * rows[order]).cumsum(axis=1, dtype=float)[:, last] for rows in (truth, ~truth)]
    return tuple(np.concatenate([start, each], axis=1) for each in found)


def _band(curves: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    if not len(curves):
        return np.full(len(LEVELS), np.nan), np.full(len(LEVELS), np.nan)
    low, high = np.quantile(curves, [0.025, 0.975], axis=0)
    return low, high


def weighted_means(values: np.ndarray, among: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The mean of every column of `values` [N, K] over the rows of `among` (bool [N, K]) under every draw's weights
    [draws, N]: float [draws, K], NaN where those rows weigh nothing. A Brier score, a sensitivity and a specificity are
    such means.
    """
    weights = np.asarray(weights, float)
    with np.errstate(invalid="ignore"):
        return (weights @ np.where(among, values, 0.0)) / (weights @ np.asarray(among, float))


def held_thresholds(
    truth: np.ndarray, scores: np.ndarray, weights: np.ndarray, share: float
) -> tuple[np.ndarray, np.ndarray]:
    """For "score ≥ τ is positive": the largest τ with at least `share` of the positives above, and the smallest score
    met with at least `share` of the negatives below, under every draw's weights: float [draws] each, NaN in a draw
    without such rows.

    truth bool [N] · scores [N] · weights [draws, N].
    """
    found = []
    for rows, sign in ((np.flatnonzero(truth), -1), (np.flatnonzero(~truth), 1)):
        order = rows[np.argsort(sign * scores[rows], kind="stable")]
        reached = weights[:, order].cumsum(axis=1)
        if not len(order):
            found.append(np.full(len(weights), np.nan))
            continue
        enough = reached >= share * reached[:, -1:] - 1e-9
        found.append(np.where(reached[:, -1] > 0, scores[order][enough.argmax(axis=1)], np.nan))
    met = np.unique(scores)
    above = np.append(met, np.nextafter(met[-1], np.inf))[
        np.searchsorted(met, found[1], side="right").clip(max=len(met))
    ]
    return found[0], np.where(np.isnan(found[1]), np.nan, above)


def share_above(scores: np.ndarray, weights: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """The share of rows with score ≥ τ, each draw with its own weights and threshold: float [draws], NaN where
    undefined.

    scores [N] · weights [draws, N] · thresholds [draws].
    """
    order = np.argsort(-scores, kind="stable")
    reached = np.concatenate([np.zeros((len(weights), 1)), weights[:, order].cumsum(axis=1)], axis=1)
    number = np.searchsorted(-scores[order], -thresholds, side="right").clip(max=len(scores))
    with np.errstate(invalid="ignore"):
        return np.where(np.isnan(thresholds), np.nan, reached[np.arange(len(weights)), number] / reached[:, -1])


class Welch(NamedTuple):
    """t; its critical value, Student's quantile at 1 − alpha / 2; degrees of freedom; two-sided p. All NaN where
    nothing can be tested."""

    t: float
    critical: float
    df: float
    p: float


def welch(mean_a: float, sd_a: float, k_a: int, mean_b: float, sd_b: float, k_b: int, alpha: float = 0.05) -> Welch:
    """Welch's t-test of mean_a − mean_b from the standard deviations (ddof 1) of k_a and k_b independent replicates,
    two-sided.

    t = (a − b) / sqrt(s_a² / k_a + s_b² / k_b), and the degrees of freedom of Welch and Satterthwaite (Welch 1947; the
    thesis' equations 20 and 21, here for unequal k too). NaN with fewer than two replicates on a side, without any
    spread on both (equal replicates, or a published s.d. rounded to 0, say nothing of the noise), and where a figure is
    not finite.
    """
    spread = np.max([sd_a, sd_b])
    if min(k_a, k_b) < 2 or not np.isfinite([mean_a, mean_b, spread]).all() or spread <= 0:
        return Welch(*[float("nan")] * 4)
    from scipy.special import stdtr, stdtrit

    a, b = (sd_a / spread) ** 2 / k_a, (sd_b / spread) ** 2 / k_b  # in units in which nothing underflows
    t = (mean_a - mean_b) / (spread * np.sqrt(a + b))
    df = (a + b) ** 2 / (a**2 / (k_a - 1) + b**2 / (k_b - 1))
    return Welch(float(t), float(-stdtrit(df, alpha / 2)), float(df), float(2 * stdtr(df, -abs(t))))


def holm(p_values: Sequence[float]) -> np.ndarray:
    """Holm's step-down adjustment (Holm 1979) of the p values of one family, float [N] in their order: the i-th
    smallest of m times m − i + 1, never below that of a smaller one, at most 1. NaN, a test not made, stays NaN and
    does not count.
    """
    p = np.asarray(p_values, float)
    order = np.argsort(p, kind="stable")[: np.count_nonzero(~np.isnan(p))]  # NaN sorts last
    adjusted = np.full(len(p), np.nan)
    adjusted[order] = np.minimum(1, np.maximum.accumulate(p[order] * np.arange(len(order), 0, -1)))
    return adjusted
