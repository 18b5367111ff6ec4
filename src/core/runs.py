"""The run folder: run.json, its lock, its times."""

import fcntl
import os
import re
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

from core.about import wrong
from core.errors import UserError, some
from core.files import ROOT, home, read_json, shown, write_json

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
    """A folder and its run.json. `about` is the file's content; `save` writes it."""

    def __init__(self, folder: Path):
        self.folder = Path(folder)
        self.about = read_json(self.folder / "run.json") if (self.folder / "run.json").is_file() else {}
        if odd := wrong(self.about):
            raise UserError(
                f"{shown(self.folder / 'run.json')} holds something else than its own {some(odd)}: put it back"
            )

    @classmethod
    def named(cls, name: str) -> "Run":
        return cls(home() / "runs" / name)

    @property
    def begun(self) -> bool:
        """Whether it has an epoch to go on from, or an end: only then do its settings, images and split bind."""
        return (self / "last.pt").is_file() or self.about.get("state") in ("trained", "paused")

    def save(self, **changes) -> None:
        self.about |= changes
        write_json(self.folder / "run.json", self.about)

    def __truediv__(self, name: str) -> Path:
        return self.folder / name

    @contextmanager
    def timed(self, stage: str):
        """Add the seconds inside to the run's timing of `stage`; the next `save` writes it."""
        start = time.monotonic()
        yield
        timings = dict(self.about.get("timings", {}))
        timings[stage] = round(timings.get(stage, 0.0) + time.monotonic() - start, 1)
        self.about["timings"] = timings

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


def read_run(folder: Path) -> dict:
    """`run.json` of a run folder."""
    folder = Path(folder)
    if not (folder / "run.json").is_file():
        raise UserError(f"{shown(folder)} is no run folder: it has no run.json (a run is made by ./run.sh CONFIG)")
    about = read_json(folder / "run.json")
    missing = [key for key in NEEDED if key not in about]
    missing = missing or wrong(about)
    if missing:
        what = f"{shown(folder / 'run.json')} lacks {some(missing)}, or holds something else there"
        raise UserError(f"{what}: delete {shown(folder)} and make the run again")
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
