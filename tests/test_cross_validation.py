"""Cross-validation: every row is predicted by a network that did not see it, folds go on, and come together."""

import csv
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from answers import single_label
from answers.posterior import softmax
from conftest import ROOT, TINY
from core import folds, logits_file, parallel
from core.data_set import Table
from core.errors import UserError
from images import labels
from tasks import registry

FOLDS = [word for word in TINY if not word.startswith(("val_fraction", "epochs"))] + ["epochs=2", "folds=3"]


def run_of(made, call, name, *words):
    return call("main", "modelB", "--data", made, *FOLDS, f"name={name}", *words)


@pytest.fixture(scope="module")
def done(made, tmp_path_factory):
    """The home of one finished cross-validation named `done`."""
    import main

    home = tmp_path_factory.mktemp("done")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CXR_HOME", str(home))
        main.main(["modelB", "--data", str(made), *FOLDS, "name=done"])
    return home


def outputs(home, name) -> dict[str, bytes]:
    paths = [home / f"submissions/{name}.csv", home / f"runs/{name}/val_logits.npz"]
    paths += sorted((home / f"runs/{name}").glob("fold*/*_logits.npz"))
    return {str(path.relative_to(home)).replace(name, ""): path.read_bytes() for path in paths}


def test_every_row_is_predicted_once_by_a_network_that_did_not_see_it(done, made):
    run = done / "runs/done"
    table = labels.read_one_hot(made / "train.csv")
    rows = {row["id"]: row for row in csv.DictReader(open(run / "folds.csv"))}
    val, about = logits_file.read_logits(run / "val_logits.npz"), json.loads((run / "run.json").read_text())
    assert sorted(val.ids) == sorted(table.ids) == sorted(rows) and {row["part"] for row in rows.values()} == {
        "validation"
    }
    assert (about["joined"], about["state"], about["rows"]) == ([1, 2, 3], "trained", len(table.ids))
    start = 0
    for fold in (1, 2, 3):
        own = logits_file.read_logits(run / f"fold{fold}/val_logits.npz")
        parts = {row["id"]: row["part"] for row in csv.DictReader(open(run / f"fold{fold}/folds.csv"))}
        assert set(own.ids) == {one for one, row in rows.items() if row["fold"] == str(fold)}
        assert {one for one, part in parts.items() if part == "training"} == set(rows) - set(own.ids)
        # the top's rows are the fold's with its training prior exchanged for the natural one of all rows
        mine = val.take(np.arange(start, start + len(own.ids)))
        shown = own.prior > 0
        assert softmax(mine.logits[..., shown] - np.log(val.prior[shown])) == pytest.approx(
            softmax(own.logits[..., shown] - np.log(own.prior[shown])), abs=1e-5
        )
        start += len(own.ids)
    assert (
        val.prior == pytest.approx(table.targets.mean(axis=0))
        and val.counts.tolist() == table.targets.sum(axis=0).tolist()
    )


