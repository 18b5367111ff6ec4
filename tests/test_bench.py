"""Throughput: what is counted, what is said of it, and that every way sees the images it claims to."""

import json

import numpy as np
import pytest
import torch

import bench
from core import config as settings
from net import peers, throughput
from net.machine import Machine
from net.throughput import Pass
from tasks import registry

SMALL = ["model=test_convnext", "size=32", "batch=16", "workers=0", "device=cpu"]
TRAINING, FROZEN, LOADING = "training, the whole network", "training, the body frozen", "loading alone"


@pytest.fixture
def few(monkeypatch):
    monkeypatch.setattr(bench, "FEW", 60)
    monkeypatch.setattr(bench, "DRAWN", 40)


def test_every_way_is_timed_on_drawn_images_like_the_competition_s(home, call, few, tmp_path):
    said = call("bench", *SMALL, "--seconds", "0.01", "--rounds", "1", "--json", tmp_path / "found.json")
    assert said.code == 0, said.err
    assert "loader workers; " in said.out and "of the limit in training" in said.out
    (found,) = json.loads((tmp_path / "found.json").read_text()).values()
    assert list(found) == [TRAINING, FROZEN, "prediction, 2 views", LOADING]
    passes = {(group, name): one for group, its in found.items() for name, (one,) in its.items()}
    assert {one["images"] for one in passes.values()} == {16}
    assert all(0 <= one["waited"] <= one["seconds"] for one in passes.values())
    sent = {name: passes[TRAINING, name]["bytes"] for name in found[TRAINING]}
    grey, colour = 32 * 32, 3 * 32 * 32  # a byte a pixel; others send three, or as many numbers of four bytes
    assert list(sent.values()) == [0, grey, colour, 4 * colour, 4 * colour]
    assert passes["prediction, 2 views", "as public kernels do, float32, 2 views"]["bytes"] == 2 * 4 * colour
    assert not (home / "data").exists() and not (home / "runs").exists()  # it leaves nothing behind


def test_the_images_of_a_data_set_are_timed_too(made, home, call, few):
    said = call("bench", "modelB", *SMALL, "--data", made, "--seconds", "0.01", "--rounds", "1")
    assert said.code == 0, said.err
    assert "test_convnext, 32 pixels, batch 16" in said.out


@pytest.mark.parametrize(
    "words, sentence",
    [
        (["--variants"], "--variants compares ways to step on a GPU, and torch sees none"),
        (["--seconds", "0"], "--seconds must be above 0"),
        (["--rounds", "0"], "--rounds 1 to 100"),
        (["modelZ"], "there is no configuration"),
        (["--data", "nowhere"], "there is no such folder"),
        (["size=31"], "size"),
    ],
)
def test_what_it_cannot_do_is_a_sentence(words, sentence, home, call):
    said = call("bench", *words, "device=cpu")
    assert said.code == 2 and said.err.startswith("error: ") and sentence in said.err and said.err.count("\n") == 1


def passes(speed: float, seconds: float = 1.0) -> list[Pass]:
    return [Pass(round(speed * factor * seconds), seconds, 0.25, 9.0, 0, 0) for factor in (0.9, 1.0, 1.3)]


def test_the_ratios_and_the_length_of_a_run_by_hand():
    found = {
        TRAINING: {bench.LIMIT: passes(100), bench.KIT: passes(80), bench.PUBLIC: passes(20)},
        FROZEN: {bench.LIMIT: passes(400), bench.KIT: passes(200)},
        "prediction, 2 views": {bench.LIMIT: passes(60), bench.KIT: passes(50), "public": passes(10)},
    }
    config = registry.load("modelB", ["epochs=5", "frozen_epochs=1"])  # 80:20, two views
    first, second, third = bench.verdict(config, found)
    assert first.startswith("this kit: 0.80 of the limit in training, 0.83 in prediction; 4.0 times as fast as")
    assert "5.0 times in prediction" in first
    assert second == "a frozen epoch takes 0.40 of a full one's time"
    learned, held, tests = 0.8 * 51_043, 0.2 * 51_043, 17_015
    seconds = learned * (1 / 200 + 4 / 80) + 5 * held / 100 + held / 50 + tests / 50
    assert bench.clock(seconds) in third
    table = bench.lines(found)
    kit = next(line for line in table if line.startswith(f"  {bench.KIT}"))
    assert kit.split()[2:] == ["80", "72", "…", "104", "0.80", "25%", "9", "0", "0"]


def test_waiting_and_images_are_those_of_the_loader():
    batches = [(torch.zeros(4, 1, 8, 8, dtype=torch.uint8), torch.zeros(4, 2))] * 3
    found = throughput.measured(lambda watched: list(watched), batches, Machine(torch.device("cpu"), torch.float32, 0))
    assert (found.images, found.bytes) == (12, 64) and 0 <= found.waited <= found.seconds
    assert found.host == 0 or found.host > 50 * 10**6  # Python with torch, where the system tells


def test_peers_see_the_files_in_three_channels_and_torch_as_it_comes(made):
    config = registry.load("modelB", SMALL)
    paths = sorted((made / "images").glob("*.png"))[:20]
    targets = np.eye(4, dtype=np.float32)[np.arange(20) % 4]
    recipe = peers.Recipe(config, (0.5,) * 3, (0.25,) * 3, 0, torch.device("cpu"))
    for make, _ in peers.PEERS.values():
        images, found = next(iter(make(recipe, paths, targets)))
        assert images.shape == (16, 3, 32, 32) and images.dtype == torch.float32 and len(found) == 16
    torch.use_deterministic_algorithms(True, warn_only=True)
    with peers.undetermined():
        assert not torch.are_deterministic_algorithms_enabled()
    assert torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(False)


def test_what_is_timed_is_the_configuration_without_its_stages():
    given = bench.asked(bench.parsed(["modelC", "size=64"]))
    assert [config.size for config in given] == [64]
    assert given[0].folds == 0 and given[0].weights == "none"
    assert set(bench.REST) <= {f"{key}={value}" for key, value in settings_of(given[0]).items()}


def settings_of(config: settings.Config) -> dict[str, str]:
    return {key: f"{value:g}" if isinstance(value, float) else str(value) for key, value in config.model_dump().items()}
