"""NIH ChestX-ray14 from its own label file: what is read, how it is parted, and a run from end to end."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conftest import SHARED, needs_shared
from core.data_set import Source
from core.errors import UserError
from core.logits_file import read_logits
from images import locate
from tasks import registry
from tasks.nih14 import Nih14

HEADER = [
    "Image Index",
    "Finding Labels",
    "Follow-up #",
    "Patient ID",
    "Patient Age",
    "Patient Gender",
    "View Position",
    "",
]
LABELS = ["Mass", "Nodule", "Effusion"]
SMALL = [
    "labels=Mass,Nodule,Effusion", "model=cnn1", "weights=none", "size=32", "epochs=2", "frozen_epochs=0", "batch=16",
    "workers=0", "val_fraction=0.3", "test_fraction=0.3",
]  # fmt: skip


def row(number: int, findings: str, patient: int, view: str = "PA") -> list[str]:
    return [f"{number:08d}_000.png", findings, "0", str(patient), "058Y", "F", view, ""]


@pytest.fixture
def nih(tmp_path) -> Path:
    """80 noise images of 40 patients in NIH's layout; a finding brightens a corner."""
    rng, folder = np.random.default_rng(0), tmp_path / "nih"
    (folder / "images").mkdir(parents=True)
    rows = []
    for number in range(80):
        there = [name for name in LABELS if rng.random() < 0.4]
        image = rng.integers(0, 120, (40, 40), dtype=np.uint8)
        for place, name in enumerate(LABELS):
            image[10 * place : 10 * place + 8, :8] += 130 * (name in there)
        rows.append(row(number, "|".join(there) or "No Finding", number // 2, "AP" if number % 4 else "PA"))
        Image.fromarray(image).save(folder / "images" / rows[-1][0])
    write(folder / "Data_Entry_2017.csv", rows)
    return folder


def write(path: Path, rows: list[list[str]]) -> None:
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([HEADER, *rows])


def task(*more: str) -> Nih14:
    return registry.task_of(registry.load("nih14", [*SMALL, *more]))


def read(folder: Path, *more: str):
    return task(*more).read(locate.opened(folder, "here", Nih14.layout))


def test_what_is_read(nih):
    table = read(nih).labelled
    assert len(table.ids) == 80 and table.classes == LABELS and table.targets.dtype == np.float32
    rows = list(csv.DictReader((nih / "Data_Entry_2017.csv").read_text().splitlines()))
    for one, targets in zip(rows, table.targets, strict=True):
        assert {name for name, there in zip(LABELS, targets, strict=True) if there} == set(
            one["Finding Labels"].split("|")
        ) - {"No Finding"}
    assert set(table.known) == {"patient", "sex", "age", "projection"}
    assert len(read(nih, "projections=PA").labelled.ids) == 20


def test_the_split_is_by_patient_and_heeds_the_official_list(nih):
    by_patient = task()
    table = read(nih).labelled
    parts = by_patient.split(table)
    assert set(parts) == {"training", "validation", "test"}
    pairs = set(zip(table.known["patient"], parts, strict=True))
    assert len(pairs) == 40
    (nih / "test_list.txt").write_text("\n".join(table.ids[:20]) + "\n")
    table = read(nih).labelled
    parts = by_patient.split(table)
    assert set(table.ids[parts == "test"]) == set(table.ids[:20]) and set(parts[20:]) == {"training", "validation"}
    assert len(set(zip(table.known["patient"], parts, strict=True))) == 40


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda rows: [one[:1] + one[2:] for one in rows], "7 cells where the header has 8"),
        (lambda rows: [*rows, row(99, "", 3)], "row 81: Finding Labels is empty: fill it in"),
        (lambda rows: [*rows, row(99, "Mass", "")], "row 81: Patient ID is empty"),
        (lambda rows: [*rows, rows[0]], "1 ids stand there more than once"),
        (lambda rows: [one[:1] + ["Mass"] + one[2:] for one in rows], "has no label 'Nodule'; 'Effusion'; it has Mass"),
        (lambda rows: [one[:6] + ["LL", ""] for one in rows], "has no row with View Position PA or AP"),
    ],
)
def test_a_faulty_label_file_is_one_sentence(nih, spoil, sentence):
    rows = list(csv.reader((nih / "Data_Entry_2017.csv").read_text().splitlines()))[1:]
    write(nih / "Data_Entry_2017.csv", spoil(rows))
    with pytest.raises(UserError, match=sentence):
        read(nih)


def test_from_images_to_a_report_with_images_to_predict(nih, home, call):
    rows = list(csv.reader((nih / "Data_Entry_2017.csv").read_text().splitlines()))[1:]
    write(nih / "Data_Entry_2017.csv", rows[:70])
    write(nih / "Data_Entry_test_unlabelled.csv", [one[:1] + [""] + one[2:] for one in rows[70:]])
    said = call("main", "nih14", "--data", nih, *SMALL)
    assert said.code == 0 and "macro" in said.out and "test part" in said.out, said.err
    test = read_logits(home / "runs/nih14/test_logits.npz")
    assert test.ids[-10:].tolist() == [one[0] for one in rows[70:]] and np.isnan(test.targets[-10:]).all()
    report = json.loads((home / "runs/nih14/report.json").read_text())
    assert report["test"]["images"] == len(test.ids) - 10
    assert len((home / "submissions/nih14.csv").read_text().splitlines()) == len(test.ids) + 1
    assert call("report", home / "runs/nih14").code == 0 and call("score", home / "runs/nih14").code == 0


def test_without_data_it_says_that_there_is_no_synthetic_set(home, call):
    said = call("main", "nih14")
    assert said.code == 2 and "no synthetic set in the layout nih14: give a real one with --data DIR" in said.err


@needs_shared
def test_the_real_table():
    folder = SHARED / "data/nih5k"
    found = registry.task_of(registry.load("nih14")).read(locate.opened(folder, "here", Nih14.layout))
    assert isinstance(locate.opened(folder, "here", Nih14.layout), Source)
    counts = dict(zip(found.labelled.classes, found.labelled.targets.sum(axis=0).astype(int).tolist(), strict=True))
    assert len(found.labelled.ids) == 3794 and len(found.unlabelled) == 1562 and len(found.labelled.classes) == 14
    assert (counts["Infiltration"], counts["Hernia"], counts["Pleural_Thickening"]) == (891, 31, 171)
    assert len(set(found.labelled.known["patient"].tolist())) == 345


def test_blanks_in_cells_change_nothing_and_every_image_stands_in_one_table(nih):
    clean = read(nih).labelled
    rows = list(csv.reader((nih / "Data_Entry_2017.csv").read_text().splitlines()))[1:]
    blank = [
        [one[0], " " + one[1].replace("|", " | "), one[2], f" {one[3]} ", *one[4:6], one[6] + " ", ""] for one in rows
    ]
    write(nih / "Data_Entry_2017.csv", blank)
    found = read(nih).labelled
    assert (found.targets == clean.targets).all() and (found.known["patient"] == clean.known["patient"]).all()
    write(nih / "Data_Entry_more_unlabelled.csv", rows[:2])
    with pytest.raises(UserError, match="2 ids stand there more than once"):
        read(nih)
