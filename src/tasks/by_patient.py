"""A data set that names its patients, and is parted by them: for either kind of problem."""

from typing import Annotated

import numpy as np
from pydantic import Field, field_validator

from core import folds
from core.config import Config
from core.data_set import Table
from core.task import Task


class ByPatientConfig(Config):
    test_fraction: Annotated[float, Field(ge=0, lt=1)]  # of the patients, like val_fraction; 0 only with folds

    @field_validator("test_fraction")
    @classmethod
    def _leave_some_to_train(cls, value, info):
        if not value and not info.data.get("folds"):
            raise ValueError("without folds, which test on all images, it leaves nothing to test on")
        if value + info.data.get("val_fraction", 0) >= 1:
            raise ValueError(f"with val_fraction = {info.data['val_fraction']} it leaves nothing to train on")
        return value


class ByPatient(Task):
    parts = ("training", "validation", "test")
    packages = ("iterative-stratification",)

    def split(self, table: Table) -> np.ndarray:
        fractions = self.config.val_fraction, self.config.test_fraction
        return folds.by_patient(table.targets, table.known["patient"], fractions, self.config.chosen_split_seed)
