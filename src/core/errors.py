"""How every script ends: a user's mistake is one sentence on stderr and exit code 2; a defect keeps its traceback.

The first import of every script that loads torch, so that Ctrl-C is quiet even while heavier modules are still loading.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from contextlib import suppress

from core import ranks
from core.stopping import Terminated, terminable

FULL_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class UserError(Exception):
    """Something the user can mend. The message says what is wrong, where, and what to do."""


def some(names, most: int = 8) -> str:
    """The first few names of a list and how many more there are: `a.png, b.png and 31 more`."""
    names = [str(name) for name in names]
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")


def command(main: Callable[[list[str]], None], argv: list[str] | None = None) -> int:
    """Run a script's main and return the exit code: 0 done, 2 a user's mistake or a full disk, 130 Ctrl-C, 143
    SIGTERM."""
    _open_streams()
    try:
        with terminable(), ranks.spoken_once():
            main(sys.argv[1:] if argv is None else argv)
            if sys.stdout:
                sys.stdout.flush()  # what cannot be written is noticed here, and not after the end
    except UserError as error:
        return _say(str(error), 2)
    except Terminated:
        return _say(INTERRUPTED.replace("interrupted", "terminated"), 143)
    except KeyboardInterrupt:
        return _say(INTERRUPTED, 130)
    except BrokenPipeError:  # the reader, such as `| head`, has seen enough
        _drop_output()
        return 1
    except RuntimeError as error:  # torch raises it where a worker died, also from a signal, wherever this process is
        if not str(error).startswith("DataLoader worker") and "</torch_" not in str(error):  # its piece of /dev/shm
            raise
        return _say(WORKER, 2)
    except OSError as error:
        if error.errno in FULL_DISK:
            return _say(
                f"no space left while writing {error.filename or 'a file'}: free some and run the same command again", 2
            )
        if error.filename is None:
            raise
        return _say(
            f"{error.filename}: {error.strerror}; if it is a place to write to, CXR_HOME=DIR chooses another", 2
        )
    return 0


WORKER = (
    "a process that loads images died, as it does when it is killed or when memory or shared memory (/dev/shm) is full:"
    " run the same command again, with workers=0 if it dies again"
)
INTERRUPTED = "interrupted; run the same command again: training goes on where it was saved"


def _say(sentence: str, code: int) -> int:
    """Say it on stderr, or on stdout where that is closed or full. One of several ranks leaves that to the process that
    started them; what a signal ended is heard there, too."""
    if ranks.count() > 1 and (code != 2 or ranks.told(sentence)):
        return code
    try:
        if sys.stdout:
            sys.stdout.flush()
    except OSError:
        _drop_output()
    for stream in (sys.stderr, sys.stdout):
        with suppress(OSError):
            print(f"error: {sentence}" if code == 2 else f"\n{sentence}", file=stream, flush=True)
            break
    return code


def _open_streams() -> None:
    """Let every letter be printed on every terminal, ASCII ones too. Where a stream is closed its number is taken here,
    or a library's warnings would be written into the next file that is opened."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")


def _drop_output() -> None:
    """Nothing more goes to stdout, where it cannot be written; Python would try again at its end."""
    if sys.stdout:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _quiet_interrupt(kind, value, trace):
    if issubclass(kind, KeyboardInterrupt) and ranks.count() > 1:
        return  # the process that started the ranks heard it, too
    if issubclass(kind, KeyboardInterrupt):
        print(f"\n{INTERRUPTED}", file=sys.stderr)
    else:
        sys.__excepthook__(kind, value, trace)


sys.excepthook = _quiet_interrupt
