"""What image files are, each read once: sizes, modes, intensities, small copies, fingerprints, and which are the same.

Nothing is kept on disk: a few thousand images of a few hundred pixels take seconds. Needs no torch.
"""

import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from images import pack

SIDE = 128  # pixels of a small copy, width and height
BINS = 64  # of the histogram of 256 grey levels
SAME_AS = 32  # pixels, width and height, that near duplicates are told by
ALIKE = 0.99  # correlation of those pixels from which two images are near duplicates
FRAME = 0.2  # of the side: how far from the edge markers and text stand
MARK = 60  # grey levels that a marker or letter is brighter than what lies around it
TAIL = 4096  # bytes at a file's end that, with its size, tell most files apart


@dataclass(frozen=True)
class Survey:
    """Images that were read; of each: `ids` str [N], `small` uint8 [N, 128, 128] (resized without regard to the
    aspect, as the networks are given them), `shape` int [N, 2] (height, width), `mode` str [N] (Pillow's), `histogram`
    float [N, 64] (shares of its pixels), `pixels` str [N] (a hash of the decoded pixels). `failed`: id → why it could
    not be read."""

    ids: np.ndarray
    small: np.ndarray
    shape: np.ndarray
    mode: np.ndarray
    histogram: np.ndarray
    pixels: np.ndarray
    failed: dict[str, str]

    def rows(self, ids: np.ndarray) -> np.ndarray:
        """The row of every id, int [n]; −1 for an image that was not read."""
        place = {name: row for row, name in enumerate(self.ids.tolist())}
        return np.array([place.get(name, -1) for name in np.asarray(ids).tolist()], int)


def survey(paths: Sequence[Path], ids: np.ndarray) -> Survey:
    """Read the images of `ids`, str [N], at `paths`. An image that cannot be read is named in `failed`."""
    read, failed = [], {}
    for name, (found, fault) in zip(np.asarray(ids).tolist(), _each(_read, paths, "reading"), strict=True):
        if fault:
            failed[name] = fault
        else:
            read.append((name, *found))
    columns = list(zip(*read, strict=True)) if read else [()] * 6
    names, small, shape, mode, histogram, pixels = columns
    return Survey(
        np.array(names, dtype=str),
        np.array(small, np.uint8).reshape(-1, SIDE, SIDE),
        np.array(shape, int).reshape(-1, 2),
        np.array(mode, dtype=str),
        np.array(histogram, np.float32).reshape(-1, BINS),
        np.array(pixels, dtype=str),
        failed,
    )


