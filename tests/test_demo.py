"""The synthetic sets: their layouts, counts and repeatability, the signs in the pictures, and that they can be
learned."""

import ast
import csv
import hashlib
import io
import json
import os
import subprocess
import sys
import time
from collections import Counter, defaultdict

import numpy as np
import pytest
from PIL import Image

from conftest import ROOT, SHARED, needs_shared
from images import labels, phantom, synthetic

THESIS = [
    "cardiomegaly", "aortic elongation", "unchanged", "scoliosis", "costophrenic angle blunting", "air trapping",
    "pleural effusion", "interstitial pattern", "vertebral degenerative changes", "laminar atelectasis",
]  # fmt: skip
SIGNS = {sign.__name__: sign for signs in (synthetic.SIGNS, synthetic.PADCHEST) for sign, *_ in signs.values() if sign}


@pytest.fixture(scope="module")
def padchest(tmp_path_factory):
    """150 synthetic images in PadChest's layout; read only."""
    folder = tmp_path_factory.mktemp("padchest") / "set"
    synthetic.make(folder, images=150, size=48, seed=5, layout="padchest")
    return folder


@pytest.fixture(scope="module")
def plan():
    """The default set in PadChest's layout, not drawn: its table, read as a CSV file would be, and the labels of every
    row without blanks."""
    text = io.StringIO()
    csv.writer(text).writerows(
        synthetic.padchest(synthetic.IMAGES, synthetic.SIZE, synthetic.SEED).tables["PADCHEST_demo_labels.csv"]
    )
    rows = list(csv.DictReader(io.StringIO(text.getvalue())))
    return rows, [{label.strip() for label in ast.literal_eval(row["Labels"] or "[]")} for row in rows]


def test_layout_is_the_competitions(made):
    tables = labels.read_competition(made)
    solution = labels.read_one_hot(made / "solution.csv")
    assert tables.labelled.classes == solution.classes == list(synthetic.SIGNS) and len(tables.labelled.classes) == 20
    assert solution.ids.tolist() == tables.unlabelled.tolist()
    sample = labels.read_one_hot(made / "sample_submission.csv")
    assert sample.ids.tolist() == tables.unlabelled[:10].tolist() and sample.classes == solution.classes
    on_disk = {path.name for path in (made / "images").iterdir()}
    assert on_disk == {*tables.labelled.ids.tolist(), *tables.unlabelled.tolist()} and len(on_disk) == 120
    image = Image.open(made / "images" / tables.unlabelled[0])
    assert image.size == (40, 40) and image.mode == "L"
    assert json.loads((made / "demo.json").read_text())["synthetic"] is True


def test_the_default_set_has_enough_of_every_class():
    """15 images of each class in training, validation and test; a long tail behind No Finding."""
    from core import folds

    counts = synthetic.class_counts(synthetic.IMAGES)
    test = np.array([max(1, round(synthetic.TEST_SHARE * n)) for n in counts])
    held_out = folds.stratified(np.repeat(np.arange(20), counts - test), 0.36, seed=0)
    val = np.bincount(np.repeat(np.arange(20), counts - test)[held_out])
    assert counts.sum() == synthetic.IMAGES and min(test.min(), val.min(), (counts - test - val).min()) >= 15
    assert counts.max() == counts[-1] > 3 * np.sort(counts)[-2]


@pytest.mark.parametrize("images", [60, 500, 20_000])
def test_any_number_of_images(images):
    counts = synthetic.class_counts(images)
    assert counts.sum() == images and counts.min() >= 2
    if images == 20_000:
        assert counts[-1] / images > 0.6  # large sets come near the competition's proportions


def parts_of(images):
    """Images of every class in train.csv and in test.csv of a set made with --full, int [C] each; not drawn."""
    tables = synthetic.competition(images, 64, 0, full=True).tables
    return [np.array([row[1:] for row in tables[name][1:]]).sum(axis=0) for name in ("train.csv", "solution.csv")]


def test_the_full_set_has_the_competitions_counts():
    train, test = parts_of(synthetic.FULL_IMAGES)
    rarest = list(synthetic.SIGNS).index("Pneumomediastinum")
    assert (train.sum(), test.sum()) == (51_043, 17_015) and (train[-1], test[-1]) == (34_079, 11_360)
    assert (train[rarest], test[rarest]) == (train.min(), test.min()) == (5, 2)
    if SHARED.is_dir():
        with open(SHARED / "data/competition_real/class_counts.csv") as file:
            real = [(int(row["train_count"]), int(row["implied_test_count"])) for row in csv.DictReader(file)]
        assert real == [*zip(train, test)]


