"""Train one configuration: `train.py CONFIG [--data DIR] [--demo] [key=value …]` leaves a run with val_logits.npz."""

from core.errors import UserError, command, some  # first, so that Ctrl-C is quiet while torch loads

# isort: split

import json
import math
import sys
from argparse import Namespace
from dataclasses import replace

import numpy as np

from core import config as settings
from core import folds, packages, ranks, runs
from core.commands import Parser
from core.config import Config
from core.data_set import Source, Table
from core.files import digest, shown, write_rows
from core.logits_file import Logits, write_logits
from core.runs import Run
from core.task import Task
from images import loader, prepare
from images.augment import Augment
from images.prepare import Prepared
from net import checkpoint, checks, heads, infer, learner, losses, model, refit, together, transfer
from net import machine as machinery
from net.fit import Batches, fit
from net.learner import Learner
from net.machine import Machine
from net.model import Net
from tasks import registry


def parser(script: str) -> Parser:
    """The command line that `train`, `probe` and the main job share."""
    parser = Parser(script)
    parser.add_argument("config", help="a name below configs/, or a .yaml file")
    parser.add_argument("--data", metavar="DIR", help="folder of the data set (README: Where the data goes)")
    parser.add_argument("--demo", action="store_true", help="the built-in synthetic data with quick settings")
    parser.add_argument(
        "settings", nargs="*", metavar="key=value", help="settings that replace those of the configuration"
    )
    return parser


def asked(given: Namespace) -> tuple[Task, Source, Run]:
    """Task, data and run folder of a command line; everything that can be refused early is refused here."""
    config, source = registry.with_data(given.config, given.settings, given.data, given.demo)
    task, run = registry.task_of(config), Run.named(config.name)
    checks.check(config, task, all(its.begun for _, its in registry.networks(task, run)))
    checks.warn(config, task)
    whole = registry.task_of(config.model_copy(update={"fold": "all"})) if config.folds else task
    for its in [run, *(its for _, its in registry.networks(whole, run))]:  # folds that are not asked for, too
        refuse_other_settings(config, its)
    return task, source, run


def refuse_other_settings(config: Config, run: Run) -> None:
    """Raises UserError for a run that was begun with other settings than these, or that is none that trains."""
    folder = shown(run.folder)
    if run.about.get("baseline"):
        raise UserError(
            f"{folder} is not trained but a baseline ({run.about['baseline']}): give this run another name="
        )
    if run.begun and "config" in run.about:  # without it, last.pt itself knows what it rests on
        changed = settings.differences(config.filled(run.about["config"]), config.model_dump())
        if changed:
            raise UserError(
                f"{folder} was made with other settings: {some(changed)}; give this run another name=, or delete"
                f" {folder}"
            )


