"""The split, and the two files that logits and answers travel in."""

import dataclasses
import resource

import numpy as np
import pytest

from answers import posterior
from core import files, folds, logits_file, submission
from core.errors import UserError
from core.logits_file import Logits
from images import labels

CLASSES = np.array(["A", "B", "No Finding"])


def some_logits(views=2, n=60, seed=0, counts=(10, 5, 85)) -> Logits:
    rng = np.random.default_rng(seed)
    targets = np.eye(3, dtype=np.float32)[rng.choice(3, n, p=[0.2, 0.1, 0.7])]
    logits = (rng.normal(size=(views, n, 3)) + 1.5 * targets).astype(np.float32)
    ids = np.array([f"{i}.png" for i in range(n)])
    return Logits(ids, logits, targets, CLASSES, np.array(counts), int(sum(counts)), np.array(counts) / sum(counts))


def test_split_is_stratified_seeded_and_keeps_single_images_in_training():
    strata = np.repeat([0, 1, 2, 3], [1000, 50, 3, 1])
    chosen = folds.stratified(strata, 0.2, seed=3)
    assert [chosen[strata == c].sum() for c in range(4)] == [200, 10, 1, 0]
    assert (chosen == folds.stratified(strata, 0.2, seed=3)).all()
    assert (chosen != folds.stratified(strata, 0.2, seed=4)).any()
    assert not folds.stratified(np.arange(9), 0.9, seed=0).any()


def test_parts_spread_every_class_evenly():
    strata = np.repeat([0, 1, 2, 3], [1000, 52, 3, 1])
    part = folds.parts(strata, 5, seed=0)
    for value in range(4):
        times = np.bincount(part[strata == value], minlength=5)
        assert times.max() - times.min() <= 1
    assert (part == folds.parts(strata, 5, seed=0)).all() and (part != folds.parts(strata, 5, seed=1)).any()
    assert abs(np.bincount(part) - len(strata) / 5).max() <= 1


def test_logits_file_round_trip_is_exact_and_repeats_its_bytes(tmp_path):
    content = some_logits()
    logits_file.write_logits(tmp_path / "a.npz", content)
    logits_file.write_logits(tmp_path / "b.npz", content)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    again = logits_file.read_logits(tmp_path / "a.npz")
    for field in dataclasses.fields(Logits):
        assert np.array_equal(getattr(again, field.name), getattr(content, field.name)), field.name


def test_tune_and_decide_verbs(tmp_path, call):
    logits_file.write_logits(tmp_path / "val.npz", some_logits())
    test = dataclasses.replace(some_logits(n=30, seed=1), targets=np.full((30, 3), np.nan, np.float32))
    logits_file.write_logits(tmp_path / "test.npz", test)
    tuned = call("tune", tmp_path / "val.npz", "--out", tmp_path / "c.json")
    assert tuned.code == 0 and "always No Finding" in tuned.out
    assert (
        call(
            "decide",
            tmp_path / "test.npz",
            "--calibration",
            tmp_path / "c.json",
            "--rule",
            "argmax",
            "--out",
            tmp_path / "s.csv",
        ).code
        == 0
    )
    lines = (tmp_path / "s.csv").read_text().splitlines()
    assert lines[0] == "id,A,B,No Finding" and len(lines) == 31
    answers = posterior.probabilities(test.logits).argmax(1)
    assert lines[1:] == [f"{i}.png,{','.join('1' if c == a else '0' for c in range(3))}" for i, a in enumerate(answers)]


def test_a_submission_that_fails_its_check_is_not_left_behind(tmp_path):
    with pytest.raises(UserError, match="3 rows where there are 2 test images"):
        submission.write(tmp_path / "s.csv", ["a", "b", "c"], ["A", "B"], np.eye(2, dtype=int)[[0, 1, 0]], ["a", "b"])
    with pytest.raises(UserError, match="id b where a is wanted"):
        submission.write(tmp_path / "s.csv", ["b", "a"], ["A", "B"], np.eye(2, dtype=int)[[0, 1]], ["a", "b"])
    assert not list(tmp_path.glob("*.csv")) and not list(tmp_path.glob(".*part"))


def test_names_with_commas_and_quotes_survive(tmp_path):
    ids, classes = ["a,b.png", 'c"d.png'], ["Mass, big", "No Finding"]
    submission.write(tmp_path / "s.csv", ids, classes, np.eye(2, dtype=int)[[0, 1]], ids)
    table = labels.read_one_hot(tmp_path / "s.csv")
    assert table.ids.tolist() == ids and table.classes == classes and table.targets.tolist() == [[1, 0], [0, 1]]


def test_a_full_disk_leaves_the_old_file_and_no_half_one(tmp_path):
    """A limit on file size makes the kernel refuse the write, as a full disk does."""
    path = tmp_path / "a.bin"
    files.write_bytes(path, b"old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(UserError, match="no space left while writing a.bin"):
            files.write_bytes(path, bytes(5000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == b"old" and [p.name for p in tmp_path.iterdir() if p.is_file()] == ["a.bin"]
