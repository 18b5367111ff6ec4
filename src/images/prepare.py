"""The first stage: find, download or make the data set, read its tables, pack its images."""

from __future__ import annotations

import json
import sys
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from core import folds, metadata
from core.config import Config
from core.data_set import Layout, Source, Table, Tables
from core.errors import UserError, some
from core.files import digest, home, shown
from core.runs import Run
from core.task import Task
from images import locate, lungs, synthetic
from images.pack import Pack, pack
from leaderboard import client

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Prepared:
    """A data set that is ready to train on and to predict."""

    source: Source
    labelled: Table
    unlabelled: np.ndarray
    pack: Pack

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
    source = locate.data_set(given, slug, layout, want_demo)
    quick = want_demo or source is None
    if source is None:
        source = locate.opened(synthetic.ensure(layout.name), "the built-in set", layout)
    if source.synthetic:
        _say_synthetic(slug, layout, want_demo, quick)
    return source, quick


def _say_synthetic(slug: str, layout: Layout, want_demo: bool, quick: bool) -> None:
    why = "the data set is a synthetic one"
    if want_demo:
        why = "--demo was asked for"
    elif quick and layout.from_kaggle:
        why = "; ".join(["no data and no Kaggle credentials were found", *client.credentials().faults])
    elif quick:
        why = f"no data were found in {shown(home() / 'data' / slug)}"
    line = "=" * 100
    print(
        f"{line}\nDEMO: {why}. This run uses SYNTHETIC radiographs; its scores say nothing about real ones.\n"
        f'For real ones give their folder with --data DIR (see README, "Where the data goes").\n{line}',
        file=sys.stderr,
        flush=True,
    )


def tables(source: Source, task: Task) -> Tables:
    """The label side of a data set, its labelled rows cut to `limit`. Raises UserError where they are not what the
    configuration asks for."""
    found = task.read(source)
    found = replace(found, labelled=found.labelled.some(task.config.limit, task.config.chosen_split_seed))
    metadata.require(found.labelled, task.config)
    folds.require_a_test(found, task)
    return found


def images(source: Source, found: Tables, task: Task, device: torch.device, run: Path) -> Prepared:
    """Pack every image once; `device` is where a lung network runs. In a cross-validation, whose folder is `run`, the
    labelled rows have their fold. Raises UserError naming images that cannot be read."""
    table, config = found.labelled, task.config
    ids = [*table.ids.tolist(), *found.unlabelled.tolist()]
    places = dict(zip(ids, [*table.places.tolist(), *found.unlabelled.tolist()], strict=True))
    crop = lungs.build(config.crop, config.masks, home() / "weights", device, ids)
    packed, failed = pack(source.images, ids, config.size, places, crop)
    if crop.used + crop.rejected:
        print(
            f"lung crop: {crop.used} images cropped, {crop.rejected} left whole for a mask that is empty or too small, "
            f"{crop.without} for want of one"
        )
    if failed:
        table = _without(failed, source, found, places, config)
    if config.metadata:
        parts = (found.labelled.known, len(found.labelled.ids)), (found.known, len(found.unlabelled))
        told = np.concatenate([metadata.encoded(*part, config) for part in parts])
        packed = replace(packed, covariates=told[np.argsort(ids)])  # in the order of packed.ids
    return Prepared(source, folds.numbered(table, task, run), found.unlabelled, packed)


def _without(failed: dict[str, str], source: Source, found: Tables, places: dict[str, str], config: Config) -> Table:
    """The labelled rows whose images can be read, where the rest may be left out; otherwise raises UserError."""
    lost = np.isin(found.labelled.ids, list(failed))
    without_label = len(failed) - lost.sum()
    if not without_label and config.drop_unreadable:
        names = some(sorted(failed), 20)
        print(f"WARNING: left out before the split: {len(failed)} unreadable images: {names}", file=sys.stderr)
        return found.labelled.take(~lost)
    advice = "mend or fetch them again" if without_label else "mend them, or leave them out with drop_unreadable=true"
    folders = [Path(places[name]).parent for name in failed]
    gone = Counter(str(folder) for folder in folders if not (source.images / folder).is_dir())
    if gone:
        said = some(f"{folder} ({times} images)" for folder, times in sorted(gone.items()))
        raise UserError(
            f"{sum(gone.values())} images lie in folders that are missing in {shown(source.images)}: {said}; {advice}"
        )
    kinds = f"of {len(found.labelled.ids)}"
    if len(found.unlabelled):
        kinds = f"{lost.sum()} of training, {without_label} of test"
    said = some((f"{name} ({reason})" for name, reason in sorted(failed.items())), 20)
    raise UserError(f"{len(failed)} images in {shown(source.images)} cannot be read ({kinds}): {said}; {advice}")


def same(run: Run, prepared: Prepared) -> None:
    """Raises UserError unless these are the labelled images that the run was trained on."""
    if run.about.get("digest") != prepared.learned:
        raise UserError(
            f"{shown(run.folder)} was trained on other images or labels than those in {shown(prepared.source.folder)}: "
            "name its own data set, or train under another name="
        )


def source_of(run: Path, about: dict, task: Task, given: str | None) -> Source:
    """The data set of a run: where its run.json says that it lay, or where `--data` says that it lies now."""
    folder = Path(given or about["data"])
    said = f"--data {folder}"
    if not given:
        said = f"{shown(folder)} (the data of {shown(run)}; name its new place with --data)"
    return locate.opened(folder, said, task.layout)


def of_run(run: Path, about: dict, task: Task, given: str | None, device: torch.device) -> Prepared:
    """The data set of a run, prepared again as it was."""
    source = source_of(run, about, task, given)
    return images(source, tables(source, task), task, device, run)
