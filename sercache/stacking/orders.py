"""In which order members join a soft vote, decided on rows that it is not judged on."""

import numpy as np

from sercache.evaluation.primary import Truth
from sercache.stacking.costs import MemberCosts
from sercache.stacking.rows import Floats, StackingRows

Order = tuple[int, ...]
"""Places of members, the first to join first."""

_LEAST_SECONDS = 1e-3


def by_own_score(rows: StackingRows) -> Order:
    """Return the members with the highest primary score of their own first."""
    values = rows.inputs.decisive_values
    scores = [vote_score(rows.truth, values[:, member], 1) for member in range(values.shape[1])]
    return tuple(np.argsort(-np.asarray(scores), kind="stable").tolist())


def greedy(rows: StackingRows, costs: MemberCosts | None = None) -> Order:
    """Return the members in the order of forward selection, each once.

    Each step adds the member with which the vote has the highest primary score. With ``costs`` it adds the
    one that gains most for each second of encoding that it adds; a member whose encoders are there already
    adds none.
    """
    values, truth = rows.inputs.decisive_values, rows.truth
    members = rows.inputs.members
    total = np.zeros_like(values[:, 0])
    order: list[int] = []
    before = 0.0
    while len(order) < len(members):
        left = [member for member in range(len(members)) if member not in order]
        size = len(order) + 1
        scores = {member: vote_score(truth, total + values[:, member], size) for member in left}
        if costs is None:
            chosen = max(left, key=lambda member: scores[member])
        else:
            chosen = max(
                left, key=lambda member: _gain_per_second(costs, members, order, member, scores, before)
            )
        order.append(chosen)
        total += values[:, chosen]
        before = scores[chosen]
    return tuple(order)


def _gain_per_second(
    costs: MemberCosts,
    members: tuple[str, ...],
    order: list[int],
    member: int,
    scores: dict[int, float],
    before: float,
) -> tuple[float, float]:
    names = [members[place] for place in order]
    paid = costs.of(names).seconds_per_minute or 0.0
    seconds = max((costs.of([*names, members[member]]).seconds_per_minute or 0.0) - paid, _LEAST_SECONDS)
    gain = scores[member] - before
    # What gains nothing is not better for being dear.
    return (gain / seconds if gain > 0 else gain), scores[member]


def vote_score(truth: Truth, total: Floats, size: int) -> float:
    """Return the primary score of the mean of ``size`` members, given their sum ``(N, K)``; 0 for no row."""
    return float(np.nan_to_num(truth.score(total, total / size)))
