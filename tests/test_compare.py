"""Side by side: the thesis' comparisons from its printed means, runs and groups of runs, the paired bootstrap, tables 9
and 10, mistakes."""

import csv
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import ttest_ind, ttest_ind_from_stats
from sklearn.metrics import roc_auc_score

import compare
import evaluate
from answers import multi_label_report, stats
from conftest import ROOT, SHARED, needs_shared
from core import files, logits_file
from core.logits_file import Logits
from tasks import registry
from tasks.opened import open_run

LABELS = ["cardiomegaly", "scoliosis", "pleural effusion"]
LIZ = ROOT / "configs" / "published" / "liz2023.csv"

# Table, figure, two rows of it, and what the thesis prints of their comparison: |t|, t*, p. All with three replicates.
THESIS = [
    ("1", "AUC", (0.741, 0.007), (0.739, 0.006), "0.38", "2.79", "0.72"),
    ("1", "PR", (0.187, 0.008), (0.185, 0.008), "0.31", "2.78", "0.76"),
    ("2", "AUC", (0.739, 0.006), (0.736, 0.007), "0.56", "2.80", "0.60"),
    ("2", "PR", (0.185, 0.008), (0.183, 0.009), "0.29", "2.79", "0.78"),
    ("3", "AUC", (0.739, 0.006), (0.701, 0.010), "5.64", "3.07", "0.006"),
    ("3", "PR", (0.185, 0.008), (0.146, 0.010), "5.27", "2.80", "0.006"),
    ("4", "AUC", (0.753, 0.006), (0.739, 0.006), "2.86", "2.78", "0.046"),
    ("4", "PR", (0.204, 0.008), (0.185, 0.008), "2.91", "2.78", "0.042"),
    ("5", "AUC", (0.753, 0.006), (0.738, 0.006), "3.06", "2.78", "0.038"),
    ("5", "PR", (0.204, 0.008), (0.185, 0.007), "3.10", "2.80", "0.037"),
    ("6", "AUC", (0.767, 0.006), (0.753, 0.006), "2.86", "2.78", "0.046"),
    ("6", "PR", (0.223, 0.008), (0.204, 0.008), "2.91", "2.78", "0.042"),
    ("7", "AUC", (0.780, 0.005), (0.767, 0.006), "2.88", "2.81", "0.045"),
    ("7", "PR", (0.241, 0.007), (0.223, 0.008), "2.93", "2.80", "0.040"),
    ("8 ResNet", "AUC", (0.778, 0.006), (0.781, 0.005), "0.67", "2.81", "0.54"),
    ("8 EffNet", "AUC", (0.778, 0.006), (0.780, 0.005), "0.44", "2.79", "0.68"),
    ("8 ResNet", "PR", (0.238, 0.008), (0.242, 0.007), "0.65", "2.80", "0.54"),
    ("8 EffNet", "PR", (0.238, 0.008), (0.241, 0.007), "0.49", "2.78", "0.64"),
]
# Where it prints another t* or p than its own means and equations give: what they give.
OTHER_CRITICAL = {
    ("1", "AUC"): "2.80",
    ("3", "AUC"): "3.04",
    ("3", "PR"): "2.83",
    ("8 EffNet", "AUC"): "2.81",
    ("8 EffNet", "PR"): "2.80",
}
OTHER_P = {
    ("1", "AUC"): "0.727",
    ("1", "PR"): "0.775",
    ("2", "PR"): "0.788",
    ("3", "AUC"): "0.0087",
    ("3", "PR"): "0.0071",
    ("4", "PR"): "0.0437",
    ("6", "PR"): "0.0437",
    ("7", "AUC"): "0.0466",
    ("7", "PR"): "0.0436",
    ("8 ResNet", "PR"): "0.551",
    ("8 EffNet", "PR"): "0.651",
}


def as_printed(value: float, like: str) -> str:
    return f"{value:.{len(like.partition('.')[2])}f}"


