"""Where data is looked for, the download through a stand-in for the Kaggle client, and the list that run.sh prints."""

import subprocess
import zipfile
from pathlib import Path

import pytest
import requests

from conftest import ROOT, SHARED, needs_shared
from core.errors import UserError
from core.tables import read_table
from images import labels, locate
from leaderboard import ask as kaggle_call
from leaderboard import client as kaggle_client
from tasks.competition import Competition

SLUG = "26-t-1-dl-gen-ainppe-1"


def data_set(folder: Path, nested=False) -> Path:
    images = folder / "images" / "images" if nested else folder / "images"
    images.mkdir(parents=True)
    (images / "a.png").write_bytes(b"")
    for name in Competition.layout.tables:
        (folder / name).write_text("id\n")
    return folder


def test_the_order_of_places(tmp_path, home, monkeypatch):
    monkeypatch.setattr(locate, "KAGGLE_INPUT", tmp_path / "input")
    assert locate.find(None, SLUG, Competition.layout) is None
    deep = data_set(tmp_path / "input/some/where", nested=True)
    assert locate.find(None, SLUG, Competition.layout).images == deep / "images/images"
    for place in (
        tmp_path / "input" / SLUG,
        tmp_path / "input/competitions" / SLUG,
        home / "data" / SLUG,
        tmp_path / "env",
    ):
        data_set(place)
        if place.name == "env":
            monkeypatch.setenv("CXR_DATA", str(place))
        assert locate.find(None, SLUG, Competition.layout).folder == place
    assert locate.find(str(deep), SLUG, Competition.layout).folder == deep


def test_kaggle_mounts_that_say_nothing_or_too_much(tmp_path, monkeypatch):
    monkeypatch.setattr(locate, "KAGGLE_INPUT", tmp_path / "input")
    (tmp_path / "input/other").mkdir(parents=True)
    with pytest.raises(UserError, match=f"is {SLUG} attached, and are its rules accepted"):
        locate.find(None, SLUG, Competition.layout)
    data_set(tmp_path / "input/one"), data_set(tmp_path / "input/two")
    with pytest.raises(UserError, match="several folders"):
        locate.find(None, SLUG, Competition.layout)


@pytest.fixture
def client(monkeypatch):
    """The client's one call, played by a function of the folder to download to, which returns a reply or a Failure."""

    def install(body) -> None:
        def ask(method: str, arguments: dict):
            assert (method, arguments["competition"]) == ("competition_download_files", SLUG)
            return body(Path(arguments["path"]))

        monkeypatch.setattr(kaggle_client, "ask", ask)

    return install


def zipped(folder: Path, **files: str) -> None:
    with zipfile.ZipFile(folder / f"{SLUG}.zip", "w") as archive:
        for name, content in files.items():
            archive.writestr(name.replace("__", "/").replace("_", "."), content)


def test_download_unpacks_and_is_found(client, home):
    client(lambda folder: zipped(folder, train_csv="id\n", test_csv="id\n", images__a_png="x"))
    folder = kaggle_client.download(SLUG)
    assert folder == home / "data" / SLUG and locate.find(None, SLUG, Competition.layout).folder == folder
    assert [path.name for path in (home / "data").iterdir()] == [SLUG]


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (
            lambda folder: kaggle_client.Failure("Forbidden", 403),
            f"accept the rules at https://www.kaggle.com/competitions/{SLUG}/rules",
        ),
        (
            lambda folder: kaggle_client.Failure("first line\nlast line of the reply"),
            "failed \\(first line last line of the reply\\)",
        ),
        (lambda folder: None, f"it left no {SLUG}.zip"),
        (lambda folder: zipped(folder, **{"..__evil_txt": "x"}), "lead out of its folder"),
        (lambda folder: (folder / f"{SLUG}.zip").write_bytes(b"PK" * 50), "is damaged"),
    ],
)
def test_a_download_that_fails_leaves_nothing(client, home, body, sentence):
    client(body)
    with pytest.raises(UserError, match=sentence):
        kaggle_client.download(SLUG)
    assert not list((home / "data").iterdir()) and not list(home.rglob("evil.txt"))


