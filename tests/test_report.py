"""The pictures and the page of a run, from run folders written by hand: nothing is trained here."""

import itertools
import re
import shutil
import struct
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text
from scipy.stats import binomtest

import browser
import evaluate
import report
import tune
from answers import multi_label_page, plots, single_label_page
from conftest import ROOT
from core import files, logits_file, runs
from core import page as page_module
from core.errors import UserError
from core.task import Beside, Verdict
from tasks import registry
from tasks.opened import open_run

DOTS = 60  # an inch instead of 300, which is drawn sooner
CLASSES = ["Hernia", "Mass & <more>", "Calcification of the Aorta", "No Finding"]
LABELS = [
    "cardiomegaly",
    "scoliosis",
    "vertebral degenerative changes",
    "air & <trapping>",
    "unchanged",
    "pneumonia",
    "never seen",
]


def written(folder: Path, name: str, classes: list[str], draw, overrides: list[str], test_known: bool) -> Path:
    """A run folder as training, tuning and evaluation leave it; `draw` gives logits [1, N, C] and targets [N, C]."""
    config = registry.load(name, [f"name={folder.name}", *overrides], synthetic=True)
    task, rng = registry.task_of(config), np.random.default_rng(0)
    counts, contents = np.arange(10, 10 + len(classes)), {}
    for part, rows in (("val", 160), ("test", 120)):
        logits, targets = draw(rng, rows)
        targets = np.float32(targets if part == "val" or test_known else np.full(targets.shape, np.nan))
        contents[part] = logits_file.Logits(
            np.array([f"{part}{row}.png" for row in range(rows)]),
            np.float32(logits),
            targets,
            np.array(classes),
            counts,
            300,
            counts / 300,
        )
        logits_file.write_logits(folder / f"{part}_logits.npz", contents[part])
    files.write_rows(
        folder / "folds.csv",
        [
            {"id": one, "part": {"val": "validation"}.get(part, part), "patient": f"p{row // 2}"}
            for part, content in contents.items()
            for row, one in enumerate(content.ids)
        ],
    )
    files.write_json(
        folder / "run.json",
        {
            "split": files.digest((folder / "folds.csv").read_bytes()),
            "synthetic": True,
            "config": config.model_dump(),
            "data": "nowhere",
            "classes": classes,
            "counts": counts.tolist(),
            "rows": 300,
            "prior": (counts / 300).tolist(),
            "state": "trained",
            "best_epoch": 4,
            "seed": 0,
            "versions": {"python": "3.12", "torch": "2.6"},
            "commit": "abc<def>",
            "timings": {"train": 12.5},
        },
    )
    files.write_rows(
        folder / "log.csv",
        [
            {
                "epoch": epoch,
                "stage": "frozen" if epoch < 3 else "full",
                "train_loss": 3 / epoch,
                "val_loss": 3 / epoch + 0.01,
                task.monitor: 0.5 + 0.3 * (epoch == 4),
                "lr": 1e-3 if epoch < 5 else 5e-4,
            }
            for epoch in range(1, 7)
        ],
    )
    tune.tune(task, [contents["val"]], folder / "calibration.json")
    evaluate.evaluate(folder)
    return folder


def findings_drawn(rng, rows):
    logits = rng.normal(-1.5, 1, (1, rows, len(LABELS)))
    targets = rng.random((rows, len(LABELS))) < 1 / (1 + np.exp(-2 * logits[0] - 1))
    targets[:, LABELS.index("never seen")] = False
    return logits, np.where(rng.random(targets.shape) < 0.05, np.nan, targets)


def classes_drawn(rng, rows):
    truth = rng.integers(0, len(CLASSES), rows)
    return rng.normal(size=(1, rows, len(CLASSES))) + 2 * np.eye(len(CLASSES))[truth], np.eye(len(CLASSES))[truth]


