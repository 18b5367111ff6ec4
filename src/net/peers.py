"""What people train with today, for `bench`: every image file is decoded anew each epoch, as three channels.

Three ways, with the same network, loss, batch and loader workers: what public kernels of the competition do (PIL,
torchvision, float32), Albumentations on RGB arrays, and timm's own loader; the last two in mixed precision.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import albumentations as A
import cv2
import numpy as np
import timm
import timm.data
import torch
from albumentations.pytorch import ToTensorV2
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from core.config import Config
from net.losses import Loss
from net.machine import Machine
from net.throughput import Pass, Watched, measured


def as_pil(path: Path) -> Image.Image:
    return Image.open(path).convert("RGB")


def as_array(path: Path) -> np.ndarray:
    return cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)


class Files(Dataset):
    """Image files and their targets, float32 [N, C] or a list of N numbers; `transform` makes a tensor of what `read`
    returns."""

    def __init__(
        self, paths: list[Path], targets: np.ndarray | list, read: Callable = as_pil, transform: Callable | None = None
    ):
        self.paths, self.targets, self.read, self.transform = paths, targets, read, transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple:
        return self.transform(self.read(self.paths[index])), self.targets[index]


@dataclass(frozen=True)
class Recipe:
    """What their loaders are told: image size, batch, statistics of the network, worker processes, device."""

    config: Config
    mean: tuple
    std: tuple
    workers: int
    device: torch.device

    def batched(self, images: Dataset, shuffle: bool) -> DataLoader:
        return DataLoader(
            images, self.config.batch, shuffle=shuffle, num_workers=self.workers, drop_last=shuffle,
            pin_memory=self.device.type == "cuda", persistent_workers=self.workers > 0,
        )  # fmt: skip


def of_public_kernels(recipe: Recipe, paths: list[Path], targets: np.ndarray) -> DataLoader:
    config = recipe.config
    change = transforms.Compose([
        transforms.Resize((config.size, config.size)),
        transforms.RandomHorizontalFlip(config.flip),
        transforms.RandomAffine(config.rotate, (config.shift,) * 2, (1 - config.scale, 1 + config.scale)),
        transforms.ColorJitter(config.brightness, config.contrast),
        transforms.ToTensor(),
        transforms.Normalize(recipe.mean, recipe.std),
    ])  # fmt: skip
    return recipe.batched(Files(paths, targets, as_pil, change), shuffle=True)


def of_albumentations(recipe: Recipe, paths: list[Path], targets: np.ndarray) -> DataLoader:
    config = recipe.config
    compose = A.Compose([
        A.Resize(config.size, config.size),
        A.HorizontalFlip(p=config.flip),
        A.Affine(
            translate_percent=(-config.shift, config.shift), scale=(1 - config.scale, 1 + config.scale),
            rotate=(-config.rotate, config.rotate), p=config.geometry,
        ),
        A.RandomBrightnessContrast(config.brightness, config.contrast, p=config.tone),
        A.Normalize(recipe.mean, recipe.std),
        ToTensorV2(),
    ])  # fmt: skip
    return recipe.batched(Files(paths, targets, as_array, partial(_changed, compose)), shuffle=True)


def _changed(compose: A.Compose, image: np.ndarray) -> torch.Tensor:
    return compose(image=image)["image"]


def of_timm(recipe: Recipe, paths: list[Path], targets: np.ndarray) -> DataLoader:
    config, on_gpu = recipe.config, recipe.device.type == "cuda"
    numbers = targets.argmax(1).tolist()  # its loader takes one an image, and the loop makes targets of them again
    return timm.data.create_loader(
        Files(paths, numbers), (3, config.size, config.size), config.batch, is_training=True, use_prefetcher=True,
        scale=(1 - config.scale, 1.0), ratio=(1.0, 1.0), hflip=config.flip, color_jitter=config.brightness,
        interpolation="bilinear", mean=recipe.mean, std=recipe.std, num_workers=recipe.workers, device=recipe.device,
        pin_memory=on_gpu, persistent_workers=recipe.workers > 0,
    )  # fmt: skip


# name → (its loader, whether in mixed precision)
PEERS: dict[str, tuple[Callable, bool]] = {
    "timm's loader, AMP": (of_timm, True),
    "Albumentations on RGB, AMP": (of_albumentations, True),
    "as public kernels do, float32": (of_public_kernels, False),
}


@contextmanager
def undetermined() -> Iterator[None]:
    """Let torch choose kernels as it does by itself, which this kit does not."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(False)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=True)


class Trainer:
    """A timm network with its own classifier, in a plain loop."""

    def __init__(self, config: Config, classes: int, machine: Machine, amp: bool):
        self.machine = machine if amp else replace(machine, dtype=torch.float32)
        self.net = timm.create_model(config.model, num_classes=classes, drop_rate=config.dropout).to(machine.device)
        self.optimizer = torch.optim.AdamW(self.net.parameters(), config.lr, weight_decay=config.weight_decay)
        self.scaler = self.machine.scaler()

    def epoch(self, loader: DataLoader, loss: Loss) -> Pass:
        def work(watched: Watched) -> None:
            self.net.train()
            for images, targets in watched:
                images = images.to(self.machine.device, non_blocking=True)
                targets = targets.to(self.machine.device, non_blocking=True)
                if targets.ndim == 1:
                    targets = nn.functional.one_hot(targets, self.net.num_classes).float()
                self.optimizer.zero_grad(set_to_none=True)
                with self.machine.autocast():
                    logits = self.net(images)
                self.scaler.scale(loss(logits, targets)).backward()
                self.scaler.step(self.optimizer)
                self.scaler.update()

        with undetermined():
            return measured(work, loader, self.machine)

    def prediction(self, loader: DataLoader) -> Pass:
        """Two views in float32, each a pass of its own over the files, as public kernels do; an image counts once."""

        def work(watched: Watched) -> None:
            self.net.eval()
            for view in (0, 1):
                watched.images = 0
                for images, _ in watched:
                    images = images.to(self.machine.device, non_blocking=True)
                    with torch.no_grad():
                        self.net(images.flip(-1) if view else images).softmax(1).cpu()

        with undetermined():
            return measured(work, loader, self.machine)


def plain(recipe: Recipe, paths: list[Path], targets: np.ndarray) -> DataLoader:
    """Files in their order, unchanged but for their size."""
    size = recipe.config.size
    steps = [transforms.Resize((size, size)), transforms.ToTensor(), transforms.Normalize(recipe.mean, recipe.std)]
    return recipe.batched(Files(paths, targets, as_pil, transforms.Compose(steps)), shuffle=False)


def recipe(config: Config, net: nn.Module, machine: Machine) -> Recipe:
    """What public kernels say of workers: two, or as many as this kit takes where those are more."""
    mean, std = (tuple(np.broadcast_to(value.flatten().cpu().numpy(), 3).tolist()) for value in (net.mean, net.std))
    return Recipe(config, mean, std, max(2, min(machine.workers, os.cpu_count())), machine.device)
