"""How a labelled table is parted into training, validation and test: chosen once, kept in the run's folds.csv, checked
whenever it is used."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from core.data_set import Table, Tables
from core.errors import UserError, some
from core.files import digest, shown, write_bytes
from core.runs import Run
from core.tables import read_table
from core.task import Task


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
    """Part whole patients: str [N] of `training`, `validation` and `test`, the last two with these fractions of the
    patients.

    targets [N, C], patients str [N]. A patient counts for every label that any of its images has, and labels are spread
    over the parts by iterative stratification (Sechidis et al. 2011), the rarest first.
    """
    return np.array(["training", "validation", "test"])[
        _patients_parted(targets, patients, (1 - sum(fractions), *fractions), seed)
    ]


def _patients_parted(targets: np.ndarray, patients: np.ndarray, fractions: Sequence[float], seed: int) -> np.ndarray:
    """The part of every row, int [N], of parts with these fractions of the patients."""
    try:
        from iterstrat.ml_stratifiers import IterativeStratification  # loads scikit-learn
    except ImportError as error:  # a Kaggle session brings its own packages
        raise UserError(
            "the split by patient needs the package iterative-stratification: pip install it, or give the folds.csv of"
            " another run with split=FILE"
        ) from error

    names, number = np.unique(patients, return_inverse=True)
    labels = np.zeros((len(names), targets.shape[1]), bool)
    np.logical_or.at(labels, number, targets == 1)
    rng = np.random.RandomState(seed)
    order, parts = rng.permutation(len(names)), np.empty(len(names), int)  # it draws lots for ties only
    parts[order] = IterativeStratification(labels[order], np.array(fractions), rng)
    return parts[number]


def parts(strata: np.ndarray, number: int, seed: int, patients: np.ndarray | None = None) -> np.ndarray:
    """A part 0 … number − 1 for every row, int [N]: each stratum spread as evenly as it goes, at random; or, where the
    patients str [N] are given, whole patients, whatever their strata."""
    if patients is not None:
        names, member = np.unique(patients, return_inverse=True)
        return parts(np.zeros(len(names), int), number, seed)[member]
    order = np.random.default_rng(seed).permutation(len(strata))
    order = order[np.argsort(strata[order], kind="stable")]  # strata one after the other, shuffled within
    chosen = np.empty(len(strata), int)
    chosen[order] = np.arange(len(strata)) % number
    return chosen


def numbered(table: Table, task: Task, run: Path) -> Table:
    """The table with the fold of every row, `1` … and nothing in the test part, where the configuration asks for folds:
    those of the file that `split` names, where it has them, otherwise chosen now.

    Whole patients where they are known, spread as in `by_patient`; otherwise class by class. The same table, seed and
    number of folds give the same folds, so they can be trained on different machines. Where that file is gone, those of
    the run's folder.
    """
    config = task.config
    if not config.folds:
        return table
    given = None if config.split == "auto" else Path(config.split)
    if given and not given.is_file():
        own = [run / "folds.csv", run.parent / "folds.csv", *sorted(run.glob("fold*/folds.csv"))]
        given = next((path for path in own if path.is_file()), given)
    rows = read(given) if given else {}
    kept = (_parts_of(rows, table, task.parts, given) if given else task.split(table)) != "test"
    number = np.full(len(table.ids), "", dtype="U2")
    if given and all(row.get("fold") is not None for row in rows.values()):
        number[kept] = [rows[one]["fold"] for one in table.ids[kept].tolist()]
        wanted = [str(k) for k in range(1, config.folds + 1)]
        if set(number[kept]) != set(wanted):
            held = some(sorted(set(number[kept].tolist())))
            raise UserError(
                f"{shown(given)}: its column fold holds {held}, and folds = {config.folds} asks for {some(wanted)}"
            )
    else:
        learn, seed, patients = table.take(kept), config.chosen_split_seed, table.known.get("patient")
        if patients is None:
            found = parts(learn.targets.argmax(axis=1), config.folds, seed)
        else:
            found = _patients_parted(learn.targets, patients[kept], [1 / config.folds] * config.folds, seed)
        number[kept] = (found + 1).astype(str)
    return replace(table, known={**table.known, "fold": number})


def require_a_test(tables: Tables, task: Task) -> None:
    """Raises UserError where a cross-validation would leave no image to predict: none of a test part, and none without
    labels."""
    if not task.config.folds or len(tables.unlabelled):
        return
    given = Path(task.config.split)
    if not (_asked(tables.labelled, task, given if given.is_file() else None) == "test").any():
        raise UserError(
            "nothing is left to predict: the folds take every labelled image, and there is none without labels: leave"
            " some patients to test on with test_fraction"
        )


def folder(run: Path, fold: int) -> Path:
    """Where the network of a fold lies, a run of its own within that of the cross-validation."""
    return run / f"fold{fold}"


def chosen(run: Run, table: Table, task: Task) -> np.ndarray:
    """The part of every labelled row, str [N]: that of the run's folds.csv, of its fold, of the file that `split`
    names, or chosen now. In a whole cross-validation every row but those of the test part validates.

    Raises UserError for a split that is not the one the run was trained with, that parts a patient, or that leaves a
    part nothing to be judged by.
    """
    noted = run.about.get("split") if run.begun else None
    own = run / "folds.csv"
    if noted and is_kept(run.folder, run.about):
        rows = of_run(run.folder, run.about)
        found = _parts_of(rows, table, task.parts, own)
        if task.config.folds and table.known["fold"].tolist() != [rows[one].get("fold") for one in table.ids.tolist()]:
            raise UserError(
                f"the folds cannot be made again as they stand in {shown(run / 'folds.csv')}: name a copy of it with"
                " split=, under another name="
            )
        return found
    given = None if task.config.split == "auto" else Path(task.config.split)
    if task.config.folds:
        fold = table.known["fold"]
        mine = fold != "" if task.config.crossed else fold == str(task.config.fold)
        found = np.where(fold == "", "test", np.where(mine, "validation", "training"))
    else:
        found = _asked(table, task, given)
    _check(found, table, task, given)
    if noted and noted != digest(content(table, found)):
        lost = "is not the split that this run was trained with" if own.is_file() else "is gone"
        raise UserError(
            f"{shown(own)} {lost}, and it cannot be made again as it was: put it back, or give this run another name="
        )
    return found


def _check(found: np.ndarray, table: Table, task: Task, given: Path | None) -> None:
    """Whole patients, and in every part something that can be learned or measured."""
    patients = table.known.get("patient")
    if patients is not None:
        names, times = np.unique(np.unique(np.stack([patients, found]), axis=1)[0], return_counts=True)
        if (times > 1).any():
            raise UserError(
                f"{shown(given) if given else 'the split'} has {(times > 1).sum()} patients in more than one part: "
                f"{some(names[times > 1])}; all images of a patient belong into one"
            )
    may_lack = set(task.parts) if task.config.crossed else {"test"} if task.config.folds else set()
    for part in (one for one in task.parts if (found == one).any() or one not in may_lack):
        targets = table.targets[found == part]
        if not len(targets) and given:
            raise UserError(f"{shown(given)} has no image for {part}: it must part the images into {some(task.parts)}")
        if not len(targets):
            units = f"{len(table.ids)} images"
            units += f" of {len(np.unique(patients))} patients" if patients is not None else ""
            raise UserError(
                f"{units} with val_fraction = {task.config.val_fraction} leave none for {part}: use more images"
            )
        if not ((targets == 1).any(axis=0) & (targets == 0).any(axis=0)).any():
            raise UserError(
                f"the {part} part ({len(targets)} images) has no label with both positives and negatives, so nothing"
                " can be learned or measured there: use more images, or other labels"
            )


def read(path: Path) -> dict[str, dict[str, str]]:
    """A CSV of `id` and `part`, as folds.csv: its rows by id. Raises UserError for a damaged or contradictory one."""
    what = "wanted are the id and part of every labelled image, as in the folds.csv of a run"
    rows = read_table(path, ["id", "part"], what).to_dict("records")
    ids, times = np.unique([row["id"] for row in rows], return_counts=True)
    if (times > 1).any():
        raise UserError(f"{shown(path)}: {(times > 1).sum()} ids stand there more than once: {some(ids[times > 1])}")
    return {row["id"]: row for row in rows}


def of_run(folder: Path, about: dict) -> dict[str, dict[str, str]]:
    """The rows of a run's folds.csv by id: the part, and for some tasks the patient and what subgroups are made of.
    Raises UserError when it is not the very file that the run was trained with."""
    path = folder / "folds.csv"
    if not path.is_file():
        raise UserError(f"{shown(path)} is gone: run the command that began the run once more, which writes it again")
    if not is_kept(folder, about):
        raise UserError(
            f"{shown(path)} is not the split that this run was trained with: put it back, or run the command that began"
            " the run once more, which makes it again where that is possible"
        )
    return read(path)


def is_kept(folder: Path, about: dict) -> bool:
    """Whether the run's folds.csv is there, and the very file that the run was trained with."""
    path = folder / "folds.csv"
    return path.is_file() and digest(path.read_bytes()) == about.get("split")


