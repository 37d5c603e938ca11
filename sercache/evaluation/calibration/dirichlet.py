"""Dirichlet calibration (Kull et al. 2019, section 3): a linear map of log-probabilities."""

from typing import Any, Self

import numpy as np
from scipy.optimize import minimize

from sercache.evaluation.calibration.registry import Floats, Labels
from sercache.evaluation.calibration.temperature import Temperature
from sercache.evaluation.probabilities import log_probabilities, log_softmax, softmax

_PRIOR_DEVIATION = 0.3
"""How far weights may depart from temperature scaling where no row says anything."""


class Dirichlet:
    """``softmax(log p @ weight + bias)``, which can also tell one class's overconfidence from another's.

    Departures from temperature scaling have a Gaussian prior (the paper regularises off-diagonal weights and
    bias; here the diagonal's differences too): with few rows it is temperature scaling, and a class that no
    row has keeps finite weights.
    """

    def __init__(self, weight: Floats | None = None, bias: Floats | None = None) -> None:
        self.weight, self.bias = weight, bias

    def fit(self, probabilities: Floats, labels: Labels) -> None:
        """Find the likeliest weights under the prior; those that change nothing where there is no label."""
        num_classes = probabilities.shape[1]
        start = Temperature()
        start.fit(probabilities, labels)
        base = np.eye(num_classes) / start.temperature
        self.weight, self.bias = base, np.zeros(num_classes)
        known = labels >= 0
        if not known.any():
            return
        logs, one_hot = log_probabilities(probabilities[known]), np.eye(num_classes)[labels[known]]

        def loss_and_gradient(departure: Floats) -> tuple[float, Floats]:
            parts = departure.reshape(num_classes + 1, num_classes)  # (C + 1, C): weights, then bias
            outputs = log_softmax(logs @ (base + parts[:-1]) + parts[-1])
            errors = np.exp(outputs) - one_hot  # (N, C)
            slope = np.vstack([logs.T @ errors, errors.sum(axis=0)]) + parts / _PRIOR_DEVIATION**2
            loss = -(one_hot * outputs).sum() + (parts**2).sum() / (2 * _PRIOR_DEVIATION**2)
            return float(loss), slope.ravel()

        found = minimize(
            loss_and_gradient, np.zeros((num_classes + 1) * num_classes), jac=True, method="L-BFGS-B"
        )
        departure = found.x.reshape(num_classes + 1, num_classes)
        self.weight, self.bias = base + departure[:-1], departure[-1]

    def __call__(self, probabilities: Floats) -> Floats:
        """Return the mapped probabilities; unfitted, the same."""
        if self.weight is None or self.bias is None:
            return probabilities
        return np.asarray(softmax(log_probabilities(probabilities) @ self.weight + self.bias))

    @property
    def learned(self) -> dict[str, Any]:
        """Weights and biases."""
        if self.weight is None or self.bias is None:
            return {}
        return {"weight": self.weight.tolist(), "bias": self.bias.tolist()}

    @classmethod
    def from_learned(cls, learned: dict[str, Any]) -> Self:
        """Return the calibrator of these weights."""
        return (
            cls(*(np.asarray(learned[key], dtype=np.float64) for key in ("weight", "bias")))
            if learned
            else cls()
        )
