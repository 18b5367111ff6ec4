"""Input as no person writes it: what would hang, fill the memory or say one thing twice is one sentence."""

import io
import os
import zipfile

import numpy as np
import pytest

from conftest import TINY
from core import config, files, logits_file
from core.about import wrong
from core.errors import UserError
from test_bad_input import check, logits

BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{key}: &{key} [{', '.join([f'*{before}'] * 9)}]\n" for before, key in zip("abcdefghi", "bcdefghij", strict=True)
)
YAML = {
    "a deep list": ("views: " + "[" * 5000 + "]" * 5000, "it is nested too deeply"),
    "a chain of aliases": (
        "a0: &a0 [1]\n" + "".join(f"a{k}: &a{k} [*a{k - 1}]\n" for k in range(1, 200)), "it is nested too deeply",
    ),
    "itself": ("views: &v [*v]", "it is nested too deeply"),
    "aliases of aliases": (BOMB, "its aliases (*) make it larger than 1,000,000 values"),
    "a long comment": ("# " + "x" * 10**7, "it has 10,000,002 characters, and a configuration has no more than"),
    "a key twice": ("lr: 1\nsize: 64\nlr: 2\n", "the key lr stands twice, in line 1 and in line 3: keep one"),
    "a key twice, below": ("demo:\n  lr: 1\n  lr: 2\n", "the key lr stands twice, in line 2 and in line 3"),
    "a number and its text": ("rows: {1: {}, '1': {}}", "the key 1 stands twice, in line 1 and in line 1"),
    "a date that is none": ("lr: 2026-99-99", "is no readable YAML"),
    "a huge number": ("seed: " + "9" * 5000, "is no readable YAML"),
    "a tag": ("lr: !!python/object/apply:os.system [ls]", "is no readable YAML"),
}  # fmt: skip


@pytest.mark.parametrize("what", YAML)
def test_yaml(what, tmp_path, home, call):
    text, sentence = YAML[what]
    (tmp_path / "odd.yaml").write_text(text)
    check(call("main", tmp_path / "odd.yaml"), "odd.yaml is no readable YAML", home)
    with pytest.raises(UserError) as caught:
        config.read_yaml(tmp_path / "odd.yaml")
    assert sentence in str(caught.value)


def test_studies_are_read_alike(tmp_path, home, call):
    (tmp_path / "odd.yaml").write_text("rows: {1: {}, '1': {}}")
    check(call("experiment", tmp_path / "odd.yaml"), "the key 1 stands twice, in line 1 and in line 1", home)


def test_aliases_within_reason_are_read():
    assert config.parsed("a: &a {b: 1}\nc: *a\nd: {<<: *a, e: 2}") == {
        "a": {"b": 1},
        "c": {"b": 1},
        "d": {"b": 1, "e": 2},
    }


def test_a_deep_list_on_the_command_line(made, home, call):
    said = call("main", "modelB", "--data", made, *TINY, f"views={'[' * 5000}{']' * 5000}")
    check(said, "is not understood: a list is written [one, two]", home)
    said = call("main", "modelB", "--data", made, *TINY, f"views={'[' * 40}{']' * 40}")
    check(said, "views = [[[[", home)
    assert max(map(len, said.err.splitlines())) < 1000


@pytest.mark.parametrize("given", [["--data", ""], ["--data="], ["--data", "set", ""]])
def test_an_empty_word(given, home, call):
    """A variable of the shell that is not set must not choose another data set in silence."""
    check(call("main", "modelB", *given), "is empty, as an unset variable of the shell leaves it", home)


def test_an_empty_variable(made, home, call, monkeypatch):
    monkeypatch.setenv("CXR_DATA", "")
    check(call("main", "modelB"), "CXR_DATA is empty, as an unset variable of the shell leaves it", home)
    assert not (home / "data").exists()


def test_figures_that_no_machine_holds(tmp_path, home, call):
    check(call("make_demo", tmp_path / "many", "--images", 10**12), "at most 1,000,000, not 1,000,000,000,000", home)
    check(call("worlds", "--rows", 10**12), "--rows 1000 to 10000000", home)
    check(call("worlds", "--seeds", 10**12), "--seeds must be 2 to 10000", home)


