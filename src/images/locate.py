"""Where a data set lies, on a laptop and inside a Kaggle kernel, and what makes a folder one."""

import os
from collections.abc import Iterator
from pathlib import Path

from core.data_set import Layout, Source
from core.errors import UserError, some
from core.files import home, shown
from leaderboard import client

KAGGLE_INPUT = Path(os.environ.get("CXR_KAGGLE", "/kaggle")) / "input"  # a rehearsal has its own /kaggle


def find(given: str | None, slug: str, layout: Layout) -> Source | None:
    """`--data`, then `CXR_DATA`, then data/<slug>/, then the Kaggle mounts; None when none of them is there.

    A place that was named by the user is used or refused, never passed over for the next one.
    """
    for origin, place in (("--data", given), ("CXR_DATA", os.environ.get("CXR_DATA"))):
        if place == "":
            raise UserError(
                f"{origin} is empty, as an unset variable of the shell leaves it: name the folder of the data set, or"
                " unset it"
            )
        if place:
            return opened(Path(place), f"{origin} {place}", layout)
    mounts = (KAGGLE_INPUT / "competitions" / slug, KAGGLE_INPUT / slug)
    for folder in (home() / "data" / slug, *mounts):
        if folder.is_dir():
            return opened(folder, shown(folder), layout)
    if not KAGGLE_INPUT.is_dir():
        return None
    found = sorted({path for path in _folders(KAGGLE_INPUT, 4) if all(_matches(path, layout))})
    if len(found) > 1:
        raise UserError(
            f"several folders below {KAGGLE_INPUT} hold {' and '.join(layout.tables)}: {', '.join(map(str, found))};"
            " set CXR_DATA to one of them"
        )
    if not found:
        raise UserError(
            f"no folder below {KAGGLE_INPUT} holds {' and '.join(layout.tables)}: is {slug}"
            f" attached{', and are its rules accepted' if layout.from_kaggle else ''}?"
        )
    return opened(found[0], str(found[0]), layout)


def opened(folder: Path, said: str, layout: Layout) -> Source:
    """The data set in `folder`, checked for its CSV files and its images (which some mounts nest as images/images)."""
    if not folder.is_dir():
        raise UserError(f"{said}: there is no such folder")
    matches = _matches(folder, layout)
    missing = [pattern for pattern, found in zip(layout.tables, matches, strict=True) if not found]
    if missing:
        raise UserError(f"{said}: {' and '.join(missing)} not found there; wanted are {layout.wanted}")
    several = [found for found in matches if len(found) > 1]
    if several:
        raise UserError(
            f"{said}: several files could be the labels: {some(path.name for path in several[0])}; leave one of them"
            " there"
        )
    places = [place for place in map(folder.joinpath, layout.images) if place.is_dir()]
    filled = [place for place in places if any(_holds_images(entry) for entry in os.scandir(place))]
    if not filled:
        what = "the folder images/ is empty" if folder / "images" in places else "the folder images/ not found there"
        raise UserError(f"{said}: {what}; wanted are {layout.wanted}")
    return Source(
        folder.resolve(),
        tuple(found[0].resolve() for found in matches),
        filled[0].resolve(),
        (folder / "demo.json").is_file(),
    )


def _matches(folder: Path, layout: Layout) -> list[list[Path]]:
    return [sorted(path for path in folder.glob(pattern) if path.is_file()) for pattern in layout.tables]


def _holds_images(entry: os.DirEntry) -> bool:
    """A picture, or one of PadChest's numbered folders; any file in a folder that is called after images."""
    if entry.name.startswith("."):
        return False
    return (
        entry.name.isdigit()
        if entry.is_dir()
        else Path(entry.path).parent.name == "images" or entry.name.lower().endswith((".png", ".jpg", ".jpeg"))
    )


def _folders(top: Path, depth: int) -> Iterator[Path]:
    """Folders below `top`, never those of images, nor numbered ones: listing one of them over a network mount takes
    minutes."""
    for entry in os.scandir(top):
        if entry.is_dir() and entry.name != "images" and not entry.name.isdigit():
            yield Path(entry.path)
            if depth > 1:
                yield from _folders(Path(entry.path), depth - 1)


def data_set(given: str | None, slug: str, layout: Layout, want_demo: bool) -> Source | None:
    """The data set: named, found, or downloaded when credentials exist; None where only the built-in synthetic one is
    left.

    `want_demo` asks for the built-in set, or for `given` when that is a synthetic set; UserError when it is not.
    """
    source = find(given, slug, layout) if given or not want_demo else None
    if want_demo and source and not source.synthetic:
        raise UserError(
            f"--demo applies the settings of the synthetic set, and {shown(source.folder)} is none: leave --demo out"
        )
    if source is None and not want_demo and layout.from_kaggle and client.has_credentials():
        folder = client.download(slug)
        source = opened(folder, shown(folder), layout)
    return source
