"""look: what the data are, measured on folders in which it was planted."""

import csv
import shutil
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

import browser
import look
from answers import data_report, metrics, shortcuts
from answers.metrics import Costs
from conftest import SHARED, needs_shared
from core.data_set import Table
from images import sheets, survey
from tasks import registry

HOSTILE = "<script>alert(1)<b>"
CLASSES = ["Sick", HOSTILE, "$x_2$", "Empty", "No Finding"]


def radiograph(rng: np.random.Generator, side: int = 64) -> np.ndarray:
    """A smooth random picture, unlike every other."""
    coarse = rng.uniform(20, 235, (8, 8)).astype(np.float32)
    return np.clip(cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC), 0, 255).astype(np.uint8)


def write_csv(path: Path, rows: list[list]) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)


@pytest.fixture
def nasty(tmp_path) -> Path:
    """A folder in the competition's layout with everything that may be wrong: hostile names, an empty class, a class
    of one image, a broken and a missing image, blank ones, other sizes and modes, the same image in both parts, and
    classes that the border tells."""
    folder, rng = tmp_path / "nasty", np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    truth = [0] * 30 + [1] * 25 + [2] + [4] * 44
    ids = [f"{HOSTILE}{number}.png" if number < 3 else f"image{number}.png" for number in range(len(truth))]
    for name, label in zip(ids, truth):
        image = radiograph(rng, 64 if label else 80)
        image[:5] = 40 * label + 20  # planted: the class stands in the upper border
        cv2.imwrite(str(folder / "images" / name), image)
    (folder / "images" / ids[40]).write_bytes(b"no image")
    (folder / "images" / ids[41]).unlink()
    for name in ids[42:44]:
        cv2.imwrite(str(folder / "images" / name), np.zeros((64, 64), np.uint8))
    cv2.imwrite(str(folder / "images" / ids[50]), np.tile(rng.integers(255, size=(50, 90, 1), dtype=np.uint8), 3))
    for number in range(10):
        cv2.imwrite(str(folder / "images" / f"test{number}.png"), radiograph(rng))
    shutil.copy(folder / "images" / ids[60], folder / "images" / "test3.png")
    rows = [[name, *[int(c == label) for c in range(len(CLASSES))]] for name, label in zip(ids, truth)]
    write_csv(folder / "train.csv", [["id", *CLASSES], *rows])
    write_csv(folder / "test.csv", [["id"], *[[f"test{number}.png"] for number in range(10)]])
    return folder


def test_a_nasty_folder_gets_its_page(nasty, call, home, tmp_path):
    said = call("look", "modelB", "--data", nasty, "size=32")
    page = home / "looks" / "modelB" / "data.html"
    assert said.code == 0 and said.out.splitlines()[-1] == f"wrote {page.relative_to(tmp_path)}"
    assert "100 labelled images, 5 classes, 10 images to predict. All images were looked at." in said.out
    assert "Without an image: 1 of the 5 classes, Empty." in said.out and "$x_2$ (1)" in said.out
    assert (
        "IN BOTH PARTS: 1 of the 10 images to predict are labelled ones, too." in said.out
        and "Blank: 2 images" in said.out
    )
    assert "2 images cannot be read" in said.out and "Patients are not known" in said.out
    content = page.read_text()
    assert HOSTILE not in content and "&lt;script&gt;alert(1)&lt;b&gt;" in content
    assert "(not an image)" in content and "(missing)" in content and "90 × 50" in content
    assert content.count("<script>") == 1  # the page's own
    if browser.CHROMIUM:
        for seen in browser.check(page, tmp_path):
            assert HOSTILE in seen["text"] and "The same image twice" in seen["text"]


def test_a_synthetic_set_says_so(made, call, home):
    said = call("look", "--data", made, "name=mine")
    content = (home / "looks" / "mine" / "data.html").read_text()
    assert said.code == 0 and "SYNTHETIC DATA" in content and "SYNTHETIC" in said.err
    counts = pd.read_csv(made / "train.csv").drop(columns="id").sum()
    best = counts.idxmax()
    assert f"always answering {best} scores" in said.out
    for name, number in counts.items():
        assert f'data-value="{number}"' in content or f">{number}<" in content, name


def test_a_folder_without_images_that_can_be_read(tiny, call):
    for path in (tiny / "images").iterdir():
        path.write_bytes(b"no image")
    said = call("look", "--data", tiny)
    assert said.code == 0 and "images cannot be read" in said.out


def test_a_table_that_cannot_be_parted_is_still_shown_and_a_sample_says_so(nasty, call, monkeypatch):
    monkeypatch.setattr(look, "MOST", 60)
    said = call("look", "--data", nasty, f"split={nasty / 'nowhere.csv'}")
    assert said.code == 0 and "cannot be parted as a run would" in said.out
    assert "SAMPLE: the pixels of 60 of the 110 images" in said.out and "100 labelled images" in said.out
    assert call("look", "nosuch").code == 2


