"""From logits to probabilities: plain softmax, and the calibrated posterior under the natural class frequencies."""

from dataclasses import dataclass
from operator import itemgetter

import numpy as np

from core.logits_file import Logits

# Temperatures that the report's rule tries. Contains 1 (no change) and the report's 1.5 (Model A) and 1.2 (Model B).
GRID = tuple(round(0.5 + 0.1 * step, 1) for step in range(26))
# Candidate standard deviations of the classes' own log-slopes and offsets; 0 gives no class one of its own.
SLOPE_SPREADS, OFFSET_SPREADS = (0.0, 0.15, 0.4), (0.0, 0.3, 1.0)
# standard deviation of the priors of the common log-slope and of the tilt: weak, and enough for a handful of rows
WIDTH = 1.0
FAR, STEPS = 2.0, 60  # of the search for a mode: the longest step in any parameter, and the most steps
BLOCK = 1024  # rows at a time
CLOSE = 0.02  # nats over all rows: the search for a mode ends with the step that promises less


def softmax(logits: np.ndarray) -> np.ndarray:
    """Softmax over the last axis, in the precision of the logits."""
    p = np.array(np.moveaxis(logits, -1, 0), order="C")  # classes first: NumPy sums a short last axis ten times slower
    p -= p.max(axis=0)
    np.exp(p, out=p)
    p /= p.sum(axis=0)
    return np.moveaxis(p, 0, -1)


def probabilities(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Softmax of logits [V, N, C] divided by the temperature, averaged over the views: float [N, C]."""
    return softmax(logits / logits.dtype.type(temperature)).mean(axis=0)


def trained(content: Logits) -> np.ndarray:
    """The classes the network has learned, bool [C]: those with training images that training showed it."""
    return (content.counts > 0) & (content.prior > 0)


@dataclass(frozen=True)
class Posterior:
    """How logits become a posterior: softmax of slope_c · evidence_c + offset_c + log π_natural,c.

    evidence_c = log softmax(z − log π_train + log π_natural)_c − log π_natural,c is what the network has seen of class
    c: its log-likelihood ratio against all classes, the training prior undone (Saerens et al. 2002, equation 2.4).
    Slopes of 1 and offsets of 0 change nothing else.
    """

    slopes: np.ndarray  # float [C]; 1 for untrained classes
    offsets: np.ndarray  # float [C]; 0 for untrained classes

    def probabilities(self, content: Logits, counts: np.ndarray | None = None) -> np.ndarray:
        """The posterior averaged over the views, float [N, C]; 0 for classes that were never trained.

        `counts` replaces the natural class counts where those of the rows are known to be others.
        """
        known = trained(content)
        evidence, _, log_natural = _evidence(content, known)
        if counts is not None:
            log_natural = np.log(np.maximum(counts[known] / counts[known].sum(), 1e-30))
        found = np.zeros((len(content.ids), len(known)))
        found[:, known] = softmax(self.slopes[known] * evidence + self.offsets[known] + log_natural).mean(axis=0)
        return found


def _evidence(content: Logits, known: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Evidence [V, N, K] of the known classes, log π_train [K] and log π_natural [K]."""
    log_train = np.log(content.prior[known] / content.prior[known].sum())
    log_natural = np.log(content.counts[known] / content.counts[known].sum())
    shifted = np.float64(content.logits[:, :, known]) - log_train + log_natural
    shifted -= shifted.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)) - log_natural, log_train, log_natural


def fit_posterior(val: Logits) -> tuple[Posterior, tuple[float, float]]:
    """Fit slopes and offsets on naturally distributed labelled rows, by the likelihood of the posterior they give.

    log slope_c = α + u_c and offset_c = v_c − δ · log π_train,c, with α, δ ~ N(0, 1), u_c ~ N(0, s²) and v_c ~ N(0,
    r²). α and δ hold for all classes: δ = 1 − slope is plain temperature scaling (Guo et al. 2017), which divides the
    training prior along with the evidence; δ = 0 divides only the evidence, which is what noisy logits need. How far
    single classes may leave them, s and then r, is chosen by the evidence of the rows (Laplace's approximation, MacKay
    1992): 0 where the network errs alike on all classes. With several views the curvature in it is that of the views
    taken apart, which is the larger one and leans towards 0. Returns the posterior and (s, r).
    """
    known = trained(val)
    rows = val.targets[:, known].any(axis=1)
    slopes, offsets = np.ones(len(known)), np.zeros(len(known))
    if not rows.any():
        return Posterior(slopes, offsets), (0.0, 0.0)
    evidence, log_train, log_natural = _evidence(val, known)
    problem = _Problem(evidence[:, rows], val.targets[rows][:, known].argmax(axis=1), log_train, log_natural)
    classes = known.sum()
    modes, theta = [], np.zeros(2 + 2 * classes)
    for spread in SLOPE_SPREADS:
        theta, worth = problem.solve(theta, spread, OFFSET_SPREADS[0])
        modes.append((worth, spread, OFFSET_SPREADS[0], theta))
        if worth < modes[0][0]:  # wider is worse still
            break
    best, spread, _, theta = max(modes, key=itemgetter(0))
    for offset_spread in OFFSET_SPREADS[1:]:
        theta, worth = problem.solve(theta, spread, offset_spread)
        modes.append((worth, spread, offset_spread, theta))
        if worth < best:
            break
    _, *spreads, theta = max(modes, key=itemgetter(0))
    slopes[known] = np.exp(theta[0] + theta[2 : 2 + classes])
    offsets[known] = theta[2 + classes :] - theta[1] * log_train
    return Posterior(slopes, offsets), tuple(spreads)


