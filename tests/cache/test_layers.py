"""Layer selection: canonical names, sums, and errors that name the request and the range."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sercache.cache.layers import parse_layers
from sercache.errors import EncoderError


@pytest.mark.parametrize(
    ("request_", "num_layers", "names"),
    [
        ("last", 12, ("last",)),
        ("12", 12, ("last",)),
        ("last1", 12, ("last",)),
        ("12-12", 12, ("last",)),
        ("last4", 12, ("sum-9-12",)),
        ("9-12", 12, ("sum-9-12",)),
        ("last4", 24, ("sum-21-24",)),
        ("0", 12, ("layer-0",)),
        ("0-2", 12, ("sum-0-2",)),
        ("6,9,12", 24, ("layer-6", "layer-9", "layer-12")),
        (" 1-2 , last2", 4, ("sum-1-2", "sum-3-4")),
        ("all", 2, ("layer-0", "layer-1", "last")),
        ("last", 0, ("last",)),
        ("all", 0, ("last",)),
    ],
)
def test_canonical_names(request_: str, num_layers: int, names: tuple[str, ...]) -> None:
    assert parse_layers(request_, num_layers).names == names


@pytest.mark.parametrize(
    "bad", ["", "first", "last0", "-1", "12-8", "13", "8-13", "last13", "3,3", "last,12", "all,3", "1.5"]
)
def test_bad_request_is_named(bad: str) -> None:
    with pytest.raises(EncoderError, match=rf"^layers '{bad}'"):
        parse_layers(bad, 12)


@pytest.mark.parametrize("bad", ["13", "8-13", "last13"])
def test_request_out_of_range_names_the_range(bad: str) -> None:
    with pytest.raises(EncoderError, match="layers 0 to 12"):
        parse_layers(bad, 12)


def test_embedded_encoder_has_no_further_layer() -> None:
    with pytest.raises(EncoderError, match="layers 0 to 0"):
        parse_layers("last4", 0)


@given(num_layers=st.integers(1, 48), data=st.data())
def test_range_is_a_sum_of_its_layers(num_layers: int, data: st.DataObject) -> None:
    first = data.draw(st.integers(0, num_layers))
    last = data.draw(st.integers(first, num_layers))
    states = np.random.default_rng(0).standard_normal((num_layers + 1, 3, 2))
    [plane] = parse_layers(f"{first}-{last}", num_layers).combine(lambda index: states[index])
    np.testing.assert_allclose(plane, states[first : last + 1].sum(axis=0))


def test_only_the_top_layer_needs_no_hidden_states() -> None:
    assert not parse_layers("24", 24).needs_hidden_states
    assert parse_layers("23", 24).needs_hidden_states
    assert parse_layers("all", 24).needs_hidden_states
