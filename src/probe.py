"""The bar for a network: `probe.py CONFIG|RUN [--data DIR] [--demo] [key=value …]`, logistic regression on frozen
features.

The same pretrained body, images, views and split; nothing of the body is trained and nothing is augmented. It writes
runs/probe-NAME, a run like any other, and says what RUN gains over it.
"""

from core.errors import UserError, command  # first, so that Ctrl-C is quiet while torch loads

# isort: split

from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import numpy as np
from torch import nn
from tqdm import tqdm

import compare
import decide
import evaluate
import train
import tune
from core import folds
from core.data_set import Table
from core.files import digest, home, shown
from core.logits_file import Logits, read_logits, write_logits
from core.runs import Run
from core.task import Task
from images import loader, prepare
from images.prepare import Prepared
from net import infer, model
from net import machine as machinery
from tasks.opened import open_run

STRENGTHS = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 1e-1)  # inverse penalties (scikit-learn's C), on standardised features
PARTS = 3  # of the training part, in the cross-validation that chooses one of them
ABSENT = 20.0  # how far below the smallest logit that of a class without training images is

Predictor = Callable[[np.ndarray], np.ndarray]  # features [N, F] → logits [N, C]


def features(task: Task, prepared: Prepared) -> tuple[np.ndarray, np.ndarray]:
    """What the body says of every image, labelled or not, in every view before any training: ids str [N], float32
    [V, N, F]."""
    config, machine = task.config, machinery.pick(task.config)
    net = model.build(config, 1, config.weights)
    net.head = nn.Identity()
    net = machine.place(net)
    ids = np.array([*prepared.labelled.ids.tolist(), *prepared.unlabelled.tolist()])
    images = Table(ids, [], np.zeros((len(ids), 0), np.float32))
    batches = loader.in_order(prepared.pack, images, config.batch, machine.workers, machine.device.type == "cuda")
    return ids, infer.logits(net, batches, config.views, machine, "features")


