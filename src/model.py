"""The network: a timm body with pooled features, a head of ours, normalisation inside, and staged freezing."""

import logging
import re
import sys
import urllib.error
import urllib.request
from pathlib import Path

import huggingface_hub
import safetensors.torch
import timm
import torch
from torch import nn

from config import Config
from errors import UserError, some
from files import shown, write_bytes

# Names of weights that were pretrained on NIH images, which this competition's test set is made of.
SEEN_NIH = re.compile(r"(?<![a-z])nih(?![a-z])|chexnet|chest[-_ ]?x|xrv|torchxrayvision|res224-all|cxr[-_]?lt", re.IGNORECASE)


class Net(nn.Module):
    """Grey uint8 images [B, 1, S, S] to logits [B, C].

    `mean` and `std` (per channel, of values in [0, 1]) are the body's own and travel in its checkpoints; broadcasting against them makes the three
    channels. While `frozen`, the body has no gradient and stays in eval mode: norm statistics and dropout rest.
    """

    def __init__(self, body: nn.Module, features: int, classes: int, dropout: float, mean: tuple, std: tuple):
        super().__init__()
        self.body = body
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(features, classes))
        nn.init.trunc_normal_(self.head[1].weight, std=0.02)
        nn.init.zeros_(self.head[1].bias)
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(1, -1, 1, 1))
        self.frozen = False

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        pixels = ((images.float() / 255 - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        return self.head(self.body(pixels))

    def freeze(self, frozen: bool) -> None:
        self.frozen = frozen
        self.body.requires_grad_(not frozen)
        self.train(self.training)

    def train(self, mode: bool = True) -> "Net":
        super().train(mode)
        if self.frozen:
            self.body.eval()
        return self


def build(config: Config, classes: int, weights: str) -> Net:
    """The configuration's network, starting from `weights`: imagenet, none (random, or a checkpoint follows), or a file.

    Raises UserError for an unknown model name, or weights that are missing, unfetchable or of another network.
    """
    if not timm.is_model(config.model):
        near = timm.list_models(f"*{config.model.split('.')[0].split('_')[0]}*")[:5]
        raise UserError(f"model = {config.model!r} is no timm model" + (f"; there are {some(near)}" if near else ""))
    try:
        body = timm.create_model(config.model, num_classes=0)
    except RuntimeError as error:  # an unknown tag behind a known architecture
        raise UserError(f"model = {config.model!r} cannot be made: {error}") from error
    if weights == "imagenet":
        body = _fetched(config.model)
    elif weights != "none":
        _load(body, Path(weights))
    if weights != "none" and SEEN_NIH.search(f"{config.model} {Path(weights).name}"):
        print(
            f"WARNING: the name of {config.model} or {weights} says that it was pretrained on NIH chest X-rays. This competition's test images "
            "are NIH images with public labels: such a network has seen them, and its score would mean nothing.",
            file=sys.stderr,
        )
    cfg = body.pretrained_cfg
    if cfg.get("fixed_input_size") and cfg["input_size"][1] != config.size:
        raise UserError(f"model = {config.model!r} takes images of {cfg['input_size'][1]} pixels only: set size={cfg['input_size'][1]}")
    features = getattr(body, "head_hidden_size", body.num_features)
    return Net(body, features, classes, config.dropout, cfg["mean"], cfg["std"]).to(memory_format=torch.channels_last)


def save_pretrained(name: str, path: Path) -> None:
    """Fetch the pretrained weights of a timm model and write them to a .safetensors file. Raises UserError when they cannot be fetched."""
    if not timm.is_model(name):
        raise UserError(f"model = {name!r} is no timm model")
    write_bytes(path, safetensors.torch.save({key: value.contiguous() for key, value in _fetched(name).state_dict().items()}))


def _fetched(name: str) -> nn.Module:
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    if not _hub_answers():
        huggingface_hub.constants.HF_HUB_OFFLINE = True  # only the local cache is asked, without a minute of retries
    try:
        return timm.create_model(name, pretrained=True, num_classes=0)
    except Exception as error:  # the hub client raises a dozen kinds; each means that there are no weights
        raise UserError(
            f"the ImageNet weights of {name} could not be fetched ({type(error).__name__}): give a file with weights=FILE "
            "(.safetensors or .pth of that timm model), or weights=none for random weights"
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
    if not path.is_file():
        raise UserError(f"weights = {path}: there is no such file")
    try:
        state = timm.models.load_state_dict(str(path))
    except Exception as error:  # pickle, zip, JSON and safetensors errors: each means that this is no weights file
        raise UserError(f"weights = {shown(path)} is no readable .safetensors or .pth file ({type(error).__name__})") from error
    own = {key: value for key, value in body.state_dict().items() if not key.endswith("num_batches_tracked")}
    missing = [key for key in own if key not in state]
    wrong = [key for key in own if key in state and own[key].shape != state[key].shape]
    if missing or wrong:
        raise UserError(
            f"weights = {shown(path)} belongs to another network than {body.pretrained_cfg['architecture']}: "
            f"{len(missing)} tensors are missing and {len(wrong)} have another shape ({some(missing + wrong, 3)})"
        )
    body.load_state_dict({key: state[key] for key in own}, strict=False)  # but for the counters, each key was checked