@pytest.mark.parametrize("images", [60, 150, 10_000])
def test_a_smaller_full_set_keeps_the_proportions_and_every_class(images):
    train, test = parts_of(images)
    assert train.sum() + test.sum() == images and min(train.min(), test.min()) >= 1
    if images == 10_000:
        assert np.allclose((train + test)[-1] / images, 0.667, atol=0.005) and train.min() == 5
        assert abs(train.sum() / images - 0.75) < 0.001


def test_the_default_sets_are_as_they_were():
    """Who has what, to the letter; the pictures to what another processor may round otherwise."""
    was = {
        "competition": ("d9f2f108729b1cd3", [124.4, 102.7, 108.1, 115.0, 121.3, 109.2, 127.0, 110.6, 107.1, 100.5]),
        "padchest": ("16093d1311a0b296", [122.6, 102.9, 107.6, 126.0, 120.2, 93.6, 92.9, 107.2, 96.9, 100.5]),
    }
    for layout, (tables, means) in was.items():
        plan = synthetic.LAYOUTS[layout].plan(synthetic.IMAGES, synthetic.SIZE, synthetic.SEED)
        assert hashlib.sha256(json.dumps(plan.tables, default=int).encode()).hexdigest()[:16] == tables
        assert set(plan.plainness) == {1}
        pictures = [
            phantom.radiograph(plan.pictures[number][1], 128, np.random.default_rng((0, number)), plan.dtype)
            for number in range(0, 1500, 150)
        ]
        assert np.allclose([picture.mean() * 255 / np.iinfo(plan.dtype).max for picture in pictures], means, atol=0.06)


@pytest.mark.parametrize("name", SIGNS)
def test_a_less_plain_sign_is_weaker(name):
    """The same patient again and again, the body's part of the sign included: nothing at 0, more and more up to 1."""
    absent, faint, plain = (
        phantom.radiograph([SIGNS[name]], 128, np.random.default_rng(3), plainness=plainness).astype(float)
        for plainness in (0, 0.3, 1)
    )
    assert 0 < np.abs(faint - absent).mean() < 0.6 * np.abs(plain - absent).mean()


def test_same_seed_same_pictures_other_seed_others(tmp_path, made):
    synthetic.make(tmp_path / "again", images=120, size=40, seed=7)
    synthetic.make(tmp_path / "other", images=120, size=40, seed=8)
    for path in made.rglob("*"):
        if path.is_file():
            assert path.read_bytes() == (tmp_path / "again" / path.relative_to(made)).read_bytes(), path.name
    assert not {path.name for path in (tmp_path / "other/images").iterdir()} & {
        path.name for path in (made / "images").iterdir()
    }


@pytest.mark.parametrize("name", SIGNS)
def test_every_sign_can_be_seen(name):
    """The same patient with and without the finding, at its weakest: some region differs by more than the grain."""
    finding, healthy = (
        phantom.radiograph(signs, 128, np.random.default_rng(3)).astype(float) for signs in ([SIGNS[name]], [])
    )
    blocks = np.abs(finding - healthy)[:120, :120].reshape(20, 6, 20, 6).mean(axis=(1, 3))
    assert blocks.max() > 6


def blank(signs, seed):
    """An empty canvas of a body that the signs have changed: what a sign draws on it is all that is there."""
    canvas = phantom.Canvas(128, np.random.default_rng(seed))
    for sign in signs:
        if sign in phantom.BODY:
            phantom.BODY[sign](canvas)
    return canvas


@pytest.mark.parametrize("seed", range(5))
def test_the_angle_is_filled_in_the_lateral_corner_of_one_lung_base(seed):
    """All of it low and lateral in one lung, and no more than a tenth of that lung."""
    canvas = blank([], seed)
    phantom.costophrenic_blunting(canvas)
    filled = canvas.image > 0.19
    [lung] = [lung for lung in (canvas.lung(side) > 0.5 for side in (0, 1)) if (lung & filled).any()]
    assert 0.02 < filled.sum() / lung.sum() < 0.1 and not (filled & ~lung).any()
    assert canvas.y[filled].mean() > np.quantile(canvas.y[lung], 0.85)
    assert np.abs(canvas.x[filled] - 0.5).mean() > np.abs(canvas.x[lung] - 0.5).mean() + 0.03


