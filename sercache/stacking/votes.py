"""Votes: soft, hard, weighted, greedy selection, and the best single member."""

from abc import abstractmethod
from typing import Any

import numpy as np

from sercache.stacking.base import Prediction, SavedStacker, Stacker
from sercache.stacking.rows import (
    Floats,
    StackingInputs,
    StackingRows,
    attribute_bounds,
    class_weights,
    has_class_target,
    prediction_loss,
)
from sercache.stacking.shares import equal_shares


class BestSingle(Stacker):
    """The member with the highest primary score; of equals the one with the lower loss, then the first."""

    name = "best-single"
    member_: str

    def fit_arranged(self, rows: StackingRows) -> None:
        """Choose the member."""
        truth, inputs = rows.truth, rows.inputs

        def rank(index: int) -> tuple[float, float]:
            predicted = inputs.class_probabilities[:, index], inputs.attribute_values[:, index]
            loss = prediction_loss(rows, *predicted)
            return float(np.nan_to_num(truth.score(*predicted))), -float(np.nan_to_num(loss))

        self._set_member(inputs.members[max(range(len(inputs.members)), key=rank)])

    def predict_arranged(self, inputs: StackingInputs) -> Prediction:
        """Return the chosen member's prediction."""
        index = inputs.members.index(self.member_)
        return Prediction(inputs.class_probabilities[:, index], inputs.attribute_values[:, index])

    def members_used(self) -> tuple[str, ...]:
        """Return the chosen member alone."""
        return (self.member_,)

    def learned(self) -> dict[str, Any]:
        """Return the name of the member."""
        return {"member": self.member_}

    def restore(self, saved: SavedStacker) -> None:
        """Set the member."""
        self._set_member(saved.learned["member"])

    def _set_member(self, member: str) -> None:
        self.member_, self.shares_ = member, {member: 1.0}


class SoftVote(Stacker):
    """The mean of the members' class probabilities and attribute values; nothing is learned."""

    name = "soft-vote"

    def fit_arranged(self, rows: StackingRows) -> None:
        """Give all members the same share."""
        self.shares_ = equal_shares(rows.inputs.members)

    def predict_arranged(self, inputs: StackingInputs) -> Prediction:
        """Return the means over members."""
        return Prediction(inputs.class_probabilities.mean(axis=1), inputs.attribute_values.mean(axis=1))

    def restore(self, saved: SavedStacker) -> None:
        """Give all members the same share."""
        self.shares_ = equal_shares(saved.signature.members)


class HardVote(SoftVote):
    """The share of members that predict each class; one further vote, split as the soft vote, breaks ties.

    For any class that vote is less than a whole one unless the soft vote is certain, so it never overturns a
    majority, and no class gets a probability of zero that a member thought possible. Attributes are the mean.
    """

    name = "hard-vote"
    needs_classes = True

    def predict_arranged(self, inputs: StackingInputs) -> Prediction:
        """Return the shares of votes, and the mean of the attributes."""
        soft = super().predict_arranged(inputs)
        predicted = inputs.class_probabilities.argmax(axis=2)  # (N, M)
        votes = np.eye(len(inputs.classes))[predicted].sum(axis=1)  # (N, C)
        shares = (votes + soft.class_probabilities) / (len(inputs.members) + 1)
        return Prediction(shares, soft.attribute_values)


class WeightedMean(Stacker):
    """The members' weighted mean; a subclass learns the weights.

    Attributes:
        class_weights_: ``(M,)``, sum to 1; with attributes alone the members' mean weight over all of them.
        attribute_weights_: ``(A, M)``, each row sums to 1.
    """

    class_weights_: Floats
    attribute_weights_: Floats

    @abstractmethod
    def learned_weights(self, rows: StackingRows) -> tuple[Floats, Floats]:
        """Return the class weights ``(M,)`` and the attribute weights ``(A, M)``."""

    def fit_arranged(self, rows: StackingRows) -> None:
        """Learn the weights."""
        self._set_weights(*self.learned_weights(rows))

    def predict_arranged(self, inputs: StackingInputs) -> Prediction:
        """Return the weighted means."""
        values = np.einsum("nma,am->na", inputs.attribute_values, self.attribute_weights_)  # (N, A)
        return Prediction(
            np.einsum("nmc,m->nc", inputs.class_probabilities, self.class_weights_),  # (N, C)
            np.clip(values, *attribute_bounds(inputs)),
        )

    def members_used(self) -> tuple[str, ...]:
        """Return the members with any weight."""
        weights = np.vstack([self.class_weights_, self.attribute_weights_])  # (1 + A, M)
        return tuple(
            name for name, column in zip(self.signature_.members, weights.T, strict=True) if column.any()
        )

    def learned(self) -> dict[str, Any]:
        """Return the weights."""
        return {"classes": self.class_weights_.tolist(), "attributes": self.attribute_weights_.tolist()}

    def restore(self, saved: SavedStacker) -> None:
        """Set the weights."""
        shape = (len(saved.signature.attributes), len(saved.signature.members))
        self._set_weights(
            np.asarray(saved.learned["classes"], dtype=np.float64),
            np.asarray(saved.learned["attributes"], dtype=np.float64).reshape(shape),
        )

    def _set_weights(self, class_weights: Floats, attribute_weights: Floats) -> None:
        self.class_weights_, self.attribute_weights_ = class_weights, attribute_weights
        self.shares_ = dict(zip(self.signature_.members, class_weights.tolist(), strict=True))


