"""The logits file: what a network said of some images, and what is needed to decide by it; and whether several belong
together."""

import io
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np

from core import priors
from core.errors import UserError, some
from core.files import refuse_special, shown, write_bytes

LARGEST = 4 * 10**9  # bytes of what a logits file holds
TINY = 1e-9  # a probability's floor before its logarithm


@dataclass(frozen=True)
class Logits:
    """What a network said, and what is needed to decide by it.

    ids str [N] · logits float32 [V, N, C], one slab a view, the unchanged image first · targets float32 [N, C], NaN
    unknown · classes str [C] · counts int [C], natural class counts of the training part · rows, its number of images ·
    prior float [C], the class prior that the activated logits assume (after the sampler).
    """

    ids: np.ndarray
    logits: np.ndarray
    targets: np.ndarray
    classes: np.ndarray
    counts: np.ndarray
    rows: int
    prior: np.ndarray

    @property
    def labelled(self) -> "Logits":
        """The rows of which any target is known."""
        return self.take(~np.isnan(self.targets).all(axis=1))

    def take(self, rows: np.ndarray) -> "Logits":
        """Some of the rows, by mask or index."""
        return replace(self, ids=self.ids[rows], logits=self.logits[:, rows], targets=self.targets[rows])


def write_logits(path: Path, content: Logits) -> None:
    """Raises UserError for logits that no network in order says."""
    if not np.isfinite(content.logits).all():
        what = f"the logits for {shown(path)} are not all numbers, so the network is damaged"
        raise UserError(f"{what}: delete {shown(path.parent)} and train again")
    buffer = io.BytesIO()
    np.savez(buffer, **{field.name: getattr(content, field.name) for field in fields(Logits)})
    write_bytes(path, buffer.getvalue())


KINDS = {  # of the fields' numbers or text, in numpy's letters
    "ids": "U", "logits": "fiu", "targets": "fiu", "classes": "U", "counts": "fiu", "rows": "iu", "prior": "fiu",
}  # fmt: skip


def read_logits(path: Path) -> Logits:
    """Read and check a logits file. Raises UserError for a missing, truncated, mis-shaped or non-finite one."""
    where = shown(path)
    refuse_special(Path(path))
    try:
        content = _loaded(path, where)
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"{where} cannot be read ({error.strerror or error})") from error
    except Exception as error:  # zip, decompression, number and memory errors: each means that the file is damaged
        raise UserError(f"{where} is truncated or no .npz file of this kit: make it again") from error
    _check_shapes(content, where)
    _check_names(content, where)
    _check_numbers(content, where)
    return content


def _loaded(path: Path, where: str) -> Logits:
    with np.load(path, allow_pickle=False) as archive:
        missing = [name for name in KINDS if name not in archive.files]
        if missing:
            raise UserError(f"{where} lacks {some(missing)}: it is no logits file of this kit")
        size = sum(archive.zip.getinfo(f"{name}.npy").file_size for name in KINDS)
        if size > LARGEST:
            raise UserError(f"{where} holds {size / 1e9:,.0f} GB, and a logits file no more than {LARGEST / 1e9:.0f}")
        found = {name: archive[name] for name in KINDS}
    for name, kinds in KINDS.items():
        if found[name].dtype.kind not in kinds:
            wanted = "text is" if kinds == "U" else "numbers are"
            raise UserError(f"{where}: {name} are {found[name].dtype}, where {wanted} wanted")
    with np.errstate(over="ignore"):
        floats = {name: np.float32(found[name]) for name in ("logits", "targets")}
        return Logits(**{**found, **floats, "rows": int(found["rows"])})


def _check_shapes(content: Logits, where: str) -> None:
    rows, classes, views = content.ids.shape[:1], content.classes.shape[:1], content.logits.shape[:1]
    wanted = {"ids": rows, "classes": classes, "counts": classes, "prior": classes}
    wanted |= {"logits": views + rows + classes, "targets": rows + classes}
    for name, shape in wanted.items():
        if getattr(content, name).shape != shape:
            found = getattr(content, name).shape
            raise UserError(f"{where}: {name} has shape {found} where its ids and classes ask for {shape}")
    if not content.logits.size:
        raise UserError(f"{where} holds no rows")


def _check_names(content: Logits, where: str) -> None:
    for what, names in (("ids", content.ids), ("classes", content.classes)):
        found, times = np.unique(names, return_counts=True)
        odd = found[(times > 1) | (found == "")]
        if any("\ud800" <= letter <= "\udfff" for letter in "".join(found.tolist())):  # no file could hold them
            raise UserError(f"{where}: {what} have characters that no text has (surrogates): make it again")
        if len(odd):
            said = some(repr(str(one)) for one in odd)
            raise UserError(f"{where}: {what} must be different names; twice or empty: {said}")
    if (content.classes == "id").any():
        raise UserError(f"{where}: a class cannot be called id, which is the submission's first column")


