from pathlib import Path

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner, Result

from sercache.cli.main import app
from sercache.corpus.manifest import read_corpus
from sercache.errors import CorpusError, SercacheError


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["corpus", *map(str, arguments)], env={"COLUMNS": "200"})


@pytest.fixture
def emodb(tmp_path: Path) -> Path:
    folder = tmp_path / "EmoDB"
    (folder / "wav").mkdir(parents=True)
    for name in ("03a01Fa", "03a01Wa", "08a01Fa", "08a01Nb"):
        soundfile.write(folder / "wav" / f"{name}.wav", np.full(16000, 0.1), 16000)
    return folder


@pytest.mark.parametrize("name", ["corpus.csv", "corpus.parquet"])
def test_import_check_show(emodb: Path, tmp_path: Path, name: str) -> None:
    manifest = tmp_path / "out" / name
    imported = run("import", "emodb", emodb, "-o", manifest)
    assert imported.exit_code == 0
    assert "4 utterances, 2 speakers, 7 classes (anger, boredom," in imported.output
    assert len(read_corpus(manifest)) == 4
    checked = run("check", manifest)
    assert checked.exit_code == 0
    assert "0 errors" in checked.output
    shown = run("show", manifest, "--speakers")
    assert shown.exit_code == 0
    for words in (["utterances", "4"], ["happiness", "2"], ["boredom", "0"], ["hours", "0.00"], ["03", "2"]):
        assert any(line.split() == words for line in shown.output.splitlines()), words


def test_check_lists_problems_like_a_compiler_and_exits_with_2(emodb: Path, tmp_path: Path) -> None:
    manifest = tmp_path / "corpus.csv"
    run("import", "emodb", emodb, "-o", manifest)
    (emodb / "wav" / "03a01Fa.wav").write_bytes(b"")
    (emodb / "wav" / "08a01Nb.wav").unlink()
    checked = run("check", manifest)
    assert checked.exit_code == 2
    lines = checked.output.splitlines()
    assert any(line.startswith("corpus.csv:2: error: 03a01Fa: ") and "empty" in line for line in lines)
    assert any(line.startswith("corpus.csv:5: error: 08a01Nb: ") and "no such file" in line for line in lines)
    assert "2 errors" in lines[-1]
    limited = run("check", manifest, "--limit", "1").output
    assert "corpus.csv:2: error" in limited
    assert "more (--limit 0 lists all)" in limited


def test_warnings_alone_do_not_fail(tmp_path: Path) -> None:
    manifest = tmp_path / "corpus.csv"
    manifest.write_text("id,text,votes:A,votes:B\nu1,hello [bold]you[/bold],1,0\nu2,ho,0,2\n")
    checked = run("check", manifest)
    assert checked.exit_code == 0
    assert "0 errors, 1 warning" in checked.output


def test_options_reach_the_reader(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("id,text,feeling\nu1,hello,hap\n")
    arguments = ("import", "csv", tmp_path, "-o", tmp_path / "corpus.csv", "--option", "label=feeling")
    assert run(*arguments, "--option", "rename=hap:Happy").exit_code == 0
    assert read_corpus(tmp_path / "corpus.csv").classes == ("Happy",)
    error = run(*arguments, "--option", "rename").exception
    assert isinstance(error, SercacheError)
    assert str(error) == "--option rename: expected KEY=VALUE"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("import", "emodbb", "."), "unknown corpus reader 'emodbb' (known: cremad, csv,"),
        (("import", "emodb", "/nowhere"), "/nowhere is not there"),
        (("check", "/nowhere.csv"), "/nowhere.csv does not exist"),
        (("show", "/nowhere.csv"), "/nowhere.csv does not exist"),
    ],
)
def test_errors_reach_main_as_one_line(arguments: tuple[str, ...], message: str) -> None:
    error = run(*arguments).exception
    assert isinstance(error, CorpusError)
    assert str(error).startswith(message)
    assert "\n" not in str(error)


@pytest.mark.parametrize("command", ["import", "check", "show"])
def test_help_has_an_example(command: str) -> None:
    assert f"sercache corpus {command} " in run(command, "--help").output


def test_real_corpora_from_import_to_show(shared_data: Path, tmp_path: Path) -> None:
    for kind, rows in (("emodb", 535), ("cremad", 18)):
        manifest = tmp_path / f"{kind}.csv"
        assert run("import", kind, shared_data / kind, "-o", manifest).exit_code == 0
        assert run("check", manifest).exit_code == 0
        assert f"{rows}" in run("show", manifest).output
