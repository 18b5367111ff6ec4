"""Synthetic data sets in the layouts of the real ones: something to run on when no data is at hand.

The pictures are drawn in phantom.py; here stands who has what, and which files say so. A layout is a function that
plans a set, and an entry of LAYOUTS.
"""

import csv
import datetime
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from core.errors import UserError
from core.files import digest, home, shown, write_json
from images import phantom
from images.phantom import Sign

IMAGES, SIZE, SEED = 1500, 128, 0
FEWEST, MOST = 60, 10**6  # images of any set
LEAST = 57  # images of the competition's rarest class: 15 for the test part, 15 for validation, 27 to learn from
TEST_SHARE = 0.27
FULL_IMAGES, FULL_TEST_SHARE = 68_058, 0.25  # the competition's own: 51,043 to train and 17,015 to test
HARDNESS = 2.0  # of the full set: its signs are as plain as an even draw from 0 to 1, to this power (configs/README.md)
NO_FINDING = "No Finding"

# Name of every class of the competition, in its order → (sign, images): those of the training set of NIH-CXR-LT with
# one label each, which the competition parts 75:25, class by class, into what it trains and what it tests
SIGNS: dict[str, tuple[Sign | None, int]] = {
    "Atelectasis": (phantom.atelectasis, 3135),
    "Cardiomegaly": (phantom.cardiomegaly, 800),
    "Consolidation": (phantom.consolidation, 868),
    "Edema": (phantom.edema, 435),
    "Effusion": (phantom.effusion, 2875),
    "Emphysema": (phantom.emphysema, 229),
    "Fibrosis": (phantom.fibrosis, 519),
    "Hernia": (phantom.hernia, 49),
    "Infiltration": (phantom.infiltration, 6941),
    "Mass": (phantom.mass, 1665),
    "Nodule": (phantom.nodule, 2036),
    "Pleural_Thickening": (phantom.pleural_thickening, 811),
    "Pneumonia": (phantom.pneumonia, 213),
    "Pneumothorax": (phantom.pneumothorax, 1485),
    "Pneumoperitoneum": (phantom.pneumoperitoneum, 59),
    "Pneumomediastinum": (phantom.pneumomediastinum, 7),
    "Subcutaneous Emphysema": (phantom.subcutaneous_emphysema, 32),
    "Tortuous Aorta": (phantom.tortuous_aorta, 339),
    "Calcification of the Aorta": (phantom.calcified_aorta, 121),
    NO_FINDING: (None, 45439),
}

# PadChest's label → (sign, prevalence, growth of the logarithm of the prevalence with 18 years of age). The first nine,
# with
# `unchanged`, are the thesis' ten, in the order of their real prevalences, which are raised here so that 1,500 images
# suffice; the
# others show nothing and stand there to be left out. `unchanged` compares with an earlier image: `padchest_rows` gives
# it.
PADCHEST: dict[str, tuple[Sign | None, float, float]] = {
    "cardiomegaly": (phantom.cardiomegaly, 0.140, 0.2),
    "aortic elongation": (phantom.tortuous_aorta, 0.130, 0.6),
    "scoliosis": (phantom.scoliosis, 0.105, 0.0),
    "costophrenic angle blunting": (phantom.costophrenic_blunting, 0.090, 0.0),
    "air trapping": (phantom.emphysema, 0.085, 0.2),
    "pleural effusion": (phantom.effusion, 0.080, 0.0),
    "interstitial pattern": (phantom.fibrosis, 0.075, 0.0),
    "vertebral degenerative changes": (phantom.vertebral_degeneration, 0.070, 0.6),
    "laminar atelectasis": (phantom.atelectasis, 0.065, 0.0),
    "COPD signs": (None, 0.090, 0.2),
    "chronic changes": (None, 0.050, 0.2),
    "pacemaker": (None, 0.015, 0.4),
}
ILL = 0.6  # of the patients; the others never have a finding
PERSISTS = 0.7  # chance of a finding to be there in the patient's next image
UNCHANGED_FIRST, UNCHANGED_LATER = 0.02, 0.45  # chance of `unchanged` in a patient's first image and in the others
IMAGES_OF_A_PATIENT = 0.77, 0.17, 0.06  # shares of patients with 1, 2 and 3
# → (view position, share)
PROJECTIONS = {"PA": ("POSTEROANTERIOR", 0.78), "L": ("LATERAL", 0.14), "AP_horizontal": ("", 0.08)}
COLUMNS = (  # of PadChest's label file; the first is pandas' unnamed index
    "", "ImageID", "ImageDir", "StudyDate_DICOM", "StudyID", "PatientID", "PatientBirth", "PatientSex_DICOM",
    "ViewPosition_DICOM", "Projection", "MethodProjection", "Pediatric", "Modality_DICOM", "Manufacturer_DICOM",
    "PhotometricInterpretation_DICOM", "PixelRepresentation_DICOM", "PixelAspectRatio_DICOM", "SpatialResolution_DICOM",
    "BitsStored_DICOM", "WindowCenter_DICOM", "WindowWidth_DICOM", "Rows_DICOM", "Columns_DICOM",
    "XRayTubeCurrent_DICOM", "Exposure_DICOM", "ExposureInuAs_DICOM", "ExposureTime", "RelativeXRayExposure_DICOM",
    "ReportID", "Report", "MethodLabel", "Labels", "Localizations", "LabelsLocalizationsBySentence", "labelCUIS",
    "LocalizationsCUIS",
)  # fmt: skip
ALIKE = {  # in every row; a column that is not filled says None, as in PadChest
    "MethodProjection": "Manual review of DICOM fields",
    "Pediatric": "No",
    "Modality_DICOM": "CR",
    "Manufacturer_DICOM": "synthetic",
    "PhotometricInterpretation_DICOM": "MONOCHROME2",
    "PixelRepresentation_DICOM": 0,
    "BitsStored_DICOM": 16,
    "WindowCenter_DICOM": 32768,
    "WindowWidth_DICOM": 65536,
    "Report": "synthetic",
    "Localizations": "[]",
    "labelCUIS": "[]",
    "LocalizationsCUIS": "[]",
}


