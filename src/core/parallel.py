"""Commands side by side, one a device."""

import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import TypeVar

from core.errors import UserError
from core.runs import elapsed

T = TypeVar("T")


def places(devices: int) -> SimpleQueue[dict[str, str]]:
    """What is added to the environment of as many processes side by side: each sees one GPU, where there are some, and
    computes on its share of the cores."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, os.cpu_count() // devices))
    gpus, free = visible.split(",") if visible else list(map(str, range(devices))), SimpleQueue()
    for number in range(devices):
        free.put({"CUDA_VISIBLE_DEVICES": gpus[number % len(gpus)], "OMP_NUM_THREADS": threads})
    return free


def spread(
    work: Callable[[T, dict[str, str]], None], items: Iterable[T], devices: int, running: list[subprocess.Popen]
) -> None:
    """Work on every item at its place, on as many at once as there are devices. Ctrl-C ends what is `running`, which
    the work fills, and begins nothing more."""
    free, stopped = places(devices), []

    def one(item: T) -> None:
        place = free.get()
        try:
            if not stopped:
                work(item, place)
        finally:
            free.put(place)

    with ThreadPoolExecutor(devices) as pool:
        try:
            list(pool.map(one, items))
        except BaseException:
            stopped.append(True)
            for process in running:
                process.terminate()
            raise


def each(commands: dict[str, Sequence[str]], devices: int, may_begin: Callable[[float], bool]) -> float:
    """Run the commands by name, as many at once as there are devices, each on one of them; their lines are printed
    behind the name. None is begun that `may_begin`, asked with the seconds of the longest so far, denies. Returns those
    seconds. Raises UserError, after the others have ended, when one fails; Ctrl-C ends all."""
    started = {"CXR_STARTED": str(time.time() - elapsed())}  # `hours` counts from the beginning of this process
    running, failed, took, lock = [], [], [0.0], threading.Lock()

    def one(name: str, place: dict[str, str]) -> None:
        if failed or not may_begin(max(took)):
            return
        begun = time.monotonic()
        process = subprocess.Popen(
            commands[name], env={**os.environ, **started, **place}, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
        )  # fmt: skip
        running.append(process)
        last = ""
        for line in process.stdout:
            last = line.rstrip()
            with lock:
                print(f"{name}: {last}", flush=True)
        if process.wait():
            failed.append(f"{name} ended: {last.removeprefix('error: ')}")
        took.append(time.monotonic() - begun)

    spread(one, commands, devices, running)
    if failed:
        raise UserError(failed[0])
    return max(took)
