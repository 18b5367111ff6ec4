"""From image files to one packed array on disk.

Images are decoded once into one memory-mapped uint8 array at the size that training needs.
"""

import fcntl
import json
import os
import shutil
import sys
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
from PIL import Image, ImageOps
from tqdm import tqdm

from core.errors import UserError, some
from core.files import atomic, digest, home, shown, write_json

FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP", "PPM", "JPEG2000")  # others may start programs, as EPS does
CHUNK = 64  # images a thread decodes before it reports


SETTLE = 4096  # images after which what was packed is made to stay


class Crop(Protocol):
    """Cuts a decoded image, uint8 [H, W] to uint8 [h, w]; `key` names everything that the cut depends on. `ready` is
    called once before the first image, and not at all when every image is packed."""

    key: str

    def ready(self) -> None: ...

    def __call__(self, image: np.ndarray, name: str) -> np.ndarray: ...


@dataclass(frozen=True)
class Pack:
    """Packed images: `array` is a .npy file of uint8 [N, S, S]; row i is the image of `ids[i]` (sorted), `sums[i]` its
    CRC-32, and `covariates[i]`, float32 [N, M], what the network is told beside it."""

    array: Path
    ids: np.ndarray
    sums: np.ndarray
    covariates: np.ndarray | None = None

    def rows(self, ids: np.ndarray) -> np.ndarray:
        """The row of every id, int [n]."""
        rows = np.searchsorted(self.ids, ids)
        assert (self.ids[rows] == ids).all(), "ids that were never packed"
        return rows

    def fingerprint(self, ids: np.ndarray) -> str:
        """A hash of these ids, of their packed pixels, and of what is told beside them."""
        rows = self.rows(ids)
        content = [list(map(str, ids)), self.sums[rows].tolist()]
        if self.covariates is not None:
            content.append(self.covariates[rows].tolist())
        return digest(json.dumps(content).encode())


def pack(
    images: Path, ids: Iterable[str], size: int, places: Mapping[str, str] | None = None, crop: Crop | None = None
) -> tuple[Pack, dict[str, str]]:
    """Decode the images of `ids` to size × size, or reuse what an earlier call with the same arguments packed.

    `places`: id → where the image lies below `images`, None: under its id. `crop` cuts every decoded image first.
    Returns the pack and, for every image that could not be read, the reason. Stopped half-way, the next call goes on:
    each row remembers the size and time of the file it was made from, so a file that was mended is decoded again, and
    so are packed pixels that no longer have their checksum.
    Resizing ignores the aspect ratio, as both documents do; 16-bit, colour and palette images become 8-bit grey.
    """
    ids = np.unique(np.asarray(ids, dtype=str))
    cropped = crop.key if crop else "none"
    # the folder too: another one's images under the same ids must not be written into a pack that somebody trains from
    key = digest(json.dumps([str(images.resolve()), size, cropped, *ids.tolist()]).encode())
    folder = Path(os.environ.get("CXR_CACHE") or home() / "data" / "packed") / key
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two runs on the same images: the second waits and reuses
        parts = {
            folder / "images.npy": ((len(ids), size, size), np.uint8),
            folder / "stamps.npy": ((len(ids), 3), np.int64),
        }
        if not all(_usable(path, *form) for path, form in parts.items()):  # one without the other is worth nothing
            for path in parts:
                path.unlink(missing_ok=True)
            for path, form in parts.items():
                _reserve(path, *form)
        array, stamps = (np.lib.format.open_memmap(path, mode="r+") for path in parts)
        write_json(folder / "pack.json", {"images": len(ids), "size": size, "crop": cropped, "source": str(images)})
        failed = _fill([images / (places[name] if places else name) for name in ids.tolist()], ids, array, stamps, crop)
        return Pack(folder / "images.npy", ids, stamps[:, 2].copy()), failed


def _usable(path: Path, shape: tuple[int, ...], kind: type) -> bool:
    try:
        found = np.load(path, mmap_mode="r")
    except Exception:  # absent, empty, cut short, or a header that NumPy's parser of Python trips over
        return False
    return found.shape == shape and found.dtype == kind


