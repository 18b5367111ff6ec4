"""Pooled features: what the body of a network says of images, and the cache of those of pretrained bodies."""

import fcntl
import hashlib
import json
import sys
import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import nn

from core import packages
from core.config import Config
from core.data_set import Table
from core.files import atomic, home, shown
from images import loader
from images.pack import Pack
from images.prepare import Prepared
from net import infer
from net.machine import Machine
from net.model import Net


def extract(net: Net, pack: Pack, ids: np.ndarray, config: Config, machine: Machine) -> np.ndarray:
    """What the last layer of the head is given for these images, unaugmented, in every view of the configuration:
    float32 [V, N, F]. Without hidden layers that are the pooled features of the body."""
    images = Table(ids, [], np.zeros((len(ids), 0), np.float32))
    batches = loader.in_order(pack, images, config.batch, machine.workers, machine.device.type == "cuda")
    last, net.head[-1] = net.head[-1], nn.Identity()
    try:
        return infer.logits(net, batches, config.views, machine, "features")
    finally:
        net.head[-1] = last


def of_all(net: Net, prepared: Prepared, config: Config, machine: Machine) -> tuple[np.ndarray, np.ndarray]:
    """The features of every image, labelled or not, by a network without hidden layers in its head and with a body that
    is not trained yet: ids str [N], float32 [V, N, F].

    Computed once for everything that they depend on, and kept below features/: another run, another fold and the probe
    take them from there. A file that is damaged is made again.
    """
    ids = np.array([*prepared.labelled.ids.tolist(), *prepared.unlabelled.tolist()])
    path = home() / "features" / f"{_key(net, prepared.pack.fingerprint(ids), config, machine)}.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two runs with the same body: the second waits and reuses
        found = _read(path)
        if found is None:
            found = extract(net, prepared.pack, ids, config, machine)
            with atomic(path) as part, open(part, "wb") as file:
                np.savez(file, features=found)
        else:
            print(f"features: {len(ids)} images in {len(found)} views, reused")
    return ids, found


def _key(net: Net, images: str, config: Config, machine: Machine) -> str:
    """A digest of the body's weights as they are in memory, wherever they came from, and of the images and the way they
    are looked at. The batch, the device and the packages move the last digits: with them, a run's bytes do not depend
    on what ran before it."""
    way = [config.model, config.views, config.batch, machine.device.type, machine.precision, packages.versions()]
    if config.strides:
        way += [config.strides, config.pooling]
    found = hashlib.sha256(json.dumps([images, config.size, *way]).encode())
    for name, tensor in [*net.body.state_dict().items(), ("mean", net.mean), ("std", net.std)]:
        found.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        found.update(tensor.cpu().contiguous(memory_format=torch.contiguous_format).numpy().tobytes())
    return found.hexdigest()[:16]


def _read(path: Path) -> np.ndarray | None:
    """The features of a cache file; None where there is none, or a damaged one, which is said."""
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as archive:  # every part of a zip has its checksum
            return archive["features"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        print(f"WARNING: {shown(path)} is damaged, and the features are computed again", file=sys.stderr)
        return None
