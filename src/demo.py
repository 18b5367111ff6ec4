"""Synthetic chest radiographs in the competition's own layout: something to run on when no data is at hand.

Every picture is a torso with lungs, heart, spine and ribs, drawn from soft ellipses and lines in a unit square (x to the
right, y down; the patient's left is on the right, as in a radiograph). Each finding adds a sign at a plausible place.
The signs are cartoons: a network that learns them has shown that the kit works, and nothing about medicine.
"""

import csv
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from errors import UserError
from files import digest, shown, write_json

IMAGES, SIZE, SEED = 1500, 128, 0
LEAST = 57  # images of the rarest class: 15 for the test part, 15 for validation, 27 to learn from
TEST_SHARE = 0.27
STRENGTH = 0.25, 1.0  # of a sign
NO_FINDING = "No Finding"


def rise(height: np.ndarray, edge: float) -> np.ndarray:
    """0 where `height` is below zero, 1 above, with a smooth edge (the logistic function)."""
    return 1 / (1 + np.exp(-np.clip(height / edge, -50, 50)))


class Canvas:
    """A float image [S, S] and its patient: coordinates shifted and scaled, random numbers, anatomy that signs refer to."""

    def __init__(self, size: int, rng: np.random.Generator):
        y, x = np.float32((np.mgrid[:size, :size] + 0.5) / size)
        self.rng = rng
        self.x = (x - 0.5 - rng.uniform(-0.03, 0.03)) / rng.uniform(0.95, 1.08) + 0.5
        self.y = (y - 0.5 - rng.uniform(-0.03, 0.03)) / rng.uniform(0.95, 1.08) + 0.5
        self.image = np.zeros((size, size), np.float32)
        self.heart_width, self.lung_height, self.lung_dark = rng.uniform(0.125, 0.145), rng.uniform(0.27, 0.29), rng.uniform(0.30, 0.36)
        self.dome = [0.745 + rng.uniform(-0.01, 0.01), 0.765 + rng.uniform(-0.01, 0.01)]  # height of each half of the diaphragm

    def ellipse(self, cx: float, cy: float, rx: float, ry: float, edge: float = 0.01) -> np.ndarray:
        """1 inside, 0 outside, with an edge about `edge` wide."""
        distance = (np.hypot((self.x - cx) / rx, (self.y - cy) / ry) - 1) * min(rx, ry)
        return rise(-distance, 0.35 * edge)

    def curve(self, distance: np.ndarray, width: float) -> np.ndarray:
        """A line of about `width` where `distance` (in the unit square) is zero."""
        return np.exp(-((distance / width) ** 2))

    def lung(self, side: int) -> np.ndarray:
        """The mask of a lung: side 0 is on the left of the picture, 1 on the right."""
        whole = self.ellipse((0.30, 0.70)[side], 0.47, 0.145, self.lung_height, 0.02)
        return whole * rise(self.floor(side) - self.y, 0.006)

    def floor(self, side: int) -> np.ndarray:
        """Height of the diaphragm under every x: a dome."""
        return self.dome[side] + 1.6 * (self.x - (0.31, 0.69)[side]) ** 2

    def side(self) -> int:
        return int(self.rng.integers(2))

    def spot(self, side: int, top: float = 0.30, bottom: float = 0.62) -> tuple[float, float]:
        """A place well inside a lung, off the heart."""
        return (0.29, 0.71)[side] + self.rng.uniform(-0.045, 0.045), self.rng.uniform(top, bottom)

    def noise(self, grain: float) -> np.ndarray:
        """Smooth noise of unit spread with features about `grain` wide."""
        size = len(self.image)
        small = max(3, round(1 / grain))
        field = cv2.resize(self.rng.standard_normal((small, small), np.float32), (size, size), interpolation=cv2.INTER_CUBIC)
        return field / field.std()


def anatomy(c: Canvas) -> None:
    """Torso, lungs, diaphragm, mediastinum, heart, spine, ribs and clavicles."""
    c.image = 0.62 * c.ellipse(0.5, 0.62, 0.47, 0.60, 0.05) + 0.03 * c.noise(0.2)
    lungs = c.lung(0) + c.lung(1)
    c.image -= c.lung_dark * lungs
    c.image += 0.13 * c.ellipse(0.5, 0.42, 0.055, 0.40, 0.03)
    c.image += 0.20 * c.ellipse(0.545, 0.635, c.heart_width, 0.125, 0.02) * (1 - 0.5 * c.ellipse(0.5, 0.42, 0.055, 0.40, 0.03))
    c.image += 0.11 * c.ellipse(0.565, 0.30, 0.035, 0.035, 0.015)  # the aortic knob
    c.image += 0.04 * c.curve(c.x - 0.5, 0.03) * (1 + np.sin(c.y * 90))  # vertebrae
    c.image -= 0.13 * c.curve(c.x - 0.5, 0.016) * (c.y < 0.28)  # trachea
    phase = c.rng.uniform(0, 0.06)
    for number in range(8):
        arch = 0.22 + phase + number * 0.065 + 0.9 * (np.abs(c.x - 0.5) - 0.22) ** 2 + 0.12 * (0.22 - np.abs(c.x - 0.5))
        c.image += 0.055 * c.curve(c.y - arch, 0.009) * lungs
    c.image += 0.10 * c.curve(c.y - 0.205 + 0.25 * np.abs(c.x - 0.5) - 0.05, 0.012) * (np.abs(c.x - 0.5) < 0.33)


