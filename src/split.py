"""Which labelled image trains, validates or tests: chosen once, kept in the run's folds.csv, and checked whenever it is read."""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from config import Config
from errors import UserError, some
from files import digest, shown, write_rows
from labels import Table
from runs import Run
from task import Task


def parts(run: Run, table: Table, task: Task, config: Config) -> np.ndarray:
    """The part of every labelled row, str [N]: that of the run's folds.csv, of the file that `split` names, or chosen now.

    Raises UserError for a split that is not the one the run was trained with, that parts a patient, or that leaves a part
    nothing to be judged by.
    """
    kept = run / "folds.csv"
    path = kept if kept.is_file() else None if config.split == "auto" else Path(config.split)
    found = _read_parts(path, table, task.parts, kept) if path else task.split(table, config)
    if run.about.get("split", fingerprint(found)) != fingerprint(found):
        raise UserError(f"{shown(kept)} is not the split that this run was trained with: put it back, or delete {shown(run.folder)} and train again")
    said = shown(path) if path else "the split"
    if "patient" in table.known:
        pairs = np.unique(np.stack([table.known["patient"], found]), axis=1)
        names, times = np.unique(pairs[0], return_counts=True)
        if (times > 1).any():
            raise UserError(f"{said} has {(times > 1).sum()} patients in more than one part: {some(names[times > 1])}; all images of a patient belong into one")
    for part in task.parts:
        targets = table.targets[found == part]
        if not len(targets):
            raise UserError(f"{len(table.ids)} images with val_fraction = {config.val_fraction} leave none for {part}: use more images")
        if not task.measurable(targets):
            raise UserError(f"the {part} part ({len(targets)} images) has no label with both positives and negatives, so nothing can be learned or measured there: use more images, or other labels")
    return found


def fingerprint(parts: np.ndarray) -> str:
    """A short name of a split."""
    return digest("\n".join(parts.tolist()).encode())


def write(run: Run, table: Table, parts: np.ndarray) -> None:
    """folds.csv: the id and part of every labelled image, and what else is known of it."""
    columns = {"id": table.ids, "part": parts, **table.known}
    write_rows(run / "folds.csv", [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)])


def _read_parts(path: Path, table: Table, allowed: Sequence[str], kept: Path) -> np.ndarray:
    try:
        with open(path, newline="", encoding="utf-8") as file:
            part_of = {row["id"]: row["part"] for row in csv.DictReader(file)}
        found = np.array([part_of[name] for name in table.ids.tolist()])
        odd = sorted(set(found.tolist()) - set(allowed))
        if odd:
            raise ValueError(f"part {odd[0]!r} is none of {some(allowed)}")
    except OSError as error:
        raise UserError(f"split = {shown(path)} cannot be read ({error.strerror})") from error
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        advice = f"delete {shown(kept.parent)} and train again" if path == kept else "it must give a part for the id of every image"
        raise UserError(f"{shown(path)} is damaged ({type(error).__name__} {error}): {advice}") from error
    return found


def to_predict(run: Run, labelled: Table, unlabelled: np.ndarray, task: Task) -> Table:
    """What a run predicts: the labelled rows of its test part, then the images without labels, whose targets are NaN."""
    test = labelled.take(_read_parts(run / "folds.csv", labelled, task.parts, run / "folds.csv") == "test")
    unknown = np.full((len(unlabelled), len(labelled.classes)), np.nan, np.float32)
    return Table(np.array([*test.ids.tolist(), *unlabelled.tolist()]), labelled.classes, np.concatenate([test.targets, unknown]))
