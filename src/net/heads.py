"""Linear heads on features: the logistic regression of the probe, which a network's head may start from.

A body that is trained below a random head is bent towards that head before the head knows anything; it keeps more of
what it was pretrained on when the head starts from the best one for its features (LP-FT, Kumar et al. 2022).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from core import folds, priors
from core.config import Config
from core.data_set import Table
from core.errors import UserError
from core.task import Task
from images.prepare import Prepared
from net import features, model
from net.machine import Machine
from net.model import Net

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

    @property
    def linear(self) -> tuple[np.ndarray, np.ndarray]:
        """The same as one linear layer of the features themselves: weight float64 [C, F], bias float64 [C]."""
        weight, bias = np.zeros((len(self.constants), len(self.scaler.mean_))), np.float64(self.constants)
        for columns, one in self.fitted:
            weight[columns], bias[columns] = one.coef_, one.intercept_
        return unscaled(weight, bias, self.scaler)


def unscaled(weight: np.ndarray, bias: np.ndarray, scaler: Any) -> tuple[np.ndarray, np.ndarray]:
    """A linear layer of standardised features as one of the features themselves: weight [C, F] and bias [C]."""
    weight = weight / scaler.scale_
    return weight, bias - weight @ scaler.mean_


def fit(x: np.ndarray, targets: np.ndarray, exclusive: bool, strength: float, balanced: bool = False) -> Regression:
    """Fit to the features x [V, N, F] of every view and the targets [N, C], NaN unknown; `balanced`: all classes, or
    the two sides of a label, weigh alike.

    One softmax over the classes where they exclude each other, otherwise a sigmoid a label. A class without training
    images, and a label without positives, or without negatives, has a constant logit.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    views, features = len(x), x.shape[-1]
    scaler = StandardScaler().fit(x.reshape(-1, features))
    rows, y = scaler.transform(x.reshape(-1, features)), np.tile(targets, (views, 1))

    def regression(known: np.ndarray, labels: np.ndarray) -> LogisticRegression:
        weights = "balanced" if balanced else None
        return LogisticRegression(C=strength, class_weight=weights, max_iter=2000).fit(rows[known], labels[known])

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


def check(config: Config) -> None:
    """Raises UserError for a head that has hidden layers, or a body that knows nothing, where it is to start so."""
    if config.head_start == "random":
        return
    if config.head != "none":
        raise UserError(
            f"head_start = {config.head_start}: a regression has no hidden layers to start head = {config.head} from: "
            "set head=none, or leave head_start out"
        )
    if not model.pretrained(config):
        raise UserError(
            f"head_start = {config.head_start}: the body of {config.model} starts at random here, and its features say "
            "nothing: give it pretrained weights, or leave head_start out"
        )


def start(net: Net, task: Task, prepared: Prepared, parts: np.ndarray, machine: Machine) -> None:
    """Give the head the probe of the training part, for the labelled rows' `parts`.

    The probe assumes the natural prior; under a correction of imbalance the bias is shifted to the prior that is
    learned, so that the loss begins in balance.
    """
    config, learn = task.config, prepared.labelled.take(parts == "training")
    _, x = features.of_all(net, prepared, config, machine)
    mine = x[:, : len(parts)][:, parts == "training"]
    strength = choose(mine, learn, task.exclusive)
    weight, bias = fit(mine, learn.targets, task.exclusive, strength).linear
    natural, learned = (task.prior(learn.targets, corrections) for corrections in ({}, config.imbalance))
    put(net, weight, bias + priors.shift(natural, learned, task.exclusive))
    print(f"the head starts from logistic regression on frozen features, C = {strength:g}", flush=True)


def put(net: Net, weight: np.ndarray, bias: np.ndarray) -> None:
    """Make these the last layer of the head, in place: an optimizer goes on with the same parameters."""
    with torch.no_grad():
        net.head[-1].weight.copy_(torch.from_numpy(weight))
        net.head[-1].bias.copy_(torch.from_numpy(bias))
