import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import kstest

from sercache.heads.protocol import HeadInput
from sercache.training.mixing import Mix, draw_mix, draw_modalities, mask_modalities, mix_targets
from sercache.training.objective import Targets


def test_shares_follow_beta_one_per_row_and_batches_are_mixed_with_the_given_probability():
    generator = np.random.default_rng(0)
    mixes = [draw_mix(16, 0.3, 0.2, generator) for _ in range(2000)]
    mixed = [mix for mix in mixes if mix is not None]
    assert abs(len(mixed) / len(mixes) - 0.3) < 0.03
    shares = torch.cat([mix.share for mix in mixed]).numpy()
    assert kstest(shares, "beta", args=(0.2, 0.2)).pvalue > 0.01
    assert len(np.unique(mixed[0].share)) == 16
    assert sorted(mixed[0].partner.tolist()) == list(range(16))


def test_probability_zero_and_single_rows_are_never_mixed():
    generator = np.random.default_rng(0)
    assert all(draw_mix(16, 0.0, 0.2, generator) is None for _ in range(50))
    assert draw_mix(1, 1.0, 0.2, generator) is None


def test_rows_and_targets_are_mixed_alike():
    mix = Mix(torch.tensor([0.25, 1.0]), torch.tensor([1, 0]))
    targets = Targets(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[1.0], [5.0]]))
    kept, mixed = mix_targets(mix, targets)
    torch.testing.assert_close(mixed.soft, torch.tensor([[0.25, 0.75], [0.0, 1.0]]))
    torch.testing.assert_close(mixed.attributes, torch.tensor([[4.0], [5.0]]))
    torch.testing.assert_close(kept.apply(torch.tensor([[0.0], [8.0]])), torch.tensor([[6.0], [8.0]]))


def test_missing_targets_are_neither_spread_nor_invented():
    mix = Mix(torch.tensor([0.5, 0.5, 0.5]), torch.tensor([1, 0, 2]))
    nan = torch.nan
    targets = Targets(torch.tensor([[1.0, 0.0], [nan, nan], [0.0, 1.0]]), torch.tensor([[2.0], [4.0], [nan]]))
    kept, mixed = mix_targets(mix, targets)
    assert kept.share.tolist() == [1.0, 1.0, 0.5]
    torch.testing.assert_close(mixed.soft, targets.soft, equal_nan=True)
    torch.testing.assert_close(mixed.attributes, targets.attributes, equal_nan=True)


def test_without_mixing_targets_stay_as_soft_as_they_were():
    soft = torch.tensor([[0.6, 0.4], [0.3, 0.7]])
    mix = Mix(torch.ones(2), torch.tensor([1, 0]))
    _, mixed = mix_targets(mix, Targets(soft, torch.zeros(2, 0)))
    assert torch.equal(mixed.soft, soft)


def test_gradients_flow_to_both_rows_by_their_share():
    rows = torch.tensor([[1.0], [2.0]], requires_grad=True)
    mix = Mix(torch.tensor([0.25, 1.0]), torch.tensor([1, 0]))
    mix.apply(rows)[0].sum().backward()
    torch.testing.assert_close(rows.grad, torch.tensor([[0.25], [0.75]]))


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
