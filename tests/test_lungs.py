"""The lung crop: the geometry of the box, when it is refused, masks from files, and masks from the network."""

import os
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from core.errors import UserError
from images import lungs
from images.lungs import LEAST, MARGIN, SIDE, Box, lung_box

REAL = Path(__file__).parents[2] / "shared" / "data" / "padchest_sample"
CPU = torch.device("cpu")


def block(top: int, left: int, height: int, width: int, shape=(SIDE, SIDE)) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[top : top + height, left : left + width] = True
    return mask


def made_up(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """A few positive pixels somewhere in a random part of the mask, often at its border."""
    top, left = rng.integers(0, shape)
    part = np.zeros(shape, bool)
    part[top:, left:] = rng.random((shape[0] - top, shape[1] - left)) < rng.choice([0.1, 0.5])
    return np.rot90(part, 2 * rng.integers(2))


def pixels(box: Box) -> np.ndarray:
    return np.array(box) * SIDE


# Geometry


def test_the_box_is_the_smallest_square_by_brute_force():
    """Masks of 16×16 cells of 32 pixels against every square at every half cell."""
    rng, tried = np.random.default_rng(0), 0
    while tried < 60:
        mask = made_up(rng, (16, 16))
        box = lung_box(mask)
        if box is None:
            continue
        tried += 1
        rows, columns = np.nonzero(mask)
        for side in range(1, 17):
            starts = np.arange(0, 16 - side + 0.5, 0.5)
            tops = [start for start in starts if start <= rows.min() and rows.max() + 1 <= start + side]
            lefts = [start for start in starts if start <= columns.min() and columns.max() + 1 <= start + side]
            if tops and lefts:
                break
        wanted = min(32 * side * (1 + 2 * MARGIN), SIDE)
        left, top, right, bottom = pixels(box)
        assert (right - left, bottom - top) == (pytest.approx(wanted), pytest.approx(wanted))
        # one of those smallest squares lies inside the box, with the whole margin at every edge that the frame leaves
        # room for
        for near, far, starts in ((left, right, lefts), (top, bottom, tops)):
            ends = [(32 * (start - MARGIN * side), 32 * (start + side * (1 + MARGIN))) for start in starts]
            assert any(near <= max(first, 0) + 1e-9 and min(last, SIDE) - 1e-9 <= far for first, last in ends)


def test_the_box_holds_every_positive_pixel_and_stays_inside():
    rng, tried = np.random.default_rng(1), 0
    for _ in range(120):
        shape = tuple(rng.integers(5, SIDE + 1, 2))
        mask = made_up(rng, shape)
        box = lung_box(mask)
        if box is None:
            continue
        tried += 1
        assert 0 <= box.left < box.right <= 1 and 0 <= box.top < box.bottom <= 1
        assert (
            box.right - box.left == pytest.approx(box.bottom - box.top)
            and (box.right - box.left) ** 2 * SIDE**2 > LEAST
        )
        assert box.cut(mask).sum() == mask.sum()
        rows, columns = np.nonzero(mask)
        edges = (
            columns.min() / shape[1],
            rows.min() / shape[0],
            (columns.max() + 1) / shape[1],
            (rows.max() + 1) / shape[0],
        )
        assert box.left <= edges[0] and box.top <= edges[1] and edges[2] <= box.right and edges[3] <= box.bottom
    assert tried > 60


def test_the_margin_is_three_percent_at_every_edge_and_the_square_is_centred():
    assert pixels(lung_box(block(100, 150, 300, 300))) == pytest.approx([141, 91, 459, 409])
    assert pixels(lung_box(block(100, 206, 300, 100))) == pytest.approx([97, 91, 415, 409])
    assert pixels(lung_box(block(206, 100, 100, 300))) == pytest.approx([91, 97, 409, 415])


@pytest.mark.parametrize(
    "top, left, wanted",
    [
        (0, 0, (0, 0, 318, 318)),
        (212, 212, (194, 194, 512, 512)),
        (0, 212, (194, 0, 512, 318)),
        (5, 100, (91, 0, 409, 318)),
        (210, 100, (91, 194, 409, 512)),
    ],
)
def test_at_the_border_the_square_moves_back_and_keeps_its_size(top, left, wanted):
    assert pixels(lung_box(block(top, left, 300, 300))) == pytest.approx(wanted)


def test_a_square_larger_than_the_frame_is_the_frame():
    assert lung_box(block(10, 10, 490, 100)) == lung_box(np.ones((3, 3), bool)) == Box(0, 0, 1, 1)
    assert lung_box(block(10, 10, 480, 100)) != Box(0, 0, 1, 1)


def test_a_mask_of_another_size_gives_the_same_fractions():
    rng = np.random.default_rng(2)
    for _ in range(30):
        mask = made_up(rng, (23, 31))
        assert (
            lung_box(np.kron(mask, np.ones((2, 3), bool)))
            == lung_box(mask)
            == lung_box(mask.repeat(40, axis=0).repeat(40, axis=1))
        )


def test_nearest_neighbour_leans_to_no_side():
    """The mirrored mask gives the mirrored box, also where the pixels of the mask and of the frame do not line up."""
    rng = np.random.default_rng(3)
    for _ in range(30):
        mask = made_up(rng, (100, 237))
        box, mirrored = lung_box(mask), lung_box(mask[::-1, ::-1])
        assert (box is None) == (mirrored is None)
        assert box is None or box == pytest.approx(
            (1 - mirrored.right, 1 - mirrored.bottom, 1 - mirrored.left, 1 - mirrored.top), abs=1.01 / SIDE
        )


# Rejection


def test_the_area_must_exceed_50000_pixels():
    """1.06 · 210 = 222.6 (49,551 pixels), 1.06 · 211 = 223.66 (50,024 pixels)."""
    for shape in ((1, 1), (1, 0), (0, 1)):  # a square, one flat mask, one upright
        side = lambda n: block(100, 100, n if shape[0] else 20, n if shape[1] else 20)  # noqa: E731
        assert lung_box(side(210)) is None and lung_box(side(211)) is not None


def test_masks_that_are_no_lungs_leave_the_image_whole():
    assert lung_box(np.zeros((SIDE, SIDE), bool)) is None
    assert lung_box(block(250, 250, 1, 1)) is None
    assert lung_box(block(0, 0, 40, 30)) is None


def test_one_lung_gives_a_square_around_that_lung():
    left, top, right, bottom = pixels(lung_box(block(90, 60, 320, 140)))
    assert (top, bottom) == pytest.approx((80.4, 419.6)) and (left, right) == (0, pytest.approx(339.2))
    assert lung_box(block(90, 60, 200, 140)) is None


# Masks from files


@pytest.fixture
def folder(tmp_path) -> Path:
    folder = tmp_path / "masks"
    folder.mkdir()
    Image.fromarray(np.uint8(block(100, 150, 300, 300)) * 255).save(folder / "good.png")
    Image.fromarray(np.uint8(block(9, 9, 9, 9)) * 255).save(folder / "speck.png")
    return folder


IMAGE = np.random.default_rng(4).integers(0, 256, (256, 1000), dtype=np.uint8)


def test_masks_crop_by_stem_and_count(folder):
    cropper = lungs.Masks(folder)
    assert (cropper(IMAGE, "good.jpg") == IMAGE[45:205, 275:897]).all()  # 91 … 409 and 141 … 459 of 512, outwards
    assert (
        cropper(IMAGE, "speck.png") is IMAGE
        and cropper(IMAGE, "none.png") is IMAGE
        and cropper(IMAGE, "other.png") is IMAGE
    )
    assert (cropper.used, cropper.rejected, cropper.without) == (1, 1, 2)


def test_a_mask_may_be_of_any_kind(folder):
    mask = np.uint8(block(100, 150, 300, 300))
    wanted = lungs.Masks(folder)(IMAGE, "good")
    palette = Image.fromarray(mask)
    palette.putpalette([0, 0, 0, 90, 0, 0])
    kinds = [
        mask,
        mask > 0,
        np.uint16(mask),
        np.uint16(mask) * 65535,
        np.dstack([mask * 255] * 3),
        np.dstack([mask * 0, mask * 0, mask * 255]),
    ]
    for image in [palette, *map(Image.fromarray, kinds)]:
        image.save(folder / "kind.png")
        assert np.array_equal(lungs.Masks(folder)(IMAGE, "kind.jpg"), wanted), image.mode


def test_the_key_follows_the_files(folder, tmp_path):
    keys = [lungs.Masks(folder).key, lungs.build("none", "", tmp_path, CPU).key]
    assert lungs.build("masks", str(folder), tmp_path, CPU).key == keys[0]
    os.utime(folder / "good.png", (1, 1))
    keys.append(lungs.Masks(folder).key)
    (folder / "good.png").rename(folder / "better.png")
    keys.append(lungs.Masks(folder).key)
    folder.rename(tmp_path / "moved")
    keys.append(lungs.Masks(tmp_path / "moved").key)
    (tmp_path / "moved" / "speck.png").unlink()
    keys.append(lungs.Masks(tmp_path / "moved").key)
    assert len(set(keys)) == len(keys)


def test_a_mask_that_cannot_be_read_is_named(folder):
    good = (folder / "good.png").read_bytes()
    (folder / "good.png").write_bytes(good[: len(good) // 2])
    (folder / "speck.png").write_text("no image")
    cropper = lungs.Masks(folder)
    (folder / "gone.png").write_bytes(good)
    later = lungs.Masks(folder)
    (folder / "gone.png").unlink()
    for step, name in ((cropper, "good"), (cropper, "speck"), (later, "gone")):
        with pytest.raises(
            UserError, match=rf"its lung mask masks/{name}\.png cannot be read \([^()]+\): make it again"
        ) as caught:
            step(IMAGE, f"{name}.jpg")
        assert str(caught.value).count(f"{name}.png") == 1 and "\n" not in str(caught.value)
    assert cropper.used == cropper.rejected == cropper.without == 0


def test_wrong_settings_are_sentences(tmp_path):
    with pytest.raises(UserError, match="masks=DIR"):
        lungs.build("masks", "", tmp_path, CPU)
    with pytest.raises(UserError, match="masks = nowhere: there is no such folder"):
        lungs.build("masks", "nowhere", tmp_path, CPU)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="masks = empty: there are no .png files"):
        lungs.build("masks", "empty", tmp_path, CPU)


def test_crop_none_changes_nothing(tmp_path):
    assert lungs.build("none", "", tmp_path, CPU)(IMAGE, "good.png") is IMAGE


@pytest.mark.skipif(not (REAL / "lung_masks").is_dir(), reason="the real lung masks in ../shared are not here")
def test_all_real_masks_pass_and_their_boxes_hold_all_their_pixels():
    cropper = lungs.Masks(REAL / "lung_masks")
    assert len(cropper.files) == 191

    def share(path: Path) -> float:
        mask = np.asarray(Image.open(path))
        cropped = cropper(mask, path.name)
        assert cropped.sum(dtype=int) == mask.sum(dtype=int), path.name
        return cropped.size / mask.size

    with ThreadPoolExecutor(4) as pool:
        shares = list(pool.map(share, sorted((REAL / "lung_masks").iterdir())))
    assert (cropper.used, cropper.rejected, cropper.without) == (191, 0, 0)
    assert min(shares) > LEAST / SIDE**2 and np.median(shares) < 1


# Masks from the network


@pytest.fixture(scope="module")
def xrv():
    import torchxrayvision

    return torchxrayvision


@pytest.fixture
def shallow(xrv, monkeypatch):
    """torchxrayvision's PSPNet with one residual block where it has 3, 4, 23 and 3: a quarter of the seconds, the same
    code."""
    chestx_det = xrv.baseline_models.chestx_det
    monkeypatch.setattr(chestx_det, "pspnet", partial(chestx_det.pspnet, block_config=[1, 1, 1, 1]))
    return chestx_det.pspnet


@pytest.fixture
def offline(monkeypatch):
    def urlopen(*_, **__):
        raise urllib.error.URLError(OSError(-2, "Name or service not known"))

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)


def refused(folder: Path, capsys, out: str = "") -> str:
    """The sentence that a network without usable weights ends in; nothing else is said."""
    with pytest.raises(UserError) as caught:
        lungs.build("lungs", "", folder, CPU).ready()
    said = str(caught.value)
    assert "\n" not in said and all(
        part in said for part in (lungs.FILE, lungs.URL, "crop=masks masks=DIR", "crop=none")
    )
    found = capsys.readouterr()
    assert found.err == "" and found.out.startswith(out) and found.out.count("\n") == bool(out)
    return said


def test_missing_weights_offline_are_one_sentence(tmp_path, xrv, offline, monkeypatch, capsys):
    monkeypatch.setattr(xrv.utils, "download", lambda *_: pytest.fail("offline, and still a download"))
    said = refused(tmp_path / "weights", capsys)
    assert (
        "neither in weights nor in user/.torchxrayvision/models_data and cannot be downloaded (Name or service not"
        " known)" in said
    )
    assert "into weights" in said
    assert not (tmp_path / "user").exists()


@pytest.mark.parametrize("end", ["", ".part"])  # as older and newer versions of torchxrayvision do
def test_a_download_that_breaks_off_leaves_nothing(tmp_path, xrv, monkeypatch, capsys, end):
    def download(url: str, filename: str) -> None:
        assert url == lungs.URL
        Path(filename + end).write_bytes(b"half")
        raise ConnectionError("reset by peer")

    def urlopen(request, timeout):
        assert request.get_method() == "HEAD" and timeout <= 10
        raise urllib.error.HTTPError(request.full_url, 403, "signed for GET", {}, None)  # an answer all the same

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    monkeypatch.setattr(xrv.utils, "download", download)
    assert "cannot be downloaded (ConnectionError)" in refused(
        tmp_path / "weights", capsys, out=f"downloading {lungs.FILE}"
    )
    assert not list((tmp_path / "user" / ".torchxrayvision" / "models_data").iterdir())


def test_a_download_lands_in_torchxrayvisions_cache(tmp_path, xrv, monkeypatch):
    monkeypatch.setattr(xrv.baseline_models.chestx_det, "pspnet", lambda targets: torch.nn.Linear(3, targets))
    monkeypatch.setattr(urllib.request, "urlopen", lambda *_, **__: open(os.devnull))
    monkeypatch.setattr(
        xrv.utils,
        "download",
        lambda _, name: torch.save({"module.weight": torch.ones(14, 3), "module.bias": torch.ones(14)}, name),
    )
    lungs.build("lungs", "", tmp_path, CPU).ready()
    assert [path.name for path in (tmp_path / "user" / ".torchxrayvision" / "models_data").iterdir()] == [lungs.FILE]
    monkeypatch.setattr(xrv.utils, "download", lambda *_: pytest.fail("downloaded twice"))
    lungs.build("lungs", "", tmp_path, CPU).ready()


def test_damaged_and_foreign_weights_are_named(tmp_path, xrv, offline, monkeypatch, capsys):
    # made in no time, loaded alike
    monkeypatch.setattr(xrv.baseline_models.chestx_det, "pspnet", lambda targets: torch.nn.Linear(3, targets))
    mine, cache = tmp_path / "weights", tmp_path / "user" / ".torchxrayvision" / "models_data"
    mine.mkdir()
    cache.mkdir(parents=True)
    foreign = {"module.fc.weight": torch.zeros(3, 4)}
    torch.save(foreign, cache / lungs.FILE)
    whole = (cache / lungs.FILE).read_bytes()
    assert (
        "in user/.torchxrayvision/models_data cannot be loaded (RuntimeError), so the file is damaged or another"
        " network's" in refused(mine, capsys)
    )
    for content in (whole[: len(whole) // 2], b"", b"<html>not found</html>"):
        (mine / lungs.FILE).write_bytes(content)
        assert "in weights cannot be loaded" in refused(mine, capsys)  # the folder comes first
    torch.save(torch.zeros(3), mine / lungs.FILE)
    assert "in weights cannot be loaded (AttributeError)" in refused(mine, capsys)


@torch.no_grad()
def seeing(network: torch.nn.Module) -> torch.nn.Module:
    """Make a random PSPNet see: channel 0 carries brightness above mid-grey to Left Lung, channel 1 darkness to Right
    Lung.

    The other channels stay random, and the other targets answer yes everywhere.
    """
    for name, conv in network.named_modules():
        if isinstance(conv, torch.nn.Conv2d) and ".cb3." in name:
            conv.weight[:2] = 0  # a residual block adds nothing to these channels
        elif isinstance(conv, torch.nn.Conv2d) and (name.startswith(("convbnrelu1_", "cbr_final")) or ".cb4." in name):
            conv.weight[:2] = 0
            centre = conv.kernel_size[0] // 2
            first = name.startswith("convbnrelu1_1")
            conv.weight[0, 0, centre, centre] = 1
            conv.weight[1, 0 if first else 1, centre, centre] = -1 if first else 1
    network.classification.bias[:] = 100
    for target, channel in ((4, 0), (5, 1)):
        network.classification.weight[target] = 0
        network.classification.weight[target, channel] = 1
        network.classification.bias[target] = -0.3
    return network


def test_the_network_crops_to_the_lungs_it_sees(tmp_path, xrv, shallow, offline, monkeypatch, capsys):
    torch.manual_seed(0)
    state = seeing(shallow(14)).state_dict()
    # as nn.DataParallel saves
    torch.save({f"module.{key}": value for key, value in state.items()}, tmp_path / lungs.FILE)
    cropper = lungs.build("lungs", "", tmp_path, CPU)
    cropper.ready()
    (tmp_path / lungs.FILE).unlink()  # 120 MB, which pytest would keep
    seen = []
    cropper.network.register_forward_hook(lambda _, given, answer: seen.append((given[0], answer)))

    # mid-grey, with no pixel so bright that torchxrayvision would not warn of it
    image = np.full((600, 720), 124, np.uint8)
    image[120:480, 150:300] = 158
    image[120:480, 420:570] = 5
    cropped = cropper(image, "any.png")

    (given, answer), probabilities = seen[0], torch.sigmoid(seen[0][1])[0]
    assert (
        np.abs(
            given[0].numpy() - xrv.utils.normalize(cv2.resize(image, (512, 512), interpolation=cv2.INTER_AREA), 255)
        ).max()
        < 1e-3
    )
    names = cropper.network.targets
    mask = (probabilities[names.index("Left Lung")] > 0.5) | (probabilities[names.index("Right Lung")] > 0.5)
    box = lung_box(mask.numpy())
    assert answer.shape == (1, 14, 512, 512) and np.array_equal(cropped, box.cut(image))
    # the network's stride is 8 pixels, and its pooling reaches 4 further
    assert pixels(box) == pytest.approx(pixels(lung_box(image != 124)), abs=12)
    assert (cropper.used, cropper.rejected, cropper.without) == (1, 0, 0)
    assert (
        cropper.key.startswith("lungs ")
        and "by PSPNet on cpu; without a GPU that takes seconds an image" in capsys.readouterr().out
    )
