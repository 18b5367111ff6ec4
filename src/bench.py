"""Throughput here, beside its limit and what people use today: `bench.py [CONFIG] [--data DIR] [--seconds S]
[--rounds N] [--variants] [--json FILE] [key=value …]`.

The limit is the same network, batch and precision stepping on batches that lie on the device. The ways take turns; what
is said is the median of the rounds, with the lowest and the highest. Images are those of a data set, or drawn ones of
the competition's size and form: 384 × 384, PNG, three equal channels.
"""

from core.errors import UserError, command  # first, so that Ctrl-C is quiet while torch loads

# isort: split

import math
import os
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from tqdm import tqdm

import train
from core.commands import Parser
from core.config import Config
from core.data_set import Source, Table, Tables
from core.files import shown, write_json
from core.runs import Run, clock
from core.task import Task
from images import loader, locate, prepare, synthetic
from images.prepare import Prepared
from net import losses, model, peers, throughput
from net import machine as machinery
from net.learner import Learner
from net.machine import Machine
from net.throughput import Pass
from tasks import registry

FILES = 512  # different images, at most
FEW = 192  # of a drawn set, whose drawing takes time
DRAWN = 384  # pixels, the competition's
LABELLED, TESTS = 51_043, 17_015  # the competition's images
# network, size and batch where nothing is asked for; on a CPU the configuration's own is far too slow for its batch
ON_CPU = (["model=resnet10t", "size=96", "batch=32"], ["batch=8"])
ON_GPU = (["size=224"], ["size=256"], ["size=384"])
REST = [
    "folds=0",
    "head_start=random",
    "refit=none",
    "log=none",
    "save_minutes=0",
    "hours=0",
    "split=auto",
    "weights=none",
]
LIMIT, KIT, PUBLIC = "limit: resident data", "this kit", "as public kernels do, float32"


@dataclass(frozen=True)
class Bench:
    """A configuration on some images: everything that its ways share."""

    task: Task
    machine: Machine
    prepared: Prepared
    source: Source
    learner: Learner
    loss: losses.Loss
    table: Table  # of a pass: the same files again and again, until one at the limit takes the seconds asked for
    run: Run

    @property
    def config(self) -> Config:
        return self.task.config

    @property
    def pin(self) -> bool:
        return self.machine.device.type == "cuda"

    @property
    def paths(self) -> list[Path]:
        return [self.source.images / place for place in self.table.places.tolist()]

    def batches(self) -> train.Batches:
        return train.batches_of(self.task, self.prepared, self.table, self.table, 0, self.machine)

    def in_order(self):
        return loader.in_order(self.prepared.pack, self.table, self.config.batch, self.machine.workers, self.pin)


def opened(config: Config, source: Source, folder: Path, seconds: float) -> Bench:
    """The configuration, ready to be timed."""
    task, machine = registry.task_of(config), machinery.pick(config)
    found = prepare.tables(source, task)
    labelled = found.labelled.some(FILES, 0)
    prepared = prepare.images(source, Tables(labelled, found.unlabelled[:0]), task, machine.device, folder)
    net = machine.place(model.build(config, len(labelled.classes), config.weights))
    learner = Learner(net, config, machine, 10**9)
    counts = np.nansum(labelled.targets, axis=0).astype(int)
    loss = losses.build(config, counts, len(labelled.ids), machine.device)

    def bench(images: int) -> Bench:
        table = labelled.take(np.resize(np.arange(len(labelled.ids)), images))
        return Bench(task, machine, prepared, source, learner, loss, table, Run(folder / "run"))

    with machinery.sufficient(config):
        few = throughput.on_device(bench(2 * config.batch).batches().learn, machine)
        throughput.resident_epoch(learner, few, loss, frozen=False)
        speed = throughput.resident_epoch(learner, few, loss, frozen=False).speed
    steps = max(1, round(speed * seconds / config.batch))
    return bench(min(steps, 10_000) * config.batch)


def ways(bench: Bench) -> dict[str, dict[str, Callable[[], Pass]]]:
    """What is timed, by group and name; the first of a group is its limit."""
    config, machine, learner, loss = bench.config, bench.machine, bench.learner, bench.loss
    batches, ordered = bench.batches(), bench.in_order()
    learner.steps = math.ceil(len(batches.learn) / config.accumulate)
    learned, seen = throughput.on_device(batches.learn, machine), throughput.on_device(ordered, machine)
    recipe, paths, targets = peers.recipe(config, learner.net, machine), bench.paths, bench.table.targets
    theirs = {
        name: (peers.Trainer(config, targets.shape[1], machine, amp), make(recipe, paths, targets))
        for name, (make, amp) in peers.PEERS.items()
    }
    public, plain = theirs[PUBLIC][0], peers.plain(recipe, paths, targets)
    return {
        "training, the whole network": {
            LIMIT: lambda: throughput.resident_epoch(learner, learned, loss, frozen=False),
            KIT: lambda: throughput.epoch(learner, batches, loss, bench.run, frozen=False),
            **{name: lambda one=one, data=data: one.epoch(data, loss) for name, (one, data) in theirs.items()},
        },
        "training, the body frozen": {
            LIMIT: lambda: throughput.resident_epoch(learner, learned, loss, frozen=True),
            KIT: lambda: throughput.epoch(learner, batches, loss, bench.run, frozen=True),
        },
        f"prediction, {len(config.views)} views": {
            LIMIT: lambda: throughput.prediction(learner.net, seen, config.views, machine, resident=True),
            KIT: lambda: throughput.prediction(learner.net, ordered, config.views, machine),
            f"{PUBLIC}, 2 views": lambda: public.prediction(plain),
        },
        "loading alone": {
            KIT: lambda: throughput.loading(batches.learn, machine),
            **{name: lambda data=data: throughput.loading(data, machine) for name, (_, data) in theirs.items()},
        },
    }


