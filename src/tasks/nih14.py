"""NIH ChestX-ray14 with its own label file: fourteen findings, any number an image, parted by patient."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from pydantic import Field

from core import folds
from core.config import Config
from core.data_set import Layout, Source, Table, Tables, check_ids
from core.errors import UserError
from core.files import shown
from core.tables import read_table, refuse_empty
from images.labels import check_labels
from tasks.by_patient import ByPatient, ByPatientConfig
from tasks.competition import Competition
from tasks.multi_label import MultiLabel, MultiLabelConfig

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("Image Index", "Finding Labels", "Patient ID", "View Position")
FURTHER = {"sex": "Patient Gender", "age": "Patient Age", "projection": "View Position"}  # subgroup → column
WANTED = "NIH's own label file is wanted, Data_Entry_2017_v2020.csv"


def _opened(path: Path) -> pd.DataFrame:
    """The rows of the label file, checked, without blanks around their cells."""
    rows = read_table(path, COLUMNS, WANTED)
    check_ids(rows["Image Index"].to_numpy(dtype=str), path)
    rows = rows.apply(lambda cells: cells.str.strip())
    refuse_empty(rows, COLUMNS, path)
    return rows


def _labels(rows: pd.DataFrame) -> pd.DataFrame:
    """A column of 0 and 1 for every label that is named; No Finding is one of its own."""
    return rows["Finding Labels"].str.replace(r"\s*\|\s*", "|", regex=True).str.get_dummies("|")


def _known(rows: pd.DataFrame, told: Sequence[str] = ()) -> dict[str, np.ndarray]:
    """What is known of the images; of the follow-up only where it is told, for the folds.csv of older runs lacks it."""
    columns = {"patient": "Patient ID", **FURTHER} | ({"follow_up": "Follow-up #"} if "follow_up" in told else {})
    columns = {name: of for name, of in columns.items() if of in rows}
    return {name: rows[of].to_numpy(dtype=str) for name, of in columns.items()}


def _joined(tables: list[pd.DataFrame], config: Config) -> dict[str, np.ndarray]:
    """What is known of the images of several tables, nothing where a table does not say it."""
    columns = [_known(rows, config.metadata) for rows in tables]
    names = {name for known in columns for name in known}
    blank = [np.full(len(rows), "") for rows in tables]
    return {name: np.concatenate([own.get(name, no) for own, no in zip(columns, blank, strict=True)]) for name in names}


class Nih14Config(MultiLabelConfig, ByPatientConfig):
    task: Literal["nih14"]
    projections: Annotated[list[str], Field(min_length=1)]  # PA, AP


class Nih14(MultiLabel, ByPatient):
    Settings = Nih14Config
    # the labelled table; one that ends in `unlabelled` names images to predict, test_list.txt the official test part
    layout = Layout("nih14", ("Data_Entry_*[!d].csv*",), ("images",), from_kaggle=False)
    views = ("original", "flip", "zoom", "flip_zoom")
    metadata = ("age", "sex", "view", "follow_up")
    pretrained_on_test = Competition.pretrained_on_test  # the same images

    def read(self, source: Source) -> Tables:
        path, config = source.tables[0], self.config
        rows = _opened(path)
        every = rows["Image Index"].tolist()
        rows = rows[rows["View Position"].isin(config.projections)]
        if rows.empty:
            raise UserError(f"{shown(path)} has no row with View Position {' or '.join(config.projections)}")
        found = _labels(rows)
        check_labels(config.labels, found.columns, path)
        known, ids = _known(rows, config.metadata), rows["Image Index"].to_numpy(dtype=str)
        if (official := source.folder / "test_list.txt").is_file():
            tested = official.read_text(encoding="utf-8-sig", errors="replace").split()
            known["official"] = np.where(np.isin(ids, tested), "test", "")
        more = [one for one in sorted(source.folder.glob("Data_Entry_*unlabelled.csv*")) if one.is_file()]
        further = [read_table(file, COLUMNS[:1], WANTED) for file in more]
        unlabelled = np.array([one for rows in further for one in rows["Image Index"]], dtype=str)
        check_ids(np.array([*every, *unlabelled.tolist()], dtype=str), source.folder)  # each image stands in one table
        targets = found[config.labels].to_numpy(np.float32)
        return Tables(Table(ids, list(config.labels), targets, known=known), unlabelled, _joined(further, config))

    def whole(self, source: Source) -> Table:
        rows = _opened(source.tables[0])
        found = _labels(rows)
        ids = rows["Image Index"].to_numpy(dtype=str)
        return Table(ids, found.columns.tolist(), found.to_numpy(np.float32), known=_known(rows))

    def split(self, table: Table) -> np.ndarray:
        if "official" not in table.known:
            return super().split(table)
        rest = table.known["official"] != "test"
        parts, learn = np.where(rest, "", "test").astype("<U10"), table.take(rest)
        seed, fractions = self.config.chosen_split_seed, (self.config.val_fraction, 0)
        parts[rest] = folds.by_patient(learn.targets, learn.known["patient"], fractions, seed)
        return parts
