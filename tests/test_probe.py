"""The bar: logistic regression on frozen features, for either kind of problem, a run like any other."""

import json

import numpy as np
import pytest
from scipy.special import log_softmax
from sklearn.linear_model import LogisticRegression

from conftest import TINY
from core import logits_file
from images import labels
from net import features, heads


def clouds(classes: int, n: int = 90, views: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Gaussian classes: features [V, N, F] and one-hot targets [N, C]; the views differ by a little noise."""
    rng = np.random.default_rng(0)
    truth = rng.integers(0, classes, n)
    x = rng.normal(size=(n, 5)) + 2 * np.eye(5)[truth]
    return np.stack([x + 0.01 * rng.normal(size=x.shape) for _ in range(views)]), np.eye(classes)[truth]


@pytest.mark.parametrize("classes", [2, 4])
def test_exclusive_classes_get_scikit_learns_softmax(classes):
    x, targets = clouds(classes)
    predict = heads.fit(x, targets, True, 0.1)
    flat = x.reshape(-1, 5)
    scaled = (flat - flat.mean(axis=0)) / flat.std(axis=0)
    own = LogisticRegression(C=0.1, max_iter=2000).fit(scaled, np.tile(targets.argmax(axis=1), 2))
    expected = own.predict_log_proba(scaled[: len(targets)])
    assert log_softmax(predict(x[0]), axis=1) == pytest.approx(expected, abs=1e-4)
    assert heads.likelihood(predict(x[0]), targets, True) == pytest.approx(expected[targets == 1].mean(), abs=1e-4)


def test_a_class_without_training_images_is_never_the_likeliest():
    x, targets = clouds(3)
    targets = np.insert(targets, 1, 0, axis=1)
    logits = heads.fit(x, targets, True, 0.1)(x[0])
    assert logits.shape == (90, 4) and np.isfinite(logits).all() and (logits.argmax(axis=1) != 1).all()


def test_labels_are_fitted_one_by_one_without_their_unknown_rows():
    x, targets = clouds(3)
    targets[:30, 0], targets[:, 2] = np.nan, 1  # some unknown, and one without negatives
    logits = heads.fit(x, targets, False, 0.1)(x[0])
    known = heads.fit(x[:, 30:], targets[30:, :1], False, 0.1)(x[0])
    assert (logits[:, 2] == heads.ABSENT).all()
    assert np.corrcoef(logits[:, 0], known[:, 0])[0, 1] > 0.999
    by_hand = [np.log(1 / (1 + np.exp(-(2 * t - 1) * z))) for t, z in zip(targets.ravel(), logits.ravel()) if t == t]
    assert heads.likelihood(logits, targets, False) == pytest.approx(np.mean(by_hand), rel=1e-4)


def test_the_probe_of_a_configuration_is_a_run_and_the_network_is_compared_with_it(made, home, call):
    asked = ["--data", made, *TINY, "name=net"]
    said = call("probe", "modelB", *asked)
    run = home / "runs/probe-net"
    assert said.code == 0 and "logistic regression on frozen features, C = " in said.out, said.err
    val = logits_file.read_logits(run / "val_logits.npz")
    assert val.logits.shape[0] == 2 and val.prior.sum() == pytest.approx(1)
    assert (
        labels.read_one_hot(home / "submissions/probe-net.csv").ids.tolist()
        == labels.read_ids(made / "test.csv").tolist()
    )
    for script in ("score", "evaluate", "report"):
        assert call(script, run).code == 0
    before = (run / "val_logits.npz").read_bytes()
    said = call("main", "modelB", *asked)
    assert said.code == 0 and "minus probe-net" in said.out, said.err
    assert (run / "folds.csv").read_bytes() == (home / "runs/net/folds.csv").read_bytes()
    again = call("probe", home / "runs/net")
    assert again.code == 0 and "minus probe-net" in again.out and (run / "val_logits.npz").read_bytes() == before


def test_probe_true_makes_it_first(made, home, call):
    said = call("main", "modelB", "--data", made, *TINY, "name=net", "probe=true")
    assert said.code == 0 and "minus probe-net" in said.out, said.err
    assert json.loads((home / "runs/probe-net/run.json").read_text())["baseline"].startswith("logistic regression")
    assert call("main", "modelB", "--data", made, *TINY, "name=net").code == 0  # the key does not bind


def test_what_is_asked_wrongly(made, home, call):
    assert call("main", "modelB", "--data", made, *TINY, "name=net").code == 0
    said = call("probe", home / "runs/net", "lr=1")
    assert said.code == 2 and "a run is probed with its own settings" in said.err
    said = call("probe", "nowhere")
    assert said.code == 2 and "there is no configuration" in said.err


def test_features_are_kept_and_a_damaged_file_is_made_again(made, home, call, monkeypatch):
    asked = ["modelB", "--data", made, *TINY, "name=net"]
    first = call("probe", *asked)
    assert first.code == 0 and "features:" not in first.out, first.err
    [kept] = (home / "features").glob("*.npz")
    whole, logits = kept.read_bytes(), (home / "runs/probe-net/val_logits.npz").read_bytes()

    with monkeypatch.context() as patch:
        patch.setattr(features, "extract", lambda *_: pytest.fail("computed again"))
        assert "images in 2 views, reused" in call("probe", *asked).out

    for damaged in (whole[: len(whole) // 2], whole[:5000] + bytes([whole[5000] ^ 255]) + whole[5001:], b""):
        kept.write_bytes(damaged)
        said = call("probe", *asked)
        assert said.code == 0 and f"{kept.name} is damaged" in said.err, said.err
        assert kept.read_bytes() == whole
    assert (home / "runs/probe-net/val_logits.npz").read_bytes() == logits

    assert call("probe", *asked, "seed=1").code == 0  # the random weights are others
    assert call("probe", *asked, "views=[original]").code == 0
    assert len(list((home / "features").glob("*.npz"))) == 3 and not list(home.rglob(".*part"))
