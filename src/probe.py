"""The bar for a network: `probe.py CONFIG|RUN [--data DIR] [--demo] [key=value …]`, logistic regression on frozen
features.

The same pretrained body, images, views and split; nothing of the body is trained and nothing is augmented. It writes
runs/probe-NAME, a run like any other, and says what RUN gains over it.
"""

from core.errors import UserError, command  # first, so that Ctrl-C is quiet while torch loads

# isort: split

from argparse import Namespace
from pathlib import Path

import numpy as np

import compare
import decide
import evaluate
import train
from core import folds, runs
from core.files import digest, home, shown
from core.logits_file import Logits, write_logits
from core.runs import Run
from core.task import Task
from images import prepare
from images.prepare import Prepared
from net import features, heads, model, transfer
from net import machine as machinery
from tasks import cross_validation, registry
from tasks.opened import open_run


def probe(task: Task, prepared: Prepared, probed: Run, name: str) -> Run:
    """Write the run folder runs/probe-NAME and the submission of the same name, with the split that the run `probed`
    has or would have; of a cross-validation a regression a fold, joined like its networks."""
    config = task.config.model_copy(update={"name": f"probe-{name}"})
    run, task = Run.named(config.name), registry.task_of(config)
    if run.about and not run.about.get("baseline"):
        raise UserError(
            f"{shown(run.folder)} is a run of its own, and the baseline would be written there: rename or delete it"
        )
    if transfer.is_run(config.weights) and config.crossed:
        raise UserError(
            f"weights = {config.weights}: a probe has the features of one body, which has learned from some of the"
            " folds: it is for weights that saw none of these images"
        )
    run.lock()
    machine = machinery.pick(config)
    net = machine.place(model.build(config.model_copy(update={"head": "none"}), 1, config.weights))
    ids, x = features.of_all(net, prepared, config, machine)
    for (one, own), (_, its) in zip(registry.networks(task, run), registry.networks(task, probed), strict=True):
        parts = folds.chosen(its, prepared.labelled, one)
        if transfer.is_run(config.weights):
            transfer.require_apart(config, prepared.labelled, parts)
        regress(one, own, prepared, parts, ids, x)
    networks = cross_validation.join(task, run) if config.folds else [open_run(run.folder)]
    decide.answer(task, run, networks)
    return run


def regress(task: Task, run: Run, prepared: Prepared, parts: np.ndarray, ids: np.ndarray, x: np.ndarray) -> None:
    """Fit to the features x [V, N, F] of the images `ids` that `parts` train on, and write what a trained network
    would."""
    table, config = prepared.labelled, task.config
    learn = table.take(parts == "training")
    mine = x[:, : len(table.ids)][:, parts == "training"]
    strength = heads.choose(mine, learn, task.exclusive)
    predict = heads.fit(mine, learn.targets, task.exclusive, strength)
    logits = np.stack([predict(view) for view in x])

    counts, prior = np.nansum(learn.targets, axis=0).astype(int), task.prior(learn.targets, {})
    run.save(
        synthetic=prepared.source.synthetic, config=config.model_dump(), data=str(prepared.source.folder),
        digest=prepared.learned, split=digest(folds.content(table, parts)), classes=table.classes,
        counts=counts.tolist(), rows=len(learn.ids), prior=prior.tolist(), seed=config.seed, state="trained",
        best_epoch=None, commit=runs.commit(),
        baseline=f"logistic regression on frozen features, C = {strength:g}",
    )  # fmt: skip
    folds.keep(run, table, parts)
    tested = folds.to_predict(run, table, prepared.unlabelled, task)
    place = {one: row for row, one in enumerate(ids.tolist())}
    for content, file in ((table.take(parts == "validation"), "val_logits.npz"), (tested, "test_logits.npz")):
        rows = [place[one] for one in content.ids.tolist()]
        classes = np.array(table.classes)
        found = Logits(content.ids, logits[:, rows], content.targets, classes, counts, len(learn.ids), prior)
        write_logits(run / file, found)
    run.save(predicted=[None, prepared.pack.fingerprint(tested.ids)])


def gain(folder: Path, over: Path) -> list[str]:
    """What a run gains over its probe on the same images, as lines. Raises UserError for other images."""
    return compare.paired_lines([compare.pair(folder, over)])


def of_run(given: Namespace) -> Run:
    """The probe of a run, on its images and its split."""
    opened, run = open_run(Path(given.config)), Run(Path(given.config))
    if given.settings or given.demo:
        raise UserError("a run is probed with its own settings: leave --demo and key=value out")
    if opened.about.get("baseline"):
        raise UserError(f"{shown(run.folder)} has no network, but is a baseline: probe a run that was trained")
    task = opened.task
    if task.config.folds and not task.config.crossed:
        raise UserError(f"{shown(run.folder)} is a fold: probe the whole cross-validation, {shown(run.folder.parent)}")
    prepared = prepare.of_run(run.folder, opened.about, task, given.data, machinery.device(task.config))
    prepare.same(run, prepared)
    return probe(task, prepared, run, run.folder.resolve().name)


def of_configuration(given: Namespace) -> Run:
    """The probe of a configuration, with the split that its run has or would have."""
    task, source, run = train.asked(given)
    found = prepare.tables(source, task)
    prepared = prepare.images(source, found, task, machinery.device(task.config), run.folder)
    return probe(task, prepared, run, task.config.name)


def main(argv: list[str]) -> None:
    given = train.parser("probe").parse_intermixed_args(argv)
    folder = Path(given.config)
    is_run = (folder / "run.json").is_file()
    run = of_run(given) if is_run else of_configuration(given)
    report, opened = evaluate.evaluate(run.folder), open_run(run.folder)
    lines = opened.task.lines(report, opened.calibration)
    print("\n".join([f"{run.folder.name}: {run.about['baseline']}", *lines]))
    if is_run and (folder / "calibration.json").is_file():
        print("\n".join(gain(folder, run.folder)))
    print(f"wrote {shown(run.folder)} and {shown(home() / 'submissions' / f'{run.folder.name}.csv')}")


if __name__ == "__main__":
    raise SystemExit(command(main))
