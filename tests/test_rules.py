"""Every decision rule against brute force, cross-fitting, several networks, and the files they travel in."""

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest

import worlds
from answers import metrics, rules, single_label, single_label_report, stats
from answers import posterior as calibrate
from answers.metrics import Costs
from answers.rules import RULES
from core import logits_file
from core.errors import UserError
from core.logits_file import Logits
from images import labels
from tasks.single_label import SingleLabel
from worlds import World

CLASSES = np.array(["A", "B", "No Finding"])


def some_logits(views=2, n=60, seed=0, counts=(10, 5, 85), first=0) -> Logits:
    rng = np.random.default_rng(seed)
    targets = np.eye(3, dtype=np.float32)[rng.choice(3, n, p=[0.2, 0.1, 0.7])]
    logits = (rng.normal(size=(views, n, 3)) + 1.5 * targets).astype(np.float32)
    ids = np.array([f"{first + i}.png" for i in range(n)])
    prior = np.sqrt(counts)
    return Logits(ids, logits, targets, CLASSES, np.array(counts), int(sum(counts)), prior / prior.sum())


def score_of(content: Logits, answers) -> float:
    return metrics.competition_score(
        metrics.tally(content.targets.argmax(1), np.asarray(answers), content.targets.shape[1])
    )


def expected(answers, p, counts, costs) -> float:
    """The expected score of answers to three rows of three classes, over all 27 ways the truth may be."""
    total = 0.0
    for truth in itertools.product(range(3), repeat=3):
        chance = np.prod([p[row, c] for row, c in enumerate(truth)])
        pairs = list(zip(truth, answers, strict=True))
        for c in range(3):
            tp = sum(t == c and a == c for t, a in pairs)
            fp = sum(t != c and a == c for t, a in pairs)
            fn = sum(t == c and a != c for t, a in pairs)
            total += chance * (costs.tp * tp - costs.fp * fp - costs.fn * fn) / counts[c]
    return total


@pytest.mark.parametrize("costs", [Costs(), Costs(2.0, 0.5, 3.0)])
def test_bayes_is_the_best_of_all_answers_by_brute_force(costs):
    """Three rows, three classes: of all 27 ways to answer none has a higher expected score, over all 27 ways the truth
    may be."""
    rng = np.random.default_rng(5)
    for _ in range(20):
        p, counts = rng.dirichlet(np.ones(3), size=3), rng.integers(1, 50, 3).astype(float)

        chosen = rules.bayes_scores(p, counts, costs).argmax(axis=1)
        best = max(expected(answers, p, counts, costs) for answers in itertools.product(range(3), repeat=3))
        assert expected(chosen, p, counts, costs) == pytest.approx(best)


def test_image_by_image_earnings_add_up_to_the_score():
    rng = np.random.default_rng(0)
    for costs in (Costs(), Costs(2.0, 0.5, 3.0)):
        truth, answers = rng.integers(0, 4, 80), rng.integers(0, 5, 80)  # class 4 is absent from the truth
        assert metrics.earned(truth, answers, np.bincount(truth, minlength=5), costs).sum() == pytest.approx(
            metrics.competition_score(metrics.tally(truth, answers, 5), costs)
        )


def test_temperature_is_the_best_of_the_grid_by_brute_force():
    val = some_logits()
    found = RULES["temperature"].fit(val, Costs())
    curve = [score_of(val, calibrate.probabilities(val.logits, value).argmax(1)) for value in calibrate.GRID]
    assert [point["score"] for point in found["curve"]] == pytest.approx(curve)
    assert curve[calibrate.GRID.index(found["temperature"])] == pytest.approx(max(curve)) and max(curve) > min(curve)
    assert RULES["temperature"].fit(some_logits(views=1), Costs())["temperature"] == 1.0  # one view: all tie


def test_thresholds_are_each_class_s_best_by_brute_force():
    val = some_logits(n=400)
    p, truth = calibrate.probabilities(val.logits), val.targets.argmax(1)
    grid = np.arange(30, 95) / 100
    best = [
        max(grid, key=lambda t: 6 * (p[truth == c, c] >= t).sum() - (p[truth != c, c] >= t).sum()) for c in range(3)
    ]
    with_them = score_of(val, (p / best).argmax(1))
    found = RULES["thresholds"].fit(val, Costs())["thresholds"]
    assert found == pytest.approx(best if with_them > score_of(val, p.argmax(1)) else [1, 1, 1])
    assert score_of(val, (p / found).argmax(1)) >= score_of(val, p.argmax(1))


