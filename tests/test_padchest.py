"""The multi-label study on the competition's loop, predictor and writer: the whole path at toy size, and its
mistakes."""

import csv
import json
import shutil
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from answers import multi_label
from conftest import SHARED, TINY, needs_shared
from core import files, logits_file, priors
from images import lungs, prepare, synthetic
from net import checkpoint
from tasks import registry

SMALL = [
    *TINY,
    "crop=none",
    "val_fraction=0.25",
    "test_fraction=0.25",
    "labels=cardiomegaly,scoliosis,pleural effusion,unchanged",
]


@pytest.fixture(scope="session")
def chests(tmp_path_factory) -> Path:
    """300 synthetic images in PadChest's layout; read only."""
    folder = tmp_path_factory.mktemp("padchest") / "set"
    synthetic.make(folder, images=300, size=40, seed=3, layout="padchest")
    return folder


@pytest.fixture
def broken(chests, tmp_path) -> Path:
    """A copy that a test may break."""
    return Path(shutil.copytree(chests, tmp_path / "set"))


@pytest.fixture(scope="module")
def three(chests, tmp_path_factory):
    """Three replicates in one home."""
    import main

    home = tmp_path_factory.mktemp("three")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CXR_HOME", str(home))
        for seed in range(3):
            main.main(["padchest", "--data", str(chests), *SMALL, f"seed={seed}", f"name=r{seed}"])
    return home


def rows_of(path: Path) -> list[dict]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_main_job_leaves_what_it_promises(three):
    run, about = three / "runs/r0", json.loads((three / "runs/r0/run.json").read_text())
    val, test = logits_file.read_logits(run / "val_logits.npz"), logits_file.read_logits(run / "test_logits.npz")
    folds = rows_of(run / "folds.csv")
    assert about["synthetic"] and about["config"]["task"] == "padchest" and about["state"] == "trained"
    assert {"patient", "sex", "age", "projection", "method"} <= set(folds[0]) and {
        row["projection"] for row in folds
    } == {"PA"}
    parts = {}
    for row in folds:
        parts.setdefault(row["patient"], set()).add(row["part"])
    assert all(len(part) == 1 for part in parts.values()) and set.union(*parts.values()) == {
        "training",
        "validation",
        "test",
    }
    assert (
        test.ids.tolist() == [row["id"] for row in folds if row["part"] == "test"]
        and np.isin(test.targets, (0, 1)).all()
    )

    submission = rows_of(three / "submissions/r0.csv")
    assert [row["id"] for row in submission] == test.ids.tolist() and list(submission[0]) == [
        "id",
        "cardiomegaly",
        "scoliosis",
        "pleural effusion",
        "unchanged",
    ]
    assert np.allclose(
        [[float(row[name]) for name in val.classes] for row in submission],
        multi_label.sigmoid(test.logits[0].astype(float)),
        atol=1e-6,
    )
    report = json.loads((run / "report.json").read_text())
    assert report["test"]["images"] == len(test.ids) and {"sex", "age"} <= {
        group["by"] for group in report["test"]["subgroups"]
    }
    assert [row["class"] for row in rows_of(run / "per_class.csv")] == val.classes.tolist()


def test_oversampling_is_recorded_as_the_prevalence_it_makes(three, chests):
    about = json.loads((three / "runs/r0/run.json").read_text())
    config = registry.config_of(about)
    assert config.imbalance == {"oversampling": 0.1} and config.mix == "cutmix" and about["counts"] != about["prior"]
    table = prepare.tables(
        prepare.find(str(chests), "padchest", registry.TASKS["padchest"].layout)[0], registry.task_of(config)
    ).labelled
    learned = table.targets[[row["part"] == "training" for row in rows_of(three / "runs/r0/folds.csv")]]
    assert about["prior"] == pytest.approx(priors.prevalence(learned, priors.repeat_factors(learned, 0.1)))
    assert (
        about["counts"] == learned.sum(axis=0).tolist()
        and logits_file.read_logits(three / "runs/r0/val_logits.npz").prior.tolist() == about["prior"]
    )


