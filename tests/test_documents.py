"""What the READMEs say of commands and files is so."""

import importlib
import re
from pathlib import Path

import pytest

from conftest import ROOT
from core import commands
from core.errors import UserError

READMES = ["README.md", "src/README.md", "src/answers/README.md", "configs/README.md", "kernels/README.md"]


def test_the_readme_has_the_list_of_commands_and_fits():
    text = (ROOT / "README.md").read_text()
    assert "\n".join(commands.markdown()) in text, "python -m core.commands --markdown in src/ prints the table"
    assert len(text.splitlines()) <= 150


def test_every_script_is_in_the_list_and_every_command_is_a_script():
    scripts = {path.stem.replace("_", "-") for path in (ROOT / "src").glob("*.py")} - {"main"}
    called = [command.called for command in commands.COMMANDS]
    assert set(called[1:]) - {"torchrun", "test", "lint", "lock"} == scripts and len(called) == len(set(called))
    assert set(called[0].split("|")) == {path.stem for path in (ROOT / "configs").glob("*.yaml")} - {"demo"}


@pytest.mark.parametrize("command", commands.COMMANDS[1:], ids=lambda command: command.called)
def test_the_options_are_those_of_the_list(command, monkeypatch):
    """Every option of a script stands in its usage, and no other."""
    if command.called in ("torchrun", "test", "lint", "lock"):
        pytest.skip("no script")
    options = set()

    def parse(self, *_):
        options.update(name for action in self._actions for name in action.option_strings)
        raise UserError("seen")

    for name in ("parse_args", "parse_intermixed_args"):
        monkeypatch.setattr(commands.Parser, name, parse)
    with pytest.raises(UserError, match="seen"):
        importlib.import_module(command.called.replace("-", "_")).main([])
    long = {name for name in options if name.startswith("--")} - {"--help"}
    assert long - {"--message"} == set(re.findall(r"--[\w-]+", command.usage))


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
