"""The pieces of a training recipe: rates, parameter groups, norms, accumulation, averages, what chooses the epoch."""

import csv
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import sklearn.metrics
import timm
import torch

from answers import multi_label, single_label
from answers.metrics import Costs, competition_score, tally_one_hot
from conftest import TINY
from core.errors import UserError
from core.logits_file import Logits
from net import checkpoint, checks, fit, model, schedule
from net.learner import Learner
from net.losses import cross_entropy
from net.machine import Machine
from tasks import registry
from tasks.multi_label import MultiLabel
from tasks.single_label import SingleLabel

CPU = Machine(torch.device("cpu"), torch.float32, 0)


def config(*overrides):
    return registry.load("modelB", ["model=test_resnet", "weights=none", "size=32", "dropout=0", *overrides])


@pytest.fixture
def weights(tmp_path) -> Path:
    """A pretrained test_resnet, whose batch norm has seen something."""
    torch.manual_seed(0)
    body = timm.create_model("test_resnet").train()
    for _ in range(20):
        body(torch.randn(8, 3, 32, 32))
    torch.save(body.state_dict(), tmp_path / "w.pth")
    return tmp_path / "w.pth"


def learner(given, steps: int = 4) -> Learner:
    torch.manual_seed(0)
    found = Learner(model.build(given, 5, given.weights), given, CPU, steps)
    found.net.train()
    return found


def batch(n: int = 8, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (n, 1, 32, 32), dtype=torch.uint8, generator=generator)
    return images, torch.eye(5)[torch.randint(5, (n,), generator=generator)]


def step(learner: Learner, number: int, *group) -> torch.Tensor:
    """Do a step; returns the mean loss of its images."""
    loss, group, before = (
        cross_entropy(0.0, None, None),
        [(*one, len(one[0])) for one in group or [batch(seed=number)]],
        learner.under_way.loss.clone(),
    )
    learner.under_way.steps = number
    fit.train_step(learner, group, loss, list(learner.net.parameters()))
    return (learner.under_way.loss - before) / sum(size for *_, size in group)


def weights_of(net) -> dict:
    return {name: value.clone() for name, value in net.state_dict().items()}


# ---- rates
def test_the_rate_is_the_formula():
    """10 steps an epoch: 20 of warm-up, then half a cosine over the other 60; its last step is just above 0."""
    cosine, plateau = (config("epochs=8", "warmup=2", f"schedule={kind}") for kind in ("cosine", "plateau"))
    found = [schedule.factor(cosine, step, 10) for step in range(80)]
    assert found[:20] == pytest.approx([(step + 1) / 20 for step in range(20)])
    assert found[20:] == pytest.approx([0.5 + 0.5 * math.cos(math.pi * step / 60) for step in range(60)])
    assert found[20] == 1 and 0 < found[-1] < 1e-3
    assert [schedule.factor(plateau, step, 10) for step in range(80)] == found[:20] + [1.0] * 60
    assert {schedule.factor(config("epochs=8"), step, 10) for step in range(80)} == {1.0}
    whole = [schedule.factor(config("epochs=2", "warmup=2", "schedule=cosine"), step, 10) for step in range(20)]
    assert whole == pytest.approx([(step + 1) / 20 for step in range(20)])


def test_every_group_is_scaled_and_keeps_its_own_rate(weights, monkeypatch):
    """What the plateau lowers, and last.pt holds, is not touched by the schedule."""
    given = config(f"weights={weights}", "body_lr=1e-5", "lr=1e-3", "schedule=cosine", "epochs=2", "warmup=0.5")
    taught, seen = learner(given), []
    take = taught.optimizer.step
    monkeypatch.setattr(
        taught.optimizer, "step", lambda: (seen.append([g["lr"] for g in taught.optimizer.param_groups]), take())
    )
    for number in range(8):
        rate = taught.lr(number)
        step(taught, number)
        assert seen[-1] == pytest.approx([1e-5 * rate / 1e-3, rate])
    assert [rates[1] for rates in seen] == pytest.approx([1e-3 * schedule.factor(given, s, 4) for s in range(8)])
    assert [group["lr"] for group in taught.optimizer.param_groups] == [1e-5, 1e-3]


