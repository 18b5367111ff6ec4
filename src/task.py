"""The seam: what differs between the tasks, as one record of values and plain functions. Nothing compares its name."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

import config as settings
import decision
import decision_report
import examples
import findings
import findings_report
import folds
import imbalance
import labels
import locate
import metrics
import padchest_labels
from files import all_probabilities, write_submission
from labels import Table, Tables
from locate import Layout, Source
from metrics import Costs, tally_one_hot
from rules import RULES


@dataclass(frozen=True)
class Task:
    name: str
    layout: Layout  # what its data sets are made of
    read: Callable[[Source], Tables]
    parts: tuple[str, ...]  # of the labelled rows
    measurable: Callable[[np.ndarray], bool]  # targets [N, C] of a part → whether anything can be told from them
    split: Callable[[Table, settings.Config], np.ndarray]  # → one of `parts` for every row, str [N]
    loss: str  # a name in losses.LOSSES
    corrections: tuple[frozenset[str], ...]  # of class imbalance: the sets of them that may be used together
    conflict: str  # why other sets may not
    weights: Callable[[np.ndarray, dict[str, float]], np.ndarray | None]  # targets [N, C], corrections → how often to draw each image; None: once each
    prior: Callable[[np.ndarray, dict[str, float]], np.ndarray]  # targets [N, C], corrections → what the activated logits assume, float [C]
    seen: re.Pattern  # names of networks that were pretrained on images of its test part
    views: tuple[str, ...]  # names in infer.VIEWS that training and test-time augmentation may use
    monitor: str  # the figure of `metrics` that chooses the epoch
    mode: str  # "max" or "min"
    metrics: Callable[[np.ndarray, np.ndarray, np.ndarray], dict[str, float]]  # targets [N, C], logits [N, C], counts [C]
    rules: tuple[str, ...]  # names of the ways from logits to answers
    calibrate: Callable[..., dict]  # validation logits, one file a network, and a fixed temperature or None → calibration.json
    decide: Callable[..., np.ndarray]  # test logits, one file a network; calibration; rule; natural counts or None → answers [N, C]
    write: Callable[..., None]  # path, ids, classes, answers, the wanted ids in their order → the checked submission
    report: Callable[..., dict]  # validation logits, labelled test logits or None, calibration, rule, folds.csv's rows by id → figures
    lines: Callable[[dict, dict], list[str]]  # such a report, calibration → what to print of them
    warning: Callable[[dict], list[str]]  # such a report → what nobody must miss, or nothing
    headline: Callable[[dict], dict[str, float | None]]  # such a report → its few figures that runs are compared by
    headings: dict[str, str]  # the names of those figures, and how they are headed in a table
    compare: Callable[[Sequence[dict]], list[str]]  # the reports of several runs → what to print of them
    paired: Callable[..., dict]  # runs, each the first four arguments of `report`; as many others; rows → the difference of `monitor` on the same images
    figures: tuple[str, ...]  # names in figures.FIGURES: the pictures of its runs
    examples: Callable[..., tuple]  # validation logits, test logits or None, calibration, rule, wanted columns, how many → whose rows, list[Example]
    score: Callable[..., dict]  # as `report`, of the validation rows alone → `score` and what stands beside it
    score_lines: Callable[[dict], list[str]]


def competition(costs: Costs = Costs()) -> Task:
    """The 20-class competition: one answer an image, scored by the asymmetric cost."""
    return Task(
        name="competition",
        layout=locate.COMPETITION,
        read=lambda source: labels.read_competition(source.folder),
        parts=("training", "validation"),
        measurable=lambda targets: len(targets) > 0,
        split=_by_image,
        loss="cross_entropy",
        corrections=(frozenset(), frozenset({"sampler"}), frozenset({"loss_weights"}), frozenset({"logit_adjustment"})),
        conflict="each of them shifts the class prior that the network learns, and together they drown the common classes (a sampler "
        "with loss weights and focal loss scored −117 on Kaggle): keep one",
        weights=_of_the_sampler,
        prior=lambda targets, corrections: imbalance.prior(targets.sum(axis=0).astype(int), corrections),
        seen=re.compile(r"(?<![a-z])nih(?![a-z])|chexnet|chest[-_ ]?x|xrv|torchxrayvision|res224-all|cxr[-_]?lt", re.IGNORECASE),  # the test images are NIH's
        views=("original", "flip"),
        monitor="score",
        mode="max",
        metrics=partial(_monitor, costs),
        rules=tuple(RULES),
        calibrate=partial(decision.calibrate, costs),
        decide=decision.one_hot,
        write=write_submission,
        report=decision_report.report,
        lines=decision_report.lines,
        warning=lambda report: decision_report.warning(report["validation"], report["rule"]),
        headline=decision_report.headline,
        headings={"score": "score", "accuracy": "accuracy", "balanced_accuracy": "balanced accuracy", "macro_f1": "macro-F1"},
        compare=decision_report.compare,
        paired=decision_report.paired,
        figures=("training", "temperature", "confidence", "confusion", "class_costs"),
        examples=examples.of_decisions,
        score=decision_report.score,
        score_lines=decision_report.score_lines,
    )


def padchest(config: settings.Padchest) -> Task:
    """The multi-label study: any number of labels an image, parted by patient, judged by how well each label is ranked."""
    return Task(
        name="padchest",
        layout=locate.PADCHEST,
        read=lambda source: Tables(
            padchest_labels.read(source.tables[0], source.images, config.labels, config.projections, config.physician_only), np.array([], dtype=str)
        ),
        parts=("training", "validation", "test"),
        measurable=lambda targets: bool(findings.countable(targets).any()),
        split=_by_patient,
        loss=config.loss,
        corrections=(frozenset(), frozenset({"oversampling"})),
        conflict="labels are balanced by the loss, and by oversampling images of rare ones",
        weights=_oversampled,
        prior=lambda targets, corrections: imbalance.prevalence(targets, _oversampled(targets, corrections)),
        seen=re.compile(r"padchest|(?<![a-z])pc(?![a-z])|xrv|torchxrayvision|res224-all|cxr[-_]?lt", re.IGNORECASE),
        views=("original",),  # no flip: left and right are findings here
        monitor="auc",
        mode="max",
        metrics=findings.monitor,
        rules=findings.RULES,
        calibrate=findings.calibrate,
        decide=findings.decide,
        write=partial(write_submission, fault=all_probabilities),
        report=findings_report.report,
        lines=findings_report.lines,
        warning=findings_report.warning,
        headline=findings_report.headline,
        headings={"auc": "AUC-ROC", "average_precision": "PR-AUC", "brier": "Brier", "brier_skill": "Brier skill", "spec_at_sens95": "Spec@Sens=95%",
                  "sens_at_spec95": "Sens@Spec=95%", "sens_at_sens95": "held sensitivity", "spec_at_spec95": "held specificity"},
        compare=findings_report.compare,
        paired=findings_report.paired_runs,
        figures=("training", "roc", "roc_all", "precision_recall", "reliability", "histograms"),
        examples=examples.of_findings,
        score=findings_report.score,
        score_lines=findings_report.score_lines,
    )


TASKS: dict[str, Callable[..., Task]] = {  # name → configuration → task
    "competition": lambda config: competition(Costs(*config.costs)),
    "padchest": padchest,
}


def _by_image(table: Table, config: settings.Config) -> np.ndarray:
    held_out = folds.stratified(table.targets.argmax(axis=1), config.val_fraction, config.chosen_split_seed)
    return np.where(held_out, "validation", "training")


def _by_patient(table: Table, config: settings.Padchest) -> np.ndarray:
    return folds.by_patient(table.targets, table.known["patient"], (config.val_fraction, config.test_fraction), config.chosen_split_seed)


def _of_the_sampler(targets: np.ndarray, corrections: dict[str, float]) -> np.ndarray | None:
    if "sampler" not in corrections:
        return None
    return targets @ imbalance.class_weights(targets.sum(axis=0).astype(int), corrections["sampler"])


def _oversampled(targets: np.ndarray, corrections: dict[str, float]) -> np.ndarray | None:
    return imbalance.repeat_factors(targets, corrections["oversampling"]) if corrections else None


def _monitor(costs: Costs, targets: np.ndarray, logits: np.ndarray, counts: np.ndarray) -> dict[str, float]:
    return metrics.summary(tally_one_hot(targets, np.where(counts > 0, logits, -np.inf).argmax(axis=1)), costs)
