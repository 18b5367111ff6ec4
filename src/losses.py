"""Losses by name: logits [B, C] and float targets [B, C] to a mean, in float32."""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F

import imbalance

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def cross_entropy(smoothing: float, weights: torch.Tensor | None, offset: torch.Tensor | None) -> Loss:
    """Softmax cross-entropy with label smoothing: targets become (1 − ε)·y + ε/C (Szegedy et al. 2016, section 7).

    weights float [C]: an image's loss counts as much as its class. offset float [C]: added to the logits (Menon et al.
    2021, equation 10).
    """

    def loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        logits = logits.float() if offset is None else logits.float() + offset
        each = F.cross_entropy(logits, targets, label_smoothing=smoothing, reduction="none")
        return each.mean() if weights is None else (each * (targets @ weights)).mean()

    return loss


LOSSES = {"cross_entropy": cross_entropy}


def build(name: str, smoothing: float, corrections: dict[str, float], counts: np.ndarray, device: torch.device) -> Loss:
    """The loss with the corrections of class imbalance that belong into it. The weights average 1 over the training images."""
    weights = offset = None
    if "loss_weights" in corrections:
        found = imbalance.class_weights(counts, corrections["loss_weights"])
        weights = torch.tensor(found * counts.sum() / (found @ counts), dtype=torch.float32, device=device)
    if "logit_adjustment" in corrections:
        offset = torch.tensor(imbalance.log_offset(counts, corrections["logit_adjustment"]), dtype=torch.float32, device=device)
    return LOSSES[name](smoothing, weights, offset)