def test_bias_is_the_greedy_search_by_brute_force():
    val = some_logits(n=300)
    z, bias = np.log(calibrate.probabilities(val.logits)), np.zeros(3)
    for _ in range(3):
        for c in range(3):
            reached = []
            for value in rules.BIASES:
                tried = bias.copy()
                tried[c] = value
                reached.append(score_of(val, (z + tried).argmax(1)))
            best = rules.BIASES[np.array(reached) >= max(reached) - 1e-12]
            bias[c] = best[np.argmin(abs(best - bias[c]))]
    assert RULES["bias"].fit(val, Costs())["bias"] == pytest.approx(bias) and bias.any()


def test_power_is_the_best_of_its_grid_by_brute_force():
    val = some_logits(n=300)
    p = calibrate.probabilities(val.logits)
    reached = {round(a, 1): score_of(val, (p * (val.counts + 1.0) ** -a).argmax(1)) for a in np.linspace(-1.5, 1.5, 31)}
    found = RULES["power"].fit(val, Costs())["alpha"]
    assert reached[round(found, 1)] == max(reached.values())


@pytest.mark.parametrize("rule", RULES)
def test_what_was_not_trained_is_never_answered_and_what_was_not_validated_does_no_harm(rule):
    rng = np.random.default_rng(2)
    targets = np.eye(5)[np.r_[np.zeros(30, int), np.ones(20, int), [2], np.full(4, 3)]]  # class 2 once, class 4 never
    logits = rng.normal(size=(2, 55, 5)) + 2 * targets
    logits[:, :, 3] += 50  # a column that training never touched
    counts = np.array([30, 20, 3, 0, 4])
    val = Logits(
        np.arange(55).astype(str),
        np.float32(logits),
        np.float32(targets),
        np.array(list("ABCDE")),
        counts,
        57,
        counts / 57,
    )
    params = RULES[rule].fit(val, Costs())
    answers = RULES[rule].answers([val], [params], Costs())
    assert not (answers == 3).any() and (answers == 0).sum() > 15
    assert json.loads(json.dumps(params, allow_nan=False)) == params
    report = single_label.report([val], SingleLabel().calibrate([val]))
    assert (
        report["skipped_classes"] == ["E"]
        and report["untrained_classes"] == ["D"]
        and report["few_images"] == ["C", "D"]
    )


def test_a_false_alarm_for_a_class_without_rows_is_not_free_in_a_fit():
    """Otherwise the rules would learn to answer the rarest class wherever a part of the rows has none of it."""
    val, _ = worlds.simulate(World("", sampler=0.5), 0, 1000)
    without = val.take(val.targets[:, 15] == 0)
    assert RULES["bias"].fit(without, Costs())["bias"][15] <= 0


def test_nothing_to_answer_is_said():
    val = some_logits()
    params = RULES["bayes"].fit(val, Costs())
    with pytest.raises(UserError, match="there is no class to answer"):
        RULES["bayes"].answers([val], [params], Costs(), np.zeros(3))
    others = [replace(val, counts=np.array([5, 0, 0])), replace(val, counts=np.array([0, 5, 5]))]
    with pytest.raises(UserError, match="there is no class to answer"):
        RULES["bayes"].answers(others, [params, params], Costs())


def test_networks_of_different_size_count_alike():
    small, large = some_logits(seed=1), some_logits(seed=2)
    large = replace(large, counts=large.counts * 1000, rows=large.rows * 1000)
    params = [RULES["bayes"].fit(some_logits(seed=3, n=300), Costs())] * 2
    same = replace(large, counts=small.counts, rows=small.rows)
    assert (
        RULES["bayes"].answers([small, large], params, Costs())
        == RULES["bayes"].answers([small, same], params, Costs())
    ).all()


def test_every_row_is_answered_by_a_fit_that_did_not_see_it():
    vals, seen = [some_logits(seed=1), some_logits(seed=2, n=43, first=1000)], []
    for rows, number, others, part in rules.parted(vals):
        assert not set(others.ids) & set(part.ids)
        assert set(others.ids) | set(part.ids) == set(vals[number].ids)  # each network by its own rows
        assert np.concatenate([val.ids for val in vals])[rows].tolist() == part.ids.tolist()
        seen += rows.tolist()
    assert sorted(seen) == list(range(103))


