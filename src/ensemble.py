"""Several runs to one answer: `ensemble.py RUN RUN … [--out NAME]` writes runs/NAME, a run like any other, and its
submission. Needs no torch.

Members may be networks, cross-validations and probes of the same images. Each is calibrated by itself; their
probabilities are averaged with weights that are fitted on validation rows and shrunk to equal ones.
"""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import compare
import decide
import evaluate
from answers.rules import PARTS
from answers.single_label_report import patients_of
from core import folds
from core.commands import Parser
from core.errors import UserError, command
from core.files import digest, home, shown, write_bytes
from core.logits_file import TINY, Logits, exchanged, of_probabilities, pooled, same_rows, write_logits
from core.runs import Run
from core.task import Task
from tasks import registry
from tasks.opened import Opened, open_run

SHRINK = 1.0  # images' worth of belief in equal weights, for every image that they are fitted on
STEPS = 500  # of the fit, at most


def fitted(p: np.ndarray, exclusive: bool, targets: np.ndarray) -> np.ndarray:
    """The members' weights, float [M] of sum 1, by the likelihood of the targets [N, C] under the mean of their
    probabilities p [M, N, C].

    Expectation–maximisation for the weights of a mixture (Dempster, Laird and Rubin 1977, section 4.3) with a Dirichlet
    prior: w_m = (Σ_n r_nm + κN/M) / (N + κN), r_nm the share of member m in the probability of row n, κ = SHRINK.
    """
    members = len(p)
    if exclusive:
        said = p[:, np.arange(len(targets)), targets.argmax(axis=1)]
    else:
        said = np.where(targets == 1, p, 1 - p)[:, ~np.isnan(targets)]
    said = np.maximum(said, TINY)
    weights = np.full(members, 1 / members)
    for _ in range(STEPS):
        shares = weights[:, None] * said
        shares /= shares.sum(axis=0)
        new = (shares.mean(axis=1) + SHRINK / members) / (1 + SHRINK)
        if np.abs(new - weights).max() < 1e-9:
            break
        weights = new
    return weights


def combined(p: np.ndarray, targets: np.ndarray, exclusive: bool, patients: np.ndarray | None) -> np.ndarray:
    """The weighted mean of the members' probabilities [M, N, C] of validation rows: float [N, C]. The weights of each
    fifth of the rows, or of the patients where they are known, are fitted on the other four."""
    found, part = np.empty(p.shape[1:]), folds.parts(targets.argmax(axis=1), PARTS, seed=0, patients=patients)
    for k in np.unique(part):
        weights = fitted(p[:, part != k], exclusive, targets[part != k])
        found[part == k] = np.tensordot(weights, p[:, part == k], 1)
    return found


def same_task(runs: Sequence[Opened]) -> Task:
    """The task of all members. Raises UserError for runs that cannot be one answer."""
    first = runs[0]
    for run in runs:
        if run.about.get("state") not in ("trained", "paused"):
            raise UserError(f"{shown(run.folder)} is not trained to its end: run the command that began it once more")
        if type(run.task) is not type(first.task) or run.about["classes"] != first.about["classes"]:
            raise UserError(
                f"{shown(run.folder)} and {shown(first.folder)} are of other tasks or labels: name runs of one"
            )
    if len({run.folder.resolve() for run in runs}) < len(runs):
        raise UserError("a run is named twice: name each once")
    return first.task


