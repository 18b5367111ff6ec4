"""Write a synthetic data set: `make_demo.py DIR [--full] [--layout competition|padchest] [--images N] [--size PIXELS]
[--seed S]`."""

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
    parser.add_argument("--full", action="store_true", help="as large as the competition's, with its counts, and hard")
    parser.add_argument("--images", type=int, help="with --full: fewer, in its proportions and as hard")
    parser.add_argument("--size", type=int, default=synthetic.SIZE, help="pixels, width and height")
    parser.add_argument("--seed", type=int, default=synthetic.SEED)
    given = parser.parse_args(argv)
    images = given.images
    if images is None:
        images = synthetic.FULL_IMAGES if given.full else synthetic.IMAGES
    written = synthetic.make(given.folder, images, given.size, given.seed, given.layout, full=given.full)
    *most, last = [f"{images} images", *written]
    print(f"wrote {', '.join(most)} and {last} to {shown(given.folder)}")


if __name__ == "__main__":
    raise SystemExit(command(main))
