"""What the processes of one training do together, one a device, on torch's own engine. `torchrun` starts them; for a
process alone, everything here is nothing.

All ranks go the same way through training. What only one may decide, read or write (time, files, figures) the first
one does, and hands on what came out. It needs no other rank to save, and so can be stopped at any step.
"""

import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from itertools import zip_longest
from typing import TypeVar

import numpy as np
import timm.layers
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from core import ranks
from core.errors import UserError
from core.runs import Run

T = TypeVar("T")
PATIENCE = timedelta(days=1)  # packing takes hours; a rank that is gone is noticed by its connections
STEP = timedelta(minutes=10)  # that no step of training takes: GPUs that do not reach each other are given up
LOOK = 0.5  # seconds after which the first rank looks again whether its launcher lives
_groups: dict[str, dist.ProcessGroup] = {}


@contextmanager
def joined(device: torch.device) -> Iterator[None]:
    """Join the other ranks for the block. Gradients and losses go by NCCL between GPUs; all else by gloo, which waits
    for no GPU. Raises UserError where another rank is lost."""
    if ranks.count() == 1:
        yield
        return
    if ranks.rank():  # the first one saves within its step, for which it needs the others
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda found, frame: None)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    on_gpu = device.type == "cuda"
    dist.init_process_group("nccl" if on_gpu else "gloo", timeout=STEP if on_gpu else PATIENCE)
    dist.all_reduce(torch.zeros(1, device=device))  # the first word between GPUs: better now than after packing
    everyone, here = range(ranks.count()), ranks.local_count()
    groups = {"words": [everyone], "end": [everyone], "machine": [everyone[at : at + here] for at in everyone[::here]]}
    for name, parts in groups.items():
        for members in parts:  # every rank makes every group, and keeps its own
            group = dist.new_group(list(members), backend="gloo", timeout=PATIENCE)
            if ranks.rank() in members:
                _groups[name] = group
    watch = threading.Thread(target=_watch_launcher if ranks.rank() == 0 else _watch_first, daemon=True)
    watch.start()
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and "gloo" not in str(error):
            raise
        raise UserError(
            f"{ranks.LOST} ({str(error).splitlines()[0][:200]}): the same command goes on where it was saved; devices=1"
            " does without others"
        ) from error
    dist.barrier(_groups["words"])
    for rank in range(1, ranks.count()) if ranks.rank() == 0 else ():
        dist.send(torch.zeros(1), rank, _groups["end"])
    if ranks.rank():
        watch.join()
    _groups.clear()
    dist.destroy_process_group()


def _watch_launcher() -> None:
    """Stop as by SIGTERM when the process that started the ranks is killed."""
    launcher = os.getppid()
    while _groups:
        if os.getppid() != launcher:
            os.kill(os.getpid(), signal.SIGTERM)
            return
        time.sleep(LOOK)


def _watch_first() -> None:
    """End with the first rank, even while the main thread waits in a library for what will never come."""
    try:
        dist.recv(torch.zeros(1), 0, _groups["end"])
    except RuntimeError:
        os._exit(2)


# ---- what the first one knows
def first(make: Callable[..., T], *given) -> T:
    """What the first rank makes of what is given, for every rank."""
    if ranks.count() == 1:
        return make(*given)
    box = [make(*given) if ranks.rank() == 0 else None]
    dist.broadcast_object_list(box, 0, _groups["words"])
    return box[0]


def first_of_machine(make: Callable[..., T], *given) -> T:
    """What the first rank of each machine makes there, for every rank on it."""
    if ranks.count() == 1:
        return make(*given)
    box = [make(*given) if ranks.local_rank() == 0 else None]
    dist.broadcast_object_list(box, ranks.rank() - ranks.local_rank(), _groups["machine"])
    return box[0]


def agreed(identity: str) -> str:
    """What names the data of a training, which every rank found where it runs. Raises UserError where they differ."""
    if first(lambda: identity) != identity:
        raise UserError(
            "this machine has other images, labels or settings than the first one: give all machines that train"
            " together the same command and the same data"
        )
    return identity


def own(run: Run) -> Run:
    """The run itself for the rank that writes; for another one a folder that nobody reads, so that all can go the same
    way."""
    return Run(ranks.scratch() / run.folder.name) if ranks.rank() else run


def spread(net: nn.Module) -> None:
    """Give every rank the weights and statistics of the first one's network."""
    for tensor in net.state_dict().values() if ranks.count() > 1 else ():
        whole = tensor.contiguous()
        dist.broadcast(whole, 0)
        tensor.copy_(whole)


# ---- what all of them do
def connected(net: nn.Module, before: nn.Module) -> nn.Module:
    """The network for the forward pass of training, whose backward pass leaves the mean over the ranks of every
    gradient. `before` is what was returned last; a new one is made where other parameters are trained by now.

    Looking for unused parameters, DDP keeps its buckets as they are made first: what is summed in which order does not
    depend on where a run was cut.
    """
    if ranks.count() == 1:
        return net
    trained = [parameter for parameter in net.parameters() if parameter.requires_grad]
    if isinstance(before, DistributedDataParallel) and [id(one) for one in trained] == before.trained:
        return before
    warnings.filterwarnings("ignore", "find_unused_parameters=True was specified")  # it is why: see above
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # the new name of broadcast_buffers is not in older versions
        found = DistributedDataParallel(net, broadcast_buffers=False, find_unused_parameters=True)
    found.trained = [id(one) for one in trained]
    return found


@contextmanager
def reduced(model: nn.Module, last: bool) -> Iterator[None]:
    """Gradients are averaged over the ranks in the `last` batch of a step, for all its batches."""
    if ranks.count() == 1 or last:
        yield
        return
    with model.no_sync():
        yield


def mean(value: torch.Tensor) -> torch.Tensor:
    """The mean of a number over the ranks."""
    if ranks.count() > 1:
        dist.all_reduce(value)
        value /= ranks.count()
    return value


def in_turn(parts: Sequence[T]) -> list[T]:
    """Every rank's parts in their order, where each rank had every so many-th."""
    if ranks.count() == 1:
        return list(parts)
    found: list = [None] * ranks.count()
    dist.all_gather_object(found, list(parts), _groups["words"])
    return [part for turn in zip_longest(*found) for part in turn if part is not None]


def of_several() -> tuple[int, ...]:
    """What tells the ranks' random numbers apart, to be added to a key; nothing for a process alone."""
    return (ranks.rank(),) if ranks.count() > 1 else ()


def reseed(*key: int) -> None:
    """Have dropout and its like draw from this key and the rank alone, so that a run goes on without the state of every
    rank's generator. A process alone goes on drawing."""
    if ranks.count() > 1:
        torch.manual_seed(int(np.random.SeedSequence((*key, *of_several())).generate_state(1)[0]))


def with_synced_norms(net: nn.Module, wanted: bool) -> nn.Module:
    """The network with batch norm over the batches of all ranks; timm's way, which keeps its activations in place."""
    return timm.layers.convert_sync_batchnorm(net) if wanted and ranks.count() > 1 else net
