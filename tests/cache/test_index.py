import errno
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sercache.cache import index as index_module
from sercache.cache import index_file
from sercache.cache.index_file import INDEX_NAME
from sercache.cache.shard import read_index
from sercache.cache.store import FeatureSet
from sercache.cache.writer import drop_utterances, publish_shard, start_feature_set
from sercache.errors import CacheError
from sercache.files import TEMPORARY_SUFFIX
from support.stored_utterances import SPEC, utterance

ids = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
shards = st.lists(
    st.lists(st.tuples(ids, st.integers(1, 9)), max_size=8, unique_by=lambda row: row[0]), max_size=5
)


@pytest.fixture(autouse=True)
def always_a_file(monkeypatch):
    monkeypatch.setattr(index_file, "WORTH_A_FILE", 0)


@pytest.fixture
def parsed(monkeypatch):
    """The names of the shards that were parsed, in order."""
    names = []

    def parse(path, spec):
        names.append(path.name)
        return read_index(path, spec)

    monkeypatch.setattr(index_file, "read_index", parse)
    return names


def write(root, tasks):
    """Publish shards of ``(id, frame count)`` rows; every shard's frames and sources differ."""
    feature_set = start_feature_set(root, SPEC)
    for number, rows in enumerate(tasks):
        stored = [utterance(name, count, SPEC, seed=number) for name, count in rows]
        publish_shard(feature_set, f"{number:03d}", stored)
    return feature_set.folder


def oracle(folder):
    """Walk the shards: each id's stored utterance, of the first shard that has it."""
    held = {}
    for path in sorted(folder.glob("shard-*.h5")):
        content = path.read_bytes()
        for stored, _ in read_index(path, SPEC).utterances(content, SPEC):
            held.setdefault(stored.id, stored)
    return held


def check(feature_set, held):
    """Hold everything that a feature set tells against the oracle."""
    names = list(held)
    asked = [*reversed(names), "absent", *names, "\ud800"]
    counts = [len(held[name].frames[0]) for name in names]
    assert list(feature_set.ids) == names == [feature_set.ids[place] for place in range(len(names))]
    assert feature_set.ids == tuple(names)
    assert feature_set.ids[-2:] == tuple(names[-2:])
    assert len(feature_set) == len(feature_set.ids) == len(names)
    assert feature_set.missing(asked) == ["absent", "\ud800"]
    assert feature_set.frame_counts(names).tolist() == counts
    assert feature_set.frame_counts(feature_set.ids).tolist() == counts
    assert "absent" not in feature_set
    assert 3 not in feature_set
    assert all(name in feature_set for name in names)
    for name, stored in held.items():
        assert feature_set.source(name) == stored.source
        np.testing.assert_array_equal(feature_set.frames(name), stored.frames[0])
    locations = feature_set.locate(asked)
    assert locations.shards[len(names)] == locations.shards[-1] == -1
    for name, view, streamed in zip(
        asked,
        feature_set.views(locations.shards, locations.starts, locations.counts),
        feature_set.stream(locations),
        strict=True,
    ):
        wanted = held[name].frames[0] if name in held else np.empty((0, SPEC.dim))
        np.testing.assert_array_equal(view, wanted)
        np.testing.assert_array_equal(streamed, wanted)


@settings(deadline=None, max_examples=30)
@given(tasks=shards)
def test_an_index_tells_what_a_walk_through_the_shards_tells(tmp_path_factory, tasks):
    folder = write(tmp_path_factory.mktemp("cache"), tasks)
    held = oracle(folder)
    check(FeatureSet(folder), held)
    assert (folder / INDEX_NAME).exists()
    check(FeatureSet(folder), held)


@settings(deadline=None, max_examples=20)
@given(tasks=shards, more=shards)
def test_a_grown_feature_set_is_indexed_as_if_from_nothing(tmp_path_factory, tasks, more):
    folder = write(tmp_path_factory.mktemp("cache"), tasks)
    len(FeatureSet(folder))
    write(folder.parent, [*tasks, *more])
    check(FeatureSet(folder), oracle(folder))
    grown = (folder / INDEX_NAME).read_bytes()
    (folder / INDEX_NAME).unlink()
    len(FeatureSet(folder))
    assert (folder / INDEX_NAME).read_bytes() == grown


