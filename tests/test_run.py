"""The main job from end to end on a tiny set: same bytes, resuming, refusing."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from PIL import Image

import main
import train
from answers import single_label
from conftest import ROOT, TINY
from core import files, logits_file, submission
from images import labels
from net import fit
from tasks.single_label import SingleLabel

OUTPUTS = ["val_logits.npz", "test_logits.npz"]


def outputs(home: Path, name: str) -> dict[str, bytes]:
    paths = [*(home / "runs" / name / file for file in OUTPUTS), home / "submissions" / f"{name}.csv"]
    return {path.name if path.suffix == ".npz" else "csv": path.read_bytes() for path in paths}


@pytest.fixture
def done(made, home, call):
    """One finished run named `done`."""
    said = call("main", "modelB", "--data", made, *TINY, "name=done")
    assert said.code == 0, said.err
    return said


def test_the_main_job_leaves_what_it_promises(done, made, home, call):
    run = home / "runs/done"
    assert {path.name for path in run.iterdir()} >= {
        "run.json",
        "folds.csv",
        "log.csv",
        "last.pt",
        "best.pt",
        "calibration.json",
        "report.json",
        "per_class.csv",
        *OUTPUTS,
    }
    assert not list(home.rglob(".*part"))
    assert done.out.splitlines()[-1] == f"page: {files.shown(run / 'report.html')}"
    for text in (
        "always No Finding",
        "macro-F1",
        "answers on the test images, summed",
        "SYNTHETIC",
        "submission: ",
        "time: prepare",
    ):
        assert text in done.out, text

    # the submission is test.csv's rows in their order, one 1 each
    test_ids, classes = labels.read_ids(made / "test.csv"), labels.read_one_hot(made / "train.csv").classes
    submission.validate(home / "submissions/done.csv", test_ids, classes)
    assert len(labels.read_ids(made / "sample_submission.csv")) == 10 < len(test_ids)

    # the logits file says what the network learned from
    val, about = logits_file.read_logits(run / "val_logits.npz"), json.loads((run / "run.json").read_text())
    train_table = labels.read_one_hot(made / "train.csv")
    part = {row["id"]: row["part"] for row in csv.DictReader(open(run / "folds.csv"))}
    assert set(val.ids) == {name for name, where in part.items() if where == "validation"}
    natural = train_table.targets[[part[name] == "training" for name in train_table.ids]].sum(axis=0)
    assert val.counts.tolist() == natural.tolist() and val.rows == natural.sum() == about["rows"]
    assert val.logits.shape == (2, len(val.ids), 20) and val.logits.dtype == np.float32
    sampled = np.sqrt(natural)  # weight n^-0.5 an image, n images
    assert val.prior == pytest.approx(sampled / sampled.sum())
    assert np.isnan(logits_file.read_logits(run / "test_logits.npz").targets).all()

    # the log has a row an epoch, and the best one is the one that was kept
    log = list(csv.DictReader(open(run / "log.csv")))
    assert [row["stage"] for row in log] == ["frozen", "full", "full"]
    best = max(log, key=lambda row: float(row["score"]))
    assert int(best["epoch"]) == about["best_epoch"] and about["state"] == "trained"

    # scoring the submission and the report's figures of the test part are the same arithmetic
    report = json.loads((run / "report.json").read_text())
    scored = call("score", home / "submissions/done.csv", made / "solution.csv")
    assert scored.out.splitlines()[-1] == f"score {report['test']['rules']['temperature']['score']:.6f}"

    # the run's own score is that of a CSV of its cross-fitted validation answers
    calibration, truth, said = json.loads((run / "calibration.json").read_text()), home / "truth.csv", home / "said.csv"
    answers, _ = single_label.held_out([val], calibration, ["temperature"])
    for path, rows in ((truth, val.targets.astype(int)), (said, np.eye(20, dtype=int)[answers["temperature"]])):
        path.write_text(
            "\n".join(
                [",".join(["id", *classes]), *(f"{i},{','.join(map(str, row))}" for i, row in zip(val.ids, rows))]
            )
            + "\n"
        )
    own = call("score", run).out.splitlines()
    assert [line for line in own if not line.startswith("decided by rule temperature")] == call(
        "score", said, truth
    ).out.splitlines()
    assert own[-1] == f"score {report['validation']['rules']['temperature']['score']:.6f}"
    assert [row["class"] for row in csv.DictReader(open(run / "per_class.csv"))] == classes

    # evaluating it again writes the same report
    before = (run / "report.json").read_bytes(), (run / "per_class.csv").read_bytes()
    assert "NLL" in call("evaluate", run).out and before == (
        (run / "report.json").read_bytes(),
        (run / "per_class.csv").read_bytes(),
    )
    shutil.copytree(run, home / "runs/twin")
    assert call("evaluate", run, home / "runs/twin").out.count("\nmean ") == 2


def test_the_choice_metric_is_the_unflipped_argmax(done, home):
    run = home / "runs/done"
    val = logits_file.read_logits(run / "val_logits.npz")
    log = list(csv.DictReader(open(run / "log.csv")))
    kept = SingleLabel().metrics(val)["score"]
    assert kept == pytest.approx(max(float(row["score"]) for row in log))


def test_checkpoints_load_with_weights_only_and_differ(done, home):
    last = torch.load(home / "runs/done/last.pt", weights_only=True)
    best = torch.load(home / "runs/done/best.pt", weights_only=True)
    assert {"model", "optimizer", "plateau", "scaler", "best", "resting", "history", "random"} <= last.keys()
    assert {"torch", "cuda", "numpy", "python"} == last["random"].keys()
    if best["epoch"] < 3:
        assert any(not torch.equal(best["model"][key], last["model"][key]) for key in best["model"])


def test_same_seed_same_bytes_other_seed_other_logits(done, made, home, call):
    assert call("main", "modelB", "--data", made, *TINY, "name=again", "workers=2").code == 0
    assert call("main", "modelB", "--data", made, *TINY, "name=other", "seed=1").code == 0
    one, two, three = (outputs(home, name) for name in ("done", "again", "other"))
    assert one == two
    assert one["val_logits.npz"] != three["val_logits.npz"] and one["test_logits.npz"] != three["test_logits.npz"]


def test_the_row_of_an_epoch_whose_log_was_cut_is_written_on_resuming(done, made, home, call, monkeypatch):
    whole = (home / "runs/done/log.csv").read_text().splitlines()
    (home / "runs/done/log.csv").write_text("\n".join(whole[:-1]) + "\n")
    files.write_json(home / "runs/done/run.json", files.read_json(home / "runs/done/run.json") | {"state": "training"})
    assert call("main", "modelB", "--data", made, *TINY, "name=done").code == 0
    assert (home / "runs/done/log.csv").read_text().splitlines() == whole


def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(done, made, home, call):
    """SIGKILL after the second epoch; the same command again resumes there."""
    command = [sys.executable, str(ROOT / "src/main.py"), "modelB", "--data", str(made), *TINY, "name=killed"]
    log = home / "runs/killed/log.csv"
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    deadline = time.monotonic() + 120
    while not (log.is_file() and len(log.read_text().splitlines()) >= 3):
        assert process.poll() is None and time.monotonic() < deadline, process.stdout.read()
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    state = json.loads((home / "runs/killed/run.json").read_text())["state"]
    again = call("main", *command[2:])
    assert again.code == 0, again.err
    if state == "training":  # it was killed before the third epoch ended
        assert "resumed after epoch" in again.out
    assert outputs(home, "killed") == outputs(home, "done")


def test_stopped_at_every_epoch_it_still_ends_with_the_same_bytes(done, made, home, call, ctrl_c_after_an_epoch):
    """The same without a race."""
    ctrl_c_after_an_epoch()
    command = ["modelB", "--data", made, *TINY, "name=cut"]
    assert [call("main", *command).code for _ in range(3)] == [130, 130, 0]
    assert outputs(home, "cut") == outputs(home, "done")


def test_a_finished_run_is_not_trained_again(done, made, home, call, monkeypatch):
    before = outputs(home, "done")
    monkeypatch.setattr(train, "fit", lambda *_: pytest.fail("trained again"))
    monkeypatch.setattr(main.predict, "predict", lambda *_: pytest.fail("predicted again"))
    said = call("main", "modelB", "--data", made, *TINY, "name=done")
    assert said.code == 0 and "is trained already" in said.out and "reused" in said.out
    assert outputs(home, "done") == before


def test_what_was_deleted_from_a_finished_run_is_made_again(made, home, call, monkeypatch, tmp_path):
    """Without training again, and without the weights it once started from."""
    weights = tmp_path / "start.safetensors"
    safetensors.torch.save_file(timm.create_model("test_convnext").state_dict(), weights)
    command = ["main", "modelB", "--data", made, *TINY, "epochs=2", f"weights={weights}", "name=done"]
    assert call(*command).code == 0
    before = outputs(home, "done")
    for path in (
        weights,
        *(home / "runs/done" / name for name in ("val_logits.npz", "test_logits.npz", "calibration.json", "folds.csv")),
    ):
        path.unlink()
    monkeypatch.setattr(fit, "train_epoch", lambda *_: pytest.fail("trained again"))
    assert call(*command).code == 0
    assert outputs(home, "done") == before


def test_a_replaced_test_image_is_predicted_again(tiny, home, call):
    command = ["main", "modelB", "--data", tiny, *TINY, "epochs=1", "name=fresh"]
    assert call(*command).code == 0
    before = outputs(home, "fresh")
    rng = np.random.default_rng(0)
    for name in labels.read_ids(tiny / "test.csv")[:3]:
        Image.fromarray(rng.integers(0, 256, (40, 40), dtype=np.uint8)).save(tiny / "images" / name)
    assert "is trained already" in call(*command).out
    after = outputs(home, "fresh")
    assert before["val_logits.npz"] == after["val_logits.npz"] and before["test_logits.npz"] != after["test_logits.npz"]


def test_a_solution_that_cannot_be_read_is_said_and_passed_over(tiny, home, call):
    (tiny / "solution.csv").write_text("id,Usage\n1,Public\n")
    said = call("main", "modelB", "--data", tiny, *TINY, "epochs=1", "name=odd")
    assert said.code == 0 and "solution.csv was not used" in said.err and (home / "runs/odd/report.json").is_file()


def test_another_rule_or_temperature_needs_no_training(done, made, home, call):
    said = call("main", "modelB", "--data", made, *TINY, "name=done", "temperature=1.2", "rule=argmax")
    assert said.code == 0 and "is trained already" in said.out
    calibration = json.loads((home / "runs/done/calibration.json").read_text())["networks"][0]["rules"]["temperature"]
    assert calibration["temperature"] == 1.2 and not calibration["tuned"]
    assert json.loads((home / "runs/done/run.json").read_text())["config"]["rule"] == "argmax"


def test_the_stages_alone_give_the_same_files(done, made, home, call):
    assert call("train", "modelB", "--data", made, *TINY, "name=alone").code == 0
    run = home / "runs/alone"
    assert call("predict", run).code == 0
    assert call("tune", run / "val_logits.npz", "--out", run / "calibration.json").code == 0
    assert (
        call(
            "decide",
            run / "test_logits.npz",
            "--calibration",
            run / "calibration.json",
            "--rule",
            "temperature",
            "--out",
            home / "submissions/alone.csv",
            "--test",
            made / "test.csv",
        ).code
        == 0
    )
    assert outputs(home, "alone") == outputs(home, "done")


def test_early_stopping_and_the_plateau_watch_the_score(made, home, call, monkeypatch):
    """A score that never improves after the warm-up: the rate is halved and training stops, the frozen stage not
    counted."""
    falling = iter(-4.7 - 1e-5 * step for step in range(100))  # a little worse each time, as negative scores are
    monkeypatch.setattr(SingleLabel, "metrics", lambda *_: {"score": next(falling)})
    said = call(
        "train",
        "modelB",
        "--data",
        made,
        *TINY,
        "epochs=20",
        "frozen_epochs=3",
        "patience=3",
        "lr_patience=0",
        "name=rested",
    )
    assert said.code == 0 and "stopped early" in said.out
    log = list(csv.DictReader(open(home / "runs/rested/log.csv")))
    assert [row["stage"] for row in log] == ["frozen"] * 3 + ["full"] * 3
    rates = [float(row["lr"]) for row in log]
    assert rates[:4] == [1e-3] * 4 and rates[5] < rates[4] <= 1e-3
    assert json.loads((home / "runs/rested/run.json").read_text())["best_epoch"] == 1


def test_ctrl_c_is_one_sentence(made, home):
    command = [
        sys.executable,
        str(ROOT / "src/main.py"),
        "modelB",
        "--data",
        str(made),
        *TINY,
        "epochs=500",
        "patience=500",
        "workers=2",
        "name=stopped",
    ]
    heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a shell's background jobs inherit it ignored
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True, preexec_fn=heed
    )
    try:
        log = home / "runs/stopped/log.csv"
        deadline = time.monotonic() + 120
        while not log.is_file():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGINT)
        _, err = process.communicate(timeout=60)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 130 and "Traceback" not in err
    assert (
        err.strip().splitlines()[-1] == "interrupted; run the same command again: training goes on where it was saved"
    )
    assert not list(home.rglob(".*part"))


def test_classes_without_images_and_unreadable_ones(tiny, home, call):
    """An empty class stays a column and is never answered; a broken training image may be left out, by setting."""
    lines = (tiny / "train.csv").read_text().splitlines()
    header = lines[0].split(",")
    hernia = header.index("Hernia")
    kept = [line for line in lines[1:] if line.split(",")[hernia] == "0"]
    (tiny / "train.csv").write_text("\n".join([lines[0], *kept]) + "\n")
    broken = kept[0].split(",")[0]
    (tiny / "images" / broken).write_bytes(b"not an image")
    said = call("main", "modelB", "--data", tiny, *TINY, "drop_unreadable=true", "name=holes")
    assert said.code == 0, said.err
    assert (
        broken in said.err
        and "without training images (their columns stay, and nothing is learned of them): Hernia" in said.out
    )
    assert not labels.read_one_hot(home / "submissions/holes.csv").targets[:, hernia - 1].any()
    about = json.loads((home / "runs/holes/run.json").read_text())
    assert about["counts"][hernia - 1] == 0 == about["prior"][hernia - 1]


@pytest.mark.parametrize(
    ("imbalance", "exponent"), [("none", 0.0), ("loss_weights:0.5", 0.5), ("logit_adjustment:1", 1.0)]
)
def test_the_prior_of_every_correction_reaches_the_logits_file_and_the_decision(imbalance, exponent, made, home, call):
    assert (
        call(
            "main",
            "modelB",
            "--data",
            made,
            *TINY,
            "epochs=1",
            f"imbalance={imbalance}",
            "rule=bayes",
            "name=corrected",
        ).code
        == 0
    )
    test = logits_file.read_logits(home / "runs/corrected/test_logits.npz")
    wanted = np.where(test.counts > 0, test.counts, 1) ** (1 - exponent) * (test.counts > 0)
    assert test.prior == pytest.approx(wanted / wanted.sum())
    network = json.loads((home / "runs/corrected/calibration.json").read_text())["networks"][0]
    assert network["prior"] == test.prior.tolist() and network["counts"] == test.counts.tolist()
    assert json.loads((home / "runs/corrected/run.json").read_text())["config"]["imbalance"] == (
        {} if imbalance == "none" else {imbalance.split(":")[0]: exponent}
    )


def test_a_time_budget_ends_with_a_valid_submission_and_goes_on(made, home, call, monkeypatch):
    """No time for a second epoch: the first one is predicted, decided and written; with more time the run ends as if
    never paused."""
    command = ["main", "modelB", "--data", made, *TINY, "name=timed"]
    monkeypatch.setenv("CXR_STARTED", str(time.time() - 3600))
    said = call(*command, "hours=1")  # the first epoch is always trained
    assert said.code == 0 and "stopped for time after epoch 1" in said.out and "PAUSED" in said.out, said.err
    assert len(labels.read_one_hot(home / "submissions/timed.csv").ids) == len(labels.read_ids(made / "test.csv"))
    assert (
        json.loads((home / "runs/timed/run.json").read_text())["state"] == "paused"
        and call("score", home / "runs/timed").code == 0
    )
    assert call("predict", home / "runs/timed").code == 0
    monkeypatch.delenv("CXR_STARTED")
    said = call(*command, "hours=1")
    assert said.code == 0 and "resumed after epoch 1" in said.out and "PAUSED" not in said.out
    assert call("main", "modelB", "--data", made, *TINY, "name=whole").code == 0
    assert outputs(home, "timed") == outputs(home, "whole")


def test_groups_are_never_parted_and_intervals_go_by_them(made, home, call, tmp_path):
    ids = labels.read_one_hot(made / "train.csv").ids.tolist()
    groups = tmp_path / "groups.csv"
    groups.write_text("id,group\n" + "".join(f"{one},p{number // 2}\n" for number, one in enumerate(ids)))
    asked = ["modelB", "--data", made, *TINY, "name=grouped"]
    said = call("main", *asked, f"groups={groups}")
    assert said.code == 0 and "intervals and cross-fitting by patient" in said.out, said.err
    rows = list(csv.DictReader((home / "runs/grouped/folds.csv").read_text().splitlines()))
    assert len({(row["patient"], row["part"]) for row in rows}) == len({row["patient"] for row in rows})
    assert {row["part"] for row in rows} == {"training", "validation"}
    report = json.loads((home / "runs/grouped/report.json").read_text())
    assert report["validation"]["patients"] == len({row["patient"] for row in rows if row["part"] == "validation"})
    for script in ("score", "report", "evaluate"):
        assert call(script, home / "runs/grouped").code == 0
    said = call("main", *asked)
    assert said.code == 2 and "groups (" in said.err
    groups.write_text("id,group\n" + "".join(f"{one},p\n" for one in ids[:-1]))
    said = call("main", *asked[:-1], f"groups={groups}", "name=other")
    assert said.code == 2 and f"lacks 1 of the {len(ids)} labelled images: {ids[-1]}" in said.err
    said = call("main", *asked[:-1], "groups=nowhere.csv", "name=other")
    assert said.code == 2 and "nowhere.csv cannot be read" in said.err
