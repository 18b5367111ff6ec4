"""Grad-CAM of a run: `explain.py RUN [--labels a,b] [--number N] [--masks DIR] [--data DIR] [--out DIR]`.

Writes RUN/figures/explain/*.png, one contact sheet RUN/figures/explain.png, and RUN/figures/explain.csv.
"""

from core.errors import UserError, command, some  # first, so that Ctrl-C is quiet while torch loads

# isort: split

import difflib
import re
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from answers import overlays
from answers.overlays import Tile
from core import metadata
from core.commands import Parser
from core.config import Config
from core.data_set import Source, Table
from core.examples import Example
from core.files import home, shown, write_bytes, write_rows
from core.logits_file import Logits
from core.runs import Run
from core.task import Task
from images import lungs, prepare
from images import pack as images_pack
from net import cam, model, refit
from net import machine as machinery
from tasks.opened import open_run


def explain(
    run: Run, source: Source, task: Task, content: Logits, examples: Sequence[Example], masks: Path | None, out: Path
) -> list[dict]:
    """Write the pictures, the sheet and the CSV into `out`; returns the CSV's rows.

    `content` is the logits file whose rows the examples are; `masks` a folder of lung masks, None: the run's own, where
    it has any. A row's `map` is a kind of `cam.spread`; `energy_in_lungs` is the share of that map inside the lung mask
    and `lungs_in_image` the mask's share of the image, which is what chance would give; empty where there is no mask,
    or no map. Raises UserError for images that are not in the data set or cannot be read.
    """
    config = task.config
    cropper, masker = _croppers(config, masks, content.ids.tolist(), machinery.device(config))
    ids = content.ids[[example.row for example in examples]]
    table = _labelled(source, task, ids)
    places = dict(zip(ids.tolist(), table.places.tolist(), strict=True))
    pixels = _pixels(source, ids, places, config.size, cropper)
    maps = _maps(run, task, pixels, table, [example.label for example in examples])

    rows, tiles = [], []
    for one, image, signed, example in zip(ids.tolist(), pixels, maps, examples, strict=True):
        mask = _mask(source.images / places[one], one, cropper, masker, config.size)
        label = str(content.classes[example.label])
        row, tile = _explained(one, label, example, image, cam.spread(signed, config.size), mask)
        rows.append(row)
        tiles.append(tile)

    synthetic = "SYNTHETIC DATA: " if run.about.get("synthetic") else ""
    enlarged = f"enlarged from {maps.shape[1]} × {maps.shape[2]} positions"
    written = _pictures(rows, tiles, synthetic, f"Grad-CAM of {config.name} ({config.model}), {enlarged}", out)
    for path, picture in written.items():
        write_bytes(path, picture)
    write_rows(out / "explain.csv", rows)
    for stale in set((run / "figures/explain").glob("*.png")) - written.keys() if out == run / "figures" else ():
        stale.unlink()
    return rows


def radiographs(
    run: Run, source: Source, task: Task, content: Logits, examples: Sequence[Example]
) -> list[tuple[np.ndarray, np.ndarray | None, str]]:
    """Every example's image uint8 [S, S], its map from 0 to 1 [S, S] for the example's class, and that map's kind, of
    `cam.KINDS`. Raises UserError for images that are not there; a network that has no maps gives None and the
    reason."""
    config = task.config
    cropper, _ = _croppers(config, None, content.ids.tolist(), machinery.device(config))
    ids = content.ids[[example.row for example in examples]]
    table = _labelled(source, task, ids)
    pixels = _pixels(source, ids, dict(zip(ids.tolist(), table.places.tolist(), strict=True)), config.size, cropper)
    try:
        maps = _maps(run, task, pixels, table, [example.label for example in examples])
    except UserError as error:
        return [(image, None, str(error)) for image in pixels]
    return [(image, *cam.spread(signed, config.size)) for image, signed in zip(pixels, maps, strict=True)]