@pytest.mark.parametrize(
    ("error", "status", "connection"),
    [
        (lambda response: requests.HTTPError("Too many", response=response(429)), 429, None),
        (lambda response: ValueError("a wrapper's own words"), 403, None),  # raised while the HTTP error was handled
        (lambda response: requests.ConnectionError("reset"), None, "lost"),
        (lambda response: requests.ConnectTimeout("late"), None, "unsent"),
        (lambda response: SystemExit(1), None, None),
    ],
)
def test_a_failure_is_told_by_status_and_connection(error, status, connection):
    """And not by what a version of the client says of it."""

    def response(code):
        found = requests.Response()
        found.status_code = code
        return found

    try:
        try:
            if isinstance(error(response), ValueError):
                raise requests.HTTPError("Forbidden", response=response(403))
        finally:
            raise error(response)
    except BaseException as raised:
        found = kaggle_client.Failure(**kaggle_call.failure(raised))
    assert (found.status, found.connection) == (status, connection)
    assert found.busy == (status == 429 or connection is not None) and found.unsent == (
        status == 429 or connection == "unsent"
    )


def test_a_damaged_file_in_the_archive_is_noticed(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("train.csv", "id\n" * 100)
    raw = bytearray((tmp_path / "a.zip").read_bytes())
    raw[60] ^= 0xFF
    (tmp_path / "a.zip").write_bytes(raw)
    with pytest.raises(UserError, match="is damaged"):
        kaggle_client._unzip(tmp_path / "a.zip", tmp_path / "out")


def test_credentials_are_looked_for_where_the_client_looks(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    assert not kaggle_client.has_credentials()
    (tmp_path / ".kaggle").mkdir()
    (tmp_path / ".kaggle/kaggle.json").write_text('{"username": "someone", "key": "value"}')
    assert kaggle_client.has_credentials()


def test_run_sh_lists_its_commands_and_refuses_others():
    listed = subprocess.run([ROOT / "run.sh"], capture_output=True, text=True, check=True).stdout
    for verb in ("modelA", "modelB", "train", "predict", "tune", "decide", "score", "make-demo", "test"):
        assert verb in listed
    refused = subprocess.run([ROOT / "run.sh", "modelZ"], capture_output=True, text=True)
    assert refused.returncode == 2 and "unknown command 'modelZ'" in refused.stderr


@needs_shared
def test_the_real_competition_files(tmp_path):
    """17,015 test rows against a 10-row sample: a submission of the sample's length is refused."""
    from core import submission

    real = SHARED / "data/competition_real"
    test_ids, head = labels.read_ids(real / "test.csv"), labels.read_one_hot(real / "train_head20.csv")
    assert len(test_ids) == 17015 and len(head.classes) == 20 and head.classes[-1] == "No Finding"
    with pytest.raises(UserError, match="10 rows where there are 17015 test images"):
        submission.validate(real / "sample_submission.csv", test_ids, head.classes)


@needs_shared
def test_the_real_sample_set_keeps_its_empty_classes():
    table = labels.read_competition(SHARED / "data/nih_sample").labelled
    counts = table.targets.sum(axis=0)
    assert len(table.ids) == 752 and (counts == 0).sum() == 5 and counts[table.classes.index("No Finding")] == 450


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"id,a\n1,2\n  \n", "row 2: a NUL byte, or nothing but blanks"),
        (b"id\n1\n \n", "row 2: a NUL byte, or nothing but blanks"),
        (b"id,a\n1,2\x00\n", "row 1: a NUL byte, or nothing but blanks"),
        (b"id,a\x00\n1,2\n", "a NUL byte in its header"),
        (b"id,a\n1\n", "row 1: 1 cells where the header has 2"),
        (b"id,a\n1,2,3\n", "row 1: 3 cells where the header has 2"),
        (b"id,a,a\n1,2,3\n", "columns that stand twice: a"),
        (b"\xff\xfe\n", "is not a readable CSV file"),
        (b"", "it is empty"),
        (b"id,a\n", "has a header and no rows"),
    ],
)
def test_what_pandas_would_hide_is_refused(tmp_path, content, sentence):
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(UserError, match=sentence):
        read_table(tmp_path / "t.csv")


def test_a_table_is_the_text_that_stands_there(tmp_path):
    (tmp_path / "t.csv").write_bytes('\ufeffid,,"b ""q"""\r\n007, NA ,"x,\ny"\r\n\r\n8,,\r\n'.encode())
    table = read_table(tmp_path / "t.csv")
    assert list(table.columns) == ["id", "", 'b "q"']
    assert table.to_numpy().tolist() == [["007", " NA ", "x,\ny"], ["8", "", ""]]