def atelectasis(c: Canvas) -> None:
    """Plates: thin bright bands across a lower lung, one half of the diaphragm drawn up (in `radiograph`)."""
    side = c.side()
    for _ in range(2):
        height, tilt = c.rng.uniform(0.54, 0.64), c.rng.uniform(-0.25, 0.25)
        c.image += 0.30 * c.curve(c.y - height - tilt * (c.x - (0.3, 0.7)[side]), 0.010) * c.lung(side)


def cardiomegaly(c: Canvas) -> None:
    c.image += 0.25 * c.ellipse(0.55, 0.63, c.rng.uniform(0.21, 0.25), 0.15, 0.015)


def consolidation(c: Canvas) -> None:
    """A white upper lobe that ends sharply at the fissure."""
    side = c.side()
    c.image += 0.27 * c.lung(side) * rise(c.rng.uniform(0.42, 0.47) - c.y, 0.004)


def edema(c: Canvas) -> None:
    """Bat wings: haze around both hila."""
    for x in (0.36, 0.64):
        c.image += 0.26 * c.ellipse(x, 0.46, 0.11, 0.16, 0.10)


def effusion(c: Canvas) -> None:
    """Fluid over the base, climbing the chest wall."""
    side = c.side()
    level = c.rng.uniform(0.58, 0.66) - 0.25 * np.abs(c.x - (0.38, 0.62)[side])
    c.image += 0.33 * c.lung(side) * rise(c.y - level, 0.008)


def emphysema(c: Canvas) -> None:
    """Black lungs that reach far down (lengthened in `radiograph`), with round bullae."""
    for _ in range(5):
        c.image -= 0.12 * c.ellipse(*c.spot(c.side(), 0.26, 0.44), 0.045, 0.045, 0.01)


def fibrosis(c: Canvas) -> None:
    """A net of fine lines over both bases."""
    net = c.curve(np.sin((c.x + c.y) * 75 + c.noise(0.1)), 0.35) + c.curve(np.sin((c.x - c.y) * 75 + c.noise(0.1)), 0.35)
    c.image += 0.15 * net * (c.lung(0) + c.lung(1)) * rise(c.y - 0.50, 0.02)


def hernia(c: Canvas) -> None:
    """A gas bubble with a bright wall behind the heart."""
    x, y, radius = 0.53 + c.rng.uniform(-0.03, 0.03), 0.65 + c.rng.uniform(-0.02, 0.02), c.rng.uniform(0.055, 0.07)
    c.image -= 0.30 * c.ellipse(x, y, radius, radius, 0.01)
    c.image += 0.20 * c.curve(np.hypot(c.x - x, c.y - y) - radius, 0.010)


def infiltration(c: Canvas) -> None:
    """Mottling over one whole lung."""
    c.image += 0.16 * np.clip(c.noise(0.035), 0, 2) * c.lung(c.side())


def mass(c: Canvas) -> None:
    radius = c.rng.uniform(0.065, 0.085)
    c.image += 0.32 * c.ellipse(*c.spot(c.side()), radius, radius * c.rng.uniform(0.85, 1.15), 0.012)


def nodule(c: Canvas) -> None:
    radius = c.rng.uniform(0.024, 0.032)
    c.image += 0.40 * c.ellipse(*c.spot(c.side()), radius, radius, 0.008)


def pleural_thickening(c: Canvas) -> None:
    """A bright rind along the chest wall."""
    side = c.side()
    inner = c.ellipse((0.325, 0.675)[side], 0.47, 0.125, c.lung_height - 0.01, 0.01)
    outward = rise(0.24 - c.x if side == 0 else c.x - 0.76, 0.01)
    c.image += 0.30 * c.lung(side) * (1 - inner) * outward * (c.y > 0.30)


