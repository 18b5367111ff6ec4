"""A run on another labelled set: what is compared, what is left out, and what recalibration there can and cannot do."""

import json

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, log_loss, roc_auc_score

from answers import external
from answers.multi_label import sigmoid
from conftest import TINY
from core.config import read_yaml
from core.errors import UserError
from core.files import ROOT
from images import synthetic

MAP = read_yaml(ROOT / "configs" / "maps" / "findings.yaml")


def test_labels_are_matched_by_name_or_by_the_map():
    ours = ["Effusion", "Mass", "No Finding", "Pneumonia", "Hernia"]
    theirs = ["normal", "pleural effusion", "PNEUMONIA", "scoliosis", "mass"]
    assert external.matches(ours, theirs, MAP) == [(0, 1), (1, 4), (2, 0), (3, 2)]
    assert external.matches(theirs, ours, MAP) == [(0, 2), (1, 0), (2, 3), (4, 1)]
    with pytest.raises(UserError, match="no label of that data set"):
        external.matches(["Effusion"], ["scoliosis"], MAP)
    with pytest.raises(UserError, match="a name stands once"):
        external.matches(["a"], ["b"], {"a": ["b"], "c": ["B"]})


def test_the_map_names_every_finding_of_the_tasks_it_serves():
    from core.config import layered

    assert set(layered("nih14")[0]["labels"]) <= MAP.keys()
    assert {"cardiomegaly", "pleural effusion"} <= {name for names in MAP.values() for name in names}
    assert MAP.keys() <= synthetic.SIGNS.keys()


@pytest.fixture(scope="module")
def drawn():
    """Two labels of 4,000 images, two a patient, whose log-odds a network says too high by 1.5, and half too steep."""
    rng = np.random.default_rng(0)
    truth = rng.normal(-2, 1, (4000, 2))
    targets = (rng.random(truth.shape) < sigmoid(truth)).astype(float)
    said = np.stack([sigmoid(truth[:, 0] + 1.5), sigmoid(2 * truth[:, 1] + 3.5)], axis=1)
    return said, targets, np.repeat(np.arange(2000), 2).astype(str), sigmoid(truth)


def test_recalibration_finds_the_truth_and_a_shift_only_another_prevalence(drawn):
    said, targets, patients, truth = drawn
    ways = external.refitted(said, targets, patients)
    losses = {way: [log_loss(targets[:, c], q[:, c]) for c in (0, 1)] for way, q in ways.items()}
    best = [log_loss(targets[:, c], truth[:, c]) for c in (0, 1)]
    assert np.allclose(losses["recalibrated"], best, atol=0.003)
    assert abs(losses["shifted"][0] - best[0]) < 0.003 < losses["shifted"][1] - best[1]
    assert all(losses["as it is"][c] - best[c] > 0.05 for c in (0, 1))
    assert np.allclose(ways["as it is"], said)


def test_a_row_s_probability_comes_from_other_patients(drawn):
    said, targets, patients, _ = drawn
    mine = patients == patients[0]
    turned = targets.copy()
    turned[mine] = 1 - turned[mine]
    before, after = (external.refitted(said, each, patients) for each in (targets, turned))
    for way in external.WAYS:
        assert np.array_equal(before[way][mine], after[way][mine])
    assert not np.array_equal(before["recalibrated"], after["recalibrated"])


def test_the_figures_are_scikit_learn_s(drawn):
    said, targets, patients, _ = (each[:400] for each in drawn)
    targets = targets.copy()
    targets[::7, 0] = np.nan
    found = external.report(["a", "b"], said, targets, patients)
    for c, row in enumerate(found["per_label"]):
        known = ~np.isnan(targets[:, c])
        truth, p = targets[known, c], said[known, c]
        assert row["positives"] == truth.sum() and row["images"] == known.sum()
        assert row["auc"] == pytest.approx(roc_auc_score(truth, p))
        assert row["average_precision"] == pytest.approx(average_precision_score(truth, p))
        assert row["log_loss, as it is"] == pytest.approx(log_loss(truth, p), rel=1e-5)
        assert row["expected, as it is"] == pytest.approx(p.sum() / truth.sum())
        assert row["auc_interval"][0] < row["auc"] < row["auc_interval"][1]
    macro = found["macro"]
    assert macro["auc"] == pytest.approx(np.mean([row["auc"] for row in found["per_label"]]))
    low, high = macro["gain, recalibrated"]
    assert low < macro["log_loss, recalibrated"] - macro["log_loss, as it is"] < high < 0


def test_labels_with_too_few_images_are_named_and_not_judged():
    p, targets = np.full((40, 2), 0.3), np.zeros((40, 2))
    targets[:20, 0], targets[:2, 1] = 1, 1
    found = external.report(["a", "b"], p, targets, np.arange(40).astype(str))
    assert found["few"] == ["b"] and [row["class"] for row in found["per_label"]] == ["a"]
    assert "not judged, with fewer than 5" in external.lines(found)[-1]
    with pytest.raises(UserError, match="no label that can be compared has 5 images"):
        external.report(["b"], p[:, 1:], targets[:, 1:], np.arange(40).astype(str))


def test_a_competition_s_run_on_padchest_s_labels_and_on_its_own(made, home, call, tmp_path):
    assert call("main", "modelB", "--data", made, *TINY, "epochs=1", "frozen_epochs=0", "folds=2", "name=it").code == 0
    run = home / "runs" / "it"
    synthetic.make(tmp_path / "other", images=300, size=40, seed=3, layout="padchest")
    said = call("evaluate", run, "--data", tmp_path / "other", "--config", "padchest")
    assert said.code == 0, said.err
    compared = next(line for line in said.out.splitlines() if line.startswith("compared: "))
    assert "Effusion = pleural effusion" in compared and "No Finding = normal" in compared
    found = json.loads((run / "external-padchest.json").read_text())
    assert {row["class"] for row in found["per_label"]} >= {"Cardiomegaly", "Effusion", "No Finding"}
    assert found["patients"] < found["images"] <= 300

    seen = call("evaluate", run, "--data", made)
    assert seen.code == 2 and "has learned from every image" in seen.err
    synthetic.make(tmp_path / "more", images=200, size=40, seed=11)
    (tmp_path / "people.csv").write_text(
        "id,group\n"
        + "".join(f"{path.name},{number // 2}\n" for number, path in enumerate((tmp_path / "more/images").iterdir()))
    )
    alone = call("evaluate", run, "--data", tmp_path / "more")
    assert alone.code == 0 and "patients are not known there: intervals go by image" in alone.out
    grouped = call(
        "evaluate", run, "--data", tmp_path / "more", "--config", "modelB", f"groups={tmp_path / 'people.csv'}"
    )
    assert grouped.code == 0 and " patients\n" in grouped.out and "not known there" not in grouped.out
    assert (run / "external-competition.json").is_file()


@pytest.mark.parametrize(
    "words, sentence",
    [
        (["--config", "padchest"], "give --data DIR too"),
        (["--data", "nowhere", "groups=x.csv"], "groups=x.csv is for the configuration that reads --data"),
        (["--data", "nowhere"], "there is no such folder"),
        (["--data", "nowhere", "--config", "nih15"], "there is no configuration"),
    ],
)
def test_what_it_cannot_do_is_a_sentence(words, sentence, made, home, call):
    assert call("train", "modelB", "--data", made, *TINY, "epochs=1", "frozen_epochs=0", "name=it").code == 0
    said = call("evaluate", home / "runs" / "it", *words)
    assert said.code == 2 and said.err.startswith("error: ") and sentence in said.err
