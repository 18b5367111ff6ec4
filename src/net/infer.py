"""Logits over views: what every script that looks at images uses."""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from net import together
from net.machine import Machine

MARGIN = 0.05  # of the width and height, that `zoom` cuts off on each side


def zoomed(images: torch.Tensor) -> torch.Tensor:
    """The middle of uint8 images [B, 1, S, S], enlarged to their size again."""
    cut = round(MARGIN * images.shape[-1])
    middle = images[..., cut : images.shape[-2] - cut, cut : images.shape[-1] - cut].float()
    return F.interpolate(middle, images.shape[-2:], mode="bilinear", antialias=False).round().to(images.dtype)


# A view is a change of the batch [B, 1, S, S] under which the answer should stay the same.
VIEWS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "original": lambda images: images,
    "flip": lambda images: images.flip(-1),
    "zoom": zoomed,
    "flip_zoom": lambda images: zoomed(images.flip(-1)),
}


@torch.no_grad()
def logits(model: nn.Module, batches: DataLoader, views: list[str], machine: Machine, what: str) -> np.ndarray:
    """Logits of every image in every view, float32 [V, N, C]. `what` names the pass in the progress bar. Where several
    ranks share the batches, every one has all logits in the end."""
    model.eval()
    parts = []
    for images, *covariates, _ in tqdm(batches, desc=what, unit="batch", leave=False, disable=None):
        images, *told = (part.to(machine.device, non_blocking=True) for part in (images, *covariates))
        with machine.autocast():
            parts.append(torch.stack([model(VIEWS[view](images), *told) for view in views]).float().cpu())
    if getattr(getattr(batches, "batch_sampler", None), "of", "all") == "batches":
        parts = together.in_turn(parts)
    return torch.cat(parts, dim=1).numpy()
