import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_info, threadpool_limits

from sercache.devices import MANY_CELLS, threads_for_table


def threads():
    """Of torch, and of every library that multiplies matrices."""
    np.ones((2, 2)) @ np.ones((2, 2))
    blas = [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]
    assert blas
    return torch.get_num_threads(), max(blas)


@pytest.fixture
def several():
    before = torch.get_num_threads()
    with threadpool_limits(2):
        torch.set_num_threads(2)
        yield threads()
    torch.set_num_threads(before)


def test_a_small_table_has_one_thread_and_a_large_one_all(several):
    with threads_for_table(MANY_CELLS - 1):
        assert threads() == (1, 1)
    assert threads() == several
    with threads_for_table(MANY_CELLS):
        assert threads() == several


def test_threads_are_given_back_after_an_error(several):
    with pytest.raises(KeyError), threads_for_table(1):
        raise KeyError
    assert threads() == several
