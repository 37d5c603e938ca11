"""``sercache transcribe`` as users run it, killed in between."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import soundfile

from sercache.corpus import Corpus, Utterance
from sercache.corpus.manifest import read_corpus, write_corpus

RATE_HZ = 16_000
MAIN = "from sercache.cli.main import main; main()"


def transcribe(*arguments):
    command = [sys.executable, "-c", MAIN, "transcribe", *map(str, arguments)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ)
    )


def finish(process):
    shown, errors = process.communicate(timeout=120)
    return process.returncode, shown, errors


@pytest.fixture
def manifest(tmp_path):
    rows = []
    for number in range(16):
        samples = np.random.default_rng(number).normal(size=RATE_HZ + 400 * number) / 9
        soundfile.write(tmp_path / f"{number}.wav", samples.clip(-1, 1), RATE_HZ)
        rows.append(Utterance(id=f"clip {number}", audio=f"{number}.wav", text="as written"))
    path = tmp_path / "corpus.csv"
    write_corpus(Corpus((), (), tuple(rows), tmp_path), path)
    return path


def test_a_killed_command_goes_on_to_the_same_manifest(manifest, tiny_whisper, tmp_path):
    before = manifest.read_bytes()
    code, shown, errors = finish(transcribe(manifest, "--model", tiny_whisper, "-o", tmp_path / "whole.csv"))
    assert code == 0, errors
    assert "16 transcribed now, 0 before, 0 failed" in shown
    assert "text_column" in shown
    assert manifest.read_bytes() == before
    for _ in range(3):
        process = transcribe(manifest, "--model", tiny_whisper)
        deadline = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < deadline:
            if any(path.stat().st_size for path in tmp_path.glob("corpus.csv.transcripts/*/*.jsonl")):
                break
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        finish(process)
    code, shown, errors = finish(transcribe(manifest, "--model", tiny_whisper))
    assert code == 0, errors
    assert manifest.read_bytes() == (tmp_path / "whole.csv").read_bytes()
    rows = read_corpus(manifest).utterances
    assert rows
    assert all(row.text == "as written" and "text:tiny-whisper" in row.extras for row in rows)


def test_bad_requests_are_one_line(manifest, tiny_whisper):
    for arguments, message in [
        ((manifest, "--model", "/nowhere/whisper"), "does not exist"),
        ((manifest, "--model", tiny_whisper, "--language", "klingon"), "does not know the language"),
        ((manifest, "--model", tiny_whisper, "--precision", "int4"), "write auto, float32 or bfloat16"),
        ((manifest.with_name("gone.csv"), "--model", tiny_whisper), "gone.csv"),
    ]:
        code, _, errors = finish(transcribe(*arguments))
        assert code == 2
        assert message in errors
        assert errors.count("\n") == 1
