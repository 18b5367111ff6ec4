"""The training loop."""

import math
import time
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from core.config import Config
from core.errors import UserError
from core.files import write_rows
from core.runs import Run, clock, elapsed
from core.task import Task
from net import checkpoint, infer
from net.losses import Loss
from net.machine import Machine
from net.mix import mix
from net.model import Net

SPARE = 120.0  # seconds kept for loading weights, deciding and writing when `hours` is set


class Batches(NamedTuple):
    """What is learned from, what an epoch is judged on, and how many images will be predicted after the last one."""

    learn: DataLoader
    validation: DataLoader
    counts: np.ndarray  # int [C], of the training part
    afterwards: int


class Learner:
    """Everything that changes from epoch to epoch: the network and its optimizer, and the record of the epochs so
    far."""

    def __init__(self, net: Net, config: Config, machine: Machine):
        self.net, self.config, self.machine = net, config, machine
        self.optimizer = torch.optim.AdamW(net.groups(config), lr=config.lr, weight_decay=config.weight_decay)
        # the default threshold is relative, and takes a slightly worse negative score for a better one
        self.plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(
            self.optimizer, "max", config.lr_factor, config.lr_patience, threshold=0, threshold_mode="abs"
        )
        self.scaler = machine.scaler()
        self.best, self.resting, self.history = -math.inf, 0, []

    @property
    def _parts(self) -> dict:
        return {"model": self.net, "optimizer": self.optimizer, "plateau": self.plateau, "scaler": self.scaler}

    @property
    def lr(self) -> float:
        return self.optimizer.param_groups[-1]["lr"]

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
            self.plateau.step(value)
            self.resting = 0 if better else self.resting + 1
        return better


def fit(learner: Learner, batches: Batches, loss: Loss, task: Task, run: Run) -> bool:
    """Train until the last epoch or until the monitored figure rests; leaves best.pt, last.pt and log.csv in the run.

    The body is frozen for the first `frozen_epochs`; their best may be the one that is kept. With `hours` set, stops
    before an epoch that would leave too little time. Goes on from last.pt when the run has one. Returns whether
    training came to its own end, and not to that of the time.
    """
    config, net = learner.config, learner.net
    learner.resume(run)
    for epoch in range(len(learner.history), config.epochs):
        if learner.resting >= config.patience:
            print(f"stopped early: {config.patience} epochs without a better validation {task.monitor}")
            break
        frozen = epoch < config.frozen_epochs
        if out_of_time(learner, batches, frozen):
            return False

        start, rate = time.monotonic(), learner.lr
        net.unfreeze(0.0 if frozen else net.share(config))
        batches.learn.sampler.epoch = epoch
        train_loss, speed = train_epoch(learner, batches.learn, loss, epoch)
        val_loss, figures, seconds = validate(learner, batches, loss, task)
        if not (math.isfinite(train_loss) and math.isfinite(val_loss)):
            raise UserError(f"the loss is no longer a number in epoch {epoch + 1}: lower lr, or set precision=fp32")

        better = learner.judge(figures[task.monitor], frozen)
        learner.history.append({
            "epoch": epoch + 1, "stage": "frozen" if frozen else "full", "train_loss": train_loss, "val_loss": val_loss,
            **figures, "lr": rate, "images_per_second": round(speed, 1), "validation_seconds": round(seconds, 2),
            "seconds": round(time.monotonic() - start, 1),
        })  # fmt: skip
        if better:  # before last.pt: killed in between, the epoch is done again and writes the same best.pt
            best = {"model": net.state_dict(), "epoch": epoch + 1, task.monitor: figures[task.monitor]}
            checkpoint.save(run / "best.pt", best)
        learner.save(run)
        write_rows(run / "log.csv", learner.history)
        say(learner.history, list(figures), config.epochs, better)
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
        for step, (images, targets) in enumerate(loader):
            images, targets = images.to(device, non_blocking=True), targets.to(device, non_blocking=True)
            key = (config.seed, epoch, step)
            images, targets = mix(images, targets, config.mix, config.mix_alpha, config.mix_probability, key)
            total += train_step(learner, images, targets, loss, trained) * len(images)
            seen += len(images)
            bar.update(len(images))
            if not bar.disable and step % 10 == 0:  # reading the loss waits for the device
                bar.set_postfix(loss=f"{total.item() / seen:.4f}")
    mean = total.item() / seen  # waits for the device, so the clock below is honest
    return mean, seen / (time.monotonic() - start)


def train_step(
    learner: Learner, images: torch.Tensor, targets: torch.Tensor, loss: Loss, trained: list[nn.Parameter]
) -> torch.Tensor:
    """Forward, backward, clip, step; returns the loss, on the device."""
    config, scaler = learner.config, learner.scaler
    try:
        with learner.machine.autocast():
            logits = learner.net(images)
        value = loss(logits, targets)
        learner.optimizer.zero_grad(set_to_none=True)
        scaler.scale(value).backward()
        scaler.unscale_(learner.optimizer)
        torch.nn.utils.clip_grad_norm_(trained, config.clip_norm)
        scaler.step(learner.optimizer)
        scaler.update()
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"the GPU's memory does not hold batch = {config.batch} at size = {config.size}: lower batch"
        ) from error
    return value.detach()


def validate(learner: Learner, batches: Batches, loss: Loss, task: Task) -> tuple[float, dict[str, float], float]:
    """Validation loss, the task's figures, and the seconds of the pass; the loss is NaN where a logit is no number."""
    start, device, targets = time.monotonic(), learner.machine.device, batches.validation.dataset.targets
    logits = infer.logits(learner.net, batches.validation, learner.config.views[:1], learner.machine, "validation")[0]
    seconds = time.monotonic() - start
    if not np.isfinite(logits).all():
        return math.nan, {task.monitor: math.nan}, seconds
    value = loss(torch.from_numpy(logits).to(device), torch.from_numpy(targets).to(device)).item()
    return value, task.metrics(targets, logits, batches.counts), seconds


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
