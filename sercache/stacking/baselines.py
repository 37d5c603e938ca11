"""What any meta-level must beat: it knows how often each class occurs, or not even that."""

from pathlib import Path
from typing import Self

import numpy as np
import xxhash

from sercache.recipe import StackingRecipe
from sercache.stacking.protocol import Prediction
from sercache.stacking.rows import Floats, StackingInputs, StackingRows
from sercache.stacking.saved import SavedStacker, Signature

_JITTER = 1e-6


class MajorityClass:
    """The mean target of the rows it is fitted on, for every row; attributes likewise."""

    kind = "majority"
    needs_classes = True

    def __init__(self, settings: StackingRecipe, seed: int) -> None:
        self.shares: dict[str, float] = {}
        self.settings, self.seed = settings, seed
        self._signature: Signature
        self._probabilities: Floats  # (C,)
        self._attributes: Floats  # (A,)

    def fit(self, rows: StackingRows) -> None:
        """Learn the means."""
        self._signature = Signature.of(rows.inputs)
        self._probabilities = self._mean_target(rows)
        middles = [(attribute.low + attribute.high) / 2 for attribute in rows.inputs.attributes]
        rated = ~np.isnan(rows.attribute_targets)
        totals = np.where(rated, rows.attribute_targets, 0.0).sum(axis=0)
        counts = rated.sum(axis=0)
        self._attributes = np.where(counts > 0, totals / np.maximum(counts, 1), np.asarray(middles))

    def predict(self, inputs: StackingInputs) -> Prediction:
        """Return the same for every row."""
        arranged = self._signature.arrange(inputs)
        rows = len(arranged)
        return Prediction(np.tile(self._probabilities, (rows, 1)), np.tile(self._attributes, (rows, 1)))

    def save(self, folder: Path) -> None:
        """Write the means."""
        learned = {"probabilities": self._probabilities.tolist(), "attributes": self._attributes.tolist()}
        SavedStacker(self.kind, self._signature, learned).write(folder)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what :meth:`save` wrote."""
        saved = SavedStacker.read(folder, cls.kind)
        loaded = cls(StackingRecipe(), 0)
        loaded._signature = saved.signature
        loaded._probabilities = np.asarray(saved.learned["probabilities"], dtype=np.float64)
        loaded._attributes = np.asarray(saved.learned["attributes"], dtype=np.float64)
        return loaded

    def _mean_target(self, rows: StackingRows) -> Floats:
        """Return ``(C,)``: the votes' mean, with the most frequent consensus class on top."""
        num_classes = len(rows.inputs.classes)
        known = rows.soft_targets[~np.isnan(rows.soft_targets).any(axis=1)]
        mean = known.mean(axis=0) if len(known) else np.full(num_classes, 1 / num_classes)
        counts = np.bincount(rows.labels[rows.labels >= 0], minlength=num_classes)
        if counts.any() and mean.argmax() != counts.argmax():
            mean[counts.argmax()] = mean.max() + _JITTER
        return np.asarray(mean / mean.sum())


class MeanRating(MajorityClass):
    """The mean rating of the rows it is fitted on, for every row: what attributes alone must beat."""

    kind = "mean-rating"
    needs_classes = False

    def _mean_target(self, rows: StackingRows) -> Floats:
        return super()._mean_target(rows) if rows.inputs.classes else np.empty(0)


class Chance(MajorityClass):
    """Every class is as likely as any other; which one is named follows from the utterance's id."""

    kind = "chance"

    def predict(self, inputs: StackingInputs) -> Prediction:
        """Return equal probabilities, up to a trifle for the class that is named."""
        probabilities, attributes = super().predict(inputs)
        num_classes = probabilities.shape[1]
        named = [xxhash.xxh3_64_intdigest(row.encode()) % num_classes for row in inputs.ids]
        probabilities[np.arange(len(named)), named] += _JITTER
        return Prediction(probabilities / probabilities.sum(axis=1, keepdims=True), attributes)

    def _mean_target(self, rows: StackingRows) -> Floats:
        num_classes = len(rows.inputs.classes)
        return np.full(num_classes, 1 / num_classes)