# ---- the same image twice
def seen(folder: Path, images: dict[str, np.ndarray | bytes]) -> tuple[survey.Survey, list[Path]]:
    """The survey of files of these pixels, or bytes, by name."""
    for name, image in images.items():
        content = image if isinstance(image, bytes) else cv2.imencode(Path(name).suffix, image)[1].tobytes()
        (folder / name).write_bytes(content)
    paths = [folder / name for name in images]
    return survey.survey(paths, np.array(list(images))), paths


def test_planted_duplicates_are_found_and_no_others(tmp_path):
    rng = np.random.default_rng(1)
    one, two, three, four = (radiograph(rng, 96) for _ in range(4))
    packed = cv2.imencode(".png", one, [cv2.IMWRITE_PNG_COMPRESSION, 0])[1].tobytes()
    images = {f"other{number}.png": radiograph(rng, 96) for number in range(20)}
    images |= {"one.png": one, "copy.png": one, "again.png": packed}
    images |= {"two.png": two, "two.jpg": cv2.convertScaleAbs(two, alpha=0.8, beta=20)}
    images |= {"three.png": three, "small.png": cv2.resize(three, (64, 48), interpolation=cv2.INTER_AREA)}
    images |= {"four.png": four, "mirror.png": four[:, ::-1].copy()}
    images |= {"black.png": np.zeros((96, 96), np.uint8), "grey.png": np.full((96, 96), 128, np.uint8)}
    found, paths = seen(tmp_path, images)
    names = found.ids

    def named(groups):
        return {frozenset(str(names[row]) for row in group[:3]) for group in groups}

    assert named(survey.same_files(paths)) == {frozenset({"one.png", "copy.png"})}
    assert named(survey.same_pixels(found)) == {frozenset({"one.png", "copy.png", "again.png"})}
    near, number = survey.alike(found)
    assert number == 2 == len(near) and all(r >= survey.ALIKE for *_, r in near)
    assert named(pair[:2] for pair in near) == {
        frozenset({"two.png", "two.jpg"}),
        frozenset({"three.png", "small.png"}),
    }
    assert named(pair[:2] for pair in survey.alike(found, mirrored=True)[0]) == {frozenset({"four.png", "mirror.png"})}


def test_many_pairs_are_counted_and_not_all_listed(tmp_path):
    base = radiograph(np.random.default_rng(2)).astype(int)
    images = {f"{k}.png": np.clip(base + k, 0, 255).astype(np.uint8) for k in range(12)}
    found, _ = seen(tmp_path, images)
    pairs, number = survey.alike(found, most=10)
    assert number == 12 * 11 / 2 and len(pairs) == 10


def test_a_survey_says_what_files_are(tmp_path):
    deep = np.linspace(0, 65535, 64 * 40).reshape(40, 64).astype(np.uint16)
    found, _ = seen(tmp_path, {"deep.png": deep, "colour.png": np.zeros((20, 30, 3), np.uint8), "bad.png": b"x"})
    assert found.ids.tolist() == ["deep.png", "colour.png"] and found.failed == {"bad.png": "not an image"}
    assert found.shape.tolist() == [[40, 64], [20, 30]] and found.mode.tolist() == ["I;16", "RGB"]
    assert np.allclose(found.histogram.sum(axis=1), 1) and np.allclose(found.histogram[0], 1 / survey.BINS, atol=0.002)
    assert found.rows(np.array(["colour.png", "nobody"])).tolist() == [1, -1]


def test_letters_are_marks_and_a_gradient_is_none():
    smooth = np.tile(np.linspace(0, 255, survey.SIDE).astype(np.uint8), (survey.SIDE, 1))
    written = np.full((survey.SIDE, survey.SIDE), 40, np.uint8)
    cv2.putText(written, "L", (6, 16), cv2.FONT_HERSHEY_SIMPLEX, 0.4, 255, 1)
    inside = np.full((survey.SIDE, survey.SIDE), 40, np.uint8)
    cv2.putText(inside, "L", (60, 64), cv2.FONT_HERSHEY_SIMPLEX, 0.4, 255, 1)
    assert survey.marks(np.stack([smooth, written, inside])).tolist() == [0, 1, 0]


def test_where_the_edges_are():
    where = survey.edge(32)
    assert where[:2].all() and where[:, -2:].all() and where[5, 5] and not where[6, 6] and not where[2:30, 8:24].any()
    assert (where == where.T).all() and (where == where[::-1]).all()


