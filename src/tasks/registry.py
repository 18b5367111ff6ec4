"""All tasks by name, and the way from a configuration, a run or logits to one of them."""

from collections.abc import Sequence

import numpy as np

from answers.metrics import Costs
from core import config as settings
from core import folds
from core.config import Config
from core.data_set import Source
from core.errors import UserError
from core.logits_file import Logits
from core.runs import Run
from core.task import Problem, Task
from tasks.competition import Competition
from tasks.multi_label import MultiLabel
from tasks.nih14 import Nih14
from tasks.padchest import Padchest
from tasks.single_label import SingleLabel

TASKS: dict[str, type[Task]] = {"competition": Competition, "padchest": Padchest, "nih14": Nih14}


def load(name: str, overrides: Sequence[str] = (), synthetic: bool = False, demo: bool = False) -> Config:
    """The configuration of that name or path, checked: see `core.config.layered` for what the arguments mean."""
    return _checked(*settings.layered(name, overrides, synthetic, demo))


def with_data(name: str, overrides: Sequence[str], data: str | None, demo: bool) -> tuple[Config, Source]:
    """The same, and its data set: see `images.prepare.find`. What is found decides the name and whether the demo's
    settings apply."""
    from images import prepare  # here, for it loads OpenCV

    first = load(name, overrides)  # which data set
    source, quick = prepare.find(data, first.slug, TASKS[first.task].layout, demo)
    return load(name, overrides, source.synthetic, quick), source


def config_of(about: dict) -> Config:
    """The configuration that a run.json holds. Raises UserError when this version does not know one of its keys."""
    return _checked(about["config"], {"name": "run.json", **dict.fromkeys(about["config"], "run.json")})


def _checked(values: dict, origin: dict[str, str]) -> Config:
    name = str(values.get("task"))
    if "task" not in values:
        raise UserError(f"{origin['name']}: the key task is missing")
    if name not in TASKS:
        where = origin.get("task", origin["name"])
        raise UserError(f"{where}: task = {name!r} will not do; there are {', '.join(TASKS)}")
    return settings.checked(TASKS[name].Settings, values, origin)


def task_of(config: Config) -> Task:
    return TASKS[config.task](config)


def networks(task: Task, run: Run) -> list[tuple[Task, Run]]:
    """The networks that a configuration trains, each with its run folder: itself in its own, or, of a cross-validation,
    every fold or the one that `fold` names, each in a folder of its own within it."""
    config = task.config
    if not config.folds:
        return [(task, run)]
    return [
        (task_of(config.model_copy(update={"fold": fold})), Run(folds.folder(run.folder, fold)))
        for fold in config.asked_folds
    ]


def problem_of(contents: Sequence[Logits], costs: Sequence[float] | None = None) -> Problem:
    """The kind of problem that anyone's logits files are of: one class an image where `prior` is a distribution over
    the classes, as a softmax assumes; otherwise any number of labels. `costs` are those of the former."""
    kinds = {bool(np.isclose(content.prior.sum(), 1, rtol=0, atol=1e-5)) for content in contents}
    if len(kinds) > 1:
        raise UserError(
            "some of the logits files have one class an image and some any number of labels: give those of one kind"
        )
    single = kinds == {True}
    if costs and not single:
        raise UserError(
            "these logits have any number of labels an image, and are not scored by costs: leave --costs out"
        )
    return SingleLabel(Costs(*costs or ())) if single else MultiLabel()
