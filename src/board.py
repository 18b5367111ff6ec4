"""Where all runs stand: `board.py [--offline]` prints a table and writes board.html, with what was submitted and the
gap between validation and leaderboard. Needs no torch."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from core import page
from core.commands import Parser
from core.errors import UserError, command
from core.files import SYNTHETIC, home, read_json, shown, write_bytes
from core.page import Cell, Section, Text
from core.task import Standing
from leaderboard import client
from tasks.opened import Opened, open_run

PATIENCE = 10.0  # seconds that Kaggle is asked for
OTHER = "other"  # the column that says in what a run cannot be compared with the most
SAME = {"digest": "data", "split": "split", "commit": "commit"}  # in run.json: by what runs are comparable


@dataclass(frozen=True)
class Entry:
    """A run with a report. `rivals` are the digests of what it learned from, its split and its commit."""

    run: Opened
    standing: Standing
    minutes: float | None
    over_probe: float | None = None
    submitted: Mapping = field(default_factory=dict)  # the newest of its submissions, as Kaggle lists it

    @property
    def name(self) -> str:
        return self.run.folder.name

    @property
    def main(self) -> float:
        """The figure that it is ranked by."""
        found = self.standing.auc if self.standing.score is None else self.standing.score
        return float("-inf") if found is None else found

    @property
    def rivals(self) -> tuple:
        about = self.run.about
        return (self.run.config.task, *(about.get(key) for key in SAME))

    @property
    def public(self) -> float | None:
        return _score(self.submitted)

    @property
    def gap(self) -> float | None:
        score = self.standing.score
        return None if self.public is None or score is None else self.public - score


def _score(submission: Mapping) -> float | None:
    try:
        return float(submission["publicScore"])
    except (KeyError, TypeError, ValueError):
        return None


# ---- what is there
def entries() -> tuple[list[Entry], dict[str, str]]:
    """The runs below runs/ that have a report, the best of each task first; and of the others what is missing."""
    found, missing = {}, {}
    for folder in sorted(path for path in (home() / "runs").glob("*") if path.is_dir()):
        try:
            found[folder.name] = _entry(folder)
        except UserError as error:
            missing[folder.name] = str(error)
    return _ranked([_beside(one, found.get(f"probe-{name}")) for name, one in found.items()]), missing


def _entry(folder: Path) -> Entry:
    """Raises UserError for a run that is no run, is unfinished or damaged."""
    run = open_run(folder)
    task = run.task  # also reads its settings
    if not (folder / "report.json").is_file():
        raise UserError(f"state {run.about['state']}, no report.json yet: run the command that began it once more")
    report = read_json(folder / "report.json")
    try:
        return Entry(run, task.standing(report), _minutes(run.about))
    except (KeyError, TypeError, AttributeError) as error:
        again = f"make it again with ./run.sh evaluate {shown(folder)}"
        raise UserError(f"report.json is damaged or of another version (it lacks {error}): {again}") from error


def _minutes(about: Mapping) -> float | None:
    try:
        return sum(about["timings"].values()) / 60 or None
    except KeyError:
        return None
    except TypeError as error:
        raise UserError("run.json is damaged: its timings are no numbers") from error


def _beside(one: Entry, probe: Entry | None) -> Entry:
    """With what it gains over its probe, where both are of the same images."""
    same = probe and all(one.run.about.get(key) == probe.run.about.get(key) for key in ("digest", "split"))
    return replace(one, over_probe=one.main - probe.main) if same else one


def _ranked(found: Sequence[Entry]) -> list[Entry]:
    return sorted(found, key=lambda one: (one.run.config.task, -one.main, one.name))


def groups(found: Sequence[Entry]) -> dict[tuple, str]:
    """A letter for every set of runs that can be compared: of one task, the same data, split and commit; A is the
    largest."""
    often = Counter(one.rivals for one in found)
    order = sorted(often, key=lambda rivals: -often[rivals])
    return {rivals: _letter(place) for place, rivals in enumerate(order)}


def _letter(place: int) -> str:
    return (_letter(place // 26 - 1) if place >= 26 else "") + chr(65 + place % 26)


def differs(one: Entry, others: Sequence[Entry]) -> str:
    """In what a run differs from the largest group of its task, so that it cannot be compared with it; of other data
    all else is other, too."""
    kin = Counter(other.rivals for other in others if other.rivals[0] == one.rivals[0])
    largest = max(kin, key=lambda rivals: kin[rivals])
    said = [what for what, own, its in zip(SAME.values(), one.rivals[1:], largest[1:], strict=True) if own != its]
    return "data" if "data" in said else ", ".join(said)


# ---- what was submitted
def submitted(found: Sequence[Entry], offline: bool) -> tuple[list[dict], str]:
    """Kaggle's own list of what was submitted to the competitions of these runs, the newest first; and why it is not
    there, or nothing."""
    slugs = {one.run.config.slug for one in found if one.run.task.layout.from_kaggle}
    if not slugs:
        return [], "No run here belongs to a competition, so nothing was submitted."
    if offline:
        return [], "Kaggle was not asked (--offline): nothing is known of what was submitted."
    if not client.has_credentials():
        return [], "There are no Kaggle credentials: nothing is known of what was submitted."
    try:
        return [row for slug in sorted(slugs) for row in client.submissions(slug, PATIENCE)], ""
    except UserError as error:
        return [], f"Kaggle could not be asked, so nothing is known of what was submitted: {error}."


def joined(found: Sequence[Entry], rows: Sequence[Mapping]) -> list[Entry]:
    """Every run with the newest submission of its file, NAME.csv."""
    newest = {row.get("fileName"): row for row in reversed(rows)}
    return [replace(one, submitted=newest.get(f"{one.name}.csv", {})) for one in found]


# ---- shown
def table(found: Sequence[Entry]) -> list[dict]:
    """A row a run."""
    letters, rows = groups(found), []
    for one in found:
        config, about, its = one.run.config, one.run.about, one.standing
        many = f"{config.folds} folds" if config.crossed else f"seed {config.seed}"
        kind = about.get("baseline") and "regression" or config.model
        rows.append(
            {
                "run": Cell(one.name, link=_page_of(one)), "score": page.estimate(its.score, its.interval),
                "AUC": page.estimate(its.auc, its.auc_interval), "NLL": its.nll,
                "over probe": Cell(one.over_probe, page.shown(one.over_probe, "+.3f")),
                "leaderboard": one.public, "its gap": Cell(one.gap, page.shown(one.gap, "+.3f")),
                "set": letters[one.rivals], OTHER: differs(one, found), "size": config.size,
                "seed or folds": many + " (synthetic)" * bool(about.get("synthetic")),
                "minutes": Cell(one.minutes, page.shown(one.minutes, ".1f")), "config": f"{config.task}, {kind}",
                "rule": config.rule, "state": about["state"], "device": about.get("machine") or "",
            }
        )  # fmt: skip
    return rows


def _page_of(one: Entry) -> str:
    return f"runs/{one.name}/report.html" if (one.run.folder / "report.html").is_file() else ""


def lines(rows: Sequence[Mapping]) -> list[str]:
    """The table as it is printed: without what stands on the page alone."""
    names = [name for name in rows[0] if name not in ("config", "rule", "state", "device")] if rows else []
    cells = [names]
    cells += [[_plain(row[name]) for name in names] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]


def _plain(value) -> str:
    value = value if isinstance(value, Cell) else Cell(value)
    if value.text or value.value is None:
        return value.text or "–"
    return page.shown(value.value, ".3f") if isinstance(value.value, float) else str(value.value)


def page_of(found: Sequence[Entry], missing: Mapping[str, str], rows: Sequence[Mapping], why: str) -> bytes:
    """The page of these runs, of what is missing and of what was submitted."""
    look = home() / "data.html"
    lead = [Text([f"{len(found)} runs with a report, {len(missing)} without one."])]
    if look.is_file():
        lead.append(page.table([{"page": Cell("What the data are", link=look.name)}], "Beside this page."))
    sections = [Section("Runs", [_runs(found)] if found else [Text(["There is no run with a report yet."])])]
    sections.append(Section("Leaderboard", _leaderboard(found, rows, why)))
    if missing:
        told = [{"run": name, "what is missing": reason} for name, reason in missing.items()]
        sections.append(Section("Without figures", [page.table(told, "Runs that are unfinished or damaged.")]))
    synthetic = bool(found) and all(one.run.about.get("synthetic") for one in found)
    return page.page("Where all runs stand", sections, lead, SYNTHETIC if synthetic else "")


def _runs(found: Sequence[Entry]) -> page.Table:
    caption = (
        "Score: of the run's rule on its validation images, cross-fitted, with its 95 % interval; AUC: macro. NLL: of"
        " the calibrated posterior. Over probe: the difference to runs/probe-NAME in the score, or in the AUC where"
        " there is none. Runs of one letter (set) have the same task, data, split and commit; others cannot be"
        " compared, and the column other says in what they differ from the most of their task."
    )
    return page.table(table(found), caption, ".3f")


def _leaderboard(found: Sequence[Entry], rows: Sequence[Mapping], why: str) -> list[page.Block]:
    if why:
        return [Text([why])]
    if not rows:
        return [Text(["Nothing was submitted yet."])]
    of = {f"{one.name}.csv": one for one in found}
    told = []
    for row in rows:
        one, public = of.get(row.get("fileName")), _score(row)
        score = one.standing.score if one else None
        gap = None if public is None or score is None else public - score
        told.append(
            {
                "date": str(row.get("date") or "")[:16], "file": str(row.get("fileName")),
                "run": one.name if one else None,
                "message": str(row.get("description") or ""), "status": row["status"], "public score": public,
                "validation": score, "gap": Cell(gap, page.shown(gap, "+.3f")),
            }
        )  # fmt: skip
    blocks: list[page.Block] = [page.table(told, "What was submitted, joined to the run of the file's name.", ".3f")]
    return [*blocks, gaps(found)] if any(one.gap is not None for one in found) else blocks


def gaps(found: Sequence[Entry]) -> page.Picture:
    """The leaderboard's score over that of validation: whether validation can be trusted."""
    from matplotlib.figure import Figure

    known = [one for one in found if one.gap is not None]
    figure = Figure(figsize=(4.5, 3.6), layout="constrained")
    axis = figure.subplots()
    for one in known:
        low, high = one.standing.interval
        axis.plot([low, high], [one.public] * 2, color="#0072B2", linewidth=1)
        axis.plot(one.standing.score, one.public, "o", color="#0072B2")
        axis.annotate(
            one.name, (one.standing.score, one.public), (3, 4), textcoords="offset points", fontsize=8, parse_math=False
        )
    ends = [value for one in known for value in (*one.standing.interval, one.public)]
    axis.plot([min(ends), max(ends)], [min(ends), max(ends)], color="#595959", linewidth=0.8, linestyle="--")
    axis.set(xlabel="validation, cross-fitted, with 95 % interval", ylabel="public leaderboard")
    caption = "Leaderboard and validation. On the dashed line both agree; below it validation promised too much."
    return page.drawn(figure, "The leaderboard's score of every submitted run over its validation score", caption)


def main(argv: list[str]) -> None:
    parser = Parser("board")
    parser.add_argument("--offline", action="store_true", help="do not ask Kaggle what was submitted")
    given = parser.parse_args(argv)
    found, missing = entries()
    if not found and not missing:
        raise UserError(f"there is no run in {shown(home() / 'runs')} yet: ./run.sh modelB makes one")
    rows, why = submitted(found, given.offline)
    found = joined(found, rows)
    print(
        "\n".join(
            [*lines(table(found)), *(f"{name}: {reason}" for name, reason in missing.items()), *filter(None, [why])]
        )
    )
    write_bytes(home() / "board.html", page_of(found, missing, rows, why))
    print(f"wrote {shown(home() / 'board.html')}")


if __name__ == "__main__":
    raise SystemExit(command(main))
