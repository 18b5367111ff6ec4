"""Several runs to one answer: weights, probabilities, and a run like any other."""

import json

import numpy as np
import pytest

import ensemble
from answers import multi_label
from answers.posterior import softmax
from conftest import TINY
from core import logits_file
from images import labels, synthetic
from tasks.opened import open_run

SPLIT = [*TINY, "split_seed=0"]


def world(seed=0, n=400):
    rng = np.random.default_rng(seed)
    truth = rng.integers(3, size=n)
    logits = rng.normal(size=(3, n, 3))
    logits[0, np.arange(n), truth] += 2  # one member knows much, one a little, one nothing
    logits[1, np.arange(n), truth] += 1
    return softmax(logits), np.eye(3)[truth]


def test_the_weights_maximise_the_penalised_likelihood():
    p, targets = world()
    truth = targets.argmax(axis=1)
    found = ensemble.fitted(p, True, targets)

    def worth(weights):
        said = np.tensordot(weights, p, 1)[np.arange(len(truth)), truth]
        return np.log(said).sum() + ensemble.SHRINK * len(truth) / 3 * np.log(weights).sum()

    grid = [np.array([a, b, 1 - a - b]) for a in np.arange(0.01, 1, 0.01) for b in np.arange(0.01, 0.995 - a, 0.01)]
    best = max(grid, key=worth)
    assert found.sum() == pytest.approx(1) and found == pytest.approx(best, abs=0.011)
    assert found[0] > found[1] > found[2] > 1 / 6  # shrunk: none is thrown out
    assert ensemble.fitted(p[[0, 0]], True, targets) == pytest.approx([0.5, 0.5])


def test_labels_weigh_members_by_their_known_targets():
    rng = np.random.default_rng(1)
    targets = np.float32(rng.random((300, 2)) < 0.3)
    good = np.where(targets == 1, 0.8, 0.1)
    poor = np.full((300, 2), 0.3)
    lost = targets.copy()
    lost[rng.random((300, 2)) < 0.5] = np.nan
    weights = ensemble.fitted(np.stack([good, poor]), False, lost)
    assert weights[0] > 0.6
    poor[np.isnan(lost)] = 0.999  # what nobody knows weighs nothing
    assert ensemble.fitted(np.stack([good, poor]), False, lost) == pytest.approx(weights)


@pytest.mark.parametrize("exclusive", [True, False])
def test_logits_say_the_probabilities(exclusive):
    p, targets = world()
    names = np.array(["a", "b", "c"])
    val = logits_file.Logits(
        np.arange(400).astype(str), np.zeros((1, 400, 3)), targets, names, np.ones(3), 9, np.ones(3)
    )
    found = logits_file.of_probabilities(val, p[0], val, exclusive)
    logits = found.logits[0].astype(float)
    assert (softmax(logits) if exclusive else multi_label.sigmoid(logits)) == pytest.approx(p[0], abs=1e-6)
    assert found.prior == pytest.approx(targets.mean(axis=0)) and found.rows == 400


def test_each_fifth_is_weighed_by_the_others():
    p, targets = world(n=100)
    before = ensemble.combined(p, targets, True, None)
    part = ensemble.folds.parts(targets.argmax(axis=1), ensemble.PARTS, seed=0)
    changed = targets.copy()
    changed[part == 2] = np.roll(targets[part == 2], 1, axis=1)  # other truths of a fifth
    after = ensemble.combined(p, targets, True, None), ensemble.folds.parts(targets.argmax(axis=1), 5, seed=0)
    assert (after[0] == before).all() and (after[1] == part).all()
    weights = ensemble.fitted(p[:, part != 2], True, targets[part != 2])
    assert before[part == 2] == pytest.approx(np.tensordot(weights, p[:, part == 2], 1))
    assert ensemble.fitted(p[:, part != 2], True, changed[part != 2]) == pytest.approx(weights)


