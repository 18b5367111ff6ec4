"""The first stage: find, download or make the data set, read its tables, pack its images."""

import sys
from dataclasses import dataclass

import numpy as np

import data
import demo
import kaggle_client
import locate
from config import Config
from errors import UserError, some
from files import home, shown
from labels import Table, Tables, keep_some
from locate import Source
from task import Task


@dataclass(frozen=True)
class Prepared:
    """A data set that is ready to train on and to predict."""

    source: Source
    train: Table
    test_ids: np.ndarray
    pack: data.Pack


def find(given: str | None, slug: str, want_demo: bool = False) -> tuple[Source, bool]:
    """The data set: named, found, downloaded when credentials exist, or the built-in synthetic one, loudly.

    `want_demo` asks for the built-in set, or for `given` when that is a synthetic set. Also returns whether the demo's
    quick settings apply: when they were asked for, or when there was nothing to find.
    """
    source = locate.find(given, slug) if given or not want_demo else None
    if want_demo and source and not source.synthetic:
        raise UserError(f"--demo applies the settings of the synthetic set, and {shown(source.folder)} is none: leave --demo out")
    if source is None and not want_demo and kaggle_client.has_credentials():
        folder = kaggle_client.download(slug)
        source = locate.opened(folder, shown(folder))
    quick = want_demo or source is None
    if source is None:
        folder = demo.ensure(home() / "data" / "demo")
        source = locate.opened(folder, shown(folder))
    if source.synthetic:
        why = "--demo was asked for" if want_demo else "no data and no Kaggle credentials were found" if quick else "the data set is a synthetic one"
        if quick and not want_demo and kaggle_client.credentials().faults:
            why += f" ({'; '.join(kaggle_client.credentials().faults)})"
        line = "=" * 100
        print(f"{line}\nDEMO: {why}. This run uses SYNTHETIC radiographs; its scores say nothing about real ones.\n"
              f"For the competition give its folder with --data DIR (see README, \"Where the data goes\").\n{line}", file=sys.stderr, flush=True)
    return source, quick


def tables(source: Source, task: Task, config: Config) -> Tables:
    """The label side of a data set, its training rows cut to `limit`."""
    found = task.read(source.folder)
    return Tables(keep_some(found.train, config.limit, config.seed), found.test_ids)


def images(source: Source, found: Tables, config: Config) -> Prepared:
    """Pack every image once. Raises UserError naming the images that cannot be read."""
    train = found.train
    pack, failed = data.pack(source.images, [*train.ids, *found.test_ids], config.size)
    lost = np.isin(train.ids, list(failed))
    in_test = len(failed) - lost.sum()
    if failed and (in_test or not config.drop_unreadable):
        advice = "mend or fetch them again" if in_test else "mend them, or leave them out with drop_unreadable=true"
        raise UserError(
            f"{len(failed)} images in {shown(source.images)} cannot be read ({lost.sum()} of training, {in_test} of test): "
            f"{some((f'{name} ({reason})' for name, reason in sorted(failed.items())), 20)}; {advice}"
        )
    if failed:
        print(f"WARNING: left out of training: {len(failed)} unreadable images: {some(sorted(failed), 20)}", file=sys.stderr)
        train = Table(train.ids[~lost], train.classes, train.targets[~lost])
    return Prepared(source, train, found.test_ids, pack)