def _each(work: Callable, items: Sequence, said: str) -> list:
    """`work` of every item, in their order, on all cores: Pillow, OpenCV, zlib and hashes release the GIL."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(tqdm(pool.map(work, items), total=len(items), desc=said, unit="img", disable=None))


def _read(path: Path) -> tuple[tuple | None, str]:
    """One image: small copy, shape, mode, histogram and hash; or None and why it cannot be read."""
    try:
        with pack.opened(path) as image:
            mode, grey = image.mode, pack.grey(image)
    except FileNotFoundError:
        return None, "missing"
    except Exception as error:  # Pillow raises many kinds for a broken file; all of them are reported
        return None, pack.why(error)
    levels = np.bincount(grey.ravel(), minlength=256).reshape(BINS, -1).sum(axis=1)
    named = hashlib.blake2b(np.ascontiguousarray(grey), digest_size=8, person=b"%dx%d" % grey.shape).hexdigest()
    return (pack.square(grey, SIDE), grey.shape, mode, levels / grey.size, named), ""


def decoded(path: Path) -> np.ndarray | None:
    """An image as 8-bit grey, uint8 [H, W]; None where it cannot be read, which `survey` says of."""
    try:
        return pack.decode(path)
    except Exception:  # Pillow raises many kinds for a broken file
        return None


# ---- which are the same
def same_files(paths: Sequence[Path]) -> list[list[int]]:
    """Groups of files that are the same byte for byte, as places in `paths`; missing ones are passed over.

    Read are the ends of files of one size, and the whole of those that agree there too.
    """
    groups = _agreeing(list(range(len(paths))), lambda row: _size(paths[row]))
    for content in (_end, _whole):
        groups = [
            part for group in groups for part in _agreeing(group, lambda row, content=content: content(paths[row]))
        ]
    return groups


def _agreeing(rows: Sequence[int], key: Callable[[int], object]) -> list[list[int]]:
    """Groups of two and more rows with the same key; rows whose key is None are in none."""
    found = defaultdict(list)
    for row, value in zip(rows, map(key, rows), strict=True):
        if value is not None:
            found[value].append(row)
    return [group for group in found.values() if len(group) > 1]


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size or None  # an empty file is no image, and told as such
    except OSError:
        return None


def _end(path: Path) -> bytes | None:
    try:
        with open(path, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL))
            return file.read()
    except OSError:
        return None


def _whole(path: Path) -> str | None:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "blake2b").hexdigest()
    except OSError:
        return None


def same_pixels(found: Survey) -> list[list[int]]:
    """Groups of images with the same decoded pixels, as rows of the survey."""
    return _agreeing(range(len(found.ids)), lambda row: found.pixels[row])


def alike(found: Survey, mirrored: bool = False, most: int = 500) -> tuple[list[tuple[int, int, float]], int]:
    """Pairs of images that are all but the same, the likest first, at most so many, and how many there are: two rows
    of the survey and their correlation.

    The Pearson correlation of the images at 32 × 32 pixels, at least 0.99, over all pairs. It is blind to brightness,
    contrast and compression; on real radiographs a shift by 1 % of the width lowers it to 0.992 (median), by 2 % to
    0.970, and two takes of one patient reach 0.99 now and then. `mirrored`: each with the mirror image of the other.
    Images of one grey level are in no pair, nor are two whose pixels are the same.
    """
    standard, pairs, number = _standard(found.small), [], 0
    other = _standard(found.small[:, :, ::-1]) if mirrored else standard
    for start in range(0, len(standard), 512):  # rows of the triangle above the diagonal
        values = np.triu(standard[start : start + 512] @ other[start:].T, 1)
        row, column = np.nonzero(values >= ALIKE)
        differ = found.pixels[row + start] != found.pixels[column + start]
        row, column = row[differ], column[differ]
        likest = np.argsort(-values[row, column], kind="stable")[:most]
        pairs += [
            (start + int(r), start + int(c), float(values[r, c]))
            for r, c in zip(row[likest], column[likest], strict=True)
        ]
        number += len(row)
    return sorted(pairs, key=lambda pair: -pair[2])[:most], number


def _standard(small: np.ndarray) -> np.ndarray:
    """Images at 32 × 32 pixels with mean 0 and length 1, float32 [N, 1024]; those of one grey level are 0."""
    pixels = shrunk(small, SAME_AS).reshape(len(small), SAME_AS**2)
    pixels = pixels - pixels.mean(axis=1, keepdims=True)
    length = np.linalg.norm(pixels, axis=1, keepdims=True)
    return np.divide(pixels, length, out=np.zeros_like(pixels), where=length > 1e-3)


# ---- where on the image
def shrunk(small: np.ndarray, side: int) -> np.ndarray:
    """Small copies at a whole fraction of their size, by means of squares: float32 [N, side, side]."""
    step = small.shape[1] // side
    return small.reshape(len(small), side, step, side, step).mean(axis=(2, 4), dtype=np.float32)


def edge(side: int, border: float = 1 / 16, corner: float = 3 / 16) -> np.ndarray:
    """Where the borders and corners are, bool [side, side]; both as shares of the side.

    As they are by default 30 % of an image, of which 4 % is lung (by 191 lung masks; of whole images 36 %).
    """
    border, corner = round(border * side), round(corner * side)
    near = np.minimum(np.arange(side), np.arange(side)[::-1])
    return (np.minimum.outer(near, near) < border) | (np.maximum.outer(near, near) < corner)


def marks(small: np.ndarray) -> np.ndarray:
    """How many letters, side markers and other small bright marks stand in the outer fifth of every image, int [N].

    A white top-hat (Serra 1982) of 5 pixels keeps what is thin and at least 60 grey levels brighter than its
    surroundings; a mark is a connected piece of it, of 2 pixels and more, within 16 × 16.
    """
    frame, element = edge(SIDE, FRAME, FRAME), np.ones((5, 5), np.uint8)
    found = []
    for image in small:
        bright = (cv2.morphologyEx(image, cv2.MORPH_TOPHAT, element) >= MARK) & frame
        _, _, pieces, _ = cv2.connectedComponentsWithStats(bright.astype(np.uint8))
        width, height, area = pieces[1:, 2:].T
        found.append(int(((width <= 16) & (height <= 16) & (area >= 2)).sum()))
    return np.array(found, int)


def places(small: np.ndarray) -> dict[str, np.ndarray]:
    """Mean grey levels of the middle, the borders and the corners of every image, and how much of its border is black:
    float [N] each."""
    corners = edge(SIDE, 0, 0.125)
    borders = edge(SIDE, 0.05, 0) & ~corners
    middle = ~edge(SIDE, 0.25, 0)
    found = {name: small[:, where].mean(axis=1) for name, where in
             (("middle", middle), ("borders", borders), ("corners", corners))}  # fmt: skip
    return found | {"black border": (small[:, borders] <= 8).mean(axis=1)}
