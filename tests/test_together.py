"""One network on several devices: two processes on a CPU do what one does, end together, and go on from there."""

import json
import os
import signal
import subprocess
import sys
import threading
from itertools import chain
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml

import experiment
import main
import soak
import train
from conftest import ROOT, TINY
from core import errors, ranks
from core.runs import Run
from images import loader
from net import fit, launch, losses, machine, model, together
from net.learner import Learner
from tasks import registry
from test_experiment import STUDY
from test_stopping import ends

CPU = [*TINY, "device=cpu", "save_minutes=1e-9"]


@pytest.fixture
def placed(monkeypatch, tmp_path):
    """Called with a rank and a number of ranks, this process takes itself for that one."""

    def to(rank: int, number: int) -> None:
        place = soak.places(tmp_path / "placed", number)[rank]
        for name, value in place.items():
            monkeypatch.setenv(name, value)

    return to


@pytest.fixture(scope="module")
def session():
    """Starts processes of the main job, each in a moment."""
    return soak.Session()


# ---- what each rank has
@pytest.mark.parametrize("number", [2, 3])
@pytest.mark.parametrize("weights", [None, np.arange(1.0, 54.0)])
def test_an_epoch_is_the_same_draw_for_any_number_of_ranks(number, weights, placed):
    order = loader.Order(53, weights, shuffle=True, seed=3)
    order.epoch, order.start = 2, 8
    whole = list(loader.Share(order, 8, True, "rows"))
    shares = []
    for rank in range(number):
        placed(rank, number)
        shares.append(list(loader.Share(order, 8, True, "rows")))
        assert len(loader.Share(order, 8, True, "rows")) == 6 and len(shares[-1]) == len(whole) == 5
    for batch, *parts in zip(whole, *shares):
        drawn = list(chain(*parts))
        assert sorted(drawn) == sorted(batch) and len({draw.position for draw in drawn}) == 8
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("number", [2, 3, 8])
def test_every_row_is_predicted_once_in_the_batches_of_one_process(number, placed):
    whole, shares = list(loader.Share(loader.Order(53), 8, False, "batches")), []
    for rank in range(number):
        placed(rank, number)
        share = loader.Share(loader.Order(53), 8, False, "batches")
        shares.append(list(share))
        assert len(share) == len(shares[-1])
    turns = [share[turn] for turn in range(7) for share in shares if turn < len(share)]
    assert turns == whole and [len(batch) for batch in whole] == [8] * 6 + [5]
    placed(1, number)
    assert list(loader.Share(loader.Order(53), 8, False, "all")) == whole


# ---- two processes and one
def prepared(made: str, *words: str):
    """A learner of some weights, and its batches; dropout rests."""
    torch.manual_seed(0)
    config = registry.load("modelB", [*CPU, "dropout=0", "accumulate=2", f"name=same{ranks.count()}", *words])
    task, source = registry.task_of(config), registry.with_data("modelB", [], made, False)[1]
    found, picked = train.prepare.tables(source, task), machine.pick(config)
    data = train.prepare.images(source, found, task, picked.device, Path("none"))
    parts = train.folds.chosen(Run(Path("none")), data.labelled, task)
    learn, validation = (data.labelled.take(parts == part) for part in ("training", "validation"))
    batches = train.batches_of(task, data, learn, validation, 0, picked)
    learner = Learner(model.build(config, len(learn.classes), "none"), config, picked, 2)
    return learner, batches, losses.build(config, batches.counts, len(learn.ids), picked.device), task


def one_step(made: str) -> dict:
    """The validation figures of those weights, then a step: its gradients, loss, and the figures after it."""
    learner, batches, loss, task = prepared(made)
    found = {"before": fit.validate(learner.net, learner, batches, loss, task)[:2]}
    learner.connect()
    learner.net.train()
    group = [(*batch, 16) for batch, _ in zip(batches.learn, range(2))]
    fit.train_step(learner, group, loss, list(learner.net.parameters()))
    found["gradients"] = {name: parameter.grad for name, parameter in learner.net.named_parameters()}
    found["loss"], found["images"] = learner.under_way.loss, learner.under_way.images
    found["after"] = fit.validate(learner.net, learner, batches, loss, task)[:2]
    return found


def as_rank(made: str, home: str, place: dict[str, str]) -> None:
    os.environ.update(place, CXR_HOME=home)
    with together.joined(torch.device("cpu")):
        torch.save(one_step(made), f"{place[ranks.LAST_WORD]}.pt")