def test_every_figure_is_of_the_pooled_rows_and_each_fold_keeps_its_calibration(done, home, call):
    run = done / "runs/done"
    calibration, report = (json.loads((run / name).read_text()) for name in ("calibration.json", "report.json"))
    vals = [logits_file.read_logits(run / f"fold{fold}/val_logits.npz") for fold in (1, 2, 3)]
    tests = [logits_file.read_logits(run / f"fold{fold}/test_logits.npz") for fold in (1, 2, 3)]
    assert report["validation"]["images"] == sum(len(val.ids) for val in vals) and len(calibration["networks"]) == 3
    for val, network in zip(vals, calibration["networks"], strict=True):
        assert network == single_label.calibrate(single_label.Costs(1, 1, 5), [val])["networks"][0]
    answers = labels.read_one_hot(done / "submissions/done.csv").targets
    assert (answers == single_label.decide(tests, calibration, "temperature")).all()
    together = logits_file.read_logits(run / "test_logits.npz")
    natural, trained = together.counts / together.counts.sum(), [test.prior > 0 for test in tests]
    shown = (natural > 0) & np.all(trained, axis=0)
    shifts = [np.log(natural[shown]) - np.log(test.prior[shown]) for test in tests]
    mean = np.mean(
        [softmax(test.logits[..., shown] + shift) for test, shift in zip(tests, shifts, strict=True)], axis=(0, 1)
    )
    assert softmax(together.logits[0][:, shown]) == pytest.approx(mean, abs=0.02)  # but for classes that a fold lacks
    assert call("tune", run / "val_logits.npz", "--out", home / "one.json").code == 0
    words = ("--calibration", home / "one.json", "--rule", "bayes", "--out", home / "one.csv")
    assert call("decide", run / "test_logits.npz", *words).code == 0
    said = call("score", run)
    assert said.out.splitlines()[-1] == f"score {report['validation']['rules']['temperature']['score']:.6f}"
    tuned = call("tune", *sorted(run.glob("fold*/val_logits.npz")), "--out", home / "c.json")
    assert tuned.code == 0 and json.loads((home / "c.json").read_text()) == calibration
    # pictures, page and comparison
    assert call("report", run).code == 0
    assert {path.stem for path in (run / "figures").glob("training*")} == {f"training-fold-{k}" for k in (1, 2, 3)}
    shutil.copytree(run, home / "runs/twin")
    compared = call("compare", run, home / "runs/twin", "--paired")
    assert compared.code == 0 and "+0.000  [+0.000, +0.000]" in compared.out, compared.err
    assert call("evaluate", run, home / "runs/twin").code == 0
    explained = call("explain", run)
    assert explained.code == 2 and "a network a fold: explain one of them" in explained.err
    explained = call("explain", run / "fold2", "--number", "1", "--out", home / "maps")
    assert explained.code == 2 and "has a single position on images of 32 pixels" in explained.err  # it came so far
    assert call("score", run / "fold2").code == 0


def test_cut_in_any_fold_it_ends_with_the_same_bytes(done, made, home, call, monkeypatch):
    """Killed after the first epoch of the second fold, which has nothing but its last.pt then."""
    program = (
        "import os, signal, sys; sys.path.insert(0, sys.argv.pop(1)); import main\n"
        "from net import learner\n"
        "save, left = learner.Learner.save, [3]\n"
        "def dying(self, run, *words):\n"
        "    save(self, run, *words); left[0] -= 1\n"
        "    if not left[0]: os.kill(os.getpid(), signal.SIGKILL)\n"
        "learner.Learner.save = dying\n"
        "main.main(sys.argv[1:])\n"
    )
    words = ["modelB", "--data", str(made), *FOLDS, "name=cut"]
    killed = subprocess.run(
        [sys.executable, "-c", program, str(ROOT / "src"), *words], env=os.environ, capture_output=True
    )
    assert killed.returncode == -9 and not (home / "runs/cut/fold2/val_logits.npz").exists()
    said = run_of(made, call, "cut")
    assert said.code == 0 and "fold1 is trained already" in said.out and "resumed after epoch 1" in said.out, said.err
    assert outputs(home, "cut") == outputs(done, "done")


def test_the_probe_has_the_same_folds_and_the_end_says_the_gain(made, home, call):
    said = run_of(made, call, "done", "probe=true")
    assert said.code == 0 and "minus probe-done" in said.out and "macro AUC" in said.out, said.err
    probe, run = home / "runs/probe-done", home / "runs/done"
    for fold in (1, 2, 3):
        theirs, ours = (logits_file.read_logits(top / f"fold{fold}/val_logits.npz") for top in (probe, run))
        assert (theirs.ids == ours.ids).all() and (theirs.counts == ours.counts).all()
    about = json.loads((probe / "run.json").read_text())
    assert about["joined"] == [1, 2, 3] and about["baseline"].count("logistic regression") >= 1
    again = call("probe", run)
    assert again.code == 0 and "reused" in again.out and call("report", probe).code == 0, again.err
    assert call("probe", run / "fold1").code == 2


