"""PadChest's label file as it really is, the split by patient, and what oversampling does to the prevalence."""

import csv
import gzip
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import yaml

from conftest import ROOT, SHARED, needs_shared
from core import folds, priors
from core.errors import UserError
from core.tables import read_table
from images import padchest_labels

THESIS = yaml.safe_load((ROOT / "configs" / "padchest.yaml").read_text())["labels"]
COLUMNS = [
    "",
    "ImageID",
    "ImageDir",
    "StudyDate_DICOM",
    "PatientID",
    "PatientBirth",
    "PatientSex_DICOM",
    "Projection",
    "MethodLabel",
    "Report",
    "Labels",
]
ROWS = [  # image, folder, study date, patient, birth, sex, projection, method, labels
    ("a.png", "0", "20140915", "p1", "1938.0", "F", "PA", "Physician", "['scoliosis', ' pleural effusion']"),
    ("b.png", "0", "20150101", "p1", "1938.0", "F", "PA", "RNN_model", "['', 'normal']"),
    ("c.png", "1", "20140915", "0012", "", "O", "PA", "RNN_model", "nan"),
    ("d.png", "1", "20140915", "0012", "nan", "nan", "PA", "RNN_model", "[]"),
    ("e.png", "2", "20140915", "p3", "1990.0", "M", "L", "Physician", "['cardiomegaly']"),
    ("f.png", "2", "20140915", "p3", "1990.0", "M", "PA", "Physician", "['Scoliosis']"),
]


