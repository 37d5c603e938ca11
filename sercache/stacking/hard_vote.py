"""Hard vote: each member names one class."""

from pathlib import Path
from typing import Self

import numpy as np

from sercache.recipe import StackingRecipe
from sercache.stacking.protocol import Prediction
from sercache.stacking.rows import StackingInputs, StackingRows
from sercache.stacking.saved import SavedStacker, Signature
from sercache.stacking.shares import equal_shares


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
