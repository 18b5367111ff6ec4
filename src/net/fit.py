"""The training loop."""

import math
import time
from collections.abc import Callable
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch
from timm.utils import ModelEmaV3
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from core.config import Config
from core.errors import UserError
from core.files import write_rows
from core.logits_file import Logits
from core.runs import Run, clock, elapsed
from core.task import Task
from net import checkpoint, curves, infer, schedule
from net.losses import Loss
from net.machine import Machine
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


class Learner:
    """Everything that changes from epoch to epoch: the network and its optimizer, and the record of the epochs so
    far. An epoch has so many `steps` of the optimizer."""

    def __init__(self, net: Net, config: Config, machine: Machine, steps: int):
        self.net, self.config, self.machine, self.steps = net, config, machine, steps
        self.optimizer = torch.optim.AdamW(net.groups(config), lr=config.lr, weight_decay=config.weight_decay)
        # the default threshold is relative, and takes a slightly worse negative score for a better one
        self.plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(
            self.optimizer, "max", config.lr_factor, config.lr_patience, threshold=0, threshold_mode="abs"
        )
        self.scaler = machine.scaler()
        self.ema = ModelEmaV3(net, config.ema, use_warmup=True) if config.ema else None
        self.average = ModelEmaV3(net) if config.average_epochs else None
        self.best, self.resting, self.history = -math.inf, 0, []

    @property
    def _parts(self) -> dict:
        means = {"ema": self.ema, "average": self.average}
        return {
            "model": self.net, "optimizer": self.optimizer, "plateau": self.plateau, "scaler": self.scaler,
            **{name: mean.module for name, mean in means.items() if mean},
        }  # fmt: skip

    def lr(self, step: int) -> float:
        """The head's rate at the step of that number, counted over all epochs from 0."""
        return self.optimizer.param_groups[-1]["lr"] * schedule.factor(self.config, step, self.steps)

    def step(self, number: int) -> None:
        """The optimizer's step of that number. The groups' own rates, which the plateau lowers and last.pt holds, stay
        as they are."""
        groups, factor = self.optimizer.param_groups, schedule.factor(self.config, number, self.steps)
        rates = [group["lr"] for group in groups]
        for group in groups:
            group["lr"] *= factor
        self.scaler.step(self.optimizer)
        self.scaler.update()
        for group, rate in zip(groups, rates, strict=True):
            group["lr"] = rate
        if self.ema:
            self.ema.update(self.net, step=number + 1)

    def kept(self, epoch: int) -> Net:
        """The network as it is judged and kept after that epoch, counted from 0: with the moving average of the
        weights, where there is one; within the last `average_epochs` with the mean of those at the ends of the epochs
        since they began, m_k = m_(k−1) + (w_k − m_(k−1)) / k (Izmailov et al. 2018, algorithm 1)."""
        net = self.ema.module if self.ema else self.net
        averaged = epoch + 1 - (self.config.epochs - self.config.average_epochs)
        if averaged < 1:
            return net
        self.average.apply_update_(net, decay=1 - 1 / averaged)
        return self.average.module

    def save(self, run: Run) -> None:
        state = {name: part.state_dict() for name, part in self._parts.items()}
        record = {"best": self.best, "resting": self.resting, "history": self.history}
        checkpoint.save(run / "last.pt", {**state, **record, "random": checkpoint.random_state()})

    def resume(self, run: Run) -> None:
        """Go on from the run's last.pt, when it has one."""
        if not (run / "last.pt").is_file():
            return
        further = ["best", "resting", "history", "random"]
        last = checkpoint.load_into(self._parts, run / "last.pt", self.machine.device, further)
        self.best, self.resting, self.history = last["best"], last["resting"], last["history"]
        checkpoint.restore_random_state(last["random"])
        write_rows(run / "log.csv", self.history)  # killed before it was written, the last epoch's row was not there
        print(f"resumed after epoch {len(self.history)}")

    def judge(self, value: float, frozen: bool) -> bool:
        """Take in an epoch's monitored figure; returns whether it is the best so far.

        The frozen warm-up neither lowers the learning rate nor counts towards early stopping.
        """
        better = value > self.best
        self.best = max(self.best, value)
        if not frozen:
            if self.config.schedule == "plateau":
                self.plateau.step(value)
            self.resting = 0 if better else self.resting + 1
        return better