def test_replicates_share_one_split_and_differ_in_the_rest(three):
    folds = [(three / f"runs/r{seed}/folds.csv").read_bytes() for seed in range(3)]
    logits = [logits_file.read_logits(three / f"runs/r{seed}/test_logits.npz").logits for seed in range(3)]
    assert folds[0] == folds[1] == folds[2] and not np.allclose(logits[0], logits[1])


def test_table_10_of_three_runs(three, call):
    """Brier | Spec@Sens=95% | Sens@Spec=95%, mean ± s.d. (ddof 1), a row a label and the macro row."""
    said = call("evaluate", *(three / f"runs/r{seed}" for seed in range(3)))
    assert said.code == 0, said.err
    macro = [json.loads((three / f"runs/r{seed}/report.json").read_text())["test"]["macro"] for seed in range(3)]
    last = next(line for line in reversed(said.out.splitlines()) if line.startswith("macro"))
    for figure in ("brier", "spec_at_sens95", "sens_at_spec95"):
        values = [one[figure] for one in macro]
        assert f"{np.mean(values):.3f} ± {np.std(values, ddof=1):.3f}" in last
    header = next(line for line in said.out.splitlines() if "Spec@Sens=95%" in line)
    assert (
        header.index("Brier") < header.index("Spec@Sens=95%") < header.index("Sens@Spec=95%")
        and "SYNTHETIC" in said.out
    )


def test_score_is_the_validation_auc_that_chose_the_epoch(three, call):
    said = call("score", three / "runs/r1")
    log = rows_of(three / "runs/r1/log.csv")
    assert said.out.splitlines()[-1] == f"score {max(float(row['auc']) for row in log):.6f}"


def test_the_same_command_decides_anew_and_trains_nothing(three, chests, call, monkeypatch):
    monkeypatch.setenv("CXR_HOME", str(three))
    before = (three / "runs/r2/best.pt").stat().st_mtime_ns
    said = call("main", "padchest", "--data", chests, *SMALL, "seed=2", "name=r2", "rule=calibrated")
    assert (
        said.code == 0 and "is trained already" in said.out and (three / "runs/r2/best.pt").stat().st_mtime_ns == before
    )
    test, calibration = (
        logits_file.read_logits(three / "runs/r2/test_logits.npz"),
        json.loads((three / "runs/r2/calibration.json").read_text()),
    )
    found = [[float(row[name]) for name in test.classes] for row in rows_of(three / "submissions/r2.csv")]
    assert np.allclose(found, multi_label.probabilities([test], calibration, "calibrated"), atol=1e-6)
    assert call("main", "padchest", "--data", chests, *SMALL, "seed=2", "name=r2").code == 0


def test_a_baseline_beside_the_run(three, call, monkeypatch):
    monkeypatch.setenv("CXR_HOME", str(three))
    said = call("probe", three / "runs/r0")
    assert said.code == 0, said.err
    ours, beside = (logits_file.read_logits(three / "runs" / name / "test_logits.npz") for name in ("r0", "probe-r0"))
    assert (ours.ids == beside.ids).all() and (ours.targets == beside.targets).all() and "C = " in said.out
    report = json.loads((three / "runs/probe-r0/report.json").read_text())
    own = json.loads((three / "runs/r0/report.json").read_text())["test"]["macro"]["auc"]
    assert "minus probe-r0" in said.out and f"{own - report['test']['macro']['auc']:+.3f}" in said.out


def test_stopped_and_resumed_it_ends_with_the_same_bytes(three, chests, home, call, monkeypatch):
    """Mixed batches too depend on seed, epoch and step alone."""
    saved = checkpoint.save

    def dies(path, content):
        saved(path, content)
        if path.name == "last.pt":
            raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "save", dies)
    assert call("main", "padchest", "--data", chests, *SMALL, "name=r0").code == 130
    monkeypatch.setattr(checkpoint, "save", saved)
    assert call("main", "padchest", "--data", chests, *SMALL, "name=r0").code == 0
    for name in ("runs/r0/test_logits.npz", "runs/r0/calibration.json", "submissions/r0.csv"):
        assert (home / name).read_bytes() == (three / name).read_bytes()


