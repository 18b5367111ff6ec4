"""The whole validation report of a run: `evaluate.py RUN …` writes RUN/report.json and RUN/per_class.csv. Needs no
torch.

Several runs are compared.
"""

from pathlib import Path

from core.commands import Parser
from core.errors import UserError, command
from core.files import shown, write_json, write_rows
from tasks.opened import Opened, open_run


def evaluate(folder: Path) -> dict:
    """Write the report of the run's task and return it, with the settings and the split that it rests on.

    Test rows whose labels are known are judged too: the run's own test part, or those of a solution.csv, as the
    synthetic set keeps one.
    """
    return _written(open_run(folder))


def _written(run: Opened) -> dict:
    about, config = run.about, run.config
    report = {
        "synthetic": bool(about.get("synthetic")), "run": config.name, "rule": config.rule,
        "best_epoch": about.get("best_epoch"), "settings": config.meaning, "split": about.get("split"),
        "baseline": about.get("baseline"), **run.task.report(run.evidence, run.rows),
    }  # fmt: skip
    write_json(run.folder / "report.json", report)
    write_rows(run.folder / "per_class.csv", report["per_class"])
    return report


def main(argv: list[str]) -> None:
    parser = Parser("evaluate")
    parser.add_argument("runs", metavar="RUN", type=Path, nargs="+")
    given = parser.parse_args(argv)
    if len({folder.resolve() for folder in given.runs}) < len(given.runs):
        raise UserError("a run is named twice: name each once")
    runs = [open_run(folder) for folder in given.runs]
    if len({type(run.task) for run in runs}) > 1:
        raise UserError("runs of different tasks cannot be compared: name those of one")
    reports = [_written(run) for run in runs]
    print("\n".join(runs[0].task.compare(reports)))
    for run in runs:
        print(f"wrote {shown(run.folder / 'report.json')} and per_class.csv")


if __name__ == "__main__":
    raise SystemExit(command(main))
