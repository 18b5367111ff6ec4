"""The whole validation report of a run: `evaluate.py RUN …` writes RUN/report.json and RUN/per_class.csv. Needs no torch.

Several runs are compared, the rules on each run's own images.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import score
import tune
from errors import Parser, UserError, command
from files import read_logits, read_run, shown, write_json, write_rows
from labels import aligned, read_one_hot


def evaluate(folder: Path) -> dict:
    """Write the report and return it: every rule's figures, the run's own rule class by class, and the calibration.

    Where the data set keeps the test part's labels in solution.csv, as the synthetic one does, they are used too.
    """
    about = read_run(folder)
    config, task, val, calibration = score.opened(folder)
    report = {
        "synthetic": bool(about.get("synthetic")), "run": config.name, "rule": config.rule, "best_epoch": about.get("best_epoch"),
        "validation": task.report([val], calibration), "per_class": score.fold_figures(config, task, val, calibration)["per_class"],
    }
    solution = Path(about["data"]) / "solution.csv"
    if solution.is_file() and (folder / "test_logits.npz").is_file():
        test = read_logits(folder / "test_logits.npz")
        try:
            targets = aligned(read_one_hot(solution), test.ids, test.classes.tolist(), f"the test logits and {shown(solution)}")
        except UserError as error:
            print(f"WARNING: {shown(solution)} was not used: {error}", file=sys.stderr)
        else:
            report["test"] = task.report_test([test], calibration, targets)
    write_json(folder / "report.json", report)
    write_rows(folder / "per_class.csv", report["per_class"])
    return report


def paired(reports: Sequence[dict], part: str) -> list[str]:
    """A line a run: the report's rules and the Bayes rule on the same images, and the differences with their intervals."""
    width = max(len(report["run"]) for report in reports)
    lines = [f"{part + ':':{width}}  {'argmax':>9}{'temperature':>13}{'bayes':>9}{'bayes − argmax':>18}{'95 % interval':>20}{'bayes − temperature':>22}{'95 % interval':>20}{'always':>9}"]
    rows = []
    for report in reports:
        figures, minus = report[part], report[part]["bayes_minus"]
        rows.append([*(figures["rules"][rule]["score"] for rule in ("argmax", "temperature", "bayes")), *(minus[rule]["difference"] for rule in ("argmax", "temperature"))])
        one, other = (tune.ends(minus[rule]["interval"]) for rule in ("argmax", "temperature"))
        lines.append(f"{report['run']:{width}}  {rows[-1][0]:9.4f}{rows[-1][1]:13.4f}{rows[-1][2]:9.4f}{rows[-1][3]:+18.4f}{one:>20}{rows[-1][4]:+22.4f}{other:>20}{figures['always']['score']:9.4f}")
    if len(rows) > 1:
        for name, row in (("mean", np.mean(rows, axis=0)), ("s.d.", np.std(rows, axis=0, ddof=1))):
            lines.append(f"{name:{width}}  {row[0]:9.4f}{row[1]:13.4f}{row[2]:9.4f}{row[3]:+18.4f}{'':20}{row[4]:+22.4f}")
    return lines


def main(argv: list[str]) -> None:
    parser = Parser(description="Write the whole validation report of a run, or of several and compare their rules.", usage="RUN [RUN ...]")
    parser.add_argument("runs", metavar="RUN", type=Path, nargs="+")
    given = parser.parse_args(argv)
    reports = [evaluate(folder) for folder in given.runs]
    if len(reports) == 1:
        validation, heat = reports[0]["validation"], reports[0]["validation"]["calibration"]
        print("\n".join([*tune.table(validation), "", f"rule {reports[0]['rule']}, cross-fitted, class by class:", *score.class_table(reports[0]["per_class"])]))
        print(f"plain softmax: NLL {heat['before']['nll']:.4f}, Brier {heat['before']['brier']:.4f}; calibrated posterior, cross-fitted: "
              f"NLL {heat['after']['nll']:.4f}, Brier {heat['after']['brier']:.4f}\n")
    for part in ("validation", "test"):
        if all(part in report for report in reports):
            print("\n".join(paired(reports, part)))
    for report, folder in zip(reports, given.runs, strict=True):
        print(f"wrote {shown(folder / 'report.json')} and per_class.csv")


if __name__ == "__main__":
    raise SystemExit(command(main))