def test_gradients_and_figures_are_those_of_one_process(made, home, session, tmp_path):
    """With LayerNorm and without dropout; two batches a step, of which only the second one is waited for."""
    places = soak.places(tmp_path / "pair", 2)
    pair = [session.context.Process(target=as_rank, args=(str(made), str(home), place)) for place in places]
    for process in pair:
        process.start()
    alone = one_step(made)
    for process in pair:
        process.join(60)
        assert process.exitcode == 0
    for place in places:
        found = torch.load(f"{place[ranks.LAST_WORD]}.pt", weights_only=False)
        assert found["before"] == alone["before"] and found["images"] == alone["images"] == 32
        assert found["loss"].item() == pytest.approx(alone["loss"].item(), rel=1e-6)
        assert found["after"][0] == pytest.approx(alone["after"][0], abs=1e-6)
        for name, gradient in alone["gradients"].items():
            assert torch.allclose(found["gradients"][name], gradient, rtol=1e-4, atol=1e-7), name


# ---- ending and going on
@pytest.fixture(scope="module")
def whole(made, session, tmp_path_factory):
    """What two ranks end with that nobody stops."""
    home = tmp_path_factory.mktemp("ranks") / "whole"
    home.mkdir()
    assert session.run(home, ["modelB", "--data", str(made), *CPU, "devices=2", "name=pair"]) == 0
    return ends(home, "pair"), (home / "log.txt").read_text()


def test_two_ranks_say_it_once_and_leave_one_run(whole):
    left, said = whole
    assert said.count("2 devices × 8 images: batch 16, lr 0.001 unchanged") == said.count("epoch 3/3") == 1
    assert len(left["log.csv"]) == 3