def test_cross_fitting_does_not_believe_noise():
    """Logits that know nothing: the greedy search fits its own rows well, and the cross-fitted figure shows that it is
    luck."""
    rng = np.random.default_rng(0)
    val, _ = worlds.simulate(World(""), 0, 1000)
    noise = replace(val, logits=rng.normal(size=(1, len(val.ids), 20)).astype(np.float32))
    report = single_label.report([noise], SingleLabel().calibrate([noise]))["rules"]
    assert report["bias"]["fitted"] > report["bias"]["score"] + 0.1
    assert (
        report["bayes"]["score"] == pytest.approx(report["bayes"]["fitted"], abs=0.05)
        and report["bayes"]["over_always"] > -0.05
    )


def test_several_networks_are_calibrated_one_by_one_and_decided_together():
    task, vals = SingleLabel(), [some_logits(seed=1), some_logits(seed=2, first=1000, counts=(11, 4, 85))]
    calibration = task.calibrate(vals)
    assert [network["rules"] for network in calibration["networks"]] == [
        task.calibrate([val])["networks"][0]["rules"] for val in vals
    ]
    tests = [
        replace(some_logits(seed=9), counts=val.counts, prior=val.prior, logits=some_logits(seed=seed).logits)
        for seed, val in enumerate(vals, 7)
    ]
    fitted = [rules.posterior_of(network["rules"]["bayes"]) for network in calibration["networks"]]
    counts = np.array([21, 9, 170])  # of both together
    p = np.mean([posterior.probabilities(test, counts) for posterior, test in zip(fitted, tests, strict=True)], axis=0)
    by_hand = ((7 * p - 1) / counts).argmax(1)
    assert np.allclose(single_label.posterior(tests, calibration), p)
    assert (single_label.classes_of(tests, calibration, "bayes") == by_hand).all()
    plain = np.mean([calibrate.probabilities(test.logits) for test in tests], axis=0).argmax(1)
    assert (single_label.classes_of(tests, calibration, "argmax") == plain).all()
    report = single_label.report(vals, calibration)
    assert report["images"] == 120 and report["rules"]["argmax"]["score"] == report["rules"]["argmax"]["fitted"]


def test_the_bootstrap_keeps_the_classes_and_has_the_right_spread():
    """Its standard deviation is √(Σ_c n_c·var_c), the exact one of a stratified sum."""
    rng = np.random.default_rng(0)
    strata = np.repeat([0, 1, 2], [500, 40, 1])
    values = rng.choice([0.0, 1.0, -3.0], len(strata))
    draws = stats.bootstrap(values, strata, draws=20000)
    exact = np.sqrt(sum((strata == c).sum() * values[strata == c].var() for c in range(3)))
    assert draws.std() == pytest.approx(exact, rel=0.02) and draws.mean() == pytest.approx(
        values.sum(), abs=3 * exact / np.sqrt(20000)
    )
    low, high = stats.interval(draws)
    assert np.mean((draws >= low) & (draws <= high)) == pytest.approx(0.95, abs=0.005)
    assert (stats.bootstrap(values[:1], strata[:1]) == values[0]).all()
    assert (draws == stats.bootstrap(values, strata, draws=20000)).all()


def test_intervals_hold_the_true_score_about_as_often_as_they_say():
    """A network that answers by a fixed table of chances, on 300 folds: 95 % intervals, 92 to 98 % of them right."""
    n, chances = np.array([400, 100, 30]), np.array([[0.8, 0.15, 0.05], [0.4, 0.5, 0.1], [0.3, 0.2, 0.5]])
    expected = np.mean(6 * chances.diagonal() - 5 - (n @ chances - n * chances.diagonal()) / n)
    truth, rng, held = np.repeat([0, 1, 2], n), np.random.default_rng(0), 0
    for _ in range(300):
        answers = np.concatenate([rng.choice(3, n[c], p=chances[c]) for c in range(3)])
        low, high = stats.interval(stats.bootstrap(metrics.earned(truth, answers, n), truth))
        held += low <= expected <= high
    assert 0.92 < held / 300 < 0.98


