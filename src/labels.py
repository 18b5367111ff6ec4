"""Label files: CSV to ids and float targets [N, C]. Class names are read from the header, never typed."""

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from errors import UserError, some
from files import shown


@dataclass(frozen=True)
class Table:
    """One labelled CSV: ids str [N], classes in header order [C], targets float32 [N, C]."""

    ids: np.ndarray
    classes: list[str]
    targets: np.ndarray


@dataclass(frozen=True)
class Tables:
    """A data set's label side: the labelled training table and the ids to predict, in `test.csv`'s order."""

    train: Table
    test_ids: np.ndarray


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
    frame, ids = _read(path)
    classes = [column for column in frame.columns if column != "id"]
    if len(classes) < 2:
        raise UserError(f"{shown(path)} needs a column for every class beside id; it has {some(frame.columns)}")
    import pandas as pd

    values = frame[classes].apply(pd.to_numeric, errors="coerce").to_numpy(float)
    strange = ~np.isin(values, (0.0, 1.0))
    if strange.any():
        row, column = np.argwhere(strange)[0]
        raise UserError(f"{shown(path)}, line {row + 2}, column {classes[column]}: {frame[classes[column]].iloc[row]!r} is neither 0 nor 1")
    ones = values.sum(axis=1)
    for wrong, what in ((ones == 0, "no 1"), (ones > 1, "several 1s")):
        if wrong.any():
            raise UserError(f"{shown(path)}: {wrong.sum()} rows have {what} where exactly one is wanted: {some(ids[wrong])}")
    return Table(ids, classes, values.astype(np.float32))


def read_ids(path: Path) -> np.ndarray:
    """The `id` column of a CSV, in its order: str [N]."""
    return _read(path)[1]


def _read(path: Path):
    import pandas as pd  # half a second to import: verbs that read no CSV start without it

    try:
        frame = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig", index_col=False)
    except FileNotFoundError as error:
        raise UserError(f"{shown(path)} does not exist") from error
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError, IsADirectoryError) as error:
        raise UserError(f"{shown(path)} is not a readable CSV file ({str(error).strip().splitlines()[-1]})") from error
    with open(path, newline="", encoding="utf-8-sig") as file:
        header = next(csv.reader(file))  # pandas renames columns that stand twice
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise UserError(f"{shown(path)} has columns that stand twice: {some(twice)}")
    if "id" not in frame:
        raise UserError(f"{shown(path)} has no column id; its columns are {some(frame.columns)}")
    ids = frame["id"].to_numpy(str)
    if not len(ids):
        raise UserError(f"{shown(path)} has a header and no rows")
    bare = np.array([name not in ("", ".", "..") and not set(name) & set("/\\\0") for name in ids])
    if not bare.all():
        raise UserError(f"{shown(path)}: an id must be a plain file name, without folders: {some(repr(str(name)) for name in ids[~bare])}")
    names, times = np.unique(ids, return_counts=True)
    if (times > 1).any():
        raise UserError(f"{shown(path)}: {(times > 1).sum()} ids stand there more than once: {some(names[times > 1])}")
    return frame, ids


def keep_some(table: Table, limit: int, seed: int) -> Table:
    """A random `limit` rows of a table in their old order (all of them when `limit` is 0): for rehearsals."""
    if not limit or limit >= len(table.ids):
        return table
    rows = np.sort(np.random.default_rng(seed).permutation(len(table.ids))[:limit])
    return Table(table.ids[rows], table.classes, table.targets[rows])
