"""Images that are worth a look: rows of a logits file, a class for each, and why."""

from collections.abc import Iterable
from itertools import zip_longest
from typing import NamedTuple

import numpy as np


class Example(NamedTuple):
    """A row of a logits file, the column of the class to explain there, that class's probability, and why this
    image."""

    row: int
    label: int
    p: float
    why: str


def falling(rows: np.ndarray, p: np.ndarray) -> list[int]:
    """The rows by falling p [N]; of equal ones the first first."""
    return rows[np.argsort(-p[rows], kind="stable")].tolist()


def in_turn(queues: Iterable[list[Example]], number: int) -> list[Example]:
    """One of every queue in turn until there are `number`, no row twice; then queue by queue."""
    first: dict[int, tuple[int, Example]] = {}
    for turn in zip_longest(*queues):
        for place, example in enumerate(turn):
            if example is not None:
                first.setdefault(example.row, (place, example))
    return [example for _, example in sorted(list(first.values())[:number], key=lambda pair: pair[0])]
