"""`torchrun`, torch's own launcher, in this process: what it starts is a rank (see core/ranks.py), and how they end is
one sentence instead of its report. `python -m net.launch` takes its words; `./run.sh torchrun` is that.
"""

from core.errors import UserError, command  # first, so that Ctrl-C is quiet while torch loads

# isort: split

import logging
import os
import signal
import sys
import tempfile
import time
from collections.abc import Sequence

from torch.distributed import run
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from core import ranks
from core.files import ROOT
from core.runs import elapsed
from core.stopping import Terminated

HANDLED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)  # by torchrun, which never lets them go


def once_a_device(devices: int, script: str, argv: Sequence[str]) -> None:
    """Start a script of src/ with the same words on every one of so many devices of this machine, until all end."""
    if sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # the name of a container need not lead back to it
    here = ["--standalone", f"--nproc-per-node={devices}", "--local-addr=127.0.0.1"]
    torchrun([*here, str(ROOT / "src" / script), *argv])


def torchrun(words: list[str]) -> None:
    """Raises UserError where a process failed: by its own sentence, or by who was killed. Ctrl-C and SIGTERM reach all
    of them, and are raised here when they have ended."""
    handlers = {number: signal.getsignal(number) for number in HANDLED}
    with tempfile.TemporaryDirectory(prefix="torchrun-") as logs:
        given = run.parse_args(["--log-dir", logs, *words])
        cores = max(1, os.cpu_count() // int(given.nproc_per_node)) if given.nproc_per_node.isdecimal() else 1
        os.environ.setdefault("OMP_NUM_THREADS", str(cores))
        os.environ.setdefault("CXR_STARTED", str(time.time() - elapsed()))  # `hours` counts from here
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
        logging.disable(logging.CRITICAL)  # of torchrun's own words, which say the same three times
        try:
            run.run(given)
        except SignalException as stop:
            raise (KeyboardInterrupt if stop.sigval == signal.SIGINT else Terminated) from stop
        except ChildFailedError as error:
            raise _why(error.failures) from None
        finally:
            logging.disable(logging.NOTSET)
            for number, handler in handlers.items():
                signal.signal(number, handler)


def _why(failures: dict) -> UserError | SystemExit:
    """What ended the ranks: the first sentence that one of them left, or a signal that was not torchrun's own, or that
    they lost each other. After a defect, whose traceback was printed, just its exit code."""
    said = [one for one in failures.values() if os.path.isfile(one.error_file)]
    words = [one.message for one in sorted(said, key=lambda one: one.timestamp)]
    own = [word for word in words if not word.startswith(ranks.LOST)]
    # SIGABRT is NCCL's own, where GPUs do not answer each other
    aborted = any(one.exitcode == -signal.SIGABRT for one in failures.values())
    ends = (-signal.SIGTERM, -signal.SIGABRT)
    killed = [rank for rank, one in failures.items() if one.exitcode < 0 and one.exitcode not in ends]
    if own:
        return UserError(own[0])
    if killed:
        return UserError(
            f"one of the processes that train together was killed (rank {killed[0]}, by"
            f" {failures[killed[0]].signal_name()}), and the others ended with it: the same command goes on where it"
            " was saved; where no one killed it, its memory was short: try a smaller batch, workers=0 or devices=1"
        )
    if aborted or any(one.exitcode == 1 for one in failures.values()):
        return SystemExit(1)
    return UserError(words[0] if words else f"{ranks.LOST}: the same command goes on where it was saved")


if __name__ == "__main__":
    raise SystemExit(command(torchrun))
