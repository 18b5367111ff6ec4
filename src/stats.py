"""How sure a figure is: bootstrap intervals."""

import numpy as np


def bootstrap(values: np.ndarray, strata: np.ndarray, draws: int = 500, seed: int = 0) -> np.ndarray:
    """Sums of `values` [N] over resamples that keep the size of every stratum, float [draws] (Efron and Tibshirani 1993, section 8.3).

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
