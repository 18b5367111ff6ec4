"""The whole validation report of a run: `evaluate.py RUN …` writes RUN/report.json and RUN/per_class.csv. Needs no
torch.

Several runs are compared. `evaluate.py RUN --data DIR [--config CONFIG]` judges a run on another labelled set, read as
that configuration reads it; this loads torch.
"""

from argparse import Namespace
from pathlib import Path

import numpy as np

from answers import external
from core import folds
from core.commands import Parser
from core.config import read_yaml
from core.data_set import Source, Table, Tables
from core.errors import UserError, command, some
from core.files import ROOT, shown, write_json, write_rows
from core.task import Task
from tasks import registry
from tasks.opened import Opened, open_run


def evaluate(folder: Path) -> dict:
    """Write the report of the run's task and return it, with the settings and the split that it rests on.

    Test rows whose labels are known are judged too: the run's own test part, or those of a solution.csv, as the
    synthetic set keeps one.
    """
    return _written(open_run(folder))


def _written(run: Opened) -> dict:
    about, config = run.about, run.config
    report = {
        "synthetic": bool(about.get("synthetic")), "run": config.name, "rule": config.rule,
        "best_epoch": about.get("best_epoch"), "settings": config.meaning, "split": about.get("split"),
        "baseline": about.get("baseline"), **run.task.report(run.evidence, run.rows),
    }  # fmt: skip
    write_json(run.folder / "report.json", report)
    write_rows(run.folder / "per_class.csv", report["per_class"])
    return report


# ---- on another data set
def elsewhere(run: Opened, given: Namespace) -> dict:
    """Judge a run on the labelled images of another set, those apart that it has learned from; writes and prints the
    report."""
    if run.about.get("baseline"):
        raise UserError(f"{shown(run.folder)} is a baseline, without a network to look at other images with")
    there = registry.task_of(registry.load(given.config, given.settings)) if given.config else run.task
    import predict  # here, for it loads OpenCV and torch
    from core.runs import Run
    from images import locate, prepare
    from net import machine

    source, same = locate.opened(Path(given.data), f"--data {given.data}", there.layout), read_yaml(given.map)
    table = unseen(read(there, source, run, same), run)
    ours, theirs = zip(*external.matches(run.about["classes"], table.classes, same), strict=True)
    classes = [run.about["classes"][c] for c in ours]
    print(f"compared: {some(pairs(classes, [table.classes[k] for k in theirs]), 30)}", flush=True)
    alone = {"folds": 0, "fold": "all", "split": "auto", "limit": 0}
    task = registry.task_of(run.config.model_copy(update=alone))
    found = Tables(table, table.ids[:0])
    prepared = prepare.images(source, found, task, machine.device(task.config), run.folder)
    table = prepared.labelled
    asked = Table(table.ids, run.about["classes"], np.full((len(table.ids), len(run.about["classes"])), np.nan))
    logits = [predict.said(Run(one.folder), one.config, prepared.pack, asked) for one in run.networks]
    p = run.task.posterior(logits, run.calibration)[:, ours]
    patients = table.known.get("patient")
    if patients is None:
        print(
            "patients are not known there: intervals go by image, and the run may know other images of the same people"
        )
    report = external.report(classes, p, table.targets[:, theirs], table.ids if patients is None else patients)
    name = given.config or run.config.task
    place = run.folder / f"external-{Path(name).stem}.json"
    write_json(place, {"run": run.config.name, "data": str(source.folder), "config": name, **report})
    print("\n".join([*external.lines(report), f"wrote {shown(place)}"]))
    return report


def read(there: Task, source: Source, run: Opened, same: dict) -> Table:
    """The labelled images as the other configuration chooses them, with every label that the run knows too."""
    if hasattr(there.config, "labels"):
        every = there.whole(source).classes
        labels = [every[k] for _, k in external.matches(run.about["classes"], every, same)]
        asked = {"labels": labels, "metadata": run.config.metadata}
        there = registry.task_of(there.config.model_copy(update=asked))
    return there.read(source).labelled


def pairs(ours: list[str], theirs: list[str]) -> list[str]:
    return [one if one == other else f"{one} = {other}" for one, other in zip(ours, theirs, strict=True)]


def unseen(table: Table, run: Opened) -> Table:
    """The rows of whose images, and patients where both sets name them, the run has seen none in training or
    validation."""
    known = folds.among(table, [row for row in run.rows.values() if row["part"] != "test"])
    if known.all():
        raise UserError(f"{shown(run.folder)} has learned from every image or patient of that data set")
    if known.any():
        print(f"left out: {known.sum()} of {len(known)} images, which or whose patients the run has learned from")
    return table.take(~known)


def arguments(argv: list[str]) -> Namespace:
    parser = Parser("evaluate")
    parser.add_argument("runs", metavar="RUN", type=Path, nargs="+")
    parser.add_argument("--data", metavar="DIR", help="judge the run on this other labelled set")
    parser.add_argument("--config", metavar="CONFIG", help="whose way that set is read; the run's own without it")
    parser.add_argument("--map", metavar="FILE", type=Path, default=ROOT / "configs" / "maps" / "findings.yaml")
    given = parser.parse_intermixed_args(argv)
    given.settings = [str(word) for word in given.runs if "=" in str(word) and not word.exists()]
    given.runs = [word for word in given.runs if str(word) not in given.settings]
    if len({folder.resolve() for folder in given.runs}) < len(given.runs):
        raise UserError("a run is named twice: name each once")
    if given.data and len(given.runs) != 1:
        raise UserError("--data judges one run: name one")
    if given.settings and not given.config:
        raise UserError(f"{given.settings[0]} is for the configuration that reads --data: name it with --config")
    if given.config and not given.data:
        raise UserError("--config says how the set of --data is read: give --data DIR too")
    return given


def main(argv: list[str]) -> None:
    given = arguments(argv)
    runs = [open_run(folder) for folder in given.runs]
    if given.data:
        elsewhere(runs[0], given)
        return
    if len({type(run.task) for run in runs}) > 1:
        raise UserError("runs of different tasks cannot be compared: name those of one")
    reports = [_written(run) for run in runs]
    print("\n".join(runs[0].task.compare(reports)))
    for run in runs:
        print(f"wrote {shown(run.folder / 'report.json')} and per_class.csv")


if __name__ == "__main__":
    raise SystemExit(command(main))