def train(task: Task, source: Source, run: Run) -> Prepared:
    """Train, or go on where the run stopped, and write val_logits.npz of the best epoch. Returns the prepared data."""
    config, machine = task.config, machinery.pick(task.config)
    machinery.check_together(config, ranks.count())
    found = prepare.tables(source, task)
    run.about = together.first(lambda: run.about)
    done = together.first(finished, run, config)
    state = together.first(lambda: None if done else learner.last_state(run, task))
    last = None if not state or state["lost"] else state
    if not done:  # before packing, so that missing weights are said at once; a run that goes on has its own
        fresh = last or ranks.rank()  # whose weights are put in, or come from the first rank
        net = model.build(config, len(found.labelled.classes), "none" if fresh else config.weights)
    with run.timed("prepare"):
        prepared = together.first_of_machine(prepare.images, source, found, task, machine.device, run.folder)
    if run.begun and "digest" in run.about:
        prepare.same(run, prepared)
    parts = together.first(folds.chosen, run, prepared.labelled, task)
    if not done and not last and transfer.is_run(config.weights):
        together.first(transfer.require_apart, config, prepared.labelled, parts)
    run.lock()
    if done:
        mend(run, prepared, parts, task)
        print(f"{shown(run.folder)} is trained already; its best epoch is {run.about['best_epoch']}")
        return prepared

    identity = together.agreed(identified(config, prepared, parts))
    if state:
        learner.require_same(state, identity, run)
    record(run, task, prepared, parts, net, machine)
    learn, validation = (prepared.labelled.take(parts == part) for part in ("training", "validation"))
    net = machine.place(net)
    if config.head_start == "probe" and not last:  # which has the head that was started
        with run.timed("start"):
            together.first(heads.start, net, task, prepared, parts, machine)
    net = together.with_synced_norms(net, config.sync_norms)
    together.spread(net)
    batches = batches_of(task, prepared, learn, validation, (parts == "test").sum(), machine)
    learning = Learner(net, config, machine, math.ceil(len(batches.learn) / config.accumulate), identity)
    loss = losses.build(config, batches.counts, len(learn.ids), machine.device)
    with run.timed("train"), machinery.sufficient(config):
        if last:
            learning.resume(last, run)
        state = last = None  # half a gigabyte of a ConvNeXt
        ended = fit(learning, batches, loss, task, run)
        best_epoch, prior = together.first(settled, net, task, prepared, learn, machine, run)
        together.spread(net)
        logits = infer.logits(net, batches.validation, config.views, machine, "validation")
        if ranks.rank():
            return prepared
        for name in ("calibration.json", "test_logits.npz", "report.json", "per_class.csv"):  # of an earlier best epoch
            (run / name).unlink(missing_ok=True)
        write_logits(run / "val_logits.npz", replace(batches.content(logits), prior=prior))
    run.seal("val_logits.npz", "log.csv", "best.pt", refit.file(config))
    run.save(state="trained" if ended else "paused", best_epoch=best_epoch, prior=prior.tolist())
    if ended:
        (run / "previous.pt").unlink(missing_ok=True)
    return prepared


def settled(
    net: Net, task: Task, prepared: Prepared, learn: Table, machine: Machine, run: Run
) -> tuple[int, np.ndarray]:
    """Load the best epoch into the network and fit its head again, where `refit` asks for it. Returns its number, and
    the prior float [C] that its logits assume."""
    best = checkpoint.load_into({"model": net}, run / "best.pt", machine.device, ["epoch"])
    return best["epoch"], refit.refit(net, task, prepared.pack, learn, machine, run, best["epoch"])


def finished(run: Run, config: Config) -> bool:
    """Whether it is trained and answers by whole files. Where the network itself is lost, its logits still do."""
    if run.about.get("state") != "trained" or not run.whole("val_logits.npz"):
        return False
    return run.whole(refit.file(config)) if run.whole("best.pt") else run.whole("test_logits.npz")


def mend(run: Run, prepared: Prepared, parts: np.ndarray, task: Task) -> None:
    """Write files of a finished run again that are gone or damaged, and that others know: the split, chosen again as it
    was, and the record of the epochs."""
    if not folds.is_kept(run.folder, run.about):
        folds.keep(run, prepared.labelled, parts)
    if not run.whole("best.pt"):
        print(
            f"WARNING: {shown(run / 'best.pt')} is lost: the run still answers, by its logits; to predict other images"
            " with it, or to explain it, it has to be trained again, under another name=",
            file=sys.stderr,
        )
    if not run.whole("log.csv") and (last := learner.last_state(run, task)):
        write_rows(run / "log.csv", last["history"])


def identified(config: Config, prepared: Prepared, parts: np.ndarray) -> str:
    """A name for what a network learns from: settings that change a result, images and labels, split."""
    binding = {key: value for key, value in config.meaning.items() if key not in settings.INDIFFERENT | {"fold"}}
    split = digest(folds.content(prepared.labelled, parts))
    return digest(json.dumps([binding, prepared.learned, split], sort_keys=True).encode())


