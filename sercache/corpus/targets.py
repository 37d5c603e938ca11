"""From votes to targets: soft targets, and the consensus class."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sercache.corpus.utterance import Corpus
from sercache.errors import CorpusError

NO_AGREEMENT_INDEX = -1
OTHER_INDEX = -2
UNLABELLED_INDEX = -3
"""The :func:`consensus` of a row without any vote."""

_TIE = 1e-9
"""Relative difference below which two (possibly fractional) numbers of votes are the same."""


@dataclass(frozen=True, slots=True)
class TargetPolicy:
    """How votes become soft targets.

    Attributes:
        secondary_weight: weight of a secondary choice against a primary one.
        no_agreement: rows whose primary votes tie: ``keep`` their votes as target (MEDUSA), or ``drop``.
        other: votes outside the class set: ``ignore`` them, ``spread`` them over all classes alike, or
            ``drop`` the rows where they are the plurality (in other rows they are ignored).
        hard: equal shares for the classes with the most primary votes, instead of the votes themselves.
    """

    secondary_weight: float = 1.0
    no_agreement: Literal["keep", "drop"] = "keep"
    other: Literal["ignore", "spread", "drop"] = "ignore"
    hard: bool = False

    def __post_init__(self) -> None:
        if not self.secondary_weight >= 0:
            raise CorpusError(f"secondary_weight is {self.secondary_weight:g}; it must be 0 or more")


@dataclass(frozen=True)
class Votes:
    """The votes on N utterances.

    Attributes:
        primary: ``(N, C)`` float64, how many chose each class first.
        secondary: ``(N, C)`` float64, how many named it besides.
        other: ``(N,)`` float64, votes outside the class set.
    """

    primary: NDArray[np.float64]
    secondary: NDArray[np.float64]
    other: NDArray[np.float64]

    @classmethod
    def of(cls, corpus: Corpus) -> "Votes":
        """Return the votes of a whole corpus."""
        return cls(corpus.votes, corpus.secondary_votes, corpus.other_votes)

    def take(self, rows: NDArray[np.int64]) -> "Votes":
        """Return the votes of ``rows``, in that order."""
        return Votes(self.primary[rows], self.secondary[rows], self.other[rows])

    def thinned(self, share: float, generator: np.random.Generator) -> "Votes":
        """Return the votes of a random subset of the raters: a vote is left out with probability ``share``.

        Whole votes are raters; fractions (a vote of 0.5) stay. The corpus does not say which secondary
        votes are whose, so they are left out for themselves.
        """

        def kept(votes: NDArray[np.float64]) -> NDArray[np.float64]:
            whole = np.floor(votes)
            return generator.binomial(whole.astype(np.int64), 1 - share) + (votes - whole)

        return Votes(kept(self.primary), kept(self.secondary), kept(self.other))


def soft_targets(corpus: Corpus, policy: TargetPolicy) -> NDArray[np.float64]:
    """Return the target distribution of each utterance; see :func:`targets_of`.

    Raises:
        CorpusError: the corpus has neither classes nor attributes.
    """
    if not corpus.classes and not corpus.attributes:
        raise CorpusError(
            "the corpus has nothing to learn: it needs columns 'votes:<Class>', or "
            "'attribute:<name>[<low>..<high>]'"
        )
    return targets_of(Votes.of(corpus), policy)


def targets_of(votes: Votes, policy: TargetPolicy) -> NDArray[np.float64]:
    """Return the target distribution that votes give under a policy.

    Returns:
        ``(N, C)`` float64. A row sums to 1, or is NaN where the policy gives no target (no vote for any
        class, or dropped): such a row must not count in the class loss. ``(N, 0)`` where there are no
        classes.
    """
    num_classes = votes.primary.shape[1]
    if not num_classes:
        return np.empty(votes.primary.shape)
    outside = votes.other[:, None] / num_classes if policy.other == "spread" else 0.0  # (N, 1)
    if policy.hard:
        mass = votes.primary + outside
        most = mass.max(axis=1, keepdims=True)
        mass = ((mass >= most * (1 - _TIE)) & (most > 0)).astype(np.float64)
    else:
        mass = votes.primary + policy.secondary_weight * votes.secondary + outside
    total = mass.sum(axis=1, keepdims=True)  # (N, 1)
    targets: NDArray[np.float64] = np.divide(mass, total, out=np.full_like(mass, np.nan), where=total > 0)
    leaders = plurality(votes)
    if policy.no_agreement == "drop":
        targets[leaders == NO_AGREEMENT_INDEX] = np.nan
    if policy.other == "drop":
        targets[leaders == OTHER_INDEX] = np.nan
    return targets


def vote_entropy(corpus: Corpus) -> NDArray[np.float64]:
    """Return how far the votes on each utterance scatter over the classes, secondary choices included.

    Returns:
        ``(N,)`` float64: entropy over that of an even spread, 0 where all agree, 1 where they scatter evenly
        over all classes; NaN where nobody voted for a class, or there are fewer than two.
    """
    if len(corpus.classes) < 2:
        return np.full(len(corpus), np.nan)
    targets = soft_targets(corpus, TargetPolicy())
    logarithms = np.log(targets, out=np.zeros_like(targets), where=targets > 0)
    logarithms[np.isnan(targets)] = np.nan
    entropy: NDArray[np.float64] = np.abs((targets * logarithms).sum(axis=1)) / np.log(len(corpus.classes))
    return entropy


def consensus(corpus: Corpus) -> NDArray[np.int64]:
    """Return the plurality class of each utterance; see :func:`plurality`."""
    return plurality(Votes.of(corpus))


def plurality(votes: Votes) -> NDArray[np.int64]:
    """Return the plurality of the primary votes over the classes and O.

    Returns:
        ``(N,)`` int64: index of a class, :data:`OTHER_INDEX` where O leads, :data:`NO_AGREEMENT_INDEX`
        where the lead is shared, :data:`UNLABELLED_INDEX` where nobody voted.
    """
    counts = np.column_stack([votes.primary, votes.other])  # (N, C + 1)
    most = counts.max(axis=1, keepdims=True)  # (N, 1)
    leads = counts >= most * (1 - _TIE)
    winner: NDArray[np.int64] = leads.argmax(axis=1).astype(np.int64)
    winner[winner == votes.primary.shape[1]] = OTHER_INDEX
    winner[leads.sum(axis=1) > 1] = NO_AGREEMENT_INDEX
    winner[most[:, 0] == 0] = UNLABELLED_INDEX
    return winner
