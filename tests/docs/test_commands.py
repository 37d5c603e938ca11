"""Every command that the pages, the README and the recipes show exists, with these options and arguments."""

import re
import shlex
from pathlib import Path

import pytest
import typer

from sercache.cli.main import app

REPOSITORY = Path(__file__).resolve().parents[2]
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]
RECIPES = sorted((REPOSITORY / "data" / "recipes").glob("*.yaml"))
ROOT = typer.main.get_command(app)


def shown_lines(path):
    """Return whole commands of code blocks, or of a recipe's comments."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".yaml":
        blocks = ["\n".join(re.findall(r"(?m)^#   (.*)$", text))]
    else:
        fenced = re.findall(r"(?ms)^```(\w*)[^\n]*\n(.*?)^```", text)
        blocks = [block for language, block in fenced if language in ("", "bash", "console")]
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    parts = [part.strip() for line in lines for part in line.split("&&")]
    parts = [part.removeprefix(".venv/bin/") for part in parts]
    return [part for part in parts if part.startswith("sercache ")]


def inline_commands(path):
    """Return what stands as ``sercache ...`` in running text; it may lack its arguments."""
    prose = re.sub(r"(?ms)^```.*?^```", "", path.read_text(encoding="utf-8"))
    return [" ".join(match.split()) for match in re.findall(r"`(sercache (?!shard|index)[^`]+)`", prose)]


def find(line):
    """Return the command that a line names, and the rest of the line."""
    _, *words = shlex.split(line, comments=True)
    command = ROOT
    while words and hasattr(command, "commands") and not words[0].startswith("-"):
        name = words.pop(0)
        assert name in command.commands, f"no command '{name}' in: {line}"
        command = command.commands[name]
    return command, words


def all_commands(command=ROOT, path=("sercache",)):
    if not hasattr(command, "commands"):
        return [" ".join(path)]
    return [line for name, sub in command.commands.items() for line in all_commands(sub, (*path, name))]


@pytest.mark.parametrize("path", [*PAGES, *RECIPES], ids=lambda path: path.name)
def test_commands_in_blocks_parse(path):
    for line in shown_lines(path):
        command, words = find(line)
        command.make_context("sercache", words)  # parses, and runs nothing


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_commands_in_the_text_exist_with_their_options(path):
    for line in inline_commands(path):
        command, words = find(line)
        known = {option for param in command.params for option in [*param.opts, *param.secondary_opts]}
        unknown = {word for word in words if word.startswith("--")} - known - {"--help"}
        assert not unknown, f"{line}: no option {unknown}"


def test_the_pages_show_commands_at_all():
    assert sum(len(shown_lines(path)) for path in PAGES) > 40
    assert any(shown_lines(path) for path in RECIPES)


def test_a_wrong_option_would_be_found():
    command, words = find("sercache stack runs/demo --nonsense")
    with pytest.raises(Exception, match="nonsense"):
        command.make_context("sercache", words)
    with pytest.raises(AssertionError, match="no command"):
        find("sercache cache polish cache")


def test_every_command_is_on_its_page_with_an_example():
    page = REPOSITORY / "docs" / "reference" / "command-line.md"
    inline, lines = inline_commands(page), shown_lines(page)
    for name in all_commands():
        assert name in inline, f"{name} is in no table of {page.name}"
        assert any(f"{line} ".startswith(f"{name} ") for line in lines), f"{name} has no example"


def test_the_quick_start_has_the_readmes_two_commands():
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    page = (REPOSITORY / "docs" / "index.md").read_text(encoding="utf-8")
    commands = re.findall(r"<!-- (?:demo|test) command -->\n```bash\n(.*?)```", readme, re.DOTALL)
    assert len(commands) == 2
    assert all(command in page for command in commands)
