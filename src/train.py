"""Train one configuration: `train.py CONFIG [--data DIR] [--demo] [key=value …]` leaves a run folder with val_logits.npz."""

import csv
import json
import sys

import numpy as np

from errors import Parser, UserError, command, some  # first, so that Ctrl-C is quiet while torch loads

import config as settings
import data
import fit
import imbalance
import infer
import losses
import machine as machinery
import model
import prepare
import runs
from augment import Augment
from config import Config
from files import Logits, digest, shown, write_logits, write_rows
from labels import Table
from locate import Source
from prepare import Prepared
from runs import Run
from task import TASKS, Task


def arguments(description: str, argv: list[str]):
    """The command line that `train` and the main job share."""
    parser = Parser(description=description, usage="CONFIG [--data DIR] [--demo] [key=value ...]")
    parser.add_argument("config", help="a name below configs/, or a .yaml file")
    parser.add_argument("--data", metavar="DIR", help="folder with images/, train.csv and test.csv")
    parser.add_argument("--demo", action="store_true", help="the built-in synthetic data with quick settings")
    parser.add_argument("settings", nargs="*", metavar="key=value", help="settings that replace those of the configuration")
    return parser.parse_intermixed_args(argv)


def opened(argv: list[str], description: str) -> tuple[Config, Task, Source, Run]:
    """Configuration, task, data and run folder of a command line; everything that can be refused early is refused here."""
    given = arguments(description, argv)
    config = settings.load(given.config, given.settings)
    source, quick = prepare.find(given.data, config.slug, given.demo)
    config = settings.load(given.config, given.settings, source.synthetic, quick)
    task = TASKS[config.task](config)
    if config.frozen_epochs > config.epochs:
        raise UserError(f"frozen_epochs = {config.frozen_epochs} is more than epochs = {config.epochs}: set both")
    if config.views[0] != task.views[0] or len(set(config.views)) < len(config.views) or not set(config.views) <= set(task.views):
        raise UserError(f"views = {config.views}: the first must be {task.views[0]}, and a {task.name} run may use {some(task.views)}, once each")
    if frozenset(config.imbalance) not in task.corrections:
        raise UserError(f"imbalance = {settings.spelled(config.imbalance)}: {task.conflict}")
    if config.rule not in task.rules:
        raise UserError(f"rule = {config.rule!r}: a {task.name} run decides by one of {some(task.rules)}")
    run = Run.named(config.name)
    if "config" not in run.about and (run / "last.pt").is_file():
        raise UserError(f"{shown(run.folder)} has checkpoints and no settings in run.json: delete {shown(run.folder)}, or give this run another name=")
    changed = settings.differences(run.about["config"], config.model_dump()) if "config" in run.about else []
    if changed:
        raise UserError(
            f"{shown(run.folder)} was made with other settings: {some(changed)}; give this run another name=, or delete {shown(run.folder)}"
        )
    return config, task, source, run


