"""MixUp and CutMix: targets follow the pixels, and a key decides everything."""

import numpy as np
import pytest
import torch

from net.mix import mix

KINDS = ["mixup", "cutmix"]
KEYS = [(7, epoch, step) for epoch in range(10) for step in range(40)]


def batch(n=8, size=32) -> tuple[torch.Tensor, torch.Tensor]:
    """Constant images that each have a grey and a class of their own."""
    images = (torch.arange(n, dtype=torch.uint8) * 30).view(n, 1, 1, 1).expand(n, 1, size, size).contiguous()
    return images, torch.eye(n)


def noise(n=4, size=16) -> torch.Tensor:
    return torch.randint(0, 256, (n, 1, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def kept(kind: str, alpha: float) -> np.ndarray:
    """The share that the images of every key keep of themselves."""
    shares = []
    for key in KEYS:
        _, targets = mix(*batch(8, 16), kind, alpha, 1.0, key)
        shares.append(targets.diagonal().min().item())  # more where an image met itself
    return np.array(shares)


def test_cutmix_gives_every_image_its_share_of_the_pixels():
    """Counted pixel by pixel, and equal to the last bit at a size that is a power of two."""
    images, targets = batch()
    seen = set()
    for key in KEYS[:100]:
        mixed, shares = mix(images, targets, "cutmix", 1.0, 1.0, key)
        assert mixed.dtype == torch.uint8
        counted = torch.stack([(mixed == image[0, 0, 0]).sum(dim=(1, 2, 3)) for image in images], dim=1)
        assert torch.equal(counted / (32 * 32), shares)
        seen.add(shares.diagonal().min().item())
    assert len(seen) > 50 and min(seen) < 0.3


def test_cutmix_pastes_one_box_from_the_same_place():
    # different from each other in every pixel
    images = noise(1, 32) + 40 * torch.arange(6, dtype=torch.uint8).view(6, 1, 1, 1)
    pasted = 0
    for key in KEYS[:60]:
        mixed, shares = mix(images, torch.eye(6), "cutmix", 1.0, 1.0, key)
        for here, (image, result, share) in enumerate(zip(images, mixed, shares, strict=True)):
            others = [other for other in share.nonzero().flatten().tolist() if other != here]
            changed = (result != image)[0].nonzero()
            assert len(others) == (len(changed) > 0)
            for other in others:
                (top, left), (bottom, right) = changed.min(dim=0).values, changed.max(dim=0).values + 1
                assert torch.equal(result[:, top:bottom, left:right], images[other][:, top:bottom, left:right])
                assert len(changed) == (bottom - top) * (right - left) == share[other] * 32 * 32
                pasted += 1
    assert pasted > 200


def test_cutmix_reaches_every_pixel_but_the_middle_more():
    """The centre of the box is uniform and its ends are clipped, so corners are covered least."""
    images = torch.tensor([0, 1], dtype=torch.uint8).view(2, 1, 1, 1).expand(2, 1, 32, 32).contiguous()
    cover = sum((mix(images, torch.eye(2), "cutmix", 1.0, 1.0, key)[0][0, 0] != 0).float() for key in KEYS)
    middle = cover[12:20, 12:20].mean()
    for corner in (cover[:4, :4], cover[:4, -4:], cover[-4:, :4], cover[-4:, -4:]):
        assert 0.25 * middle < corner.mean() < 0.8 * middle
    assert cover.min() > 0


def test_mixup_interpolates_pixels_as_targets():
    images, targets = batch()
    greys = images[:, 0, 0, 0].float()
    for key in KEYS[:100]:
        mixed, shares = mix(images, targets, "mixup", 0.4, 1.0, key)
        assert mixed.dtype == torch.float32
        assert torch.allclose(mixed, (shares @ greys).view(-1, 1, 1, 1).expand_as(mixed), atol=1e-3)
        assert mixed.min() >= 0 and mixed.max() <= 255


def test_the_share_follows_the_beta_distribution():
    """Beta(α, α) has mean 1/2 and variance 1/(4·(2α + 1)); 400 draws."""
    for alpha in (0.4, 1.0, 8.0):
        shares = kept("mixup", alpha)
        assert shares.mean() == pytest.approx(0.5, abs=0.07)
        assert shares.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.2)


def test_cutmix_keeps_what_the_clipped_box_leaves():
    """A side s, clipped around a uniform centre, has mean s − s²/4. With s² = 1 − λ uniform, 1/2 − 1/5 + 1/48 is pasted
    on average."""
    assert kept("cutmix", 1.0).mean() == pytest.approx(1 - (1 / 2 - 1 / 5 + 1 / 48), abs=0.03)


@pytest.mark.parametrize("kind", KINDS)
def test_the_key_decides_and_nothing_else(kind):
    images, targets = noise(), torch.eye(4)
    first = mix(images, targets, kind, 1.0, 1.0, (3, 1, 4))
    torch.manual_seed(99)
    np.random.seed(99)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    mix(images, targets, kind, 1.0, 1.0, (0, 0, 0))
    again = mix(images, targets, kind, 1.0, 1.0, (3, 1, 4))
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    assert torch.equal(before[0], torch.get_rng_state()) and (before[1] == np.random.get_state()[1]).all()
    others = {
        mix(images, targets, kind, 1.0, 1.0, key)[0].numpy().tobytes()
        for key in ((3, 1, 4), (4, 1, 4), (3, 2, 4), (3, 1, 5))
    }
    assert len(others) == 4


@pytest.mark.parametrize("kind", ["none", *KINDS])
def test_inputs_are_left_alone(kind):
    images, targets = noise(), torch.eye(4)
    for key in KEYS[:20]:
        mix(images, targets, kind, 1.0, 1.0, key)
    assert torch.equal(images, noise()) and torch.equal(targets, torch.eye(4))


@pytest.mark.parametrize("kind", KINDS)
def test_probability_is_that_of_a_batch(kind):
    images, targets = noise(16), torch.eye(16)
    happened = {
        probability: sum(
            not torch.equal(mix(images, targets, kind, 2.0, probability, key)[1], targets) for key in KEYS[:200]
        )
        for probability in (0.0, 0.5, 1.0)
    }
    assert happened[0.0] == 0 and 75 < happened[0.5] < 125
    assert happened[1.0] == 200 if kind == "mixup" else happened[1.0] > 190  # a box may be smaller than a pixel
    same = mix(images, targets, kind, 2.0, 0.0, (0, 0, 0))
    assert same[0] is images and same[1] is targets


def test_none_mixes_nothing():
    images, targets = noise(), torch.eye(4)
    assert all(mix(images, targets, "none", 0.4, 1.0, key)[0] is images for key in KEYS[:10])


@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_one_hot_targets_stay_one(kind):
    images, targets = noise(20), torch.eye(5).repeat(4, 1)
    for key in KEYS[:100]:
        _, mixed = mix(images, targets, kind, 0.4, 1.0, key)
        assert torch.allclose(mixed.sum(dim=1), torch.ones(20), atol=1e-6) and mixed.min() >= 0


@pytest.mark.parametrize("kind", KINDS)
def test_unknown_on_either_side_stays_unknown(kind):
    """Column 1 is unknown for image 2 only; the columns from 2 on say who met whom."""
    images = noise(6, 16)
    targets = torch.zeros(6, 8)
    targets[:, 2:] = torch.eye(6)
    targets[2, 1] = torch.nan
    spread = 0
    for key in KEYS[:80]:
        _, mixed = mix(images, targets, kind, 0.2, 1.0, key)
        assert torch.equal(mixed[:, 1].isnan(), mixed[:, 2 + 2] > 0)
        assert not mixed[:, 2:].isnan().any() and (mixed[~mixed[:, 1].isnan(), 1] == 0).all()
        spread += mixed[:, 1].isnan().sum().item() > 1
    assert spread > 20


def test_unknown_without_a_share_does_not_spread():
    """A small α makes boxes without a pixel, and images that are all box: unknown is whoever holds a pixel of the
    unknown image."""
    images, targets = batch(size=8)
    targets[1, 1] = torch.nan
    one_sided = {0: 0, 1: 0}
    for key in KEYS:
        mixed, found = mix(images, targets, "cutmix", 0.02, 1.0, key)
        holds = (mixed == images[1, 0, 0, 0]).any(dim=3).any(dim=2).any(dim=1)
        assert torch.equal(found[:, 1].isnan(), holds)
        if holds.sum() == 1:
            one_sided[int(not holds[1])] += 1
    assert one_sided[0] > 100 and one_sided[1] > 0  # a box that covers everything must be centred to the pixel
