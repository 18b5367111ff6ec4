"""A module imports only from floors below its own; the light verbs never load torch."""

import ast
import subprocess
import sys

import pytest
from conftest import ROOT

# The ground floor has steps: what every room uses, the rooms, the decision layer, and the seam that joins them.
FLOORS = [
    {"errors"},
    {"files"},
    {"config", "labels", "locate", "folds", "imbalance", "metrics", "stats", "calibrate", "bundle"},
    {"checks", "padchest_labels", "rules"},
    {"decision", "findings"},
    {"decision_report", "examples", "figures", "findings_report"},
    {"task"},
    {"augment", "losses", "mix", "lungs", "machine", "kaggle_client", "phantom", "runs", "studies"},
    {"data", "model", "demo", "sources"},
    {"cam", "infer", "prepare", "split"},
    {"fit"},
    {"tune", "decide", "score"},
    {"train", "predict", "evaluate", "worlds", "kernel", "doctor", "make_demo", "report", "explain"},
    {"main", "probe", "compare", "experiment"},
]
HEAVY = {"torch", "timm", "albumentations", "torchvision"}
GROUND = set().union(*FLOORS[:7])


def imports(name: str) -> set[str]:
    tree = ast.parse((ROOT / "src" / f"{name}.py").read_text())
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module.split(".")[0])
    return found


def test_every_module_has_a_floor():
    assert {path.stem for path in (ROOT / "src").glob("*.py")} == set().union(*FLOORS)


def test_imports_go_down():
    floor_of = {name: number for number, names in enumerate(FLOORS) for name in names}
    for name, number in floor_of.items():
        above = {other for other in imports(name) if floor_of.get(other, -1) >= number}
        assert not above, f"{name} imports {above} from its own floor or above"


def test_the_ground_floor_needs_no_torch():
    for name in GROUND:
        assert not imports(name) & HEAVY, name


@pytest.mark.parametrize("verb", ["tune", "decide", "score", "evaluate", "compare", "experiment", "report", "worlds"])
def test_light_verbs_do_not_load_torch(verb):
    code = f"import sys; sys.path.insert(0, {str(ROOT / 'src')!r}); import {verb}; print(sorted({HEAVY!r} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_nothing_compares_the_tasks_name():
    for path in (ROOT / "src").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Compare):
                text = ast.unparse(node)
                assert "task.name" not in text and "config.task" not in text, f"{path.name}: {text}"
