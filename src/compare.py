"""Runs side by side: `compare.py A B [C …]`, each a run, the replicates of one configuration, or a published mean ±
s.d. Needs no torch.

Welch's t-test between independent replicates, the first being the reference; the paired bootstrap between networks on
the same images; every label's difference to published figures.
"""

import glob
import math
import re
import statistics
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import evaluate
from answers import stats
from core.commands import Parser
from core.config import NO_RESULT
from core.errors import UserError, command, some
from core.files import SYNTHETIC, read_json, shown, write_json, write_rows
from core.tables import read_table
from core.task import Task
from tasks.opened import Opened, open_run

ALPHA = 0.05
MANY = 3  # comparisons with one reference from which Holm's p stands beside each
PARTS = {
    "test": "figures of the test part",
    "validation": "figures of the validation part, which also chose the epoch: all are optimistic",
}
NUMBER = r"([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)"
PUBLISHED = re.compile(rf"{NUMBER}\s*(?:±|\+/?-)\s*{NUMBER}\s*,\s*(\d+)")
HOW = "a published result is written MEAN±SD,REPLICATES, such as 0.741±0.007,3 or ResNet50V2=0.741±0.007,3"


@dataclass(frozen=True)
class Sample:
    """A figure of n replicates: mean and s.d. (ddof 1). The mean is NaN where a run has no such figure, the s.d. where
    n is 1."""

    n: int
    mean: float
    sd: float


@dataclass(frozen=True)
class Side:
    """What is compared: runs with their report.json, or, without runs, a published figure."""

    name: str
    runs: list[Opened]
    reports: list[dict]
    published: Sample | None = None


# ---- what was given
def sides(words: Sequence[str]) -> list[Side]:
    """Read what was given. Raises UserError for text that is neither, folders that are no runs, a run that stands
    twice, and runs of different tasks."""
    found = [_side(word) for word in words]
    runs = [run.folder for side in found for run in side.runs]
    places = [run.resolve() for run in runs]
    twice = sorted({shown(run) for run, place in zip(runs, places, strict=True) if places.count(place) > 1})
    if twice:
        raise UserError(
            f"{some(twice)} stands more than once among what is compared: name every run once, since replicates are to"
            " be independent"
        )
    kinds = {type(run.task) for side in found for run in side.runs}
    if len(kinds) > 1:
        raise UserError("runs of different tasks cannot be compared: name those of one")
    return [Side(side.name, side.runs, [reported(run) for run in side.runs], side.published) for side in found]


def _side(word: str) -> Side:
    """One argument, its runs not yet evaluated: [NAME=] and a folder, folders with commas between them, a glob, or
    MEAN±SD,REPLICATES."""
    name, _, text = ("", "", word) if Path(word).exists() else word.rpartition("=")
    name, text = name.strip(), text.strip()
    if re.search(r"±|\+/?-", text) and not Path(text).exists():
        match = PUBLISHED.fullmatch(text.replace("−", "-"))
        if not match:
            raise UserError(f"{word!r} cannot be read: {HOW}")
        mean, sd, n = float(match[1]), float(match[2]), int(match[3])
        if not (math.isfinite(mean) and 0 <= sd < math.inf and n > 0):
            raise UserError(
                f"{word!r} will not do: an s.d. is not negative, and there is at least one replicate; {HOW}"
            )
        return Side(name or "published", [], [], Sample(n, mean, sd if n > 1 else math.nan))
    pieces = [text] if text and Path(text).exists() else [piece.strip() for piece in text.split(",") if piece.strip()]
    runs = [Path(run) for piece in pieces for run in _folders(piece)]
    if not runs:
        raise UserError(
            f"{word!r} names no run folder: give folders, with commas between replicates, or a glob in quotes; {HOW}"
        )
    return Side(name or text, [open_run(run) for run in runs], [])


