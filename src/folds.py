"""How a labelled table is parted into training, validation and test, and the file that keeps it."""

import csv
import io
from pathlib import Path

import numpy as np

from errors import UserError, some
from files import digest, shown


def stratified(strata: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Choose validation rows class by class: bool [N], True = validation.

    strata int [N]. Every class gives round(fraction · n) of its rows, and always keeps one for training; a class of one
    row therefore only trains, where scikit-learn's splitters refuse to split at all.
    """
    rng = np.random.default_rng(seed)
    chosen = np.zeros(len(strata), bool)
    for value in np.unique(strata):
        rows = rng.permutation(np.flatnonzero(strata == value))
        chosen[rows[: min(int(fraction * len(rows) + 0.5), len(rows) - 1)]] = True
    return chosen


def by_patient(targets: np.ndarray, patients: np.ndarray, fractions: tuple[float, float], seed: int) -> np.ndarray:
    """Part whole patients: str [N] of `training`, `validation` and `test`, the last two with these fractions of the patients.

    targets [N, C], patients str [N]. A patient counts for every label that any of its images has, and labels are spread
    over the parts by iterative stratification (Sechidis et al. 2011), the rarest first.
    """
    try:
        from iterstrat.ml_stratifiers import IterativeStratification  # loads scikit-learn
    except ImportError as error:  # a Kaggle session brings its own packages
        raise UserError("the split by patient needs the package iterative-stratification: pip install it, or give the folds.csv of another run with split=FILE") from error

    names, number = np.unique(patients, return_inverse=True)
    labels = np.zeros((len(names), targets.shape[1]), bool)
    np.logical_or.at(labels, number, targets == 1)
    rng = np.random.RandomState(seed)
    order, parts = rng.permutation(len(names)), np.empty(len(names), int)  # it draws lots for ties only
    parts[order] = IterativeStratification(labels[order], np.array([1 - sum(fractions), *fractions]), rng)
    return np.array(["training", "validation", "test"])[parts[number]]


def parts(strata: np.ndarray, number: int, seed: int) -> np.ndarray:
    """A part 0 … number − 1 for every row, int [N]: each stratum spread as evenly as it goes, at random."""
    order = np.random.default_rng(seed).permutation(len(strata))
    order = order[np.argsort(strata[order], kind="stable")]  # strata one after the other, shuffled within
    chosen = np.empty(len(strata), int)
    chosen[order] = np.arange(len(strata)) % number
    return chosen


def read(path: Path) -> dict[str, dict[str, str]]:
    """A CSV of `id` and `part`, as folds.csv: its rows by id. Raises UserError for a missing, damaged or contradictory one."""
    try:
        reader = csv.DictReader(io.StringIO(path.read_bytes().decode("utf-8-sig"), newline=""))
        rows = list(reader)
    except OSError as error:
        raise UserError(f"split = {shown(path)} cannot be read ({error.strerror})") from error
    except (ValueError, csv.Error) as error:
        raise UserError(f"{shown(path)} is not a readable CSV file ({error})") from error
    missing = [name for name in ("id", "part") if name not in (reader.fieldnames or [])]
    if missing:
        raise UserError(f"{shown(path)} lacks the column {some(missing)}: wanted are the id and part of every labelled image, as in the folds.csv of a run")
    ids, times = np.unique([row["id"] for row in rows], return_counts=True)
    if (times > 1).any():
        raise UserError(f"{shown(path)}: {(times > 1).sum()} ids stand there more than once: {some(ids[times > 1])}")
    return {row["id"]: row for row in rows}


def of_run(folder: Path, about: dict) -> dict[str, dict[str, str]]:
    """The rows of a run's folds.csv by id: the part, and for some tasks the patient and what subgroups are made of. Raises
    UserError when it is not the very file that the run was trained with."""
    path = folder / "folds.csv"
    if not path.is_file():
        raise UserError(f"{shown(path)} is gone: run the command that began the run once more, which writes it again")
    if digest(path.read_bytes()) != about.get("split"):
        raise UserError(f"{shown(path)} is not the split that this run was trained with: put it back, or delete {shown(folder)} and train again")
    return read(path)
