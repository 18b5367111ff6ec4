"""The files a run is made of: atomic writes, JSON, CSV rows, the logits file, the submission.

Everything is written beside its place and renamed there, so a reader never meets half a file.
"""

import csv
import hashlib
import io
import json
import os
import re
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np

from errors import FULL_DISK, UserError, some

SYNTHETIC = "SYNTHETIC DATA: these figures say nothing about real radiographs"  # the first line of whatever rests on the demo set
ROOT = Path(__file__).resolve().parent.parent  # where configs/ lies


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
            raise UserError(f"no space left while writing {shown(path)}: free some and run the same command again") from error
        raise
    finally:
        part.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    with atomic(path) as part:
        part.write_bytes(content)


def write_json(path: Path, content: dict) -> None:
    write_bytes(path, (json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> dict:
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
    """A CSV file whose header are the keys of all rows, in the order in which they are met; what a row lacks stays empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(dict.fromkeys(key for row in rows for key in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_bytes(path, text.getvalue().encode())


def read_run(folder: Path) -> dict:
    """`run.json` of a run folder."""
    folder = Path(folder)
    if not (folder / "run.json").is_file():
        raise UserError(f"{shown(folder)} is no run folder: it has no run.json (a run is made by ./run.sh CONFIG)")
    about = read_json(folder / "run.json")
    missing = [key for key in ("config", "data", "classes", "counts", "rows", "prior", "state") if key not in about]
    missing = missing or [key for key, kind in (("config", dict), ("data", str), ("classes", list)) if not isinstance(about[key], kind)]
    if missing:
        raise UserError(f"{shown(folder / 'run.json')} lacks {some(missing)}: delete {shown(folder)} and make the run again")
    return about


@dataclass(frozen=True)
class Logits:
    """What a network said, and what is needed to decide by it.

    ids str [N] · logits float32 [V, N, C], one slab a view, the unchanged image first · targets float32 [N, C], NaN
    unknown · classes str [C] · counts int [C], natural class counts of the training part · rows, its number of images ·
    prior float [C], the class prior that the activated logits assume (after the sampler).
    """

    ids: np.ndarray
    logits: np.ndarray
    targets: np.ndarray
    classes: np.ndarray
    counts: np.ndarray
    rows: int
    prior: np.ndarray

    def take(self, rows: np.ndarray) -> "Logits":
        """Some of the rows, by mask or index."""
        return replace(self, ids=self.ids[rows], logits=self.logits[:, rows], targets=self.targets[rows])


def write_logits(path: Path, content: Logits) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, **{field.name: getattr(content, field.name) for field in fields(Logits)})
    write_bytes(path, buffer.getvalue())


def read_logits(path: Path) -> Logits:
    """Read and check a logits file. Raises UserError for a missing, truncated, mis-shaped or non-finite one."""
    where = shown(path)
    try:
        with np.load(path, allow_pickle=False) as archive:
            missing = [field.name for field in fields(Logits) if field.name not in archive.files]
            if missing:
                raise UserError(f"{where} lacks {some(missing)}: it is no logits file of this kit")
            found = {field.name: archive[field.name] for field in fields(Logits)}
        for name, kinds in {"ids": "U", "classes": "U", "logits": "fiu", "targets": "fiu", "counts": "fiu", "prior": "fiu", "rows": "iu"}.items():
            if found[name].dtype.kind not in kinds:
                raise UserError(f"{where}: {name} are {found[name].dtype}, where {'text is' if kinds == 'U' else 'numbers are'} wanted")
        with np.errstate(over="ignore"):
            content = Logits(**{**found, "rows": int(found["rows"]), "logits": np.float32(found["logits"]), "targets": np.float32(found["targets"])})
    except OSError as error:
        raise UserError(f"{where} cannot be read ({error.strerror or error})") from error
    except (ValueError, TypeError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        raise UserError(f"{where} is truncated or no .npz file of this kit: make it again") from error
    rows, classes = content.ids.shape[:1], content.classes.shape[:1]
    wanted = {"ids": rows, "classes": classes, "logits": content.logits.shape[:1] + rows + classes, "targets": rows + classes, "counts": classes, "prior": classes}
    for name, shape in wanted.items():
        if getattr(content, name).shape != shape:
            raise UserError(f"{where}: {name} has shape {getattr(content, name).shape} where its ids and classes ask for {shape}")
    if not content.logits.size:
        raise UserError(f"{where} holds no rows")
    for name, names in (("ids", content.ids), ("classes", content.classes)):
        found, times = np.unique(names, return_counts=True)
        if (times > 1).any() or (found == "").any():
            raise UserError(f"{where}: {name} must be different names; twice or empty: {some(repr(str(one)) for one in found[(times > 1) | (found == '')])}")
    if (content.classes == "id").any():
        raise UserError(f"{where}: a class cannot be called id, which is the submission's first column")
    for name in ("counts", "prior", "rows"):
        values = np.asarray(getattr(content, name))
        if not np.isfinite(values).all() or values.min() < 0 or values.max() > 1e12 or not values.any():
            raise UserError(f"{where}: {name} must be finite, not negative and not all 0")
    if not ((content.counts > 0) & (content.prior > 0)).any():
        raise UserError(f"{where}: no class has both training images (counts) and a training prior (prior)")
    bad = ~(np.abs(content.logits) < 1e6).all(axis=(0, 2))
    if bad.any():
        raise UserError(f"{where} has logits that are NaN, infinite or beyond a million, in {bad.sum()} rows: {some(content.ids[bad])}")
    return content


def one_answer(cells: Sequence[str]) -> str:
    """What is wrong with a row of a single-label submission, or nothing."""
    return "" if sorted(cells) == ["0"] * (len(cells) - 1) + ["1"] else "not exactly one 1 among 0s"


def all_probabilities(cells: Sequence[str]) -> str:
    """What is wrong with a row of a multi-label submission, or nothing."""
    return "" if all(re.fullmatch(r"[01]\.\d{6}", cell) and float(cell) <= 1 for cell in cells) else "not all probabilities from 0 to 1"


def write_submission(path: Path, ids: Sequence[str], classes: Sequence[str], answers: np.ndarray, test_ids: Sequence[str], fault: Callable[[Sequence[str]], str] = one_answer) -> None:
    """Write a row of answers [N, C] for every id, in the order of `test_ids`, after reading the file back and checking it.

    Integers are written as they are, other numbers with six decimals. `fault` says what is wrong with the cells of a row.
    """
    answers = np.asarray(answers)
    cells = answers.astype(str) if answers.dtype.kind in "iu" else np.char.mod("%.6f", answers)
    with atomic(path) as part:
        with open(part, "w", newline="", encoding="utf-8") as file:
            rows = ([name, *row] for name, row in zip(ids, cells.tolist(), strict=True))
            csv.writer(file, lineterminator="\n").writerows([["id", *classes], *rows])
        validate_submission(part, test_ids, classes, path.name, fault)


def validate_submission(path: Path, test_ids: Sequence[str], classes: Sequence[str], name: str | None = None, fault: Callable[[Sequence[str]], str] = one_answer) -> None:
    """Check header, ids in order, and the cells of every row. Raises UserError with the first fault.

    `name` is what the fault calls the file.
    """
    name = name or path.name
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    if not rows or rows[0] != ["id", *classes]:
        raise UserError(f"the header of {name} is not id and the classes in their order: {some(rows[0] if rows else [])}")
    if len(rows) - 1 != len(test_ids):
        raise UserError(f"{name} has {len(rows) - 1} rows where there are {len(test_ids)} test images")
    for number, (row, wanted) in enumerate(zip(rows[1:], test_ids, strict=True), start=2):
        if row[0] != wanted:
            raise UserError(f"{name}, line {number}: id {row[0]} where {wanted} is wanted")
        wrong = fault(row[1:]) if len(row) == len(classes) + 1 else f"{len(row)} cells where the header has {len(classes) + 1}"
        if wrong:
            raise UserError(f"{name}, line {number}: {wrong}")
