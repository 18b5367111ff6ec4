"""The kind of problem where every image has one class, and every image gets one answer, scored by asymmetric costs."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, field_validator

from answers import metrics, single_label
from answers import single_label_page as pages
from answers import single_label_report as reports
from answers.metrics import Costs
from answers.rules import RULES
from core import priors
from core.config import Config, Strength
from core.logits_file import Logits
from core.submission import one_answer
from core.task import Problem


class SingleLabelConfig(Config):
    loss: Literal["cross_entropy"] = "cross_entropy"
    imbalance: dict[Literal["sampler", "loss_weights", "logit_adjustment"], Strength]  # see core/priors.py
    costs: Annotated[list[Annotated[float, Field(ge=0, le=1e6)]], Field(min_length=3, max_length=3)]  # hit, alarm, miss

    @field_validator("imbalance")
    @classmethod
    def _one_correction(cls, value):
        if len(value) > 1:
            raise ValueError(
                "each of them shifts the class prior that the network learns, and together they drown the common"
                " classes (a sampler with loss weights and focal loss scored −117 on Kaggle): keep one"
            )
        return value


class SingleLabel(Problem):
    """costs: the reward of a hit, the cost of a false alarm and that of a miss."""

    exclusive = True
    monitor = "score"
    monitors = ("score", *single_label.MONITORS)
    rules = tuple(RULES)
    headings = reports.HEADINGS
    plots = (
        "training", "rules", "temperature", "likelihood", "confidence", "confusion", "counts", "class_costs",
    )  # fmt: skip

    def __init__(self, costs: Costs = Costs()):
        self.costs = costs

    # ---- learning
    def weights(self, targets: np.ndarray, corrections: Mapping[str, float]) -> np.ndarray | None:
        if "sampler" not in corrections:
            return None
        return targets @ priors.class_weights(targets.sum(axis=0).astype(int), corrections["sampler"])

    def prior(self, targets: np.ndarray, corrections: Mapping[str, float]) -> np.ndarray:
        return priors.prior(targets.sum(axis=0).astype(int), corrections)

    def metrics(self, val: Logits, monitor: str = monitor) -> dict[str, float]:
        answers = np.where(val.counts > 0, val.logits[0], -np.inf).argmax(axis=1)
        found = metrics.summary(metrics.tally_one_hot(val.targets, answers), self.costs)
        return found if monitor in found else found | {monitor: single_label.MONITORS[monitor](val, self.costs)}

    def earnings(self, targets: np.ndarray) -> np.ndarray:
        truth, counts = targets.argmax(axis=1), targets.sum(axis=0)
        return np.stack(
            [metrics.earned(truth, np.full(len(truth), c), counts, self.costs) for c in range(len(counts))], axis=1
        )

    # ---- deciding
    def calibrate(self, vals: Sequence[Logits], temperature: float | None = None) -> dict:
        return single_label.calibrate(self.costs, vals, temperature)

    decide = staticmethod(single_label.decide)
    plain = staticmethod(single_label.corrected)
    posterior = staticmethod(single_label.posterior)

    def held_out(self, vals: Sequence[Logits], calibration: dict, patients: np.ndarray | None) -> np.ndarray:
        return single_label.held_out(vals, calibration, ["bayes"], patients)[1]

    fault = staticmethod(one_answer)

    def tuned(self, vals: Sequence[Logits], calibration: dict) -> list[str]:
        report = single_label.report(vals, calibration)
        return [*reports.table(report), *reports.describe(calibration), *reports.doubt(report, "bayes")]

    # ---- reporting, as the interface describes it
    report = staticmethod(reports.report)
    lines = staticmethod(reports.lines)
    warning = staticmethod(reports.warning)
    headline = staticmethod(reports.headline)
    compare = staticmethod(reports.compare)
    paired = staticmethod(reports.paired)
    score = staticmethod(reports.score)
    score_lines = staticmethod(reports.score_lines)
    examples = staticmethod(reports.examples)
    verdict = staticmethod(pages.verdict)
    standing = staticmethod(pages.standing)
    sections = staticmethod(pages.sections)
    striking = staticmethod(pages.striking)
