import io

import h5py
import numpy as np
import pytest

from sercache.cache.shard import StoredUtterance
from sercache.cache.sources import Source, read_source
from sercache.cache.store import FeatureSet
from sercache.cache.verify import verify, verify_sources
from sercache.cache.writer import publish_shard
from sercache.corpus import Corpus, Utterance
from sercache.errors import Interrupted
from sercache.events import Context


def damage(path, position, mask=1):
    content = bytearray(path.read_bytes())
    content[position] ^= mask
    path.write_bytes(content)


def frames_begin(path):
    with h5py.File(io.BytesIO(path.read_bytes())) as shard:
        return shard["frames"].id.get_offset()


def test_a_sound_feature_set_has_no_findings(make_feature_set):
    assert verify(make_feature_set({"t1": {"a": 3, "b": 4}, "t2": {"c": 5}, "empty": {}})) == []


def test_any_flipped_bit_names_the_utterance_or_the_shard(make_feature_set):
    feature_set = make_feature_set({"t": {"a": 20, "b": 30}})
    path = feature_set.shard_paths[0]
    sound, begin = path.read_bytes(), frames_begin(path)
    generator = np.random.default_rng(0)
    for position in generator.integers(0, len(sound), 200).tolist():
        path.write_bytes(sound)
        damage(path, position, 1 << int(generator.integers(8)))
        (found,) = verify(feature_set)
        if position < begin:
            assert found.utterance_id is None
        else:
            assert found.utterance_id == ("a" if position < begin + 20 * 5 * 2 else "b")


def test_a_truncated_shard_names_what_it_cost(make_feature_set):
    feature_set = make_feature_set({"t": {"a": 20, "b": 30, "c": 5}, "u": {"d": 3}})
    path = feature_set.shard_paths[0]
    path.write_bytes(path.read_bytes()[: frames_begin(path) + 20 * 5 * 2 + 10])
    found = verify(feature_set)
    assert [damage.utterance_id for damage in found] == ["b", "c"]
    assert "cut off" in found[0].what


def test_a_torn_page_names_its_utterances(make_feature_set):
    feature_set = make_feature_set({"t": {f"u{k}": 300 for k in range(10)}})
    path = feature_set.shard_paths[0]
    content = bytearray(path.read_bytes())
    page = 3 * 4096
    content[page : page + 4096] = bytes(4096)
    begin = frames_begin(path)
    path.write_bytes(content)
    first, last = (page - begin) // 3000, (page + 4095 - begin) // 3000
    assert [damage.utterance_id for damage in verify(feature_set)] == [
        f"u{k}" for k in range(first, last + 1)
    ]


def test_bytes_behind_the_end_are_told(make_feature_set):
    feature_set = make_feature_set({"t": {"a": 3}})
    with feature_set.shard_paths[0].open("ab") as stream:
        stream.write(b"x")
    (found,) = verify(feature_set)
    assert "all frames are there" in found.what


def test_what_is_no_shard_at_all_is_told(make_feature_set):
    feature_set = make_feature_set({})
    (feature_set.folder / "shard-0.h5").write_text("notes")
    (found,) = verify(feature_set)
    assert "no shard" in found.what


@pytest.fixture
def recorded(make_feature_set, tmp_path):
    """Three recordings and a feature set that was computed from them."""
    rows = tuple(Utterance(id=name, audio=f"{name}.wav") for name in "abc")
    for row in rows:
        (tmp_path / row.audio).write_bytes(row.id.encode() * 100)
    corpus = Corpus((), (), rows, tmp_path)
    feature_set = make_feature_set({})
    planes = (np.zeros((2, 5), np.float16),)
    stored = [StoredUtterance(row.id, planes, 1.0, read_source(corpus, row, "audio")) for row in rows]
    publish_shard(feature_set, "t", stored)
    return FeatureSet(feature_set.folder), corpus


def test_sources_that_changed_or_went_are_named(recorded, tmp_path):
    feature_set, corpus = recorded
    assert verify_sources(feature_set, corpus) == []
    (tmp_path / "a.wav").write_bytes(b"b" * 100)
    (tmp_path / "c.wav").unlink()
    found = verify_sources(feature_set, corpus)
    assert [(damage.utterance_id, damage.path.name) for damage in found] == [("a", "a.wav"), ("c", "c.wav")]
    assert "has changed" in found[0].what
    assert "No such file" in found[1].what


def test_verification_can_be_interrupted(recorded):
    feature_set, corpus = recorded
    for check in (
        lambda stop: verify(feature_set, context=Context(should_stop=stop)),
        lambda stop: verify_sources(feature_set, corpus, context=Context(should_stop=stop)),
    ):
        with pytest.raises(Interrupted):
            check(lambda: True)


def test_a_text_is_its_own_source(tmp_path):
    row = Utterance(id="a", text="Überraschung")
    source = read_source(Corpus((), (), (row,), tmp_path), row, "text")
    assert source.size_bytes == 13
    assert source != Source("0" * 32, 13)