def probabilities(runs: Sequence[Opened], task: Task) -> tuple[Logits, np.ndarray, Logits, np.ndarray]:
    """The validation rows and what every member says of them, float [M, N, C], by calibrations that did not see them;
    and the same of the test rows, averaged over its networks. The folds of a member are calibrated together, for a
    calibration by few rows disturbs the ranking. Raises UserError for members of other rows."""
    said = []
    for run in runs:
        val, tests = pooled(run.vals, task.exclusive), run.predicted
        if len(tests) > 1:
            tests = [exchanged(test, val.counts, val.rows, val.prior, task.exclusive) for test in tests]
        calibration = task.calibrate([val])
        p = task.held_out([val], calibration, patients_of(val.ids, run.rows))
        said.append((val, p, tests[0], np.mean([task.posterior([test], calibration) for test in tests], axis=0)))
    (val, _, test, _), first = said[0], runs[0]
    on_val, on_test = [], []
    for run, (rows, p, tested, q) in zip(runs, said, strict=True):
        for part, ours, theirs, forecast, found in (
            ("validation", val, rows, p, on_val),
            ("test", test, tested, q, on_test),
        ):
            places = same_rows(theirs, ours)
            if places is None or not np.array_equal(theirs.targets[places], ours.targets, equal_nan=True):
                raise UserError(
                    f"{shown(run.folder)} and {shown(first.folder)} have other {part} images or labels: members of one"
                    " ensemble share their split (split=, split_seed=, folds=) and their test set"
                )
            found.append(forecast[places])
    return val, np.array(on_val), test, np.array(on_test)


def ensemble(runs: Sequence[Opened], name: str) -> Run:
    """Write runs/NAME and submissions/NAME.csv. Raises UserError where they would replace something else."""
    task, first, run = same_task(runs), runs[0], Run.named(name)
    if run.about and not str(run.about.get("baseline")).startswith("ensemble"):
        raise UserError(f"{shown(run.folder)} is a run of its own: give the ensemble another name with --out")
    if run.folder.resolve() in {one.folder.resolve() for one in runs}:
        raise UserError(f"--out {name} is one of the members: give the ensemble another name")
    val, p, test, q = probabilities(runs, task)
    mixed = combined(p, val.targets, task.exclusive, patients_of(val.ids, first.rows))
    weights = fitted(p, task.exclusive, val.targets)
    run.lock()
    config = first.config.model_copy(update={"name": name, "folds": 0, "fold": "all", "probe": False})
    whole = [{key: cell for key, cell in row.items() if key != "fold"} for row in first.rows.values()]
    rows = folds.written(whole)
    write_bytes(run / "folds.csv", rows)
    found = of_probabilities(val, mixed, val, task.exclusive)
    write_logits(run / "val_logits.npz", found)
    write_logits(run / "test_logits.npz", of_probabilities(test, np.tensordot(weights, q, 1), val, task.exclusive))
    members = ", ".join(
        f"{one.folder.resolve().name} × {weight:.3f}" for one, weight in zip(runs, weights, strict=True)
    )
    kept = {key: first.about[key] for key in ("synthetic", "data", "digest", "classes") if key in first.about}
    run.save(
        **kept, config=config.model_dump(), split=digest(rows), counts=found.counts.tolist(), rows=found.rows,
        prior=found.prior.tolist(), seed=config.seed, state="trained", best_epoch=None, predicted=[None],
        baseline=f"ensemble of {members}",
    )  # fmt: skip
    decide.answer(registry.task_of(config), run, [Opened(run.folder, run.about)])
    return run


def main(argv: list[str]) -> None:
    parser = Parser("ensemble")
    parser.add_argument("runs", metavar="RUN", type=Path, nargs="+")
    parser.add_argument("--out", metavar="NAME", default="ensemble", help="of the run and its submission (ensemble)")
    given = parser.parse_args(argv)
    if len(given.runs) < 2:
        raise UserError("an ensemble has at least two members: name more runs")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}", given.out):
        raise UserError(f"--out {given.out!r} is no name of a run: letters, digits, dots, dashes")
    runs = [open_run(folder) for folder in given.runs]
    run = ensemble(runs, given.out)
    report, opened = evaluate.evaluate(run.folder), open_run(run.folder)
    print("\n".join([f"{given.out}: {run.about['baseline']}", *opened.task.lines(report, opened.calibration)]))
    print("\n".join(opened.task.warning(report)))
    ours, *theirs = compare.sides([f"{one.folder.resolve().name}={one.folder}" for one in (opened, *runs)])
    for other in theirs:
        print("\n".join(compare.paired_lines([compare.paired(opened.task, ours, other)])))
    print(f"wrote {shown(run.folder)} and {shown(home() / 'submissions' / f'{given.out}.csv')}")


if __name__ == "__main__":
    raise SystemExit(command(main))
