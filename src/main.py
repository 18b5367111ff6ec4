"""The main job: `main.py CONFIG [--data DIR] [--demo] [key=value …]`, from images to a valid submission.

Prepare → train → predict → tune → decide → evaluate. Each stage leaves files, so the same command goes on after
whatever stopped it: what is trained or predicted is not done again, and the rest takes seconds.
"""

from core.errors import UserError, command  # first, so that Ctrl-C is quiet while torch loads

# isort: split

import sys
from argparse import Namespace
from pathlib import Path

import numpy as np

import decide
import evaluate
import predict
import probe
import train
from core import folds, parallel, ranks
from core.data_set import Source
from core.errors import some
from core.files import ROOT, SYNTHETIC, home, shown
from core.logits_file import read_logits
from core.runs import Run, clock, elapsed
from core.task import Task
from images.prepare import Prepared
from net import machine as machinery
from net import together
from net.fit import SPARE
from tasks import cross_validation, registry
from tasks.opened import Opened, open_run

FILES = "val_logits.npz, test_logits.npz, calibration.json, report.json, per_class.csv, log.csv, best.pt"
FILES_OF_FOLDS = "val_logits.npz, calibration.json, report.json, per_class.csv, and of every fold the rest"


def main(argv: list[str]) -> None:
    given = arguments(argv)
    if given.collect:
        task, run, prepared = collected(given)
    else:
        task, source, run = train.asked(given)
        if train.spread_out("main.py", task, run, argv):
            return
        longest = side_by_side(task, run, argv)
        with together.joined(machinery.device(task.config)):
            prepared = trained(task, source, run, longest)
        if ranks.rank():  # the first one goes on alone
            return
    if task.config.folds:
        task = registry.task_of(task.config.model_copy(update={"fold": "all"}))
        networks = cross_validation.join(task, run)
    else:
        networks = [Opened(run.folder, run.about)]
    with run.timed("decide"):
        calibration, answered, images = decide.answer(task, run, networks)
    run.save(config=task.config.model_dump())  # the rule and the temperature may be new
    with run.timed("evaluate"):
        report = evaluate.evaluate(run.folder)
        over = over_probe(task, run, prepared)
    print("\n".join(summary(task, run, networks, report, calibration, answered, images)))
    print("\n".join([*over, f"submission: {shown(home() / 'submissions' / f'{task.config.name}.csv')}"]), flush=True)
    if not given.no_page:
        print(page(run))


def arguments(argv: list[str]) -> Namespace:
    parser = train.parser("main")
    parser.add_argument(
        "--collect", metavar="DIR", type=Path, nargs="+",
        help="put folds that were trained elsewhere together; nothing is trained",
    )  # fmt: skip
    parser.add_argument("--no-page", action="store_true", help="end without the run's page, report.html")
    given = parser.parse_intermixed_args(argv)
    settings = [str(place) for place in given.collect or () if "=" in str(place) and not place.exists()]
    given.settings += settings  # those that stand behind --collect DIR
    given.collect = [place for place in given.collect or () if str(place) not in settings]
    return given


def side_by_side(task: Task, run: Run, argv: list[str]) -> float:
    """Train the folds that are left, one a device, where there are several folds and devices; `trained` finds them
    done. Returns the seconds of the longest, 0 where nothing was to be done so."""
    devices = machinery.devices(task.config)
    if not task.config.crossed or devices < 2:  # before the files of what is trained are read
        return 0.0
    left = [one.config.fold for one, its in registry.networks(task, run) if not train.finished(its, one.config)]
    devices = min(len(left), devices)
    if devices < 2:
        return 0.0
    print(f"{devices} devices train {len(left)} folds side by side", flush=True)
    words = [word for word in argv if not word.startswith("fold=")]
    words = [sys.executable, str(ROOT / "src" / "train.py"), *words, "devices=1"]
    commands = {f"fold {fold}": [*words, f"fold={fold}"] for fold in left}
    return parallel.each(commands, devices, lambda longest: has_time(task, longest))


def has_time(task: Task, longest: float) -> bool:
    """Whether `hours` leave room for another fold, after one that took `longest` seconds."""
    hours = task.config.hours
    return not hours or not longest or elapsed() + longest + SPARE <= hours * 3600


