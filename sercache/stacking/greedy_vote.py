"""Greedy ensemble selection: members are added, again and again if need be, while the vote gets better."""

import numpy as np

from sercache.stacking.mixture import Mixture
from sercache.stacking.rows import Floats, StackingRows
from sercache.stacking.targets import prediction_loss

_MOST_STEPS = 50


class GreedyVote(Mixture):
    """Ensemble selection with replacement (Caruana et al. 2004, sections 2 and 2.1).

    Each step adds the member with which the soft vote of those chosen so far has the highest primary score,
    and among equals the lowest loss (log-loss against the votes; squared error of attributes alone). The best
    of all steps is kept. A member that is chosen for its classes counts as much for its attributes.
    """

    kind = "greedy"

    def learned_weights(self, rows: StackingRows) -> tuple[Floats, Floats]:
        """Return how often each member was chosen, as shares."""
        counts = chosen_counts(rows)
        weights = counts / counts.sum()
        return weights, np.tile(weights, (len(rows.inputs.attributes), 1))


def chosen_counts(rows: StackingRows) -> Floats:
    """Return how often each member is chosen, ``(M,)``; once each where there is nothing to choose by."""
    values, judged = rows.inputs.decisive_values, rows.truth.is_scored
    members = values.shape[1]
    if not judged.any():
        return np.ones(members)
    scored = rows.where(judged)
    truth = scored.truth

    def standing(total: Floats, size: int) -> tuple[float, float]:
        mean = total[judged] / size
        score = float(np.nan_to_num(truth.score(total[judged], mean)))
        return round(score, 12), -float(np.nan_to_num(prediction_loss(scored, mean, mean)))

    counts, best_counts = np.zeros(members), np.zeros(members)
    total, best = np.zeros_like(values[:, 0]), (-np.inf, -np.inf)
    for size in range(1, _MOST_STEPS + 1):
        tried = [standing(total + values[:, member], size) for member in range(members)]
        chosen = max(range(members), key=lambda member: tried[member])
        counts[chosen] += 1
        total = total + values[:, chosen]
        if tried[chosen] > best:
            best, best_counts = tried[chosen], counts.copy()
    return best_counts
