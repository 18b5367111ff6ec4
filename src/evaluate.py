"""The whole validation report of a run: `evaluate.py RUN …` writes RUN/report.json and RUN/per_class.csv. Needs no torch.

Several runs are compared.
"""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

import config as settings
import folds
import score
from errors import Parser, UserError, command
from files import Logits, read_logits, read_run, shown, write_json, write_rows
from labels import aligned, read_one_hot
from task import TASKS


def evaluate(folder: Path) -> dict:
    """Write the report of the run's task and return it, with the settings and the split that it rests on.

    Test rows whose labels are known are judged too: the run's own test part, or those of a solution.csv, as the synthetic
    set keeps one.
    """
    about = read_run(folder)
    config, task, val, calibration = score.opened(folder)
    report = {
        "synthetic": bool(about.get("synthetic")), "run": config.name, "rule": config.rule, "best_epoch": about.get("best_epoch"),
        "settings": config.model_dump(), "split": about.get("split"), "baseline": about.get("baseline"),
        **task.report(val, labelled_test(folder, about), calibration, config.rule, folds.of_run(folder, about)),
    }
    write_json(folder / "report.json", report)
    write_rows(folder / "per_class.csv", report["per_class"])
    return report


def labelled_test(folder: Path, about: dict) -> Logits | None:
    """The test logits with their labels: the run's own test part, or those of solution.csv; None where they are not known."""
    if not (folder / "test_logits.npz").is_file():
        return None
    if about.get("predicted", [about.get("best_epoch")])[0] != about.get("best_epoch"):
        raise UserError(f"{shown(folder / 'test_logits.npz')} are of epoch {about['predicted'][0]}, and the best is now {about['best_epoch']}: run predict on it")
    test, solution = read_logits(folder / "test_logits.npz"), Path(about["data"]) / "solution.csv"
    if not np.isnan(test.targets).all():
        return test
    if not solution.is_file():
        return None
    try:
        return replace(test, targets=aligned(read_one_hot(solution), test.ids, test.classes.tolist(), f"the test logits and {shown(solution)}"))
    except UserError as error:
        print(f"WARNING: {shown(solution)} was not used: {error}", file=sys.stderr)
        return None


def main(argv: list[str]) -> None:
    parser = Parser(description="Write the whole validation report of a run, or of several and compare their rules.", usage="RUN [RUN ...]")
    parser.add_argument("runs", metavar="RUN", type=Path, nargs="+")
    given = parser.parse_args(argv)
    if len({folder.resolve() for folder in given.runs}) < len(given.runs):
        raise UserError("a run is named twice: name each once")
    configs = [settings.of_run(read_run(folder)) for folder in given.runs]
    if len({type(config) for config in configs}) > 1:
        raise UserError("runs of different tasks cannot be compared: name those of one")
    task, reports = TASKS[configs[0].task](configs[0]), [evaluate(folder) for folder in given.runs]
    print("\n".join(task.compare(reports)))
    for report, folder in zip(reports, given.runs, strict=True):
        print(f"wrote {shown(folder / 'report.json')} and per_class.csv")


if __name__ == "__main__":
    raise SystemExit(command(main))
