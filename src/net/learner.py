"""Everything that changes while a network learns, and how it is kept in a run's last.pt."""

import math
import sys
import time
from dataclasses import asdict, dataclass

import torch
from timm.utils import ModelEmaV3

from core import ranks
from core.config import Config
from core.errors import UserError
from core.files import shown, write_rows
from core.runs import Run
from core.stopping import unbroken
from core.task import Task
from net import checkpoint, schedule, together
from net.machine import Machine
from net.model import Net


@dataclass
class UnderWay:
    """How far an epoch has come. `loss` is the sum over its images so far, on the device, `bad` the number of its first
    step whose loss was no number, `averaged` whether its weights are in the mean of the last epochs."""

    loss: torch.Tensor
    bad: torch.Tensor
    steps: int = 0
    images: int = 0
    seconds: float = 0.0
    averaged: bool = False

    @classmethod
    def begin(cls, device: torch.device) -> "UnderWay":
        return cls(torch.zeros((), device=device), torch.full((), torch.inf, device=device))


class Learner:
    """The network and its optimizer, the record of the epochs so far and what is done of the one under way. An epoch
    has so many `steps` of the optimizer. `identity` names what its run rests on."""

    def __init__(self, net: Net, config: Config, machine: Machine, steps: int, identity: str = ""):
        self.net, self.config, self.machine, self.steps, self.identity = net, config, machine, steps, identity
        groups = net.groups(config)
        self.optimizer = torch.optim.AdamW(groups, config.lr, weight_decay=config.weight_decay, fused=machine.fused)
        # the default threshold is relative, and takes a slightly worse negative score for a better one
        self.plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(
            self.optimizer, "max", config.lr_factor, config.lr_patience, threshold=0, threshold_mode="abs"
        )
        self.scaler = machine.scaler()
        self.ema = ModelEmaV3(net, config.ema, use_warmup=True) if config.ema else None
        self.average = ModelEmaV3(net) if config.average_epochs else None
        self.best, self.resting, self.history = -math.inf, 0, []
        self.under_way, self.saved = UnderWay.begin(machine.device), time.monotonic()
        self.model: torch.nn.Module = net  # the network as its forward pass is trained: see `connect`
        self.stepping = False  # within a step, of which nothing may be kept

    @property
    def _parts(self) -> dict:
        means = {"ema": self.ema, "average": self.average}
        return {
            "model": self.net, "optimizer": self.optimizer, "plateau": self.plateau, "scaler": self.scaler,
            **{name: mean.module for name, mean in means.items() if mean},
        }  # fmt: skip

    def connect(self) -> None:
        """Make `model` of the network as far as it is trained now: itself, or of several ranks one that averages their
        gradients."""
        self.model = together.connected(self.net, self.model)

    def lr(self, step: int) -> float:
        """The head's rate at the step of that number, counted over all epochs from 0."""
        return self.optimizer.param_groups[-1]["lr"] * schedule.factor(self.config, step, self.steps)

    def step(self, number: int) -> None:
        """The optimizer's step of that number. The groups' own rates, which the plateau lowers and last.pt holds, stay
        as they are."""
        groups, factor = self.optimizer.param_groups, schedule.factor(self.config, number, self.steps)
        rates = [group["lr"] for group in groups]
        for group in groups:
            group["lr"] *= factor
        self.scaler.step(self.optimizer)
        self.scaler.update()
        for group, rate in zip(groups, rates, strict=True):
            group["lr"] = rate
        if self.ema:
            self.ema.update(self.net, step=number + 1)

    @property
    def shipped(self) -> Net:
        """The network as it is kept, after the last epoch that has ended: with the moving average of the weights, where
        there is one, and within the last `average_epochs` with the mean of those at the ends of the epochs."""
        epoch = len(self.history) + (self.under_way.steps == self.steps)
        if self.average and epoch > self.config.epochs - self.config.average_epochs:
            return self.average.module
        return self.ema.module if self.ema else self.net

    def take_in(self) -> None:
        """Take the epoch under way, whose steps are done, into the mean of the last epochs:
        m_k = m_(k−1) + (w_k − m_(k−1)) / k (Izmailov et al. 2018, algorithm 1)."""
        number = len(self.history) + 1 - (self.config.epochs - self.config.average_epochs)
        if self.average and number >= 1 and not self.under_way.averaged:
            with unbroken():
                self.average.apply_update_(self.ema.module if self.ema else self.net, decay=1 - 1 / number)
                self.under_way.averaged = True

    def judge(self, value: float, frozen: bool) -> bool:
        """Take in an epoch's monitored figure; returns whether it is the best so far. The frozen warm-up neither lowers
        the learning rate nor counts towards early stopping."""
        better = value > self.best
        self.best = max(self.best, value)
        if not frozen:
            if self.config.schedule == "plateau":
                self.plateau.step(value)
            self.resting = 0 if better else self.resting + 1
        return better

    def end(self, row: dict, value: float, frozen: bool) -> bool:
        """Close the epoch under way, with its row of the log and its monitored figure; returns whether that is the best
        so far."""
        with unbroken():
            better = self.judge(value, frozen)
            self.history.append(row)
            self.under_way = UnderWay.begin(self.machine.device)
        return better

    @property
    def place(self) -> str:
        """Where it stands, in words."""
        if not self.under_way.steps:
            return f"after epoch {len(self.history)}"
        return f"within epoch {len(self.history) + 1}, after {self.under_way.steps} of {self.steps} steps"

    def save(self, run: Run) -> None:
        """Write last.pt, whose predecessor stays as previous.pt; of several ranks the first one does. Raises UserError,
        and leaves both as they are, where a loss or weight is no number."""
        if ranks.rank():
            return
        with unbroken():
            self.require_numbers()
            states = {name: part.state_dict() for name, part in self._parts.items()}
            record = {"best": self.best, "resting": self.resting, "history": self.history, "identity": self.identity}
            if (run / "last.pt").is_file():
                checkpoint.keep(run / "last.pt", run / "previous.pt")
            under_way = asdict(self.under_way)
            content = {**states, **record, "under_way": under_way, "random": checkpoint.random_state()}
            checkpoint.save(run / "last.pt", content)
            run.save()  # its timings
            self.saved = time.monotonic()

    def require_numbers(self) -> None:
        """Raises UserError where a loss of the epoch under way, or a weight, is no number."""
        bad, epoch = self.under_way.bad.item(), len(self.history) + 1
        if math.isfinite(bad):
            raise not_a_number(f"epoch {epoch}, step {bad + 1:.0f} of {self.steps}")
        values = self.net.state_dict().values()
        if not all(torch.isfinite(value).all() for value in values if value.is_floating_point()):
            raise not_a_number(f"epoch {epoch}, in the weights")

    def resume(self, last: dict, run: Run) -> None:
        """Go on from the content of a last.pt. Raises UserError for that of another network."""
        for group in last["optimizer"]["param_groups"]:  # whatever device and version the run began on
            group["fused"] = self.machine.fused
        checkpoint.put(self._parts, last, run / "last.pt")
        self.best, self.resting, self.history = last["best"], last["resting"], last["history"]
        if "under_way" in last:  # versions before this one saved after an epoch only
            place = last["under_way"]
            on_device = {name: place[name].to(self.machine.device) for name in ("loss", "bad")}
            self.under_way = UnderWay(**{**place, **on_device})
        checkpoint.restore_random_state(last["random"])
        if last.get("rewrite"):
            (run / "best.pt").unlink(missing_ok=True)
        write_rows(run / "log.csv", self.history)  # killed before it was written, the last epoch's row was not there
        print(f"resumed {self.place}")


