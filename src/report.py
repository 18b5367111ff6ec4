"""A run to look at: `report.py RUN` writes RUN/report.html, a page with everything, and RUN/figures/*.png, its pictures
fit to print. Needs torch only for the Grad-CAM of the radiographs that it shows."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import compare
from answers import plots
from answers.plots import Material, Picture
from answers.single_label_report import patients_of
from core import config as settings
from core import page
from core.commands import Parser
from core.errors import UserError, command, some
from core.examples import Example
from core.files import SYNTHETIC, read_json, shown, write_bytes
from core.logits_file import Logits, ids_of, read_logits
from core.page import Block, Code, Facts, Section, Text, Tiles
from core.runs import Run, clock
from core.tables import read_table
from core.task import Beside, Task, Verdict
from images import locate
from tasks import registry
from tasks.opened import Opened, open_run

NEEDED = ("folds.csv", "val_logits.npz", "calibration.json", "report.json")
MATRIX = "confusion"  # a picture that a page shows as a table
EXAMPLES = 6  # radiographs under each heading


@dataclass(frozen=True)
class Drawn:
    """What a page is made of: the run, its headline figures, the material of its pictures, and these."""

    run: Opened
    headline: Mapping[str, float | None]
    material: Material
    pictures: Sequence[tuple[str, Picture]]  # the name in PLOTS of each


def report(folder: Path, labels: Sequence[str] = ()) -> list[Path]:
    """Write the pictures and the page, and return their paths. Nothing is written before all of them are drawn.

    labels: what the pictures of a few labels shall show. Raises UserError for a run that lacks files or whose files do
    not belong together, and for labels that cannot be drawn.
    """
    drawn = draw(folder, labels)
    printed = {folder / "figures" / f"{picture.name}.png": picture.png() for _, picture in drawn.pictures}
    content = page_of(drawn)
    for path, png in printed.items():
        write_bytes(path, png)
    write_bytes(folder / "report.html", content)
    return [*printed, folder / "report.html"]


def write_page(folder: Path) -> Path:
    """The page alone, without the pictures for print."""
    write_bytes(folder / "report.html", page_of(draw(folder, printed=False)))
    return folder / "report.html"


def draw(folder: Path, labels: Sequence[str] = (), printed: bool = True) -> Drawn:
    """Read a run and draw its pictures, without those for print alone where they are not `printed`; see `report`."""
    run = open_run(folder)
    task, about = run.task, run.about
    lacking = [name for name in NEEDED if not (folder / name).is_file()]
    if "baseline" not in about:
        logs = [one.folder / "log.csv" for one in run.networks]
        lacking += [str(log.relative_to(folder)) for log in logs if not log.is_file()]
    if lacking:
        raise UserError(f"{shown(folder)} has no {some(lacking)} yet: run the command that began it once more")
    if labels and not plots.OF_LABELS & set(task.plots):
        raise UserError(
            "--labels is for runs with any number of labels an image: the pictures of this one show all its classes"
        )
    found, headline = _read(run)
    if not labels and set(task.pictured) <= {row["class"] for row in found["per_class"] if row.get("auc") is not None}:
        labels = task.pictured
    material = Material(
        synthetic=bool(about.get("synthetic")),
        histories=_histories(run),
        monitor=task.monitored,
        rule=run.config.rule,
        vals=run.vals,
        tests=_labelled(run, found),
        calibration=run.calibration,
        report=found,
        labels=labels,
        patients=patients_of(ids_of(run.vals), run.rows),
        rows=run.rows,
        predicted=_predicted(run),
    )
    names = [name for name in task.plots if printed or name != MATRIX]
    pictures = [(name, picture) for name in names for picture in plots.draw([name], material)]
    return Drawn(run, headline, material, pictures)


def _read(run: Opened) -> tuple[dict, dict[str, float | None]]:
    """The run's report and its headline figures. Raises UserError for one that is not of the run as it is now."""
    path = run.folder / "report.json"
    found, anew = read_json(path), f"make it again with ./run.sh evaluate {shown(run.folder)}"
    if found.get("rule") != run.config.rule:
        raise UserError(
            f"{shown(path)} is of rule {found.get('rule')} and the run is now decided by {run.config.rule}: {anew}"
        )
    try:
        if [row["class"] for row in found["per_class"]] != run.about["classes"]:
            raise KeyError("the run's classes")
        run.task.lines(found, run.calibration)  # reads all that a page shows
        return found, run.task.headline(found)
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


