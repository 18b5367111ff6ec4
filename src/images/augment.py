"""Training augmentation of one grey uint8 image, reproducible from a key alone."""

import os
import warnings

import numpy as np

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # or importing it asks the network for a newer version

import albumentations as A
import cv2

from core.config import Config
from core.errors import UserError

cv2.setNumThreads(0)  # the workers are the parallelism

BORDERS = {"black": cv2.BORDER_CONSTANT, "reflect": cv2.BORDER_REFLECT}


def check() -> None:
    """Raises UserError where the installed Albumentations does something else than this kit asks of it: other versions
    have other names and meanings, and say so, if at all, in a warning."""
    dot = np.zeros((32, 32), np.uint8)
    dot[4:8, 4:8] = 200
    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        try:
            moved = A.Affine(translate_percent=(0.25, 0.25), scale=(1, 1), rotate=(0, 0), border_mode=0, p=1)
            turned = A.Affine(translate_percent=(0, 0), scale=(0.5, 0.5), rotate=(180, 180), border_mode=0, p=1)
            brighter = A.RandomBrightnessContrast((0.2, 0.2), (0, 0), p=1)
            for step in (moved, turned, brighter):
                step.set_random_seed(0)
                found.append(step(image=dot)["image"])
        except Exception as error:  # of whatever kind: an unknown argument, a method that is not there
            _refuse(f"{type(error).__name__}: {error}", error)
    places = [np.argwhere(image > 100).mean(axis=0).round().tolist() for image in found[:2] if (image > 100).any()]
    if places != [[14, 14], [20, 20]] or set(np.unique(found[2])) != {51, 251}:
        _refuse(f"a dot was moved to {places}, and grey made {np.unique(found[2]).tolist()}")


def _refuse(what: str, cause: Exception | None = None) -> None:
    raise UserError(
        f"Albumentations {A.__version__} does not augment as this kit asks ({what}): install the version of"
        " requirements.txt"
    ) from cause


class Augment:
    """Flip, shift-scale-rotate (Albumentations' `Affine`, width and height by themselves), brightness, contrast, a
    square cut out at random, and noise: uint8 [S, S] to uint8 [S, S].

    Albumentations 2.0.8 repeats its random numbers in re-created workers, and hands one seed to all transforms of a
    `Compose`, which then fire together. So every transform is seeded by itself, for every image, from the key.
    """

    def __init__(self, config: Config):
        self.steps = [
            A.HorizontalFlip(p=config.flip),
            A.Affine(
                translate_percent=(-config.shift, config.shift),
                scale=(1 - config.scale, 1 + config.scale),
                rotate=(-config.rotate, config.rotate),
                border_mode=BORDERS[config.border],
                p=config.geometry,
            ),
            A.RandomBrightnessContrast(config.brightness, config.contrast, p=config.tone),
        ]
        if config.random_crop:
            kept, size = ((1 - config.random_crop) ** 2, 1.0), (config.size, config.size)
            self.steps.append(A.RandomResizedCrop(size, scale=kept, ratio=(1.0, 1.0), p=config.geometry))
        if config.noise:
            self.steps.append(A.AdditiveNoise("uniform", "per_pixel", {"ranges": [(-config.noise, config.noise)]}, p=1))

    def __call__(self, image: np.ndarray, key: tuple[int, ...]) -> np.ndarray:
        """Augment `image` by random numbers that depend on `key` (seed, epoch, position in the epoch) and nothing
        else."""
        for step, seed in zip(self.steps, np.random.SeedSequence(key).generate_state(len(self.steps)), strict=True):
            step.set_random_seed(int(seed))
            image = step(image=image)["image"]
        return image
