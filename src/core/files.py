"""The files a run is made of: atomic writes, JSON, CSV rows, and where they lie.

Everything is written beside its place and renamed there, so a reader never meets half a file.
"""

import csv
import hashlib
import io
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from core.errors import FULL_DISK, UserError

SYNTHETIC = (  # the first line of whatever rests on the demo set
    "SYNTHETIC DATA: these figures say nothing about real radiographs"
)


ROOT = Path(__file__).resolve().parents[2]  # where configs/ lies


def home() -> Path:
    """The folder that holds runs/, submissions/ and data/: `CXR_HOME`, otherwise the project itself."""
    return Path(os.environ.get("CXR_HOME") or ROOT)


def shown(path: Path) -> str:
    """`path` as a person would type it: relative to the current folder when it lies below."""
    path = Path(path).resolve()
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def digest(content: bytes) -> str:
    """A short name for some content: 16 hexadecimal digits of its SHA-256."""
    return hashlib.sha256(content).hexdigest()[:16]


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; renamed to it on success, removed on any failure (Ctrl-C too)."""
    path = Path(path)
    if path.exists() and not path.is_file():
        raise UserError(f"{shown(path)} is no regular file: name one to write to")
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    try:
        yield part
        with open(part, "rb") as file:
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        if error.errno in FULL_DISK:
            raise UserError(
                f"no space left while writing {shown(path)}: free some and run the same command again"
            ) from error
        raise
    finally:
        part.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    with atomic(path) as part:
        part.write_bytes(content)


def _bytes(text: str) -> bytes:
    """UTF-8; the name of a folder that is none is written with its odd bytes as \\udcXX, which JSON reads back."""
    return text.encode(errors="backslashreplace")


def write_json(path: Path, content: dict) -> None:
    write_bytes(path, _bytes(json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"))


def refuse_special(path: Path) -> None:
    """Raises UserError for a pipe or a device, which might never end."""
    if not (path.is_file() or path.is_dir()) and path.exists():
        raise UserError(f"{shown(path)} is no regular file: give one that lies on a disk")


def read_json(path: Path) -> dict:
    refuse_special(Path(path))
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{shown(path)} cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{shown(path)} is not JSON ({error}): delete it and make it again") from error
    if not isinstance(content, dict):
        raise UserError(f"{shown(path)} does not hold a JSON object: delete it and make it again")
    return content


def write_rows(path: Path, rows: Sequence[dict]) -> None:
    """A CSV file whose header are the keys of all rows, in the order in which they are met; what a row lacks stays
    empty."""
    text = io.StringIO()
    writer = csv.DictWriter(
        text, fieldnames=list(dict.fromkeys(key for row in rows for key in row)), lineterminator="\n"
    )
    writer.writeheader()
    writer.writerows(rows)
    write_bytes(path, _bytes(text.getvalue()))
