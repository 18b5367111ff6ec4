"""Studies: the files that are shipped, cells that share their runs, stopping and going on, parts, mistakes."""

import csv
import json
import math
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import experiment
from answers import stats
from conftest import ROOT, TINY
from core.errors import UserError
from tasks import studies

FILES = sorted((ROOT / "configs" / "experiments").glob("*.yaml"))
BASE = {key: value for key, _, value in (word.partition("=") for word in TINY)} | {"epochs": 2, "frozen_epochs": 0}
STUDY = {
    "title": "Smoothing",
    "question": "How much?",
    "source": "nobody",
    "config": "modelB",
    "base": BASE,
    "seeds": [0, 1],
    "rows": {"none": {"label_smoothing": 0}, "some": {"label_smoothing": 0.1}},
    "reference": "none",
    "metrics": ["score", "macro_f1"],
}


@pytest.fixture
def write(tmp_path):
    """A study file of STUDY with some keys changed (None: left out)."""

    def to(**changes) -> Path:
        path = tmp_path / "study.yaml"
        path.write_text(
            yaml.safe_dump(
                {key: value for key, value in (STUDY | changes).items() if value is not None},
                sort_keys=False,
                allow_unicode=True,
            )
        )
        return path

    return to


@pytest.fixture
def here(monkeypatch):
    """Cells by the main job in this process, with the very command line that its own would get; returns the runs'
    names."""
    import main

    done = []

    def train(cell, run, data, lock, place):
        done.append(run.name)
        main.main([cell.words[0], *data.words, *cell.words[1:], f"name={run.name}"])

    monkeypatch.setattr(experiment, "train", train)
    return done


def rows_of(path: Path) -> list[dict]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def stamps(home: Path) -> dict[Path, int]:
    """When the checkpoints, logits and records were written."""
    found = [
        path
        for folder in ("runs", "studies")
        for path in (home / folder).rglob("*")
        if path.suffix in (".pt", ".npz") or path.parent.name == "cells"
    ]
    return {path: path.stat().st_mtime_ns for path in found}


# ---- the files
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_shipped_study_asks_for_valid_runs(path):
    """As they are, on the demo and at toy size; the rows differ (at toy size, where nothing is pretrained, as far as
    they can)."""
    _, study = studies.read(path.stem)
    for quick, toy in ((False, False), (True, False), (True, True)):
        cells = studies.cells(study, path, (), quick, quick, toy)
        assert len(cells) == len(study.asked) * (min(len(study.seeds), 2) if toy else 3) and (
            not toy or max(cell.config.epochs for cell in cells) <= 2
        )
        assert not studies.same(cells) or (quick and path.stem in ("padchest-table3", "padchest-labels", "modelC"))
    assert set(study.published) in (set(), set(study.asked)) and "ours" in path.read_text()


def test_the_thesis_tables_share_their_runs():
    runs = {}
    for number in range(1, 9):
        path, study = studies.read(f"padchest-table{number}")
        runs[number] = {f"{cell.row}": cell.run("data") for cell in studies.cells(study, path) if cell.config.seed == 0}
    # 90 and 69 with three seeds
    assert sum(map(len, runs.values())) == 30 and len({run for rows in runs.values() for run in rows.values()}) == 23
    assert runs[1]["EfficientNetB0"] == runs[2]["90 %"] == runs[3]["Pretrained"] == runs[4]["512/.20"]
    assert runs[4]["256/.30→128/.30"] == runs[5]["Weighted BCE"] == runs[6]["Without"]
    assert runs[6]["With"] == runs[7]["Basic"] and runs[7]["CutMix"] == runs[8]["EfficientNetB0"]


def test_a_cell_is_named_by_what_it_learns_and_how_it_decides(write):
    def cell(*words):
        return studies.cells(studies.read(str(write()))[1], write(), words)[0]

    plain = cell()
    assert (
        cell("workers=3", "hours=2").key == plain.key
        and cell("rule=bayes").key != plain.key
        and cell("lr=1e-3").key == plain.key
    )
    assert cell("rule=bayes", "temperature=2").run("a") == plain.run("a") != plain.run("b") and cell("lr=2e-3").run(
        "a"
    ) != plain.run("a")


def test_a_grid_is_a_product(write):
    grid = {"lr": [0.001, 0.0001], "flip": [0, 0.5]}
    path, study = studies.read(str(write(rows=None, grid=grid, reference="lr=0.001, flip=0")))
    assert list(study.asked) == ["lr=0.001, flip=0", "lr=0.001, flip=0.5", "lr=0.0001, flip=0", "lr=0.0001, flip=0.5"]
    assert [(cell.config.lr, cell.config.flip) for cell in studies.cells(study, path)[:4]] == [
        (0.001, 0),
        (0.001, 0.5),
        (0.0001, 0),
        (0.0001, 0.5),
    ]


