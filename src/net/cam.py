"""Grad-CAM: where on an image the logit of a class comes from, and the pictures of it.

R. R. Selvaraju et al., *Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization*, ICCV 2017,
equations 1 and 2: L_c = ReLU(Σ_k α_k A_k) with α_k = the mean over positions of ∂y_c / ∂A_k, y_c the logit and A the
last feature map before pooling.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import cv2
import numpy as np
import torch
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import nn

from core.errors import UserError

BATCH = 16  # images at a time


FLAT = 1e-6  # a map that varies by less than this share of its largest value is constant


# and what a caption says of them
KINDS = {
    "grad-cam": "",
    "against": "nothing speaks for it; shown is what speaks against it",
    "none": "no map: it is constant",
}


# ---- maps
class Stage(NamedTuple):
    """A module, and what makes the feature map [N, K, h, w] of its output."""

    module: nn.Module
    as_map: Callable[[torch.Tensor], torch.Tensor]


def last_stage(net: nn.Module, image: torch.Tensor) -> Stage:
    """The module of `net.body` whose output is the last feature map before pooling.

    Found by a pass of one image [1, 1, S, S]: of all outputs with `net.body.num_features` channels and several
    positions, the last. Where those are tokens, the map is of the patches' tokens as they enter the last block, through
    its first norm: behind it a class token has taken from them all that it will. Raises UserError where there is no
    such block, and for a map that was shrunk to one position without pooling.
    """
    features, seen = net.body.num_features, []

    def note(module: nn.Module, given: tuple, found: torch.Tensor) -> None:
        if not isinstance(found, torch.Tensor) or found.dim() not in (3, 4):
            return
        shape = tuple(found.shape)
        channels_last = shape[1] != features and shape[-1] == features
        if np.prod(shape[1:-1] if channels_last else shape[2:]) > 1:
            seen.append((module, shape, channels_last))

    _passed(net, image, net.body.modules(), note)
    if seen and len(seen[-1][1]) == 3:
        return _tokens(net, image)
    if not seen or features not in seen[-1][1]:
        raise UserError(
            f"the last feature map of this network has a single position on images of {image.shape[-1]} pixels, so it"
            " cannot say where: train with a larger size"
        )
    module, _, channels_last = seen[-1]
    return Stage(module, (lambda found: found.permute(0, 3, 1, 2)) if channels_last else (lambda found: found))


def _passed(net: nn.Module, image: torch.Tensor, modules: Iterable[nn.Module], note: Callable) -> None:
    """Pass an image through the network, noting what these modules say."""
    handles = [module.register_forward_hook(note) for module in modules]
    try:
        with torch.no_grad():
            net.eval()(image)
    finally:
        for handle in handles:
            handle.remove()


def _tokens(net: nn.Module, image: torch.Tensor) -> Stage:
    """The last block's first norm, whose output are tokens [N, L, K]: those of the patches, row by row, stand last."""
    blocks, seen = getattr(net.body, "blocks", None), []
    norm = getattr(blocks[-1], "norm1", None) if isinstance(blocks, nn.Sequential | nn.ModuleList) else None
    if norm is not None:
        _passed(net, image, [norm], lambda module, given, found: seen.append(tuple(found.shape)))
    patches = seen[0][1] - getattr(net.body, "num_prefix_tokens", 0) if seen and len(seen[0]) == 3 else 0
    side = math.isqrt(patches)
    if side < 2 or side**2 != patches:
        raise UserError(
            "this network keeps its last features as tokens that are no square of patches before a last block, which"
            " Grad-CAM needs: explain a run of a convolutional network, or of a plain vision transformer"
        )
    return Stage(norm, lambda found: found[:, -patches:].transpose(1, 2).unflatten(2, (side, side)))


def weighted(
    net: nn.Module, images: torch.Tensor, classes: Sequence[int], told: torch.Tensor | None = None
) -> np.ndarray:
    """Σ_k α_k A_k of every image for the logit of its class, before the ReLU: float32 [N, h, w] at the feature map's
    size.

    images uint8 [N, 1, S, S] and what the head is told beside them, [N, M], on the network's device. Leaves `net` in
    eval mode with all parameters asking for gradients, or the gradient would not reach the map of a frozen body. Raises
    UserError like `last_stage`.
    """
    stage, unknown = last_stage(net, images[:1]), net.unknown
    net.requires_grad_(True)
    cam = GradCAM(net, [stage.module], stage.as_map)
    maps = []
    for number, (part, of) in enumerate(zip(images.split(BATCH), torch.as_tensor(classes).split(BATCH), strict=True)):
        if told is not None:  # GradCAM hands over the images alone
            net.unknown = told[number * BATCH :][:BATCH]
        targets = [ClassifierOutputTarget(int(c)) for c in of]
        cam(part, targets)  # its own maps are shifted to begin at 0, which equation 2 does not do
        kept = cam.activations_and_grads
        activations, gradients = kept.activations[-1].numpy(), kept.gradients[-1].numpy()
        maps.append(cam.get_cam_image(part, stage.module, targets, activations, gradients))
    net.zero_grad()
    net.unknown = unknown
    cam.activations_and_grads.release()
    return np.float32(np.concatenate(maps))


def spread(signed: np.ndarray, size: int) -> tuple[np.ndarray, str]:
    """A map [h, w] of `weighted` as it is shown, bilinearly enlarged: float32 [size, size] from 0 to 1; and its kind.

    `grad-cam`: equation 2, divided by its largest value. `against`: where the ReLU would leave nothing, since no
    position speaks for the class, the map of what speaks against it, ReLU(−Σ_k α_k A_k) (the paper's counterfactual
    explanation, section 3.3), divided by its largest value. `none`: the map is constant before any ReLU, so it says
    nothing; zeros.
    """
    if not np.ptp(signed) > FLAT * np.abs(signed).max():
        return np.zeros((size, size), np.float32), "none"
    kind = "grad-cam" if signed.max() > 0 else "against"
    positive = np.maximum(signed if kind == "grad-cam" else -signed, 0)
    wide = cv2.resize(np.float32(positive / positive.max()), (size, size), interpolation=cv2.INTER_LINEAR)
    return wide / wide.max(), kind


def fitted(mask: np.ndarray, size: int) -> np.ndarray:
    """A mask, bool [h, w], at the size of the map, bool [size, size], by nearest neighbours."""
    return cv2.resize(mask.astype(np.uint8), (size, size), interpolation=cv2.INTER_NEAREST) > 0


def energy_share(shown: np.ndarray, mask: np.ndarray) -> float:
    """The share of a map [S, S] that lies inside a mask, bool [S, S]: the sum of its values there over their sum
    everywhere (H. Wang et al., *Score-CAM*, 2020, section 4.3); NaN for a map of zeros."""
    total = shown.sum(dtype=float)
    return float(shown[mask].sum(dtype=float) / total) if total > 0 else float("nan")
