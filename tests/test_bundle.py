"""What is pushed: the same bytes for the same source, nothing but tracked files, and metadata that Kaggle would not
misread."""

import ast
import base64
import hashlib
import io
import json
import re
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest

from conftest import ROOT
from core.errors import UserError
from leaderboard import bundle


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    """A git checkout of its own with a copy of what travels."""
    folder = tmp_path / "project"
    for name in ("src", "configs", "kernels"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "requirements.txt", folder)
    for command in (["init", "-q"], ["add", "."]):
        subprocess.run(["git", "-C", str(folder), *command], check=True)
    monkeypatch.setattr(bundle, "ROOT", folder)
    return folder


def archive_of(script: str) -> zipfile.ZipFile:
    return zipfile.ZipFile(io.BytesIO(base64.b64decode(re.search('BUNDLE = """(.*?)"""', script, re.S)[1])))


def test_two_builds_are_identical_and_small(project, capsys):
    first, second = (bundle.build("modelB", "modelB", ["epochs=3"], "run-1", "NvidiaTeslaT4") for _ in range(2))
    assert first == second
    size = len(first.script.encode())
    print(f"bundle: {size:,} bytes")
    assert size < 0.6 * bundle.LIMIT
    (project / "src/answers/rules.py").write_text((project / "src/answers/rules.py").read_text() + "\n# changed\n")
    assert bundle.build("modelB", "modelB", ["epochs=3"], "run-1", "NvidiaTeslaT4").digest != first.digest


def test_only_tracked_files_travel_whole(project):
    (project / "src/secret.py").write_text("KEY = 'abc'")
    (project / "configs/kaggle.json").write_text('{"key": "abc"}')
    assert bundle.left_behind() == ["configs/kaggle.json", "src/secret.py"]
    content = archive_of(bundle.build("modelB", "modelB", [], "x", "NvidiaTeslaT4").script)
    tracked = subprocess.run(
        ["git", "-C", str(project), "ls-files", "src", "configs"], capture_output=True, text=True
    ).stdout.split()
    tracked = [name for name in tracked if not name.endswith((".md", ".png", ".jpg"))]
    assert content.namelist() == sorted(tracked) and "src/main.py" in tracked
    assert all(content.read(name) == (project / name).read_bytes() for name in tracked)


def test_settings_that_are_written_like_the_launchers_places_stay_settings(project):
    """And break neither its text nor the bundle within."""
    odd = ["views=[original] #@@BUNDLE@@", '@@NAME@@="""""', "\\"]
    names = {"__name__": "launcher"}
    exec(compile(bundle.build("modelB", "modelB", odd, "x", "NvidiaTeslaT4").script, "script.py", "exec"), names)
    assert names["SETTINGS"] == odd
    assert hashlib.sha256(base64.b64decode(names["BUNDLE"])).hexdigest() == names["DIGEST"]


@pytest.mark.parametrize("place", ["configs/modelB.yaml", "src/core"])
def test_what_a_symbolic_link_leads_to_does_not_travel(place, project, tmp_path):
    """Neither a tracked link, nor a folder that became one."""
    (project / place).rename(tmp_path / "elsewhere")
    (project / place).symlink_to(tmp_path / "elsewhere")
    if place.endswith("yaml"):
        subprocess.run(["git", "-C", str(project), "add", "."], check=True)
    with pytest.raises(UserError, match=f"{place}.*: a symbolic link does not travel"):
        bundle.build("modelB", "modelB", [], "x", "NvidiaTeslaT4")


def launcher(script: str, kaggle: Path) -> dict:
    """The names of a pushed script, as it finds itself in a folder laid out like /kaggle."""
    names = {"__name__": "launcher"}
    exec(compile(script, "script.py", "exec"), names)
    names.update(KAGGLE=kaggle, WORKING=kaggle / "working")
    return names


def test_attached_weights_are_found_wherever_they_are_mounted(project, tmp_path):
    names = launcher(bundle.build("modelB", "modelB", [], "x", "NvidiaTeslaT4", "net.safetensors").script, tmp_path)
    with pytest.raises(SystemExit, match="net.safetensors is in none of the attached datasets"):
        names["attached_weights"]()
    for place in ("models/owner/model/framework/variation/1", "datasets/owner/slug", "slug"):
        (tmp_path / "input" / place).mkdir(parents=True, exist_ok=True)
        (tmp_path / "input" / place / "net.safetensors").write_bytes(b"")
        link = tmp_path / "working/cache/net.safetensors"
        link.unlink(missing_ok=True)
        assert (
            names["attached_weights"]() == [f"weights={link}"]
            and link.resolve() == (tmp_path / "input" / place / "net.safetensors").resolve()
        )
    assert (
        launcher(bundle.build("modelB", "modelB", [], "x", "NvidiaTeslaT4").script, tmp_path)["attached_weights"]()
        == []
    )


def test_a_gpu_that_torch_cannot_use_is_refused(project, tmp_path, monkeypatch, capsys):
    import torch

    say_where = launcher(bundle.build("modelB", "modelB", [], "x", "NvidiaTeslaT4").script, tmp_path)["say_where"]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda number: "Tesla")
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_75", "sm_80"])
    for capability, fine in (((7, 5), True), ((8, 6), True), ((6, 0), False)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda number: capability)
        if fine:
            say_where()
            assert f"compute capability {capability[0]}.{capability[1]}" in capsys.readouterr().out
        else:
            with pytest.raises(SystemExit, match="no code for compute capability 6.0: choose the accelerator T4 x2"):
                say_where()