def test_the_plateau_rests_under_a_cosine():
    for kind, lowered in (("plateau", True), ("cosine", False)):
        taught = learner(config(f"schedule={kind}", "lr_patience=0", "lr=1e-3"))
        for value in (0.0, -1.0, -1.0):
            taught.judge(value, frozen=False)
        assert (taught.optimizer.param_groups[0]["lr"] < 1e-3) == lowered and taught.resting == 2


# ---- parameter groups
def rates(net, given) -> dict[str, tuple[float, float]]:
    """Rate and weight decay of every parameter, by name."""
    optimizer = torch.optim.AdamW(net.groups(given), lr=given.lr, weight_decay=given.weight_decay)
    of = {id(p): (group["lr"], group["weight_decay"]) for group in optimizer.param_groups for p in group["params"]}
    return {name: of[id(parameter)] for name, parameter in net.named_parameters()}


def test_rates_fall_with_depth(weights):
    """test_resnet is a stem and four blocks; a body that is trained in part has the same rates in that part."""
    given = config(f"weights={weights}", "body_lr=1e-4", "lr=1e-2", "layer_decay=0.5")
    net = model.build(given, 5, given.weights)
    found = rates(net, given)
    depth = {"conv1": 4, "bn1": 4, "layer1": 3, "layer2": 2, "layer3": 1, "layer4": 0}
    for name, (rate, _) in found.items():
        part, layer = name.split(".")[:2]
        assert rate == pytest.approx(1e-2 if part == "head" else 1e-4 * 0.5 ** depth[layer]), name
    assert {decay for _, decay in found.values()} == {given.weight_decay}

    part = config(f"weights={weights}", "body_lr=1e-4", "layer_decay=0.5", "unfrozen=0.5")
    groups = model.build(part, 5, part.weights).groups(part)
    assert 1 < len(groups) < 6 and groups[-2]["lr"] == 1e-4


@pytest.mark.parametrize(
    "name, decay", [("cnn2", 1), ("test_convnext", 1), ("test_convnext", 0.5), ("test_resnet", 0.5)]
)
def test_norms_and_biases_are_not_decayed(name, decay):
    given = config(f"model={name}", "decay_norms=false", f"layer_decay={decay}", "weight_decay=0.1")
    net = model.build(given, 5, "none")
    dimensions = {name: parameter.ndim for name, parameter in net.named_parameters()}
    found = rates(net, given)
    assert {name: decay for name, (_, decay) in found.items()} == {
        name: 0.0 if dimension <= 1 else 0.1 for name, dimension in dimensions.items()
    }
    assert net.groups(given)[-1]["params"][0] is net.head[-1].weight  # the head's rate is the one that is logged


# ---- the body
def test_frozen_norms_keep_their_statistics_and_learn(weights):
    given = config(f"weights={weights}", "norms=frozen")
    taught = learner(given)
    taught.net.unfreeze(1.0)
    before = weights_of(taught.net.body)
    step(taught, 0)
    after = taught.net.body.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert not any("running" in name or "tracked" in name for name in moved) and {"bn1.weight", "bn1.bias"} <= moved
    assert taught.net.body.training and not taught.net.body.bn1.training
    learning = learner(config(f"weights={weights}"))
    step(learning, 0)
    assert not torch.equal(before["bn1.running_mean"], learning.net.body.bn1.running_mean)


def test_drop_path_reaches_the_body_and_changes_no_answer(weights):
    given = config(f"weights={weights}", "drop_path=0.4")
    dropping = model.build(given, 5, given.weights).eval()
    passed = [module.drop_prob for module in dropping.modules() if type(module).__name__ == "DropPath"]
    assert passed and max(passed) == pytest.approx(0.4)
    plain = model.build(config(f"weights={weights}"), 5, str(weights)).eval()
    plain.load_state_dict(dropping.state_dict())
    assert torch.equal(plain(batch()[0]), dropping(batch()[0]))
    with pytest.raises(UserError, match=r"drop_path = 0.1: densenet121 has no stochastic depth: leave drop_path at 0"):
        model.build(config("model=densenet121", "drop_path=0.1"), 5, "none")
    with pytest.raises(UserError, match="norms = frozen: test_convnext has no batch norm"):
        model.build(config("model=test_convnext", f"weights={weights}", "norms=frozen"), 5, "none")


