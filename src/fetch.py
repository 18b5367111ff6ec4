"""Fetch what a pushed kernel wrote, and check it against its manifest: `fetch.py CONFIG`."""

import tempfile
from pathlib import Path

from core.commands import Parser
from core.errors import UserError, command
from core.files import home, shown
from leaderboard import client
from leaderboard.kernels import last_push, manifest_of

PATTERN = r"(submission\.csv|manifest\.json|runs/.*)$"


def main(argv: list[str]) -> None:
    parser = Parser("fetch")
    parser.add_argument("config")
    config = parser.parse_args(argv).config
    pushed = last_push(config)
    target = home() / "fetched" / f"{config}-v{pushed['version']}"
    if target.exists():
        raise UserError(f"{shown(target)} is there already: delete it to fetch again")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as scratch:
        fresh = Path(scratch) / "output"
        fresh.mkdir()
        wanted = {"kernel": pushed["ref"], "path": str(fresh), "force": True, "page_size": 200, "file_pattern": PATTERN}
        client.call("kernels_output", wanted, f"fetching the output of {pushed['ref']}")
        manifest = manifest_of(fresh, pushed)
        fresh.rename(target)
    print(f"fetched {len(manifest['files'])} files to {shown(target)}", end="")
    if manifest.get("state") != "trained":
        print(f"; training stopped for time, ./run.sh push {config} --resume goes on", end="")
    print()
    if not pushed.get("data"):  # a data set of the user's own is no competition
        print(f"./run.sh submit {shown(target / 'submission.csv')} -m MESSAGE")


if __name__ == "__main__":
    raise SystemExit(command(main))
