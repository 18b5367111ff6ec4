"""How the training table is parted into training and validation."""

import numpy as np


def stratified(strata: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Choose validation rows class by class: bool [N], True = validation.

    strata int [N]. Every class gives round(fraction · n) of its rows, and always keeps one for training; a class of one
    row therefore only trains, where scikit-learn's splitters refuse to split at all.
    """
    rng = np.random.default_rng(seed)
    chosen = np.zeros(len(strata), bool)
    for value in np.unique(strata):
        rows = rng.permutation(np.flatnonzero(strata == value))
        chosen[rows[: min(int(fraction * len(rows) + 0.5), len(rows) - 1)]] = True
    return chosen


def parts(strata: np.ndarray, number: int, seed: int) -> np.ndarray:
    """A part 0 … number − 1 for every row, int [N]: each stratum spread as evenly as it goes, at random."""
    order = np.random.default_rng(seed).permutation(len(strata))
    order = order[np.argsort(strata[order], kind="stable")]  # strata one after the other, shuffled within
    chosen = np.empty(len(strata), int)
    chosen[order] = np.arange(len(strata)) % number
    return chosen