def _maps(run: Run, task: Task, pixels: np.ndarray, table: Table, labels: Sequence[int]) -> np.ndarray:
    """`cam.weighted` of images uint8 [N, S, S], whose rows the table has, by the run's network."""
    config = task.config
    machine = machinery.pick(config.model_copy(update={"precision": "fp32"}))  # gradients of bf16 are coarse
    net = machine.place(model.build(config, len(run.about["classes"]), weights="none"))
    refit.answering(net, config, run, machine.device)
    told = None
    if config.metadata:
        told = torch.from_numpy(metadata.encoded(table.known, len(table.ids), config)).to(machine.device)
    return cam.weighted(net, torch.from_numpy(pixels)[:, None].to(machine.device), labels, told)


def _croppers(
    config: Config, masks: Path | None, ids: list[str], device: torch.device
) -> tuple[lungs.Cropper, lungs.Cropper]:
    """What crops the run's images, and what has the lung masks that are shown: those of `masks`, else the run's own."""
    cropper = lungs.build(config.crop, config.masks, home() / "weights", device, ids)
    if masks:
        return cropper, lungs.Masks(masks, ids)
    if config.crop != "none" or not config.masks:
        return cropper, cropper
    return cropper, lungs.Masks(Path(config.masks), ids)


def _labelled(source: Source, task: Task, ids: np.ndarray) -> Table:
    """The rows of these images in the data set's labelled table."""
    table = task.read(source).labelled
    rows = {one: row for row, one in enumerate(table.ids.tolist())}
    if lost := [one for one in ids.tolist() if one not in rows]:
        raise UserError(
            f"{shown(source.folder)} does not have the run's images {some(lost)}: name its own data with --data"
        )
    return table.take([rows[one] for one in ids.tolist()])


def _pixels(source: Source, ids: np.ndarray, places: dict[str, str], size: int, cropper: lungs.Cropper) -> np.ndarray:
    """The images as the network saw them, uint8 [N, size, size]."""
    cropper.ready()
    pixels, failed = images_pack.decoded(source.images, ids, size, places, cropper)
    if failed:
        reasons = some(f"{name} ({reason})" for name, reason in sorted(failed.items()))
        raise UserError(f"images in {shown(source.images)} cannot be read: {reasons}; mend or fetch them again")
    return pixels


def _explained(
    one: str, label: str, example: Example, image: np.ndarray, spread: tuple[np.ndarray, str], mask: np.ndarray | None
) -> tuple[dict, Tile]:
    """The row of the CSV and the tile of the sheet of an image, from its map and that map's kind."""
    heat, kind = spread
    row = {
        "id": one,
        "label": label,
        "p": round(float(example.p), 6),
        "why": example.why,
        "map": kind,
        "energy_in_lungs": "",
        "lungs_in_image": round(float(mask.mean()), 4) if mask is not None else "",
        "file": f"explain/{re.sub(r'[^A-Za-z0-9]+', '-', label)}-{Path(one).stem}.png",
    }
    caption = [one, f"{label}, p = {example.p:.2f}", example.why, *filter(None, [cam.KINDS[kind]])]
    if mask is not None and kind != "none":
        row["energy_in_lungs"] = inside = round(cam.energy_share(heat, mask), 4)
        caption.append(f"{inside:.0%} of the map in the lungs ({mask.mean():.0%} of the image)")
    return row, Tile(image, heat, kind, caption, mask)


def _pictures(rows: Sequence[dict], tiles: Sequence[Tile], synthetic: str, title: str, out: Path) -> dict[Path, bytes]:
    """Where to write what: every tile as a picture of its own, and the sheet of all; `synthetic` stands before the
    captions and the title."""
    written = {
        out / row["file"]: overlays.picture(tile._replace(caption=[synthetic + tile.caption[0], *tile.caption[1:]]))
        for row, tile in zip(rows, tiles, strict=True)
    }
    title, reasons = synthetic + title, {row["why"] for row in rows}
    if len(reasons) == 1:  # said once
        title = f"{title}; {rows[0]['why']}"
        tiles = [tile._replace(caption=[line for line in tile.caption if line not in reasons]) for tile in tiles]
    written[out / "explain.png"] = overlays.sheet(tiles, title)
    return written


