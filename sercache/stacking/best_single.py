"""Best single: the member that did best on the rows it is fitted on."""

from pathlib import Path
from typing import Self

import numpy as np

from sercache.recipe import StackingRecipe
from sercache.stacking.protocol import Prediction
from sercache.stacking.rows import StackingInputs, StackingRows
from sercache.stacking.saved import SavedStacker, Signature
from sercache.stacking.targets import prediction_loss


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
