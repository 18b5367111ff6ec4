"""Multi-label losses: limits, signs, published and hand-computed numbers, and what they do at the ends of the number
line."""

import math
from types import SimpleNamespace
from typing import get_args

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from timm.loss import AsymmetricLossMultiLabel
from torchvision.ops import sigmoid_focal_loss

from core.errors import UserError
from net import losses
from net.losses import asymmetric, class_balanced_focal, effective_weights, focal, prevalence_weights, weighted_bce
from tasks import registry

CONFIG = SimpleNamespace(
    label_smoothing=0.0,
    imbalance={},
    focal_alpha=0.20,
    focal_gamma=2.5,
    effective_beta=0.9999,
    effective_scale="mean_one",
    asymmetric=[1.0, 4.0, 0.05],
)
COUNTS, ROWS, CPU = np.array([40, 300, 5, 120]), 1000, torch.device("cpu")
MULTI_LABEL = ["weighted_bce", "focal", "class_balanced_focal", "asymmetric"]


def build(name, counts=COUNTS, rows=ROWS, device=CPU, **changed) -> losses.Loss:
    return losses.build(SimpleNamespace(**(vars(CONFIG) | changed | {"loss": name})), counts, rows, device)


def batch(rows=64, spread=3.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and hard targets [rows, 4]."""
    generator = torch.Generator().manual_seed(1)
    return spread * torch.randn(rows, 4, generator=generator), (torch.rand(rows, 4, generator=generator) < 0.3).float()


def gradient(loss, logits, targets) -> torch.Tensor:
    logits = logits.clone().requires_grad_()
    loss(logits, targets).backward()
    return logits.grad


def minimum(loss, targets) -> np.ndarray:
    """The probabilities [C] of the constant logits with the least loss."""
    logits = torch.zeros(targets.shape[1], requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [logits], max_iter=200, tolerance_grad=1e-9, tolerance_change=1e-12, line_search_fn="strong_wolfe"
    )

    def closure():
        optimizer.zero_grad()
        value = loss(logits.expand_as(targets), targets)
        value.backward()
        return value

    optimizer.step(closure)
    return logits.detach().sigmoid().numpy()


def test_weighted_bce_by_hand():
    """Equations 22 to 24: prevalences 0.1 and 0.4 have weights 1.6 and 0.4; the losses are ln 2 and 2 + ln(1 + e⁻²)."""
    weights = prevalence_weights(np.array([10, 40]), 100)
    assert weights == pytest.approx([1.6, 0.4])
    value = build("weighted_bce", np.array([10, 40]), 100)(torch.tensor([[0.0, 2.0]]), torch.tensor([[1.0, 0.0]]))
    assert value.item() == pytest.approx((1.6 * 0.693147181 + 0.4 * 2.126928011) / 2, rel=1e-6)


def test_effective_weights_by_hand():
    """Equation 26 with β = 0.9: one positive gives 0.1/0.1, two give 0.1/0.19, which scale to 38/29 and 20/29."""
    assert effective_weights(np.array([1, 2]), 0.9) == pytest.approx([38 / 29, 20 / 29])
    assert effective_weights(np.array([1, 2, 0]), 0.9, "equation") == pytest.approx([1, 0.1 / 0.19, 0])
    assert effective_weights(np.array([5, 80, 9000]), 0) == pytest.approx(np.ones(3))
    assert effective_weights(np.array([5, 80, 9000]), 1 - 1e-9) == pytest.approx(
        prevalence_weights(np.array([5, 80, 9000]), 20000), rel=1e-3
    )


@pytest.mark.parametrize("weigh", [lambda counts: prevalence_weights(counts, ROWS), effective_weights])
def test_a_label_without_positives_has_no_weight(weigh):
    """The others average 1 and the rarer weighs more."""
    weights = weigh(np.array([50, 0, 10, 400]))
    assert (
        weights[1] == 0 and weights[[0, 2, 3]].mean() == pytest.approx(1) and weights[2] > weights[0] > weights[3] > 0
    )
    with pytest.raises(UserError, match="no label has a positive"):
        weigh(np.zeros(3, int))


def test_focal_loss_is_a_hundredth_at_nine_tenths():
    """Lin et al. 2017, section 3.2: with γ = 2 the cross-entropy shrinks 100 times at p_t = 0.9 and about 1000 times at
    0.968."""
    for p, shrunk in ((0.9, 100), (0.968, 1000)):
        logit, positive = torch.tensor([[math.log(p / (1 - p))]]), torch.ones(1, 1)
        ratio = F.binary_cross_entropy_with_logits(logit, positive) / focal(alpha=1, gamma=2)(logit, positive)
        assert ratio.item() == pytest.approx(shrunk, rel=0.03)


def test_limits_are_binary_cross_entropy():
    logits, targets = batch()
    targets[:8] = torch.rand(8, 4, generator=torch.Generator().manual_seed(2))  # soft ones too
    expected = F.binary_cross_entropy_with_logits(logits, targets).item()
    alike = np.full(4, 30)
    assert 2 * build("focal", focal_alpha=0.5, focal_gamma=0)(logits, targets).item() == pytest.approx(
        expected, rel=1e-6
    )
    assert build("class_balanced_focal", alike, focal_gamma=0)(logits, targets).item() == pytest.approx(
        expected, rel=1e-6
    )
    assert build("asymmetric", asymmetric=[0, 0, 0])(logits, targets).item() == pytest.approx(expected, rel=1e-6)
    assert build("weighted_bce", alike)(logits, targets).item() == pytest.approx(expected, rel=1e-6)


def test_the_same_as_torchvision_and_timm():
    """Values and gradients, where timm's clamp does not bite."""
    logits, targets = batch()
    pairs = [
        (focal(0.3, 1.7), lambda z, y: sigmoid_focal_loss(z, y, alpha=0.3, gamma=1.7, reduction="mean")),
        (asymmetric(), AsymmetricLossMultiLabel(reduction="mean")),
        (asymmetric(0.5, 3, 0.2), AsymmetricLossMultiLabel(gamma_pos=0.5, gamma_neg=3, clip=0.2, reduction="mean")),
        (asymmetric(0, 0, 0.1), AsymmetricLossMultiLabel(gamma_pos=0, gamma_neg=0, clip=0.1, reduction="mean")),
        (asymmetric(2, 2, 0), AsymmetricLossMultiLabel(gamma_pos=2, gamma_neg=2, clip=0, reduction="mean")),
    ]
    for ours, theirs in pairs:
        assert ours(logits, targets).item() == pytest.approx(theirs(logits, targets).item(), rel=1e-5)
        assert torch.allclose(gradient(ours, logits, targets), gradient(theirs, logits, targets), rtol=1e-3, atol=1e-7)


def test_the_weighted_losses_weigh_whole_elements():
    """A label's share of the loss and of the gradient is its weight times that without weights."""
    logits, targets = batch()
    for weighted, plain in (
        (weighted_bce(torch.tensor([0.5, 2.0, 0.0, 1.5])), weighted_bce(torch.ones(4))),
        (class_balanced_focal(torch.tensor([0.5, 2.0, 0.0, 1.5])), class_balanced_focal(torch.ones(4))),
    ):
        assert torch.allclose(
            gradient(weighted, logits, targets), gradient(plain, logits, targets) * torch.tensor([0.5, 2.0, 0.0, 1.5])
        )


@pytest.mark.parametrize("name", MULTI_LABEL)
def test_a_harder_error_costs_more(name):
    loss, ladder = build(name), torch.arange(-12.0, 12.5, 0.5)
    for label in range(4):

        def cost(logit, target, label=label):
            logits, targets = torch.zeros(1, 4), torch.full((1, 4), torch.nan)
            logits[0, label], targets[0, label] = logit, target
            return loss(logits, targets).item()

        missed, alarmed = [cost(-z, 1.0) for z in ladder], [cost(z, 0.0) for z in ladder]
        assert all(np.diff(missed) > 0) and all(np.diff(alarmed) >= 0) and alarmed[-1] > alarmed[0] >= 0


@pytest.mark.parametrize("name", MULTI_LABEL)
def test_positives_push_their_logit_up_and_negatives_down(name):
    logits, targets = batch(spread=2.0)
    found = gradient(build(name), logits, targets)
    felt = (
        (targets == 1) | (logits.sigmoid() > 0.05)
        if name == "asymmetric"
        else torch.ones_like(targets, dtype=torch.bool)
    )
    assert (found[felt & (targets == 1)] < 0).all() and (found[felt & (targets == 0)] > 0).all()
    assert (found[~felt] == 0).all() and felt.any()


def test_asymmetric_ignores_negatives_below_the_margin_and_follows_positives_to_the_end():
    """A positive at logit −100 pulls with its full 1/(B·C); timm's clamp lets go of it."""
    easy, missed = torch.tensor([[-3.0, -30.0]]), torch.tensor([[-100.0, -25.0]])
    assert asymmetric()(easy, torch.zeros(1, 2)).item() == 0
    assert gradient(asymmetric(), missed, torch.ones(1, 2)).flatten().tolist() == pytest.approx([-0.5, -0.5], rel=1e-5)
    assert gradient(AsymmetricLossMultiLabel(reduction="mean"), missed, torch.ones(1, 2)).abs().max() < 1e-6


@pytest.mark.parametrize("name", MULTI_LABEL)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_extreme_logits_stay_finite(name, dtype):
    """Also where the exponents are small enough to make a power's slope infinite; a hopelessly missed positive is still
    pulled."""
    ladder = torch.tensor([-1000.0, -100, -30, 30, 100, 1000], dtype=dtype)
    logits = ladder.repeat(3)[:, None].expand(-1, 4)
    targets = torch.tensor([0.0, 0.5, 1.0]).repeat_interleave(6)[:, None].expand(-1, 4)
    for changed in (
        {},
        {"focal_gamma": 0.0, "asymmetric": [0, 0, 0]},
        {"focal_gamma": 0.5, "asymmetric": [0.5, 0.5, 0]},
        {"asymmetric": [0.5, 0.5, 0.05]},
    ):
        loss = build(name, **changed)
        value, found = loss(logits, targets), gradient(loss, logits, targets)
        assert value.dtype == torch.float32 and value.isfinite() and value > 0
        assert found.dtype == dtype and found.isfinite().all() and (found[12:15] < 0).all()


@pytest.mark.parametrize("name", MULTI_LABEL)
def test_half_precision_logits_are_only_rounded(name):
    """fp16 holds these logits exactly, so the loss of them is that of float32 to the last bit."""
    logits, targets = batch()
    assert torch.equal(build(name)(logits.half(), targets.half()), build(name)(logits.half().float(), targets))


@pytest.mark.parametrize("name", MULTI_LABEL)
def test_unknown_targets_count_for_nothing(name):
    """No gradient of their own; the others' are those of the mean over the known."""
    logits, targets = batch()
    unknown = torch.rand(targets.shape, generator=torch.Generator().manual_seed(3)) < 0.4
    found = gradient(build(name), logits, targets.masked_fill(unknown, torch.nan))
    whole = gradient(build(name), logits, targets)
    assert (found[unknown] == 0).all()
    assert torch.allclose(found[~unknown], whole[~unknown] * targets.numel() / (~unknown).sum(), rtol=1e-5)
    nothing = torch.full_like(targets, torch.nan)
    assert build(name)(logits, nothing) == 0 and (gradient(build(name), logits, nothing) == 0).all()


@pytest.mark.parametrize("name", MULTI_LABEL)
def test_soft_targets_are_the_mix_of_both_losses(name):
    """y·L₊ + (1 − y)·L₋, for MixUp's shares as for label smoothing: (1 − ε)·y + ε/2."""
    logits, targets = batch()
    positive, negative = build(name)(logits, torch.ones_like(targets)), build(name)(logits, torch.zeros_like(targets))
    assert build(name)(logits, torch.full_like(targets, 0.3)).item() == pytest.approx(
        (0.3 * positive + 0.7 * negative).item(), rel=1e-5
    )
    smooth = build(name)(logits, 0.9 * targets + 0.05).item()
    assert build(name, label_smoothing=0.1)(logits, targets).item() == pytest.approx(smooth, rel=1e-6)
    assert smooth != pytest.approx(build(name)(logits, targets).item(), rel=1e-3)


def test_weighted_bce_learns_the_true_prevalence():
    """A weight on the whole element moves no optimum; a weight on the positives alone does."""
    counts = np.array([4, 30, 150])
    targets = (torch.arange(200)[:, None] < torch.tensor(counts)).float()
    assert minimum(build("weighted_bce", counts, 200), targets) == pytest.approx(counts / 200, abs=1e-4)
    ratio = torch.tensor((200 - counts) / counts)
    shifted = minimum(lambda z, y: F.binary_cross_entropy_with_logits(z, y, pos_weight=ratio), targets)
    assert shifted == pytest.approx([0.5, 0.5, 0.5], abs=1e-4)


def test_build_hands_the_settings_over():
    logits, targets = batch()
    for name, expected in {
        "weighted_bce": weighted_bce(torch.tensor(prevalence_weights(COUNTS, ROWS)).float(), 0.1),
        "focal": focal(0.3, 1.5, 0.1),
        "class_balanced_focal": class_balanced_focal(torch.tensor(effective_weights(COUNTS, 0.99)).float(), 1.5, 0.1),
        "asymmetric": asymmetric(2.0, 3.0, 0.1, 0.1),
    }.items():
        loss = build(
            name,
            label_smoothing=0.1,
            focal_alpha=0.3,
            focal_gamma=1.5,
            effective_beta=0.99,
            effective_scale="mean_one",
            asymmetric=[2.0, 3.0, 0.1],
            imbalance={"oversampling": 0.5},
        )
        assert torch.equal(loss(logits, targets), expected(logits, targets)), name


def test_build_corrects_cross_entropy_by_its_own_means_only():
    logits, targets = batch()[0], torch.eye(4).repeat(16, 1)
    plain = losses.cross_entropy(0.05, None, None)(logits, targets)
    assert torch.equal(
        build("cross_entropy", label_smoothing=0.05, imbalance={"oversampling": 0.5, "sampler": 0.5})(logits, targets),
        plain,
    )
    adjusted = build("cross_entropy", label_smoothing=0.05, imbalance={"logit_adjustment": 1.0})(logits, targets)
    assert torch.allclose(
        adjusted, losses.cross_entropy(0.05, None, torch.tensor(np.log(COUNTS / COUNTS.sum())).float())(logits, targets)
    )
    weighted = build("cross_entropy", imbalance={"loss_weights": 1.0})
    every = torch.eye(4).repeat_interleave(torch.tensor(COUNTS), dim=0)  # the training images: their weights average 1
    assert weighted(torch.zeros_like(every), every).item() == pytest.approx(math.log(4), rel=1e-5)


@pytest.mark.parametrize("name", sorted(losses.LOSSES))
def test_everything_lies_on_the_device(name):
    """Tensors of the meta device refuse to meet those of the processor."""
    meta = torch.device("meta")
    loss = build(name, device=meta, imbalance={"loss_weights": 0.5, "logit_adjustment": 0.5})
    value = loss(torch.zeros(3, 4, device=meta), torch.zeros(3, 4, device=meta))
    assert value.device == meta and value.shape == ()


def test_every_loss_that_a_task_allows_has_a_recipe():
    for task in registry.TASKS.values():
        assert set(get_args(task.Settings.model_fields["loss"].annotation)) <= losses.LOSSES.keys()


def test_a_correction_that_the_loss_does_not_apply_is_refused():
    """Or run.json would record a prior that training never made."""
    for loss, recipe in losses.LOSSES.items():
        for name in ("loss_weights", "logit_adjustment"):
            asked = SimpleNamespace(loss=loss, imbalance={name: 0.5})
            if name in recipe.corrections:
                losses.check(asked)
            else:
                with pytest.raises(UserError, match=f"the loss {loss} does not apply {name}"):
                    losses.check(asked)
        losses.check(SimpleNamespace(loss=loss, imbalance={"sampler": 0.5}))
