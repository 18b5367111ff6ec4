"""Where the competition's data lies, on a laptop and inside a Kaggle kernel."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from errors import UserError
from files import home, shown

KAGGLE_INPUT = Path(os.environ.get("CXR_KAGGLE", "/kaggle")) / "input"  # a rehearsal has its own /kaggle
MARKERS = ("train.csv", "test.csv")


@dataclass(frozen=True)
class Source:
    """A data set on disk: the folder of its CSV files, the folder of its images, and whether it is synthetic."""

    folder: Path
    images: Path
    synthetic: bool = False


def find(given: str | None, slug: str) -> Source | None:
    """`--data`, then `CXR_DATA`, then data/<slug>/, then the Kaggle mounts; None when none of them is there.

    A place that was named by the user is used or refused, never passed over for the next one.
    """
    for origin, place in (("--data", given), ("CXR_DATA", os.environ.get("CXR_DATA"))):
        if place:
            return opened(Path(place), f"{origin} {place}")
    mounts = (KAGGLE_INPUT / "competitions" / slug, KAGGLE_INPUT / slug)
    for folder in (home() / "data" / slug, *mounts):
        if folder.is_dir():
            return opened(folder, shown(folder))
    if not KAGGLE_INPUT.is_dir():
        return None
    found = sorted({path for path in _folders(KAGGLE_INPUT, 4) if _complete(path)})
    if len(found) > 1:
        raise UserError(f"several folders below {KAGGLE_INPUT} hold {' and '.join(MARKERS)}: {', '.join(map(str, found))}; set CXR_DATA to one of them")
    if not found:
        raise UserError(f"no folder below {KAGGLE_INPUT} holds {' and '.join(MARKERS)}: is the competition {slug} attached, and are its rules accepted?")
    return opened(found[0], shown(found[0]))


def opened(folder: Path, said: str) -> Source:
    """The data set in `folder`, checked for its CSV files and its images (which some mounts nest as images/images)."""
    if not folder.is_dir():
        raise UserError(f"{said}: there is no such folder")
    missing = [name for name in MARKERS if not (folder / name).is_file()]
    if missing:
        raise UserError(f"{said}: {' and '.join(missing)} not found there; wanted are images/, train.csv and test.csv")
    places = [place for place in (folder / "images", folder / "images" / "images") if place.is_dir()]
    filled = [place for place in places if any(entry.is_file() for entry in os.scandir(place))]
    if not filled:
        what = "the folder images/ is empty" if places else "the folder images/ not found there"
        raise UserError(f"{said}: {what}; wanted are images/, train.csv and test.csv")
    return Source(folder.resolve(), filled[0].resolve(), (folder / "demo.json").is_file())


def _complete(folder: Path) -> bool:
    return all((folder / name).is_file() for name in MARKERS)


def _folders(top: Path, depth: int) -> Iterator[Path]:
    """Folders below `top`, never those of images: listing one of them over a network mount takes minutes."""
    for entry in os.scandir(top):
        if entry.is_dir() and entry.name != "images":
            yield Path(entry.path)
            if depth > 1:
                yield from _folders(Path(entry.path), depth - 1)
