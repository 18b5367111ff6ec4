"""Tables from CSV files, as pandas data frames of text: one reader for labels, splits, counts and published figures."""

from __future__ import annotations

import csv
import gzip
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from core.errors import UserError, some
from core.files import refuse_special, shown

if TYPE_CHECKING:
    import pandas as pd


def read_table(path: Path, needed: Sequence[str] = (), what: str = "") -> pd.DataFrame:
    """A CSV file (.csv or .csv.gz) with every cell as the text that stands there, '' where nothing does.

    Raises UserError for a file that is missing, unreadable or without rows, for columns that stand twice, for those of
    `needed` that are not there (`what` says what file is wanted), and for rows with more or fewer cells than the
    header, which pandas alone would fill, cut or shift.
    """
    refuse_special(path)
    try:
        header = _header(path)
        missing = [name for name in needed if name not in header]
        if missing:
            columns = f"the column{'s' * (len(missing) > 1)} {some(missing)}"
            raise UserError(f"{shown(path)} lacks {columns}: {what or f'its columns are {some(header)}'}")
        import pandas as pd  # here, for it takes half a second

        how = {"encoding": "utf-8-sig", "compression": "gzip" if path.suffix == ".gz" else None}  # not by pandas' guess
        table = pd.read_csv(path, dtype=str, keep_default_na=False, index_col=False, **how)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{shown(path)} cannot be read ({getattr(error, 'strerror', None) or error})") from error
    except (ValueError, csv.Error) as error:  # not decodable, or a field that never ends
        said = " ".join(str(error).split())
        raise UserError(f"{shown(path)} is not a readable CSV file ({said})") from error
    table.columns = header  # pandas names an empty one
    return table


def refuse_empty(table: pd.DataFrame, columns: Sequence[str], path: Path) -> None:
    """Raises UserError for the first row of that table which has nothing in one of the columns."""
    for column in columns:
        empty = table[column].str.strip() == ""
        if empty.any():
            number = int(empty.argmax()) + 1
            raise UserError(f"{shown(path)}, row {number}: {column} is empty: fill it in, or remove the row")


def _header(path: Path) -> list[str]:
    """The names of the columns, after a look at every row for what pandas hides."""
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8-sig", newline="") as file:
        rows = (row for row in csv.reader(file) if row)
        header = next(rows, [])
        if not header:
            raise UserError(f"{shown(path)} is not a readable CSV file (it is empty)")
        twice = sorted({name for name in header if header.count(name) > 1})
        if twice:
            raise UserError(f"{shown(path)} has columns that stand twice: {some(twice)}")
        if any("\0" in name for name in header):
            raise UserError(f"{shown(path)} has a NUL byte in its header: remove it")
        number = 0
        for number, row in enumerate(rows, start=1):
            if any("\0" in cell for cell in row) or "".join(row).isspace():
                raise UserError(f"{shown(path)}, row {number}: a NUL byte, or nothing but blanks: remove it")
            if len(row) != len(header):
                raise UserError(f"{shown(path)}, row {number}: {len(row)} cells where the header has {len(header)}")
    if not number:
        raise UserError(f"{shown(path)} has a header and no rows")
    return header