def fit(x: np.ndarray, targets: np.ndarray, exclusive: bool, strength: float) -> Predictor:
    """Fit to the features x [V, N, F] of every view and the targets [N, C], NaN unknown.

    One softmax over the classes where they exclude each other, otherwise a sigmoid a label. A label without
    positives, or without negatives, has a constant logit.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    views, features = len(x), x.shape[-1]
    scaler = StandardScaler().fit(x.reshape(-1, features))
    rows, y = scaler.transform(x.reshape(-1, features)), np.tile(targets, (views, 1))

    def regression(known: np.ndarray, labels: np.ndarray) -> LogisticRegression:
        return LogisticRegression(C=strength, max_iter=2000).fit(rows[known], labels[known])

    if exclusive:
        one = regression(np.ones(len(y), bool), y.argmax(axis=1))
        return lambda found: _of_classes(one, scaler.transform(found), targets.shape[1])
    each = []
    for labels in y.T:
        known = ~np.isnan(labels)
        told_apart = len(np.unique(labels[known])) == 2
        each.append(regression(known, labels) if told_apart else float(ABSENT * (2 * labels[known].mean() - 1)))

    def sigmoids(found: np.ndarray) -> np.ndarray:
        found, logits = scaler.transform(found), np.empty((len(found), len(each)), np.float32)
        for c, one in enumerate(each):
            logits[:, c] = one if isinstance(one, float) else one.decision_function(found)
        return logits

    return sigmoids


def _of_classes(one, found: np.ndarray, classes: int) -> np.ndarray:
    """The logits of a softmax over the classes that it was fitted on, spread over all classes: float32 [N, C]."""
    said = one.decision_function(found)
    said = np.stack([np.zeros(len(said)), said], axis=1) if said.ndim == 1 else said  # of two classes it gives one
    logits = np.full((len(found), classes), said.min() - ABSENT, np.float32)
    logits[:, one.classes_] = said
    return logits


def likelihood(logits: np.ndarray, targets: np.ndarray, exclusive: bool) -> float:
    """The mean log-likelihood of the known targets [N, C] by logits [N, C]."""
    logits = logits.astype(float)
    if exclusive:
        total = np.logaddexp.reduce(logits, axis=1)
        return float((logits[np.arange(len(logits)), targets.argmax(axis=1)] - total).mean())
    return float(-np.nanmean(np.logaddexp(0, np.where(targets == 1, -logits, logits)) + 0 * targets))


def choose(x: np.ndarray, table: Table, exclusive: bool) -> float:
    """The strength by cross-validation inside the training part: by patient where patients are known, otherwise class
    by class. x [V, N, F] are its features."""
    part = folds.parts(table.targets.argmax(axis=1), PARTS, seed=0, patients=table.known.get("patient"))
    found = {}
    for strength in tqdm(STRENGTHS, "choosing", unit="C", disable=None):
        parts = []
        for k in np.unique(part):
            predict = fit(x[:, part != k], table.targets[part != k], exclusive, strength)
            parts.append(likelihood(predict(x[0, part == k]), table.targets[part == k], exclusive))
        found[strength] = np.mean(parts)
    return max(found, key=found.get)


def probe(task: Task, prepared: Prepared, parts: np.ndarray, name: str) -> Run:
    """Write the run folder runs/probe-NAME and the submission of the same name, for the labelled rows' `parts`."""
    config = task.config.model_copy(update={"name": f"probe-{name}"})
    run, table = Run.named(config.name), prepared.labelled
    if run.about and not run.about.get("baseline"):
        raise UserError(
            f"{shown(run.folder)} is a run of its own, and the baseline would be written there: rename or delete it"
        )
    run.lock()
    ids, x = features(task, prepared)
    learn = table.take(parts == "training")
    mine = x[:, : len(table.ids)][:, parts == "training"]
    strength = choose(mine, learn, task.exclusive)
    predict = fit(mine, learn.targets, task.exclusive, strength)
    logits = np.stack([predict(view) for view in x])

    counts, prior = np.nansum(learn.targets, axis=0).astype(int), task.prior(learn.targets, {})
    run.save(
        synthetic=prepared.source.synthetic, config=config.model_dump(), data=str(prepared.source.folder),
        digest=prepared.learned, split=digest(folds.content(table, parts)), classes=table.classes,
        counts=counts.tolist(), rows=len(learn.ids), prior=prior.tolist(), seed=config.seed, state="trained",
        best_epoch=None,
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

    val, test = read_logits(run / "val_logits.npz"), read_logits(run / "test_logits.npz")
    calibration = tune.tune(task, [val], run / "calibration.json", tune.given(config))
    csv = home() / "submissions" / f"{config.name}.csv"
    decide.decide(task, [test], calibration, config.rule, csv, tested.ids)
    return run


def gain(folder: Path, over: Path) -> list[str]:
    """What a run gains over its probe on the same images, as lines. Raises UserError for other images."""
    ours, theirs = compare.sides([f"{one.resolve().name}={one}" for one in (folder, over)])
    return compare.paired_lines([compare.paired(ours.runs[0].task, ours, theirs)])


def of_run(given: Namespace) -> Run:
    """The probe of a run, on its images and its split."""
    opened, run = open_run(Path(given.config)), Run(Path(given.config))
    if given.settings or given.demo:
        raise UserError("a run is probed with its own settings: leave --demo and key=value out")
    task = opened.task
    prepared = prepare.of_run(run.folder, opened.about, task, given.data, machinery.device(task.config))
    prepare.same(run, prepared)
    return probe(task, prepared, folds.chosen(run, prepared.labelled, task), run.folder.resolve().name)


def of_configuration(given: Namespace) -> Run:
    """The probe of a configuration, with the split that its run has or would have."""
    task, source, run = train.asked(given)
    found = prepare.tables(source, task)
    prepared = prepare.images(source, found, task, machinery.device(task.config))
    return probe(task, prepared, folds.chosen(run, prepared.labelled, task), task.config.name)


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
