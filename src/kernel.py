"""The Kaggle round trip: `kernel.py download | weights CONFIG | push CONFIG | status CONFIG | fetch CONFIG | submit CSV
| submissions`.

Every call of the official client is printed before it runs; nothing here prints a credential. Needs no torch, but for
`weights`.
"""

import hashlib
import re
import secrets
import shutil
import tempfile
import time
from pathlib import Path

from core import submission
from core.config import Config
from core.errors import Parser, UserError, command, some
from core.files import home, read_json, shown, write_json
from images import locate
from images.labels import read_ids, read_one_hot
from leaderboard import bundle, client
from tasks import registry

ENDED = {"COMPLETE", "ERROR", "CANCEL_ACKNOWLEDGED", "CANCELLED"}


def _competition(name: str) -> Config:
    """A configuration whose data set is a Kaggle competition's. Raises UserError for another one."""
    config = registry.load(name)
    if not registry.TASKS[config.task].layout.from_kaggle:
        raise UserError(
            f"{name} belongs to no Kaggle competition: its data set {config.slug} is asked for from its owners, and"
            " nothing of it can be submitted"
        )
    return config


def download(argv: list[str]) -> None:
    parser = Parser(prog="download", description="Download the competition into data/<slug>/.")
    parser.add_argument("config", nargs="?", default="modelB", help="whose competition (modelB)")
    config = _competition(parser.parse_args(argv).config)
    folder = home() / "data" / config.slug
    if folder.is_dir():
        locate.opened(folder, shown(folder), registry.TASKS[config.task].layout)
        print(f"{shown(folder)} is there already and complete: delete it to download again")
        return
    client.owner()
    print(f"downloaded to {shown(client.download(config.slug))}")


def weights(argv: list[str]) -> None:
    parser = Parser(
        prog="weights",
        description="Fetch a configuration's pretrained weights into weights/.",
        usage="weights CONFIG [--publish]",
    )
    parser.add_argument("config")
    parser.add_argument(
        "--publish",
        action="store_true",
        help="put the file into a private dataset of yours, for kernels without internet",
    )
    given = parser.parse_args(argv)
    config = registry.load(given.config)
    path = home() / "weights" / f"{config.model}.safetensors"
    if path.is_file():
        print(f"{shown(path)} is there already")
    else:
        from net import model

        model.save_pretrained(config.model, path)
        print(f"wrote {shown(path)}: ./run.sh {given.config} weights={shown(path)}")
    if given.publish:
        slug = re.sub(r"[^a-z0-9]+", "-", f"weights {config.model}".lower()).strip("-")[:50]
        with tempfile.TemporaryDirectory() as folder:
            shutil.copyfile(path, Path(folder) / path.name)
            reference = f"{client.owner()}/{slug}"
            write_json(
                Path(folder) / "dataset-metadata.json",
                {"title": slug, "id": reference, "licenses": [{"name": "other"}]},
            )
            client.call(
                "dataset_create_new",
                {"folder": folder, "dir_mode": "zip"},
                "publishing the weights",
                lambda reply: (
                    reply.get("error")
                    or (None if reply.get("status") == "ok" else f"its status is {reply.get('status')}")
                ),
                changes=f"{client.SITE}/datasets/{reference}",
            )
        print(
            f"published as the private dataset {reference}: ./run.sh push {given.config} --weights {reference}"
            " --no-internet"
        )


