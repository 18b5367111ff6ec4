"""The official Kaggle client: its credentials, its calls, and what its answers really mean.

The command-line client exits with 0 after many failures and words them anew in every version, so its Python API is
called, and success and failure are read from the replies and the HTTP status.
"""

import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from core.errors import UserError
from core.files import home, shown

SITE = "https://www.kaggle.com"
TOKENS = f'{SITE}/settings (API, "Create new token")'
PATIENCE, PAUSE = 300.0, 2.0  # seconds that connection errors and busy answers are waited for, and the first pause


@dataclass(frozen=True)
class Credentials:
    """Where the client finds who the user is (never the value), and what is wrong with it."""

    where: str | None  # None: nowhere
    username: str | None  # None: only the service knows
    faults: tuple[str, ...] = ()


def credentials() -> Credentials:
    """Look where the client looks, in its order."""
    faults = [
        f"the variable {name} is set and empty, which overrides a good file: unset it"
        for name in ("KAGGLE_API_TOKEN", "KAGGLE_USERNAME", "KAGGLE_KEY")
        if os.environ.get(name) == ""
    ]
    found: list[tuple[str, str | None]] = []
    if os.environ.get("KAGGLE_API_TOKEN"):
        found.append(("the variable KAGGLE_API_TOKEN", None))
    found += [
        (f"~/.kaggle/{name}", None)
        for name in ("access_token", "access_token.txt")
        if (Path.home() / ".kaggle" / name).is_file()
    ]
    if os.environ.get("KAGGLE_USERNAME") and os.environ.get("KAGGLE_KEY"):
        found.append(("the variables KAGGLE_USERNAME and KAGGLE_KEY", os.environ["KAGGLE_USERNAME"]))
    elif os.environ.get("KAGGLE_USERNAME") or os.environ.get("KAGGLE_KEY"):
        faults.append("only one of the variables KAGGLE_USERNAME and KAGGLE_KEY is set: set both")
    for folder in (
        *([Path(os.environ["KAGGLE_CONFIG_DIR"])] if os.environ.get("KAGGLE_CONFIG_DIR") else []),
        Path.home() / ".kaggle",
        Path.home() / ".config" / "kaggle",
    ):
        path = folder / "kaggle.json"
        if not path.is_file():
            continue
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            username = content["username"] if content["key"] else None
        except (OSError, ValueError, KeyError, TypeError):
            faults.append(f"{path} is malformed: fetch a new one at {TOKENS}")
            continue
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            faults.append(f"{path} can be read by others: chmod 600 {path}")
        found.append((str(path), username))
    if (Path.home() / ".kaggle" / "credentials.json").is_file():
        found.append(("~/.kaggle/credentials.json", None))
    if not found:
        return Credentials(None, None, tuple(faults))
    if len(found) > 1:
        faults.append(f"{found[0][0]} is used, and hides {' and '.join(where for where, _ in found[1:])}")
    return Credentials(found[0][0], found[0][1], tuple(faults))


def has_credentials() -> bool:
    return credentials().where is not None


def owner() -> str:
    """The user's name, from the credentials or from the service. Raises UserError when there are none."""
    mine = credentials()
    if mine.where is None:
        faults = f"; {'; '.join(mine.faults)}" if mine.faults else ""
        raise UserError(
            f"no Kaggle credentials were found{faults}: make a token at {TOKENS} "
            "and put it where kernels/README.md says"
        )
    for fault in mine.faults:
        print(f"note: {fault}", file=sys.stderr)
    found = mine.username or call("get_config_value", {"name": "username"}, "asking who you are")
    if not found:
        raise UserError(f"Kaggle does not know whose {mine.where} is: make a new token at {TOKENS}")
    return found


@dataclass(frozen=True)
class Failure:
    """Why a call failed, by what no version of the client words: the service's whole message, the HTTP status of its
    answer (None: no answer), and of a connection that failed whether the request can have arrived (`lost`) or not
    (`unsent`).
    """

    message: str
    status: int | None = None
    connection: str | None = None

    @property
    def unsent(self) -> bool:
        return self.status == 429 or self.connection == "unsent"

    @property
    def busy(self) -> bool:
        return self.unsent or self.status in (502, 503, 504) or self.connection == "lost"

    @property
    def missing(self) -> bool:
        return self.status == 404

    def __str__(self) -> str:
        said = " ".join(self.message.split()).rstrip(".") or "it said nothing"
        return f"HTTP {self.status}: {said}" if self.status else said


def ask(method: str, arguments: dict) -> object | Failure:
    """Call the client once, in a process of its own; what it prints is seen as it comes. Returns the reply, or why
    there is none."""
    print(f"kaggle: {method}({', '.join(f'{name}={value!r}' for name, value in arguments.items())})", flush=True)
    # which prints the credentials
    environment = {name: value for name, value in os.environ.items() if name != "VERBOSE"}
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "reply.json"
        words = [sys.executable, "-P", str(Path(__file__).with_name("ask.py")), str(out), method, json.dumps(arguments)]
        try:
            code = subprocess.run(words, env=environment, stdin=subprocess.DEVNULL).returncode
        except OSError as error:
            raise UserError(
                f"the kaggle client cannot be started ({error.strerror}): install requirements.txt, or give the data"
                " with --data DIR"
            ) from error
        if not out.is_file():
            return Failure(f"the client ended with exit code {code} and said no more than stands above")
        found = json.loads(out.read_text(encoding="utf-8"))
    return found["reply"] if "reply" in found else Failure(**found)


