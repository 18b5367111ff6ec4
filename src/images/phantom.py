"""Synthetic chest radiographs: a torso with lungs, heart, spine and ribs, and a sign for every finding.

Everything is drawn from soft ellipses and lines in a unit square (x to the right, y down; the patient's left is on the
right, as in a radiograph). The signs are cartoons: a network that learns them has shown that the kit works, and nothing
about medicine.
"""

from collections.abc import Callable, Sequence

import cv2
import numpy as np

STRENGTH = 0.25, 1.0  # of a sign
PITCH = 0.0698  # height of a vertebra with its disc


def rise(height: np.ndarray, edge: float) -> np.ndarray:
    """0 where `height` is below zero, 1 above, with a smooth edge (the logistic function)."""
    return 1 / (1 + np.exp(-np.clip(height / edge, -50, 50)))


class Canvas:
    """A float image [S, S] and its patient: coordinates shifted and scaled, random numbers, anatomy that signs refer
    to. `plainness` scales what a sign changes, of the image and of the body: 1 as it is drawn, 0 nothing."""

    def __init__(self, size: int, rng: np.random.Generator, plainness: float = 1.0):
        y, x = np.float32((np.mgrid[:size, :size] + 0.5) / size)
        self.rng, self.plainness = rng, plainness
        self.x = (x - 0.5 - rng.uniform(-0.03, 0.03)) / rng.uniform(0.95, 1.08) + 0.5
        self.y = (y - 0.5 - rng.uniform(-0.03, 0.03)) / rng.uniform(0.95, 1.08) + 0.5
        self.image = np.zeros((size, size), np.float32)
        self.heart_width, self.lung_height, self.lung_dark = (
            rng.uniform(0.125, 0.145),
            rng.uniform(0.27, 0.29),
            rng.uniform(0.30, 0.36),
        )
        # height of each half of the diaphragm
        self.dome = [0.745 + rng.uniform(-0.01, 0.01), 0.765 + rng.uniform(-0.01, 0.01)]
        self.spine: float | np.ndarray = 0.5  # x of its midline, at every y where it is bent

    def ellipse(self, cx: float | np.ndarray, cy: float, rx: float, ry: float, edge: float = 0.01) -> np.ndarray:
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

    def strength(self) -> float:
        """Of a sign: some are plain and some hardly there, or no decision would ever be in doubt."""
        return self.rng.uniform(*STRENGTH) * self.plainness

    def side(self) -> int:
        return int(self.rng.integers(2))

    def spot(self, side: int, top: float = 0.30, bottom: float = 0.62) -> tuple[float, float]:
        """A place well inside a lung, off the heart."""
        return (0.29, 0.71)[side] + self.rng.uniform(-0.045, 0.045), self.rng.uniform(top, bottom)

    def noise(self, grain: float) -> np.ndarray:
        """Smooth noise of unit spread with features about `grain` wide."""
        size = len(self.image)
        small = max(3, round(1 / grain))
        field = cv2.resize(
            self.rng.standard_normal((small, small), np.float32), (size, size), interpolation=cv2.INTER_CUBIC
        )
        return field / field.std()


def anatomy(c: Canvas) -> None:
    """Torso, lungs, diaphragm, mediastinum, heart, spine, ribs and clavicles."""
    c.image = 0.62 * c.ellipse(0.5, 0.62, 0.47, 0.60, 0.05) + 0.03 * c.noise(0.2)
    lungs = c.lung(0) + c.lung(1)
    c.image -= c.lung_dark * lungs
    c.image += 0.13 * c.ellipse(c.spine, 0.42, 0.055, 0.40, 0.03)
    c.image += (
        0.20
        * c.ellipse(0.545, 0.635, c.heart_width, 0.125, 0.02)
        * (1 - 0.5 * c.ellipse(c.spine, 0.42, 0.055, 0.40, 0.03))
    )
    c.image += 0.11 * c.ellipse(0.565, 0.30, 0.035, 0.035, 0.015)  # the aortic knob
    c.image += 0.04 * c.curve(c.x - c.spine, 0.03) * (1 + np.sin(c.y * 90))  # vertebrae
    c.image -= 0.13 * c.curve(c.x - 0.5, 0.016) * (c.y < 0.28)  # trachea
    phase = c.rng.uniform(0, 0.06)
    for number in range(8):
        arch = 0.22 + phase + number * 0.065 + 0.9 * (np.abs(c.x - 0.5) - 0.22) ** 2 + 0.12 * (0.22 - np.abs(c.x - 0.5))
        c.image += 0.055 * c.curve(c.y - arch, 0.009) * lungs
    c.image += 0.10 * c.curve(c.y - 0.205 + 0.25 * np.abs(c.x - 0.5) - 0.05, 0.012) * (np.abs(c.x - 0.5) < 0.33)


