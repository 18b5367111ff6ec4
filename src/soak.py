"""Kill a small run at random moments and start it again until it ends, N times over: `soak.py N [--seed S]`.

Every end must be, byte for byte, that of the run that nobody killed. The runs are of a synthetic set, with a network
that a CPU trains in seconds, and save after every step. Of two ranks that train one network, the first is killed.
"""

import csv
import multiprocessing
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from core import ranks
from core.commands import Parser
from core.errors import UserError, command
from core.files import ROOT, shown
from images import synthetic

COMMON = [
    "modelB", "model=test_resnet", "weights=none", "size=32", "epochs=3", "batch=16", "lr=1e-3", "val_fraction=0.36",
    "workers=0", "device=cpu", "save_minutes=1e-6", "name=soak",
]  # fmt: skip
KINDS = {  # of runs, with every piece that has a state of its own
    "one network": ["frozen_epochs=1"],
    "every piece": [
        "frozen_epochs=0", "schedule=cosine", "warmup=0.5", "drop_path=0.2", "accumulate=2", "ema=0.9",
        "average_epochs=2", "monitor=last", "mix=mixup", "refit=balanced", "rule=bayes",
    ],
    "two folds": ["frozen_epochs=1", "epochs=2", "folds=2", "fold=all"],
    "two ranks": ["frozen_epochs=1", "epochs=2", "drop_path=0.2", "mix=mixup", "ema=0.9", "devices=2"],
}  # fmt: skip
TIMES = {"seconds", "images_per_second", "validation_seconds"}  # columns of log.csv that may differ
COMPARED = ("folds.csv", "best.pt", "refit.pt", "val_logits.npz", "test_logits.npz", "calibration.json", "report.json",
            "per_class.csv")  # fmt: skip


@dataclass(frozen=True)
class Moment:
    """When a process is to die: `before`, `within` or `after` the file that it writes as its `number`th; or at the
    second `number` of the clock, by SIGKILL (`clock`) or by SIGINT or SIGTERM, which it may answer."""

    way: str
    number: float


AT_FILES = ("before", "within", "after")
NEVER_ENDS = 1000  # the exit code for ranks that outlive the first one
WAYS = (*AT_FILES, "clock", "SIGINT", "SIGTERM")


