import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sercache.training.epoch import rate_factor


def test_without_warm_up_a_constant_schedule_changes_nothing():
    assert [rate_factor(step, 0, 5) for step in range(5)] == [1.0] * 5
    assert [rate_factor(step, 1, 5) for step in range(5)] == [1.0] * 5


def test_warm_up_rises_in_equal_steps_and_reaches_the_peak_with_its_last_step():
    factors = [rate_factor(step, 4, 8) for step in range(8)]
    assert factors == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1, 1, 1])


def test_cosine_falls_from_the_peak_and_would_be_0_after_the_last_step():
    factors = [rate_factor(step, 2, 10, "cosine") for step in range(2, 10)]
    assert factors[0] == 1.0
    assert factors[4] == pytest.approx(0.5)
    assert factors[-1] == pytest.approx((1 + math.cos(math.pi * 7 / 8)) / 2)


@given(
    total=st.integers(1, 300),
    share=st.floats(0, 1),
    schedule=st.sampled_from(["constant", "cosine"]),
)
def test_every_factor_is_positive_and_rises_before_it_falls(total, share, schedule):
    factors = [rate_factor(step, share * total, total, schedule) for step in range(total)]
    assert all(0 < factor <= 1 for factor in factors)
    peak = factors.index(max(factors))
    assert factors[: peak + 1] == sorted(factors[: peak + 1])
    assert factors[peak:] == sorted(factors[peak:], reverse=True)
