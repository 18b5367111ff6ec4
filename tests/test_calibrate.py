"""Probabilities, the calibrated posterior and the class counts of unlabelled rows."""

from dataclasses import replace

import numpy as np
import pytest

import worlds
from answers import metrics, posterior
from answers.posterior import Posterior
from core.logits_file import Logits
from worlds import NATURAL, World

FAITHFUL = Posterior(np.ones(20), np.zeros(20))


def unlabelled(sample: worlds.Sample, val: Logits) -> Logits:
    return replace(
        val,
        ids=np.arange(len(sample.exact)).astype(str),
        logits=np.float32(sample.logits),
        targets=np.full(sample.exact.shape, np.nan),
    )


def test_softmax_is_a_distribution_and_ignores_a_shift():
    logits = np.random.default_rng(0).normal(0, 300, (2, 5, 4))
    p = posterior.softmax(logits)
    assert np.allclose(p.sum(-1), 1) and (p >= 0).all()
    assert np.allclose(p, posterior.softmax(logits + 1e3))
    assert np.allclose(
        np.log(posterior.softmax(logits / 100)), logits / 100 - np.log(np.exp(logits / 100).sum(-1, keepdims=True))
    )


def test_views_are_averaged_after_softmax():
    logits = np.random.default_rng(0).normal(size=(2, 60, 3))
    by_hand = np.stack([np.exp(v / 1.5) / np.exp(v / 1.5).sum(1, keepdims=True) for v in logits]).mean(0)
    assert np.allclose(posterior.probabilities(logits, 1.5), by_hand)
    assert np.allclose(posterior.probabilities(np.float32(logits), 1.5), by_hand, atol=1e-6)


def test_the_grid_holds_one_and_both_reported_temperatures():
    assert {1.0, 1.2, 1.5} <= set(posterior.GRID)


@pytest.mark.parametrize("sampler", [0.0, 0.5, 1.0])
def test_a_faithful_network_gives_the_exact_posterior_whatever_its_sampler(sampler):
    val, sample = worlds.simulate(World("", sampler=sampler), 0, 500)
    test = unlabelled(sample, val)
    assert np.allclose(FAITHFUL.probabilities(test), sample.exact, atol=1e-5)
    shifted = replace(test, logits=test.logits + np.random.default_rng(0).normal(size=(1, 500, 1)).astype(np.float32))
    assert np.allclose(FAITHFUL.probabilities(shifted), sample.exact, atol=1e-5)


def test_other_class_counts_move_the_posterior_by_bayes_theorem():
    val, sample = worlds.simulate(World("", sampler=0.5), 0, 500)
    counts = np.random.default_rng(1).uniform(1, 100, 20)
    by_hand = sample.exact / NATURAL * counts
    moved = FAITHFUL.probabilities(unlabelled(sample, val), counts)
    assert np.allclose(moved, by_hand / by_hand.sum(axis=1, keepdims=True), atol=1e-5)
    assert np.allclose(FAITHFUL.probabilities(unlabelled(sample, val), counts * 7), moved)


@pytest.mark.parametrize(
    "world",
    [
        World("", sampler=0.5),
        World("", scale=1.7),
        World("", scale=0.6, sampler=1.0),
        World("", noise=0.7),
        World("", rare_noise=1.0, sampler=0.5),
        World("", bias=0.5, sampler=0.5),
    ],
    ids=World.parameters,
)
def test_the_fit_undoes_what_was_done_to_the_logits(world):
    """Against the posterior that is knowable from the logits: nearly as likely, on rows the fit did not see."""
    val, sample = worlds.simulate(world, 3, 20000)
    fitted, _ = posterior.fit_posterior(val)
    p, test = fitted.probabilities(unlabelled(sample, val)), sample.knowable
    divergence = (sample.weight * (test * np.log(test / np.maximum(p, 1e-12))).sum(axis=1)).mean()
    assert divergence < 0.005
    untouched = FAITHFUL.probabilities(unlabelled(sample, val))
    assert (
        world.parameters() == "sampler 0.5"
        or divergence < 0.6 * (sample.weight * (test * np.log(test / np.maximum(untouched, 1e-12))).sum(axis=1)).mean()
    )


def test_a_network_that_errs_on_all_classes_alike_gets_no_class_parameters():
    for world in (World("", scale=1.7, sampler=0.5), World("", sampler=1.0)):
        fitted, spreads = posterior.fit_posterior(worlds.simulate(world, 0, 1000)[0])
        assert spreads == (0.0, 0.0) and np.ptp(fitted.slopes) == 0
        assert fitted.slopes[0] == pytest.approx(1 / world.scale, rel=0.06)
    assert posterior.fit_posterior(worlds.simulate(World("", rare_noise=2.0), 0, 1000)[0])[1][0] > 0


