"""Heads by regression: where a head starts (LP-FT), and how it is fitted again after training."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from scipy.optimize import approx_fprime
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression

import train
from answers import metrics
from answers.posterior import Posterior
from conftest import TINY, unsealed
from core import logits_file, priors
from core.logits_file import Logits
from images import synthetic
from net import checkpoint, features, fit, heads, refit
from tasks.multi_label import MultiLabel
from tasks.single_label import SingleLabel

OF = {
    "modelB": [*TINY, "precision=fp32"],
    "padchest": [
        *[*TINY, "precision=fp32", "crop=none", "val_fraction=0.25", "test_fraction=0.25", "head=none", "mix=none"],
        "labels=cardiomegaly,scoliosis,pleural effusion,unchanged",
    ],
}


@pytest.fixture(scope="module")
def chests(tmp_path_factory) -> Path:
    """160 synthetic images in PadChest's layout; read only."""
    folder = tmp_path_factory.mktemp("padchest") / "set"
    synthetic.make(folder, images=160, size=40, seed=3, layout="padchest")
    return folder


@pytest.fixture
def ask(made, chests, tmp_path):
    """The words of a command for one of the two configurations, with pretrained weights of its own."""
    torch.manual_seed(0)
    safetensors.torch.save_file(timm.create_model("test_convnext").state_dict(), tmp_path / "start.safetensors")

    def words(config: str, *settings: str) -> list:
        data = {"modelB": made, "padchest": chests}[config]
        return [config, "--data", data, *OF[config], f"weights={tmp_path / 'start.safetensors'}", *settings]

    return words


@pytest.fixture
def untrained(monkeypatch):
    """Training that keeps the network as it starts."""

    def keep(learner, batches, loss, task, run):
        checkpoint.save(run / "best.pt", {"model": learner.net.state_dict(), "epoch": 0})
        (run / "log.csv").write_text("")
        return True

    monkeypatch.setattr(train, "fit", keep)


def val(home, name):
    return logits_file.read_logits(home / "runs" / name / "val_logits.npz")


def interrupt_after(monkeypatch, file: str) -> None:
    """A Ctrl-C right after this file is written, once."""
    save = checkpoint.save

    def interrupted(path, content):
        save(path, content)
        if path.name == file:
            monkeypatch.setattr(checkpoint, "save", save)
            raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "save", interrupted)


# ---- head_start
@pytest.mark.parametrize("config", OF)
def test_the_head_starts_at_the_probes_logits(config, ask, home, call, untrained):
    asked = ask(config, "imbalance=none", "head_start=probe", "name=net")
    assert call("probe", *asked).code == 0
    said = call("train", *asked)
    assert said.code == 0 and "the head starts from logistic regression" in said.out and "reused" in said.out, said.err
    ours, probe = val(home, "net"), val(home, "probe-net")
    assert ours.ids.tolist() == probe.ids.tolist() and ours.logits.std() > 0.01
    assert ours.logits == pytest.approx(probe.logits, abs=1e-4)


@pytest.mark.parametrize(
    ("config", "imbalance"),
    [("modelB", "sampler:0.5"), ("modelB", "logit_adjustment:1"), ("padchest", "oversampling:0.9")],
)
def test_under_a_correction_it_starts_at_the_prior_that_is_learned(config, imbalance, ask, home, call, untrained):
    assert call("probe", *ask(config, "name=net")).code == 0
    said = call("train", *ask(config, f"imbalance={imbalance}", "head_start=probe", "name=net"))
    assert said.code == 0, said.err
    ours, natural = val(home, "net"), val(home, "probe-net")
    odds = (lambda p: p) if config == "modelB" else (lambda p: p / (1 - p))
    moved = np.log(odds(ours.prior)) - np.log(odds(natural.prior))
    assert np.abs(moved).max() > 0.1
    assert ours.logits - natural.logits == pytest.approx(np.broadcast_to(moved, ours.logits.shape), abs=1e-4)


def test_a_prior_that_leaves_nothing_to_shift():
    natural, learned = np.array([0.9, 0.1, 0.0]), np.array([0.75, 0.25, 0.0])
    assert priors.shift(natural, learned, True) == pytest.approx([np.log(0.75 / 0.9), np.log(2.5), 0])
    assert priors.shift(np.array([1.0, 0.5, 0.0]), np.array([1.0, 0.75, 0.0]), False) == pytest.approx(
        [0, np.log(3), 0]
    )


