"""The house: rooms import only from rooms below, the light ones load no torch, functions and lines fit a screen."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import ROOT

SRC = ROOT / "src"
BELOW = {  # room → the rooms it may import from
    "core": set(),
    "leaderboard": {"core"},
    "images": {"core", "leaderboard"},
    "net": {"core", "leaderboard", "images"},
    "answers": {"core"},
    "tasks": {"core", "answers", "images"},
}
HEAVY = {"torch", "torchvision", "timm", "albumentations"}
LIGHT = [
    *("tune", "decide", "ensemble", "score", "evaluate", "compare", "experiment", "report", "board", "look", "worlds"),
    "doctor",
]
SCRIPTS = {path.stem for path in SRC.glob("*.py")}
FILES = sorted(SRC.rglob("*.py"))


def imports(path: Path) -> set[str]:
    """The modules that a file imports, as `core.files`."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            inside = SRC / node.module.replace(".", "/")
            found |= {f"{node.module}.{alias.name}" if inside.is_dir() else node.module for alias in node.names}
    return found


def room_of(path: Path) -> str | None:
    return path.parent.name if path.parent != SRC else None


def test_every_folder_is_a_room():
    assert {path.name for path in SRC.iterdir() if path.is_dir() and path.name != "__pycache__"} == set(BELOW)
    assert all((SRC / room / "__init__.py").read_text() == "" for room in BELOW)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(SRC).as_posix())
def test_imports_go_down(path):
    room = room_of(path)
    used = {name.split(".")[0] for name in imports(path)}
    if room:
        assert not used & SCRIPTS, "a room imports no script"
        assert not used & (BELOW.keys() - BELOW[room] - {room})


def test_no_circle():
    """Neither within a room nor among the scripts."""
    graph = {}
    for path in FILES:
        name = ".".join(path.relative_to(SRC).with_suffix("").parts)
        graph[name] = imports(path)
    graph = {name: used & graph.keys() for name, used in graph.items()}
    while free := [name for name, used in graph.items() if not used]:
        for name in free:
            del graph[name]
        graph = {name: used - set(free) for name, used in graph.items()}
    assert not graph, f"a circle among {sorted(graph)}"


@pytest.mark.parametrize(
    "names",
    [
        *(pytest.param([verb], id=verb) for verb in LIGHT),
        *(
            pytest.param(
                [f"{room}.{path.stem}" for path in (SRC / room).glob("*.py") if path.stem != "__init__"], id=room
            )
            for room in ("core", "answers", "tasks", "leaderboard")
        ),
    ],
)
def test_the_light_ones_load_no_torch(names):
    """Not even through others; and pandas, scikit-learn and SciPy only where they are used."""
    words = f"import sys; sys.path.insert(0, {str(SRC)!r}); import {', '.join(names)}; print(*sys.modules)"
    said = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True, check=True).stdout.split()
    assert not (HEAVY | {"pandas", "sklearn", "scipy"}) & set(said)


def test_nothing_compares_the_tasks_name():
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Compare):
                text = ast.unparse(node)
                assert "task.name" not in text and "config.task" not in text, f"{path.name}: {text}"


def test_functions_and_lines_fit_a_screen():
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                lines = node.end_lineno - node.lineno + 1
                assert lines <= 60, f"{path.name}: {node.name} has {lines} lines"
    for path in [
        *ROOT.glob("src/**/*.py"),
        *ROOT.glob("tests/*.py"),
        *ROOT.glob("kernels/*.py"),
        *ROOT.glob("configs/**/*.yaml"),
        ROOT / "run.sh",
    ]:
        long = [number for number, line in enumerate(path.read_text().splitlines(), start=1) if len(line) > 120]
        assert not long, f"{path.name}: lines {long} are beyond 120 columns"
