"""The machinery of a run: other threads, another step, loader workers that die, too little shared memory."""

import os
import signal
from collections import namedtuple

import pytest
import torch

from conftest import TINY
from core.logits_file import read_logits
from images import loader
from net import machine
from net.machine import Machine
from tasks import registry

Usage = namedtuple("Usage", "total used free")


def config(*given: str):
    return registry.load("modelB", [*TINY, "device=cpu", *given])


@pytest.mark.parametrize(("free", "workers"), [(0, 0), (64 * 10**6, 2), (10**9, 8)])
def test_so_many_workers_as_shared_memory_holds(free, workers, monkeypatch, capsys):
    """Batches of 64 images of 256 pixels: 25 MB for each worker."""
    monkeypatch.setattr(machine.sys, "platform", "linux")
    monkeypatch.setattr(machine, "SHARED", machine.Path("/"))
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda path: Usage(free, 0, free))
    assert machine.pick(config("workers=8", "batch=64", "size=256")).workers == workers
    said = capsys.readouterr().err
    assert (f"workers = {workers}, for / has {free / 1e6:.0f} MB free" in said) == (workers < 8)


def test_without_shared_memory_there_are_no_workers(tmp_path, monkeypatch):
    monkeypatch.setattr(machine.sys, "platform", "linux")
    monkeypatch.setattr(machine, "SHARED", tmp_path / "none")
    assert machine.pick(config("workers=2")).workers == 0


def test_a_worker_that_is_killed_is_a_sentence(made, home, call, monkeypatch):
    monkeypatch.setattr(loader.Images, "__getitem__", lambda self, draw: os.kill(os.getpid(), signal.SIGKILL))
    said = call("main", "modelB", "--data", made, *TINY, "workers=1", "name=killed")
    assert said.code == 2 and said.err.rstrip().splitlines()[-1].startswith("error: a process that loads images died")
    assert "with workers=0" in said.err
    monkeypatch.undo()


def test_another_number_of_threads_is_said(made, home, call, ctrl_c_after_an_epoch, monkeypatch):
    ctrl_c_after_an_epoch()
    command = ["train", "modelB", "--data", made, *TINY, "device=cpu", "name=threads"]
    before = torch.get_num_threads()
    try:
        assert call(*command).code == 130
        same = call(*command)
        torch.set_num_threads(before + 1)
        other = call(*command)
    finally:
        torch.set_num_threads(before)
    assert same.code == 130 and "its bytes will not repeat" not in same.err
    warning = f"this run began with threads = {before} and goes on with {before + 1}: its bytes will not repeat"
    assert other.code == 0 and warning in other.err


@pytest.mark.parametrize("first, then", [(None, True), (True, None)])
def test_a_run_goes_on_with_another_step_of_the_optimizer(
    first, then, made, home, call, ctrl_c_after_an_epoch, monkeypatch
):
    """A GPU has the fused one, which versions before had not, and a run may go on without a GPU."""
    words = ("train", "modelB", "--data", made, *TINY)
    assert call(*words, "name=whole").code == 0
    ctrl_c_after_an_epoch()
    monkeypatch.setattr(Machine, "fused", first)
    assert call(*words, "name=cut").code == 130
    monkeypatch.setattr(Machine, "fused", then)
    assert [call(*words, "name=cut").code for _ in range(2)] == [130, 0]
    last = torch.load(home / "runs" / "cut" / "last.pt", weights_only=True)
    assert {group["fused"] for group in last["optimizer"]["param_groups"]} == {then}
    whole, cut = (read_logits(home / "runs" / name / "val_logits.npz").logits for name in ("whole", "cut"))
    assert abs(whole - cut).max() < 1e-3 * whole.std()
