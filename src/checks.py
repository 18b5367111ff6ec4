"""Whether logits files belong together: the same classes, the same images, or different ones."""

from collections.abc import Sequence

import numpy as np

from errors import UserError, some
from files import Logits


def same_classes(lists: Sequence[list[str]], what: str) -> None:
    """Raises UserError unless all lists are the first; `what` names them, as `the validation files`."""
    for classes in lists[1:]:
        if classes != lists[0]:
            odd = sorted(set(classes) ^ set(lists[0]))
            raise UserError(f"{what} are for other classes: {some(odd)} in only one of them" if odd else f"{what} have their classes in different orders")


def same_images(contents: Sequence[Logits]) -> None:
    """Raises UserError unless all hold the images of the first, in its order."""
    for content in contents[1:]:
        if not np.array_equal(content.ids, contents[0].ids):
            raise UserError("the logits files hold different images, or in different orders: all must be of the same test set")


def different_images(contents: Sequence[Logits]) -> None:
    """Raises UserError for an image that is in more than one of the files, which are the folds of a cross-validation."""
    names, times = np.unique(np.concatenate([content.ids for content in contents]), return_counts=True)
    if (times > 1).any():
        raise UserError(f"{(times > 1).sum()} ids stand more than once in the validation files, whose rows must be different images: {some(names[times > 1])}")