# ---- shortcuts
@pytest.mark.parametrize("exclusive", [True, False])
def test_a_planted_border_is_told_and_noise_is_not(exclusive):
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, 300)
    targets = np.eye(4)[truth]  # the fourth class is empty
    noise = rng.normal(size=(300, 40))
    planted = noise + 3 * targets[:, np.arange(40) % 4]
    told = shortcuts.told(planted, targets, exclusive, None)
    assert told.macro > 0.95 and told.low <= told.macro <= told.high and np.isnan(told.each[3])
    nothing = shortcuts.told(noise, targets, exclusive, None)
    assert 0.4 < nothing.macro < 0.6 and nothing.low < 0.52
    assert abs(shortcuts.by_luck(planted, targets, exclusive, None).mean() - 0.5) < 0.05


def test_who_a_patient_is_tells_nothing_of_another_one():
    """Each patient has one class and one look: by image that tells everything, by patient nothing."""
    rng = np.random.default_rng(0)
    who = np.repeat(np.arange(40), 8)
    look_of, classes = rng.normal(size=(40, 30)), rng.integers(0, 2, 40)
    features, targets = look_of[who] + 0.1 * rng.normal(size=(320, 30)), np.eye(2)[classes[who]]
    assert shortcuts.told(features, targets, True, None).macro > 0.9
    assert shortcuts.told(features, targets, True, who.astype(str)).macro < 0.7


def test_too_few_images_tell_nothing():
    targets = np.eye(2)[[0] * 5 + [1] * 40]
    told = shortcuts.told(np.random.default_rng(0).normal(size=(45, 3)), targets, True, None)
    assert np.isnan(told.each).all() and np.isnan(told.macro)
    assert shortcuts.features_of({"same": np.ones(5)}) is None and shortcuts.features_of({}) is None


# ---- labels
def table(truth: list[int], classes: int, **known) -> Table:
    names = [f"c{number}" for number in range(classes)]
    ids = np.array([f"{number}.png" for number in range(len(truth))])
    values = {name: np.array(column, dtype=str) for name, column in known.items()}
    return Table(ids, names, np.eye(classes, dtype=np.float32)[truth], known=values)


def test_constant_answers_by_brute_force():
    truth, costs = [0] * 12 + [1] * 3 + [2] * 1, Costs(1, 1, 5)
    (listed,), said = data_report.constants(table(truth, 4), costs)
    for name, score in zip(listed.frame["always"], listed.frame["score"]):
        answer, by_hand = int(name[1:]), []
        for c in range(3):
            hits = sum(t == c == answer for t in truth)
            alarms = sum(t != c and answer == c for t in truth)
            misses = sum(t == c != answer for t in truth)
            by_hand.append((hits - alarms - 5 * misses) / truth.count(c))
        assert score == pytest.approx(np.mean(by_hand))
    assert listed.frame["always"].tolist() == ["c0", "c1", "c2"] and "always answering c0" in said[0]


def test_the_noise_of_a_score_is_what_drawing_gives():
    n, rng = np.array([400, 60, 9]), np.random.default_rng(0)
    blocks, _ = data_report.noise(table(np.repeat([0, 1, 2], n).tolist(), 3), np.full(n.sum(), "validation"), Costs())
    truth, scores = np.repeat([0, 1, 2], n), []
    for _ in range(3000):
        hit = rng.random(n.sum()) < data_report.RECALL
        each = [(hit[truth == c].sum() - 5 * (~hit[truth == c]).sum()) / n[c] for c in range(3)]  # false alarms apart
        scores.append(np.mean(each))
    said = next(value for name, value in blocks[0].values.items() if name.startswith("sd with"))
    assert float(said) == pytest.approx(np.std(scores), rel=0.05)
    assert (
        "no validation part"
        in data_report.noise(table([0, 1], 2), np.array(["labelled"] * 2), Costs())[0][0].paragraphs[0]
    )


def test_by_patient_the_noise_is_wider():
    truth = np.repeat([0, 1, 0, 1], 30).tolist()
    patients = np.repeat(np.arange(12), 10)
    parts = np.full(120, "validation")
    by_image, by_patient = (
        float(list(data_report.noise(one, parts, Costs())[0][0].values.values())[3])
        for one in (table(truth, 2), table(truth, 2, patient=patients))
    )
    assert by_patient > 1.5 * by_image


