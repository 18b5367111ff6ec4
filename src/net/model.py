"""The network: a timm body with pooled features or a plain CNN, a head of ours, normalisation inside, and what is
trained of it."""

import logging
import re
import urllib.error
import urllib.request
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import huggingface_hub
import safetensors.torch
import timm
import torch
from timm.optim import param_groups_layer_decay
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm

from core import metadata
from core.config import Config
from core.errors import UserError, some
from core.files import shown, write_bytes
from net import transfer

PLAIN = r"cnn([1-7])"  # the names of networks from scratch


class Net(nn.Module):
    """Grey uint8 images [B, 1, S, S], and `covariates` that the head is told beside them [B, M], to logits [B, C].

    `mean` and `std` (per channel, of values in [0, 1]) are the body's own and travel in its checkpoints; broadcasting
    against them makes its channels. Layers of the body that are not trained have no gradient and stay in eval mode:
    norm statistics and dropout rest. `unknown` [M] is what the head is told of a patient of whom nothing is known, also
    where no covariates are given. `pretrained` says that the body does not start at random; `norms_rest` that its
    batch norm keeps the statistics it started with, in eval mode, while its slopes and offsets are trained.
    """

    def __init__(
        self,
        body: nn.Module,
        head: nn.Module,
        mean: tuple,
        std: tuple,
        pretrained: bool,
        norms_rest: bool = False,
        unknown: Sequence[float] = (),
    ):
        super().__init__()
        self.body, self.head, self.pretrained, self.norms_rest = body, head, pretrained, norms_rest
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(1, -1, 1, 1))
        told = torch.tensor(unknown, dtype=torch.float32) if unknown else None
        self.register_buffer("unknown", told, persistent=False)
        self.resting: list[nn.Module] = []
        self.layout = torch.channels_last  # of the pixels in memory; the weights lie likewise

    def forward(self, images: torch.Tensor, covariates: torch.Tensor | None = None) -> torch.Tensor:
        pixels = ((images.float() / 255 - self.mean) / self.std).contiguous(memory_format=self.layout)
        features = self.body(pixels)
        if self.unknown is not None:
            told = self.unknown.expand(len(features), -1) if covariates is None else covariates
            features = torch.cat([features, told.to(features.dtype)], dim=1)
        return self.head(features)

    def share(self, config: Config) -> float:
        """The top share of the body's layers that training changes; all of them when it starts at random."""
        return config.unfrozen if self.pretrained else 1.0

    def groups(self, config: Config) -> list[dict]:
        """The optimizer's parameter groups: the body, which may learn more slowly when it is pretrained, and last the
        head.

        With `layer_decay` the body has a group a layer, as timm counts them: the last learns with the body's rate, the
        one below with `layer_decay` times it, and so on (Bao et al. 2022, BEiT, appendix; Clark et al. 2020, ELECTRA).
        """
        body_lr = config.lr if config.body_lr == "lr" or not self.pretrained else config.body_lr
        groups = [{"params": list(self.body.parameters()), "lr": body_lr}, {"params": list(self.head.parameters())}]
        if config.layer_decay < 1:
            self.unfreeze(self.share(config))  # timm leaves out what is not trained now
            inner = self.body.body if isinstance(self.body, Maps) else self.body
            layers = param_groups_layer_decay(inner, layer_decay=config.layer_decay, weight_decay_exclude_1d=False)
            groups[:1] = [{"params": layer["params"], "lr": body_lr * layer["lr_scale"]} for layer in layers]
        return groups if config.decay_norms else [part for group in groups for part in _norms_apart(group)]

    def unfreeze(self, share: float) -> None:
        """Train the top `share` of the body's layers and no others. A layer is a module with parameters of its own
        (convolution, norm, linear), in the order in which the body holds them."""
        modules = list(self.body.modules())
        layers = [place for place, module in enumerate(modules) if module._parameters]
        below = len(layers) - int(share * len(layers) + 0.5)  # layers that rest
        first = layers[below] if below < len(layers) else len(modules)
        self.resting = modules[:first] if below else []
        if self.norms_rest:
            self.resting = self.resting + [module for module in modules if isinstance(module, BatchNorm)]
        for place, module in enumerate(modules):
            for parameter in module._parameters.values():
                if parameter is not None:
                    parameter.requires_grad_(place >= first or not below)
        self.train(self.training)

    def train(self, mode: bool = True) -> "Net":
        super().train(mode)
        for module in self.resting:
            module.training = False  # not .eval(), which would reach the layers above
        return self

    def parameters_said(self, config: Config) -> dict[str, int]:
        """How many parameters the network has, and how many of them training changes after the frozen epochs."""
        self.unfreeze(self.share(config))
        counted = {
            "total": list(self.parameters()),
            "trainable": [parameter for parameter in self.parameters() if parameter.requires_grad],
        }
        return {name: sum(parameter.numel() for parameter in some) for name, some in counted.items()}


