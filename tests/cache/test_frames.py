import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from sercache.cache.frames import choose_dtype, from_storage, pad_into, to_storage
from sercache.errors import CacheError

floats = st.floats(-(2.0**127), 2.0**127, width=32)


@given(arrays(np.float32, (3, 4), elements=floats))
def test_bfloat16_rounds_as_torch_does(frames):
    stored = to_storage(frames, "bfloat16")
    theirs = torch.from_numpy(frames).bfloat16()
    assert torch.equal(torch.from_numpy(stored).view(torch.bfloat16), theirs)
    np.testing.assert_array_equal(from_storage(stored, "bfloat16"), theirs.float().numpy())


@given(arrays(np.float32, (2, 3), elements=st.floats(-60_000, 60_000, width=32)))
def test_float16_is_within_its_rounding(frames):
    back = from_storage(to_storage(frames, "float16"), "float16")
    np.testing.assert_allclose(back, frames, rtol=2**-11, atol=2**-25)


@pytest.mark.parametrize(("dtype", "value"), [("float16", 65_520.0), ("bfloat16", 3.4e38)])
def test_an_infinity_is_never_stored(dtype, value):
    with pytest.raises(CacheError, match=f"do not fit into {dtype}"):
        to_storage(np.array([[1.0, -value]], np.float32), dtype)


def test_a_loud_sample_chooses_bfloat16():
    assert [choose_dtype(peak) for peak in (0.0, 16_000.0, 17_000.0, 1e30)] == [
        "float16",
        "float16",
        "bfloat16",
        "bfloat16",
    ]


@given(counts=st.lists(st.integers(0, 6), min_size=1, max_size=5), spare=st.integers(0, 3))
def test_a_clip_lies_in_its_row_with_zeros_behind_it(counts, spare):
    clips = [np.full((count, 3), row + 1, np.float16) for row, count in enumerate(counts)]
    target = np.full((len(counts), max(counts) + spare, 3), 99, np.float16)
    pad_into(target, iter(clips))
    for row, count in enumerate(counts):
        assert (target[row, :count] == row + 1).all()
        assert (target[row, count:] == 0).all()