def push(argv: list[str]) -> None:
    parser = Parser(
        prog="push",
        description="Push a configuration as a Kaggle kernel, which starts it.",
        usage=(
            "push CONFIG [--hours H] [--accelerator NAME] [--weights OWNER/DATASET] [--no-internet] [--resume]"
            " [key=value ...]"
        ),
    )
    parser.add_argument("config")
    parser.add_argument("settings", nargs="*", metavar="key=value")
    parser.add_argument(
        "--hours",
        type=float,
        default=11.5,
        help="stop training in time for a submission within so many hours (11.5; a session has 12)",
    )
    parser.add_argument("--accelerator", help="a machine_shape of Kaggle's (NvidiaTeslaT4, which is two of them)")
    parser.add_argument(
        "--weights", metavar="OWNER/DATASET", help="attach this dataset and take the pretrained weights from it"
    )
    parser.add_argument("--no-internet", action="store_true")
    parser.add_argument(
        "--resume", action="store_true", help="attach the output of this kernel's last version and go on from it"
    )
    given = parser.parse_intermixed_args(argv)
    before = _pushed(given.config) if given.resume else None
    if before:  # what the first push was given holds for its continuation
        if given.settings and given.settings != before["settings"]:
            raise UserError(
                f"version {before['version']} was pushed with {some(before['settings']) or 'no settings'}, and a run"
                " goes on with its own: leave them out, or push without --resume"
            )
        given.settings, given.weights, given.no_internet = (
            before["settings"],
            given.weights or before["weights"],
            given.no_internet or before["no_internet"],
        )
    for setting in given.settings:
        if setting.startswith("hours=") or (
            setting.startswith("weights=") and setting not in ("weights=imagenet", "weights=none")
        ):
            raise UserError(f"{setting}: a kernel has its own: give --hours H, or --weights OWNER/DATASET")
    config = registry.load(given.config, [*given.settings, f"hours={given.hours}"])
    if not 0 < given.hours <= 12:
        raise UserError(f"--hours {given.hours}: a Kaggle session lasts up to 12 hours")
    meta = bundle.metadata(given.config, client.owner())
    meta |= {"enable_internet": not given.no_internet} | (
        {"machine_shape": given.accelerator} if given.accelerator else {}
    )
    if config.slug not in meta["competition_sources"]:
        raise UserError(
            f"kernels/{given.config}/kernel-metadata.json attaches"
            f" {some(meta['competition_sources']) or 'no competition'}, and slug = {config.slug}: make them agree"
        )
    if given.accelerator and given.accelerator not in bundle.VALUES["machine_shape"]:
        raise UserError(
            f"--accelerator {given.accelerator} will not do; there are {some(sorted(bundle.VALUES['machine_shape']))}"
        )
    if given.no_internet and not given.weights and config.weights == "imagenet":
        raise UserError(
            "without internet the ImageNet weights cannot be fetched: ./run.sh weights CONFIG --publish, then push with"
            " --weights OWNER/DATASET"
        )
    if given.weights:
        meta["dataset_sources"] = [*meta["dataset_sources"], given.weights]
    if before:
        meta["kernel_sources"] = [*meta["kernel_sources"], meta["id"]]
    run_id = secrets.token_hex(8)  # of this push: the output of an earlier one must not pass for it
    found = bundle.build(
        given.config,
        config.name,
        [*given.settings, f"hours={given.hours}"],
        run_id,
        meta["machine_shape"],
        f"{config.model}.safetensors" if given.weights else "",
        bool(before),
    )
    print(f"script.py: {len(found.script.encode()):,} bytes of at most {bundle.LIMIT:,}; bundle {found.digest[:16]}")
    address = f"{client.SITE}/code/{meta['id']}"
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "script.py").write_text(found.script, encoding="utf-8")
        write_json(Path(folder) / "kernel-metadata.json", meta)
        reply = client.call(
            "kernels_push",
            {"folder": folder},
            "the push",
            lambda reply: reply.get("error") or (None if reply.get("versionNumber") else "it got no version number"),
            config.slug,
            changes=address,
        )
    version = reply["versionNumber"]
    absent = [
        name
        for kind in ("Competition", "Dataset", "Kernel", "Model")
        for name in reply.get(f"invalid{kind}Sources") or ()
    ]
    if absent:
        raise UserError(
            f"version {version} was started without what it needs ({some(absent)}): cancel it at {address}, and accept"
            f" the rules at {client.SITE}/competitions/{config.slug}/rules"
        )
    write_json(
        _record(given.config),
        {
            "ref": meta["id"],
            "version": version,
            "run_id": run_id,
            "bundle": found.digest,
            "name": config.name,
            "time": round(time.time()),
            "settings": given.settings,
            "weights": given.weights,
            "no_internet": given.no_internet,
        },
    )
    print(
        f"version {version} is running: {address}\n./run.sh status {given.config} --wait, then ./run.sh fetch"
        f" {given.config}"
    )


def _record(config: str) -> Path:
    if not re.fullmatch(r"[\w-]+", config):
        raise UserError(f"{config!r} is no name of a configuration")
    return home() / "pushed" / f"{config}.json"


def _pushed(config: str) -> dict:
    if not _record(config).is_file():
        raise UserError(f"{config} was never pushed from here: ./run.sh push {config}")
    found = read_json(_record(config))
    missing = [
        key
        for key in ("ref", "version", "run_id", "bundle", "name", "time", "settings", "weights", "no_internet")
        if key not in found
    ]
    if missing:
        raise UserError(f"{shown(_record(config))} lacks {some(missing)}: push again")
    return found