@pytest.mark.parametrize("seed", range(5))
def test_spurs_stand_on_both_edges_of_the_vertebrae(seed):
    for signs in ([], [phantom.scoliosis]):
        canvas = blank(signs, seed)
        phantom.vertebral_degeneration(canvas)
        aside = (canvas.x - canvas.spine)[canvas.image > 0.1]
        assert np.abs(aside).max() < 0.09 and np.abs(aside).min() > 0.02
        assert 0.2 < (aside > 0).mean() < 0.8


@pytest.mark.parametrize("strength", [0.25, 1.0])
def test_scoliosis_bends_the_spine_as_much_as_it_is_strong(monkeypatch, strength):
    """The bright column's centre, at mid-chest, has left the line between its ends; without scoliosis it runs
    straight."""
    monkeypatch.setattr(phantom, "STRENGTH", (strength, strength))
    offsets = []
    for seed in range(8):
        canvas = blank([phantom.scoliosis], seed)
        phantom.scoliosis(canvas)
        rows = [canvas.image[np.abs(canvas.y[:, 0] - height).argmin()] for height in (0.22, 0.5, 0.78)]
        top, middle, bottom = (row @ canvas.x[0] / row.sum() for row in rows)
        offsets.append(middle - (top + bottom) / 2)
    assert np.min(np.abs(offsets)) > 0.03 * strength and {np.sign(offset) for offset in offsets} == {-1, 1}
    assert blank([], 0).spine == 0.5


def test_a_16_bit_picture_is_the_8_bit_one_in_finer_steps():
    fine, coarse = (
        phantom.radiograph([phantom.scoliosis, phantom.effusion], 64, np.random.default_rng(1), kind)
        for kind in (np.uint16, np.uint8)
    )
    assert fine.dtype == np.uint16 and np.abs(fine / 257 - coarse).max() <= 0.5 + 1e-9 and len(np.unique(fine)) > 1000


def test_padchest_layout(padchest):
    with open(padchest / "PADCHEST_demo_labels.csv", newline="") as file:
        header, *rows = csv.reader(file)
    assert (
        tuple(header) == synthetic.COLUMNS
        and len(header) == 36
        and {len(row) for row in rows} == {36}
        and len(rows) == 150
    )
    assert [row[0] for row in rows] == [str(number) for number in range(150)]
    rows = [dict(zip(header, row, strict=True)) for row in rows]
    on_disk = {str(path.relative_to(padchest / "images")) for path in (padchest / "images").rglob("*.png")}
    assert (
        on_disk == {f"{row['ImageDir']}/{row['ImageID']}" for row in rows}
        and len(on_disk) == len({row["ImageID"] for row in rows}) == 150
    )
    assert len({row["ImageDir"] for row in rows}) > 1
    for name in sorted(on_disk)[:5]:
        image = Image.open(padchest / "images" / name)
        assert image.mode.startswith("I") and image.size == (48, 48) and np.asarray(image).max() > 255
    assert {(row["Rows_DICOM"], row["Columns_DICOM"], row["BitsStored_DICOM"]) for row in rows} == {("48", "48", "16")}
    about = json.loads((padchest / "demo.json").read_text())
    assert about["synthetic"] is True and about == synthetic.recipe(150, 48, 5, "padchest") != synthetic.recipe(
        150, 48, 5
    )
    assert {path.name for path in padchest.iterdir()} == {"images", "PADCHEST_demo_labels.csv", "demo.json"}


@needs_shared
def test_the_columns_are_padchests():
    with open(SHARED / "data/padchest_sample/PADCHEST_like_labels.csv", newline="") as file:
        assert tuple(next(csv.reader(file))) == synthetic.COLUMNS


def test_padchest_has_enough_of_every_label(plan):
    rows, found = plan
    frontal = [names for row, names in zip(rows, found, strict=True) if row["Projection"] == "PA"]
    count = Counter(label for names in frontal for label in names)
    assert 0.7 < len(frontal) / len(rows) < 0.85 and {row["Projection"] for row in rows} == {"PA", "L", "AP_horizontal"}
    assert all(count[label] >= 30 and 0.05 < count[label] / len(frontal) < 0.17 for label in THESIS), count
    assert 0.35 < count["normal"] / len(frontal) < 0.45
    assert np.mean([len(names & set(THESIS)) > 1 for names in frontal]) > 0.15  # several labels an image
    assert count["COPD signs"] > 30 and count["chronic changes"] > 30
    assert [*synthetic.PADCHEST][:9] == [label for label in THESIS if label != "unchanged"]