def record(run: Run, task: Task, prepared: Prepared, parts: np.ndarray, net: Net, machine: Machine) -> None:
    """Write what the run rests on into run.json and folds.csv, and say it."""
    config, table = task.config, prepared.labelled
    targets = table.targets[parts == "training"]
    counts = np.nansum(targets, axis=0).astype(int)
    say_what_is_rare(table.classes, counts, table.targets[parts == "validation"])
    machine.warn(run.about)
    run.save(
        synthetic=prepared.source.synthetic, config=config.model_dump(), data=str(prepared.source.folder),
        digest=prepared.learned, split=digest(folds.content(table, parts)), dtype=machine.precision,
        threads=machine.threads, devices=ranks.count(),
        classes=table.classes, counts=counts.tolist(), rows=len(targets),
        prior=task.prior(targets, config.imbalance).tolist(), seed=config.seed, parameters=net.parameters_said(config),
        normalisation={"mean": net.mean.flatten().tolist(), "std": net.std.flatten().tolist()},
        versions=packages.versions(), commit=runs.commit(), machine=str(machine), state="training",
        sums={},
    )  # fmt: skip
    folds.keep(run, table, parts)
    numbers = ", ".join(f"{(parts == part).sum()} for {part}" for part in task.parts)
    name = config.name + f", fold {config.fold} of {config.folds}" * bool(config.folds)
    print(f"{name}: {config.model} on {numbers}, {len(table.classes)} classes; {machine}", flush=True)
    if ranks.count() > 1:
        share = f"{ranks.count()} devices × {config.batch / ranks.count():g} images"
        print(f"{share}: batch {config.batch}, lr {config.lr:g} unchanged", flush=True)
    total, trainable = (run.about["parameters"][what] / 1e6 for what in ("total", "trainable"))
    print(f"parameters: {total:.2f} M, {trainable:.2f} M of them trained", flush=True)


def batches_of(
    task: Task, prepared: Prepared, learn: Table, validation: Table, tests: int, machine: Machine
) -> Batches:
    """What training reads: augmented and drawn by the task's weights; validation in its order, unchanged."""
    config, pin = task.config, machine.device.type == "cuda"
    order = loader.Order(len(learn.ids), task.weights(learn.targets, config.imbalance), shuffle=True, seed=config.seed)
    images = loader.Images(prepared.pack, learn.ids, learn.targets, Augment(config), config.seed)
    counts, prior = np.nansum(learn.targets, axis=0).astype(int), task.prior(learn.targets, config.imbalance)

    def content(logits: np.ndarray) -> Logits:
        classes, rows = np.array(validation.classes), len(learn.ids)
        return Logits(validation.ids, logits, validation.targets, classes, counts, rows, prior)

    return Batches(
        loader.batched(images, order, config.batch, machine.workers, pin, len(images) > config.batch, of="rows"),
        loader.in_order(prepared.pack, validation, config.batch, machine.workers, pin, of="batches"),
        content,
        counts,
        len(validation.ids) + tests + len(prepared.unlabelled) + (config.refit != "none") * len(learn.ids),
    )


def say_what_is_rare(classes: list[str], counts: np.ndarray, val_targets: np.ndarray) -> None:
    names = np.array(classes)
    held = np.nansum(val_targets, axis=0)
    for which, what in (
        (counts == 0, "without training images (their columns stay, and nothing is learned of them)"),
        (counts == 1, "with one training image"),
        ((counts > 0) & (held == 0), "without validation images (left out of the means there)"),
    ):
        if which.any():
            print(f"note: classes {what}: {some(names[which], 20)}")


def spread_out(script: str, task: Task, run: Run, argv: list[str]) -> bool:
    """Start the script again on every device, where several are to train one network; returns whether that was done,
    to its end. Where the devices turn out not to work together, and nobody asked for as many, this one goes on
    alone."""
    devices, networks = machinery.devices(task.config), registry.networks(task, run)
    if devices == 1 or len(networks) > 1 or finished(networks[0][1], networks[0][0].config):
        return False
    machinery.check_together(task.config, devices)
    from net import launch  # here, for few need it

    try:
        launch.once_a_device(devices, script, argv)
    except SystemExit as failed:  # a traceback was printed: of a connection that cannot be made, or of a defect
        if task.config.devices != "auto":
            raise
        print(
            f"WARNING: {devices} devices failed to train together (exit code {failed.code}, see above): one goes on"
            " alone, as devices=1 would from the start",
            file=sys.stderr,
        )
        return False
    return True


def main(argv: list[str]) -> None:
    task, source, run = asked(parser("train").parse_intermixed_args(argv))
    if spread_out("train.py", task, run, argv):
        return
    with together.joined(machinery.device(task.config)):
        for one, its in registry.networks(task, run):
            train(one, source, together.own(its))
            print(f"validation logits: {shown(its / 'val_logits.npz')}")


if __name__ == "__main__":
    raise SystemExit(command(main))
