"""What encoders read to learn and to judge: stretches of long clips, whole ones, batches within a limit."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sercache.extract.encode import pool_over_time
from sercache.training.finetuning.live import pooled
from support.training_builder import make_training


@pytest.fixture
def clips(run, alone):
    return make_training(run.root, alone, changes={"max_seconds": 0.4, "micro_batch_seconds": 1.3}).source.fit


def test_long_clips_are_cut_anew_for_every_seed_and_the_same_for_one(clips):
    rows = np.arange(len(clips.ids))
    [first], [again], [other] = (next(clips.read_for_training([rows], seed)) for seed in (1, 1, 2))
    frames = clips.source.frame_counts[:, 0]
    long = [row for row in rows if frames[row] > 25]
    assert len(long) > 5
    for row in rows:
        assert len(first[row]) <= 0.4 * 16_000
        assert torch.equal(first[row], again[row])
    assert all(len(first[row]) == 0.4 * 16_000 for row in long)
    assert not any(torch.equal(first[row], other[row]) for row in long)


def test_what_is_judged_is_whole(clips):
    rows = np.arange(4)
    [[wavlm, words]] = clips.whole_inputs([rows])
    assert wavlm.mask.sum(dim=1).tolist() == clips.source.frame_counts[rows, 0].tolist()
    assert words.mask.sum(dim=1).tolist() == clips.source.frame_counts[rows, 1].tolist()
    cached = clips.source.batch(rows)[0]
    torch.testing.assert_close(wavlm.frames[wavlm.mask], cached.frames[cached.mask], rtol=1e-4, atol=1e-4)


def test_batches_hold_every_row_once_and_stay_within_the_limit(clips):
    rows = np.arange(len(clips.ids))[::2]
    batches = clips.batches(rows)
    assert sorted(np.concatenate(batches).tolist()) == rows.tolist()
    lengths = clips.lengths
    assert lengths.max() == 400
    for batch in batches:
        assert len(batch) == 1 or len(batch) * lengths[batch].max() <= 1300
    assert max(map(len, batches)) == 3


@given(st.integers(0, 9), st.integers(1, 4), st.integers(1, 2))
def test_pooling_with_gradients_is_that_of_extraction(time, count, planes):
    frames = np.random.default_rng(time).standard_normal((planes, time, 3)).astype(np.float32)
    found = pooled(torch.from_numpy(frames), count)
    if time:
        np.testing.assert_allclose(found.numpy(), pool_over_time(frames, count), rtol=1e-5, atol=1e-6)
    else:
        assert found.shape == (planes, 0, 3)
