"""The round trip through the unmodified client, against a loopback double of the service that really runs what is
pushed."""

import hashlib
import json
import re
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import timm

from conftest import TINY
from core import config, files, logits_file, submission
from images import labels, synthetic
from kaggle_double import KEY, USERNAME, Double
from leaderboard import bundle, client

SLUG = "26-t-1-dl-gen-ainppe-1"


@pytest.fixture
def competition(made, tmp_path) -> Path:
    """The tiny set without the marks that call it synthetic, so that it passes for the competition's own."""
    folder = Path(shutil.copytree(made, tmp_path / "competition"))
    for name in ("demo.json", "solution.csv"):
        (folder / name).unlink()
    return folder


@pytest.fixture
def service(competition, tmp_path, monkeypatch):
    """The double, with the environment in which the client speaks to it and to nothing else."""
    monkeypatch.setattr(client, "PATIENCE", 5.0)
    monkeypatch.setattr(client, "PAUSE", 0.2)
    with Double(tmp_path / "service", competition, SLUG) as double:
        for name, value in double.environment(tmp_path / "user").items():
            monkeypatch.setenv(name, value)
        (tmp_path / "user").mkdir(exist_ok=True)
        yield double
    hosts = {path for _, path in double.requests if not path.startswith("/")}
    assert not hosts, f"requests left loopback: {hosts}"


PUSH = ["push", "modelB", *TINY, "epochs=1", "frozen_epochs=0"]


def ended(call, double, config: str = "modelB") -> None:
    said = call("status", config, "--wait", "--every", "0.2", "--deadline", "2")
    assert said.code == 0 and "COMPLETE" in said.out, said.err + (double.folder / "kaggle.log").read_text()


def texts(folder: Path) -> str:
    return "".join(path.read_bytes().decode("latin-1") for path in folder.rglob("*") if path.is_file())


def test_the_whole_way(service, home, call):
    """Download → push → wait → fetch → submit; the CSV that arrives is byte for byte that of a local run."""
    spoken = []

    def kaggle(*argv) -> str:
        said = call(*argv)
        assert said.code == 0, said.err
        spoken.append(said.out + said.err)
        return said.out

    assert "downloaded to" in kaggle("download")
    assert "is there already and complete" in kaggle("download")
    pushed = kaggle(*PUSH)
    assert (
        "version 1 is running: https://www.kaggle.com/code/tester/cxr-model-b" in pushed
        and "bytes of at most 1,000,000" in pushed
    )
    sent = service.pushes[0]
    assert sent["enableGpu"] and sent["machineShape"] == "NvidiaTeslaT4" and sent["competitionDataSources"] == [SLUG]
    ended(call, service)
    assert "fetched" in kaggle("fetch", "modelB")
    output = home / "fetched/modelB-v1"
    left = sorted(
        path.relative_to(service.kaggle / "working").as_posix()
        for path in (service.kaggle / "working").rglob("*")
        if path.is_file()
    )
    assert (
        "submission.csv" in left
        and "manifest.json" in left
        and len(left) < 20
        and not any(name.startswith(("kit", "cache")) for name in left)
    )
    # it wrote to /kaggle/working and nowhere else
    assert not any(path.is_file() for path in (service.folder / "home").rglob("*"))
    assert [path.name for path in (service.kaggle / "src").iterdir()] == ["script.py"]
    kaggle("submit", output / "submission.csv", "-m", "first try", "--force")
    assert (
        "4 more are allowed today" in spoken[-1]
        and "public score -4.3" in spoken[-1]
        and "first try" in kaggle("submissions")
    )

    # finds the downloaded data by itself
    assert call("main", "modelB", *TINY, "epochs=1", "frozen_epochs=0", "name=local").code == 0
    local = (home / "submissions/local.csv").read_bytes()
    assert [content for content, _ in service.submissions] == [local] == [(output / "submission.csv").read_bytes()]
    assert (
        logits_file.read_logits(output / "runs/modelB/test_logits.npz").logits.tobytes()
        == logits_file.read_logits(home / "runs/local/test_logits.npz").logits.tobytes()
    )

    assert KEY not in "".join(spoken) + json.dumps(service.pushes) + texts(service.folder) + texts(home)


