"""The commands: one list for `./run.sh`, for the README and for every `--help`.

`python -m core.commands` in src/ prints it; with `--markdown` as the README has it.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import NamedTuple

from core.errors import UserError, command

LIST = """
CONFIGS [--data DIR] [--demo] [--collect DIR ...] [--no-page] [key=value ...]
    the main job: prepare, train, predict, tune, decide, evaluate; ends with submissions/NAME.csv and a page; resumes
look [CONFIG] [--data DIR] [--demo] [key=value ...]
    what the data are, as a page: counts, noise, duplicates, shortcuts; needs no run: looks/NAME/data.html
train CONFIG [--data DIR] [--demo] [key=value ...]
    training only; leaves runs/NAME/val_logits.npz
torchrun [OPTIONS OF TORCHRUN] src/train.py CONFIG [--data DIR] [key=value ...]
    one network on several machines, a process a device; on one machine the other commands do so by themselves
predict RUN [--data DIR]
    logits of the test images: RUN/test_logits.npz
evaluate RUN ... [--data DIR] [--config CONFIG] [--map FILE] [key=value ...]
    the whole report of a run (report.json, per_class.csv); several are compared; with --data on another labelled set
report RUN [--labels NAME,NAME]
    a page with everything, verdict first (RUN/report.html), and pictures fit to print (RUN/figures/)
explain RUN [--labels A,B] [--number N] [--masks DIR] [--data DIR] [--out DIR]
    Grad-CAM of chosen images: RUN/figures/explain.png
probe CONFIG|RUN [--data DIR] [--demo] [key=value ...]
    the bar for a network: logistic regression on frozen features, same split; a run like any other, runs/probe-NAME
ensemble RUN RUN ... [--out NAME]
    several runs of the same images to one answer: calibrated, averaged, a run like any other, runs/NAME
tune VAL.npz ... [--out FILE] [--temperature T] [--costs TP FP FN]
    fit every decision rule on validation logits (several: the folds), of either kind of problem
decide TEST.npz ... --calibration FILE ... --rule RULE --out CSV [--test test.csv] [--counts FILE | --estimate-counts]
    test logits to a submission, checked before it is written
score RUN | SUBMISSION.csv TRUTH.csv [--peers] [--json FILE] [--costs TP FP FN]
    offline score, class by class; the last line is `score` and the number
experiment FILE [--data DIR] [--demo] [--toy] [--part I/N] [key=value ...] [--collect DIR ...]
    a study: rows × seeds to a table with Welch's test; goes on where it stopped
compare A B ... [--metric NAME,...] [--paired] [--table9 CSV] [--table10] [--json FILE] [--csv FILE]
    runs, replicates ('groups-*') and published results (0.741±0.007,3) side by side
download [CONFIG]
    the competition's data, into data/<slug>/
weights CONFIG [--publish]
    pretrained weights into weights/; --publish puts them into a private dataset for kernels without internet
push CONFIG [--hours H] [--accelerator NAME] [--weights SET] [--data SET] [--no-internet] [--resume] [key=value ...]
    run it as a Kaggle kernel, which starts at once; SET: a dataset of yours there, OWNER/NAME
status CONFIG [--wait] [--deadline MINUTES] [--every SECONDS]
    how a pushed kernel is doing
fetch CONFIG
    what a pushed kernel wrote, checked against its manifest, into fetched/
submit CSV -m MESSAGE [--config CONFIG] [--data DIR] [--force]
    check a submission and hand it in
submissions [--config CONFIG]
    your submissions and their scores
board [--offline]
    where all runs of this folder stand, beside what was submitted: a table, and a page (board.html)
doctor
    what is here and what is missing: packages, data, weights, credentials (never their values)
make-demo DIR [--full] [--images N] [--size PIXELS] [--seed S] [--layout competition|padchest]
    a synthetic data set; --full: 51,043 + 17,015 images with the competition's own counts, and faint signs
worlds [--seeds N] [--rows N] [--peers] [--json FILE]
    every decision rule in worlds whose best decision is known; --peers: others' calibrators there
bench [CONFIG] [--data DIR] [--seconds S] [--rounds N] [--variants] [--json FILE] [key=value ...]
    images a second beside the limit of this device and beside what people use today; how long a run takes
soak N [--seed S]
    N small runs killed at random moments and started again: every end must have the bytes of one that nobody killed
test [ARGUMENTS OF PYTEST]
    the tests
lint
    format and lint, by ruff
lock
    requirements.txt made anew from requirements.in
"""


class Command(NamedTuple):
    called: str
    usage: str
    does: str


def _commands() -> list[Command]:
    configs = sorted(path.stem for path in (Path(__file__).resolve().parents[2] / "configs").glob("*.yaml"))
    text = LIST.replace("CONFIGS", "|".join(name for name in configs if name != "demo"))
    found = re.findall(r"^(\S+) ?(.*)\n {4}(.*)$", text, re.MULTILINE)
    return [Command(*parts) for parts in found]


COMMANDS = _commands()


class Parser(argparse.ArgumentParser):
    """The command line of a script, as the list has it; `main` is the list's first. Its faults are sentences."""

    def __init__(self, script: str):
        called, usage, does = next((one for one in COMMANDS if one.called == script), COMMANDS[0])
        called = "CONFIG" if script == "main" else called
        super().__init__(prog=called, usage=f"./run.sh {called} {usage}".rstrip(), description=does)

    def parse_known_args(self, args=None, namespace=None):
        for before, word in zip(["", *args], args, strict=False):
            if not word or re.fullmatch("--[a-z-]+=", word):
                what = (word or f"{before} ''").strip()
                raise UserError(
                    f"{what} is empty, as an unset variable of the shell leaves it: fill it in, or leave it out"
                )
        return super().parse_known_args(args, namespace)

    def error(self, message: str):
        raise UserError(f"{message} ({' '.join(self.format_usage().split())})")


def listed() -> list[str]:
    """The list as it is printed."""
    return [line for one in COMMANDS for line in (f"./run.sh {one.called} {one.usage}".rstrip(), f"    {one.does}")]


def markdown() -> list[str]:
    """The list as the README's table."""
    rows = [(f"{one.called} {one.usage}".rstrip().replace("|", "\\|"), one.does) for one in COMMANDS]
    return ["| `./run.sh …` | does |", "| --- | --- |", *(f"| `{call}` | {does} |" for call, does in rows)]


if __name__ == "__main__":
    raise SystemExit(command(lambda argv: print("\n".join(markdown() if "--markdown" in argv else listed()))))
