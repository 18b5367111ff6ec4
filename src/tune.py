"""Fit every decision rule on validation logits: `tune.py VAL.npz --out calibration.json`. Needs no torch."""

import math
from pathlib import Path

from errors import Parser, UserError, command
from files import Logits, read_logits, shown, write_json
from task import Task, competition


def table(report: dict) -> list[str]:
    """The rules' figures on the validation fold beside the constant answer, as lines to print."""
    always = report["always"]
    rows = {**report["rules"], f"always {always['class']}": always}
    width = max(map(len, rows))
    lines = [f"{'rule':{width}}     score  accuracy  balanced  macro-F1"]
    for rule, figures in rows.items():
        lines.append(f"{rule:{width}}  {figures['score']:8.4f}  {figures['accuracy']:8.3f}  {figures['balanced_accuracy']:8.3f}  {figures['macro_f1']:8.3f}")
    if report["skipped_classes"]:
        lines.append(f"left out of the mean, without an image in this fold: {', '.join(report['skipped_classes'])}")
    lines.append("This fold chose the epoch and the temperature too, so its figures are optimistic; one rare hit moves the score by tenths.")
    return lines


def tune(task: Task, val: Logits, out: Path, temperature: float | None = None) -> dict:
    """Write the calibration and return it; a given temperature is kept instead of the tuned one."""
    calibration = task.calibrate(val, temperature)
    write_json(out, calibration)
    return calibration


def main(argv: list[str]) -> None:
    parser = Parser(description="Fit every decision rule on validation logits.")
    parser.add_argument("val", metavar="VAL.npz", type=Path)
    parser.add_argument("--out", metavar="FILE", type=Path, default=Path("calibration.json"))
    parser.add_argument("--temperature", type=float, help="keep this temperature instead of tuning it")
    given = parser.parse_args(argv)
    if given.temperature is not None and not 0 < given.temperature < math.inf:
        raise UserError(f"--temperature {given.temperature} is no positive number")
    task, val = competition(), read_logits(given.val)
    calibration = tune(task, val, given.out, given.temperature)
    print("\n".join(table(task.report(val, calibration))))
    fitted = calibration["rules"]["temperature"]
    print(f"temperature {fitted['temperature']} ({'tuned' if fitted['tuned'] else 'given'})")
    print(f"wrote {shown(given.out)}")


if __name__ == "__main__":
    raise SystemExit(command(main))