def _folders(piece: str) -> list[str]:
    if Path(piece).exists() or not glob.has_magic(piece):
        if not Path(piece).exists():
            raise UserError(f"{piece!r} is not there: give the folders of runs; {HOW}")
        return [piece]
    found = sorted(path for path in glob.glob(piece) if Path(path).is_dir())
    if not found:
        raise UserError(f"no folder matches {piece!r}: give the folders of runs, or a glob that finds them")
    return found


def reported(run: Opened) -> dict:
    """The report of a run: its report.json, made anew when it is missing, older than the calibration, of another rule
    or incomplete."""
    path, calibration = run.folder / "report.json", run.folder / "calibration.json"
    if not path.is_file() or (calibration.is_file() and calibration.stat().st_mtime_ns > path.stat().st_mtime_ns):
        return _written(run)
    found, rule = read_json(path), run.about["config"].get("rule")
    whole = {"run", "rule", "validation", "per_class"} <= found.keys() and found["rule"] == rule
    return found if whole and _has_all(found, run.task) else _written(run)


def _has_all(report: dict, task: Task) -> bool:
    """Whether a report has all figures that runs are compared by; one from before a figure was there has not."""
    try:
        return task.headings.keys() <= task.headline(report).keys()
    except (KeyError, TypeError):
        return False


def _written(run: Opened) -> dict:
    found = evaluate.evaluate(run.folder)
    print(f"wrote {shown(run.folder / 'report.json')} and per_class.csv")
    return found


def task_of(found: Sequence[Side]) -> Task | None:
    """The task of the runs; None where there are only published figures. Raises UserError for runs that are not to be
    compared: of other labels, or of which only some have a labelled test part."""
    every = [(run, report) for side in found for run, report in zip(side.runs, side.reports, strict=True)]
    if not every:
        return None
    first, report = every[0]
    classes = first.about["classes"]
    for run, its in every[1:]:
        if run.about["classes"] != classes:
            odd = sorted(set(run.about["classes"]) ^ set(classes))
            raise UserError(
                f"{shown(first.folder)} and {shown(run.folder)} have different lists of labels"
                f" ({some(odd) if odd else 'in different orders'}): compare runs with the same labels"
            )
        if ("test" in its) != ("test" in report):
            raise UserError(
                f"of {shown(first.folder)} and {shown(run.folder)} only one has a labelled test part: compare runs"
                " evaluated on the same part"
            )
    return first.task


def doubts(side: Side) -> list[str]:
    """What makes runs that were given as replicates none: other settings than the seed's, or the same seed."""
    plain = [
        {key: value for key, value in run.config.meaning.items() if key not in ("name", "seed", "split_seed")}
        for run in side.runs
    ]
    differing = sorted(
        {key for one in plain[1:] for key in one.keys() | plain[0].keys() if one.get(key) != plain[0].get(key)}
        - NO_RESULT
        - {"device"}
    )
    seeds = [run.config.seed for run in side.runs]
    found = []
    if differing:
        found.append(
            f"WARNING: the runs of {side.name} differ in more than the seed, so they are no replicates of one"
            f" configuration: {some(differing)}"
        )
    if len(set(seeds)) < len(seeds):
        found.append(
            f"WARNING: runs of {side.name} share a seed, so they may be copies, not independent replicates: seeds"
            f" {some(seeds)}"
        )
    return found


# ---- Welch's test
def sample(values: Sequence[float | None]) -> Sample:
    """Mean and s.d. of a figure over replicates; equal values have exactly the s.d. 0."""
    if None in values:
        return Sample(len(values), math.nan, math.nan)
    return Sample(len(values), statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else math.nan)


