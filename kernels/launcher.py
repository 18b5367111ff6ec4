"""A chest X-ray competition kit as one script: trains @@NAME@@ and writes submission.csv.

The source of everything below is the zip at the end of this file (src/ and configs/ of the kit, base64). Unpack it with
python -c "import ast, base64, re; text = open('script.py').read(); open('kit.zip',
'wb').write(base64.b64decode(re.search('BUNDLE = \"\"\"(.*?)\"\"\"', text, re.S)[1]))"

It reads /kaggle/input, writes to /kaggle/working only, and leaves there: submission.csv, runs/@@NAME@@/ and
manifest.json.
"""

import base64
import hashlib
import io
import json
import os
import platform
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path

STARTED = time.time()
PUSH = json.loads(r"""@@PUSH@@""")  # what this push was given
NAME, CONFIG, SETTINGS = PUSH["name"], PUSH["config"], PUSH["settings"]
DIGEST, RUN_ID = PUSH["digest"], PUSH["run_id"]  # of the bundle, and of this push
ACCELERATOR = PUSH["accelerator"]  # the machine_shape that was asked for
LOCKED = PUSH["locked"]  # name → the versions that the kit was tested with
WEIGHTS = PUSH["weights"]  # a file in an attached dataset, or nothing
RESUME = PUSH["resume"]  # whether an earlier run must be there to go on with
NEEDED = PUSH["needed"]  # name → the version to install where it is absent
KAGGLE = Path(os.environ.get("CXR_KAGGLE", "/kaggle"))  # a rehearsal has its own
WORKING = KAGGLE / "working"


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def say_where() -> None:
    """Versions, and the device that was really given; stops with one sentence on a GPU that this torch build cannot
    use."""
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in LOCKED:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "absent"
    print(
        f"python {platform.python_version()}, " + ", ".join(f"{name} {number}" for name, number in found.items()),
        flush=True,
    )
    differ = [
        f"{name} {number} ({' or '.join(LOCKED[name])})"
        for name, number in found.items()
        if number.partition("+")[0] not in LOCKED[name]
    ]
    if differ:
        print(
            "note: this session's packages are not those that the kit was tested with (in brackets):"
            f" {', '.join(differ)}",
            flush=True,
        )
    import torch

    names = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    print(f"accelerator: {ACCELERATOR} was asked for, {' and '.join(names) or 'no GPU'} was given", flush=True)
    if names and not any(
        ACCELERATOR.removeprefix("Nvidia").removeprefix("Tesla").removesuffix("Highmem") in name for name in names
    ):
        print(
            "WARNING: that is another accelerator than was asked for: Kaggle replaces retired ones silently", flush=True
        )
    for number, name in enumerate(names):
        major, minor = torch.cuda.get_device_capability(number)
        print(f"GPU {number}: {name}, compute capability {major}.{minor}", flush=True)
        if f"sm_{major}{minor}" not in torch.cuda.get_arch_list() and f"sm_{major}0" not in torch.cuda.get_arch_list():
            sys.exit(
                f"error: this torch build has no code for compute capability {major}.{minor}: choose the accelerator T4"
                " x2 (a P100 no longer works)"
            )
    if not names:
        print("no GPU: the accelerator of this kernel is off, and training will be slow", flush=True)


def install() -> None:
    """What the kit needs and this session lacks, and nothing that it would bring along."""
    from importlib.metadata import PackageNotFoundError, version

    for name, number in NEEDED.items():
        try:
            version(name)
        except PackageNotFoundError:
            words = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", f"{name}=={number}"]
            if subprocess.run(words).returncode:
                sys.exit(f"error: {name} {number} could not be installed: is the internet of this kernel on?")
            print(f"installed {name} {number}", flush=True)


def resume() -> None:
    """Copy this configuration's run out of an earlier version's output, when one is attached."""
    places = ("*", "*/*", "notebooks/*/*", "kernels/*/*")  # never as deep as the images, which take minutes to list
    runs = [
        path.parent for place in places for path in sorted((KAGGLE / "input").glob(f"{place}/runs/{NAME}/run.json"))
    ]
    if RESUME and not runs:
        sys.exit(f"error: there is no run {NAME} in the attached output of the last version: push without --resume")
    for path in runs[0].rglob("*") if runs else ():
        if path.is_file():  # one by one, for the mounted folders are read-only, and their copies would be too
            copy = WORKING / "runs" / NAME / path.relative_to(runs[0])
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
    if runs:
        print(f"resuming the run found in {runs[0]}", flush=True)


def attached_weights() -> list[str]:
    """The setting that names the attached weights file, when one is to be used."""
    if not WEIGHTS:
        return []
    places = ("*", "datasets/*/*", "models/*/*/*/*/*")
    found = [path for place in places for path in sorted((KAGGLE / "input").glob(f"{place}/{WEIGHTS}"))]
    if not found:
        sys.exit(f"error: {WEIGHTS} is in none of the attached datasets: attach the one that holds it")
    link = WORKING / "cache" / WEIGHTS  # the same path in every session, for a run goes on only with its own settings
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(found[0])
    return [f"weights={link}"]


def main() -> None:
    kit, cache = WORKING / "kit", WORKING / "cache"
    content = base64.b64decode(BUNDLE)
    if hashlib.sha256(content).hexdigest() != DIGEST:
        sys.exit("error: the bundle in this script is damaged: push it again")
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        archive.extractall(kit)
    environment = os.environ | {
        "CXR_HOME": str(WORKING),
        "CXR_CACHE": str(cache / "packed"),
        "CXR_STARTED": str(STARTED),
        "HF_HOME": str(cache / "hub"),
        "TORCH_HOME": str(cache / "torch"),
        "MPLCONFIGDIR": str(cache / "matplotlib"),
        "NO_ALBUMENTATIONS_UPDATE": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUNBUFFERED": "1",
    }
    try:
        if not any((KAGGLE / "input").glob("*")):
            sys.exit(
                "error: nothing is attached to this kernel: is the competition, and are its rules accepted, or is the"
                " dataset?"
            )
        resume()
        install()
        say_where()
        # what is to be seen is drawn where the run is fetched
        words = [sys.executable, str(kit / "src" / "main.py"), "--no-page"]
        code = subprocess.run(
            [*words, CONFIG, f"name={NAME}", *SETTINGS, *attached_weights()], env=environment, cwd=WORKING
        ).returncode
        if code:
            sys.exit(code)
        shutil.copyfile(WORKING / "submissions" / f"{NAME}.csv", WORKING / "submission.csv")
        shutil.rmtree(WORKING / "submissions")
        for lock in (WORKING / "runs" / NAME).rglob("lock"):
            lock.unlink()
        outputs = sorted(
            path for path in (WORKING / "submission.csv", *(WORKING / "runs").rglob("*")) if path.is_file()
        )
        state = json.loads((WORKING / "runs" / NAME / "run.json").read_text())["state"]
        manifest = {
            "name": NAME,
            "run_id": RUN_ID,
            "bundle": DIGEST,
            "state": state,
            "seconds": round(time.time() - STARTED),
            "files": {path.relative_to(WORKING).as_posix(): sha256(path) for path in outputs},
        }
        (WORKING / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
        print(f"wrote {WORKING / 'submission.csv'} and manifest.json: {len(outputs)} files", flush=True)
    finally:
        shutil.rmtree(kit, ignore_errors=True)
        shutil.rmtree(cache, ignore_errors=True)


BUNDLE = """
@@BUNDLE@@
"""

if __name__ == "__main__":
    main()