def label_file(folder: Path, rows=ROWS, name: str = "PADCHEST_labels.csv") -> Path:
    opener = gzip.open if name.endswith(".gz") else open
    with opener(folder / name, "wt", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for number, (image, place, study, patient, birth, sex, projection, method, labels) in enumerate(rows):
            writer.writerow(
                [
                    number,
                    image,
                    place,
                    study,
                    patient,
                    birth,
                    sex,
                    projection,
                    method,
                    "texto, con comas\ny líneas",
                    labels,
                ]
            )
    return folder / name


def read(path: Path, labels=("scoliosis", "pleural effusion"), projections=("PA",), physician_only=False):
    return padchest_labels.read(path, path.parent, list(labels), list(projections), physician_only)


@pytest.mark.parametrize("name", ["PADCHEST_labels.csv", "PADCHEST_labels.csv.gz"])
def test_blanks_empty_strings_and_empty_cells(tmp_path, capsys, name):
    """`' pleural effusion'` is a pleural effusion, an empty list is a healthy image, an empty cell is no label at
    all."""
    (tmp_path / "0").mkdir()
    table = read(label_file(tmp_path, name=name))
    assert table.ids.tolist() == ["a.png", "b.png", "d.png", "f.png"]
    assert table.targets.tolist() == [[1, 1], [0, 0], [0, 0], [0, 0]]  # "Scoliosis" is another string
    assert table.known["patient"].tolist() == ["p1", "p1", "0012", "p3"]  # text: leading zeros stay
    assert table.known["age"].tolist() == ["76", "77", "", "24"] and table.known["sex"].tolist() == ["F", "F", "", "M"]
    assert table.files.tolist() == ["0/a.png", "0/b.png", "1/d.png", "2/f.png"]  # in numbered folders when there is any
    assert "left out 1 images whose Labels cell is empty: c.png" in capsys.readouterr().out


def test_projections_and_physicians(tmp_path):
    path = label_file(tmp_path)
    assert read(path, ["cardiomegaly"], ["L", "PA"]).ids.tolist() == ["a.png", "b.png", "d.png", "e.png", "f.png"]
    assert read(path, physician_only=True).ids.tolist() == ["a.png", "f.png"]
    assert read(path, ["cardiomegaly"], ["L"]).targets.tolist() == [[1]]


def test_what_a_table_program_has_done_to_the_columns(tmp_path):
    """Patients with a blank behind them are the same patient, folder 1.0 is folder 1, an empty one is none."""
    rows = changed(1, 3, "p1 ")
    rows[0][1], rows[1][1], rows[3][1] = "1.0", "", "1"
    (tmp_path / "1").mkdir()
    table = read(label_file(tmp_path, rows))
    assert table.known["patient"].tolist() == ["p1", "p1", "0012", "p3"] and table.files.tolist() == [
        "1/a.png",
        "b.png",
        "1/d.png",
        "2/f.png",
    ]


def changed(row: int, column: int, value: str):
    rows = [list(cells) for cells in ROWS]
    rows[row][column] = value
    return rows


@pytest.mark.parametrize(
    "rows, settings, sentence",
    [
        (changed(1, 8, "['scoliosis'"), {}, "row 2: Labels \"['scoliosis'\" is no list of names"),
        (changed(1, 8, "{'scoliosis': 1}"), {}, "row 2: Labels \"{'scoliosis': 1}\" is no list of names"),
        (changed(1, 8, "['normal' 'scoliosis']"), {}, "row 2: Labels \"['normal' 'scoliosis']\" is no list of names"),
        (changed(1, 8, "{[1]: 2}"), {}, "row 2: Labels '{[1]: 2}' is no list of names"),
        (changed(1, 1, "../x"), {}, "ImageDir '../x' is no name of a numbered folder"),
        (changed(2, 3, "NaN"), {}, "row 3: c.png has no PatientID"),
        (changed(1, 8, "[1, 2]"), {}, "row 2: Labels '[1, 2]' is no list of names"),
        (ROWS, {"labels": ["scolyosis"]}, "has no label 'scolyosis' (nearest: "),
        (ROWS, {"labels": ["CARDIOMEGALY"]}, "has no label 'CARDIOMEGALY' (nearest: cardiomegaly)"),
        (ROWS, {"projections": ["AP"]}, "has no row with Projection AP; there are PA (5), L (1)"),
        (
            ROWS[4:5] + ROWS[1:2],
            {"labels": ["normal"], "physician_only": True},
            "has no row with MethodLabel Physician; there are RNN_model (1)",
        ),
        (changed(2, 3, ""), {}, "row 3: c.png has no PatientID"),
        (changed(1, 0, "a.png"), {}, "1 ids stand there more than once: a.png"),
        (changed(1, 0, "../b.png"), {}, "an id must be a plain file name"),
        ([], {}, "has a header and no rows"),
    ],
)
def test_faults_are_named(tmp_path, rows, settings, sentence):
    with pytest.raises(UserError) as error:
        read(label_file(tmp_path, rows), **settings)
    assert sentence in str(error.value)


def test_a_file_that_is_no_label_file(tmp_path):
    for name, content, sentence in (
        ("a.csv", b"id,x\n1,2\n", "lacks the columns ImageID"),
        ("b.csv", b"", "it is empty"),
        ("c.csv.gz", b"no gzip", "cannot be read"),
        ("d.csv", b"\xff\xfe\x00", "not a readable CSV"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=sentence):
            read(tmp_path / name)
    (tmp_path / "e.csv").write_text(",".join([*COLUMNS, "Labels"]) + "\n" + ",".join("x" * 12) + "\n")
    with pytest.raises(UserError, match="columns that stand twice: Labels"):
        read(tmp_path / "e.csv")
    whole = label_file(tmp_path, name="PADCHEST.csv.gz")
    flipped = bytearray(whole.read_bytes())
    flipped[len(flipped) // 2] ^= 255
    (tmp_path / "f.csv.gz").write_bytes(flipped)
    with pytest.raises(UserError, match="f.csv.gz"):
        read(tmp_path / "f.csv.gz")
    whole.write_bytes(whole.read_bytes()[:-20])
    with pytest.raises(UserError, match="cannot be read"):
        read(whole)


def test_the_real_file():
    """The counts of the published file, from the copy inside torchxrayvision's wheel."""
    path = (
        Path(find_spec("torchxrayvision").origin).parent
        / "data"
        / "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv.gz"
    )
    table = read_table(path, padchest_labels.COLUMNS)
    assert table["Projection"].value_counts().to_dict() == {
        "PA": 91728, "L": 49579, "AP_horizontal": 14346, "AP": 4559, "COSTAL": 630, "EXCLUDE": 11, "UNK": 8,
    }  # fmt: skip
    assert len(table) == 160861 and table["PatientID"].nunique() == 67625
    assert table["PatientID"][table["Projection"] == "PA"].nunique() == 62146
    methods = table["MethodLabel"].value_counts()
    assert (methods["Physician"], methods["RNN_model"]) == (39053, 121808)
    named = [padchest_labels.names_in(cell, number, path) for number, cell in enumerate(table["Labels"], start=1)]
    assert sum(names is None for names in named) == 103
    names = [name for row in named if row for name in row]
    assert len(set(names)) == 193  # and the empty string, which is none
    counts = {name: names.count(name) for name in ("unchanged", "exclude", "suboptimal study")}
    assert counts == {"unchanged": 14334, "exclude": 1312, "suboptimal study": 1839}
    assert set(THESIS) <= set(names)


@needs_shared
def test_the_sample_file():
    folder = SHARED / "data" / "padchest_sample"
    table = padchest_labels.read(
        folder / "PADCHEST_like_labels.csv",
        folder / "images",
        ["cardiomegaly", "pleural effusion"],
        ["PA", "AP"],
        False,
    )
    assert len(table.ids) == 1807 - 3 and (folder / "images" / table.files[0]).is_file()


def test_no_patient_is_parted_and_labels_are_spread():
    rng = np.random.default_rng(0)
    patients = np.sort(rng.integers(0, 900, 1500)).astype(str)
    targets = (rng.random((1500, 4)) < [0.3, 0.1, 0.05, 0.02]).astype(np.float32)
    parts = folds.by_patient(targets, patients, (0.1, 0.2), seed=0)
    assert all(len(set(parts[patients == patient].tolist())) == 1 for patient in set(patients.tolist()))
    for part, share in (("training", 0.7), ("validation", 0.1), ("test", 0.2)):
        here = parts == part
        assert len(set(patients[here].tolist())) == pytest.approx(share * len(set(patients.tolist())), rel=0.03)
        assert np.allclose(targets[here].sum(axis=0), share * targets.sum(axis=0), rtol=0.12, atol=3)
    assert (parts == folds.by_patient(targets, patients, (0.1, 0.2), seed=0)).all()
    assert (parts != folds.by_patient(targets, patients, (0.1, 0.2), seed=1)).any()


def test_a_label_without_positives_does_not_stop_the_split():
    targets = np.zeros((40, 2), np.float32)
    targets[::4, 0] = 1
    parts = folds.by_patient(targets, np.arange(40).astype(str), (0.25, 0.25), 0)
    assert sorted(np.unique(parts, return_counts=True)[1].tolist()) == [10, 10, 20]


def test_repeat_factors():
    """A label of a quarter of the threshold is repeated twice, one above it not at all; an image counts for its rarest
    label."""
    targets = np.zeros((400, 3), np.float32)
    targets[:160, 0], targets[150:160, 1], targets[200:240, 2] = 1, 1, 1  # prevalences 0.4, 0.025, 0.1
    weights = priors.repeat_factors(targets, 0.1)
    assert np.allclose(weights[:150], 1) and np.allclose(weights[150:160], 2) and np.allclose(weights[200:], 1)


def test_the_recorded_prevalence_is_that_of_the_drawn_images():
    rng = np.random.default_rng(1)
    targets = (rng.random((500, 3)) < [0.3, 0.05, 0.01]).astype(np.float32)
    weights = priors.repeat_factors(targets, 0.2)
    drawn = targets[rng.choice(500, 200_000, p=weights / weights.sum())]
    assert np.allclose(priors.prevalence(targets, weights), drawn.mean(axis=0), atol=3e-3)
    assert np.allclose(priors.prevalence(targets, None), targets.mean(axis=0))
    targets[:100, 1] = np.nan  # unknown rows count for nothing
    assert priors.prevalence(targets, None)[1] == pytest.approx(targets[100:, 1].mean())
