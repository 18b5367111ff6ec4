"""A home of its own for every test, a tiny synthetic data set, and a way to call a script as the shell would."""

import json
import os
import shutil
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"
sys.path.insert(0, str(ROOT / "src"))
os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"

needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="the real sample data in ../shared is not here")

# A network that a CPU trains in a second, on images as small as a configuration allows.
TINY = [
    "model=test_convnext",
    "weights=none",
    "size=32",
    "epochs=3",
    "frozen_epochs=1",
    "batch=16",
    "lr=1e-3",
    "val_fraction=0.36",
    "workers=0",
]


@dataclass
class Said:
    """What a script answered: exit code, stdout, stderr."""

    code: int
    out: str
    err: str


def unsealed(run: Path) -> None:
    """Make it a run of a version that took no note of its files' sums."""
    about = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({key: value for key, value in about.items() if key != "sums"}))


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch) -> Path:
    for name in list(os.environ):
        if name.startswith(("CXR_", "KAGGLE")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    monkeypatch.setenv("CXR_HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


@pytest.fixture(autouse=True, scope="session")
def heard():
    """Ctrl-C is heard here, also where a shell's background job, such as this one, would ignore it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True, scope="session")
def no_page():
    """A main job in this process ends without drawing its page, which takes seconds: test_report.py draws them."""
    import report

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "write_page", lambda folder: folder / "report.html")
        yield


@pytest.fixture(scope="session")
def made(tmp_path_factory) -> Path:
    """120 synthetic images in the competition's layout; read only."""
    from images import synthetic

    folder = tmp_path_factory.mktemp("set") / "tiny"
    synthetic.make(folder, images=120, size=40, seed=7)
    return folder


@pytest.fixture
def tiny(made, tmp_path) -> Path:
    """A copy of the tiny set that a test may break."""
    return Path(shutil.copytree(made, tmp_path / "tiny"))


@pytest.fixture
def call(capsys):
    """Run a script's main in this process: `call("score", "a.csv", "b.csv")`."""
    import importlib

    from core import errors

    def run(verb: str, *argv) -> Said:
        capsys.readouterr()
        code = errors.command(importlib.import_module(verb).main, [str(word) for word in argv])
        return Said(code, *capsys.readouterr())

    return run


@pytest.fixture
def ctrl_c_after_an_epoch(monkeypatch):
    """Called, a Ctrl-C follows the checkpoint of each epoch before the third."""
    from net import checkpoint

    save = checkpoint.save

    def interrupted(path, content):
        save(path, content)
        if path.name == "last.pt" and len(content["history"]) < 3:
            raise KeyboardInterrupt

    return lambda: monkeypatch.setattr(checkpoint, "save", interrupted)