@pytest.fixture(scope="module")
def made_runs(tmp_path_factory) -> Iterator[dict[str, Path]]:
    """A run of each task with its pictures and page; read only."""
    home = tmp_path_factory.mktemp("runs")
    found = {
        "many": written(
            home / "many",
            "padchest",
            LABELS,
            findings_drawn,
            [f"labels=[{', '.join(map(repr, LABELS))}]"],
            test_known=True,
        ),
        "one": written(home / "one", "modelB", CLASSES, classes_drawn, [], test_known=False),
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plots, "DOTS", DOTS)
        for folder in found.values():
            report.report(folder)
        yield found


@pytest.fixture
def copied(made_runs, tmp_path):
    """Copies that a test may break, without pictures."""
    return {
        name: Path(shutil.copytree(folder, tmp_path / name, ignore=shutil.ignore_patterns("figures", "report.html")))
        for name, folder in made_runs.items()
    }


def material_of(folder: Path, labels=()) -> tuple[tuple[str, ...], plots.Material]:
    config, about = registry.config_of(runs.read_run(folder)), runs.read_run(folder)
    task, found = registry.task_of(config), files.read_json(folder / "report.json")
    return task.plots, plots.Material(
        about["synthetic"],
        report._histories(open_run(folder)),
        task.monitor,
        config.rule,
        [logits_file.read_logits(folder / "val_logits.npz")],
        report._labelled(open_run(folder), found),
        files.read_json(folder / "calibration.json"),
        found,
        labels,
        rows=open_run(folder).rows,
    )


@pytest.fixture(scope="module")
def pictures(made_runs) -> dict[str, dict[str, plots.Picture]]:
    return {
        task: {picture.name: picture for picture in plots.draw(*material_of(folder))}
        for task, folder in made_runs.items()
    }


def lines(axis, name: str) -> np.ndarray:
    (line,) = (line for line in axis.lines if line.get_label() == name)
    return np.transpose(line.get_data())


# ---- files and the page
@pytest.mark.parametrize(
    "which, names, classes",
    [
        ("many", {"training", "roc", "roc_all", "precision_recall", "reliability", "histograms"}, LABELS),
        (
            "one",
            {
                *("training", "rules", "temperature", "likelihood"),
                *("confidence", "confusion", "counts", "class_costs"),
            },
            CLASSES,
        ),
    ],
)
def test_the_pictures_and_the_page_are_there(made_runs, which, names, classes):
    folder = made_runs[which]
    drawn = {path.stem: path.read_bytes() for path in (folder / "figures").iterdir()}
    assert set(drawn) == names
    for content in drawn.values():
        wide, high = struct.unpack(">II", content[16:24])
        assert (
            content.startswith(b"\x89PNG")
            and wide in (int(8.5 / 2.54 * DOTS), int(17.5 / 2.54 * DOTS))
            and high > 90
            and len(set(content)) > 200
        )
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert page.index("SYNTHETIC DATA", page.index("<body>")) < page.index("<h1>")
    assert page.count("<img") == len(names - {"confusion"})  # which is a table
    for name in classes:
        escaped = name.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        assert re.search(rf"<th scope=row[^>]*>{re.escape(escaped)}</th>", page), name
    assert "<more>" not in page and "<trapping>" not in page and "abc&lt;def&gt;" in page  # escaped
    assert page.count("<script") == 1 and not re.search(r"https?:|url\(|@import", page)
    assert all(place.startswith("data:") for place in re.findall(r'(?:src|href)="([^"#][^"]*)"', page))
    config = registry.config_of(runs.read_run(folder))
    assert f"<dt>lr</dt><dd>{config.lr}</dd>" in page and "<dt>torch</dt><dd>2.6</dd>" in page
    assert "Not for clinical use" in page


def test_the_same_run_gives_the_same_bytes(made_runs, pictures):
    for name, picture in (
        ("many", "roc"),
        ("many", "histograms"),
        ("one", "training"),
        ("one", "temperature"),
        ("one", "confusion"),
    ):
        assert pictures[name][picture].png() == (made_runs[name] / "figures" / f"{picture}.png").read_bytes(), picture


