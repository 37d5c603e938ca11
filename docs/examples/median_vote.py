"""A new stacker: the median of the members."""

import numpy as np

from sercache.stacking.base import Prediction, Stacker
from sercache.stacking.rows import StackingInputs, StackingRows


class MedianVote(Stacker):
    name = "median-vote"

    def fit_arranged(self, rows: StackingRows) -> None:
        pass  # a median learns nothing

    def predict_arranged(self, inputs: StackingInputs) -> Prediction:
        middle = np.median(inputs.class_probabilities, axis=1) + 1e-9  # (N, M, C) -> (N, C)
        return Prediction(
            middle / middle.sum(axis=1, keepdims=True), np.median(inputs.attribute_values, axis=1)
        )
