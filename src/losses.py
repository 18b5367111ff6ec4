"""Losses by name: logits [B, C] and float targets [B, C] to a mean, in float32."""

import torch
import torch.nn.functional as F


def cross_entropy(logits: torch.Tensor, targets: torch.Tensor, smoothing: float) -> torch.Tensor:
    """Softmax cross-entropy with label smoothing: targets become (1 − ε)·y + ε/C (Szegedy et al. 2016, section 7)."""
    return F.cross_entropy(logits.float(), targets, label_smoothing=smoothing)


LOSSES = {"cross_entropy": cross_entropy}
