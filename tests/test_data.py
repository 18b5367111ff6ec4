"""The packed array, the data set and the order of an epoch."""

import os
import re
import shutil
import threading
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import EpsImagePlugin, Image

from core import priors
from core.errors import UserError
from images import loader, lungs
from images import pack as images_pack
from images.augment import Augment
from tasks import registry

MODEL_B = registry.load("modelB")


def grey(path: Path, size=(48, 40), seed=0) -> np.ndarray:
    image = np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)
    Image.fromarray(image).save(path)
    return image


@pytest.fixture
def folder(tmp_path) -> Path:
    images = tmp_path / "images"
    images.mkdir()
    for number in range(10):
        grey(images / f"{number}.png", (32, 32), number)
    return images


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_packing_at_native_size_keeps_every_pixel(folder):
    pack, failed = images_pack.pack(folder, names(folder), 32)
    packed = np.load(pack.array)
    assert not failed and packed.dtype == np.uint8 and packed.shape == (10, 32, 32)
    for name in names(folder):
        assert (packed[pack.rows(np.array([name]))[0]] == np.asarray(Image.open(folder / name))).all()


def test_kinds_of_images_become_the_same_grey(tmp_path):
    image = grey(tmp_path / "grey.png")
    Image.fromarray(np.dstack([image] * 3)).save(tmp_path / "rgb.png")
    Image.fromarray(np.dstack([image] * 3 + [np.full_like(image, 128)])).save(tmp_path / "rgba.png")
    Image.fromarray(np.dstack([image, np.full_like(image, 7)]), "LA").save(tmp_path / "la.png")
    Image.fromarray(image.astype(np.uint16) * 257).save(tmp_path / "sixteen.png")
    palette = Image.fromarray(image).convert("P", palette=Image.Palette.WEB)
    palette.putpalette([value for value in range(256) for _ in range(3)])
    palette.putdata(image.flatten().tolist())
    palette.save(tmp_path / "palette.png")
    for name in ("rgb", "rgba", "la", "sixteen", "palette"):
        assert (images_pack.decode(tmp_path / f"{name}.png") == image).all(), name
    pack, failed = images_pack.pack(tmp_path, [path.name for path in tmp_path.glob("*.png")], 32)
    packed = np.load(pack.array)
    assert not failed and (packed == packed[0]).all()  # the non-square image was squeezed alike


def test_floating_point_images_are_shares_of_white_or_go_to_255(tmp_path):
    image = grey(tmp_path / "grey.png")
    path = tmp_path / "float.tiff"
    for pixels in (image / np.float32(255), image.astype(np.float32)):
        Image.fromarray(pixels.astype(np.float32)).save(path)
        assert (images_pack.decode(path) == image).all()
    Image.fromarray(image.astype(np.int32) * 257).save(path)
    assert (images_pack.decode(path) == image).all()


@pytest.mark.parametrize("pixels", [np.float32(np.nan), np.float32(256), np.float32(-1), np.int32(65536), np.int32(-1)])
def test_pixels_beyond_their_range_are_named(pixels, tmp_path):
    """They would become black or white in silence."""
    odd = np.zeros((32, 32), pixels.dtype)
    odd[3, 3] = pixels
    Image.fromarray(odd).save(tmp_path / "odd.tiff")
    _, failed = images_pack.pack(tmp_path, ["odd.tiff"], 32)
    assert re.fullmatch(r"pixels from \S+ to \S+, where 0 to (255|65535) are wanted: .*", failed["odd.tiff"])


@pytest.mark.parametrize("kind", ["jpg", "png", "tiff"])
def test_exif_says_how_an_image_is_turned(kind, tmp_path):
    """Orientation 6: to be turned by 90° clockwise; 1 and damaged EXIF: as it is."""
    image = np.repeat(np.repeat(grey(tmp_path / "grey.png")[::8, ::8], 8, 0), 8, 1)  # as JPEG keeps it
    for orientation, wanted in ((1, image), (6, np.rot90(image, -1)), (3, np.rot90(image, 2))):
        picture = Image.fromarray(image)
        exif = picture.getexif()
        exif[0x112] = orientation
        picture.save(tmp_path / f"turned.{kind}", exif=exif, **({"quality": 100} if kind == "jpg" else {}))
        found = images_pack.decode(tmp_path / f"turned.{kind}")
        assert found.shape == wanted.shape and np.abs(found.astype(int) - wanted).max() <= 2
    if kind != "tiff":
        Image.fromarray(image).save(tmp_path / f"odd.{kind}", exif=b"Exif\0\0damaged")
        assert images_pack.decode(tmp_path / f"odd.{kind}").shape == image.shape


def test_only_image_formats_that_are_wanted_are_opened(tmp_path, monkeypatch):
    """EPS would start Ghostscript."""
    image = grey(tmp_path / "grey.png")
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_, **__: pytest.fail("a program was started"))
    names = []
    for kind in ("EPS", "PCX", "TGA", "PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP", "PPM", "JPEG2000"):
        names.append(f"{kind}.png")
        Image.fromarray(image).save(tmp_path / names[-1], kind)
    _, failed = images_pack.pack(tmp_path, names, 32)
    assert failed == dict.fromkeys(["EPS.png", "PCX.png", "TGA.png"], "not an image")