def test_real_data_is_not_called_synthetic(copied):
    about = files.read_json(copied["one"] / "run.json") | {"synthetic": False}
    files.write_json(copied["one"] / "run.json", about)
    found = files.read_json(copied["one"] / "report.json") | {"synthetic": False}
    files.write_json(copied["one"] / "report.json", found)
    assert not any(
        "synthetic" in str(text.get_text())
        for text in next(plots.draw(["class_costs"], material_of(copied["one"])[1])).figure.findobj(Text)
    )


HOSTILE = "<script>alert(1)</script>"


@browser.needs_browser
@pytest.mark.parametrize("which", ["one", "many"])
def test_a_browser_shows_the_page(made_runs, tmp_path, which):
    for seen in browser.check(made_runs[which] / "report.html", tmp_path):
        assert "Radiographs" in dict(map(reversed, seen["headings"])) and "best.pt" in seen["text"]
        every = next(table for table in seen["tables"] if table[0]["name"] in ("class", "label"))
        assert {text for _, text in every[0]["once"]} == set({"one": CLASSES, "many": LABELS}[which])


def test_a_hostile_class_is_text_and_real_data_are_not_called_synthetic(copied):
    """In the page, whatever file the name stands in."""
    about = files.read_json(copied["one"] / "run.json") | {"synthetic": False}
    files.write_json(copied["one"] / "run.json", about)
    for path in (copied["one"] / name for name in ("run.json", "report.json", "calibration.json", "per_class.csv")):
        path.write_text(path.read_text().replace("Hernia", HOSTILE))
    vals = logits_file.read_logits(copied["one"] / "val_logits.npz")
    tests = logits_file.read_logits(copied["one"] / "test_logits.npz")
    for name, content in (("val", vals), ("test", tests)):
        classes = np.array([HOSTILE, *CLASSES[1:]])
        logits_file.write_logits(copied["one"] / f"{name}_logits.npz", replace(content, classes=classes))
    page = report.page_of(report.draw(copied["one"])).decode()
    assert HOSTILE not in page and "&lt;script&gt;alert(1)" in page
    assert "SYNTHETIC" not in page and "synthetic" not in page


# ---- the verdict
def verdict(which: str, material: plots.Material, **beside) -> Verdict:
    about = {"name": "mine", "synthetic": False, "leaderboard": True, "finished": True, "gain": None, "published": ()}
    kind = {"one": single_label_page, "many": multi_label_page}[which]
    return kind.verdict(material.report, Beside(**about | beside))


@pytest.mark.parametrize(
    "over, low, starts, submits",
    [
        (-0.1, -0.3, "Do not submit it: rule temperature scores", "--force"),
        (0.1, -0.1, "Submit it only to learn, it may be luck:", 'submissions/mine.csv -m "mine"'),
        (0.1, 0.05, "Submit it:", 'submissions/mine.csv -m "mine"'),
    ],
)
def test_the_verdict_is_whether_the_rule_clears_the_constant_answer(made_runs, over, low, starts, submits):
    _, material = material_of(made_runs["one"])
    validation = material.report["validation"]
    own = validation["rules"]["temperature"] | {"over_always": over, "over_always_interval": [low, 0.9]}
    rules = {name: found | {"over_always_interval": [-1, 0]} for name, found in validation["rules"].items()}
    changed = material.report | {"validation": validation | {"rules": rules | {"temperature": own}}}
    said = verdict("one", replace(material, report=changed), published=[("others", -4.0)])
    assert said.sentence.startswith(starts) and "always answering No Finding" in said.sentence
    assert ("below" if over < 0 else "above") in said.sentence and said.commands[0].endswith(submits)
    assert ("force" in said.commands[0]) == (over < 0) if over < 0 else "force" not in said.commands[0]
    assert [row["what"] for row in said.rows] == ["this run, rule temperature", "always No Finding", "others"]


