"""An extraction takes as much memory for many recordings as for few."""

import re
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from support.fault_commands import RATE_HZ, begin_extract, finish, shards, wav_header, write_manifest

CLIP_SECONDS = 0.2
LIMIT_MEGABYTES = 30


def make_clips(folder, count):
    """Write recordings of 0.2 s, all different; a corpus of them."""
    random = np.random.default_rng(0)
    noise = random.integers(-8_000, 8_000, 2 * RATE_HZ, dtype="<i2")
    size = round(CLIP_SECONDS * RATE_HZ)
    header = wav_header(data_bytes=2 * size)
    for number in range(count):
        start = number % (len(noise) - size)
        (folder / f"{number:05d}.wav").write_bytes(header + noise[start : start + size].tobytes())
    return write_manifest(folder, {f"{number:05d}": f"{number:05d}.wav" for number in range(count)})


@dataclass(frozen=True)
class Sample:
    """How far an extraction was, and what it held in memory: then, and at most until then."""

    published: int
    resident_megabytes: float
    peak_megabytes: float


def watch(process, cache):
    """Return samples of a command until it ends."""
    samples = []
    while process.poll() is None:
        published = len(shards(cache))
        with suppress(FileNotFoundError, ProcessLookupError):
            status = Path(f"/proc/{process.pid}/status").read_text()
            held = dict(re.findall(r"^(VmHWM|VmRSS):\s+(\d+) kB$", status, re.MULTILINE))
            if held:  # a process that has just ended has no memory
                samples.append(Sample(published, int(held["VmRSS"]) / 1024, int(held["VmHWM"]) / 1024))
        time.sleep(0.005)
    return samples


def extract_and_watch(folder, *, clips, clips_per_task):
    manifest = make_clips(folder, clips)
    cache = folder / "cache"
    process = begin_extract(manifest, cache, task_seconds=clips_per_task * CLIP_SECONDS)
    samples = watch(process, cache)
    done = finish(process)
    assert (done.code, done.errors) == (0, "")
    return samples, len(shards(cache))


def grown_megabytes(samples, total):
    """By how much the peak has grown since a third of the shards was published."""
    third = next((sample for sample in samples if sample.published >= total / 3), samples[-1])
    return samples[-1].peak_megabytes - third.peak_megabytes


@pytest.fixture(autouse=True)
def _status_of_processes():
    if not Path("/proc/self/status").exists():
        pytest.skip("/proc is absent")


def test_fifteen_hundred_clips_take_no_more_memory_than_the_first_third(tmp_path):
    samples, total = extract_and_watch(tmp_path, clips=1_500, clips_per_task=25)
    assert total >= 60
    assert grown_megabytes(samples, total) < LIMIT_MEGABYTES


@pytest.mark.slow
def test_twenty_thousand_clips_take_no_more_memory_than_the_first_third(tmp_path):
    samples, total = extract_and_watch(tmp_path, clips=20_000, clips_per_task=100)
    print("\n   clips  resident MB  peak MB")
    for tenth in range(11):
        sample = [sample for sample in samples if sample.published <= total * tenth / 10][-1]
        held = f"{sample.resident_megabytes:11.1f}  {sample.peak_megabytes:7.1f}"
        print(f"{sample.published * 100:8,}  {held}")
    assert grown_megabytes(samples, total) < LIMIT_MEGABYTES
