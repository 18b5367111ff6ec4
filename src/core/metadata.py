"""What the head may be told of a patient beside the image: the key `metadata`.

A few columns a quantity, on fixed scales, so that they depend on no other image. What is not known is said to be so,
and never guessed.
"""

import re
from collections.abc import Mapping

import numpy as np

from core.config import Config
from core.data_set import Table
from core.errors import UserError

KNOWN = {"age": "age", "sex": "sex", "view": "projection", "follow_up": "follow_up"}  # key → column of `Table.known`
OLDEST = 120  # years; NIH's own file has patients of 148 to 414


def columns(config: Config) -> list[str]:
    """The names of the columns that `metadata` asks for."""
    of = {
        "age": ["age", "age unknown"],
        "sex": ["sex F", "sex M"],
        "view": [f"view {one}" for one in getattr(config, "projections", ())],
        "follow_up": ["follow_up", "follow_up unknown"],
    }
    return [column for name in config.metadata for column in of[name]]


def encoded(known: Mapping[str, np.ndarray], images: int, config: Config) -> np.ndarray:
    """Those columns, float32 [N, M], from what is known of so many images, str [N] each.

    age: (years − 50) / 20; follow_up: ln(1 + number) − 2; where the number is not known, it is 0 and the column beside
    it 1. sex and view: 0 and 1 each; all 0 where it is another one, or not known.
    """
    nothing = np.full(images, "")
    found = [_column(name, known.get(KNOWN[name.split()[0]], nothing)) for name in columns(config)]
    return np.array(found, np.float32).reshape(len(found), images).T


def unknown(config: Config) -> list[float]:
    """Those columns of a patient of whom nothing is known."""
    return encoded({}, 1, config)[0].tolist()


def require(table: Table, config: Config) -> None:
    """Raises UserError for a quantity that is the same for all of the images, or not known of any."""
    told = encoded(table.known, len(table.ids), config)
    for name in config.metadata:
        mine = [place for place, column in enumerate(columns(config)) if column.split()[0] == name]
        if not np.ptp(told[:, mine], axis=0).any():
            raise UserError(
                f"metadata = {name}: it is the same for all {len(table.ids)} labelled images, or not known of any:"
                f" leave {name} out"
            )


def _column(column: str, cells: np.ndarray) -> list[float]:
    name, _, value = column.partition(" ")
    cells = [str(cell).strip() for cell in cells]
    if name in ("sex", "view"):
        return [float(cell == value) for cell in cells]
    numbers = [_number(name, cell) for cell in cells]
    return [float(number is None) for number in numbers] if value else [number or 0.0 for number in numbers]


def _number(name: str, cell: str) -> float | None:
    """A cell such as `57`, `057Y` or `57.0`, scaled; None where it is no such number."""
    found = re.fullmatch(r"(\d{1,9})(\.0*)?Y?", cell)
    if not found or name == "age" and int(found[1]) > OLDEST:
        return None
    return (int(found[1]) - 50) / 20 if name == "age" else float(np.log1p(int(found[1])) - 2)