# ---- statistics
@pytest.mark.parametrize(
    "table, name, a, b, t, critical, p", THESIS, ids=[f"{table} {name}" for table, name, *_ in THESIS]
)
def test_the_thesis_comparisons_come_out_of_its_means(table, name, a, b, t, critical, p, call):
    found, key = stats.welch(*a, 3, *b, 3), (table, name)
    theirs = ttest_ind_from_stats(*a, 3, *b, 3, equal_var=False)
    assert (found.t, found.p) == (pytest.approx(theirs.statistic, rel=1e-10), pytest.approx(theirs.pvalue, rel=1e-10))
    # the thesis' equation 21
    assert found.df == pytest.approx(2 * (a[1] ** 2 + b[1] ** 2) ** 2 / (a[1] ** 4 + b[1] ** 4))
    assert as_printed(abs(found.t), t) == t
    for ours, printed, other in ((found.critical, critical, OTHER_CRITICAL.get(key)), (found.p, p, OTHER_P.get(key))):
        assert as_printed(ours, other or printed) == (other or printed)
        assert (as_printed(ours, printed) == printed) == (other is None)
    assert (found.p < 0.05) == (float(p) < 0.05) == (float(t) > float(critical)) == (abs(found.t) > found.critical)

    said = call("compare", f"A={a[0]}±{a[1]},3", f"B={b[0]}+-{b[1]},3", "--metric", name)
    cells = said.out.splitlines()[-1].split()
    assert (
        said.code == 0
        and cells[:5] == ["B", "3", f"{b[0]:.3f}", "±", f"{b[1]:.3f}"]
        and cells[5] == f"{b[0] - a[0]:+.3f}"
    )
    assert cells[6:8] == [t, OTHER_CRITICAL.get(key, critical)] and float(cells[9]) == pytest.approx(found.p, rel=0.05)
    assert ("different" in cells) == (float(p) < 0.05)


def test_as_many_figures_agree_as_was_counted():
    assert len(THESIS) == 18 and len(THESIS) - len(OTHER_CRITICAL) == 13 and len(THESIS) - len(OTHER_P) == 7


@needs_shared
def test_the_comparisons_are_those_that_the_thesis_prints():
    text = (SHARED / "seeds" / "padchest-thesis.txt").read_text(encoding="utf-8")
    printed = re.findall(r"\|t\|=(\d+\.\d+)[<>,]t\^\*=(\d+\.\d+),p=(\d+\.\d+)", re.sub(r"[\s$]", "", text))
    assert sorted(printed) == sorted((t, critical, p) for *_, t, critical, p in THESIS)
    for _, _, a, b, *_ in THESIS:
        assert all(f"{mean:.3f} \\pm {sd:.3f}" in text for mean, sd in (a, b))


def test_welch_with_unequal_numbers_and_at_its_limits():
    for one, other in (((1.0, 0.5, 12), (1.6, 0.2, 4)), ((-4.9, 0.02, 2), (-4.8, 0.3, 9))):
        found, theirs = stats.welch(*one, *other), ttest_ind_from_stats(*one, *other, equal_var=False)
        assert found[::3] == pytest.approx((theirs.statistic, theirs.pvalue))
    found = stats.welch(1.0, 0.5, 12, 1.6, 0.2, 4)
    assert found == pytest.approx(stats.welch(1e-300, 0.5e-300, 12, 1.6e-300, 0.2e-300, 4))  # nothing underflows
    # one side without spread: the other's degrees of freedom
    assert stats.welch(1, 0.5, 4, 0, 0, 3).df == pytest.approx(3)
    assert stats.welch(1, 1, 9, 1, 1, 9)[::3] == (0, 1)
    # Student's table, 4 degrees of freedom
    assert stats.welch(1, 1, 3, 3, 1, 3, alpha=0.01).critical == pytest.approx(4.604, abs=1e-3)
    for untestable in (
        (1, 0, 3, 2, 0, 3),
        (1, math.nan, 1, 2, 0.1, 3),
        (1, 0.1, 1, 2, 0.1, 3),
        (math.nan, 0.1, 3, 2, 0.1, 3),
    ):
        assert np.isnan(stats.welch(*untestable)).all()


