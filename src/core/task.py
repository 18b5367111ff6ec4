"""The interface: what the loop, the data path and the scripts know of a task. Nothing asks which one it is.

A `Problem` is a kind of problem, from logits to answers and figures; tasks/single_label.py and tasks/multi_label.py are
two. A `Task` is a problem on a data set; tasks/competition.py, tasks/padchest.py and tasks/nih14.py are three.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar, NamedTuple

import numpy as np

from core.config import Config
from core.data_set import Layout, Source, Table, Tables
from core.examples import Example
from core.logits_file import Logits
from core.page import Picture, Section

Rows = Mapping[str, Mapping[str, str]]  # id → its row of folds.csv


class Evidence(NamedTuple):
    """What a run's figures are made of: its validation logits, its test logits where their labels are known, its
    calibration, its rule. A file a network: one, or the folds of a cross-validation, whose validation rows are
    different images and whose test rows are the same. `chose`: whether the validation rows chose the epoch, too."""

    vals: Sequence[Logits]
    tests: Sequence[Logits] | None
    calibration: dict
    rule: str
    chose: bool = True


class Beside(NamedTuple):
    """What a verdict on a run rests on besides its report: its name, whether its data are synthetic, whether a
    leaderboard takes its answers, whether it is trained to its end, the paired difference to its probe (or None), and
    published figures, each with who has it."""

    name: str
    synthetic: bool
    leaderboard: bool
    finished: bool
    gain: dict | None
    published: Sequence[tuple[str, float]]

    @property
    def bar(self) -> list[str]:
        """The command that makes the probe, where there is none."""
        command = f"./run.sh probe runs/{self.name}   # the bar for its network, shown here when it is made"
        return [command] if self.gain is None else []


class Verdict(NamedTuple):
    """One sentence; what the run stands beside, as rows of a table; and the commands that follow from it."""

    sentence: str
    rows: Sequence[Mapping]
    commands: Sequence[str]


class Standing(NamedTuple):
    """Where a run stands among others: its score and its macro AUC, each with its 95 % interval, and its negative
    log-likelihood; None where the kind of problem has none."""

    score: float | None
    interval: Sequence[float] | None
    auc: float | None
    auc_interval: Sequence[float] | None
    nll: float | None


class Problem(ABC):
    """A kind of problem. Targets are float [N, C], NaN for unknown, in all of them."""

    exclusive: ClassVar[bool]  # whether every image has exactly one of the classes
    monitor: ClassVar[str]  # the figure of `metrics` that chooses the epoch unless another is asked for
    monitors: ClassVar[tuple[str, ...]]  # the figures that can choose it; the larger the better, all of them
    rules: ClassVar[tuple[str, ...]]  # names of the ways from logits to answers
    headings: ClassVar[dict[str, str]]  # the figures of `headline`, and how they are headed in a table
    plots: ClassVar[tuple[str, ...]]  # names in answers.plots.PLOTS: the pictures of its runs

    # ---- learning
    @abstractmethod
    def weights(self, targets: np.ndarray, corrections: Mapping[str, float]) -> np.ndarray | None:
        """How often to draw every training image under these corrections of imbalance, float [N]; None: once each."""

    @abstractmethod
    def prior(self, targets: np.ndarray, corrections: Mapping[str, float]) -> np.ndarray:
        """The class prior (prevalences) that the activated logits assume after training so, float [C]."""

    @abstractmethod
    def metrics(self, val: Logits, monitor: str) -> dict[str, float]:
        """The figures of an epoch, from the validation logits of the unchanged images; that of `monitor`, one of
        `monitors`, is among them."""

    def earnings(self, targets: np.ndarray) -> np.ndarray:
        """What each answer to each image adds to the score, float [N, C]: one answer an image sums to `monitor`. Only
        where the classes exclude each other."""
        raise NotImplementedError(f"{type(self).__name__} gives no single answers")

    # ---- deciding
    @abstractmethod
    def calibrate(self, vals: Sequence[Logits], temperature: float | None = None) -> dict:
        """Validation logits, one file a network, to what calibration.json holds; a given temperature is kept."""

    @abstractmethod
    def decide(
        self, tests: Sequence[Logits], calibration: dict, rule: str, counts: np.ndarray | None = None
    ) -> np.ndarray:
        """Test logits, one file a network, to answers [N, C]; `counts` replaces the natural class counts."""

    @abstractmethod
    def plain(self, content: Logits) -> np.ndarray:
        """The probabilities of a file's rows with nothing but the training prior undone: float [N, C]."""

    @abstractmethod
    def posterior(self, tests: Sequence[Logits], calibration: dict) -> np.ndarray:
        """The calibrated probabilities of test rows, averaged over the networks (a file each): float [N, C]."""

    @abstractmethod
    def held_out(self, vals: Sequence[Logits], calibration: dict, patients: np.ndarray | None) -> np.ndarray:
        """Those of validation rows, all files' one after the other, by calibrations that did not see the row (or its
        patient, str [N]): float [N, C]."""

    @abstractmethod
    def fault(self, cells: Sequence[str]) -> str:
        """What is wrong with the cells of a submission's row, or nothing."""

    # ---- reporting
    @abstractmethod
    def report(self, found: Evidence, rows: Rows) -> dict:
        """All figures: `validation`, `per_class`, and `test` where its labels are known."""

    @abstractmethod
    def lines(self, report: dict, calibration: dict) -> list[str]:
        """What to print of a report."""

    @abstractmethod
    def warning(self, report: dict) -> list[str]:
        """What nobody must miss in a report, as lines; or nothing."""

    @abstractmethod
    def verdict(self, report: dict, beside: Beside) -> Verdict:
        """What the run is worth."""

    @abstractmethod
    def standing(self, report: dict) -> Standing:
        """Where the run stands among others. Raises KeyError or TypeError for a damaged report."""

    @abstractmethod
    def sections(self, material, pictures: Mapping[str, Sequence[Picture]]) -> list[Section]:
        """What a page shows of a run after its training, by what it left behind (an answers.plots.Material) and by the
        pictures of `plots`."""

    @abstractmethod
    def striking(
        self, found: Evidence, rows: Rows, answers: np.ndarray | None, number: int
    ) -> tuple[Logits, dict[str, list[Example]]]:
        """Images worth a look, by heading, at most `number` under each, and the logits file whose rows they are.
        `answers`: of the validation rows, where they are at hand."""

    @abstractmethod
    def headline(self, report: dict) -> dict[str, float | None]:
        """The few figures of a report that runs are compared by: those of `headings`."""

    @abstractmethod
    def compare(self, reports: Sequence[dict]) -> list[str]:
        """What to print of the reports of several runs."""

    @abstractmethod
    def paired(self, ours: Sequence[Evidence], theirs: Sequence[Evidence], rows: Rows) -> dict:
        """The difference of `monitor` between runs and as many others on the same images, with its interval."""

    @abstractmethod
    def tuned(self, vals: Sequence[Logits], calibration: dict) -> list[str]:
        """What to print of a calibration that was just fitted on these files."""

    @abstractmethod
    def score(self, found: Evidence, rows: Rows) -> dict:
        """The validation part alone: `score`, `per_class` and what stands beside them."""

    @abstractmethod
    def score_lines(self, report: dict) -> list[str]:
        """What to print of it; the last line is `score` and the number."""

    @abstractmethod
    def examples(self, found: Evidence, labels: Sequence[int], number: int) -> tuple[Logits, list[Example]]:
        """Images worth explaining: the logits file whose rows they are, and at most `number` of them, of the columns
        `labels`.

        Raises UserError where there is none.
        """


