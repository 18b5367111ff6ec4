"""The proof table, shortened: fewer worlds, two seeds, fewer rows."""

import json

import numpy as np
import pytest

import worlds
from answers import rules
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
