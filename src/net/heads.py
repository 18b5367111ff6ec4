"""Linear heads on features: the logistic regression of the probe, which a network's head may start from."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from tqdm import tqdm

from core import folds
from core.data_set import Table

STRENGTHS = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 1e-1)  # inverse penalties (scikit-learn's C), on standardised features
PARTS = 3  # of the training part, in the cross-validation that chooses one of them
ABSENT = 20.0  # how far below the smallest logit of the training images that of a class without them is


@dataclass(frozen=True)
class Regression:
    """Features [N, F] to logits, float32 [N, C]: standardised, then one regression for some columns each; the other
    columns are constant."""

    scaler: Any  # StandardScaler; scikit-learn is imported only where something is fitted
    fitted: list  # of (columns int [k], LogisticRegression)
    constants: np.ndarray  # float32 [C]

    def __call__(self, x: np.ndarray) -> np.ndarray:
        rows, logits = self.scaler.transform(x), np.tile(self.constants, (len(x), 1))
        for columns, one in self.fitted:
            logits[:, columns] = one.decision_function(rows).reshape(len(x), -1)
        return logits


def fit(x: np.ndarray, targets: np.ndarray, exclusive: bool, strength: float) -> Regression:
    """Fit to the features x [V, N, F] of every view and the targets [N, C], NaN unknown.

    One softmax over the classes where they exclude each other, otherwise a sigmoid a label. A class without training
    images, and a label without positives, or without negatives, has a constant logit.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    views, features = len(x), x.shape[-1]
    scaler = StandardScaler().fit(x.reshape(-1, features))
    rows, y = scaler.transform(x.reshape(-1, features)), np.tile(targets, (views, 1))

    def regression(known: np.ndarray, labels: np.ndarray) -> LogisticRegression:
        return LogisticRegression(C=strength, max_iter=2000).fit(rows[known], labels[known])

    if exclusive:
        one = regression(np.ones(len(y), bool), y.argmax(axis=1))
        columns = one.classes_[-len(one.coef_) :]  # of two classes it gives the second's logit, beside 0
        constants = np.full(targets.shape[1], min(one.decision_function(rows).min(), 0) - ABSENT, np.float32)
        constants[one.classes_] = 0
        return Regression(scaler, [(columns, one)], constants)
    fitted, constants = [], np.zeros(targets.shape[1], np.float32)
    for c, labels in enumerate(y.T):
        known = ~np.isnan(labels)
        if len(np.unique(labels[known])) == 2:
            fitted.append(([c], regression(known, labels)))
        else:
            constants[c] = ABSENT * (2 * labels[known].mean() - 1)
    return Regression(scaler, fitted, constants)


def likelihood(logits: np.ndarray, targets: np.ndarray, exclusive: bool) -> float:
    """The mean log-likelihood of the known targets [N, C] by logits [N, C]."""
    logits = logits.astype(float)
    if exclusive:
        total = np.logaddexp.reduce(logits, axis=1)
        return float((logits[np.arange(len(logits)), targets.argmax(axis=1)] - total).mean())
    return float(-np.nanmean(np.logaddexp(0, np.where(targets == 1, -logits, logits)) + 0 * targets))


def choose(x: np.ndarray, table: Table, exclusive: bool) -> float:
    """The strength by cross-validation inside the training part: by patient where patients are known, otherwise class
    by class. x [V, N, F] are its features."""
    part = folds.parts(table.targets.argmax(axis=1), PARTS, seed=0, patients=table.known.get("patient"))
    found = {}
    for strength in tqdm(STRENGTHS, "choosing", unit="C", disable=None):
        parts = []
        for k in np.unique(part):
            predict = fit(x[:, part != k], table.targets[part != k], exclusive, strength)
            parts.append(likelihood(predict(x[0, part == k]), table.targets[part == k], exclusive))
        found[strength] = np.mean(parts)
    return max(found, key=found.get)