def figure(side: Side, task: Task | None, metric: str) -> Sample:
    """One figure of a side, as the task's `headline` has it. Raises UserError for a figure that it does not have."""
    if side.published:
        return side.published
    values = []
    for run, report in zip(side.runs, side.reports, strict=True):
        try:
            found = task.headline(report)
        except (KeyError, TypeError) as error:
            raise UserError(
                f"{shown(run.folder / 'report.json')} is damaged (it lacks {error}): delete it, and it is made again"
            ) from error
        if metric not in found:
            raise UserError(f"runs of the task {task.name} have no figure {metric!r}; there are {', '.join(found)}")
        values.append(found[metric])
    return sample(values)


def contrasts(names: Sequence[str], samples: Sequence[Sample]) -> list[dict]:
    """A row for every sample, the first being the reference of the others: name, n, mean, sd; of the others also
    difference (to the reference), t, critical (t*), df, p of Welch's test, holm (p, from three tests on) and verdict.
    NaN: not tested, or none.
    """
    base, untested = samples[0], stats.Welch(*[math.nan] * 4)
    rows = []
    for name, one in zip(names, samples, strict=True):
        row = {"name": name, "n": one.n, "mean": one.mean, "sd": one.sd, "difference": math.nan}
        test = untested
        if rows:
            row["difference"] = one.mean - base.mean
            test = stats.welch(one.mean, one.sd, one.n, base.mean, base.sd, base.n, ALPHA)
        rows.append({**row, **test._asdict(), "holm": math.nan})
    if sum(not math.isnan(row["p"]) for row in rows) >= MANY:
        for row, adjusted in zip(rows, stats.holm([row["p"] for row in rows]), strict=True):
            row["holm"] = float(adjusted)
    for row in rows:
        row["verdict"] = _verdict(row) if row is not rows[0] else "reference"
    return rows


def _verdict(row: dict) -> str:
    if math.isnan(row["p"]):
        return "not tested"
    if row["p"] >= ALPHA:
        return "no difference shown"
    return "not after Holm" if row["holm"] >= ALPHA else "different"


def table(metric: str, rows: Sequence[dict]) -> list[str]:
    """Such rows as lines, in the precision of the thesis: |t| and t* with two decimals, p with two significant
    digits."""
    width = max(len("name"), *(len(row["name"]) for row in rows))
    many = any(not math.isnan(row["holm"]) for row in rows)
    head = f"{'name':{width}}{'n':>4}{'mean ± s.d.':>17}"
    if len(rows) > 1:
        title = f"{metric}: Welch's t-test, two-sided, α = {ALPHA}; difference to {rows[0]['name']}"
        head += f"{'difference':>12}{'|t|':>8}{'t*':>7}{'df':>7}{'p':>9}" + f"{'Holm p':>9}" * many + "  verdict"
    else:
        title = f"{metric}:"
    lines = [title, head]
    for row in rows:
        mean = f"{row['name']:{width}}{row['n']:4d}{_mean_and_sd(row['mean'], row['sd'], '.3f'):>17}"
        if row is not rows[0]:
            lines.append(mean + _tested(row, many))
        else:
            lines.append(mean + "  reference".rjust(12) * (len(rows) > 1))
    return lines + _why_not(rows)


def _tested(row: dict, many: bool) -> str:
    """The cells of Welch's test; `many` of them: Holm's p too."""
    cells = [
        _shown(row["difference"], "+.3f").rjust(12),
        _shown(abs(row["t"]), ".2f").rjust(8),
        _shown(row["critical"], ".2f").rjust(7),
        _shown(row["df"], ".1f").rjust(7),
        _shown(row["p"], "#.2g").rjust(9),
        _shown(row["holm"], "#.2g").rjust(9) * many,
    ]
    return f"{''.join(cells)}  {row['verdict']}"


