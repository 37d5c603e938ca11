import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sercache.cache.fingerprint import FeatureSpec
from sercache.cache.frames import from_storage
from sercache.cache.shard import StoredUtterance
from sercache.cache.sources import Source
from sercache.cache.store import Cache
from sercache.cache.writer import publish_shard, start_feature_set
from sercache.errors import CacheError
from sercache.training.batches import FrameSource
from sercache.training.gathering import frames_budget, resident_parts
from sercache.training.standardize import input_statistics
from support.run_builder import make_corpus, write_features

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    folder = tmp_path_factory.mktemp("features")
    corpus = make_corpus(folder)
    write_features(folder, corpus, missing={("words", "s0/0"), ("words", "s1/3")})
    return corpus, Cache(folder / "cache").feature_sets()


def stored(feature_set, utterance_id):
    if utterance_id not in feature_set:
        return np.zeros((0, feature_set.dim), np.float32)
    return from_storage(feature_set.frames(utterance_id), feature_set.spec.dtype)


@given(rows=st.lists(st.integers(0, 71), min_size=1, max_size=9))
@settings(deadline=None, max_examples=40)
def test_a_batch_is_the_stored_frames_with_a_mask_whatever_batch_came_before(features, rows):
    corpus, feature_sets = features
    source = FrameSource(feature_sets, corpus.ids, CPU)
    source.batch(np.arange(20))
    for feature_set, (frames, mask) in zip(feature_sets, source.batch(np.asarray(rows)), strict=True):
        assert frames.dtype == torch.float32
        for place, row in enumerate(rows):
            wanted = stored(feature_set, corpus.ids[row])
            np.testing.assert_array_equal(frames[place, mask[place]].numpy(), wanted)
            assert mask[place].sum() == len(wanted)
            assert (frames[place, ~mask[place]] == 0).all()


def test_a_batch_keeps_its_values_when_the_next_one_is_made(features):
    corpus, feature_sets = features
    source = FrameSource(feature_sets, corpus.ids, CPU)
    first = source.batch(np.arange(8))
    kept = [part.frames.clone() for part in first]
    source.batch(np.arange(8, 24))
    assert all(torch.equal(part.frames, copy) for part, copy in zip(first, kept, strict=True))


def test_a_crop_is_a_stretch_of_the_clip(features):
    corpus, feature_sets = features
    source = FrameSource(feature_sets, corpus.ids, CPU)
    rows = np.arange(len(corpus))
    starts = set()
    for seed in range(5):
        for feature_set, (frames, mask) in zip(
            feature_sets, next(source.batches([rows], 3, seed)), strict=True
        ):
            assert frames.shape[1] == 3
            for row in rows:
                whole, got = stored(feature_set, corpus.ids[row]), frames[row, mask[row]].numpy()
                assert len(got) == min(3, len(whole))
                places = [
                    start
                    for start in range(len(whole) - len(got) + 1)
                    if np.array_equal(whole[start : start + len(got)], got)
                ]
                assert places
                starts.update(places)
    assert len(starts) > 3


@pytest.mark.parametrize("resident", [False, True])
@given(data=st.data())
@settings(deadline=None, max_examples=15)
def test_a_pass_gives_what_its_batches_give_one_by_one(features, resident, data):
    corpus, feature_sets = features
    batches = data.draw(st.lists(st.lists(st.integers(0, 71), min_size=1, max_size=9), max_size=12))
    batches = [np.asarray(rows) for rows in batches]
    source = FrameSource(feature_sets, corpus.ids, CPU, resident)
    for rows, inputs in zip(batches, source.batches(batches), strict=True):
        for part, other in zip(inputs, FrameSource(feature_sets, corpus.ids, CPU).batch(rows), strict=True):
            assert torch.equal(part.frames, other.frames)
            assert torch.equal(part.mask, other.mask)


@given(rows=st.lists(st.integers(0, 71), min_size=1, max_size=9), max_frames=st.none() | st.integers(1, 8))
@settings(deadline=None, max_examples=30)
def test_frames_that_stay_on_the_device_make_the_same_batches(features, rows, max_frames):
    corpus, feature_sets = features
    both = [
        next(FrameSource(feature_sets, corpus.ids, CPU, resident).batches([np.asarray(rows)], max_frames))
        for resident in (False, True)
    ]
    for streamed, resident in zip(*both, strict=True):
        assert resident.frames.dtype == torch.float32
        assert torch.equal(streamed.frames, resident.frames)
        assert torch.equal(streamed.mask, resident.mask)


def test_frames_are_packed_in_pieces_and_none_is_lost(features, monkeypatch):
    monkeypatch.setattr("sercache.training.gathering._CHUNK_BYTES", 64)
    corpus, feature_sets = features
    source = FrameSource(feature_sets, corpus.ids, CPU, resident=True)
    for feature_set, (frames, mask) in zip(feature_sets, source.batch(np.arange(72)), strict=True):
        for row, utterance_id in enumerate(corpus.ids):
            np.testing.assert_array_equal(frames[row, mask[row]].numpy(), stored(feature_set, utterance_id))


