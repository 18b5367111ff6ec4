"""Which labelled image trains, validates or tests: chosen once, kept in the run's folds.csv, and checked whenever it is used."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import folds
from config import Config
from errors import UserError, some
from files import digest, shown, write_bytes
from labels import Table
from runs import Run
from task import Task


def parts(run: Run, table: Table, task: Task, config: Config) -> np.ndarray:
    """The part of every labelled row, str [N]: that of the run's folds.csv, of the file that `split` names, or chosen now.

    Raises UserError for a split that is not the one the run was trained with, that parts a patient, or that leaves a part
    nothing to be judged by.
    """
    if run.begun and (run / "folds.csv").is_file():
        return _parts_of(folds.of_run(run.folder, run.about), table, task.parts, run / "folds.csv")
    given = None if config.split == "auto" else Path(config.split)
    found = _parts_of(folds.read(given), table, task.parts, given) if given else task.split(table, config)
    if "patient" in table.known:
        pairs = np.unique(np.stack([table.known["patient"], found]), axis=1)
        names, times = np.unique(pairs[0], return_counts=True)
        if (times > 1).any():
            raise UserError(f"{shown(given) if given else 'the split'} has {(times > 1).sum()} patients in more than one part: {some(names[times > 1])}; all images of a patient belong into one")
    for part in task.parts:
        targets = table.targets[found == part]
        if not len(targets) and given:
            raise UserError(f"{shown(given)} has no image for {part}: it must part the images into {some(task.parts)}")
        if not len(targets):
            units = f"{len(table.ids)} images" + (f" of {len(set(table.known['patient'].tolist()))} patients" if "patient" in table.known else "")
            raise UserError(f"{units} with val_fraction = {config.val_fraction} leave none for {part}: use more images")
        if not task.measurable(targets):
            raise UserError(f"the {part} part ({len(targets)} images) has no label with both positives and negatives, so nothing can be learned or measured there: use more images, or other labels")
    if run.begun and run.about["split"] != digest(content(table, found)):
        raise UserError(f"{shown(run / 'folds.csv')} is gone, and the split cannot be made again as it was: put it back, or delete {shown(run.folder)} and train again")
    return found


def content(table: Table, parts: np.ndarray) -> bytes:
    """What folds.csv holds: the id and part of every labelled image, and what else is known of it."""
    columns = {"id": table.ids, "part": parts, **table.known}
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([list(columns), *zip(*columns.values(), strict=True)])
    return text.getvalue().encode()


def keep(run: Run, table: Table, parts: np.ndarray) -> None:
    """Write the run's folds.csv."""
    write_bytes(run / "folds.csv", content(table, parts))


def _parts_of(rows: dict[str, dict[str, str]], table: Table, allowed: Sequence[str], path: Path) -> np.ndarray:
    lacking = [name for name in table.ids.tolist() if name not in rows]
    if lacking:
        raise UserError(f"{shown(path)} lacks {len(lacking)} of the {len(table.ids)} labelled images: {some(lacking)}; it must give a part for the id of every image")
    found = np.array([rows[name]["part"] for name in table.ids.tolist()])
    odd = sorted({str(part) for part in found.tolist()} - set(allowed))
    if odd:
        raise UserError(f"{shown(path)}: part {odd[0]!r} is none of {some(allowed)}")
    return found


def to_predict(run: Run, labelled: Table, unlabelled: np.ndarray, task: Task) -> Table:
    """What a run predicts: the labelled rows of its test part, then the images without labels, whose targets are NaN."""
    test = labelled.take(_parts_of(folds.of_run(run.folder, run.about), labelled, task.parts, run / "folds.csv") == "test")
    unknown = np.full((len(unlabelled), len(labelled.classes)), np.nan, np.float32)
    return Table(np.array([*test.ids.tolist(), *unlabelled.tolist()]), labelled.classes, np.concatenate([test.targets, unknown]))