def estimate_counts(posterior: np.ndarray, counts: np.ndarray, most: int = 1000) -> np.ndarray:
    """Class counts of unlabelled rows from their posterior [N, C] under the natural counts [C]: float [C] of sum N +
    classes.

    Expectation–maximisation for a shifted prior (Saerens, Latinne and Decaestecker 2002, equation 2.9), with one image
    of every class added, so that a class which the rows do not show is not taken for impossible.
    """
    natural = counts / counts.sum()
    known = natural > 0
    estimate = natural.copy()
    for _ in range(most):
        moved = posterior[:, known] * (estimate[known] / natural[known])
        found = (moved / moved.sum(axis=1, keepdims=True)).sum(axis=0) + 1
        change = np.abs(found / found.sum() - estimate[known]).max()
        estimate[known] = found / found.sum()
        if change < 1e-9:
            break
    return estimate * (len(posterior) + known.sum())


class _Problem:
    """The penalised likelihood in θ = (α, δ, u of every class, v of every class).

    In single precision, with the classes first, which NumPy sums ten times faster than a short last axis, and in blocks
    of rows that stay in a processor's cache.
    """

    def __init__(self, evidence: np.ndarray, labels: np.ndarray, log_train: np.ndarray, log_natural: np.ndarray):
        views, rows, self.classes = evidence.shape
        self.views, self.log_natural = views, log_natural
        self.blocks = [
            (
                np.float32(evidence[:, block]).transpose(2, 0, 1).reshape(self.classes, -1).copy(),
                np.tile(labels[block], views),
            )  # [K, V·n], [V·n]
            for block in (slice(start, start + BLOCK) for start in range(0, rows, BLOCK))
        ]
        one, none = np.ones((self.classes, 1)), np.zeros((self.classes, 1))
        self.design = np.block(
            [  # from θ to (log-slopes, offsets) of the classes
                [one, none, np.eye(self.classes), np.zeros((self.classes, self.classes))],
                [none, -log_train[:, None], np.zeros((self.classes, self.classes)), np.eye(self.classes)],
            ]
        )

    def solve(self, theta: np.ndarray, slope_spread: float, offset_spread: float) -> tuple[np.ndarray, float]:
        """The mode, by Newton's method from a starting point, and the log-evidence (up to a constant that all spreads
        share)."""
        deviations = np.repeat([WIDTH, slope_spread, offset_spread], [2, self.classes, self.classes])
        free = np.flatnonzero(deviations)  # the others stay 0
        precision = np.zeros(len(theta))
        precision[free] = deviations[free] ** -2.0
        value, gradient, curvature = self.at(theta, precision)
        for _ in range(STEPS):
            step = np.zeros(len(theta))
            step[free] = -np.linalg.solve(curvature[np.ix_(free, free)], gradient[free])
            promised = gradient @ step
            if promised > -CLOSE:
                theta, value = theta + step, value + promised / 2
                break
            step /= max(1.0, np.abs(step).max() / FAR)
            new = self.at(theta + step, precision)
            while not new[0] <= value and np.abs(step).max() > 1e-6:
                step /= 4
                new = self.at(theta + step, precision)
            theta, (value, gradient, curvature) = theta + step, new
        _, determinant = np.linalg.slogdet(curvature[np.ix_(free, free)])
        return theta, -value - 0.5 * determinant + 0.5 * np.log(precision[free]).sum()

    def at(self, theta: np.ndarray, precision: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        """The penalised negative log-likelihood in nats, its gradient and its Fisher curvature.

        With several views a row's curvature is that of its views, each with its share of the row's probability.
        """
        log_slopes, offsets = np.split(self.design @ theta, 2)
        slopes, constants, value = (
            np.float32(np.exp(log_slopes))[:, None],
            np.float32(offsets + self.log_natural)[:, None],
            0.5 * precision @ theta**2,
        )
        sums, squares, outer = (
            np.zeros((4, self.classes)),
            np.zeros(self.classes),
            np.zeros((2 * self.classes, 2 * self.classes)),
        )
        for evidence, labels in self.blocks:
            signal = slopes * evidence
            p = signal + constants
            p -= p.max(axis=0)
            here = labels, np.arange(p.shape[1])
            true = p[here]
            np.exp(p, out=p)
            total = p.sum(axis=0)
            p /= total
            log_true = (true - np.log(total)).reshape(self.views, -1)  # not log p, which ends where p becomes 0
            top = log_true.max(axis=0)
            share = np.exp(log_true - top)
            value -= (top + np.log(share.mean(axis=0))).sum(dtype=float)
            share = (share / share.sum(axis=0)).ravel()

            both = np.concatenate([p * signal, p])
            shared = both * share
            sums += shared.sum(axis=1).reshape(2, -1).repeat(2, axis=0)
            sums[1] -= np.bincount(labels, share * signal[here], self.classes)
            sums[3] -= np.bincount(labels, share, self.classes)
            squares += np.einsum("kn,kn->k", shared[: self.classes], signal)
            outer += shared @ both.T
        slope_sum, slope_error, offset_sum, offset_error = sums
        first = np.concatenate([slope_error, offset_error])
        second = np.block([[np.diag(squares), np.diag(slope_sum)], [np.diag(slope_sum), np.diag(offset_sum)]]) - outer
        return (
            value,
            self.design.T @ first + precision * theta,
            self.design.T @ second @ self.design + np.diag(precision),
        )