def pneumonia(c: Canvas) -> None:
    """A cloud in the lower lung, crossed by dark air-filled bronchi."""
    side = c.side()
    x, y = c.spot(side, 0.54, 0.60)
    cloud = c.ellipse(x, y, 0.105, 0.085, 0.06) * c.lung(side)
    bronchi = sum(c.curve((c.x - x) * np.sin(angle) - (c.y - y) * np.cos(angle), 0.007) for angle in c.rng.uniform(0, np.pi) + np.array([0, 1.05, 2.1]))
    c.image += cloud * (0.34 - 0.22 * np.clip(bronchi, 0, 1))


def pneumothorax(c: Canvas) -> None:
    """A black rim without ribs around a lung that has come off the wall, its edge a white line."""
    side = c.side()
    toward = 0.045 if side == 0 else -0.045
    left = c.ellipse((0.30, 0.70)[side] + toward, 0.52, 0.115, c.lung_height - 0.04, 0.008)
    gap = c.lung(side) * (1 - left)
    c.image = np.where(gap > 0.5, 0.12, c.image)
    c.image += 0.28 * left * (1 - left) * 4 * c.lung(side)


def pneumoperitoneum(c: Canvas) -> None:
    """A black crescent of free gas under the diaphragm."""
    side = c.side()
    below = c.y - c.floor(side)
    c.image -= 0.42 * c.curve(below - 0.03, 0.016) * c.ellipse((0.31, 0.69)[side], 0.78, 0.12, 0.12, 0.02)


def pneumomediastinum(c: Canvas) -> None:
    """Black streaks along both edges of the mediastinum."""
    for x in (0.425, 0.575):
        c.image -= 0.30 * c.curve(c.x - x + 0.03 * np.sin(c.y * 12), 0.011) * ((c.y > 0.14) & (c.y < 0.52))


def subcutaneous_emphysema(c: Canvas) -> None:
    """Gas in the soft tissue outside the ribs: dark streaks and bubbles in the flanks."""
    streaks = np.clip(c.noise(0.025), 0, 2)
    flank = c.ellipse(0.5, 0.55, 0.46, 0.50, 0.02) * (np.abs(c.x - 0.5) > 0.36) * (c.y < 0.85)
    c.image -= 0.26 * streaks * flank


def tortuous_aorta(c: Canvas) -> None:
    """A wide, winding band beside the spine."""
    path = 0.57 + 0.045 * np.sin((c.y - 0.22) * c.rng.uniform(13, 16))
    c.image += 0.20 * c.curve(c.x - path, 0.032) * ((c.y > 0.22) & (c.y < 0.60))


def calcified_aorta(c: Canvas) -> None:
    """A white shell around the aortic knob."""
    ring = c.curve(np.hypot(c.x - 0.565, c.y - 0.30) - 0.042, 0.011)
    c.image += 0.48 * ring * (c.x + (c.y - 0.30) > 0.545)


# Name of every class of the competition, in its order → (sign, share of the training images, in thousandths)
SIGNS: dict[str, tuple[Callable[[Canvas], None] | None, float]] = {
    "Atelectasis": (atelectasis, 46.1),
    "Cardiomegaly": (cardiomegaly, 11.8),
    "Consolidation": (consolidation, 12.8),
    "Edema": (edema, 6.4),
    "Effusion": (effusion, 42.2),
    "Emphysema": (emphysema, 3.4),
    "Fibrosis": (fibrosis, 7.6),
    "Hernia": (hernia, 0.7),
    "Infiltration": (infiltration, 102.0),
    "Mass": (mass, 24.5),
    "Nodule": (nodule, 29.9),
    "Pleural_Thickening": (pleural_thickening, 11.9),
    "Pneumonia": (pneumonia, 3.1),
    "Pneumothorax": (pneumothorax, 21.8),
    "Pneumoperitoneum": (pneumoperitoneum, 0.9),
    "Pneumomediastinum": (pneumomediastinum, 0.1),
    "Subcutaneous Emphysema": (subcutaneous_emphysema, 0.5),
    "Tortuous Aorta": (tortuous_aorta, 5.0),
    "Calcification of the Aorta": (calcified_aorta, 1.8),
    NO_FINDING: (None, 667.6),
}


