"""Where all runs stand: from run folders written by hand, and from what Kaggle says of them."""

import shutil
from pathlib import Path

import pytest

import board
import browser
from core import files
from core.errors import UserError
from leaderboard import client
from test_report import CLASSES, LABELS, classes_drawn, findings_drawn, written

HOSTILE = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def kinds(tmp_path_factory) -> dict[str, Path]:
    """A run of each kind; read only."""
    place = tmp_path_factory.mktemp("runs")
    labels = [f"labels=[{', '.join(map(repr, LABELS))}]"]
    return {
        "one": written(place / "one", "modelB", CLASSES, classes_drawn, [], test_known=False),
        "many": written(place / "many", "padchest", LABELS, findings_drawn, labels, test_known=True),
    }


@pytest.fixture
def add(kinds, home):
    """Put a copy of a run into this home, with other things in its run.json and report.json."""

    def copy(kind: str, name: str, score: float | None = None, **about) -> Path:
        folder = Path(shutil.copytree(kinds[kind], home / "runs" / name))
        files.write_json(folder / "run.json", files.read_json(folder / "run.json") | about)
        if score is not None:
            report = files.read_json(folder / "report.json")
            report["validation"]["rules"][report["rule"]] |= {"score": score, "interval": [score - 0.1, score + 0.1]}
            files.write_json(folder / "report.json", report)
        return folder

    return copy


def rows_of(found) -> dict[str, dict]:
    return {row["run"].value: row for row in board.table(found)}


def test_every_run_has_its_row(add, call, home, kinds):
    add("one", "a", score=-4.5, digest="d", commit="c", machine="cpu", timings={"train": 90, "predict": 30})
    add("one", "probe-a", score=-4.75, digest="d", commit="c", baseline="logistic regression")
    add("one", "b", score=-4.25, digest="d", commit="other")
    add("many", "m")
    found, missing = board.entries()
    rows = rows_of(found)
    assert list(rows) == ["b", "a", "probe-a", "m"] and not missing  # the best first, task by task
    assert rows["a"]["score"].value == -4.5 and rows["a"]["score"].text == "−4.500 [−4.600 … −4.400]"
    assert rows["a"]["over probe"].value == pytest.approx(0.25) and rows["b"]["over probe"].value is None
    assert rows["a"]["minutes"].text == "2.0" and rows["a"]["device"] == "cpu"
    report = files.read_json(kinds["many"] / "report.json")
    assert rows["m"]["AUC"].value == report["test"]["macro"]["auc"] and rows["m"]["score"].value is None
    said = call("board", "--offline")
    assert said.code == 0 and "−4.500" in said.out and "Kaggle was not asked" in said.out
    assert said.out.splitlines()[-1] == f"wrote {files.shown(home / 'board.html')}"


def test_what_cannot_be_compared_is_marked(add):
    for name in ("a", "b"):
        add("one", name, digest="d", split="s", commit="c")
    for key, what in board.SAME.items():
        add("one", f"other-{what}", **{"digest": "d", "split": "s", "commit": "c", key: "else"})
    add("many", "m", digest="d", split="s", commit="c")
    found, _ = board.entries()
    rows = rows_of(found)
    assert {rows[name][board.OTHER] for name in ("a", "b", "m")} == {""} and rows["a"]["set"] == rows["b"]["set"] == "A"
    for what in board.SAME.values():
        assert rows[f"other-{what}"][board.OTHER] == what
    assert len({row["set"] for row in rows.values()}) == 5


def test_damaged_and_unfinished_runs_are_listed_with_what_is_missing(add, call, home):
    add("one", "fine")
    (home / "runs" / "empty").mkdir()
    (add("one", "torn") / "run.json").write_text("{")
    (add("one", "begun", state="training") / "report.json").unlink()
    folder = add("one", "half")
    files.write_json(folder / "report.json", {"rule": "bayes", "validation": {"rules": {}}})
    about = files.read_json(folder / "run.json")
    add("one", "newer", config=about["config"] | {"key_of_tomorrow": 1})
    add("one", "odd", timings={"train": "long"})
    (home / "runs" / "note.txt").write_text("no run")
    said = call("board", "--offline")
    assert said.code == 0 and not said.err
    for name, reason in {
        "empty": "it has no run.json", "torn": "is not JSON", "begun": "state training, no report.json yet",
        "half": "report.json is damaged", "newer": "unknown key key_of_tomorrow", "odd": "timings",
    }.items():  # fmt: skip
        (line,) = (line for line in said.out.splitlines() if line.startswith(f"{name}: "))
        assert reason in line
    assert "1 runs" in (home / "board.html").read_text() and "key_of_tomorrow" in (home / "board.html").read_text()


def test_an_empty_home_is_told(call):
    said = call("board")
    assert said.code == 2 and "there is no run in" in said.err


def submission(name: str, public: str, **more) -> dict:
    return {"fileName": name, "status": "COMPLETE", "publicScore": public, "date": "2026-05-04T10:00:00"} | more


def test_what_was_submitted_is_joined_to_its_run(add, call, home, monkeypatch, tmp_path):
    add("one", "a", score=-4.5)
    (add("one", "b", score=-4.4) / "report.html").write_text("a page")
    (home / "data.html").write_text("a page")
    newest_first = [
        submission("a.csv", "-4.75", description=HOSTILE), submission("a.csv", "-4.9"), submission("b.csv", ""),
        submission(f"{HOSTILE}.csv", "-4.1"),
    ]  # fmt: skip
    monkeypatch.setattr(client, "has_credentials", lambda: True)
    monkeypatch.setattr(client, "submissions", lambda slug, patience: newest_first)
    said = call("board")
    assert said.code == 0
    found, _ = board.entries()
    rows = rows_of(board.joined(found, newest_first))
    assert rows["a"]["leaderboard"] == -4.75 and rows["a"]["its gap"].text == "−0.250"
    assert rows["b"]["leaderboard"] is None and rows["b"]["its gap"].value is None
    page = (home / "board.html").read_text()
    assert HOSTILE not in page and 'href="runs/b/report.html"' in page and 'href="data.html"' in page
    assert page.count("<img") == 1 and "validation promised too much" in page
    if browser.CHROMIUM:
        for seen in browser.check(home / "board.html", tmp_path):
            assert HOSTILE in seen["text"]


@pytest.mark.parametrize("failure", ["no credentials", "offline"])
def test_the_board_is_made_without_kaggle(add, call, home, monkeypatch, failure):
    add("one", "a")
    if failure == "offline":
        monkeypatch.setattr(client, "has_credentials", lambda: True)
        monkeypatch.setattr(client, "ask", lambda *_: client.Failure("no route", connection="unsent"))
        monkeypatch.setattr(client.time, "sleep", lambda _: None)
        monkeypatch.setattr(board, "PATIENCE", 0.0)
    said = call("board")
    wanted = "Kaggle could not be asked" if failure == "offline" else "There are no Kaggle credentials"
    assert said.code == 0 and wanted in said.out and wanted in (home / "board.html").read_text()


def test_kaggle_is_asked_only_as_long_as_is_wanted(monkeypatch):
    asked = []
    monkeypatch.setattr(client, "ask", lambda *_: asked.append(1) or client.Failure("busy", 503))
    with pytest.raises(UserError, match="listing your submissions failed"):
        client.submissions("slug", 0.0)
    assert len(asked) == 1
