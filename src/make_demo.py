"""Write a synthetic data set in the competition's layout: `make_demo.py DIR [--images N] [--size PIXELS] [--seed S]`."""

from pathlib import Path

import demo
from errors import Parser, command
from files import shown


def main(argv: list[str]) -> None:
    parser = Parser(description="Write a synthetic data set in the competition's layout, with solution.csv beside it.")
    parser.add_argument("folder", metavar="DIR", type=Path)
    parser.add_argument("--images", type=int, default=demo.IMAGES)
    parser.add_argument("--size", type=int, default=demo.SIZE, help="pixels, width and height")
    parser.add_argument("--seed", type=int, default=demo.SEED)
    given = parser.parse_args(argv)
    demo.make(given.folder, given.images, given.size, given.seed)
    print(f"wrote {given.images} images, train.csv, test.csv, sample_submission.csv and solution.csv to {shown(given.folder)}")


if __name__ == "__main__":
    raise SystemExit(command(main))