def test_a_cut_session_is_resumed_by_a_second_push(service, home, call):
    """With the older mount of the data: /kaggle/input/<slug>."""
    service.mount = "old"
    (home / "data").mkdir()
    shutil.copytree(service.data, home / "data" / SLUG)
    weights = safetensors.torch.save(timm.create_model("test_convnext", num_classes=0).state_dict())
    service.datasets["tester/weights"] = {"test_convnext.safetensors": weights}
    chosen = [
        *(setting for setting in TINY if not setting.startswith("weights=")),
        "epochs=400",
        "patience=400",
        "frozen_epochs=0",
    ]
    assert call("push", "modelB", *chosen, "--weights", "tester/weights", "--no-internet").code == 0
    log, deadline = service.kaggle / "working/runs/modelB/log.csv", time.monotonic() + 90
    while not log.is_file():
        assert time.monotonic() < deadline, (service.folder / "kaggle.log").read_text()
        time.sleep(0.1)
    service.faults["session_limit"] = 1
    said = call("status", "modelB", "--wait", "--every", "0.1")
    assert (
        said.code == 2 and "exceeded the session time limit" in said.err and "push modelB --resume goes on" in said.err
    )
    said = call("fetch", "modelB")
    assert said.code == 2 and "has no manifest.json" in said.err and not list((home / "fetched").iterdir())

    done = len(log.read_text().splitlines()) - 1
    refused(call("push", "modelB", "epochs=3", "--resume"), "a run goes on with its own: leave them out")
    said = call("push", "modelB", "--resume", "--hours", "0.036")  # 130 s, 120 of them spare
    assert said.code == 0 and "version 2 is running" in said.out, said.err
    assert service.pushes[1]["kernelDataSources"] == ["tester/cxr-model-b"] and service.pushes[1][
        "datasetDataSources"
    ] == ["tester/weights"]
    assert not service.pushes[1].get("enableInternet", False)
    ended(call, service)
    resumed = re.search(r"resumed after epoch (\d+)", (service.folder / "kaggle.log").read_text())
    # last.pt is written before log.csv, and the session may be cut in between
    assert int(resumed[1]) in (done, done + 1)
    said = call("fetch", "modelB")
    assert said.code == 0 and "training stopped for time" in said.out, said.err
    assert json.loads((home / "fetched/modelB-v2/manifest.json").read_text())["state"] == "paused"
    assert len(labels.read_one_hot(home / "fetched/modelB-v2/submission.csv").ids) == len(
        labels.read_ids(service.data / "test.csv")
    )


@pytest.fixture
def quick(service, monkeypatch):
    """Kernels that end at once: what is pushed keeps its run id and bundle, and writes a manifest without training."""

    def build(config, name, settings, run_id, accelerator, weights="", resume=False, needed=()):
        manifest = {
            "run_id": run_id,
            "bundle": "b" * 64,
            "state": "trained",
            "files": {"submission.csv": hashlib.sha256(b"x").hexdigest()},
        }
        return bundle.Bundle(
            f"open('submission.csv', 'w').write('x')\nopen('manifest.json', 'w').write({json.dumps(manifest)!r})\n",
            "b" * 64,
        )

    monkeypatch.setattr(bundle, "build", build)
    return service


def refused(said, sentence: str) -> None:
    errors = [line for line in said.err.splitlines() if line.startswith("error: ")]
    assert said.code == 2 and len(errors) == 1 and sentence in errors[0], (said.code, said.err, said.out)


@pytest.mark.parametrize(
    ("fault", "times", "sentence"),
    [
        ("push_error", 1, "the push failed (Maximum batch GPU session count of 2 reached)"),
        ("invalid_sources", 1, f"version 1 was started without what it needs ({SLUG}): cancel it at"),
    ],
)
def test_a_push_that_failed_with_exit_code_0(fault, times, sentence, quick, home, call):
    quick.faults[fault] = times
    refused(call("push", "modelB"), sentence)
    assert not (home / "pushed").exists()
    refused(call("status", "modelB"), "modelB was never pushed from here")


