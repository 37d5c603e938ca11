"""kill -9, at any time, any number of times: what is published stays, the rest is made anew."""

import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from support.fault_commands import (
    TIMEOUT_SECONDS,
    begin,
    begin_extract,
    contents,
    extract,
    finish,
    freeze_while_writing,
    process_namespace,
    run,
    shards,
    temporaries,
    wait_for_shards,
    wait_until,
    write_clip,
)

WRITERS = """
import os, sys
from itertools import count
from pathlib import Path

import numpy as np

from sercache.cache.fingerprint import FeatureSpec
from sercache.cache.shard import StoredUtterance, build_shard
from sercache.cache.sources import Source
from sercache.cache.writer import publish_shard, start_feature_set
from sercache.files import remove_stale_temporaries

spec = FeatureSpec(
    encoder="tiny", revision="1", modality="audio", layers=("last",), num_layers=0, dim=16,
    frame_rate_hz=50.0, sample_rate_hz=16_000, normalization="none", library="tests",
    dtype="float16", window_seconds=30.0, overlap_seconds=5.0,
)
tasks = {}
for number in range(8):
    frames = np.random.default_rng(number).normal(size=(4_000, 16)).astype(np.float16)
    source = Source(f"{number:032x}", number, (None, None))
    tasks[f"{number:012x}"] = [StoredUtterance(f"clip {number}", (frames,), 80.0, source)]
reference = Path(sys.argv[2])
reference.mkdir()
for task, utterances in tasks.items():
    (reference / f"shard-{task}.h5").write_bytes(build_shard(utterances, spec))
feature_set = start_feature_set(Path(sys.argv[1]), spec)
for line in sys.stdin:
    writer = os.fork()
    if writer == 0:
        remove_stale_temporaries(feature_set.folder)
        print(os.getpid(), flush=True)
        for number in count(int(line)):
            task = f"{number % len(tasks):012x}"
            publish_shard(feature_set, task, tasks[task])
    print(os.waitpid(writer, 0)[1], flush=True)
"""
"""Forks a writer per line of its input, which names its first task; tells its id, then how it ended."""


RECIPE = """
corpus: {corpus}
output: run
features:
  fine: {{encoder: logmel}}
  coarse: {{encoder: logmel, time_pool: 4}}
  words: {{encoder: char-ngrams}}
members: [{{name: m, features: [fine, coarse, words]}}]
"""


def kill_again_and_again(begin_one, cache, whole, *, kills, seed):
    """Kill a command at random times, then let it end; start anew when there is next to nothing left to do.

    What is published must be what an undisturbed command publishes, at every time.
    """
    random = np.random.default_rng(seed)
    total = sum(name.endswith(".h5") for name in whole)
    killed = 0
    while killed < kills:
        before = set(shards(cache))
        process = begin_one(fsync_seconds=0.004)
        wanted = int(random.integers(0, 5))
        if wanted:
            wait_for_shards(cache, min(len(before) + wanted, total), process)
        time.sleep(random.uniform(0, 0.03 if wanted else 0.5))
        process.kill()
        code = finish(process).code
        assert code in (0, -signal.SIGKILL)
        killed += code != 0
        found = contents(cache)
        left = {name for name in found if name.endswith(".tmp")}
        assert all(found[name] == whole[name] for name in found.keys() - left)
        assert before <= set(shards(cache))
        assert code != 0 or found == whole
        if len(shards(cache)) == total and killed < kills:
            assert finish(begin_one()).code == 0
            assert contents(cache) == whole
            shutil.rmtree(cache)
    done = finish(begin_one())
    assert (done.code, done.errors) == (0, "")
    assert contents(cache) == whole


def test_twenty_kills_of_the_command_lose_only_the_task_in_flight(corpus, whole, tmp_path):
    cache = tmp_path / "cache"

    def begin_one(**options):
        return begin_extract(corpus, cache, **options)

    kill_again_and_again(begin_one, cache, whole, kills=20, seed=20)
    done = run("cache", "verify", cache, "--sources", corpus)
    assert (done.code, done.errors) == (0, "")


@pytest.mark.slow
def test_kills_between_several_feature_sets_lose_only_the_task_in_flight(corpus, tmp_path):
    recipe, cache = tmp_path / "recipe.yaml", tmp_path / "cache"
    recipe.write_text(RECIPE.format(corpus=corpus))
    done = run("extract", recipe, "--cache", tmp_path / "whole")
    assert (done.code, done.errors) == (0, "")

    def begin_one(**options):
        return begin("extract", recipe, "--cache", cache, **options)

    kill_again_and_again(begin_one, cache, contents(tmp_path / "whole"), kills=6, seed=6)


