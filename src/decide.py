"""From test logits to a submission: `decide.py TEST.npz --calibration FILE --rule RULE --out CSV [--test test.csv]`. Needs no torch."""

from pathlib import Path

import numpy as np

from errors import Parser, command
from files import Logits, read_json, read_logits, shown, write_submission
from labels import read_ids
from task import Task, competition


def decide(task: Task, test: Logits, calibration: dict, rule: str, out: Path, test_ids: np.ndarray) -> np.ndarray:
    """Write the submission and return how often each class was answered, int [C]."""
    answers = task.decide(test, calibration, rule)
    task.write(out, test.ids, test.classes, answers, test_ids)
    return np.bincount(answers, minlength=len(test.classes))


def counts_table(classes: list[str], counts: np.ndarray) -> list[str]:
    return [f"  {name:28}{count:7d}  {count / counts.sum():7.2%}" for name, count in zip(classes, counts, strict=True)]


def main(argv: list[str]) -> None:
    parser = Parser(description="Decide test logits by a rule and write the submission.")
    parser.add_argument("test", metavar="TEST.npz", type=Path)
    parser.add_argument("--calibration", metavar="FILE", type=Path, required=True)
    parser.add_argument("--rule", required=True)
    parser.add_argument("--out", metavar="CSV", type=Path, required=True)
    parser.add_argument("--test", dest="test_csv", metavar="test.csv", type=Path, help="check the rows against this file")
    given = parser.parse_args(argv)
    test = read_logits(given.test)
    test_ids = read_ids(given.test_csv) if given.test_csv else test.ids
    counts = decide(competition(), test, read_json(given.calibration), given.rule, given.out, test_ids)
    print("\n".join(["answered:", *counts_table(test.classes, counts), f"wrote {shown(given.out)}: {len(test.ids)} rows"]))


if __name__ == "__main__":
    raise SystemExit(command(main))
