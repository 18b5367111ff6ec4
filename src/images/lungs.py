"""The lung crop of the PadChest mode: from a lung mask to a square around both lungs.

A cropper is called with an image and its name before the image is packed; what it does not cut it hands back whole.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import tempfile
import urllib.error
import urllib.request
import warnings
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stdout
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np
from PIL import Image

from core.errors import UserError
from core.files import digest, shown
from images.pack import FORMATS

if TYPE_CHECKING:
    import torch

SIDE = 512  # pixels: the square frame that the mask is made in, whatever the image's shape
MARGIN = 0.03  # of the side of the square around the lungs, added at each of its edges
LEAST = 50_000  # pixels of the frame that the crop must exceed; a smaller one comes from a faulty mask
RULE = f"{SIDE} {MARGIN} {LEAST}"

FILE = "pspnet_chestxray_best_model_4.pth"
URL = f"https://github.com/mlmed/torchxrayvision/releases/download/v1/{FILE}"
WAIT = 5  # seconds for a sign of life before a download


class Box(NamedTuple):
    """A part of an image, as fractions of its width (left, right) and height (top, bottom) in [0, 1]."""

    left: float
    top: float
    right: float
    bottom: float

    def cut(self, image: np.ndarray) -> np.ndarray:
        """That part of `image` [H, W], outwards to whole pixels, as a view."""
        height, width = image.shape
        return image[
            math.floor(self.top * height) : math.ceil(self.bottom * height),
            math.floor(self.left * width) : math.ceil(self.right * width),
        ]


def lung_box(mask: np.ndarray) -> Box | None:
    """The square to crop to, from a lung mask, bool [H, W]; None: keep the whole image.

    As in the thesis (Methods, lung cropping): in the 512×512 frame, whatever the aspect ratio, the smallest square
    around all positive pixels, with a margin of 3 % of its side at every edge, used if its area exceeds 50,000 pixels.
    What the thesis leaves open: the square is centred on the bounding box, and moved back where it leaves the frame;
    one larger than the frame is the frame.
    """
    # nearest neighbour, by pixel centres
    rows, columns = ((2 * np.arange(SIDE) + 1) * size // (2 * SIDE) for size in mask.shape)
    frame = mask[np.ix_(rows, columns)]
    if not frame.any():
        return None
    ends = [(found[0], found[-1] + 1) for found in (np.flatnonzero(frame.any(axis=axis)) for axis in (0, 1))]
    side = min((1 + 2 * MARGIN) * max(end - start for start, end in ends), SIDE)
    if side**2 <= LEAST:
        return None
    left, top = (min(max((start + end - side) / 2, 0), SIDE - side) for start, end in ends)
    return Box(*(float(min(edge, SIDE)) / SIDE for edge in (left, top, left + side, top + side)))


class Cropper:
    """An image uint8 [H, W] and its file name to the cropped image uint8 [h, w]; may be called from several threads.

    `key` names everything that the result depends on. Of the images so far, `used` were cropped, `rejected` have a mask
    that is empty or gives too small a crop, `without` have none; the latter two stay whole.
    """

    key: str

    def __init__(self):
        self.used = self.rejected = self.without = 0
        self.counting = Lock()

    def ready(self) -> None:
        """Called once before the first image."""

    def mask(self, image: np.ndarray, name: str) -> np.ndarray | None:
        """The lung mask of an image, bool of any shape, or None if there is none."""
        raise NotImplementedError

    def __call__(self, image: np.ndarray, name: str) -> np.ndarray:
        mask = self.mask(image, name)
        box = None if mask is None else lung_box(mask)
        with self.counting:
            self.without += mask is None
            self.rejected += mask is not None and box is None
            self.used += box is not None
        return image if box is None else box.cut(image)


class Whole(Cropper):
    """crop=none: every image as it is."""

    key = "none"

    def mask(self, image: np.ndarray, name: str) -> None:
        return None


class Masks(Cropper):
    """crop=masks: masks that lie in a folder as `<stem of the image's name>.png`, of any size; every value above 0 is
    lung.

    Raises UserError for a folder that is missing or without masks (of any image in `names`, when they are given) and,
    when called, for a mask that cannot be read.
    """

    def __init__(self, folder: Path, names: Iterable[str] | None = None):
        super().__init__()
        if not folder.is_dir():
            raise UserError(
                f"masks = {shown(folder)}: there is no such folder; name the one that holds the lung masks, or set"
                " crop=none"
            )
        self.files = {path.stem: path for path in sorted(folder.glob("*.png"))}
        if not self.files:
            raise UserError(
                f"masks = {shown(folder)}: there are no .png files; a lung mask is called <stem of its image>.png"
            )
        if names is not None and not any(Path(name).stem in self.files for name in names):
            raise UserError(
                f"masks = {shown(folder)}: none of its {len(self.files)} .png files is called after an image; a lung"
                " mask is called <stem of its image>.png"
            )
        stamps = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in self.files.values()]
        self.key = f"masks {RULE} {digest(json.dumps([str(folder.resolve()), stamps]).encode())}"

    def mask(self, image: np.ndarray, name: str) -> np.ndarray | None:
        path = self.files.get(Path(name).stem)
        if path is None:
            return None
        try:
            with Image.open(path, formats=FORMATS) as found:
                deep = found.mode.startswith(("I", "F"))  # more than 8 bits, which a conversion to grey would cut off
                return np.asarray(found if deep else found.convert("L")) > 0
        except Exception as error:  # Pillow raises many kinds for a broken file
            reason = (
                "not an image"
                if isinstance(error, Image.UnidentifiedImageError)
                else getattr(error, "strerror", None) or error
            )
            raise UserError(
                f"its lung mask {shown(path)} cannot be read ({reason}): make it again, or delete it to leave the image"
                " whole"
            ) from error


class Lungs(Cropper):
    """crop=lungs: masks by the PSPNet of torchxrayvision (Lian et al. 2021, doi:10.48550/arxiv.2104.10326), its targets
    Left Lung and Right Lung.

    `ready` looks for the weights in `folder`, then in torchxrayvision's own cache, else downloads them into the latter,
    and raises UserError when there are none or they do not fit. One image at a time, whatever the number of threads.
    """

    # Not the device, whose rounding moves single pixels: images packed on a GPU stay good without it.
    key = f"lungs {RULE} {FILE}"

    def __init__(self, device: torch.device, folder: Path):
        super().__init__()
        self.device, self.folder = device, folder

    def ready(self) -> None:
        import torchxrayvision as xrv  # here, for it takes seconds

        path = _weights(self.folder, Path(xrv.utils.get_cache_dir()), xrv.utils.download)
        try:
            with redirect_stdout(io.StringIO()):  # it prints that the loading failed, and raises too
                network = xrv.baseline_models.chestx_det.PSPNet(cache_dir=str(path.parent))
        except Exception as error:  # pickle, zip and operating system errors, and those of tensors that do not fit
            raise _unusable(
                f"in {shown(path.parent)} cannot be loaded ({_reason(error)}), so the file is damaged or another"
                " network's",
                self.folder,
            ) from error
        xrv.utils.warning_log["norm_check"] = True  # it takes a dark first image for a badly normalised one
        # by it, on every first call
        warnings.filterwarnings("ignore", message="`nn.functional.upsample` is deprecated")
        self.network = network.eval().to(self.device)
        self.targets = [network.targets.index(name) for name in ("Left Lung", "Right Lung")]
        self.worker = ThreadPoolExecutor(1)  # each thread that called it would keep threads of its own for it
        print(
            f"lung crop: by PSPNet on {self.device.type}"
            + (
                "; without a GPU that takes seconds an image, once (crop=none leaves images whole)"
                if self.device.type == "cpu"
                else ""
            ),
            flush=True,
        )

    def mask(self, image: np.ndarray, name: str) -> np.ndarray:
        return self.worker.submit(self._mask, image).result()

    def _mask(self, image: np.ndarray) -> np.ndarray:
        import torch  # here, so that whoever only cuts by masks needs none

        shrinks = min(image.shape) >= SIDE
        square = cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
        # torchxrayvision's range, [-1024, 1024]
        pixels = torch.from_numpy(np.float32(square) / 255 * 2048 - 1024)[None, None]
        with torch.inference_mode():
            logits = self.network(pixels.to(self.device))[0, self.targets]
        return (logits > 0).any(dim=0).cpu().numpy()  # sigmoid > 0.5


def check(kind: str, masks: str) -> None:
    """Raises UserError for crop=masks without a folder of masks."""
    if kind == "masks" and not masks:
        raise UserError("crop = masks needs the folder of the lung masks: give it with masks=DIR")
    if kind == "masks":
        Masks(Path(masks))


def build(kind: str, masks: str, weights: Path, device: torch.device, names: Iterable[str] | None = None) -> Cropper:
    """The cropper of a configuration: crop = none, lungs or masks. `masks` is the folder of the last, `weights` where
    files of weights lie, `names` the images, if one of them must have a mask."""
    if kind == "none":
        return Whole()
    if kind == "lungs":
        return Lungs(device, weights)
    check(kind, masks)
    return Masks(Path(masks), names)


def _weights(folder: Path, cache: Path, download) -> Path:
    """The file of PSPNet's weights, downloaded into `cache` if it is neither there nor in `folder`."""
    for place in (folder, cache):
        if (place / FILE).is_file():
            return place / FILE
    try:
        with contextlib.suppress(urllib.error.HTTPError):  # an answer, too
            ask = urllib.request.Request(URL, method="HEAD")
            urllib.request.urlopen(ask, timeout=WAIT).close()  # offline shows in seconds
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as part:  # goes with whatever a broken download leaves
            print(f"downloading {FILE} (273 MB, once) into {shown(cache)}")
            download(URL, os.path.join(part, FILE))
            os.replace(os.path.join(part, FILE), cache / FILE)
    except Exception as error:  # whatever a download may meet: each means that there are no weights
        raise _unusable(
            f"are neither in {shown(folder)} nor in {shown(cache)} and cannot be downloaded ({_reason(error)})", folder
        ) from error
    return cache / FILE


def _reason(error: Exception) -> str:
    error = getattr(error, "reason", error)  # URLError wraps what happened
    return getattr(error, "strerror", None) or type(error).__name__


def _unusable(what: str, folder: Path) -> UserError:
    return UserError(
        f"the weights of the lung network, {FILE}, {what}: put the file of {URL} into {shown(folder)}, "
        "or use masks of your own with crop=masks masks=DIR, or whole images with crop=none"
    )