def fit(learner: Learner, batches: Batches, loss: Loss, task: Task, run: Run) -> bool:
    """Train until the last epoch or until the monitored figure rests; leaves best.pt, last.pt and log.csv in the run.

    The body is frozen for the first `frozen_epochs`; their best may be the one that is kept. With `monitor` last every
    epoch takes the place of the one before, and none stops training. With `hours` set, stops before an epoch that would
    leave too little time. Goes on from last.pt when the run has one. Returns whether training came to its own end, and
    not to that of the time.
    """
    config, net, last = learner.config, learner.net, learner.config.monitor == "last"
    learner.resume(run)
    show = curves.curves(config, run, len(learner.history))
    for epoch in range(len(learner.history), config.epochs):
        if learner.resting >= config.patience and not last:
            print(f"stopped early: {config.patience} epochs without a better validation {task.monitored}")
            break
        frozen = epoch < config.frozen_epochs
        if out_of_time(learner, batches, frozen):
            return False

        start, rate = time.monotonic(), learner.lr(epoch * learner.steps)
        net.unfreeze(0.0 if frozen else net.share(config))
        batches.learn.sampler.epoch = epoch
        train_loss, speed = train_epoch(learner, batches.learn, loss, epoch)
        kept = learner.kept(epoch)
        val_loss, figures, seconds = validate(kept, learner, batches, loss, task)
        if not (math.isfinite(train_loss) and math.isfinite(val_loss)):
            raise UserError(f"the loss is no longer a number in epoch {epoch + 1}: lower lr, or set precision=fp32")

        better = learner.judge(figures[task.monitored], frozen)
        learner.history.append({
            "epoch": epoch + 1, "stage": "frozen" if frozen else "full", "train_loss": train_loss, "val_loss": val_loss,
            **figures, "lr": rate, "images_per_second": round(speed, 1), "validation_seconds": round(seconds, 2),
            "seconds": round(time.monotonic() - start, 1),
        })  # fmt: skip
        if better or last:  # before last.pt: killed in between, the epoch is done again and writes the same best.pt
            best = {"model": kept.state_dict(), "epoch": epoch + 1, task.monitored: figures[task.monitored]}
            checkpoint.save(run / "best.pt", best)
        learner.save(run)
        write_rows(run / "log.csv", learner.history)
        show(learner.history[-1])
        say(learner.history, list(figures), config.epochs, better and not last)
    return True


def train_epoch(learner: Learner, loader: DataLoader, loss: Loss, epoch: int) -> tuple[float, float]:
    """One pass over the batches. Returns the mean loss and the images per second."""
    net, device, config = learner.net, learner.machine.device, learner.config
    net.train()
    trained = [parameter for parameter in net.parameters() if parameter.requires_grad]
    total, seen, start = torch.zeros((), device=device), 0, time.monotonic()
    images_ahead = min(len(loader) * loader.batch_size, len(loader.sampler))
    title = f"epoch {epoch + 1}/{config.epochs}"
    with tqdm(total=images_ahead, desc=title, unit="img", leave=False, disable=None) as bar:
        batches = enumerate(loader)
        for step in range(learner.steps):
            group = []
            for place, (images, targets) in islice(batches, config.accumulate):
                images, targets = images.to(device, non_blocking=True), targets.to(device, non_blocking=True)
                key = (config.seed, epoch, place)
                group.append(mix(images, targets, config.mix, config.mix_alpha, config.mix_probability, key))
            shown = sum(len(images) for images, _ in group)
            total += train_step(learner, group, loss, trained, epoch * learner.steps + step) * shown
            seen += shown
            bar.update(shown)
            if not bar.disable and step % 10 == 0:  # reading the loss waits for the device
                bar.set_postfix(loss=f"{total.item() / seen:.4f}")
    mean = total.item() / seen  # waits for the device, so the clock below is honest
    return mean, seen / (time.monotonic() - start)


def train_step(
    learner: Learner,
    group: list[tuple[torch.Tensor, torch.Tensor]],
    loss: Loss,
    trained: list[nn.Parameter],
    number: int,
) -> torch.Tensor:
    """Forward and backward of every batch of the group, then clip and step once; returns the mean loss of the group's
    images, on the device. `number` counts the steps of all epochs."""
    config, scaler, mean = learner.config, learner.scaler, 0.0
    everyone = sum(len(images) for images, _ in group)
    try:
        learner.optimizer.zero_grad(set_to_none=True)
        for images, targets in group:
            with learner.machine.autocast():
                logits = learner.net(images)
            value = loss(logits, targets) * (len(images) / everyone)
            scaler.scale(value).backward()
            mean += value.detach()
        scaler.unscale_(learner.optimizer)
        torch.nn.utils.clip_grad_norm_(trained, config.clip_norm)
        learner.step(number)
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"the GPU's memory does not hold batch = {config.batch} at size = {config.size}: lower batch"
            " (accumulate makes several of them one step)"
        ) from error
    return mean


def validate(
    net: Net, learner: Learner, batches: Batches, loss: Loss, task: Task
) -> tuple[float, dict[str, float], float]:
    """Validation loss, the task's figures, and the seconds of the pass; the loss is NaN where a logit is no number."""
    start, device, targets = time.monotonic(), learner.machine.device, batches.validation.dataset.targets
    logits = infer.logits(net, batches.validation, learner.config.views[:1], learner.machine, "validation")
    seconds = time.monotonic() - start
    if not np.isfinite(logits).all():
        return math.nan, {task.monitored: math.nan}, seconds
    value = loss(torch.from_numpy(logits[0]).to(device), torch.from_numpy(targets).to(device)).item()
    return value, task.metrics(batches.content(logits), task.monitored), seconds


def out_of_time(learner: Learner, batches: Batches, frozen: bool) -> bool:
    """Whether `hours` leave no room for another epoch and the prediction; says so."""
    config, history = learner.config, learner.history
    if not (config.hours and history):
        return False
    # the slowest epoch of its stage; four times a frozen one where no full one was seen
    same = [row["seconds"] for row in history if (row["stage"] == "frozen") == frozen]
    epoch = max(same) if same else 4 * max(row["seconds"] for row in history)
    a_pass = max(row["validation_seconds"] for row in history) / len(batches.validation.dataset)
    prediction = a_pass * batches.afterwards * len(config.views)
    if elapsed() + 1.1 * (epoch + prediction) + SPARE <= config.hours * 3600:
        return False
    print(
        f"stopped for time after epoch {len(history)}: hours={config.hours:g} leave no room for another of"
        f" {clock(epoch)} and {clock(prediction)} to predict; the same command goes on"
    )
    return True


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