def test_a_second_call_decodes_nothing(folder, monkeypatch, capsys):
    images_pack.pack(folder, names(folder), 16)
    monkeypatch.setattr(images_pack, "decode", lambda path: pytest.fail("decoded again"))
    images_pack.pack(folder, names(folder)[::-1], 16)
    assert "reused" in capsys.readouterr().out


def test_packed_pixels_that_changed_on_the_disk_are_decoded_again(folder, capsys):
    pack, _ = images_pack.pack(folder, names(folder), 24)
    whole = np.load(pack.array)
    broken = np.lib.format.open_memmap(pack.array, mode="r+")
    broken[[2, 7], 5] ^= 255
    broken.flush()
    images_pack.pack(folder, names(folder), 24)
    said = capsys.readouterr()
    assert "2 packed images are damaged on the disk and decoded again" in said.err and "2 of 10 decoded" in said.out
    assert (np.load(pack.array) == whole).all()


def test_packing_goes_on_where_it_stopped(folder, monkeypatch):
    """A Ctrl-C in the middle keeps what was done; the next call decodes the rest, and the result is the same."""
    whole = np.load(images_pack.pack(folder, names(folder), 24)[0].array)
    decode, seen, lock = images_pack.decode, [], threading.Lock()

    def interrupted(path):
        with lock:
            seen.append(path.name)
            if len(seen) == 4:
                raise KeyboardInterrupt
        return decode(path)

    monkeypatch.setenv("CXR_CACHE", str(folder.parent / "other"))
    monkeypatch.setattr(images_pack, "CHUNK", 1)
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    monkeypatch.setattr(images_pack, "decode", interrupted)
    with pytest.raises(KeyboardInterrupt):
        images_pack.pack(folder, names(folder), 24)
    again = []
    monkeypatch.setattr(images_pack, "decode", lambda path: again.append(path.name) or decode(path))
    pack, _ = images_pack.pack(folder, names(folder), 24)
    assert 0 < len(again) < 10
    assert (np.load(pack.array) == whole).all()


