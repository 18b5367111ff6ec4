"""The submission: written, read back and checked before it takes its name."""

import csv
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from core.errors import UserError, some
from core.files import atomic
from core.tables import read_table


def one_answer(cells: Sequence[str]) -> str:
    """What is wrong with a row of a single-label submission, or nothing."""
    return "" if sorted(cells) == ["0"] * (len(cells) - 1) + ["1"] else "not exactly one 1 among 0s"


def all_probabilities(cells: Sequence[str]) -> str:
    """What is wrong with a row of a multi-label submission, or nothing."""
    return (
        ""
        if all(re.fullmatch(r"[01]\.\d{6}", cell) and float(cell) <= 1 for cell in cells)
        else "not all probabilities from 0 to 1"
    )


def write(
    path: Path,
    ids: Sequence[str],
    classes: Sequence[str],
    answers: np.ndarray,
    test_ids: Sequence[str],
    fault: Callable[[Sequence[str]], str] = one_answer,
) -> None:
    """Write a row of answers [N, C] for every id, in the order of `test_ids`, after reading the file back and checking
    it.

    Integers are written as they are, other numbers with six decimals. `fault` says what is wrong with the cells of a
    row.
    """
    answers = np.asarray(answers)
    cells = answers.astype(str) if answers.dtype.kind in "iu" else np.char.mod("%.6f", answers)
    with atomic(path) as part:
        with open(part, "w", newline="", encoding="utf-8") as file:
            rows = ([name, *row] for name, row in zip(ids, cells.tolist(), strict=True))
            csv.writer(file, lineterminator="\n").writerows([["id", *classes], *rows])
        validate(part, test_ids, classes, path.name, fault)


def validate(
    path: Path,
    test_ids: Sequence[str],
    classes: Sequence[str],
    name: str | None = None,
    fault: Callable[[Sequence[str]], str] = one_answer,
) -> None:
    """Check header, ids in order, and the cells of every row. Raises UserError with the first fault.

    `name` is what the fault calls the file.
    """
    name = name or path.name
    table = read_table(path)
    if list(table.columns) != ["id", *classes]:
        raise UserError(f"the header of {name} is not id and the classes in their order: {some(table.columns)}")
    if len(table) != len(test_ids):
        raise UserError(f"{name} has {len(table)} rows where there are {len(test_ids)} test images")
    rows = table.to_numpy(dtype=str).tolist()
    for number, ((found, *cells), wanted) in enumerate(zip(rows, test_ids, strict=True), start=2):
        if found != wanted:
            raise UserError(f"{name}, line {number}: id {found} where {wanted} is wanted")
        if wrong := fault(cells):
            raise UserError(f"{name}, line {number}: {wrong}")
