"""The folds of a cross-validation, each a run of its own in runs/NAME/fold1 …, put together in runs/NAME."""

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from core import folds
from core.config import differences
from core.errors import UserError, some
from core.files import digest, shown, write_bytes
from core.logits_file import pooled, same_images, write_logits
from core.runs import Run
from core.task import Task
from tasks.opened import Opened, open_run

SAME = (  # of all folds, in their run.json, and what it means when it is not
    ("classes", "other classes"),
    ("digest", "other images or labels"),
    ("synthetic", "other data"),
)
OF_THE_FIRST = ("synthetic", "data", "digest", "classes", "seed", "parameters", "normalisation", "versions", "commit")


def join(task: Task, run: Run) -> list[Opened]:
    """Write the run of all folds that are there: its run.json, folds.csv and val_logits.npz, whose rows are each
    predicted by the network that did not see it. Returns the folds' runs.

    Folds that are not trained to their end are left out, unless there is no other. Raises UserError for folds that do
    not belong together, and where there is none.
    """
    config = task.config.model_copy(update={"fold": "all"})
    run.lock(wait=True)  # another fold may be joined right now
    there = [found for fold in range(1, config.folds + 1) if (found := _ready(folds.folder(run.folder, fold)))]
    whole = [one for one in there if one.about["state"] == "trained"] or there
    if not whole:
        raise UserError(f"{shown(run.folder)} has no fold with test logits yet: run the main job on it")
    check(config.model_dump(), whole)
    vals = [val for one in whole for val in one.vals]
    same_images([test for one in whole for test in one.predicted])
    val, rows = pooled(vals, task.exclusive), _joined_rows(whole[0])
    content = folds.written(rows)
    complete = len(whole) == config.folds and all(one.about["state"] == "trained" for one in whole)
    first = {key: whole[0].about[key] for key in OF_THE_FIRST if key in whole[0].about}
    baselines = dict.fromkeys(one.about["baseline"] for one in whole if one.about.get("baseline"))
    if baselines:
        first["baseline"] = "; ".join(baselines)
    write_bytes(run / "folds.csv", content)
    write_logits(run / "val_logits.npz", val)
    run.seal("val_logits.npz")
    run.save(
        **first, config=config.model_dump(), split=digest(content), counts=val.counts.tolist(),
        rows=val.rows, prior=val.prior.tolist(), state="trained" if complete else "paused", best_epoch=None,
        joined=[one.config.fold for one in whole], timings=_summed(whole),
    )  # fmt: skip
    return whole


def _ready(folder: Path) -> Opened | None:
    """A fold's run when it has all that is joined, else None."""
    if not all((folder / name).is_file() for name in ("run.json", "val_logits.npz", "test_logits.npz")):
        return None
    found = open_run(folder)
    epoch = found.about.get("best_epoch")
    return found if found.about.get("predicted", [epoch])[0] == epoch else None


def check(asked: dict, found: Sequence[Opened]) -> None:
    """Raises UserError unless these are folds of one cross-validation by the settings `asked` for."""
    first = found[0]
    for one in found:
        changed = differences(one.config.filled(one.about["config"]), asked)
        if changed:
            raise UserError(f"{shown(one.folder)} was made with other settings: {some(changed)}")
        for key, what in SAME:
            if one.about.get(key) != first.about.get(key):
                raise UserError(
                    f"{shown(one.folder)} is of {what} than {shown(first.folder)}: folds of one set are wanted"
                )
        if _joined_rows(one) != _joined_rows(first):
            raise UserError(
                f"{shown(one.folder)} is of another split than {shown(first.folder)}: give both the same folds, split"
                " and split_seed"
            )
    twice = [str(one.config.fold) for one in found]
    if len(set(twice)) < len(twice):
        raise UserError(f"a fold is given more than once: {some(sorted({k for k in twice if twice.count(k) > 1}))}")


def _joined_rows(fold: Opened) -> list[dict[str, str]]:
    """The rows of the whole run's folds.csv: every row outside the test part validates once."""
    return [{**row, "part": "validation" if row["fold"] else "test"} for row in fold.rows.values()]


def _summed(found: Sequence[Opened]) -> dict[str, float]:
    """Seconds of every stage, over all folds."""
    each = [one.about.get("timings", {}) for one in found]
    stages = dict.fromkeys(stage for own in each for stage in own)
    return {stage: round(sum(own.get(stage, 0.0) for own in each), 1) for stage in stages}


def collect(places: Sequence[Path], task: Task, run: Run) -> None:
    """Copy folds that were trained elsewhere into the run's folder. `places` are folders of folds, or of runs that have
    some. Raises UserError, before anything is copied, for folds that do not belong to this run."""
    found = [open_run(folder) for place in places for folder in folds_in(place)]
    here = [one for fold in range(1, task.config.folds + 1) if (one := _ready(folds.folder(run.folder, fold)))]
    own = {one.folder.resolve() for one in here}
    new = [one for one in found if one.folder.resolve() not in own and not _same(one, here)]
    for one in new:
        if not _ready(one.folder):
            raise UserError(
                f"{shown(one.folder)} has no val_logits.npz and test_logits.npz of one epoch: run the main job there"
            )
    check(task.config.model_dump(), [*here, *new])
    same_images([test for one in [*here, *new] for test in one.predicted])
    for one in new:
        target = folds.folder(run.folder, one.config.fold)
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".fold") as beside:
            shutil.copytree(one.folder, Path(beside) / "fold")
            if target.exists():  # begun here, and not as far as there
                target.rename(Path(beside) / "before")
            (Path(beside) / "fold").rename(target)
        print(f"collected fold {one.config.fold} from {shown(one.folder)}")


def _same(fold: Opened, here: Sequence[Opened]) -> bool:
    """Whether that very fold is here already."""
    path = fold.folder / "val_logits.npz"
    twins = [one.folder / "val_logits.npz" for one in here if one.config.fold == fold.config.fold]
    return path.is_file() and any(path.read_bytes() == twin.read_bytes() for twin in twins)


def folds_in(place: Path) -> list[Path]:
    """The folders of folds at a place: itself, or those in it."""
    inside = sorted(path.parent for path in Path(place).glob("fold*/run.json"))
    if inside:
        return inside
    if not (Path(place) / "run.json").is_file() or open_run(place).config.fold == "all":
        raise UserError(
            f"{shown(place)} holds no fold of a cross-validation: give runs/NAME, or runs/NAME/fold1 and so on"
        )
    return [Path(place)]
