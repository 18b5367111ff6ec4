"""The 20-class competition: one answer an image, parted image by image as its leaderboard is."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np

from answers.metrics import Costs
from core import folds
from core.config import later
from core.data_set import Layout, Source, Table, Tables
from core.task import Task
from images import labels
from tasks.single_label import SingleLabel, SingleLabelConfig


class CompetitionConfig(SingleLabelConfig):
    task: Literal["competition"]
    # FILE: a CSV of id and group, such as the patient; the split and all intervals go by group then
    groups: str = later("")


class Competition(SingleLabel, Task):
    Settings = CompetitionConfig
    layout = Layout("competition", ("train.csv", "test.csv"), ("images", "images/images"), from_kaggle=True)
    parts = ("training", "validation")
    views = ("original", "flip", "zoom", "flip_zoom")
    pretrained_on_test = re.compile(  # the test images are NIH's
        r"(?<![a-z])nih(?![a-z])|chexnet|chest[-_ ]?x|xrv|torchxrayvision|res224-all|cxr[-_]?lt", re.IGNORECASE
    )

    published = (
        ("the best public solution that was found, on Kaggle", -4.34),
        ("always No Finding, on Kaggle", -4.724889),
        ("the report's Model B, on Kaggle", -4.94581),
        ("the report's Model A, on Kaggle", -4.968755),
    )

    def __init__(self, config: CompetitionConfig):
        SingleLabel.__init__(self, Costs(*config.costs))
        Task.__init__(self, config)

    def read(self, source: Source) -> Tables:
        found = labels.read_competition(source.folder)
        if not self.config.groups:
            return found
        groups = labels.read_groups(Path(self.config.groups), found.labelled.ids)
        return Tables(replace(found.labelled, known={"patient": groups}), found.unlabelled)

    def split(self, table: Table) -> np.ndarray:
        config = self.config
        if "patient" in table.known:
            fractions = config.val_fraction, 0.0
            return folds.by_patient(table.targets, table.known["patient"], fractions, config.chosen_split_seed)
        held_out = folds.stratified(table.targets.argmax(axis=1), config.val_fraction, config.chosen_split_seed)
        return np.where(held_out, "validation", "training")
