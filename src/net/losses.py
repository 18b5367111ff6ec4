"""Losses by name: logits [B, C] and float targets [B, C] to a mean, in float32.

Those of the multi-label problem stand on log σ(z) and log σ(−z), which neither overflow nor vanish, and leave unknown
(NaN) targets out of the mean.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from core import priors
from core.config import Config
from core.errors import UserError, some

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
Elementwise = Callable[[torch.Tensor], torch.Tensor]


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


def weighted_bce(weights: torch.Tensor, smoothing: float = 0.0) -> Loss:
    """Binary cross-entropy of every label times its weight, float [C] (the PadChest thesis, equations 22 and 23).

    Positives and negatives of a label count alike, so its optimum is the true posterior, which `pos_weight` would
    shift.
    """
    return _binary(lambda z: -F.logsigmoid(z), lambda z: -F.logsigmoid(-z), smoothing, weights)


def focal(alpha: float = 0.20, gamma: float = 2.5, smoothing: float = 0.0) -> Loss:
    """α_t·(1 − p_t)^γ·(−log p_t), with α_t = α for positives and 1 − α for negatives (thesis, equation 25; Lin et al.
    2017, equation 5)."""
    return _binary(lambda z: alpha * _focused(z, gamma), lambda z: (1 - alpha) * _focused(-z, gamma), smoothing)


def class_balanced_focal(weights: torch.Tensor, gamma: float = 2.5, smoothing: float = 0.0) -> Loss:
    """w_i·(1 − p_t)^γ·(−log p_t), with the weights float [C] of `effective_weights` (thesis, equation 26; Cui et al.
    2019)."""
    return _binary(lambda z: _focused(z, gamma), lambda z: _focused(-z, gamma), smoothing, weights)


def asymmetric(
    gamma_positive: float = 1.0, gamma_negative: float = 4.0, clip: float = 0.05, smoothing: float = 0.0
) -> Loss:
    """Asymmetric loss (Ridnik et al. 2021, section 2): negatives focus harder, and cost nothing below the margin.

    L₊ = (1 − p)^γ₊·(−log p) and L₋ = p_m^γ₋·(−log(1 − p_m)), with p_m = max(p − clip, 0). No probability is clamped, so
    a positive pulls on its logit however badly it is missed.
    """
    log_clip = math.log(clip) if clip else -math.inf

    def negative(z: torch.Tensor) -> torch.Tensor:
        log_rest = torch.logaddexp(F.logsigmoid(-z), torch.full_like(z, log_clip)).clamp(max=0)  # log(1 − p_m)
        return -((z.sigmoid() - clip).relu() ** gamma_negative) * log_rest

    return _binary(lambda z: _focused(z, gamma_positive), negative, smoothing)


def _focused(z: torch.Tensor, gamma: float) -> torch.Tensor:
    """(1 − p)^γ·(−log p) with p = σ(z); in logarithms, for the gradient of a power is lost where 1 − p is 0."""
    return -(gamma * F.logsigmoid(-z)).exp() * F.logsigmoid(z)


def _binary(
    positive: Elementwise, negative: Elementwise, smoothing: float, weights: torch.Tensor | None = None
) -> Loss:
    """The mean of w·(y·L₊(z) + (1 − y)·L₋(z)) over the known elements, 0 if there are none; y becomes (1 − ε)·y +
    ε/2."""

    def loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        z, known = logits.float(), ~targets.isnan()
        y = (1 - smoothing) * targets.float().nan_to_num() + smoothing / 2
        each = y * positive(z) + (1 - y) * negative(z)
        if weights is not None:
            each = each * weights
        return each.where(known, 0).sum() / known.sum().clamp(min=1)

    return loss


def prevalence_weights(counts: np.ndarray, rows: int) -> np.ndarray:
    """w_i ∝ 1/π_i of mean 1 (the PadChest thesis, equation 24), float [C], from the positives int [C] of that many
    images.

    A label without positives gets weight 0, and the mean is that of the others.
    """
    return _mean_one(priors.class_weights(np.asarray(counts) / rows, 1))


def effective_weights(counts: np.ndarray, beta: float = 0.9999, scale: str = "mean_one") -> np.ndarray:
    """w_i ∝ (1 − β)/(1 − β^n_i), the inverse effective number of positives: float [C] (Cui et al. 2019, section 4).

    β = 0 weighs all labels alike, β → 1 by 1/n_i. `scale`: `mean_one` as above; `equation`, those very numbers (the
    PadChest thesis, equation 26), which are small where labels are common.
    """
    counts = np.asarray(counts)
    found = np.divide(1 - beta, 1 - beta ** counts.astype(float), out=np.zeros(len(counts)), where=counts > 0)
    return _mean_one(found) if scale == "mean_one" else _any(found)


def _mean_one(weights: np.ndarray) -> np.ndarray:
    return weights / _any(weights)[weights > 0].mean()


def _any(weights: np.ndarray) -> np.ndarray:
    if not weights.any():
        raise UserError("no label has a positive among the training images: use more images, or check the label file")
    return weights


def _corrected_cross_entropy(config: Config, counts: np.ndarray, rows: int, device: torch.device) -> Loss:
    """With the corrections of class imbalance that belong into it. The weights average 1 over the training images."""
    weights = offset = None
    if "loss_weights" in config.imbalance:
        found = priors.class_weights(counts, config.imbalance["loss_weights"])
        weights = _tensor(found * counts.sum() / (found @ counts), device)
    if "logit_adjustment" in config.imbalance:
        offset = _tensor(priors.log_offset(counts, config.imbalance["logit_adjustment"]), device)
    return cross_entropy(config.label_smoothing, weights, offset)


def _tensor(values: np.ndarray, device: torch.device) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32, device=device)


@dataclass(frozen=True)
class Recipe:
    """How a loss is made, with the arguments of `build`; and the corrections of class imbalance that it applies."""

    make: Callable[[Config, np.ndarray, int, torch.device], Loss]
    corrections: frozenset[str] = frozenset()


def _weighted_bce(config: Config, counts: np.ndarray, rows: int, device: torch.device) -> Loss:
    return weighted_bce(_tensor(prevalence_weights(counts, rows), device), config.label_smoothing)


def _class_balanced(config: Config, counts: np.ndarray, rows: int, device: torch.device) -> Loss:
    weights = _tensor(effective_weights(counts, config.effective_beta, config.effective_scale), device)
    return class_balanced_focal(weights, config.focal_gamma, config.label_smoothing)


LOSSES = {
    "cross_entropy": Recipe(_corrected_cross_entropy, frozenset({"loss_weights", "logit_adjustment"})),
    "weighted_bce": Recipe(_weighted_bce),
    "focal": Recipe(lambda config, *_: focal(config.focal_alpha, config.focal_gamma, config.label_smoothing)),
    "class_balanced_focal": Recipe(_class_balanced),
    "asymmetric": Recipe(lambda config, *_: asymmetric(*config.asymmetric, config.label_smoothing)),
}


def check(config: Config) -> None:
    """Raises UserError for a correction of imbalance that nobody would apply: the prior would then be a wrong one."""
    left = config.imbalance.keys() - priors.DRAWN - LOSSES[config.loss].corrections
    if left:
        raise UserError(
            f"imbalance: the loss {config.loss} does not apply {some(sorted(left))}: use another loss, or a sampler"
        )


def build(config: Config, counts: np.ndarray, rows: int, device: torch.device) -> Loss:
    """The configured loss, its tensors on the device; counts int [C] are the positives of the `rows` training
    images."""
    return LOSSES[config.loss].make(config, counts, rows, device)
