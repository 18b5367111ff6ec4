"""What is pushed to Kaggle: one script, in which the kit travels as a deterministic zip, and its metadata."""

import base64
import hashlib
import io
import json
import re
import subprocess
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from core import packages
from core.errors import UserError, some
from core.files import ROOT, read_json, shown

TRAVELS = (".py", ".yaml", ".csv", ".html", ".css", ".js")  # and no READMEs
LIMIT = 1_000_000  # bytes of source that Kaggle takes; the client hides its refusal
TYPES = {
    "id": str,
    "title": str,
    "code_file": str,
    "language": str,
    "kernel_type": str,
    "machine_shape": str,
    "is_private": bool,
    "enable_gpu": bool,
    "enable_internet": bool,
    "competition_sources": list,
    "dataset_sources": list,
    "kernel_sources": list,
    "model_sources": list,
}
VALUES = {
    "code_file": {"script.py"},
    "language": {"python"},
    "kernel_type": {"script"},
    "machine_shape": {"NvidiaTeslaT4", "NvidiaTeslaT4Highmem", "NvidiaL4", "NvidiaH100", "NvidiaTeslaA100"},
}


@dataclass(frozen=True)
class Bundle:
    """script: the source that is pushed. digest: SHA-256 of the zip within, which its manifest repeats."""

    script: str
    digest: str


def build(
    config: str,
    name: str,
    settings: list[str],
    run_id: str,
    accelerator: str,
    weights: str = "",
    resume: bool = False,
    needed: Mapping[str, str] | None = None,
) -> Bundle:
    """The launcher with src/ and configs/ inside. The same tracked files and arguments give the same bytes.

    `accelerator` is the machine_shape that is asked for, so that the kernel can say whether it was given.
    `weights` is the name of a file that the kernel takes its pretrained weights from, in one of its attached datasets;
    `resume` makes it insist on an earlier run in its attached output; `needed` are packages that it installs where they
    are absent, with their versions.
    """
    tracked = _tracked()
    if ROOT / "configs" / f"{config}.yaml" not in tracked:
        raise UserError(f"configs/{config}.yaml is not tracked by git, and only what git tracks is pushed: git add it")
    content = _zip(tracked)
    digest = hashlib.sha256(content).hexdigest()
    encoded = "\n".join(re.findall(".{1,120}", base64.b64encode(content).decode()))
    script = (ROOT / "kernels" / "launcher.py").read_text(encoding="utf-8")
    given = {
        "name": name, "config": config, "settings": settings, "digest": digest, "run_id": run_id,
        "accelerator": accelerator, "locked": _tested_with(), "weights": weights, "resume": resume,
        "needed": dict(needed or {}),
    }  # fmt: skip
    values = {"NAME": name, "PUSH": json.dumps(given), "BUNDLE": encoded}
    # all at once: a setting that is written like one of them stays as it is
    script = re.sub("@@(NAME|PUSH|BUNDLE)@@", lambda place: values[place[1]], script)
    compile(script, "script.py", "exec")
    if len(script.encode()) >= LIMIT:
        raise UserError(
            f"the script would be {len(script.encode()):,} bytes, and Kaggle takes fewer than {LIMIT:,}: remove what is"
            " not needed from src/ or configs/"
        )
    return Bundle(script, digest)


def _tested_with() -> dict[str, list[str]]:
    """The locked versions of the packages that matter to a figure, by name."""
    lock = packages.locked()
    return {name: lock[name] for name in packages.MATTER if name in lock}


def _tracked() -> list[Path]:
    """The git-tracked files of src/ and configs/ that run or are read, and nothing else: no secret that merely lies
    there can travel."""
    ask = ["git", "-C", str(ROOT), "ls-files", "-z", "src", "configs"]
    try:
        listed = subprocess.run(ask, capture_output=True, check=True).stdout.decode()
    except (OSError, subprocess.CalledProcessError) as error:
        raise UserError(
            f"{ROOT} is no git checkout, and only what git tracks is pushed: clone the project with git"
        ) from error
    paths = [ROOT / name for name in sorted(listed.split("\0")) if name.endswith(TRAVELS)]
    gone = [shown(path) for path in paths if not path.is_file()]
    if gone:
        raise UserError(f"git tracks files that are not here: {some(gone)}")
    within = {path: [place for place in (path, *path.parents) if ROOT in place.parents] for path in paths}
    links = [path.relative_to(ROOT) for path in paths if any(place.is_symlink() for place in within[path])]
    if links:
        raise UserError(
            f"{some(links)}: a symbolic link does not travel, for it may lead to anything: put the file itself there"
        )
    if not paths:
        raise UserError(f"git tracks nothing in src/ and configs/ of {ROOT}")
    return paths


