"""The main job: `main.py CONFIG [--data DIR] [--demo] [key=value …]`, from images to a valid submission.

Prepare → train → tune → predict → decide → score → report. Each stage leaves files, and a stage whose files are there is
not done again, so the same command goes on after whatever stopped it.
"""

import numpy as np

from errors import UserError, command  # first, so that Ctrl-C is quiet while torch loads

import decide
import evaluate
import predict
import split
import train
import tune
from files import SYNTHETIC, home, read_logits, shown
from fit import clock
from prepare import Prepared
from runs import Run


def main(argv: list[str]) -> None:
    config, task, source, run = train.opened(argv, "Train, tune, predict and write a submission.")
    submission = home() / "submissions" / f"{config.name}.csv"

    prepared = train.train(config, task, source, run)
    wanted = split.to_predict(run, prepared.labelled, prepared.unlabelled, task).ids
    if not _predicted(run, prepared, wanted):
        predict.predict(run, prepared, task)
    with run.timed("decide"):
        val, test = read_logits(run / "val_logits.npz"), read_logits(run / "test_logits.npz")
        calibration = tune.tune(task, [val], run / "calibration.json", None if config.temperature == "tune" else config.temperature)
        answered = decide.decide(task, [test], calibration, config.rule, submission, wanted)
    run.save(config=config.model_dump())  # the rule and the temperature may be new

    with run.timed("evaluate"):
        report = evaluate.evaluate(run.folder)
    print("\n".join([
        "", f"==== {report['run']}: best epoch {report['best_epoch']}, rule {report['rule']}",
        *([SYNTHETIC] * report["synthetic"]),
        *task.lines(report, calibration),
        "answers on the test images, summed:", *decide.counts_table(val.classes, answered, val.counts / val.rows * len(wanted)),
        f"files: val_logits.npz, test_logits.npz, calibration.json, report.json, per_class.csv, log.csv, best.pt in {shown(run.folder)}",
        "time: " + ", ".join(f"{stage} {clock(seconds)}" for stage, seconds in run.about["timings"].items()),
        *task.warning(report),
        *(["PAUSED: training stopped for time; this is the best epoch so far, and the same command goes on"] * (run.about["state"] == "paused")),
        f"submission: {shown(submission)}",
    ]))


def _predicted(run: Run, prepared: Prepared, wanted: np.ndarray) -> bool:
    """Whether the run's test logits are there, whole, and those of these very images."""
    try:
        ids = read_logits(run / "test_logits.npz").ids
    except UserError:
        return False
    return np.array_equal(ids, wanted) and run.about.get("predicted") == [run.about["best_epoch"], prepared.pack.fingerprint(wanted)]


if __name__ == "__main__":
    raise SystemExit(command(main))