@pytest.mark.parametrize("loss", ["focal", "class_balanced_focal", "asymmetric"])
def test_other_losses_and_networks_train(chests, home, call, loss):
    said = call(
        "train",
        "padchest",
        "--data",
        chests,
        *SMALL,
        "model=cnn3",
        f"loss={loss}",
        "mix=mixup",
        "head=16/0.2",
        "imbalance=none",
        "epochs=1",
        "frozen_epochs=0",
        "name=other",
    )
    assert said.code == 0, said.err
    val = logits_file.read_logits(home / "runs/other/val_logits.npz")
    assert np.isfinite(val.logits).all() and np.allclose(val.prior, val.counts / val.rows)
    assert f"parameters: {sum(torch_numel(home)) / 1e6:.2f} M" in said.out


def torch_numel(home):
    import torch

    state = torch.load(home / "runs/other/best.pt", weights_only=True)["model"]
    return [
        value.numel()
        for key, value in state.items()
        if key.startswith(("body.", "head.")) and "running" not in key and "num_batches" not in key
    ]


def test_masks_crop_the_packed_images(chests, home, call, tmp_path):
    """A mask for half of the images: those are cut to the square around it, the others stay whole; both are cached."""
    masks, ids = tmp_path / "masks", [row["id"] for row in rows_of(_folds(call, chests, home))]
    masks.mkdir()
    mask = np.zeros((40, 40), np.uint8)
    mask[8:32, 10:30] = 255  # a square of 24 + 6 % of 40 pixels: area above the limit
    for name in ids[::2]:
        Image.fromarray(mask).save(masks / f"{Path(name).stem}.png")
    said = call(
        "train",
        "padchest",
        "--data",
        chests,
        *SMALL,
        "crop=masks",
        f"masks={masks}",
        "epochs=1",
        "frozen_epochs=0",
        "name=cropped",
    )
    masked = len(ids[::2])
    assert said.code == 0
    assert (
        f"lung crop: {masked} images cropped, 0 left whole for a mask that is empty or too small,"
        f" {len(ids) - masked} for want of one" in said.out
    )
    again = call(
        "train",
        "padchest",
        "--data",
        chests,
        *SMALL,
        "crop=masks",
        f"masks={masks}",
        "epochs=1",
        "frozen_epochs=0",
        "name=cropped2",
    )
    assert "reused" in again.out and "lung crop" not in again.out


def _folds(call, chests, home) -> Path:
    assert call("train", "padchest", "--data", chests, *SMALL, "epochs=1", "frozen_epochs=0", "name=whole").code == 0
    return home / "runs/whole/folds.csv"


# ---- mistakes
def label_csv(folder: Path) -> Path:
    return next(folder.glob("PADCHEST*.csv"))


def edit(path: Path, change) -> None:
    rows = rows_of(path)
    change(rows)
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def pa(rows):
    return next(row for row in rows if row["Projection"] == "PA")