def test_the_verb_does_not_load_torch():
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT / 'src')!r}); import experiment; print('torch' in sys.modules,"
        " 'scipy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split() == [
        "False",
        "False",
    ]


# ---- doing them
def test_a_study_from_end_to_end_in_processes_of_its_own(home, tmp_path, call):
    """Two rows of another task, one of which cannot be trained: the other one is done all the same."""
    from images import synthetic

    data, path = tmp_path / "set", tmp_path / "losses.yaml"
    synthetic.make(data, images=150, size=40, seed=3, layout="padchest")
    study = STUDY | {
        "config": "padchest",
        "seeds": [0],
        "metrics": ["auc", "brier"],
        "reference": "focal",
        "published": {"focal": {"auc": [0.734, 0.01]}},
        "base": (
            BASE
            | {
                "model": "cnn3",
                "epochs": 1,
                "crop": "none",
                "test_fraction": 0.3,
                "labels": ["cardiomegaly", "scoliosis"],
            }
        ),
        "rows": {"focal": {"loss": "focal"}, "broken": {"limit": 1}},  # one image cannot be parted
    }
    path.write_text(yaml.safe_dump(study, sort_keys=False))
    said = call("experiment", path, "--data", data)
    assert said.code == 2 and "1 cells failed: broken, seed 0" in said.err and "SYNTHETIC" in said.out
    assert "broken, seed 0: FAILED: 1 images of 1 patients with val_fraction" in said.out
    [run] = [folder for folder in (home / "runs").iterdir() if (folder / "report.json").is_file()]
    macro = json.loads((run / "report.json").read_text())["test"]["macro"]
    table = home / "studies/losses-demo"
    row, other = rows_of(table / "table.csv")
    assert (
        float(row["auc_mean"]) == macro["auc"]
        and row["n"] == "1"
        and row["auc_published"] == "0.734"
        and other["n"] == "0"
        and other["auc_mean"] == ""
    )
    assert (
        "Missing, 1 cells: broken, seed 0." in (table / "table.md").read_text()
        and (table / "table.md").read_text() in said.out + "\n"
    )
    assert "epoch 1/1" in (run / experiment.OUTPUT).read_text() and json.loads((table / "table.json").read_text())[
        "missing"
    ] == ["broken, seed 0"]


def test_stopped_in_the_middle_it_goes_on_and_redoes_nothing(made, home, write, call, here, monkeypatch):
    from net import checkpoint

    saved, epochs = checkpoint.save, []

    def stop(path, content):
        saved(path, content)
        epochs.extend(["done"] * (path.name == "last.pt"))
        if len(epochs) == 3:  # the first of the second cell
            raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "save", stop)
    said = call("experiment", write(), "--data", made)
    assert said.code == 130 and "the same command" in said.err and len(here) == 2
    monkeypatch.setattr(checkpoint, "save", saved)
    before = {path: when for path, when in stamps(home).items() if here[0] in path.parts or "cells" in path.parts}
    assert any("cells" in path.parts for path in before) and any(path.name == "best.pt" for path in before)

    said = call("experiment", write(), "--data", made)
    assert (
        said.code == 0
        and "1 cells done before, 0 finished runs reused, 3 to train" in said.out
        and said.out.count("resumed after epoch 1") == 1
    )
    assert here[2] == here[1] and len(here) == 5 and before.items() <= stamps(home).items()
    whole = (home / "studies/study-demo/table.md").read_text()
    for text in ("|t| = ", "t* = ", "df = ", "p = ", " ± ", "Welch"):
        assert text in whole, text

    before = stamps(home)
    assert (
        "4 cells done before" in call("experiment", write(), "--data", made).out
        and len(here) == 5
        and stamps(home) == before
    )
    assert (home / "studies/study-demo/table.md").read_text() == whole

    # another study that asks for two of these runs, decided in its own way
    path = write(
        rows={"one": {"label_smoothing": 0.1}, "other": {"label_smoothing": 0.1, "rule": "bayes"}}, reference="one"
    ).rename(home / "second.yaml")
    said = call("experiment", path, "--data", made)
    assert "4 cells of 2 runs: 0 cells done before, 2 finished runs reused, 0 to train" in said.out and len(here) == 5
    assert {key: when for key, when in stamps(home).items() if key in before} == before
    one, other = rows_of(home / "studies/second-demo/table.csv")
    assert one["score_mean"] == rows_of(home / "studies/study-demo/table.csv")[1]["score_mean"] != other["score_mean"]

    # ... and as the main job would say it
    kept = [json.loads(file.read_text()) for file in (home / "studies/second-demo/cells").iterdir()]
    [last] = [one for one in kept if (one["row"], one["seed"]) == ("other", 1)]
    report = json.loads((home / "runs" / last["run"] / "report.json").read_text())
    assert last["figures"]["score"] == report["test"]["rules"]["bayes"]["score"] and last["part"] == "test"


