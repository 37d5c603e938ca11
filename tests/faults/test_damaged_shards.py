"""Shards that are cut off, overwritten or have a flipped bit: one line names the file, a rerun mends it."""

import csv
import shutil

import numpy as np
import pytest

from sercache.cache.shard import USER_BLOCK_BYTES
from support.fault_commands import assert_one_line, contents, extract, run, shards, write_clip

RECIPE = """
corpus: corpus.csv
cache: cache
output: run
features: {sound: {encoder: logmel, time_pool: 4}}
folds: {count: 2}
training: {batch_size: 8, stage1: {epochs: 1, learning_rate: 1.0e-3}, stage2: {epochs: 0}}
members: [{name: linear, head: mean-linear, features: [sound]}]
"""


def cut(size_of):
    def damage(content):
        return content[: size_of(len(content))]

    return damage


def flip(position_of):
    def damage(content):
        changed = bytearray(content)
        changed[position_of(len(content))] ^= 1 << 3
        return bytes(changed)

    return damage


def zero_page(content):
    return content[:USER_BLOCK_BYTES] + bytes(1024) + content[USER_BLOCK_BYTES + 1024 :]


DAMAGES = {
    "cut to half": cut(lambda size: size // 2),
    "last byte missing": cut(lambda size: size - 1),
    "cut within the metadata": cut(lambda size: 1_000),
    "cut within the user block": cut(lambda size: 100),
    "empty": cut(lambda size: 0),
    "longer than it was": lambda content: content + b"\0",
    "a bit of the user block flipped": flip(lambda size: 60),
    "a bit of the superblock flipped": flip(lambda size: USER_BLOCK_BYTES + 9),
    "a bit of the metadata flipped": flip(lambda size: USER_BLOCK_BYTES + 2_000),
    "a page of the metadata lost": zero_page,
    "something else": lambda content: b"these are notes",
}
"""What no command that opens the feature set can overlook."""

flip_in_frames = flip(lambda size: size - 1_000)


@pytest.fixture
def cache(whole_cache, tmp_path):
    shutil.copytree(whole_cache, tmp_path / "cache")
    return tmp_path / "cache"


def damage_one(cache, damage):
    path = sorted(shards(cache).values())[7]
    path.write_bytes(damage(path.read_bytes()))
    return path


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_extraction_names_the_damaged_shard_and_leaves_it(corpus, cache, damage):
    path = damage_one(cache, damage)
    damaged = path.read_bytes()
    assert_one_line(extract(corpus, cache), 2, str(path), "sercache cache repair extracts it again")
    assert path.read_bytes() == damaged, "only the user removes a file"


def test_every_damage_is_found_and_mended(corpus, whole, cache):
    damaged = sorted(shards(cache).values())[: len(DAMAGES)]
    for path, damage in zip(damaged, DAMAGES.values(), strict=True):
        path.write_bytes(damage(path.read_bytes()))
    done = run("cache", "verify", cache)
    assert_one_line(done, 2, "sercache cache repair extracts again what is damaged")
    assert [path for path in damaged if str(path) not in done.output] == []
    for path in damaged:
        path.unlink()
    done = extract(corpus, cache)
    assert (done.code, done.errors) == (0, "")
    assert contents(cache) == whole


@pytest.mark.parametrize("command", ["ls", "info"])
def test_looking_into_a_cache_names_the_damaged_shard(cache, command):
    path = damage_one(cache, DAMAGES["cut to half"])
    assert_one_line(run("cache", command, cache), 2, str(path), "sercache cache repair extracts it again")


def test_random_bits_that_flip_are_all_found(corpus, whole, cache):
    random = np.random.default_rng(4)
    paths = sorted(shards(cache).values())
    for path in paths:
        position = int(random.integers(path.stat().st_size))
        path.write_bytes(flip(lambda size, position=position: position)(path.read_bytes()))
    done = run("cache", "verify", cache)
    assert_one_line(done, 2, f"{len(paths)} findings")
    assert paths
    assert all(str(path) in done.output for path in paths)
    for path in paths:
        path.unlink()
    assert extract(corpus, cache).code == 0
    assert contents(cache) == whole


def test_a_flipped_bit_of_the_frames_costs_one_utterance(corpus, whole, cache):
    path = damage_one(cache, flip_in_frames)
    done = run("cache", "verify", cache)
    assert_one_line(done, 2, "1 findings")
    assert f"{path}: clip-" in done.output
    assert "its frames are not what was written" in done.output
    path.unlink()
    assert extract(corpus, cache).code == 0
    assert contents(cache) == whole


def test_a_shard_of_another_feature_set_is_refused(corpus, whole, cache):
    assert extract(corpus, cache, "--time-pool", 2).code == 0
    stranger = next(path for path in cache.glob("*/shard-*.h5") if str(path.relative_to(cache)) not in whole)
    path = sorted(cache / name for name in whole if name.endswith(".h5"))[7]
    shutil.copy(stranger, path)
    assert_one_line(extract(corpus, cache), 2, str(path), "belongs to another feature set")


def test_a_damaged_description_is_one_line(corpus, cache):
    (path,) = cache.glob("*/feature_set.json")
    path.write_bytes(path.read_bytes()[:100])
    assert_one_line(extract(corpus, cache), 2, str(path))
    assert_one_line(run("cache", "verify", cache), 2, str(path))


def test_a_damaged_list_of_failures_is_one_line(corpus, cache):
    (path,) = cache.glob("*/failures.csv")
    path.write_bytes(b"\xff\xfe not a table\n" * 3)
    assert_one_line(extract(corpus, cache), 2, str(path), "remove it to go on")
    assert_one_line(run("cache", "info", cache), 2, str(path))


@pytest.fixture
def recipe(tmp_path):
    """A recipe whose features are extracted, and nothing is trained yet."""
    votes = {True: (3, 0), False: (0, 3)}
    with (tmp_path / "corpus.csv").open("w", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(["id", "audio", "speaker", "votes:Angry", "votes:Happy"])
        for number in range(16):
            write_clip(tmp_path / f"{number}.wav", seconds=0.5, seed=number)
            table.writerow([f"clip {number}", f"{number}.wav", f"s{number // 4}", *votes[number % 2 == 0]])
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    done = run("extract", path)
    assert (done.code, done.errors) == (0, "")
    return path


@pytest.mark.parametrize("damage", [DAMAGES["cut to half"], flip_in_frames], ids=["cut", "flipped bit"])
def test_training_never_takes_damaged_frames(recipe, damage):
    path = damage_one(recipe.with_name("cache"), damage)
    done = run("train-ensemble", recipe, "--workers", 1)
    assert done.code == 2, done.errors
    assert "Traceback" not in done.errors
    last = done.errors.splitlines()[-1]
    assert last.startswith("sercache: ")
    assert str(path) in last
