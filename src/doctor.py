"""What is here and what is missing: `doctor.py`. Shows where credentials lie, never their values. Loads no torch."""

import os
import platform
import shutil
import subprocess
from collections.abc import Iterator
from typing import NamedTuple

from core.commands import Parser
from core.errors import UserError, command
from core.files import ROOT, home, shown
from core.packages import asked, installed, locked
from images import locate
from leaderboard import bundle, client
from tasks import registry


class Line(NamedTuple):
    fine: bool
    what: str
    how: str


def checks() -> Iterator[Line]:
    """A line for everything that the kit needs or uses."""
    system = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    yield Line(True, "machine", f"{system}, Python {platform.python_version()}, {_gpu()}")
    yield from _packages()
    for name in ("modelB", *sorted(registry.TASKS.keys() - {"competition"})):
        yield _data(name)
    folder = home() / "weights"
    files = ", ".join(shown(path) for path in sorted(folder.glob("*.safetensors")))
    nothing = "no file in weights/: fetched from the hub when a run begins, or by ./run.sh weights CONFIG"
    yield Line(True, "weights", files or nothing)
    free = shutil.disk_usage(home()).free
    yield Line(free > 10e9, "disk", f"{free / 1e9:.0f} GB free in {shown(home())}")
    yield from _kaggle()


def _packages() -> Iterator[Line]:
    lock = locked()
    for name in asked():
        number = installed(name)
        if number is None:
            yield Line(False, name, "not installed: ./run.sh installs requirements.txt when it is missing")
        else:
            other = number.partition("+")[0] not in lock[name]
            yield Line(True, name, number + (f", where the lock has {' or '.join(lock[name])}" if other else ""))


def _data(name: str) -> Line:
    """Whether a configuration's data set is where it is looked for; only the competition's is missed."""
    config = registry.load(name)
    layout = registry.TASKS[config.task].layout
    what = "data" if layout.from_kaggle else f"data of {name}"
    if not layout.from_kaggle and not (home() / "data" / config.slug).is_dir():
        return Line(
            True, what, f"not in data/{config.slug} (needed for ./run.sh {name} only; --data DIR names another place)"
        )
    try:
        source = locate.find(None, config.slug, layout)
    except UserError as error:
        return Line(False, what, str(error))
    if source is None:
        return Line(False, what, "none found: ./run.sh download, or give --data DIR")
    return Line(True, what, f"in {shown(source.folder)}")


def _kaggle() -> Iterator[Line]:
    mine = client.credentials()
    there = f"credentials in {mine.where}" if mine.where else f"no credentials: make a token at {client.TOKENS}"
    yield Line(mine.where is not None, "Kaggle", there)
    yield from (Line(False, "Kaggle", fault) for fault in mine.faults)
    for path in sorted((ROOT / "kernels").glob("*/kernel-metadata.json")):
        name = path.parent.name
        try:
            yield Line(True, f"kernel {name}", bundle.metadata(name, "OWNER")["id"])
        except UserError as error:
            yield Line(False, f"kernel {name}", str(error))


def _gpu() -> str:
    """The GPUs as the driver names them; torch takes seconds to load, and says the same."""
    ask = ["nvidia-smi", "--query-gpu=name,compute_cap", "--format=csv,noheader"]
    try:
        said = subprocess.run(ask, capture_output=True, text=True, check=True, timeout=20).stdout
    except (OSError, subprocess.SubprocessError):
        return "no NVIDIA GPU"
    names = [line.replace(", ", ", compute capability ") for line in said.strip().splitlines()]
    return "; ".join(names) or "no NVIDIA GPU"


def main(argv: list[str]) -> None:
    Parser("doctor").parse_args(argv)
    lines = list(checks())
    for fine, what, how in lines:
        print(f"{'ok     ' if fine else 'MISSING'} {what:24} {how}")
    missing = sum(not line.fine for line in lines)
    print(f"{missing} things to see to" if missing else "everything is here")


if __name__ == "__main__":
    raise SystemExit(command(main))
