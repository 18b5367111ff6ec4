"""Pretrained weights that are another run of this kit: `weights=runs/NAME`.

The body starts as that run's ended; the head starts anew. Where both are cross-validations of the same folds, each fold
starts from the other's fold of its number, which saw no image that this one is judged by.
"""

import re
from pathlib import Path

import numpy as np
import torch
from torch import nn

from core import folds
from core.config import Config
from core.data_set import Table
from core.errors import UserError, some
from core.files import shown
from core.runs import read_run, require_whole
from net import checkpoint


def is_run(weights: str) -> bool:
    return weights not in ("imagenet", "none") and Path(weights).is_dir()


def folder(config: Config) -> Path:
    """The run that the body comes from: the one that is named, or its fold of this configuration's number. Raises
    UserError for one that does not serve."""
    path = Path(config.weights)
    theirs = read_run(path)["config"]
    if theirs.get("folds") and theirs.get("fold", "all") == "all":
        if config.fold == "all" or theirs["folds"] != config.folds:
            raise UserError(
                f"weights = {config.weights} is a cross-validation of {theirs['folds']} folds: give as many folds here,"
                f" each of which starts from its own, or name one of them, as {config.weights}/fold1"
            )
        return folds.folder(path, config.fold)
    return path


def check(config: Config) -> None:
    """Raises UserError for a run that is not trained, has no network, or one of another kind than this."""
    crossed = config.crossed and read_run(Path(config.weights))["config"].get("folds")
    its = [config.model_copy(update={"fold": fold}) for fold in config.asked_folds] if crossed else [config]
    for path in map(folder, its):
        about = read_run(path)
        theirs = about["config"].get("model")
        if about.get("baseline") or about["state"] != "trained":
            what = f"a baseline ({about['baseline']})" if about.get("baseline") else "not trained to its end"
            raise UserError(f"weights = {shown(path)} is {what}: name a run that is trained")
        if theirs != config.model:
            raise UserError(f"weights = {shown(path)} is of model = {theirs}, and this one of {config.model}")


def load(body: nn.Module, config: Config) -> str:
    """Put that run's weights into the body; returns what was taken and what was not, in words. Raises UserError where
    a part of the body is not in that run."""
    path = folder(config)
    about = read_run(path)
    require_whole(path, about, "best.pt")
    found = checkpoint.load(path / "best.pt", torch.device("cpu"), ["model", "epoch"])
    theirs = {_bare(name): value for name, value in found["model"].items() if name.startswith("body.")}
    own = {name: _bare(name) for name in body.state_dict()}
    missing = [name for name in own.values() if name not in theirs]
    if missing:
        raise UserError(
            f"weights = {shown(path)} ends before {len(missing)} tensors of this network ({some(missing, 3)}): give"
            f" strides={about['config'].get('strides', [])} as there"
        )
    body.load_state_dict({name: theirs[bare] for name, bare in own.items()})
    left = len(theirs.keys() - set(own.values()))
    return (
        f"weights: {len(own)} tensors of the body from {shown(path)} ({about['config']['task']}, epoch"
        f" {found['epoch']}, {about['rows']} images); not taken: its head{f', {left} tensors above' if left else ''}"
    )


def _bare(name: str) -> str:
    """A tensor's name within timm's network, which stands one or two levels deep in ours."""
    return re.sub(r"^(body\.)+", "", name)


def require_apart(config: Config, table: Table, parts: np.ndarray) -> None:
    """Raises UserError where that run has learned from images, or patients, that this one is judged by: it would have
    seen the answers."""
    path, held = folder(config), table.take(parts != "training")
    learned = [row for row in folds.of_run(path, read_run(path)).values() if row["part"] == "training"]
    both = held.ids[folds.among(held, learned)]
    if len(both):
        raise UserError(
            f"weights = {shown(path)} has learned from {len(both)} of the {len(held.ids)} images that this run is"
            f" judged by, or their patients ({some(both, 3)}), so its figures would mean nothing: give both the same"
            " folds or split"
        )
