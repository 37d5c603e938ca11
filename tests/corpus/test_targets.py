from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sercache.corpus import Attribute, Corpus, Utterance
from sercache.corpus.targets import (
    NO_AGREEMENT_INDEX,
    OTHER_INDEX,
    UNLABELLED_INDEX,
    TargetPolicy,
    Votes,
    consensus,
    soft_targets,
)
from sercache.errors import CorpusError
from support.corpus_strategies import make_corpus, vote_counts

policies = st.builds(
    TargetPolicy,
    secondary_weight=st.floats(0, 2),
    no_agreement=st.sampled_from(["keep", "drop"]),
    other=st.sampled_from(["ignore", "spread", "drop"]),
    hard=st.booleans(),
)


@st.composite
def voted_corpora(draw: st.DrawFn) -> Corpus:
    rows, classes = draw(st.integers(1, 8)), draw(st.integers(2, 5))
    table = st.lists(st.lists(vote_counts, min_size=classes, max_size=classes), min_size=rows, max_size=rows)
    other = st.lists(vote_counts, min_size=rows, max_size=rows)
    return make_corpus(draw(table), draw(st.none() | table), draw(st.none() | other))


def plain_target(votes: list[float], second: list[float], other: float, policy: TargetPolicy) -> list[float]:
    """One row by the definition, in plain Python."""
    nan = [float("nan")] * len(votes)
    best = max(*votes, other)
    winners = [name for name, count in enumerate([*votes, other]) if count == best]
    is_tie = best > 0 and len(winners) > 1
    if is_tie and policy.no_agreement == "drop":
        return nan
    if best > 0 and winners == [len(votes)] and policy.other == "drop":
        return nan
    extra = other / len(votes) if policy.other == "spread" else 0.0
    if policy.hard:
        mass = [float(count + extra == max(votes) + extra > 0) for count in votes]
    else:
        mass = [a + policy.secondary_weight * b + extra for a, b in zip(votes, second, strict=True)]
    if sum(mass) == 0:
        return nan
    return [m / sum(mass) for m in mass]


@given(voted_corpora(), policies)
def test_soft_targets_equal_the_definition(corpus: Corpus, policy: TargetPolicy) -> None:
    expected = [
        plain_target(
            list(row.votes), list(row.secondary_votes or [0.0] * len(row.votes)), row.other_votes, policy
        )
        for row in corpus.utterances
    ]
    np.testing.assert_allclose(soft_targets(corpus, policy), expected, atol=1e-12)


@given(voted_corpora(), policies)
def test_a_target_is_a_distribution_or_missing_as_a_whole(corpus: Corpus, policy: TargetPolicy) -> None:
    targets = soft_targets(corpus, policy)
    missing = np.isnan(targets)
    assert (missing.all(axis=1) == missing.any(axis=1)).all()
    present = targets[~missing.any(axis=1)]
    np.testing.assert_allclose(present.sum(axis=1), 1.0)
    assert (present >= 0).all()


@given(voted_corpora(), policies, st.randoms())
def test_renaming_classes_permutes_the_targets(corpus: Corpus, policy: TargetPolicy, random) -> None:  # type: ignore[no-untyped-def]
    order = list(range(len(corpus.classes)))
    random.shuffle(order)
    rows = tuple(
        replace(
            row,
            votes=tuple(row.votes[index] for index in order),
            secondary_votes=tuple(row.secondary_votes[index] for index in order)
            if row.secondary_votes
            else (),
        )
        for row in corpus.utterances
    )
    shuffled = replace(corpus, utterances=rows)
    np.testing.assert_allclose(
        soft_targets(shuffled, policy), soft_targets(corpus, policy)[:, order], atol=1e-12
    )
    before, after = consensus(corpus), consensus(shuffled)
    assert [order[label] if label >= 0 else label for label in after] == before.tolist()


@given(voted_corpora(), policies, st.sampled_from([0.1, 1 / 3, 2.0, 7.0]))
def test_only_proportions_of_votes_matter(corpus: Corpus, policy: TargetPolicy, factor: float) -> None:
    rows = tuple(
        replace(
            row,
            votes=tuple(factor * count for count in row.votes),
            secondary_votes=tuple(factor * count for count in row.secondary_votes),
            other_votes=factor * row.other_votes,
        )
        for row in corpus.utterances
    )
    scaled = replace(corpus, utterances=rows)
    np.testing.assert_allclose(soft_targets(scaled, policy), soft_targets(corpus, policy), atol=1e-9)
    np.testing.assert_array_equal(consensus(scaled), consensus(corpus))