def atelectasis(c: Canvas) -> None:
    """Plates: thin bright bands across a lower lung, one half of the diaphragm drawn up (in `raised`)."""
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
    """Black lungs that reach far down (lengthened in `inflated`), with round bullae."""
    for _ in range(5):
        c.image -= 0.12 * c.ellipse(*c.spot(c.side(), 0.26, 0.44), 0.045, 0.045, 0.01)


def fibrosis(c: Canvas) -> None:
    """A net of fine lines over both bases."""
    net = c.curve(np.sin((c.x + c.y) * 75 + c.noise(0.1)), 0.35) + c.curve(
        np.sin((c.x - c.y) * 75 + c.noise(0.1)), 0.35
    )
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
    bronchi = sum(
        c.curve((c.x - x) * np.sin(angle) - (c.y - y) * np.cos(angle), 0.007)
        for angle in c.rng.uniform(0, np.pi) + np.array([0, 1.05, 2.1])
    )
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


def scoliosis(c: Canvas) -> None:
    """The vertebrae of a bent spine (in `bent`) stand out from the mediastinum."""
    c.image += (
        0.11
        * c.curve(c.x - c.spine, 0.028)
        * (1 + 0.4 * np.sin(c.y * 90))
        * rise(0.80 - c.y, 0.02)
        * rise(c.y - 0.18, 0.02)
    )


def costophrenic_blunting(c: Canvas) -> None:
    """A small triangle fills the angle between the chest wall and one half of the diaphragm."""
    side = c.side()
    outward = (0.5 - c.x) if side == 0 else (c.x - 0.5)
    # below a line that falls towards the heart
    depth = c.y + 0.9 * outward - (c.dome[side] + c.rng.uniform(0.13, 0.15))
    c.image += 0.38 * c.lung(side) * rise(depth, 0.006)


def vertebral_degeneration(c: Canvas) -> None:
    """Bright spurs on both edges of some neighbouring discs, bridged along one of them."""
    top, bridged = c.rng.integers(3, 6), c.side()
    for disc in range(top, top + 4):
        height = (disc + 0.75) * PITCH
        for edge in (-0.052, 0.052):
            c.image += 0.34 * c.ellipse(c.spine + edge, height, 0.024, 0.012, 0.01)
    from_top, to_bottom = ((number + 0.75) * PITCH for number in (top, top + 3))
    c.image += 0.22 * c.curve(c.x - c.spine - (-0.056, 0.056)[bridged], 0.010) * ((c.y > from_top) & (c.y < to_bottom))


def inflated(c: Canvas) -> None:
    for what, most in {"lung_height": 0.34, "lung_dark": 0.44, "heart_width": 0.09}.items():
        setattr(c, what, (1 - c.plainness) * getattr(c, what) + c.plainness * most)
    c.dome = [height + 0.06 * c.plainness for height in c.dome]


def raised(c: Canvas) -> None:
    c.dome[c.side()] -= 0.07 * c.plainness


def bent(c: Canvas) -> None:
    """The spine, and the mediastinum with it, curved to one side, widest at mid-chest; mild and severe as signs are
    weak and strong."""
    c.spine = 0.5 + (-1, 1)[c.side()] * 0.075 * c.strength() * np.sin(4.2 * (c.y - 0.12))


Sign = Callable[[Canvas], None]
# Signs that change the body itself, before it is drawn
BODY: dict[Sign, Sign] = {emphysema: inflated, atelectasis: raised, scoliosis: bent}


def radiograph(
    signs: Sequence[Sign], size: int, rng: np.random.Generator, dtype: type = np.uint8, plainness: float = 1.0
) -> np.ndarray:
    """One synthetic radiograph with the given signs, as plain as that: [size, size] of an unsigned integer type, over
    its whole range."""
    canvas = Canvas(size, rng, plainness)
    for sign in signs:
        if sign in BODY:
            BODY[sign](canvas)
    anatomy(canvas)
    for sign in signs:
        healthy = canvas.image.copy()
        sign(canvas)
        canvas.image = healthy + canvas.strength() * (canvas.image - healthy)
    blurred = cv2.GaussianBlur(canvas.image, (0, 0), 0.004 * size)
    noisy = blurred * rng.uniform(0.9, 1.1) + rng.uniform(-0.02, 0.06) + rng.normal(0, 0.02, blurred.shape)
    return np.round(np.iinfo(dtype).max * np.clip(noisy, 0, 1) ** rng.uniform(0.85, 1.15)).astype(dtype)
