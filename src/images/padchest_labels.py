"""PadChest's own label file, as it really is: image ids, multi-hot targets, patients and what subgroups are made of."""

import ast
import csv
import difflib
import gzip
import re
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import numpy as np

from core.data_set import Table, check_ids
from core.errors import UserError, some
from core.files import shown


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


def read(path: Path, images: Path, labels: Sequence[str], projections: Sequence[str], physician_only: bool) -> Table:
    """PadChest's own label file (.csv or .csv.gz): the rows of the wanted projections, a 1 for every wanted label that
    a row names.

    A label that is not named is a 0. Rows without any list of labels (an empty cell or `nan`) are left out. Blanks
    around a label and empty strings among them are the file's own quirks. `physician_only` leaves out rows that a text
    classifier labelled.
    """
    needed = ("ImageID", "ImageDir", "PatientID", "Projection", "Labels", *(("MethodLabel",) if physician_only else ()))
    attributes = [column for columns, _ in ATTRIBUTES.values() for column in columns]
    found = read_columns(path, needed, attributes)
    ids = np.array(found["ImageID"])
    check_ids(ids, path)
    patients = [patient.strip() for patient in found["PatientID"]]
    for number, patient in enumerate(patients, start=1):
        if patient.lower() in ("", "nan"):
            raise UserError(
                f"{shown(path)}, row {number}: {ids[number - 1]} has no PatientID, and the split is by patient: fill it"
                " in, or remove the row"
            )
    kept = np.ones(len(ids), bool)
    for column, wanted in (("Projection", projections), *((("MethodLabel", ["Physician"]),) if physician_only else ())):
        there = Counter(np.array(found[column])[kept].tolist())
        kept &= np.isin(found[column], wanted)
        if not kept.any():
            raise UserError(
                f"{shown(path)} has no row with {column} {' or '.join(wanted)}; there are"
                f" {some(f'{name} ({times})' for name, times in there.most_common())}"
            )

    named = [names_in(cell, number, path) for number, cell in enumerate(found["Labels"], start=1)]
    known = {name for names in named if names for name in names}
    unknown = [label for label in labels if label not in known]
    if unknown:
        lower = {name.lower(): name for name in known}
        near = {
            label: [lower[name] for name in difflib.get_close_matches(label.lower(), lower, 3)] for label in unknown
        }
        said = "; ".join(
            f"{label!r}" + (f" (nearest: {', '.join(names)})" if names else "") for label, names in near.items()
        )
        raise UserError(f"labels: {shown(path)} has no label {said}; it has {some(sorted(known), 12)}")
    silent = kept & np.array([names is None for names in named])
    if silent.any():
        print(f"note: left out {silent.sum()} images whose Labels cell is empty: {some(ids[silent], 3)}")
        kept &= ~silent
    rows = np.flatnonzero(kept)
    if not len(rows):
        raise UserError(f"{shown(path)}: every row of {' or '.join(projections)} has an empty Labels cell")
    targets = np.array([[label in named[row] for label in labels] for row in rows], np.float32)
    columns = {"patient": np.array(patients)[rows]}
    for name, (cells, meaning) in ATTRIBUTES.items():
        if all(cell in found for cell in cells):
            columns[name] = np.array([meaning(*(found[cell][row] for cell in cells)) for row in rows])
    return Table(
        ids[rows], list(labels), targets, _places(images, ids[rows], np.array(found["ImageDir"])[rows]), columns
    )


def read_columns(path: Path, needed: Sequence[str], wanted: Sequence[str]) -> dict[str, list[str]]:
    """Some columns of a CSV, row by row, for the whole of PadChest's is 700 MB in memory; `wanted` may be absent."""
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rt", encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file)
            header = next(reader)
            twice = [name for name in (*needed, *wanted) if header.count(name) > 1]
            if twice:
                raise UserError(f"{shown(path)} has columns that stand twice: {some(twice)}")
            missing = [name for name in needed if name not in header]
            if missing:
                raise UserError(f"{shown(path)} lacks the columns {some(missing)}: PadChest's own label file is wanted")
            at = {name: header.index(name) for name in (*needed, *wanted) if name in header}
            found = {name: [] for name in at}
            for number, row in enumerate(reader, start=1):
                if not row:
                    continue
                if len(row) != len(header):
                    raise UserError(f"{shown(path)}, row {number}: {len(row)} cells where the header has {len(header)}")
                for name, place in at.items():
                    found[name].append(row[place])
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{shown(path)} cannot be read ({getattr(error, 'strerror', None) or error})") from error
    except (ValueError, csv.Error, StopIteration) as error:
        raise UserError(f"{shown(path)} is not a readable CSV file ({str(error) or 'it is empty'})") from error
    if not found["Labels"]:
        raise UserError(f"{shown(path)} has a header and no rows")
    return found


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
    names = {
        folder: folder.strip().removesuffix(".0") for folder in np.unique(folders).tolist()
    }  # 12.0 where a table program has been
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
