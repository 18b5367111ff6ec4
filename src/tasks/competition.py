"""The 20-class competition: one answer an image, parted image by image as its leaderboard is."""

import re
from typing import Literal

import numpy as np

from answers.metrics import Costs
from core import folds
from core.data_set import Layout, Source, Table, Tables
from core.task import Task
from images import labels
from tasks.single_label import SingleLabel, SingleLabelConfig


class CompetitionConfig(SingleLabelConfig):
    task: Literal["competition"]


class Competition(SingleLabel, Task):
    Settings = CompetitionConfig
    layout = Layout("competition", ("train.csv", "test.csv"), ("images", "images/images"), from_kaggle=True)
    parts = ("training", "validation")
    views = ("original", "flip")
    pretrained_on_test = re.compile(  # the test images are NIH's
        r"(?<![a-z])nih(?![a-z])|chexnet|chest[-_ ]?x|xrv|torchxrayvision|res224-all|cxr[-_]?lt", re.IGNORECASE
    )

    def __init__(self, config: CompetitionConfig):
        SingleLabel.__init__(self, Costs(*config.costs))
        Task.__init__(self, config)

    def read(self, source: Source) -> Tables:
        return labels.read_competition(source.folder)

    def split(self, table: Table) -> np.ndarray:
        config = self.config
        held_out = folds.stratified(table.targets.argmax(axis=1), config.val_fraction, config.chosen_split_seed)
        return np.where(held_out, "validation", "training")
