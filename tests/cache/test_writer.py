import errno

import numpy as np
import pytest

from sercache.cache.store import FeatureSet
from sercache.cache.writer import drop_utterances, publish_shard, start_feature_set
from sercache.errors import CacheError


def test_a_set_that_is_there_is_opened_and_not_rewritten(make_feature_set, tmp_path):
    feature_set = make_feature_set({"t": {"a": 3}})
    before = (feature_set.folder / "feature_set.json").stat()
    again = start_feature_set(tmp_path / "cache", feature_set.spec)
    assert again.ids == ("a",)
    assert (feature_set.folder / "feature_set.json").stat().st_mtime_ns == before.st_mtime_ns


def test_a_full_disk_is_one_clear_line(make_feature_set, make_utterance, monkeypatch):
    feature_set = make_feature_set({"t": {"a": 3}})

    def full_disk(path, content):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("sercache.cache.writer.write_atomically", full_disk)
    with pytest.raises(CacheError, match=r"shard-u\.h5: cannot be written \(No space left on device\)"):
        publish_shard(feature_set, "u", [make_utterance("b", 3, feature_set.spec)])
    assert FeatureSet(feature_set.folder).ids == ("a",)


def test_dropped_utterances_leave_the_others_as_they_were(make_feature_set, make_utterance):
    feature_set = make_feature_set({"t1": {"a": 3, "b": 4, "c": 5}, "t2": {"d": 2}})
    untouched = feature_set.shard_paths[1].stat().st_mtime_ns
    drop_utterances(feature_set, ["b"])
    again = FeatureSet(feature_set.folder)
    assert again.ids == ("a", "c", "d")
    np.testing.assert_array_equal(again.frames("c"), make_utterance("c", 5, again.spec).frames[0])
    assert again.shard_paths[1].stat().st_mtime_ns == untouched


def test_a_rewrite_never_gives_damage_a_new_checksum(make_feature_set):
    feature_set = make_feature_set({"t": {"a": 3, "b": 4}})
    path = feature_set.shard_paths[0]
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(CacheError, match="frames of 'b' are damaged"):
        drop_utterances(feature_set, ["a"])
