"""Score offline: `score.py RUN` its validation fold, `score.py SUBMISSION.csv TRUTH.csv` a submission. Needs no torch."""

from pathlib import Path

import config as settings
import decision_report
import folds
from errors import Parser, UserError, command
from files import Logits, read_json, read_logits, read_run, shown, write_json
from labels import aligned, read_one_hot
from metrics import Costs, tally_one_hot
from task import TASKS, Task, competition


def opened(folder: Path) -> tuple[settings.Config, Task, Logits, dict]:
    """Configuration, task, validation logits and calibration of a run that has been tuned."""
    about = read_run(folder)
    for name in ("val_logits.npz", "calibration.json"):
        if not (folder / name).is_file():
            raise UserError(f"{shown(folder)} has no {name} yet: run the main job on it, ./run.sh CONFIG name={folder.resolve().name} with the run's settings")
    config, val = settings.of_run(about), read_logits(folder / "val_logits.npz")
    if val.classes.tolist() != about["classes"]:
        raise UserError(f"{shown(folder / 'val_logits.npz')} has other classes than the run's run.json: run the command that began it once more")
    return config, TASKS[config.task](config), val, read_json(folder / "calibration.json")


def score_files(submission: Path, truth: Path, costs: Costs = Costs()) -> dict:
    """A submission against labels. Rows are joined by id and columns by name; both must be the same sets."""
    said, true = read_one_hot(submission), read_one_hot(truth)
    answers = aligned(said, true.ids, true.classes, f"{shown(submission)} and {shown(truth)}").argmax(axis=1)
    return decision_report.figures(true.classes, tally_one_hot(true.targets, answers), costs)


def main(argv: list[str]) -> None:
    parser = Parser(description="Score a run's validation fold, or a submission against labels.", usage="RUN | SUBMISSION.csv TRUTH.csv [--json FILE] [--costs TP FP FN]")
    parser.add_argument("what", metavar="RUN or SUBMISSION.csv", type=Path)
    parser.add_argument("truth", metavar="TRUTH.csv", type=Path, nargs="?")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the figures there too")
    parser.add_argument("--costs", type=float, nargs=3, metavar=("TP", "FP", "FN"), help="of a submission; a run has its own (1 1 5)")
    given = parser.parse_args(argv)
    if given.costs and given.truth is None:
        raise UserError("--costs is for a submission: a run is scored by the costs of its own configuration")
    if given.truth is None and given.what.suffix == ".csv":
        raise UserError(f"a submission is scored against labels: score {given.what} TRUTH.csv")
    if given.truth is None:
        config, task, val, calibration = opened(given.what)
        report = task.score(val, calibration, config.rule, folds.of_run(given.what, read_run(given.what)))
    else:
        task, report = competition(), score_files(given.what, given.truth, Costs(*given.costs or ()))
    if given.json:
        write_json(given.json, report)
    print("\n".join(task.score_lines(report)))


if __name__ == "__main__":
    raise SystemExit(command(main))
