import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from run_builder import make_corpus, write_features

from sercache.cache.precision import from_storage
from sercache.cache.store import Cache
from sercache.heads.registry import build_head
from sercache.training.batches import FrameSource
from sercache.training.standardize import standardize_inputs

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
    kept = [one.frames.clone() for one in first]
    source.batch(np.arange(8, 24))
    assert all(torch.equal(one.frames, copy) for one, copy in zip(first, kept, strict=True))


def test_a_crop_is_a_stretch_of_the_clip(features):
    corpus, feature_sets = features
    source = FrameSource(feature_sets, corpus.ids, CPU)
    rows = np.arange(len(corpus))
    generator = np.random.default_rng(0)
    starts = set()
    for _ in range(5):
        for feature_set, (frames, mask) in zip(feature_sets, source.batch(rows, 3, generator), strict=True):
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


def test_standardised_training_frames_have_zero_mean_and_unit_deviation(features):
    corpus, feature_sets = features
    head = build_head("mean-linear", [one.dim for one in feature_sets], 3, [], {}, 0)
    fit = corpus.ids[:40]
    standardize_inputs(head, feature_sets, fit, np.random.default_rng(0))
    for index, feature_set in enumerate(feature_sets):
        frames = np.concatenate([stored(feature_set, utterance_id) for utterance_id in fit])
        scaled = head.standardize(index, torch.from_numpy(frames)).numpy()
        np.testing.assert_allclose(scaled.mean(axis=0), 0, atol=1e-5)
        np.testing.assert_allclose(scaled.std(axis=0), 1, atol=1e-5)