def _norms_apart(group: dict) -> list[dict]:
    """A parameter group as two: norms, biases and layer scales, which have one dimension and are not decayed, and the
    rest."""
    flat = [parameter for parameter in group["params"] if parameter.ndim <= 1]
    deep = [parameter for parameter in group["params"] if parameter.ndim > 1]
    parts = [{**group, "params": flat, "weight_decay": 0.0}, {**group, "params": deep}]
    return [part for part in parts if part["params"]]


def dense(features: int, classes: int, dropout: float, spelled: str) -> nn.Sequential:
    """The head: dropout of the features, a ReLU layer with dropout for every `units/dropout` of `spelled`
    (`256/0.30->128/0.30`, or `none`), then the logits."""
    layers: list[nn.Module] = [nn.Dropout(dropout)]
    for units, rate in [part.split("/") for part in spelled.split("->")] if spelled != "none" else []:
        layers += [nn.Linear(features, int(units)), nn.ReLU(), nn.Dropout(float(rate))]
        features = int(units)
    last = nn.Linear(features, classes)
    nn.init.trunc_normal_(last.weight, std=0.02)
    nn.init.zeros_(last.bias)
    return nn.Sequential(*layers, last)


class Maps(nn.Module):
    """A timm body up to the deepest of some of its feature maps; of each the mean over its positions, and with
    `with_std` the standard deviation too: images [B, 3, S, S] to [B, F]."""

    def __init__(self, body: nn.Module, places: list[int], with_std: bool):
        super().__init__()
        self.num_features = body.feature_info[max(places)]["num_chs"]
        body.prune_intermediate_layers(places, prune_norm=True, prune_head=True)
        self.body, self.places, self.with_std = body, places, with_std

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        found = []
        for each in self.body.forward_intermediates(pixels, indices=self.places, intermediates_only=True):
            positions = each.float().flatten(2)
            found.append(positions.mean(dim=2))
            if self.with_std:  # the small number keeps the gradient of a constant channel finite
                found.append((positions.var(dim=2, unbiased=False) + 1e-6).sqrt())
        return torch.cat(found, dim=1)


class PlainCNN(nn.Sequential):
    """The thesis' network from scratch: blocks of convolution (2^(l+3) filters of 3×3 in block l), ReLU, batch norm and
    2×2 max pooling, then global average pooling; [B, 1, S, S] to [B, 2^(blocks+3)]."""

    def __init__(self, blocks: int):
        widths = [1, *(2 ** (block + 3) for block in range(1, blocks + 1))]
        layers = [
            layer
            for below, width in pairwise(widths)
            for layer in (nn.Conv2d(below, width, 3, padding=1), nn.ReLU(), nn.BatchNorm2d(width), nn.MaxPool2d(2))
        ]
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.num_features = widths[-1]


def check(config: Config) -> None:
    """Raises UserError for a network that nobody knows, weights that are not there, or a size or setting that it cannot
    take."""
    plain = re.fullmatch(PLAIN, config.model)
    if plain:
        blocks = int(plain[1])
        if config.weights not in ("imagenet", "none"):
            raise UserError(
                f"weights = {config.weights}: {config.model} is trained from scratch and takes no weights: leave"
                " weights out"
            )
        if config.size < 2**blocks:
            raise UserError(
                f"size = {config.size} is too small for the {blocks} poolings of {config.model}: at least {2**blocks}"
            )
        for key, without in (("layer_decay", 1.0), ("drop_path", 0.0), ("norms", "learn"), ("strides", [])):
            value = getattr(config, key)
            if value != without:
                raise UserError(
                    f"{key} = {value} is for timm's networks, and {config.model} is a plain one from scratch: leave"
                    f" {key} at {without}"
                )
        return
    if not timm.is_model(config.model):
        near = timm.list_models(f"*{config.model.split('.')[0].split('_')[0]}*")[:5]
        known = f"; there are {some(near)}" if near else ""
        raise UserError(f"model = {config.model!r} is no timm model, nor cnn1 to cnn7{known}")
    try:
        known = timm.get_pretrained_cfg(config.model)
    except RuntimeError as error:  # an unknown tag behind a known architecture
        raise UserError(f"model = {config.model!r} cannot be made: {error}") from error
    if config.weights == "imagenet" and not (known and known.has_weights):
        raise UserError(
            f"weights = imagenet: {config.model} has none: give weights=FILE, or weights=none for random ones"
        )
    if transfer.is_run(config.weights):
        transfer.check(config)
    elif config.weights not in ("imagenet", "none") and not Path(config.weights).is_file():
        raise UserError(f"weights = {config.weights}: there is no such file, and no such run")


def pretrained(config: Config) -> bool:
    """Whether the configuration's body does not start at random."""
    return config.weights != "none" and not re.fullmatch(PLAIN, config.model)


