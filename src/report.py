"""The pictures of a run, and a page with them and its tables: `report.py RUN` writes RUN/figures/*.png and
RUN/report.html. Needs no torch."""

import base64
import html
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from answers import plots
from answers.plots import Material, Picture
from answers.single_label_report import patients_of
from core import config as settings
from core.commands import Parser
from core.errors import UserError, command, some
from core.files import SYNTHETIC, read_json, shown, write_bytes
from core.logits_file import Logits, ids_of, read_logits
from core.tables import read_table
from core.task import Task
from tasks.opened import Opened, open_run

STYLE = """
:root { color-scheme: light dark }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
h2 { margin-top: 2.5rem }
figure { margin: 2rem 0 }
img { max-width: 100%; height: auto; background: white }
figcaption { font-size: 0.9em; max-width: 44rem }
.wide { overflow-x: auto }
pre { font-size: 12px; line-height: 1.35 }
table { border-collapse: collapse; font-size: 13px }
th, td { padding: 0.15rem 0.6rem; text-align: right; white-space: nowrap; border-bottom: 1px solid #8886; \
vertical-align: bottom }
th:first-child, td:first-child { text-align: left }
.warning { border: 2px solid #d55e00; padding: 0.5rem 1rem; font-weight: bold }
"""
NEEDED = ("folds.csv", "val_logits.npz", "calibration.json", "report.json")


def report(folder: Path, labels: Sequence[str] = ()) -> list[Path]:
    """Write the pictures and the page, and return their paths. Nothing is written before all of them are drawn.

    labels: what the pictures of a few labels shall show. Raises UserError for a run that lacks files or whose files do
    not belong together, and for labels that cannot be drawn.
    """
    run = open_run(folder)
    config, task, about = run.config, run.task, run.about
    lacking = [name for name in NEEDED if not (folder / name).is_file()]
    if "baseline" not in about:
        logs = [one.folder / "log.csv" for one in run.networks]
        lacking += [str(log.relative_to(folder)) for log in logs if not log.is_file()]
    if lacking:
        raise UserError(f"{shown(folder)} has no {some(lacking)} yet: run the command that began it once more")
    vals, calibration = run.vals, run.calibration
    if labels and not plots.OF_LABELS & set(task.plots):
        raise UserError(
            "--labels is for runs with any number of labels an image: the pictures of this one show all its classes"
        )
    rows = run.rows
    found, headline, printed = _read(run)
    material = Material(
        synthetic=bool(about.get("synthetic")),
        histories=_histories(run),
        monitor=task.monitored,
        rule=config.rule,
        vals=vals,
        tests=_labelled(run, found),
        calibration=calibration,
        report=found,
        labels=labels,
        patients=patients_of(ids_of(vals), rows),
    )
    pictures = [(picture, picture.png()) for picture in plots.draw(task.plots, material)]

    page = _page(config, about, headline, printed, found["per_class"], rows, pictures)
    paths = [folder / "figures" / f"{picture.name}.png" for picture, _ in pictures]
    for path, (_, content) in zip(paths, pictures, strict=True):
        write_bytes(path, content)
    write_bytes(folder / "report.html", page.encode())
    return [*paths, folder / "report.html"]


def _read(run: Opened) -> tuple[dict, dict[str, float | None], str]:
    """The run's report, its headline figures, and what is printed of it. Raises UserError for one that is not of the
    run as it is now."""
    path = run.folder / "report.json"
    found, anew = read_json(path), f"make it again with ./run.sh evaluate {shown(run.folder)}"
    if found.get("rule") != run.config.rule:
        raise UserError(
            f"{shown(path)} is of rule {found.get('rule')} and the run is now decided by {run.config.rule}: {anew}"
        )
    try:
        if [row["class"] for row in found["per_class"]] != run.about["classes"]:
            raise KeyError("the run's classes")
        printed = "\n".join([*run.task.lines(found, run.calibration), *run.task.warning(found)])
        return found, run.task.headline(found), printed
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{shown(path)} lacks {error}: {anew}") from error


def _labelled(run: Opened, found: dict) -> list[Logits] | None:
    """The run's own test logits where they hold labels, else None."""
    tests = []
    for one in run.networks:
        path = one.folder / "test_logits.npz"
        if not path.is_file():
            if "test" in found:
                raise UserError(
                    f"{shown(one.folder)} has no test_logits.npz, and its report is of the test part: run the command"
                    " that began it once more"
                )
            return None
        tests.append(read_logits(path).labelled)
    return tests if len(tests[0].ids) else None


def _histories(run: Opened) -> dict[str, tuple[list[dict[str, str]], int | None]]:
    """The rows of log.csv and the best epoch of every network; none for a baseline, which has no epochs."""
    found = {}
    for one in run.networks:
        if (one.folder / "log.csv").is_file():
            name = f"fold {one.config.fold}" if one.config.folds else ""
            found[name] = _history(one.folder / "log.csv", one.task), one.about.get("best_epoch")
    return found


def _history(path: Path, task: Task) -> list[dict[str, str]]:
    again = "run the command that began the run once more"
    rows = read_table(path, ["epoch", "stage", "train_loss", "val_loss", task.monitored, "lr"], again).to_dict(
        "records"
    )
    try:
        for row in rows:
            for name in ("epoch", "train_loss", "val_loss", task.monitored, "lr"):
                float(row[name])
    except ValueError as error:
        raise UserError(f"{shown(path)} is damaged ({error}): {again}") from error
    return rows


