"""Whole commands in processes of their own, and what they leave behind."""

import csv
import hashlib
import io
import os
import signal
import struct
import subprocess
import sys
import time
from dataclasses import dataclass

import numpy as np
import pytest
import soundfile

from sercache.cache.usage import SPEED_NAME
from sercache.files import TEMPORARY_SUFFIX

RATE_HZ = 16_000
ENDLESS = 2**32 - 1
"""The size that a wav file states whose writer could not seek back."""

TIMEOUT_SECONDS = 60

_COMMAND = """
import os, sys, time
from sercache.extract import schedule as plan

plan.TASK_SECONDS, fsync_seconds = float(sys.argv[1]), float(sys.argv[2])
really_fsync = os.fsync

def fsync(descriptor):
    time.sleep(fsync_seconds)
    really_fsync(descriptor)

os.fsync = fsync
sys.argv = ["sercache", *sys.argv[3:]]
from sercache.cli.main import main
main()
"""


_begun = []


@dataclass(frozen=True)
class Finished:
    """A command that ended by itself or by a signal (then ``code`` is minus its number)."""

    code: int
    output: str
    errors: str


def begin(*arguments, task_seconds=1.0, fsync_seconds=0.0, through=(), **options):
    """Start ``sercache ARGUMENTS`` with short tasks, on a disk that takes its time, ``through`` a wrapper."""
    command = [*through, sys.executable, "-c", _COMMAND, task_seconds, fsync_seconds, *arguments]
    process = subprocess.Popen(
        [str(part) for part in command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )
    _begun.append(process)
    return process


def end_all():
    """End what a failed test left running."""
    while _begun:
        with _begun.pop() as process:
            process.kill()


def finish(process):
    """Wait for the end of a command; one that hangs fails the test."""
    try:
        output, errors = process.communicate(timeout=TIMEOUT_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return Finished(process.returncode, output, errors)


def run(*arguments, **options):
    return finish(begin(*arguments, **options))


def begin_extract(manifest, cache, *more, encoder="logmel", **options):
    return begin("extract", manifest, "--cache", cache, "--encoder", encoder, *more, **options)


def extract(manifest, cache, *more, **options):
    return finish(begin_extract(manifest, cache, *more, **options))


def assert_one_line(done, code, *messages):
    """A user sees one line that says what happened; never a traceback."""
    assert done.code == code, done.errors
    assert done.errors.startswith("sercache: ")
    assert done.errors.count("\n") == 1, done.errors
    for words in messages:
        assert words in done.errors


def contents(cache):
    """A digest of every file by its path in the cache; of failures without how often they were tried."""
    return {
        str(path.relative_to(cache)): _content(path)
        for path in sorted(cache.rglob("*"))
        if path.is_file() and path.name != SPEED_NAME
    }


def shards(cache):
    """The published shards by their path in the cache."""
    return {str(path.relative_to(cache)): path for path in cache.glob("*/shard-*.h5")}


def temporaries(cache):
    return [path for path in cache.rglob("*") if path.name.endswith(TEMPORARY_SUFFIX)]


def failures(cache):
    """The rows of the only ledger in a cache, by utterance."""
    (ledger,) = cache.glob("*/failures.csv")
    with ledger.open(newline="", encoding="utf-8") as stream:
        return {row["utterance"]: row for row in csv.DictReader(stream)}


def wait_until(holds, what, process=None):
    """Wait for a condition; the end of ``process`` ends the wait as well."""
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not holds() and (process is None or process.poll() is None):
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.002)


def wait_for_shards(cache, count, process):
    wait_until(lambda: len(shards(cache)) >= count, f"{count} shards", process)


def write_clip(path, *, seconds, seed):
    noise = np.random.default_rng(seed).normal(size=round(seconds * RATE_HZ)) / 8
    soundfile.write(path, noise.clip(-1, 1), RATE_HZ, subtype="PCM_16")


def wav_header(*, data_bytes, channels=1, rate_hz=RATE_HZ, bits=16, codec=1):
    align = channels * bits // 8
    form = struct.pack("<HHIIHH", codec, channels, rate_hz, rate_hz * align % 2**32, align, bits)
    whole_bytes = min(36 + data_bytes, ENDLESS)
    return struct.pack("<4sI8sI16s4sI", b"RIFF", whole_bytes, b"WAVEfmt ", 16, form, b"data", data_bytes)


def write_long_corpus(folder, count):
    """Write recordings of a minute, as many names of one file; returns the manifest."""
    write_clip(folder / "recording.wav", seconds=60.0, seed=0)
    names = [f"clip-{number:02d}" for number in range(count)]
    for name in names:
        os.link(folder / "recording.wav", folder / f"{name}.wav")
    return write_manifest(folder, {name: f"{name}.wav" for name in names})


def write_manifest(folder, audio):
    """Write ``corpus.csv`` from audio files by utterance id."""
    path = folder / "corpus.csv"
    with path.open("w", newline="", encoding="utf-8") as stream:
        table = csv.writer(stream)
        table.writerow(["id", "audio", "text"])
        table.writerows([name, file, f"the words of {name}"] for name, file in audio.items())
    return path


def freeze_while_writing(process, cache):
    """Stop a command (it can go on later) while a shard of its lies there under a temporary name."""
    while True:
        wait_until(lambda: temporaries(cache) and shards(cache), "a shard that is being written", process)
        assert process.poll() is None, "it ended before a shard was being written"
        process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED)
        if temporaries(cache):
            return
        process.send_signal(signal.SIGCONT)


def process_namespace():
    """Return a wrapper under which a command is process 1, as in a container; skips where there is none."""
    wrapper = ("unshare", "--pid", "--fork", "--kill-child")
    return _usable(wrapper, "process namespaces are not permitted")


def without_rights():
    """Return a wrapper under which permissions hold for root, too; skips where there is none."""
    if os.geteuid() != 0:
        return ()
    return _usable(
        ("setpriv", "--bounding-set=-dac_override,-dac_read_search"), "permissions do not hold for root"
    )


def _usable(wrapper, otherwise):
    try:
        works = subprocess.run([*wrapper, "true"], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        works = False
    if not works:
        pytest.skip(otherwise)
    return wrapper


def _content(path):
    content = path.read_bytes()
    if path.name != "failures.csv":
        return hashlib.sha256(content).hexdigest()
    rows = csv.DictReader(io.StringIO(content.decode(), newline=""))
    return [tuple(value for name, value in row.items() if name != "attempts") for row in rows]