def test_a_run_that_goes_on_needs_neither_weights_nor_features(ask, home, call, monkeypatch, tmp_path):
    assert call("train", *ask("modelB", "head_start=probe", "name=whole")).code == 0
    first = (home / "runs/whole/log.csv").read_text().splitlines()[1]
    assert call("train", *ask("modelB", "name=random")).code == 0
    assert first.split(",")[2] != (home / "runs/random/log.csv").read_text().splitlines()[1].split(",")[2]

    asked = ask("modelB", "head_start=probe", "name=cut")
    interrupt_after(monkeypatch, "last.pt")
    assert call("train", *asked).code == 130
    shutil.rmtree(home / "features")
    (tmp_path / "start.safetensors").unlink()
    monkeypatch.setattr(features, "extract", lambda *_: pytest.fail("features of a run that goes on"))
    said = call("train", *asked)
    assert said.code == 0 and "resumed after epoch 1" in said.out, said.err
    assert (home / "runs/cut/val_logits.npz").read_bytes() == (home / "runs/whole/val_logits.npz").read_bytes()


def test_what_a_start_from_the_probe_cannot_have(ask, home, call, monkeypatch):
    monkeypatch.setattr(fit, "train_epoch", lambda *_: pytest.fail("trained"))
    for settings, sentence in (
        (["head=16/0.1"], "head_start = probe: a regression has no hidden layers"),
        (["weights=none"], "the body of test_convnext starts at random here"),
        (["model=cnn2", "weights=imagenet"], "the body of cnn2 starts at random here"),
    ):
        said = call("train", *ask("modelB", "head_start=probe", *settings))
        assert said.code == 2 and sentence in said.err and not (home / "runs").exists()


# ---- refit
COUNTS = np.array([600, 90, 30])


