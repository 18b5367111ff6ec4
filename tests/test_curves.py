"""Curves to watch while a run trains: a key that binds nothing, of packages that nothing needs."""

import csv
import importlib.machinery
import sys
import types

import pytest

from conftest import TINY
from core.errors import UserError
from core.runs import Run
from net import curves
from tasks import registry


@pytest.fixture
def board(monkeypatch) -> list:
    """What is shown to a stand-in of TensorBoard: how its writer is made, then name, value and epoch."""
    shown = []

    class SummaryWriter:
        def __init__(self, folder, purge_step):
            shown.append((folder.name, purge_step))

        def add_scalar(self, name, value, epoch):
            shown.append((name, value, epoch))

        def flush(self):
            pass

    package = types.ModuleType("tensorboard")
    package.__spec__ = importlib.machinery.ModuleSpec("tensorboard", None)
    module = types.ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = SummaryWriter
    monkeypatch.setitem(sys.modules, "tensorboard", package)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    return shown


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_a_missing_package_is_told_before_anything_starts(call, made, home, monkeypatch, name):
    monkeypatch.setattr(curves.importlib.util, "find_spec", lambda _: None)
    said = call("train", "modelB", "--data", made, *TINY, f"log={name}")
    assert said.code == 2 and f"the package {name} is not installed" in said.err
    assert not (home / "runs" / "modelB" / "run.json").exists()


def test_a_run_goes_on_with_curves_and_shows_what_the_log_holds(call, made, home, board, ctrl_c_after_an_epoch):
    words = ("train", "modelB", "--data", made, *TINY, "name=watched")
    with pytest.MonkeyPatch.context() as patch:
        from net import checkpoint

        save = checkpoint.save
        ctrl_c_after_an_epoch()
        assert call(*words).code == 130 and not board
        patch.setattr(checkpoint, "save", save)
        assert call(*words, "log=tensorboard").code == 0
    log = list(csv.DictReader(open(home / "runs" / "watched" / "log.csv")))
    assert board[0] == ("tensorboard", 2) and {epoch for *_, epoch in board[1:]} == {2, 3}
    for name, value, epoch in board[1:]:
        assert float(log[epoch - 1][name]) == value
    assert {"train_loss", "val_loss", "score", "lr"} <= {name for name, *_ in board[1:]}
    assert call(*words).code == 0  # without them again


def test_without_the_key_nothing_is_shown_and_nothing_is_needed(monkeypatch, home):
    monkeypatch.setattr(curves.importlib.util, "find_spec", lambda _: None)
    config = registry.load("modelB")
    curves.check(config)
    curves.curves(config, Run.named("mine"), 0)({"epoch": 1})
    assert "log" not in config.meaning and not (home / "runs").exists()
    with pytest.raises(UserError, match="log"):
        registry.load("modelB", ["log=mlflow"])