def test_an_ensemble_is_a_run_like_any_other(made, home, call):
    for seed in (0, 1):
        size = f"size={32 + 8 * seed}"  # members may look at images of another size
        said = call("main", "modelB", "--data", made, *SPLIT, f"seed={seed}", f"name=s{seed}", "epochs=2", size)
        assert said.code == 0, said.err
    assert call("probe", home / "runs/s0").code == 0
    members = [home / f"runs/{name}" for name in ("s0", "s1", "probe-s0")]
    said = call("ensemble", *members, "--out", "both")
    assert said.code == 0 and said.out.count("paired: score on the same") == 3 and "macro AUC" in said.out, said.err
    run = home / "runs/both"
    about = json.loads((run / "run.json").read_text())
    assert about["baseline"].startswith("ensemble of s0 × ") and "probe-s0 × " in about["baseline"]
    # the test rows are the weighted mean of the members' calibrated posteriors
    weights = [float(part.split(" × ")[1]) for part in about["baseline"].split("of ", 1)[1].split(", ")]
    each = [open_run(one) for one in members]
    mean = sum(w * one.task.posterior(one.predicted, one.calibration) for w, one in zip(weights, each, strict=True))
    test = logits_file.read_logits(run / "test_logits.npz")
    assert softmax(test.logits[0].astype(float)) == pytest.approx(mean / mean.sum(axis=1, keepdims=True), abs=2e-3)
    assert sum(weights) == pytest.approx(1, abs=2e-3)
    assert (labels.read_one_hot(home / "submissions/both.csv").targets.sum(axis=1) == 1).all()
    for words in (
        ("score", run),
        ("report", run),
        ("evaluate", run, members[0]),
        ("compare", run, members[0], "--paired"),
    ):
        assert call(*words).code == 0, words
    again = call("ensemble", *members, "--out", "both")
    assert (
        again.code == 0 and logits_file.read_logits(run / "test_logits.npz").logits.tobytes() == test.logits.tobytes()
    )

    # what cannot be one
    for words, match in (
        ((members[0],), "at least two members"),
        ((members[0], members[0]), "named twice"),
        ((members[0], home), "is no run folder"),
        ((*members, "--out", "s0"), "is a run of its own"),
        ((run, members[0], "--out", "both"), "is one of the members"),
        ((*members, "--out", "../x"), "is no name of a run"),
    ):
        said = call("ensemble", *words)
        assert said.code == 2 and match in said.err, said.err
    said = call("main", "modelB", "--data", made, *SPLIT, "name=both", "epochs=2")
    assert said.code == 2 and "is not trained but a baseline" in said.err
    said = call("probe", run)
    assert said.code == 2 and "probe a run that was trained" in said.err
    other = call("main", "modelB", "--data", made, *TINY, "name=other", "split_seed=4", "epochs=2")
    assert other.code == 0
    said = call("ensemble", members[0], home / "runs/other")
    assert said.code == 2 and "have other validation images or labels" in said.err


def test_folds_and_labels_too(home, call, tmp_path):
    folder = tmp_path / "chests"
    synthetic.make(folder, images=160, size=40, seed=3, layout="padchest")
    words = [*TINY, "crop=none", "val_fraction=0.25", "test_fraction=0.25", "labels=cardiomegaly,unchanged", "folds=2"]
    words += ["split_seed=0", "epochs=2"]
    for seed in (0, 1):
        said = call("main", "padchest", "--data", folder, *words, f"seed={seed}", f"name=s{seed}")
        assert said.code == 0, said.err
    said = call("ensemble", home / "runs/s0", home / "runs/s1")
    assert said.code == 0 and "paired: auc on the same" in said.out, said.err
    report = json.loads((home / "runs/ensemble/report.json").read_text())
    assert "test" in report and report["test"]["images"] > 0
    parts = {line.split(",")[1] for line in (home / "runs/s0/folds.csv").read_text().splitlines()[1:]}
    assert parts == {"validation", "test"}