def test_the_report_s_figures_are_those_of_the_answers():
    task, val = SingleLabel(), some_logits(n=200)
    calibration = task.calibrate([val])
    answers, posterior = single_label.held_out([val], calibration)
    report = single_label.report([val], calibration)
    for rule, figures in report["rules"].items():
        assert figures["score"] == pytest.approx(score_of(val, answers[rule]))
        assert figures["over_always"] == pytest.approx(figures["score"] - score_of(val, np.full(200, 2)))
        assert figures["interval"][0] <= figures["score"] <= figures["interval"][1]
    assert report["bayes_minus"]["argmax"]["difference"] == pytest.approx(
        report["rules"]["bayes"]["score"] - report["rules"]["argmax"]["score"]
    )
    assert report["calibration"]["after"]["nll"] == pytest.approx(metrics.nll(posterior, val.targets.argmax(1)))
    assert single_label.held_out([val], calibration, ["argmax"])[0]["argmax"].tolist() == answers["argmax"].tolist()


def test_a_given_temperature_is_kept_in_cross_fitting_too():
    task, val = SingleLabel(), some_logits()
    calibration = task.calibrate([val], 1.2)
    assert calibration["networks"][0]["rules"]["temperature"] == {"temperature": 1.2, "tuned": False}
    answers, _ = single_label.held_out([val], calibration, ["temperature"])
    assert answers["temperature"].tolist() == calibrate.probabilities(val.logits, 1.2).argmax(1).tolist()


def write(path, content: Logits):
    logits_file.write_logits(path, content)
    return path


def test_tune_and_decide_verbs(tmp_path, call):
    val = write(tmp_path / "val.npz", some_logits())
    test = replace(some_logits(n=30, seed=1), targets=np.full((30, 3), np.nan, np.float32))
    write(tmp_path / "test.npz", test)
    tuned = call("tune", val, "--out", tmp_path / "c.json")
    assert (
        tuned.code == 0
        and "always No Finding" in tuned.out
        and "cross-fitted" in tuned.out
        and "optimistic" in tuned.out
    )
    assert all(f"\n{rule} " in tuned.out for rule in RULES)
    decide = [
        "decide",
        tmp_path / "test.npz",
        "--calibration",
        tmp_path / "c.json",
        "--out",
        tmp_path / "s.csv",
        "--rule",
    ]
    said = call(*decide, "argmax")
    lines = (tmp_path / "s.csv").read_text().splitlines()
    assert lines[0] == "id,A,B,No Finding" and len(lines) == 31
    answers = calibrate.probabilities(test.logits).argmax(1)
    assert lines[1:] == [f"{i}.png,{','.join('1' if c == a else '0' for c in range(3))}" for i, a in enumerate(answers)]
    for c, name in enumerate(CLASSES):  # answered beside expected
        row = next(line.split() for line in said.out.splitlines() if line.strip().startswith(str(name)))
        assert row[-2:] == [str((answers == c).sum()), f"{30 * test.counts[c] / 100:.1f}"]


def test_costs_travel_with_the_calibration(tmp_path, call):
    val = write(tmp_path / "val.npz", some_logits(n=300))
    assert call("tune", val, "--out", tmp_path / "c.json", "--costs", 1, 0, 5).code == 0
    assert json.loads((tmp_path / "c.json").read_text())["costs"] == {"tp": 1.0, "fp": 0.0, "fn": 5.0}
    assert (
        call("decide", val, "--calibration", tmp_path / "c.json", "--rule", "bayes", "--out", tmp_path / "s.csv").code
        == 0
    )
    posterior = single_label.posterior([logits_file.read_logits(val)], json.loads((tmp_path / "c.json").read_text()))
    said = labels.read_one_hot(tmp_path / "s.csv").targets.argmax(1)
    assert (said == (posterior / [10, 5, 85]).argmax(1)).all()
    assert (said == 1).sum() > (
        rules.bayes_scores(posterior, np.array([10, 5, 85]), Costs()).argmax(1) == 1
    ).sum()  # false alarms are free


def test_folds_through_the_verbs(tmp_path, call):
    vals = [
        write(tmp_path / "v0.npz", some_logits(seed=1)),
        write(tmp_path / "v1.npz", some_logits(seed=2, first=1000, counts=(11, 4, 85))),
    ]
    prior = [logits_file.read_logits(path).prior for path in vals]
    tests = [
        write(
            tmp_path / f"t{k}.npz",
            replace(
                some_logits(seed=5 + k),
                ids=some_logits().ids,
                targets=some_logits().targets,
                prior=prior[k],
                counts=np.array(counts),
            ),
        )
        for k, counts in enumerate([(10, 5, 85), (11, 4, 85)])
    ]
    assert call("tune", *vals, "--out", tmp_path / "both.json").code == 0
    for k, val in enumerate(vals):
        assert call("tune", val, "--out", tmp_path / f"c{k}.json").code == 0
    outputs = []
    for calibration in (["both.json"], ["c0.json", "c1.json"]):
        said = call(
            "decide",
            *tests,
            "--calibration",
            *(tmp_path / name for name in calibration),
            "--rule",
            "bayes",
            "--out",
            tmp_path / "s.csv",
        )
        assert said.code == 0, said.err
        outputs.append((tmp_path / "s.csv").read_bytes())
    assert outputs[0] == outputs[1]


