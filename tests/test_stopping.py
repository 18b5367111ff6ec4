"""Cut anywhere, a run goes on from there: within an epoch, by signals, for time, by numbers that are none."""

import csv
import json
import os
import signal
import time

import numpy as np
import pytest
import torch

import main
import soak
from conftest import TINY
from core import stopping
from core.runs import Run
from images.loader import Order
from net import checkpoint, fit, learner
from test_recipe import ALL

PIECES = [*ALL, "norms=learn", "mix=mixup", "refit=balanced"]  # everything that has a state
FILES = ("best.pt", "val_logits.npz", "test_logits.npz", "calibration.json")


def ends(home, name: str) -> dict:
    """What a run leaves; of log.csv all but times and speed."""
    run = home / "runs" / name
    rows = csv.DictReader((run / "log.csv").read_text().splitlines())
    log = [{key: value for key, value in row.items() if key not in soak.TIMES} for row in rows]
    files = {file: (run / file).read_bytes() for file in FILES}
    return {**files, "log.csv": log, "csv": (home / "submissions" / f"{name}.csv").read_bytes()}


def at_step(monkeypatch, number: int, act) -> None:
    """Act once, within the step of that number of all steps from now on."""
    step, left = learner.Learner.step, [number]

    def counted(self, its):
        left[0] -= 1
        if left[0] == 0:
            act()
        step(self, its)

    monkeypatch.setattr(learner.Learner, "step", counted)


def heard(number: int):
    return lambda: os.kill(os.getpid(), number)


# ---- signals
def test_a_signal_waits_for_the_end_of_what_must_be_whole():
    done = []
    with pytest.raises(KeyboardInterrupt):
        with stopping.unbroken():
            with stopping.unbroken():
                heard(signal.SIGINT)()
                done.append("inner")
            done.append("outer")
        done.append("after")
    assert done == ["inner", "outer"]
    with pytest.raises(stopping.Terminated), stopping.terminable(), stopping.unbroken():
        heard(signal.SIGTERM)()
        done.append("terminated")
    assert done[-1] == "terminated" and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_an_ignored_signal_stays_ignored(monkeypatch):
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as in a shell's background jobs
    try:
        with stopping.unbroken():
            heard(signal.SIGINT)()
    finally:
        signal.signal(signal.SIGINT, before)


def test_an_order_goes_on_from_its_middle():
    for order in (Order(50, np.arange(50.0), seed=3), Order(50, shuffle=True, seed=3), Order(50)):
        order.epoch = 2
        whole, order.start = list(order), 20
        assert list(order) == whole[20:] and len(order) == 50


# ---- within an epoch
@pytest.fixture(scope="module")
def wholes(made, tmp_path_factory):
    """What uninterrupted runs end with: plain, and with every piece on."""
    home, found = tmp_path_factory.mktemp("whole"), {}
    from core import errors

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CXR_HOME", str(home))
        for name, pieces in (("plain", []), ("pieces", PIECES)):
            assert errors.command(main.main, ["modelB", "--data", str(made), *TINY, *pieces, f"name={name}"]) == 0
            found[name] = ends(home, name)
    return found


@pytest.mark.parametrize(
    ("kind", "number", "code", "step"),
    [("plain", signal.SIGINT, 130, 7), ("plain", signal.SIGTERM, 143, 11), ("pieces", signal.SIGTERM, 143, 5)],
)
def test_a_signal_saves_where_it_is_and_the_end_has_the_same_bytes(
    kind, number, code, step, wholes, made, home, call, monkeypatch
):
    command = ["main", "modelB", "--data", made, *TINY, *(PIECES if kind == "pieces" else []), f"name={kind}"]
    with monkeypatch.context() as patch:
        at_step(patch, step, heard(number))
        said = call(*command)
    steps = 2 if kind == "pieces" else 4
    place = f"within epoch {(step - 1) // steps + 1}, after {(step - 1) % steps + 1} of {steps} steps"
    assert said.code == code and f"saved {place}" in said.out, (said.out, said.err)
    assert "training goes on where it was saved" in said.err and "Traceback" not in said.err
    said = call(*command)
    assert said.code == 0 and f"resumed {place}" in said.out, said.err
    assert ends(home, kind) == wholes[kind]


def test_a_signal_during_validation_too(wholes, made, home, call, monkeypatch):
    """The mean of the last epochs has taken the epoch in by then, and does not take it in twice."""
    command = ["main", "modelB", "--data", made, *TINY, *PIECES, "name=pieces"]
    validate, left = fit.validate, [2]

    def stopped(*given):
        left[0] -= 1
        if left[0] == 0:
            heard(signal.SIGINT)()
        return validate(*given)

    monkeypatch.setattr(fit, "validate", stopped)
    said = call(*command)
    assert said.code == 130 and "saved within epoch 2, after 2 of 2 steps" in said.out, said.out
    assert call(*command).code == 0 and ends(home, "pieces") == wholes["pieces"]


class Killed(BaseException):
    """Nothing answers to it, as nothing does to SIGKILL."""


def killed():
    raise Killed


