"""Score offline: `score.py RUN` its validation fold, `score.py SUBMISSION.csv TRUTH.csv` a submission. Needs no
torch."""

from pathlib import Path

import numpy as np

from answers import calibrators, multi_label, single_label_report
from answers.metrics import Costs, tally_one_hot
from core.commands import Parser
from core.errors import UserError, command
from core.files import shown, write_json
from images.labels import aligned, has_probabilities, read_multi_hot, read_one_hot, read_probabilities
from tasks.opened import Opened, open_run


def score_files(submission: Path, truth: Path, costs: Costs | None = None) -> tuple[dict, list[str]]:
    """A submission against labels: its figures, and what to print of them.

    Rows are joined by id and columns by name; both must be the same sets. Numbers between 0 and 1 for truth with any
    number of 1s a row are the probabilities of every label, scored by their ranking; all else is one answer an image,
    scored by the costs.
    """
    both = f"{shown(submission)} and {shown(truth)}"
    true = read_multi_hot(truth) if has_probabilities(submission) else None
    if true is not None and (true.targets.sum(axis=1) != 1).any():
        if costs:
            raise UserError(
                f"{shown(submission)} holds probabilities, which are not scored by costs: leave --costs out"
            )
        p = aligned(read_probabilities(submission), true.ids, true.classes, both)
        found = multi_label.figures(true.classes, true.targets, p)
        return found, multi_label.figure_lines(found)
    said, true = read_one_hot(submission), read_one_hot(truth)
    counts = tally_one_hot(true.targets, aligned(said, true.ids, true.classes, both).argmax(axis=1))
    found = single_label_report.figures(true.classes, counts, costs or Costs())
    return found, single_label_report.score_lines(found)


def peers(run: Opened) -> list[str]:
    """Calibrators of others on a run's validation rows, as lines."""
    if not run.task.exclusive:
        raise UserError("--peers is for runs with one class an image")
    ids = np.concatenate([val.ids for val in run.vals])
    owners = [run.rows[one].get("patient") for one in ids.tolist()]
    patients = np.array(owners) if all(owners) else None
    found = calibrators.cross_fitted(run.vals, patients, run.task.costs)
    return [*calibrators.lines(found, "by image" if patients is None else "by patient"), ""]


def main(argv: list[str]) -> None:
    parser = Parser("score")
    parser.add_argument("what", metavar="RUN or SUBMISSION.csv", type=Path)
    parser.add_argument("truth", metavar="TRUTH.csv", type=Path, nargs="?")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the figures there too")
    parser.add_argument(
        "--costs", type=float, nargs=3, metavar=("TP", "FP", "FN"), help="of a submission; a run has its own (1 1 5)"
    )
    parser.add_argument("--peers", action="store_true", help="of a run: calibrators of others, too (needs probmetrics)")
    given = parser.parse_args(argv)
    if given.costs and given.truth is None:
        raise UserError("--costs is for a submission: a run is scored by the costs of its own configuration")
    if given.truth is None and given.what.suffix == ".csv":
        raise UserError(f"a submission is scored against labels: score {given.what} TRUTH.csv")
    if given.truth is None:
        run = open_run(given.what)
        report = run.task.score(run.validation, run.rows)
        lines = [*(peers(run) if given.peers else []), *run.task.score_lines(report)]
    elif given.peers:
        raise UserError("--peers compares calibrations of a run's logits: name a run")
    else:
        report, lines = score_files(given.what, given.truth, Costs(*given.costs) if given.costs else None)
    if given.json:
        write_json(given.json, report)
    print("\n".join(lines))


if __name__ == "__main__":
    raise SystemExit(command(main))