def test_folds_trained_elsewhere_are_put_together(done, made, home, call, monkeypatch, tmp_path):
    for fold in (1, 2, 3):
        monkeypatch.setenv("CXR_HOME", str(tmp_path / f"machine{fold}"))
        said = run_of(made, call, "done", f"fold={fold}")
        assert said.code == 0 and f"PAUSED: 1 of 3 folds are here ({fold})" in said.out, said.err
        answers = labels.read_one_hot(tmp_path / f"machine{fold}/submissions/done.csv")
        assert (answers.targets.sum(axis=1) == 1).all()  # a valid CSV by what is there
    monkeypatch.setenv("CXR_HOME", str(tmp_path / "desk"))
    places = [tmp_path / "machine2/runs/done", tmp_path / "machine1/runs/done/fold1", tmp_path / "machine3/runs/done"]
    said = call("main", "modelB", *FOLDS, "name=done", "--collect", *places)
    assert said.code == 0 and "PAUSED" not in said.out and said.out.count("collected fold") == 3, said.err
    assert outputs(tmp_path / "desk", "done") == outputs(done, "done")
    again = call("main", "modelB", "--collect", *places, *FOLDS, "name=done", "rule=bayes")  # decided anew
    assert again.code == 0 and "rule bayes" in again.out and "collected fold" not in again.out, again.err
    monkeypatch.setenv("CXR_HOME", str(tmp_path / "machine1"))
    twice = call("main", "modelB", *FOLDS, "name=new", "--collect", places[0], places[0])
    assert twice.code == 2 and "fold is given more than once" in twice.err
    one = tmp_path / "machine1/runs/done"  # a single fold: the two files at the top belong together
    assert call("tune", one / "val_logits.npz", "--out", tmp_path / "c.json").code == 0
    words = ("--calibration", tmp_path / "c.json", "--rule", "bayes", "--out", tmp_path / "c.csv")
    assert call("decide", one / "test_logits.npz", *words).code == 0


def test_folds_side_by_side_end_as_one_after_the_other(done, made, home, call, monkeypatch, tmp_path):
    """On two devices, which a CPU can pretend to have: each process is told its own, and trains the same bytes."""
    monkeypatch.setenv("CXR_HOME", str(tmp_path / "other"))
    said = run_of(made, call, "done", "device=cpu", "devices=2")
    assert said.code == 0 and "2 devices train 3 folds side by side" in said.out, said.err
    assert all(f"fold {fold}: epoch 2/2" in said.out for fold in (1, 2, 3)) and "fold3 is trained already" in said.out
    assert outputs(tmp_path / "other", "done") == outputs(done, "done")


def test_commands_side_by_side_see_a_gpu_each_and_a_failure_is_said(capsys):
    show = "import os, time; time.sleep(0.3); print(os.environ['CUDA_VISIBLE_DEVICES'])"
    commands = {f"job {number}": [sys.executable, "-c", show] for number in range(3)}
    longest = parallel.each(commands, 2, lambda longest: True)
    said = sorted(capsys.readouterr().out.splitlines())
    assert 0.3 <= longest < 60 and [line[:5] for line in said] == ["job 0", "job 1", "job 2"]
    assert {line.split(": ")[1] for line in said} == {"0", "1"}
    parallel.each(commands, 2, lambda longest: not longest)  # no time after the first round
    assert len(capsys.readouterr().out.splitlines()) == 2
    with pytest.raises(UserError, match="bad ended: no such luck"):
        parallel.each({"bad": [sys.executable, "-c", "print('error: no such luck'); exit(2)"]}, 2, lambda longest: True)


