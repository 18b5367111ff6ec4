"""What the READMEs say of commands and files is so."""

import re
from pathlib import Path

import pytest

from conftest import ROOT
from core import commands

READMES = ["README.md", "src/README.md", "src/answers/README.md", "configs/README.md", "kernels/README.md"]


def test_the_readme_has_the_list_of_commands_and_fits():
    text = (ROOT / "README.md").read_text()
    assert "\n".join(commands.markdown()) in text, "python -m core.commands --markdown in src/ prints the table"
    assert len(text.splitlines()) <= 150


def test_every_script_is_in_the_list_and_every_command_is_a_script():
    scripts = {path.stem.replace("_", "-") for path in (ROOT / "src").glob("*.py")} - {"main"}
    called = [command.called for command in commands.COMMANDS]
    assert set(called[1:]) - {"test", "lint", "lock"} == scripts and len(called) == len(set(called))
    assert set(called[0].split("|")) == {path.stem for path in (ROOT / "configs").glob("*.yaml")} - {"demo"}


def test_every_file_has_its_line():
    text = (ROOT / "src/README.md").read_text()
    for path in (ROOT / "src").rglob("*.py"):
        assert path.name == "__init__.py" or f"| `{path.name}` |" in text, path.name


@pytest.mark.parametrize("name", READMES)
def test_links_lead_somewhere(name):
    path = ROOT / name
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", path.read_text()):
        assert (path.parent / target).exists(), target


@pytest.mark.parametrize("name", READMES)
def test_prose_has_at_most_120_columns(name):
    prose = re.sub(r"^```.*?^```", "", (ROOT / name).read_text(), flags=re.MULTILINE | re.DOTALL)
    for line in prose.splitlines():
        assert len(line) <= 120 or line.startswith("|"), line


def test_no_file_that_the_readmes_name_is_gone():
    for name in READMES:
        for found in re.findall(
            r"`((?:src|configs|kernels|tests)/[a-z\d_./-]+\.(?:py|yaml|csv|json))`", (ROOT / name).read_text()
        ):
            assert Path(ROOT / found).is_file(), f"{name} names {found}"