def among(table: Table, rows: Sequence[Mapping[str, str]]) -> np.ndarray:
    """Which images of a table are among these rows of some run's folds.csv, or, where both name patients, of one of
    their patients: bool [N]."""
    found = np.isin(table.ids, [row["id"] for row in rows])
    if "patient" in table.known:
        found |= np.isin(table.known["patient"], [row["patient"] for row in rows if row.get("patient")])
    return found


def content(table: Table, parts: np.ndarray) -> bytes:
    """What folds.csv holds: the id and part of every labelled image, and what else is known of it."""
    columns = {"id": table.ids, "part": parts, **table.known}
    return written([dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)])


def written(rows: Sequence[dict[str, str]]) -> bytes:
    """Rows as folds.csv holds them."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([list(rows[0]), *(row.values() for row in rows)])
    return text.getvalue().encode()


def keep(run: Run, table: Table, parts: np.ndarray) -> None:
    """Write the run's folds.csv."""
    write_bytes(run / "folds.csv", content(table, parts))


def _asked(table: Table, task: Task, given: Path | None) -> np.ndarray:
    """The parts that the file `given` names, or those that the task chooses."""
    return _parts_of(read(given), table, task.parts, given) if given else task.split(table)


def _parts_of(rows: dict[str, dict[str, str]], table: Table, allowed: Sequence[str], path: Path) -> np.ndarray:
    lacking = [name for name in table.ids.tolist() if name not in rows]
    if lacking:
        raise UserError(
            f"{shown(path)} lacks {len(lacking)} of the {len(table.ids)} labelled images: {some(lacking)}; it must give"
            " a part for the id of every image"
        )
    found = np.array([rows[name]["part"] for name in table.ids.tolist()])
    odd = sorted({str(part) for part in found.tolist()} - set(allowed))
    if odd:
        raise UserError(f"{shown(path)}: part {odd[0]!r} is none of {some(allowed)}")
    return found


def to_predict(run: Run, labelled: Table, unlabelled: np.ndarray, task: Task) -> Table:
    """What a run predicts: the labelled rows of its test part, then the images without labels, whose targets are
    NaN."""
    test = labelled.take(_parts_of(of_run(run.folder, run.about), labelled, task.parts, run / "folds.csv") == "test")
    unknown = np.full((len(unlabelled), len(labelled.classes)), np.nan, np.float32)
    return Table(
        np.array([*test.ids.tolist(), *unlabelled.tolist()]), labelled.classes, np.concatenate([test.targets, unknown])
    )