def test_the_study_on_a_dataset_of_the_users_own(service, home, call, tmp_path):
    folder = tmp_path / "chests"
    synthetic.make(folder, images=60, size=40, seed=3, layout="padchest")
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != "demo.json"]
    service.datasets["tester/chest"] = {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}
    words = [*TINY, "epochs=1", "frozen_epochs=0", "crop=none", "val_fraction=0.25", "test_fraction=0.25"]
    said = call("push", "padchest", *words, "--data", "tester/chest", "labels=cardiomegaly,unchanged")
    assert said.code == 0, said.err
    ended(call, service, "padchest")
    assert service.pushes[0]["datasetDataSources"] == ["tester/chest"]
    assert not service.pushes[0].get("competitionDataSources")
    assert call("fetch", "padchest").code == 0
    text = (home / "fetched/padchest-v1/submission.csv").read_text()
    assert text.startswith("id,cardiomegaly,unchanged\n") and text.count("\n") > 10


def test_a_service_that_is_busy_or_late_is_waited_for(quick, call):
    quick.faults |= {"missing_after_push": 1, "throttled": 1}
    assert call("push", "modelB").code == 0
    said = call("status", "modelB", "--wait", "--every", "0.1")
    assert said.code == 0 and "trying again" in said.out and "COMPLETE" in said.out, said.err
    quick.faults["throttled"] = 99
    refused(call("status", "modelB"), "failed (HTTP 429: Too many requests)")


def test_an_output_that_is_stale_cut_or_an_error_page(quick, home, call):
    assert call("push", "modelB").code == 0
    ended(call, quick)
    assert call("push", "modelB").code == 0  # the very same again
    ended(call, quick)
    quick.faults["stale_output"] = 1
    refused(call("fetch", "modelB"), "is that of another push than version 2")
    quick.faults["error_page"] = 99
    refused(call("fetch", "modelB"), "manifest.json is not JSON")
    quick.faults = {"cut": 99}
    refused(call("fetch", "modelB"), "fetching the output of tester/cxr-model-b failed (")
    assert not list((home / "fetched").iterdir())
    quick.faults = {"cut": 1}
    assert call("fetch", "modelB").code == 0  # cut once: fetched again
    (home / "fetched/modelB-v2/submission.csv").write_text("changed")
    refused(call("fetch", "modelB"), "modelB-v2 is there already")


def test_a_download_that_is_refused_cut_or_an_error_page(service, home, call):
    Path("other.yaml").write_text((Path(files.ROOT) / "configs/modelB.yaml").read_text().replace(SLUG, "no-such-one"))
    service.faults["rules"] = 1
    refused(call("download"), f"if that is why, accept the rules at https://www.kaggle.com/competitions/{SLUG}/rules")
    refused(
        call("download", "other.yaml"),
        "failed (HTTP 404: Competition not found: no-such-one): Kaggle knows no such competition",
    )
    service.faults = {"error_page": 1}
    refused(call("download"), "is damaged")
    assert not list((home / "data").iterdir())
    service.faults = {"cut": 1}
    assert call("download").code == 0
    assert [path.name for path in (home / "data").iterdir()] == [SLUG]


def test_submissions_that_fail(service, home, call):
    shutil.copytree(service.data, home / "data" / SLUG)
    table, ids = labels.read_one_hot(service.data / "train.csv"), labels.read_ids(service.data / "test.csv")
    (home / "submissions").mkdir()
    good = home / "submissions/mine.csv"
    submission.write(good, ids, table.classes, np.eye(20, dtype=int)[[19] * len(ids)], ids)
    for fault, sentence in (
        ("upload_failed", "the submission failed ("),
        (
            "daily_limit",
            "the submission failed (HTTP 400: You have reached the daily submission limit for this competition)",
        ),
        ("rules", "accept the rules at"),
    ):
        service.faults = {fault: 1}
        refused(call("submit", good, "-m", "x"), sentence)
    service.faults = {}
    assert not service.submissions
    (home / "submissions/short.csv").write_text("\n".join(good.read_text().splitlines()[:5]) + "\n")
    refused(call("submit", home / "submissions/short.csv", "-m", "x"), f"4 rows where there are {len(ids)} test images")
    refused(call("submit", home / "submissions/absent.csv", "-m", "x"), "there is no such file")
    (home / "runs/mine").mkdir(parents=True)
    report = {
        "synthetic": True,
        "rule": "argmax",
        "validation": {
            "rules": {"argmax": {"score": -5.0, "over_always": -0.3}},
            "always": {"class": "No Finding", "score": -4.7},
        },
    }
    files.write_json(home / "runs/mine/report.json", report)
    refused(call("submit", good, "-m", "x", "--force"), "was made from synthetic radiographs")
    files.write_json(home / "runs/mine/report.json", report | {"synthetic": False})
    refused(call("submit", good, "-m", "x"), "no better than always answering No Finding (-4.7000)")
    files.write_json(home / "runs/mine/report.json", {"rule": "argmax", "validation": {}})
    refused(call("submit", good, "-m", "x", "--force"), "is of another version of the kit")
    files.write_json(home / "runs/mine/report.json", report | {"synthetic": False})
    assert not service.submissions
    assert call("submit", good, "-m", "x", "--force").code == 0 and len(service.submissions) == 1


