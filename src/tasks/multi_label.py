"""The kind of problem where an image has any number of labels, judged by how well each label is ranked."""

from collections.abc import Mapping
from functools import partial
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, field_validator

from answers import multi_label
from answers import multi_label_page as pages
from answers import multi_label_report as reports
from core import priors
from core.config import Config, Share, later
from core.logits_file import Logits
from core.submission import all_probabilities
from core.task import Problem


class MultiLabelConfig(Config):
    loss: Literal["weighted_bce", "focal", "class_balanced_focal", "asymmetric"]
    imbalance: dict[Literal["oversampling"], Annotated[float, Field(gt=0, le=1)]]  # see core/priors.py
    labels: Annotated[list[str], Field(min_length=1)]
    focal_alpha: Share = 0.20  # weight of positives; negatives get 1 − α
    focal_gamma: Annotated[float, Field(ge=0, le=10)] = 2.5
    effective_beta: Annotated[float, Field(ge=0, lt=1)] = 0.9999  # of class-balanced focal
    # of its weights: their mean 1, or the equation's own, a thousand times smaller on PadChest
    effective_scale: Literal["mean_one", "equation"] = later("mean_one")
    asymmetric: Annotated[list[Annotated[float, Field(ge=0, le=10)]], Field(min_length=3, max_length=3)] = [
        1.0, 4.0, 0.05,  # γ of positives, γ of negatives, clip
    ]  # fmt: skip

    @field_validator("asymmetric")
    @classmethod
    def _clip_below_one(cls, value):
        if value[2] >= 1:
            raise ValueError("the clip, its third number, must be below 1, or no negative would cost anything")
        return value

    @field_validator("labels", "projections", check_fields=False)
    @classmethod
    def _once_each(cls, value):
        if len(set(value)) < len(value) or "" in value or "id" in value:
            raise ValueError("each name is wanted once, none of them empty or id")
        return value


class MultiLabel(Problem):
    exclusive = False
    monitor = "auc"
    monitors = ("auc", "log_likelihood")
    rules = multi_label.RULES
    headings = reports.HEADINGS
    plots = ("training", "roc", "roc_all", "precision_recall", "reliability", "histograms")

    # ---- learning
    def weights(self, targets: np.ndarray, corrections: Mapping[str, float]) -> np.ndarray | None:
        return priors.repeat_factors(targets, corrections["oversampling"]) if corrections else None

    def prior(self, targets: np.ndarray, corrections: Mapping[str, float]) -> np.ndarray:
        return priors.prevalence(targets, self.weights(targets, corrections))

    def metrics(self, val: Logits, monitor: str = monitor) -> dict[str, float]:
        found = multi_label.monitor(val.targets, val.logits[0])
        return found if monitor in found else found | {monitor: multi_label.log_likelihood(val)}

    # ---- deciding and reporting, as the interface describes it
    calibrate = staticmethod(multi_label.calibrate)
    decide = staticmethod(multi_label.decide)
    plain = staticmethod(multi_label.corrected)
    posterior = staticmethod(partial(multi_label.probabilities, rule="calibrated"))
    held_out = staticmethod(multi_label.held_out)
    fault = staticmethod(all_probabilities)
    tuned = staticmethod(reports.tuned)
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