def killed(words: list[str], rank: int) -> subprocess.CompletedProcess:
    """The main job, one of whose ranks is killed after the first epoch."""
    command = [sys.executable, str(ROOT / "src" / "main.py"), *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            if line.startswith("epoch 1/"):
                children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout
                os.kill(sorted(map(int, children.split()))[rank], signal.SIGKILL)
        return subprocess.CompletedProcess(words, process.wait(), "", process.stderr.read())


def test_a_killed_rank_ends_all_with_a_sentence_and_the_run_goes_on(whole, made, home, session, call):
    words = ["modelB", "--data", str(made), *CPU, "name=pair"]
    said = killed([*words, "devices=2"], rank=1)
    mine = [line for line in said.stderr.splitlines() if not line.startswith(("=", "DEMO", "For real"))]
    assert said.returncode == 2 and len(mine) == 1, said.stderr
    assert mine[0].startswith("error: one of the processes that train together was killed (rank 1, by SIGKILL)")
    assert "the same command goes on" in mine[0]
    last = torch.load(home / "runs/pair/last.pt", weights_only=True)
    assert len(last["history"]) >= 1 and not (home / "submissions").exists()
    files = {path: path.read_bytes() for path in (home / "runs/pair").iterdir() if path.is_file()}
    assert session.run(home, [*words, "devices=2"]) == 0
    assert "resumed" in (home / "log.txt").read_text() and ends(home, "pair") == whole[0]
    # by one process, too
    for path in (home / "runs/pair").iterdir():
        path.unlink()
    for path, content in files.items():
        path.write_bytes(content)
    said = call("main", *words)
    assert said.code == 0 and "resumed" in said.out and "epoch 3/3" in said.out, said.err
    assert "this run began with devices = 2 and goes on with 1: its bytes will not repeat" in said.err
    assert json.loads((home / "runs/pair/run.json").read_text())["state"] == "trained"


def test_stopped_and_killed_at_random_the_first_rank_takes_the_other_with_it(whole, made, tmp_path, session):
    """SIGTERM, which saves within the step that all ranks do together; and death within a file."""
    home, words = tmp_path / "cut", ["modelB", "--data", str(made), *CPU, "devices=2", "name=pair"]
    home.mkdir()
    for moment in (soak.Moment("SIGTERM", 1.5), soak.Moment("within", 25)):
        assert session.run(home, words, moment) in (0, 143, -signal.SIGKILL)
    assert session.run(home, words) == 0 and ends(home, "pair") == whole[0]


def test_the_sentence_is_that_of_the_rank_that_failed(placed, tmp_path, capsys):
    placed(1, 2)

    def refused(argv):
        print("not to be seen")
        raise errors.UserError("the data are not here")

    assert errors.command(refused, []) == 2 and capsys.readouterr() == ("", "")
    word = os.environ[ranks.LAST_WORD]
    message = json.loads(Path(word).read_text())["message"]
    failed = SimpleNamespace(error_file=word, message=message, exitcode=2, timestamp=1)
    other = SimpleNamespace(error_file="none", exitcode=143, timestamp=0)
    assert str(launch._why({0: other, 1: failed})) == "the data are not here"
    assert launch._why({0: SimpleNamespace(error_file="none", exitcode=1)}).code == 1  # its traceback was printed
    assert launch._why({0: SimpleNamespace(error_file="none", exitcode=-signal.SIGABRT)}).code == 1  # NCCL's own
    assert str(launch._why({0: other})).startswith("the processes that train together lost each other: ")
    lost = SimpleNamespace(error_file=word, message=f"{ranks.LOST} (oh)", exitcode=2, timestamp=0)
    dead = SimpleNamespace(error_file="none", exitcode=-9, timestamp=1, signal_name=lambda: "SIGKILL")
    assert str(launch._why({0: lost, 1: failed})) == "the data are not here"
    assert "was killed (rank 1, by SIGKILL)" in str(launch._why({0: lost, 1: dead}))
    assert str(launch._why({0: lost, 1: other})) == f"{ranks.LOST} (oh)"


def test_devices_that_do_not_work_together_leave_one_alone(made, home, call, monkeypatch):
    """Found, and not asked for: the run is made all the same. Asked for, it is not done otherwise."""

    def failing(devices, script, argv):
        raise SystemExit(1)

    monkeypatch.setattr(machine, "devices", lambda config: 2)
    monkeypatch.setattr(launch, "once_a_device", failing)
    said = call("train", "modelB", "--data", made, *CPU, "name=alone")
    assert said.code == 0 and "2 devices failed to train together (exit code 1, see above)" in said.err
    assert json.loads((home / "runs/alone/run.json").read_text())["devices"] == 1
    with pytest.raises(SystemExit):
        call("train", "modelB", "--data", made, *CPU, "name=pair", "devices=2")


@pytest.mark.parametrize(
    "words, match",
    [
        (["devices=2", "batch=2"], "batch = 2 on 2 devices leaves one of them less than 2 images"),
        (["devices=2", "sync_norms=true"], "torch sums statistics over GPUs only"),
        (["devices=65"], "devices = '65' will not do"),
        (["devices=0"], "devices = '0' will not do"),
    ],
)
def test_what_several_devices_cannot_do_is_a_sentence(words, match, made, call):
    said = call("main", "modelB", "--data", made, *CPU, *words)
    assert said.code == 2 and match in said.err


def test_more_gpus_than_are_visible(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    config = registry.load("modelB", [*TINY, "devices=3"])
    with pytest.raises(errors.UserError, match="devices = 3: 2 GPUs are visible here"):
        machine.devices(config)
    assert machine.devices(registry.load("modelB", TINY)) == 2
    assert machine.devices(registry.load("modelB", [*TINY, "device=cpu"])) == 1


# ---- side by side
def test_a_study_has_a_cell_a_device(made, home, tmp_path, call, monkeypatch):
    """Each main job waits for the other one to begin; then they take turns in this process."""
    path, seen = tmp_path / "study.yaml", []
    both, turn = threading.Barrier(2, timeout=60), threading.Lock()
    path.write_text(yaml.safe_dump(STUDY | {"seeds": [0], "base": STUDY["base"] | {"epochs": 1}}, sort_keys=False))

    class Process:
        def __init__(self, words, env, **_):
            seen.append((env["CUDA_VISIBLE_DEVICES"], "devices=1" in words))
            self.words = words[2:]

        def wait(self):
            both.wait()
            with turn:
                main.main(self.words)
            return 0

    monkeypatch.setattr(experiment, "subprocess", SimpleNamespace(**vars(subprocess) | {"Popen": Process}))
    said = call("experiment", path, "--data", made, "device=cpu", "devices=2")
    assert said.code == 0 and "2 to train" in said.out and "cell 2/2" in said.out, said.out + said.err
    assert sorted(seen) == [("0", True), ("1", True)]
