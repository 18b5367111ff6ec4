"""Push a configuration as a Kaggle kernel, which starts it: `push.py CONFIG [--hours H] [--resume] [key=value …]`."""

import re
import secrets
import tempfile
import time
from argparse import Namespace
from pathlib import Path

from core import packages
from core.commands import Parser
from core.config import Config
from core.errors import UserError, command, some
from core.files import write_json
from leaderboard import bundle, client, kernels
from tasks import registry

FILES = {"split": ["auto"], "masks": [""], "groups": [""], "weights": ["imagenet", "none"]}  # key → what names none
OWN_WEIGHTS = ("weights=imagenet", "weights=none")


def arguments(argv: list[str]) -> Namespace:
    parser = Parser("push")
    parser.add_argument("config")
    parser.add_argument("settings", nargs="*", metavar="key=value")
    parser.add_argument(
        "--hours", type=float, default=11.5, help="stop training in time for a submission (11.5; a session has 12)"
    )
    parser.add_argument("--accelerator", help="a machine_shape of Kaggle's (NvidiaTeslaT4, which is two of them)")
    parser.add_argument(
        "--weights", metavar="SET", help="attach this dataset, OWNER/NAME, and take the pretrained weights from it"
    )
    parser.add_argument(
        "--data", metavar="SET", help="attach this dataset, OWNER/NAME: the images and labels of what is no competition"
    )
    parser.add_argument("--no-internet", action="store_true")
    parser.add_argument(
        "--resume", action="store_true", help="attach the output of this kernel's last version and go on from it"
    )
    given = parser.parse_intermixed_args(argv)
    if given.resume:
        _as_before(given)
    for option, name in (("--data", given.data), ("--weights", given.weights)):
        if name and not re.fullmatch(r"[\w-]+/[\w-]+", name):
            raise UserError(f"{option} {name}: a dataset on Kaggle is wanted, OWNER/NAME")
    for setting in given.settings:
        if setting.startswith("hours=") or (setting.startswith("weights=") and setting not in OWN_WEIGHTS):
            raise UserError(f"{setting}: a kernel has its own: give --hours H, or --weights OWNER/NAME")
    return given


def _as_before(given: Namespace) -> None:
    """What the first push was given holds for its continuation."""
    before = kernels.last_push(given.config)
    if given.settings and given.settings != before["settings"]:
        raise UserError(
            f"version {before['version']} was pushed with {some(before['settings']) or 'no settings'}, and a run goes"
            " on with its own: leave them out, or push without --resume"
        )
    given.settings = before["settings"]
    given.weights = given.weights or before["weights"]
    given.data = given.data or before.get("data")  # which older versions did not have
    given.no_internet = given.no_internet or before["no_internet"]


def configuration(given: Namespace) -> Config:
    """The configuration that the kernel will run, checked by what the main job checks."""
    config = registry.load(given.config, [*given.settings, f"hours={given.hours}"])
    if not 0 < given.hours <= 12:
        raise UserError(f"--hours {given.hours}: a Kaggle session lasts up to 12 hours")
    if given.no_internet and not given.weights and config.weights == "imagenet":
        raise UserError(
            "without internet the ImageNet weights cannot be fetched: ./run.sh weights CONFIG --publish, then push with"
            " --weights OWNER/NAME"
        )
    for key, without in FILES.items():
        value = getattr(config, key, without[0])
        if value not in without:
            raise UserError(f"{key} = {value}: a file of this machine does not travel with a push: leave {key} out")
    if given.no_internet and needed(config):
        raise UserError(
            f"without internet the kernel cannot install {some(needed(config))}, which Kaggle's machines lack: leave"
            " --no-internet out"
        )
    from net import checks, model  # here, for they load torch

    checks.check(config, registry.task_of(config))
    model.build(config, classes=2, weights="none")  # a size or a tag that the network has not
    if given.weights and not model.pretrained(config.model_copy(update={"weights": "imagenet"})):
        raise UserError(f"--weights {given.weights}: {config.model} is trained from scratch: leave --weights out")
    return config


