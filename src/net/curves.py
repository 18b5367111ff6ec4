"""Curves to watch while a run trains: `log=tensorboard` or `log=wandb`. Both only show what log.csv holds, and neither
package is required."""

import importlib.util
import os
from collections.abc import Callable, Mapping

from core import ranks
from core.config import Config
from core.errors import UserError
from core.runs import Run

Row = Mapping[str, object]  # of log.csv


def check(config: Config) -> None:
    """Raises UserError where the package that `log` names is not installed."""
    if config.log != "none" and importlib.util.find_spec(config.log) is None:
        raise UserError(
            f"log = {config.log}: the package {config.log} is not installed, and the kit does not need it: install it"
            f" with .venv/bin/pip install {config.log}, or leave log=none; log.csv is written in any case"
        )


def curves(config: Config, run: Run, epochs: int) -> Callable[[Row], None]:
    """What is called with the row of every epoch after the `epochs` that are done; nothing is shown of what is done
    already."""
    if ranks.rank():
        return lambda row: None
    if config.log == "tensorboard":
        return _tensorboard(run, epochs)
    if config.log == "wandb":
        return _wandb(config, run)
    return lambda row: None


def _tensorboard(run: Run, epochs: int) -> Callable[[Row], None]:
    """Into RUN/tensorboard; an epoch that was cut and is done again takes the place of what it had shown."""
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(run / "tensorboard", purge_step=epochs + 1)

    def show(row: Row) -> None:
        for name, value in _numbers(row).items():
            writer.add_scalar(name, value, row["epoch"])
        writer.flush()

    return show


def _wandb(config: Config, run: Run) -> Callable[[Row], None]:
    """Into RUN/wandb, and to the service where its user is logged in; otherwise `wandb sync` can send it later."""
    import wandb

    mode = os.environ.get("WANDB_MODE") or ("online" if wandb.api.api_key else "offline")
    fold = f"-fold{config.fold}" if config.folds else ""
    shown = wandb.init(
        project=config.slug,
        name=config.name + fold,
        config=config.model_dump(),
        dir=run.folder,
        mode=mode,
        reinit="finish_previous",  # that of another fold
    )
    return lambda row: shown.log(_numbers(row), step=row["epoch"])


def _numbers(row: Row) -> dict[str, float]:
    return {name: value for name, value in row.items() if name != "epoch" and isinstance(value, (int, float))}
