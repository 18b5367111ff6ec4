"""What an older version began goes on: a run, a study and a pushed kernel of commit a0d8549, kept in tests/older/."""

import csv
import json
import shutil
import tarfile
from pathlib import Path

import pytest
import torch

from conftest import ROOT, unsealed
from core import files
from kaggle_double import Double
from kaggle_double import Run as Version
from leaderboard import client
from tasks.competition import Competition, CompetitionConfig

SLUG = "26-t-1-dl-gen-ainppe-1"
TINY = [
    "weights=none",
    "size=32",
    "frozen_epochs=1",
    "batch=16",
    "lr=1e-3",
    "val_fraction=0.36",
    "workers=0",
    "precision=fp32",
]


@pytest.fixture
def old(tmp_path, home) -> Path:
    """The archive unpacked: set/ (120 images), what is in home/ moved there, kernel/ (its output and the record of its
    push)."""
    folder = tmp_path / "old"
    with tarfile.open(ROOT / "tests/older/a0d8549.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    for path in (folder / "home").iterdir():
        path.rename(home / path.name)
    return folder


def test_a_run_that_was_cut_goes_on(old, home, call):
    asked = ["main", "modelB", "--data", old / "set", *TINY, "model=test_convnext", "epochs=6", "name=cut"]
    said = call(*asked)
    assert said.code == 0 and "resumed after epoch 1" in said.out, said.err
    assert len((home / "runs/cut/log.csv").read_text().splitlines()) == 7
    assert json.loads((home / "runs/cut/run.json").read_text())["state"] == "trained"


def test_a_finished_run_is_not_trained_again_but_decided_anew(old, home, call):
    asked = ["main", "modelB", "--data", old / "set", *TINY, "model=cnn1", "epochs=2", "name=whole"]
    before = torch.load(home / "runs/whole/best.pt", weights_only=True)
    said = call(*asked, "rule=bayes")
    assert said.code == 0 and "is trained already" in said.out, said.err
    assert (home / "submissions/whole.csv").is_file() and json.loads((home / "runs/whole/report.json").read_text())[
        "rule"
    ] == "bayes"
    assert before.keys() == torch.load(home / "runs/whole/best.pt", weights_only=True).keys()
    said = call(*asked, "lr=2e-3", "label_smoothing=0.2")
    assert (
        said.code == 2
        and "made with other settings: label_smoothing (0.03 → 0.2), lr (0.001 → 0.002); give" in said.err
    )


def test_a_column_that_a_newer_version_added_to_the_log_is_no_obstacle(old, home, call):
    path = home / "runs/cut/last.pt"
    last = torch.load(path, weights_only=True)
    del last["history"][0]["images_per_second"]  # as if that column were new
    torch.save(last, path)
    said = call("main", "modelB", "--data", old / "set", *TINY, "model=test_convnext", "epochs=6", "name=cut")
    assert said.code == 0, said.err
    rows = list(csv.DictReader(open(home / "runs/cut/log.csv")))
    assert len(rows) == 6 and rows[0]["images_per_second"] == "" and float(rows[1]["images_per_second"]) > 0


def test_a_study_goes_on(old, home, call):
    """Three of its four cells have records, and the run of the fourth is finished: nothing is trained."""
    for path in (home / "runs").glob("cell-*/run.json"):
        files.write_json(path, json.loads(path.read_text()) | {"data": str(old / "demo")})
    said = call("experiment", old / "study.yaml", "--demo")
    assert (
        said.code == 0 and "4 cells of 4 runs: 3 cells done before, 1 finished runs reused, 0 to train" in said.out
    ), said.err
    assert "Missing" not in said.out and (home / "studies/study-demo/table.md").is_file()


def test_a_kernel_is_fetched_and_pushed_on(old, home, call, tmp_path, monkeypatch):
    """The double is given the output that the old version's kernel left; the new version's push resumes it, and really
    runs."""
    competition = Path(shutil.copytree(old / "set", tmp_path / "competition"))
    for name in ("demo.json", "solution.csv"):
        (competition / name).unlink()
    (home / "pushed").mkdir()
    shutil.copy(old / "kernel/pushed.json", home / "pushed/modelB.json")
    monkeypatch.setattr(client, "PAUSE", 0.2)
    with Double(tmp_path / "service", competition, SLUG) as double:
        for name, value in double.environment(tmp_path / "user").items():
            monkeypatch.setenv(name, value)
        (tmp_path / "user").mkdir(exist_ok=True)
        (old / "kernel/kaggle.log").write_text("")
        double._runs["cxr-model-b"] = [
            Version("cxr-model-b", 1, Ended(), old / "kernel/output", old / "kernel/kaggle.log")
        ]
        said = call("fetch", "modelB")
        assert said.code == 0 and "training stopped for time" in said.out, said.err
        said = call("push", "modelB", "--resume", "--hours", "0.0345")
        assert said.code == 0 and "version 2 is running" in said.out, said.err
        said = call("status", "modelB", "--wait", "--every", "0.2", "--deadline", "2")
        log = (double.folder / "kaggle.log").read_text()
        assert said.code == 0 and "resumed after epoch" in log, log
        assert call("fetch", "modelB").code == 0
    assert json.loads((home / "fetched/modelB-v2/manifest.json").read_text())["state"] in ("paused", "trained")


def test_a_key_that_comes_later_counts_only_where_it_differs(old, home, call, monkeypatch):
    """`sharpness`, had it been added today: old runs, reports and cells keep their names; asked for, another run."""
    from core import config
    from tasks import studies

    class Later(CompetitionConfig):
        sharpness: float = config.later(0.0, ge=0)

    path, study = studies.read(str(old / "study.yaml"))
    before = [(cell.key, cell.run("data")) for cell in studies.cells(study, path)]
    monkeypatch.setattr(Competition, "Settings", Later)
    assert [(cell.key, cell.run("data")) for cell in studies.cells(study, path)] == before
    assert not {key for key, _ in before} & {cell.key for cell in studies.cells(study, path, ["sharpness=0.99"])}
    asked = ["main", "modelB", "--data", old / "set", *TINY, "model=cnn1", "epochs=2", "name=whole"]
    assert call(*asked).code == 0
    said = call(*asked, "sharpness=0.9")
    assert said.code == 2 and "sharpness (0.0 → 0.9)" in said.err


def test_a_rule_and_a_figure_that_come_later_are_no_obstacle(old, home, call):
    """A calibration from before a rule was there is reported without it; a report without a figure is made again."""
    run = home / "runs/whole"
    asked = ["main", "modelB", "--data", old / "set", *TINY, "model=cnn1", "epochs=2", "name=whole"]
    assert call(*asked).code == 0
    calibration = json.loads((run / "calibration.json").read_text())
    for network in calibration["networks"]:
        del network["rules"]["power"]
    files.write_json(run / "calibration.json", calibration)
    unsealed(run)
    said = call("evaluate", run)
    assert said.code == 0 and "power" not in said.out and "thresholds" in said.out, said.err
    report = json.loads((run / "report.json").read_text())
    for part in report["validation"]["rules"].values():
        del part["macro_f1"]
    files.write_json(run / "report.json", report)
    said = call("compare", run, "0.5±0.1,3", "--metric", "score")
    assert said.code == 0 and "macro_f1" in (run / "report.json").read_text(), said.err


class Ended:
    """A process that came to its end, as Double's versions have one."""

    pid = 0

    def poll(self) -> int:
        return 0
