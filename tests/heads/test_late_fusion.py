"""Late fusion against a plain implementation: no masks, one clip at a time, bare tensor algebra."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sercache.heads.registry import build_head
from support.plain_heads import assert_equals_plain, plain_leg, plain_outputs, random_clips
from support.small_heads import RANGES

OPTIONS = {"width": 16, "feedforward": 24, "dropout": 0.3}


def plain_late_fusion(weights, clips):
    return plain_outputs(
        weights, [plain_leg(weights, f"legs.{index}", clip)[2] for index, clip in enumerate(clips)]
    )


@pytest.mark.parametrize("dims", [[5], [5, 7, 3]])
def test_equals_the_plain_implementation_clip_by_clip(dims):
    head = build_head("late-fusion", dims, 4, RANGES, OPTIONS, seed=1).eval()
    for lengths in ([6, 2, 9], [1, 11, 4]):
        assert_equals_plain(head, plain_late_fusion, random_clips([lengths], dims, seed=2))


@given(lengths=st.lists(st.tuples(st.integers(1, 9), st.integers(1, 6)), min_size=1, max_size=4))
@settings(deadline=None, max_examples=15)
def test_padded_batches_equal_the_plain_implementation(lengths):
    head = build_head("late-fusion", [5, 7], 4, RANGES, OPTIONS, seed=1).eval()
    assert_equals_plain(head, plain_late_fusion, random_clips(lengths, [5, 7], seed=3))