def test_save_minutes_bounds_what_a_kill_costs_and_a_damaged_state_what_its_predecessor_lacks(
    wholes, made, home, call, monkeypatch, capsys
):
    command = ["main", "modelB", "--data", made, *TINY, "save_minutes=1e-9", "name=plain"]
    with monkeypatch.context() as patch, pytest.raises(Killed):
        at_step(patch, 11, killed)
        call(*command)
    last = home / "runs/plain/last.pt"
    assert torch.load(last, weights_only=True)["under_way"]["steps"] == 2
    content = bytearray(last.read_bytes())
    content[len(content) // 2] ^= 255
    last.write_bytes(content)
    said = call(*command)
    assert said.code == 0 and "last.pt is damaged (BadZipFile)" in said.err, said.err
    assert "resumed within epoch 3, after 1 of 4 steps" in said.out and ends(home, "plain") == wholes["plain"]


def test_save_minutes_0_saves_at_the_ends_of_epochs_only(made, home, call, monkeypatch):
    saved = []
    save = checkpoint.save
    monkeypatch.setattr(checkpoint, "save", lambda path, content: (saved.append(path.name), save(path, content)))
    assert call("train", "modelB", "--data", made, *TINY, "save_minutes=0", "name=ends").code == 0
    assert saved.count("last.pt") == 3


def test_the_best_epochs_weights_are_written_again_where_the_state_has_them(wholes, made, home, call, monkeypatch):
    """Killed after last.pt and before best.pt."""
    command = ["main", "modelB", "--data", made, *TINY, *PIECES, "name=pieces"]
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(fit, "keep_best", lambda *_: killed())
        call(*command)
    said = call(*command)
    assert said.code == 0 and "best.pt is gone: it is written again" in said.err, said.err
    assert ends(home, "pieces") == wholes["pieces"]


def test_seconds_are_those_of_all_sessions(made, home, call, monkeypatch):
    command = ["main", "modelB", "--data", made, *TINY, "name=slow"]
    with monkeypatch.context() as patch:
        now, late = time.monotonic, [0.0]
        patch.setattr(time, "monotonic", lambda: now() + late[0])
        at_step(patch, 6, lambda: (late.__setitem__(0, 3600.0), heard(signal.SIGINT)()))  # that step took an hour
        assert call(*command).code == 130
    assert call(*command).code == 0
    about = json.loads((home / "runs/slow/run.json").read_text())
    log = list(csv.DictReader(open(home / "runs/slow/log.csv")))
    assert 3600 < about["timings"]["train"] < 3700 and 3600 <= float(log[1]["seconds"]) < 3700


# ---- time, numbers, memory
def test_hours_end_within_an_epoch_with_a_valid_csv(wholes, made, home, call, monkeypatch):
    command = ["main", "modelB", "--data", made, *TINY, "name=plain"]
    with monkeypatch.context() as patch:
        left = fit.seconds_left
        patch.setattr(fit, "seconds_left", lambda *given: 1e-9 if np.isfinite(left(*given)) else np.inf)
        said = call(*command, "hours=20")
    assert said.code == 0 and "stopped for time within epoch 2, after 1 of 4 steps" in said.out, said.err
    assert "PAUSED" in said.out and (home / "submissions/plain.csv").is_file()
    assert call(*command).code == 0 and ends(home, "plain") == wholes["plain"]


def test_a_loss_that_is_no_number_leaves_the_last_good_state(wholes, made, home, call, monkeypatch):
    command = ["main", "modelB", "--data", made, *TINY, "save_minutes=1e-9", "name=plain"]
    with monkeypatch.context() as patch:
        build, calls = fit.train_step, [0]

        def spoilt(learning, group, loss, trained):
            calls[0] += 1
            return build(learning, group, (lambda *_: loss(*_) * torch.nan) if calls[0] == 7 else loss, trained)

        patch.setattr(fit, "train_step", spoilt)
        said = call(*command)
    assert said.code == 2 and "no longer a number: epoch 2, step 3 of 4" in said.err, said.err
    good = torch.load(home / "runs/plain/last.pt", weights_only=True)
    assert good["under_way"]["steps"] == 2 and len(good["history"]) == 1
    assert all(torch.isfinite(value).all() for value in good["model"].values())
    assert call(*command).code == 0 and ends(home, "plain") == wholes["plain"]


def test_too_little_memory_says_what_to_try(made, home, call, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(fit, "train_step", full)
    said = call("main", "modelB", "--data", made, *TINY, "accumulate=3", "name=big")
    assert said.code == 2 and "batch = 16 at size = 32: try batch=8 accumulate=6" in said.err, said.err


# ---- the files' sums
def test_a_file_is_whole_while_it_is_as_it_was_sealed(home):
    run = Run.named("sealed")
    run.save(state="trained")
    (run / "a.txt").write_text("a")
    (run / "b.txt").write_text("b")
    run.seal("a.txt")
    run.save()
    again = Run.named("sealed")
    assert again.whole("a.txt") and again.whole("b.txt") and not again.whole("c.txt")
    (run / "a.txt").write_text("other")
    assert not again.whole("a.txt")


# ---- the command
def test_soak(call, monkeypatch, tmp_path):
    """One run, killed once; a full soak is a command."""
    said = call("soak", "1", "--seed", "11")
    assert said.code == 0 and "1 of 1 ends are byte-identical" in said.out, said.out + said.err
    assert call("soak", "0").code == 2


def test_soak_notices_what_differs(monkeypatch, tmp_path):
    """A run whose end depends on how often it was started."""
    monkeypatch.setattr(soak.Session, "run", other_ends)
    monkeypatch.setattr(soak.synthetic, "make", lambda *_, **__: None)
    (failed,) = soak.soak(1, 0, tmp_path)
    assert "submissions/soak.csv differs" in failed and "trial-0" in failed


def other_ends(self, home, words, moment=None) -> int:
    place = home / "submissions/soak.csv"
    place.parent.mkdir(exist_ok=True)
    place.write_text((place.read_text() if place.exists() else "") + "x")
    (home / "count.txt").write_text("3")
    return 0 if moment is None else -9
