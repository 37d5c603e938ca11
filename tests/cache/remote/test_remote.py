"""Caches in an object store: whole or not at all, and no more of them here than fits."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from sercache.benchmarks.synthetic import synthetic_feature_set, utterance_id
from sercache.cache.remote.bucket import Bucket
from sercache.cache.remote.mirror import kept_bytes, make_mirror
from sercache.cache.remote.transfer import pull, push
from sercache.cache.shard import StoredUtterance
from sercache.cache.sources import Source
from sercache.cache.store import Cache
from sercache.cache.verify import verify
from sercache.cache.writer import publish_shard, start_feature_set
from sercache.errors import CacheError
from sercache.training.ensemble import train_ensemble
from support.run_builder import make_run

SHARDS = 6


@pytest.fixture
def cache(tmp_path):
    """Six shards of 20 utterances."""
    root = tmp_path / "cache"
    feature_set = synthetic_feature_set(root, 1, 30, 8)
    generator = np.random.default_rng(0)
    for shard in range(SHARDS):
        publish_shard(
            feature_set,
            f"{shard:06d}",
            [
                StoredUtterance(
                    utterance_id(20 * shard + number),
                    (generator.normal(size=(40, 8)).astype(np.float16),),
                    0.8,
                    Source(f"{number:032x}", 1000, (None, None)),
                )
                for number in range(20)
            ],
        )
    return root


def only(root):
    (feature_set,) = Cache(root).feature_sets()
    return feature_set


def files(root):
    return {path.name: path.read_bytes() for path in only(root).folder.iterdir() if path.is_file()}


def test_what_is_pushed_comes_back_byte_for_byte(cache, url, tmp_path):
    (only(cache).folder / "failures.csv").write_text("utterance,stage,exception,message,attempts,task\n")
    assert push(cache, url).shards == SHARDS
    assert pull(url, tmp_path / "back").shards == SHARDS
    assert files(tmp_path / "back") == files(cache)
    assert (push(cache, url).were_there, pull(url, tmp_path / "back").were_there) == (SHARDS, SHARDS)


def test_a_shard_that_was_rewritten_takes_the_place_of_the_old_one(cache, url, tmp_path):
    push(cache, url)
    rows = [StoredUtterance("new", (np.ones((3, 8), np.float16),), 0.1, Source("0" * 32, 5, (None, None)))]
    publish_shard(only(cache), "000000", rows)
    assert push(cache, url).shards == 1
    pull(url, tmp_path / "back")
    assert files(tmp_path / "back") == files(cache)


def test_a_mirror_reads_as_the_cache_does_and_keeps_no_more_than_it_may(cache, url, tmp_path):
    push(cache, url)
    here = only(cache)
    size = max(path.stat().st_size for path in here.shard_paths)
    made = make_mirror(url, tmp_path / "mirror", limit_bytes=2 * size)
    assert (made.shards, made.size_bytes) == (SHARDS, sum(p.stat().st_size for p in here.shard_paths))
    assert kept_bytes(tmp_path / "mirror") == 0
    for _ in range(2):
        mirrored = only(tmp_path / "mirror")  # its maps are closed: everything is looked for anew
        assert list(mirrored.ids) == list(here.ids)
        for number in np.random.default_rng(1).permutation(20 * SHARDS):
            name = utterance_id(int(number))
            np.testing.assert_array_equal(mirrored.frames(name), here.frames(name))
            assert 0 < kept_bytes(tmp_path / "mirror") <= 2 * size


def test_only_what_is_read_is_fetched(cache, url, tmp_path):
    push(cache, url)
    make_mirror(url, tmp_path / "mirror", limit_bytes=10**9)
    mirrored = only(tmp_path / "mirror")
    mirrored.frames(utterance_id(0))
    mirrored.frames(utterance_id(1))
    assert kept_bytes(tmp_path / "mirror") == mirrored.shard_paths[0].stat().st_size


def test_a_mirror_is_only_read(cache, url, tmp_path):
    push(cache, url)
    make_mirror(url, tmp_path / "mirror", limit_bytes=10**9)
    for change in (
        lambda: publish_shard(only(tmp_path / "mirror"), "new", []),
        lambda: start_feature_set(tmp_path / "mirror", only(cache).spec),
        lambda: verify(only(tmp_path / "mirror")),
    ):
        with pytest.raises(CacheError, match="mirror"):
            change()


def test_the_commands_say_what_they_did(cache, url, tmp_path):
    sercache = str(Path(sys.executable).with_name("sercache"))

    def run_command(*arguments):
        done = subprocess.run(
            [sercache, "cache", *map(str, arguments)], capture_output=True, text=True, check=False
        )
        return done.returncode, " ".join((done.stdout + done.stderr).split())

    assert run_command("pull", url, tmp_path / "none") == (
        2,
        f"sercache: {url}: holds no cache; sercache cache push CACHE {url} makes one",
    )
    assert run_command("push", cache, url) == (0, "pushed 6 shards, 0.000 GB; 0 were there")
    assert run_command("pull", url, tmp_path / "back") == (0, "pulled 6 shards, 0.000 GB; 0 were there")
    code, output = run_command("mirror", url, tmp_path / "mirror", "--limit-gb", 1)
    assert (code, "1 feature sets, 6 shards" in output) == (0, True)
    assert "120" in run_command("ls", tmp_path / "mirror")[1]


def test_a_mirror_sees_later_pushes_when_it_is_laid_out_again(cache, url, tmp_path):
    last = only(cache).shard_paths[-1]
    content = last.read_bytes()
    last.unlink()
    push(cache, url)
    make_mirror(url, tmp_path / "mirror", limit_bytes=10**9)
    before = only(tmp_path / "mirror")
    frames = before.frames(utterance_id(0)).copy()
    assert utterance_id(20 * SHARDS - 1) not in before
    last.write_bytes(content)
    push(cache, url)
    make_mirror(url, tmp_path / "mirror", limit_bytes=10**9)
    after = only(tmp_path / "mirror")
    assert after.frames(utterance_id(20 * SHARDS - 1)).shape == (40, 8)
    np.testing.assert_array_equal(after.frames(utterance_id(0)), frames)


def test_an_object_that_is_damaged_is_never_read(cache, url, tmp_path):
    push(cache, url)
    bucket = Bucket(url)
    name = only(cache).folder.name
    commit = bucket.commits(name)["shard-000000.h5"]
    content = bytearray(bucket.fetch(name, commit))
    content[-1] ^= 1
    bucket.write(name, f"objects/{commit.object_name}", bytes(content))
    make_mirror(url, tmp_path / "mirror", limit_bytes=10**9)
    with pytest.raises(CacheError, match="not what was pushed"):
        only(tmp_path / "mirror").frames(utterance_id(0))
    with pytest.raises(CacheError, match="not what was pushed"):
        pull(url, tmp_path / "back")


SLOW_PUSH = """
import sys, time
from pathlib import Path
from sercache.cache.remote import bucket, transfer