CASES = make_corpus(
    votes=[[3, 1], [2, 2], [0, 0], [1, 0], [1, 2], [0, 0]],
    secondary=[[0, 2], [0, 0], [0, 1], [0, 0], [0, 0], [0, 0]],
    other=[0, 0, 4, 3, 2, 0],
)
NAN = [np.nan, np.nan]


def test_consensus_tells_ties_other_and_unlabelled_apart() -> None:
    assert consensus(CASES).tolist() == [
        0,
        NO_AGREEMENT_INDEX,
        OTHER_INDEX,
        OTHER_INDEX,
        NO_AGREEMENT_INDEX,
        UNLABELLED_INDEX,
    ]


def test_fractional_votes_that_differ_by_rounding_tie() -> None:
    corpus = make_corpus([[0.1 + 0.2, 0.3]])
    assert consensus(corpus).tolist() == [NO_AGREEMENT_INDEX]
    np.testing.assert_array_equal(soft_targets(corpus, TargetPolicy(hard=True)), [[0.5, 0.5]])


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (TargetPolicy(), [[3 / 6, 3 / 6], [0.5, 0.5], [0, 1], [1, 0], [1 / 3, 2 / 3], NAN]),
        (TargetPolicy(secondary_weight=0), [[0.75, 0.25], [0.5, 0.5], NAN, [1, 0], [1 / 3, 2 / 3], NAN]),
        (TargetPolicy(no_agreement="drop"), [[0.5, 0.5], NAN, [0, 1], [1, 0], NAN, NAN]),
        (TargetPolicy(other="drop"), [[0.5, 0.5], [0.5, 0.5], NAN, NAN, [1 / 3, 2 / 3], NAN]),
        (
            TargetPolicy(other="spread", secondary_weight=0),
            [[0.75, 0.25], [0.5, 0.5], [0.5, 0.5], [0.625, 0.375], [0.4, 0.6], NAN],
        ),
        (TargetPolicy(hard=True), [[1, 0], [0.5, 0.5], NAN, [1, 0], [0, 1], NAN]),
    ],
)
def test_policies_by_hand(policy: TargetPolicy, expected: list[list[float]]) -> None:
    np.testing.assert_allclose(soft_targets(CASES, policy), expected)


def test_impossible_policies_are_refused() -> None:
    with pytest.raises(CorpusError, match="secondary_weight is -1"):
        TargetPolicy(secondary_weight=-1.0)


@given(voted_corpora(), st.floats(0, 1), st.integers(0, 99))
def test_thinned_votes_are_some_of_the_whole_votes_and_all_of_the_rest(
    corpus: Corpus, share: float, seed: int
) -> None:
    votes = Votes.of(corpus)
    thinned = votes.thinned(share, np.random.default_rng(seed))
    for before, after in zip(
        (votes.primary, votes.secondary, votes.other),
        (thinned.primary, thinned.secondary, thinned.other),
        strict=True,
    ):
        assert (after <= before).all()
        assert (after >= before - np.floor(before)).all()
        np.testing.assert_allclose((before - after) % 1, 0, atol=1e-9)
    none_left_out = votes.thinned(0.0, np.random.default_rng(seed))
    np.testing.assert_array_equal(none_left_out.primary, votes.primary)


def test_every_vote_is_left_out_as_often_as_asked() -> None:
    votes = Votes(np.full((4000, 2), 5.0), np.zeros((4000, 2)), np.zeros(4000))
    kept = votes.thinned(0.3, np.random.default_rng(0)).primary.mean() / 5
    assert abs(kept - 0.7) < 0.01


def test_targets_need_classes_or_attributes() -> None:
    with pytest.raises(CorpusError, match="nothing to learn"):
        soft_targets(replace(CASES, classes=(), attributes=()), TargetPolicy())


@pytest.mark.parametrize("policy", [TargetPolicy(), TargetPolicy(other="spread"), TargetPolicy(hard=True)])
def test_attributes_alone_have_targets_without_columns(policy: TargetPolicy) -> None:
    corpus = Corpus(
        (), (Attribute("arousal", 1, 7),), (Utterance("a", attributes=(3.0,), other_votes=2.0),), Path()
    )
    assert soft_targets(corpus, policy).shape == (1, 0)
    assert consensus(corpus).max() < 0
