"""What augmentation may and may not do to a radiograph."""

import types
import warnings

import albumentations as A
import numpy as np
import pytest

from core.errors import UserError
from images import augment as augmentation
from images.augment import Augment
from tasks import registry

STILL = ["flip=0", "geometry=0", "tone=0"]
IMAGE = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)


def augment(*overrides) -> Augment:
    return Augment(registry.load("modelB", [*STILL, *overrides]))


def test_switched_off_it_changes_nothing():
    assert (augment()(IMAGE, (0, 0, 0)) == IMAGE).all()


def test_flip_is_a_mirror_half_of_the_time():
    flips = [(augment("flip=0.5")(IMAGE, (0, 0, k)) == IMAGE[:, ::-1]).all() for k in range(300)]
    assert 110 < sum(flips) < 190


def test_same_key_same_image_other_key_other_image():
    step = augment("geometry=1", "tone=1")
    images = [step(IMAGE, (0, epoch, position)) for epoch in range(3) for position in range(3)]
    assert len({image.tobytes() for image in images}) == 9
    assert (step(IMAGE, (0, 1, 1)) == images[4]).all()
    assert (step(IMAGE, (1, 1, 1)) != images[4]).any()


def test_steps_fire_independently():
    """One seed for the whole Compose would flip exactly those images that it also brightens."""
    flat = np.tile(np.linspace(60, 180, 64).astype(np.uint8), (64, 1))
    step = augment("flip=0.5", "tone=0.5")
    results = [step(flat, (0, 0, k)) for k in range(400)]
    flipped = np.array([image[0, 0] > image[0, -1] for image in results])
    toned = np.array([sorted(image[0]) != sorted(flat[0]) for image in results])
    assert abs(np.corrcoef(flipped, toned)[0, 1]) < 0.15


def test_model_b_bends_geometry_less_than_model_a():
    """A bright square at the centre moves by no more than the configured share."""
    marked = np.zeros((101, 101), np.uint8)
    marked[48:53, 48:53] = 255
    reach = {}
    for name in ("modelA", "modelB"):
        step = Augment(registry.load(name, ["geometry=1", "flip=0", "tone=0"]))
        places = [np.argwhere(step(marked, (0, 0, k)) > 100).mean(axis=0) for k in range(200)]
        reach[name] = np.abs(np.array(places) - 50).max()
    assert reach["modelB"] < 101 * 0.03 + 1 < reach["modelA"] < 101 * 0.06 + 1


def test_reflection_moves_in_no_black():
    """A bright image stays bright under the study's rotations, where the competition's border brings black corners."""
    bright = np.full((64, 64), 200, np.uint8)
    darkest = {
        border: min(
            augment("geometry=1", "rotate=45", "shift=0.1", "scale=0.1", f"border={border}")(bright, (0, 0, k)).min()
            for k in range(20)
        )
        for border in ("black", "reflect")
    }
    assert darkest == {"black": 0, "reflect": 200}


def test_noise_is_uniform_and_stays_within_its_bounds():
    grey = np.full((64, 64), 128, np.uint8)
    moved = (
        np.concatenate([(augment("noise=0.05")(grey, (0, 0, k)).astype(int) - 128).ravel() for k in range(20)]) / 255
    )
    assert np.abs(moved).max() <= 0.05 + 1 / 255 and abs(moved.mean()) < 0.003
    assert abs(moved.std() - 0.1 / np.sqrt(12)) < 0.002  # of a uniform distribution
    assert (augment()(grey, (0, 0, 0)) == grey).all()


def test_the_study_zooms_height_and_width_by_themselves():
    """A centred square becomes an oblong."""
    square = np.zeros((101, 101), np.uint8)
    square[30:71, 30:71] = 255
    step = Augment(registry.load("padchest", ["rotate=0", "shift=0", "tone=0", "noise=0"]))
    shapes = [tuple(np.ptp(np.argwhere(step(square, (0, 0, k)) > 127), axis=0)) for k in range(50)]
    assert any(abs(height - width) > 3 for height, width in shapes) and all(
        35 <= side <= 45 for shape in shapes for side in shape
    )


def test_a_random_crop_is_a_part_of_the_image_enlarged():
    ramp = np.tile(np.arange(64, dtype=np.uint8) * 3, (64, 1))
    step = augment("geometry=1", "shift=0", "scale=0", "rotate=0", "random_crop=0.5")
    spans, starts = [], []
    for k in range(200):
        row = step(ramp, (0, 0, k)).astype(int)[32]
        assert np.ptp(np.diff(row)) <= 3  # still a ramp
        spans.append((row[-1] - row[0]) / 189)
        starts.append(row[0] / 189)
    assert 0.45 < min(spans) < 0.6 and 0.95 < max(spans) <= 1
    assert min(starts) < 0.02 and max(starts) > 0.3


@pytest.mark.parametrize(
    ("name", "other"),
    [
        (
            "Affine",
            lambda *_, **__: warnings.warn(
                "Argument(s) 'border_mode' are not valid for transform Affine", stacklevel=2
            ),
        ),
        ("Affine", lambda **words: A.RandomBrightnessContrast((0, 0), (0, 0), p=1)),  # which moves nothing
        ("RandomBrightnessContrast", lambda *_, **__: A.RandomBrightnessContrast((0.3, 0.3), (0, 0), p=1)),
        ("RandomBrightnessContrast", lambda *_, **__: object()),  # without a seed of its own
    ],
)
def test_another_albumentations_is_refused(name, other, monkeypatch):
    augmentation.check()
    monkeypatch.setattr(augmentation, "A", types.SimpleNamespace(**(vars(A) | {name: other})))
    with pytest.raises(UserError, match=f"Albumentations {A.__version__} does not augment as this kit asks"):
        augmentation.check()
