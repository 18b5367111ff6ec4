"""How fast a network learns and predicts: this kit's own loop, and the limit, which is the same steps on resident data.

What others do with the same images stands in net/peers.py; a pass of theirs is measured by the same clock.
"""

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from timm.data.loader import PrefetchLoader
from torch.utils.data import DataLoader

from core.runs import Run
from net import fit, infer
from net.fit import Batches
from net.learner import Learner, UnderWay
from net.losses import Loss
from net.machine import Machine
from net.model import Net


@dataclass(frozen=True)
class Pass:
    """One pass over some images: seconds, of them those spent waiting for batches, bytes an image that went to the
    device, and the largest memory meanwhile: of the GPU, and of this process with its workers (0: not known)."""

    images: int
    seconds: float
    waited: float
    bytes: float
    gpu: int
    host: int

    @property
    def speed(self) -> float:
        """Images a second."""
        return self.images / self.seconds


class Watched:
    """A loader that notes how long is waited for it, and what it hands over."""

    def __init__(self, loader: DataLoader):
        self.loader, self.waited, self.images, self.bytes = loader, 0.0, 0, 0

    def __getattr__(self, name: str):
        return getattr(self.loader, name)

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator:
        batches, start = iter(self.loader), time.perf_counter()
        for batch in batches:
            self.waited += time.perf_counter() - start
            images = batch[0]
            self.images += len(images)
            # timm's loader sends bytes, and makes numbers of them on the device
            self.bytes += images.numel() * (1 if isinstance(self.loader, PrefetchLoader) else images.element_size())
            yield batch
            start = time.perf_counter()
        self.waited += time.perf_counter() - start


def measured(work: Callable[[Watched], None], loader: DataLoader, machine: Machine, resident: bool = False) -> Pass:
    """The pass that `work` makes over the loader; `resident`: what it hands over is on the device already."""
    on_gpu, watched = machine.device.type == "cuda", Watched(loader)
    if on_gpu:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    work(watched)
    if on_gpu:
        torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    gpu = torch.cuda.max_memory_allocated() if on_gpu else 0
    sent = 0.0 if resident else watched.bytes / watched.images
    return Pass(watched.images, seconds, watched.waited, sent, gpu, host_memory())


def host_memory() -> int:
    """Bytes of this process and its children, what they share counted once (Linux's PSS); 0 where that is not known."""
    mine, total = os.getpid(), 0
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if mine in (int(folder.name), parent):
                lines = (folder / "smaps_rollup").read_text().splitlines()
                total += sum(1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:"))
        except (OSError, ValueError):  # it ended meanwhile, or is another user's
            continue
    return total


# ---- the kit and the limit
def epoch(learner: Learner, batches: Batches, loss: Loss, run: Run, frozen: bool) -> Pass:
    """An epoch of the kit's own loop, without what follows it: validation and saving."""
    _stage(learner, frozen)

    def work(watched: Watched) -> None:
        fit.train_epoch(learner, batches._replace(learn=watched), loss, run)

    return measured(work, batches.learn, learner.machine)


def resident_epoch(learner: Learner, batches: list, loss: Loss, frozen: bool) -> Pass:
    """The same steps on batches that lie on the device."""
    _stage(learner, frozen)
    trained = [parameter for parameter in learner.net.parameters() if parameter.requires_grad]

    def work(watched: Watched) -> None:
        learner.net.train()
        for batch in watched:
            fit.train_step(learner, [(*batch, len(batch[0]))], loss, trained)
        learner.under_way.loss.item()

    return measured(work, batches, learner.machine, resident=True)


def _stage(learner: Learner, frozen: bool) -> None:
    learner.under_way = UnderWay.begin(learner.machine.device)
    learner.net.unfreeze(0.0 if frozen else learner.net.share(learner.config))


def prediction(net: Net, loader: DataLoader, views: list[str], machine: Machine, resident: bool = False) -> Pass:
    """The logits of all images in those views, by the kit's own predictor; an image counts once."""
    return measured(lambda watched: infer.logits(net, watched, views, machine, "predicting"), loader, machine, resident)


def loading(loader: DataLoader, machine: Machine) -> Pass:
    """Batches made, and put onto the device, with nothing done to them."""

    def work(watched: Watched) -> None:
        for images, *_ in watched:
            images.to(machine.device, non_blocking=True)

    return measured(work, loader, machine)


def on_device(loader: DataLoader, machine: Machine) -> list[tuple[torch.Tensor, ...]]:
    """All batches of a loader, on the device."""
    return [tuple(part.to(machine.device) for part in batch) for batch in loader]


def median(passes: list[Pass]) -> tuple[float, float, float]:
    """The median of the passes' images a second, the lowest and the highest."""
    speeds = [one.speed for one in passes]
    return float(np.median(speeds)), min(speeds), max(speeds)