def test_the_verdict_names_the_probe_and_says_what_cannot_be_submitted(made_runs):
    gain = {"theirs": {"score": -1.5, "auc": 0.6, "interval": [-2, -1]}}
    gain["difference"] = {"score": 0.25, "auc": 0.125, "interval": [0.1, 0.4]}
    for which, figure in (("one", "0.250 above its probe (−1.500)"), ("many", "0.125 above its probe (0.600)")):
        _, material = material_of(made_runs[which])
        said = verdict(which, material, gain=gain, synthetic=True, published=[("others", 0.5)])
        assert figure in said.sentence and "synthetic" in said.sentence.lower()
        assert not any("submit" in line or "probe" in line for line in said.commands)
        assert "others" not in [row["what"] for row in said.rows]  # which are of radiographs
    assert verdict("one", material_of(made_runs["one"])[1], finished=False).sentence.startswith("Not finished")


def test_the_probe_is_found_beside_the_run(made_runs, copied):
    assert report.gain(copied["one"]) is None
    shutil.copytree(copied["one"], copied["one"].parent / "probe-one")
    found = report.gain(copied["one"])
    assert found["difference"]["score"] == 0 and found["theirs"]["score"] == found["ours"]["score"]
    shutil.copytree(copied["many"], copied["many"].parent / "probe-many")
    (copied["many"].parent / "probe-many" / "val_logits.npz").write_bytes(b"")
    assert report.gain(copied["many"]) is None  # damaged: as if there were none


# ---- tables and radiographs
def table_of(sections: list[page_module.Section], title: str) -> list[dict]:
    (section,) = (one for one in sections if one.title == title)
    blocks = [inner for one in section.blocks for inner in getattr(one, "blocks", [one])]
    (table,) = (one for one in blocks if isinstance(one, page_module.Table))
    return table.frame.to_dict("records")


def test_the_tables_of_one_answer_hold_what_the_files_say(made_runs):
    _, material = material_of(made_runs["one"])
    sections = single_label_page.sections(material, defaultdict(list))
    truth, answers = material.val.targets.argmax(axis=1), material.answers
    for c, row in enumerate(table_of(sections, "Every class")):
        assert (row["hits"], row["misses"]) == (sum((truth == c) & (answers == c)), sum((truth == c) & (answers != c)))
        gone = sum(int(part.rpartition(" ")[2]) for part in filter(None, row["its misses were answered"].split(", ")))
        assert gone == row["misses"]  # four classes: all that it was taken for are named
    first = material.report["per_class"][0] | {"hits_add": 0.0, "false_alarms_cost": 0.25, "misses_cost": 0.5}
    without = replace(material, report=material.report | {"per_class": [first, *material.report["per_class"][1:]]})
    hitless = table_of(single_label_page.sections(without, defaultdict(list)), "Every class")[0]
    assert hitless["adds to the score"] == -0.75
    added = sum(row["adds to the score"] for row in table_of(sections, "Every class"))
    assert added == pytest.approx(material.report["validation"]["rules"]["temperature"]["score"])
    for c, row in enumerate(table_of(sections, "Confusion")):
        cells = [row[name] for name in CLASSES]
        assert [cell.value for cell in cells] == np.bincount(answers[truth == c], minlength=4).tolist()
        assert sum(cell.shade or 0 for cell in cells) == pytest.approx(1)
    counts = table_of(sections, "Counts, answered and true")
    assert sum(row["true"] for row in counts) == sum(row["answered"] for row in counts) == len(truth)