@pytest.mark.parametrize("resident", [False, True])
def test_damaged_frames_are_an_error_and_never_a_batch(tmp_path, resident):
    corpus = make_corpus(tmp_path)
    write_features(tmp_path, corpus)
    feature_set = Cache(tmp_path / "cache").feature_sets()[0]
    path = feature_set.shard_paths[-1]
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(CacheError, match="frames are not what was written"):
        FrameSource([feature_set], corpus.ids, CPU, resident).batch(np.arange(len(corpus)))


def test_on_the_cpu_frames_are_streamed():
    assert frames_budget(CPU) == 0
    assert resident_parts([1, 2], frames_budget(CPU)) == set()


def test_feature_sets_share_one_budget_on_the_device_the_smallest_first():
    assert resident_parts([50, 20, 40], 100) == {1, 2}
    assert resident_parts([50, 20, 30], 100) == {0, 1, 2}
    assert resident_parts([0, 101], 100) == {0}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("resident", [False, True])
def test_a_gpu_gets_the_batches_that_the_cpu_gets(features, resident):
    corpus, feature_sets = features
    batches = [np.arange(first, first + 8) for first in range(64)]
    here = FrameSource(feature_sets, corpus.ids, CPU).batches(batches)
    there = FrameSource(feature_sets, corpus.ids, torch.device("cuda"), resident).batches(batches)
    kept = [([part.frames for part in wanted], got) for wanted, got in zip(here, there, strict=True)]
    for wanted, got in kept:
        for frames, part in zip(wanted, got, strict=True):
            assert torch.equal(frames, part.frames.cpu())


def test_statistics_are_those_of_the_training_frames(features):
    corpus, feature_sets = features
    fit = corpus.ids[:40]
    for feature_set in feature_sets:
        frames = np.concatenate([stored(feature_set, utterance_id) for utterance_id in fit])
        mean, deviation = input_statistics(feature_set, fit, 0)
        np.testing.assert_allclose(mean, frames.mean(axis=0, dtype=np.float64), rtol=1e-9)
        np.testing.assert_allclose(deviation, frames.std(axis=0, dtype=np.float64), rtol=1e-6)


def test_no_frames_leave_the_input_as_it_is(features):
    _, feature_sets = features
    mean, deviation = input_statistics(feature_sets[0], ["nobody"], 0)
    assert (mean == 0).all()
    assert (deviation == 1).all()


def test_a_selection_gives_the_same_frames_in_its_own_order(features):
    corpus, feature_sets = features
    source = FrameSource(feature_sets, corpus.ids, CPU)
    ids = [corpus.ids[row] for row in (40, 3, 17)]
    chosen = source.select(ids, feature_sets[1:])
    assert chosen.feature_sets == tuple(feature_sets[1:])
    (got,) = chosen.batch(np.arange(3))
    (wanted,) = FrameSource(feature_sets[1:], ids, CPU).batch(np.arange(3))
    assert torch.equal(got.frames, wanted.frames)
    np.testing.assert_array_equal(chosen.frame_counts[:, 0], [len(stored(feature_sets[1], i)) for i in ids])
    np.testing.assert_array_equal(chosen.lengths, source.lengths[[40, 3, 17]])
    np.testing.assert_array_equal(chosen.ranks(5), source.ranks(5)[[40, 3, 17]])


def test_two_heads_that_want_the_same_batch_share_it(features):
    corpus, feature_sets = features
    source = FrameSource(feature_sets, corpus.ids, CPU)
    both, other = source.select(corpus.ids[:30]), source.select(corpus.ids[:30], feature_sets[:1])
    (first, _), (second,) = both.batch(np.arange(8)), other.batch(np.arange(8))
    assert first.frames is second.frames
    (third,) = other.batch(np.arange(9))
    assert third.frames is not second.frames


@pytest.mark.parametrize("resident", [False, True])
def test_several_layers_come_side_by_side(tmp_path, resident):
    spec = FeatureSpec(
        encoder="layered", revision="1", modality="text", layers=("1", "2", "3"), num_layers=3, dim=4,
        frame_rate_hz=None, sample_rate_hz=None, normalization="none", library="tests", dtype="float16",
    )  # fmt: skip
    feature_set = start_feature_set(tmp_path, spec)
    generator = np.random.default_rng(0)
    sizes = {"a": 5, "b": 1, "c": 3}
    frames = {name: generator.normal(size=(3, count, 4)).astype(np.float16) for name, count in sizes.items()}
    rows = [
        StoredUtterance(name, tuple(layers), float("nan"), Source("0" * 32, 5, (None, None)))
        for name, layers in frames.items()
    ]
    publish_shard(feature_set, "0" * 12, rows)
    (feature_set,) = Cache(tmp_path).feature_sets()
    (batch,) = FrameSource([feature_set], ["b", "c", "a"], CPU, resident).batch(np.arange(3))
    assert batch.frames.shape == (3, 5, 3, 4)
    for place, name in enumerate("bca"):
        wanted = frames[name].transpose(1, 0, 2).astype(np.float32)
        np.testing.assert_array_equal(batch.frames[place, batch.mask[place]].numpy(), wanted)
    mean, _ = input_statistics(feature_set, ["a", "c"], 0)
    wanted = np.concatenate([frames["a"], frames["c"]], axis=1).astype(np.float64).mean(axis=1)
    np.testing.assert_allclose(mean, wanted, rtol=1e-9)
