"""The interface of a calibrator, and calibrators by name; a new one is one file and one line here."""

from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from sercache.errors import StackingError
from sercache.registry import Registry

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]


class Calibrator(Protocol):
    """A map from class probabilities to class probabilities that is fitted on rows nobody trained on."""

    def fit(self, probabilities: Floats, labels: Labels) -> None:
        """Learn the map.

        Args:
            probabilities: ``(N, C)``.
            labels: ``(N,)``, the consensus class; a row whose label is negative does not count.
        """

    def __call__(self, probabilities: Floats) -> Floats:
        """Return calibrated probabilities ``(N, C)``; rows sum to 1."""
        ...

    @property
    def learned(self) -> dict[str, Any]:
        """What it learned, as JSON knows it."""
        ...

    @classmethod
    def from_learned(cls, learned: dict[str, Any]) -> Self:
        """Return the calibrator that learned this."""
        ...


CALIBRATORS: Registry[type[Calibrator]] = Registry(
    "calibrator",
    {
        "none": "sercache.evaluation.calibration.temperature:Uncalibrated",
        "temperature": "sercache.evaluation.calibration.temperature:Temperature",
        "dirichlet": "sercache.evaluation.calibration.dirichlet:Dirichlet",
    },
    StackingError,
)