def _reserve(path: Path, shape: tuple[int, ...], kind: type) -> None:
    """Make a .npy array of zeros with all its disk space reserved: a disk that fills up later kills a mapping's
    writer."""
    needed = int(np.prod(shape)) * np.dtype(kind).itemsize
    free = shutil.disk_usage(path.parent).free
    if needed > free:
        raise UserError(
            f"packing needs {needed / 1e9:.1f} GB in {shown(path.parent)} and {free / 1e9:.1f} GB are free: free some,"
            " or set CXR_CACHE to a folder on another disk"
        )
    with atomic(path) as part:
        np.lib.format.open_memmap(part, mode="w+", dtype=kind, shape=shape)
        with open(part, "r+b") as file:
            if hasattr(os, "posix_fallocate"):  # macOS has none
                os.posix_fallocate(file.fileno(), 0, os.path.getsize(part))


def _fill(paths: list[Path], ids: np.ndarray, array: np.memmap, stamps: np.memmap, crop: Crop | None) -> dict[str, str]:
    """Decode every row whose file is not the one it was made from; returns the reasons of those that failed.

    A row of `stamps` is the time of its file, the file's size + 1 (0: nothing yet), and the CRC-32 of the packed
    pixels.
    """
    current, size = _stamps_of(paths), f"{array.shape[1]}×{array.shape[1]}"
    failed = {str(ids[row]): "missing" for row in np.flatnonzero(current[:, 1] == 0)}
    fresh = (current[:, 1] != 0) & (stamps[:, :2] == current).all(axis=1)
    damaged = _damaged(np.flatnonzero(fresh), array, stamps)
    if len(damaged):
        names = some(ids[damaged], 3)
        print(
            f"WARNING: {len(damaged)} packed images are damaged on the disk and decoded again: {names}", file=sys.stderr
        )
        fresh[damaged] = False
    stale = np.flatnonzero((current[:, 1] != 0) & ~fresh)
    stamps[stale] = 0
    if not len(stale):
        if not failed:
            print(f"packed images: {len(ids)} at {size}, reused")
        return failed

    written: list[int] = []

    def settle() -> None:
        array.flush()  # first: after a power cut no stamp may vouch for pixels that were never on disk
        for row in written:
            stamps[row] = *current[row], zlib.crc32(array[row])
        stamps.flush()
        written.clear()

    if crop:
        crop.ready()
    start = time.monotonic()
    pool = ThreadPoolExecutor(os.cpu_count())  # Pillow and OpenCV release the GIL
    try:
        chunks = np.split(stale, range(CHUNK, len(stale), CHUNK))
        jobs = {pool.submit(_decode_rows, rows, paths, ids, array, crop): rows for rows in chunks}
        with tqdm(total=len(stale), desc="packing", unit="img", disable=None) as bar:
            for job in as_completed(jobs):
                reasons = job.result()
                failed |= {str(ids[row]): reason for row, reason in reasons.items()}
                written += [row for row in jobs[job] if row not in reasons]
                bar.update(len(jobs[job]))
                if len(written) >= SETTLE:
                    settle()
    finally:
        pool.shutdown(cancel_futures=True)
        settle()
    seconds = time.monotonic() - start
    speed = f"{seconds:.0f} s ({len(stale) / seconds:.0f} img/s)"
    print(f"packed images: {len(stale)} of {len(ids)} decoded to {size} in {speed}")
    return failed


def _damaged(rows: np.ndarray, array: np.memmap, stamps: np.memmap) -> np.ndarray:
    """Those of the rows whose pixels are no longer the packed ones: a gigabyte a second on one core."""

    def of_chunk(chunk: np.ndarray) -> list[int]:
        return [row for row in chunk if zlib.crc32(array[row]) != stamps[row, 2]]

    with ThreadPoolExecutor(os.cpu_count()) as pool:  # zlib releases the GIL
        chunks = np.split(rows, range(CHUNK, len(rows), CHUNK))
        return np.array([row for found in pool.map(of_chunk, chunks) for row in found], int)


