"""A trained network on another labelled set: which labels can be compared, how well they are ranked there, and what its
probabilities are worth before and after they are fitted to a part of that set.

Recalibrated probabilities of a row come from a fit on the other half of the patients. `shifted` moves the log-odds of a
label by one number, which is what another prevalence alone would ask for (Saerens et al. 2002); `recalibrated` fits
slope and offset (Platt 1999), with the priors of `answers.multi_label`. Neither changes a ranking within its half.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from answers import stats
from answers.multi_label import fitted_label, sigmoid
from core import folds
from core.errors import UserError, some

WAYS = ("as it is", "shifted", "recalibrated")
FEWEST = 5  # positives, and negatives, of a label that is judged
LEAST = 1e-6  # a probability is kept so far from 0 and 1


def matches(ours: Sequence[str], theirs: Sequence[str], same: Mapping[str, Sequence[str]]) -> list[tuple[int, int]]:
    """The columns of our classes and of their labels that mean the same: names that are equal but for capitals, or that
    stand on one line of `same`. Raises UserError where a name stands twice there, or nothing matches."""
    line = {}
    for finding, names in same.items():
        for name in {finding.lower(), *(str(each).lower() for each in names)}:
            if line.setdefault(name, finding) != finding:
                raise UserError(f"the map of labels has {name!r} at {line[name]} and at {finding}: a name stands once")
    of = {line.get(name.lower(), name.lower()): k for k, name in reversed(list(enumerate(theirs)))}
    keys = [line.get(name.lower(), name.lower()) for name in ours]
    found = [(c, of[key]) for c, key in enumerate(keys) if key in of]
    if not found:
        raise UserError(
            f"no label of that data set is one of this run's: it has {some(theirs, 12)}; the run has {some(ours, 12)}"
        )
    return found


def refitted(p: np.ndarray, targets: np.ndarray, patients: np.ndarray) -> dict[str, np.ndarray]:
    """Probabilities p [N, L] of labels with targets [N, L] (0, 1, NaN unknown), in every one of WAYS: float [N, L]."""
    z = np.log(np.clip(p, LEAST, 1 - LEAST)) - np.log1p(-np.clip(p, LEAST, 1 - LEAST))
    half = folds.parts(np.zeros(len(p), int), 2, seed=0, patients=patients)
    found = {way: sigmoid(z) for way in WAYS}
    for k in (0, 1):
        here, there = half == k, half != k
        for c in range(p.shape[1]):
            known = there & ~np.isnan(targets[:, c])
            truth = targets[known, c] == 1
            if truth.any() and not truth.all():
                found["shifted"][here, c] = sigmoid(z[here, c] + _offset(z[known, c], truth))
                slope, offset = fitted_label(z[None, known, c], truth)
                found["recalibrated"][here, c] = sigmoid(slope * z[here, c] + offset)
    return found


def _offset(z: np.ndarray, truth: np.ndarray) -> float:
    """What added to log-odds z [n] makes their probabilities sum to the number of positives."""
    from scipy.optimize import brentq

    return float(brentq(lambda offset: sigmoid(z + offset).sum() - truth.sum(), -50, 50))


def report(classes: Sequence[str], p: np.ndarray, targets: np.ndarray, patients: np.ndarray) -> dict:
    """Figures of probabilities p [N, L] by targets [N, L], patients str [N]: of every label AUC-ROC and average
    precision with 95 % intervals by resampling patients, and of each of WAYS the log loss in nats, and how many
    positives it expects for one that is there; `macro` their means over the labels with FEWEST positives and negatives,
    with the differences of the log loss to `as it is`. Raises UserError where no label has them."""
    known = ~np.isnan(targets)
    counted = np.flatnonzero(((targets == 1).sum(axis=0) >= FEWEST) & ((targets == 0).sum(axis=0) >= FEWEST))
    if not len(counted):
        raise UserError(f"no label that can be compared has {FEWEST} images with it and {FEWEST} without it there")
    weights = stats.cluster_weights(patients).astype(float)
    once = np.ones((1, len(p)))
    ways = refitted(p, targets, patients)
    losses = {way: -np.where(targets == 1, np.log(q), np.log1p(-q)) for way, q in _kept(ways).items()}
    per_label, draws = [], {"auc": [], "average_precision": []}
    for c in counted.tolist():
        truth, among = targets[:, c] == 1, known[:, c]
        point, drawn = (stats.ranking(truth, p[:, c], among, each) for each in (once, weights))
        row = {"class": classes[c], "images": int(among.sum()), "positives": int(truth.sum())}
        for name, value, values in zip(draws, point, drawn, strict=True):
            row |= {name: float(value[0]), f"{name}_interval": stats.interval(values[~np.isnan(values)])}
            draws[name].append(values)
        for way, q in ways.items():
            row[f"log_loss, {way}"] = float(losses[way][among, c].mean())
            row[f"expected, {way}"] = float(q[among, c].sum() / truth.sum())
        per_label.append(row)
    macro = {name: float(np.mean([row[name] for row in per_label])) for name in draws}
    macro |= {f"{name}_interval": stats.interval(np.nanmean(values, axis=0)) for name, values in draws.items()}
    among = known[:, counted]
    for way in WAYS:
        macro[f"log_loss, {way}"] = float(stats.weighted_means(losses[way][:, counted], among, once).mean())
        gain = losses[way][:, counted] - losses[WAYS[0]][:, counted]
        macro[f"gain, {way}"] = stats.interval(stats.weighted_means(gain, among, weights).mean(axis=1))
    left = [str(name) for c, name in enumerate(classes) if c not in counted]
    return {"images": len(p), "patients": len(np.unique(patients)), "macro": macro, "per_label": per_label, "few": left}


def _kept(ways: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {way: np.clip(q, LEAST, 1 - LEAST) for way, q in ways.items()}


def lines(found: dict) -> list[str]:
    """Such a report as it is printed."""
    width = max(len("macro"), *(len(row["class"]) for row in found["per_label"]))
    head = f"{'':{width}}{'images with it':>16}{'AUC-ROC':>9}{'95 % interval':>20}{'PR-AUC':>9}"
    said = [
        f"{found['images']} images" + f" of {found['patients']} patients" * (found["patients"] < found["images"]),
        head + "".join(f"{f'log loss {way}':>24}{'expected':>10}" for way in WAYS),
    ]
    for row in found["per_label"]:
        low, high = row["auc_interval"]
        ways = "".join(f"{row[f'log_loss, {way}']:>24.4f}{row[f'expected, {way}']:>10.2f}" for way in WAYS)
        said.append(
            f"{row['class']:{width}}{row['positives']:>16}{row['auc']:>9.3f}{f'{low:.3f} … {high:.3f}':>20}"
            f"{row['average_precision']:>9.3f}{ways}"
        )
    macro = found["macro"]
    low, high = macro["auc_interval"]
    ways = "".join(f"{macro[f'log_loss, {way}']:>24.4f}{'':>10}" for way in WAYS)
    said.append(
        f"{'macro':{width}}{'':>16}{macro['auc']:>9.3f}{f'{low:.3f} … {high:.3f}':>20}"
        f"{macro['average_precision']:>9.3f}{ways}"
    )
    said += [
        f"{way}: log loss {macro[f'log_loss, {way}'] - macro['log_loss, as it is']:+.4f}, 95 % interval"
        f" {macro[f'gain, {way}'][0]:+.4f} … {macro[f'gain, {way}'][1]:+.4f}, by the other half of the patients"
        for way in WAYS[1:]
    ]
    if found["few"]:
        said.append(f"not judged, with fewer than {FEWEST} images with or without it: {some(found['few'], 20)}")
    return said
