"""Votes: soft, hard, weighted, greedy selection, and the best single member."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar, Self

import numpy as np

from sercache.recipe import StackingRecipe
from sercache.stacking.network import attribute_bounds
from sercache.stacking.protocol import Prediction
from sercache.stacking.rows import (
    Floats,
    StackingInputs,
    StackingRows,
    class_weights,
    has_class_target,
    prediction_loss,
)
from sercache.stacking.saved import SavedStacker, Signature
from sercache.stacking.shares import equal_shares


class Mixture(ABC):
    """Predicts the members' weighted mean; what the weights are is for a subclass to learn.

    Attributes:
        kind: its name in the registry.
        class_weights: ``(M,)``, sum to 1; with attributes alone what a member counts over all of them.
        attribute_weights: ``(A, M)``, each row sums to 1.
    """

    kind: ClassVar[str]
    class_weights: Floats
    attribute_weights: Floats

    def __init__(self, settings: StackingRecipe, seed: int) -> None:
        self.settings, self.seed = settings, seed
        self._signature: Signature

    @abstractmethod
    def learned_weights(self, rows: StackingRows) -> tuple[Floats, Floats]:
        """Return the class weights ``(M,)`` and the attribute weights ``(A, M)``."""

    @property
    def shares(self) -> dict[str, float]:
        """How much each member counts for the classes, or for attributes alone."""
        return dict(zip(self._signature.members, self.class_weights.tolist(), strict=True))

    def fit(self, rows: StackingRows) -> None:
        """Learn the weights."""
        self._signature = Signature.of(rows.inputs)
        self.class_weights, self.attribute_weights = self.learned_weights(rows)

    def predict(self, inputs: StackingInputs) -> Prediction:
        """Return the weighted means."""
        arranged = self._signature.arrange(inputs)
        values = np.einsum("nma,am->na", arranged.attribute_values, self.attribute_weights)
        return Prediction(
            np.einsum("nmc,m->nc", arranged.class_probabilities, self.class_weights),
            np.clip(values, *attribute_bounds(arranged)),
        )

    def save(self, folder: Path) -> None:
        """Write the weights."""
        learned = {"classes": self.class_weights.tolist(), "attributes": self.attribute_weights.tolist()}
        SavedStacker(self.kind, self._signature, learned).write(folder)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what :meth:`save` wrote."""
        saved = SavedStacker.read(folder, cls.kind)
        loaded = cls(StackingRecipe(), 0)
        loaded._signature = saved.signature
        shape = (len(saved.signature.attributes), len(saved.signature.members))
        loaded.class_weights = np.asarray(saved.learned["classes"], dtype=np.float64)
        loaded.attribute_weights = np.asarray(saved.learned["attributes"], dtype=np.float64).reshape(shape)
        return loaded


class SoftVote:
    """The mean of the members' class probabilities and attribute values; nothing is learned."""

    def __init__(self, settings: StackingRecipe, seed: int) -> None:
        self.settings, self.seed = settings, seed
        self.shares: dict[str, float] = {}
        self._signature: Signature

    def fit(self, rows: StackingRows) -> None:
        """Remember the names."""
        self._signature = Signature.of(rows.inputs)
        self.shares = equal_shares(rows.inputs.members)

    def predict(self, inputs: StackingInputs) -> Prediction:
        """Return the means over members."""
        arranged = self._signature.arrange(inputs)
        return Prediction(arranged.class_probabilities.mean(axis=1), arranged.attribute_values.mean(axis=1))

    def save(self, folder: Path) -> None:
        """Write the names."""
        SavedStacker("soft-vote", self._signature).write(folder)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what :meth:`save` wrote."""
        loaded = cls(StackingRecipe(), 0)
        loaded._signature = SavedStacker.read(folder, "soft-vote").signature
        loaded.shares = equal_shares(loaded._signature.members)
        return loaded


class HardVote:
    """The share of members that name each class; one further vote, split as the soft vote, breaks ties.

    That vote is less than a whole one for any class but the soft vote's certainty, so it never overturns a
    majority, and no class gets a probability of zero that a member thought possible. Attributes are the mean.
    """

    needs_classes = True

    def __init__(self, settings: StackingRecipe, seed: int) -> None:
        self.settings, self.seed = settings, seed
        self.shares: dict[str, float] = {}
        self._signature: Signature

    def fit(self, rows: StackingRows) -> None:
        """Remember the names."""
        self._signature = Signature.of(rows.inputs)
        self.shares = equal_shares(rows.inputs.members)

    def predict(self, inputs: StackingInputs) -> Prediction:
        """Return the shares of votes, and the mean of the attributes."""
        arranged = self._signature.arrange(inputs)
        members = arranged.class_probabilities  # (N, M, C)
        votes = np.eye(len(arranged.classes))[members.argmax(axis=2)].sum(axis=1)
        shares = (votes + members.mean(axis=1)) / (len(arranged.members) + 1)
        return Prediction(shares, arranged.attribute_values.mean(axis=1))

    def save(self, folder: Path) -> None:
        """Write the names."""
        SavedStacker("hard-vote", self._signature).write(folder)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what :meth:`save` wrote."""
        loaded = cls(StackingRecipe(), 0)
        loaded._signature = SavedStacker.read(folder, "hard-vote").signature
        loaded.shares = equal_shares(loaded._signature.members)
        return loaded


_MOST_WEIGHT_STEPS = 2000
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
    for _ in range(_MOST_WEIGHT_STEPS if len(shares) else 0):
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


_MOST_PICKS = 50


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
    for size in range(1, _MOST_PICKS + 1):
        tried = [standing(total + values[:, member], size) for member in range(members)]
        chosen = max(range(members), key=lambda member: tried[member])
        counts[chosen] += 1
        total = total + values[:, chosen]
        if tried[chosen] > best:
            best, best_counts = tried[chosen], counts.copy()
    return best_counts


class BestSingle:
    """The member with the highest primary score; of equals the one with the lower loss, then the first."""

    def __init__(self, settings: StackingRecipe, seed: int) -> None:
        self.settings, self.seed = settings, seed
        self._signature: Signature
        self.member: str

    @property
    def shares(self) -> dict[str, float]:
        """All for the chosen one."""
        return {self.member: 1.0}

    def fit(self, rows: StackingRows) -> None:
        """Choose the member."""
        self._signature = Signature.of(rows.inputs)
        truth = rows.truth

        def standing(index: int) -> tuple[float, float]:
            said = rows.inputs.class_probabilities[:, index], rows.inputs.attribute_values[:, index]
            loss = prediction_loss(rows, *said)
            return float(np.nan_to_num(truth.score(*said))), -float(np.nan_to_num(loss))

        best = max(range(len(rows.inputs.members)), key=standing)
        self.member = rows.inputs.members[best]

    def predict(self, inputs: StackingInputs) -> Prediction:
        """Return what the chosen member says."""
        arranged = self._signature.arrange(inputs)
        index = arranged.members.index(self.member)
        return Prediction(arranged.class_probabilities[:, index], arranged.attribute_values[:, index])

    def save(self, folder: Path) -> None:
        """Write which member it is."""
        SavedStacker("best-single", self._signature, {"member": self.member}).write(folder)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what :meth:`save` wrote."""
        saved = SavedStacker.read(folder, "best-single")
        loaded = cls(StackingRecipe(), 0)
        loaded._signature, loaded.member = saved.signature, saved.learned["member"]
        return loaded