def not_a_number(where: str) -> UserError:
    return UserError(
        f"the loss is no longer a number: {where}. The run stays as it was saved before, and the same command goes on"
        " from there; where it ends here again, lower lr or set precision=fp32, under another name="
    )


NEEDED = ("model", "optimizer", "best", "resting", "history", "random")  # in every version's last.pt


def last_state(run: Run, task: Task) -> dict | None:
    """The content of the run's last.pt, or of the one before where that is damaged; None where neither is there. Where
    best.pt is not the best epoch's, it says `rewrite`, or `lost` when that cannot be and training has to start over.
    Changes nothing, for another process may be at work on the run."""
    for path in (run / "last.pt", run / "previous.pt"):
        if not path.is_file():
            continue
        try:
            found = checkpoint.load(path, torch.device("cpu"), NEEDED)
        except UserError as error:
            _warn(f"{error}: the one before it is used, if there is one")
            continue
        # a version before this one wrote best.pt first, and one that is damaged may have had the next best epoch
        ahead = path.name == "previous.pt" or "under_way" not in found
        fault = _lost_best(found, run, task, ahead)
        lost = bool(fault) and not _has_best(found, task)
        if fault:
            _warn(f"{fault}: " + ("training starts over" if lost else "it is written again"))
        return {**found, "lost": lost, "rewrite": bool(fault)}
    return None


def require_same(last: dict, identity: str, run: Run) -> None:
    """Raises UserError for the state of a run that rests on something else, as far as it is known."""
    path = shown(run / "last.pt")
    if last.get("identity", identity) != identity:
        raise UserError(
            f"{path} is of a run with other settings, images or another split: give this run another name=, or put"
            f" back what {shown(run.folder)} held"
        )
    if "identity" not in last and "config" not in run.about:
        raise UserError(f"{path} is there without the run.json that says what it rests on: give this run another name=")


def _warn(sentence: str) -> None:
    print(f"WARNING: {sentence}", file=sys.stderr)


def _best_row(history: list[dict], task: Task) -> dict:
    """The row of the epoch that best.pt is to hold."""
    return history[-1] if task.config.monitor == "last" else max(history, key=lambda row: row[task.monitored])


def _has_best(last: dict, task: Task) -> bool:
    """Whether best.pt can be written from that state, or will be in any case."""
    history, inside = last["history"], last.get("under_way", {}).get("steps", 0)
    latest = _best_row(history, task) is history[-1]
    return latest and (not inside or task.config.monitor == "last")


def _lost_best(last: dict, run: Run, task: Task, ahead: bool) -> str:
    """Why best.pt does not hold the best epoch of that state, or with `ahead` a later one, which will be done again;
    nothing where it does."""
    history, monitored = last["history"], task.monitored
    if not history:
        return ""
    try:
        best = checkpoint.load(run / "best.pt", torch.device("cpu"), ["model", "epoch", monitored])
    except UserError as error:
        return str(error)
    row = _best_row(history, task)
    if (best["epoch"], best[monitored]) == (row["epoch"], row[monitored]) or ahead and best["epoch"] > len(history):
        return ""
    return f"{shown(run / 'best.pt')} is not of epoch {row['epoch']}, the best of this run"
