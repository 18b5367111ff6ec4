"""The machinery of a run: other threads, loader workers that die, too little shared memory."""

import os
import signal
from collections import namedtuple

import pytest
import torch

from conftest import TINY
from images import loader
from net import machine
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
