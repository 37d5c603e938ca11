"""Soft vote: the mean of the members."""

from pathlib import Path
from typing import Self

from sercache.recipe import StackingRecipe
from sercache.stacking.protocol import Prediction
from sercache.stacking.rows import StackingInputs, StackingRows
from sercache.stacking.saved import SavedStacker, Signature
from sercache.stacking.shares import equal_shares


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