def _why_not(rows: Sequence[dict]) -> list[str]:
    untested = [row for row in rows[1:] if row["verdict"] == "not tested"]
    if not untested:
        return []
    lacking = [row["name"] for row in rows if math.isnan(row["mean"])]
    single = [row["name"] for row in rows if row["n"] < 2]
    still = [row["name"] for row in untested if rows[0]["sd"] == row["sd"] == 0]
    lines = []
    if lacking:
        lines.append(f"Not defined in every run, so not tested: {some(lacking)}.")
    if single:
        lines.append(
            f"A single run has no s.d., so nothing is tested with {some(single)}: give at least two replicates, with"
            " commas or a glob."
        )
    if still:
        lines.append(
            f"No spread at all, in the reference as in {some(still)}, says nothing of the noise, so nothing is tested"
            " there."
        )
    return lines


def _shown(value: float, form: str) -> str:
    return "–" if math.isnan(value) else f"{value:{form}}"


def _mean_and_sd(mean: float, sd: float, form: str) -> str:
    return _shown(mean, form) + ("" if math.isnan(sd) else f" ± {sd:.3f}")


# ---- on the same images
def paired(task: Task, ours: Side, theirs: Side) -> dict:
    """The task's paired difference of its monitored figure, ours minus theirs, run by run in their order: {"figure",
    "name", "reference"} and what `Task.paired` gives. Raises UserError for sides of different sizes, and for runs on
    other images.
    """
    if len(ours.runs) != len(theirs.runs):
        raise UserError(
            f"{ours.name} has {len(ours.runs)} runs and {theirs.name} {len(theirs.runs)}, and pairs are made in their"
            " order: give as many of each"
        )
    evidence = [[run.evidence for run in side.runs] for side in (ours, theirs)]
    about = {"figure": task.monitor, "name": ours.name, "reference": theirs.name}
    return about | task.paired(*evidence, theirs.runs[0].rows)


def pair(ours: Path, theirs: Path) -> dict:
    """The paired difference of two runs. Raises UserError for runs of other images."""
    one, other = sides([f"{folder.resolve().name}={folder}" for folder in (ours, theirs)])
    return paired(one.runs[0].task, one, other)


def paired_lines(found: Sequence[dict]) -> list[str]:
    """Paired differences as lines, with 95 % intervals."""
    first = found[0]
    width = max(len(one["name"]) for one in found)
    lines = [
        f"paired: {first['figure']} on the same {first['images']} images of the {first['part']} part, minus"
        f" {first['reference']}, 95 % interval by resampling {first['resampled']}"
    ]
    for one in found:
        value, (low, high) = one["difference"][one["figure"]], one["difference"]["interval"]
        verdict = "these networks differ" if low > 0 or high < 0 else "no difference shown"
        lines.append(
            f"{one['name']:{width}}  {value:+.3f}  [{low:+.3f}, {high:+.3f}]  {verdict}{_again(one['difference'])}"
        )
        for title, other in one.get("further", {}).items():
            low, high = other["interval"]
            said = f"{title} {other['ours']:.3f} against {other['theirs']:.3f}: {other['difference']:+.3f}"
            lines.append(f"{'':{width}}  {said}  [{low:+.3f}, {high:+.3f}]{_again(other)}")
        if len(one["pairs"]) > 1:
            pairs = ", ".join(f"{pair:+.3f}" for pair in one["pairs"])
            lines.append(f"{'':{width}}  the mean of {len(one['pairs'])} pairs: {pairs}")
    lines.append(
        "This is the luck of the images for these very networks; that of training again is in Welch's test of"
        " replicates" + ("." if not first["difference"].get("both") else ", and both are in the second interval.")
    )
    return lines


def _again(found: dict) -> str:
    """The interval of a difference that holds the luck of training again too, where there are several pairs."""
    return f"; with training again [{found['both'][0]:+.3f}, {found['both'][1]:+.3f}]" if found.get("both") else ""


# ---- label by label
def read_published(path: Path, name: str = "auc") -> dict[str, float]:
    """A CSV of labels and a figure of theirs: label → figure. Raises UserError for another header, a label twice, and
    what is none."""
    table = read_table(path, ["label", name], f"wanted are lines of label,{name}")
    found: dict[str, float] = {}
    for line, (label, text) in enumerate(zip(table["label"].str.strip(), table[name], strict=True), start=2):
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not label or label in found or not 0 <= value <= 1:
            raise UserError(
                f"{shown(path)}, line {line}: {label!r} with {name} {text!r} will not do: every label once, "
                "with a number from 0 to 1"
            )
        found[label] = value
    return found