def test_holm_by_hand():
    # 3·0.01, ·, 2·0.03, 4·0.005; 0.04 is not below 0.06
    assert stats.holm([0.01, 0.04, 0.03, 0.005]).tolist() == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert stats.holm([0.4, math.nan, 0.6]).tolist() == pytest.approx([0.8, math.nan, 0.8], nan_ok=True)
    assert (
        stats.holm([0.9, 0.8]).tolist() == [1, 1] and len(stats.holm([])) == 0 and stats.holm([0.2]).tolist() == [0.2]
    )


def test_three_comparisons_bring_holms_p_and_two_do_not(call):
    others = ["B=0.753±0.006,3", "C=0.736±0.007,3", "D=0.734±0.010,3"]
    said = call("compare", "A=0.739±0.006,3", *others)
    rows = {line.split()[0]: line for line in said.out.splitlines()}
    assert (
        "Holm p" in rows["name"]
        and rows["B"].split()[9:11] == ["0.046", "0.14"]
        and rows["B"].endswith("not after Holm")
    )
    two = call("compare", "A=0.739±0.006,3", *others[:2])
    assert "Holm" not in two.out and "different" in two.out


def test_a_negative_mean_may_begin_an_argument_and_minus_may_be_typographic(call):
    said = call("compare", "-4.95±0.02,3", "B=−4.97±0.03,4", "--metric", "score")
    assert said.code == 0 and "-4.950 ± 0.020" in said.out and "-0.020" in said.out and "published" in said.out


@pytest.mark.parametrize(
    "words, sentence",
    [
        (["A=0.7±0.1,1", "B=0.8±0.1,3"], "A single run has no s.d., so nothing is tested with A"),
        (["A=0.7±0,3", "B=0.8±0,3"], "No spread at all, in the reference as in B"),
    ],
)
def test_what_cannot_be_tested_is_said(words, sentence, call):
    said = call("compare", *words)
    assert said.code == 0 and sentence in said.out and "not tested" in said.out and "nan" not in said.out


# ---- runs, written by hand from random logits
def network(seed: int, targets: np.ndarray, skill: float) -> np.ndarray:
    return np.float32(np.random.default_rng(seed).normal(size=(1, *targets.shape)) + skill * targets)


def make_run(folder: Path, task: str, seed: int, skill: float, settings_more=(), labels=LABELS) -> Path:
    """A run that has been tuned and not evaluated, on images that only the task decides."""
    config = registry.load(task, [*settings_more, f"seed={seed}", f"name={folder.name}"])
    rng, multi = np.random.default_rng(0), "labels" in type(config).model_fields
    val, test = (
        (
            rng.random((rows, len(labels))) < 0.3
            if multi
            else np.eye(len(labels))[rng.choice(len(labels), rows, p=[0.3, 0.2, 0.5])]
        )
        for rows in (90, 140)
    )
    counts, folder, data = np.array([30, 20, 50]), Path(folder), folder.parent / f"data-{task}"
    ids = {
        "val": np.array([f"v{row}.png" for row in range(90)]),
        "test": np.array([f"t{row}.png" for row in range(140)]),
    }
    for directory in (folder, data):
        directory.mkdir(parents=True, exist_ok=True)
    contents = {}
    for number, (name, targets) in enumerate((("val", val), ("test", test))):
        known = np.float32(targets) if multi or name == "val" else np.full(targets.shape, np.nan, np.float32)
        contents[name] = Logits(
            ids[name],
            network(10 * seed + number, np.float32(targets), skill),
            known,
            np.array(labels),
            counts,
            100,
            counts / 100,
        )
        logits_file.write_logits(folder / f"{name}_logits.npz", contents[name])
    files.write_rows(
        data / "solution.csv",
        [
            {"id": one, **dict(zip(labels, row, strict=True))}
            for one, row in zip(ids["test"], test.astype(int), strict=True)
        ],
    )
    files.write_rows(
        folder / "folds.csv",
        [
            {"id": one, "part": part, "patient": f"{part}{row // 2}"}
            for part in ids
            for row, one in enumerate(ids[part])
        ],
    )
    files.write_json(
        folder / "run.json",
        {
            "split": files.digest((folder / "folds.csv").read_bytes()),
            "config": config.model_dump(),
            "data": str(data),
            "classes": list(labels),
            "counts": counts.tolist(),
            "rows": 100,
            "prior": (counts / 100).tolist(),
            "state": "trained",
            "synthetic": True,
            "best_epoch": 1,
        },
    )
    files.write_json(folder / "calibration.json", registry.task_of(config).calibrate([contents["val"]], None))
    return folder