def _predicted(run: Opened) -> list[Logits] | None:
    """The test logits of every network, labelled or not; None where one lacks them."""
    there = all((one.folder / "test_logits.npz").is_file() for one in run.networks)
    return run.predicted if there else None


# ---- the page
def page_of(drawn: Drawn) -> bytes:
    """The page: what ran, the verdict, then everything behind it."""
    run, material = drawn.run, drawn.material
    pictures: dict[str, list[page.Picture]] = defaultdict(list)
    for name, picture in drawn.pictures:
        if name != MATRIX:
            pictures[name].append(picture.on_page())
    training = pictures["training"]
    sections = [
        *([Section("Training", [Tiles(training, 380)])] if training else []),
        *run.task.sections(material, pictures),
        Section("Radiographs", list(_radiographs(run, material))),
        Section("Images and patients", [_parts(run.rows)]),
        Section("Settings", [Facts(_settings(run.config))]),
        Section("How it was made", [Facts(_facts(run.about))]),
    ]
    return page.page(run.config.name, sections, _lead(drawn), SYNTHETIC if material.synthetic else "")


def _lead(drawn: Drawn) -> list[Block]:
    """What ran on what data, and the verdict."""
    run, about, config = drawn.run, drawn.run.about, drawn.run.config
    kind = about.get("baseline") or config.model
    folds = f" in {len(run.networks)} of {config.folds} folds" if config.crossed else ""
    epochs = [one.about.get("best_epoch") for one in run.networks]
    chosen = f", epoch{'s' * (len(epochs) > 1)} {', '.join(map(str, epochs))}" if any(epochs) else ""
    what = (
        f"{kind} at {config.size} pixels{folds}{chosen}, seed {config.seed}, on {len(run.rows):,} labelled images of"
        f" {Path(about['data']).name} ({config.task}). Not for clinical use."
    )
    verdict = _verdict(run, drawn.material.report)
    beside = page.table(verdict.rows, "What it stands beside; published figures are of other images.", ".3f")
    commands = [Code(verdict.commands)] if verdict.commands else []
    names, part = run.task.headings, "test" if "test" in drawn.material.report else "validation"
    more = "; ".join(f"{names[name]} {page.shown(value, '.3f')}" for name, value in drawn.headline.items())
    return [
        Text([what]),
        Text([verdict.sentence], "verdict"),
        *commands,
        beside,
        Text([f"On the {part} part: {more}."], "note"),
    ]


def _verdict(run: Opened, found: dict) -> Verdict:
    config, about = run.config, run.about
    synthetic = bool(about.get("synthetic"))
    leaderboard = registry.TASKS[config.task].layout.from_kaggle
    finished = about["state"] == "trained"
    beside = Beside(config.name, synthetic, leaderboard, finished, gain(run.folder), run.task.published)
    return run.task.verdict(found, beside)


def gain(folder: Path) -> dict | None:
    """The paired difference of a run to its probe, runs/probe-NAME; None where there is none of the same images, and {}
    for one that is a baseline itself."""
    probe = folder.resolve().parent / f"probe-{folder.resolve().name}"
    if not (probe / "report.json").is_file():
        return None
    try:
        return compare.pair(folder, probe)
    except UserError:
        return None


def _radiographs(run: Opened, material: Material) -> list[Block]:
    """Mistakes and hits worth a look, with their Grad-CAM where the network and the images are at hand."""
    answers = material.answers if run.task.exclusive else None
    content, found = run.task.striking(run.evidence, run.rows, answers, EXAMPLES)
    every = [(heading, example) for heading, examples in found.items() for example in examples]
    seen, reason = _seen(run, material, content, [example for _, example in every])
    blocks: list[Block] = [Text([reason], "note")] if reason else []
    for heading in found:
        own = [(example, seen[place]) for place, (its, example) in enumerate(every) if its == heading]
        if not own:
            blocks.append(Text([f"{heading}: none."]))
        elif any(image for _, image in own):
            blocks += [Text([f"{heading}:"]), Tiles([_tile(content, example, image) for example, image in own], 300)]
        else:
            rows = [
                {"image": str(content.ids[one.row]), "class": str(content.classes[one.label]), "p": one.p, "": one.why}
                for one, _ in own
            ]
            blocks.append(page.table(rows, heading, ".3f"))
    return blocks