def needed(config: Config) -> dict[str, str]:
    """The packages that Kaggle's machines lack and the kernel installs, with their locked versions."""
    names = [*registry.TASKS[config.task].packages, *["torchxrayvision"] * (config.crop == "lungs")]
    return {name: packages.locked()[name][0] for name in names}


def metadata(given: Namespace, config: Config) -> dict:
    """The kernel's metadata with what was asked for filled in."""
    from_kaggle = registry.TASKS[config.task].layout.from_kaggle
    if from_kaggle and given.data:
        raise UserError(f"--data {given.data}: {given.config} learns from the competition's own data: leave --data out")
    meta = bundle.metadata(given.config, client.owner(), config.slug if from_kaggle else "", bool(given.data))
    if from_kaggle and config.slug not in meta["competition_sources"]:
        attached = some(meta["competition_sources"]) or "no competition"
        raise UserError(
            f"kernels/{given.config}/kernel-metadata.json attaches {attached}, and slug = {config.slug}: make them"
            " agree"
        )
    shapes = bundle.VALUES["machine_shape"]
    if given.accelerator and given.accelerator not in shapes:
        raise UserError(f"--accelerator {given.accelerator} will not do; there are {some(sorted(shapes))}")
    return meta | {
        "enable_internet": not given.no_internet,
        "machine_shape": given.accelerator or meta["machine_shape"],
        "dataset_sources": [*meta["dataset_sources"], *filter(None, [given.data, given.weights])],
        "kernel_sources": [*meta["kernel_sources"], *[meta["id"]] * given.resume],
    }


def send(script: str, meta: dict) -> int:
    """Push the script and return the version that was started with all that it needs."""
    slug = next(iter(meta["competition_sources"]), None)
    address = f"{client.SITE}/code/{meta['id']}"
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "script.py").write_text(script, encoding="utf-8")
        write_json(Path(folder) / "kernel-metadata.json", meta)
        reply = client.call(
            "kernels_push",
            {"folder": folder},
            "the push",
            lambda reply: reply.get("error") or (None if reply.get("versionNumber") else "it got no version number"),
            slug,
            changes=address,
        )
    kinds = ("Competition", "Dataset", "Kernel", "Model")
    absent = [name for kind in kinds for name in reply.get(f"invalid{kind}Sources") or ()]
    if absent:
        advice = f"accept the rules at {client.SITE}/competitions/{slug}/rules" if slug else "name what is there"
        raise UserError(
            f"version {reply['versionNumber']} was started without what it needs ({some(absent)}): cancel it at"
            f" {address}, and {advice}"
        )
    return reply["versionNumber"]


def main(argv: list[str]) -> None:
    given = arguments(argv)
    config = configuration(given)
    meta = metadata(given, config)
    run_id = secrets.token_hex(8)  # of this push: the output of an earlier one must not pass for it
    weights = f"{config.model}.safetensors" if given.weights else ""
    settings = [*given.settings, f"hours={given.hours}"]
    asked = given.config, config.name, settings, run_id, meta["machine_shape"], weights, given.resume
    found = bundle.build(*asked, needed(config))
    if behind := bundle.left_behind():
        print(f"note: not tracked by git, so not pushed: {some(behind)}")
    size = len(found.script.encode())
    print(f"script.py: {size:,} bytes of at most {bundle.LIMIT:,}; bundle {found.digest[:16]}")
    version = send(found.script, meta)
    pushed = {"ref": meta["id"], "version": version, "run_id": run_id, "bundle": found.digest, "name": config.name}
    kept = {name: getattr(given, name) for name in ("settings", "weights", "data", "no_internet")}
    kernels.remember(given.config, {**pushed, "time": round(time.time()), **kept})
    print(
        f"version {version} is running: {client.SITE}/code/{meta['id']}\n"
        f"./run.sh status {given.config} --wait, then ./run.sh fetch {given.config}"
    )


if __name__ == "__main__":
    raise SystemExit(command(main))
