"""Agreement of raters: Krippendorff's alpha, entropy of votes, and which classes are taken for which."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sercache.corpus.summary import Distribution, distribution_of
from sercache.corpus.targets import NO_AGREEMENT_INDEX, OTHER_INDEX, consensus, vote_entropy
from sercache.corpus.utterance import OTHER, Corpus


@dataclass(frozen=True)
class ClassAgreement:
    """The agreement of raters on one class; :data:`~sercache.corpus.utterance.OTHER` counts as one.

    Attributes:
        name: of the class.
        rows: utterances whose consensus it is.
        vote_share: its share of all votes.
        alpha: Krippendorff's alpha where all other classes are one; NaN where nobody or everybody chose it.
        again: of a rater who chose it, how often another rater of the same utterance does; NaN without pairs.
        taken_for: what these others choose instead, and how often, the most frequent first.
    """

    name: str
    rows: int
    vote_share: float
    alpha: float
    again: float
    taken_for: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Agreement:
    """The agreement of the raters of a corpus.

    Attributes:
        rows: utterances with votes.
        pairable: those with two whole votes or more, which alpha and the classes' figures are of.
        fractional: those with parts of votes, which tell of no single rater: alpha leaves them out.
        votes: votes per utterance.
        alpha: Krippendorff's alpha, nominal, over the classes and O; NaN where it is not defined.
        unanimous: share of the pairable utterances whose votes are all for one class.
        majority: share of the utterances with votes where one class has more than half of them.
        no_agreement: share of the utterances with votes where no class leads.
        other: share of the utterances with votes where O leads.
        entropy: of each utterance's votes, from 0 (all agree) to 1 (spread evenly over all classes).
        classes: one by one, O last where it has votes.
    """

    rows: int
    pairable: int
    fractional: int
    votes: Distribution
    alpha: float
    unanimous: float
    majority: float
    no_agreement: float
    other: float
    entropy: Distribution | None
    classes: tuple[ClassAgreement, ...]


def agreement_of(corpus: Corpus) -> Agreement | None:
    """Return the agreement of the raters; None where nobody voted."""
    ballots = np.column_stack([corpus.votes, corpus.other_votes])  # (N, C + 1)
    totals = ballots.sum(axis=1)
    votes = distribution_of(totals[totals > 0])
    if votes is None:
        return None
    rated, rated_totals = ballots[totals > 0], totals[totals > 0]
    is_whole = (rated == np.floor(rated)).all(axis=1)
    pairable = rated[is_whole & (rated_totals >= 2)]
    labels = consensus(corpus)[totals > 0]
    names = [*corpus.classes, OTHER]
    coincidences = coincidence_matrix(pairable)
    classes = []
    for column, name in enumerate(names):
        share = float(rated[:, column].sum() / rated.sum())
        if name == OTHER and share == 0:
            continue
        index = OTHER_INDEX if name == OTHER else column
        rows = int((labels == index).sum())
        classes.append(_class_agreement(name, names, column, rows, share, coincidences))
    return Agreement(
        rows=len(rated),
        pairable=len(pairable),
        fractional=int((~is_whole).sum()),
        votes=votes,
        alpha=alpha_of(coincidences),
        unanimous=float((pairable.max(axis=1) == pairable.sum(axis=1)).mean()) if len(pairable) else np.nan,
        majority=float((rated.max(axis=1) > rated_totals / 2).mean()),
        no_agreement=float((labels == NO_AGREEMENT_INDEX).mean()),
        other=float((labels == OTHER_INDEX).mean()),
        entropy=distribution_of(vote_entropy(corpus)),
        classes=tuple(classes),
    )


def krippendorff_alpha(votes: NDArray[np.float64]) -> float:
    """Return Krippendorff's alpha for nominal data (Krippendorff 2011, Computing Alpha-Reliability, D).

    Args:
        votes: ``(N, C)``, how many raters put each of N units into each of C categories. Units with fewer
            than two votes tell nothing of agreement and are left out.

    Returns:
        1 where all agree, 0 where they agree as by chance, below 0 where less; NaN where no unit has two
        votes, or all votes are for one category.

    >>> krippendorff_alpha(np.array([[2.0, 0.0], [0.0, 2.0]]))
    1.0
    """
    return alpha_of(coincidence_matrix(votes))


def coincidence_matrix(votes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return how often two raters of one unit chose each pair of categories, ``(C, C)``; see Krippendorff.

    Each unit counts as much as it has votes; row sums are the votes for each category that have a partner.
    """
    totals = votes.sum(axis=1)
    votes = votes[totals >= 2]
    weights = 1 / (votes.sum(axis=1) - 1)
    matrix: NDArray[np.float64] = (votes * weights[:, None]).T @ votes  # (C, C)
    # No rater is a partner of himself.
    matrix[np.diag_indices_from(matrix)] -= (votes * weights[:, None]).sum(axis=0)
    return matrix


def alpha_of(coincidences: NDArray[np.float64]) -> float:
    """Return Krippendorff's alpha, nominal, of a coincidence matrix ``(C, C)``."""
    sums = coincidences.sum(axis=1)
    total = sums.sum()
    expected = total**2 - (sums**2).sum()
    if total <= 1 or expected <= 0:
        return float("nan")
    observed = total - np.trace(coincidences)
    return float(1 - (total - 1) * observed / expected)


def _class_agreement(
    name: str, names: list[str], column: int, rows: int, share: float, coincidences: NDArray[np.float64]
) -> ClassAgreement:
    again, taken_for = float("nan"), []
    partners = coincidences[column]
    if partners.sum() > 0:
        shares = partners / partners.sum()
        again = float(shares[column])
        others = [(other, float(shares[index])) for index, other in enumerate(names) if index != column]
        taken_for = sorted(
            ((other, portion) for other, portion in others if portion > 0), key=lambda pair: -pair[1]
        )
    return ClassAgreement(name, rows, share, _one_against_rest(coincidences, column), again, tuple(taken_for))


def _one_against_rest(coincidences: NDArray[np.float64], column: int) -> float:
    both = coincidences[column, column]
    either = coincidences[column].sum() - both
    rest = coincidences.sum() - both - 2 * either
    return alpha_of(np.array([[both, either], [either, rest]]))
