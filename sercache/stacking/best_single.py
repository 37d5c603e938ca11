"""Best single: the member that did best on the rows it is fitted on."""

from pathlib import Path
from typing import Self

import numpy as np

from sercache.evaluation.metrics import log_loss, macro_f1
from sercache.recipe import StackingRecipe
from sercache.stacking.protocol import Prediction
from sercache.stacking.rows import StackingInputs, StackingRows
from sercache.stacking.saved import SavedStacker, Signature


class BestSingle:
    """The member with the highest macro-F1; among equals, the one with the lower log-loss, then the first."""

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
        judged = rows.labels >= 0

        def standing(index: int) -> tuple[float, float]:
            probabilities = rows.inputs.class_probabilities[:, index]
            predicted = probabilities[judged].argmax(axis=1)
            score = macro_f1(rows.labels[judged], predicted, len(rows.inputs.classes))
            return float(np.nan_to_num(score)), -float(
                np.nan_to_num(log_loss(rows.soft_targets, probabilities))
            )

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
