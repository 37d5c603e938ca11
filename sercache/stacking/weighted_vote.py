"""Weighted soft vote: the mixture of the members under which the votes are likeliest."""

import numpy as np

from sercache.stacking.mixture import Mixture
from sercache.stacking.rows import Floats, StackingRows
from sercache.stacking.targets import class_weights, has_class_target

_MOST_STEPS = 2000
_CLOSE_ENOUGH = 1e-7
_SUM_TO_ONE = 1e4
"""How much a weight sum of 1 counts beside a row, in units of all rows' root mean square."""


class WeightedVote(Mixture):
    """A linear opinion pool (Stone 1961) whose weights are fitted.

    Class weights maximise the likelihood of the votes (by expectation maximisation, which never makes it
    worse: Dempster, Laird and Rubin 1977); those of an attribute minimise its squared error. Both problems
    are convex, so there is nothing to stop early.
    """

    kind = "weighted"

    def learned_weights(self, rows: StackingRows) -> tuple[Floats, Floats]:
        """Return the best weights; equal ones where there is nothing to learn from."""
        known = rows.where(has_class_target(rows))
        balance = class_weights(known.soft_targets, self.settings.balance_exponent)
        of_classes = likeliest_weights(known.inputs.class_probabilities, known.soft_targets * balance)
        of_attributes = [
            nearest_weights(rows.inputs.attribute_values[rated, :, index], targets[rated])
            for index, targets in enumerate(rows.attribute_targets.T)
            for rated in [~np.isnan(targets)]
        ]
        shape = (len(rows.inputs.attributes), len(rows.inputs.members))
        weights = np.asarray(of_attributes, dtype=np.float64).reshape(shape)
        return (of_classes if rows.inputs.classes else weights.mean(axis=0)), weights


def likeliest_weights(probabilities: Floats, mass: Floats) -> Floats:
    """Return the weights ``(M,)`` that maximise ``sum(mass * log(probabilities mixed with them))``.

    Args:
        probabilities: ``(N, M, C)``.
        mass: ``(N, C)``, what each row and class counts.
    """
    members = probabilities.shape[1]
    weights = np.full(members, 1 / members)
    counts = mass > 0
    given = np.maximum(probabilities.transpose(0, 2, 1)[counts], np.finfo(np.float64).tiny)
    shares = mass[counts] / max(float(mass.sum()), np.finfo(np.float64).tiny)
    for _ in range(_MOST_STEPS if len(shares) else 0):
        better = weights * (given.T @ (shares / (given @ weights)))
        moved = float(np.abs(better - weights).max())
        weights = better
        if moved < _CLOSE_ENOUGH:
            break
    return np.asarray(weights / weights.sum())


def nearest_weights(values: Floats, targets: Floats) -> Floats:
    """Return the weights ``(M,)``, none negative and with sum 1, of the least squared error.

    Args:
        values: ``(N, M)``.
        targets: ``(N,)``.
    """
    from scipy.optimize import nnls

    members = values.shape[1]
    if not len(targets):
        return np.full(members, 1 / members)
    # Of weights that sum to 1 the error is that of the deviations, which are better conditioned.
    deviations = (values - targets[:, None]) / np.sqrt(len(targets))
    scale = _SUM_TO_ONE * max(float(np.abs(deviations).max()), 1e-12)
    system = np.vstack([deviations, np.full(members, scale)])
    wanted = np.append(np.zeros(len(targets)), scale)
    weights, _ = nnls(system, wanted)
    return np.asarray(weights / weights.sum())
