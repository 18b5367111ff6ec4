"""Download a competition into data/<slug>/: `download.py [CONFIG]`."""

from core.commands import Parser
from core.config import Config
from core.errors import UserError, command
from core.files import home, shown
from images import locate
from leaderboard import client
from tasks import registry


def competition(name: str) -> Config:
    """A configuration whose data set is a Kaggle competition's. Raises UserError for another one."""
    config = registry.load(name)
    if not registry.TASKS[config.task].layout.from_kaggle:
        raise UserError(
            f"{name} belongs to no Kaggle competition: its data set {config.slug} is asked for from its owners, and"
            " nothing of it can be submitted"
        )
    return config


def main(argv: list[str]) -> None:
    parser = Parser("download")
    parser.add_argument("config", nargs="?", default="modelB", help="whose competition (modelB)")
    config = competition(parser.parse_args(argv).config)
    folder = home() / "data" / config.slug
    if folder.is_dir():
        locate.opened(folder, shown(folder), registry.TASKS[config.task].layout)
        print(f"{shown(folder)} is there already and complete: delete it to download again")
        return
    client.owner()
    print(f"downloaded to {shown(client.download(config.slug))}")


if __name__ == "__main__":
    raise SystemExit(command(main))
