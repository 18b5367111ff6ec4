"""The competition's score against the published constant, its identity, brute force and scikit-learn."""

import csv
import itertools
import json

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score, roc_auc_score

from answers import metrics
from conftest import SHARED, needs_shared

# The competition's training counts, in column order (the last is No Finding).
COUNTS = [2351, 600, 651, 326, 2156, 172, 389, 37, 5206, 1249, 1527, 608, 160, 1114, 44, 5, 24, 254, 91, 34079]


def by_definition(truth, answers, classes) -> float:
    """The score counted image by image."""
    total, present = 0.0, 0
    for c in range(classes):
        n = sum(t == c for t in truth)
        if n:
            tp = sum(t == c and a == c for t, a in zip(truth, answers))
            fp = sum(t != c and a == c for t, a in zip(truth, answers))
            fn = sum(t == c and a != c for t, a in zip(truth, answers))
            total, present = total + (tp - fp - 5 * fn) / n, present + 1
    return total / present


def test_always_no_finding_on_the_real_counts():
    assert sum(COUNTS) == 51043
    truth = np.repeat(np.arange(20), COUNTS)
    by_rows = metrics.tally(truth, np.full(len(truth), 19), 20)
    assert metrics.competition_score(by_rows) == pytest.approx(-4.724889, abs=5e-7)
    assert metrics.competition_score(metrics.constant(np.array(COUNTS), 19)) == metrics.competition_score(by_rows)


@needs_shared
def test_the_real_counts_are_those_of_the_file():
    with open(SHARED / "data/competition_real/class_counts.csv") as file:
        assert [int(row["train_count"]) for row in csv.DictReader(file)] == COUNTS


def test_every_tiny_table_agrees_with_the_definition():
    for truth in itertools.product(range(3), repeat=3):
        for answers in itertools.product(range(3), repeat=3):
            counts = metrics.tally(np.array(truth), np.array(answers), 3)
            assert metrics.competition_score(counts) == pytest.approx(by_definition(truth, answers, 3))


def test_identity_and_scikit_learn():
    rng = np.random.default_rng(0)
    for _ in range(50):
        truth = np.concatenate([np.arange(6), rng.integers(0, 6, 60)])
        answers = np.where(rng.random(66) < 0.5, truth, rng.integers(0, 6, 66))
        counts, figures = metrics.tally(truth, answers, 6), metrics.summary(metrics.tally(truth, answers, 6))
        assert figures["score"] == pytest.approx(
            6 * balanced_accuracy_score(truth, answers) - 5 - np.mean(counts.fp / counts.n)
        )
        assert figures["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(truth, answers))
        assert figures["accuracy"] == pytest.approx(accuracy_score(truth, answers))
        assert figures["macro_f1"] == pytest.approx(f1_score(truth, answers, average="macro"))


def test_perfect_answers_score_one():
    truth = np.array([0, 1, 2, 2])
    assert metrics.competition_score(metrics.tally(truth, truth, 3)) == 1


def test_an_absent_class_is_left_out_of_the_mean():
    truth, answers = np.array([0, 0, 1]), np.array([0, 2, 1])
    counts = metrics.tally(truth, answers, 4)
    assert np.isnan(metrics.class_scores(counts)[2:]).all()
    assert metrics.competition_score(counts) == pytest.approx(((1 - 5) / 2 + 1) / 2)


def test_order_of_images_does_not_matter():
    rng = np.random.default_rng(1)
    truth, answers = rng.integers(0, 5, 40), rng.integers(0, 5, 40)
    shuffled = rng.permutation(40)
    assert metrics.summary(metrics.tally(truth, answers, 5)) == metrics.summary(
        metrics.tally(truth[shuffled], answers[shuffled], 5)
    )


def csv_of(path, classes, rows):
    path.write_text(
        "\n".join([",".join(["id", *classes]), *(f"{name},{','.join(map(str, row))}" for name, row in rows)]) + "\n"
    )
    return path


def test_score_of_a_hand_made_table(tmp_path, call):
    """Four images, three classes: A right, A called B, B right, C called B. A: (1−0−5)/2, B: (1−2−0)/1, C:
    (0−0−5)/1."""
    truth = csv_of(
        tmp_path / "truth.csv", "ABC", [("1", (1, 0, 0)), ("2", (1, 0, 0)), ("3", (0, 1, 0)), ("4", (0, 0, 1))]
    )
    said = csv_of(
        tmp_path / "said.csv", "ABC", [("1", (1, 0, 0)), ("2", (0, 1, 0)), ("3", (0, 1, 0)), ("4", (0, 1, 0))]
    )
    answer = call("score", said, truth, "--json", tmp_path / "out.json")
    assert answer.code == 0
    assert answer.out.splitlines()[-1] == f"score {(-2 - 1 - 5) / 3:.6f}"
    # rows in another order and columns in another order are the same answers
    turned = csv_of(
        tmp_path / "turned.csv", "CBA", [("4", (0, 1, 0)), ("2", (0, 1, 0)), ("1", (0, 0, 1)), ("3", (0, 1, 0))]
    )
    assert call("score", turned, truth).out == answer.out


def test_score_of_probabilities_is_the_ranking_label_by_label(tmp_path, call):
    rng = np.random.default_rng(3)
    truth, p = rng.integers(0, 2, (30, 3)), rng.random((30, 3)).round(6)
    truth[:, 2] = 0  # a label without positives has no figure
    names = [str(number) for number in range(30)]
    true = csv_of(tmp_path / "truth.csv", "ABC", zip(names, truth, strict=True))
    said = csv_of(tmp_path / "said.csv", "ABC", zip(names[::-1], p[::-1], strict=True))
    answer = call("score", said, true, "--json", tmp_path / "out.json")
    areas = [roc_auc_score(truth[:, c], p[:, c]) for c in (0, 1)]
    assert answer.code == 0 and answer.out.splitlines()[-1] == f"score {np.mean(areas):.6f}"
    rows = json.loads((tmp_path / "out.json").read_text())["per_class"]
    assert [row["auc"] for row in rows] == [pytest.approx(areas[0]), pytest.approx(areas[1]), None]
    refused = call("score", said, true, "--costs", 1, 1, 5)
    assert refused.code == 2 and "said.csv holds probabilities, which are not scored by costs" in refused.err
    (tmp_path / "bad.csv").write_text((tmp_path / "said.csv").read_text().replace(str(p[4, 1]), "1.5"))
    assert "column B: '1.5' is no probability from 0 to 1" in call("score", tmp_path / "bad.csv", true).err
