"""Freezing, weights, normalisation, loss and precision."""

import numpy as np
import pytest
import safetensors.torch
import timm
import torch

from conftest import SHARED, needs_shared
from core import priors
from core.errors import UserError
from net import checkpoint, infer, losses, model
from net import machine as machinery
from net.losses import cross_entropy
from net.machine import Machine
from tasks import registry

BODIES = ["test_convnext", "test_efficientnet", "test_resnet"]  # layer norm; batch norm; batch norm and another head


def config(name="test_convnext", *overrides):
    return registry.load("modelB", [f"model={name}", "weights=none", "size=32", *overrides])


def corrected(imbalance):
    return config().model_copy(update={"imbalance": imbalance, "label_smoothing": 0.0})


def images(n=8, seed=0) -> torch.Tensor:
    return torch.randint(0, 256, (n, 1, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def step(net) -> None:
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.1)
    net.train()
    cross_entropy(0.0, None, None)(net(images()), torch.eye(8, 5)).backward()
    optimizer.step()


@pytest.mark.parametrize("name", BODIES)
def test_a_frozen_body_rests_and_its_head_learns(name):
    """Not a weight, not a norm statistic and not a dropout mask of the body moves; weight decay leaves it alone too."""
    net = model.build(config(name, "dropout=0.5"), 5, "none")
    before = {key: value.clone() for key, value in net.state_dict().items()}
    net.unfreeze(0.0)
    step(net)
    after = net.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before if key.startswith("body."))
    assert not torch.equal(before["head.1.weight"], after["head.1.weight"])
    net.train()
    assert not any(module.training for module in net.body.modules())
    assert all(module.training for module in net.head.modules())


@pytest.mark.parametrize("name", BODIES)
def test_an_unfrozen_body_learns(name):
    net = model.build(config(name), 5, "none")
    net.unfreeze(0.0)
    net.unfreeze(1.0)
    before = {key: value.clone() for key, value in net.state_dict().items() if key.startswith("body.")}
    step(net)
    moved = [key for key, value in net.state_dict().items() if key in before and not torch.equal(before[key], value)]
    assert len(moved) > len(before) / 2


def test_grey_becomes_three_normalised_channels():
    net = model.build(config(), 5, "none")
    seen = []
    net.body.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    batch = images()
    net.eval()(batch)
    mean, std = (
        timm.create_model("test_convnext").pretrained_cfg["mean"],
        timm.create_model("test_convnext").pretrained_cfg["std"],
    )
    for channel in range(3):
        assert torch.allclose(seen[0][:, channel], (batch[:, 0] / 255 - mean[channel]) / std[channel])


def test_normalisation_travels_in_the_checkpoint():
    net = model.build(config(), 5, "none")
    net.mean += 0.25
    other = model.build(config(), 5, "none")
    other.load_state_dict(net.state_dict())
    assert torch.equal(other.mean, net.mean)


def test_weights_of_a_file_arrive(tmp_path):
    donor = timm.create_model("test_convnext", num_classes=1000)
    safetensors.torch.save_file(donor.state_dict(), tmp_path / "w.safetensors")
    torch.save(donor.state_dict(), tmp_path / "w.pth")
    for name in ("w.safetensors", "w.pth"):
        net = model.build(config(), 5, weights=str(tmp_path / name))
        assert all(torch.equal(value, donor.state_dict()[key]) for key, value in net.body.state_dict().items())


def test_weights_that_saw_the_test_images_are_known_by_their_names():
    """Networks pretrained on NIH images have seen the competition's test part; those pretrained on PadChest,
    PadChest's."""
    of = {
        "competition": registry.TASKS["competition"].pretrained_on_test,
        "padchest": registry.TASKS["padchest"].pretrained_on_test,
    }
    for name, nih, padchest in (
        ("densenet-nih-all.safetensors", True, False),
        ("CheXNet.safetensors", True, False),
        ("densenet121-res224-all.pth", True, True),
        ("resnet-pc.pth", False, True),
        ("PadChest.pth", False, True),
        ("sunniheim.pth", False, False),
        ("imagenet.safetensors", False, False),
    ):
        assert [bool(of[task].search(f"densenet121 {name}")) for task in of] == [nih, padchest], name


# ---- the thesis' networks
def thesis(*overrides):
    return registry.load("padchest", ["weights=none", "size=64", *overrides])