def call(
    method: str,
    arguments: dict,
    what: str,
    refusal: Callable[[object], str | None] = lambda reply: None,
    slug: str | None = None,
    missing_is_busy: bool = False,
    changes: str | None = None,
    patience: float | None = None,
) -> object:
    """Call KaggleApi's `method` until it succeeds, waiting ever longer while the service is busy. Returns the reply.

    `refusal` says why a reply is none that was hoped for, or None. Raises UserError with the service's own reason;
    `slug` is the competition whose rules a 403 is about. A call that changes something is only repeated when it cannot
    have arrived; `changes` is the address where one would see it. `patience`: seconds, where they are not PATIENCE.
    """
    start, pause = time.monotonic(), PAUSE
    while True:
        found = ask(method, arguments)
        if not isinstance(found, Failure):
            reason = refusal(found)
            if reason is None:
                return found
            found = Failure(reason)
        busy = (found.unsent if changes else found.busy) or (missing_is_busy and found.missing)
        if not busy or time.monotonic() - start + pause > (PATIENCE if patience is None else patience):
            break
        print(f"{found}: trying again in {pause:.0f} s", flush=True)
        time.sleep(pause)
        pause = min(2 * pause, 30.0)
    lost = (
        f": it may have arrived all the same, look at {changes} before you try again"
        if changes and found.busy and not found.unsent
        else ""
    )
    raise UserError(f"{what} failed ({found}){lost or _advice(found, slug)}")


def _advice(failure: Failure, slug: str | None) -> str:
    if slug and failure.status == 403:
        return f": if that is why, accept the rules at {SITE}/competitions/{slug}/rules"
    if failure.status == 401:
        return f": the credentials in {credentials().where} are refused; make a new token at {TOKENS}"
    if failure.missing:
        return ": Kaggle knows no such competition or kernel, or it is not yours"
    return ""


def submissions_page(slug: str) -> str:
    return f"{SITE}/competitions/{slug}/submissions"


def submissions(slug: str, patience: float | None = None) -> list[dict]:
    """The user's submissions, the newest first: the service's own fields, `status` in capitals."""
    asked = {"competition": slug, "page_size": 200}
    what = "listing your submissions"
    rows = call("competition_submissions", asked, what, slug=slug, patience=patience)
    return [row | {"status": str(row.get("status") or "PENDING").rpartition(".")[2].upper()} for row in rows or []]


def submit(path: Path, message: str, slug: str) -> str:
    """Hand a file in, and return a line that says so."""
    page = submissions_page(slug)
    call(
        "competition_submit",
        {"file_name": str(path), "message": message, "competition": slug},
        "the submission",
        lambda reply: None if reply.get("ref") else reply.get("message") or "it got no number",
        slug,
        changes=page,
    )
    limits = ask("competition_get_submission_limits", {"competition_name": slug})  # a courtesy: not insisted on
    left = f"; {limits.get('numAllowedNow', 0)} more are allowed today" if isinstance(limits, dict) else ""
    return f"submitted: {page}{left}"


def download(slug: str) -> Path:
    """Download and unpack a competition into data/<slug>/. The folder appears only when it is whole; a download that
    was cut goes on."""
    target = home() / "data" / slug
    scratch = home() / "data" / f".{slug}.download"
    scratch.mkdir(parents=True, exist_ok=True)
    archive = scratch / f"{slug}.zip"
    try:
        call(
            "competition_download_files",
            {"competition": slug, "path": str(scratch), "quiet": False},
            f"the download of {slug}",
            lambda reply: None if archive.is_file() else f"it left no {archive.name}",
            slug,
        )
    except UserError as error:
        raise UserError(f"{error}; or give the data with --data DIR, or try the kit with --demo") from error
    finally:
        if not any(scratch.iterdir()):
            scratch.rmdir()
    try:
        with tempfile.TemporaryDirectory(prefix=f".{slug}-", dir=target.parent) as fresh:
            _unzip(archive, Path(fresh) / "unpacked")
            os.replace(Path(fresh) / "unpacked", target)
    except Damaged:
        archive.unlink()  # to be fetched anew
        raise
    finally:
        if target.is_dir() or not archive.is_file():
            shutil.rmtree(scratch)
    return target


class Damaged(UserError):
    """An archive that is broken or hostile."""


def _unzip(archive: Path, target: Path) -> None:
    try:
        with zipfile.ZipFile(archive) as content:
            names = content.infolist()
            outside = [
                info.filename
                for info in names
                if not (target / info.filename).resolve().is_relative_to(target.resolve())
            ]
            if outside:
                raise Damaged(
                    f"{archive.name} holds paths that lead out of its folder ({outside[0]}): it was not unpacked"
                )
            size, free = sum(info.file_size for info in names), shutil.disk_usage(archive.parent).free
            if size > free:
                raise UserError(
                    f"unpacking {archive.name} needs {size / 1e9:.1f} GB and {free / 1e9:.1f} GB are free in"
                    f" {shown(archive.parent.parent)}"
                )
            content.extractall(target)  # checks every file's CRC
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise Damaged(f"{archive.name} is damaged ({error}): run the same command again") from error
