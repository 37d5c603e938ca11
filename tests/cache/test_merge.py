import subprocess
import sys

import numpy as np
import pytest

from sercache.cache.ledger import Ledger
from sercache.cache.merge import merge
from sercache.cache.store import Cache, FeatureSet
from sercache.cache.verify import verify
from sercache.cache.writer import publish_shard, start_feature_set
from sercache.errors import AudioError, CacheError, Interrupted
from sercache.events import Context


def frames_of(feature_set):
    return {name: np.array(feature_set.frames(name)) for name in feature_set.ids}


def contents(root):
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and ".tmp" not in path.name
    }


def test_parts_of_two_machines_become_one_cache(make_feature_set, tmp_path):
    first_part = make_feature_set({"a": {"u": 3, "v": 2}, "b": {"w": 4}}, root=tmp_path / "one")
    two = make_feature_set({"c": {"x": 5}, "d": {"u": 3, "y": 1}}, root=tmp_path / "two")
    other = make_feature_set({"a": {"u": 2}}, root=tmp_path / "two", encoder="other")
    before = contents(tmp_path / "one"), contents(tmp_path / "two")
    merged = merge(tmp_path / "all", [tmp_path / "one", tmp_path / "two"])
    assert [(found.added, found.known) for found in merged] == [(3, 0), (2, 1), (1, 0)]
    whole = FeatureSet(tmp_path / "all" / first_part.folder.name)
    assert sorted(whole.ids) == ["u", "v", "w", "x", "y"]
    for part in (first_part, two):
        for name, frames in frames_of(part).items():
            np.testing.assert_array_equal(whole.frames(name), frames)
            assert whole.source(name) == part.source(name)
    assert len(FeatureSet(tmp_path / "all" / other.folder.name)) == 1
    assert verify(whole) == []
    assert (contents(tmp_path / "one"), contents(tmp_path / "two")) == before


def test_merging_again_changes_nothing(make_feature_set, tmp_path):
    make_feature_set({"a": {"u": 3, "v": 2}}, root=tmp_path / "one")
    make_feature_set({"d": {"u": 3, "y": 1}}, root=tmp_path / "two")
    sources = [tmp_path / "one", tmp_path / "two"]
    merge(tmp_path / "all", sources)
    before = contents(tmp_path / "all")
    assert [found.added for found in merge(tmp_path / "all", sources)] == [0, 0]
    assert contents(tmp_path / "all") == before


@pytest.mark.parametrize("place", ["target", "sources"])
def test_other_frames_under_one_id_are_refused_and_nothing_changes(
    make_feature_set, make_utterance, spec, tmp_path, place
):
    make_feature_set({"a": {"u": 3}}, root=tmp_path / "one")
    other = start_feature_set(tmp_path / "two", spec)
    publish_shard(other, "b", [make_utterance("u", 3, spec, seed=1), make_utterance("w", 3, spec)])
    target = tmp_path / ("one" if place == "target" else "all")
    sources = [tmp_path / "two"] if place == "target" else [tmp_path / "one", tmp_path / "two"]
    with pytest.raises(CacheError, match=r"'u' was made from other audio or text .*nothing was merged"):
        merge(target, sources)
    assert "w" not in Cache(target).feature_sets()[0]


def test_a_damaged_source_is_refused(make_feature_set, tmp_path):
    source = make_feature_set({"a": {"u": 300}}, root=tmp_path / "one")
    (path,) = source.shard_paths
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    path.write_bytes(content)
    with pytest.raises(CacheError, match=r"the frames of 'u' are damaged; run sercache cache repair"):
        merge(tmp_path / "all", [tmp_path / "one"])
    with pytest.raises(CacheError, match="holds no feature sets"):
        merge(tmp_path / "all", [tmp_path / "nowhere"])
    with pytest.raises(CacheError, match="cannot be merged into itself"):
        merge(tmp_path / "one", [tmp_path / "one"])


def test_a_success_beats_a_failure(make_feature_set, tmp_path):
    for root, names, failed in (("one", {"u": 2}, "v"), ("two", {"v": 2}, "u"), ("three", {"x": 2}, "gone")):
        feature_set = make_feature_set({root: names}, root=tmp_path / root)
        ledger = Ledger(feature_set.folder)
        ledger.record(failed, "decode", AudioError("no such file"), root)
        ledger.save()
    merged = merge(tmp_path / "all", [tmp_path / "one", tmp_path / "two", tmp_path / "three"])
    assert set(Ledger(merged[-1].feature_set.folder).failures) == {"gone"}
    assert sorted(merged[-1].feature_set.ids) == ["u", "v", "x"]


def test_an_interrupted_merge_goes_on(make_feature_set, tmp_path):
    make_feature_set({name: {f"{name}{k}": 3 for k in range(3)} for name in "abcd"}, root=tmp_path / "one")
    merge(tmp_path / "whole", [tmp_path / "one"])
    asked = iter(range(9))
    with pytest.raises(Interrupted, match="the same command goes on"):
        merge(tmp_path / "all", [tmp_path / "one"], context=Context(should_stop=lambda: next(asked) >= 2))
    assert len(Cache(tmp_path / "all").feature_sets()[0]) == 6
    merge(tmp_path / "all", [tmp_path / "one"])
    assert contents(tmp_path / "all") == contents(tmp_path / "whole")


KILLED = """
import os, sys
from pathlib import Path
from sercache.cache import merge, prune, writer
from sercache.cache.store import Cache

what, root, left = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
write = writer.write_atomically

def counted(path, content):
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), 9)
    write(path, content)

writer.write_atomically = counted
if what == "merge":
    merge.merge(root / "all", [root / "one", root / "two"])
else:
    (feature_set,) = [one for one in Cache(root / "one").feature_sets() if len(one.layers) > 1] or [None]
    prune.keep_layers(feature_set, ("layer-2",))
"""


def kill(what, root, left):
    return subprocess.run([sys.executable, "-c", KILLED, what, str(root), str(left)], check=False).returncode


def test_a_killed_merge_ends_as_one_that_was_not(make_feature_set, tmp_path):
    for root in (tmp_path, tmp_path / "calm"):
        make_feature_set({name: {name: 4, f"{name}2": 2} for name in "abc"}, root=root / "one")
        make_feature_set({name: {name: 4, f"{name}3": 2} for name in "ad"}, root=root / "two")
    merge(tmp_path / "calm" / "all", [tmp_path / "calm" / "one", tmp_path / "calm" / "two"])
    for left in (0, 1, 2, 1):
        assert kill("merge", tmp_path, left) == -9
    assert kill("merge", tmp_path, 99) == 0
    assert contents(tmp_path / "all") == contents(tmp_path / "calm" / "all")


def test_a_killed_prune_ends_as_one_that_was_not(make_feature_set, tmp_path):
    layers = {"layers": ("layer-1", "layer-2", "last"), "num_layers": 3}
    for root in (tmp_path, tmp_path / "calm"):
        make_feature_set({name: {name: 4, f"{name}2": 2} for name in "abcd"}, root=root / "one", **layers)
    assert kill("prune", tmp_path / "calm", 99) == 0
    for left in (0, 1, 2):
        assert kill("prune", tmp_path, left) == -9
    assert kill("prune", tmp_path, 99) == 0
    assert contents(tmp_path / "one") == contents(tmp_path / "calm" / "one")