def _tile(content: Logits, example: Example, seen: tuple[bytes, str] | None) -> Block:
    name, label = str(content.ids[example.row]), str(content.classes[example.label])
    caption = f"{label}, p = {example.p:.2f}; {example.why} ({name})"
    if seen is None:
        return Text([caption])
    image, note = seen
    caption += f": {note}" * bool(note)
    return page.Picture(image, f"Radiograph {name}, and where {label} is seen in it", caption, 512)


def _seen(
    run: Opened, material: Material, content: Logits, examples: Sequence[Example]
) -> tuple[list[tuple[bytes, str] | None], str]:
    """A picture of every example and what is to be said of its map, None where there is no picture; and why not, or how
    to read them."""
    nothing = [None] * len(examples)
    if run.about.get("baseline"):
        return nothing, "A baseline has no network whose maps could be shown."
    ids = content.ids[[example.row for example in examples]].tolist()
    folder, of_network = Path(run.about["data"]), _networks(material, ids)
    used = [run.networks[number].folder for number in sorted(set(of_network))]
    if not all((one / "best.pt").is_file() for one in used):
        return nothing, "The radiographs are not shown: best.pt, the trained network, is not here."
    try:
        source = locate.opened(folder, shown(folder), run.task.layout)
    except UserError as error:
        return nothing, f"The radiographs are not shown: {error}."
    import explain  # here, for torch takes seconds
    from answers import overlays

    pictures, reasons = list(nothing), []
    for number in sorted(set(of_network)):
        places = [place for place, its in enumerate(of_network) if its == number]
        one = run.networks[number]
        try:
            found = explain.radiographs(Run(one.folder), source, one.task, content, [examples[n] for n in places])
        except UserError as error:
            return nothing, f"The radiographs are not shown: {error}."
        for place, (image, heat, kind) in zip(places, found, strict=True):
            if heat is None:
                reasons.append(kind)
                pictures[place] = overlays.pair(image, None), ""
            else:
                pictures[place] = overlays.pair(image, heat, kind), explain.cam.KINDS[kind]
    maps = f"Without maps: {reasons[0]}." if reasons else MAPS
    return pictures, maps


MAPS = (
    "Left the radiograph as the network saw it, right the same under its Grad-CAM: yellow is where the logit of the"
    " named class comes from. Of a cross-validation, by the network that did not see the image."
)


def _networks(material: Material, ids: Sequence[str]) -> list[int]:
    """The network that judges each image: of a validation image that of its fold, of others the first."""
    number = {one: place for place, val in enumerate(material.vals) for one in val.ids.tolist()}
    return [number.get(one, 0) for one in ids]


def _parts(rows: Mapping[str, Mapping[str, str]]) -> page.Table:
    """The number of images of every part, and of patients where they are known."""
    by = "fold" if next(iter(rows.values()), {}).get("fold") else "part"
    images, patients = Counter(), defaultdict(set)
    for row in rows.values():
        images[row.get(by, "")] += 1
        patients[row.get(by, "")].add(row.get("patient") or "")
    known = "patient" in next(iter(rows.values()), {})
    found = [
        {by: part or "test", "images": number} | ({"patients": len(patients[part] - {""})} if known else {})
        for part, number in sorted(images.items())
    ]
    return page.table(found, "How the labelled images are parted.")


def _settings(config: settings.Config) -> dict[str, str]:
    return {
        key: settings.spelled(value) if key == "imbalance" else _inline(value)
        for key, value in config.model_dump().items()
    }


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
        **{f"time to {stage}": clock(seconds) for stage, seconds in about.get("timings", {}).items()},
        "digest of the data": about.get("digest"),
        "digest of the split": about.get("split"),
    }
    return {name: value for name, value in facts.items() if value not in (None, "")}


def _inline(value) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {part}" for key, part in value.items())
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else "" if value is None else str(value)


def main(argv: list[str]) -> None:
    parser = Parser("report")
    parser.add_argument("run", metavar="RUN", type=Path)
    parser.add_argument(
        "--labels",
        metavar="NAME,NAME,...",
        default="",
        help="for the pictures that show a few of many labels; otherwise the thesis' four, or the most frequent",
    )
    given = parser.parse_args(argv)
    labels = list(dict.fromkeys(name.strip() for name in given.labels.split(",") if name.strip()))
    for path in report(given.run, labels):
        print(f"wrote {shown(path)}")


if __name__ == "__main__":
    raise SystemExit(command(main))
