"""Train one configuration: `train.py CONFIG [--data DIR] [--demo] [key=value …]` leaves a run folder with val_logits.npz."""

import sys
from pathlib import Path

import numpy as np

from errors import Parser, UserError, command, some  # first, so that Ctrl-C is quiet while torch loads

import config as settings
import data
import fit
import infer
import losses
import machine as machinery
import model
import prepare
import runs
import split
from augment import Augment
from config import Config
from files import Logits, digest, shown, write_logits
from locate import Source
from prepare import Prepared
from runs import Run
from task import TASKS, Task


def arguments(description: str, argv: list[str]):
    """The command line that `train` and the main job share."""
    parser = Parser(description=description, usage="CONFIG [--data DIR] [--demo] [key=value ...]")
    parser.add_argument("config", help="a name below configs/, or a .yaml file")
    parser.add_argument("--data", metavar="DIR", help="folder of the data set (README: Where the data goes)")
    parser.add_argument("--demo", action="store_true", help="the built-in synthetic data with quick settings")
    parser.add_argument("settings", nargs="*", metavar="key=value", help="settings that replace those of the configuration")
    return parser.parse_intermixed_args(argv)


def opened(argv: list[str], description: str) -> tuple[Config, Task, Source, Run]:
    """Configuration, task, data and run folder of a command line; everything that can be refused early is refused here."""
    given = arguments(description, argv)
    config = settings.load(given.config, given.settings)
    source, quick = prepare.find(given.data, config.slug, TASKS[config.task](config).layout, given.demo)
    config = settings.load(given.config, given.settings, source.synthetic, quick)
    task = TASKS[config.task](config)
    if config.frozen_epochs > config.epochs:
        raise UserError(f"frozen_epochs = {config.frozen_epochs} is more than epochs = {config.epochs}: set both")
    if config.views[0] != task.views[0] or len(set(config.views)) < len(config.views) or not set(config.views) <= set(task.views):
        raise UserError(f"views = {config.views}: the first must be {task.views[0]}, and a {task.name} run may use {some(task.views)}, once each")
    if config.flip and "flip" not in task.views:
        raise UserError(f"flip = {config.flip}: left and right are findings in a {task.name} run, so images are never mirrored: leave flip at 0")
    if frozenset(config.imbalance) not in task.corrections:
        raise UserError(f"imbalance = {settings.spelled(config.imbalance)}: {task.conflict}")
    if config.rule not in task.rules:
        raise UserError(f"rule = {config.rule!r}: a {task.name} run decides by one of {some(task.rules)}")
    if config.weights != "none" and task.seen.search(f"{config.model} {Path(config.weights).name}"):
        print(
            f"WARNING: the name of {config.model} or {config.weights} says that it was pretrained on chest X-rays that this {task.name} run is tested on: "
            "such a network has seen its test images with their labels, and its score would mean nothing.",
            file=sys.stderr,
        )
    run = Run.named(config.name)
    if "config" not in run.about and (run / "last.pt").is_file():
        raise UserError(f"{shown(run.folder)} has checkpoints and no settings in run.json: delete {shown(run.folder)}, or give this run another name=")
    changed = settings.differences(run.about["config"], config.model_dump()) if run.begun else []
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
        net = model.build(config, len(found.labelled.classes), "none" if (run / "last.pt").is_file() else config.weights)
    with run.timed("prepare"):
        prepared = prepare.images(source, found, config)
    table = prepared.labelled
    if run.begun:
        prepare.same(run, prepared)
    parts = split.parts(run, table, task, config)
    if trained:
        run.lock()
        if not (run / "folds.csv").is_file():  # gone, and chosen again as it was
            split.keep(run, table, parts)
        print(f"{shown(run.folder)} is trained already; its best epoch is {run.about['best_epoch']}")
        return prepared

    learn_rows, check_rows = table.take(parts == "training"), table.take(parts == "validation")
    targets = learn_rows.targets
    counts = np.nansum(targets, axis=0).astype(int)
    _say_what_is_rare(table.classes, counts, check_rows.targets)
    prior = task.prior(targets, config.imbalance)
    run.lock()
    if run.about.get("dtype", machine.precision) != machine.precision:
        print(f"WARNING: this run began in {run.about['dtype']} and goes on in {machine.precision}, on another device: its bytes will not repeat", file=sys.stderr)
    run.save(
        synthetic=source.synthetic, config=config.model_dump(), data=str(source.folder), digest=prepared.learned, split=digest(split.content(table, parts)), dtype=machine.precision,
        classes=table.classes, counts=counts.tolist(), rows=len(targets), prior=prior.tolist(), seed=config.seed, parameters=net.parameters_said(config),
        normalisation={"mean": net.mean.flatten().tolist(), "std": net.std.flatten().tolist()},
        versions=runs.versions(), commit=runs.commit(), machine=str(machine), state="training",
    )
    split.keep(run, table, parts)
    numbers = ", ".join(f"{(parts == part).sum()} for {part}" for part in task.parts)
    print(f"{run.folder.name}: {config.model} on {numbers}, {len(table.classes)} classes; {machine}", flush=True)
    total, trainable = (run.about["parameters"][what] / 1e6 for what in ("total", "trainable"))
    print(f"parameters: {total:.2f} M, {trainable:.2f} M of them trained", flush=True)

    net = machine.place(net)
    pin = machine.device.type == "cuda"
    order = data.Order(len(targets), task.weights(targets, config.imbalance), shuffle=True, seed=config.seed)
    learn = data.Images(prepared.pack, learn_rows.ids, targets, Augment(config), config.seed)
    batches = data.loader(learn, order, config.batch, machine.workers, pin, drop_last=len(learn) > config.batch)
    check = data.Images(prepared.pack, check_rows.ids, check_rows.targets)
    validation = data.loader(check, data.Order(len(check)), config.batch * 2, machine.workers, pin)
    loss = losses.build(task.loss, config, counts, len(targets), machine.device)
    with run.timed("train"):
        images_after = len(check) + (parts == "test").sum() + len(prepared.unlabelled)
        ended = fit.fit(net, batches, validation, loss, counts, task, config, machine, run, images_after)
        best = run.load_checkpoint("best.pt", machine.device, ["model", "epoch"])
        net.load_state_dict(best["model"])
        logits = infer.logits(net, validation, config.views, machine, "validation")
        for name in ("calibration.json", "test_logits.npz", "report.json", "per_class.csv"):  # of an earlier best epoch
            (run / name).unlink(missing_ok=True)
        write_logits(run / "val_logits.npz", Logits(check_rows.ids, logits, check_rows.targets, np.array(table.classes), counts, len(targets), prior))
    run.save(state="trained" if ended else "paused", best_epoch=best["epoch"])
    return prepared


def _say_what_is_rare(classes: list[str], counts: np.ndarray, val_targets: np.ndarray) -> None:
    names = np.array(classes)
    held = np.nansum(val_targets, axis=0)
    for which, what in (
        (counts == 0, "without training images (their columns stay, and nothing is learned of them)"),
        (counts == 1, "with one training image"),
        ((counts > 0) & (held == 0), "without validation images (left out of the means there)"),
    ):
        if which.any():
            print(f"note: classes {what}: {some(names[which], 20)}")


def main(argv: list[str]) -> None:
    config, task, source, run = opened(argv, "Train one configuration.")
    train(config, task, source, run)
    print(f"validation logits: {shown(run / 'val_logits.npz')}")


if __name__ == "__main__":
    raise SystemExit(command(main))