def trained(task: Task, source: Source, run: Run, longest: float = 0.0) -> Prepared:
    """Train and predict by every network that is asked for, one after the other; what is done is not done again. With
    `hours` set, no further fold is begun without the time that the longest one took, in seconds."""
    prepared = None
    # what is trained comes first, to be predicted even where time ends
    networks = [(one, together.own(its)) for one, its in registry.networks(task, run)]
    done = together.first(lambda: [train.finished(its, one.config) for one, its in networks])
    for (one, its), before in sorted(zip(networks, done, strict=True), key=lambda each: not each[1]):
        if prepared and not before and not together.first(has_time, task, longest):
            print(f"stopped for time before fold {one.config.fold}: the same command goes on")
            break
        begun = elapsed()
        prepared = train.train(one, source, its)
        wanted = folds.to_predict(its, prepared.labelled, prepared.unlabelled, one).ids
        if not together.first(predicted, its, prepared, wanted):
            predict.predict(its, prepared, one)
        longest = max(longest, elapsed() - begun)
        if together.first(its.about.get, "state") == "paused":
            break
    return prepared


def collected(given: Namespace) -> tuple[Task, Run, None]:
    """The run that folds from elsewhere are put together in; needs no images."""
    first = open_run(cross_validation.folds_in(given.collect[0])[0])
    synthetic = bool(first.about.get("synthetic"))
    config = registry.load(given.config, given.settings, synthetic, given.demo)
    if not config.folds:
        raise UserError(f"--collect is for a cross-validation, and {config.name} has folds = 0: give folds= as there")
    task, run = registry.task_of(config), Run.named(config.name)
    train.refuse_other_settings(config, run)
    cross_validation.collect(given.collect, task, run)
    return task, run, None


def over_probe(task: Task, run: Run, prepared: Prepared | None) -> list[str]:
    """What the run gains over its probe, when there is one or `probe` asks for it, as lines."""
    beside = home() / "runs" / f"probe-{run.folder.name}"
    if task.config.probe and prepared and not (beside / "report.json").is_file():
        probe.probe(task, prepared, run, run.folder.name)
        evaluate.evaluate(beside)
    if not (beside / "report.json").is_file():
        return []
    try:
        return probe.gain(run.folder, beside)
    except UserError as error:
        return [f"not compared with {shown(beside)}: {error}"]


def page(run: Run) -> str:
    """Write the run's page, and the line that points to it, or that says why there is none."""
    import report  # here, for matplotlib takes half a second

    try:
        return f"page: {shown(report.write_page(run.folder))}"
    except UserError as error:
        return f"no page: {error}"


def predicted(run: Run, prepared: Prepared, wanted: np.ndarray) -> bool:
    """Whether the run's test logits are there, whole, and those of these very images."""
    try:
        ids = read_logits(run / "test_logits.npz").ids
    except UserError:
        return False
    now = [run.about["best_epoch"], prepared.pack.fingerprint(wanted)]
    return run.whole("test_logits.npz") and np.array_equal(ids, wanted) and run.about.get("predicted") == now


def summary(
    task: Task, run: Run, networks: list[Opened], report: dict, calibration: dict, answered: np.ndarray, images: int
) -> list[str]:
    """What the main job ends with, as lines."""
    about, config = run.about, task.config
    expected = sum(np.array(one.about["counts"]) for one in networks) / sum(one.about["rows"] for one in networks)
    times = ", ".join(f"{stage} {clock(seconds)}" for stage, seconds in about["timings"].items())
    epochs = ", ".join(str(one.about["best_epoch"]) for one in networks)
    paused = "PAUSED: training stopped for time; this is the best epoch so far, and the same command goes on"
    if config.folds and len(networks) < config.folds:
        there = some(str(one.config.fold) for one in networks)
        paused = (
            f"PAUSED: {len(networks)} of {config.folds} folds are here ({there}), and all figures and answers rest on"
            " them alone; the same command trains the others, --collect DIR takes them from elsewhere"
        )
    return [
        "",
        f"==== {report['run']}: best epoch{'s' * (len(networks) > 1)} {epochs}, rule {report['rule']}",
        *([SYNTHETIC] * report["synthetic"]),
        *task.lines(report, calibration),
        "answers on the test images, summed:",
        *decide.counts_table(about["classes"], answered, expected * images),
        f"files: {FILES_OF_FOLDS if config.folds else FILES} in {shown(run.folder)}",
        f"time: {times}",
        *task.warning(report),
        *([paused] * (about["state"] == "paused")),
    ]


if __name__ == "__main__":
    raise SystemExit(command(main))
