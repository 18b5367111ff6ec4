"""The training loop."""

import math
import time

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm

import infer
from config import Config
from errors import UserError
from files import write_rows
from losses import Loss
from machine import Machine
from mix import mix
from model import Net
from runs import Run, elapsed, random_state, restore_random_state
from task import Task

SPARE = 120.0  # seconds kept for loading weights, deciding and writing when `hours` is set


def fit(
    net: Net, batches: DataLoader, validation: DataLoader, loss: Loss, counts: np.ndarray, task: Task, config: Config, machine: Machine, run: Run, images_after: int
) -> bool:
    """Train until the last epoch or until the monitored figure rests; leaves best.pt, last.pt and log.csv in the run.

    With `hours` set, it also stops before an epoch that would leave too little time to predict `images_after` images in
    every view. Returns whether training came to its own end, and not to that of the time.

    The body is frozen for the first `frozen_epochs`. That warm-up neither lowers the learning rate nor counts towards
    early stopping, but its best epoch may be the one that is kept. Goes on from last.pt when the run has one.
    """
    optimizer = torch.optim.AdamW(net.groups(config), lr=config.lr, weight_decay=config.weight_decay)
    # the default threshold is relative, and takes a slightly worse negative score for a better one
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, task.mode, factor=config.lr_factor, patience=config.lr_patience, threshold=0, threshold_mode="abs"
    )
    scaler = machine.scaler()
    parts = {"model": net, "optimizer": optimizer, "plateau": plateau, "scaler": scaler}
    sign = 1 if task.mode == "max" else -1
    best, resting, history = -math.inf, 0, []
    if (run / "last.pt").is_file():
        last = run.load_checkpoint("last.pt", machine.device, [*parts, "best", "resting", "history", "random"])
        for name, part in parts.items():
            part.load_state_dict(last[name])
        best, resting, history = last["best"], last["resting"], last["history"]
        restore_random_state(last["random"])
        print(f"resumed after epoch {len(history)}")

    for epoch in range(len(history), config.epochs):
        if resting >= config.patience:
            print(f"stopped early: {config.patience} epochs without a better validation {task.monitor}")
            break
        frozen = epoch < config.frozen_epochs
        if config.hours and history:
            needed, afterwards = _seconds_of(history, frozen), max(row["validation_seconds"] for row in history) * images_after * len(config.views) / len(validation.dataset)
            if elapsed() + 1.1 * (needed + afterwards) + SPARE > config.hours * 3600:
                print(f"stopped for time after epoch {epoch}: hours={config.hours:g} leave no room for another of {clock(needed)} and {clock(afterwards)} to predict; the same command goes on")
                return False
        net.unfreeze(0.0 if frozen else net.share(config))
        batches.sampler.epoch = epoch
        start = time.monotonic()
        train_loss, speed = train_epoch(net, batches, loss, optimizer, scaler, config, machine, epoch)
        trained = time.monotonic()
        seen = infer.logits(net, validation, config.views[:1], machine, "validation")[0]
        validated = time.monotonic() - trained
        targets = validation.dataset.targets
        val_loss = loss(torch.from_numpy(seen).to(machine.device), torch.from_numpy(targets).to(machine.device)).item()
        if not (math.isfinite(train_loss) and np.isfinite(seen).all()):
            raise UserError(f"the loss is no longer a number in epoch {epoch + 1}: lower lr, or set precision=fp32")
        figures = task.metrics(targets, seen, counts)

        better = sign * figures[task.monitor] > best
        rate = optimizer.param_groups[-1]["lr"]
        if better:
            best = sign * figures[task.monitor]
        if not frozen:
            plateau.step(figures[task.monitor])
            resting = 0 if better else resting + 1
        row = {"epoch": epoch + 1, "stage": "frozen" if frozen else "full", "train_loss": train_loss, "val_loss": val_loss, **figures,
               "lr": rate, "images_per_second": round(speed, 1), "validation_seconds": round(validated, 2), "seconds": round(time.monotonic() - start, 1)}
        history.append(row)
        if better:  # before last.pt: killed in between, the epoch is done again and writes the same best.pt
            run.save_checkpoint("best.pt", {"model": net.state_dict(), "epoch": epoch + 1, task.monitor: figures[task.monitor]})
        run.save_checkpoint("last.pt", {**{name: part.state_dict() for name, part in parts.items()},
                                        "best": best, "resting": resting, "history": history, "random": random_state()})
        write_rows(run / "log.csv", history)
        left = np.mean([past["seconds"] for past in history[-3:]]) * (config.epochs - epoch - 1)
        print(
            f"epoch {epoch + 1}/{config.epochs} {row['stage']:6} train loss {train_loss:.4f}  val loss {val_loss:.4f}  "
            f"{'  '.join(f'{name} {value:.3f}' for name, value in figures.items())}  lr {rate:.1e}  {speed:.0f} img/s  at most {clock(left)} left{'  * best' if better else ''}",
            flush=True,
        )
    return True


def _seconds_of(history: list[dict], frozen: bool) -> float:
    """How long an epoch takes, from the slowest one of its stage; four times a frozen one where no full one was seen."""
    same = [row["seconds"] for row in history if (row["stage"] == "frozen") == frozen]
    return max(same) if same else 4 * max(row["seconds"] for row in history)


def train_epoch(
    net: nn.Module, batches: DataLoader, loss: Loss, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler, config: Config, machine: Machine, epoch: int
) -> tuple[float, float]:
    """One pass over the batches, mixed if the configuration says so. Returns the mean loss and the images per second."""
    net.train()
    total, seen, start = torch.zeros((), device=machine.device), 0, time.monotonic()
    trained = [parameter for parameter in net.parameters() if parameter.requires_grad]
    with tqdm(total=min(len(batches) * batches.batch_size, len(batches.sampler)), desc=f"epoch {epoch + 1}/{config.epochs}", unit="img", leave=False, disable=None) as bar:
        for step, (images, targets) in enumerate(batches):
            images, targets = images.to(machine.device, non_blocking=True), targets.to(machine.device, non_blocking=True)
            images, targets = mix(images, targets, config.mix, config.mix_alpha, config.mix_probability, (config.seed, epoch, step))
            try:
                with machine.autocast():
                    logits = net(images)
                value = loss(logits, targets)
                optimizer.zero_grad(set_to_none=True)
                scaler.scale(value).backward()
                scaler.unscale_(optimizer)
                torch.nn.utils.clip_grad_norm_(trained, config.clip_norm)
                scaler.step(optimizer)
                scaler.update()
            except torch.OutOfMemoryError as error:
                raise UserError(f"the GPU's memory does not hold batch = {config.batch} at size = {config.size}: lower batch") from error
            total += value.detach() * len(images)
            seen += len(images)
            bar.update(len(images))
            if not bar.disable and step % 10 == 0:  # reading the loss waits for the device
                bar.set_postfix(loss=f"{total.item() / seen:.4f}")
    mean = total.item() / seen  # waits for the device, so the clock below is honest
    return mean, seen / (time.monotonic() - start)


def clock(seconds: float) -> str:
    """Seconds as `2 h 05 min`, `3 min 20 s` or `45 s`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
