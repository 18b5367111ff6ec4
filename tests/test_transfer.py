"""Weights of another run: what is taken, what is not, and that no network starts from one that saw its answers."""

import shutil

import pytest
import torch

from conftest import TINY

QUICK = [*TINY, "epochs=1", "frozen_epochs=0"]


def body_of(run, file="best.pt"):
    state = torch.load(run / file, weights_only=True)["model"]
    return {name: value for name, value in state.items() if name.startswith("body.")}


@pytest.fixture(scope="module")
def donors(made, tmp_path_factory):
    """A trained network, and a cross-validation of two folds."""
    import os

    import main
    from core import errors

    home, before = tmp_path_factory.mktemp("donors"), os.environ.get("CXR_HOME")
    os.environ["CXR_HOME"] = str(home)
    for words in (["name=one"], ["name=two", "folds=2"]):
        assert errors.command(main.main, ["modelB", "--data", str(made), *QUICK, *words]) == 0
    os.environ.pop("CXR_HOME")
    if before:
        os.environ["CXR_HOME"] = before
    return home / "runs"


@pytest.fixture
def started(made, home, call, monkeypatch):
    """Train with these words, and return what was said, and the body that training began with by fold."""
    from net import model

    bodies, build = [], model.build

    def built(config, classes, weights):
        net = build(config, classes, weights)
        if weights != "none":
            bodies.append({f"body.{name}": value.clone() for name, value in net.body.state_dict().items()})
        return net

    monkeypatch.setattr(model, "build", built)
    return lambda *words: (call("train", "modelB", "--data", made, *QUICK, *words), bodies)


def equal(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_a_run_s_body_is_taken_and_its_head_is_not(donors, started, home):
    said, (body,) = started(f"weights={donors / 'one'}", "name=next", "imbalance=none")
    assert said.code == 0, said.err
    assert equal(body, body_of(donors / "one"))
    assert "tensors of the body from" in said.out and "(competition, epoch 1, " in said.out
    assert "not taken: its head" in said.out
    assert not equal(body, body_of(home / "runs" / "next"))  # it has learned


def test_a_fold_starts_from_the_fold_of_its_number(donors, started, home, made, call):
    said, bodies = started(f"weights={donors / 'two'}", "name=next", "folds=2")
    assert said.code == 0, said.err
    assert len(bodies) == 2
    assert all(equal(body, body_of(donors / "two" / f"fold{k}")) for k, body in enumerate(bodies, start=1))
    probed = call("probe", "modelB", "--data", made, *QUICK, f"weights={donors / 'two'}", "folds=2", "name=other")
    assert probed.code == 2 and "one body, which has learned from some of the folds" in probed.err


@pytest.mark.parametrize(
    "words, sentence",
    [
        (["split_seed=5"], "images that this run is judged by"),
        (["folds=2"], "images that this run is judged by"),
        (["model=test_resnet"], "is of model = test_convnext, and this one of test_resnet"),
    ],
)
def test_what_would_have_seen_the_answers_is_refused(words, sentence, donors, started, home):
    said, _ = started(f"weights={donors / 'one'}", *words, "name=next")
    last = said.err.rstrip().splitlines()[-1]
    assert said.code == 2 and last.startswith("error: weights = ") and sentence in last
    assert not list((home / "runs").rglob("last.pt"))


@pytest.mark.parametrize(
    "words, sentence", [([], "is a cross-validation of 2 folds"), (["folds=3"], "is a cross-validation of 2 folds")]
)
def test_a_cross_validation_serves_another_of_its_folds_only(words, sentence, donors, started):
    said, _ = started(f"weights={donors / 'two'}", *words, "name=next")
    assert said.code == 2 and sentence in said.err and "fold1" in said.err


def test_a_network_that_ends_earlier_does_not_serve_a_whole_one(made, home, call, started):
    short = ["strides=[16]", "pooling=mean_std"]
    assert started("weights=none", *short, "name=short")[0].code == 0
    said, _ = started(f"weights={home / 'runs' / 'short'}", "name=whole")
    assert said.code == 2 and "ends before" in said.err and "strides=[16]" in said.err
    assert started(f"weights={home / 'runs' / 'short'}", *short, "name=again")[0].code == 0


def test_a_run_that_is_no_network_or_damaged_is_refused(donors, started, tmp_path, home):
    paused = shutil.copytree(donors / "one", tmp_path / "paused")
    (paused / "run.json").write_text((paused / "run.json").read_text().replace('"trained"', '"paused"'))
    said, _ = started(f"weights={paused}", "name=next")
    assert said.code == 2 and "is not trained to its end" in said.err
    broken = shutil.copytree(donors / "one", tmp_path / "broken")
    content = bytearray((broken / "best.pt").read_bytes())
    content[len(content) // 2] ^= 0xFF
    (broken / "best.pt").write_bytes(content)
    said, _ = started(f"weights={broken}", "name=next")
    assert said.code == 2 and "best.pt is not as this run wrote it" in said.err
    said, _ = started(f"weights={tmp_path}", "name=next")
    assert said.code == 2 and "is no run folder" in said.err
    assert not (home / "runs" / "next").exists()


def test_networks_that_saw_nih_are_known_by_their_run(donors, started, tmp_path):
    """A run of nih14 may have learned from the competition's test images, whatever it is called."""
    nih = shutil.copytree(donors / "one", tmp_path / "plain")
    text = (nih / "run.json").read_text()
    assert '"task": "competition"' in text
    (nih / "run.json").write_text(text.replace('"task": "competition"', '"task": "nih14"'))
    assert "pretrained on chest X-rays" in started(f"weights={nih}", "name=next")[0].err
