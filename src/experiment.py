"""A study, from its YAML file to its table: `experiment.py FILE [--data DIR] [--demo] [--toy] [--part I/N] [key=value
…]`.

Every cell is trained by the main job in a process of its own, and decided here. All state is on disk: a run in runs/, a
record of every finished cell in studies/NAME/cells/. The same command goes on where it was stopped, and parts of a
study that were done elsewhere are put together by `--collect DIR …`. Needs no torch.
"""

import fcntl
import itertools
import os
import re
import subprocess
import sys
import time
from argparse import Namespace
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from core import folds, parallel
from core.commands import Parser
from core.config import Config
from core.data_set import Layout
from core.errors import UserError, command, some
from core.files import ROOT, SYNTHETIC, digest, home, read_json, shown, write_bytes, write_json, write_rows
from core.runs import read_run
from core.task import Task
from images import locate
from tasks import studies
from tasks.opened import open_run
from tasks.studies import Cell, Study

OUTPUT = "output.log"  # what the main job said, in the run's folder


@dataclass(frozen=True)
class Data:
    """Where the cells' data lie (None: the built-in synthetic set), a digest of the label files, and what the main job
    will take them for."""

    folder: Path | None
    labels: str
    synthetic: bool
    quick: bool  # the demo settings apply

    @property
    def key(self) -> str:
        return digest(f"{self.folder} {self.labels} {self.synthetic}".encode())

    @property
    def words(self) -> list[str]:
        return [*(["--data", str(self.folder)] if self.folder else []), *["--demo"] * self.quick]


def find(given: str | None, slug: str, layout: Layout, want_demo: bool) -> Data:
    """The data set as the main job would find it, without making the synthetic one."""
    source = locate.data_set(given, slug, layout, want_demo)
    if source is None:
        return Data(None, "built-in", True, True)
    return Data(
        source.folder, digest(b"".join(path.read_bytes() for path in source.tables)), source.synthetic, want_demo
    )


# ---- one cell
def finished(run: Path, config: Config) -> bool:
    """Whether the main job came to its end there; of a cross-validation, with the folds that the configuration asks
    for."""
    files = ("run.json", "report.json", "calibration.json", "val_logits.npz")
    if not all((run / name).is_file() for name in files):
        return False
    about = read_run(run)
    if config.folds:  # only folds with their test logits are joined
        states = [read_run(folds.folder(run, fold))["state"] for fold in about.get("joined", ())]
        return set(config.asked_folds) <= set(about.get("joined", ())) and set(states) == {"trained"}
    predicted = (about.get("predicted") or [None])[0] == about.get("best_epoch")
    return about.get("state") == "trained" and (run / "test_logits.npz").is_file() and predicted


@contextmanager
def alone(run: Path) -> Iterator[int]:
    """Wait until no study is at work on the run, then keep others off; yields the file descriptor that holds the lock.

    The main job inherits it: where this process is killed and that one goes on, the next study waits for it.
    """
    run.mkdir(parents=True, exist_ok=True)
    with open(run / "cell.lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"waiting for the process that is at work on {shown(run)}", flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield file.fileno()


@dataclass
class Place:
    """Where a cell's main job runs: `given` is added to its environment; of several side by side, on one device each,
    it is counted among those that are `running`."""

    given: dict[str, str] = field(default_factory=dict)
    running: list[subprocess.Popen] = field(default_factory=list)


def train(cell: Cell, run: Path, data: Data, lock: int, place: Place) -> None:
    """The main job for one run, its output added to the run's output.log. Raises UserError with its last words when it
    fails."""
    words = [
        sys.executable,
        str(ROOT / "src" / "main.py"),
        cell.words[0],
        *data.words,
        *cell.words[1:],
        *["devices=1"] * bool(place.given),
        f"name={run.name}",
        "--no-page",
    ]
    with open(run / OUTPUT, "ab") as log:
        start = log.tell()
        process = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, pass_fds=[lock],
            env={**os.environ, **place.given},
        )  # fmt: skip
        place.running.append(process)
        try:
            code = process.wait()
        except BaseException:  # Ctrl-C: what is on disk is whole at any moment
            process.terminate()
            process.wait()
            raise
    if code == 0 and finished(run, cell.config):
        return
    said = (run / OUTPUT).read_bytes()[start:].decode(errors="replace").strip().splitlines()
    if code == 0:
        raise UserError(next((line for line in said if line.startswith("PAUSED")), "it ended before it was trained"))
    last = next(
        (line.removeprefix("error: ") for line in reversed(said) if line.startswith("error: ")),
        said[-1] if said else "it said nothing",
    )
    raise UserError(f"{last if code > 0 else f'killed by signal {-code}'} (see {shown(run / OUTPUT)})")


