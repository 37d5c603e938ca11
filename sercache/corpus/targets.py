"""From votes to what is learned: soft targets, and the consensus class."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sercache.corpus.utterance import Corpus
from sercache.errors import CorpusError

NO_AGREEMENT_INDEX = -1
OTHER_INDEX = -2
UNLABELLED_INDEX = -3
"""What :func:`consensus` says of a row without any vote: it is in no class and not in dispute."""

_TIE = 1e-9
"""Relative difference below which two (possibly fractional) numbers of votes are the same."""


@dataclass(frozen=True, slots=True)
class TargetPolicy:
    """How votes become soft targets.

    Attributes:
        secondary_weight: what a secondary choice counts against a primary one.
        smoothing: share of the target that is spread over all classes alike, in [0, 1).
        no_agreement: rows whose primary votes tie: ``keep`` their votes as target (MEDUSA), or ``drop``.
        other: votes outside the class set: ``ignore`` them, ``spread`` them over all classes alike, or
            ``drop`` the rows where they are the plurality (in other rows they are ignored).
        hard: equal shares for the classes with the most primary votes, instead of the votes themselves.
    """

    secondary_weight: float = 1.0
    smoothing: float = 0.0
    no_agreement: Literal["keep", "drop"] = "keep"
    other: Literal["ignore", "spread", "drop"] = "ignore"
    hard: bool = False

    def __post_init__(self) -> None:
        if not self.secondary_weight >= 0:
            raise CorpusError(f"secondary_weight is {self.secondary_weight:g}; it must be 0 or more")
        if not 0 <= self.smoothing < 1:
            raise CorpusError(f"smoothing is {self.smoothing:g}; it must be at least 0 and below 1")


def soft_targets(corpus: Corpus, policy: TargetPolicy) -> NDArray[np.float64]:
    """Return the target distribution of each utterance.

    Returns:
        ``(N, C)`` float64. A row sums to 1, or is NaN where the policy gives no target (no vote for any
        class, or dropped): such a row must not count in the class loss.

    Raises:
        CorpusError: the corpus has no classes.
    """
    num_classes = len(corpus.classes)
    if num_classes == 0:
        raise CorpusError("the corpus has no classes: it needs columns 'votes:<Class>'")
    outside = corpus.other_votes[:, None] / num_classes if policy.other == "spread" else 0.0
    if policy.hard:
        mass = corpus.votes + outside
        most = mass.max(axis=1, keepdims=True)
        mass = ((mass >= most * (1 - _TIE)) & (most > 0)).astype(np.float64)
    else:
        mass = corpus.votes + policy.secondary_weight * corpus.secondary_votes + outside
    total = mass.sum(axis=1, keepdims=True)
    targets: NDArray[np.float64] = np.divide(mass, total, out=np.full_like(mass, np.nan), where=total > 0)
    targets = (1 - policy.smoothing) * targets + policy.smoothing / num_classes
    plurality = consensus(corpus)
    if policy.no_agreement == "drop":
        targets[plurality == NO_AGREEMENT_INDEX] = np.nan
    if policy.other == "drop":
        targets[plurality == OTHER_INDEX] = np.nan
    return targets


def consensus(corpus: Corpus) -> NDArray[np.int64]:
    """Return the plurality of the primary votes over the classes and O.

    Returns:
        ``(N,)`` int64: index of a class, :data:`OTHER_INDEX` where O leads, :data:`NO_AGREEMENT_INDEX`
        where the lead is shared, :data:`UNLABELLED_INDEX` where nobody voted.
    """
    votes = np.column_stack([corpus.votes, corpus.other_votes])
    most = votes.max(axis=1, keepdims=True)
    leads = votes >= most * (1 - _TIE)
    winner: NDArray[np.int64] = leads.argmax(axis=1).astype(np.int64)
    winner[winner == len(corpus.classes)] = OTHER_INDEX
    winner[leads.sum(axis=1) > 1] = NO_AGREEMENT_INDEX
    winner[most[:, 0] == 0] = UNLABELLED_INDEX
    return winner
