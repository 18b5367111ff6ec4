"""Score offline: `score.py RUN` its validation fold, `score.py SUBMISSION.csv TRUTH.csv` a submission. Needs no torch."""

from pathlib import Path

import numpy as np

import config as settings
import metrics
from errors import Parser, UserError, command, some
from files import read_json, read_logits, read_run, shown, write_json
from labels import read_one_hot
from task import TASKS, tally


def score_run(folder: Path) -> dict:
    """The validation fold of a run, decided by the run's own rule."""
    about = read_run(folder)
    for name in ("val_logits.npz", "calibration.json"):
        if not (folder / name).is_file():
            raise UserError(f"{shown(folder)} has no {name} yet: run the command that began it once more")
    config = settings.of_run(about)
    task, val, rule = TASKS[config.task](), read_logits(folder / "val_logits.npz"), config.rule
    answers = task.decide(val, read_json(folder / "calibration.json"), rule)
    return figures([str(name) for name in val.classes], tally(val.targets, answers)) | {"rule": rule}


def score_files(submission: Path, truth: Path) -> dict:
    """A submission against labels. Rows are joined by id and columns by name; both must be the same sets."""
    said, true = read_one_hot(submission), read_one_hot(truth)
    for what, ours, theirs in (("class columns", said.classes, true.classes), ("ids", said.ids, true.ids)):
        odd = sorted(set(ours) ^ set(theirs))
        if odd:
            raise UserError(f"{shown(submission)} and {shown(truth)} have different {what}: {some(odd)} in only one of them")
    columns = [said.classes.index(name) for name in true.classes]
    rows = np.argsort(said.ids)[np.argsort(np.argsort(true.ids))]
    return figures(true.classes, tally(true.targets, said.targets[rows][:, columns].argmax(axis=1)))


def figures(classes: list[str], counts: metrics.Tally) -> dict:
    """The score, the figures beside it, and a row for every class (score null where the truth has no image of it)."""
    scores, f1 = metrics.class_scores(counts), metrics.f1(counts)
    rows = [
        {"class": name, "images": int(counts.n[c]), "tp": int(counts.tp[c]), "fp": int(counts.fp[c]), "fn": int(counts.fn[c]),
         "score": float(scores[c]) if counts.present[c] else None, "f1": float(f1[c]) if counts.present[c] else None}
        for c, name in enumerate(classes)
    ]
    commonest = int(np.argmax(counts.n))
    always = {"class": classes[commonest], **metrics.summary(metrics.constant(counts.n, commonest))}
    return {**metrics.summary(counts), "always": always, "per_class": rows}


def table(report: dict) -> list[str]:
    """The per-class table and the summary as lines; the last is `score -4.724889`."""
    lines = [f"{'class':28}{'images':>7}{'tp':>7}{'fp':>7}{'fn':>7}{'score':>10}{'f1':>8}"]
    for row in report["per_class"]:
        ends = f"{row['score']:10.3f}{row['f1']:8.3f}" if row["images"] else f"{'absent':>10}"
        lines.append(f"{row['class']:28}{row['images']:7d}{row['tp']:7d}{row['fp']:7d}{row['fn']:7d}{ends}")
    absent = [row["class"] for row in report["per_class"] if not row["images"]]
    if absent:
        lines.append(f"left out of the mean, without an image: {', '.join(absent)}")
    lines.append(f"accuracy {report['accuracy']:.4f}  balanced accuracy {report['balanced_accuracy']:.4f}  macro-F1 {report['macro_f1']:.4f}")
    lines.append(f"always {report['always']['class']} would score {report['always']['score']:.6f}")
    return [*lines, f"score {report['score']:.6f}"]


def main(argv: list[str]) -> None:
    parser = Parser(description="Score a run's validation fold, or a submission against labels.", usage="RUN | SUBMISSION.csv TRUTH.csv [--json FILE]")
    parser.add_argument("what", metavar="RUN or SUBMISSION.csv", type=Path)
    parser.add_argument("truth", metavar="TRUTH.csv", type=Path, nargs="?")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the figures there too")
    given = parser.parse_args(argv)
    if given.truth is None and given.what.suffix == ".csv":
        raise UserError(f"a submission is scored against labels: score {given.what} TRUTH.csv")
    report = score_run(given.what) if given.truth is None else score_files(given.what, given.truth)
    if given.json:
        write_json(given.json, report)
    print("\n".join(table(report)))


if __name__ == "__main__":
    raise SystemExit(command(main))