def clouds(seed=0, counts=COUNTS, features=4, views=2) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Gaussian classes of unit variance: features [V, N, F], one-hot targets [N, C] and the exact posterior [N, C]."""
    rng, truth, means = np.random.default_rng(seed), np.repeat(np.arange(len(counts)), counts), 1.5 * np.eye(features)
    x = rng.normal(size=(len(truth), features)) + means[truth]
    log = -((x[:, None] - means[: len(counts)]) ** 2).sum(axis=2) / 2 + np.log(counts / counts.sum())
    return np.stack([x] * views), np.eye(len(counts))[truth], softmax(log, axis=1)


def test_balanced_is_scikit_learns_regression_with_weighted_images():
    x, targets, _ = clouds(views=1)
    weight, bias, prior = refit.balanced(x, targets, SingleLabel())
    scaled = (x[0] - x[0].mean(axis=0)) / x[0].std(axis=0)
    truth = targets.argmax(axis=1)
    own = LogisticRegression(C=1 / 4, max_iter=2000)
    own.fit(scaled, truth, sample_weight=(len(truth) / 3 / COUNTS)[truth])
    assert softmax(x[0] @ weight.T + bias, axis=1) == pytest.approx(own.predict_proba(scaled), abs=1e-3)
    assert prior == pytest.approx([1 / 3] * 3)


def test_the_prior_of_balanced_is_undone():
    x, targets, posterior = clouds()
    targets, posterior = (np.insert(part, 1, 0, axis=1) for part in (targets, posterior))  # a class without images
    weight, bias, prior = refit.balanced(x, targets, SingleLabel())
    assert prior == pytest.approx([1 / 3, 0, 1 / 3, 1 / 3])
    logits, ids = np.float32(x @ weight.T + bias), np.arange(len(targets)).astype(str)
    said = Logits(ids, logits, targets, np.array(list("abcd")), targets.sum(axis=0).astype(int), len(ids), prior)
    undone = Posterior(np.ones(4), np.zeros(4)).probabilities(said)
    assert np.abs(undone - posterior).mean() < 0.03 < 0.1 < np.abs(softmax(logits[0], axis=1) - posterior).mean()


def test_balanced_labels_keep_their_natural_prevalence():
    x, targets, posterior = clouds()
    targets = np.column_stack([targets, np.ones(len(targets))])
    targets[:50, 0] = np.nan
    weight, bias, prior = refit.balanced(x, targets, MultiLabel())
    assert prior == pytest.approx([550 / 670, 90 / 720, 30 / 720, 1])
    p = 1 / (1 + np.exp(-(x[0] @ weight.T + bias)))
    assert np.abs(p[:, 1:3] - posterior[:, 1:]).mean() < 0.06 and (p[:, 3] > 0.999).all()


def test_the_gradient_of_the_expected_score():
    rng = np.random.default_rng(0)
    rows, logits = rng.normal(size=(30, 5)), rng.normal(size=(30, 4))
    worth, pull, theta = rng.normal(size=(30, 4)), rng.uniform(size=5), rng.normal(size=20)
    given = (rows, logits, worth, pull)
    value, gradient = refit.loss(theta, *given)
    by_hand = approx_fprime(theta, lambda theta: refit.loss(theta, *given)[0], 1e-7)
    assert gradient == pytest.approx(by_hand, abs=1e-4) and np.abs(gradient).max() > 0.1
    at_start = refit.loss(np.zeros(20), *given)[0]
    assert at_start == pytest.approx(-(softmax(logits, axis=1) * worth).sum())


def test_earnings_sum_to_the_score():
    _, targets, _ = clouds()
    earnings, answers = SingleLabel().earnings(targets), np.random.default_rng(0).integers(0, 3, len(targets))
    score = metrics.competition_score(metrics.tally_one_hot(targets, answers))
    assert earnings[np.arange(len(answers)), answers].sum() == pytest.approx(score)


def test_the_expected_score_rises_on_training_and_on_new_images():
    x, targets, _ = clouds()
    targets = np.insert(targets, 1, 0, axis=1)
    known = targets.any(axis=0)
    trained = heads.fit(x, targets, True, 0.1).linear
    found = refit.maximised(x, *trained, SingleLabel().earnings(targets), known)
    assert (found[0][1] == trained[0][1]).all() and found[1][1] == trained[1][1]  # nothing is known of that class
    new, truth, _ = clouds(seed=1)
    for images, answers in ((x, targets), (new, np.insert(truth, 1, 0, axis=1))):
        earnings = SingleLabel().earnings(answers)
        q = [softmax(images @ weight.T + bias, axis=2).mean(axis=0) for weight, bias in (trained, found)]
        before, after = (float((each * earnings).sum()) for each in q)
        assert after > before + 0.1


@pytest.mark.parametrize("way", ["balanced", "expected_score"])
def test_a_refitted_run_answers_by_its_new_head_and_ends_with_the_same_bytes_when_cut(
    way, ask, home, call, monkeypatch
):
    outputs = ("refit.pt", "best.pt", "val_logits.npz", "test_logits.npz", "calibration.json")

    def bytes_of(name: str) -> dict[str, bytes]:
        return {file: (home / "runs" / name / file).read_bytes() for file in outputs}

    said = call("main", *ask("modelB", f"refit={way}", "name=whole"))
    assert said.code == 0 and f"refit = {way}" in said.out, said.err
    assert call("main", *ask("modelB", "name=plain")).code == 0
    plain, whole = home / "runs/plain", home / "runs/whole"
    assert (plain / "best.pt").read_bytes() == (whole / "best.pt").read_bytes() and not (plain / "refit.pt").exists()
    ours, theirs = (torch.load(whole / name, weights_only=True)["model"] for name in ("refit.pt", "best.pt"))
    assert {name for name in ours if not torch.equal(ours[name], theirs[name])} == {"head.1.weight", "head.1.bias"}

    # the prior that the logits assume travels with them
    content, counts = val(home, "whole"), val(home, "plain").counts
    uniform = (counts > 0) / (counts > 0).sum()
    assert content.prior == pytest.approx(uniform if way == "balanced" else val(home, "plain").prior)
    assert json.loads((whole / "run.json").read_text())["prior"] == content.prior.tolist()
    test = logits_file.read_logits(whole / "test_logits.npz")
    assert test.prior.tolist() == content.prior.tolist()

    for file in ("best.pt", "refit.pt", "last.pt"):  # stopped after the last thing that each of them is written for
        asked = ask("modelB", f"refit={way}", "epochs=1", f"name=cut-{file}")
        interrupt_after(monkeypatch, file)
        assert call("main", *asked).code == 130 and call("main", *asked).code == 0
    assert bytes_of("cut-best.pt") == bytes_of("cut-refit.pt") == bytes_of("cut-last.pt")

    # what is deleted is made again, without training
    before = bytes_of("whole")
    (whole / "refit.pt").unlink()
    with monkeypatch.context() as patch:
        patch.setattr(fit, "train_epoch", lambda *_: pytest.fail("trained again"))
        assert call("main", *ask("modelB", f"refit={way}", "name=whole")).code == 0
    assert bytes_of("whole") == before

    # predict reads refit.pt: with the trained head in it, its logits are those of the plain run
    shutil.copy(whole / "best.pt", whole / "refit.pt")
    assert "refit.pt is not as this run wrote it" in call("predict", whole).err
    unsealed(whole)
    assert call("predict", whole).code == 0
    mine, other = (logits_file.read_logits(run / "test_logits.npz").logits for run in (whole, plain))
    assert np.array_equal(mine, other) and not np.array_equal(test.logits, other)


def test_labels_are_refitted_balanced_and_have_no_score_to_expect(ask, home, call):
    said = call("train", *ask("padchest", "head=8/0.1", "refit=expected_score", "name=net"))
    assert said.code == 2 and "refit = expected_score: a padchest run has no score of single answers" in said.err
    said = call("train", *ask("padchest", "head=8/0.1", "refit=balanced", "epochs=1", "name=net"))
    assert said.code == 0, said.err
    content = val(home, "net")
    assert content.prior == pytest.approx(content.counts / content.rows)
    moved = torch.load(home / "runs/net/refit.pt", weights_only=True)["model"]["head.4.weight"]
    assert moved.shape == (4, 8)