def child(home: str, words: list[str], moment: Moment | None, counted: str, place: dict[str, str]) -> None:
    """The main job in a process of its own, whose end is the moment; writes how many files it wrote into `counted`.
    `place` is added to its environment."""
    sys.stdout.flush()
    log = os.open(Path(home) / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.environ.update(place, CXR_HOME=home)
    import main

    written = watched(moment)
    code = command(main.main, words)
    Path(counted).write_text(str(written()))
    sys.stdout.flush()
    os._exit(code)


def places(home: Path, number: int) -> list[dict[str, str]]:
    """What `torchrun` would add to the environment of so many ranks on this machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    beside = home.with_name(f"{home.name}-ranks")
    beside.mkdir(exist_ok=True)
    return [
        {
            "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(number), "LOCAL_WORLD_SIZE": str(number),
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), ranks.LAST_WORD: str(beside / f"word{rank}.json"),
        }
        for rank in range(number)
    ]  # fmt: skip


def watched(moment: Moment | None) -> Callable[[], int]:
    """Have this process die where the moment is one of its file writing; returns what counts the files that it has put
    in their place."""
    replace, sync, times = os.replace, os.fsync, [0]
    way, number = (moment.way, moment.number) if moment else ("", 0)

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def replaced(source, target):
        times[0] += 1
        if times[0] == number and way == "before":
            die()
        replace(source, target)
        if times[0] == number and way == "after":
            die()

    def synced(descriptor):
        if times[0] + 1 == number and way == "within":
            os.truncate(f"/dev/fd/{descriptor}", os.fstat(descriptor).st_size // 2)
            die()
        sync(descriptor)

    os.replace, os.fsync = replaced, synced
    return lambda: times[0]


class Session:
    """Starts processes of the main job, each in a moment because the modules are loaded already."""

    def __init__(self):
        # what a killed process leaves of tqdm's lock is no news here
        os.environ["PYTHONWARNINGS"] = "ignore::UserWarning:multiprocessing.resource_tracker"
        os.environ["PYTHONPATH"] = str(ROOT / "src")  # or the server would not find what it is to load
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(["main", "pandas", "scipy.sparse"])
        first = self.context.Process(target=time.sleep, args=(0,))  # until all is loaded
        first.start()
        first.join()

    def run(self, home: Path, words: list[str], moment: Moment | None = None) -> int:
        """Start the main job, end it at that moment; returns its exit code, negative where a signal killed it. Of two
        ranks it is the first; the other one has to follow."""
        first, *others = places(home, 2) if "devices=2" in words else [{}]
        process = self.context.Process(target=child, args=(str(home), words, moment, str(home / "count.txt"), first))
        other = [self.context.Process(target=child, args=(str(home), words, None, os.devnull, it)) for it in others]
        for each in (process, *other):
            each.start()
        if moment and moment.way not in AT_FILES:
            process.join(moment.number)
            if process.is_alive():
                os.kill(process.pid, signal.SIGKILL if moment.way == "clock" else signal.Signals[moment.way])
        process.join()
        for each in other:
            each.join(60)
            if each.is_alive():
                each.kill()
                return NEVER_ENDS
        return process.exitcode


def ends(home: Path) -> dict[str, bytes]:
    """What a run leaves, by file: without the columns of its log that hold times."""
    found = {str(path.relative_to(home)): path.read_bytes() for path in sorted((home / "submissions").glob("*.csv"))}
    for path in sorted((home / "runs").rglob("*")):
        if path.name in COMPARED:
            found[str(path.relative_to(home))] = path.read_bytes()
        if path.name == "log.csv":
            rows = csv.DictReader(path.read_text().splitlines())
            kept = [{key: value for key, value in row.items() if key not in TIMES} for row in rows]
            found[str(path.relative_to(home))] = repr(kept).encode()
    for path in (home / "data" / "packed").rglob("images.npy"):
        found["packed images"] = path.read_bytes()
    return found


class Deck:
    """Moments to die at, one to three at a time. Those among the files that a run writes are drawn without
    replacement, so that enough trials meet all of them."""

    def __init__(self, seed: int):
        self.rng, self.left, self.met = np.random.default_rng(seed), {}, set()

    def draw(self, kind: str, way: str, files: int, seconds: float) -> list[Moment]:
        """Of a way, for a kind of run that writes so many files in so many seconds."""
        return [self._one(kind, way, files, seconds) for _ in range(self.rng.integers(1, 4))]

    def _one(self, kind: str, way: str, files: int, seconds: float) -> Moment:
        if way not in AT_FILES:
            return Moment(way, float(self.rng.uniform(0, seconds)))
        if not self.left.get((kind, way)):
            self.left[kind, way] = (self.rng.permutation(files) + 1).tolist()
        number = self.left[kind, way].pop()
        self.met.add((kind, way, number))
        return Moment(way, number)


def trial(session: Session, home: Path, words: list[str], deaths: list[Moment]) -> list[str]:
    """Kill the run at every one of the moments, and let it end; returns what went wrong."""
    wrong = []
    for moment in deaths:
        code = session.run(home, words, moment)
        if code not in (0, -signal.SIGKILL, 130, 143):
            wrong.append(f"exit code {code} after {moment}")
    code = session.run(home, words)
    return [*wrong, *([f"exit code {code} at the end"] if code else [])]


def soak(number: int, seed: int, folder: Path) -> list[str]:
    """`number` trials below the folder. Returns, for every one that went wrong, what did, and where its files lie."""
    session, data, deck = Session(), folder / "set", Deck(seed)
    synthetic.make(data, images=120, size=40, seed=7)
    wanted, lengths, failed, died = {}, {}, [], Counter()
    for trial_number in tqdm(range(number), desc="soak", unit="run", disable=None):
        kind = list(KINDS)[trial_number % len(KINDS)]
        words = [*COMMON, *KINDS[kind], "--data", str(data)]
        if kind not in wanted:
            start, home = time.monotonic(), folder / f"whole-{kind.replace(' ', '-')}"
            home.mkdir()
            if session.run(home, words):
                raise UserError(f"the run that nobody kills fails: see {shown(home / 'log.txt')}")
            wanted[kind], seconds = ends(home), time.monotonic() - start
            lengths[kind] = int((home / "count.txt").read_text()), seconds
        home, way = folder / f"trial-{trial_number}", WAYS[trial_number // len(KINDS) % len(WAYS)]
        home.mkdir()
        deaths = deck.draw(kind, way, *lengths[kind])
        wrong, found = trial(session, home, words, deaths), ends(home)
        wrong += [f"{name} differs" for name in wanted[kind] if found.get(name) != wanted[kind][name]]
        wrong += ["a half-written file is left"] * any(home.rglob(".*.part"))
        died[way] += len(deaths)
        if wrong:
            failed.append(f"{kind}, {deaths}: {'; '.join(wrong)} ({shown(home)})")
    print("killed: " + ", ".join(f"{way} {times}×" for way, times in died.items()))
    places = len(AT_FILES) * sum(files for files, _ in lengths.values())
    print(f"{len(deck.met)} of {places} places before, within and after the files that these runs write")
    return failed


def main(argv: list[str]) -> None:
    parser = Parser("soak")
    parser.add_argument("number", metavar="N", type=int)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(argv)
    if not 1 <= given.number <= 10_000:
        raise UserError(f"N is how many runs to kill, from 1 to 10000, and not {given.number}")
    start, folder = time.monotonic(), Path(tempfile.mkdtemp(prefix="soak-"))
    failed = soak(given.number, given.seed, folder)
    print("\n".join([*failed, f"{given.number - len(failed)} of {given.number} ends are byte-identical"]))
    print(f"{time.monotonic() - start:.0f} s")
    if failed:  # what went wrong can be looked at
        raise SystemExit(1)
    shutil.rmtree(folder)


if __name__ == "__main__":
    raise SystemExit(command(main))
