"""Softmax and logarithms of probabilities: the functions that the whole library computes them with."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

LEAST_PROBABILITY = 1e-6
"""Below it a logarithm would depend on rounding more than on the model."""


def softmax(logits: Floats) -> Floats:
    """Return the softmax over the last axis of ``(..., C)``; without classes there is nothing to normalise.

    >>> softmax(np.array([[1000.0, 1000.0]])).tolist()
    [[0.5, 0.5]]
    """
    if not logits.shape[-1]:
        return logits
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))  # (..., C)
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))


def log_softmax(logits: Floats) -> Floats:
    """Return the logarithm of the softmax over the last axis of ``(..., C)``, without overflow."""
    shifted = logits - logits.max(axis=-1, keepdims=True)  # (..., C)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))


def log_probabilities(probabilities: Floats) -> Floats:
    """Return the logarithms of ``(..., C)``; those of zero are finite."""
    return np.asarray(np.log(np.maximum(probabilities, LEAST_PROBABILITY)))
