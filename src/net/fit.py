"""The training loop."""

import math
import time
from collections.abc import Callable
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from core import ranks
from core.files import write_rows
from core.logits_file import Logits
from core.runs import Run, clock, elapsed
from core.stopping import unbroken
from core.task import Task
from net import checkpoint, curves, infer, together
from net.learner import Learner, not_a_number
from net.losses import Loss
from net.mix import mix
from net.model import Net

SPARE = 120.0  # seconds kept for loading weights, deciding and writing when `hours` is set


class Batches(NamedTuple):
    """What is learned from, what an epoch is judged on, and how many images will be predicted after the last one."""

    learn: DataLoader
    validation: DataLoader
    content: Callable[[np.ndarray], Logits]  # of val_logits.npz, from the validation images' logits [V, N, C]
    counts: np.ndarray  # int [C], of the training part
    afterwards: int


def fit(learner: Learner, batches: Batches, loss: Loss, task: Task, run: Run) -> bool:
    """Train until the last epoch or until the monitored figure rests; leaves best.pt, last.pt and log.csv in the run.

    The body is frozen for the first `frozen_epochs`; their best may be the one that is kept. With `monitor` last every
    epoch takes the place of the one before, and none stops training. With `hours` set, stops where too little time
    would be left for what follows. Ctrl-C and SIGTERM save first. Returns whether training came to its own end, and not
    to that of the time.
    """
    try:
        return _epochs(learner, batches, loss, task, run)
    except KeyboardInterrupt:
        if (learner.history or learner.under_way.steps) and not learner.stepping:  # as where another rank was lost
            learner.save(run)
            print(f"saved {learner.place}", flush=True)
        raise


def _epochs(learner: Learner, batches: Batches, loss: Loss, task: Task, run: Run) -> bool:
    config, net, last = learner.config, learner.net, learner.config.monitor == "last"
    if learner.history and not learner.under_way.steps and not (run / "best.pt").is_file():
        keep_best(learner, task, run, learner.history[-1])
    show = curves.curves(config, run, len(learner.history))
    while len(learner.history) < config.epochs:
        if learner.resting >= config.patience and not last:
            print(f"stopped early: {config.patience} epochs without a better validation {task.monitored}")
            break
        epoch, frozen = len(learner.history), len(learner.history) < config.frozen_epochs
        rate = learner.lr(epoch * learner.steps)
        net.unfreeze(0.0 if frozen else net.share(config))
        if seconds_left(learner, batches) <= 0 or not train_epoch(learner, batches, loss, run):
            return stopped_for_time(learner, run)
        start, trained = time.monotonic(), learner.under_way
        learner.take_in()
        together.spread(learner.shipped)  # whose statistics are those of the first rank's part of every batch
        train_loss = trained.loss.item() / trained.images
        val_loss, figures, seconds = validate(learner.shipped, learner, batches, loss, task)
        if not (math.isfinite(train_loss) and math.isfinite(val_loss)):
            learner.require_numbers()
            raise not_a_number(f"epoch {epoch + 1}, in validation")

        row = {
            "epoch": epoch + 1, "stage": "frozen" if frozen else "full", "train_loss": train_loss, "val_loss": val_loss,
            **figures, "lr": rate, "images_per_second": round(trained.images / trained.seconds, 1),
            "validation_seconds": round(seconds, 2), "seconds": round(trained.seconds + time.monotonic() - start, 1),
        }  # fmt: skip
        better = learner.end(row, figures[task.monitored], frozen)
        learner.save(run)
        if better or last:  # after last.pt, which holds these weights: killed in between, it is written from there
            keep_best(learner, task, run, row)
        write_rows(run / "log.csv", learner.history)
        show(learner.history[-1])
        say(learner.history, list(figures), config.epochs, better and not last)
    return True


def keep_best(learner: Learner, task: Task, run: Run, row: dict) -> None:
    """Write best.pt of the epoch of that row; of several ranks the first one does."""
    if ranks.rank():
        return
    best = {"model": learner.shipped.state_dict(), "epoch": row["epoch"], task.monitored: row[task.monitored]}
    checkpoint.save(run / "best.pt", best)