def build(config: Config, classes: int, weights: str) -> Net:
    """The configuration's network, starting from `weights`: imagenet, none (random, or a checkpoint follows), a file,
    or a run (net/transfer.py).

    Raises UserError for what `check` refuses, and for weights that are unfetchable or of another network.
    """
    check(config if weights != "none" else config.model_copy(update={"weights": "none"}))
    plain = re.fullmatch(PLAIN, config.model)
    if plain:
        return _from_scratch(config, classes, int(plain[1]))
    further = {"drop_path_rate": config.drop_path} if config.drop_path else {}
    try:
        body = timm.create_model(config.model, num_classes=0, **further)
    except TypeError as error:
        if not further:
            raise
        raise UserError(
            f"drop_path = {config.drop_path}: {config.model} has no stochastic depth: leave drop_path at 0"
        ) from error
    if config.norms == "frozen" and not any(isinstance(module, BatchNorm) for module in body.modules()):
        raise UserError(f"norms = frozen: {config.model} has no batch norm: leave norms at learn")
    if weights == "imagenet":
        body = _fetched(config.model, **further)
    elif weights != "none" and not transfer.is_run(weights):
        _load(body, Path(weights))
    cfg = body.pretrained_cfg
    if cfg.get("fixed_input_size") and cfg["input_size"][1] != config.size:
        raise UserError(
            f"model = {config.model!r} takes images of {cfg['input_size'][1]} pixels only: set"
            f" size={cfg['input_size'][1]}"
        )
    if config.strides:
        body = _cut(body, config)
    if transfer.is_run(weights):
        print(transfer.load(body, config), flush=True)
    try:
        with torch.inference_mode():
            found = body.eval()(torch.zeros(1, 3, config.size, config.size))
    except (RuntimeError, AssertionError) as error:
        raise UserError(
            f"model = {config.model!r} cannot take images of {config.size} pixels: choose another size"
        ) from error
    unknown = metadata.unknown(config)
    head = dense(found.shape[1] + len(unknown), classes, config.dropout, config.head)
    net = Net(body, head, cfg["mean"], cfg["std"], config.weights != "none", config.norms == "frozen", unknown)
    return net.to(memory_format=torch.channels_last)


def _cut(body: nn.Module, config: Config) -> Maps:
    if not hasattr(body, "forward_intermediates") or not hasattr(body, "prune_intermediate_layers"):
        raise UserError(
            f"strides = {config.strides}: {config.model} does not hand out its feature maps: leave strides out"
        )
    last = {info["reduction"]: place for place, info in enumerate(body.feature_info)}
    if not set(config.strides) <= last.keys() or len(set(config.strides)) < len(config.strides):
        raise UserError(
            f"strides = {config.strides}: {config.model} has feature maps of the strides {some(map(str, last))}; name"
            " each once"
        )
    return Maps(body, sorted(last[stride] for stride in config.strides), config.pooling == "mean_std")


def _from_scratch(config: Config, classes: int, blocks: int) -> Net:
    body = PlainCNN(blocks)
    unknown = metadata.unknown(config)
    head = dense(body.num_features + len(unknown), classes, config.dropout, config.head)
    net = Net(body, head, (0.0,), (1.0,), pretrained=False, unknown=unknown)
    return net.to(memory_format=torch.channels_last)


def save_pretrained(name: str, path: Path) -> None:
    """Fetch the pretrained weights of a timm model and write them to a .safetensors file. Raises UserError when they
    cannot be fetched."""
    if not timm.is_model(name):
        raise UserError(f"model = {name!r} is no timm model")
    write_bytes(
        path, safetensors.torch.save({key: value.contiguous() for key, value in _fetched(name).state_dict().items()})
    )


def _fetched(name: str, **further) -> nn.Module:
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    if not _hub_answers():
        huggingface_hub.constants.HF_HUB_OFFLINE = True  # only the local cache is asked, without a minute of retries
    try:
        return timm.create_model(name, pretrained=True, num_classes=0, **further)
    except Exception as error:  # the hub client raises a dozen kinds; each means that there are no weights
        raise UserError(
            f"the ImageNet weights of {name} could not be fetched ({type(error).__name__}): give a file with"
            " weights=FILE (.safetensors or .pth of that timm model), or weights=none for random weights"
        ) from error


def _hub_answers() -> bool:
    try:
        urllib.request.urlopen(urllib.request.Request(huggingface_hub.constants.ENDPOINT, method="HEAD"), timeout=10)
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


def _load(body: nn.Module, path: Path) -> None:
    """Load a .safetensors or .pth file of the same timm model; its classifier is left out, everything else must fit."""
    try:
        state = timm.models.load_state_dict(str(path))
    except Exception as error:  # pickle, zip, JSON and safetensors errors: each means that this is no weights file
        raise UserError(
            f"weights = {shown(path)} is no readable .safetensors or .pth file ({type(error).__name__})"
        ) from error
    own = {key: value for key, value in body.state_dict().items() if not key.endswith("num_batches_tracked")}
    missing = [key for key in own if key not in state]
    wrong = [key for key in own if key in state and own[key].shape != state[key].shape]
    if missing or wrong:
        raise UserError(
            f"weights = {shown(path)} belongs to another network than {body.pretrained_cfg['architecture']}: "
            f"{len(missing)} tensors are missing and {len(wrong)} have another shape ({some(missing + wrong, 3)})"
        )
    body.load_state_dict({key: state[key] for key in own}, strict=False)  # but for the counters, each key was checked