# ---- accumulation and averages
def test_accumulated_batches_are_one_large_batch():
    """Of unequal sizes, too: the loss is the mean over the images of the group. Without batch norm."""
    given = config("model=test_convnext", "clip_norm=0.1")
    one, several = learner(given), learner(given)
    images, targets = batch(8)
    whole = step(one, 0, (images, targets))
    parts = step(several, 0, (images[:5], targets[:5]), (images[5:], targets[5:]))
    assert torch.allclose(whole, parts, atol=1e-6)
    for (name, large), small in zip(one.net.named_parameters(), several.net.parameters(), strict=True):
        assert torch.allclose(large.grad, small.grad, atol=1e-6), name
    assert sum(parameter.grad.square().sum() for parameter in several.net.parameters()).sqrt() <= 0.1 + 1e-5


def test_clipping_is_of_the_whole_gradient_and_0_leaves_it():
    lengths = []
    for norm in ("0.1", "0"):
        taught = learner(config("model=test_convnext", f"clip_norm={norm}"))
        images, targets = batch(8)
        step(taught, 0, (images, targets))
        lengths.append(sum(parameter.grad.square().sum() for parameter in taught.net.parameters()).sqrt().item())
    assert lengths[0] == pytest.approx(0.1, rel=1e-4) and lengths[1] > 0.2


def test_the_moving_average_by_hand():
    """After the first step the weights themselves; after the second and third with decay 1 − (1 + k)^(−2/3), k = 1, 2,
    where that is below `ema` (timm's warm-up); batch norm's statistics likewise, its counter as it is."""
    taught = learner(config("ema=0.5"))
    step(taught, 0)
    mean = weights_of(taught.net)
    for number, decay in ((1, 1 - 2 ** (-2 / 3)), (2, 0.5)):
        step(taught, number)
        now = weights_of(taught.net)
        for name, value in mean.items():
            mean[name] = decay * value + (1 - decay) * now[name] if value.is_floating_point() else now[name]
        assert not torch.equal(mean["body.conv1.0.weight"], now["body.conv1.0.weight"])
        for name, value in taught.shipped.state_dict().items():
            assert torch.allclose(value, mean[name], atol=1e-6), name
    assert taught.shipped is not taught.net


def test_a_copy_for_the_average_computes_with_its_own_weights():
    """Depthwise convolutions that were moved out of bf16 included."""
    given = config("model=test_convnext", "ema=0.9", "precision=bf16")
    half = Machine(torch.device("cpu"), torch.bfloat16, 0)
    taught = Learner(half.place(model.build(given, 5, "none")), given, half, 1)
    with torch.no_grad():
        for parameter in taught.net.parameters():
            parameter.zero_()
    with half.autocast():
        assert taught.ema.module(batch()[0]).abs().sum() > 0


def saved(monkeypatch) -> list[dict]:
    """The weights at the end of every epoch, as they are saved."""
    save, found = checkpoint.save, []

    def watched(path, content):
        save(path, content)
        if path.name == "last.pt":
            found.append({name: value.clone() for name, value in content["model"].items()})

    monkeypatch.setattr(checkpoint, "save", watched)
    return found


def test_the_mean_of_the_last_epochs_by_hand(made, home, call, monkeypatch):
    ends = saved(monkeypatch)
    asked = [*TINY, "model=test_resnet", "epochs=4", "average_epochs=3", "monitor=last", "name=mean"]
    assert call("train", "modelB", "--data", made, *asked).code == 0
    best = torch.load(home / "runs/mean/best.pt", weights_only=True)
    assert best["epoch"] == 4 and len(ends) == 4
    for name, value in best["model"].items():
        three = torch.stack([end[name].double() for end in ends[1:]])
        wanted = three.mean(0) if value.is_floating_point() else three[-1]
        assert torch.allclose(value.double(), wanted, atol=1e-6), name
    assert not torch.equal(best["model"]["body.bn1.running_mean"], ends[-1]["body.bn1.running_mean"])


def test_a_last_shorter_group_steps_too(made, home, call):
    """76 images in batches of 16 are 4 batches an epoch: 2 steps by three."""
    assert call("train", "modelB", "--data", made, *TINY, "accumulate=3", "epochs=2", "name=three").code == 0
    state = torch.load(home / "runs/three/last.pt", weights_only=True)["optimizer"]["state"]
    assert {int(one["step"]) for one in state.values()} == {2, 4}  # the body was frozen for one of the two epochs