def left_behind() -> list[str]:
    """Files of src/ and configs/ that would not travel, because git does not track them."""
    ask = ["git", "-C", str(ROOT), "ls-files", "-z", "--others", "--exclude-standard", "src", "configs"]
    return [name for name in subprocess.run(ask, capture_output=True, check=True).stdout.decode().split("\0") if name]


def _zip(paths: list[Path]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for path in paths:
            info = zipfile.ZipInfo(path.relative_to(ROOT).as_posix(), date_time=(1980, 1, 1, 0, 0, 0))
            info.compress_type, info.external_attr, info.create_system = zipfile.ZIP_DEFLATED, 0o644 << 16, 3
            archive.writestr(info, path.read_bytes())
    return buffer.getvalue()


def usual(config: str, competition: str) -> dict:
    """The metadata of a configuration that has no kernel-metadata.json: a private script on two T4, with internet, and
    the competition's data, where it is one's."""
    words = re.sub(r"[^a-z0-9]+", " ", f"cxr {Path(config).stem}".lower()).strip()[:50].strip()
    return {
        "id": f"OWNER/{words.replace(' ', '-')}", "title": words, "code_file": "script.py", "language": "python",
        "kernel_type": "script", "is_private": True, "enable_gpu": True, "enable_internet": True,
        "machine_shape": "NvidiaTeslaT4", "competition_sources": [competition] * bool(competition),
        "dataset_sources": [], "kernel_sources": [], "model_sources": [],
    }  # fmt: skip


def metadata(config: str, owner: str, competition: str = "", with_data: bool = False) -> dict:
    """kernels/CONFIG/kernel-metadata.json, or where there is none the `usual` one for that competition, or for a data
    set that is attached, with the owner filled in, checked against what Kaggle knows and must be told."""
    path = ROOT / "kernels" / config / "kernel-metadata.json"
    if not path.is_file() and not competition and not with_data:
        raise UserError(
            f"{config} is no competition's, whose data a kernel is given by themselves: put your data set into a"
            " dataset on Kaggle (a private one serves) and attach it with --data OWNER/NAME"
        )
    found = read_json(path) if path.is_file() else usual(config, competition)
    for key in sorted(found.keys() | TYPES.keys()):
        if key not in TYPES:
            raise UserError(
                f"{shown(path)}: unknown key {key}, which Kaggle would ignore silently; the keys are {some(TYPES, 20)}"
            )
        if key not in found:
            raise UserError(
                f"{shown(path)}: the key {key} is missing; write it out, Kaggle's own default may be another"
            )
        if not isinstance(found[key], TYPES[key]) or (
            TYPES[key] is list and not all(isinstance(item, str) for item in found[key])
        ):
            raise UserError(
                f"{shown(path)}: {key} = {json.dumps(found[key])} must be"
                f" {'true or false' if TYPES[key] is bool else 'a list of names' if TYPES[key] is list else 'text'}"
            )
        if key in VALUES and found[key] not in VALUES[key]:
            raise UserError(f"{shown(path)}: {key} = {found[key]!r} will not do; there are {some(sorted(VALUES[key]))}")
    slug = found["id"].partition("/")[2]
    title = re.sub(r"[^a-z0-9]+", "-", found["title"].lower()).strip("-")
    if title != slug or not 5 <= len(found["title"]) <= 50:
        raise UserError(
            f"{shown(path)}: Kaggle derives the address {title!r} from the title, and id says {slug!r}: make them agree"
            " (a title has 5 to 50 characters)"
        )
    return {**found, "id": f"{owner}/{slug}"}
