"""Every mistake a user makes ends in one sentence, exit code 2, and nothing half-written. One table, one process."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import timm
import torch

from conftest import TINY, unsealed
from core import files, logits_file, runs
from core.logits_file import Logits
from leaderboard import client
from net import model


def edit(path: Path, change) -> None:
    path.write_text(change(path.read_text()))


def line(number: int, change):
    """Change one line of a text."""

    def apply(text: str) -> str:
        lines = text.splitlines()
        lines[number] = change(lines[number])
        return "\n".join(lines) + "\n"

    return apply


def first_image(folder: Path, table: str) -> Path:
    return folder / "images" / (folder / table).read_text().splitlines()[1].split(",")[0]


def cut(path: Path, keep: float) -> None:
    path.write_bytes(path.read_bytes()[: int(len(path.read_bytes()) * keep)])


# ---- settings: arguments behind `main modelB --data TINY`, and the sentence
SETTINGS = [
    (["epohcs=3"], "the command line (epohcs=3): unknown key epohcs; did you mean epochs?"),
    (["xyzzy=3"], "unknown key xyzzy; the keys are listed in src/core/config.py"),
    (["epochs=three"], "epochs = 'three' will not do"),
    (["epochs=2.5"], "epochs = '2.5' will not do"),
    (["lr=true"], "lr = 'true' will not do"),
    (["lr=nan"], "lr = 'nan' will not do"),
    (["lr=-1"], "lr = '-1' will not do: input should be greater than 0"),
    (["dropout=1.5"], "dropout = '1.5' will not do"),
    (["size=8"], "size = '8' will not do"),
    (["temperature=0"], "temperature = '0' will not do"),
    (["workers=1000000"], "workers = '1000000' will not do"),
    (["drop_unreadable=perhaps"], "drop_unreadable = 'perhaps' will not do"),
    (["name=../elsewhere"], "name = '../elsewhere' will not do"),
    (["seed"], "'seed' is not understood: settings are given as key=value"),
    (["frozen_epochs=9", "epochs=2"], "frozen_epochs = 9 is more than epochs = 2"),
    (
        ["imbalance=sampler:0.5+loss_weights:0.5"],
        (
            "imbalance = 'sampler:0.5+loss_weights:0.5' will not do: each of them shifts the class prior that the"
            " network learns"
        ),
    ),
    (["imbalance=sampler:0.5+logit_adjustment:1"], "scored −117 on Kaggle): keep one"),
    (["imbalance=sampler"], "imbalance = 'sampler' will not do: it is written none, or NAME:NUMBER"),
    (["imbalance=sampler:0.5+sampler:0.5"], "it is written none, or NAME:NUMBER"),
    (["imbalance=focal:2"], "input should be 'sampler', 'loss_weights' or 'logit_adjustment'"),
    (["imbalance=sampler:-1"], "input should be greater than 0"),
    (["costs=[1, 1]"], "costs = [1, 1] will not do: list should have at least 3 items"),
    (["costs=[1, -1, 5]"], "input should be greater than or equal to 0"),
    (
        ["rule=wishful"],
        "rule = 'wishful': a competition run decides by one of argmax, temperature, bayes, thresholds, bias, power",
    ),
    (["views=[original, upside_down]"], "a competition run may use original, flip"),
    (["views=[flip]"], "the first must be original"),
    (["views=[]"], "views = [] will not do"),
    (["views=[original, original]"], "once each"),
    (["views=[original"], "a list is written [one, two]"),
    (
        ["model=convnext_huge_typo"],
        "model = 'convnext_huge_typo' is no timm model, nor cnn1 to cnn7; there are convnext",
    ),
    (["model=convnext_tiny.no_such_tag"], "model = 'convnext_tiny.no_such_tag' cannot be made"),
    (["weights=absent.pth"], "weights = absent.pth: there is no such file"),
    (["weights=other.safetensors"], "weights = other.safetensors belongs to another network than test_convnext"),
    (["weights=garbage.pth"], "weights = garbage.pth is no readable .safetensors or .pth file"),
    (["weights=garbage.safetensors"], "weights = garbage.safetensors is no readable .safetensors or .pth file"),
    (["weights=imagenet"], "the ImageNet weights of test_convnext could not be fetched"),
    (["weights=imagenet"], "weights=FILE"),
    (["val_fraction=0.001"], "leave none for validation: use more images"),
    (["limit=3"], "leave none for validation: use more images"),
    (["model=vit_tiny_patch16_224", "size=64"], "takes images of 224 pixels only: set size=224"),
    (["--colour"], "unrecognized arguments: --colour"),
]
if not torch.cuda.is_available():
    SETTINGS.append((["device=cuda"], "torch sees no GPU"))


@pytest.mark.parametrize(
    ("given", "sentence"), SETTINGS, ids=[f"{' '.join(given)}{number}" for number, (given, _) in enumerate(SETTINGS)]
)
def test_settings(given, sentence, made, home, call, monkeypatch, tmp_path):
    safetensors.torch.save_file(timm.create_model("test_resnet").state_dict(), tmp_path / "other.safetensors")
    (tmp_path / "garbage.pth").write_bytes(b"garbage" * 99)
    (tmp_path / "garbage.safetensors").write_bytes(b"garbage" * 99)
    monkeypatch.setattr(model.huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(model.huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    check(call("main", "modelB", "--data", made, *TINY, *given), sentence, home)
    assert not (home / "runs").exists()  # so the same name may be used once the mistake is mended


def check(said, sentence: str, home: Path) -> None:
    errors = [text for text in said.err.splitlines() if text.startswith("error: ")]
    assert said.code == 2 and len(errors) == 1 and said.err.rstrip().endswith(errors[0]), (said.code, said.err)
    assert sentence in errors[0], errors[0]
    assert not (home / "submissions").exists() or not list((home / "submissions").iterdir())
    assert not [path for path in home.rglob("*") if path.name.endswith(".part")]


# ---- the data set: how a good one is broken, and the sentence
def swap(path: Path, content: bytes) -> None:
    path.write_bytes(content)


DATA = {
    "no train.csv": (
        lambda d: (d / "train.csv").unlink(),
        "train.csv not found there; wanted are images/, train.csv and test.csv",
    ),
    "no test.csv": (lambda d: (d / "test.csv").unlink(), "test.csv not found there"),
    "no images": (lambda d: shutil.rmtree(d / "images"), "the folder images/ not found there"),
    "empty train.csv": (lambda d: (d / "train.csv").write_text(""), "train.csv is not a readable CSV file"),
    "header only": (
        lambda d: edit(d / "train.csv", lambda text: text.splitlines()[0] + "\n"),
        "train.csv has a header and no rows",
    ),
    "binary train.csv": (
        lambda d: swap(d / "train.csv", b"\xff\xfe\x00id" * 9),
        "train.csv is not a readable CSV file",
    ),
    "no id column": (
        lambda d: edit(d / "train.csv", line(0, lambda text: text.replace("id,", "name,"))),
        "train.csv lacks the column id: its columns are name",
    ),
    "a class without a name": (
        lambda d: edit(d / "train.csv", line(0, lambda text: text.replace("Mass", " "))),
        "train.csv has a column without a name: name the class, or remove the column",
    ),
    "no class columns": (
        lambda d: shutil.copy(d / "test.csv", d / "train.csv"),
        "train.csv needs a column for every class beside id",
    ),
    "a class twice": (
        lambda d: edit(d / "train.csv", line(0, lambda text: text.replace("Mass", "Nodule"))),
        "train.csv has columns that stand twice: Nodule",
    ),
    "an id twice": (
        lambda d: edit(d / "train.csv", lambda text: text + text.splitlines()[1] + "\n"),
        "train.csv: 1 ids stand there more than once",
    ),
    "a test id twice": (
        lambda d: edit(d / "test.csv", lambda text: text + text.splitlines()[1] + "\n"),
        "test.csv: 1 ids stand there more than once",
    ),
    "an id in both": (
        lambda d: edit(
            d / "test.csv", lambda text: text + (d / "train.csv").read_text().splitlines()[1].split(",")[0] + "\n"
        ),
        "1 ids stand in both train.csv and test.csv",
    ),
    "no one": (
        lambda d: edit(d / "train.csv", line(1, lambda text: text.replace(",1", ",0"))),
        "1 rows have no 1 where exactly one is wanted",
    ),
    "several ones": (
        lambda d: edit(d / "train.csv", line(3, lambda text: text.replace(",0", ",1", 2))),
        "1 rows have several 1s",
    ),
    "a two": (lambda d: edit(d / "train.csv", line(2, lambda text: text.replace(",1", ",2"))), "row 2, column"),
    "a short row": (
        lambda d: edit(d / "train.csv", line(2, lambda text: text.rsplit(",", 3)[0])),
        "row 2: 18 cells where the header has 21",
    ),
    "a long row": (
        lambda d: edit(d / "train.csv", line(2, lambda text: text + ",0")),
        "row 2: 22 cells where the header has 21",
    ),
    "a path as id": (
        lambda d: edit(d / "train.csv", line(1, lambda text: "../" + text)),
        "an id must be a plain file name",
    ),
    "an absolute id": (
        lambda d: edit(d / "test.csv", line(1, lambda text: "/etc/passwd")),
        "an id must be a plain file name",
    ),
    "an empty id": (lambda d: edit(d / "test.csv", line(1, lambda text: '""')), "an id must be a plain file name"),
    "a missing test image": (lambda d: first_image(d, "test.csv").unlink(), "(0 of training, 1 of test)"),
    "a missing training image": (
        lambda d: first_image(d, "train.csv").unlink(),
        "(missing); mend them, or leave them out with drop_unreadable=true",
    ),
    "an image that is a link to itself": (
        lambda d: [(path.unlink(), path.symlink_to(path.name)) for path in [first_image(d, "train.csv")]],
        "(1 of training, 0 of test)",
    ),
    "an image that is a folder": (
        lambda d: [(path.unlink(), path.mkdir()) for path in [first_image(d, "test.csv")]],
        "(missing); mend or fetch them again",
    ),
    "a truncated image": (lambda d: cut(first_image(d, "train.csv"), 0.5), "(image file is truncated)"),
    "an empty image": (lambda d: cut(first_image(d, "test.csv"), 0), "(not an image)"),
    "a text as image": (lambda d: first_image(d, "train.csv").write_text("hello"), "(not an image)"),
}


@pytest.mark.parametrize("what", DATA)
def test_data(what, tiny, home, call):
    spoil, sentence = DATA[what]
    spoil(tiny)
    check(call("main", "modelB", "--data", tiny, *TINY), sentence, home)


def test_a_broken_test_image_is_never_left_out(tiny, home, call):
    first_image(tiny, "train.csv").unlink()
    first_image(tiny, "test.csv").unlink()
    said = call("main", "modelB", "--data", tiny, *TINY, "drop_unreadable=true")
    check(said, "2 images in", home)
    assert first_image(tiny, "test.csv").name in said.err and "mend or fetch them again" in said.err


def test_where_the_data_is(tmp_path, made, tiny, home, call, monkeypatch):
    check(call("main", "modelB", "--data", "nowhere"), "--data nowhere: there is no such folder", home)
    (tiny / "demo.json").unlink()
    check(call("main", "modelB", "--demo", "--data", tiny), "leave --demo out", home)
    monkeypatch.setenv("CXR_DATA", str(tmp_path / "gone"))
    check(call("main", "modelB"), f"CXR_DATA {tmp_path / 'gone'}: there is no such folder", home)


def test_credentials_without_a_way_to_download(home, call, monkeypatch):
    monkeypatch.setenv("KAGGLE_USERNAME", "someone")
    monkeypatch.setenv("KAGGLE_KEY", "secret-value")
    monkeypatch.setattr(client.sys, "executable", "/nowhere/python")
    said = call("main", "modelB")
    check(said, "the kaggle client cannot be started", home)
    assert "secret-value" not in said.out + said.err


def test_configuration_files(tmp_path, home, call):
    check(call("main", "modelZ"), "there is no configuration", home)
    (tmp_path / "bad.yaml").write_text("lr: [1, 2")
    check(call("main", "bad.yaml"), "bad.yaml is no readable YAML", home)
    (tmp_path / "bad.yaml").write_text("- 1\n")
    check(call("main", "bad.yaml"), "bad.yaml must hold `key: value` lines", home)
    (tmp_path / "bad.yaml").write_text("lr: 1.0e-4\n")
    check(call("main", "bad.yaml"), "bad.yaml: the key task is missing", home)
    edited = (Path(files.ROOT) / "configs/modelB.yaml").read_text().replace("epochs: 12", "epochs: yes")
    (tmp_path / "bad.yaml").write_text(edited)
    check(
        call("main", "bad.yaml"), "bad.yaml: epochs = True will not do: true and false are no value for this key", home
    )


def test_a_run_that_changed(tiny, home, call):
    whole = shutil.copytree(tiny, home / "whole")
    command = ["main", "modelB", "--data", tiny, *TINY, "name=kept"]
    assert call(*command).code == 0
    shutil.rmtree(home / "submissions")
    check(
        call(*command, "lr=2e-3", "seed=4"),
        "runs/kept was made with other settings: lr (0.001 → 0.002), seed (0 → 4)",
        home,
    )
    edit(tiny / "train.csv", lambda text: "\n".join(text.splitlines()[:-1]) + "\n")
    check(call(*command), "runs/kept was trained on other images or labels than those in", home)
    run = home / "runs/kept"
    cut(run / "best.pt", 0.5)
    check(call("predict", run, "--data", whole), "best.pt is not as this run wrote it", home)
    unsealed(run)
    check(call("predict", run, "--data", whole), "best.pt is damaged (BadZipFile)", home)
    torch.save([1, 2], run / "best.pt")
    check(call("predict", run, "--data", whole), "best.pt is damaged (TypeError)", home)
    about = (run / "run.json").read_text()
    for text, sentence in (
        ("{", "run.json is not JSON"),
        ("[]", "does not hold a JSON object"),
        ("{}", "run.json lacks config, data"),
        (about.replace('"epochs"', '"eras": 1, "epochs"'), "run.json: unknown key eras"),
    ):
        (run / "run.json").write_text(text)
        check(call("score", run), sentence, home)
    (run / "run.json").unlink()
    check(call(*command), "last.pt is of a run with other settings, images or another split", home)


def test_a_split_that_was_tampered_with(tiny, home, call):
    command = ["main", "modelB", "--data", tiny, *TINY, "name=parted"]
    assert call(*command).code == 0
    shutil.rmtree(home / "submissions")
    folds = home / "runs/parted/folds.csv"
    whole = folds.read_text()
    for text in (
        whole.replace(",validation", ",x").replace(",training", ",validation").replace(",x", ",training"),
        whole.replace("id,part", "name,part"),
        "\n".join(whole.splitlines()[:-3]),
    ):
        folds.write_text(text)
        for verb in ("evaluate", "predict"):
            said = call(verb, home / "runs/parted")
            check(said, "folds.csv is not the split that this run was trained with: put it back, or run", home)
        assert call(*command).code == 0 and folds.read_text() == whole
        shutil.rmtree(home / "submissions")


def test_two_processes_on_one_run(made, home, call):
    other = runs.Run.named("busy")
    other.lock()
    check(call("main", "modelB", "--data", made, *TINY, "name=busy"), "another process is at work on", home)


def test_a_place_that_is_a_file(tmp_path, made, home, call, monkeypatch):
    (tmp_path / "occupied").write_text("")
    monkeypatch.setenv("CXR_HOME", str(tmp_path / "occupied"))
    check(call("main", "modelB", "--data", made, *TINY), "CXR_HOME=DIR chooses another", home)


# ---- logits, calibrations, submissions
def logits(**changes) -> Logits:
    rng = np.random.default_rng(0)
    good = {
        "ids": np.array(["a", "b", "c"]),
        "logits": rng.normal(size=(2, 3, 2)).astype(np.float32),
        "targets": np.eye(2, dtype=np.float32)[[0, 1, 1]],
        "classes": np.array(["A", "B"]),
        "counts": np.array([4, 8]),
        "rows": 12,
        "prior": np.array([1 / 3, 2 / 3]),
    }
    return Logits(**(good | changes))


# what is changed in a good file of three rows and two classes, and the sentence of tune
LOGITS = [
    (
        {"logits": np.where(np.arange(3)[:, None] == 1, np.nan, 0).repeat(2, 1)[None].astype(np.float32)},
        "logits that are NaN, infinite or beyond a million, in 1 rows: b",
    ),
    ({"logits": np.full((1, 3, 2), 1e300)}, "beyond a million, in 3 rows: a, b, c"),
    ({"logits": np.zeros((2, 3, 2), bool)}, "logits are bool, where numbers are wanted"),
    ({"logits": np.zeros((2, 3, 2), complex)}, "where numbers are wanted"),
    ({"targets": np.full((3, 2), np.nan, np.float32)}, "these logits have no labels to tune on"),
    ({"targets": np.ones((3, 2), np.float32)}, "rows without exactly one label"),
    ({"targets": np.eye(2, dtype=np.float32)[[0, 1, 1]] / 2}, "rows without exactly one label"),
    ({"counts": np.array([0, 0]), "prior": np.array([0.5, 0.5])}, "counts must be finite, not negative and not all 0"),
    ({"counts": np.array([-4, 8])}, "counts must be finite, not negative"),
    ({"counts": np.array([1e308, 1e308])}, "counts must be finite"),
    ({"counts": np.array([4 + 1j, 8])}, "where numbers are wanted"),
    ({"counts": np.array([0, 8]), "prior": np.array([1.0, 0.0])}, "no class has both training images"),
    ({"prior": np.ones(5)}, "prior has shape (5,)"),
    ({"prior": np.array([np.nan, 1])}, "prior must be finite"),
    ({"prior": np.array([-1.0, 2.0])}, "prior must be finite, not negative"),
    ({"rows": 0}, "rows must be finite"),
    ({"rows": math.inf}, "rows are float64"),
    ({"ids": np.array(["a"])}, "logits has shape (2, 3, 2)"),
    ({"ids": np.array(["a", "a", "b"])}, "ids must be different names; twice or empty: 'a'"),
    ({"ids": np.array([["a"], ["b"], ["c"]])}, "ids has shape (3, 1)"),
    ({"ids": np.array([b"a", b"b", b"c"])}, "ids are |S1, where text is wanted"),
    (
        {"ids": np.array(["a", "b", None], dtype=object)},
        "v.npz is truncated or no .npz file of this kit",
    ),  # pickled objects are never loaded
    ({"ids": np.empty(0, str), "logits": np.empty((1, 0, 2)), "targets": np.empty((0, 2))}, "holds no rows"),
    (
        {
            "classes": np.empty(0, str),
            "logits": np.empty((1, 3, 0)),
            "targets": np.empty((3, 0)),
            "counts": np.empty(0),
            "prior": np.empty(0),
        },
        "holds no rows",
    ),
    ({"classes": np.array([1, 2])}, "where text is wanted"),
    ({"classes": np.array(["A", "A"])}, "classes must be different names; twice or empty: 'A'"),
    ({"classes": np.array(["A", ""])}, "twice or empty: ''"),
    ({"classes": np.array(["A", "id"])}, "a class cannot be called id"),
]


def test_logits_files(tmp_path, home, call):
    def tune(message):
        check(call("tune", tmp_path / "v.npz", "--out", tmp_path / "c.json"), message, home)
        assert not (tmp_path / "c.json").exists()

    tune("v.npz cannot be read")
    for changes, message in LOGITS:
        np.savez(tmp_path / "v.npz", **vars(logits(**changes)))
        tune(message)
    logits_file.write_logits(tmp_path / "v.npz", logits())
    cut(tmp_path / "v.npz", 0.6)
    tune("v.npz is truncated or no .npz file of this kit")
    np.savez(tmp_path / "v.npz", logits=np.zeros(3))
    tune("v.npz lacks ids, targets, classes, counts, rows, prior")


def test_tune(tmp_path, home, call):
    def tune(message, *given):
        check(call("tune", tmp_path / "v.npz", *given, "--out", tmp_path / "c.json"), message, home)
        assert not (tmp_path / "c.json").exists()

    logits_file.write_logits(tmp_path / "v.npz", logits())
    tune("--temperature -1.0 is no number from 0.01 to 100.0", "--temperature", "-1")
    for costs in (("1", "-1", "5"), ("1", "nan", "5"), ("1e308", "1", "5")):
        tune("are numbers from 0 to a million", "--costs", *costs)
    tune("3 ids stand more than once in the validation files", tmp_path / "v.npz")
    for classes, message in (
        (["A", "C"], "the validation files are for other classes: B, C in only one of them"),
        (["B", "A"], "have their classes in different orders"),
    ):
        logits_file.write_logits(tmp_path / "w.npz", logits(ids=np.array(["d", "e", "f"]), classes=np.array(classes)))
        tune(message, tmp_path / "w.npz")


def test_decide(tmp_path, home, call):
    logits_file.write_logits(tmp_path / "t.npz", logits())
    assert call("tune", tmp_path / "t.npz", "--out", tmp_path / "c.json").code == 0

    def decide(message, rule="argmax", calibration="c.json", *more):
        check(
            call(
                "decide",
                tmp_path / "t.npz",
                "--calibration",
                tmp_path / calibration,
                "--rule",
                rule,
                "--out",
                tmp_path / "s.csv",
                *more,
            ),
            message,
            home,
        )
        assert not (tmp_path / "s.csv").exists()

    decide("there is no rule 'bold'; there are argmax, temperature, bayes", "bold")
    (tmp_path / "other.csv").write_text("id\na\nc\nb\n")
    decide("line 3: id b where c is wanted", "argmax", "c.json", "--test", tmp_path / "other.csv")
    decide("absent.json cannot be read", "argmax", "absent.json")

    good = json.loads((tmp_path / "c.json").read_text())
    network = good["networks"][0]
    for spoilt, rule, message in (
        ({"classes": ["A", "B"]}, "argmax", "odd.json is no calibration: make it with tune"),
        ({**good, "networks": 3}, "argmax", "odd.json is no calibration: make it with tune"),
        (
            {**good, "classes": ["A", "C"]},
            "argmax",
            "the logits and their calibration are for other classes: B, C in only one of them",
        ),
        ({**good, "classes": ["B", "A"]}, "argmax", "have their classes in different orders"),
        ({**good, "networks": []}, "argmax", "fitted on 0 validation files, and 1 logits files are to be decided"),
        (
            {**good, "networks": [{**network, "prior": [0.5, 0.5]}]},
            "bayes",
            "the class prior of logits file 1 are not those of the network that was calibrated",
        ),
        ({**good, "networks": [{**network, "prior": "half"}]}, "bayes", "the calibration has no usable parameters"),
        ({**good, "networks": [{**network, "counts": [5, 8]}]}, "bayes", "the class counts of logits file 1"),
        (
            {**good, "networks": [{**network, "rules": {}}]},
            "bayes",
            "the calibration has no usable parameters for rule bayes",
        ),
        ({**good, "networks": ["x"]}, "bayes", "the calibration has no usable parameters for rule bayes"),
        (
            {**good, "costs": {"tp": 1, "fp": 1, "fp2": 5}},
            "bayes",
            "the calibration has no usable parameters for rule bayes",
        ),
        ({**good, "costs": {"tp": 1, "fp": math.nan, "fn": 5}}, "bayes", "are numbers from 0 to a million"),
        *(
            (
                {**good, "networks": [{**network, "rules": {rule: params}}]},
                rule,
                f"the calibration has no usable parameters for rule {rule}",
            )
            for rule, params in (
                *(
                    ("temperature", {"temperature": value})
                    for value in (0, -1, math.inf, math.nan, 1e-300, True, "1", [1, 1], None)
                ),
                *(
                    ("bayes", {"offsets": [0, 0], "slopes": value})
                    for value in ("x", [1], [[1, 1]], 1, [1, math.nan], [1, math.inf], [1, -1], [1, None])
                ),
                ("bayes", {"slopes": [1, 1]}),
                ("bayes", [1]),
                ("argmax", [1]),
                ("thresholds", {"thresholds": [0, 0.5]}),
                ("bias", {"bias": [math.nan, 0]}),
                ("bias", {"bias": [0]}),
                ("power", {"alpha": 1e9}),
                ("power", {"alpha": math.nan}),
            )
        ),
    ):
        (tmp_path / "odd.json").write_text(json.dumps(spoilt))
        decide(message, rule, "odd.json")

    for name, text, message in (
        ("absent.csv", None, "absent.csv cannot be read"),
        ("k.csv", "class,n\nA,1\nB,2\n", "lacks the column count: a CSV of class and count is wanted"),
        ("k.csv", "class,count\nA,1\nB,many\n", "every count must be a number"),
        ("k.csv", "class,count\nA,1\n", "must name every class of the logits once; missing, unknown or twice: B"),
        ("k.csv", "class,count\nA,1\nB,1\nB,1\n", "missing, unknown or twice: A, B, B"),
        ("k.csv", "class,count\nA,-1\nB,1\n", "counts must be 0 or numbers from 1e-6 to 1e12"),
        ("k.csv", "class,count\nA,0\nB,0\n", "not all 0"),
        ("k.csv", "class,count\nA,1e308\nB,1\n", "counts must be 0 or numbers"),
    ):
        if text:
            (tmp_path / name).write_text(text)
        decide(message, "bayes", "c.json", "--counts", tmp_path / name)
    decide("rule argmax does not use class counts", "argmax", "c.json", "--estimate-counts")
    decide("exclude each other", "bayes", "c.json", "--estimate-counts", "--counts", tmp_path / "k.csv")
    (tmp_path / "s.csv").mkdir()
    check(
        call(
            "decide",
            tmp_path / "t.npz",
            "--calibration",
            tmp_path / "c.json",
            "--rule",
            "argmax",
            "--out",
            tmp_path / "s.csv",
        ),
        "s.csv is no regular file",
        home,
    )
    check(call("decide", tmp_path / "t.npz"), "the following arguments are required", home)


def test_score(tmp_path, home, call):
    (tmp_path / "truth.csv").write_text("id,A,B\nx,1,0\ny,0,1\n")
    for text, message in (
        ("id,A,B\nx,1,0\n", "have different ids: y in only one of them"),
        ("id,A,C\nx,1,0\ny,0,1\n", "have different class columns: B, C in only one of them"),
        ("id,A,B\nx,1,1\ny,0,1\n", "1 rows have several 1s"),
        ("id,A,B\nx,0.5,0.5\ny,0,1\n", "row 1, column A: '0.5' is neither 0 nor 1"),
    ):
        (tmp_path / "said.csv").write_text(text)
        check(call("score", tmp_path / "said.csv", tmp_path / "truth.csv"), message, home)
    check(call("score", tmp_path / "said.csv"), "a submission is scored against labels", home)
    check(call("score", tmp_path), "is no run folder: it has no run.json", home)


def test_the_validation_labels_of_a_run(made, home, call):
    assert call("main", "modelB", "--data", made, *TINY, "epochs=1", "name=spoilt").code == 0
    run = home / "runs/spoilt"
    before, val = (run / "report.json").read_bytes(), logits_file.read_logits(run / "val_logits.npz")
    logits_file.write_logits(run / "val_logits.npz", replace(val, targets=val.targets[::-1]))
    assert "val_logits.npz is not as this run wrote it" in call("score", run).err
    unsealed(run)
    for targets, sentence in (
        (np.full_like(val.targets, np.nan), "these logits have no labels"),
        (val.targets / 2, "rows without exactly one label"),
    ):
        logits_file.write_logits(run / "val_logits.npz", replace(val, targets=targets))
        for verb in ("score", "evaluate"):
            said = call(verb, run)
            assert said.code == 2 and sentence in said.err
    logits_file.write_logits(run / "val_logits.npz", replace(val, classes=val.classes[::-1]))
    assert "has other classes than the run's run.json" in call("score", run).err
    assert (run / "report.json").read_bytes() == before


def test_make_demo(tmp_path, home, call):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("precious")
    check(call("make_demo", tmp_path / "full"), "full exists already and is not empty", home)
    assert (tmp_path / "full" / "mine.txt").read_text() == "precious"
    check(call("make_demo", tmp_path / "few", "--images", 5), "at least 60 images", home)
    check(call("make_demo", tmp_path / "small", "--size", 4), "32 to 2048 pixels", home)
    check(call("make_demo", tmp_path / "odd", "--seed", -1), "a seed is 0 or more", home)
    check(call("make_demo", tmp_path / "full/mine.txt/deeper"), "full/mine.txt: File exists", home)
    check(call("make_demo", tmp_path / "odd", "--images", "many"), "invalid int value: 'many'", home)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full", "home"]