# ---- a whole run
ALL = [
    "model=test_resnet", "norms=frozen", "schedule=cosine", "warmup=0.5", "layer_decay=0.7", "decay_norms=false",
    "drop_path=0.2", "accumulate=2", "ema=0.9", "average_epochs=2", "monitor=last",
]  # fmt: skip


def test_stopped_at_every_epoch_all_of_it_ends_with_the_same_bytes(made, home, call, weights, ctrl_c_after_an_epoch):
    command = ["main", "modelB", "--data", made, *TINY, f"weights={weights}", *ALL]
    said = call(*command, "name=whole")
    assert said.code == 0 and "optimistic" not in said.out and "One rare hit moves the score" in said.out, said.err
    ctrl_c_after_an_epoch()
    assert [call(*command, "name=cut").code for _ in range(3)] == [130, 130, 0]
    for name in ("runs/{}/best.pt", "runs/{}/val_logits.npz", "runs/{}/test_logits.npz", "submissions/{}.csv"):
        assert (home / name.format("cut")).read_bytes() == (home / name.format("whole")).read_bytes(), name
    one, other = (torch.load(home / f"runs/{name}/last.pt", weights_only=True) for name in ("whole", "cut"))
    assert {"ema", "average"} <= one.keys()
    for part in ("model", "ema", "average"):
        assert all(torch.equal(one[part][name], value) for name, value in other[part].items())
    asked = registry.load("modelB", [*TINY, *ALL])
    log = list(csv.DictReader(open(home / "runs/cut/log.csv")))
    assert [float(row["lr"]) for row in log] == [1e-3 * schedule.factor(asked, 2 * epoch, 2) for epoch in range(3)]
    assert call("report", home / "runs/cut").code == 0


def test_last_ships_the_last_epoch_and_never_stops(made, home, call, monkeypatch):
    falling = iter(-4.7 - step for step in range(100))
    monkeypatch.setattr(SingleLabel, "metrics", lambda *_: {"score": next(falling)})
    ends = saved(monkeypatch)
    asked = [*TINY, "epochs=5", "frozen_epochs=0", "patience=1", "monitor=last", "name=last"]
    said = call("train", "modelB", "--data", made, *asked)
    assert said.code == 0 and "stopped early" not in said.out and "* best" not in said.out
    best = torch.load(home / "runs/last/best.pt", weights_only=True)
    assert best["epoch"] == 5 == json.loads((home / "runs/last/run.json").read_text())["best_epoch"]
    assert len(ends) == 5 and all(torch.equal(value, ends[-1][name]) for name, value in best["model"].items())


def test_another_figure_chooses_and_is_a_further_column(made, home, call):
    for monitor, further in (("auto", []), ("log_likelihood", ["log_likelihood"])):
        said = call("main", "modelB", "--data", made, *TINY, "epochs=2", f"monitor={monitor}", f"name={monitor}")
        assert said.code == 0 and ("log_likelihood -" in said.out) == bool(further), said.err
        log = list(csv.DictReader(open(home / f"runs/{monitor}/log.csv")))
        before = ["epoch", "stage", "train_loss", "val_loss", "score", "accuracy", "balanced_accuracy", "macro_f1"]
        after = ["lr", "images_per_second", "validation_seconds", "seconds"]
        assert list(log[0]) == [*before, *further, *after]
        best = max(log, key=lambda row: float(row[further[0] if further else "score"]))
        assert json.loads((home / f"runs/{monitor}/run.json").read_text())["best_epoch"] == int(best["epoch"])
    assert call("report", home / "runs/log_likelihood").code == 0


# ---- what chooses the epoch
def single(rows=600, classes=4, seed=0) -> Logits:
    """Rows of a shifted prior, in one view; the last class was never trained."""
    rng = np.random.default_rng(seed)
    counts = np.array([900, 300, 60, 0])
    truth = rng.choice(classes, rows, p=[0.6, 0.28, 0.12, 0])
    targets = np.eye(classes, dtype=np.float32)[truth]
    logits = (rng.normal(size=(1, rows, classes)) + 2 * targets).astype(np.float32)
    ids, prior = np.array([f"{row}.png" for row in range(rows)]), np.sqrt(counts) / np.sqrt(counts).sum()
    return Logits(ids, logits, targets, np.array(list("abcd")), counts, 1260, prior)


