"""Fit every decision rule on validation logits: `tune.py VAL.npz … --out calibration.json`. Needs no torch.

Several files are the folds of a cross-validation: each network is calibrated on its own rows.
"""

from collections.abc import Sequence
from pathlib import Path

import decision
import decision_report
from errors import Parser, UserError, command
from files import Logits, read_logits, shown, write_json
from metrics import Costs
from rules import TEMPERATURES
from task import Task, competition


def tune(task: Task, vals: Sequence[Logits], out: Path, temperature: float | None = None) -> dict:
    """Write the calibration and return it; a given temperature is kept instead of the tuned one."""
    calibration = task.calibrate(vals, temperature)
    write_json(out, calibration)
    return calibration


def main(argv: list[str]) -> None:
    parser = Parser(description="Fit every decision rule on validation logits.", usage="VAL.npz [VAL.npz ...] [--out FILE] [--temperature T] [--costs TP FP FN]")
    parser.add_argument("vals", metavar="VAL.npz", type=Path, nargs="+", help="one file a network (fold), each with its own validation images")
    parser.add_argument("--out", metavar="FILE", type=Path, default=Path("calibration.json"))
    parser.add_argument("--temperature", type=float, help="keep this temperature instead of tuning it")
    parser.add_argument("--costs", type=float, nargs=3, metavar=("TP", "FP", "FN"), help="reward of a hit, cost of a false alarm, cost of a miss (1 1 5)")
    given = parser.parse_args(argv)
    if given.temperature is not None and not TEMPERATURES[0] <= given.temperature <= TEMPERATURES[1]:
        raise UserError(f"--temperature {given.temperature} is no number from {TEMPERATURES[0]} to {TEMPERATURES[1]}")
    task, vals = competition(Costs(*given.costs or ())), [read_logits(path) for path in given.vals]
    calibration = tune(task, vals, given.out, given.temperature)
    report = decision.report(vals, calibration)
    print("\n".join([*decision_report.table(report), *decision_report.describe(calibration), *decision_report.warning(report, "bayes"), f"wrote {shown(given.out)}"]))


if __name__ == "__main__":
    raise SystemExit(command(main))