def _mask(path: Path, one: str, cropper: lungs.Cropper, masker: lungs.Cropper, size: int) -> np.ndarray | None:
    """The lungs on the packed image, bool [size, size], cropped as it was; None where there is no mask."""
    image = images_pack.decode(path)
    own = cropper.mask(image, one)
    mask = own if masker is cropper else masker.mask(image, one)
    box = None if own is None else lungs.lung_box(own)
    return None if mask is None else cam.fitted(mask if box is None else box.cut(mask), size)


def _columns(wanted: str | None, classes: list[str], first: Sequence[str]) -> list[int]:
    names = (
        [name.strip() for name in wanted.split(",")] if wanted else sorted(classes, key=lambda one: one not in first)
    )
    for name in names:
        if name not in classes:
            near = difflib.get_close_matches(name, classes, 3, 0.5)
            raise UserError(
                f"--labels: the run has no label {name!r}; "
                + (f"nearest: {some(near)}" if near else f"there are {some(classes, 20)}")
            )
    return [classes.index(name) for name in dict.fromkeys(names)]


def main(argv: list[str]) -> None:
    given = _parsed(argv)
    opened = open_run(given.run)
    about, task = opened.about, opened.task
    if opened.config.crossed:
        one = shown(opened.networks[0].folder)
        raise UserError(f"{shown(given.run)} has a network a fold: explain one of them, such as {one}")
    if not (given.run / "best.pt").is_file() or about["state"] not in ("trained", "paused"):
        raise UserError(
            f"{shown(given.run)} has no trained network, best.pt, yet: run the command that began it once more (a"
            " baseline by probe has none)"
        )
    columns = _columns(given.labels, about["classes"], task.explained)
    source = prepare.source_of(given.run, about, task, given.data)
    if any(row["part"] == "test" for row in opened.rows.values()):
        opened.predicted  # noqa: B018 - its test images are shown, and asked for where they are not there
    content, examples = task.examples(opened.evidence, columns, given.number)
    out = given.out or given.run / "figures"
    rows = explain(Run(given.run), source, task, content, examples, given.masks, out)
    if about.get("synthetic"):
        print("SYNTHETIC DATA: these pictures say nothing about real radiographs")
    print("\n".join(_lines(rows)))
    print(f"wrote {shown(out / 'explain.png')}, explain.csv and {len(rows)} pictures in {shown(out / 'explain')}")


def _parsed(argv: list[str]) -> Namespace:
    parser = Parser("explain")
    add = parser.add_argument
    add("run", metavar="RUN", type=Path)
    add("--data", metavar="DIR", help="the data set, when it no longer lies where the run found it")
    add("--labels", metavar="A,B", help="only images of these labels")
    add("--number", metavar="N", type=int, default=12, help="images at most (12)")
    inside = "lung masks, <stem of the image>.png: how much of each map lies inside"
    add("--masks", metavar="DIR", type=Path, help=inside)
    add("--out", metavar="DIR", type=Path, help="where to write (RUN/figures)")
    given = parser.parse_args(argv)
    if given.number < 1:
        raise UserError(f"--number {given.number}: ask for at least one image")
    if given.masks and not given.masks.is_dir():
        raise UserError(
            f"--masks {given.masks}: there is no such folder; name the one that holds the lung masks, <stem of the"
            " image>.png"
        )
    return given


def _lines(rows: Sequence[dict]) -> list[str]:
    """What to print of the CSV's rows: a line for each, and how much of the maps lies in the lungs."""
    id_width, label_width = (max(len(row[name]) for row in rows) for name in ("id", "label"))
    lines = [
        f"{row['id']:{id_width}}  {row['label']:{label_width}}  p = {row['p']:.3f}  "
        + "; ".join(filter(None, [row["why"], cam.KINDS[row["map"]]]))
        for row in rows
    ]
    for kind, what in (("grad-cam", "the maps"), ("against", "the maps of what speaks against a label")):
        known = [row for row in rows if row["map"] == kind and row["energy_in_lungs"] != ""]
        if known:
            inside, area = np.mean([(row["energy_in_lungs"], row["lungs_in_image"]) for row in known], axis=0)
            lines.append(
                f"inside the lungs: {inside:.0%} of {what} on average, where the lungs are {area:.0%} of the image"
                f" (images with a mask: {len(known)})"
            )
    return lines


if __name__ == "__main__":
    raise SystemExit(command(main))