def record(cell: Cell, run: Path, data: Data, task: Task) -> dict:
    """The cell's figures, from the run's logits decided by the cell's own rule and temperature; nothing of the run is
    changed."""
    opened = open_run(run)
    about, calibration = opened.about, task.calibrate(opened.vals, cell.config.given_temperature)
    found = opened.evidence._replace(calibration=calibration, rule=cell.config.rule)
    report = task.report(found, opened.rows) | {"rule": cell.config.rule}
    return {
        "row": cell.row,
        "seed": cell.config.seed,
        "run": run.name,
        "data": str(data.folder or "built-in"),
        "labels": data.labels,
        "synthetic": bool(about["synthetic"]),
        "part": "test" if "test" in report else "validation",
        "figures": task.headline(report),
        "parameters": about["parameters"]["total"],
        "trainable": about["parameters"]["trainable"],
        "best_epoch": about["best_epoch"],
        "seconds": about["timings"].get("train", 0.0),
        "config": cell.config.model_dump(),
    }


# ---- all cells
def recorded(path: Path, study: Study) -> dict | None:
    """The record of a finished cell; None where there is none, or one from before a metric of the study was there."""
    found = read_json(path) if path.is_file() else None
    return found if found and set(study.metrics) <= found["figures"].keys() else None


def attempt(cell: Cell, run: Path, data: Data, task: Task, study: Study, place: Place) -> tuple[dict | None, bool, str]:
    """Do a cell. Returns its record, None where it failed; whether its run was trained for it; and in words its
    figures, or why there are none."""
    try:
        with alone(run) as lock:
            trained = not finished(run, cell.config)
            if trained:
                train(cell, run, data, lock, place)
            found = record(cell, run, data, task)
    except UserError as error:
        return None, True, f"FAILED: {error}"
    values = {task.headings[name]: found["figures"][name] for name in study.metrics}
    said = "  ".join(f"{title} {'–' if value is None else f'{value:.3f}'}" for title, value in values.items())
    return found, trained, said


def work(study: Study, wanted: Sequence[Cell], folder: Path, data: Data) -> tuple[dict[str, dict], list[str]]:
    """Do the cells that are not done. Returns the records by cell key, and a sentence for every cell that failed."""
    task = studies.task_of(wanted)
    file_of = {cell.key: folder / "cells" / f"{cell.key}-{data.key}.json" for cell in wanted}
    run_of = {cell.key: home() / "runs" / cell.run(data.key) for cell in wanted}
    records = {key: found for key, path in file_of.items() if (found := recorded(path, study))}
    left = list({cell.key: cell for cell in wanted if cell.key not in records}.values())
    runs = {run_of[cell.key]: cell.config for cell in left}
    there = {run for run, config in runs.items() if finished(run, config)}
    others = {run.name for run in there} - {one["run"] for one in records.values()}
    print(
        f"{len(wanted)} cells of {len({run_of[cell.key] for cell in wanted})} runs:"
        f" {sum(cell.key in records for cell in wanted)} cells done before, {len(others)} finished runs reused,"
        f" {len(runs.keys() - there)} to train",
        flush=True,
    )

    failed, times, quiet, ahead = [], [], not sys.stdout.isatty(), {cell.key: cell for cell in left}
    devices = side_by_side(left, len(runs))

    def one(cell: Cell, place: Place) -> None:
        bar.set_postfix_str(cell.said)
        run, begun = run_of[cell.key], time.monotonic()
        found, trained, said = attempt(cell, run, data, task, study, place)
        if found:
            records[cell.key] = found
            write_json(file_of[cell.key], found)
            times.extend([time.monotonic() - begun] * trained)
        else:
            failed.append(cell.said)
        del ahead[cell.key]
        rest = len({run_of[key] for key, other in list(ahead.items()) if not finished(run_of[key], other.config)})
        eta = sum(times) / len(times) * rest / devices if times else 0
        if quiet or not found:
            took = tqdm.format_interval(time.monotonic() - begun) + ("" if trained else ", run reused")
            took += f", about {tqdm.format_interval(eta)} left" * bool(rest and times)
            tqdm.write(f"cell {len(left) - len(ahead)}/{len(left)}  {cell.said}: {said}  ({took})", file=sys.stdout)
            sys.stdout.flush()
        bar.update()

    with tqdm(total=len(left), desc=folder.name, unit="cell", file=sys.stdout, disable=quiet, leave=False) as bar:
        if devices == 1:
            for cell in left:
                one(cell, Place())
        else:
            running, sharing = [], defaultdict(list)  # cells that share a run come one after the other
            for cell in left:
                sharing[run_of[cell.key]].append(cell)
            parallel.spread(
                lambda cells, given: [one(cell, Place(given, running)) for cell in cells],
                sharing.values(), devices, running,
            )  # fmt: skip
    return records, failed


def side_by_side(cells: Sequence[Cell], runs: int) -> int:
    """On how many devices at once so many runs of cells are trained: each on one."""
    if runs < 2:
        return 1
    from net import machine  # here, for it loads torch

    return min(machine.devices(cells[0].config), runs)


def part_of(cells: Sequence[Cell], part: str | None) -> list[Cell]:
    """Every N-th run's cells, beginning with the I-th run: cells that share a run stay together."""
    if part is None:
        return list(cells)
    found = re.fullmatch(r"(\d+)/(\d+)", part)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise UserError(f"--part {part} is not understood: 2/4 is the second of four parts")
    first, step = int(found[1]) - 1, int(found[2])
    names = list(dict.fromkeys(cell.run("") for cell in cells))[first::step]
    if not names:
        raise UserError(f"--part {part}: there are only {len({cell.run('') for cell in cells})} runs to part")
    return [cell for cell in cells if cell.run("") in names]


