"""Commands side by side, one a GPU."""

import os
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue

from core.errors import UserError
from core.runs import elapsed


def each(commands: dict[str, Sequence[str]], gpus: int, may_begin: Callable[[float], bool]) -> float:
    """Run the commands by name, as many at once as there are GPUs, each seeing one of them; their lines are printed
    behind the name. None is begun that `may_begin`, asked with the seconds of the longest so far, denies. Returns those
    seconds. Raises UserError, after the others have ended, when one fails; Ctrl-C ends all."""
    started = {"CXR_STARTED": str(time.time() - elapsed())}  # `hours` counts from the beginning of this process
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    free, running, failed, took = SimpleQueue(), [], [], [0.0]
    for gpu in visible.split(",")[:gpus] if visible else map(str, range(gpus)):
        free.put(gpu)

    def one(name: str) -> None:
        gpu = free.get()
        try:
            if failed or not may_begin(max(took)):
                return
            begun = time.monotonic()
            process = subprocess.Popen(
                commands[name], env={**os.environ, **started, "CUDA_VISIBLE_DEVICES": gpu}, stdin=subprocess.DEVNULL,
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
        finally:
            free.put(gpu)

    lock = threading.Lock()
    with ThreadPoolExecutor(gpus) as pool:
        try:
            list(pool.map(one, commands))
        except BaseException:
            failed.append("stopped")
            for process in running:
                process.terminate()
            raise
    if failed:
        raise UserError(failed[0])
    return max(took)