def _check_numbers(content: Logits, where: str) -> None:
    for name in ("counts", "prior", "rows"):
        values = np.asarray(getattr(content, name))
        if not np.isfinite(values).all() or values.min() < 0 or values.max() > 1e12 or not values.any():
            raise UserError(f"{where}: {name} must be finite, not negative and not all 0")
    if not ((content.counts > 0) & (content.prior > 0)).any():
        raise UserError(f"{where}: no class has both training images (counts) and a training prior (prior)")
    bad = ~(np.abs(content.logits) < 1e6).all(axis=(0, 2))
    if bad.any():
        raise UserError(
            f"{where} has logits that are NaN, infinite or beyond a million, in {bad.sum()} rows:"
            f" {some(content.ids[bad])}"
        )


def same_classes(lists: Sequence[list[str]], what: str) -> None:
    """Raises UserError unless all lists are the first; `what` names them, as `the validation files`."""
    for classes in lists[1:]:
        if classes != lists[0]:
            odd = sorted(set(classes) ^ set(lists[0]))
            raise UserError(
                f"{what} are for other classes: {some(odd)} in only one of them"
                if odd
                else f"{what} have their classes in different orders"
            )


def same_images(contents: Sequence[Logits]) -> None:
    """Raises UserError unless all hold the images of the first, in its order."""
    for content in contents[1:]:
        if not np.array_equal(content.ids, contents[0].ids):
            raise UserError(
                "the logits files hold different images, or in different orders: all must be of the same test set"
            )


def ids_of(contents: Sequence[Logits]) -> np.ndarray:
    """The ids of the rows of all files, one file after the other: str [N]."""
    return np.concatenate([content.ids for content in contents])


def same_rows(content: Logits, first: Logits) -> np.ndarray | None:
    """Where the rows of `first` stand in a file of the same images in whatever order, int [N]; None for a file of other
    images or classes."""
    if not (
        np.array_equal(np.sort(content.ids), np.sort(first.ids)) and np.array_equal(content.classes, first.classes)
    ):
        return None
    places = np.empty(len(first.ids), int)
    places[np.argsort(first.ids)] = np.argsort(content.ids)
    return places


def different_images(contents: Sequence[Logits]) -> None:
    """Raises UserError for an image that is in more than one of the files, which are the folds of a
    cross-validation."""
    names, times = np.unique(ids_of(contents), return_counts=True)
    if (times > 1).any():
        raise UserError(
            f"{(times > 1).sum()} ids stand more than once in the validation files, whose rows must be different"
            f" images: {some(names[times > 1])}"
        )


def pooled(contents: Sequence[Logits], exclusive: bool) -> Logits:
    """The validation rows of all networks of a cross-validation as one file, each as its own network said it, under the
    natural frequencies of all these rows, so that one `prior` is true; a single file as it is."""
    if len(contents) == 1:
        return contents[0]
    targets = np.concatenate([content.targets for content in contents])
    counts, prior = _natural(targets, exclusive)
    logits = [exchanged(content, counts, len(targets), prior, exclusive).logits for content in contents]
    return Logits(
        ids_of(contents), np.concatenate(logits, axis=1), targets, contents[0].classes, counts, len(targets), prior
    )


def exchanged(content: Logits, counts: np.ndarray, rows: int, prior: np.ndarray, exclusive: bool) -> Logits:
    """A file that assumes another prior (`priors.shift`), with these counts and rows."""
    logits = np.float32(content.logits + priors.shift(content.prior, prior, exclusive))
    return replace(content, logits=logits, counts=counts, rows=rows, prior=prior)


def of_probabilities(rows: Logits, p: np.ndarray, val: Logits, exclusive: bool) -> Logits:
    """A file that says the probabilities p [N, C] of some rows, in a single view, under the natural frequencies of the
    validation rows: their logarithms, or log-odds a label."""
    low = np.maximum(p, TINY)
    logits = np.float32(np.log(low) if exclusive else np.log(low / np.maximum(1 - p, TINY)))[None]
    counts, prior = _natural(val.targets, exclusive)
    return Logits(rows.ids, logits, rows.targets, rows.classes, counts, len(val.ids), prior)


def _natural(targets: np.ndarray, exclusive: bool) -> tuple[np.ndarray, np.ndarray]:
    """Counts int [C] and prior float [C] of labelled rows."""
    counts = np.nansum(targets, axis=0).astype(int)
    return counts, priors.prior(counts, {}) if exclusive else priors.prevalence(targets, None)