@pytest.fixture(scope="module")
def chests(tmp_path_factory) -> Path:
    """Two configurations of the multi-label study, three replicates each; all but one evaluated."""
    runs = tmp_path_factory.mktemp("chests") / "runs"
    for seed in range(3):
        evaluate.evaluate(make_run(runs / f"weak-{seed}", "padchest", seed, 0.8))
        evaluate.evaluate(make_run(runs / f"strong-{seed}", "padchest", seed, 2.0, ["lr=1e-4"]))
    (runs / "strong-1" / "report.json").unlink()
    return runs


@pytest.fixture(scope="module")
def singles(tmp_path_factory) -> Path:
    """Two runs of the competition."""
    runs = tmp_path_factory.mktemp("singles") / "runs"
    for name, seed, skill in (("a", 1, 1.0), ("b", 2, 2.5)):
        evaluate.evaluate(make_run(runs / name, "modelB", seed, skill))
    return runs


def reports(runs: Path, name: str) -> list[dict]:
    return [json.loads((runs / f"{name}-{seed}" / "report.json").read_text()) for seed in range(3)]


def test_groups_of_runs_as_glob_and_as_list(chests, call, tmp_path):
    listed = ",".join(str(chests / f"strong-{seed}") for seed in range(3))
    said = call(
        "compare",
        f"weak={chests}/weak-*",
        f"strong={listed}",
        "--metric",
        "auc,average_precision",
        "--json",
        tmp_path / "c.json",
        "--csv",
        tmp_path / "c.csv",
    )
    assert said.code == 0, said.err
    assert (
        said.out.count("wrote") == 3
        and "SYNTHETIC" in said.out
        and "WARNING" not in said.out
        and "paired" not in said.out
    )
    content = json.loads((tmp_path / "c.json").read_text())
    found = content["metrics"]
    assert content["synthetic"] and content["part"] == "test" and "figures of the test part" in said.out
    for metric in ("auc", "average_precision"):
        values = {
            name: [report["test"]["macro"][metric] for report in reports(chests, name)] for name in ("weak", "strong")
        }
        weak, strong = found[metric]
        assert (weak["name"], weak["n"], weak["verdict"], weak["t"]) == ("weak", 3, "reference", None)
        assert (strong["mean"], strong["sd"]) == (
            pytest.approx(np.mean(values["strong"])),
            pytest.approx(np.std(values["strong"], ddof=1)),
        )
        theirs = ttest_ind(values["strong"], values["weak"], equal_var=False)
        assert (strong["t"], strong["df"], strong["p"]) == pytest.approx(
            (theirs.statistic, theirs.df, theirs.pvalue)
        ) and strong["verdict"] == "different"
        assert f"{np.mean(values['weak']):.3f} ± {np.std(values['weak'], ddof=1):.3f}" in said.out
    with open(tmp_path / "c.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["metric"], row["name"]) for row in rows] == [
        (metric, name) for metric in ("auc", "average_precision") for name in ("weak", "strong")
    ]
    assert float(rows[1]["p"]) == found["auc"][1]["p"] and rows[0]["p"] == ""


def test_runs_beside_a_published_figure(chests, call):
    said = call("compare", "ResNet50V2=0.741±0.007,3", f"{chests}/strong-*")
    assert said.code == 0 and "\nauc: Welch's t-test" in said.out and "different" in said.out


