"""The proof table, shortened: fewer worlds, two seeds, fewer rows."""

import json
import sys

import numpy as np
import pytest

import worlds
from answers import calibrators, rules
from answers.metrics import Costs
from worlds import World

SHORT = [
    world
    for world in worlds.WORLDS
    if world.name
    in ("√ sampler", "balanced", "over-confident", "noisy, natural", "rare noise, balanced", "biased classes", "strong")
]


def test_bayes_stays_near_the_knowable_best_and_no_public_rule_is_ahead():
    results = worlds.prove(SHORT, seeds=2, rows=20_000, tell=lambda text: None)
    assert len(results) == 7
    for result in results:
        assert result["regret_knowable"]["mean"] < 0.03, result["world"]
        assert not result["public_ahead"], result["world"]
        best = result["scores"]["knowable"]["mean"]
        assert all(result["scores"][rule]["mean"] <= best + 1e-9 for rule in rules.RULES), result["world"]
        assert result["scores"]["bayes"]["mean"] > result["scores"]["argmax"]["mean"] + 0.02
    # why there is more than one temperature
    assert max(result["regret_one_temperature"]["mean"] for result in results) > 0.05


def test_expected_scores_are_what_natural_rows_earn():
    """Against the plain definition on naturally drawn labels, for a decision that answers rare classes."""
    rows = 400_000
    _, sample = worlds.simulate(World("", signal=2.2), 0, 2 * rows)
    natural = slice(0, rows)  # the half that was drawn with natural class frequencies
    answers = rules.bayes_scores(sample.exact, worlds.NATURAL, Costs()).argmax(axis=1)
    p, chosen = sample.exact[natural], answers[natural]
    truth_score = -5 + np.mean([(7 * p[chosen == c, c] - 1).sum() / (rows * worlds.NATURAL[c]) for c in range(20)])
    assert worlds.expected_score(answers, sample) == pytest.approx(truth_score, abs=0.05)
    # always No Finding
    assert worlds.expected_score(np.full(2 * rows, 19), sample) == pytest.approx(-4.724889, abs=0.005)
    assert sample.weight.mean() == pytest.approx(1, abs=0.01)


def test_the_verb_prints_a_line_a_world_and_the_verdict(monkeypatch, tmp_path, call):
    monkeypatch.setattr(worlds, "WORLDS", SHORT[:1])
    said = call("worlds", "--seeds", 2, "--rows", 2000, "--json", tmp_path / "w.json")
    assert said.code == 0, said.err
    assert (
        "√ sampler" in said.out
        and "sampler 0.5" in said.out
        and "more than two paired standard errors: none" in said.out
    )
    assert json.loads((tmp_path / "w.json").read_text())["worlds"][0]["seeds"] == 2
    assert call("worlds", "--seeds", 1).code == 2


def test_peers_calibrate_where_theirs_is_the_right_form(call, monkeypatch, tmp_path):
    """Where all logits are too large by one factor, one temperature is the truth, and everyone finds it; without any
    calibration the likelihood is far from it."""
    pytest.importorskip("probmetrics.calibrators", reason="the package probmetrics, with numba, is not installed")
    monkeypatch.setattr(worlds, "WORLDS", [World("over-confident", scale=1.7)])
    said = call("worlds", "--peers", "--seeds", 2, "--rows", 4000, "--json", tmp_path / "w.json")
    assert said.code == 0, said.err
    (found,) = json.loads((tmp_path / "w.json").read_text())["worlds"]
    likelihood = {name: values[0] for name, values in found["calibrators"].items()}
    best = likelihood.pop("knowable")
    assert likelihood.pop("none") > best + 0.1
    assert all(best - 1e-9 < value < best + 0.01 for value in likelihood.values())


def test_peers_without_their_package_are_a_sentence(call, monkeypatch):
    monkeypatch.setitem(sys.modules, "probmetrics.calibrators", None)
    said = call("worlds", "--peers", "--seeds", 2)
    assert said.code == 2 and "pip install probmetrics numba" in said.err


def test_a_run_s_peers_are_cross_fitted(monkeypatch):
    """Every row by a fit on others, and as many figures as calibrators."""
    val, _ = worlds.simulate(World(""), 0, 2000)
    val = val.take(np.random.default_rng(0).permutation(len(val.ids))[:400])
    seen = []

    def fitted(others):
        seen.append(set(others.ids.tolist()))

        def posterior(part):
            assert not seen[-1] & set(part.ids.tolist())
            return np.full(part.targets.shape, 1 / 20)

        return dict.fromkeys(calibrators.NAMES, posterior)

    monkeypatch.setattr(calibrators, "fitted", fitted)
    found = calibrators.cross_fitted([val], None, Costs())
    assert len(seen) == 5 and {round(likelihood, 6) for likelihood, _ in found.values()} == {round(np.log(20), 6)}
    table = calibrators.lines(found, "by image")
    assert "by image" in table[0] and len(table) == 1 + len(calibrators.NAMES)
