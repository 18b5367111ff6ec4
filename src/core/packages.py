"""The packages: what the kit asks for (requirements.in), their lock (requirements.txt), and what is installed."""

import importlib.metadata
import re
import sys

from core.files import ROOT

MATTER = (  # to a figure
    "torch", "torchvision", "timm", "albumentations", "opencv-python-headless", "numpy", "pillow", "scikit-learn",
    "pydantic", "safetensors",
)  # fmt: skip


def installed(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def asked() -> list[str]:
    """The names in requirements.in."""
    return re.findall(r"^[\w-]+", (ROOT / "requirements.in").read_text(encoding="utf-8"), re.MULTILINE)


def locked() -> dict[str, list[str]]:
    """The versions in requirements.txt by name: one, or several for several Pythons."""
    lines = re.findall(r"^([\w-]+)==([^\s;]+)", (ROOT / "requirements.txt").read_text(encoding="utf-8"), re.MULTILINE)
    found: dict[str, list[str]] = {}
    for name, number in lines:
        found.setdefault(name, []).append(number)
    return found


def versions() -> dict[str, str]:
    """What a run was made with: Python's version, and those of the packages that matter to a figure."""
    found = {name: installed(name) for name in MATTER}
    return {"python": sys.version.split()[0], **{name: number for name, number in found.items() if number}}
