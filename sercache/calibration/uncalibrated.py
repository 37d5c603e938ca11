"""No calibration."""

from typing import Any, Self

from sercache.calibration.protocol import Floats, Labels


class Uncalibrated:
    """Leaves probabilities as they are."""

    def fit(self, probabilities: Floats, labels: Labels) -> None:
        """Learn nothing."""

    def __call__(self, probabilities: Floats) -> Floats:
        """Return the same."""
        return probabilities

    @property
    def learned(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    @classmethod
    def from_learned(cls, learned: dict[str, Any]) -> Self:
        """Return one."""
        return cls()
