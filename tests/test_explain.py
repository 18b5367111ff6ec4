"""Grad-CAM: the maps, which images are chosen, and the script."""

import csv
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import report
from answers import multi_label_report, overlays, single_label_report
from conftest import TINY
from core.errors import UserError
from core.files import read_json, write_json
from core.logits_file import Logits, read_logits
from core.task import Evidence
from images import synthetic
from net import cam, model
from tasks import registry
from tasks.opened import open_run

SMALL = [
    *TINY,
    "model=cnn3",
    "crop=none",
    "epochs=1",
    "frozen_epochs=0",
    "val_fraction=0.25",
    "test_fraction=0.25",
    "head=8/0.1",
    "labels=cardiomegaly,scoliosis,pleural effusion,unchanged",
    "name=run",
]


def shots(number: int = 3, size: int = 64) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(5).integers(0, 256, (number, 1, size, size), dtype=np.uint8))


def network(name: str, size: int = 64) -> model.Net:
    torch.manual_seed(3)
    return model.build(
        registry.load("padchest", [f"model={name}", "weights=none", f"size={size}", "head=16/0.2"]), 4, "none"
    ).eval()


class Known(nn.Sequential):
    """Two channels at a quarter of the size, the image's mean brightness and darkness of every place; then pooling."""

    num_features = 2

    def __init__(self):
        super().__init__(nn.AvgPool2d(4), nn.Conv2d(1, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        with torch.no_grad():
            self[1].weight[:] = torch.tensor([1.0, -1.0]).view(2, 1, 1, 1)
            self[1].bias[:] = torch.tensor([0.0, 1.0])


class Tokens(nn.Module):
    """A body that keeps a token a pixel, and has no blocks."""

    num_features = 2

    def __init__(self):
        super().__init__()
        self.inner = nn.Identity()

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.inner(pixels.expand(-1, 2, -1, -1).flatten(2).transpose(1, 2)).mean(dim=1)


def known(head: list[list[float]]) -> model.Net:
    last = nn.Linear(2, len(head), bias=False)
    last.weight = nn.Parameter(torch.tensor(head))
    return model.Net(Known(), last, (0.0,), (1.0,), pretrained=False).eval()


def blob() -> torch.Tensor:
    image = torch.zeros(1, 1, 32, 32, dtype=torch.uint8)
    image[..., 20:24, 8:12] = 255  # the place (5, 2) of 8 × 8
    return image


# ---- maps
def test_the_map_peaks_at_the_blob_and_is_what_the_equations_say():
    """A linear head with weight w on channel k after mean pooling over Z places: α_k = w / Z, so the map is Σ w_k A_k /
    64."""
    net, image = known([[2.0, 0.0], [0.0, 3.0]]), blob()
    signed = cam.weighted(net, image.expand(2, -1, -1, -1), [0, 1])
    bright = np.zeros((8, 8), np.float32)
    bright[5, 2] = 1
    assert np.allclose(signed[0], 2 * bright / 64, atol=1e-7) and np.allclose(
        signed[1], 3 * (1 - bright) / 64, atol=1e-7
    )
    shown, kind = cam.spread(signed[0], 32)
    row, column = np.unravel_index(shown.argmax(), shown.shape)
    assert (
        kind == "grad-cam"
        and 20 <= row < 24
        and 8 <= column < 12
        and shown.max() == 1
        and shown.min() == 0
        and shown[0, -1] == 0
    )


@pytest.mark.parametrize("name", ["cnn3", "test_convnext", "test_efficientnet", "test_resnet", "test_mambaout"])
def test_every_body_gives_a_map_that_is_not_constant_and_equals_one_by_hand(name):
    net, images, classes = network(name), shots(), [0, 3, 1]
    signed = cam.weighted(net, images, classes)
    stage = cam.last_stage(net, images[:1])
    kept = []
    handle = stage.module.register_forward_hook(lambda module, given, found: kept.append(found))
    logits = net(images)
    handle.remove()
    gradient = stage.as_map(torch.autograd.grad(logits[range(3), classes].sum(), kept[-1])[0])
    by_hand = (gradient.mean((2, 3), keepdim=True) * stage.as_map(kept[-1])).sum(1).detach().numpy()
    assert signed.shape == by_hand.shape == (3, *{"cnn3": (8, 8)}.get(name, (2, 2))) and np.allclose(
        signed, by_hand, rtol=1e-4, atol=1e-8 + 1e-5 * np.abs(by_hand).max()
    )
    for one in signed:
        shown, kind = cam.spread(one, 64)
        assert kind in ("grad-cam", "against") and shown.shape == (64, 64) and shown.max() == 1 and np.ptp(shown) > 0.02
    assert np.allclose(cam.weighted(net, images[1:2], classes[1:2])[0], signed[1], rtol=1e-3, atol=1e-8), (
        "an image's map depends on the others of its batch"
    )


def test_the_stage_is_the_one_that_pooling_sees():
    """What is pooled is this map and no earlier one: its mean over the places, normed or not, is all that the head
    sees."""
    net = network("test_resnet")
    stage = cam.last_stage(net, shots(1))
    stage.module.register_forward_hook(lambda module, given, found: torch.zeros_like(found))
    assert torch.equal(net(shots(1)), net(255 - shots(1)))


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_a_frozen_body_has_the_same_maps(share):
    net, frozen = network("test_convnext"), network("test_convnext")
    frozen.unfreeze(share)
    assert np.allclose(cam.weighted(net, shots(), [0, 1, 2]), cam.weighted(frozen, shots(), [0, 1, 2]), atol=1e-7)


def test_where_nothing_speaks_for_a_class_the_map_says_so():
    signed = -np.array([[3.0, 1.0], [2.0, 2.0]], np.float32)
    shown, kind = cam.spread(signed, 8)
    assert kind == "against" and shown[0, 0] == shown.max() == 1 and shown.min() == shown[0, 7] == pytest.approx(1 / 3)
    shown, kind = cam.spread(np.full((2, 2), 0.3, np.float32), 8)
    assert kind == "none" and not shown.any() and set(cam.KINDS) == {"grad-cam", "against", "none"}


@pytest.mark.parametrize("name", ["test_vit", "test_vit3"])  # a class token that is read, or all patches pooled
def test_a_transformer_s_map_is_of_its_patches(name):
    """The tokens of a row of patches make a row of the map, prefix tokens none; every patch has its own gradient."""
    net, images = network(name, 160), shots(2, 160)
    signed = cam.weighted(net, images, [0, 3])
    assert signed.shape == (2, 10, 10) and np.ptp(signed[0]) > 0
    stage = cam.last_stage(net, images[:1])
    prefix = net.body.num_prefix_tokens
    tokens = torch.arange(prefix + 100.0).view(1, -1, 1) - prefix  # the patches are 0 … 99
    assert torch.equal(stage.as_map(tokens)[0, 0], torch.arange(100.0).view(10, 10))


def test_networks_without_a_map_are_refused_in_one_sentence():
    with pytest.raises(UserError, match="no square of patches before a last block"):
        net = known([[1.0, 0.0]])
        net.body = Tokens()
        cam.weighted(net, shots(1, 32), [0])
    with pytest.raises(UserError, match="single position on images of 32 pixels"):
        cam.weighted(network("test_convnext", 32), shots(1, 32), [0])


def test_the_share_of_the_energy_inside_a_mask():
    shown = np.random.default_rng(0).random((16, 16)).astype(np.float32)
    assert (
        cam.energy_share(shown, np.ones((16, 16), bool)) == pytest.approx(1)
        and cam.energy_share(shown, np.zeros((16, 16), bool)) == 0
    )
    left = cam.fitted(np.array([[True, False]]), 16)
    assert left[:, :8].all() and not left[:, 8:].any() and cam.energy_share(np.float32(left), left) == 1
    assert cam.energy_share(shown, left) == pytest.approx(shown[:, :8].sum() / shown.sum())
    assert np.isnan(cam.energy_share(np.zeros((16, 16)), left))


def test_pictures_are_the_same_bytes_and_a_map_of_zeros_leaves_the_radiograph():
    image = shots(1, 32)[0, 0].numpy()
    assert np.allclose(overlays.overlay(image, np.zeros((32, 32), np.float32)), (image / 255)[..., None])
    shown = np.linspace(0, 1, 1024, dtype=np.float32).reshape(32, 32)
    tile = overlays.Tile(
        image,
        shown,
        "grad-cam",
        ["x" * 57 + ".png", "cardiomegaly, p = 0.95", "one positive label, p > 0.9"],
        shown > 0.5,
    )
    both = [tile, tile._replace(kind="against")]
    assert overlays.picture(tile) == overlays.picture(tile) != overlays.picture(both[1]) and overlays.sheet(
        both, "two"
    ) == overlays.sheet(both, "two")
    assert (
        overlays.shortened("x" * 57 + ".png", 20) == "xxxxxxxxx…xxxxxx.png"
        and overlays.shortened("a.png", 20) == "a.png"
    )


# ---- which images
def logits_file(logits: list, targets: list) -> Logits:
    logits, targets = np.float32(logits), np.float32(targets)
    classes = np.array([f"c{number}" for number in range(logits.shape[1])])
    counts = np.arange(10, 10 * len(classes) + 1, 10)
    return Logits(
        np.array([f"{number}.png" for number in range(len(logits))]),
        logits[None],
        targets,
        classes,
        counts,
        int(counts.sum()),
        counts / counts.sum(),
    )


def of_findings(content: Logits, labels=(0, 1, 2), number=12):
    calibration = {
        "classes": content.classes.tolist(),
        "networks": [
            {
                "rows": content.rows,
                "counts": content.counts.tolist(),
                "prior": content.prior.tolist(),
                "rules": {"sigmoid": {}},
            }
        ],
    }
    whose, found = multi_label_report.examples(Evidence(None, [content], calibration, "sigmoid"), labels, number)
    assert whose is content
    return [(one.row, one.label) for one in found], {one.why for one in found}, [one.p for one in found]


def test_findings_are_chosen_as_in_the_thesis():
    """One positive label and p > 0.9 for it: every label in turn, the surest first, then label by label."""
    targets = [
        [1, 0, 0],
        [1, 0, 0],
        [1, 0, 0],
        [0, 1, 0],
        [0, 1, 0],
        [1, 1, 0],
        [0, 0, 0],
        [0, 0, np.nan],
        [1, 0, np.nan],
    ]
    # sigmoid(2) is 0.88
    logits = [[3, 0, 0], [5, 9, 9], [2, 0, 0], [0, 4, 0], [0, 3, 0], [9, 9, 9], [9, 9, 9], [9, 9, 9], [9, 9, 9]]
    content = logits_file(logits, targets)
    rows, why, p = of_findings(content)
    assert (
        rows == [(1, 0), (0, 0), (3, 1), (4, 1)]
        and why == {"one positive label, p > 0.9"}
        and p[0] == pytest.approx(1 / (1 + np.exp(-5)))
    )
    assert of_findings(content, number=3)[0] == [(1, 0), (0, 0), (3, 1)] and of_findings(content, number=2)[0] == [
        (1, 0),
        (3, 1),
    ]
    assert of_findings(content, labels=[1])[0] == [(3, 1), (4, 1)]


def test_without_a_sure_image_the_most_probable_ones_are_chosen_and_it_is_said():
    rows, why, p = of_findings(logits_file([[2, 0, 0], [-1, 0, 0], [0, 1, 0]], [[1, 0, 0], [1, 0, 0], [0, 1, 0]]))
    assert (
        rows == [(0, 0), (1, 0), (2, 1)]
        and max(p) < 0.9
        and why == {"one positive label; none has p > 0.9, so the most probable"}
    )
    with pytest.raises(UserError, match="exactly one positive label that is among the wanted ones"):
        of_findings(logits_file([[2, 0, 0], [2, 0, 0]], [[1, 1, 0], [0, 0, 0]]))


def test_decisions_are_hits_misses_and_the_rarest_classes():
    truth, said = [0, 0, 1, 1, 1, 2, 2, 2, 3, 3], [0, 1, 1, 1, 2, 2, 2, 3, 3, 0]
    sure = [3, 4, 2, 6, 3, 5, 1, 2, 4, 7]
    val = logits_file(np.eye(4)[said] * np.array(sure)[:, None], np.eye(4)[truth])
    calibration = registry.task_of(registry.load("modelB")).calibrate([val])
    whose, found = single_label_report.examples(Evidence([val], None, calibration, "argmax"), range(4), 5)
    assert whose is val
    assert [(one.row, one.label, one.why) for one in found] == [
        (0, 0, "rare, 10 training images; hit"),  # the only class of the rarest quarter, its most probable image
        (3, 1, "hit"),
        (5, 2, "hit"),  # every class once, the surest first
        (9, 3, "missed: answered c0, p = 1.00"),
        (1, 0, f"missed: answered c1, p = {np.exp(4) / (np.exp(4) + 3):.2f}"),
    ]
    assert found[0].p == pytest.approx(np.exp(3) / (np.exp(3) + 3)) and found[3].p < 0.01
    everything = single_label_report.examples(Evidence([val], None, calibration, "argmax"), range(4), 99)[1]
    assert sorted(one.row for one in everything) == list(range(10)) and all(
        one.label == truth[one.row] for one in everything
    )
    assert {
        one.label for one in single_label_report.examples(Evidence([val], None, calibration, "argmax"), [2, 3], 99)[1]
    } == {2, 3}


# ---- the script
@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A home with a padchest run of one epoch; its data set beside it. Read only."""
    import main

    home = tmp_path_factory.mktemp("explained")
    synthetic.make(home / "set", images=200, size=40, seed=3, layout="padchest")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CXR_HOME", str(home))
        main.main(["padchest", "--data", str(home / "set"), *SMALL])
    return home


@pytest.fixture
def run(trained, tmp_path) -> Path:
    return Path(shutil.copytree(trained / "runs/run", tmp_path / "run"))


def rows_of(path: Path) -> list[dict]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def masks_in(folder: Path, content: Logits, mask: np.ndarray) -> Path:
    folder.mkdir()
    for one in content.ids:
        Image.fromarray(np.uint8(255 * mask)).save(folder / f"{Path(one).stem}.png")
    return folder


def test_the_page_shows_radiographs_with_their_maps(run, trained):
    drawn = report.draw(run)
    content = report.page_of(drawn).decode()
    of_curves = len(drawn.pictures)
    assert of_curves < content.count("<img") <= of_curves + 2 * report.EXAMPLES
    assert content.count("data:image/jpeg;base64,") == content.count("<img") - of_curves
    for caption in re.findall(r"<figcaption>([^<]*, p = [^<]*)</figcaption>", content):
        label, p, name = re.match(r"(.+), p = ([\d.]+); .*\((\S+)\)", caption).groups()
        test = read_logits(run / "test_logits.npz")
        logit = test.logits[0, test.ids.tolist().index(name), test.classes.tolist().index(label)]
        assert float(p) == pytest.approx(1 / (1 + np.exp(-float(logit))), abs=0.006)
    about = read_json(run / "run.json") | {"data": str(run / "elsewhere")}
    write_json(run / "run.json", about)
    content = report.page_of(replace(drawn, run=open_run(run))).decode()
    assert "The radiographs are not shown" in content and "data:image/jpeg" not in content


def test_a_run_is_explained(run, call, tmp_path):
    test = read_logits(run / "test_logits.npz")
    left = np.zeros((40, 40), bool)
    left[:, :20] = True
    said = call("explain", run, "--number", 5, "--masks", masks_in(tmp_path / "masks", test, left))
    assert said.code == 0, said.err
    rows = rows_of(run / "figures/explain.csv")
    assert 0 < len(rows) <= 5 and list(rows[0]) == [
        "id",
        "label",
        "p",
        "why",
        "map",
        "energy_in_lungs",
        "lungs_in_image",
        "file",
    ]
    for row in rows:
        number = test.ids.tolist().index(row["id"])
        assert test.targets[number].sum() == 1 and test.classes[test.targets[number].argmax()] == row["label"]
        assert float(row["p"]) == pytest.approx(
            1 / (1 + np.exp(-test.logits[0, number, test.targets[number].argmax()])), abs=1e-5
        )
        assert (
            float(row["lungs_in_image"]) == 0.5
            and row["map"] in ("grad-cam", "against")
            and 0 <= float(row["energy_in_lungs"]) <= 1
        )
        with Image.open(run / "figures" / row["file"]) as picture:
            assert picture.width == 1003  # 8.5 cm at 300 dpi
        assert row["id"] in said.out and row["why"] in said.out
    assert {path.name for path in (run / "figures/explain").iterdir()} == {Path(row["file"]).name for row in rows} and (
        run / "figures/explain.png"
    ).is_file()
    assert "SYNTHETIC" in said.out and said.out.splitlines()[-1].startswith("wrote ")

    before = {path: path.read_bytes() for path in (run / "figures").rglob("*.*")}
    assert call("explain", run, "--number", 5, "--masks", tmp_path / "masks").code == 0
    assert before == {path: path.read_bytes() for path in (run / "figures").rglob("*.*")}
    fewer = call("explain", run, "--number", 1, "--labels", rows[-1]["label"], "--out", tmp_path / "elsewhere")
    assert fewer.code == 0 and [row["label"] for row in rows_of(tmp_path / "elsewhere/explain.csv")] == [
        rows[-1]["label"]
    ]
    assert before == {path: path.read_bytes() for path in (run / "figures").rglob("*.*")}


def test_the_mask_is_cropped_like_the_image(run, call, tmp_path):
    """The run's own masks are a square in the middle: on the cropped image lungs fill all but the margin of 3 % at each
    edge."""
    test, middle = read_logits(run / "test_logits.npz"), np.zeros((80, 80), bool)
    middle[20:60, 20:60] = True
    masks = masks_in(tmp_path / "masks", test, middle)
    about = json.loads((run / "run.json").read_text())
    about["config"] |= {"crop": "masks", "masks": str(masks)}
    (run / "run.json").write_text(json.dumps(about))
    said = call("explain", run, "--number", 2)
    assert said.code == 0, said.err
    shares = {float(row["lungs_in_image"]) for row in rows_of(run / "figures/explain.csv")}
    assert len(shares) == 1 and 0.8 < shares.pop() < 0.95 and "inside the lungs: " in said.out


FAULTS = {
    "no best.pt": (
        lambda run: (run / "best.pt").unlink(),
        [],
        "has no trained network, best.pt, yet: run the command that began it once more",
    ),
    "no test logits": (lambda run: (run / "test_logits.npz").unlink(), [], "has no test_logits.npz yet"),
    "an unknown label": (
        None,
        ["--labels", "scoliozis"],
        "--labels: the run has no label 'scoliozis'; nearest: scoliosis",
    ),
    "a label like none": (
        None,
        ["--labels", "xyz"],
        "the run has no label 'xyz'; there are cardiomegaly, scoliosis, pleural effusion, unchanged",
    ),
    "no such data": (None, ["--data", "nowhere"], "--data nowhere: there is no such folder"),
    "no such masks": (None, ["--masks", "nowhere"], "--masks nowhere: there is no such folder"),
    "no number": (None, ["--number", "0"], "--number 0: ask for at least one image"),
    "no run": (lambda run: (run / "run.json").unlink(), [], "is no run folder"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_mistakes_are_one_sentence(fault, run, call):
    change, more, sentence = FAULTS[fault]
    if change:
        change(run)
    said = call("explain", run, *more)
    assert (
        said.code == 2
        and said.err.startswith("error: ")
        and len(said.err.strip().splitlines()) == 1
        and sentence in said.err
    ), said.err
    assert not (run / "figures").exists()


def test_another_data_set_is_refused(run, call, tmp_path):
    synthetic.make(tmp_path / "other", images=60, size=40, seed=4, layout="padchest")
    said = call("explain", run, "--data", tmp_path / "other")
    assert said.code == 2 and "does not have the run's images" in said.err and not (run / "figures").exists()
