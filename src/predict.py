"""Logits of the test images over the run's views: `predict.py RUN [--data DIR]` writes RUN/test_logits.npz."""

from core.errors import UserError, command  # first, so that Ctrl-C is quiet while torch loads

# isort: split

from pathlib import Path

import numpy as np

from core import folds, ranks
from core.commands import Parser
from core.files import shown
from core.logits_file import Logits, write_logits
from core.runs import Run
from core.task import Task
from images import loader, prepare
from images.prepare import Prepared
from net import infer, model, refit, together
from net import machine as machinery
from tasks.opened import open_run


def predict(run: Run, prepared: Prepared, task: Task) -> None:
    """Write test_logits.npz. Geometry, classes, normalisation and views are the run's."""
    run.about = together.first(lambda: run.about)
    about, config = run.about, task.config
    if about.get("state") not in ("trained", "paused"):
        raise UserError(f"{shown(run.folder)} is not trained to its end: run the command that began it once more")
    if about.get("baseline"):
        raise UserError(f"{shown(run.folder)} is a baseline ({about['baseline']}) and has no network to predict with")
    prepare.same(run, prepared)
    classes, machine = np.array(about["classes"]), machinery.pick(config)
    net = machine.place(model.build(config, len(classes), weights="none"))
    together.first(refit.answering, net, config, run, machine.device)
    together.spread(net)
    test = folds.to_predict(run, prepared.labelled, prepared.unlabelled, task)
    pin = machine.device.type == "cuda"
    batches = loader.in_order(prepared.pack, test, config.batch, machine.workers, pin, of="batches")
    with run.timed("predict"), machinery.sufficient(config):
        logits = infer.logits(net, batches, config.views, machine, "predicting")
    if ranks.rank():
        return
    counts, prior = np.array(about["counts"]), np.array(about["prior"])
    content = Logits(test.ids, logits, test.targets, classes, counts, about["rows"], prior)
    write_logits(run / "test_logits.npz", content)
    run.seal("test_logits.npz")
    run.save(predicted=[about["best_epoch"], prepared.pack.fingerprint(test.ids)])


def main(argv: list[str]) -> None:
    parser = Parser("predict")
    parser.add_argument("run", metavar="RUN", type=Path)
    parser.add_argument("--data", metavar="DIR", help="the data set, when it no longer lies where the run found it")
    given = parser.parse_args(argv)
    for opened in open_run(given.run).networks:
        task, run = opened.task, Run(opened.folder)
        run.lock()
        prepared = prepare.of_run(run.folder, run.about, task, given.data, machinery.device(task.config))
        predict(run, prepared, task)
        print(f"wrote {shown(run / 'test_logits.npz')}")


if __name__ == "__main__":
    raise SystemExit(command(main))