def test_weights_are_published_as_a_private_dataset(service, home, call):
    (home / "weights").mkdir()
    (home / "weights/convnext_tiny.fb_in1k.safetensors").write_bytes(b"weights")
    said = call("weights", "modelB", "--publish")
    assert said.code == 0 and "--weights tester/weights-convnext-tiny-fb-in1k --no-internet" in said.out, said.err
    assert service.datasets["tester/weights-convnext-tiny-fb-in1k"]["convnext_tiny.fb_in1k.safetensors"] == b"weights"
    refused(call("weights", "modelB", "--publish"), "publishing the weights failed (")


def test_weights_are_fetched_into_a_file_that_a_run_can_use(home, call, monkeypatch):
    from net import model
    from tasks import registry

    wanted = timm.create_model("test_convnext", num_classes=0)
    monkeypatch.setattr(model, "_fetched", lambda name: wanted)
    (home / "small.yaml").write_text(
        (Path(files.ROOT) / "configs/modelB.yaml").read_text().replace("convnext_tiny.fb_in1k", "test_convnext")
    )
    said = call("weights", home / "small.yaml")
    path = home / "weights/test_convnext.safetensors"
    assert said.code == 0 and f"weights={files.shown(path)}" in said.out, said.err
    net = model.build(registry.load(str(home / "small.yaml"), ["size=32"]), 5, str(path))
    assert all((net.body.state_dict()[key] == value).all() for key, value in wanted.state_dict().items())


def test_what_is_asked_wrongly(service, home, call, monkeypatch, tmp_path):
    (tmp_path / "my.pth").write_text("")
    (tmp_path / "configs").mkdir()
    for path in (files.ROOT / "configs").glob("*.yaml"):
        shutil.copy(path, tmp_path / "configs")
    text = (files.ROOT / "configs/modelB.yaml").read_text()
    (tmp_path / "configs/mine.yaml").write_text(re.sub("weights: .*", "weights: my.pth", text))
    monkeypatch.setattr(config, "ROOT", tmp_path)
    for argv, sentence in (
        (["push", "modelZ"], "there is no configuration"),
        (["push", "demo"], "the key task is missing"),
        (["push", "modelB", "epohcs=1"], "unknown key epohcs"),
        (["push", "modelB", "frozen_epochs=99"], "frozen_epochs = 99 is more than epochs = 12"),
        (["push", "modelB", "views=[flip]"], "views = ['flip']: the first must be original"),
        (
            ["push", "modelB", "split=folds.csv"],
            "split = folds.csv: a file of this machine does not travel with a push",
        ),
        *(
            (["push", "modelB", f"{key}=@@BUNDLE@@"], f"{key} = @@BUNDLE@@: a file of this machine does not travel")
            for key in ("split", "masks", "groups")
        ),
        (["push", "mine"], "weights = my.pth: a file of this machine does not travel with a push"),
        (["push", "modelB", "imbalance=sampler:0.5+loss_weights:0.5"], "each of them shifts the class prior"),
        (["push", "padchest", "crop=none"], "attach it with --data OWNER/NAME"),
        (["push", "padchest", "crop=none", "--data", "/home/me/chest"], "a dataset on Kaggle is wanted, OWNER/NAME"),
        (["push", "modelB", "--data", "tester/chest"], "learns from the competition's own data: leave --data out"),
        (
            ["push", "padchest", "crop=none", "weights=none", "--data", "tester/chest", "--no-internet"],
            "cannot install iterative-stratification, which Kaggle's machines lack",
        ),
        (["push", "modelB", "rule=foo"], "rule = 'foo': a competition run decides by one of"),
        (["push", "modelB", "model=nope"], "model = 'nope' is no timm model"),
        (["push", "modelB", "model=convnext_tiny.nope"], "model = 'convnext_tiny.nope' cannot be made"),
        (["push", "modelB", "model=cspresnet50d"], "weights = imagenet: cspresnet50d has none"),
        (["push", "modelB", "model=vit_tiny_patch16_224", "weights=none"], "takes images of 224 pixels only"),
        (["push", "modelB", "model=cnn3", "--weights", "me/mine"], "cnn3 is trained from scratch: leave --weights out"),
        (["push", "modelB", "--hours", "30"], "hours"),
        (["push", "modelB", "hours=0"], "give --hours H"),
        (["push", "modelB", "weights=my.pth"], "--weights OWNER/NAME"),
        (["status", "../x"], "'../x' is no name of a configuration"),
        (["push", "modelB", "--accelerator", "P100"], "--accelerator P100 will not do"),
        (
            ["push", "modelB", "slug=another-one"],
            "attaches 26-t-1-dl-gen-ainppe-1, and slug = another-one: make them agree",
        ),
        (["push", "modelB", "--no-internet"], "without internet the ImageNet weights cannot be fetched"),
        (["push", "modelB", "--resume"], "was never pushed from here"),
        (["fetch", "modelB"], "was never pushed from here"),
    ):
        refused(call(*argv), sentence)
    assert not service.pushes