def test_parts_make_the_whole(made, tmp_path, write, call, here, monkeypatch):
    path = write(base=BASE | {"epochs": 1}, seeds=[0], rows=STUDY["rows"] | {"much": {"label_smoothing": 0.3}})
    for part in (1, 2):
        monkeypatch.setenv("CXR_HOME", str(tmp_path / f"home{part}"))
        said = call("experiment", path, "--data", made, "--part", f"{part}/2")
        assert said.code == 0 and f"Missing, {part} cells" in said.out, said.err
    assert len(here) == 3
    monkeypatch.setenv("CXR_HOME", str(tmp_path / "home3"))
    said = call(
        "experiment", path, "--collect", tmp_path / "home1/studies/study-demo", tmp_path / "home2/studies/study-demo"
    )
    assert said.code == 0 and "Missing" not in said.out and "SYNTHETIC" in said.out and len(here) == 3, said.err
    monkeypatch.setenv("CXR_HOME", str(tmp_path / "home1"))
    assert "2 cells done before" in call("experiment", path, "--data", made).out and len(here) == 4
    assert (tmp_path / "home1/studies/study-demo/table.csv").read_bytes() == (
        tmp_path / "home3/studies/study-demo/table.csv"
    ).read_bytes()


def test_parts_keep_cells_of_one_run_together(write):
    path, study = studies.read("temperature")
    cells = studies.cells(study, path)
    parts = [experiment.part_of(cells, f"{number}/4") for number in (1, 2, 3, 4)]
    assert sorted(cell.said for part in parts for cell in part) == sorted(cell.said for cell in cells)
    runs = [{cell.run("") for cell in part} for part in parts]
    assert sum(map(len, runs)) == len(set.union(*runs)) == 6


@pytest.mark.parametrize(
    "script, sentence",
    [
        ("import sys; print('error: what a pity'); sys.exit(2)", "what a pity"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "killed by signal 9"),
        ("raise ValueError('odd')", "ValueError: odd"),
        ("print('PAUSED: training stopped for time')", "PAUSED: training stopped for time"),
    ],
)
def test_a_process_that_fails_is_one_sentence(script, sentence, tmp_path, write, made, monkeypatch):
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "main.py").write_text(script)
    cell = studies.cells(studies.read(str(write()))[1], write())[0]
    monkeypatch.setattr(experiment, "ROOT", tmp_path)
    with experiment.alone(tmp_path / "run") as lock, pytest.raises(UserError, match=sentence):
        experiment.train(cell, tmp_path / "run", experiment.Data(made, "x", True, False), lock, experiment.Place())