def test_gradient_and_value_of_the_fit_agree():
    rng = np.random.default_rng(0)
    problem = posterior._Problem(
        rng.normal(size=(2, 300, 4)),
        rng.integers(0, 4, 300),
        np.log([0.4, 0.3, 0.2, 0.1]),
        np.log([0.7, 0.2, 0.05, 0.05]),
    )
    theta, precision, small = rng.normal(0, 0.3, 10), rng.uniform(0, 3, 10), 1e-2
    _, gradient, curvature = problem.at(theta, precision)
    numeric = [
        (problem.at(theta + small * d, precision)[0] - problem.at(theta - small * d, precision)[0]) / (2 * small)
        for d in np.eye(10)
    ]
    assert np.allclose(gradient, numeric, atol=0.05 + 2e-3 * np.abs(gradient).max())
    assert np.allclose(curvature, curvature.T, rtol=1e-4, atol=1e-3) and np.linalg.eigvalsh(curvature).min() > -1e-2


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("scale", [20.0, 50.0, 300.0, 1e5])
def test_the_fit_ends_for_absurdly_confident_logits(scale):
    val, sample = worlds.simulate(World("", sampler=0.5, scale=scale), 1, 500)
    fitted, _ = posterior.fit_posterior(val.take(np.arange(0, len(val.ids), 5)))
    assert np.isfinite(fitted.probabilities(unlabelled(sample, val))).all()
    assert scale > 50 or fitted.slopes[19] == pytest.approx(1 / scale, rel=0.15)


def test_a_handful_of_rows_or_none_is_enough_to_stay_sane():
    val, sample = worlds.simulate(World("", sampler=0.5), 0, 200)
    for rows in (np.array([9000]), np.arange(0, 10000, 2500), np.arange(3)):
        fitted, _ = posterior.fit_posterior(val.take(rows))
        assert (
            np.isfinite(fitted.probabilities(unlabelled(sample, val))).all()
            and (fitted.slopes > 0.05).all()
            and (fitted.slopes < 20).all()
        )
    # rows of the untrained class 0 only
    none = replace(val.take(np.arange(5)), counts=np.where(np.arange(20) == 0, 0, val.counts))
    assert (posterior.fit_posterior(none)[0].slopes == 1).all()


def test_untrained_classes_get_no_probability():
    val, sample = worlds.simulate(World("", sampler=0.5), 0, 200)
    counts = np.where(np.isin(np.arange(20), [3, 7]), 0, val.counts)
    lacking = replace(val, counts=counts, prior=np.where(counts > 0, val.prior, 0))
    fitted, _ = posterior.fit_posterior(lacking)
    p = fitted.probabilities(replace(unlabelled(sample, val), counts=counts, prior=lacking.prior))
    assert (p[:, [3, 7]] == 0).all() and np.allclose(p.sum(axis=1), 1)


def test_class_counts_are_found_in_unlabelled_rows():
    """Rows drawn with equal frequencies, a posterior that expects the natural ones: EM finds the equal ones."""
    rng = np.random.default_rng(0)
    _, sample = worlds.simulate(World("", signal=2.2), 0, 20000)
    equal = sample.exact[10000:]  # the half that was drawn with equal class frequencies
    found = posterior.estimate_counts(equal, worlds.COUNTS)
    assert found.sum() == pytest.approx(10020)
    assert np.abs(found / 10020 - 1 / 20).max() < 0.012 < np.abs(NATURAL - 1 / 20).max()
    natural = sample.exact[rng.choice(20000, 20000, p=sample.weight / sample.weight.sum())]
    assert np.abs(posterior.estimate_counts(natural, worlds.COUNTS) / 20020 - NATURAL).max() < 0.02


def test_nll_brier_and_reliability_of_a_hand_made_table():
    p, truth = np.array([[0.8, 0.2], [0.4, 0.6], [0.65, 0.35], [1.0, 0.0]]), np.array([0, 0, 1, 0])
    assert metrics.nll(p, truth) == pytest.approx(-np.log([0.8, 0.4, 0.35, 1.0]).mean())
    assert metrics.brier(p, truth) == pytest.approx(np.mean([2 * 0.2**2, 2 * 0.6**2, 2 * 0.65**2, 0]))
    bins = metrics.reliability(p, truth)
    assert [(one["from"], one["images"], one["accuracy"]) for one in bins] == [(0.6, 2, 0), (0.8, 1, 1), (0.9, 1, 1)]
    assert bins[0]["confidence"] == pytest.approx(0.625) and sum(one["images"] for one in bins) == 4