_MOST_WEIGHT_STEPS = 2000
_CLOSE_ENOUGH = 1e-7
_SUM_TO_ONE = 1e4
"""How much a weight sum of 1 counts beside a row, in units of all rows' root mean square."""


class WeightedVote(WeightedMean):
    """A linear opinion pool (Stone 1961) whose weights are fitted.

    Class weights maximise the likelihood of the votes (by expectation maximisation, which never makes it
    worse: Dempster, Laird and Rubin 1977); those of an attribute minimise its squared error. Both problems
    are convex, so there is nothing to stop early.
    """

    name = "weighted"

    def __init__(self, *, balance_exponent: float = 0.5) -> None:
        self.balance_exponent = balance_exponent

    def learned_weights(self, rows: StackingRows) -> tuple[Floats, Floats]:
        """Return the best weights; equal ones where there is nothing to learn from."""
        known = rows.where(has_class_target(rows))
        balance = class_weights(known.soft_targets, self.balance_exponent)
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
    # K cells of rows and classes have any mass; `given` is what each member gives them.
    given = np.maximum(probabilities.transpose(0, 2, 1)[counts], np.finfo(np.float64).tiny)  # (K, M)
    shares = mass[counts] / max(float(mass.sum()), np.finfo(np.float64).tiny)  # (K,)
    for _ in range(_MOST_WEIGHT_STEPS if len(shares) else 0):
        better = weights * (given.T @ (shares / (given @ weights)))  # (M,)
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
    deviations = (values - targets[:, None]) / np.sqrt(len(targets))  # (N, M)
    scale = _SUM_TO_ONE * max(float(np.abs(deviations).max()), 1e-12)
    system = np.vstack([deviations, np.full(members, scale)])  # (N + 1, M)
    wanted = np.append(np.zeros(len(targets)), scale)  # (N + 1,)
    weights, _ = nnls(system, wanted)
    return np.asarray(weights / weights.sum())


_MOST_PICKS = 50


class GreedyVote(WeightedMean):
    """Ensemble selection with replacement (Caruana et al. 2004, sections 2 and 2.1).

    Each step adds the member with which the soft vote of those chosen so far has the highest primary score,
    and among equals the lowest loss (log-loss against the votes; squared error of attributes alone). The best
    of all steps is kept. A member that is chosen for its classes counts as much for its attributes.
    """

    name = "greedy"

    def learned_weights(self, rows: StackingRows) -> tuple[Floats, Floats]:
        """Return how often each member was chosen, as shares."""
        counts = chosen_counts(rows)
        weights = counts / counts.sum()
        return weights, np.tile(weights, (len(rows.inputs.attributes), 1))


def chosen_counts(rows: StackingRows) -> Floats:
    """Return how often each member is chosen, ``(M,)``; once each where there is nothing to choose by."""
    values, is_scored = rows.inputs.decisive_values, rows.truth.is_scored  # (N, M, K), (N,)
    members = values.shape[1]
    if not is_scored.any():
        return np.ones(members)
    scored = rows.where(is_scored)
    truth = scored.truth

    def rank(total: Floats, size: int) -> tuple[float, float]:
        mean = total[is_scored] / size
        score = float(np.nan_to_num(truth.score(total[is_scored], mean)))
        return round(score, 12), -float(np.nan_to_num(prediction_loss(scored, mean, mean)))

    counts, best_counts = np.zeros(members), np.zeros(members)
    total, best = np.zeros_like(values[:, 0]), (-np.inf, -np.inf)  # (N, K)
    for size in range(1, _MOST_PICKS + 1):
        tried = [rank(total + values[:, member], size) for member in range(members)]
        chosen = max(range(members), key=lambda member: tried[member])
        counts[chosen] += 1
        total = total + values[:, chosen]
        if tried[chosen] > best:
            best, best_counts = tried[chosen], counts.copy()
    return best_counts
