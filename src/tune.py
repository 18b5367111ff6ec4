"""Fit every decision rule on validation logits: `tune.py VAL.npz … --out calibration.json`. Needs no torch.

Several files are the folds of a cross-validation: each network is calibrated on its own rows. The files say which kind
of problem they are of.
"""

from collections.abc import Sequence
from pathlib import Path

from answers.rules import TEMPERATURES
from core.commands import Parser
from core.errors import UserError, command
from core.files import shown, write_json
from core.logits_file import Logits, read_logits
from core.task import Problem
from tasks.registry import problem_of


def tune(problem: Problem, vals: Sequence[Logits], out: Path, temperature: float | None = None) -> dict:
    """Write the calibration and return it; a given temperature is kept instead of the tuned one."""
    calibration = problem.calibrate(vals, temperature)
    write_json(out, calibration)
    return calibration


def main(argv: list[str]) -> None:
    parser = Parser("tune")
    parser.add_argument(
        "vals", metavar="VAL.npz", type=Path, nargs="+", help="one file a network (fold), each with its own images"
    )
    parser.add_argument("--out", metavar="FILE", type=Path, default=Path("calibration.json"))
    parser.add_argument("--temperature", type=float, help="keep this temperature instead of tuning it")
    parser.add_argument(
        "--costs",
        type=float,
        nargs=3,
        metavar=("TP", "FP", "FN"),
        help="reward of a hit, cost of a false alarm, of a miss (1 1 5)",
    )
    asked = parser.parse_args(argv)
    low, high = TEMPERATURES
    if asked.temperature is not None and not low <= asked.temperature <= high:
        raise UserError(f"--temperature {asked.temperature} is no number from {low} to {high}")
    vals = [read_logits(path) for path in asked.vals]
    problem = problem_of(vals, asked.costs)
    calibration = tune(problem, vals, asked.out, asked.temperature)
    print("\n".join([*problem.tuned(vals, calibration), f"wrote {shown(asked.out)}"]))


if __name__ == "__main__":
    raise SystemExit(command(main))
