"""The main job: `main.py CONFIG [--data DIR] [--demo] [key=value …]`, from images to a valid submission.

Prepare → train → tune → predict → decide → score → report. Each stage leaves files, and a stage whose files are there is
not done again, so the same command goes on after whatever stopped it.
"""

import sys
from pathlib import Path

import numpy as np

from errors import UserError, command  # first, so that Ctrl-C is quiet while torch loads

import decide
import predict
import score
import train
import tune
from files import home, read_logits, shown, write_json, write_rows
from fit import clock
from prepare import Prepared
from runs import Run


def main(argv: list[str]) -> None:
    config, task, source, run = train.opened(argv, "Train, tune, predict and write a submission.")
    submission = home() / "submissions" / f"{config.name}.csv"

    prepared = train.train(config, task, source, run)
    if not _predicted(run, prepared):
        predict.predict(run, prepared)
    with run.timed("decide"):
        val, test = read_logits(run / "val_logits.npz"), read_logits(run / "test_logits.npz")
        calibration = tune.tune(task, val, run / "calibration.json", None if config.temperature == "tune" else config.temperature)
        answered = decide.decide(task, test, calibration, config.rule, submission, prepared.test_ids)
    run.save(config=config.model_dump())  # the rule and the temperature may be new

    fold = score.score_run(run.folder)
    report = {
        "synthetic": source.synthetic, "run": config.name, "rule": config.rule, "best_epoch": run.about["best_epoch"],
        "temperature": calibration["rules"]["temperature"]["temperature"], "validation": task.report(val, calibration),
        "answered": dict(zip(val.classes.tolist(), answered.tolist(), strict=True)), "timings": run.about["timings"],
    }
    if (source.folder / "solution.csv").is_file():
        try:
            report["held_out"] = score.score_files(submission, source.folder / "solution.csv")
        except UserError as error:
            print(f"WARNING: solution.csv was not used: {error}", file=sys.stderr)
    write_rows(run / "per_class.csv", fold["per_class"])
    write_json(run / "report.json", report)
    print("\n".join(summary(report, run, submission)))


def _predicted(run: Run, prepared: Prepared) -> bool:
    """Whether the run's test logits are there, whole, and those of these very images."""
    try:
        ids = read_logits(run / "test_logits.npz").ids
    except UserError:
        return False
    return np.array_equal(ids, prepared.test_ids) and run.about.get("predicted") == prepared.pack.fingerprint(prepared.test_ids)


def summary(report: dict, run: Run, submission: Path) -> list[str]:
    """What the user reads last: every rule beside the constant answer, the answers, the files, the times."""
    validation, rule = report["validation"], report["rule"]
    lines = ["", f"==== {report['run']}: best epoch {report['best_epoch']}, rule {rule}, temperature {report['temperature']}"]
    lines += ["SYNTHETIC DATA: these figures say nothing about real radiographs"] * report["synthetic"]
    lines += ["validation:", *tune.table(validation)]
    if validation["rules"][rule]["score"] <= validation["always"]["score"]:
        lines.append(f"WARNING: on this fold rule {rule} scores no better than always answering {validation['always']['class']}. Think before you submit.")
    lines += ["answered on the test images:", *decide.counts_table(list(report["answered"]), np.array(list(report["answered"].values())))]
    if "held_out" in report:
        held = report["held_out"]
        lines.append(f"test part, by the labels kept aside (solution.csv): score {held['score']:.4f}, macro-F1 {held['macro_f1']:.3f}; "
                     f"always {held['always']['class']} {held['always']['score']:.4f}")
    lines.append(f"files: val_logits.npz, test_logits.npz, calibration.json, report.json, per_class.csv, log.csv, best.pt in {shown(run.folder)}")
    lines.append("time: " + ", ".join(f"{stage} {clock(seconds)}" for stage, seconds in report["timings"].items()))
    return [*lines, f"submission: {shown(submission)}"]


if __name__ == "__main__":
    raise SystemExit(command(main))
