"""Write a synthetic data set: `make_demo.py DIR [--layout competition|padchest] [--images N] [--size PIXELS] [--seed
S]`."""

from pathlib import Path

from core.commands import Parser
from core.errors import command
from core.files import shown
from images import synthetic


def main(argv: list[str]) -> None:
    parser = Parser("make-demo")
    parser.add_argument("folder", metavar="DIR", type=Path)
    parser.add_argument(
        "--layout",
        metavar="|".join(synthetic.LAYOUTS),
        default="competition",
        help="the competition's, with solution.csv, or PadChest's",
    )
    parser.add_argument("--images", type=int, default=synthetic.IMAGES)
    parser.add_argument("--size", type=int, default=synthetic.SIZE, help="pixels, width and height")
    parser.add_argument("--seed", type=int, default=synthetic.SEED)
    given = parser.parse_args(argv)
    *most, last = [
        f"{given.images} images",
        *synthetic.make(given.folder, given.images, given.size, given.seed, given.layout),
    ]
    print(f"wrote {', '.join(most)} and {last} to {shown(given.folder)}")


if __name__ == "__main__":
    raise SystemExit(command(main))
