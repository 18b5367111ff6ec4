"""The synthetic set: its layout, its counts, its repeatability, and that it can be learned."""

import json
import time

import numpy as np
import pytest
from PIL import Image

import demo
import labels


def test_layout_is_the_competitions(made):
    tables = labels.read_competition(made)
    solution = labels.read_one_hot(made / "solution.csv")
    assert tables.train.classes == solution.classes == list(demo.SIGNS) and len(tables.train.classes) == 20
    assert solution.ids.tolist() == tables.test_ids.tolist()
    sample = labels.read_one_hot(made / "sample_submission.csv")
    assert sample.ids.tolist() == tables.test_ids[:10].tolist() and sample.classes == solution.classes
    on_disk = {path.name for path in (made / "images").iterdir()}
    assert on_disk == {*tables.train.ids.tolist(), *tables.test_ids.tolist()} and len(on_disk) == 120
    image = Image.open(made / "images" / tables.test_ids[0])
    assert image.size == (40, 40) and image.mode == "L"
    assert json.loads((made / "demo.json").read_text())["synthetic"] is True


def test_the_default_set_has_enough_of_every_class():
    """15 images of each class in training, validation and test; a long tail behind No Finding."""
    import folds

    counts = demo.class_counts(demo.IMAGES)
    test = np.array([max(1, round(demo.TEST_SHARE * n)) for n in counts])
    held_out = folds.stratified(np.repeat(np.arange(20), counts - test), 0.36, seed=0)
    val = np.bincount(np.repeat(np.arange(20), counts - test)[held_out])
    assert counts.sum() == demo.IMAGES and min(test.min(), val.min(), (counts - test - val).min()) >= 15
    assert counts.max() == counts[-1] > 3 * np.sort(counts)[-2]


@pytest.mark.parametrize("images", [60, 500, 20_000])
def test_any_number_of_images(images):
    counts = demo.class_counts(images)
    assert counts.sum() == images and counts.min() >= 2
    if images == 20_000:
        assert counts[-1] / images > 0.6  # large sets come near the competition's proportions


def test_same_seed_same_pictures_other_seed_others(tmp_path, made):
    demo.make(tmp_path / "again", images=120, size=40, seed=7)
    demo.make(tmp_path / "other", images=120, size=40, seed=8)
    for path in made.rglob("*"):
        if path.is_file():
            assert path.read_bytes() == (tmp_path / "again" / path.relative_to(made)).read_bytes(), path.name
    assert not {path.name for path in (tmp_path / "other/images").iterdir()} & {path.name for path in (made / "images").iterdir()}


@pytest.mark.parametrize("name", [name for name in demo.SIGNS if name != demo.NO_FINDING])
def test_every_sign_can_be_seen(name):
    """The same patient with and without the finding, at its weakest: some region differs by more than the grain."""
    finding, healthy = (demo.radiograph(findings, 128, np.random.default_rng(3)).astype(float) for findings in ([name], []))
    blocks = np.abs(finding - healthy)[:120, :120].reshape(20, 6, 20, 6).mean(axis=(1, 3))
    assert blocks.max() > 6


def test_the_set_is_remade_when_its_recipe_changed(home, monkeypatch):
    monkeypatch.setattr(demo, "IMAGES", 60)
    monkeypatch.setattr(demo, "recipe", lambda images=60, size=32, seed=0: {"images": images, "version": 1})
    monkeypatch.setattr(demo.make, "__defaults__", (60, 32, 0))
    folder = demo.ensure(home / "data/demo")
    stamp = (folder / "train.csv").stat().st_mtime_ns
    time.sleep(0.01)
    assert demo.ensure(folder) and (folder / "train.csv").stat().st_mtime_ns == stamp
    monkeypatch.setattr(demo, "recipe", lambda images=60, size=32, seed=0: {"images": images, "version": 2})
    assert demo.ensure(folder) and (folder / "train.csv").stat().st_mtime_ns != stamp


def test_the_demo_settings_are_checked_not_those_they_replace(made, home, call):
    """Model B freezes two epochs and the demo none, so one epoch is enough there."""
    said = call("main", "modelB", "--demo", "--data", made, "epochs=1", "model=test_resnet", "size=32")
    assert said.code == 0, said.err


def test_nothing_at_hand_runs_the_demo_loudly_and_learns(home, call, monkeypatch):
    """The newcomer's command, shortened: plainer signs, fewer images and epochs; clearly above the constant answer."""
    monkeypatch.setattr(demo, "STRENGTH", (0.9, 1.0))
    monkeypatch.setattr(demo, "IMAGES", 800)
    monkeypatch.setattr(demo.make, "__defaults__", (800, 96, 0))
    said = call("main", "modelB", "size=64", "epochs=6")
    assert said.code == 0, said.err
    assert "SYNTHETIC" in said.err and "no data and no Kaggle credentials were found" in said.err
    assert (home / "submissions/modelB-demo.csv").is_file()
    report = json.loads((home / "runs/modelB-demo/report.json").read_text())
    assert list(report)[0] == "synthetic" and report["synthetic"] is True
    assert report["test"]["rules"]["temperature"]["score"] > report["test"]["always"]["score"] + 0.5
