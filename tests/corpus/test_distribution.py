import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sercache.corpus.summary import distribution_of

numbers = st.lists(st.floats(0, 1e5), min_size=1, max_size=60)


@given(numbers)
def test_every_number_is_in_one_bin(values):
    spread = distribution_of(values)
    assert sum(spread.counts) == spread.count == len(values)
    assert len(spread.edges) == len(spread.counts) + 1
    assert list(spread.edges) == sorted(set(spread.edges))
    assert len(spread.counts) <= 15


def test_a_long_tail_is_one_bin():
    spread = distribution_of([*np.linspace(0, 9.9, 1000), 5000.0])
    assert spread.edges[-2] <= 11
    assert spread.edges[-1] == 5000
    assert spread.counts[-1] == 1


def test_what_is_not_known_is_left_out():
    assert distribution_of([1.0, float("nan"), 3.0]).mean == 2
    assert distribution_of([float("nan")]) is None
    assert distribution_of([]) is None