def timed(bench: Bench, rounds: int) -> dict[str, dict[str, list[Pass]]]:
    """The passes of every way, by group and name, after one that does not count; the ways of a group take turns."""
    found = {}
    with machinery.sufficient(bench.config):
        for group, its in ways(bench).items():
            found[group] = {name: [] for name in its}
            for number in tqdm(range(rounds + 1), desc=group, unit="round", leave=False, disable=None):
                for name, work in its.items():
                    passed = work()
                    if number:
                        found[group][name].append(passed)
    return found


HEAD = (
    f"{'':38}{'images/s':>9}{'lowest … highest':>20}{'ratio':>7}{'waiting':>9}{'bytes/image':>13}{'GPU MB':>9}"
    f"{'host MB':>9}"
)


def lines(found: dict[str, dict[str, list[Pass]]]) -> list[str]:
    """The table of a case: speeds, ratios to the first of the group, waiting for data, bytes and memory."""
    said = [HEAD]
    for group, its in found.items():
        said.append(group)
        first = throughput.median(next(iter(its.values())))[0]
        for name, passes in its.items():
            middle, low, high = throughput.median(passes)
            waited = np.median([one.waited / one.seconds for one in passes])
            gpu, host = (max(getattr(one, what) for one in passes) / 1e6 for what in ("gpu", "host"))
            spread = f"{speed(low)} … {speed(high)}"
            said.append(
                f"  {name:36}{speed(middle):>9}{spread:>20}{middle / first:>7.2f}{waited:>9.0%}"
                f"{passes[0].bytes:>13,.0f}{gpu:>9,.0f}{host:>9,.0f}"
            )
    return said


def speed(images: float) -> str:
    """Images a second, with digits where they are few."""
    return f"{images:,.0f}" if images >= 20 else f"{images:.2f}"


def verdict(config: Config, found: dict[str, dict[str, list[Pass]]]) -> list[str]:
    """What the figures come to, and how long a network of the competition takes."""
    speed = {
        group: {name: throughput.median(passes)[0] for name, passes in its.items()} for group, its in found.items()
    }
    whole, frozen, predicting = list(speed.values())[:3]
    learned = LABELLED * (1 - config.val_fraction)
    epochs = config.frozen_epochs / frozen[KIT] + (config.epochs - config.frozen_epochs) / whole[KIT]
    validation = (LABELLED - learned) * (config.epochs / len(config.views) + 1) / predicting[KIT]
    seconds = learned * epochs + validation + TESTS / predicting[KIT]
    return [
        f"this kit: {whole[KIT] / whole[LIMIT]:.2f} of the limit in training, {predicting[KIT] / predicting[LIMIT]:.2f}"
        f" in prediction; {whole[KIT] / whole[PUBLIC]:.1f} times as fast as public kernels in training,"
        f" {predicting[KIT] / list(predicting.values())[-1]:.1f} times in prediction",
        f"a frozen epoch takes {whole[KIT] / frozen[KIT]:.2f} of a full one's time",
        f"{config.epochs} epochs on {learned:,.0f} images, validated, {TESTS:,} predicted:"
        f" {clock(seconds)} at size={config.size} batch={config.batch}, besides packing",
    ]


def variants(config: Config, source: Source, folder: Path, seconds: float) -> dict[str, list[Pass]]:
    """Steps on resident data at other precisions and in other ways than the kit's, by name. Needs a GPU."""
    found = {}
    for precision in ("fp32", "fp16", "bf16"):
        bench = opened(config.model_copy(update={"precision": precision}), source, folder, seconds)
        batches = throughput.on_device(bench.batches().learn, bench.machine)
        for mode, way in MODES.items():
            if way is compiled and precision == "fp32":
                continue
            with way(bench):
                start = time.perf_counter()
                throughput.resident_epoch(bench.learner, batches[:3], bench.loss, frozen=False)
                begun = time.perf_counter() - start
                passes = [throughput.resident_epoch(bench.learner, batches, bench.loss, frozen=False) for _ in range(2)]
            found[f"{precision}, {mode}"] = passes
            speed, memory = throughput.median(passes)[0], max(one.gpu for one in passes) / 1e6
            said = f"{speed:>9,.0f} images/s {memory:>9,.0f} MB, the first three batches {begun:.1f} s"
            print(f"  {precision}, {mode:38}{said}", flush=True)
    return found


