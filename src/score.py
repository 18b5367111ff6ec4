"""Score offline: `score.py RUN` its validation fold, `score.py SUBMISSION.csv TRUTH.csv` a submission. Needs no torch."""

from pathlib import Path

import numpy as np

import config as settings
import metrics
from errors import Parser, UserError, command
from files import Logits, read_json, read_logits, read_run, shown, write_json
from labels import aligned, read_one_hot
from metrics import Costs, tally_one_hot
from task import TASKS, Task


def score_run(folder: Path) -> dict:
    """The validation fold of a run, decided by the run's own rule, cross-fitted: no image is decided by a fit that saw it."""
    return fold_figures(*opened(folder))


def fold_figures(config: settings.Config, task: Task, val: Logits, calibration: dict) -> dict:
    """The same for a run that has been opened."""
    answers = task.held_out([val], calibration, [config.rule])[0][config.rule]
    return figures(val.classes.tolist(), tally_one_hot(val.targets, answers), Costs(**calibration["costs"])) | {"rule": config.rule}


def opened(folder: Path) -> tuple[settings.Config, Task, Logits, dict]:
    """Configuration, task, validation logits and calibration of a run that has been tuned."""
    about = read_run(folder)
    for name in ("val_logits.npz", "calibration.json"):
        if not (folder / name).is_file():
            raise UserError(f"{shown(folder)} has no {name} yet: run the command that began it once more")
    config, val = settings.of_run(about), read_logits(folder / "val_logits.npz")
    if val.classes.tolist() != about["classes"]:
        raise UserError(f"{shown(folder / 'val_logits.npz')} has other classes than the run's run.json: run the command that began it once more")
    return config, TASKS[config.task](config), val, read_json(folder / "calibration.json")


def score_files(submission: Path, truth: Path, costs: Costs = Costs()) -> dict:
    """A submission against labels. Rows are joined by id and columns by name; both must be the same sets."""
    said, true = read_one_hot(submission), read_one_hot(truth)
    answers = aligned(said, true.ids, true.classes, f"{shown(submission)} and {shown(truth)}").argmax(axis=1)
    return figures(true.classes, tally_one_hot(true.targets, answers), costs)


def figures(classes: list[str], counts: metrics.Tally, costs: Costs = Costs()) -> dict:
    """The score, the figures beside it, and a row for every class: its counts, its score (null where the truth has no image
    of it), and what its hits, false alarms and misses add to the score of all."""
    scores, f1, present = metrics.class_scores(counts, costs), metrics.f1(counts), counts.present.sum()
    shares = {name: counts.rate(amount) / present for name, amount in
              (("hits_add", costs.tp * counts.tp), ("false_alarms_cost", costs.fp * counts.fp), ("misses_cost", costs.fn * counts.fn))}
    rows = []
    for c, name in enumerate(classes):
        floats = {"score": scores[c], "f1": f1[c], **{what: share[c] for what, share in shares.items()}}
        rows.append({"class": name, "images": int(counts.n[c]), "tp": int(counts.tp[c]), "fp": int(counts.fp[c]), "fn": int(counts.fn[c]),
                     **{what: float(value) if counts.present[c] else None for what, value in floats.items()}})
    commonest = int(np.argmax(counts.n))
    always = {"class": classes[commonest], **metrics.summary(metrics.constant(counts.n, commonest), costs)}
    return {**metrics.summary(counts, costs), "always": always, "per_class": rows}


def class_table(rows: list[dict]) -> list[str]:
    """Every class's counts, its score, and what its hits, false alarms and misses add to the score of all, as lines."""
    lines = [f"{'class':28}{'images':>7}{'tp':>7}{'fp':>7}{'fn':>7}{'score':>10}{'f1':>8}{'hits':>9}{'alarms':>9}{'misses':>9}"]
    for row in rows:
        ends = (f"{row['score']:10.3f}{row['f1']:8.3f}{row['hits_add']:+9.4f}{0 - row['false_alarms_cost']:+9.4f}{0 - row['misses_cost']:+9.4f}"
                if row["images"] else f"{'absent':>10}")
        lines.append(f"{row['class']:28}{row['images']:7d}{row['tp']:7d}{row['fp']:7d}{row['fn']:7d}{ends}")
    absent = [row["class"] for row in rows if not row["images"]]
    return lines + [f"left out of the mean, without an image: {', '.join(absent)}"] * bool(absent)


def table(report: dict) -> list[str]:
    """The per-class table and the summary as lines; the last is `score -4.724889`."""
    return [
        *class_table(report["per_class"]),
        f"accuracy {report['accuracy']:.4f}  balanced accuracy {report['balanced_accuracy']:.4f}  macro-F1 {report['macro_f1']:.4f}",
        f"always {report['always']['class']} would score {report['always']['score']:.6f}",
        *([f"decided by rule {report['rule']}, each fifth of the images by a fit on the other four"] if "rule" in report else []),
        f"score {report['score']:.6f}",
    ]


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
    report = score_run(given.what) if given.truth is None else score_files(given.what, given.truth, Costs(*given.costs or ()))
    if given.json:
        write_json(given.json, report)
    print("\n".join(table(report)))


if __name__ == "__main__":
    raise SystemExit(command(main))
