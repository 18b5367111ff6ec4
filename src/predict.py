"""Logits of the test images over the run's views: `predict.py RUN [--data DIR]` writes RUN/test_logits.npz."""

from pathlib import Path

import numpy as np

from errors import Parser, UserError, command  # first, so that Ctrl-C is quiet while torch loads

import config as settings
import data
import infer
import machine as machinery
import model
import prepare
import split
from files import Logits, read_run, shown, write_logits
from prepare import Prepared
from runs import Run
from task import TASKS, Task


def predict(run: Run, prepared: Prepared, task: Task) -> None:
    """Write test_logits.npz. Geometry, classes, normalisation and views are the run's."""
    about = run.about
    if about.get("state") not in ("trained", "paused"):
        raise UserError(f"{shown(run.folder)} is not trained to its end: run the command that began it once more")
    if about.get("baseline"):
        raise UserError(f"{shown(run.folder)} is a baseline ({about['baseline']}) and has no network to predict with")
    prepare.same(run, prepared)
    config, classes = settings.of_run(about), np.array(about["classes"])
    machine = machinery.pick(config)
    net = machine.place(model.build(config, len(classes), weights="none"))
    net.load_state_dict(run.load_checkpoint("best.pt", machine.device, ["model"])["model"])
    test = split.to_predict(run, prepared.labelled, prepared.unlabelled, task)
    images = data.Images(prepared.pack, test.ids, test.targets)
    batches = data.loader(images, data.Order(len(images)), config.batch * 2, machine.workers, machine.device.type == "cuda")
    with run.timed("predict"):
        logits = infer.logits(net, batches, config.views, machine, "predicting")
    content = Logits(test.ids, logits, test.targets, classes, np.array(about["counts"]), about["rows"], np.array(about["prior"]))
    write_logits(run / "test_logits.npz", content)
    run.save(predicted=[about["best_epoch"], prepared.pack.fingerprint(test.ids)])


def main(argv: list[str]) -> None:
    parser = Parser(description="Predict the test images of a run.")
    parser.add_argument("run", metavar="RUN", type=Path)
    parser.add_argument("--data", metavar="DIR", help="the data set, when it no longer lies where the run found it")
    given = parser.parse_args(argv)
    about = read_run(given.run)
    config = settings.of_run(about)
    task = TASKS[config.task](config)
    source = prepare.source_of(given.run, about, task, given.data)
    prepared = prepare.images(source, prepare.tables(source, task, config), config)
    predict(Run(given.run), prepared, task)
    print(f"wrote {shown(given.run / 'test_logits.npz')}")


if __name__ == "__main__":
    raise SystemExit(command(main))