def test_a_mended_or_replaced_image_is_decoded_again(folder):
    (folder / "3.png").write_bytes(b"")
    raw = (folder / "4.png").read_bytes()
    (folder / "4.png").write_bytes(raw[: len(raw) // 2])
    _, failed = images_pack.pack(folder, [*names(folder), "lost.png"], 32)
    assert failed.keys() == {"3.png", "4.png", "lost.png"} and failed["lost.png"] == "missing"
    images = {
        name: grey(folder / name, (32, 32), seed)
        for seed, name in enumerate(["3.png", "4.png", "5.png", "lost.png"], 50)
    }
    pack, failed = images_pack.pack(folder, names(folder), 32)
    assert not failed
    for name, image in images.items():
        assert (np.load(pack.array)[pack.rows(np.array([name]))[0]] == image).all()


@pytest.mark.parametrize("harm", ["unlink", "halve", "empty", "stamps"])
def test_a_damaged_pack_is_made_again(folder, harm):
    """Never black images: half of the array gone, or its stamps, means that all of it is decoded again."""
    pack, _ = images_pack.pack(folder, names(folder), 32)
    whole = np.load(pack.array)
    raw = pack.array.read_bytes()
    if harm == "unlink":
        pack.array.unlink()
    elif harm == "stamps":
        pack.array.with_name("stamps.npy").write_bytes(b"noise")
    else:
        pack.array.write_bytes(raw[: len(raw) // 2] if harm == "halve" else b"")
    again, failed = images_pack.pack(folder, names(folder), 32)
    assert not failed and (np.load(again.array) == whole).all()


def test_fingerprint_is_of_pixels(folder):
    """Touching or copying a file changes nothing; another picture under the same name does."""
    ids = np.array(names(folder))
    first = images_pack.pack(folder, ids, 32)[0].fingerprint(ids)
    for name in ids:
        os.utime(folder / name, (0, 0))
    assert images_pack.pack(folder, ids, 32)[0].fingerprint(ids) == first
    grey(folder / "2.png", (32, 32), 99)
    assert images_pack.pack(folder, ids, 32)[0].fingerprint(ids) != first
    assert images_pack.pack(folder, ids, 32)[0].fingerprint(ids[:2]) != first


def test_key_depends_on_ids_size_crop_and_folder(folder):
    ids = names(folder)
    other, cut = Path(shutil.copytree(folder, folder.parent / "copy")), lungs.Whole()
    cut.key = "another"
    keys = [
        images_pack.pack(other, ids, 16),
        images_pack.pack(folder, ids, 16),
        images_pack.pack(folder, ids, 20),
        images_pack.pack(folder, ids[1:], 16),
        images_pack.pack(folder, ids, 16, None, lungs.Whole()),
        images_pack.pack(folder, ids, 16, None, cut),
    ]
    assert len({pack.array for pack, _ in keys}) == 5 and keys[1][0].array == keys[4][0].array


def test_too_little_disk_is_said_before_anything_is_written(folder, monkeypatch):
    monkeypatch.setattr(images_pack.shutil, "disk_usage", lambda path: SimpleNamespace(free=10))
    with pytest.raises(UserError, match="packing needs 0.0 GB"):
        images_pack.pack(folder, names(folder), 32)
    assert not list(Path(os.environ["CXR_HOME"]).rglob("*.npy*"))


def test_a_disk_that_fills_up_while_space_is_reserved(folder, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(UserError, match="no space left while writing"):
        images_pack.pack(folder, names(folder), 32)
    assert not list(Path(os.environ["CXR_HOME"]).rglob("*.npy*"))


def epoch(images, number: int, workers: int) -> tuple[torch.Tensor, torch.Tensor]:
    order = loader.Order(len(images), np.ones(len(images)), seed=5)
    order.epoch = number
    parts = list(loader.batched(images, order, 4, workers, pin=False))
    return torch.cat([image for image, _ in parts]), torch.cat([target for _, target in parts])


def test_epochs_differ_and_workers_do_not(folder):
    pack, _ = images_pack.pack(folder, names(folder), 32)
    targets = np.eye(10, dtype=np.float32)
    images = loader.Images(pack, np.array(names(folder)), targets, Augment(MODEL_B), seed=5)
    alone, again, helped = epoch(images, 1, 0), epoch(images, 1, 0), epoch(images, 1, 2)
    for one, two, three in zip(alone, again, helped):
        assert torch.equal(one, two) and torch.equal(one, three)
    later, later_helped = epoch(images, 2, 0), epoch(images, 2, 2)
    assert torch.equal(later[0], later_helped[0])
    assert not torch.equal(alone[0], later[0])
    assert alone[0].dtype == torch.uint8 and alone[0].shape == (10, 1, 32, 32)


def test_an_image_that_is_drawn_twice_looks_different(folder):
    pack, _ = images_pack.pack(folder, names(folder), 32)
    images = loader.Images(pack, np.array(names(folder)), np.zeros((10, 2)), Augment(MODEL_B), seed=5)
    first, second = (
        [images[loader.Draw(0, position, 3)][0] for position in range(40)],
        [images[loader.Draw(1, position, 3)][0] for position in range(40)],
    )
    assert len({image.numpy().tobytes() for image in first}) > 20
    # the same place in another epoch; some stay untouched
    assert sum(torch.equal(a, b) for a, b in zip(first, second)) < 20


def test_sampler_follows_the_weights():
    """With weights 1/n every class is drawn alike, whatever its size; a class of weight 0 never is."""
    truth = np.repeat([0, 1, 2], [90, 9, 1])
    weights = priors.class_weights(np.array([90, 9, 1, 0]), 1.0)
    assert weights[3] == 0
    drawn = Counter()
    for number in range(60):
        order = loader.Order(100, weights[truth], seed=1)
        order.epoch = number
        drawn.update(truth[draw.index] for draw in order)
    assert all(drawn[c] / 6000 == pytest.approx(1 / 3, abs=0.03) for c in range(3))
    assert priors.class_weights(np.array([4, 16]), 0.5).tolist() == [0.5, 0.25]
    assert priors.class_weights(np.array([4, 16, 0]), 0.0).tolist() == [1, 1, 0]


def test_without_weights_every_image_comes_once():
    order = loader.Order(50, shuffle=True, seed=2)
    assert sorted(draw.index for draw in order) == list(range(50))
    assert [draw.index for draw in order] != list(range(50))


class Measured(loader.Images):
    """Every 100th item brings its process's anonymous memory (kB) home instead of the targets."""

    def __getitem__(self, draw):
        image, _ = super().__getitem__(draw)
        if draw.position % 100 != 99:
            return image, torch.zeros(2, dtype=torch.int64)
        rollup = Path(f"/proc/{os.getpid()}/smaps_rollup").read_text()
        return image, torch.tensor(
            [os.getpid(), next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Anonymous:"))]
        )


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="needs Linux's /proc/PID/smaps_rollup")
def test_memory_of_the_workers_does_not_grow_with_the_images(tmp_path):
    """20 times as many images (82 MB instead of 4) may add a little bookkeeping, not pixels."""
    peaks = {}
    for number in (1_000, 20_000):
        path = tmp_path / f"{number}.npy"
        array = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(number, 64, 64))
        array[:] = 1
        del array
        ids = np.array([f"{i:06}" for i in range(number)])
        images = Measured(images_pack.Pack(path, ids, np.zeros(number)), ids, np.zeros((number, 2), np.float32))
        seen = torch.cat([rows for _, rows in loader.batched(images, loader.Order(number), 100, workers=2, pin=False)])
        workers = [process for process in seen[:, 0].unique() if process]
        assert len(workers) == 2
        peaks[number] = sum(int(seen[seen[:, 0] == process, 1].max()) for process in workers)
    assert peaks[20_000] - peaks[1_000] < 10_000, peaks