@settings(deadline=None, max_examples=30)
@given(tasks=shards)
def test_ids_with_the_same_hash_are_told_apart(tmp_path_factory, tasks):
    folder = write(tmp_path_factory.mktemp("cache"), tasks)
    with pytest.MonkeyPatch.context() as patch:
        for module in (index_module, index_file):
            patch.setattr(module, "hash_of", lambda encoded: len(encoded) % 2)
        check(FeatureSet(folder), oracle(folder))
        check(FeatureSet(folder), oracle(folder))


def test_many_ids_are_looked_up_in_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr(index_module, "_IDS_AT_ONCE", 3)
    folder = write(tmp_path, [[(f"clip-{number}", 2) for number in range(10)], [("clip-4", 3), ("x", 1)]])
    check(FeatureSet(folder), oracle(folder))


def test_only_shards_that_the_index_does_not_know_are_parsed(tmp_path, parsed):
    folder = write(tmp_path, [[("a", 1)], [("b", 2)]])
    len(FeatureSet(folder))
    assert parsed == ["shard-000.h5", "shard-001.h5"]
    len(FeatureSet(folder))
    publish_shard(FeatureSet(folder), "002", [utterance("c", 3, SPEC)])
    assert FeatureSet(folder).ids == ("a", "b", "c")
    assert parsed == ["shard-000.h5", "shard-001.h5", "shard-002.h5"]


def test_shards_that_come_later_are_not_seen_by_an_open_feature_set(tmp_path):
    folder = write(tmp_path, [[("a", 1)]])
    feature_set = FeatureSet(folder)
    assert len(feature_set) == 1
    publish_shard(feature_set, "002", [utterance("c", 3, SPEC)])
    assert "c" not in feature_set
    assert "c" in FeatureSet(folder)


@pytest.mark.parametrize("size", [0, 100, 511, 512, 600, 4000, -1])
def test_a_truncated_index_is_made_anew(tmp_path, size):
    folder = write(tmp_path, [[("a", 1), ("b", 2)]])
    len(FeatureSet(folder))
    path = folder / INDEX_NAME
    whole = path.read_bytes()
    path.write_bytes(whole[:size])
    check(FeatureSet(folder), oracle(folder))
    assert path.read_bytes() == whole


def test_no_flipped_bit_of_an_index_is_trusted(tmp_path, parsed):
    folder = write(tmp_path, [[("a", 1), ("b", 2)], [("a", 4)]])
    len(FeatureSet(folder))
    path = folder / INDEX_NAME
    whole = path.read_bytes()
    generator = np.random.default_rng(0)
    for position in [0, 200, 511, *generator.integers(0, len(whole), 60).tolist()]:
        damaged = bytearray(whole)
        damaged[position] ^= 1 << int(generator.integers(8))
        path.write_bytes(damaged)
        parsed.clear()
        check(FeatureSet(folder), oracle(folder))
        assert parsed
        assert path.read_bytes() == whole


def test_something_else_under_its_name_does_no_harm(tmp_path):
    folder = write(tmp_path, [[("a", 1)]])
    shutil.copy(folder / "shard-000.h5", folder / INDEX_NAME)
    check(FeatureSet(folder), oracle(folder))
    (folder / INDEX_NAME).unlink()
    (folder / INDEX_NAME).mkdir()
    check(FeatureSet(folder), oracle(folder))