def train_epoch(learner: Learner, batches: Batches, loss: Loss, run: Run) -> bool:
    """Do the steps that the epoch has left, saving every `save_minutes`. Returns whether `hours` left the time."""
    net, device, config, done = learner.net, learner.machine.device, learner.config, learner.under_way
    epoch, loader = len(learner.history), batches.learn
    net.train()
    learner.connect()
    trained = [parameter for parameter in net.parameters() if parameter.requires_grad]
    first = done.steps * config.accumulate
    order, batch = loader.batch_sampler.sampler, loader.batch_sampler.batch_size
    order.epoch, order.start = epoch, first * batch
    start, left = time.monotonic() - done.seconds, seconds_left(learner, batches) + done.seconds
    size, images_ahead = min(batch, len(order)), min(len(loader) * batch, len(order))
    title = f"epoch {epoch + 1}/{config.epochs}"
    with tqdm(total=images_ahead, initial=done.images, desc=title, unit="img", leave=False, disable=None) as bar:
        queue = enumerate(loader, first) if done.steps < learner.steps else None
        while done.steps < learner.steps:
            group = []
            for place, parts in islice(queue, config.accumulate):
                images, *rest = (part.to(device, non_blocking=True) for part in parts)
                key = (config.seed, epoch, place, *together.of_several())
                joined = torch.cat(rest, dim=1)  # what is told beside an image is mixed like its targets
                mixed, joined = mix(images, joined, config.mix, config.mix_alpha, config.mix_probability, key)
                group.append((mixed, *joined.split([part.shape[1] for part in rest], dim=1), size))
            with unbroken():
                together.reseed(config.seed, epoch, done.steps)
                train_step(learner, group, loss, trained)
                done.seconds = time.monotonic() - start
            bar.update(len(group) * size)
            if not bar.disable and done.steps % 10 == 0:  # reading the loss waits for the device
                bar.set_postfix(loss=f"{done.loss.item() / done.images:.4f}")
            if done.steps == learner.steps:
                break
            if config.save_minutes and time.monotonic() >= learner.saved + 60 * config.save_minutes:
                learner.save(run)
            if math.isfinite(left) and together.first(lambda: done.seconds >= left):
                return False
    done.loss.item()  # waits for the device, so the clock below is honest
    done.seconds = time.monotonic() - start
    return True


def train_step(learner: Learner, group: list[tuple], loss: Loss, trained: list[nn.Parameter]) -> None:
    """Forward and backward of every batch of the group, then clip and step once, on the mean loss of the group's
    images; the epoch under way counts it. A batch, what the network is given and the targets, comes with the number of
    its images, of which each of several ranks has a part: what it makes of that is weighted so that the mean over the
    ranks is that of the whole batch."""
    config, scaler, done, value = learner.config, learner.scaler, learner.under_way, 0.0
    everyone, learner.stepping = sum(size for *_, size in group), True
    learner.optimizer.zero_grad(set_to_none=True)
    for number, (*inputs, targets, _) in enumerate(group, start=1):
        with together.reduced(learner.model, number == len(group)):
            with learner.machine.autocast():
                logits = learner.model(*inputs)
            mean = loss(logits, targets) * (len(targets) * ranks.count() / everyone)
            scaler.scale(mean).backward()
        value += mean.detach()
    value = together.mean(value)
    scaler.unscale_(learner.optimizer)
    if config.clip_norm:
        torch.nn.utils.clip_grad_norm_(trained, config.clip_norm)
    learner.step(len(learner.history) * learner.steps + done.steps)
    done.loss += value * everyone
    done.bad = torch.where(torch.isfinite(value), done.bad, done.bad.clamp(max=done.steps))
    done.steps, done.images = done.steps + 1, done.images + everyone
    learner.stepping = False


def validate(
    net: Net, learner: Learner, batches: Batches, loss: Loss, task: Task
) -> tuple[float, dict[str, float], float]:
    """Validation loss, the task's figures, and the seconds of the pass; the loss is NaN where a logit is no number."""
    start = time.monotonic()
    logits = infer.logits(net, batches.validation, learner.config.views[:1], learner.machine, "validation")
    seconds = time.monotonic() - start
    return *together.first(judged, logits, learner, batches, loss, task), seconds


def judged(
    logits: np.ndarray, learner: Learner, batches: Batches, loss: Loss, task: Task
) -> tuple[float, dict[str, float]]:
    """Validation loss and the task's figures by logits [V, N, C]."""
    device, targets = learner.machine.device, batches.validation.dataset.targets
    if not np.isfinite(logits).all():
        return math.nan, {task.monitored: math.nan}
    value = loss(torch.from_numpy(logits[0]).to(device), torch.from_numpy(targets).to(device)).item()
    return value, task.metrics(batches.content(logits), task.monitored)


def seconds_left(learner: Learner, batches: Batches) -> float:
    """What `hours` leave for training, in seconds, with time for one validation, the prediction and the rest; infinite
    without `hours`, and until there is an epoch to predict with."""
    config, history = learner.config, learner.history
    if not (config.hours and history):
        return math.inf
    validation = max(row["validation_seconds"] for row in history)
    prediction = validation / len(batches.validation.dataset) * batches.afterwards * len(config.views)
    return together.first(lambda: config.hours * 3600 - SPARE - 1.1 * (validation + prediction) - elapsed())


def stopped_for_time(learner: Learner, run: Run) -> bool:
    """Save and say so; returns False."""
    if learner.under_way.steps:
        learner.save(run)
    print(
        f"stopped for time {learner.place}: hours={learner.config.hours:g} leave no more than the prediction needs;"
        " the same command goes on"
    )
    return False


def say(history: list[dict], figures: list[str], epochs: int, better: bool) -> None:
    """One line of the last epoch."""
    row = history[-1]
    left = np.mean([past["seconds"] for past in history[-3:]]) * (epochs - row["epoch"])
    print(
        f"epoch {row['epoch']}/{epochs} {row['stage']:6} train loss {row['train_loss']:.4f}  val loss"
        f" {row['val_loss']:.4f}  {'  '.join(f'{name} {row[name]:.3f}' for name in figures)}  lr {row['lr']:.1e} "
        f" {row['images_per_second']:.0f} img/s  at most {clock(left)} left{'  * best' if better else ''}",
        flush=True,
    )