publish = bucket.Bucket.publish
def slowly(self, feature_set, path, commit):
    put = self._files.put_file
    def put_file(source, target):
        put(source, target)
        print("uploaded", flush=True)
        time.sleep(0.5)  # here it is killed: the object is there, its commit is not
    self._files.put_file = put_file
    try:
        publish(self, feature_set, path, commit)
    finally:
        self._files.put_file = put
bucket.Bucket.publish = slowly
transfer.push(Path(sys.argv[1]), sys.argv[2])
"""


def test_an_upload_that_is_killed_leaves_nothing_visible_of_its_shard(cache, url, tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW_PUSH, str(cache), url], stdout=subprocess.PIPE, text=True
    )
    for _ in range(3):
        assert process.stdout.readline() == "uploaded\n"
    time.sleep(0.1)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    bucket, name = Bucket(url), only(cache).folder.name
    assert sorted(bucket.commits(name)) == ["shard-000000.h5", "shard-000001.h5"]
    assert pull(url, tmp_path / "half").shards == 2
    assert verify(only(tmp_path / "half")) == []
    assert push(cache, url).shards == SHARDS - 2
    pull(url, tmp_path / "half")
    assert files(tmp_path / "half") == files(cache)


@pytest.mark.parametrize("wrong", ["s3://no-such-bucket-here/cache", "nothing://x"])
def test_a_place_that_is_none_is_one_line(cache, server, wrong, tmp_path):
    for call in (lambda: push(cache, wrong), lambda: pull(wrong, tmp_path / "back")):
        with pytest.raises(CacheError) as caught:
            call()
        assert "\n" not in str(caught.value)
        assert wrong in str(caught.value)


def test_training_from_a_mirror_that_holds_one_shard_learns_the_same(url, tmp_path):
    recipe = make_run(tmp_path, members=[{"name": "linear", "head": "mean-linear", "features": ["speech"]}])
    push(tmp_path / "cache", url)
    train_ensemble(recipe, workers=1)
    (tmp_path / "cache").rename(tmp_path / "elsewhere")
    make_mirror(url, tmp_path / "cache", limit_bytes=1)
    mirrored = recipe.model_copy(update={"output": tmp_path / "mirrored"})
    train_ensemble(mirrored, workers=1)
    learned, again = (
        {
            str(path.relative_to(run)): path.read_bytes()
            for path in run.rglob("*")
            if path.name in ("weights.safetensors", "posteriors.parquet")
        }
        for run in (recipe.output, mirrored.output)
    )
    assert len(learned) == 2 * 4  # of the member and of the baseline: three folds, and the posteriors
    assert again == learned
