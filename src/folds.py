"""How a labelled table is parted into training, validation and test."""

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


def by_patient(targets: np.ndarray, patients: np.ndarray, fractions: tuple[float, float], seed: int) -> np.ndarray:
    """Part whole patients: str [N] of `training`, `validation` and `test`, the last two with these fractions of the patients.

    targets [N, C], patients str [N]. A patient counts for every label that any of its images has, and labels are spread
    over the parts by iterative stratification (Sechidis et al. 2011), the rarest first.
    """
    from iterstrat.ml_stratifiers import IterativeStratification  # loads scikit-learn

    names, number = np.unique(patients, return_inverse=True)
    labels = np.zeros((len(names), targets.shape[1]), bool)
    np.logical_or.at(labels, number, targets == 1)
    rng = np.random.RandomState(seed)
    order, parts = rng.permutation(len(names)), np.empty(len(names), int)  # it draws lots for ties only
    parts[order] = IterativeStratification(labels[order], np.array([1 - sum(fractions), *fractions]), rng)
    return np.array(["training", "validation", "test"])[parts[number]]


def parts(strata: np.ndarray, number: int, seed: int) -> np.ndarray:
    """A part 0 … number − 1 for every row, int [N]: each stratum spread as evenly as it goes, at random."""
    order = np.random.default_rng(seed).permutation(len(strata))
    order = order[np.argsort(strata[order], kind="stable")]  # strata one after the other, shuffled within
    chosen = np.empty(len(strata), int)
    chosen[order] = np.arange(len(strata)) % number
    return chosen