@dataclass(frozen=True)
class Plan:
    """A data set before it is drawn: pictures as (path below images/, signs), tables as name → rows, the header
    first, and how plain the signs of every picture are (see phantom.py)."""

    pictures: list[tuple[str, list[Sign]]]
    tables: dict[str, list]
    dtype: type
    plainness: list[float]


def class_counts(images: int, full: bool = False) -> np.ndarray:
    """How many of `images` each class of the competition gets, int [C]: a floor for the rarest, the rest as in the
    competition; with `full` its very proportions, and no class smaller than its rarest one."""
    real = np.array([number for _, number in SIGNS.values()])
    if full:
        counts = np.maximum(min(real.min(), images // (len(SIGNS) + 4)), images * real // real.sum())
    else:
        floor = min(LEAST, images // (len(SIGNS) + 4))
        counts = floor + np.floor((images - floor * len(SIGNS)) * real / real.sum()).astype(int)
    counts[list(SIGNS).index(NO_FINDING)] += images - counts.sum()
    return counts


def competition(images: int, size: int, seed: int, full: bool = False) -> Plan:
    """train.csv, test.csv, a 10-row sample_submission.csv, and solution.csv with the labels of the test part; 8-bit
    images. With `full` as many of every class as in the competition, and about as hard to tell."""
    classes, counts = list(SIGNS), class_counts(images, full)
    share = FULL_TEST_SHARE if full else TEST_SHARE
    truth = np.repeat(np.arange(len(classes)), counts)
    in_test = np.concatenate([np.arange(n) < max(1, round(share * n)) for n in counts])
    ids = [hashlib.md5(f"{seed} {number}".encode()).hexdigest() + ".png" for number in range(images)]
    rng = np.random.default_rng((seed, images))
    order = rng.permutation(images)
    # of every sign some are plain, to learn it from, and many hardly there
    plainness = (rng.random(images) ** HARDNESS).tolist() if full else [1.0] * images
    onehot = np.eye(len(classes), dtype=int)
    labelled = [[ids[number], *onehot[truth[number]]] for number in order]
    train, test = (
        [row for row, number in zip(labelled, order, strict=True) if in_test[number] == part] for part in (False, True)
    )
    nothing = onehot[classes.index(NO_FINDING)]
    header = ["id", *classes]
    tables = {
        "train.csv": [header, *train],
        "test.csv": [["id"], *(row[:1] for row in test)],
        "sample_submission.csv": [header, *([row[0], *nothing] for row in test[:10])],
        "solution.csv": [header, *test],
    }
    signs = [SIGNS[classes[label]][0] for label in truth]
    pictures = [(name, [sign] if sign else []) for name, sign in zip(ids, signs, strict=True)]
    return Plan(pictures, tables, np.uint8, plainness)


def padchest(images: int, size: int, seed: int) -> Plan:
    """PADCHEST_demo_labels.csv with PadChest's columns; 16-bit images in numbered folders, lateral ones drawn like the
    others."""
    rows, findings = padchest_rows(images, size, seed)
    pictures = [
        (f"{row['ImageDir']}/{row['ImageID']}", [PADCHEST[name][0] for name in names if PADCHEST[name][0]])
        for row, names in zip(rows, findings, strict=True)
    ]
    order = np.random.default_rng((seed, images)).permutation(images)  # a patient's images do not stand together
    table = [[number, *list(rows[place].values())[1:]] for number, place in enumerate(order)]
    return Plan(pictures, {"PADCHEST_demo_labels.csv": [list(COLUMNS), *table]}, np.uint16, [1.0] * images)


def padchest_rows(images: int, size: int, seed: int) -> tuple[list[dict], list[list[str]]]:
    """The rows of the label file, patient by patient, and what each picture shows: names of PADCHEST in its order.

    A patient has up to three images, and findings that mostly stay. `unchanged` depends on nothing but an earlier
    image, and no picture shows it: an AUC near 0.5 is all that can be expected there, as in life when the earlier image
    is not given. Shares are expectations: a set of some dozen images may lack a label.
    """
    rng = np.random.default_rng((seed, images, 36))
    share, slope = (np.array([entry[place] for entry in PADCHEST.values()]) for place in (1, 2))
    rows, findings = [], []
    while len(rows) < images:
        patient = _long_number(f"patient {seed} {len(rows)}")
        age, ill = np.clip(rng.normal(58, 18), 18, 97), rng.random() < ILL
        sex = str(rng.choice(["F", "M", ""], p=[0.5, 0.48, 0.02]))
        date = datetime.date(2009, 1, 1) + datetime.timedelta(int(rng.integers(2000)))
        birth = float(date.year - int(age))
        older = (age - 58) / 18
        # its mean over the ages is the share
        chance = np.minimum(ill * share / ILL * np.exp(slope * older - slope**2 / 2), 0.9)
        has = rng.random(len(share)) < chance
        for visit in range(min(rng.choice([1, 2, 3], p=IMAGES_OF_A_PATIENT), images - len(rows))):
            if visit:
                date += datetime.timedelta(int(rng.integers(30, 600)))
                # keeps the share
                has = rng.random(len(share)) < np.where(has, PERSISTS, (1 - PERSISTS) * chance / (1 - chance))
            names = [name for name, there in zip(PADCHEST, has, strict=True) if there]
            unchanged = rng.random() < (UNCHANGED_LATER if visit else UNCHANGED_FIRST)
            labels, names = _reported([*names, *["unchanged"] * unchanged], names, rng)
            projection = str(rng.choice(list(PROJECTIONS), p=[part for _, part in PROJECTIONS.values()]))
            number = len(rows)
            filled = {
                "": number,
                "ImageID": hashlib.md5(f"padchest {seed} {number}".encode()).hexdigest() + ".png",
                "ImageDir": number * 4 // images,
                "StudyDate_DICOM": date.strftime("%Y%m%d"),
                "StudyID": _long_number(f"study {seed} {number}"),
                "PatientID": patient,
                "PatientBirth": birth,
                "PatientSex_DICOM": sex,
                "ViewPosition_DICOM": PROJECTIONS[projection][0],
                "Projection": projection,
                "Rows_DICOM": size,
                "Columns_DICOM": size,
                "ReportID": 4000000 + number,
                "MethodLabel": "Physician" if rng.random() < 0.25 else "RNN_model",
                "Labels": "" if labels is None else str(labels),
                "LabelsLocalizationsBySentence": str([[label] for label in labels or []]),
            }
            rows.append({**dict.fromkeys(COLUMNS, "None"), **ALIKE, **filled})
            findings.append(names)
    return rows, findings


def _reported(labels: list[str], names: list[str], rng: np.random.Generator) -> tuple[list[str] | None, list[str]]:
    """A report's labels as PadChest writes them, its slips included (None: an empty cell), and what the picture still
    shows."""
    slip = rng.random()
    if slip < 0.006:
        return None, []
    if slip < 0.016:
        return ["exclude"], []
    if slip < 0.026:
        labels = [*labels, "suboptimal study"]
    if not labels:
        return ["normal"], []
    labels = [
        " " * (place > 0 and rng.random() < 0.15) + label + " " * (rng.random() < 0.02)
        for place, label in enumerate(labels)
    ]
    if rng.random() < 0.02:
        labels.insert(rng.integers(len(labels) + 1), "")
    return labels, names


def _long_number(text: str) -> str:
    """PadChest names patients and studies by numbers of up to 39 digits, too long for any integer type of NumPy."""
    return str(int(hashlib.md5(text.encode()).hexdigest(), 16))


@dataclass(frozen=True)
class Layout:
    """How a set is planned from (images, size, seed), and the folder of the default set, below data/."""

    plan: Callable[[int, int, int], Plan]
    folder: str


LAYOUTS = {"competition": Layout(competition, "demo"), "padchest": Layout(padchest, "demo-padchest")}


def make(
    folder: Path,
    images: int = IMAGES,
    size: int = SIZE,
    seed: int = SEED,
    layout: str = "competition",
    *,
    full: bool = False,
) -> list[str]:
    """Write images/, demo.json and the tables of a layout, whose names are returned (see the plans in LAYOUTS). `full`:
    the competition's own counts, or their proportions, and signs that are hard to see.

    The same arguments give the same files. `folder` appears only when it is whole. Raises UserError when it exists.
    """
    folder = folder.resolve()
    if layout not in LAYOUTS:
        raise UserError(f"there is no layout {layout!r}: choose {' or '.join(LAYOUTS)}")
    if full and layout != "competition":
        raise UserError(f"--full makes the competition's set at its full size: leave out --layout {layout}")
    if not FEWEST <= images <= MOST:
        raise UserError(f"a demo set has at least {FEWEST} images and at most {MOST:,}, not {images:,}")
    if not 32 <= size <= 2048:
        raise UserError(f"a demo image is 32 to 2048 pixels wide, not {size}")
    if seed < 0:
        raise UserError(f"a seed is 0 or more, not {seed}")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{shown(folder)} exists already and is not empty: name a new folder, or delete it")
    plan = competition(images, size, seed, full) if full else LAYOUTS[layout].plan(images, size, seed)

    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as scratch:
        part = Path(scratch) / "set"
        for parent in {Path(path).parent for path, _ in plan.pictures}:
            (part / "images" / parent).mkdir(parents=True, exist_ok=True)

        def draw(number: int) -> None:
            path, signs = plan.pictures[number]
            rng = np.random.default_rng((seed, number))
            picture = phantom.radiograph(signs, size, rng, plan.dtype, plan.plainness[number])
            (part / "images" / path).write_bytes(cv2.imencode(".png", picture)[1].tobytes())

        with ThreadPoolExecutor() as pool:
            list(tqdm(pool.map(draw, range(images)), "drawing", images, unit="img", leave=False, disable=None))
        for name, rows in plan.tables.items():
            with open(part / name, "w", newline="", encoding="utf-8") as file:
                csv.writer(file, lineterminator="\n").writerows(rows)
        write_json(part / "demo.json", recipe(images, size, seed, layout, full=full))
        os.replace(part, folder)  # an empty folder may stand there
    return list(plan.tables)


def recipe(
    images: int = IMAGES, size: int = SIZE, seed: int = SEED, layout: str = "competition", *, full: bool = False
) -> dict:
    """What a set was made from, the generator's own text included: kept as demo.json beside it."""
    generator = digest(Path(__file__).read_bytes() + Path(phantom.__file__).read_bytes())
    made_of = {"layout": layout, "images": images, "size": size, "seed": seed, **({"full": True} if full else {})}
    return {"synthetic": True, **made_of, "generator": generator}


def ensure(layout: str = "competition", folder: Path | None = None) -> Path:
    """The default set of a layout in its folder below data/ (or in `folder`), made when it is not there or was made by
    another version of this file."""
    if layout not in LAYOUTS:
        raise UserError(f"there is no synthetic set in the layout {layout}: give a real one with --data DIR")
    folder = folder or home() / "data" / LAYOUTS[layout].folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(folder.with_name(f".{folder.name}.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # of two first runs side by side, one makes it
        try:
            fresh = json.loads((folder / "demo.json").read_text()) == recipe(layout=layout)
        except (OSError, ValueError):
            fresh = False
        if not fresh:
            print(f"making {IMAGES} synthetic radiographs in {shown(folder)}", flush=True)
            if (folder / "demo.json").is_file():  # an older set of ours; anything else in its place is left alone
                shutil.rmtree(folder)
            make(folder, layout=layout)
    return folder
