"""Temperature scaling (Guo et al. 2017, section 4.2), and no calibration."""

from typing import Any, Self

import numpy as np
from scipy.optimize import minimize_scalar

from sercache.evaluation.calibration.registry import Floats, Labels
from sercache.evaluation.probabilities import log_probabilities, log_softmax, softmax


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


_FURTHEST_LOG = 4.0
"""Temperatures from exp(-4) to exp(4)."""


class Temperature:
    """One number by which all log-probabilities are divided; which class is the most probable stays."""

    def __init__(self, temperature: float = 1.0) -> None:
        self.temperature = temperature

    def fit(self, probabilities: Floats, labels: Labels) -> None:
        """Find the temperature under which the labels are likeliest; 1 where there are none."""
        known = labels >= 0
        if not known.any():
            return
        logs, truth = log_probabilities(probabilities[known]), labels[known]
        rows = np.arange(len(truth))

        def loss(log_temperature: float) -> float:
            return -float(log_softmax(logs / np.exp(log_temperature))[rows, truth].mean())

        found = minimize_scalar(loss, bounds=(-_FURTHEST_LOG, _FURTHEST_LOG), method="bounded")
        if found.fun < loss(0.0):
            self.temperature = float(np.exp(found.x))

    def __call__(self, probabilities: Floats) -> Floats:
        """Return the softmax of log-probabilities divided by the temperature."""
        return np.asarray(softmax(log_probabilities(probabilities) / self.temperature))

    @property
    def learned(self) -> dict[str, Any]:
        """The temperature."""
        return {"temperature": self.temperature}

    @classmethod
    def from_learned(cls, learned: dict[str, Any]) -> Self:
        """Return the calibrator of this temperature."""
        return cls(float(learned["temperature"]))