def test_macro_and_micro_stand_beside_each_other(made_runs):
    from sklearn.metrics import average_precision_score, roc_auc_score

    _, material = material_of(made_runs["many"])
    sections = multi_label_page.sections(material, defaultdict(list))
    rows = {row["figure"]: row for row in table_of(sections, "Macro and micro")}
    p = 1 / (1 + np.exp(-material.tests[0].logits[0].astype(float)))
    known = ~np.isnan(material.tests[0].targets)
    truth, p = material.tests[0].targets[known] == 1, p[known]
    assert rows["AUC-ROC"]["micro"].value == pytest.approx(roc_auc_score(truth, p))
    assert rows["PR-AUC"]["micro"].value == pytest.approx(average_precision_score(truth, p))
    assert rows["AUC-ROC"]["macro"].value == material.report["test"]["macro"]["auc"]


def test_an_image_is_shown_by_the_network_that_did_not_learn_it(made_runs):
    """By that of its fold; a test image, of which every network is, by the first."""
    _, material = material_of(made_runs["one"])
    val = material.vals[0]
    folds = replace(material, vals=[val.take(np.arange(100)), val.take(np.arange(100, 160))])
    assert report._networks(folds, ["val3.png", "val99.png", "val100.png", "test7.png"]) == [0, 0, 1, 0]


@pytest.mark.parametrize("which", ["one", "many"])
def test_mistakes_and_rare_hits_are_what_they_are_called(made_runs, which):
    run = open_run(made_runs[which])
    _, material = material_of(made_runs[which])
    answers = material.answers if which == "one" else None
    content, found = run.task.striking(run.evidence, run.rows, answers, 5)
    mistakes, hits = found.values()
    assert 0 < len(mistakes) <= 5 and 0 < len(hits) <= 5
    for example in (*mistakes, *hits):
        there = content.targets[example.row, example.label] == 1
        assert there == (example in hits) and 0 < example.p <= 1
    assert all(("hit" if which == "one" else "it is there") in example.why for example in hits)


# ---- what is drawn
def test_every_picture_is_fit_to_print(pictures):
    """Axes have names, letters have 7 points, and no text lies on another or beyond the edge."""
    for picture in itertools.chain(*(each.values() for each in pictures.values())):
        figure = picture.figure
        figure.draw_without_rendering()
        renderer = FigureCanvasAgg(figure).get_renderer()
        for axis in figure.axes:
            place = axis.get_subplotspec()
            if axis.axison and place is not None:
                below = [
                    other
                    for other in figure.axes
                    if other.axison
                    and other.get_subplotspec() is not None
                    and other.get_subplotspec().colspan == place.colspan
                    and other.get_subplotspec().rowspan.start > place.rowspan.start
                ]
                assert axis.get_xlabel() or below or figure.get_supxlabel(), picture.name
                assert axis.get_ylabel() or not place.is_first_col(), picture.name
        ticks = [
            (tick, one.get_view_interval())
            for axis in figure.axes
            for one in (axis.xaxis, axis.yaxis)
            for tick in one.get_major_ticks()
        ]
        unseen = {
            id(label)
            for tick, (low, high) in ticks
            for label in (tick.label1, tick.label2)
            if not min(low, high) <= tick.get_loc() <= max(low, high)
        }
        texts = [
            text
            for text in figure.findobj(Text)
            if text.get_visible()
            and text.get_text().strip()
            and getattr(text.axes, "axison", True)
            and id(text) not in unseen
        ]
        boxes = [(text.get_text(), text.get_window_extent(renderer)) for text in texts]
        assert len(boxes) > 5 and all(text.get_fontsize() >= 7 for text in texts), picture.name
        for (one, box), (other, beside) in itertools.combinations(boxes, 2):
            across = min(box.x1, beside.x1) - max(box.x0, beside.x0), min(box.y1, beside.y1) - max(box.y0, beside.y0)
            assert min(across) < 1, f"{picture.name}: {one!r} lies on {other!r}"
        for text, box in boxes:
            assert box.x0 > -1 and box.y0 > -1 and box.x1 < figure.bbox.x1 + 1 and box.y1 < figure.bbox.y1 + 1, (
                f"{picture.name}: {text!r} is cut off"
            )


