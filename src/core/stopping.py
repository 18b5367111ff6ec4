"""Ctrl-C and SIGTERM, which clusters and Kaggle send: both end a script where it stands, but never half-way through
what must be whole."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Terminated(KeyboardInterrupt):
    """SIGTERM; whatever cleans up after Ctrl-C cleans up after it too."""


def _terminate(number, frame):
    raise Terminated


@contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM raises `Terminated` in the block, unless something else already answers to it."""
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextmanager
def unbroken() -> Iterator[None]:
    """Put Ctrl-C and SIGTERM off until the end of the block: what is in it happens whole, or not at all."""
    if threading.current_thread() is not threading.main_thread():  # signals reach the main one only
        yield
        return
    came = []
    before = {number: signal.getsignal(number) for number in SIGNALS}
    heeded = [number for number in SIGNALS if before[number] != signal.SIG_IGN]  # as in a shell's background jobs
    try:
        for number in heeded:
            signal.signal(number, lambda found, frame: came.append(found))
        yield
    finally:
        for number in heeded:
            signal.signal(number, before[number])
        if came:
            os.kill(os.getpid(), came[0])  # now it is heard
