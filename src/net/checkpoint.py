"""Checkpoints, which load with `weights_only=True`, and the state of every random generator."""

import io
import os
import random
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from core.errors import UserError
from core.files import shown, write_bytes


def save(path: Path, content: dict) -> None:
    buffer = io.BytesIO()  # torch.save to a path raises a RuntimeError on a full disk, and keeps half a file
    torch.save(content, buffer)
    write_bytes(path, buffer.getbuffer())


def keep(path: Path, name: Path) -> None:
    """Give a file a second name, which stays when the first is written anew."""
    part = name.with_name(f".{name.name}.part")
    part.unlink(missing_ok=True)
    try:
        os.link(path, part)
        os.replace(part, name)
    except OSError:  # a file system without hard links: for a moment the first name is gone
        os.replace(path, name)
    finally:
        part.unlink(missing_ok=True)  # it stays where both names are one file already


def load(path: Path, device: torch.device, keys: Iterable[str]) -> dict:
    """A checkpoint that has all of `keys`. Raises UserError for a missing, damaged or foreign one."""
    if not path.is_file():
        raise UserError(f"{shown(path)} is gone")
    try:
        with zipfile.ZipFile(path) as archive:  # torch does not look at the checksums
            if archive.testzip():
                raise zipfile.BadZipFile("a checksum is wrong")
        content = torch.load(path, map_location=device, weights_only=True)
        return {**content, **{key: content[key] for key in keys}}
    except Exception as error:  # zip, pickle, decoding and type errors: each means that the file is damaged
        raise UserError(f"{shown(path)} is damaged ({type(error).__name__})") from error


def put(parts: Mapping[str, Any], content: dict, path: Path) -> None:
    """Load the states of a checkpoint into the parts of those names: network, optimizer, … Raises UserError for that of
    another network."""
    try:
        for name, part in parts.items():
            part.load_state_dict(content[name])
    except Exception as error:  # every part raises kinds of its own
        raise UserError(f"{shown(path)} is of another network: give this run another name=") from error


def load_into(parts: Mapping[str, Any], path: Path, device: torch.device, further: Iterable[str] = ()) -> dict:
    """Load a checkpoint's states into the parts of those names, and return its content, in which all of `further`
    are. Raises UserError for a damaged one, or that of another network."""
    try:
        content = load(path, device, [*parts, *further])
    except UserError as error:
        advice = "run the command that began the run once more; where it is trained already, it has to be trained again"
        raise UserError(f"{error}: {advice}, under another name=") from error
    put(parts, content, path)
    return content


def random_state() -> dict:
    """The state of every random generator, as tensors and plain Python values."""
    name, keys, *rest = np.random.get_state()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": [name, keys.tolist(), *rest],
        "python": [list(part) if isinstance(part, tuple) else part for part in random.getstate()],
    }


def restore_random_state(state: dict) -> None:
    torch.set_rng_state(state["torch"].cpu())
    if torch.cuda.is_available() and state["cuda"]:
        here = state["cuda"][: torch.cuda.device_count()]  # it may have begun where more GPUs were visible
        torch.cuda.set_rng_state_all([generator.cpu() for generator in here])
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, np.array(keys, np.uint32), *rest))
    random.setstate(tuple(tuple(part) if isinstance(part, list) else part for part in state["python"]))
