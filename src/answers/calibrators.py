"""Calibrators of others beside the posterior of `answers.posterior`, by what a posterior is worth: its likelihood, and
the score of the best answers by it. They come from the package probmetrics, which nothing else needs.

Temperature and vector scaling: Guo et al. 2017. Structured vector and matrix scaling: Berta et al. 2025, arXiv
2511.03685, with the penalties that its authors set.
"""

import warnings
from collections.abc import Callable, Sequence

import numpy as np

from answers.metrics import Costs, nll, summary, tally_one_hot
from answers.posterior import Posterior, fit_posterior, trained
from answers.rules import bayes_scores, parted, truth_of
from core.errors import UserError
from core.logits_file import Logits, pooled

OURS = "ours"
NAMES = ("none", OURS, "temperature", "vector", "structured vector", "structured matrix")
TINY = 1e-12


def fitted(val: Logits) -> dict[str, Callable[[Logits], np.ndarray]]:
    """Every calibrator of NAMES, fitted on labelled rows: each makes a posterior, float [N, C], of a logits file. All
    begin with the softmax whose training prior is undone. Raises UserError where the package is not installed."""
    try:
        from probmetrics.calibrators import get_calibrator
        from probmetrics.calibrators.logistic import VectorScalingCalibrator
    except ImportError as error:
        raise UserError(
            f"--peers needs the package probmetrics, with numba ({error}): pip install probmetrics numba"
        ) from error
    classes = len(val.classes)
    plain = Posterior(np.ones(classes), np.zeros(classes))
    learned = np.flatnonzero(trained(val))
    place = np.full(classes, -1)
    place[learned] = np.arange(len(learned))

    def given(content: Logits) -> np.ndarray:
        p = np.clip(plain.probabilities(content)[:, learned], TINY, 1)
        return p / p.sum(axis=1, keepdims=True)

    def of(calibrator) -> Callable[[Logits], np.ndarray]:
        with warnings.catch_warnings():  # of a search that ends at its last step
            warnings.simplefilter("ignore")
            calibrator.fit(given(val), place[truth_of(val)])

        def posterior(content: Logits) -> np.ndarray:
            found = np.zeros((len(content.ids), classes))
            found[:, learned] = calibrator.predict_proba(given(content))
            return found

        return posterior

    peers = [get_calibrator("ts-mix"), VectorScalingCalibrator(), get_calibrator("svs"), get_calibrator("sms")]
    made = [plain.probabilities, fit_posterior(val)[0].probabilities, *map(of, peers)]
    return dict(zip(NAMES, made, strict=True))


def cross_fitted(vals: Sequence[Logits], patients: np.ndarray | None, costs: Costs) -> dict[str, tuple[float, float]]:
    """Negative log-likelihood in nats, and the score of the best answers by it, of every calibrator on validation rows,
    each fifth (of the patients, str [N], where they are given) by a fit on the other four."""
    rows = pooled(vals, exclusive=True)
    p = {name: np.zeros(rows.targets.shape) for name in NAMES}
    for where, _, others, part in parted(vals, patients):
        for name, posterior in fitted(others).items():
            p[name][where] = posterior(part)
    truth, counts = truth_of(rows), sum(val.counts for val in vals)
    found = {}
    for name, each in p.items():
        answers = bayes_scores(each, counts, costs).argmax(axis=1)
        score = summary(tally_one_hot(rows.targets, answers), costs)["score"]
        found[name] = nll(each, truth), score
    return found


def lines(found: dict[str, tuple[float, float]], by: str) -> list[str]:
    """Such figures as a table."""
    head = f"{'calibration':20}{'NLL':>9}{'score':>9}   cross-fitted {by}"
    return [head, *(f"{name:20}{likelihood:>9.4f}{score:>9.3f}" for name, (likelihood, score) in found.items())]
