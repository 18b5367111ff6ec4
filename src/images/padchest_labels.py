"""PadChest's own label file, as it really is: image ids, multi-hot targets, patients and what subgroups are made of."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from core.data_set import Table, check_ids
from core.errors import UserError, some
from core.files import shown
from core.tables import read_table
from images.labels import check_labels

if TYPE_CHECKING:
    import pandas as pd


def _age(study: str, birth: str) -> str:
    """Whole years between `20140915` and `1938.0`, empty when one of them is not known."""
    years = study[:4], birth[:4]
    return str(int(years[0]) - int(years[1])) if all(re.fullmatch(r"[0-9]{4}", year) for year in years) else ""


# What is read of a PadChest label file beside ImageID, ImageDir, PatientID, Projection and Labels: the column of
# `known` → its cells' columns
ATTRIBUTES: dict[str, tuple[tuple[str, ...], Callable[..., str]]] = {
    "sex": (("PatientSex_DICOM",), lambda sex: sex if sex in ("F", "M") else ""),
    "age": (("StudyDate_DICOM", "PatientBirth"), _age),
    "projection": (("Projection",), str),
    "method": (("MethodLabel",), str),
}


COLUMNS = ("ImageID", "ImageDir", "PatientID", "Projection", "Labels")
WANTED = "PadChest's own label file is wanted"


def read(path: Path, images: Path, labels: Sequence[str], projections: Sequence[str], physician_only: bool) -> Table:
    """PadChest's own label file (.csv or .csv.gz): the rows of the wanted projections, a 1 for every label that a row
    names.

    A label that is not named is a 0. Rows without any list of labels (an empty cell or `nan`) are left out. Blanks
    around a label and empty strings among them are the file's own quirks. `physician_only` leaves out rows that a text
    classifier labelled.
    """
    choices = {"Projection": projections} | ({"MethodLabel": ["Physician"]} if physician_only else {})
    table = _opened(path, [name for name in choices if name not in COLUMNS])
    check_labels(labels, _names(table), path)
    found = _labelled(_chosen(table, choices, path), labels)
    folders = found.known.pop("folder")
    return replace(found, files=_places(images, found.ids, folders))


def read_whole(path: Path) -> Table:
    """All that the same file names: every label, every projection, and rows without a list of labels, which have
    none."""
    table = _opened(path)
    found = _labelled(table, sorted(_names(table)))
    del found.known["folder"]
    return found


def _opened(path: Path, further: Sequence[str] = ()) -> pd.DataFrame:
    """The file's rows, checked, with the set of labels of each in the column `named`, None for an empty cell."""
    table = read_table(path, [*COLUMNS, *further], WANTED)
    check_ids(table["ImageID"].to_numpy(dtype=str), path)
    table["PatientID"] = table["PatientID"].str.strip()
    nobody = table["PatientID"].str.lower().isin(["", "nan"])
    if nobody.any():
        row = int(nobody.argmax())
        raise UserError(
            f"{shown(path)}, row {row + 1}: {table['ImageID'][row]} has no PatientID, and the split is by patient: fill"
            " it in, or remove the row"
        )
    table["named"] = [names_in(cell, number, path) for number, cell in enumerate(table["Labels"], start=1)]
    return table


def _names(table: pd.DataFrame) -> set[str]:
    return {name for names in table["named"] if names for name in names}


def _labelled(table: pd.DataFrame, labels: Sequence[str]) -> Table:
    """Targets of these labels, and what is known of every row, its folder included."""
    targets = np.array([[label in (names or ()) for label in labels] for names in table["named"]], np.float32)
    known = {"patient": table["PatientID"].to_numpy(dtype=str), "folder": table["ImageDir"].to_numpy(dtype=str)}
    for name, (columns, meaning) in ATTRIBUTES.items():
        if set(columns) <= set(table.columns):
            cells = zip(*(table[column] for column in columns), strict=True)
            known[name] = np.array([meaning(*one) for one in cells])
    return Table(table["ImageID"].to_numpy(dtype=str), list(labels), targets, known=known)


def _chosen(table: pd.DataFrame, choices: dict[str, Sequence[str]], path: Path) -> pd.DataFrame:
    """The rows with one of the wanted values in every column of `choices`, and with a list of labels."""
    for column, wanted in choices.items():
        there = table[column].value_counts()
        table = table[table[column].isin(wanted)]
        if table.empty:
            said = some(f"{name} ({times})" for name, times in there.items())
            raise UserError(f"{shown(path)} has no row with {column} {' or '.join(wanted)}; there are {said}")
    silent = table["named"].isna()
    if silent.all():
        raise UserError(f"{shown(path)}: every row of {' or '.join(choices['Projection'])} has an empty Labels cell")
    if silent.any():
        names = some(table["ImageID"][silent], 3)
        print(f"note: left out {silent.sum()} images whose Labels cell is empty: {names}")
    return table[~silent]


@cache
def _parsed(cell: str) -> frozenset[str] | None:
    if re.search(r"""['"]\s+['"]""", cell):  # names without a comma between them, which Python would join
        return None
    names = ast.literal_eval(cell)
    return (
        frozenset(name.strip() for name in names if name.strip())
        if isinstance(names, list) and all(isinstance(name, str) for name in names)
        else None
    )


def names_in(cell: str, number: int, path: Path) -> frozenset[str] | None:
    """The labels of a cell such as `['scoliosis', ' pleural effusion', '']`; None for an empty one."""
    if cell.strip() in ("", "nan"):
        return None
    try:
        names = _parsed(cell)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        names = None
    if names is None:
        raise UserError(
            f"{shown(path)}, row {number}: Labels {cell[:80]!r} is no list of names such as ['cardiomegaly',"
            " 'scoliosis']: mend the cell"
        )
    return names


def _places(images: Path, ids: np.ndarray, folders: np.ndarray) -> np.ndarray:
    """Where every image lies: in its numbered folder when there is any of them, otherwise beside the others."""
    # 12.0 where a table program has been
    names = {folder: folder.strip().removesuffix(".0") for folder in np.unique(folders).tolist()}
    strange = [folder for folder, name in names.items() if name and not re.fullmatch(r"[\w-]+", name)]
    if strange:
        raise UserError(f"ImageDir {some(map(repr, strange))} is no name of a numbered folder: mend the column")
    if not any((images / name).is_dir() for name in names.values() if name):
        return ids
    return np.array(
        [
            f"{names[folder]}/{name}" if names[folder] else name
            for folder, name in zip(folders.tolist(), ids.tolist(), strict=True)
        ]
    )
