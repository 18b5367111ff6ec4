"""Check a submission and hand it in: `submit.py CSV -m MESSAGE [--data DIR] [--force]`."""

import time
from pathlib import Path

from core import submission
from core.commands import Parser
from core.errors import UserError, command
from core.files import home, read_json, shown
from download import competition
from images import locate
from images.labels import read_ids, read_one_hot
from leaderboard import client
from tasks import registry


def worth_it(path: Path, force: bool) -> None:
    """Refuse what the run's own report speaks against: synthetic data always, a rule below the constant answer unless
    forced."""
    places = [home() / "runs" / path.stem / "report.json", *sorted(path.parent.glob("runs/*/report.json"))]
    report = next((read_json(place) for place in places if place.is_file()), None)
    if report is None:
        print("note: there is no report.json of its run here, so nothing is known of its score")
        return
    if report.get("synthetic"):
        raise UserError(f"{shown(path)} was made from synthetic radiographs: it is no submission")
    try:
        figures, always = report["validation"]["rules"][report["rule"]], report["validation"]["always"]
        said = f"rule {report['rule']} scores {figures['score']:.4f} cross-fitted"
        bar = f"always answering {always['class']} ({always['score']:.4f})"
        worse = figures["over_always"] <= 0
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            "the report.json of its run is of another version of the kit: ./run.sh evaluate RUN makes it anew"
        ) from error
    if worse and not force:
        raise UserError(f"{said}, no better than {bar}: decide it by another rule, or --force")


def scored(slug: str, known: set, name: str) -> str:
    """Wait for the score of the submission that was not known before, and say it."""
    for pause in (1, 5, 10, 20, 30):
        mine = next((row for row in client.submissions(slug) if row.get("ref") not in known), {})
        state = mine.get("status", "PENDING")
        if state.endswith("ERROR"):
            reason = mine.get("errorDescription") or state
            raise UserError(f"Kaggle could not score {name} ({reason}): see {client.submissions_page(slug)}")
        if state != "PENDING":
            return f"{mine.get('fileName')}: {state}, public score {mine.get('publicScore') or 'not yet'}"
        time.sleep(pause)
    return "it is not scored yet: ./run.sh submissions shows it later"


def main(argv: list[str]) -> None:
    parser = Parser("submit")
    parser.add_argument("csv", type=Path)
    parser.add_argument("-m", "--message", required=True)
    parser.add_argument("--config", default="modelB", help="whose competition (modelB)")
    parser.add_argument("--data", metavar="DIR", help="the competition's folder, to check the file against")
    parser.add_argument("--force", action="store_true", help="even when its rule does not beat the constant answer")
    given = parser.parse_args(argv)
    config = competition(given.config)
    source = locate.find(given.data, config.slug, registry.TASKS[config.task].layout)
    if source is None:
        raise UserError(
            "there is no data to check the file against: give the competition's folder with --data DIR, or ./run.sh"
            " download"
        )
    if not given.csv.is_file():
        raise UserError(f"{shown(given.csv)}: there is no such file")
    classes = read_one_hot(source.folder / "train.csv").classes
    submission.validate(given.csv, read_ids(source.folder / "test.csv"), classes)
    worth_it(given.csv, given.force)
    client.owner()
    known = {row.get("ref") for row in client.submissions(config.slug)}
    print(client.submit(given.csv, given.message, config.slug))
    print(scored(config.slug, known, given.csv.name))


if __name__ == "__main__":
    raise SystemExit(command(main))
