"""Training augmentation of one grey uint8 image, reproducible from a key alone."""

import os

import numpy as np

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # or importing it asks the network for a newer version

import albumentations as A
import cv2

from core.config import Config

cv2.setNumThreads(0)  # the workers are the parallelism

BORDERS = {"black": cv2.BORDER_CONSTANT, "reflect": cv2.BORDER_REFLECT}


class Augment:
    """Flip, shift-scale-rotate (Albumentations' `Affine`, width and height by themselves), brightness, contrast and
    noise: uint8 [S, S] to uint8 [S, S].

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
        if config.noise:
            self.steps.append(A.AdditiveNoise("uniform", "per_pixel", {"ranges": [(-config.noise, config.noise)]}, p=1))

    def __call__(self, image: np.ndarray, key: tuple[int, ...]) -> np.ndarray:
        """Augment `image` by random numbers that depend on `key` (seed, epoch, position in the epoch) and nothing
        else."""
        for step, seed in zip(self.steps, np.random.SeedSequence(key).generate_state(len(self.steps)), strict=True):
            step.set_random_seed(int(seed))
            image = step(image=image)["image"]
        return image
