"""A run to be read, opened in one way by all scripts; `core.runs.Run` is one to be written."""

import sys
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from core import folds
from core.config import Config
from core.errors import UserError
from core.files import read_json, shown
from core.logits_file import Logits, read_logits
from core.runs import read_run, require_whole
from core.task import Evidence, Rows, Task
from images.labels import aligned, read_one_hot
from tasks import registry


@dataclass(frozen=True)
class Opened:
    """A run's folder and what its run.json says. The rest is read when it is first asked for, and checked then."""

    folder: Path
    about: dict

    @cached_property
    def config(self) -> Config:
        return registry.config_of(self.about)

    @cached_property
    def task(self) -> Task:
        return registry.task_of(self.config)

    @cached_property
    def rows(self) -> Rows:
        """The rows of its folds.csv by id."""
        return folds.of_run(self.folder, self.about)

    @cached_property
    def networks(self) -> list["Opened"]:
        """The runs of its networks: itself, or the folds that a cross-validation has joined."""
        if not self.config.crossed:
            return [self]
        return [open_run(folds.folder(self.folder, fold)) for fold in self.about["joined"]]

    @cached_property
    def vals(self) -> list[Logits]:
        """The validation logits of every network."""
        return [one._val for one in self.networks]

    @cached_property
    def _val(self) -> Logits:
        content = read_logits(self._there("val_logits.npz"))
        if content.classes.tolist() != self.about["classes"]:
            raise UserError(
                f"{shown(self.folder / 'val_logits.npz')} has other classes than the run's run.json: "
                "run the command that began it once more"
            )
        return content

    @cached_property
    def calibration(self) -> dict:
        own = self.folder / "calibration.json"
        if self.config.folds and not self.config.crossed and not own.is_file():  # it stands at the top
            return self.task.calibrate([self._val], self.config.given_temperature)
        return read_json(self._there("calibration.json"))

    @cached_property
    def tests(self) -> list[Logits] | None:
        """The test logits of every network with their labels: the run's own test part, or those of the data set's
        solution.csv, as the synthetic set keeps one; None where they are not known."""
        found = [one._test for one in self.networks]
        return None if any(test is None for test in found) else found

    @cached_property
    def _test(self) -> Logits | None:
        if not (self.folder / "test_logits.npz").is_file():
            return None
        test, solution = self._predicted, Path(self.about["data"]) / "solution.csv"
        if len(test.labelled.ids):
            return test.labelled
        if not solution.is_file():
            return None
        try:
            what = f"the test logits and {shown(solution)}"
            return replace(test, targets=aligned(read_one_hot(solution), test.ids, test.classes.tolist(), what))
        except UserError as error:
            print(f"WARNING: {shown(solution)} was not used: {error}", file=sys.stderr)
            return None

    @property
    def predicted(self) -> list[Logits]:
        """The test logits of every network, labelled or not."""
        return [one._predicted for one in self.networks]

    @cached_property
    def _predicted(self) -> Logits:
        path, epoch = self._there("test_logits.npz"), self.about.get("best_epoch")
        predicted = self.about.get("predicted", [epoch])[0]
        if predicted != epoch:
            raise UserError(f"{shown(path)} are of epoch {predicted}, and the best is now {epoch}: run predict on it")
        return read_logits(path)

    @property
    def validation(self) -> Evidence:
        """What its validation figures are made of."""
        return Evidence(self.vals, None, self.calibration, self.config.rule, self._chose)

    @property
    def evidence(self) -> Evidence:
        """What all its figures are made of."""
        return Evidence(self.vals, self.tests, self.calibration, self.config.rule, self._chose)

    @property
    def _chose(self) -> bool:
        return not self.about.get("baseline") and self.config.monitor != "last"

    def _there(self, name: str) -> Path:
        if not (self.folder / name).is_file():
            raise UserError(
                f"{shown(self.folder)} has no {name} yet: run the main job on it, "
                f"./run.sh CONFIG name={self.folder.resolve().name} with the run's settings"
            )
        require_whole(self.folder, self.about, name)
        return self.folder / name


def open_run(folder: Path) -> Opened:
    """Raises UserError for a folder that is no run's."""
    return Opened(Path(folder), read_run(folder))