def test_pipes_are_no_files(tmp_path, home, call):
    os.mkfifo(tmp_path / "pipe")
    sentence = "pipe is no regular file: give one that lies on a disk"
    logits_file.write_logits(tmp_path / "t.npz", logits())
    for command in (
        ["tune", tmp_path / "pipe"],
        ["score", tmp_path / "pipe", tmp_path / "pipe"],
        ["decide", tmp_path / "t.npz", "--calibration", tmp_path / "pipe", "--rule", "argmax", "--out", tmp_path / "c"],
    ):
        check(call(*command), sentence, home)


def test_a_logits_file_that_claims_more_than_it_holds(tmp_path, home, call, monkeypatch):
    logits_file.write_logits(tmp_path / "good.npz", logits())
    header = io.BytesIO()
    form = {"descr": "<f4", "fortran_order": False, "shape": (2, 250_000_000, 20)}
    np.lib.format.write_array_header_1_0(header, form)
    with zipfile.ZipFile(tmp_path / "good.npz") as good, zipfile.ZipFile(tmp_path / "v.npz", "w") as archive:
        for name in good.namelist():
            archive.writestr(name, header.getvalue() if name == "logits.npy" else good.read(name))
    check(call("tune", tmp_path / "v.npz"), "v.npz is truncated or no .npz file of this kit", home)
    monkeypatch.setattr(logits_file, "LARGEST", 100)
    check(call("tune", tmp_path / "good.npz"), "good.npz holds", home)


def test_every_flipped_byte_of_a_logits_file_is_noticed(tmp_path):
    """Or changes nothing that is read, as in the times of the zip's entries."""
    logits_file.write_logits(tmp_path / "good.npz", logits())
    content, good = (tmp_path / "good.npz").read_bytes(), logits_file.read_logits(tmp_path / "good.npz")
    rng, noticed = np.random.default_rng(0), 0
    for place in rng.choice(len(content), 400, replace=False).tolist():
        spoilt = bytearray(content)
        spoilt[place] ^= int(rng.integers(1, 256))
        (tmp_path / "v.npz").write_bytes(spoilt)
        try:
            found = logits_file.read_logits(tmp_path / "v.npz")
        except UserError:
            noticed += 1
        else:
            assert all(
                np.array_equal(value, vars(good)[key], equal_nan=key == "targets") for key, value in vars(found).items()
            )
    assert noticed > 200


def test_names_that_are_no_text(tmp_path, home, call):
    for changes in ({"ids": np.array(["a", "b\ud800", "c"])}, {"classes": np.array(["A", "\udfff"])}):
        np.savez(tmp_path / "v.npz", **vars(logits(**changes)))
        check(call("tune", tmp_path / "v.npz"), "have characters that no text has (surrogates)", home)


@pytest.mark.parametrize("value", ["abc", "nan", "-1", "inf"])
def test_a_beginning_that_is_no_time(value, made, home, call, monkeypatch):
    monkeypatch.setenv("CXR_STARTED", value)
    check(call("main", "modelB", "--data", made, *TINY), f"CXR_STARTED = '{value}' is no number of seconds", home)
    assert not (home / "runs").exists()


ABOUT = {
    "config": {"lr": 1}, "data": "/d", "classes": ["A", "B"], "counts": [1, 2], "rows": 3, "prior": [0.5, 0.5],
    "state": "trained", "timings": {"train": 1.5}, "best_epoch": None, "predicted": [1, "f"],
    "parameters": {"total": 1},
}  # fmt: skip


def test_wrong_kinds_in_a_run_json(made, home, call):
    assert wrong(ABOUT) == []
    for key in ABOUT:
        for value in (
            1.5,
            True,
            [[1]],
            {"a": None},
            -(10**400),
            *(["x"] if isinstance(ABOUT[key], list | dict) else []),
        ):
            fine = key == "config" and isinstance(value, dict)
            assert fine or key in (*wrong(ABOUT | {key: value}), "classes"), (key, value)
    for key in ("config", "timings", "counts", "predicted"):
        files.write_json(home / "runs/odd/run.json", ABOUT | {key: True})
        check(call("score", home / "runs/odd"), f"holds something else at {key} than a run has there", home)
    said = call("train", "modelB", "--data", made, *TINY, "epochs=1", "frozen_epochs=0", "name=odd")
    assert said.code == 0 and "run.json holds something else at predicted than" in said.err, said.err
    assert wrong(files.read_json(home / "runs/odd/run.json")) == []


def test_names_that_are_no_utf8_survive_json(tmp_path):
    """As of a folder from another system."""
    name = os.fsdecode(b"caf\xe9")
    files.write_json(tmp_path / "a.json", {"data": name})
    assert files.read_json(tmp_path / "a.json") == {"data": name}
