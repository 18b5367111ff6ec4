"""Whatever a script's output goes to: an ASCII terminal, a full disk, nothing at all."""

import os
import subprocess
import sys

import pytest

from conftest import ROOT

ASCII = {"LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
LISTED = ["-m", "core.commands"]  # has a ×
WRONG = ["tune.py", "nowhere.npz"]
FAULT = "error: nowhere.npz cannot be read (No such file or directory)"


def said(words: list[str], redirected: str = "", **environment: str) -> subprocess.CompletedProcess:
    """A script run by a shell that redirects its streams."""
    command = [sys.executable, *words]
    shell = ["sh", "-c", f'exec "$@" {redirected}', "sh", *command]
    return subprocess.run(
        shell,
        cwd=ROOT / "src",
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=60,
        errors="replace",
    )


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_what_a_terminal_cannot_show_is_escaped(encoding):
    found = said(LISTED, **(ASCII | {"PYTHONIOENCODING": encoding}))
    assert found.returncode == 0 and "Traceback" not in found.stderr
    assert "experiment FILE" in found.stdout and ("rows \\xd7 seeds" in found.stdout) == (encoding == "ascii")


@pytest.mark.parametrize(
    ("words", "redirected", "code"),
    [
        (LISTED, ">&-", 0),
        (LISTED, ">&- 2>&-", 0),
        (LISTED, ">/dev/full", 2),
        (WRONG, ">&- 2>&-", 2),
        (WRONG, ">/dev/full 2>/dev/full", 2),
        (WRONG, ">&-", 2),
        (WRONG, "2>&-", 2),
        (WRONG, "2>/dev/full", 2),
    ],
)
def test_closed_and_full_streams(words, redirected, code):
    """The exit code stays what it is, and the sentence goes where there is still room for it."""
    found = said(words, redirected)
    assert found.returncode == code and "Traceback" not in found.stdout + found.stderr
    if words == WRONG and redirected.count(">") == 1:
        assert FAULT in found.stdout + found.stderr
    if words == LISTED and code:
        assert "error: no space left while writing a file" in found.stderr


def test_a_reader_that_has_seen_enough(tmp_path):
    """`| head -1`: no traceback, and none when Python flushes at its end."""
    shell = f"cd {ROOT / 'src'}; {sys.executable} -m core.commands 2>{tmp_path}/said | head -1"
    assert subprocess.run(["bash", "-c", shell], capture_output=True, text=True).stdout.startswith("./run.sh")
    assert (tmp_path / "said").read_text() == ""