@contextmanager
def unfused(bench: Bench) -> Iterator[None]:
    before, config = bench.learner.optimizer, bench.config
    groups = bench.learner.net.groups(config)
    bench.learner.optimizer = torch.optim.AdamW(groups, config.lr, weight_decay=config.weight_decay)
    yield
    bench.learner.optimizer = before


@contextmanager
def tried(bench: Bench) -> Iterator[None]:
    with peers.undetermined():
        torch.backends.cudnn.benchmark = True
        yield
        torch.backends.cudnn.benchmark = not bench.config.deterministic


@contextmanager
def contiguous(bench: Bench) -> Iterator[None]:
    net = bench.learner.net
    for net.layout in (torch.contiguous_format, torch.channels_last):
        net.to(memory_format=net.layout)
        if net.layout == torch.contiguous_format:
            yield


@contextmanager
def compiled(bench: Bench) -> Iterator[None]:
    bench.learner.net.compile()
    yield


MODES = {  # ways to step; the last stays
    "as the kit trains": lambda bench: nullcontext(),
    "AdamW not fused": unfused,
    "any kernel, the fastest tried": tried,
    "not channels-last": contiguous,
    "torch.compile": compiled,
}


def drawn(folder: Path, layout: str) -> Path:
    """A synthetic set with images like the competition's."""
    synthetic.make(folder, FEW, DRAWN, layout=layout)
    for path in tqdm(list((folder / "images").rglob("*.png")), desc="as colour", leave=False, disable=None):
        cv2.imwrite(str(path), cv2.cvtColor(cv2.imread(str(path), cv2.IMREAD_GRAYSCALE), cv2.COLOR_GRAY2BGR))
    return folder


def asked(given: Namespace) -> list[Config]:
    """The configurations to time: the one that is asked for, or by default those that suit this device."""
    base = registry.load(given.config, [*REST, *given.settings])
    if any(word.partition("=")[0] in ("model", "size", "batch") for word in given.settings):
        return [base]
    further = ON_GPU if machinery.device(base).type == "cuda" else ON_CPU
    return [registry.load(given.config, [*REST, *given.settings, *words]) for words in further]


def parsed(argv: list[str]) -> Namespace:
    parser = Parser("bench")
    parser.add_argument("config", nargs="?", default="modelB", metavar="CONFIG")
    parser.add_argument("--data", metavar="DIR", help="time with the images of a data set, not with drawn ones")
    parser.add_argument("--seconds", type=float, default=2.0, help="a pass at the limit is to take (2)")
    parser.add_argument("--rounds", type=int, default=3, help="passes of every way that count (3)")
    parser.add_argument("--variants", action="store_true", help="on a GPU: other precisions and ways to step, instead")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write every pass there")
    parser.add_argument("settings", nargs="*", metavar="key=value")
    given = parser.parse_intermixed_args(argv)
    if not (0 < given.seconds <= 600 and 1 <= given.rounds <= 100):
        raise UserError("--seconds must be above 0 and at most 600, and --rounds 1 to 100")
    if given.json and (given.json.is_dir() or not given.json.absolute().parent.is_dir()):
        raise UserError(f"--json {given.json}: name a file in a folder that exists")
    if "=" in given.config:
        given.config, given.settings = "modelB", [given.config, *given.settings]
    return given


def case(config: Config, source: Source, folder: Path, given: Namespace) -> dict[str, dict[str, list[Pass]]]:
    """Time one configuration, and say what came out."""
    print(f"\n{said_of(config)}", flush=True)
    if given.variants:
        return {"variants": variants(config, source, folder, given.seconds)}
    bench = opened(config, source, folder, given.seconds)
    print(f"{bench.machine}; {len(bench.table.ids):,} images a pass, {given.rounds} rounds", flush=True)
    found = timed(bench, given.rounds)
    print("\n".join([*lines(found), *verdict(bench.config, found)]), flush=True)
    return found


def said_of(config: Config) -> str:
    return f"{config.model}, {config.size} pixels, batch {config.batch}"


def main(argv: list[str]) -> None:
    given = parsed(argv)
    configs, results = asked(given), {}
    if given.variants and machinery.device(configs[0]).type != "cuda":
        raise UserError("--variants compares ways to step on a GPU, and torch sees none: leave it out")
    layout = registry.TASKS[configs[0].task].layout
    with tempfile.TemporaryDirectory(prefix="bench-") as scratch:
        folder = Path(scratch)
        os.environ["CXR_CACHE"] = str(folder / "packed")  # what is packed for this goes with it
        data = Path(given.data) if given.data else drawn(folder / "set", layout.name)
        source = locate.opened(data, f"--data {data}", layout)
        for config in configs:
            found = case(config, source, folder, given)
            results[said_of(config)] = {
                group: {name: [asdict(one) for one in passes] for name, passes in its.items()}
                for group, its in found.items()
            }
    if given.json:
        write_json(given.json, results)
        print(f"wrote {shown(given.json)}")


if __name__ == "__main__":
    raise SystemExit(command(main))