def test_other_counts_of_the_test_set(tmp_path, call):
    test, val = write(tmp_path / "t.npz", some_logits(seed=3)), write(tmp_path / "v.npz", some_logits(n=400))
    assert call("tune", val, "--out", tmp_path / "c.json").code == 0
    decide = ["decide", test, "--calibration", tmp_path / "c.json", "--rule", "bayes", "--out", tmp_path / "s.csv"]

    def answers(*more):
        said = call(*decide, *more)
        assert said.code == 0, said.err
        return labels.read_one_hot(tmp_path / "s.csv").targets.argmax(1)

    (tmp_path / "same.csv").write_text("class,count\nNo Finding,850\nA,100\nB,50\n")
    (tmp_path / "none.csv").write_text("class,count\nNo Finding,50\nA,0\nB,50\n")
    assert (answers("--counts", tmp_path / "same.csv") == answers()).all()
    assert (answers("--counts", tmp_path / "none.csv") != 0).all()
    calibration, content = json.loads((tmp_path / "c.json").read_text()), logits_file.read_logits(test)
    estimated = calibrate.estimate_counts(single_label.posterior([content], calibration), content.counts)
    assert (answers("--estimate-counts") == single_label.classes_of([content], calibration, "bayes", estimated)).all()


def test_a_rule_below_the_constant_answer_is_warned_about():
    task = SingleLabel()
    val, _ = worlds.simulate(World("", sampler=1.0), 0, 1000)
    report = single_label.report([val], task.calibrate([val]))
    loud = single_label_report.doubt(report, "argmax")
    assert loud[0] == "!" * 100 == loud[-1] and "WARNING: rule argmax scores" in loud[1] and "rule=bayes" in loud[2]
    assert single_label_report.doubt(report, "bayes") == []
    few = some_logits(n=12, seed=4)
    close = single_label.report([few], task.calibrate([few]))
    close["rules"]["bayes"] |= {"over_always": 0.1, "over_always_interval": [-0.2, 0.4]}
    assert "it may be luck" in single_label_report.doubt(close, "bayes")[0]


# ---- by patient
def test_weighted_scores_are_the_scores_of_the_rows_that_often():
    rng = np.random.default_rng(4)
    truth, answers = rng.integers(0, 4, 40), rng.integers(0, 4, 40)
    weights = rng.integers(0, 3, (20, 40))
    weights[0], weights[1, truth == 2] = 1, 0  # as it is; and a draw without a class
    found = metrics.weighted_scores(truth, answers, weights, 5, Costs(1, 2, 5))
    for draw, times in zip(found, weights, strict=True):
        rows = np.repeat(np.arange(40), times)
        assert draw == pytest.approx(
            metrics.competition_score(metrics.tally(truth[rows], answers[rows], 5), Costs(1, 2, 5))
        )


def test_cross_fitting_by_patient_parts_none_of_them():
    val = some_logits(n=200)
    patients = np.array([str(row // 8) for row in range(200)])
    seen = np.zeros(200, int)
    for where, _, others, part in rules.parted([val], patients):
        seen[where] += 1
        assert (
            not set(patients[where]) & set(patients[np.isin(val.ids, others.ids)])
            and (val.ids[where] == part.ids).all()
        )
    assert (seen == 1).all()


def test_copies_of_images_within_patients_make_no_interval_narrower():
    """Twenty copies of every image are twenty times the images and no more patients."""
    val = some_logits(n=60)
    copies = replace(
        val.take(np.repeat(np.arange(60), 20)),
        ids=np.array([f"{row}-{copy}" for row in range(60) for copy in range(20)]),
    )
    patients = np.repeat(val.ids, 20)
    calibration = SingleLabel().calibrate([copies])
    by_image = single_label.report_test([copies], calibration)["rules"]["argmax"]
    by_patient = single_label.report_test([copies], calibration, patients)["rules"]["argmax"]
    assert by_patient["score"] == by_image["score"]
    assert np.ptp(by_patient["interval"]) > 2 * np.ptp(by_image["interval"])