def status(argv: list[str]) -> None:
    parser = Parser(
        prog="status",
        description="How a pushed kernel is doing.",
        usage="status CONFIG [--wait] [--deadline MINUTES] [--every SECONDS]",
    )
    parser.add_argument("config")
    parser.add_argument("--wait", action="store_true", help="until it has ended")
    parser.add_argument("--deadline", type=float, default=780, metavar="MINUTES", help="of the waiting (780)")
    parser.add_argument("--every", type=float, default=20, metavar="SECONDS", help="between two questions (20)")
    given = parser.parse_args(argv)
    pushed, start = _pushed(given.config), time.monotonic()
    address = f"{client.SITE}/code/{pushed['ref']}"
    while True:
        reply = client.call(
            "kernels_status",
            {"kernel": pushed["ref"]},
            f"asking for the status of {pushed['ref']}",
            missing_is_busy=time.time() - pushed["time"] < 120,
        )
        state = str(reply.get("status") or "QUEUED").upper()
        minutes = (time.monotonic() - start) / 60
        print(f"{pushed['ref']} version {pushed['version']}: {state}, {minutes:.0f} min waited", flush=True)
        if state in ENDED or not given.wait:
            break
        if minutes > given.deadline:
            raise UserError(
                f"{pushed['ref']} has not ended after {given.deadline:g} minutes; the same command waits on, and"
                f" {address} shows it"
            )
        time.sleep(given.every)
    if state in ENDED - {"COMPLETE"}:
        reason = reply.get("failureMessage")
        raise UserError(
            f"the kernel ended as {state}{f' ({reason})' if reason else ''}: its log is at {address}; after a cut"
            f" session, ./run.sh push {given.config} --resume goes on"
        )
    print(address)


def fetch(argv: list[str]) -> None:
    parser = Parser(
        prog="fetch",
        description="Fetch what a pushed kernel wrote, and check it against its manifest.",
        usage="fetch CONFIG",
    )
    parser.add_argument("config")
    config = parser.parse_args(argv).config
    pushed = _pushed(config)
    target = home() / "fetched" / f"{config}-v{pushed['version']}"
    if target.exists():
        raise UserError(f"{shown(target)} is there already: delete it to fetch again")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as scratch:
        fresh = Path(scratch) / "output"
        fresh.mkdir()
        client.call(
            "kernels_output",
            {
                "kernel": pushed["ref"],
                "path": str(fresh),
                "force": True,
                "page_size": 200,
                "file_pattern": r"(submission\.csv|manifest\.json|runs/.*)$",
            },
            f"fetching the output of {pushed['ref']}",
        )
        manifest = _checked(fresh, pushed)
        fresh.rename(target)
    state = (
        ""
        if manifest.get("state") == "trained"
        else f"; training stopped for time, ./run.sh push {config} --resume goes on"
    )
    print(
        f"fetched {len(manifest['files'])} files to {shown(target)}{state}\n./run.sh submit"
        f" {shown(target / 'submission.csv')} -m MESSAGE"
    )


def _checked(folder: Path, pushed: dict) -> dict:
    """The manifest, when it is that of this very push and every file is as it says."""
    if not (folder / "manifest.json").is_file():
        raise UserError(
            f"the output of {pushed['ref']} has no manifest.json: it has not ended, or failed; see ./run.sh status"
        )
    manifest = read_json(folder / "manifest.json")
    if (manifest.get("run_id"), manifest.get("bundle")) != (pushed["run_id"], pushed["bundle"]):
        raise UserError(
            f"the output of {pushed['ref']} is that of another push than version {pushed['version']}: wait until it has"
            " ended (./run.sh status --wait), and fetch again"
        )
    files = manifest.get("files")
    if not isinstance(files, dict) or "submission.csv" not in files:
        raise UserError("the manifest names no submission.csv: the kernel did not come to its end")
    wrong = [
        name
        for name, wanted in files.items()
        if not (folder / name).resolve().is_relative_to(folder.resolve())
        or not (folder / name).is_file()
        or hashlib.sha256((folder / name).read_bytes()).hexdigest() != wanted
    ]
    if wrong:
        raise UserError(f"{len(wrong)} fetched files are not what the kernel wrote: {some(wrong)}; fetch again")
    return manifest