def test_the_operating_points_lie_on_the_curve_where_the_thresholds_put_them(made_runs, pictures):
    _, material = material_of(made_runs["many"])
    p = 1 / (1 + np.exp(-material.tests[0].logits[0].astype(float)))
    axes = [axis for axis in pictures["many"]["roc_all"].figure.axes if axis.axison]
    assert len(axes) == len(LABELS) - 1
    for axis, name in zip(axes, LABELS, strict=False):
        c = LABELS.index(name)
        curve, truth = lines(axis, "ROC"), material.tests[0].targets[:, c]
        for point in ("sens95", "spec95"):
            said = p[:, c] >= material.calibration["thresholds"]["sigmoid"][point][c]
            ((x, y),) = lines(axis, point)
            assert (x, y) == pytest.approx((said[truth == 0].mean(), said[truth == 1].mean()))
            assert np.abs(curve - (x, y)).sum(axis=1).min() < 1e-12
        assert np.trapezoid(curve[:, 1], curve[:, 0]) == pytest.approx(material.report["per_class"][c]["auc"])
        assert f"AUC {material.report['per_class'][c]['auc']:.3f}" in axis.texts[0].get_text()


def test_the_area_below_precision_is_the_average_precision(made_runs, pictures):
    _, material = material_of(made_runs["many"])
    labels, _ = plots.labels_of(material, ())
    for axis, label in zip(pictures["many"]["precision_recall"].figure.axes, labels, strict=True):
        recall, precision = lines(axis, "PR").T
        assert (precision[:-1] * -np.diff(recall)).sum() == pytest.approx(label.row["average_precision"]) and recall[
            -1
        ] == 0
        assert set(lines(axis, "prevalence")[:, 1]) == {label.truth.mean()}


def test_labels_are_chosen_and_those_without_positives_are_named(made_runs, pictures):
    folder = made_runs["many"]
    _, material = material_of(folder)
    few, said = plots.labels_of(material, ())
    positives = {name: (material.tests[0].targets[:, c] == 1).sum() for c, name in enumerate(LABELS)}
    assert {label.name for label in few} == set(sorted(LABELS, key=lambda name: -positives[name])[:4]) and [
        label.name for label in few
    ] == [name for name in LABELS if name in {label.name for label in few}]
    assert (
        said.endswith("without a negative here: never seen.")
        and "Test part, 120 images" in said
        and said in pictures["many"]["roc"].caption
    )
    chosen, said = plots.labels_of(material, ["unchanged", "never seen"])
    assert [label.name for label in chosen] == ["unchanged"] and "never seen" in said
    assert len(next(plots.draw(["roc"], replace(material, labels=["unchanged"]))).figure.axes) == 1
    validation, said = plots.labels_of(replace(material, tests=None), ["unchanged"])
    assert len(validation[0].truth) <= 160 and "optimistic" in said
    for wanted, match in (
        (["pneumonitis"], "there is no label pneumonitis"),
        (["never seen"], "none of never seen has both"),
    ):
        with pytest.raises(UserError, match=match):
            plots.labels_of(material, wanted)


def test_many_labels_go_to_several_pictures(made_runs):
    _, material = material_of(made_runs["many"])
    columns = np.arange(24) % 6
    wide = {
        field: getattr(material.tests[0], field)[..., columns] for field in ("logits", "targets", "counts", "prior")
    }
    names = [f"label {number}" for number in range(24)]
    calibration = {
        "classes": names,
        "networks": [
            {"rows": 300, "counts": wide["counts"], "prior": wide["prior"], "rules": {"sigmoid": {}, "calibrated": {}}}
        ],
        "thresholds": {"sigmoid": {"sens95": [0.1] * 24, "spec95": [None] * 24}},
    }
    rows = [material.report["per_class"][c] | {"class": name} for c, name in zip(columns, names, strict=True)]
    many = replace(
        material,
        tests=[replace(material.tests[0], classes=np.array(names), **wide)],
        calibration=calibration,
        report={"per_class": rows},
        labels=(),
    )
    first, second = plots.draw(["roc_all"], many)
    assert (first.name, second.name) == ("roc_all", "roc_all2") and (
        len(first.figure.axes),
        len(second.figure.axes),
    ) == (20, 4)
    # a threshold that validation could not set is not marked
    assert [line.get_label() for line in second.figure.axes[0].lines] == ["chance", "ROC", "sens95"]


