"""What a data set is: its layout on disk, where it was found, and its labelled table."""

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from core.errors import UserError, some
from core.files import shown


@dataclass(frozen=True)
class Layout:
    """What a data set is made of: patterns that one file each must match, and the folders its images may be in."""

    name: str
    tables: tuple[str, ...]
    images: tuple[str, ...]
    from_kaggle: bool  # a competition's, which the official client can download

    @property
    def wanted(self) -> str:
        return ", ".join([f"{self.images[0]}/", *self.tables[:-1]]) + f" and {self.tables[-1]}"


@dataclass(frozen=True)
class Source:
    """A data set on disk: the folder of its CSV files, those files, the folder of its images, whether it is
    synthetic."""

    folder: Path
    tables: tuple[Path, ...]
    images: Path
    synthetic: bool = False


@dataclass(frozen=True)
class Table:
    """Labelled images: ids str [N], classes [C], targets float32 [N, C].

    `files` str [N] says where each image lies below the images' folder, None: under its id. `known` holds further
    columns, str [N] each: `patient`, and what subgroups are made of.
    """

    ids: np.ndarray
    classes: list[str]
    targets: np.ndarray
    files: np.ndarray | None = None
    known: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def places(self) -> np.ndarray:
        return self.ids if self.files is None else self.files

    def take(self, rows: np.ndarray) -> "Table":
        """Some of the rows, by mask or index."""
        files = None if self.files is None else self.files[rows]
        known = {name: values[rows] for name, values in self.known.items()}
        return replace(self, ids=self.ids[rows], targets=self.targets[rows], files=files, known=known)

    def some(self, limit: int, seed: int) -> "Table":
        """A random `limit` rows in their old order (all of them when `limit` is 0): for rehearsals."""
        if not limit or limit >= len(self.ids):
            return self
        return self.take(np.sort(np.random.default_rng(seed).permutation(len(self.ids))[:limit]))


@dataclass(frozen=True)
class Tables:
    """A data set's label side: the labelled table, and the ids without labels that are to be predicted, in their
    order, with what is known of them, str [N] each."""

    labelled: Table
    unlabelled: np.ndarray
    known: dict[str, np.ndarray] = field(default_factory=dict)


def check_ids(ids: np.ndarray, path: Path) -> None:
    """Raises UserError unless every id is a plain file name and stands there once."""
    bare = np.array([name not in ("", ".", "..") and not set(name) & set("/\\\0") for name in ids.tolist()])
    if not bare.all():
        odd = some(repr(str(name)) for name in ids[~bare])
        raise UserError(f"{shown(path)}: an id must be a plain file name, without folders: {odd}")
    names, times = np.unique(ids, return_counts=True)
    if (times > 1).any():
        twice = names[times > 1]
        raise UserError(f"{shown(path)}: {len(twice)} ids stand there more than once: {some(twice)}")
