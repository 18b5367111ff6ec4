"""Logits of the test images over the run's views: `predict.py RUN [--data DIR]` writes RUN/test_logits.npz."""

from core.errors import UserError, command  # first, so that Ctrl-C is quiet while torch loads

# isort: split

from pathlib import Path

import numpy as np

from core import folds, ranks
from core.commands import Parser
from core.config import Config
from core.data_set import Table
from core.files import shown
from core.logits_file import Logits, write_logits
from core.runs import Run
from core.task import Task
from images import loader, prepare
from images.pack import Pack
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
    test = folds.to_predict(run, prepared.labelled, prepared.unlabelled, task)
    with run.timed("predict"):
        content = said(run, config, prepared.pack, test)
    if ranks.rank():
        return
    write_logits(run / "test_logits.npz", content)
    run.seal("test_logits.npz")
    run.save(predicted=[about["best_epoch"], prepared.pack.fingerprint(test.ids)])


def said(run: Run, config: Config, pack: Pack, table: Table) -> Logits:
    """What a run's network says of the images of a table, in its views; their targets are the table's, float [N, C]."""
    about, machine = run.about, machinery.pick(config)
    net = machine.place(model.build(config, len(about["classes"]), weights="none"))
    together.first(refit.answering, net, config, run, machine.device)
    together.spread(net)
    batches = loader.in_order(pack, table, config.batch, machine.workers, machine.device.type == "cuda", of="batches")
    with machinery.sufficient(config):
        logits = infer.logits(net, batches, config.views, machine, "predicting")
    classes, counts, prior = (np.array(about[name]) for name in ("classes", "counts", "prior"))
    return Logits(table.ids, logits, table.targets, classes, counts, about["rows"], prior)


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