def radiograph(findings: list[str], size: int, rng: np.random.Generator) -> np.ndarray:
    """One synthetic radiograph with the signs of `findings`, uint8 [size, size]."""
    canvas = Canvas(size, rng)
    if "Emphysema" in findings:
        canvas.lung_height, canvas.lung_dark, canvas.heart_width = 0.34, 0.44, 0.09
        canvas.dome = [height + 0.06 for height in canvas.dome]
    if "Atelectasis" in findings:
        canvas.dome[rng.integers(2)] -= 0.07
    anatomy(canvas)
    for name in findings:
        if SIGNS[name][0]:
            healthy = canvas.image.copy()
            SIGNS[name][0](canvas)
            # some signs are plain and some hardly there, or no decision would ever be in doubt
            canvas.image = healthy + rng.uniform(*STRENGTH) * (canvas.image - healthy)
    blurred = cv2.GaussianBlur(canvas.image, (0, 0), 0.004 * size)
    noisy = blurred * rng.uniform(0.9, 1.1) + rng.uniform(-0.02, 0.06) + rng.normal(0, 0.02, blurred.shape)
    return np.round(255 * np.clip(noisy, 0, 1) ** rng.uniform(0.85, 1.15)).astype(np.uint8)


def class_counts(images: int) -> np.ndarray:
    """How many of `images` each class gets, int [C]: a floor for the rarest, the rest as in the competition."""
    floor = min(LEAST, images // (len(SIGNS) + 4))
    share = np.array([share for _, share in SIGNS.values()])
    counts = floor + np.floor((images - floor * len(SIGNS)) * share / share.sum()).astype(int)
    counts[list(SIGNS).index(NO_FINDING)] += images - counts.sum()
    return counts


def make(folder: Path, images: int = IMAGES, size: int = SIZE, seed: int = SEED) -> None:
    """Write images/, train.csv, test.csv, a 10-row sample_submission.csv, and solution.csv with the labels of the test part.

    The same arguments give the same files. `folder` appears only when it is whole. Raises UserError when it exists.
    """
    folder = folder.resolve()
    if images < 60:
        raise UserError(f"a demo set needs at least 60 images for its {len(SIGNS)} classes, not {images}")
    if not 32 <= size <= 2048:
        raise UserError(f"a demo image is 32 to 2048 pixels wide, not {size}")
    if seed < 0:
        raise UserError(f"a seed is 0 or more, not {seed}")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{shown(folder)} exists already and is not empty: name a new folder, or delete it")
    classes = list(SIGNS)
    truth = np.repeat(np.arange(len(classes)), class_counts(images))
    in_test = np.concatenate([np.arange(n) < max(1, round(TEST_SHARE * n)) for n in class_counts(images)])
    ids = [hashlib.md5(f"{seed} {number}".encode()).hexdigest() + ".png" for number in range(images)]
    order = np.random.default_rng((seed, images)).permutation(images)
    onehot = np.eye(len(classes), dtype=int)
    labelled = [[ids[number], *onehot[truth[number]]] for number in order]
    train, test = ([row for row, number in zip(labelled, order, strict=True) if in_test[number] == part] for part in (False, True))
    nothing = onehot[classes.index(NO_FINDING)]

    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as scratch:
        part = Path(scratch) / "set"
        (part / "images").mkdir(parents=True)

        def draw(number: int) -> None:
            picture = radiograph([classes[truth[number]]], size, np.random.default_rng((seed, number)))
            (part / "images" / ids[number]).write_bytes(cv2.imencode(".png", picture)[1].tobytes())

        with ThreadPoolExecutor() as pool:
            list(tqdm(pool.map(draw, range(images)), "drawing", images, unit="img", leave=False, disable=None))
        for name, header, rows in (
            ("train.csv", classes, train),
            ("solution.csv", classes, test),
            ("test.csv", [], [row[:1] for row in test]),
            ("sample_submission.csv", classes, [[row[0], *nothing] for row in test[:10]]),
        ):
            with open(part / name, "w", newline="", encoding="utf-8") as file:
                csv.writer(file, lineterminator="\n").writerows([["id", *header], *rows])
        write_json(part / "demo.json", recipe(images, size, seed))
        os.replace(part, folder)  # an empty folder may stand there


def recipe(images: int = IMAGES, size: int = SIZE, seed: int = SEED) -> dict:
    """What a set was made from, the generator's own text included: kept as demo.json beside it."""
    return {"synthetic": True, "images": images, "size": size, "seed": seed, "generator": digest(Path(__file__).read_bytes())}


def ensure(folder: Path) -> Path:
    """The default set in `folder`, made when it is not there or was made by another version of this file."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(folder.with_name(f".{folder.name}.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # of two first runs side by side, one makes it
        try:
            fresh = json.loads((folder / "demo.json").read_text()) == recipe()
        except (OSError, ValueError):
            fresh = False
        if not fresh:
            print(f"making {IMAGES} synthetic radiographs in {shown(folder)}", flush=True)
            if (folder / "demo.json").is_file():  # an older set of ours; anything else in its place is left alone
                shutil.rmtree(folder)
            make(folder)
    return folder
