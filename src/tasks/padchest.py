"""The thesis' multi-label study of PadChest."""

import re
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from core.data_set import Layout, Source, Table, Tables
from images import padchest_labels
from tasks.by_patient import ByPatient, ByPatientConfig
from tasks.multi_label import MultiLabel, MultiLabelConfig


class PadchestConfig(MultiLabelConfig, ByPatientConfig):
    task: Literal["padchest"]
    projections: Annotated[list[str], Field(min_length=1)]
    physician_only: bool  # leave out what a text classifier labelled


class Padchest(MultiLabel, ByPatient):
    Settings = PadchestConfig
    # "." for numbered folders beside the label file
    layout = Layout("padchest", ("PADCHEST*.csv*",), ("images", "."), from_kaggle=False)
    metadata = ("age", "sex", "view")
    views = ("original",)  # no flip: left and right are findings here
    pretrained_on_test = re.compile(
        r"padchest|(?<![a-z])pc(?![a-z])|xrv|torchxrayvision|res224-all|cxr[-_]?lt", re.IGNORECASE
    )

    pictured = ("cardiomegaly", "aortic elongation", "pleural effusion", "unchanged")  # of the thesis' figures 4 and 5
    explained = ("cardiomegaly", "aortic elongation", "pleural effusion", "scoliosis")  # and of its figure 6
    counts_published = "ruiz2025.csv"
    published = (("the thesis' final model, MobileNetV2, 3 replicates ± 0.006", 0.778),)

    def read(self, source: Source) -> Tables:
        config = self.config
        table = padchest_labels.read(
            source.tables[0], source.images, config.labels, config.projections, config.physician_only
        )
        return Tables(table, np.array([], dtype=str))

    def whole(self, source: Source) -> Table:
        return padchest_labels.read_whole(source.tables[0])
