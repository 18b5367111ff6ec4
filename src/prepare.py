"""The first stage: find, download or make the data set, read its tables, pack its images."""

import json
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import data
import demo
import kaggle_client
import locate
import lungs
import machine
import sources
from config import Config
from errors import UserError, some
from files import digest, home, shown
from labels import Table, Tables, keep_some
from locate import Layout, Source
from runs import Run
from task import Task


@dataclass(frozen=True)
class Prepared:
    """A data set that is ready to train on and to predict."""

    source: Source
    labelled: Table
    unlabelled: np.ndarray
    pack: data.Pack

    @property
    def learned(self) -> str:
        """A fingerprint of what a run learns from: classes, ids, labels and packed pixels of the labelled table."""
        content = json.dumps([self.labelled.classes, self.pack.fingerprint(self.labelled.ids)])
        return digest(content.encode() + self.labelled.targets.tobytes())


def find(given: str | None, slug: str, layout: Layout, want_demo: bool = False) -> tuple[Source, bool]:
    """The data set: named, found, downloaded when credentials exist, or the built-in synthetic one, loudly.

    `want_demo` asks for the built-in set, or for `given` when that is a synthetic set. Also returns whether the demo's
    quick settings apply: when they were asked for, or when there was nothing to find.
    """
    source = sources.found(given, slug, layout, want_demo)
    quick = want_demo or source is None
    if source is None:
        folder = demo.ensure(home() / "data" / demo.LAYOUTS[layout.name].folder, layout.name)
        source = locate.opened(folder, shown(folder), layout)
    if source.synthetic:
        nothing = "no data and no Kaggle credentials were found" if layout.from_kaggle else f"no data were found in {shown(home() / 'data' / slug)}"
        why = "--demo was asked for" if want_demo else nothing if quick else "the data set is a synthetic one"
        if quick and not want_demo and layout.from_kaggle and kaggle_client.credentials().faults:
            why += f" ({'; '.join(kaggle_client.credentials().faults)})"
        line = "=" * 100
        print(f"{line}\nDEMO: {why}. This run uses SYNTHETIC radiographs; its scores say nothing about real ones.\n"
              f"For real ones give their folder with --data DIR (see README, \"Where the data goes\").\n{line}", file=sys.stderr, flush=True)
    return source, quick


def tables(source: Source, task: Task, config: Config) -> Tables:
    """The label side of a data set, its labelled rows cut to `limit`."""
    found = task.read(source)
    return Tables(keep_some(found.labelled, config.limit, config.chosen_split_seed), found.unlabelled)


def images(source: Source, found: Tables, config: Config) -> Prepared:
    """Pack every image once. Raises UserError naming the images that cannot be read."""
    table = found.labelled
    crop = lungs.build(config.crop, config.masks, home() / "weights", machine.device(config), [*table.ids.tolist(), *found.unlabelled.tolist()])
    ids = [*table.ids.tolist(), *found.unlabelled.tolist()]
    places = dict(zip(ids, [*table.places.tolist(), *found.unlabelled.tolist()], strict=True))
    pack, failed = data.pack(source.images, ids, config.size, places, crop)
    if crop.used + crop.rejected:
        print(f"lung crop: {crop.used} images cropped, {crop.rejected} left whole for a mask that is empty or too small, {crop.without} for want of one")
    lost = np.isin(table.ids, list(failed))
    without_label = len(failed) - lost.sum()
    if failed and (without_label or not config.drop_unreadable):
        advice = "mend or fetch them again" if without_label else "mend them, or leave them out with drop_unreadable=true"
        gone = Counter(str(place.parent) for place in (Path(places[name]) for name in failed) if not (source.images / place.parent).is_dir())
        if gone:
            raise UserError(f"{sum(gone.values())} images lie in folders that are missing in {shown(source.images)}: {some(f'{folder} ({times} images)' for folder, times in sorted(gone.items()))}; {advice}")
        kinds = f"{lost.sum()} of training, {without_label} of test" if len(found.unlabelled) else f"of {len(table.ids)}"
        raise UserError(
            f"{len(failed)} images in {shown(source.images)} cannot be read ({kinds}): "
            f"{some((f'{name} ({reason})' for name, reason in sorted(failed.items())), 20)}; {advice}"
        )
    if failed:
        print(f"WARNING: left out before the split: {len(failed)} unreadable images: {some(sorted(failed), 20)}", file=sys.stderr)
        table = table.take(~lost)
    return Prepared(source, table, found.unlabelled, pack)


def same(run: Run, prepared: Prepared) -> None:
    """Raises UserError unless these are the labelled images that the run was trained on."""
    if run.about.get("digest") != prepared.learned:
        raise UserError(f"{shown(run.folder)} was trained on other images or labels than those in {shown(prepared.source.folder)}: name its own data set, or train under another name=")


def source_of(run: Path, about: dict, task: Task, given: str | None) -> Source:
    """The data set of a run, from its run.json: where it lay then, or where `--data` says that it lies now."""
    folder = Path(given or about["data"])
    return locate.opened(folder, f"--data {folder}" if given else f"{shown(folder)} (the data of {shown(run)}; name its new place with --data)", task.layout)