def test_counts_are_exact_and_the_tail_is_named():
    truth = [0] * 120 + [1] * 49 + [2] * 3
    parts = np.array((["training"] * 3 + ["validation"]) * 43)
    (_, listed), said = data_report.classes(table(truth, 4, patient=np.arange(172) // 2), parts, True)
    rows = listed.frame.set_index("class")
    assert rows["images"].tolist() == [120, 49, 3, 0] and rows["patients"].tolist() == [60, 25, 2, 0]
    assert (rows["training"] + rows["validation"] == rows["images"]).all()
    assert said == [
        "Without an image: 1 of the 4 classes, c3.",
        "Fewer than 50 images: 2 of the 4 classes, c1 (49), c2 (3).",
        "Imbalance: c0 has 120 images, 40 times those of c2 (3).",
    ]


def test_labels_that_come_together():
    found = Table(np.array(list("abcd")), ["x", "y"], np.array([[1, 1], [1, 0], [0, 0], [1, 1]], np.float32))
    (counts, matrix), said = data_report.labels_an_image(found, False)
    assert counts.frame["images"].tolist() == [1, 1, 2] and said == ["1 of 4 images (25%) have none of the 2 labels."]
    assert [[cell.value for cell in matrix.frame[name]] for name in ("x", "y")] == [[3, 2], [2, 2]]


def test_ages():
    found = data_report.years(np.array(["57", "057Y", "412", "", "nan", "0", "63.0"]))
    assert np.allclose(found, [57, 57, np.nan, np.nan, np.nan, 0, 63], equal_nan=True)


def test_published_counts_stand_beside_ours_where_they_are_of_the_same_file():
    whole = Table(np.arange(4).astype(str), ["a", "b"], np.array([[1, 0], [1, 1], [0, 0], [0, 1]], np.float32),
                  known={"projection": np.array(["PA", "PA", "PA", "L"])})  # fmt: skip
    counts = [("projection", "PA", "3"), ("projection", "L", "1"), ("label names", "", "1"), ("label", "a", "2"),
              ("label", "b", "5")]  # fmt: skip
    published = pd.DataFrame(counts, columns=["kind", "name", "count"])
    blocks, said = data_report.whole_file(whole, ["a"], published, "the paper")
    assert said == [
        "Counts that differ from the paper: label names: 2 here, 1 published, label b: 2 here, 5 published."
    ]
    assert blocks[-1].frame["difference"].tolist() == [0, 0, 1, 0, -3]
    blocks, said = data_report.whole_file(whole.take(np.arange(3)), ["a"], published, "the paper")
    assert not said and "so the two are not compared" in blocks[-1].paragraphs[0]


# ---- what is looked at
def test_a_sample_has_the_rare_classes(tmp_path):
    truth = [0] * 900 + [1] * 95 + [2] * 5
    rows = look.sample(table(truth, 4), 500, [tmp_path / "none"] * 1500, most=200)
    labelled = np.array(truth)[rows[rows < 1000]]
    assert len(rows) == 200 == len(set(rows.tolist())) and (labelled == 2).sum() == 5 and (labelled == 1).sum() >= 50
    assert (rows >= 1000).any() and (
        rows == look.sample(table(truth, 4), 500, [tmp_path / "none"] * 1500, most=200)
    ).all()
    assert len(look.sample(table(truth, 4), 0, [tmp_path / "none"] * 1000, most=1000)) == 1000


@needs_shared
def test_the_lung_crop_is_shown_where_masks_are(call, home):
    said = call("look", "padchest", "--data", SHARED / "data" / "padchest_sample", "labels=pneumonia,pleural effusion",
                "limit=150", "projections=PA,AP")  # fmt: skip
    content = (home / "looks" / "padchest" / "data.html").read_text()
    assert said.code == 0 and "Lung crop" in content and "before, with the square, and after" in content
    assert "are not compared" in content and "Age, sex and view" in content


@needs_shared
def test_nih14_is_what_it_is():
    task = registry.task_of(registry.load("nih14"))
    from images import prepare

    source, _ = prepare.find(str(SHARED / "data" / "nih5k"), "nih14", task.layout)
    found = task.read(source).labelled
    said = data_report.patients(found.known, np.full(len(found.ids), "labelled"))[1] + data_report.people(found)[1]
    assert said == ["345 patients with 11.0 images each; patient 192 has most, 158 images.", "Views: AP 53%, PA 47%."]
    whole = task.whole(source)
    assert len(whole.classes) == 15 and (whole.targets.sum(axis=0)[whole.classes.index("No Finding")]) == 1536


def test_the_thesis_counts_are_read():
    published = look.read_table(look.ROOT / "configs/published/ruiz2025.csv", ["kind", "name", "count"])
    views = published[published["kind"] == "projection"]["count"].astype(int)
    assert views.sum() == 160_861 and metrics.Costs().fn == 5 and len(published) == 18


def test_pictures():
    flat = np.full((10, 12), 7.0)
    both = sheets.side_by_side([sheets.coloured(flat), sheets.difference(flat * 0)])
    assert both.shape == (10, 12 + sheets.GAP + 12, 4) and both[0, 13, 3] == 0 and both[0, 0, 0] == 7
    assert sheets.grid([flat] * 5, 3).shape == (22, 40)
    assert cv2.imdecode(np.frombuffer(sheets.png(both), np.uint8), cv2.IMREAD_UNCHANGED).shape == both.shape
