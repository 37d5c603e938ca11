import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from sercache.heads.protocol import HeadInput
from sercache.training.mixing import draw_modalities, mask_modalities


@given(
    present=arrays(np.bool_, st.tuples(st.integers(1, 9), st.integers(1, 4))),
    share=st.floats(0, 0.99),
    seed=st.integers(0, 99),
)
def test_what_is_kept_was_there_and_no_clip_loses_everything(present, share, seed):
    kept = draw_modalities(present, share, np.random.default_rng(seed))
    assert not (kept & ~present).any()
    np.testing.assert_array_equal(kept.any(axis=1), present.any(axis=1))
    if share == 0:
        np.testing.assert_array_equal(kept, present)


def test_each_is_left_out_as_often_as_asked_and_the_last_one_stays():
    kept = draw_modalities(np.ones((20_000, 2), np.bool_), 0.3, np.random.default_rng(0))
    # Both would be left out in 9 % of the clips; one of them, drawn at random, stays.
    np.testing.assert_allclose(kept.mean(axis=0), 0.7 + 0.09 / 2, atol=0.01)
    assert kept.any(axis=1).all()


def test_masking_hides_the_frames_of_what_is_not_kept():
    mask = torch.tensor([[True, True, False], [True, True, True]])
    inputs = [HeadInput(torch.ones(2, 3, 4), mask), HeadInput(torch.ones(2, 3, 5), mask)]
    first, second = mask_modalities(inputs, np.array([[True, False], [False, True]]))
    assert first.mask.tolist() == [[True, True, False], [False] * 3]
    assert second.mask.tolist() == [[False] * 3, [True] * 3]
    assert first.frames is inputs[0].frames
