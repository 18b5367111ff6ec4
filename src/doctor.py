"""What is here and what is missing: `doctor.py`. Shows where credentials lie, never their values. Loads no torch."""

import importlib.metadata
import os
import platform
import shutil
import subprocess

from core.errors import Parser, UserError, command
from core.files import ROOT, home, shown
from images import locate
from leaderboard import bundle, client
from tasks.competition import Competition
from tasks.padchest import Padchest

PACKAGES = (
    "torch",
    "torchvision",
    "timm",
    "albumentations",
    "opencv-python-headless",
    "numpy",
    "scikit-learn",
    "scipy",
    "iterative-stratification",
    "torchxrayvision",
    "pydantic",
    "safetensors",
    "kaggle",
    "six",
)
SLUG = "26-t-1-dl-gen-ainppe-1"


def checks() -> list[tuple[bool, str, str]]:
    """(fine, what, how it stands), a line each."""
    lines = [
        (
            True,
            "machine",
            (
                f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()},"
                f" {_gpu()}"
            ),
        )
    ]
    for name in PACKAGES:
        try:
            lines.append((True, name, importlib.metadata.version(name)))
        except importlib.metadata.PackageNotFoundError:
            lines.append((False, name, "not installed: ./run.sh installs requirements.txt when it is missing"))
    try:
        source = locate.find(None, SLUG, Competition.layout)
        lines.append(
            (
                source is not None,
                "data",
                f"in {shown(source.folder)}" if source else "none found: ./run.sh download, or give --data DIR",
            )
        )
    except UserError as error:
        lines.append((False, "data", str(error)))
    try:
        source = locate.find(None, "padchest", Padchest.layout) if (home() / "data" / "padchest").is_dir() else None
        lines.append(
            (
                True,
                "PadChest",
                (
                    f"in {shown(source.folder)}"
                    if source
                    else "not in data/padchest (needed for ./run.sh padchest only; --data DIR names another place)"
                ),
            )
        )
    except UserError as error:
        lines.append((False, "PadChest", str(error)))
    found = sorted((home() / "weights").glob("*.safetensors")) if (home() / "weights").is_dir() else []
    lines.append(
        (
            True,
            "weights",
            ", ".join(map(shown, found))
            or "no file in weights/: fetched from the hub when a run begins, or by ./run.sh weights CONFIG",
        )
    )
    free = shutil.disk_usage(home()).free
    lines.append((free > 10e9, "disk", f"{free / 1e9:.0f} GB free in {shown(home())}"))
    mine = client.credentials()
    lines.append(
        (
            mine.where is not None,
            "Kaggle",
            f"credentials in {mine.where}" if mine.where else f"no credentials: make a token at {client.TOKENS}",
        )
    )
    lines += [(False, "Kaggle", fault) for fault in mine.faults]
    for path in sorted((ROOT / "kernels").glob("*/kernel-metadata.json")):
        try:
            lines.append((True, f"kernel {path.parent.name}", bundle.metadata(path.parent.name, "OWNER")["id"]))
        except UserError as error:
            lines.append((False, f"kernel {path.parent.name}", str(error)))
    return lines


def _gpu() -> str:
    """The GPUs as the driver names them; torch takes seconds to load, and says the same."""
    try:
        names = subprocess.run(
            ["nvidia-smi", "--query-gpu=name,compute_cap", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            check=True,
            timeout=20,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return "no NVIDIA GPU"
    return (
        "; ".join(f"{line.replace(', ', ', compute capability ')}" for line in names.strip().splitlines())
        or "no NVIDIA GPU"
    )


def main(argv: list[str]) -> None:
    Parser(description="What is here and what is missing.").parse_args(argv)
    lines = checks()
    for fine, what, how in lines:
        print(f"{'ok     ' if fine else 'MISSING'} {what:24} {how}")
    missing = sum(not fine for fine, _, _ in lines)
    print(f"{missing} things to see to" if missing else "everything is here")


if __name__ == "__main__":
    raise SystemExit(command(main))
