"""Score offline: `score.py RUN` its validation fold, `score.py SUBMISSION.csv TRUTH.csv` a submission. Needs no
torch."""

from pathlib import Path

from answers import single_label_report
from answers.metrics import Costs, tally_one_hot
from core.errors import Parser, UserError, command
from core.files import shown, write_json
from images.labels import aligned, read_one_hot
from tasks.opened import open_run


def score_files(submission: Path, truth: Path, costs: Costs = Costs()) -> dict:
    """A submission against labels. Rows are joined by id and columns by name; both must be the same sets."""
    said, true = read_one_hot(submission), read_one_hot(truth)
    answers = aligned(said, true.ids, true.classes, f"{shown(submission)} and {shown(truth)}").argmax(axis=1)
    return single_label_report.figures(true.classes, tally_one_hot(true.targets, answers), costs)


def main(argv: list[str]) -> None:
    parser = Parser(
        description="Score a run's validation fold, or a submission against labels.",
        usage="RUN | SUBMISSION.csv TRUTH.csv [--json FILE] [--costs TP FP FN]",
    )
    parser.add_argument("what", metavar="RUN or SUBMISSION.csv", type=Path)
    parser.add_argument("truth", metavar="TRUTH.csv", type=Path, nargs="?")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the figures there too")
    parser.add_argument(
        "--costs", type=float, nargs=3, metavar=("TP", "FP", "FN"), help="of a submission; a run has its own (1 1 5)"
    )
    given = parser.parse_args(argv)
    if given.costs and given.truth is None:
        raise UserError("--costs is for a submission: a run is scored by the costs of its own configuration")
    if given.truth is None and given.what.suffix == ".csv":
        raise UserError(f"a submission is scored against labels: score {given.what} TRUTH.csv")
    if given.truth is None:
        run = open_run(given.what)
        report = run.task.score(run.validation, run.rows)
        lines = run.task.score_lines(report)
    else:
        report = score_files(given.what, given.truth, Costs(*given.costs or ()))
        lines = single_label_report.score_lines(report)
    if given.json:
        write_json(given.json, report)
    print("\n".join(lines))


if __name__ == "__main__":
    raise SystemExit(command(main))