def test_single_label_figures_are_the_textbooks():
    val = single()
    p = np.exp(np.float64(val.logits[0, :, :3])) / val.prior[:3] * val.counts[:3]
    p /= p.sum(axis=1, keepdims=True)
    truth = val.targets.argmax(axis=1)
    likelihood = np.mean([np.log(p[row, label]) for row, label in enumerate(truth)])
    assert single_label.log_likelihood(val, Costs()) == pytest.approx(likelihood)
    assert likelihood == pytest.approx(-sklearn.metrics.log_loss(truth, p))
    area = np.mean([sklearn.metrics.roc_auc_score(truth == label, p[:, label]) for label in range(3)])
    assert single_label.auc(val, Costs()) == pytest.approx(area)
    answers, _ = single_label.held_out([val], single_label.calibrate(Costs(), [val]), ["bayes"])
    score = competition_score(tally_one_hot(val.targets, answers["bayes"]))
    assert single_label.expected_score(val, Costs()) == pytest.approx(score)


@pytest.mark.parametrize("name", single_label.MONITORS)
def test_single_label_figures_are_larger_for_the_better_network(name):
    """And one that says nothing earns the least."""
    val = single(rows=2000)
    nothing = replace(val, logits=0 * val.logits)
    noisy = replace(val, logits=val.logits + np.random.default_rng(1).normal(size=val.logits.shape).astype(np.float32))
    found = [SingleLabel().metrics(one, name)[name] for one in (nothing, noisy, val)]
    assert found == sorted(found) and len(set(found)) == 3
    assert name not in SingleLabel().metrics(val)


def test_the_multi_label_likelihood_is_the_textbooks():
    """Of the known targets, the oversampling undone."""
    val = single(rows=50)
    targets = val.targets.copy()
    targets[::7, 1] = np.nan
    val = replace(val, targets=targets, counts=np.array([30, 20, 10, 40]), rows=100, prior=np.full(4, 0.4))
    natural = val.counts / 100
    terms = []
    for row, column in np.argwhere(~np.isnan(targets)):
        odds = math.exp(val.logits[0, row, column]) * natural[column] / (1 - natural[column]) / (0.4 / 0.6)
        p = odds / (1 + odds)
        terms.append(math.log(p if targets[row, column] else 1 - p))
    assert MultiLabel().metrics(val, "log_likelihood")["log_likelihood"] == pytest.approx(np.mean(terms))
    assert multi_label.log_likelihood(val) == pytest.approx(np.mean(terms))
    assert MultiLabel().metrics(val).keys() == {"auc", "average_precision"}


@pytest.mark.parametrize(
    "kit, overrides, sentence",
    [
        ("modelB", ["monitor=f1"], "monitor = 'f1': .* one of auto, score, expected_score, log_likelihood, auc, last"),
        ("padchest", ["monitor=score"], "monitor = 'score': .* one of auto, auc, log_likelihood, last"),
        ("modelB", ["average_epochs=2"], "average_epochs = 2: .* set monitor=last"),
        ("modelB", ["average_epochs=20", "monitor=last"], "average_epochs = 20 is more than epochs = 12"),
        ("modelB", ["warmup=12.5"], r"warmup = 12.5 is more than epochs = 12"),
        ("modelB", ["norms=frozen"], "norms = frozen: a body with random weights"),
        ("modelB", ["model=cnn3", "layer_decay=0.5"], "layer_decay = 0.5 is for timm's networks, and cnn3"),
        ("modelB", ["model=cnn3", "drop_path=0.5"], "drop_path = 0.5 is for timm's networks"),
        ("modelB", ["model=cnn3", "norms=frozen", "weights=imagenet"], "norms = frozen is for timm's networks"),
    ],
)
def test_what_cannot_work_is_refused(kit, overrides, sentence):
    given = registry.load(kit, ["weights=none", "crop=none", *overrides])
    with pytest.raises(UserError, match=sentence):
        checks.check(given, registry.task_of(given))


@pytest.mark.parametrize(
    "override",
    ["schedule=linear", "warmup=-1", "layer_decay=0", "layer_decay=1.1", "norms=off", "drop_path=1", "accumulate=0",
     "ema=1", "average_epochs=-1", "decay_norms=2", "accumulate=true"],
)  # fmt: skip
def test_values_out_of_range_are_refused(override):
    with pytest.raises(UserError, match=f"{override.partition('=')[0]} = .* will not do"):
        config(override)
