"""Corrections of class imbalance, and the class prior that a network learns under them.

Each correction has an exponent e and lets the network learn as if class c were frequent in proportion to n_c^(1 − e):
`sampler` draws an image of class c with weight n_c^−e, `loss_weights` weighs its loss so, `logit_adjustment` adds e·log π to
the logits within the loss (Menon et al. 2021, equation 10). That prior travels with the logits, and a decision undoes it.
"""

import numpy as np


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
