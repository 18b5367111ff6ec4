"""What of a configuration can only be checked where the task, the networks and the files are known.

The main job, every row of a study and every push go through `check` before anything starts; what values alone tell is
checked where each key is declared.
"""

import sys
from pathlib import Path

from core.config import Config
from core.errors import UserError, some
from core.files import shown
from core.runs import read_run
from core.task import Task
from images import augment, lungs
from net import curves, heads, losses, model, refit, transfer


def check(config: Config, task: Task, begun: bool = False) -> None:
    """Raises UserError for settings that cannot work together, or with this task, or with what is on this machine.

    A run that has `begun` goes on without the files it started from.
    """
    if config.frozen_epochs > config.epochs:
        raise UserError(f"frozen_epochs = {config.frozen_epochs} is more than epochs = {config.epochs}: set both")
    views = config.views
    if views[0] != task.views[0] or len(set(views)) < len(views) or not set(views) <= set(task.views):
        raise UserError(
            f"views = {views}: the first must be {task.views[0]}, and a {task.name} run may use {some(task.views)},"
            " once each"
        )
    if config.flip and "flip" not in task.views:
        raise UserError(
            f"flip = {config.flip}: left and right are findings in a {task.name} run, so images are never mirrored: "
            "leave flip at 0"
        )
    if config.rule not in task.rules:
        raise UserError(f"rule = {config.rule!r}: a {task.name} run decides by one of {some(task.rules)}")
    if config.split != "auto" and not begun and not Path(config.split).is_file():
        raise UserError(f"split = {shown(Path(config.split))}: there is no such file")
    if unknown := [name for name in config.metadata if name not in task.metadata]:
        known = f"{some(task.metadata)} only" if task.metadata else "nothing of a patient"
        raise UserError(f"metadata = {some(unknown)}: the tables of a {task.name} run tell {known}: leave it out")
    _check_recipe(config, task)
    curves.check(config)
    augment.check()
    lungs.check(config.crop, config.masks)
    losses.check(config)
    heads.check(config)
    refit.check(config, task)
    model.check(config if not begun else config.model_copy(update={"weights": "none"}))


def _check_recipe(config: Config, task: Task) -> None:
    for key in ("warmup", "average_epochs"):
        if getattr(config, key) > config.epochs:
            raise UserError(f"{key} = {getattr(config, key)} is more than epochs = {config.epochs}: set both")
    monitors = ["auto", *task.monitors, "last"]
    if config.monitor not in monitors:
        raise UserError(f"monitor = {config.monitor!r}: a {task.name} run chooses its epoch by one of {some(monitors)}")
    if config.average_epochs and config.monitor != "last":
        raise UserError(
            f"average_epochs = {config.average_epochs}: the mean of the last epochs is whole only after the very last"
            f" one, and monitor = {config.monitor} may choose another or stop before: set monitor=last"
        )
    if config.norms == "frozen" and config.weights == "none":
        raise UserError(
            "norms = frozen: a body with random weights has no statistics worth keeping: leave norms at learn, or give"
            " weights"
        )


def warn(config: Config, task: Task) -> None:
    """Say so when a network's name says that it has seen the images it will be tested on, and when it is told what is
    known to mislead."""
    if "view" in config.metadata or "follow_up" in config.metadata:
        print(
            "WARNING: metadata tells how, or how often, a patient is imaged: people in bed are imaged from the front"
            " (AP), so this is a sign of how ill they are, not of what is on the image, and a shortcut elsewhere."
            " Judge the run on another hospital's images, too (evaluate --data).",
            file=sys.stderr,
        )
    names = f"{config.model} {Path(config.weights).name}"
    if transfer.is_run(config.weights):
        names += f" {read_run(Path(config.weights))['config'].get('task')}"
    if config.weights != "none" and task.pretrained_on_test.search(names):
        print(
            f"WARNING: the name of {config.model} or {config.weights} says that it was pretrained on chest X-rays that"
            f" this {task.name} run is tested on: such a network has seen its test images with their labels, and its"
            " score would mean nothing.",
            file=sys.stderr,
        )
