"""The baseline of a run: `probe.py RUN [--data DIR]`, a logistic regression a label on the frozen network's features.

The same pretrained body, images and split; nothing of the body is trained and nothing is augmented. It writes
probe-RUN, a run folder like any other, which `evaluate` sets beside others.
"""

from core.errors import UserError, command  # first, so that Ctrl-C is quiet while torch loads

# isort: split

from pathlib import Path

import numpy as np
from torch import nn
from tqdm import tqdm

import evaluate
import tune
from answers import multi_label_report
from core import folds
from core.commands import Parser
from core.config import Config
from core.files import shown, write_bytes
from core.logits_file import Logits, read_logits, write_logits
from core.runs import Run
from core.task import Task
from images import loader, prepare
from images.prepare import Prepared
from net import infer, model
from net import machine as machinery
from tasks import registry
from tasks.opened import open_run

STRENGTHS = (
    1e-4,
    1e-3,
    1e-2,
    1e-1,
    1.0,
)  # inverse penalties (scikit-learn's C) that validation chooses from, on standardised features


def features(config: Config, prepared: Prepared) -> np.ndarray:
    """What the body says of every labelled image before any training, float32 [N, F], in the table's order."""
    machine = machinery.pick(config)
    net = model.build(config, 1, config.weights)
    net.head = nn.Identity()
    net = machine.place(net)
    table = prepared.labelled
    batches = loader.in_order(prepared.pack, table, config.batch, machine.workers, machine.device.type == "cuda")
    return infer.logits(net, batches, ["original"], machine, "features")[0]


def fit(
    found: np.ndarray, targets: np.ndarray, parts: np.ndarray, counts: np.ndarray, task: Task
) -> tuple[np.ndarray, float]:
    """Logits of every image and label, float32 [N, C], and the inverse penalty, the same for all labels, that
    validation's monitored figure chose.

    A label without positives or without negatives among the known training rows gets the logit of its prevalence.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    learn, check = parts == "training", parts == "validation"
    x = StandardScaler().fit(found[learn]).transform(found)
    best = None
    for strength in tqdm(STRENGTHS, "fitting", unit="C", disable=None):
        logits = np.zeros(targets.shape, np.float32)
        for c in range(targets.shape[1]):
            rows = learn & ~np.isnan(targets[:, c])
            if len(np.unique(targets[rows, c])) == 2:
                logits[:, c] = (
                    LogisticRegression(C=strength, max_iter=2000).fit(x[rows], targets[rows, c]).decision_function(x)
                )
            else:
                logits[:, c] = 20.0 * (2 * targets[rows, c].mean() - 1) if rows.any() else 0.0
        value = task.metrics(targets[check], logits[check], counts)[task.monitor]
        if best is None or value > best[0]:
            best = value, logits, strength
    return best[1:]


def probe(run: Run, prepared: Prepared, task: Task) -> Run:
    """Write the baseline's run folder: the same split, its own logits, calibration and report."""
    prepare.same(run, prepared)
    config, table, about = task.config, prepared.labelled, run.about
    beside = Run.named(f"probe-{run.folder.name}")
    changed = registry.config_of({"config": {**config.model_dump(), "name": beside.folder.name}})
    if beside.about and not beside.about.get("baseline"):
        raise UserError(
            f"{shown(beside.folder)} is a run of its own, and the baseline would be written there: rename or delete it"
        )
    parts = folds.chosen(run, table, task)
    counts = np.array(about["counts"])
    logits, strength = fit(features(config, prepared), table.targets, parts, counts, task)
    beside.lock()
    for part, name in (("validation", "val_logits.npz"), ("test", "test_logits.npz")):
        rows = parts == part
        natural = counts / about["rows"]  # drawn as it is, so this is the prevalence that the logits assume
        write_logits(
            beside / name,
            Logits(
                table.ids[rows],
                logits[rows][None],
                table.targets[rows],
                np.array(table.classes),
                counts,
                about["rows"],
                natural,
            ),
        )
    write_bytes(beside / "folds.csv", (run / "folds.csv").read_bytes())
    beside.save(
        **{key: about[key] for key in ("synthetic", "data", "classes", "counts", "rows", "seed", "split")},
        config=changed.model_dump(),
        prior=natural.tolist(),
        state="trained",
        best_epoch=None,
        baseline=f"logistic regression on frozen features, C = {strength:g}",
    )
    tune.tune(task, [read_logits(beside / "val_logits.npz")], beside / "calibration.json", tune.given(config))
    evaluate.evaluate(beside.folder)
    return beside


def main(argv: list[str]) -> None:
    parser = Parser("probe")
    parser.add_argument("run", metavar="RUN", type=Path)
    parser.add_argument("--data", metavar="DIR", help="the data set, when it no longer lies where the run found it")
    given = parser.parse_args(argv)
    opened = open_run(given.run)
    about, task = opened.about, opened.task
    if not (given.run / "test_logits.npz").is_file():
        raise UserError(f"{shown(given.run)} has no test_logits.npz yet: run the command that began it once more")
    if "test" not in task.parts:
        raise UserError(
            f"{shown(given.run)} is a {task.name} run, whose test images have no labels here: a baseline is for runs"
            " with a labelled test part"
        )
    prepared = prepare.of_run(given.run, about, task, given.data, machinery.device(task.config))
    beside = probe(Run(given.run), prepared, task)
    found = multi_label_report.paired(
        *(read_logits(run / "test_logits.npz") for run in (given.run, beside.folder)), opened.rows
    )
    print("macro AUC-ROC on the test part, with 95 % intervals by resampling patients:")
    for name, what in (
        ("ours", given.run.name),
        ("theirs", f"{beside.folder.name} ({beside.about['baseline']})"),
        ("difference", "difference"),
    ):
        print(
            f"  {found[name]['auc']:+.3f}  [{found[name]['interval'][0]:+.3f}, {found[name]['interval'][1]:+.3f}] "
            f" {what}"
        )
    print(f"wrote {shown(beside.folder)}")


if __name__ == "__main__":
    raise SystemExit(command(main))
