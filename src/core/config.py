"""The configuration: a YAML file, then `configs/demo.yaml` for demo runs, then `key=value` from the command line.

Every key is declared here with its type and range; an unknown or wrongly typed one is an error that names where it
stands.
"""

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from core.errors import UserError
from core.files import ROOT, shown

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=0, le=10**9)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]


def later(default, **limits):
    """A key that the first versions did not have. Its default is what they did, and it counts in comparisons and
    digests only where it differs from that: what an older version began goes on."""
    return Field(default, json_schema_extra={"later": True}, **limits)


LARGEST, DEEPEST = 10**6, 50  # characters of a YAML file, and values; levels of it


Strength = Annotated[float, Field(gt=0, le=2)]
HEAD = r"^(none|{0}(->{0})*)$".format(r"[1-9]\d{0,4}/(0|0?\.\d+)")


class Config(BaseModel):
    """What every task has; the keys of one task stand in its own class, in its file below tasks/."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=())

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=80)]
    task: str
    # of the Kaggle competition or data set: its data lie in data/<slug>
    slug: Annotated[str, Field(pattern=r"^[a-z0-9-]+$")]

    model: str  # any timm name, or cnn1 … cnn7 from scratch
    weights: str  # imagenet | none | FILE | RUN, a folder of another run
    size: Annotated[int, Field(ge=32, le=1024)]  # pixels, width and height
    dropout: Annotated[float, Field(ge=0, lt=1)]  # of the pooled features
    # of the body's feature maps that are pooled instead of what its own head pools, as 16; the body ends at the last
    strides: list[Annotated[int, Field(ge=1, le=64)]] = later([])
    pooling: Literal["mean", "mean_std"] = later("mean")  # over the positions of each of those maps
    # what the head is told of the patient beside the image, see core/metadata.py
    metadata: list[Literal["age", "sex", "view", "follow_up"]] = later([])
    # hidden layers between features and classes: units/dropout, as 256/0.30->128/0.30
    head: Annotated[str, Field(pattern=HEAD)] = "none"

    epochs: Annotated[int, Field(ge=1)]  # at most, frozen ones included
    frozen_epochs: Count
    batch: Annotated[int, Field(ge=2, le=2**16)]
    lr: Positive
    body_lr: Literal["lr"] | Positive = "lr"  # of a pretrained body; one that starts at random learns with lr
    # top share of a pretrained body's layers that is trained after the frozen epochs; a random one is trained whole
    unfrozen: Share = 1.0
    weight_decay: Annotated[float, Field(ge=0)]
    clip_norm: Annotated[float, Field(ge=0)]  # of the gradient; 0: it is not clipped
    label_smoothing: Annotated[float, Field(ge=0, lt=1)]
    loss: str
    imbalance: dict[str, Strength]  # see core/priors.py
    lr_patience: Count
    lr_factor: Annotated[float, Field(gt=0, lt=1)]
    patience: Annotated[int, Field(ge=1)]  # epochs without a better validation score before training stops

    flip: Share  # probability of a left-right mirror
    shift: Share  # of the width and height, at most
    scale: Annotated[float, Field(ge=0, lt=1)]  # relative zoom, at most
    rotate: Annotated[float, Field(ge=0, le=180)]  # degrees, at most
    geometry: Share  # probability of shift, scale and rotation
    border: Literal["black", "reflect"] = "black"  # what geometry moves in from beyond the edge
    brightness: Share  # of full white, at most
    contrast: Share  # relative, at most
    tone: Share  # probability of brightness and contrast
    random_crop: float = later(0.0, ge=0, lt=1)  # of the side, at most, that is cut off; the rest is enlarged
    noise: Share = 0.0  # uniform, of full white, at most
    mix: Literal["none", "mixup", "cutmix"] = "none"  # of the images and targets of a batch
    mix_alpha: Positive = 1.0  # the mixing proportion is drawn from Beta(α, α)
    mix_probability: Share = 0.5  # that a batch is mixed

    crop: Literal["none", "lungs", "masks"] = "none"  # of every image before it is resized: see images/lungs.py
    masks: str = ""  # folder of lung masks, for crop: masks
    val_fraction: Annotated[float, Field(gt=0, lt=1)]
    split: str = "auto"  # or FILE: a CSV of id and part, such as the folds.csv of another run
    folds: Annotated[int, Field(ge=0, le=20)] = later(0)  # of a cross-validation; 0: one split
    fold: Literal["all"] | Annotated[int, Field(ge=1)] = later("all")  # which of them to train
    split_seed: Literal["seed"] | Seed = "seed"  # of the split and of `limit`
    views: Annotated[list[str], Field(min_length=1)]
    rule: str
    temperature: Literal["tune"] | Annotated[float, Field(ge=0.01, le=100)]
    seed: Seed

    limit: Count = 0  # labelled images, 0 = all
    drop_unreadable: bool = False  # leave unreadable labelled images out, before the split, instead of stopping
    precision: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    deterministic: bool = True
    save_minutes: Annotated[float, Field(ge=0)] = 5  # last.pt within an epoch too, so often; 0: at its end only
    # stop training in time for everything else to end within these hours, 0 = never
    hours: Annotated[float, Field(ge=0, le=24)] = 0
    # of the data loader; results do not depend on it
    workers: Literal["auto"] | Annotated[int, Field(ge=0, le=256)] = "auto"
    # GPUs (auto: all that are visible), or processes on a CPU (auto: 1): for one network, folds or cells side by side
    devices: Literal["auto"] | Annotated[int, Field(ge=1, le=64)] = later("auto")
    # of several devices: batch norm takes its statistics from the whole batch, and not from each device's part of it
    sync_norms: bool = later(False)
    # random, or the logistic regression on frozen features, by which `probe` is the bar too: see net/heads.py
    head_start: Literal["random", "probe"] = later("random")
    # how the head is fitted again after training, on the features of the trained body: see net/refit.py
    refit: Literal["none", "balanced", "expected_score"] = later("none")
    probe: bool = later(False)  # make the logistic regression on frozen features first, and say what the run gains

    # plateau lowers the rate where the monitored figure rests; cosine, half a wave from lr to 0 over all epochs
    schedule: Literal["plateau", "cosine"] = later("plateau")
    warmup: float = later(0.0, ge=0)  # epochs, frozen ones included, in which the rate rises linearly from 0
    layer_decay: float = later(1.0, gt=0, le=1)  # the rate of a layer of the body, relative to that of the next above
    decay_norms: bool = later(True)  # false: no weight decay of norms and biases
    norms: Literal["learn", "frozen"] = later("learn")  # frozen: batch norm keeps the statistics of a pretrained body
    drop_path: float = later(0.0, ge=0, lt=1)  # stochastic depth: how often the last block is passed over
    accumulate: int = later(1, ge=1, le=2**16)  # batches a step
    ema: float = later(0.0, ge=0, lt=1)  # decay of a moving average of the weights, which is what is kept; 0: none
    average_epochs: Count = later(0)  # what is kept is the mean of the weights at the ends of so many last epochs
    # the validation figure that chooses the epoch: auto (the task's own), one of its `monitors`, or last (the last one)
    monitor: str = later("auto")
    # curves to watch while it trains, see net/curves.py; log.csv is written in any case
    log: Literal["none", "tensorboard", "wandb"] = later("none")

    @field_validator("*", mode="before")
    @classmethod
    def _no_bool_for_a_number(cls, value, info):
        if isinstance(value, bool) and cls.model_fields[info.field_name].annotation is not bool:
            raise ValueError("true and false are no value for this key")
        return value

    @field_validator("pooling")
    @classmethod
    def _maps_to_pool(cls, value, info):
        if value != "mean" and not info.data.get("strides"):
            raise ValueError("without strides the network pools its last map itself: name the maps with strides=")
        return value

    @field_validator("metadata", "labels", "projections", mode="before", check_fields=False)
    @classmethod
    def _split_commas(cls, value):
        return [name.strip() for name in value.split(",")] if isinstance(value, str) else value

    @field_validator("metadata")
    @classmethod
    def _told_once(cls, value):
        if len(set(value)) < len(value):
            raise ValueError("each is told once")
        return value

    @field_validator("folds")
    @classmethod
    def _two_folds(cls, value):
        if value == 1:
            raise ValueError("one fold leaves nothing to train on: give at least 2, or 0 for one split")
        return value

    @field_validator("fold")
    @classmethod
    def _one_of_the_folds(cls, value, info):
        if value != "all" and value > info.data.get("folds", 0):
            raise ValueError(f"with folds = {info.data.get('folds', 0)} there is no such fold")
        return value

    @field_validator("imbalance", mode="before")
    @classmethod
    def _read_imbalance(cls, value):
        if not isinstance(value, str):  # run.json holds the parts already
            return value
        parts = [part.partition(":") for part in value.split("+")] if value != "none" else []
        if not all(name and exponent for name, _, exponent in parts) or len({name for name, _, _ in parts}) < len(
            parts
        ):
            raise ValueError("it is written none, or NAME:NUMBER, for example sampler:0.5 or oversampling:0.1")
        return {name: exponent for name, _, exponent in parts}

    @classmethod
    def _later(cls) -> dict:
        """The later keys and their defaults, which are what versions without them did."""
        fields = cls.model_fields.items()
        return {name: field.default for name, field in fields if (field.json_schema_extra or {}).get("later")}

    @classmethod
    def filled(cls, values: dict) -> dict:
        """The keys and values that a run.json holds, with the later keys that it was made without."""
        return cls._later() | values

    @property
    def meaning(self) -> dict:
        """What is hashed and reported: the keys and values without later keys at their defaults."""
        later = self._later()
        return {key: value for key, value in self.model_dump().items() if not (key in later and value == later[key])}

    @property
    def asked_folds(self) -> list[int]:
        """The folds to train: all, or the one that `fold` names; none without a cross-validation."""
        return list(range(1, self.folds + 1)) if self.fold == "all" else [self.fold]

    @property
    def crossed(self) -> bool:
        """Whether this is a whole cross-validation, whose networks lie in folders of their own."""
        return bool(self.folds) and self.fold == "all"

    @property
    def given_temperature(self) -> float | None:
        """The temperature that is given; None: to be tuned."""
        return None if self.temperature == "tune" else self.temperature

    @property
    def chosen_split_seed(self) -> int:
        return self.seed if self.split_seed == "seed" else self.split_seed


def spelled(imbalance: dict[str, float]) -> str:
    """The `imbalance` setting as it is written."""
    return "+".join(f"{name}:{exponent:g}" for name, exponent in imbalance.items()) or "none"


NO_RESULT = {"name", "workers", "devices", "hours", "save_minutes", "probe", "log"}  # they change no figure
INDIFFERENT = NO_RESULT | {"rule", "temperature"}  # a run may go on, or be decided anew, with these changed


def layered(
    name: str, overrides: Sequence[str] = (), synthetic: bool = False, demo: bool = False
) -> tuple[dict, dict[str, str]]:
    """The keys and values of a configuration, by name (`modelB`) or path, and where each comes from; not yet checked.

    Laid over each other: the file, with `demo` configs/demo.yaml and what the file says below `demo:`, then the
    overrides. The run's name is the file's, with `-demo` appended for synthetic data, unless `name=` says otherwise.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else ROOT / "configs" / f"{name}.yaml"
    if not path.is_file():
        known = sorted(p.stem for p in (ROOT / "configs").glob("*.yaml") if p.stem != "demo")
        raise UserError(f"there is no configuration {shown(path)}; there are {', '.join(known)}")
    values = {"name": path.stem + ("-demo" if synthetic else "")}
    origin = dict.fromkeys(values, shown(path))
    own = read_yaml(path)
    of_demo = own.pop("demo", None) or {}
    if not isinstance(of_demo, dict):
        raise UserError(f"{shown(path)}: demo must hold `key: value` lines")
    layers = [(path, own)]
    if demo:
        layers += [(ROOT / "configs" / "demo.yaml", read_yaml(ROOT / "configs" / "demo.yaml")), (path, of_demo)]
    for layer, found in layers:
        values |= found
        origin |= dict.fromkeys(found, shown(layer))
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key:
            raise UserError(f"{override!r} is not understood: settings are given as key=value, for example lr=5e-5")
        try:
            values[key] = parsed(text) if text.startswith("[") else text
        except ValueError as error:
            raise UserError(f"{cut(override)!r} is not understood: a list is written [one, two]") from error
        origin[key] = f"the command line ({cut(override)})"
    return values, origin


