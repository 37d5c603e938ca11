from dataclasses import replace

import numpy as np
import pytest

from sercache.cache.ledger import Ledger
from sercache.cache.prune import (
    keep_layers,
    keep_utterances,
    kept_layers,
    remove_feature_set,
    remove_leftovers,
)
from sercache.cache.store import Cache, FeatureSet
from sercache.cache.usage import usage_of
from sercache.cache.verify import verify
from sercache.cache.writer import publish_shard, start_feature_set
from sercache.errors import AudioError, CacheError, Interrupted
from sercache.events import Context

LAYERS = {"layers": ("layer-1", "layer-2", "last"), "num_layers": 3}


def shards(feature_set):
    return {path.name: path.read_bytes() for path in feature_set.shard_paths}


def test_kept_layers_are_what_their_extraction_would_have_made(make_feature_set, make_utterance, tmp_path):
    whole = make_feature_set({"a": {"u": 3, "v": 2}, "b": {"w": 4}}, **LAYERS)
    ledger = Ledger(whole.folder)
    ledger.record("gone", "decode", AudioError("no such file"), "a")
    ledger.save()
    direct = start_feature_set(tmp_path / "direct", replace(whole.spec, layers=("layer-1", "last")))
    for task, rows in (("a", {"u": 3, "v": 2}), ("b", {"w": 4})):
        stored = [make_utterance(name, count, whole.spec) for name, count in rows.items()]
        publish_shard(
            direct,
            task,
            [replace(utterance, frames=(utterance.frames[0], utterance.frames[2])) for utterance in stored],
        )
    smaller = keep_layers(whole, kept_layers(whole, "1,3"))
    assert smaller.layers == ("layer-1", "last")
    assert smaller.folder.name == direct.folder.name
    assert shards(smaller) == shards(FeatureSet(direct.folder))
    assert set(Ledger(smaller.folder).failures) == {"gone"}
    assert not whole.folder.exists()
    assert verify(smaller) == []


def test_an_interrupted_prune_removes_nothing(make_feature_set):
    whole = make_feature_set({"a": {"u": 3}, "b": {"w": 4}}, **LAYERS)
    asked = iter(range(9))
    with pytest.raises(Interrupted, match="nothing was removed"):
        keep_layers(whole, ("last",), context=Context(should_stop=lambda: next(asked) >= 1))
    assert verify(FeatureSet(whole.folder)) == []
    assert len(keep_layers(FeatureSet(whole.folder), ("last",))) == 2


def test_layers_that_are_not_there_are_refused(make_feature_set):
    whole = make_feature_set({"a": {"u": 3}}, **LAYERS)
    with pytest.raises(CacheError, match=r"holds the layers layer-1, layer-2, last, not 'layer-0'"):
        kept_layers(whole, "0,2")
    with pytest.raises(CacheError, match="there is no layer 7"):
        kept_layers(whole, "7")
    assert keep_layers(whole, whole.layers) is whole


def test_damage_is_never_given_a_new_checksum(make_feature_set):
    whole = make_feature_set({"a": {"u": 300}}, **LAYERS)
    (path,) = whole.shard_paths
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    path.write_bytes(content)
    with pytest.raises(CacheError, match="the frames of 'u' are damaged"):
        keep_layers(whole, ("last",))
    assert whole.folder.exists()


def test_only_the_corpus_is_kept(make_feature_set):
    whole = make_feature_set({"a": {"u": 3, "v": 2}, "b": {"w": 4}})
    kept = np.array(whole.frames("u"))
    assert keep_utterances(whole, {"u", "elsewhere"}) == 2
    smaller = FeatureSet(whole.folder)
    assert list(smaller.ids) == ["u"]
    np.testing.assert_array_equal(smaller.frames("u"), kept)
    assert keep_utterances(smaller, {"u"}) == 0


def test_a_removed_feature_set_is_gone_and_leftovers_are_swept(make_feature_set, tmp_path):
    whole = make_feature_set({"a": {"u": 3}}, root=tmp_path / "c")
    left = tmp_path / "c" / ".wavlm-0123.removed"
    left.mkdir()
    (left / "shard-a.h5").touch()
    remove_feature_set(whole)
    assert Cache(tmp_path / "c").feature_sets() == []
    remove_leftovers(tmp_path / "c")
    assert list((tmp_path / "c").iterdir()) == []


def test_usage_adds_up(make_feature_set):
    whole = make_feature_set({"a": {"u": 3, "v": 2}, "b": {"w": 4}}, **LAYERS)
    (whole.folder / ".shard-x.h5.1.01234567.tmp").write_bytes(b"12345")
    usage = usage_of(whole)
    assert usage.layer_bytes == dict.fromkeys(LAYERS["layers"], 9 * 5 * 2)
    assert usage.temporary_bytes == 5
    assert usage.total_bytes == sum(path.stat().st_size for path in whole.folder.iterdir())