def train(config: Config, task: Task, source: Source, run: Run) -> Prepared:
    """Train, or go on where the run stopped, and write val_logits.npz of the best epoch. Returns the prepared data."""
    machine = machinery.pick(config)
    found = prepare.tables(source, task, config)
    trained = run.about.get("state") == "trained" and (run / "best.pt").is_file() and (run / "val_logits.npz").is_file()
    if not trained:  # before packing, so that missing weights are said at once; a run that goes on has its own
        net = model.build(config, len(found.train.classes), "none" if (run / "last.pt").is_file() else config.weights)
    with run.timed("prepare"):
        prepared = prepare.images(source, found, config)
    table, learned = prepared.train, _learned(prepared)
    if run.about.get("digest", learned) != learned:
        raise UserError(f"{shown(run.folder)} was trained on other images or labels than these: give this run another name=, or delete {shown(run.folder)}")
    if trained:
        run.lock()
        print(f"{shown(run.folder)} is trained already; its best epoch is {run.about['best_epoch']}")
        return prepared

    held_out = _held_out(run, table, task, config)
    targets, val_targets = table.targets[~held_out], table.targets[held_out]
    counts = targets.sum(axis=0).astype(int)
    _say_what_is_rare(table.classes, counts, val_targets)
    prior = imbalance.prior(counts, config.imbalance)
    run.lock()
    if run.about.get("dtype", machine.precision) != machine.precision:
        print(f"WARNING: this run began in {run.about['dtype']} and goes on in {machine.precision}, on another device: its bytes will not repeat", file=sys.stderr)
    run.save(
        synthetic=source.synthetic, config=config.model_dump(), data=str(source.folder), digest=learned, split=digest(held_out.tobytes()), dtype=machine.precision,
        classes=table.classes, counts=counts.tolist(), rows=len(targets), prior=prior.tolist(), seed=config.seed,
        normalisation={"mean": net.mean.flatten().tolist(), "std": net.std.flatten().tolist()},
        versions=runs.versions(), commit=runs.commit(), machine=str(machine), state="training",
    )
    parts = np.where(held_out, "validation", "training")
    write_rows(run / "folds.csv", [{"id": name, "part": part} for name, part in zip(table.ids, parts, strict=True)])
    print(f"{run.folder.name}: {config.model} on {len(targets)} images, {held_out.sum()} to validate, {len(table.classes)} classes; {machine}", flush=True)

    net = machine.place(net)
    pin = machine.device.type == "cuda"
    weights = targets @ imbalance.class_weights(counts, config.imbalance["sampler"]) if "sampler" in config.imbalance else None
    order = data.Order(len(targets), weights, shuffle=True, seed=config.seed)
    learn = data.Images(prepared.pack, table.ids[~held_out], targets, Augment(config), config.seed)
    batches = data.loader(learn, order, config.batch, machine.workers, pin, drop_last=len(learn) > config.batch)
    check = data.Images(prepared.pack, table.ids[held_out], val_targets)
    validation = data.loader(check, data.Order(len(check)), config.batch * 2, machine.workers, pin)
    loss = losses.build(task.loss, config.label_smoothing, config.imbalance, counts, machine.device)
    with run.timed("train"):
        images_after = len(check) + len(prepared.test_ids)
        ended = fit.fit(net, batches, validation, loss, counts, task, config, machine, run, images_after)
        best = run.load_checkpoint("best.pt", machine.device, ["model", "epoch"])
        net.load_state_dict(best["model"])
        logits = infer.logits(net, validation, config.views, machine, "validation")
        write_logits(run / "val_logits.npz", Logits(table.ids[held_out], logits, val_targets, np.array(table.classes), counts, len(targets), prior))
    run.save(state="trained" if ended else "paused", best_epoch=best["epoch"])
    return prepared


def _learned(prepared: Prepared) -> str:
    """A fingerprint of what a run learns from: classes, ids, labels and packed pixels of the labelled table."""
    table = prepared.train
    pixels = prepared.pack.fingerprint(table.ids)
    return digest(json.dumps([table.classes, pixels]).encode() + table.targets.tobytes())


def _held_out(run: Run, table: Table, task: Task, config: Config) -> np.ndarray:
    """The validation rows, bool [N]: those of the run's folds.csv, chosen when it has none."""
    path = run / "folds.csv"
    if not path.is_file():
        held_out = task.split(task.strata(table.targets), config.val_fraction, config.seed)
    else:  # not chosen anew, for another version of NumPy may shuffle differently
        try:
            with open(path, newline="", encoding="utf-8") as file:
                part_of = {row["id"]: row["part"] for row in csv.DictReader(file)}
            held_out = np.array([part_of[name] == "validation" for name in table.ids.tolist()])
        except (KeyError, ValueError, csv.Error) as error:
            raise UserError(f"{shown(path)} is damaged ({type(error).__name__} {error}): delete {shown(run.folder)} and train again") from error
    if run.about.get("split", digest(held_out.tobytes())) != digest(held_out.tobytes()):
        raise UserError(f"{shown(path)} is not the split that this run was trained with: put it back, or delete {shown(run.folder)} and train again")
    if not held_out.any() or held_out.all():
        raise UserError(f"{len(table.ids)} images with val_fraction = {config.val_fraction} leave {held_out.sum()} to validate: use more images")
    return held_out


def _say_what_is_rare(classes: list[str], counts: np.ndarray, val_targets: np.ndarray) -> None:
    names = np.array(classes)
    held = val_targets.sum(axis=0)
    for which, what in (
        (counts == 0, "without training images (their columns stay, and are never answered)"),
        (counts == 1, "with one training image"),
        ((counts > 0) & (held == 0), "without validation images (left out of the validation score's mean)"),
    ):
        if which.any():
            print(f"note: classes {what}: {some(names[which], 20)}")


def main(argv: list[str]) -> None:
    config, task, source, run = opened(argv, "Train one configuration.")
    train(config, task, source, run)
    print(f"validation logits: {shown(run / 'val_logits.npz')}")


if __name__ == "__main__":
    raise SystemExit(command(main))
