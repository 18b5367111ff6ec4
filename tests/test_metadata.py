"""What the head is told beside the image: how it is spelled in numbers, that it is used, and that it may be missing."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from core import metadata
from core.data_set import Table
from core.errors import UserError
from core.logits_file import read_logits
from images import loader
from images.pack import Pack
from net import cam, checks, fit, model
from tasks import registry
from test_nih14 import SMALL, row, write

EVERYTHING = "metadata=age,sex,view,follow_up"


def config(*words: str):
    return registry.load("nih14", [*SMALL, *words])


def test_every_quantity_by_hand():
    known = {
        "age": np.array(["50", "090Y", "30.0", "414", "", "old"]),
        "sex": np.array(["F", "M", " F", "", "O", "f"]),
        "projection": np.array(["PA", "AP", "LL", "", "AP", "PA"]),
        "follow_up": np.array(["0", "1", "100", "-1", "nan", "3"]),
    }
    asked = config(EVERYTHING)
    told = dict(zip(metadata.columns(asked), metadata.encoded(known, 6, asked).T.tolist(), strict=True))
    assert told["age"] == [0, 2, -1, 0, 0, 0] and told["age unknown"] == [0, 0, 0, 1, 1, 1]
    assert told["sex F"] == [1, 0, 1, 0, 0, 0] and told["sex M"] == [0, 1, 0, 0, 0, 0]
    assert told["view PA"] == [1, 0, 0, 0, 0, 1] and told["view AP"] == [0, 1, 0, 0, 1, 0]
    assert np.allclose(told["follow_up"], [-2, np.log(2) - 2, np.log(101) - 2, 0, 0, np.log(4) - 2])
    assert told["follow_up unknown"] == [0, 0, 0, 1, 1, 0]
    some = config("metadata=[sex]")
    assert metadata.columns(some) == ["sex F", "sex M"] and not metadata.encoded({}, 3, some).any()
    assert metadata.encoded({}, 3, config()).shape == (3, 0)


def test_a_quantity_that_tells_nothing_is_refused():
    table = Table(np.array(["a", "b"]), [], np.zeros((2, 0)), known={"age": np.array(["30", "30"])})
    for name in ("age", "sex"):
        with pytest.raises(UserError, match=f"metadata = {name}: it is the same for all 2 labelled images"):
            metadata.require(table, config(f"metadata={name}"))
    metadata.require(table, config())


def test_the_head_is_told_and_an_image_alone_is_one_of_which_nothing_is_known():
    torch.manual_seed(0)
    net = model.build(config("metadata=age,sex"), 3, "none").eval()
    images = torch.randint(0, 256, (4, 1, 32, 32), dtype=torch.uint8)
    told = torch.randn(4, 4)
    with torch.no_grad():
        plain, knowing = net(images), net(images, told)
        nothing = torch.from_numpy(metadata.encoded({}, 4, config("metadata=age,sex")))
        assert torch.equal(plain, net(images, nothing)) and nothing[0].tolist() == [0, 1, 0, 0]
        weight = net.head[-1].weight[:, -4:]  # the head is linear: what is told adds its own share to every logit
        assert torch.allclose(knowing - plain, (told - nothing) @ weight.T, atol=1e-5)
    assert "unknown" not in net.state_dict()


def test_what_is_told_travels_and_is_mixed_with_its_image(tmp_path, monkeypatch):
    ids, rng = np.array([f"{n:02d}" for n in range(12)]), np.random.default_rng(0)
    np.save(tmp_path / "images.npy", rng.integers(0, 256, (12, 32, 32), dtype=np.uint8))
    targets = rng.random((12, 3)).astype(np.float32)
    packed = Pack(tmp_path / "images.npy", ids, np.zeros(12), targets)
    plain = Pack(tmp_path / "images.npy", ids, np.zeros(12))
    assert plain.fingerprint(ids) != packed.fingerprint(ids) != Pack(*vars(plain).values()).fingerprint(ids)
    images = loader.Images(packed, ids[::-1], targets[::-1])
    batches = loader.batched(images, loader.Order(12, shuffle=True), 4, workers=0, pin=False)
    for pixels, told, wanted in batches:  # here what is told are the targets
        assert pixels.shape == (4, 1, 32, 32) and torch.equal(told, wanted)

    seen, learner = [], Learner(config("mix=mixup", "mix_probability=1", "batch=4", "epochs=1"))
    monkeypatch.setattr(fit, "train_step", lambda learner, group, *_: seen.extend(group) or learner.count())
    monkeypatch.setattr(fit, "seconds_left", lambda *_: np.inf)
    assert fit.train_epoch(learner, fit.Batches(batches, None, None, None, 0), None, None)
    assert len(seen) == 3
    for _, told, wanted, size in seen:
        assert size == 4 and torch.equal(told, wanted)
    own = {tuple(one) for one in targets.tolist()}
    assert {tuple(one) for _, told, *_ in seen for one in told.tolist()} - own  # most are of two images


class Learner:
    """What `train_epoch` asks of a learner."""

    def __init__(self, config):
        self.config, self.net, self.history, self.steps, self.saved = config, torch.nn.Linear(1, 1), [], 3, np.inf
        self.machine = type("Machine", (), {"device": torch.device("cpu")})
        self.under_way = type("UnderWay", (), {"steps": 0, "images": 0, "seconds": 0.0, "loss": torch.zeros(())})()

    def connect(self):
        pass

    def count(self):
        self.under_way.steps += 1


def women(folder: Path, number: int, first: int = 0) -> Path:
    """So many noise images of half as many patients; women have a Mass, nobody else, and no image shows it. One in ten
    does not say of whom it is."""
    rng = np.random.default_rng(first)
    (folder / "images").mkdir(parents=True)
    rows = []
    for each in range(first, first + number):
        woman = each // 2 % 2 == 0
        findings = [name for name, there in (("Mass", woman), ("Nodule", rng.random() < 0.5)) if there]
        one = row(each, "|".join([*findings, *["Effusion"] * (rng.random() < 0.5)]) or "No Finding", each // 2)
        one[5] = "" if each % 10 == 9 else "FM"[not woman]
        rows.append(one)
        Image.fromarray(rng.integers(0, 256, (40, 40), dtype=np.uint8)).save(folder / "images" / one[0])
    write(folder / "Data_Entry_2017.csv", rows[:80])
    if rows[80:]:
        write(folder / "Data_Entry_unlabelled.csv", [one[:1] + [""] + one[2:] for one in rows[80:]])
    return folder


@pytest.fixture
def by_sex(tmp_path) -> Path:
    return women(tmp_path / "nih", 90)


def test_it_is_learned_probed_predicted_and_judged_by(by_sex, home, call, tmp_path):
    def auc(name: str) -> float:
        report = json.loads((home / f"runs/{name}/report.json").read_text())
        return next(one["auc"] for one in report["per_class"] if one["class"] == "Mass")

    words = ["--data", by_sex, "--no-page", *SMALL, "folds=2", "test_fraction=0", "epochs=4", "lr=0.1"]
    knowing = [*words, "metadata=sex", "name=knowing", "probe=true"]
    said = call("main", "nih14", *knowing)
    assert said.code == 0, said.err
    assert call("main", "nih14", *words, "name=blind").code == 0
    assert auc("knowing") > 0.9 > 0.75 > auc("blind") and auc("probe-knowing") > 0.9
    unlabelled = read_logits(home / "runs/knowing/fold1/test_logits.npz")
    of_women = np.array(
        [one in ("80", "81", "84", "85", "88") for one in (name[6:8] for name in unlabelled.ids.tolist())]
    )
    mass = unlabelled.logits[0][:, unlabelled.classes.tolist().index("Mass")]
    assert mass[of_women].min() > mass[~of_women].mean()
    assert call("explain", home / "runs/knowing/fold1").code == 0
    elsewhere = women(tmp_path / "elsewhere", 60, first=1000)
    for how in ([], ["--config", "nih14"]):
        said = call("evaluate", home / "runs/knowing", "--data", elsewhere, *how)
        assert said.code == 0, said.err
        found = json.loads((home / "runs/knowing/external-nih14.json").read_text())
        assert next(one for one in found["per_label"] if one["class"] == "Mass")["auc"] > 0.9
    refused = call("main", "nih14", *words, "metadata=sex,view", "name=knowing")
    assert refused.code == 2 and "metadata ([" in refused.err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["modelB", "metadata=age"], "metadata = age: the tables of a competition run tell nothing of a patient"),
        (["padchest", "metadata=follow_up"], "the tables of a padchest run tell age, sex, view only"),
        (["nih14", "metadata=age,age"], "metadata = 'age,age' will not do: each is told once"),
        (["nih14", "metadata=height"], "metadata = 'height' will not do: input should be 'age', 'sex', 'view' or"),
        (["nih14", "test_fraction=0"], "without folds, which test on all images, it leaves nothing to test on"),
    ],
)
def test_what_cannot_be_told_is_one_sentence(words, sentence):
    with pytest.raises(UserError, match=sentence):
        asked = registry.load(words[0], [*words[1:], "weights=none"])
        checks.check(asked, registry.task_of(asked))


def test_folds_of_everything_need_something_else_to_predict(by_sex, home, call):
    (by_sex / "Data_Entry_unlabelled.csv").unlink()
    said = call("main", "nih14", "--data", by_sex, *SMALL, "folds=2", "test_fraction=0", "epochs=1")
    assert said.code == 2 and "nothing is left to predict" in said.err and not (home / "runs").exists()


def test_a_map_is_of_the_logit_that_the_head_gives_knowing_its_patient():
    """A hidden layer makes a map depend on what is told, too."""
    torch.manual_seed(0)
    net = model.build(config("metadata=age,sex", "head=16/0.0", "model=cnn2"), 3, "none").eval()
    for module in net.modules():  # or the first layers of a random network say next to nothing
        if isinstance(module, torch.nn.Linear):
            torch.nn.init.normal_(module.weight)
    images = torch.randint(0, 256, (20, 1, 32, 32), dtype=torch.uint8)
    told = torch.randn(20, 4)
    maps = cam.weighted(net, images, [0] * 20, told)
    alone = [cam.weighted(net, images[k : k + 1], [0], told[k : k + 1])[0] for k in (0, 17)]
    assert np.allclose(maps[[0, 17]], alone, atol=1e-5)
    assert not np.allclose(maps[0], cam.weighted(net, images[:1], [0], told[1:2])[0], atol=1e-5)


def test_it_says_that_the_view_is_a_shortcut(by_sex, call):
    said = call("main", "nih14", "--data", by_sex, *SMALL, "metadata=view")
    assert (
        said.code == 2 and "a shortcut elsewhere" in said.err and "metadata = view: it is the same for all" in said.err
    )


def test_a_fold_without_images_and_a_probe_without_a_test_are_refused(tmp_path, home, call):
    few = women(tmp_path / "few", 12)
    (few / "Data_Entry_unlabelled.csv").unlink(missing_ok=True)
    words = ["nih14", "--data", few, *SMALL, "labels=Mass", "epochs=1"]
    said = call("main", *words, "folds=8", "test_fraction=0.2")
    assert said.code == 2 and "leave none for validation" in said.err, said.err
    for verb in ("main", "probe"):
        said = call(verb, *words, "folds=2", "test_fraction=0", "name=other")
        assert said.code == 2 and "nothing is left to predict" in said.err and not (home / "runs/other").exists()
