"""The commands as users run them, in fresh processes."""

import csv
import io
import json
import shutil
import subprocess
import sys

import pytest
import soundfile

from support.bundle_runs import RATE_HZ, finish_run, spoken


def sercache(*arguments, feed=None, cwd=None):
    command = [sys.executable, "-c", "from sercache.cli.main import main; main()", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, check=False, input=feed, cwd=cwd)


@pytest.fixture(scope="module")
def moved(tmp_path_factory, checkpoint):
    """A bundle in another place than it was made in; run, cache and encoder are gone."""
    folder = tmp_path_factory.mktemp("made")
    encoder = shutil.copytree(checkpoint("wavlm+layer"), tmp_path_factory.mktemp("encoder") / "wavlm")
    finished = finish_run(folder, encoder)
    made = sercache("bundle", finished.run.root, "-o", folder / "b", "--stacker", "neural")
    assert made.returncode == 0, made.stderr.decode()
    assert b"Next: sercache predict" in made.stdout
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    shutil.move(folder / "b", elsewhere / "bundle")
    shutil.rmtree(encoder)
    shutil.rmtree(folder)
    soundfile.write(elsewhere / "a.wav", spoken("Angry", 0.8, 1), RATE_HZ)
    (elsewhere / "more").mkdir()
    soundfile.write(elsewhere / "more" / "b.flac", spoken("Sad", 0.6, 2), RATE_HZ)
    return elsewhere


def test_files_and_folders_become_json_lines(moved):
    result = sercache("predict", "bundle", "a.wav", "more", cwd=moved)
    assert result.returncode == 0, result.stderr.decode()
    answers = [json.loads(line) for line in result.stdout.splitlines()]
    assert [answer["id"] for answer in answers] == ["a.wav", "more/b.flac"]
    for answer in answers:
        assert sum(answer["probabilities"].values()) == pytest.approx(1, abs=1e-5)
        assert set(answer["members"]) == {"fusion", "deep", "layered"}
        assert 1 <= answer["attributes"]["arousal"] <= 7


def test_a_bad_file_is_a_row_and_exit_code_1(moved):
    (moved / "bad.wav").write_bytes(b"RIFF....")
    result = sercache("predict", "bundle", "a.wav", "bad.wav", cwd=moved)
    (moved / "bad.wav").unlink()
    assert result.returncode == 1
    good, bad = (json.loads(line) for line in result.stdout.splitlines())
    assert "label" in good
    assert set(bad) == {"id", "error"}
    assert b"1 of 2 could not be predicted" in result.stderr
    assert b"Traceback" not in result.stderr


def test_a_recording_or_paths_come_through_a_pipe(moved):
    for feed, name in (((moved / "a.wav").read_bytes(), "-"), (b"a.wav\n\n", "a.wav")):
        result = sercache("predict", "bundle", "-", "--format", "csv", feed=feed, cwd=moved)
        assert result.returncode == 0, result.stderr.decode()
        (row,) = csv.DictReader(io.StringIO(result.stdout.decode()))
        assert row["id"] == name
        assert float(row["p:Angry"]) == pytest.approx(1, abs=1)


def test_windows_are_rows_of_the_table(moved):
    options = ("--windows", "--window-seconds", 0.5, "--hop-seconds", 0.2, "-o", "windows.csv")
    result = sercache("predict", "bundle", "a.wav", *options, cwd=moved)
    assert result.returncode == 0, result.stderr.decode()
    rows = list(csv.DictReader(io.StringIO((moved / "windows.csv").read_text())))
    assert [float(row["start"]) for row in rows] == pytest.approx([0.0, 0.2, 0.3])
    assert float(rows[-1]["end"]) == pytest.approx(0.8)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere", "a.wav"], "does not exist"),
        (["more", "a.wav"], "is not a bundle"),
        (["bundle"], "name recordings or folders"),
        (["bundle", "bundle/heads"], "no audio files in it"),
        (["bundle", "a.wav", "more", "--text", "yes"], "a text belongs to one recording"),
        (["bundle", "a.wav", "--encoder", "deep"], "expected FEATURE=FOLDER"),
        (["bundle", "a.wav", "--device", "gpu9"], "no device 'gpu9'"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(moved, arguments, message):
    result = sercache("predict", *arguments, cwd=moved)
    assert result.returncode == 2
    assert message in result.stderr.decode()
    assert len(result.stderr.decode().strip().splitlines()) == 1