def test_padchest_patients(plan):
    """One to three images each, of one sex and birth year, in the order of the studies; findings mostly stay,
    `unchanged` comes later."""
    rows, found = plan
    patients = defaultdict(list)
    for row, names in sorted(zip(rows, found, strict=True), key=lambda pair: pair[0]["StudyDate_DICOM"]):
        patients[row["PatientID"]].append((row, names))
    assert {len(images) for images in patients.values()} == {1, 2, 3} and 1.2 < len(rows) / len(patients) < 1.4
    for images in patients.values():
        assert len({(row["PatientBirth"], row["PatientSex_DICOM"]) for row, _ in images}) == 1
        assert len({(row["StudyID"], row["StudyDate_DICOM"]) for row, _ in images}) == len(images)
    assert {row["PatientSex_DICOM"] for row in rows} == {"M", "F", ""}
    # beyond int64, so a reader must take it as text
    assert all(name.isdecimal() and len(name) > 19 for name in patients)
    visible = set(THESIS) - {"unchanged"}
    pairs = [
        (before & visible, after & visible)
        for images in patients.values()
        for (_, before), (_, after) in zip(images, images[1:])
    ]
    assert 0.55 < sum(len(before & after) for before, after in pairs) / sum(len(before) for before, _ in pairs) < 0.85
    first, later = (
        [names for images in patients.values() for _, names in images[part]] for part in (slice(1), slice(1, None))
    )
    assert (
        np.mean(["unchanged" in names for names in first])
        < 0.05
        < 0.35
        < np.mean(["unchanged" in names for names in later])
    )
    ages = np.array([int(row["StudyDate_DICOM"][:4]) - float(row["PatientBirth"]) for row in rows])
    assert ages.min() >= 18 and ages.max() < 105
    for label in ("aortic elongation", "vertebral degenerative changes"):
        has = np.array([label in names for names in found])
        assert ages[has].mean() > ages[~has].mean() + 4


def test_padchest_labels_have_the_real_files_quirks(plan):
    rows, found = plan
    raw = [ast.literal_eval(row["Labels"]) if row["Labels"] else None for row in rows]
    elements = [label for names in raw if names for label in names]
    assert 0 < raw.count(None) < 30 and [] not in raw
    assert (
        any(label != label.lstrip() for label in elements)
        and any(label != label.rstrip() for label in elements)
        and "" in elements
    )
    assert all(len(names) == 1 for names in found if names & {"normal", "exclude"})
    assert (
        0 < sum("exclude" in names for names in found) < 40
        and 0 < sum("suboptimal study" in names for names in found) < 40
    )
    known = {*THESIS, *synthetic.PADCHEST, "normal", "exclude", "suboptimal study", ""}
    assert set().union(*found) <= known
    assert 0.2 < np.mean([row["MethodLabel"] == "Physician" for row in rows]) < 0.3


def test_padchest_pictures_show_what_the_rows_say():
    rows, findings = synthetic.padchest_rows(400, 64, 2)
    signs_of = dict(synthetic.padchest(400, 64, 2).pictures)
    for row, names in zip(rows, findings, strict=True):
        labels_read = [label.strip() for label in ast.literal_eval(row["Labels"] or "[]")]
        assert names == [label for label in labels_read if label in synthetic.PADCHEST]
        assert signs_of[f"{row['ImageDir']}/{row['ImageID']}"] == [
            synthetic.PADCHEST[name][0] for name in names if synthetic.PADCHEST[name][0]
        ]
    assert max(map(len, signs_of.values())) >= 3


def test_padchest_is_the_same_in_another_process_and_other_with_another_seed(tmp_path, padchest):
    argv = [tmp_path / "again", "--layout", "padchest", "--images", "150", "--size", "48", "--seed", "5"]
    again = subprocess.run(
        [sys.executable, ROOT / "src/make_demo.py", *argv],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONHASHSEED": "99"},
    )
    assert "wrote 150 images and PADCHEST_demo_labels.csv to" in again.stdout
    files = {path.relative_to(padchest) for path in padchest.rglob("*") if path.is_file()}
    assert files == {path.relative_to(tmp_path / "again") for path in (tmp_path / "again").rglob("*") if path.is_file()}
    assert all((padchest / name).read_bytes() == (tmp_path / "again" / name).read_bytes() for name in files)
    (one, _), (other, _) = (synthetic.padchest_rows(150, 48, seed) for seed in (5, 6))
    for column in ("ImageID", "PatientID", "StudyID"):
        assert not {row[column] for row in one} & {row[column] for row in other}


def test_make_demo_names_the_layouts(tmp_path, call):
    said = call("make_demo", tmp_path / "set", "--layout", "chexpert")
    assert (
        said.code == 2
        and said.err == "error: there is no layout 'chexpert': choose competition or padchest\n"
        and not (tmp_path / "set").exists()
    )
    said = call("make_demo", tmp_path / "set", "--images", 60, "--size", 32)
    assert (
        said.code == 0
        and "wrote 60 images, train.csv, test.csv, sample_submission.csv and solution.csv to set" in said.out
    )


