"""Which of how many processes this is, where `torchrun` started one a device for one training; alone it is the first
of one. Loads no torch.

`torchrun` gives each of its processes a file for its last word. Here that is the sign that it is one of them.
"""

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

LAST_WORD = "TORCHELASTIC_ERROR_FILE"
LOST = "the processes that train together lost each other"  # how a last word begins that has its cause elsewhere


def _number(name: str, alone: int) -> int:
    return int(os.environ[name]) if LAST_WORD in os.environ else alone


def rank() -> int:
    """The number of this process, from 0. Rank 0 is the one that writes and speaks."""
    return _number("RANK", 0)


def count() -> int:
    return _number("WORLD_SIZE", 1)


def local_rank() -> int:
    """Its number on this machine: that of its GPU."""
    return _number("LOCAL_RANK", 0)


def local_count() -> int:
    return _number("LOCAL_WORLD_SIZE", 1)


def scratch() -> Path:
    """A folder that `torchrun` removes, or leaves with its logs: where a rank that is not the first writes what the
    first one writes into the run."""
    return Path(os.environ[LAST_WORD]).parent / f"rank{rank()}"


@contextmanager
def spoken_once() -> Iterator[None]:
    """Only the first rank prints. A defect's traceback, which comes after the block, is printed by every one."""
    if rank() == 0:
        yield
        return
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        yield


def told(sentence: str) -> bool:
    """Leave a sentence to `torchrun`, so that one of all is said once; returns whether there is one to leave it to."""
    if LAST_WORD not in os.environ:
        return False
    sys.stdout.flush()
    Path(os.environ[LAST_WORD]).write_text(json.dumps({"message": sentence, "timestamp": int(time.time())}))
    return True
