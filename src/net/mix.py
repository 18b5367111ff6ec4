"""Mixing the images of a batch: MixUp and CutMix, reproducible from a key alone."""

import math

import numpy as np
import torch


def mix(
    images: torch.Tensor, targets: torch.Tensor, kind: str, alpha: float, probability: float, key: tuple[int, ...]
) -> tuple[torch.Tensor, torch.Tensor]:
    """With `probability`, the batch mixed with a permutation of itself; otherwise the very tensors that came in.

    images uint8 or float [B, 1, S, S], targets float [B, C] in [0, 1], NaN = unknown. Every image keeps one share λ ~
    Beta(alpha, alpha) of itself, and the targets are mixed in the same proportion; unknown on either side stays
    unknown. The random numbers depend on `key` (seed, epoch, step) and nothing else. MixUp returns float32 pixels,
    CutMix those of its kind.
    """
    rng = np.random.default_rng(np.random.SeedSequence(key))
    if kind == "none" or rng.random() >= probability:
        return images, targets
    share, order = rng.beta(alpha, alpha), torch.from_numpy(rng.permutation(len(images))).to(images.device)
    images, share = KINDS[kind](images, order, share, rng)
    return images, _blend(targets, targets[order], share)


def mixup(
    images: torch.Tensor, order: torch.Tensor, share: float, rng: np.random.Generator
) -> tuple[torch.Tensor, float]:
    """λ·x_i + (1 − λ)·x_j for every pixel (Zhang et al. 2018, section 2)."""
    return _blend(images.float(), images[order].float(), share), share


def cutmix(
    images: torch.Tensor, order: torch.Tensor, share: float, rng: np.random.Generator
) -> tuple[torch.Tensor, float]:
    """One box of x_j in the place it had, with sides √(1 − λ) of the image's (Yun et al. 2019, equations 1 and 2).

    Its centre is uniform, and what lies beyond the border is lost: returned with the images is the share they really
    kept.
    """
    sides = np.array(images.shape[-2:])
    centre, reach = rng.random(2) * sides, math.sqrt(1 - share) / 2 * sides
    (top, left), (bottom, right) = np.clip(np.rint([centre - reach, centre + reach]), 0, sides).astype(int).tolist()
    mixed = images.clone()
    mixed[..., top:bottom, left:right] = images[..., top:bottom, left:right][order]
    return mixed, 1 - (bottom - top) * (right - left) / sides.prod().item()


KINDS = {"mixup": mixup, "cutmix": cutmix}


def _blend(ours: torch.Tensor, theirs: torch.Tensor, share: float) -> torch.Tensor:
    if share in (0, 1):  # or a NaN that has no share would spread
        return ours if share else theirs
    return share * ours + (1 - share) * theirs
