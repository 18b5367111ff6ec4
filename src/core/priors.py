"""Corrections of class imbalance, and the class prior that a network learns under them.

A correction of single-label classes has an exponent e and lets the network learn as if class c were frequent in
proportion to n_c^(1 − e): `sampler` draws an image of class c with weight n_c^−e, `loss_weights` weighs its loss so,
`logit_adjustment` adds e·log π to the logits within the loss (Menon et al. 2021, equation 10). That prior travels with
the logits, and a decision undoes it.

Where an image has several labels, `oversampling` has a prevalence for its number: images with a label rarer than that
are drawn more often. A weighted loss leaves each label's optimum where it is, so the prevalence that the network learns
is that of the drawn images.
"""

import numpy as np

DRAWN = {"sampler", "oversampling"}  # corrections by how often an image is drawn; the others are the loss's to apply


def class_weights(counts: np.ndarray, exponent: float) -> np.ndarray:
    """n^−exponent for every class, float [C]; 0 for a class without images."""
    return np.power(counts, -float(exponent), out=np.zeros(len(counts)), where=np.asarray(counts) > 0, dtype=float)


def prior(counts: np.ndarray, corrections: dict[str, float]) -> np.ndarray:
    """The class prior that softmax(logits) assumes after training with these corrections, float [C] of sum 1."""
    seen = counts * class_weights(counts, sum(corrections.values()))
    return seen / seen.sum()


def log_offset(counts: np.ndarray, exponent: float) -> np.ndarray:
    """exponent · log π for logit adjustment, float [C]; for a class without images, that of one image."""
    return exponent * np.log(np.maximum(counts, 1) / counts.sum())


def repeat_factors(targets: np.ndarray, threshold: float) -> np.ndarray:
    """How often to draw every image of multi-hot targets [N, C], relative to one without rare labels: float [N].

    max over its labels of max(1, sqrt(threshold / prevalence)) (repeat-factor sampling, Gupta et al. 2019): labels that
    are more frequent than `threshold` are never repeated, and one of a quarter of it only twice.
    """
    positive = targets == 1
    prevalence = positive.mean(axis=0)
    repeats = np.maximum(1, np.sqrt(threshold / np.where(prevalence > 0, prevalence, np.inf)))
    return np.where(positive, repeats, 1).max(axis=1)


def prevalence(targets: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
    """The share of drawn images that have each label, float [C], where image n is drawn with weight w_n; NaN targets do
    not count."""
    drawn = np.where(np.isnan(targets), 0, (np.ones(len(targets)) if weights is None else weights)[:, None])
    return (drawn * np.nan_to_num(targets)).sum(axis=0) / np.maximum(drawn.sum(axis=0), 1e-30)


def shift(natural: np.ndarray, learned: np.ndarray, exclusive: bool) -> np.ndarray:
    """What turns logits that assume the prior `natural` into logits that assume `learned`, float [C] (Saerens et al.
    2002, equation 2.4): the difference of log π of classes that exclude each other, of log π/(1 − π) of labels that do
    not; 0 where either prior leaves nothing to shift.
    """
    priors = np.stack([natural, learned]).astype(float)
    usable = ((priors > 0) & ((priors < 1) | exclusive)).all(axis=0)
    priors = np.where(usable, priors, 0.5)
    before, after = np.log(priors if exclusive else priors / (1 - priors))
    return after - before
