"""The run folder: run.json, its lock, its times."""

import fcntl
import os
import re
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

from core.about import wrong
from core.errors import UserError, some
from core.files import ROOT, digest, home, read_json, shown, write_json

STARTED = time.monotonic()


def elapsed() -> float:
    """Seconds since this process began, or since `CXR_STARTED` (Unix time) where another one began the session."""
    session = os.environ.get("CXR_STARTED")
    if session and not re.fullmatch(r"\d+(\.\d*)?", session):
        raise UserError(f"CXR_STARTED = {session!r} is no number of seconds since 1970: unset it")
    return time.time() - float(session) if session else time.monotonic() - STARTED


def clock(seconds: float) -> str:
    """Seconds as `2 h 05 min`, `3 min 20 s` or `45 s`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


class Run:
    """A folder and its run.json. `about` is the file's content, and empty where it is damaged; `save` writes it."""

    def __init__(self, folder: Path):
        self.folder, self.about, self._timing = Path(folder), {}, None
        if (self / "run.json").is_file():
            try:
                self.about = read_run_json(self / "run.json")
            except UserError as error:
                print(f"WARNING: {error}; what it said is made again where that is possible", file=sys.stderr)

    @classmethod
    def named(cls, name: str) -> "Run":
        return cls(home() / "runs" / name)

    @property
    def begun(self) -> bool:
        """Whether it has an epoch to go on from, or an end: only then do its settings, images and split bind."""
        checkpoints = any((self / name).is_file() for name in ("last.pt", "previous.pt"))
        return checkpoints or self.about.get("state") in ("trained", "paused")

    def save(self, **changes) -> None:
        self._count()
        self.about |= changes
        write_json(self.folder / "run.json", self.about)

    def __truediv__(self, name: str) -> Path:
        return self.folder / name

    def seal(self, *names: str) -> None:
        """Remember files as they are now; the next `save` writes it. See `whole`."""
        sums = {name: digest((self / name).read_bytes()) for name in names}
        self.about["sums"] = {**self.about.get("sums", {}), **sums}

    def whole(self, name: str) -> bool:
        """Whether a file is there, and as it was when it was sealed, where it was."""
        return whole(self.folder, self.about, name)

    @contextmanager
    def timed(self, stage: str):
        """Add the seconds inside to the run's timing of `stage`; every `save`, inside too, writes it."""
        outer, self._timing = self._timing, (stage, time.monotonic())
        try:
            yield
        finally:
            self._count()
            self._timing = outer

    def _count(self) -> None:
        if not self._timing:
            return
        (stage, start), now = self._timing, time.monotonic()
        timings = self.about.get("timings", {})
        self.about["timings"] = {**timings, stage: round(timings.get(stage, 0.0) + now - start, 2)}
        self._timing = (stage, now)

    def lock(self, wait: bool = False) -> None:
        """Keep other processes off this run until this one ends. When one is at work on it, waits for it, or raises
        UserError."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = open(self / "lock", "w")  # noqa: SIM115, it stays open: closing it ends the lock
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError as error:
            raise UserError(
                f"another process is at work on {shown(self.folder)}: wait for it, or give this run another name="
            ) from error


NEEDED = ("config", "data", "classes", "counts", "rows", "prior", "state")  # in run.json


def whole(folder: Path, about: dict, name: str) -> bool:
    """Whether a run's file is there, and as it was when its run.json took note of it, which not every version did."""
    path, noted = folder / name, about.get("sums", {}).get(name)
    return path.is_file() and noted in (None, digest(path.read_bytes()))


def require_whole(folder: Path, about: dict, name: str) -> None:
    """Raises UserError for a file of a run that is not as the run wrote it."""
    if not whole(folder, about, name):
        raise UserError(
            f"{shown(folder / name)} is not as this run wrote it: run the main job on it once more, which makes it"
            " again where that is possible"
        )


def read_run(folder: Path) -> dict:
    """`run.json` of a run folder."""
    folder = Path(folder)
    if not (folder / "run.json").is_file():
        raise UserError(f"{shown(folder)} is no run folder: it has no run.json (a run is made by ./run.sh CONFIG)")
    about = read_run_json(folder / "run.json")
    missing = [key for key in NEEDED if key not in about]
    if missing:
        raise UserError(f"{shown(folder / 'run.json')} lacks {some(missing)}: {AGAIN}")
    return about


AGAIN = "run the command that began the run once more, which makes it again where that is possible"


def read_run_json(path: Path) -> dict:
    """What a run.json holds, complete or not. Raises UserError for a damaged one."""
    try:
        about = read_json(path)
    except UserError as error:
        raise UserError(f"{str(error).partition(':')[0]}: {AGAIN}") from error
    if odd := wrong(about):
        raise UserError(f"{shown(path)} holds something else at {some(odd)} than a run has there: {AGAIN}")
    return about


def commit() -> str | None:
    """The commit of the project, with `+` for uncommitted changes; None outside a checkout."""
    git = ["git", "-C", str(ROOT)]
    try:
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changed = subprocess.run(
            [*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
    return head + ("+" if changed else "")
