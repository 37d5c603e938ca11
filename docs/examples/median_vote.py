"""A new stacker: the median of the members."""

from pathlib import Path
from typing import Self

import numpy as np

from sercache.recipe import StackingRecipe
from sercache.stacking.protocol import Prediction
from sercache.stacking.rows import StackingInputs, StackingRows
from sercache.stacking.saved import SavedStacker, Signature


class MedianVote:
    def __init__(self, settings: StackingRecipe, seed: int) -> None:
        self.shares: dict[str, float] = {}  # what each member counts; not defined for a median

    def fit(self, rows: StackingRows) -> None:
        self._signature = Signature.of(rows.inputs)

    def predict(self, inputs: StackingInputs) -> Prediction:
        arranged = self._signature.arrange(inputs)  # members and classes by name
        middle = np.median(arranged.class_probabilities, axis=1)  # (N, M, C) -> (N, C)
        middle += 1e-9
        return Prediction(
            middle / middle.sum(axis=1, keepdims=True), np.median(arranged.attribute_values, axis=1)
        )

    def save(self, folder: Path) -> None:
        SavedStacker("median-vote", self._signature).write(folder)

    @classmethod
    def load(cls, folder: Path) -> Self:
        loaded = cls(StackingRecipe(), 0)
        loaded._signature = SavedStacker.read(folder, "median-vote").signature
        return loaded