def numel(module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("blocks, parameters", [(3, 42_730), (4, 133_226), (5, 461_674), (6, 1_708_394)])
def test_networks_from_scratch_have_the_thesis_size(blocks, parameters):
    """42.7k, 133.2k, 461.7k and 1,708.4k parameters with the head 256/0.20 and ten labels; every body has one input
    channel in [0, 1]."""
    net = model.build(thesis(f"model=cnn{blocks}", "head=256/0.20"), 10, "none")
    assert numel(net) == parameters
    seen = []
    net.body.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    white = torch.full((2, 1, 64, 64), 255, dtype=torch.uint8)
    assert net.eval()(white).shape == (2, 10) and seen[0].shape == (2, 1, 64, 64) and (seen[0] == 1).all()
    # a random body is trained whole, at the head's rate
    assert net.share(thesis("unfrozen=0")) == 1 and net.groups(thesis("lr=3e-3"))[0]["lr"] == 3e-3


@pytest.mark.parametrize(
    "name, millions",
    [("mobilenetv2_100.ra_in1k", 2.88), ("resnetv2_50.a1h_in1k", 24.55), ("efficientnet_b0.ra_in1k", 4.67)],
)
def test_transfer_networks_have_the_size_of_their_heads(name, millions):
    """With the head 512/0.20 and ten labels; the thesis prints 3.40, 25.60 and 5.30 M, near the networks with 1000
    classes."""
    given = thesis(f"model={name}", "head=512/0.20")
    said = model.build(given, 10, "none").parameters_said(given)
    # random: trained whole
    assert said["total"] / 1e6 == pytest.approx(millions, abs=0.006) and said["trainable"] == said["total"]


def test_the_head_is_what_is_spelled():
    layers = model.dense(1280, 10, 0.0, "256/0.30->128/.25")
    assert [type(layer).__name__ for layer in layers] == [
        "Dropout",
        "Linear",
        "ReLU",
        "Dropout",
        "Linear",
        "ReLU",
        "Dropout",
        "Linear",
    ]
    assert [layer.p for layer in layers if isinstance(layer, torch.nn.Dropout)] == [0.0, 0.3, 0.25]
    assert [layer.out_features for layer in layers if isinstance(layer, torch.nn.Linear)] == [256, 128, 10]
    assert numel(model.dense(1280, 10, 0.3, "none")) == 12_810


@pytest.mark.parametrize("name", BODIES)
def test_the_top_share_of_the_layers_is_trained(name, tmp_path):
    """Layers are counted from the top, the rest does not move at all, and the trained number grows with the share."""
    torch.save(timm.create_model(name).state_dict(), tmp_path / "w.pth")
    found = []
    for share in (0, 0.25, 0.5, 0.9, 1):
        net = model.build(config(name, f"weights={tmp_path / 'w.pth'}"), 5, str(tmp_path / "w.pth"))
        net.unfreeze(share)
        layers = [module for module in net.body.modules() if module._parameters]
        trained = [
            any(parameter.requires_grad for parameter in module._parameters.values() if parameter is not None)
            for module in layers
        ]
        assert trained == sorted(trained) and sum(trained) == pytest.approx(share * len(layers), abs=0.5)
        before = {key: value.clone() for key, value in net.body.state_dict().items()}
        step(net)
        still = {key for key, value in net.body.state_dict().items() if torch.equal(before[key], value)}
        resting = {id(module) for module, moves in zip(layers, trained, strict=True) if not moves}
        names = {
            f"{place}.{key}" if place else key
            for place, module in net.body.named_modules()
            if id(module) in resting
            for key in module.state_dict()
            if "." not in key
        }
        assert names <= still
        found.append(sum(parameter.numel() for parameter in net.parameters() if parameter.requires_grad))
    assert found == sorted(found) and found[0] == numel(net.head) and found[-1] == numel(net)


def test_a_pretrained_body_has_its_own_rate(tmp_path):
    torch.save(timm.create_model("test_resnet").state_dict(), tmp_path / "w.pth")
    given = thesis("model=test_resnet", f"weights={tmp_path / 'w.pth'}")
    body, head = model.build(given, 10, str(tmp_path / "w.pth")).groups(given)
    assert body["lr"] == 1e-4 and "lr" not in head and given.lr == 1e-3


@needs_shared
def test_real_imagenet_weights_load():
    net = model.build(
        config("tf_efficientnet_lite0"), 5, weights=str(SHARED / "weights/tf_efficientnet_lite0.safetensors")
    )
    assert net.mean.flatten().tolist() == [0.5] * 3


def test_unreachable_hub_names_the_way_out(monkeypatch):
    monkeypatch.setattr(model.huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(model.huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    with pytest.raises(UserError, match="weights=FILE"):
        model.build(config("convnext_tiny.fb_in1k"), 5, weights="imagenet")


def test_cross_entropy_is_the_formula():
    """−Σ ((1−ε)·y + ε/C)·log softmax(z), averaged over rows, in float32 even for half-precision logits."""
    logits, targets = torch.randn(6, 4), torch.eye(4)[torch.tensor([0, 1, 2, 3, 0, 1])]
    smooth = 0.9 * targets + 0.1 / 4
    each = -(smooth * torch.log_softmax(logits, 1)).sum(1)
    assert torch.allclose(cross_entropy(0.1, None, None)(logits, targets), each.mean())
    assert cross_entropy(0.1, None, None)(logits.half(), targets).dtype == torch.float32
    weights = torch.tensor([4.0, 1.0, 0.5, 0.0])
    assert torch.allclose(
        cross_entropy(0.1, weights, None)(logits, targets), (each * weights[[0, 1, 2, 3, 0, 1]]).mean()
    )
    assert torch.allclose(
        cross_entropy(0.1, None, weights)(logits, targets), cross_entropy(0.1, None, None)(logits + weights, targets)
    )


@pytest.mark.parametrize(
    "corrections",
    [{}, {"sampler": 0.5}, {"loss_weights": 0.5}, {"logit_adjustment": 1.0}, {"loss_weights": 0.3, "sampler": 0.4}],
)
def test_training_learns_the_prior_that_the_logits_file_records(corrections):
    """Images that look all alike: whatever the correction, softmax of the trained logits is `imbalance.prior`."""
    counts = np.array([60, 30, 9, 1])
    targets = torch.eye(4)[torch.repeat_interleave(torch.arange(4), torch.tensor(counts))]
    drawn = torch.tensor(priors.class_weights(counts, corrections.get("sampler", 0)), dtype=torch.float32)
    share = targets @ drawn / (targets @ drawn).sum()  # how often an epoch shows each image, on average
    loss = losses.build(corrected(corrections), counts, counts.sum(), torch.device("cpu"))
    logits = torch.zeros(4, requires_grad=True)
    optimizer = torch.optim.LBFGS([logits], max_iter=100, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        value = sum(part * loss(logits[None], torch.eye(4)[c][None]) for c, part in enumerate(share @ targets))
        value.backward()
        return value

    optimizer.step(closure)
    assert logits.detach().softmax(0).numpy() == pytest.approx(priors.prior(counts, corrections), abs=2e-3)


def test_loss_weights_average_one_over_the_images_and_skip_empty_classes():
    counts = np.array([90, 10, 0])
    loss = losses.build(corrected({"loss_weights": 1.0}), counts, counts.sum(), torch.device("cpu"))
    targets = torch.eye(3)[torch.tensor([0] * 90 + [1] * 10)]
    assert loss(torch.zeros(100, 3), targets).item() == pytest.approx(np.log(3), rel=1e-5)
    assert loss(torch.zeros(1, 3), torch.eye(3)[[2]]).item() == 0


@pytest.mark.parametrize("name", BODIES)
def test_bf16_on_a_cpu_stays_near_float32(name):
    """Depthwise convolutions leave autocast on a CPU; outputs and gradients stay those of the same network."""
    torch.manual_seed(0)
    net = model.build(config(name), 5, "none")
    plain = net.eval()(images())
    cpu = Machine(torch.device("cpu"), torch.bfloat16, 0)
    placed = cpu.place(net)
    with cpu.autocast():
        half = placed(images())
    assert torch.allclose(plain, half.float(), atol=0.05 * plain.abs().max().item() + 0.02)
    half.float().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in net.parameters())


def test_flip_view_is_the_logits_of_the_mirror():
    net = model.build(config(), 5, "none")
    batch = images()
    loader = torch.utils.data.DataLoader([(image, torch.zeros(1)) for image in batch], batch_size=3)
    cpu = Machine(torch.device("cpu"), torch.float32, 0)
    both = infer.logits(net, loader, ["original", "flip"], cpu, "test")
    assert both.shape == (2, 8, 5) and both.dtype == np.float32
    with torch.no_grad():
        assert np.allclose(both[1], net(batch.flip(-1)).numpy(), atol=1e-5)


def test_zoom_enlarges_the_middle():
    ramp = torch.arange(0, 200, 5, dtype=torch.uint8).repeat(40, 1)[None, None]  # 40 columns, 5 a column
    found = infer.VIEWS["zoom"](ramp)
    assert found.shape == ramp.shape and found.dtype == torch.uint8
    inside = found[0, 0, 0, 2:-2].int()
    wanted = torch.tensor([5 * (2 + (column + 0.5) * 36 / 40 - 0.5) for column in range(2, 38)])
    assert (inside - wanted).abs().max() <= 0.5  # 2 of 40 columns are cut off on each side
    assert torch.equal(infer.VIEWS["flip_zoom"](ramp), found.flip(-1))
    flat = torch.full((2, 1, 33, 33), 77, dtype=torch.uint8)
    assert torch.equal(infer.VIEWS["zoom"](flat), flat)


def test_t4_gets_fp16_with_a_scaler_and_ampere_bf16(monkeypatch):
    for has_bf16, dtype in ((False, torch.float16), (True, torch.bfloat16)):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(
            torch.cuda, "is_bf16_supported", lambda including_emulation=True: has_bf16 or including_emulation
        )
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (7, 5))
        monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_75", "sm_90a"])
        monkeypatch.setattr(torch, "manual_seed", lambda seed: None)
        chosen = machinery.pick(config())
        assert chosen.dtype == dtype and chosen.device.type == "cuda"
    assert Machine(torch.device("cpu"), torch.float16, 0).scaler().is_enabled()
    assert not Machine(torch.device("cpu"), torch.float32, 0).scaler().is_enabled()


def test_a_gpu_without_kernels_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (6, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: "Tesla P100-PCIE-16GB")
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_75", "sm_80", "sm_90a"])
    with pytest.raises(UserError, match="P100.*capability 6.0.*starts at 7.5"):
        machinery._require_kernels(torch.device("cuda"))


def test_every_random_generator_goes_on_where_it_was():
    import random

    def draw():
        return torch.rand(3).tolist(), np.random.rand(3).tolist(), [random.random(), random.gauss(0, 1)]

    random.gauss(0, 1)
    state = checkpoint.random_state()
    first = draw()
    checkpoint.restore_random_state(state)
    assert draw() == first


def test_half_precision_path_trains():
    """The fp16 branch with its scaler, on the CPU: gradients are unscaled before clipping and the weights move."""
    cpu = Machine(torch.device("cpu"), torch.float16, 0)
    net, scaler = model.build(config("test_resnet"), 5, "none"), cpu.scaler()
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
    before = net.head[1].weight.clone()
    for _ in range(5):  # the first steps may be skipped while the scale comes down
        with cpu.autocast():
            logits = net.train()(images())
        scaler.scale(cross_entropy(0.0, None, None)(logits, torch.eye(8, 5))).backward()
        scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
    assert not torch.equal(before, net.head[1].weight) and net.head[1].weight.isfinite().all()


@pytest.mark.parametrize("name", BODIES)
def test_strides_pool_the_maps_that_timm_hands_out(name, tmp_path):
    whole = timm.create_model(name, num_classes=0)
    safetensors.torch.save_file(whole.state_dict(), tmp_path / "body.safetensors")
    words = [f"weights={tmp_path / 'body.safetensors'}", "strides=[16,8]", "pooling=mean_std", "dropout=0"]
    net = model.build(config(name, *words), 5, str(tmp_path / "body.safetensors")).eval()
    pixels = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    places = [place for place, info in enumerate(whole.feature_info) if info["reduction"] in (8, 16)]
    maps = whole.eval().forward_intermediates(pixels, indices=places, intermediates_only=True)
    wanted = torch.cat(
        [part for one in maps for part in (one.mean((2, 3)), (one.var((2, 3), unbiased=False) + 1e-6).sqrt())], dim=1
    )
    with torch.no_grad():
        assert torch.allclose(net.body(pixels), wanted, atol=1e-4)
    assert sum(p.numel() for p in net.body.parameters()) < sum(p.numel() for p in whole.parameters())
    before = {key: value.clone() for key, value in net.state_dict().items()}
    step(net)
    assert any(
        not torch.equal(before[key], value) for key, value in net.state_dict().items() if key.startswith("body.")
    )


def test_strides_that_are_not_there_are_refused():
    for words, match in (
        (["strides=[7]"], "has feature maps of the strides 4, 8, 16, 32; name each once"),
        (["strides=[8,8]"], "name each once"),
        (["pooling=mean_std"], "name the maps with strides="),
    ):
        with pytest.raises(UserError, match=match):
            model.build(config("test_convnext", *words), 5, "none")
    with pytest.raises(UserError, match="strides = .8. is for timm's networks"):
        model.check(config("cnn2", "strides=[8]"))
