"""Fetch a configuration's pretrained weights into weights/, and publish them for kernels: `weights.py CONFIG
[--publish]`."""

import re
import shutil
import tempfile
from pathlib import Path

from core.commands import Parser
from core.errors import command
from core.files import home, shown, write_json
from leaderboard import client
from tasks import registry


def publish(path: Path, model: str) -> str:
    """Put the file into a private dataset of the user's, and return its OWNER/SLUG."""
    slug = re.sub(r"[^a-z0-9]+", "-", f"weights {model}".lower()).strip("-")[:50]
    reference = f"{client.owner()}/{slug}"
    with tempfile.TemporaryDirectory() as folder:
        shutil.copyfile(path, Path(folder) / path.name)
        about = {"title": slug, "id": reference, "licenses": [{"name": "other"}]}
        write_json(Path(folder) / "dataset-metadata.json", about)
        client.call(
            "dataset_create_new",
            {"folder": folder, "dir_mode": "zip"},
            "publishing the weights",
            lambda reply: (
                reply.get("error") or (None if reply.get("status") == "ok" else f"its status is {reply.get('status')}")
            ),
            changes=f"{client.SITE}/datasets/{reference}",
        )
    return reference


def main(argv: list[str]) -> None:
    parser = Parser("weights")
    parser.add_argument("config")
    parser.add_argument("--publish", action="store_true", help="put the file into a private dataset of yours")
    given = parser.parse_args(argv)
    config = registry.load(given.config)
    path = home() / "weights" / f"{config.model}.safetensors"
    if path.is_file():
        print(f"{shown(path)} is there already")
    else:
        from net import model  # here, for it loads torch

        model.save_pretrained(config.model, path)
        print(f"wrote {shown(path)}: ./run.sh {given.config} weights={shown(path)}")
    if given.publish:
        reference = publish(path, config.model)
        print(
            f"published as the private dataset {reference}: "
            f"./run.sh push {given.config} --weights {reference} --no-internet"
        )


if __name__ == "__main__":
    raise SystemExit(command(main))
