"""From a packed array to batches: the data set that reads it, and the order of an epoch.

Workers read single-channel rows and send uint8; normalisation and the three channels come on the device
(net.model.Net).
"""

from collections.abc import Iterator
from itertools import islice
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler, Sampler, WeightedRandomSampler

from core import ranks
from core.data_set import Table
from images.augment import Augment
from images.pack import Pack


class Draw(NamedTuple):
    """One place of an epoch: which image stands there. The place seeds the augmentation, so an image that is drawn
    twice looks different each time, and results do not depend on the number of workers."""

    epoch: int
    position: int
    index: int


class Order(Sampler):
    """The order of one epoch as `Draw`s; set `epoch` before iterating, and `start` to pass over the first so many.

    weights float [N]: drawn with replacement in that proportion. `None`: each image once, shuffled if `shuffle`.
    """

    def __init__(self, length: int, weights: np.ndarray | None = None, shuffle: bool = False, seed: int = 0):
        self.length, self.weights, self.shuffle, self.seed = length, weights, shuffle, seed
        self.epoch = self.start = 0

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[Draw]:
        generator = torch.Generator().manual_seed(
            int(np.random.SeedSequence((self.seed, self.epoch)).generate_state(1)[0])
        )
        order = range(self.length)
        if self.weights is not None:
            order = WeightedRandomSampler(self.weights, self.length, generator=generator)
        elif self.shuffle:
            order = RandomSampler(order, generator=generator)
        for position, index in islice(enumerate(order), self.start, None):
            yield Draw(self.epoch, position, int(index))


Of = Literal["rows", "batches", "all"]


class Share(BatchSampler):
    """The batches of an order, and of several ranks what this one has of them: `of` every batch its rows, every so
    many-th; or of all batches whole ones, likewise; or `all` of everything. Nothing is drawn twice or filled up, and
    the order is the same for any number of ranks."""

    def __init__(self, order: Order, batch: int, drop_last: bool, of: Of):
        super().__init__(order, batch, drop_last)
        self.of, self.mine = of, slice(ranks.rank(), None, ranks.count())

    def __iter__(self) -> Iterator[list[Draw]]:
        batches = super().__iter__()
        if self.of == "batches":
            batches = islice(batches, self.mine.start, None, self.mine.step)
        for draws in batches:
            yield draws[self.mine] if self.of == "rows" else draws

    def __len__(self) -> int:
        every = super().__len__()
        return len(range(every)[self.mine]) if self.of == "batches" else every


class Images(Dataset):
    """Rows of a packed array with their targets. An item: uint8 [1, S, S], float32 [C]; between them, where the network
    is told more than the image, float32 [M].

    Holds the path, not the pixels: every worker maps the file for itself, and memory stays the page cache's.
    """

    def __init__(self, pack: Pack, ids: np.ndarray, targets: np.ndarray, augment: Augment | None = None, seed: int = 0):
        self.array, self.rows, self.targets = pack.array, pack.rows(ids), np.asarray(targets, np.float32)
        self.augment, self.seed, self._mapped = augment, seed, None
        self.covariates = None if pack.covariates is None else pack.covariates[self.rows]

    def __len__(self) -> int:
        return len(self.rows)

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_mapped": None}  # pickling a mapping would copy the whole array

    def __getitem__(self, draw: Draw) -> tuple[torch.Tensor, ...]:
        if self._mapped is None:
            self._mapped = np.load(self.array, mmap_mode="r")
        image = np.array(self._mapped[self.rows[draw.index]])
        if self.augment:
            image = self.augment(image, (self.seed, draw.epoch, draw.position))
        told = [] if self.covariates is None else [torch.from_numpy(self.covariates[draw.index])]
        return torch.from_numpy(image)[None], *told, torch.from_numpy(self.targets[draw.index])


def in_order(pack: Pack, table: Table, batch: int, workers: int, pin: bool, of: Of = "all") -> DataLoader:
    """Every image of a table once, unchanged, in its order: what is validated, predicted and probed. `of` the batches
    several ranks have each their share."""
    images = Images(pack, table.ids, table.targets)
    return batched(images, Order(len(images)), 2 * batch, workers, pin, of=of)


def batched(
    images: Images, order: Order, batch: int, workers: int, pin: bool, drop_last: bool = False, of: Of = "all"
) -> DataLoader:
    """Batches of items in the given order, uint8 [B, 1, S, S] and float32 [B, C]; `of` them what a `Share` is."""
    return DataLoader(
        images,
        batch_sampler=Share(order, batch, drop_last, of),
        num_workers=workers,
        pin_memory=pin,
        persistent_workers=workers > 0,
        generator=torch.Generator().manual_seed(
            0
        ),  # or every pass would draw from the global generator that dropout uses
    )