FAULTS = {
    "an unparsable cell": (
        lambda d: edit(label_csv(d), lambda rows: pa(rows).update(Labels="cardiomegaly; scoliosis")),
        [],
        "Labels 'cardiomegaly; scoliosis' is no list of names such as",
    ),
    "an unknown label": (None, ["labels=cardiomegaly,scoliozis"], "has no label 'scoliozis' (nearest: scoliosis"),
    "a label twice": (None, ["labels=scoliosis,scoliosis"], "each name is wanted once"),
    "no PA rows": (
        lambda d: edit(label_csv(d), lambda rows: [row.update(Projection="AP") for row in rows]),
        [],
        "has no row with Projection PA; there are AP (300)",
    ),
    "another projection": (None, ["projections=[COSTAL]"], "has no row with Projection COSTAL; there are PA"),
    "no label file": (
        lambda d: label_csv(d).unlink(),
        [],
        "PADCHEST*.csv* not found there; wanted are images/ and PADCHEST*.csv*",
    ),
    "two label files": (
        lambda d: shutil.copy(label_csv(d), d / "PADCHEST_2.csv"),
        [],
        "several files could be the labels: PADCHEST_2.csv, PADCHEST_demo_labels.csv",
    ),
    "no images": (lambda d: shutil.rmtree(d / "images"), [], "the folder images/ not found there"),
    "a numbered folder is missing": (
        lambda d: shutil.rmtree(d / "images/0"),
        [],
        (
            "images lie in folders that are missing in {images}: 0 (60 images); mend them, or leave them out with"
            " drop_unreadable=true"
        ),
    ),
    "a truncated image": (
        lambda d: cut(next((d / "images").rglob("*.png")), d),
        [],
        "images in {images} cannot be read",
    ),
    "no positives to test on": (
        lambda d: edit(
            label_csv(d),
            lambda rows: [
                row.update(Labels="['normal', 'scoliosis']" if n == 0 else "['normal']") for n, row in enumerate(rows)
            ],
        ),
        ["labels=scoliosis"],
        "has no label with both positives and negatives, so nothing can be learned or measured there",
    ),
    "masks of other images": (
        lambda d: (d / "odd").mkdir() or Image.new("L", (9, 9), 255).save(d / "odd/x.png"),
        ["crop=masks", "masks=set/odd"],
        "none of its 1 .png files is called after an image",
    ),
    "a seed beyond 32 bits": (None, ["seed=4294967296"], "seed = '4294967296' will not do"),
    "a size that a network cannot take": (
        None,
        ["model=inception_v3"],
        "model = 'inception_v3' cannot take images of 32 pixels",
    ),
    "a date for a label": (None, ["labels=[2020-13-45]"], "is not understood: a list is written [one, two]"),
    "a mirror": (None, ["flip=0.5"], "left and right are findings in a padchest run, so images are never mirrored"),
    "a mirrored view": (None, ["views=[original,flip]"], "a padchest run may use original, once each"),
    "the competition's loss": (None, ["loss=cross_entropy"], "loss = 'cross_entropy' will not do"),
    "the competition's sampler": (None, ["imbalance=sampler:0.5"], "imbalance = 'sampler:0.5' will not do"),
    "the competition's costs": (None, ["costs=[1,1,5]"], "unknown key costs"),
    "a head that is none": (None, ["head=256"], "head = '256' will not do"),
    "a head without a rate": (None, ["head=256/"], "head = '256/' will not do"),
    "a dropout of 30": (None, ["head=256/30"], "head = '256/30' will not do"),
    "all for testing": (
        None,
        ["val_fraction=0.5", "test_fraction=0.5"],
        "test_fraction = '0.5' will not do: with val_fraction = 0.5 it leaves nothing to train on",
    ),
    "weights for a network from scratch": (
        None,
        ["model=cnn3", "weights=w.pth"],
        "cnn3 is trained from scratch and takes no weights",
    ),
    "masks without a folder": (None, ["crop=masks"], "crop = masks needs the folder of the lung masks"),
    "masks that are not there": (None, ["crop=masks", "masks=nowhere"], "masks = nowhere: there is no such folder"),
    "no lung network": (None, ["crop=lungs"], f"the weights of the lung network, {lungs.FILE}, are neither in"),
    "no split file": (None, ["split=nowhere.csv"], "split = nowhere.csv: there is no such file"),
}


def cut(path: Path, _) -> None:
    path.write_bytes(path.read_bytes()[:200])