def test_a_run_that_an_orphan_works_on_is_waited_for(tmp_path):
    """The main job holds the lock that it inherits, even after the study was killed."""
    code = (
        f"import sys, subprocess; sys.path.insert(0, {str(ROOT / 'src')!r}); import experiment; from pathlib import"
        f" Path\nwith experiment.alone(Path({str(tmp_path / 'run')!r})) as lock:\n    subprocess.Popen(['sleep', '1'],"
        " pass_fds=[lock]); import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", code])
    import fcntl

    with open(tmp_path / "run" / "cell.lock") as file, pytest.raises(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with experiment.alone(tmp_path / "run"):
        pass


# ---- the test
def test_welch_is_the_thesis_own():
    """Tables 4 and 5, AUC-ROC: |t|, t* and p as printed there (equations 20 and 21)."""
    for a, b, printed in (
        ((0.753, 0.006), (0.739, 0.006), ("2.86", "2.78", "0.046")),
        ((0.753, 0.006), (0.738, 0.006), ("3.06", "2.78", "0.038")),
    ):
        test = stats.welch(*a, 3, *b, 3)
        assert (f"{test.t:.2f}", f"{test.critical:.2f}", f"{test.p:.3f}") == printed and test.df == pytest.approx(4)
    from scipy.stats import ttest_ind

    one, other = [0.1, 0.4, 0.2, 0.7], [0.5, 0.9, 0.8]
    expected = ttest_ind(one, other, equal_var=False)
    test = stats.welch(
        statistics.mean(one), statistics.stdev(one), 4, statistics.mean(other), statistics.stdev(other), 3
    )
    assert (test.t, test.df, test.p) == pytest.approx((expected.statistic, expected.df, expected.pvalue))
    assert all(map(math.isnan, (*stats.welch(1, 0.1, 1, 2, 0.1, 3), *stats.welch(1, 0, 3, 2, 0, 3))))


# ---- mistakes
FAULTS = {
    "an unknown key": ({"referense": "none"}, [], "unknown key referense; did you mean reference?"),
    "a missing key": ({"title": None}, [], "the key title is missing"),
    "an unknown reference": (
        {"reference": "non"},
        [],
        "reference names the row 'non', and there is none; did you mean 'none'?",
    ),
    "rows and a grid": ({"grid": {"lr": [1e-3]}}, [], "either rows or grid is wanted"),
    "a setting that is none": (
        {"rows": {"none": {"label_smothing": 0}}},
        [],
        "row 'none' (label_smothing=0): unknown key label_smothing; did you mean label_smoothing?",
    ),
    "a value that will not do": ({"rows": {"none": {"lr": -1}}}, [], "row 'none' (lr=-1): lr = '-1' will not do"),
    "a seed in a row": ({"rows": {"none": {"seed": 1}}}, [], "row 'none' (seed=1): the study names its runs"),
    "a name for all": ({}, ["name=x"], "(name=x): the study names its runs"),
    "an unknown rule": ({}, ["rule=guess"], "rule = 'guess': a competition run decides by one of"),
    "views that begin with the mirror": (
        {"rows": {"none": {"views": ["flip"]}}},
        [],
        "row 'none': views = ['flip']: the first must be original",
    ),
    "more frozen epochs than epochs": (
        {"rows": {"none": {"frozen_epochs": 9}}},
        [],
        "row 'none': frozen_epochs = 9 is more than epochs = 2",
    ),
    "two corrections": (
        {"rows": {"none": {"imbalance": "sampler:0.5+loss_weights:0.5"}}},
        [],
        "row 'none' (imbalance=sampler:0.5+loss_weights:0.5): imbalance = ",
    ),
    "a mirrored study": (
        {"config": "padchest", "base": BASE | {"crop": "none"}, "rows": {"none": {"flip": 0.5}}, "metrics": ["auc"]},
        [],
        "row 'none': flip = 0.5: left and right are findings",
    ),
    "a network that nobody knows": (
        {"rows": {"none": {"model": "convnext_tinyy"}}},
        [],
        "row 'none': model = 'convnext_tinyy' is no timm model",
    ),
    "an unknown metric": ({"metrics": ["brier"]}, [], "metrics names brier, which is no figure of a competition run"),
    "an unknown configuration": ({"config": "modelZ"}, [], "row 'none': there is no configuration"),
    "rows of two tasks": (
        {"rows": {"none": {}, "other": {"config": "padchest"}}},
        [],
        "rows 'none' and 'other' are of different tasks",
    ),
    "published for no row": ({"published": {"x": {"score": [1, 0.1]}}}, [], "published names the row 'x'"),
    "a toy without a replacement": (
        {"toy": {"size": {"64": 32}}},
        ["--toy"],
        "(toy): size = 32 has no small replacement",
    ),
    "a part that is none": ({}, ["--demo", "--part", "3/2"], "--part 3/2 is not understood"),
    "a part beyond the runs": ({}, ["--demo", "--part", "9/9"], "there are only 4 runs"),
    "a folder without cells": ({}, ["--collect", "."], "holds no finished cells"),
    "a data folder that is none": ({}, ["--data", "nowhere"], "there is no such folder"),
    "the same seed twice": ({"seeds": [1, 1]}, [], "seeds: each is wanted once"),
}


@pytest.mark.parametrize("changes, words, sentence", FAULTS.values(), ids=FAULTS)
def test_a_mistake_is_one_sentence(changes, words, sentence, write, call, home):
    said = call("experiment", write(**changes), *words)
    assert said.code == 2 and sentence in said.err and said.err.count("\n") == 1, said.err
    assert not list(home.iterdir())


def test_a_study_that_is_not_there_or_no_yaml(call, tmp_path):
    said = call("experiment", "padchest-table99")
    assert said.code == 2 and "there is no study padchest-table99" in said.err and "padchest-table8" in said.err
    for text in ("[unclosed", "- a list", ""):
        (tmp_path / "odd.yaml").write_text(text)
        assert call("experiment", tmp_path / "odd.yaml").code == 2


def test_cells_of_different_data_are_not_collected(write, call, tmp_path):
    path = write()
    cells = studies.cells(studies.read(str(path))[1], path)
    for number, cell in enumerate(cells[:2]):
        (tmp_path / "cells").mkdir(exist_ok=True)
        (tmp_path / "cells" / f"{cell.key}-x.json").write_text(
            json.dumps({"labels": f"set {number}", "figures": {"score": 0.0}})
        )
    said = call("experiment", path, "--collect", tmp_path)
    assert said.code == 2 and "different data sets" in said.err
