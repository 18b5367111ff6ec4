"""Small pictures of radiographs for a page: side by side, in a grid, in colours of a difference, before and after a
crop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from images.lungs import Box

GAP = 8  # pixels between pictures
REACH = 40  # grey levels of a difference that are shown in full colour
RED, BLUE, WHITE = np.array([178, 24, 43.0]), np.array([33, 102, 172.0]), np.array([247, 247, 247.0])


def png(image: np.ndarray) -> bytes:
    """An image, grey [H, W] or RGB or RGBA [H, W, 3 or 4] of 0 to 255, as a PNG file."""
    pixels = np.clip(np.rint(image), 0, 255).astype(np.uint8)
    if pixels.ndim == 3:
        pixels = cv2.cvtColor(pixels, cv2.COLOR_RGBA2BGRA if pixels.shape[2] == 4 else cv2.COLOR_RGB2BGR)
    return cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, 9])[1].tobytes()


def coloured(grey: np.ndarray) -> np.ndarray:
    """A grey image [H, W] as RGB [H, W, 3]."""
    return np.repeat(np.asarray(grey, float)[..., None], 3, axis=2)


def difference(values: np.ndarray) -> np.ndarray:
    """Differences of grey levels [H, W] as RGB: red brighter, blue darker, white the same."""
    share = np.clip(values / REACH, -1, 1)[..., None]
    return WHITE + np.where(share > 0, share * (RED - WHITE), -share * (BLUE - WHITE))


def side_by_side(images: Sequence[np.ndarray]) -> np.ndarray:
    """RGB images of one height beside each other, a transparent gap between them: RGBA."""
    padded = []
    for image in images:
        solid = np.concatenate([image, np.full((*image.shape[:2], 1), 255.0)], axis=2)
        padded += [np.zeros((image.shape[0], GAP, 4)), solid]
    return np.concatenate(padded[1:], axis=1)


def grid(images: Sequence[np.ndarray], columns: int) -> np.ndarray:
    """Grey images of one size in rows of so many, a dark line between them: [H, W]."""
    height, width = images[0].shape
    rows, columns = -(-len(images) // columns), min(columns, len(images))
    sheet = np.zeros((rows * (height + 2) - 2, columns * (width + 2) - 2))
    for place, image in enumerate(images):
        top, left = (place // columns) * (height + 2), (place % columns) * (width + 2)
        sheet[top : top + height, left : left + width] = image
    return sheet


def masked(grey: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """A grey image of which only `kept`, bool [H, W], is left, the rest transparent: RGBA."""
    return np.concatenate([coloured(grey), np.where(kept, 255.0, 0.0)[..., None]], axis=2)


def before_and_after(image: np.ndarray, box: Box, side: int = 192) -> np.ndarray:
    """An image [H, W] with the outline of a box, and what the box cuts from it, both as squares: RGBA."""
    whole = cv2.cvtColor(cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA), cv2.COLOR_GRAY2RGB)
    ends = [min(round(value * side), side - 1) for value in box]
    cv2.rectangle(whole, (ends[0], ends[1]), (ends[2], ends[3]), (230, 159, 0), 2)
    cut = cv2.resize(np.ascontiguousarray(box.cut(image)), (side, side), interpolation=cv2.INTER_AREA)
    return side_by_side([whole.astype(float), coloured(cut)])