def test_the_index_of_another_feature_set_is_not_trusted(make_feature_set, parsed):
    first_set, other = (make_feature_set({"t": {"a": 3}}, revision=revision) for revision in ("1", "2"))
    assert len(first_set) == len(other) == 1
    shutil.copy(first_set.folder / INDEX_NAME, other.folder / INDEX_NAME)
    stamp = first_set.shard_paths[0].stat()
    os.utime(other.shard_paths[0], ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    parsed.clear()
    assert FeatureSet(other.folder).ids == ("a",)
    assert parsed


def test_a_shard_that_was_replaced_by_one_of_the_same_size_is_parsed_again(tmp_path):
    folder = write(tmp_path, [[("a", 3)], [("b", 3)]])
    first = FeatureSet(folder)
    assert first.ids == ("a", "b")
    publish_shard(first, "000", [utterance("z", 3, SPEC)])
    with pytest.raises(CacheError, match=r"shard-000\.h5: was replaced"):
        first.frames("a")
    check(FeatureSet(folder), oracle(folder))
    assert FeatureSet(folder).ids == ("z", "b")


def test_a_replaced_shard_with_the_old_time_is_never_read_as_the_old_one(tmp_path):
    folder = write(tmp_path, [[("a", 3)]])
    first = FeatureSet(folder)
    before = first.shard_paths[0].stat()
    assert len(first) == 1
    publish_shard(first, "000", [utterance("z", 3, SPEC)])
    os.utime(first.shard_paths[0], ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(CacheError, match="was replaced"):
        FeatureSet(folder).frames("a")


def test_a_shard_that_is_gone_gives_way_to_the_next_one_with_the_same_id(tmp_path):
    folder = write(tmp_path, [[("a", 3), ("b", 1)], [("b", 2), ("c", 1)]])
    assert FeatureSet(folder).frame_counts(["b"]) == [1]
    (folder / "shard-000.h5").unlink()
    check(FeatureSet(folder), oracle(folder))
    assert FeatureSet(folder).frame_counts(["b"]) == [2]


def test_a_dropped_utterance_is_gone_from_every_shard(tmp_path):
    folder = write(tmp_path, [[("a", 3), ("b", 1)], [("b", 2), ("c", 1)], [("d", 1)]])
    untouched = (folder / "shard-002.h5").stat().st_mtime_ns
    drop_utterances(FeatureSet(folder), ["b", "never there"])
    assert FeatureSet(folder).ids == ("a", "c", "d")
    assert (folder / "shard-002.h5").stat().st_mtime_ns == untouched


def test_where_nothing_can_be_written_the_index_stays_in_memory(tmp_path, monkeypatch):
    folder = write(tmp_path, [[("a", 3), ("b", 1)], [("b", 2)]])

    def read_only(path, content):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(index_file, "write_atomically", read_only)
    check(FeatureSet(folder), oracle(folder))
    assert not (folder / INDEX_NAME).exists()


def test_few_utterances_are_not_worth_a_file(tmp_path, monkeypatch):
    monkeypatch.setattr(index_file, "WORTH_A_FILE", 4)
    folder = write(tmp_path, [[("a", 3), ("b", 1)], [("b", 2), ("c", 2)]])
    check(FeatureSet(folder), oracle(folder))
    assert not (folder / INDEX_NAME).exists()
    publish_shard(FeatureSet(folder), "002", [utterance("d", 1, SPEC)])
    check(FeatureSet(folder), oracle(folder))
    assert (folder / INDEX_NAME).exists()


BUILD = """
import sys
from pathlib import Path
from sercache.cache import index_file
from sercache.cache.store import FeatureSet
index_file.WORTH_A_FILE = 0
print(*sorted(FeatureSet(Path(sys.argv[1])).ids), sep=",", end="")
"""


def test_several_processes_may_build_it_at_once(tmp_path):
    names = [f"clip-{number:04d}" for number in range(300)]
    folder = write(tmp_path, [[(name, 1) for name in names[first::20]] for first in range(20)])
    command = [sys.executable, "-c", BUILD, str(folder)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert [process.communicate()[0].split(",") for process in processes] == [names] * 3
    check(FeatureSet(folder), oracle(folder))
    assert not [path for path in folder.iterdir() if path.name.endswith(TEMPORARY_SUFFIX)]