def test_make_demo_full_makes_a_set_that_a_network_learns_from(tmp_path, home, call):
    said = call("make_demo", tmp_path / "set", "--full", "--layout", "padchest")
    assert said.code == 2 and said.err == (
        "error: --full makes the competition's set at its full size: leave out --layout padchest\n"
    )
    said = call("make_demo", tmp_path / "set", "--full", "--images", 150, "--size", 32)
    assert said.code == 0 and "wrote 150 images, train.csv" in said.out
    about = json.loads((tmp_path / "set/demo.json").read_text())
    assert about == synthetic.recipe(150, 32, full=True) != synthetic.recipe(150, 32)
    hard, plain = synthetic.competition(150, 32, 0, full=True), synthetic.competition(150, 32, 0)
    assert np.mean(hard.plainness) < 0.6 < min(plain.plainness)
    argv = ["--demo", "--data", tmp_path / "set", "epochs=1", "model=test_resnet", "size=32", "workers=0", "name=full"]
    said = call("main", "modelB", *argv)
    assert said.code == 0, said.err
    assert json.loads((home / "runs/full/report.json").read_text())["synthetic"] is True


def test_another_layout_in_the_same_place_replaces_the_set(home, monkeypatch):
    monkeypatch.setattr(synthetic.make, "__defaults__", (60, 32, 0, "competition"))
    monkeypatch.setattr(synthetic.recipe, "__defaults__", (60, 32, 0, "competition"))
    folder = synthetic.ensure("padchest", home / "data/demo")
    assert (folder / "PADCHEST_demo_labels.csv").is_file() and not (folder / "train.csv").exists()
    stamp = (folder / "PADCHEST_demo_labels.csv").stat().st_mtime_ns
    assert synthetic.ensure("padchest", folder) and (folder / "PADCHEST_demo_labels.csv").stat().st_mtime_ns == stamp
    assert (synthetic.ensure("competition", folder) / "train.csv").is_file() and not (
        folder / "PADCHEST_demo_labels.csv"
    ).exists()


def test_the_set_is_remade_when_its_recipe_changed(home, monkeypatch):
    monkeypatch.setattr(synthetic, "IMAGES", 60)
    monkeypatch.setattr(
        synthetic,
        "recipe",
        lambda images=60, size=32, seed=0, layout="competition", full=False: {"images": images, "version": 1},
    )
    monkeypatch.setattr(synthetic.make, "__defaults__", (60, 32, 0, "competition"))
    folder = synthetic.ensure("competition", home / "data/demo")
    stamp = (folder / "train.csv").stat().st_mtime_ns
    time.sleep(0.01)
    assert synthetic.ensure("competition", folder) and (folder / "train.csv").stat().st_mtime_ns == stamp
    monkeypatch.setattr(
        synthetic,
        "recipe",
        lambda images=60, size=32, seed=0, layout="competition", full=False: {"images": images, "version": 2},
    )
    assert synthetic.ensure("competition", folder) and (folder / "train.csv").stat().st_mtime_ns != stamp


def test_the_demo_settings_are_checked_not_those_they_replace(made, home, call):
    """Model B freezes two epochs and the demo none, so one epoch is enough there."""
    said = call("main", "modelB", "--demo", "--data", made, "epochs=1", "model=test_resnet", "size=32")
    assert said.code == 0, said.err


def test_nothing_at_hand_runs_the_demo_loudly_and_learns(home, call, monkeypatch):
    """The newcomer's command, shortened: plainer signs, fewer images and epochs; clearly above the constant answer."""
    monkeypatch.setattr(phantom, "STRENGTH", (0.9, 1.0))
    monkeypatch.setattr(synthetic, "IMAGES", 800)
    monkeypatch.setattr(synthetic.make, "__defaults__", (800, 96, 0, "competition"))
    said = call("main", "modelB", "size=64", "epochs=6")
    assert said.code == 0, said.err
    assert "SYNTHETIC" in said.err and "no data and no Kaggle credentials were found" in said.err
    assert (home / "submissions/modelB-demo.csv").is_file()
    report = json.loads((home / "runs/modelB-demo/report.json").read_text())
    assert list(report)[0] == "synthetic" and report["synthetic"] is True
    assert report["test"]["rules"]["temperature"]["score"] > report["test"]["always"]["score"] + 0.5