# ---- the page
def _page(
    config: settings.Config,
    about: dict,
    headline: Mapping[str, float | None],
    printed: str,
    per_class: Sequence[dict],
    rows: Mapping[str, Mapping[str, str]],
    pictures: Sequence[tuple[Picture, bytes]],
) -> str:
    """One page of HTML without scripts, links or anything outside itself."""
    synthetic = f'<p class="warning">{SYNTHETIC}</p>' if about.get("synthetic") else ""
    drawn = "\n".join(_figure(picture, content) for picture, content in pictures)
    settings_shown = {
        key: settings.spelled(value) if key == "imbalance" else _inline(value)
        for key, value in config.model_dump().items()
    }
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{_text(config.name)}{" (synthetic data)" * bool(synthetic)}</title><style>{STYLE}</style></head>
<body>{synthetic}
<h1>{_text(config.name)}</h1>
<p>{_text(config.model)} at {config.size} pixels, rule {_text(config.rule)}. Not for clinical use.</p>
{_table([headline])}
<h2>Pictures</h2>
{drawn}
<h2>Report</h2>
<div class="wide"><pre>{_text(printed)}</pre></div>
<h2>Every class</h2>
{_table(_joined(per_class))}
<h2>Images</h2>
{_table(_parts(rows))}
<h2>Settings</h2>
{_pairs(settings_shown)}
<h2>How it was made</h2>
{_pairs(_facts(about))}
</body></html>
"""


def _figure(picture: Picture, content: bytes) -> str:
    width = round(picture.figure.get_figwidth() * 96)
    source = f"data:image/png;base64,{base64.b64encode(content).decode()}"
    return (
        f'<figure><img alt="{_text(picture.name)}" width="{width}" src="{source}">'
        f"<figcaption>{_text(picture.caption)}</figcaption></figure>"
    )


def _parts(rows: Mapping[str, Mapping[str, str]]) -> list[dict]:
    """The number of images of every part, and of patients where they are known."""
    images, patients = Counter(), defaultdict(set)
    for row in rows.values():
        images[row.get("part", "")] += 1
        patients[row.get("part", "")].add(row.get("patient") or "")
    known = "patient" in next(iter(rows.values()), {})
    return [
        {"part": part, "images": number} | ({"patients": len(patients[part] - {""})} if known else {})
        for part, number in images.items()
    ]


def _facts(about: dict) -> dict[str, object]:
    """What run.json tells of how the run came about."""
    facts = {
        "state": about["state"],
        "best epoch": about.get("best_epoch"),
        "baseline": about.get("baseline"),
        "parameters": _inline(about.get("parameters")),
        "seed": about.get("seed"),
        "machine": about.get("machine"),
        "numbers": about.get("dtype"),
        "commit": about.get("commit"),
        **about.get("versions", {}),
        **{f"{stage}, seconds": seconds for stage, seconds in about.get("timings", {}).items()},
        "digest of the data": about.get("digest"),
        "digest of the split": about.get("split"),
    }
    return {name: value for name, value in facts.items() if value not in (None, "")}


def _text(value) -> str:
    return html.escape(str(value))


def _inline(value) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {part}" for key, part in value.items())
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else "" if value is None else str(value)


def _cell(value) -> str:
    return "–" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)


def _joined(rows: Iterable[dict]) -> list[dict[str, str]]:
    """Rows with `figure`, `figure_low` and `figure_high` as one cell, 0.871 [0.825, 0.910]."""
    return [{name: _with_ends(name, row) for name in row if not name.endswith(("_low", "_high"))} for row in rows]


def _with_ends(name: str, row: dict) -> str:
    low, high = row.get(f"{name}_low"), row.get(f"{name}_high")
    return _cell(row[name]) + (f" [{low:.3f}, {high:.3f}]" if low is not None else "")


def _table(rows: Sequence[Mapping]) -> str:
    shown = [{name.replace("_", " "): _cell(value) for name, value in row.items()} for row in rows]
    return f'<div class="wide">{_html(shown)}</div>' if rows else ""


def _pairs(values: Mapping[str, object]) -> str:
    return _html([{"name": name, "value": str(value)} for name, value in values.items()], header=False)


def _html(rows: Sequence[Mapping[str, str]], header: bool = True) -> str:
    import pandas as pd  # here, for it takes half a second

    with pd.option_context("display.max_colwidth", None):  # or long cells are cut off
        return pd.DataFrame(rows).to_html(index=False, header=header, border=0)


def main(argv: list[str]) -> None:
    parser = Parser("report")
    parser.add_argument("run", metavar="RUN", type=Path)
    parser.add_argument(
        "--labels",
        metavar="NAME,NAME,...",
        default="",
        help="for the pictures that show a few of many labels; otherwise the four with most positives",
    )
    given = parser.parse_args(argv)
    labels = list(dict.fromkeys(name.strip() for name in given.labels.split(",") if name.strip()))
    for path in report(given.run, labels):
        print(f"wrote {shown(path)}")


if __name__ == "__main__":
    raise SystemExit(command(main))
