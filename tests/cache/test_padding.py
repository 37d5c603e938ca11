import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sercache.cache.frames import pad_into


@given(counts=st.lists(st.integers(0, 6), min_size=1, max_size=5), spare=st.integers(0, 3))
def test_a_clip_lies_in_its_row_with_zeros_behind_it(counts, spare):
    clips = [np.full((count, 3), row + 1, np.float16) for row, count in enumerate(counts)]
    target = np.full((len(counts), max(counts) + spare, 3), 99, np.float16)
    pad_into(target, iter(clips))
    for row, count in enumerate(counts):
        assert (target[row, :count] == row + 1).all()
        assert (target[row, count:] == 0).all()
