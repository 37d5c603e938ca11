"""Weights against class imbalance, by name."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from sercache.errors import RecipeError
from sercache.registry import Registry


class ClassWeighting(Protocol):
    """What a class counts, from how much of it there is."""

    def __call__(
        self, mass: NDArray[np.float64], rows: int, num_classes: int, /, **options: float
    ) -> NDArray[np.float64]:
        """Return the weights of those of ``num_classes`` whose ``mass`` over so many ``rows`` is above 0."""
        ...


CLASS_WEIGHTINGS: Registry[ClassWeighting] = Registry(
    "class weighting",
    {
        "effective_number": "sercache.training.balance:effective_number",
        "inverse_frequency": "sercache.training.balance:inverse_frequency",
    },
    RecipeError,
)


def class_weights(
    soft_targets: NDArray[np.float64],
    exponent: float,
    weighting: str = "inverse_frequency",
    **options: float,
) -> NDArray[np.float64]:
    """Return the weight of each class, raised to ``exponent``.

    Args:
        soft_targets: ``(N, C)`` of the *training* rows; rows of NaN do not count. The mass of a class is the
            sum of its targets over all rows.
        exponent: 0 is no weighting; 1 the weighting as it is, 0.5 its square root (MEDUSA, section 3).
        weighting: a name in :data:`CLASS_WEIGHTINGS`.
        options: of the weighting.

    Returns:
        ``(C,)`` float64; 1 for a class that no training row has.
    """
    rows = soft_targets[~np.isnan(soft_targets).any(axis=1)]
    mass = rows.sum(axis=0)
    weights = np.ones_like(mass)
    present = mass > 0
    if present.any():
        weights[present] = CLASS_WEIGHTINGS[weighting](mass[present], len(rows), len(mass), **options)
    result: NDArray[np.float64] = weights**exponent
    return result


def inverse_frequency(mass: NDArray[np.float64], rows: int, num_classes: int) -> NDArray[np.float64]:
    """Return ``N / (C n_c)``: with exponent 1 all classes count the same (MEDUSA, section 3)."""
    return rows / (num_classes * mass)


def effective_number(
    mass: NDArray[np.float64], rows: int, num_classes: int, *, beta: float = 0.999
) -> NDArray[np.float64]:
    """Return ``(1 - beta) / (1 - beta ** n_c)``, scaled to a mean of 1 (Cui et al. 2019, eq. 4).

    ``beta`` 0 weighs nothing; the nearer it is to 1, the nearer this comes to the inverse frequency.

    Raises:
        RecipeError: ``beta`` is not at least 0 and below 1.
    """
    if not 0 <= beta < 1:
        raise RecipeError(f"effective_number: beta must be at least 0 and below 1, not {beta}")
    weights = (1 - beta) / (1 - beta**mass)
    scaled: NDArray[np.float64] = weights * len(mass) / weights.sum()
    return scaled