def test_what_a_session_lacks_is_installed_in_the_locked_version(project, tmp_path, monkeypatch):
    needed = {"numpy": "1.0", "iterative-stratification": "0.1.9", "no-such-package": "2.0"}
    script = bundle.build("padchest", "padchest", [], "x", "NvidiaTeslaT4", needed=needed).script
    names, called = launcher(script, tmp_path), []
    monkeypatch.setattr(subprocess, "run", lambda words: called.append(words[1:]) or subprocess.CompletedProcess([], 0))
    names["install"]()
    assert called == [["-m", "pip", "install", "--quiet", "--no-deps", "no-such-package==2.0"]]
    monkeypatch.setattr(subprocess, "run", lambda words: subprocess.CompletedProcess([], 1))
    with pytest.raises(SystemExit, match="no-such-package 2.0 could not be installed: is the internet of this kernel"):
        names["install"]()


@pytest.mark.parametrize("version", [(3, 11), (3, 12), (3, 13)])
def test_every_python_of_a_kernel_can_read_it(project, version):
    script = bundle.build("modelA", "modelA", ["hours=11"], "x", "NvidiaTeslaT4").script
    for source in (
        script,
        *(archive_of(script).read(name).decode() for name in archive_of(script).namelist() if name.endswith(".py")),
    ):
        ast.parse(source, feature_version=version)


def test_too_large_a_source_is_refused_before_it_is_pushed(project):
    import random

    (project / "configs/huge.yaml").write_bytes(random.Random(0).randbytes(900_000))
    subprocess.run(["git", "-C", str(project), "add", "."], check=True)
    with pytest.raises(UserError, match="Kaggle takes fewer than 1,000,000"):
        bundle.build("modelB", "modelB", [], "x", "NvidiaTeslaT4")


def test_a_configuration_that_would_stay_behind_is_refused(project):
    shutil.copy(project / "configs/modelB.yaml", project / "configs/modelX.yaml")
    with pytest.raises(UserError, match="configs/modelX.yaml is not tracked by git"):
        bundle.build("modelX", "modelX", [], "x", "NvidiaTeslaT4")


def test_a_run_to_go_on_with_must_be_there(project, tmp_path):
    (tmp_path / "input/slug").mkdir(parents=True)
    with pytest.raises(SystemExit, match="there is no run modelB in the attached output"):
        launcher(bundle.build("modelB", "modelB", [], "x", "NvidiaTeslaT4", "", True).script, tmp_path)["resume"]()
    launcher(bundle.build("modelB", "modelB", [], "x", "NvidiaTeslaT4").script, tmp_path)["resume"]()


def test_outside_a_checkout_nothing_is_pushed(project):
    shutil.rmtree(project / ".git")
    with pytest.raises(UserError, match="is no git checkout"):
        bundle.build("modelB", "modelB", [], "x", "NvidiaTeslaT4")


@pytest.mark.parametrize("config", ["modelA", "modelB", "modelC"])
def test_the_metadata_is_complete_and_gets_its_owner(config):
    found = bundle.metadata(config, "someone")
    assert found["id"].startswith("someone/") and found.keys() == bundle.TYPES.keys()
    assert (
        found["machine_shape"] == "NvidiaTeslaT4" and found["enable_internet"] is True and found["is_private"] is True
    )
    assert found["competition_sources"] == ["26-t-1-dl-gen-ainppe-1"]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"enable_gpu": "true"}, 'enable_gpu = "true" must be true or false'),
        ({"enable_gpus": True}, "unknown key enable_gpus, which Kaggle would ignore silently"),
        ({"is_private": None}, "is_private = null must be true or false"),
        ({"competition_sources": "slug"}, "must be a list of names"),
        ({"machine_shape": "P100"}, "machine_shape = 'P100' will not do"),
        ({"title": "another title"}, "Kaggle derives the address 'another-title' from the title"),
        ({"title": "abc", "id": "OWNER/abc"}, "a title has 5 to 50 characters"),
    ],
)
def test_metadata_that_kaggle_would_misread(project, change, sentence):
    path = project / "kernels/modelB/kernel-metadata.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError) as caught:
        bundle.metadata("modelB", "someone")
    assert sentence in str(caught.value)
    path.write_text(
        json.dumps(
            {key: value for key, value in json.loads(path.read_text()).items() if key != "enable_internet"}
            | {"title": "cxr model b", "id": "O/cxr-model-b"}
        )
    )
    with pytest.raises(UserError):
        bundle.metadata("modelB", "someone")
    with pytest.raises(UserError, match="padchest is no competition.s, .* attach it with --data OWNER/NAME"):
        bundle.metadata("padchest", "someone")
    assert bundle.metadata("padchest", "someone", with_data=True)["competition_sources"] == []
    mine = bundle.metadata("configs/modelZ_2-lr.yaml", "someone", "a-competition")
    assert mine["id"] == "someone/cxr-modelz-2-lr" and mine["competition_sources"] == ["a-competition"]
    assert mine["is_private"] and mine["enable_gpu"] and mine.keys() == bundle.TYPES.keys()
