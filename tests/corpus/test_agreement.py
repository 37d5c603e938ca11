import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from sercache.corpus import Corpus, Utterance
from sercache.corpus.agreement import agreement_of, krippendorff_alpha
from sercache.corpus.readers.registry import READERS

KRIPPENDORFF_D = """
1 2 3 3 2 1 4 1 2 . . .
1 2 3 3 2 2 4 1 2 5 . 3
. 3 3 3 2 3 4 2 2 5 1 .
1 2 3 3 2 4 4 1 2 5 1 .
"""
"""Four observers, twelve units, missing values: section D of 'Computing Krippendorff's Alpha-Reliability'."""

KRIPPENDORFF_A = """
0 1 0 0 0 0 0 0 1 0
1 1 1 0 0 1 0 0 0 0
"""
"""Two observers, two values: section A."""

vote_tables = arrays(np.int64, st.tuples(st.integers(2, 12), st.integers(2, 5)), elements=st.integers(0, 4))


def votes_of(reliability_data):
    columns = zip(*(line.split() for line in reliability_data.split("\n") if line), strict=True)
    values = sorted({value for value in reliability_data.split() if value != "."})
    return np.array([[column.count(value) for value in values] for column in columns], dtype=float)


def alpha_pair_by_pair(votes):
    """The definition, slowly: observed over expected disagreement, from every pair of values."""
    values = [np.repeat(np.arange(len(row)), row.astype(int)).tolist() for row in votes]
    values = [unit for unit in values if len(unit) >= 2]
    everything = [value for unit in values for value in unit]
    observed = sum(
        sum(item != other for i, item in enumerate(unit) for j, other in enumerate(unit) if i != j)
        / (len(unit) - 1)
        for unit in values
    )
    expected = sum(
        item != other for i, item in enumerate(everything) for j, other in enumerate(everything) if i != j
    )
    if not expected:
        return float("nan")
    return 1 - (observed / len(everything)) / (expected / (len(everything) * (len(everything) - 1)))


@pytest.mark.parametrize(("data", "alpha"), [(KRIPPENDORFF_D, 0.743), (KRIPPENDORFF_A, 0.095)])
def test_the_published_examples_come_out(data, alpha):
    assert krippendorff_alpha(votes_of(data)) == pytest.approx(alpha, abs=5e-4)


@given(vote_tables)
def test_alpha_is_what_the_definition_says(votes):
    assert krippendorff_alpha(votes.astype(float)) == pytest.approx(alpha_pair_by_pair(votes), nan_ok=True)


@given(vote_tables, st.randoms())
def test_the_order_of_units_and_of_categories_plays_no_part(votes, random):
    rows, columns = (random.sample(range(size), size) for size in votes.shape)
    shuffled = votes[rows][:, columns].astype(float)
    assert krippendorff_alpha(shuffled) == pytest.approx(krippendorff_alpha(votes.astype(float)), nan_ok=True)


@given(vote_tables)
def test_alpha_is_one_where_all_agree(votes):
    agreed = np.zeros(votes.shape)
    agreed[np.arange(len(votes)), votes.argmax(axis=1)] = 3
    alpha = krippendorff_alpha(agreed)
    assert np.isnan(alpha) if len(set(votes.argmax(axis=1))) == 1 else alpha == 1


def test_alpha_of_votes_by_chance_is_about_zero():
    votes = np.random.default_rng(0).multinomial(5, [0.5, 0.3, 0.2], size=4000).astype(float)
    assert abs(krippendorff_alpha(votes)) < 0.01


def test_a_class_has_the_alpha_of_its_votes_against_all_others():
    votes = np.random.default_rng(1).integers(0, 4, size=(50, 4)).astype(float)
    rows = tuple(Utterance(str(place), votes=tuple(row)) for place, row in enumerate(votes.tolist()))
    agreement = agreement_of(Corpus(tuple("ABCD"), (), rows, None))
    for place, item in enumerate(agreement.classes):
        both = np.column_stack([votes[:, place], votes.sum(axis=1) - votes[:, place]])
        assert item.alpha == pytest.approx(krippendorff_alpha(both))
        assert item.again + sum(share for _, share in item.taken_for) == pytest.approx(1)


def test_other_votes_count_and_parts_of_votes_do_not():
    rows = (
        Utterance("a", votes=(2, 0), other_votes=2),
        Utterance("b", votes=(0, 3)),
        Utterance("c", votes=(0.5, 0.5)),
        Utterance("d", votes=(0, 0)),
    )
    agreement = agreement_of(Corpus(("A", "B"), (), rows, None))
    assert (agreement.rows, agreement.pairable, agreement.fractional) == (3, 2, 1)
    assert agreement.alpha == pytest.approx(krippendorff_alpha(np.array([[2.0, 0, 2], [0, 3, 0]])))
    assert [item.name for item in agreement.classes] == ["A", "B", "O"]
    assert agreement.unanimous == 0.5


def test_nothing_is_said_where_nobody_voted():
    assert agreement_of(Corpus(("A",), (), (Utterance("a", votes=(0,)),), None)) is None


def test_real_votes(shared_data):
    options = {"without_audio": "true"}
    cremad = agreement_of(READERS["cremad"](shared_data / "cremad", options))
    friends = agreement_of(READERS["emotionlines"](shared_data / "friends", {}))
    assert (cremad.pairable, friends.pairable) == (7442, 14503)
    for agreement in (cremad, friends):
        assert 0.2 < agreement.alpha < 0.5
    assert friends.votes.quantiles["least"] == friends.votes.quantiles["most"] == 5