def test_folds_that_do_not_belong_together_are_refused(made, home, call):
    assert run_of(made, call, "one", "fold=1").code == 0
    for name, other, match in (
        ("split", "split_seed=5", "split_seed"),
        ("rate", "lr=1e-4", "lr"),
        ("number", "folds=4", "folds"),
    ):
        assert run_of(made, call, name, "fold=2", other).code == 0
        said = call("main", "modelB", *FOLDS, "name=one", "--collect", home / f"runs/{name}")
        assert said.code == 2 and "was made with other settings" in said.err and match in said.err
        assert not (home / "runs/one/fold2").exists()
    # the same settings, another part of the rows
    assert run_of(made, call, "moved", "fold=2").code == 0
    path = home / "runs/moved/fold2/folds.csv"
    rows = list(csv.DictReader(open(path)))
    rows[0]["fold"] = str(int(rows[0]["fold"]) % 3 + 1)
    path.write_bytes(folds.written(rows))
    about = json.loads((path.parent / "run.json").read_text())
    about["split"] = folds.digest(path.read_bytes())
    (path.parent / "run.json").write_text(json.dumps(about))
    said = call("main", "modelB", *FOLDS, "name=one", "--collect", home / "runs/moved")
    assert said.code == 2 and "is of another split than" in said.err
    said = call("main", "modelB", *FOLDS, "name=one", "--collect", home)
    assert said.code == 2 and "holds no fold of a cross-validation" in said.err
    said = call("main", "modelB", *TINY, "name=one", "--collect", home / "runs/moved")
    assert said.code == 2 and "give folds= as there" in said.err


def test_another_run_in_the_same_place_is_never_overwritten(made, home, call):
    assert call("main", "modelB", "--data", made, *TINY, "epochs=2", "name=one").code == 0
    before = {path.name: path.read_bytes() for path in (home / "runs/one").glob("*.*")}
    said = call("main", "modelB", "--data", made, *TINY, "epochs=2", "name=one", "folds=3")
    assert said.code == 2 and "was made with other settings: folds (0 → 3)" in said.err
    assert before == {path.name: path.read_bytes() for path in (home / "runs/one").glob("*.*")}
    # a fold with other settings than its siblings is refused before it is trained
    assert run_of(made, call, "cv", "fold=1").code == 0
    said = run_of(made, call, "cv", "fold=2", "lr=2e-3")
    assert said.code == 2 and "was made with other settings: lr" in said.err and not (home / "runs/cv/fold2").exists()


def test_a_split_that_is_gone_stops_no_run_that_has_begun(done, made, home, call, tmp_path):
    shutil.copyfile(done / "runs/done/folds.csv", tmp_path / "split.csv")
    words = ("split", f"split={tmp_path / 'split.csv'}")
    assert run_of(made, call, *words, "fold=1").code == 0
    (tmp_path / "split.csv").unlink()
    said = run_of(made, call, *words, "fold=1", "rule=bayes")
    assert said.code == 0 and "rule bayes" in said.out, said.err
    assert call("predict", home / "runs/split").code == 0


def test_what_is_trained_is_predicted_even_where_time_ends(made, home, call):
    assert run_of(made, call, "late", "fold=2").code == 0
    (home / "runs/late/fold2/test_logits.npz").unlink()  # as `train` alone leaves it
    said = run_of(made, call, "late", "hours=0.01")
    assert said.code == 0, said.err
    assert 2 in json.loads((home / "runs/late/run.json").read_text())["joined"]


@pytest.mark.parametrize(
    "words, match",
    [
        (["folds=1"], "one fold leaves nothing to train on"),
        (["folds=21"], "folds = '21' will not do"),
        (["folds=3", "fold=4"], "with folds = 3 there is no such fold"),
        (["fold=1"], "with folds = 0 there is no such fold"),
    ],
)
def test_folds_that_cannot_be(words, match, made, call):
    said = call("main", "modelB", "--data", made, *TINY, *words)
    assert said.code == 2 and match in said.err


def test_a_paused_cross_validation_begins_no_fold_without_time(made, home, call, monkeypatch):
    monkeypatch.setattr("main.SPARE", 1e9)
    said = run_of(made, call, "short", "hours=1")
    assert said.code == 0 and "stopped for time before fold 2" in said.out and "PAUSED: 1 of 3 folds" in said.out
    monkeypatch.undo()
    monkeypatch.setenv("CXR_HOME", str(home))
    said = run_of(made, call, "short")
    assert said.code == 0 and "PAUSED" not in said.out


