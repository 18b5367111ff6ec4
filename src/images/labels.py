"""Label files: CSV to ids and float targets [N, C]. Class names are read from the header, never typed."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from core.data_set import Table, Tables, check_ids
from core.errors import UserError, some
from core.files import shown
from core.tables import read_table, refuse_empty

if TYPE_CHECKING:
    import pandas as pd


def read_competition(folder: Path) -> Tables:
    """`train.csv` and `test.csv` of `folder`; an id may stand in only one of them."""
    train = read_one_hot(folder / "train.csv")
    test_ids = read_ids(folder / "test.csv")
    both = np.intersect1d(train.ids, test_ids)
    if len(both):
        raise UserError(f"{shown(folder)}: {len(both)} ids stand in both train.csv and test.csv: {some(both)}")
    return Tables(train, test_ids)


def read_one_hot(path: Path) -> Table:
    """A CSV of `id` and one 0/1 column a class, exactly one 1 a row: train.csv, solution.csv or a submission."""
    found = read_multi_hot(path)
    ones = found.targets.sum(axis=1)
    for wrong, what in ((ones == 0, "no 1"), (ones > 1, "several 1s")):
        if wrong.any():
            rows = some(found.ids[wrong])
            raise UserError(f"{shown(path)}: {wrong.sum()} rows have {what} where exactly one is wanted: {rows}")
    return found


def read_multi_hot(path: Path) -> Table:
    """A CSV of `id` and one 0/1 column a class, any number of 1s a row."""
    table, classes = _labelled(path)
    values = np.char.strip(table[classes].to_numpy(dtype=str))
    ones = np.isin(values, ("1", "1.0"))
    strange = ~ones & ~np.isin(values, ("0", "0.0"))
    if strange.any():
        row, column = np.argwhere(strange)[0]
        said = f"{str(values[row, column])!r} is neither 0 nor 1"
        raise UserError(f"{shown(path)}, row {row + 1}, column {classes[column]}: {said}")
    return Table(_ids(table), classes, ones.astype(np.float32))


def read_probabilities(path: Path) -> Table:
    """A CSV of `id` and one column a class with numbers from 0 to 1: a multi-label submission."""
    table, classes = _labelled(path)
    values = _numbers(table[classes])
    strange = ~((values >= 0) & (values <= 1))
    if strange.any():
        row, column = np.argwhere(strange)[0]
        said = f"{table[classes].iat[row, column]!r} is no probability from 0 to 1"
        raise UserError(f"{shown(path)}, row {row + 1}, column {classes[column]}: {said}")
    return Table(_ids(table), classes, values)


def has_probabilities(path: Path) -> bool:
    """Whether a CSV of `id` and one column a class has any number between 0 and 1."""
    table, classes = _labelled(path)
    values = _numbers(table[classes])
    return bool(((values > 0) & (values < 1)).any())


def _numbers(columns: pd.DataFrame) -> np.ndarray:
    """Text as float, NaN where it is no number."""
    import pandas as pd

    return columns.apply(pd.to_numeric, errors="coerce").to_numpy(dtype=float)


def aligned(table: Table, ids: np.ndarray, classes: list[str], what: str) -> np.ndarray:
    """A table's targets with its rows joined by id and its columns by name, float [N, C]; both must be the same sets.

    `what` names the two in the error, as `a.csv and b.csv`.
    """
    pairs = (("class columns", table.classes, classes), ("ids", table.ids.tolist(), np.asarray(ids).tolist()))
    for kind, ours, theirs in pairs:
        odd = sorted(set(ours) ^ set(theirs))
        if odd:
            raise UserError(f"{what} have different {kind}: {some(odd)} in only one of them")
    rows = np.argsort(table.ids)[np.argsort(np.argsort(ids))]
    return table.targets[rows][:, [table.classes.index(name) for name in classes]]


def read_ids(path: Path) -> np.ndarray:
    """The `id` column of a CSV, in its order: str [N]."""
    ids = _ids(read_table(path, ["id"]))
    check_ids(ids, path)
    return ids


def read_groups(path: Path, ids: np.ndarray) -> np.ndarray:
    """The group of every id, str [N], from a CSV of `id` and `group`, or of NIH's `Image Index` and `Patient ID`."""
    table = read_table(path)
    names = ("Image Index", "Patient ID") if "Image Index" in table.columns else ("id", "group")
    missing = [name for name in names if name not in table.columns]
    if missing:
        raise UserError(f"groups = {shown(path)} lacks {some(missing)}: wanted are id and group, a row an image")
    refuse_empty(table, names, path)
    check_ids(table[names[0]].to_numpy(dtype=str), path)
    found = dict(zip(table[names[0]], table[names[1]].str.strip(), strict=True))
    lacking = [one for one in ids.tolist() if one not in found]
    if lacking:
        raise UserError(
            f"groups = {shown(path)} lacks {len(lacking)} of the {len(ids)} labelled images: {some(lacking)}"
        )
    return np.array([found[one] for one in ids.tolist()])


def read_counts(path: Path, classes: list[str]) -> np.ndarray:
    """A CSV with the columns `class` and `count`, a row for each of `classes` in any order: float [C] in their
    order."""
    table = read_table(path, ["class", "count"], "a CSV of class and count is wanted")
    try:
        found = dict(zip(table["class"], table["count"].astype(float), strict=True))
    except ValueError as error:
        raise UserError(f"{shown(path)}: every count must be a number") from error
    odd = sorted(set(classes) ^ set(found))
    if odd or len(table) != len(classes):
        names = some(odd or table["class"])
        raise UserError(f"{shown(path)} must name every class of the logits once; missing, unknown or twice: {names}")
    counts = np.array([found[name] for name in classes])
    if not (np.isin(counts, 0) | ((counts >= 1e-6) & (counts <= 1e12))).all() or not counts.any():
        raise UserError(f"{shown(path)}: counts must be 0 or numbers from 1e-6 to 1e12, and not all 0")
    return counts


def check_labels(wanted: Sequence[str], known: Iterable[str], path: Path) -> None:
    """Raises UserError for wanted labels that no row names, with the nearest of those that are named."""
    known = sorted(known)
    unknown = [label for label in wanted if label not in known]
    if not unknown:
        return
    lower = {name.lower(): name for name in known}
    said = []
    for label in unknown:
        near = ", ".join(lower[name] for name in difflib.get_close_matches(label.lower(), lower, 3))
        said.append(f"{label!r}" + (f" (nearest: {near})" if near else ""))
    raise UserError(f"labels: {shown(path)} has no label {'; '.join(said)}; it has {some(known, 12)}")


def _labelled(path: Path) -> tuple[pd.DataFrame, list[str]]:
    """A table of ids and classes, and the classes."""
    table = read_table(path, ["id"])
    check_ids(_ids(table), path)
    classes = [column for column in table.columns if column != "id"]
    if "" in (name.strip() for name in classes):
        raise UserError(f"{shown(path)} has a column without a name: name the class, or remove the column")
    if len(classes) < 2:
        raise UserError(f"{shown(path)} needs a column for every class beside id; it has {some(table.columns)}")
    return table, classes


def _ids(table: pd.DataFrame) -> np.ndarray:
    return table["id"].to_numpy(dtype=str)
