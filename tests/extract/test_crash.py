"""Extraction in a process of its own, killed, starved of disk, or run twice at once."""

import json
import signal
import subprocess
import sys
import time

import pytest

from sercache.cache.store import Cache
from sercache.cache.usage import SPEED_NAME
from sercache.cache.verify import verify
from sercache.corpus.manifest import write_corpus
from sercache.files import TEMPORARY_SUFFIX
from sercache.recipe import FeatureRecipe

EXTRACT = """
import json, resource, sys, time
from pathlib import Path
from sercache.corpus.manifest import read_corpus
from sercache.errors import SercacheError
from sercache.extract import schedule as plan
from sercache.extract.extraction import extract
from sercache.events import Context, stop_flag
from sercache.recipe import FeatureRecipe

corpus, cache, pause, limit = Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])
plan.TASK_SECONDS = 3.0
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
with stop_flag() as stopped:
    def should_stop():
        time.sleep(pause)
        return stopped()
    try:
        recipes = {"logmel": FeatureRecipe(encoder="logmel")}
        extract(read_corpus(corpus), recipes, cache, context=Context(should_stop=should_stop))
    except SercacheError as error:
        sys.exit(f"{type(error).__name__}: {error}")
"""


def begin(corpus, cache, pause=0.0, limit=0):
    command = [sys.executable, "-c", EXTRACT, str(corpus), str(cache), str(pause), str(limit)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def finish(process):
    _, errors = process.communicate(timeout=60)
    return process.returncode, errors


def contents(cache):
    return {
        str(path.relative_to(cache)): path.read_bytes()
        for path in sorted(cache.rglob("*"))
        if path.is_file() and path.name != SPEED_NAME
    }


def features(found):
    """Shards and descriptions: all but the ledger, which counts how often a bad file was tried."""
    return {name: content for name, content in found.items() if name.endswith((".h5", ".json"))}


def count_shards(cache):
    return len(list(cache.glob("*/shard-*.h5")))


def wait_for_shards(cache, count):
    deadline = time.monotonic() + 30
    while count_shards(cache) < count:
        assert time.monotonic() < deadline, "no shard came"
        time.sleep(0.005)


@pytest.fixture
def manifest(make_corpus, tmp_path):
    path = tmp_path / "corpus.csv"
    corpus = make_corpus(40)
    (tmp_path / "clip-007.wav").write_text("these are notes")
    write_corpus(corpus, path)
    return path


@pytest.fixture
def uninterrupted(manifest, tmp_path):
    """What an extraction that nothing disturbs leaves behind."""
    assert finish(begin(manifest, tmp_path / "whole")) == (0, "")
    return contents(tmp_path / "whole")


def test_killed_extractions_lose_only_the_task_in_flight(manifest, tmp_path, uninterrupted):
    cache = tmp_path / "cache"
    total = sum(name.endswith(".h5") for name in uninterrupted)
    assert total >= 8
    kills = 0
    while (before := count_shards(cache)) < total - 1 and kills < 5:
        process = begin(manifest, cache, pause=0.1)
        wait_for_shards(cache, before + 1)
        time.sleep(0.023 * kills)
        kills += 1
        process.send_signal(signal.SIGKILL)
        finish(process)
        found = contents(cache)
        published = {name for name in found if name.endswith(".h5") and TEMPORARY_SUFFIX not in name}
        assert all(found[name] == uninterrupted[name] for name in published)
        assert len(published) > before
        assert verify(Cache(cache).find(FeatureRecipe(encoder="logmel"))) == []
    assert kills >= 3
    assert finish(begin(manifest, cache)) == (0, "")
    assert features(contents(cache)) == features(uninterrupted)
    assert set(contents(cache)) == set(uninterrupted)


def test_sigterm_ends_at_a_safe_point_with_a_hint(manifest, tmp_path):
    process = begin(manifest, tmp_path / "cache", pause=0.05)
    wait_for_shards(tmp_path / "cache", 1)
    process.terminate()
    code, errors = finish(process)
    assert code == 1
    assert errors.startswith("Interrupted: logmel: stopped; ")
    assert "the same command goes on from there" in errors


def test_a_full_disk_is_one_line_and_the_next_run_goes_on(manifest, tmp_path, uninterrupted):
    cache = tmp_path / "cache"
    limit = max(len(content) for name, content in uninterrupted.items() if name.endswith(".h5")) - 1
    code, errors = finish(begin(manifest, cache, limit=limit))
    assert code == 1
    assert errors.startswith("CacheError: ")
    assert "cannot be written (File too large); finished shards are kept" in errors
    assert errors.count("\n") == 1
    assert not list(cache.rglob(f".*{TEMPORARY_SUFFIX}"))
    assert finish(begin(manifest, cache)) == (0, "")
    assert features(contents(cache)) == features(uninterrupted)


def test_what_a_dead_writer_left_is_removed(manifest, tmp_path, uninterrupted):
    cache = tmp_path / "cache"
    assert finish(begin(manifest, cache)) == (0, "")
    dead = begin(manifest, tmp_path / "elsewhere")
    dead.kill()
    finish(dead)
    folder = next(cache.glob("logmel-*"))
    next(iter(sorted(folder.glob("shard-*.h5")))).unlink()
    stale = folder / f".shard-0.h5.{dead.pid}.0123abcd{TEMPORARY_SUFFIX}"
    stale.touch()
    assert finish(begin(manifest, cache)) == (0, "")
    assert not stale.exists()
    assert contents(cache) == uninterrupted


def test_two_extractions_at_once_are_harmless(manifest, tmp_path, uninterrupted):
    processes = [begin(manifest, tmp_path / "cache", pause=0.01) for _ in range(3)]
    assert [finish(process) for process in processes] == [(0, "")] * 3
    assert features(contents(tmp_path / "cache")) == features(uninterrupted)
    assert set(contents(tmp_path / "cache")) == set(uninterrupted)


def test_the_description_tells_people_what_this_is(uninterrupted):
    (described,) = [json.loads(content) for name, content in uninterrupted.items() if name.endswith(".json")]
    assert described["encoder"] == "logmel"
    assert described["dtype"] == "float16"
    assert len(described["fingerprint"]) == 64
