"""Fit every decision rule on validation logits: `tune.py VAL.npz … --out calibration.json`. Needs no torch.

Several files are the folds of a cross-validation: each network is calibrated on its own rows.
"""

from collections.abc import Sequence
from pathlib import Path

from errors import Parser, UserError, command
from files import Logits, read_logits, shown, write_json
from metrics import Costs
from rules import TEMPERATURES
from task import Task, competition

OPTIMISTIC = "These images also chose the epoch, so every figure here is optimistic; one rare hit moves the score by tenths."


def table(report: dict) -> list[str]:
    """Every rule's score on the validation images beside the constant answer, as lines to print."""
    always = report["always"]
    bar = f"always {always['class']}"
    width = max(map(len, [*report["rules"], bar]))
    lines = [f"{'':{width}}  {'fitted':>8}  {'cross-fitted':>12}  {'95 % interval':>18}  {f'minus {bar}':>24}  {'95 % interval':>18}  macro-F1"]
    for rule, figures in report["rules"].items():
        lines.append(f"{rule:{width}}  {figures['fitted']:8.4f}  {figures['score']:12.4f}  {ends(figures['interval']):>18}  "
                     f"{figures['over_always']:+24.4f}  {ends(figures['over_always_interval']):>18}  {figures['macro_f1']:8.3f}")
    lines.append(f"{bar:{width}}  {always['score']:8.4f}  {always['score']:12.4f}{'':66}  {always['macro_f1']:8.3f}")
    lines.append(f"fitted: on the {report['images']} images it is shown for; cross-fitted: each fifth of them by a fit on the other four.")
    if report["few_images"]:
        lines.append(f"classes with 1 to 4 images here, whose luck no interval can show: {', '.join(report['few_images'])}")
    if report["skipped_classes"]:
        lines.append(f"left out of the mean, without an image here: {', '.join(report['skipped_classes'])}")
    return [*lines, OPTIMISTIC]


def ends(interval: Sequence[float]) -> str:
    return f"{interval[0]:+.3f} … {interval[1]:+.3f}"


def warning(report: dict, rule: str) -> list[str]:
    """Lines that cannot be missed when a rule does not beat the constant answer; a note when it may be luck; else nothing."""
    figures, always = report["rules"][rule], f"always answering {report['always']['class']}"
    if figures["over_always_interval"][0] > 0:
        return []
    if figures["over_always"] > 0:
        return [f"note: rule {rule} is {figures['over_always']:.3f} above {always}, and its interval reaches below: it may be luck."]
    line = "!" * 100
    better = [f"{name} ({found['score']:.4f})" for name, found in report["rules"].items() if found["over_always_interval"][0] > 0]
    advice = f", or choose rule={' or '.join(better)}" if better else ""
    return [line, f"WARNING: rule {rule} scores {figures['score']:.4f} cross-fitted, no better than {always} ({report['always']['score']:.4f}).",
            f"Think before you submit its answers{advice}.", line]


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
    report = task.report(vals, calibration)
    print("\n".join([*table(report), *describe(calibration), *warning(report, "bayes"), f"wrote {shown(given.out)}"]))


def describe(calibration: dict) -> list[str]:
    """What was fitted, a line a network."""
    lines = []
    for number, network in enumerate(calibration["networks"], start=1):
        heat, posterior = network["rules"]["temperature"], network["rules"]["bayes"]
        name = f"network {number}: " if len(calibration["networks"]) > 1 else ""
        span = ", ".join(f"{what} {min(posterior[what]):.2f} to {max(posterior[what]):.2f}" for what in ("slopes", "offsets"))
        lines.append(f"{name}temperature {heat['temperature']} ({'tuned' if heat['tuned'] else 'given'}); bayes: {span}")
    return lines


if __name__ == "__main__":
    raise SystemExit(command(main))