def read_yaml(path: Path) -> dict:
    """The keys and values of a YAML file. Raises UserError for one that cannot be read or holds something else."""
    try:
        content = parsed(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{shown(path)} is no readable YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise UserError(f"{shown(path)} must hold `key: value` lines")
    return content


def parsed(text: str) -> object:
    """What a text in YAML says: plain values, lists and mappings. Raises ValueError for one that says nothing, or says
    one thing twice, or is larger or deeper than a person writes."""
    if len(text) > LARGEST:
        raise ValueError(f"it has {len(text):,} characters, and a configuration has no more than {LARGEST:,}")
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        size, levels = _extent(node, {})
        if size > LARGEST:
            raise ValueError(f"its aliases (*) make it larger than {LARGEST:,} values: write it out")
        if levels > DEEPEST:
            raise RecursionError
        return loader.construct_document(node)
    except (yaml.YAMLError, OverflowError) as error:
        raise ValueError(str(error)) from error
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _extent(node: yaml.Node, known: dict[yaml.Node, tuple[int, int]]) -> tuple[int, int]:
    """How many values a node has, those of its aliases each time that they stand there, and on how many levels. Raises
    ValueError for a key that stands twice in a mapping, RecursionError for a node within itself."""
    if node not in known:
        inside = node.value if isinstance(node, yaml.CollectionNode) else []
        if isinstance(node, yaml.MappingNode):
            _refuse_twice([key for key, _ in node.value])
            inside = [one for pair in node.value for one in pair]
        found = [_extent(one, known) for one in inside]
        known[node] = 1 + sum(size for size, _ in found), 1 + max((levels for _, levels in found), default=0)
    return known[node]


def _refuse_twice(keys: Sequence[yaml.Node]) -> None:
    lines: dict[str, int] = {}
    for key in keys:
        name, line = str(key.value), key.start_mark.line + 1
        if name in lines:
            raise ValueError(f"the key {cut(name)} stands twice, in line {lines[name]} and in line {line}: keep one")
        lines[name] = line


def cut(text: str) -> str:
    """A text as a sentence can hold it."""
    return text if len(text) <= 200 else f"{text[:200]}…"


def checked(kind: type[Config], values: dict, origin: dict[str, str]) -> Config:
    """The configuration of that class. Raises UserError for an unknown, missing or wrong key, naming where it
    stands."""
    try:
        return kind(**{str(key): value for key, value in values.items()})
    except ValidationError as error:
        first = error.errors()[0]
        key = str(first["loc"][0])
        where = origin.get(key, origin["name"])
        if first["type"] == "extra_forbidden":
            near = difflib.get_close_matches(key, kind.model_fields, 1)
            raise UserError(
                f"{where}: unknown key {key}"
                + (
                    f"; did you mean {near[0]}?"
                    if near
                    else "; the keys are listed in src/core/config.py and the task's file in src/tasks"
                )
            ) from error
        if first["type"] == "missing":
            raise UserError(f"{where}: the key {key} is missing") from error
        reason = " or ".join(
            dict.fromkeys(
                fault["msg"].removeprefix("Value error, ")
                for fault in error.errors()
                if fault["loc"][0] == first["loc"][0]
            )
        )
        said = cut(repr(values[key]))
        raise UserError(f"{where}: {key} = {said} will not do: {reason[0].lower()}{reason[1:]}") from error


def differences(old: dict, new: dict) -> list[str]:
    """The keys that would change what a run learned and predicted, as `lr (0.0001 → 5e-05)`; of `Config.meaning`
    both. Which fold is trained here changes nothing of the others."""
    kept = sorted((old.keys() | new.keys()) - INDIFFERENT - {"fold"})
    keys = [key for key in kept if old.get(key) != new.get(key)]
    return [f"{key} ({old.get(key)} → {new.get(key)})" for key in keys]
