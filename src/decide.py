"""From test logits to a submission: `decide.py TEST.npz … --calibration FILE … --rule RULE --out CSV`. Needs no torch.

Several logits files of the same images are the folds of a cross-validation, in the order in which they were tuned.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

import tune
from answers import single_label
from answers.posterior import estimate_counts
from core import submission
from core.commands import Parser
from core.errors import UserError, command, some
from core.files import home, read_json, shown
from core.logits_file import Logits, exchanged, of_probabilities, pooled, read_logits, write_logits
from core.runs import Run
from core.task import Problem, Task
from images.labels import read_counts, read_ids
from tasks.opened import Opened
from tasks.registry import problem_of


def decide(
    problem: Problem, tests: Sequence[Logits], calibration: dict, rule: str, out: Path, test_ids: np.ndarray,
    counts: np.ndarray | None = None,
) -> np.ndarray:  # fmt: skip
    """Write the submission and return the sum of every class's answers, [C]. `counts` replaces the natural class
    counts."""
    answers = problem.decide(tests, calibration, rule, counts)
    submission.write(out, tests[0].ids, tests[0].classes, answers, test_ids, problem.fault)
    return answers.sum(axis=0)


def answer(task: Task, run: Run, networks: Sequence[Opened]) -> tuple[dict, np.ndarray, int]:
    """Calibrate a run on its validation logits and write its submission. Returns the calibration, the sum of every
    class's answers, [C], and the number of test images."""
    vals = [val for one in networks for val in one.vals]
    tests = [test for one in networks for test in one.predicted]
    calibration = tune.tune(task, vals, run / "calibration.json", task.config.given_temperature)
    if len(networks) == 1 and task.config.folds:
        write_logits(run / "test_logits.npz", tests[0])
    elif task.config.folds:  # what the folds say together, beside the pooled val_logits.npz
        val = pooled(vals, task.exclusive)
        alike = [exchanged(test, val.counts, val.rows, val.prior, task.exclusive) for test in tests]
        p = np.mean([task.plain(test) for test in alike], axis=0)
        write_logits(run / "test_logits.npz", of_probabilities(tests[0], p, val, task.exclusive))
    run.seal("calibration.json", *(["test_logits.npz"] if task.config.folds else []))
    out = home() / "submissions" / f"{task.config.name}.csv"
    answered = decide(task, tests, calibration, task.config.rule, out, tests[0].ids)
    return calibration, answered, len(tests[0].ids)


def counts_table(classes: Sequence[str], answered: np.ndarray, expected: np.ndarray) -> list[str]:
    """How often every class was answered, beside how many of its images the natural frequencies let expect, as
    lines."""
    width = max(28, *map(len, classes))
    return [
        f"  {'':{width}}{'answered':>9}{'expected':>10}",
        *(
            f"  {name:{width}}{count:9.{0 if answered.dtype.kind in 'iu' else 1}f}{hope:10.1f}"
            for name, count, hope in zip(classes, answered, expected, strict=True)
        ),
    ]


def merged(paths: Sequence[Path]) -> dict:
    """One calibration of several files, their networks in order."""
    found = [read_json(path) for path in paths]
    for path, calibration in zip(paths, found, strict=True):
        missing = [key for key in ("classes", "networks") if key not in calibration]
        if missing or not isinstance(calibration["networks"], list):
            raise UserError(f"{shown(path)} is no calibration: make it with tune")
        if any(calibration.get(key) != found[0].get(key) for key in ("classes", "costs")):
            raise UserError(f"{shown(path)} was fitted for other classes or costs than {shown(paths[0])}")
    return {**found[0], "networks": [network for calibration in found for network in calibration["networks"]]}


def main(argv: list[str]) -> None:
    parser = Parser("decide")
    parser.add_argument(
        "tests", metavar="TEST.npz", type=Path, nargs="+", help="one file a network (fold), all of the same images"
    )
    parser.add_argument(
        "--calibration",
        metavar="FILE",
        type=Path,
        nargs="+",
        required=True,
        help="from tune: one for all networks, or one each",
    )
    parser.add_argument("--rule", required=True)
    parser.add_argument("--out", metavar="CSV", type=Path, required=True)
    parser.add_argument(
        "--test", dest="test_csv", metavar="test.csv", type=Path, help="check the rows against this file"
    )
    parser.add_argument(
        "--counts",
        metavar="FILE",
        type=Path,
        help="a CSV of class and count: the natural class counts of the test set, when they differ",
    )
    parser.add_argument(
        "--estimate-counts", action="store_true", help="estimate them from these very logits (needs rule bayes)"
    )
    given = parser.parse_intermixed_args(argv)
    if (given.counts or given.estimate_counts) and given.rule != "bayes":
        raise UserError(
            f"rule {given.rule} does not use class counts: --counts and --estimate-counts need --rule bayes"
        )
    if given.counts and given.estimate_counts:
        raise UserError("--counts and --estimate-counts exclude each other: give one")
    tests, calibration = [read_logits(path) for path in given.tests], merged(given.calibration)
    problem = problem_of(tests)
    if given.rule not in problem.rules:
        raise UserError(f"there is no rule {given.rule!r}; there are {some(problem.rules)}")
    classes = tests[0].classes.tolist()
    counts = read_counts(given.counts, classes) if given.counts else None
    if given.estimate_counts:
        counts = estimate_counts(single_label.posterior(tests, calibration), tests[0].counts)
    test_ids = read_ids(given.test_csv) if given.test_csv else tests[0].ids
    answered = decide(problem, tests, calibration, given.rule, given.out, test_ids, counts)
    frequency = (
        sum(test.counts for test in tests) / sum(test.rows for test in tests)
        if counts is None
        else counts / counts.sum()
    )
    lines = counts_table(classes, answered, frequency * len(test_ids))
    print("\n".join([*lines, f"wrote {shown(given.out)}: {len(test_ids)} rows by rule {given.rule}"]))


if __name__ == "__main__":
    raise SystemExit(command(main))