def test_kills_while_changed_recordings_are_replaced_lose_nothing(corpus, whole_cache, tmp_path):
    manifest, cache = tmp_path / "corpus" / corpus.name, tmp_path / "cache"
    shutil.copytree(corpus.parent, manifest.parent)
    for number in range(3, 9):
        write_clip(manifest.with_name(f"clip-{number:03d}.wav"), seconds=1.0, seed=100 + number)
    shutil.copytree(whole_cache, tmp_path / "replaced")
    assert extract(manifest, tmp_path / "replaced", "--replace-changed").code == 0
    shutil.copytree(whole_cache, cache)
    random = np.random.default_rng(3)
    for _ in range(4):
        process = begin_extract(manifest, cache, "--replace-changed", fsync_seconds=0.02)
        wait_until(lambda: temporaries(cache), "the first shard that is written", process)
        time.sleep(random.uniform(0, 0.2))
        process.kill()
        assert finish(process).code in (0, -signal.SIGKILL)
        assert run("cache", "verify", cache).code == 0
    done = extract(manifest, cache, "--replace-changed")
    assert (done.code, done.errors) == (0, "")
    replaced = contents(tmp_path / "replaced")
    assert {name: found for name, found in contents(cache).items() if name.endswith(".h5")} == {
        name: found for name, found in replaced.items() if name.endswith(".h5")
    }


def test_what_a_killed_writer_left_goes_with_the_next_run_that_has_nothing_to_do(corpus, whole, tmp_path):
    cache = tmp_path / "cache"
    killed = begin_extract(corpus, cache, fsync_seconds=0.1)
    freeze_while_writing(killed, cache)
    assert extract(corpus, cache).code == 0
    assert temporaries(cache), "a living writer's file must stay"
    killed.kill()
    finish(killed)
    done = extract(corpus, cache)
    assert (done.code, done.errors) == (0, "")
    assert contents(cache) == whole


def test_containers_in_which_every_run_has_the_same_process_id_leave_nothing_behind(corpus, whole, tmp_path):
    cache, container = tmp_path / "cache", process_namespace()
    while not temporaries(cache):
        shutil.rmtree(cache, ignore_errors=True)
        killed = begin_extract(corpus, cache, fsync_seconds=0.1, through=container)
        wait_until(lambda: temporaries(cache) and shards(cache), "a shard that is being written", killed)
        killed.kill()
        finish(killed)
    done = extract(corpus, cache, through=container)
    assert (done.code, done.errors) == (0, "")
    assert contents(cache) == whole


def kill_writers(folder, kills, seed):
    """Kill one writer after the other in the middle of its work; what it published must be whole."""
    random = np.random.default_rng(seed)
    cache, reference = folder / "cache", folder / "reference"
    nursery = subprocess.Popen(
        [sys.executable, "-c", WRITERS, str(cache), str(reference)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    interrupted = 0
    try:
        for kill in range(kills):
            nursery.stdin.write(f"{kill}\n")
            nursery.stdin.flush()
            writer = int(nursery.stdout.readline())
            if kill % 2:
                wait_until(lambda: temporaries(cache), "a shard that is being written")
            time.sleep(random.uniform(0, 0.02))
            os.kill(writer, signal.SIGKILL)
            assert int(nursery.stdout.readline()) == signal.SIGKILL
            interrupted += bool(temporaries(cache))
            for path in shards(cache).values():
                assert path.read_bytes() == (reference / path.name).read_bytes()
            assert len(temporaries(cache)) <= 1, "every writer removes what the one before it left"
    finally:
        nursery.stdin.close()
        nursery.wait(TIMEOUT_SECONDS)
        nursery.stdout.close()
    assert len(shards(cache)) > 4
    return interrupted


def test_killed_writers_never_publish_half_a_shard(tmp_path):
    assert kill_writers(tmp_path, kills=50, seed=2) > 0


@pytest.mark.slow
def test_a_thousand_killed_writers_never_publish_half_a_shard(tmp_path):
    interrupted = kill_writers(tmp_path, kills=1_000, seed=1)
    print(f"\n1,000 writers killed, {interrupted} of them while a shard was being written")
    assert interrupted > 100
