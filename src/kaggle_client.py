"""The competition's files through the official Kaggle client."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from errors import UserError
from files import home, shown

RULES = "https://www.kaggle.com/competitions/{slug}/rules"


def has_credentials() -> bool:
    """Whether the official client would find a token or key, in the places it looks in."""
    if os.environ.get("KAGGLE_API_TOKEN") or (os.environ.get("KAGGLE_USERNAME") and os.environ.get("KAGGLE_KEY")):
        return True
    places = [Path.home() / ".kaggle", Path.home() / ".config" / "kaggle"]
    if os.environ.get("KAGGLE_CONFIG_DIR"):
        places.insert(0, Path(os.environ["KAGGLE_CONFIG_DIR"]))
    return any((place / name).is_file() for place in places for name in ("kaggle.json", "access_token", "access_token.txt", "credentials.json"))


def download(slug: str) -> Path:
    """Download and unpack a competition into data/<slug>/. The folder appears only when it is whole."""
    target = home() / "data" / slug
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{slug}-", dir=target.parent) as scratch:
        command = [str(Path(sys.executable).with_name("kaggle")), "competitions", "download", "-c", slug, "-p", scratch]
        print(f"downloading: kaggle {' '.join(command[1:])}", flush=True)
        try:
            done = subprocess.run(command, capture_output=True, text=True)
        except OSError as error:
            raise UserError(f"the kaggle client cannot be started ({error.strerror}): install requirements.txt, or give the data with --data DIR") from error
        archive = Path(scratch) / f"{slug}.zip"
        if done.returncode or not archive.is_file():
            said = (done.stderr + done.stdout).strip().splitlines() or ["it said nothing"]
            accept = f"; accept the rules at {RULES.format(slug=slug)}" if re.search(r"\b403\b", " ".join(said)) else ""
            raise UserError(f"the download of {slug} failed ({said[-1]}){accept}; or give the data with --data DIR, or try the kit with --demo")
        unpacked = Path(scratch) / "unpacked"
        _unzip(archive, unpacked)
        os.replace(unpacked, target)
    return target


def _unzip(archive: Path, target: Path) -> None:
    try:
        with zipfile.ZipFile(archive) as content:
            names = content.infolist()
            outside = [info.filename for info in names if not (target / info.filename).resolve().is_relative_to(target.resolve())]
            if outside:
                raise UserError(f"{archive.name} holds paths that lead out of its folder ({outside[0]}): it was not unpacked")
            size, free = sum(info.file_size for info in names), shutil.disk_usage(archive.parent).free
            if size > free:
                raise UserError(f"unpacking {archive.name} needs {size / 1e9:.1f} GB and {free / 1e9:.1f} GB are free in {shown(archive.parent.parent)}")
            content.extractall(target)  # checks every file's CRC
    except zipfile.BadZipFile as error:
        raise UserError(f"{archive.name} is damaged ({error}): run the same command again") from error
