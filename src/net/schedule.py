"""The learning rate of every step, as a factor of the optimizer's own rates: a function of the step's number alone, so
that a run which goes on needs no state of it."""

import math

from core.config import Config


def factor(config: Config, step: int, steps: int) -> float:
    """What the rates of step number `step` (from 0) are multiplied by, where an epoch has so many `steps`.

    Over the first `warmup` epochs it rises linearly to 1 (Goyal et al. 2017, section 2.2). Then it is 1 with the
    plateau, which changes the rates themselves, and with cosine (1 + cos(π·t)) / 2, t from 0 to 1 over all steps that
    remain (Loshchilov and Hutter 2017, equation 5, without restarts).
    """
    warmup = round(config.warmup * steps)
    if step < warmup:
        return (step + 1) / warmup
    if config.schedule == "plateau":
        return 1.0
    return (1 + math.cos(math.pi * (step - warmup) / (config.epochs * steps - warmup))) / 2