def test_whole_patients_go_into_a_fold_and_a_test_part_stays_out(tmp_path):
    rng = np.random.default_rng(0)
    patients = np.sort(rng.integers(60, size=400)).astype(str)
    targets = np.float32(rng.random((400, 3)) < [0.5, 0.1, 0.05])
    table = Table(np.arange(400).astype(str), ["a", "b", "c"], targets, known={"patient": patients})
    settings = ["labels=[a,b,c]", "folds=4", "split_seed=3"]
    task = registry.task_of(registry.load("nih14", settings))
    task = type(
        "Parted", (type(task),), {"split": lambda self, table: np.where(np.arange(400) < 80, "test", "training")}
    )(task.config)
    number = folds.numbered(table, task, tmp_path).known["fold"]
    assert (number[:80] == "").all() and set(number[80:]) == set("1234")
    assert len(np.unique(np.stack([patients[80:], number[80:]]), axis=1).T) == len(np.unique(patients[80:]))
    positives = np.array([targets[number == fold].sum(axis=0) for fold in "1234"])
    assert (positives.max(axis=0) <= 2 * positives.min(axis=0) + 4).all()


def test_the_folds_of_another_run_are_taken_from_its_file(done, made, home, call, tmp_path):
    rows = list(csv.DictReader(open(done / "runs/done/folds.csv")))
    said = run_of(made, call, "again", f"split={done / 'runs/done/folds.csv'}", "split_seed=9", "fold=2")
    assert said.code == 0, said.err
    assert [row["fold"] for row in csv.DictReader(open(home / "runs/again/fold2/folds.csv"))] == [
        row["fold"] for row in rows
    ]
    said = run_of(made, call, "other", f"split={done / 'runs/done/folds.csv'}", "folds=4")
    assert said.code == 2 and "its column fold holds 1, 2, 3, and folds = 4 asks for 1, 2, 3, 4" in said.err


def test_pooled_rows_compare_with_a_run_that_holds_them_in_another_order(done):
    """A run of one file with the same rows, shuffled: the same answers differ by nothing."""
    from core.task import Evidence

    val = logits_file.read_logits(done / "runs/done/val_logits.npz")
    problem = registry.problem_of([val])
    calibration = problem.calibrate([val])
    order = np.random.default_rng(1).permutation(len(val.ids))
    places = logits_file.same_rows(val.take(order), val)
    assert (val.take(order).take(places).ids == val.ids).all()
    found = problem.paired(
        [Evidence([val], None, calibration, "argmax")], [Evidence([val.take(order)], None, calibration, "argmax")], {}
    )
    assert found["difference"] == {"score": 0, "interval": [0, 0], "both": None}
    assert found["further"]["macro AUC"]["difference"] == 0
    assert logits_file.same_rows(val.take(order[1:]), val) is None


def test_multi_label_folds_exchange_log_odds():
    rng = np.random.default_rng(2)
    classes = np.array(["a", "b"])
    whole = np.float32(rng.random((300, 2)) < [0.3, 0.1])
    files = []
    for k in range(3):
        rows = np.arange(300) % 3 == k
        prior = np.array([0.4, 0.2]) + 0.05 * k
        logits = np.float32(rng.normal(size=(1, 100, 2)))
        ids = np.flatnonzero(rows).astype(str)
        files.append(logits_file.Logits(ids, logits, whole[rows], classes, np.array([60, 20]), 200, prior))
    found = logits_file.pooled(files, exclusive=False)
    assert found.prior == pytest.approx(whole.mean(axis=0)) and found.rows == 300
    odds = lambda p: np.log(p / (1 - p))  # noqa: E731
    assert found.logits[0, 100:200] == pytest.approx(
        files[1].logits[0] + odds(found.prior) - odds(files[1].prior), abs=1e-5
    )
    assert logits_file.pooled([files[0]], exclusive=False) is files[0]
    absent = replace(files[0], prior=np.array([0.4, 0.0]))  # nothing to exchange
    assert (
        logits_file.pooled([absent, files[1]], exclusive=False).logits[0, :100, 1] == files[0].logits[0, :, 1]
    ).all()