def submit(argv: list[str]) -> None:
    parser = Parser(
        prog="submit",
        description="Check a submission and hand it in.",
        usage="submit CSV -m MESSAGE [--data DIR] [--force]",
    )
    parser.add_argument("csv", type=Path)
    parser.add_argument("-m", "--message", required=True)
    parser.add_argument("--config", default="modelB", help="whose competition (modelB)")
    parser.add_argument("--data", metavar="DIR", help="the competition's folder, to check the file against")
    parser.add_argument("--force", action="store_true", help="even when its rule does not beat the constant answer")
    given = parser.parse_args(argv)
    config = _competition(given.config)
    source = locate.find(given.data, config.slug, registry.TASKS[config.task].layout)
    if source is None:
        raise UserError(
            "there is no data to check the file against: give the competition's folder with --data DIR, or ./run.sh"
            " download"
        )
    if not given.csv.is_file():
        raise UserError(f"{shown(given.csv)}: there is no such file")
    submission.validate(
        given.csv, read_ids(source.folder / "test.csv"), read_one_hot(source.folder / "train.csv").classes
    )
    _worth_it(given.csv, given.force)
    client.owner()
    known, page = (
        {row.get("ref") for row in _submissions(config.slug)},
        f"{client.SITE}/competitions/{config.slug}/submissions",
    )
    client.call(
        "competition_submit",
        {"file_name": str(given.csv), "message": given.message, "competition": config.slug},
        "the submission",
        lambda reply: None if reply.get("ref") else reply.get("message") or "it got no number",
        config.slug,
        changes=page,
    )
    limits = client.ask(
        "competition_get_submission_limits", {"competition_name": config.slug}
    )  # a courtesy: not insisted on
    left = limits.get("numAllowedNow", 0) if isinstance(limits, dict) else None
    print(f"submitted: {page}" + (f"; {left} more are allowed today" if left is not None else ""))
    for pause in (1, 5, 10, 20, 30):
        mine = next((row for row in _submissions(config.slug) if row.get("ref") not in known), {})
        state = mine.get("status", "PENDING").upper()
        if state.endswith("ERROR"):
            raise UserError(
                f"Kaggle could not score {given.csv.name} ({mine.get('errorDescription') or state}): see {page}"
            )
        if not state.endswith("PENDING"):
            print(f"{mine.get('fileName')}: {mine.get('status')}, public score {mine.get('publicScore') or 'not yet'}")
            return
        time.sleep(pause)
    print("it is not scored yet: ./run.sh submissions shows it later")


def _worth_it(path: Path, force: bool) -> None:
    """Refuse what the run's own report speaks against: synthetic data always, a rule below the constant answer unless
    forced."""
    places = [home() / "runs" / path.stem / "report.json", *sorted(path.parent.glob("runs/*/report.json"))]
    report = next((read_json(place) for place in places if place.is_file()), None)
    if report is None:
        print("note: there is no report.json of its run here, so nothing is known of its score")
        return
    if report.get("synthetic"):
        raise UserError(f"{shown(path)} was made from synthetic radiographs: it is no submission")
    try:
        figures, always = report["validation"]["rules"][report["rule"]], report["validation"]["always"]
        doubt = (
            f"rule {report['rule']} scores {figures['score']:.4f} cross-fitted, no better than always answering"
            f" {always['class']} ({always['score']:.4f}): decide it by another rule, or --force"
            if figures["over_always"] <= 0
            else None
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            "the report.json of its run is of another version of the kit: ./run.sh evaluate RUN makes it anew"
        ) from error
    if doubt and not force:
        raise UserError(doubt)


def submissions(argv: list[str]) -> None:
    parser = Parser(prog="submissions", description="Your submissions and their scores.")
    parser.add_argument("--config", default="modelB", help="whose competition (modelB)")
    config = registry.load(parser.parse_args(argv).config)
    client.owner()
    rows = _submissions(config.slug)
    for row in rows:
        print(
            f"{row.get('date', '')[:16]}  {row.get('status', ''):10}  {row.get('publicScore') or '-':>10} "
            f" {row.get('privateScore') or '-':>10}  {row.get('fileName')}  {row.get('description')}"
        )
    print(f"{len(rows)} submissions: {client.SITE}/competitions/{config.slug}/submissions")


def _submissions(slug: str) -> list[dict]:
    rows = (
        client.call(
            "competition_submissions", {"competition": slug, "page_size": 200}, "listing your submissions", slug=slug
        )
        or []
    )
    return [row | {"status": str(row.get("status") or "PENDING").rpartition(".")[2].upper()} for row in rows]


VERBS = {
    "download": download,
    "weights": weights,
    "push": push,
    "status": status,
    "fetch": fetch,
    "submit": submit,
    "submissions": submissions,
}


def main(argv: list[str]) -> None:
    if not argv or argv[0] not in VERBS:
        raise UserError(f"one of {some(VERBS, 20)} is wanted")
    VERBS[argv[0]](argv[1:])


if __name__ == "__main__":
    raise SystemExit(command(main))