def test_a_report_is_made_anew_when_the_run_was_decided_anew(chests, call, tmp_path):
    run = make_run(tmp_path / "runs" / "one", "padchest", 5, 1.0)
    assert (
        "wrote" in call("compare", run, f"{chests}/weak-*").out
        and "wrote" not in call("compare", run, f"{chests}/weak-*").out
    )
    later = (run / "report.json").stat().st_mtime_ns + 10**9
    os.utime(run / "calibration.json", ns=(later, later))
    assert "wrote" in call("compare", run, f"{chests}/weak-*").out
    os.utime(run / "calibration.json", ns=(1, 1))
    about = json.loads((run / "run.json").read_text())
    files.write_json(run / "run.json", {**about, "config": {**about["config"], "rule": "calibrated"}})
    assert (
        "wrote" in call("compare", run, f"{chests}/weak-*").out
        and json.loads((run / "report.json").read_text())["rule"] == "calibrated"
    )


def side(name: str, *runs: Path) -> compare.Side:
    return compare.Side(name, [open_run(run) for run in runs], [])


def test_what_may_be_no_replicates_is_doubted(chests, tmp_path):
    copies = [
        make_run(tmp_path / "runs" / name, "padchest", 7, 1.0, more)
        for name, more in (("x", []), ("y", ["lr=3e-4", "workers=1"]))
    ]
    differ, share = compare.doubts(side("twins", *copies))
    assert (
        differ
        == "WARNING: the runs of twins differ in more than the seed, so they are no replicates of one configuration: lr"
    )
    assert share == "WARNING: runs of twins share a seed, so they may be copies, not independent replicates: seeds 7, 7"
    assert compare.doubts(side("weak", *(chests / f"weak-{seed}" for seed in range(3)))) == []


def test_equal_replicates_have_no_spread():
    """Their mean differs from them in its last digit, as it may, and a t of 10^15 would follow."""
    assert compare.sample([0.1, 0.1, 0.1]) == compare.Sample(3, pytest.approx(0.1), 0.0)
    rows = compare.contrasts(["a", "b"], [compare.sample([0.1] * 3), compare.sample([0.2] * 3)])
    assert rows[1]["verdict"] == "not tested" and math.isnan(rows[1]["p"])


def test_a_figure_that_a_run_lacks_is_not_averaged():
    rows = compare.contrasts(["a", "b"], [compare.sample([0.1, None, 0.2]), compare.sample([0.2, 0.3, 0.4])])
    assert "Not defined in every run, so not tested: a." in compare.table("brier", rows) and "nan" not in "".join(
        compare.table("brier", rows)
    )


# ---- on the same images
def test_single_runs_are_paired_by_patients(chests, call, tmp_path):
    said = call("compare", chests / "weak-0", chests / "strong-0", "--json", tmp_path / "c.json")
    (found,) = json.loads((tmp_path / "c.json").read_text())["paired"]
    ours, theirs = (logits_file.read_logits(chests / name / "test_logits.npz") for name in ("strong-0", "weak-0"))
    areas = [
        np.mean([roc_auc_score(one.targets[:, c], one.logits[0, :, c]) for c in range(3)]) for one in (ours, theirs)
    ]
    low, high = found["difference"]["interval"]
    assert found["difference"]["auc"] == pytest.approx(areas[0] - areas[1]) and low < found["difference"]["auc"] < high
    assert (found["part"], found["images"], found["resampled"]) == (
        "test",
        140,
        "patients",
    ) and "these networks differ" in said.out
    assert (
        f"{areas[0] - areas[1]:+.3f}  [{low:+.3f}, {high:+.3f}]" in said.out
        and "not tested" in said.out
        and "A single run has no s.d." in said.out
    )


def test_groups_are_paired_in_their_order_when_asked(chests, call, tmp_path):
    said = call("compare", f"{chests}/weak-*", f"{chests}/strong-*", "--paired", "--json", tmp_path / "c.json")
    assert said.code == 0, said.err
    (found,) = json.loads((tmp_path / "c.json").read_text())["paired"]
    single = []
    for seed in range(3):
        call("compare", chests / f"weak-{seed}", chests / f"strong-{seed}", "--json", tmp_path / "s.json")
        single.append(json.loads((tmp_path / "s.json").read_text())["paired"][0]["difference"])
    assert found["pairs"] == pytest.approx([one["auc"] for one in single]) and found["difference"][
        "auc"
    ] == pytest.approx(np.mean(found["pairs"]))
    # three networks' own noise averages
    assert np.ptp(found["difference"]["interval"]) < np.mean([np.ptp(one["interval"]) for one in single])
    assert "the mean of 3 pairs" in said.out
    low, high = found["difference"]["both"]
    assert low < found["difference"]["interval"][0] and high > found["difference"]["interval"][1]
    assert f"; with training again [{low:+.3f}, {high:+.3f}]" in said.out and "both are in the second" in said.out