def label_deltas(side: Side, published: dict[str, float], name: str = "auc") -> dict:
    """The thesis' table 9: a figure of every label, AUC there, minus the published one, over the runs of a side.

    {"labels": rows of label, published, n, ours, delta, sd (NaN: undefined), "only_ours", "only_published": labels}.
    Raises UserError for runs without an AUC a label, and when no label is in both.
    """
    tables = [{row["class"]: row for row in report["per_class"]} for report in side.reports]
    if not all(name in row for one in tables for row in one.values()):
        raise UserError(
            f"the reports of {side.name} hold no {name} of the labels, as table 9 compares: give runs of the"
            " multi-label study"
        )
    both = [label for label in published if label in tables[0]]
    if not both:
        raise UserError(
            f"no label of {side.name} is among the published ones ({some(published)}): both must spell them alike"
        )
    rows = []
    for label in both:
        ours = sample([one[label][name] for one in tables])
        rows.append(
            {
                "label": label,
                "published": published[label],
                "n": ours.n,
                "ours": ours.mean,
                "delta": ours.mean - published[label],
                "sd": ours.sd,
            }
        )
    return {
        "name": side.name,
        "labels": rows,
        "only_ours": [label for label in tables[0] if label not in published],
        "only_published": [label for label in published if label not in tables[0]],
    }


def delta_lines(found: Sequence[dict], source: Path, heading: str = "AUC-ROC") -> list[str]:
    """Table 9 as lines, a column of Δ for every side, mean ± s.d. over its runs."""
    labels = [row["label"] for row in found[0]["labels"]]
    width = max(len("label"), *map(len, labels))
    wide = max(18, *(len(one["name"]) + 4 for one in found))
    n = ", ".join(str(one["labels"][0]["n"]) for one in found)
    lines = [
        f"Δ: {heading} of every label minus that of {shown(source)}, mean ± s.d. over the runs (n = {n})",
        f"{'label':{width}}{'published':>11}" + "".join(f"{'Δ ' + one['name']:>{wide}}" for one in found),
    ]
    for number, label in enumerate(labels):
        own = [one["labels"][number] for one in found]
        cells = [_mean_and_sd(row["delta"], row["sd"], "+.3f") for row in own]
        lines.append(f"{label:{width}}{own[0]['published']:11.3f}" + "".join(f"{cell:>{wide}}" for cell in cells))
    for what, key in (
        ("without a published figure", "only_ours"),
        ("published, but not a label here", "only_published"),
    ):
        if found[0][key]:
            lines.append(f"{what}: {', '.join(found[0][key])}")
    return lines


