"""Heads by regression: where a head starts (LP-FT), and how it is fitted again after training."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import timm
import torch

import train
from conftest import TINY
from core import logits_file, priors
from images import synthetic
from net import checkpoint, features, fit

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
