"""Label files: CSV to ids and float targets [N, C]. Class names are read from the header, never typed."""

import csv
import io
from pathlib import Path

import numpy as np

from core.data_set import Table, Tables, check_ids
from core.errors import UserError, some
from core.files import shown


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
    header, ids, rows = _read(path)
    classes = [column for column in header if column != "id"]
    if len(classes) < 2:
        raise UserError(f"{shown(path)} needs a column for every class beside id; it has {some(header)}")
    at = header.index("id")
    values = np.char.strip(np.array([row[:at] + row[at + 1 :] for row in rows]))
    ones = np.isin(values, ("1", "1.0"))
    strange = ~ones & ~np.isin(values, ("0", "0.0"))
    if strange.any():
        row, column = np.argwhere(strange)[0]
        raise UserError(
            f"{shown(path)}, row {row + 1}, column {classes[column]}: {str(values[row, column])!r} is neither 0 nor 1"
        )
    for wrong, what in ((ones.sum(axis=1) == 0, "no 1"), (ones.sum(axis=1) > 1, "several 1s")):
        if wrong.any():
            raise UserError(
                f"{shown(path)}: {wrong.sum()} rows have {what} where exactly one is wanted: {some(ids[wrong])}"
            )
    return Table(ids, classes, ones.astype(np.float32))


def aligned(table: Table, ids: np.ndarray, classes: list[str], what: str) -> np.ndarray:
    """A table's targets with its rows joined by id and its columns by name, float32 [N, C]; both must be the same sets.

    `what` names the two in the error, as `a.csv and b.csv`.
    """
    for kind, ours, theirs in (
        ("class columns", table.classes, classes),
        ("ids", table.ids.tolist(), np.asarray(ids).tolist()),
    ):
        odd = sorted(set(ours) ^ set(theirs))
        if odd:
            raise UserError(f"{what} have different {kind}: {some(odd)} in only one of them")
    rows = np.argsort(table.ids)[np.argsort(np.argsort(ids))]
    return table.targets[rows][:, [table.classes.index(name) for name in classes]]


def read_ids(path: Path) -> np.ndarray:
    """The `id` column of a CSV, in its order: str [N]."""
    return _read(path)[1]


def read_counts(path: Path, classes: list[str]) -> np.ndarray:
    """A CSV with the columns `class` and `count`, one row for each of `classes` in any order: float [C] in their
    order."""
    try:
        rows = list(csv.DictReader(io.StringIO(Path(path).read_bytes().decode("utf-8-sig"), newline="")))
        found = {row["class"]: float(row["count"]) for row in rows}
    except OSError as error:
        raise UserError(f"{shown(path)} cannot be read ({error.strerror})") from error
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise UserError(f"{shown(path)} is no CSV with the columns class and count, a number in every row") from error
    odd = sorted(set(classes) ^ set(found))
    if odd or len(rows) != len(classes):
        raise UserError(
            f"{shown(path)} must name every class of the logits once; missing, unknown or twice:"
            f" {some(odd or [row['class'] for row in rows])}"
        )
    counts = np.array([found[name] for name in classes])
    if not (np.isin(counts, 0) | ((counts >= 1e-6) & (counts <= 1e12))).all() or not counts.any():
        raise UserError(f"{shown(path)}: counts must be 0 or numbers from 1e-6 to 1e12, and not all 0")
    return counts


def _read(path: Path) -> tuple[list[str], np.ndarray, list[list[str]]]:
    """Header, ids and all rows of a CSV, checked for what every table needs."""
    try:
        header, *rows = [
            row for row in csv.reader(io.StringIO(Path(path).read_bytes().decode("utf-8-sig"), newline="")) if row
        ]
    except OSError as error:
        raise UserError(f"{shown(path)} cannot be read ({error.strerror})") from error
    except (ValueError, csv.Error) as error:  # undecodable, without a line, or with a field that never ends
        raise UserError(f"{shown(path)} is not a readable CSV file ({error})") from error
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise UserError(f"{shown(path)} has columns that stand twice: {some(twice)}")
    if "id" not in header:
        raise UserError(f"{shown(path)} has no column id; its columns are {some(header)}")
    if not rows:
        raise UserError(f"{shown(path)} has a header and no rows")
    for number, row in enumerate(rows, start=1):
        if len(row) != len(header):
            raise UserError(f"{shown(path)}, row {number}: {len(row)} cells where the header has {len(header)}")
    ids = np.array([row[header.index("id")] for row in rows])
    check_ids(ids, path)
    return header, ids, rows