def _stamps_of(paths: list[Path]) -> np.ndarray:
    """The time and the size + 1 of every file, int64 [N, 2]; 0 for one that is not there."""
    row_of = {(str(path.parent), path.name): row for row, path in enumerate(paths)}
    found = np.zeros((len(paths), 2), np.int64)
    for folder in {folder for folder, _ in row_of if os.path.isdir(folder)}:
        for entry in os.scandir(folder):
            row = row_of.get((folder, entry.name))
            with suppress(OSError):  # a link in a circle, or gone since
                if row is not None and entry.is_file():
                    found[row] = entry.stat().st_mtime_ns, entry.stat().st_size + 1
    return found


def _decode_rows(
    rows: Iterable[int], paths: list[Path], ids: np.ndarray, array: np.ndarray, crop: Crop | None
) -> dict[int, str]:
    """Decode some rows into the array; returns why some of them could not be."""
    reasons = {}
    for row in rows:
        try:
            image = decode(paths[row])
            image = crop(image, str(ids[row])) if crop else image
        except Exception as error:  # Pillow raises many kinds for a broken file; all of them are reported
            reasons[int(row)] = why(error)
            continue
        array[row] = square(image, array.shape[1])
    return reasons


def why(error: Exception) -> str:
    """Why an image could not be decoded, in words."""
    return "not an image" if isinstance(error, Image.UnidentifiedImageError) else str(error)


def square(image: np.ndarray, side: int) -> np.ndarray:
    """An image [H, W] resized to side × side, whatever its aspect: uint8 [side, side]."""
    way = cv2.INTER_AREA if min(image.shape) >= side else cv2.INTER_LINEAR
    return cv2.resize(image, (side, side), interpolation=way)


def decoded(
    images: Path, ids: np.ndarray, size: int, places: Mapping[str, str], crop: Crop
) -> tuple[np.ndarray, dict[str, str]]:
    """A few images as `pack` would pack them, uint8 [N, size, size], kept nowhere; and why some could not be read.
    `crop` is ready."""
    array = np.zeros((len(ids), size, size), np.uint8)
    paths = [images / places[name] for name in ids.tolist()]
    failed = {str(ids[row]): "missing" for row, path in enumerate(paths) if not path.is_file()}
    there = [row for row, path in enumerate(paths) if path.is_file()]
    reasons = _decode_rows(there, paths, ids, array, crop)
    return array, failed | {str(ids[row]): reason for row, reason in reasons.items()}


def decode(path: Path) -> np.ndarray:
    """Read an image as 8-bit grey [H, W], turned as its EXIF orientation says; see `grey`. Raises Pillow's errors for
    what is no image, or a truncated one."""
    with opened(path) as image:
        return grey(image)


@contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """An image file of a wanted format, not yet decoded."""
    # handed a path Pillow maps a plain TIFF, and misreads one that is to be turned
    with open(path, "rb") as file, Image.open(file, formats=FORMATS) as image:
        yield image


def grey(image: Image.Image) -> np.ndarray:
    """An opened image as 8-bit grey [H, W]; floating-point pixels are shares of full white, or from 0 to 255. Raises
    ValueError for pixels beyond what their kind can say."""
    with suppress(SyntaxError):  # damaged EXIF says nothing
        ImageOps.exif_transpose(image, in_place=True)
    if image.mode.startswith("I"):  # 16 bits a pixel, which Pillow's own conversion would clip at 255
        pixels = _within(np.asarray(image), 65535).astype(np.uint32)
        return ((pixels + 128) // 257).astype(np.uint8)
    if image.mode == "F":
        pixels = _within(np.asarray(image), 255)
        if pixels.max() <= 1:
            return np.rint(pixels * 255).astype(np.uint8)
    return np.asarray(image.convert("L"))


def _within(pixels: np.ndarray, white: int) -> np.ndarray:
    low, high = pixels.min(), pixels.max()
    if not (low >= 0 and high <= white):  # NaN is neither
        raise ValueError(f"pixels from {low:g} to {high:g}, where 0 to {white} are wanted: save it as 8 or 16 bits")
    return pixels
