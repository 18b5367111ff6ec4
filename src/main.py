"""The main job: `main.py CONFIG [--data DIR] [--demo] [key=value …]`, from images to a valid submission.

Prepare → train → predict → tune → decide → evaluate. Each stage leaves files, so the same command goes on after
whatever stopped it: what is trained or predicted is not done again, and the rest takes seconds.
"""

from core.errors import UserError, command  # first, so that Ctrl-C is quiet while torch loads

# isort: split

import numpy as np

import decide
import evaluate
import predict
import probe
import train
import tune
from core import folds
from core.files import SYNTHETIC, home, shown
from core.logits_file import Logits, read_logits
from core.runs import Run, clock
from core.task import Task
from images.prepare import Prepared

FILES = "val_logits.npz, test_logits.npz, calibration.json, report.json, per_class.csv, log.csv, best.pt"


def main(argv: list[str]) -> None:
    task, source, run = train.asked(train.arguments("main", argv))
    config = task.config
    submission = home() / "submissions" / f"{config.name}.csv"

    prepared = train.train(task, source, run)  # which packs the images first
    wanted = folds.to_predict(run, prepared.labelled, prepared.unlabelled, task).ids
    if not predicted(run, prepared, wanted):
        predict.predict(run, prepared, task)
    with run.timed("decide"):
        val, test = read_logits(run / "val_logits.npz"), read_logits(run / "test_logits.npz")
        calibration = tune.tune(task, [val], run / "calibration.json", tune.given(config))
        answered = decide.decide(task, [test], calibration, config.rule, submission, wanted)
    run.save(config=config.model_dump())  # the rule and the temperature may be new
    with run.timed("evaluate"):
        report = evaluate.evaluate(run.folder)
        over = over_probe(task, run, prepared)
    print("\n".join(summary(task, run, report, calibration, val, answered, len(wanted))))
    print("\n".join([*over, f"submission: {shown(submission)}"]))


def over_probe(task: Task, run: Run, prepared: Prepared) -> list[str]:
    """What the run gains over its probe, when there is one or `probe` asks for it, as lines."""
    beside = home() / "runs" / f"probe-{run.folder.name}"
    if task.config.probe and not (beside / "report.json").is_file():
        probe.probe(task, prepared, folds.chosen(run, prepared.labelled, task), run.folder.name)
        evaluate.evaluate(beside)
    if not (beside / "report.json").is_file():
        return []
    try:
        return probe.gain(run.folder, beside)
    except UserError as error:
        return [f"not compared with {shown(beside)}: {error}"]


def predicted(run: Run, prepared: Prepared, wanted: np.ndarray) -> bool:
    """Whether the run's test logits are there, whole, and those of these very images."""
    try:
        ids = read_logits(run / "test_logits.npz").ids
    except UserError:
        return False
    now = [run.about["best_epoch"], prepared.pack.fingerprint(wanted)]
    return np.array_equal(ids, wanted) and run.about.get("predicted") == now


def summary(
    task: Task, run: Run, report: dict, calibration: dict, val: Logits, answered: np.ndarray, images: int
) -> list[str]:
    """What the main job ends with, as lines."""
    expected = val.counts / val.rows * images
    times = ", ".join(f"{stage} {clock(seconds)}" for stage, seconds in run.about["timings"].items())
    paused = "PAUSED: training stopped for time; this is the best epoch so far, and the same command goes on"
    return [
        "",
        f"==== {report['run']}: best epoch {report['best_epoch']}, rule {report['rule']}",
        *([SYNTHETIC] * report["synthetic"]),
        *task.lines(report, calibration),
        "answers on the test images, summed:",
        *decide.counts_table(val.classes, answered, expected),
        f"files: {FILES} in {shown(run.folder)}",
        f"time: {times}",
        *task.warning(report),
        *([paused] * (run.about["state"] == "paused")),
    ]


if __name__ == "__main__":
    raise SystemExit(command(main))