def test_wilson_and_bins():
    hits, images = np.array([0, 1, 7, 20, 3]), np.array([5, 20, 9, 20, 1000])
    low, high = plots.wilson(hits, images)
    for k, n, one, other in zip(hits, images, low, high, strict=True):
        exact = binomtest(int(k), int(n)).proportion_ci(method="wilson")
        assert (one, other) == pytest.approx((exact.low, exact.high), abs=1e-12)
    rng = np.random.default_rng(0)
    p = rng.random(1000)
    images, mean, hits = plots.equal_mass(p, rng.random(1000) < p)
    assert images.tolist() == [100] * 10 and (np.diff(mean) > 0).all() and np.abs(hits / 100 - mean).max() < 0.15
    images, mean, hits = plots.equal_mass(np.array([0.2] * 90 + [0.7] * 10), np.arange(100) >= 85)
    # equal probabilities stay together
    assert images.sum() == 100 and hits.sum() == 15 and mean.tolist() == pytest.approx([0.2, 0.7])
    assert plots.equal_mass(np.array([0.5]), np.array([True]))[0].tolist() == [1]


def test_the_pictures_of_one_answer_hold_what_the_files_say(made_runs, pictures):
    _, material = material_of(made_runs["one"])
    drawn, fitted = pictures["one"], material.calibration["networks"][0]["rules"]["temperature"]
    (axis,) = drawn["temperature"].figure.axes
    assert np.allclose(
        np.transpose(axis.lines[0].get_data()), [(point["temperature"], point["score"]) for point in fitted["curve"]]
    )
    assert (
        axis.lines[1].get_xdata()[0] == fitted["temperature"]
        and f"T = {fitted['temperature']:g}" in axis.texts[0].get_text()
    )
    band = axis.collections[0].get_paths()[0].get_extents()
    assert band.y0 < min(point["score"] for point in fitted["curve"]) and band.y1 > max(
        point["score"] for point in fitted["curve"]
    )
    assert "always" in axis.texts[1].get_text()

    rows = material.report["per_class"]
    matrix = drawn["confusion"].figure.axes[0]
    assert np.allclose(np.asarray(matrix.images[0].get_array()).sum(axis=1), 1)
    assert sum(int(text.get_text()) for text in matrix.texts) == 160
    assert {int(text.get_text()) for text in matrix.texts if text.get_position() == (0, 0)} == {rows[0]["tp"]}

    bars = drawn["class_costs"].figure.axes[0].patches
    assert sum(bar.get_width() for bar in bars) == pytest.approx(
        material.report["validation"]["rules"][material.rule]["score"]
    )
    after = material.report["validation"]["calibration"]["after"]
    assert sum(
        bar.get_height() for bar in drawn["confidence"].figure.axes[3].patches
    ) == 160 and f"NLL {after['nll']:.3f}" in drawn["confidence"].figure.axes[1].get_title(loc="left")


def test_a_given_temperature_and_a_near_constant_answer(made_runs):
    _, material = material_of(made_runs["one"])
    calibration = material.calibration | {
        "networks": [
            material.calibration["networks"][0] | {"rules": {"temperature": {"temperature": 1.25, "tuned": False}}}
        ]
    }
    near = {"validation": {"always": {"class": "No Finding", "score": 0.0}}}
    (axis,) = next(plots.draw(["temperature"], replace(material, calibration=calibration, report=near))).figure.axes
    assert (
        axis.texts[0].get_text().startswith("given: T = 1.25")
        and 1.25 in axis.lines[0].get_xdata()
        and len(axis.lines[0].get_xdata()) == 27
    )
    # the constant answer is within reach: a line of its own
    assert set(axis.lines[-1].get_ydata()) == {0.0} and axis.get_ylim()[0] < 0


