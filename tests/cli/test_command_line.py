"""What holds of all commands together."""

import inspect
import json
import logging
import os
import pty
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest
import typer

from sercache.cli import console as screen
from sercache.cli import main as command_line
from sercache.cli.rendering import print_json
from sercache.events import Event
from support.run_builder import make_corpus, write_features

MAIN = [sys.executable, "-c", "from sercache.cli.main import main; main()"]
WITHOUT_JSON = {
    "demo": "runs the others",
    "predict": "--format jsonl: a line per recording, as soon as it is there",
    "serve": "answers over HTTP",
    "cache prune": "asks",
    "report": "writes a page",
}


def leaves(command=None, path=()):
    command = command or typer.main.get_command(command_line.app)
    for name, child in getattr(command, "commands", {}).items():
        yield from leaves(child, (*path, name))
    if path and not hasattr(command, "commands"):
        yield " ".join(path), command


LEAVES = dict(leaves())


def options_of(command):
    return [parameter for parameter in command.params if parameter.param_type_name == "option"]


@pytest.fixture
def run(monkeypatch, capfd):
    """Run a command in this process; return exit code, stdout and stderr."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["sercache", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            command_line.main()
        return ended.value.code, *capfd.readouterr()

    yield run
    screen.set_verbosity("normal")
    logging.getLogger("sercache").handlers.clear()


@pytest.mark.parametrize("path", LEAVES)
def test_the_help_of_every_command_has_an_example_of_it(path):
    assert f"Example: sercache {path}" in inspect.getdoc(LEAVES[path].callback)


@pytest.mark.parametrize("path", LEAVES)
def test_every_command_with_results_gives_them_as_json(path):
    names = {name for option in options_of(LEAVES[path]) for name in option.opts}
    assert ("--json" in names) == (path not in WITHOUT_JSON)


def test_an_option_is_called_the_same_everywhere():
    short_names, helps = defaultdict(set), defaultdict(set)
    for command in LEAVES.values():
        for option in options_of(command):
            long = next(name for name in option.opts if name.startswith("--"))
            short_names[long].add(tuple(name for name in option.opts if not name.startswith("--")))
            helps[long].add(option.help)
    assert {name for name, shorts in short_names.items() if len(shorts) > 1} == set()
    assert short_names["--output"] == {("-o",)}
    assert len(helps["--json"]) == 1
    assert len(helps["--workers"]) == 1


def test_what_is_off_unless_wanted_has_no_second_name_to_turn_it_off():
    for path, command in LEAVES.items():
        for option in options_of(command):
            if option.secondary_opts and option.default is False:
                pytest.fail(f"{path}: {option.opts} {option.secondary_opts}")


def test_a_manifest_is_called_corpus_everywhere():
    for path, command in LEAVES.items():
        for argument in command.params:
            if argument.param_type_name == "argument" and argument.help.startswith("The manifest"):
                assert argument.metavar == "CORPUS", path


def test_all_commands_are_in_a_panel(run):
    code, out, _ = run("--help")
    assert code == 0
    headings = re.findall(r"─ ([A-Z][A-Za-z -]+) ─", out)
    assert headings == ["Options", *command_line.COMMANDS]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["extract", "--retry-faild", "r.yaml"], "no such option: --retry-faild"),
        (["extract"], "missing argument 'SOURCE'"),
        (["extrakt"], "no such command 'extrakt'. Did you mean 'extract'?"),
        (["corpus", "chek"], "no such command 'chek'. Did you mean 'check'?"),
        (["tune", "r.yaml", "--trials", "many"], "invalid value for '--trials'"),
        (["-q", "-v", "doctor"], "--quiet or --verbose, not both"),
        (["corpus", "show", "no.csv"], "no.csv does not exist"),
    ],
)
def test_what_is_wrong_with_a_command_is_one_line_and_exit_code_2(run, arguments, message):
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("sercache: ")
    assert message in err
    assert err.count("\n") == 1


def test_without_arguments_there_is_help(run):
    for arguments in ((), ("corpus",)):
        code, out, err = run(*arguments)
        assert (code, err) == (2, "")
        assert "Usage: sercache" in out


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "c.csv"
    rows = (f"u{place},words {place},s{place % 4},{place % 2},{1 - place % 2}" for place in range(12))
    path.write_text("\n".join(["id,text,speaker,votes:A,votes:B", *rows, ""]))
    return path


def test_json_is_one_document_on_stdout(run, corpus):
    for command in (["check"], ["show"], ["report"]):
        code, out, _ = run("corpus", *command, corpus, "--json")
        assert code == 0
        assert isinstance(json.loads(out), list | dict)


def test_what_is_in_a_cache_is_json_too(run, tmp_path):
    write_features(tmp_path, make_corpus(tmp_path))
    cache = tmp_path / "cache"
    for command in (["ls", cache], ["info", cache], ["du", cache], ["merge", tmp_path / "other", cache]):
        code, out, _ = run("cache", *command, "--json")
        assert code == 0
        assert [load["folder"].split("/")[-1].split("-")[0] for load in json.loads(out)] == [
            "speech",
            "words",
        ]
    assert json.loads(run("cache", "verify", cache, "--json")[1]) == []


def test_quiet_goes_anywhere_and_leaves_results(run, corpus):
    _, usual, _ = run("corpus", "check", corpus)
    assert "Next: sercache corpus report" in usual
    for arguments in (("-q", "corpus", "check", corpus), ("corpus", "check", corpus, "--quiet")):
        code, out, err = run(*arguments)
        assert (code, err) == (0, "")
        assert "no problems" in out or "0 errors" in out
        assert "Next:" not in out
        screen.set_verbosity("normal")


def test_quiet_keeps_warnings_and_drops_notes(capfd):
    screen.set_verbosity("quiet")
    try:
        with screen.progress_listener() as listener:
            listener(Event("note", "task", message="by the way"))
            listener(Event("warning", "task", message="beware"))
    finally:
        screen.set_verbosity("normal")
    assert capfd.readouterr().err.split() == ["beware"]


def test_verbose_tells_what_took_how_long_on_stderr(run, corpus):
    code, out, err = run("corpus", "report", corpus, "--json", "-v")
    assert code == 0
    assert json.loads(out)
    assert re.search(r"^durations: \d+\.\d\d s$", err, re.MULTILINE)
    assert re.search(r"^took \d+\.\d s, \d[\d,]* MB of memory at most$", err, re.MULTILINE)


def test_results_become_plain_json(capfd):
    from dataclasses import dataclass

    import numpy as np

    @dataclass(frozen=True)
    class Report:
        path: Path
        scores: np.ndarray
        by_name: dict[str | None, float]

    print_json([Report(Path("a"), np.array([1.0, np.nan]), {None: np.float64(0.5), "b": np.int64(3)})])
    assert json.loads(capfd.readouterr().out) == [
        {"path": "a", "scores": [1.0, None], "by_name": {"": 0.5, "b": 3}}
    ]


def test_completion_knows_commands_and_their_commands():
    def complete(words, **environment):
        given = os.environ | {"COMP_WORDS": words, "COMP_CWORD": str(len(words.split()) - 1)}
        given |= {"_SERCACHE_COMPLETE": "complete_bash", **environment}
        return subprocess.run(MAIN, capture_output=True, text=True, check=False, env=given).stdout

    assert complete("sercache ext").split() == ["extract"]
    assert complete("sercache corpus re").split() == ["report"]
    script = complete("", _SERCACHE_COMPLETE="source_bash")
    assert "_SERCACHE_COMPLETE=complete_bash" in script
    assert "complete -o default" in script


@pytest.mark.parametrize(("environment", "is_coloured"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_a_terminal_has_colours_unless_they_are_not_wanted(environment, is_coloured, corpus):
    given = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR")}
    master, slave = pty.openpty()
    command = [*MAIN, "corpus", "show", str(corpus.with_name("no.csv"))]
    environment = given | {"TERM": "xterm-256color"} | environment
    subprocess.run(command, stdout=slave, stderr=slave, stdin=slave, env=environment, check=False)
    os.close(slave)
    shown = os.read(master, 10_000).decode()
    os.close(master)
    assert ("\x1b[31m" in shown or "\x1b[1;31m" in shown) == is_coloured
    assert "no.csv does not exist" in shown


def test_piped_there_are_no_colours(corpus):
    done = subprocess.run(
        [*MAIN, "corpus", "report", str(corpus)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout + done.stderr
