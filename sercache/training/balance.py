"""Weights against class imbalance."""

import numpy as np
from numpy.typing import NDArray


def class_weights(soft_targets: NDArray[np.float64], exponent: float) -> NDArray[np.float64]:
    """Return ``(N / (C * n_c)) ** exponent`` for each class (MEDUSA, section 3: exponent 0.5).

    Args:
        soft_targets: ``(N, C)`` of the *training* rows; rows of NaN do not count. ``n_c`` is the mass of
            class c over all rows.
        exponent: 0 is no weighting, 1 makes all classes count the same.

    Returns:
        ``(C,)`` float64; 1 for a class that no training row has.
    """
    rows = soft_targets[~np.isnan(soft_targets).any(axis=1)]
    mass = rows.sum(axis=0)
    share = np.divide(len(rows), soft_targets.shape[1] * mass, out=np.ones_like(mass), where=mass > 0)
    weights: NDArray[np.float64] = share**exponent
    return weights