def test_training_curves_mark_the_best_epoch_and_the_frozen_ones(made_runs, pictures):
    loss, monitored, rate = pictures["one"]["training"].figure.axes
    assert [line.get_ydata()[0] for line in loss.lines[:2]] == pytest.approx([3, 3.01])
    assert (
        monitored.lines[-1].get_xydata().tolist() == [[4, pytest.approx(0.8)]] and rate.lines[0].get_ydata()[-1] == 5e-4
    )
    assert all(
        axis.patches[0].get_extents().transformed(axis.transData.inverted()).intervalx == pytest.approx([0.5, 2.5])
        for axis in (loss, monitored, rate)
    )
    assert (
        "best epoch, 4" in pictures["one"]["training"].caption
        and "first 2 epochs" in pictures["one"]["training"].caption
    )
    _, material = material_of(made_runs["one"])
    once = next(plots.draw(["training"], replace(material, histories={"": (material.histories[""][0][:1], 1)})))
    assert once.figure.axes[0].lines[0].get_marker() == "o"  # a line of one point would be invisible


# ---- mistakes
def refused(call, folder: Path, *argv) -> str:
    said = call("report", folder, *argv)
    assert (
        said.code == 2
        and said.err.count("\n") == 1
        and not (folder / "figures").exists()
        and not (folder / "report.html").exists()
    ), said.err
    return said.err


def test_a_run_that_lacks_files_is_told(call, copied):
    for which in ("one", "many"):
        for name in report.NEEDED:
            kept = (copied[which] / name).rename(copied[which] / "kept")
            assert f"has no {name} yet: run the command that began it once more" in refused(call, copied[which])
            kept.rename(copied[which] / name)
    (copied["many"] / "test_logits.npz").unlink()
    assert "its report is of the test part" in refused(call, copied["many"])
    assert "is no run folder" in refused(call, copied["one"] / "nothing")


def test_what_does_not_fit_is_told(call, copied):
    one, many = copied["one"], copied["many"]
    assert "--labels is for runs with any number of labels" in refused(call, one, "--labels", "Hernia")
    assert "there is no label hernia" in refused(call, many, "--labels", "hernia, scoliosis")
    log, found = (one / "log.csv").read_text(), files.read_json(one / "report.json")
    (one / "log.csv").write_text(log.replace("val_loss", "loss"))
    assert "log.csv lacks the column val_loss" in refused(call, one)
    (one / "log.csv").write_text(log)
    files.write_json(one / "report.json", found | {"rule": "argmax"})
    assert (
        "is of rule argmax and the run is now decided by temperature: make it again with ./run.sh evaluate"
        in refused(call, one)
    )
    files.write_json(one / "report.json", {key: value for key, value in found.items() if key != "validation"})
    assert "lacks 'validation'" in refused(call, one)
    files.write_json(one / "report.json", found | {"per_class": found["per_class"][1:]})
    assert "the run's classes" in refused(call, one)


def test_a_baseline_has_no_training_curves(copied):
    (copied["many"] / "log.csv").unlink()
    files.write_json(
        copied["many"] / "run.json",
        files.read_json(copied["many"] / "run.json") | {"baseline": "logistic regression", "best_epoch": None},
    )
    names, material = material_of(copied["many"])
    assert material.histories == {} and list(plots.draw(["training"], material)) == []


def test_matplotlib_is_loaded_by_this_verb_alone():
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT / 'src')!r}); import evaluate, score; print('matplotlib' in"
        " sys.modules)"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
        == "False"
    )