# ---- the script
def main(argv: list[str]) -> None:
    given = _parsed(argv)
    published = read_published(given.table9) if given.table9 else None
    found = sides(given.sides)
    task = task_of(found)
    with_runs = [side for side in found if side.runs]
    if len(found) < 2 and not (given.table9 or given.table10):
        raise UserError(
            "one side alone is compared with nothing: name two or more, or ask for --table9 CSV or --table10"
        )
    if not with_runs and (given.paired or given.table9 or given.table10):
        raise UserError(
            "--paired, --table9 and --table10 are for runs, and only published results were given: name runs too"
        )
    metrics = _metrics(given.metric or [task.monitor if task else "published"], found)

    names = [side.name for side in found]
    tests = {metric: contrasts(names, [figure(side, task, metric) for side in found]) for metric in metrics}
    pairs, notes = _pairs(task, found, metrics, given.paired)
    deltas = [label_deltas(side, published) for side in with_runs] if given.table9 else []

    lines = [doubt for side in with_runs for doubt in doubts(side)]  # then a table a figure, the pairs, tables 9 and 10
    for metric, rows in tests.items():
        lines += ["", *table(metric, rows)]
    lines += ["", *paired_lines(pairs)] if pairs else []
    lines += notes
    lines += ["", *delta_lines(deltas, given.table9)] if deltas else []
    for side in with_runs if given.table10 else []:
        lines += ["", f"{side.name}:", *task.compare(side.reports)]
    reports = [report for side in found for report in side.reports]
    synthetic = any(report.get("synthetic") for report in reports)
    part = ("test" if "test" in reports[0] else "validation") if reports else None  # the same in all
    head = [SYNTHETIC] * synthetic + ([PARTS[part]] if part else [])
    print("\n".join(head + lines).lstrip("\n"))
    if given.json:
        about = {"synthetic": synthetic, "part": part, "alpha": ALPHA}
        write_json(given.json, _plain({**about, "metrics": tests, "paired": pairs, "table9": deltas}))
        print(f"wrote {shown(given.json)}")
    if given.csv:
        write_rows(given.csv, [_plain({"metric": metric, **row}) for metric, rows in tests.items() for row in rows])
        print(f"wrote {shown(given.csv)}")


def _parsed(argv: list[str]) -> Namespace:
    parser = Parser("compare")
    add = parser.add_argument
    add(
        "sides",
        metavar="A",
        nargs="+",
        help=(
            "[NAME=] a run folder, folders with commas between them, a glob in quotes, or 0.741±0.007,3; the first is"
            " the reference"
        ),
    )
    chosen = "the figures to compare; default: the one that chooses the epoch"
    add("--metric", metavar="NAME", action="append", help=chosen)
    add("--paired", action="store_true", help="pair the runs of groups in their order, on the same images")
    add("--table9", metavar="CSV", type=Path, help="also every label's AUC minus that of a CSV of label,auc")
    add("--table10", action="store_true", help="also what `evaluate` prints of each side's runs")
    add("--json", metavar="FILE", type=Path)
    add("--csv", metavar="FILE", type=Path)
    # a published mean may be negative, and no option is a number
    return parser.parse_args([re.sub(r"^-(?=[\d.])", "−", word) for word in argv])


def _metrics(words: Sequence[str], found: Sequence[Side]) -> list[str]:
    """The names of the figures, each once, of words with commas between them. Raises UserError for several where a side
    is of one."""
    metrics = list(dict.fromkeys(name for word in words for name in word.split(",")))
    if len(metrics) > 1 and not all(side.runs for side in found):
        raise UserError(
            f"a published result is of one figure, and --metric asks for {len(metrics)}: compare them one by one"
        )
    return metrics


def _pairs(
    task: Task | None, found: Sequence[Side], metrics: Sequence[str], asked: bool
) -> tuple[list[dict], list[str]]:
    """The paired differences to the reference: of all sides with runs when asked for, otherwise of single runs where it
    can be."""
    others = [side for side in found[1:] if side.runs and (asked or len(side.runs) == 1)]
    if asked and task.monitor not in metrics:
        raise UserError(f"--paired compares {task.monitor}, which --metric leaves out: name it there too")
    if asked and not (found[0].runs and others):
        raise UserError(
            "--paired is for runs on the same images: the first side, the reference, and another must be runs"
        )
    if not others or task.monitor not in metrics or not (asked or len(found[0].runs) == 1):
        return [], []
    pairs, notes = [], []
    for side in others:
        try:
            pairs.append(paired(task, side, found[0]))
        except UserError as error:
            if asked:
                raise
            notes.append(f"{side.name} is not compared image by image: {error}")
    return pairs, notes


def _plain(value):
    """The same with None for NaN, as JSON and CSV want it."""
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return None if isinstance(value, float) and math.isnan(value) else value


if __name__ == "__main__":
    raise SystemExit(command(main))