@pytest.mark.parametrize("fault", FAULTS)
def test_mistakes_are_one_sentence(fault, broken, home, call, monkeypatch):
    def offline(*_, **__):
        raise urllib.error.URLError(OSError(101, "Network is unreachable"))

    monkeypatch.setattr(urllib.request, "urlopen", offline)
    change, more, sentence = FAULTS[fault]
    if change:
        change(broken)
    said = call("main", "padchest", "--data", broken, *SMALL, *more)
    assert said.code == 2 and said.err.count("error: ") == 1 and len(said.err.strip().splitlines()[-1]) < 1500
    assert sentence.format(images=files.shown(broken / "images")) in said.err, said.err
    assert not (home / "submissions").exists() and not list(home.glob("runs/*/best.pt"))


def test_truncated_files_are_left_out_by_an_explicit_setting_only(broken, home, call):
    lost = sorted((broken / "images").rglob("*.png"))[:3]
    for path in lost:
        cut(path, None)
    said = call(
        "train",
        "padchest",
        "--data",
        broken,
        *SMALL,
        "projections=PA,L,AP_horizontal",
        "drop_unreadable=true",
        "epochs=1",
        "frozen_epochs=0",
        "name=left",
    )
    assert said.code == 0 and "WARNING: left out before the split: 3 unreadable images" in said.err
    assert not {path.name for path in lost} & {row["id"] for row in rows_of(home / "runs/left/folds.csv")}


def test_a_split_of_ones_own(chests, three, home, call, tmp_path):
    """Another run's folds.csv is taken as it is; one that parts a patient, or lacks an image, is refused."""
    given, odd = three / "runs/r0/folds.csv", tmp_path / "odd.csv"
    said = call(
        "train",
        "padchest",
        "--data",
        chests,
        *SMALL,
        f"split={given}",
        "split_seed=9",
        "epochs=1",
        "frozen_epochs=0",
        "name=given",
    )
    assert said.code == 0 and (home / "runs/given/folds.csv").read_bytes() == given.read_bytes()

    rows = rows_of(given)
    patients = [row["patient"] for row in rows]
    several = next(row for row in rows if patients.count(row["patient"]) > 1)
    for change, sentence in (
        (
            lambda copy: next(row for row in copy if row["id"] == several["id"]).update(
                part="test" if several["part"] != "test" else "training"
            ),
            f"odd.csv has 1 patients in more than one part: {several['patient']}",
        ),
        (lambda copy: copy.pop(), "it must give a part for the id of every image"),
        (lambda copy: copy[0].update(part="train"), "part 'train' is none of training, validation, test"),
        (
            lambda copy: [row.update(part="training") for row in copy if row["part"] == "test"],
            "odd.csv has no image for test",
        ),
        (lambda copy: copy.append({**copy[0], "part": "test"}), "odd.csv: 1 ids stand there more than once"),
    ):
        shutil.copy(given, odd)
        edit(odd, change)
        refused = call("train", "padchest", "--data", chests, *SMALL, f"split={odd}", "name=odd")
        assert refused.code == 2 and sentence in refused.err, refused.err
    assert not (home / "runs/odd/folds.csv").exists()


@pytest.fixture
def mine(three, home) -> Path:
    """A copy of a trained run that a test may break."""
    for folder in ("runs/r0", "runs/r1"):
        shutil.copytree(three / folder, home / folder)
    return home / "runs/r0"


def test_a_run_insists_on_its_own_split(mine, chests, call):
    """Training patients moved to the test part, columns taken away, a file that is gone: no script judges by another
    split."""
    whole = (mine / "folds.csv").read_bytes()
    for change in (
        lambda rows: [row.update(part="test") for row in rows if row["part"] == "training"][:9],
        lambda rows: [row.pop("patient") for row in rows],
    ):
        edit(mine / "folds.csv", change)
        for command in (["evaluate", mine], ["score", mine], ["predict", mine]):
            said = call(*command)
            assert said.code == 2 and "is not the split that this run was trained with" in said.err, (
                command[0],
                said.err,
            )
        again = call("main", "padchest", "--data", chests, *SMALL, "seed=0", "name=r0")  # chosen again, as it was
        assert again.code == 0 and (mine / "folds.csv").read_bytes() == whole
    (mine / "folds.csv").unlink()
    assert "is gone: run the command that began the run once more" in call("evaluate", mine).err
    assert (
        call("main", "padchest", "--data", chests, *SMALL, "seed=0", "name=r0").code == 0
        and (mine / "folds.csv").read_bytes() == whole
    )