def simulated(again: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Differences of 3 pairs of networks, whose mean is 0 over networks and patients: of each pair [3], and their mean
    in 200 resamples of the 60 patients. `again`: s.d. of training, that of a patient's luck in the mean is 1."""
    each = rng.normal(0, 60**0.5, 60) + rng.normal(0, again, (3, 1)) + rng.normal(0, 1, (3, 60))
    weights = rng.multinomial(60, np.full(60, 1 / 60), size=200) / 60
    return each.mean(axis=1), weights @ each.mean(axis=0)


@pytest.mark.parametrize("again", [0.2, 1.0, 3.0])
def test_an_interval_with_both_sources_covers_and_each_alone_does_not(again):
    rng, trials = np.random.default_rng(3), 1500
    held = {"both": 0, "patients": 0, "training": 0, "bootstrap of both": 0}
    for _ in range(trials):
        pairs, draws = simulated(again, rng)
        low, high = stats.both(pairs.tolist(), draws)
        held["both"] += low < 0 < high
        low, high = stats.interval(draws)
        held["patients"] += low < 0 < high
        reach = 4.303 * pairs.std(ddof=1) / 3**0.5
        held["training"] += abs(pairs.mean()) < reach
        low, high = stats.interval(draws + pairs[rng.integers(3, size=(200, 3))].mean(axis=1) - pairs.mean())
        held["bootstrap of both"] += low < 0 < high
    covered = {name: times / trials for name, times in held.items()}
    assert 0.915 < covered["both"] < 0.97
    if again < 2:
        assert covered["training"] < 0.9  # it knows these patients only
    if again > 0.5:
        assert covered["patients"] < covered["bootstrap of both"] < 0.935


def test_a_single_pair_says_nothing_of_training_again():
    assert stats.both([0.1], np.zeros(9)) is None
    low, high = stats.both([0.1, 0.1], np.random.default_rng(0).normal(0.1, 1, 20_000))
    assert (low, high) == pytest.approx((0.1 - 1.96, 0.1 + 1.96), abs=0.03)


def test_the_competition_is_paired_by_its_score(singles, call, tmp_path):
    said = call("compare", singles / "a", singles / "b", "--json", tmp_path / "c.json")
    (found,) = json.loads((tmp_path / "c.json").read_text())["paired"]
    scores = [
        json.loads((singles / name / "report.json").read_text())["test"]["rules"]["temperature"]["score"]
        for name in "ba"
    ]
    assert (
        found["figure"] == "score"
        and found["part"] == "test"
        and found["ours"]["score"] == pytest.approx(scores[0])
        and found["theirs"]["score"] == pytest.approx(scores[1])
    )
    assert (
        found["difference"]["score"] == pytest.approx(scores[0] - scores[1])
        and f"{scores[0] - scores[1]:+.3f}" in said.out
    )
    low, high = found["difference"]["interval"]
    assert low < scores[0] - scores[1] < high

    for name in "ab":  # without labels of the test images: on validation, cross-fitted
        (tmp_path / name).mkdir()
        for file in ("run.json", "val_logits.npz", "calibration.json", "folds.csv"):
            (tmp_path / name / file).write_bytes((singles / name / file).read_bytes())
    assert (
        "validation part, which also chose the epoch"
        in call("compare", tmp_path / "a", tmp_path / "b", "--json", tmp_path / "v.json").out
    )
    (found,) = json.loads((tmp_path / "v.json").read_text())["paired"]
    scores = [
        json.loads((tmp_path / name / "report.json").read_text())["validation"]["rules"]["temperature"]["score"]
        for name in "ba"
    ]
    assert (found["part"], found["images"]) == ("validation", 90) and found["difference"]["score"] == pytest.approx(
        scores[0] - scores[1]
    )


@pytest.mark.parametrize("task", ["padchest", "modelB"])
def test_a_network_does_not_differ_from_its_copy(task, tmp_path):
    copies = [side(name, make_run(tmp_path / "runs" / name, task, 4, 1.0)) for name in "xy"]
    found = compare.paired(copies[0].runs[0].task, *copies)
    assert (
        found["difference"][found["figure"]] == 0
        and found["difference"]["interval"] == [0, 0]
        and found["part"] == "test"
    )


def test_runs_on_other_images_are_not_paired(chests, call, tmp_path):
    other = make_run(tmp_path / "runs" / "other", "padchest", 3, 1.0)
    test = logits_file.read_logits(other / "test_logits.npz")
    logits_file.write_logits(other / "test_logits.npz", test.take(np.arange(100)))
    said = call("compare", chests / "weak-0", other)
    assert (
        said.code == 0
        and f"{other} is not compared image by image: the two runs were tested on different images or labels"
        in said.out
    )
    asked = call("compare", chests / "weak-0", other, "--paired")
    assert asked.code == 2 and "give both the same split" in asked.err and asked.out == ""


# ---- tables 9 and 10
def test_table_9_is_ours_minus_theirs(chests, call, tmp_path):
    said = call("compare", f"strong={chests}/strong-*", "--table9", LIZ, "--json", tmp_path / "c.json")
    assert said.code == 0, said.err
    (found,) = json.loads((tmp_path / "c.json").read_text())["table9"]
    values = [report["per_class"][1]["auc"] for report in reports(chests, "strong")]
    row = next(row for row in found["labels"] if row["label"] == "scoliosis")
    assert row == {
        "label": "scoliosis",
        "published": 0.712,
        "n": 3,
        "ours": pytest.approx(np.mean(values)),
        "delta": pytest.approx(np.mean(values) - 0.712),
        "sd": pytest.approx(np.std(values, ddof=1)),
    }
    assert f"{np.mean(values) - 0.712:+.3f} ± {np.std(values, ddof=1):.3f}" in next(
        line for line in said.out.splitlines() if line.startswith("scoliosis")
    )
    assert (
        "published, but not a label here: aortic elongation, interstitial pattern" in said.out
        and "without a published figure" not in said.out
    )

    (tmp_path / "own.csv").write_text("label,auc\nscoliosis,0.5\n")
    both = call("compare", chests / "weak-0", chests / "strong-0", "--table9", tmp_path / "own.csv")
    assert (
        "without a published figure: cardiomegaly, pleural effusion" in both.out
        and f"Δ {chests / 'strong-0'}" in both.out
    )


def test_the_published_column_is_of_the_labels_of_the_study():
    assert sorted(compare.read_published(LIZ)) == sorted(registry.load("padchest").labels)


@needs_shared
def test_the_published_column_is_that_of_table_9():
    text = (SHARED / "seeds" / "padchest-thesis.txt").read_text(encoding="utf-8")
    rows = re.findall(r"^<i>([^<]+)</i>\t(0\.\d{3})\t\$[+-]", text, re.MULTILINE)
    assert len(rows) == 10 and sorted(value for _, value in rows) == sorted(
        f"{value:.3f}" for value in compare.read_published(LIZ).values()
    )
    for name, value in rows:
        assert [
            f"{auc:.3f}"
            for label, auc in compare.read_published(LIZ).items()
            if label.startswith(name.lower().removesuffix(" b.").removesuffix(" c."))
        ] == [value]


def test_table_10_is_what_evaluate_prints(chests, call):
    said = call("compare", f"strong={chests}/strong-*", f"weak={chests}/weak-*", "--table10")
    assert said.out.count("SYNTHETIC") == 3 and "Spec@Sens=95%" in said.out
    for name in ("strong", "weak"):
        assert "\n".join(multi_label_report.compare(reports(chests, name))) in said.out


# ---- mistakes
def mistakes(chests: Path, singles: Path, tmp_path: Path) -> dict[str, tuple[list, str]]:
    other = make_run(
        tmp_path / "runs" / "other", "padchest", 9, 1.0, labels=["cardiomegaly", "scoliosis", "air trapping"]
    )
    untested = make_run(tmp_path / "runs" / "untested", "padchest", 9, 1.0)
    (untested / "test_logits.npz").unlink()
    unpublished = tmp_path / "bad.csv"
    unpublished.write_text("label,auc\nscoliosis,0.7\nscoliosis,0.8\n")
    foreign = tmp_path / "foreign.csv"
    foreign.write_text("label,auc\nhernia,0.7\n")
    headless = tmp_path / "headless.csv"
    headless.write_text("scoliosis,0.7\nhernia,0.8\n")
    weak, strong = f"{chests}/weak-*", f"{chests}/strong-*"
    return {
        "an unknown figure": (
            [weak, strong, "--metric", "f2"],
            "have no figure 'f2'; there are auc, average_precision, brier",
        ),
        "other labels": (
            [weak, other],
            "have different lists of labels (air trapping, pleural effusion): compare runs with the same labels",
        ),
        "only one tested": ([weak, untested], "only one has a labelled test part"),
        "different tasks": ([weak, singles / "a"], "runs of different tasks cannot be compared"),
        "no folder": ([weak, "nowhere"], "'nowhere' is not there"),
        "no match": ([weak, "nowhere-*"], "no folder matches 'nowhere-*'"),
        "no run": ([weak, tmp_path], "is no run folder: it has no run.json"),
        "nothing": ([weak, "A="], "'A=' names no run folder"),
        "unreadable": (
            [weak, "0.741±x,3"],
            "'0.741±x,3' cannot be read: a published result is written MEAN±SD,REPLICATES",
        ),
        "without replicates": ([weak, "A=0.741+-0.007"], "cannot be read"),
        "a negative s.d.": ([weak, "0.741±-0.007,3"], "will not do: an s.d. is not negative"),
        "no replicate": ([weak, "0.741±0.007,0"], "there is at least one replicate"),
        "alone": ([weak], "one side alone is compared with nothing"),
        "a run twice": ([weak, chests / "weak-1"], "stands more than once"),
        "two figures of a published one": (
            [weak, "0.741±0.007,3", "--metric", "auc,brier"],
            "a published result is of one figure",
        ),
        "pairs of other sizes": (
            [weak, chests / "strong-1", "--paired"],
            "pairs are made in their order: give as many of each",
        ),
        "pairs without runs": (
            [weak, "0.741±0.007,3", "--paired"],
            "the first side, the reference, and another must be runs",
        ),
        "pairs of another figure": (
            [weak, strong, "--paired", "--metric", "brier"],
            "--paired compares auc, which --metric leaves out",
        ),
        "tables without runs": (["0.7±0.1,3", "0.8±0.1,3", "--table9", LIZ], "only published results were given"),
        "table 9 of the competition": ([singles / "a", "--table9", LIZ], "hold no auc of the labels"),
        "a label twice": ([weak, "--table9", unpublished], "bad.csv, line 3: 'scoliosis' with auc '0.8' will not do"),
        "no common label": ([weak, "--table9", foreign], "is among the published ones (hernia)"),
        "no header": ([weak, "--table9", headless], "lacks the columns label, auc: wanted are lines of label,auc"),
        "no CSV": ([weak, "--table9", "nowhere.csv"], "nowhere.csv cannot be read"),
    }


def test_mistakes_are_one_sentence_and_write_nothing(chests, singles, tmp_path, call):
    for name, (words, sentence) in mistakes(chests, singles, tmp_path).items():
        said = call("compare", *words, "--json", tmp_path / "out.json", "--csv", tmp_path / "out.csv")
        assert said.code == 2 and said.err.count("error: ") == 1 and len(said.err.strip().splitlines()) == 1, (
            name,
            said,
        )
        assert sentence in said.err, (name, said.err)
        assert not list(tmp_path.glob("out.*")), name


def test_it_starts_light():
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT / 'src')!r}); import compare; print(sorted({{'torch', 'sklearn',"
        " 'scipy', 'pandas'} & sys.modules.keys()))"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )
