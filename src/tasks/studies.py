"""Studies: a YAML file below configs/experiments/ that asks a question, the cells it is answered by, and their table.

A cell is one row of the table with one seed. It is named by a digest of its effective configuration; so is the run that
it is decided from, without what does not change training: cells that differ in rule or temperature share a run, and so
do studies that ask for the same.
"""

import difflib
import itertools
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from answers import stats
from core import config as settings
from core.config import Config
from core.errors import UserError, some
from core.files import ROOT, SYNTHETIC, digest, read_json, shown
from core.task import Task
from tasks import registry

Value = bool | int | float | str | list
Settings = dict[str, Value]
Mean = tuple[float, float | None]  # and its standard deviation, where it is known
TOY_SEEDS = 2
PUBLISHED = 3  # replicates of every published mean


class Study(BaseModel):
    """The file. `rows` or `grid` is wanted; a row may name a `config` of its own."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    title: str
    question: str
    source: str  # which table of which document
    config: str  # a name below configs/
    base: Settings = {}  # of all rows
    rows: dict[str, Settings] = {}  # label → settings
    grid: dict[str, Annotated[list[Value], Field(min_length=1)]] = {}  # key → values: their product, labelled key=value
    seeds: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
    metrics: Annotated[list[str], Field(min_length=1)]  # names in Task.headings
    reference: str  # the row that the others are tested against
    published: dict[str, dict[str, Mean]] = {}  # row → metric → mean and s.d.
    per_label: dict[str, str] = {}  # figure of a label → a file in configs/published/ that each row is held against
    toy: dict[
        str, Value | dict[str, Value]
    ] = {}  # laid over by --toy; a mapping replaces what the row asks for by something small

    @field_validator("rows", "grid", "published", "toy", "base", mode="before")
    @classmethod
    def _text_keys(cls, value):
        def text(node):
            return {str(key): text(below) for key, below in node.items()} if isinstance(node, dict) else node

        return text(value)

    @field_validator("reference", "config", mode="before")
    @classmethod
    def _text(cls, value):
        return str(value) if isinstance(value, int | float) else value

    @field_validator("seeds", "metrics")
    @classmethod
    def _once_each(cls, value):
        if len(set(value)) < len(value):
            raise ValueError("each is wanted once")
        return value

    @model_validator(mode="after")
    def _one_table(self):
        if bool(self.rows) == bool(self.grid):
            raise ValueError("either rows or grid is wanted, and not both")
        for what, names in (("reference", [self.reference]), ("published", self.published)):
            for name in names:
                if name not in self.asked:
                    near = difflib.get_close_matches(name, self.asked, 1)
                    hint = f"did you mean {near[0]!r}?" if near else f"there are {some(self.asked)}"
                    raise ValueError(f"{what} names the row {name!r}, and there is none; {hint}")
        for row, figures in self.published.items():
            if odd := [name for name in figures if name not in self.metrics]:
                raise ValueError(f"published gives {odd[0]} of {row!r}, which is not among the metrics")
        return self

    @property
    def asked(self) -> dict[str, Settings]:
        """Row label → its settings."""
        if self.rows:
            return self.rows
        return {
            ", ".join(f"{key}={value}" for key, value in zip(self.grid, values, strict=True)): dict(
                zip(self.grid, values, strict=True)
            )
            for values in itertools.product(*self.grid.values())
        }


@dataclass(frozen=True)
class Cell:
    """One row with one seed: its effective configuration, and the command line of the main job that asks for it."""

    row: str
    config: Config
    words: tuple[str, ...]  # CONFIG key=value …

    @property
    def said(self) -> str:
        return f"{self.row}, seed {self.config.seed}"

    @property
    def key(self) -> str:
        return self._digest(settings.NO_RESULT)

    def run(self, data: str) -> str:
        """The name of the run that this cell is decided from; `data` names the data set."""
        return f"cell-{digest(f'{self._digest(settings.INDIFFERENT)} {data}'.encode())}"

    def _digest(self, without: set[str]) -> str:
        kept = {key: value for key, value in self.config.meaning.items() if key not in without}
        return digest(json.dumps(kept, sort_keys=True).encode())


def read(name: str) -> tuple[Path, Study]:
    """A study by path, or by its name below configs/experiments/. Raises UserError for a missing, unreadable or faulty
    file."""
    places = [Path(name), ROOT / "configs" / "experiments" / f"{name}.yaml"]
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        known = sorted(place.stem for place in places[1].parent.glob("*.yaml"))
        raise UserError(f"there is no study {name}; give a .yaml file, or one of {', '.join(known)}")
    content = settings.read_yaml(path)
    try:
        return path, Study(**{str(key): value for key, value in content.items()})
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"][:3])
        if first["type"] == "extra_forbidden":
            near = difflib.get_close_matches(key, Study.model_fields, 1)
            hint = f"did you mean {near[0]}?" if near else f"the keys are {', '.join(Study.model_fields)}"
            raise UserError(f"{shown(path)}: unknown key {key}; {hint}") from error
        reason = first["msg"].removeprefix("Value error, ")
        said = (
            f"the key {key} is missing"
            if first["type"] == "missing"
            else f"{key}: {reason[0].lower()}{reason[1:]}"
            if key
            else reason
        )
        raise UserError(f"{shown(path)}: {said}") from error


def cells(
    study: Study,
    path: Path,
    extra: Sequence[str] = (),
    synthetic: bool = False,
    quick: bool = False,
    toy: bool = False,
    check: Callable[[Config, Task], None] = lambda config, task: None,
) -> list[Cell]:
    """All cells, one seed after the other, so that a study that is stopped has something of every row.

    Laid over each other: the configuration, with `quick` its demo settings, the study's base, the row, with `toy` the
    study's toy settings, then `extra` (`key=value`) for all rows. `check` is what the main job checks of a
    configuration. Raises UserError for a row that is no valid configuration, naming it, for rows of different tasks,
    and for metrics that the task does not have.
    """
    found = []
    for seed in study.seeds[:TOY_SEEDS] if toy else study.seeds:
        for row, own in study.asked.items():
            asked = study.base | own
            name = str(asked.pop("config", study.config))
            try:
                words = [*_words(asked), *(_toy(study, registry.load(name, _words(asked))) if toy else [])]
                for word in (*words, *extra):
                    if word.partition("=")[0] in ("name", "seed", "task"):
                        raise UserError(
                            f"({word}): the study names its runs and counts their seeds (seeds), so leave it out"
                        )
                words = (name, *words, *extra, f"seed={seed}")
                config = registry.load(name, words[1:], synthetic, quick)
                check(config, registry.task_of(config))
            except UserError as error:
                said = str(error).removeprefix("the command line ")
                raise UserError(f"{shown(path)}, row {row!r}{' ' if said.startswith('(') else ': '}{said}") from error
            found.append(Cell(row, config, words))
    other = next(
        (
            cell
            for cell in found
            if (type(cell.config), cell.config.slug) != (type(found[0].config), found[0].config.slug)
        ),
        None,
    )
    if other:
        raise UserError(
            f"{shown(path)}: rows {found[0].row!r} and {other.row!r} are of different tasks or data sets, and one table"
            " has one of each"
        )
    figures = task_of(found).headings
    if odd := [name for name in study.metrics if name not in figures]:
        raise UserError(
            f"{shown(path)}: metrics names {odd[0]}, which is no figure of a {found[0].config.task} run; there are"
            f" {some(figures)}"
        )
    return found


def task_of(cells: Sequence[Cell]) -> Task:
    return registry.task_of(cells[0].config)


def _words(asked: Mapping[str, Value]) -> list[str]:
    return [f"{key}={json.dumps(value) if isinstance(value, bool | list) else value}" for key, value in asked.items()]


def _toy(study: Study, asked: Config) -> list[str]:
    """The toy settings, with every mapping looked up by what the row asks for."""
    found, now = {}, asked.model_dump()
    for key, value in study.toy.items():
        if isinstance(value, dict):
            if str(now.get(key)) not in value:
                raise UserError(
                    f"(toy): {key} = {now.get(key)} has no small replacement; there are some for {some(value)}"
                )
            value = value[str(now[key])]
        found[key] = value
    return _words(found)


def same(cells: Iterable[Cell]) -> list[list[str]]:
    """The rows that ask for one and the same, in groups."""
    rows: dict[str, list[str]] = {}
    for cell in cells:
        at = rows.setdefault(cell.key, [])
        at += [cell.row] * (cell.row not in at)
    return [list(group) for group in dict.fromkeys(tuple(group) for group in rows.values() if len(group) > 1)]


def collected(folders: Sequence[Path], wanted: Sequence[Cell]) -> dict[str, dict]:
    """The records of finished cells that lie in several studies' folders, by cell key.

    Raises UserError for a folder without cells, for cells of different data sets, and for two different results of one
    cell.
    """
    found: dict[str, tuple[Path, dict]] = {}
    keys = {cell.key: cell for cell in wanted}
    for folder in folders:
        paths = sorted((folder / "cells" if (folder / "cells").is_dir() else folder).glob("*-*.json"))
        if not paths:
            raise UserError(
                f"{shown(folder)} holds no finished cells: give folders like studies/NAME, as `experiment` leaves them"
            )
        for path in paths:
            key, record = path.name.partition("-")[0], read_json(path)
            if key not in keys:
                continue
            before, known = found.setdefault(key, (path, record))
            if known["figures"] != record["figures"]:
                raise UserError(
                    f"{keys[key].said} has two different results, in {shown(before)} and {shown(path)}: take one of"
                    " them away"
                )
    data = {record["labels"]: path for path, record in found.values()}
    if len(data) > 1:
        raise UserError(
            "the cells are of different data sets, for example"
            f" {' and '.join(shown(path) for path in list(data.values())[:2])}: collect those of one"
        )
    return {key: record for key, (_, record) in found.items()}


# ---- the table
def table(study: Study, cells: Sequence[Cell], records: Mapping[str, dict], toy: bool) -> dict:
    """The whole table: a row has n, its network's parameters, and of every metric the values, mean, s.d. (ddof 1), what
    was published, and Welch's test against the reference row. What is undefined is None."""
    there = [records[cell.key] for cell in cells if cell.key in records]
    figures = task_of(cells).headings
    found = []
    for row in study.asked:
        own = [records[cell.key] for cell in cells if cell.row == row and cell.key in records]
        columns = {
            name: _column([record["figures"].get(name) for record in own], study.published.get(row, {}).get(name))
            for name in study.metrics
        }
        found.append(
            {
                "row": row,
                "n": len(own),
                **{what: own[0][what] if own else None for what in ("parameters", "trainable")},
                "metrics": columns,
            }
        )
    reference = next(row for row in found if row["row"] == study.reference)
    for row in found:
        for name, column in row["metrics"].items():
            column["welch"] = _welch(column, reference["metrics"][name]) if row is not reference else None
    return {
        "title": study.title,
        "question": study.question,
        "source": study.source,
        "toy": toy,
        "synthetic": any(record["synthetic"] for record in there),
        "part": there[0]["part"] if there else None,
        "reference": study.reference,
        "headings": {name: figures[name] for name in study.metrics},
        "rows": found,
        "missing": [cell.said for cell in cells if cell.key not in records],
    }


def _column(values: list[float | None], published: Mean | None) -> dict:
    whole = None not in values
    return {
        "values": values,
        "mean": float(np.mean(values)) if values and whole else None,
        "sd": float(np.std(values, ddof=1)) if len(values) > 1 and whole else None,
        "published": list(published) if published else None,
    }


def _welch(ours: dict, reference: dict) -> dict | None:
    if ours["sd"] is None or reference["sd"] is None:
        return None
    test = stats.welch(
        *(value for each in (ours, reference) for value in (each["mean"], each["sd"], len(each["values"])))
    )
    return None if math.isnan(test.t) else test._asdict()


def csv_rows(table: dict) -> list[dict]:
    """The table as rows of a CSV file, six columns a metric and two for what was published."""
    found = []
    for row in table["rows"]:
        line = {what: row[what] for what in ("row", "n", "parameters", "trainable")}
        for name, column in row["metrics"].items():
            published, test = column["published"] or (None, None), column["welch"] or {}
            line |= {
                f"{name}_mean": column["mean"],
                f"{name}_sd": column["sd"],
                f"{name}_published": published[0],
                f"{name}_published_sd": published[1],
            }
            line |= {
                f"{name}_{what}": test.get(key)
                for what, key in (("t", "t"), ("t_critical", "critical"), ("df", "df"), ("p", "p"))
            }
        found.append(line)
    return found


def lines(table: dict) -> list[str]:
    """The table in Markdown, as it is printed and kept in table.md."""
    headings = table["headings"]
    told = {name for name in headings if any(row["metrics"][name]["published"] for row in table["rows"])}
    spread = any(
        (row["metrics"][name]["published"] or (None, None))[1] is not None for row in table["rows"] for name in told
    )
    grid = [["", "n", "M parameters (trained)"]]
    for name, title in headings.items():
        grid[0] += [title, *["published"] * (name in told)]
    for row in table["rows"]:
        size = f"{row['parameters'] / 1e6:.2f} ({row['trainable'] / 1e6:.2f})" if row["parameters"] else "–"
        line = [row["row"].replace("|", "\\|"), str(row["n"]), size]
        for name in headings:
            column = row["metrics"][name]
            line += [
                _shown(column["mean"], column["sd"]),
                *[_shown(*(column["published"] or (None, None)))] * (name in told),
            ]
        grid.append(line)
    width = [max(map(len, column)) for column in zip(*grid, strict=True)]
    cells = [
        [f"{cell:{'>' if place else '<'}{wide}}" for place, (cell, wide) in enumerate(zip(line, width, strict=True))]
        for line in grid
    ]
    drawn = [f"| {' | '.join(line)} |" for line in cells]
    rule = "|" + "|".join("-" * (wide + 1) + ("-" if not place else ":") for place, wide in enumerate(width)) + "|"
    return [
        f"# {table['title']}",
        "",
        table["question"],
        "",
        *["TOY: tiny networks and an epoch or two: these figures only show that the study runs", ""] * table["toy"],
        *[SYNTHETIC, ""] * table["synthetic"],
        drawn[0],
        rule,
        *drawn[1:],
        "",
        f"Mean ± s.d. over n seeds{', ' + table['part'] + ' part' if table['part'] else ''}."
        + f" Published: k = {PUBLISHED}." * spread,
        "",
        *_tests(table),
        *[f"Missing, {len(table['missing'])} cells: {'; '.join(table['missing'])}.", ""] * bool(table["missing"]),
        f"Asked as in: {table['source']}.",
    ]


def _shown(mean: float | None, sd: float | None) -> str:
    return "–" if mean is None else f"{mean:.3f}" + ("" if sd is None else f" ± {sd:.3f}")


def _tests(table: dict) -> list[str]:
    """A line a row: |t| beside t*, df and p of every metric, as the thesis prints them."""
    found = []
    for row in table["rows"]:
        tests = {title: row["metrics"][name]["welch"] for name, title in table["headings"].items()}
        said = [
            f"{title}: |t| = {abs(test['t']):.2f} {'>' if abs(test['t']) > test['critical'] else '<'} t* ="
            f" {test['critical']:.2f}, df = {test['df']:.1f}, "
            + ("p < 0.001" if test["p"] < 0.001 else f"p = {test['p']:.3f}")
            for title, test in tests.items()
            if test
        ]
        found += [f"- {row['row']}: {'; '.join(said)}"] * bool(said)
    return [f"Welch's t-test (two-sided, α = 0.05) against {table['reference']}:", "", *found, ""] if found else []