def by_label(study: Study, task: Task, cells: Sequence[Cell], records: dict[str, dict]) -> list[str]:
    """What the study asks of single labels, as lines: every row's figures less the published ones. Of rows whose runs
    are here."""
    import compare  # here, for few studies need it

    runs = {row: [] for row in study.asked}
    for cell in cells:
        run = home() / "runs" / records[cell.key]["run"] if cell.key in records else None
        if run and (run / "report.json").is_file():
            runs[cell.row].append(run)
    for row in itertools.chain.from_iterable(same[1:] for same in studies.same(cells)):
        runs.pop(row)  # another row's runs under another name
    sides = compare.sides([f"{row}={','.join(map(str, its))}" for row, its in runs.items() if its])
    said = []
    for name, file in study.per_label.items():
        path = ROOT / "configs" / "published" / file
        published = compare.read_published(path, name)
        deltas = [compare.label_deltas(side, published, name) for side in sides]
        said += ["", *compare.delta_lines(deltas, path, task.headings[name])]
    return said


def write(table: dict, folder: Path) -> None:
    write_json(folder / "table.json", table)
    write_rows(folder / "table.csv", studies.csv_rows(table))
    write_bytes(folder / "table.md", ("\n".join(studies.lines(table)) + "\n").encode())


def arguments(argv: list[str]) -> Namespace:
    parser = Parser("experiment")
    parser.add_argument("study", metavar="FILE", help="a .yaml file, or its name below configs/experiments/")
    parser.add_argument("--data", metavar="DIR", help="as for the main job")
    parser.add_argument("--demo", action="store_true", help="the built-in synthetic data with quick settings")
    parser.add_argument("--toy", action="store_true", help="the same with tiny networks, to see that the study runs")
    parser.add_argument("--part", metavar="I/N", help="only the I-th of N parts, such as 2/4")
    collect = "studies' folders whose finished cells to make the table of; nothing is trained"
    parser.add_argument("--collect", metavar="DIR", type=Path, nargs="+", help=collect)
    parser.add_argument("settings", nargs="*", metavar="key=value", help="settings of all rows")
    given = parser.parse_intermixed_args(argv)
    if given.collect and (given.part or given.data):
        raise UserError("--collect only reads finished cells: leave --part and --data out")
    return given


def asked(given: Namespace, path: Path, study: Study, quick: bool) -> list[Cell]:
    """The cells of a study as the command line asks for them, each checked as the main job would."""
    from net.checks import check  # here, for it loads torch

    return studies.cells(study, path, given.settings, quick, quick, given.toy, check)


def collected(given: Namespace, path: Path, cells: Sequence[Cell]) -> dict[str, dict]:
    """The records of cells that were done elsewhere. Raises UserError when there is none of them."""
    records = studies.collected(given.collect, cells)
    if not records:
        where = some(shown(folder) for folder in given.collect)
        raise UserError(
            f"no cell of {shown(path)} as it is asked here is in {where}: "
            "give the same --demo, --toy and key=value as there"
        )
    return records


def main(argv: list[str]) -> None:
    given = arguments(argv)
    path, study = studies.read(given.study)
    quick = given.demo or given.toy
    cells, data, failed = asked(given, path, study, quick), None, []
    if given.collect:
        records = collected(given, path, cells)
        synthetic = any(one["synthetic"] for one in records.values())
    else:
        data = find(given.data, cells[0].config.slug, studies.task_of(cells).layout, quick)
        if data.quick != quick:  # nothing was found, and the synthetic set has settings of its own
            cells = asked(given, path, study, True)
        synthetic = data.synthetic
    folder = home() / "studies" / f"{path.stem}{'-toy' * given.toy}{'-demo' * (synthetic and not given.toy)}"
    notes = [f"note: {' and '.join(rows)} ask for the same here" for rows in studies.same(cells)]
    print("\n".join([f"{path.stem}: {study.title}", *[SYNTHETIC] * synthetic, *notes]), flush=True)
    if data:
        records, failed = work(study, part_of(cells, given.part), folder, data)
        for cell in cells:  # what other parts left here
            place = folder / "cells" / f"{cell.key}-{data.key}.json"
            if cell.key not in records and (found := recorded(place, study)):
                records[cell.key] = found
    table = studies.table(study, cells, records, given.toy)
    write(table, folder)
    wrote = f"wrote {shown(folder / 'table.md')}, table.csv and table.json"
    beside = by_label(study, studies.task_of(cells), cells, records) if study.per_label else []
    print("\n".join(["", *studies.lines(table), *beside, "", wrote]), flush=True)
    if failed:
        raise UserError(
            f"{len(failed)} cells failed: {some(failed)}; their sentences stand above: "
            "mend it and run the same command again, what is finished is kept"
        )


if __name__ == "__main__":
    raise SystemExit(command(main))
