"""The machinery of a run: device, precision and worker processes. None of it belongs to a task or a model."""

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from core import ranks
from core.config import Config
from core.errors import UserError

SHARED = Path("/dev/shm")  # through which Linux hands the workers' batches over; in a container of Docker's 64 MB
AHEAD = 2 * 3  # batches that lie there for each worker: two of training, and two of the twice as large validation ones


@dataclass(frozen=True)
class Machine:
    """Where and how to compute. `dtype` is what autocast uses; float32 means no autocast."""

    device: torch.device
    dtype: torch.dtype
    workers: int

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)

    def scaler(self) -> torch.amp.GradScaler:
        """Loss scaling for fp16; for every other precision it hands gradients through."""
        return torch.amp.GradScaler(self.device.type, enabled=self.dtype == torch.float16)

    def place(self, net: nn.Module) -> nn.Module:
        """Move a network here. On a CPU its depthwise convolutions are kept out of bf16, whose backward pass is several
        times slower for them in oneDNN than float32's."""
        if self.device.type == "cpu" and self.dtype == torch.bfloat16:
            for module in net.modules():
                if isinstance(module, nn.Conv2d) and module.groups == module.in_channels > 1:
                    module.forward = partial(_in_float32, type(module).forward, module)
        return net.to(self.device)

    @property
    def fused(self) -> bool | None:
        """Whether AdamW's step is one kernel: on an H200 a ConvNeXt-Tiny of 256 pixels took 24 % less time for a batch
        of 32 in fp16 with it, 8 % less in float32. None: torch's choice, by which a CPU's bytes stay."""
        return True if self.device.type == "cuda" else None

    @property
    def precision(self) -> str:
        return str(self.dtype).removeprefix("torch.")

    @property
    def threads(self) -> int:
        """Of the CPU that computes, for their number parts the sums; 0 where a GPU does."""
        return torch.get_num_threads() if self.device.type == "cpu" else 0

    def warn(self, about: dict) -> None:
        """Say so when a run of that run.json began on a machine whose sums have other last digits."""
        for what, now in (("dtype", self.precision), ("threads", self.threads), ("devices", ranks.count())):
            before = about.get(what, now)
            if before != now:
                print(
                    f"WARNING: this run began with {what} = {before} and goes on with {now}: its bytes will not repeat",
                    file=sys.stderr,
                )

    def __str__(self) -> str:
        name = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else f"CPU, {self.threads} threads"
        return f"{name}, {self.precision}, {self.workers} loader workers"


def device(config: Config) -> torch.device:
    """The GPU when there is one and the configuration lets it. Raises UserError for one that is not here, or too
    old."""
    if config.device == "cuda" and not torch.cuda.is_available():
        raise UserError("device=cuda was asked for and torch sees no GPU: leave device=auto")
    chosen = torch.device("cuda" if torch.cuda.is_available() and config.device != "cpu" else "cpu")
    if chosen.type == "cuda" and ranks.count() > 1:
        chosen = torch.device("cuda", ranks.local_rank())
    if chosen.type == "cuda":
        _require_kernels(chosen)
    return chosen


def devices(config: Config) -> int:
    """How many devices the configuration may use here: GPUs, or processes on a CPU; one, where this process is itself
    one of several. Raises UserError for more GPUs than are visible."""
    if ranks.count() > 1:
        return 1
    visible = 0 if config.device == "cpu" else torch.cuda.device_count()
    wanted = max(visible, 1) if config.devices == "auto" else config.devices
    if visible and wanted > visible:
        raise UserError(f"devices = {wanted}: {visible} GPUs are visible here: leave devices=auto, or set device=cpu")
    return wanted


def check_together(config: Config, number: int) -> None:
    """Raises UserError for a network that so many devices cannot train together."""
    if number > 1 and config.batch < 2 * number:  # batch norm needs two images
        raise UserError(
            f"batch = {config.batch} on {number} devices leaves one of them less than 2 images: set a larger batch, or"
            f" devices={config.batch // 2}"
        )
    if number > 1 and config.sync_norms and (config.device == "cpu" or not torch.cuda.is_available()):
        raise UserError("sync_norms = true: torch sums statistics over GPUs only: leave sync_norms out on a CPU")


def pick(config: Config) -> Machine:
    """Choose by the configuration and by what is here; seeds everything. Raises UserError for what is not here."""
    found = device(config)
    on_gpu = found.type == "cuda"
    # is_bf16_supported() alone also counts emulation, which a T4 does slower than float32
    bf16 = torch.cuda.is_bf16_supported(including_emulation=False) if on_gpu else _cpu_has_bf16()
    best = torch.bfloat16 if bf16 else torch.float16 if on_gpu else torch.float32
    dtype = {"auto": best, "bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[config.precision]
    cores = max(1, os.cpu_count() // ranks.local_count())
    workers = (min(cores, 8) if on_gpu else 0) if config.workers == "auto" else config.workers
    workers = _that_fit(workers, config)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it deterministic matrix products raise
    torch.use_deterministic_algorithms(config.deterministic, warn_only=True)
    # a debugging aid that costs a pass over every new tensor
    torch.utils.deterministic.fill_uninitialized_memory = False
    torch.backends.cudnn.benchmark = not config.deterministic
    torch.manual_seed(config.seed)
    np.random.seed(config.seed)
    return Machine(found, dtype, workers)


@contextmanager
def sufficient(config: Config) -> Iterator[None]:
    """Turns a GPU that is too small for the block into a UserError, which says what to try."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        advice = f"try batch={max(config.batch // 2, 2)} accumulate={2 * config.accumulate}, whose steps are the same"
        raise UserError(
            f"the GPU's memory does not hold batch = {config.batch} at size = {config.size}: {advice}"
        ) from error


def _that_fit(workers: int, config: Config) -> int:
    """So many loader workers as shared memory has room for; says so where they are fewer."""
    if not workers or sys.platform != "linux":
        return workers
    free = shutil.disk_usage(SHARED).free // ranks.local_count() if SHARED.is_dir() else 0
    each = AHEAD * config.batch * config.size**2
    fitting = min(workers, free // each)
    if fitting < workers:
        print(
            f"note: workers = {fitting}, for {SHARED} has {free / 1e6:.0f} MB free and each of {workers} loader workers"
            f" needs {each / 1e6:.0f} MB there; in a container, --shm-size=1g gives more",
            file=sys.stderr,
        )
    return fitting


def _cpu_has_bf16() -> bool:
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def _in_float32(forward: Callable, module: nn.Module, images: torch.Tensor) -> torch.Tensor:
    if not (torch.is_grad_enabled() and module.weight.requires_grad):
        return forward(module, images)
    with torch.autocast("cpu", enabled=False):
        return forward(module, images.float())


def _require_kernels(device: torch.device) -> None:
    """Refuse a GPU that the torch build has no kernels for, such as Kaggle's P100 with current builds."""
    major, minor = torch.cuda.get_device_capability(device)
    built = [
        int(name.removeprefix("sm_").rstrip("af")) for name in torch.cuda.get_arch_list() if name.startswith("sm_")
    ]
    if built and major * 10 + minor < min(built):
        raise UserError(
            f"the GPU {torch.cuda.get_device_name(device)} has compute capability {major}.{minor} and this torch build"
            f" starts at {min(built) / 10:.1f}: choose another accelerator (T4), or device=cpu"
        )