@pytest.mark.parametrize(("key", "value"), [("settings", 5), ("settings", [5]), ("ref", None), ("time", "noon")])
def test_a_record_of_a_push_that_was_damaged(key, value, service, home, call):
    """Missing or of another kind."""
    whole = dict.fromkeys(("ref", "run_id", "bundle", "name"), "x") | {"version": 1, "time": 1, "settings": []}
    files.write_json(home / "pushed/modelB.json", whole | {"weights": None, "no_internet": False, key: value})
    for command in (["status"], ["fetch"], ["push", "--resume"]):
        refused(call(command[0], "modelB", *command[1:]), f"lacks {key}, or holds something else: push again")


def test_credentials(home, call, monkeypatch, tmp_path):
    """Named by file or variable, never by value."""
    refused(call("submissions"), "no Kaggle credentials were found: make a token at https://www.kaggle.com/settings")
    folder = tmp_path / "user/.kaggle"
    folder.mkdir(parents=True)
    (folder / "kaggle.json").write_text("{")
    refused(call("submissions"), f"{folder / 'kaggle.json'} is malformed")
    (folder / "kaggle.json").write_text(json.dumps({"username": USERNAME, "key": KEY}))
    (folder / "kaggle.json").chmod(0o644)
    found = client.credentials()
    assert found.username == USERNAME and f"chmod 600 {folder / 'kaggle.json'}" in found.faults[0]
    (folder / "kaggle.json").chmod(0o600)
    assert client.credentials().faults == ()
    monkeypatch.setenv("KAGGLE_API_TOKEN", "stale")
    assert "the variable KAGGLE_API_TOKEN is used, and hides" in client.credentials().faults[0]
    monkeypatch.setenv("KAGGLE_API_TOKEN", "")
    assert "is set and empty" in client.credentials().faults[0]
    assert KEY not in repr(client.credentials())


def test_refused_credentials_are_named(service, call, monkeypatch):
    monkeypatch.setenv("KAGGLE_KEY", "another")
    said = call("submissions")
    refused(said, "the credentials in the variables KAGGLE_USERNAME and KAGGLE_KEY are refused")
    assert "another" not in said.out + said.err


def test_doctor_shows_it_all_and_no_value(home, call, monkeypatch, competition):
    said = call("doctor")
    assert (
        said.code == 0
        and "MISSING Kaggle" in said.out
        and "MISSING data" in said.out
        and "ok      torch" in said.out
        and "kernel modelB" in said.out
    )
    monkeypatch.setenv("KAGGLE_USERNAME", USERNAME)
    monkeypatch.setenv("KAGGLE_KEY", KEY)
    monkeypatch.setenv("CXR_DATA", str(competition))
    said = call("doctor")
    assert "ok      Kaggle                   credentials in the variables KAGGLE_USERNAME and KAGGLE_KEY" in said.out
    assert KEY not in said.out and "MISSING data" not in said.out