class Task(Problem):
    """A problem on a data set, by a configuration."""

    Settings: ClassVar[type[Config]]  # the class of its configurations; the name of the task is its key `task`
    layout: ClassVar[Layout]
    parts: ClassVar[tuple[str, ...]]  # of the labelled rows
    views: ClassVar[tuple[str, ...]]  # names in net.infer.VIEWS that training and test-time augmentation may use
    # what others reached, in `monitor`: whose it is, and the figure
    published: ClassVar[tuple[tuple[str, float], ...]] = ()
    pretrained_on_test: ClassVar[re.Pattern]  # the names of networks that have seen images of its test part
    # labels that pictures of a few show where all of them can be drawn, and those that are explained first
    pictured: ClassVar[tuple[str, ...]] = ()
    explained: ClassVar[tuple[str, ...]] = ()
    packages: ClassVar[tuple[str, ...]] = ()  # what it needs beside Kaggle's own packages
    metadata: ClassVar[tuple[str, ...]] = ()  # what its tables may say of a patient, of the key `metadata`
    counts_published: ClassVar[str] = ""  # a file in configs/published/ with counts of its labelled table

    def __init__(self, config: Config):
        self.config = config

    @property
    def name(self) -> str:
        return self.config.task

    @property
    def monitored(self) -> str:
        """The figure of `metrics` that the run's epochs are judged by."""
        return self.monitor if self.config.monitor in ("auto", "last") else self.config.monitor

    @abstractmethod
    def read(self, source: Source) -> Tables:
        """The label side of a data set. Raises UserError for files that are not as they should be."""

    def whole(self, source: Source) -> Table:
        """All that its labelled table names, whatever the configuration chooses of it: every label, every view."""
        return self.read(source).labelled

    @abstractmethod
    def split(self, table: Table) -> np.ndarray:
        """One of `parts` for every labelled row, str [N]."""
