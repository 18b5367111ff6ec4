"""A pushed kernel: what was pushed, and whether what comes back is of that very push."""

import hashlib
import re
from pathlib import Path

from core.errors import UserError, some
from core.files import home, read_json, shown, write_json

ENDED = {"COMPLETE", "ERROR", "CANCEL_ACKNOWLEDGED", "CANCELLED"}
KEYS = {
    "ref": str, "version": int, "run_id": str, "bundle": str, "name": str, "time": int, "settings": list,
    "weights": str | None, "data": str | None, "no_internet": bool,
}  # fmt: skip


def _record(config: str) -> Path:
    if not re.fullmatch(r"[\w-]+", config):
        raise UserError(f"{config!r} is no name of a configuration")
    return home() / "pushed" / f"{config}.json"


def remember(config: str, pushed: dict) -> None:
    """Keep what was pushed: a mapping of KEYS."""
    write_json(_record(config), pushed)


def last_push(config: str) -> dict:
    """What was pushed last. Raises UserError when nothing was, or the record is damaged."""
    path = _record(config)
    if not path.is_file():
        raise UserError(f"{config} was never pushed from here: ./run.sh push {config}")
    found = read_json(path)
    missing = [key for key, kind in KEYS.items() if not isinstance(found.get(key), kind)]
    if missing or not all(isinstance(setting, str) for setting in found["settings"]):
        raise UserError(f"{shown(path)} lacks {some(missing or ['settings'])}, or holds something else: push again")
    return found


def manifest_of(folder: Path, pushed: dict) -> dict:
    """The manifest of a fetched output, when it is that of this very push and every file is as it says."""
    ref = pushed["ref"]
    if not (folder / "manifest.json").is_file():
        raise UserError(f"the output of {ref} has no manifest.json: it has not ended, or failed; see ./run.sh status")
    manifest = read_json(folder / "manifest.json")
    if (manifest.get("run_id"), manifest.get("bundle")) != (pushed["run_id"], pushed["bundle"]):
        raise UserError(
            f"the output of {ref} is that of another push than version {pushed['version']}: wait until it has ended "
            "(./run.sh status --wait), and fetch again"
        )
    files = manifest.get("files")
    if not isinstance(files, dict) or "submission.csv" not in files:
        raise UserError("the manifest names no submission.csv: the kernel did not come to its end")
    wrong = [name for name, wanted in files.items() if not _is(folder, name, wanted)]
    if wrong:
        raise UserError(f"{len(wrong)} fetched files are not what the kernel wrote: {some(wrong)}; fetch again")
    return manifest


def _is(folder: Path, name: str, wanted: str) -> bool:
    """Whether a file of that name lies within the folder and has that SHA-256."""
    path = folder / name
    within = path.resolve().is_relative_to(folder.resolve())
    return within and path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == wanted
