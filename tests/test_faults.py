"""One table: every file of a run × cut, flipped, gone, a folder in its place, another run's. The same command makes the
same bytes again, or ends in one sentence that names the file; nothing damaged is used in silence."""

import csv
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import main
from conftest import TINY
from core import errors
from core.files import shown
from net import checkpoint

FINISHED, STOPPED = "finished", "stopped"  # after its end, and after its first epoch
OF_A_RUN = ["run.json", "folds.csv", "log.csv", "last.pt", "best.pt"]
AFTERWARDS = ["val_logits.npz", "test_logits.npz", "calibration.json"]
OF_A_PACK = ["images.npy", "stamps.npy"]
SAME = ["best.pt", "folds.csv", "val_logits.npz", "test_logits.npz", "calibration.json"]  # and the CSV


def cut(path: Path, other: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def flipped(path: Path, other: Path) -> None:
    """40 bytes, at random."""
    content = bytearray(path.read_bytes())
    for place in np.random.default_rng(0).integers(len(content), size=40).tolist():
        content[place] ^= 255
    path.write_bytes(content)


def gone(path: Path, other: Path) -> None:
    path.unlink()


def a_folder(path: Path, other: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "mine.txt").write_text("precious")


def another_runs(path: Path, other: Path) -> None:
    shutil.copyfile(other, path)


FAULTS: list[Callable[[Path, Path], None]] = [cut, flipped, gone, a_folder, another_runs]
TABLE = [
    *((FINISHED, name, fault) for name in [*OF_A_RUN, *AFTERWARDS, *OF_A_PACK] for fault in FAULTS),
    *((STOPPED, name, fault) for name in OF_A_RUN for fault in FAULTS),
]


def words(data: Path, *given: str) -> list[str]:
    return ["modelB", "--data", str(data), *TINY, "epochs=2", "split_seed=0", *given]


@pytest.fixture(scope="module")
def homes(made, tmp_path_factory) -> dict[str, Path]:
    """Two homes with a run `one` (finished; stopped after its first epoch), and in the first another run of the same
    split, `two`, and a pack of other pictures under the same names."""
    found = {state: tmp_path_factory.mktemp(state) for state in (FINISHED, STOPPED)}
    others = Path(shutil.copytree(made, tmp_path_factory.mktemp("set") / "others"))
    pictures = sorted((others / "images").iterdir())
    for picture, another in zip(pictures, pictures[::-1]):
        shutil.copyfile(made / "images" / another.name, picture)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CXR_HOME", str(found[FINISHED]))
        for given in (words(made, "name=one"), words(made, "name=two", "seed=1"), words(others, "name=others")):
            assert errors.command(main.main, given) == 0
        patch.setenv("CXR_HOME", str(found[STOPPED]))
        save = checkpoint.save

        def stop(path, content):
            if path.name == "last.pt" and path.is_file():  # in the second epoch
                raise KeyboardInterrupt
            save(path, content)

        patch.setattr(checkpoint, "save", stop)
        assert errors.command(main.main, words(made, "name=one")) == 130
    shutil.copytree(found[FINISHED] / "runs/two", found[STOPPED] / "runs/two")
    return found


def place_of(name: str, home: Path, run: str, source: str) -> Path:
    """A file of a run, or of the pack that was made of that set."""
    if name not in OF_A_PACK:
        return home / "runs" / run / name
    found = (home / "data/packed").glob("*/pack.json")
    packs = [path.parent for path in found if f'{source}/images"' in path.read_text()]
    return packs[0] / name


def outputs(home: Path, but: str = "") -> dict[str, bytes | list]:
    """What the run ends with; of log.csv all but times and speed."""
    paths = [*(home / "runs/one" / name for name in SAME if name != but), home / "submissions/one.csv"]
    rows = csv.DictReader((home / "runs/one/log.csv").read_text().splitlines())
    log = [{key: value for key, value in row.items() if "second" not in key} for row in rows]
    return {**{path.name: path.read_bytes() for path in paths}, "log.csv": log}


@pytest.mark.parametrize(("state", "name", "fault"), TABLE)
def test_a_fault(state, name, fault, homes, made, home, call, monkeypatch):
    monkeypatch.setattr(main.evaluate, "evaluate", lambda folder: {})  # figures of what is compared here byte by byte
    monkeypatch.setattr(main, "summary", lambda *_: [])
    shutil.copytree(homes[state], home, dirs_exist_ok=True)
    path = place_of(name, home, "one", made.name)
    fault(path, place_of(name, home, "two", "others"))
    said = call("main", *words(made, "name=one"))
    if state == FINISHED and name == "best.pt":  # cannot be made again but by training; it still answers
        assert said.code == 0 and "best.pt is lost: the run still answers" in said.err
        assert outputs(home, but="best.pt") == outputs(homes[FINISHED], but="best.pt")
        predicted = call("predict", home / "runs/one")
        assert predicted.code == 2 and "best.pt" in predicted.err
    elif said.code == 0:
        assert outputs(home) == outputs(homes[FINISHED])
    else:
        last = said.err.rstrip().splitlines()[-1]
        assert said.code == 2 and last.startswith("error: "), said.err
        assert path.name in last or "runs/one was made with other settings" in last, last
        whole = rf"delete {re.escape(shown(home / 'runs/one'))}(?!/)"
        assert fault is another_runs or not re.search(whole, last), last  # where less than all would do
        assert not list(home.rglob(".*part"))
    if fault is a_folder:
        assert said.code == 2 and (path / "mine.txt").is_file() or said.code == 0
