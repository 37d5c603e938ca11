"""A weighted mean of the members, with a weight per member that is never negative."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar, Self

import numpy as np

from sercache.recipe import StackingRecipe
from sercache.stacking.network import attribute_bounds
from sercache.stacking.protocol import Prediction
from sercache.stacking.rows import Floats, StackingInputs, StackingRows
from sercache.stacking.saved import SavedStacker, Signature


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