def test_a_run_insists_on_its_own_images_and_labels(mine, broken, call):
    edit(label_csv(broken), lambda rows: [row.update(Labels="['scoliosis']") for row in rows[:40]])
    for verb in ("predict", "probe"):
        said = call(verb, mine, "--data", broken)
        assert said.code == 2 and "was trained on other images or labels than those in set" in said.err


def test_figures_of_an_earlier_epoch_are_not_shown(mine, call):
    about = json.loads((mine / "run.json").read_text())
    (mine / "run.json").write_text(json.dumps({**about, "predicted": [about["best_epoch"] + 1, "x"]}))
    assert "and the best is now" in call("evaluate", mine).err
    (mine / "calibration.json").unlink()
    assert (
        "has no calibration.json yet: run the main job on it, ./run.sh CONFIG name=r0 with the run's settings"
        in call("score", mine).err
    )


def test_only_replicates_are_averaged(mine, home, call):
    """Another setting, another split, a baseline among networks, one run twice."""
    other, text = home / "runs/r1", (home / "runs/r1/run.json").read_text()
    for change, sentence in (
        ({"config": {**json.loads(text)["config"], "lr": 0.5}}, "they differ in lr (0.001 → 0.5)"),
        ({"baseline": "a probe"}, "they differ in baseline"),
    ):
        (other / "run.json").write_text(json.dumps({**json.loads(text), **change}))
        said = call("evaluate", mine, other)
        assert said.code == 2 and sentence in said.err, said.err
    assert "a run is named twice" in call("evaluate", mine, mine / ".").err


def test_a_baseline_overwrites_no_run(mine, home, call):
    shutil.copytree(mine, home / "runs/probe-r0")
    assert "is a run of its own, and the baseline would be written there" in call("probe", mine).err
    shutil.rmtree(home / "runs/probe-r0")
    assert call("probe", mine).code == 0
    assert "is a baseline (logistic regression" in call("predict", home / "runs/probe-r0").err


def test_a_run_without_an_epoch_binds_to_nothing(chests, home, call):
    said = call("train", "padchest", "--data", chests, *SMALL, "lr=1e30", "body_lr=1e30", "clip_norm=1e9", "name=nan")
    assert said.code == 2 and "the loss is no longer a number: epoch 1" in said.err
    assert (
        call(
            "train", "padchest", "--data", chests, *SMALL, "split_seed=4", "epochs=1", "frozen_epochs=0", "name=nan"
        ).code
        == 0
    )


def test_runs_of_different_tasks_are_not_compared(three, made, home, call):
    assert call("main", "modelB", "--data", made, *TINY, "epochs=1", "frozen_epochs=0", "name=single").code == 0
    said = call("evaluate", three / "runs/r0", home / "runs/single")
    assert said.code == 2 and "runs of different tasks cannot be compared" in said.err
    assert call("download", "padchest").err.startswith("error: padchest belongs to no Kaggle competition")


@needs_shared
def test_the_real_sample_is_read_and_split():
    config = registry.load("padchest", ["labels=cardiomegaly,pleural effusion,pneumonia", "crop=none"])
    task = registry.task_of(config)
    source, quick = prepare.find(str(SHARED / "data/padchest_sample"), "padchest", task.layout)
    table = prepare.tables(source, task).labelled
    parts = task.split(table)
    assert (
        not quick
        and not source.synthetic
        and len(table.ids) == 1104
        and all((source.images / place).is_file() for place in table.places)
    )
    for part in ("training", "validation", "test"):
        assert (table.targets[parts == part].sum(axis=0) > 0).all()
