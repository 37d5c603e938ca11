import json
import subprocess
import sys

import pytest

from sercache.corpus.manifest import write_corpus
from support.simulated_members import simulate

COMMAND = [sys.executable, "-c", "from sercache.cli.main import main; main()", "audit"]


def run(*arguments):
    return subprocess.run([*COMMAND, *map(str, arguments)], capture_output=True, text=True, check=False)


@pytest.fixture
def files(tmp_path):
    simulation = simulate(test_speakers=4)
    write_corpus(simulation.corpus, tmp_path / "corpus.csv")
    for table in simulation.tables:
        table.save(tmp_path / f"{table.member}.parquet")
    return tmp_path


def test_a_table_of_files_and_splits_that_fits_100_columns_and_no_alarm(files):
    done = run(files / "m0.parquet", files / "m1.parquet", files / "corpus.csv", "-o", files / "audit.json")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert all(len(line.rstrip()) <= 100 for line in lines if "audit.json" not in line)
    assert [line.split()[:2] for line in lines[2:6]] == [
        ["m0", "train"], ["m0", "test"], ["m1", "train"], ["m1", "test"]
    ]  # fmt: skip
    assert "error" not in done.stdout
    assert "\x1b" not in done.stdout
    assert len(json.loads((files / "audit.json").read_text())["scores"]) == 4


def test_an_error_makes_the_exit_code_2(files):
    (files / "one.csv").write_text(
        "FileName,Prediction\n" + "".join(f"u{row:05d}.wav,Sad\n" for row in range(300))
    )
    done = run(files / "one.csv", files / "corpus.csv")
    assert done.returncode == 2
    assert "error: one: every row is Sad" in done.stdout
    as_json = run(files / "one.csv", files / "corpus.csv", "--json")
    assert as_json.returncode == 2
    assert json.loads(as_json.stdout)["findings"][0]["severity"] == "error"


def test_bad_requests_are_one_line(files):
    for arguments, message in (
        ([files / "corpus.csv"], "files of predictions and, last, the manifest"),
        ([files / "absent.csv", files / "corpus.csv"], "absent.csv does not exist"),
    ):
        done = run(*arguments)
        assert done.returncode == 2
        assert message in done.stderr
        assert "Traceback" not in done.stderr


def test_files_of_one_name_are_told_apart_and_splits_are_whole_words(files):
    corpus = (files / "corpus.csv").read_text().replace(",test,", ",development,")
    (files / "corpus.csv").write_text(corpus)
    for folder in ("first", "second"):
        (files / folder).mkdir()
        (files / folder / "m0.parquet").write_bytes((files / "m0.parquet").read_bytes())
    done = run(files / "first" / "m0.parquet", files / "second" / "m0.parquet", files / "corpus.csv")
    assert done.returncode == 2
    assert "second-m0: is identical with first-m0, bit for bit" in done.stdout
    assert [line.split()[1] for line in done.stdout.splitlines()[2:6]] == ["train", "dev"] * 2
    twice = run(files / "m0.parquet", files / "m0.parquet", files / "corpus.csv")
    assert twice.returncode == 2
    assert "m0.parquet is given twice" in twice.stderr
