import subprocess
import sys

import numpy as np
import pytest

from sercache.cache.store import Cache, FeatureSet
from sercache.errors import CacheError
from sercache.files import read_json, write_json
from sercache.recipe import FeatureRecipe

WAVLM = "microsoft/wavlm-large"


def test_frames_are_a_read_only_view_of_the_file(make_feature_set, make_utterance):
    feature_set = make_feature_set({"t1": {"a": 3, "b": 5}, "t2": {"c": 2}})
    assert feature_set.ids == ("a", "b", "c")
    assert "b" in feature_set
    assert "x" not in feature_set
    assert feature_set.missing(["x", "a", "y"]) == ["x", "y"]
    assert feature_set.frame_counts(["c", "a"]).tolist() == [2, 3]
    frames = feature_set.frames("b")
    np.testing.assert_array_equal(frames, make_utterance("b", 5, feature_set.spec).frames[0])
    assert not frames.flags.writeable
    assert not frames.flags.owndata
    assert feature_set.source_hash("a") == "0" * 32
    assert feature_set.source("a").span == (None, 1.5)


def test_one_layer_is_read_by_name(make_feature_set, make_utterance):
    feature_set = make_feature_set({"t": {"a": 3}}, layers=("layer-0", "last"), dtype="bfloat16")
    wanted = make_utterance("a", 3, feature_set.spec)
    np.testing.assert_array_equal(feature_set.frames("a", "last"), wanted.frames[1])
    assert feature_set.is_bfloat16
    with pytest.raises(CacheError, match="holds the layers layer-0, last; none was named"):
        feature_set.frames("a")
    with pytest.raises(CacheError, match="not 'layer-7'"):
        feature_set.frames("a", "layer-7")


def test_an_unknown_utterance_is_one_clear_line(make_feature_set):
    with pytest.raises(CacheError, match="holds no frames of utterance 'x'"):
        make_feature_set({"t": {"a": 3}}).frames("x")


def test_more_shards_than_maps_are_readable(make_feature_set, monkeypatch):
    monkeypatch.setattr("sercache.cache.store._OPEN_MAPS", 2)
    feature_set = make_feature_set({f"t{k}": {f"u{k}": k + 1} for k in range(6)})
    views = [feature_set.frames(name) for name in feature_set.ids]
    assert [len(view) for view in views] == [1, 2, 3, 4, 5, 6]


def test_a_shard_that_shrinks_is_an_error_and_not_a_crash(make_feature_set):
    feature_set = make_feature_set({"t": {"a": 3000}})
    assert "a" in feature_set
    path = feature_set.shard_paths[0]
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(CacheError, match="has 5,000 bytes now"):
        feature_set.frames("a")


def test_a_damaged_shard_names_the_way_out(make_feature_set):
    feature_set = make_feature_set({"t": {"a": 30}})
    path = feature_set.shard_paths[0]
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CacheError, match=r"shard-t\.h5: truncated.*sercache cache verify"):
        FeatureSet(feature_set.folder).ids  # noqa: B018


def test_the_set_that_a_recipe_asks_for_is_found(make_feature_set, tmp_path):
    wanted = make_feature_set({"t": {"a": 3}})
    make_feature_set({"t": {"a": 3}}, layers=("layer-12",))
    make_feature_set({"t": {"a": 3}}, encoder="logmel", layers=("last",), num_layers=0)
    cache = Cache(tmp_path / "cache")
    for layers in ("last4", "21-24"):
        found = cache.find(FeatureRecipe(encoder=WAVLM, layers=layers))
        assert found.folder == wanted.folder
    assert cache.find(FeatureRecipe(encoder="logmel")).spec.encoder == "logmel"


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"layers": "12"}, "with layers sum-21-24, not layer-12"),
        ({"layers": "99"}, "with layers sum-21-24, not 99"),
        ({"layers": "last4", "time_pool": 2}, "with time_pool 1, not 2"),
        ({"layers": "last4", "dtype": "float32"}, "with dtype float16, not float32"),
        ({"layers": "last4", "window_seconds": 10}, r"with window_seconds 30\.0, not 10\.0"),
        ({"layers": "last4", "fingerprint": "0000"}, "not 0000"),
        ({"encoder": "facebook/hubert-base"}, r"holds no features of facebook/hubert-base \(it holds: micro"),
    ],
)
def test_a_near_miss_names_the_field_that_differs(make_feature_set, tmp_path, asked, message):
    make_feature_set({"t": {"a": 3}})
    with pytest.raises(CacheError, match=message) as caught:
        Cache(tmp_path / "cache").find(FeatureRecipe(**({"encoder": WAVLM} | asked)))
    assert "run sercache extract" in str(caught.value)


def test_an_absent_cache_is_one_clear_line(tmp_path):
    with pytest.raises(CacheError, match="it holds: nothing"):
        Cache(tmp_path / "nowhere").find(FeatureRecipe(encoder="logmel"))


def test_two_revisions_are_told_apart_by_the_fingerprint(make_feature_set, tmp_path):
    first_set = make_feature_set({"t": {"a": 3}})
    make_feature_set({"t": {"a": 3}}, library="transformers 5.16.0")
    cache = Cache(tmp_path / "cache")
    with pytest.raises(CacheError, match=r"2 feature sets .*library transformers 5\.16\.0.*'fingerprint'"):
        cache.find(FeatureRecipe(encoder=WAVLM, layers="last4"))
    chosen = FeatureRecipe(encoder=WAVLM, layers="last4", fingerprint=first_set.spec.fingerprint[:8])
    assert cache.find(chosen).folder == first_set.folder


def test_a_local_checkpoint_is_found_by_its_folders_name(make_feature_set, tmp_path):
    make_feature_set({"t": {"a": 3}}, encoder="kwt1", layers=("last",), num_layers=12)
    (tmp_path / "kwt1").mkdir()
    assert Cache(tmp_path / "cache").find(FeatureRecipe(encoder=str(tmp_path / "kwt1")))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dim": 6}, "was changed"),
        ({"format_version": 2}, "has format 2"),
        ({"surprise": 1}, "does not describe"),
    ],
)
def test_an_edited_description_is_refused(make_feature_set, change, message):
    path = make_feature_set({}).folder / "feature_set.json"
    write_json(path, read_json(path) | change)
    with pytest.raises(CacheError, match=message):
        FeatureSet(path.parent)


def test_reading_the_cache_loads_no_torch():
    code = "import sys, sercache.cache.store, sercache.cache.verify; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("layers", [("last",), ("layer-0", "last")])
def test_frames_are_held_against_their_checksums(make_feature_set, layers):
    feature_set = make_feature_set({"t": {"a": 3, "b": 5}, "u": {"c": 2}}, layers=layers, num_layers=12)
    locations = feature_set.locate(["a", "absent", "c"])
    feature_set.check(locations)
    path = feature_set.shard_paths[1]
    content = bytearray(path.read_bytes())
    content[-1] ^= 4
    path.write_bytes(content)
    feature_set.check(locations[:2])
    with pytest.raises(CacheError, match=r"shard-u\.h5: frames are not what was written"):
        feature_set.check(locations)
