"""The run folder: run.json, log.csv and checkpoints that load with `weights_only=True`."""

import fcntl
import io
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from errors import UserError
from files import ROOT, home, read_json, shown, write_bytes, write_json

STARTED = time.monotonic()


def elapsed() -> float:
    """Seconds since this process began, or since `CXR_STARTED` (Unix time) where another one began the session."""
    session = os.environ.get("CXR_STARTED")
    return time.time() - float(session) if session else time.monotonic() - STARTED


class Run:
    """A folder and its run.json. `about` is the file's content; `save` writes it."""

    def __init__(self, folder: Path):
        self.folder = Path(folder)
        self.about = read_json(self.folder / "run.json") if (self.folder / "run.json").is_file() else {}

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

    def save_checkpoint(self, name: str, content: dict) -> None:
        buffer = io.BytesIO()  # torch.save to a path raises a RuntimeError on a full disk, and keeps half a file
        torch.save(content, buffer)
        write_bytes(self / name, buffer.getbuffer())

    def load_checkpoint(self, name: str, device: torch.device, keys: Iterable[str]) -> dict:
        """A checkpoint that has all of `keys`. Raises UserError for a missing, damaged or foreign one."""
        try:
            content = torch.load(self / name, map_location=device, weights_only=True)
            return {key: content[key] for key in keys}
        except Exception as error:  # zip, pickle, decoding and type errors: each means that the file is damaged
            raise UserError(f"{shown(self / name)} cannot be loaded ({type(error).__name__}): delete {shown(self.folder)} and train again") from error

    def lock(self) -> None:
        """Keep other processes off this run until this one ends. Raises UserError when one is at work on it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = open(self / "lock", "w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"another process is at work on {shown(self.folder)}: wait for it, or give this run another name=") from error


def versions() -> dict[str, str]:
    from importlib.metadata import version

    names = ("torch", "timm", "albumentations", "numpy", "pillow")
    return {"python": sys.version.split()[0], **{name: version(name) for name in names}}


def commit() -> str | None:
    """The commit of the project, with `+` for uncommitted changes; None outside a checkout."""
    git = ["git", "-C", str(ROOT)]
    try:
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changed = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
    return head + ("+" if changed else "")


def random_state() -> dict:
    """The state of every random generator, as tensors and plain Python values."""
    name, keys, *rest = np.random.get_state()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": [name, keys.tolist(), *rest],
        "python": [list(part) if isinstance(part, tuple) else part for part in random.getstate()],
    }


def restore_random_state(state: dict) -> None:
    torch.set_rng_state(state["torch"].cpu())
    if torch.cuda.is_available() and state["cuda"]:
        torch.cuda.set_rng_state_all([generator.cpu() for generator in state["cuda"]])
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, np.array(keys, np.uint32), *rest))
    random.setstate(tuple(tuple(part) if isinstance(part, list) else part for part in state["python"]))
