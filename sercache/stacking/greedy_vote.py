"""Greedy ensemble selection: members are added, again and again if need be, while the vote gets better."""

import numpy as np

from sercache.evaluation.metrics import confusion, log_loss_per_row, macro_f1_of_confusion
from sercache.stacking.mixture import Mixture
from sercache.stacking.rows import Floats, StackingRows

_MOST_STEPS = 50


class GreedyVote(Mixture):
    """Ensemble selection with replacement (Caruana et al. 2004, sections 2 and 2.1).

    Each step adds the member with which the soft vote of those chosen so far has the highest macro-F1, and
    among equals the lowest log-loss against the votes. The best of all steps is kept. A member that is chosen
    for its classes counts as much for its attributes.
    """

    kind = "greedy"

    def learned_weights(self, rows: StackingRows) -> tuple[Floats, Floats]:
        """Return how often each member was chosen, as shares."""
        counts = chosen_counts(rows)
        weights = counts / counts.sum()
        return weights, np.tile(weights, (len(rows.inputs.attributes), 1))


def chosen_counts(rows: StackingRows) -> Floats:
    """Return how often each member is chosen, ``(M,)``; once each where there is nothing to choose by."""
    probabilities = rows.inputs.class_probabilities
    judged = rows.labels >= 0
    members, num_classes = probabilities.shape[1:]
    if not judged.any():
        return np.ones(members)

    def standing(total: Floats, size: int) -> tuple[float, float]:
        predicted = total[judged].argmax(axis=1)
        score = float(macro_f1_of_confusion(confusion(rows.labels[judged], predicted, num_classes)))
        return round(score, 12), -float(
            np.nanmean(log_loss_per_row(rows.soft_targets[judged], total[judged] / size))
        )

    counts, best_counts = np.zeros(members), np.zeros(members)
    total, best = np.zeros_like(probabilities[:, 0]), (-np.inf, -np.inf)
    for size in range(1, _MOST_STEPS + 1):
        tried = [standing(total + probabilities[:, member], size) for member in range(members)]
        chosen = max(range(members), key=lambda member: tried[member])
        counts[chosen] += 1
        total = total + probabilities[:, chosen]
        if tried[chosen] > best:
            best, best_counts = tried[chosen], counts.copy()
    return best_counts
