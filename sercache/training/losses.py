"""Losses and class weightings by name; a new one is one function and one registry line."""

from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from sercache.errors import RecipeError
from sercache.registry import Registry


class ClassLoss(Protocol):
    """How far predicted classes are from soft targets."""

    def __call__(
        self, logits: Tensor, targets: Tensor, class_weights: Tensor | None, /, **options: float
    ) -> Tensor:
        """Return one loss per row ``(B,)`` of ``(B, C)``, ``(B, C)`` and ``(C,)``."""
        ...


class AttributeLoss(Protocol):
    """How far predicted attribute values are from the rated ones."""

    def __call__(self, predicted: Tensor, truth: Tensor, valid: Tensor, /, **options: float) -> Tensor:
        """Return a scalar for three ``(B, A)``; ``truth`` is finite also where not ``valid`` (bool)."""
        ...


CLASS_LOSSES: Registry[ClassLoss] = Registry(
    "class loss",
    {
        "cross_entropy": "sercache.training.losses:cross_entropy",
        "focal": "sercache.training.losses:focal",
        "kl": "sercache.training.losses:kl_divergence",
        "label_smoothing": "sercache.training.losses:label_smoothing",
    },
    RecipeError,
)

ATTRIBUTE_LOSSES: Registry[AttributeLoss] = Registry(
    "attribute loss",
    {
        "ccc": "sercache.training.losses:one_minus_ccc",
        "mse": "sercache.training.losses:mean_squared_error",
    },
    RecipeError,
)


def cross_entropy(logits: Tensor, targets: Tensor, class_weights: Tensor | None) -> Tensor:
    """Cross-entropy against soft targets (MEDUSA, section 3): ``-sum_c w_c t_c log p_c``, ``(B,)``."""
    return F.cross_entropy(logits, targets, weight=class_weights, reduction="none")


def kl_divergence(logits: Tensor, targets: Tensor, class_weights: Tensor | None) -> Tensor:
    """KL divergence from prediction to votes, ``sum_c w_c t_c (log t_c - log p_c)``, ``(B,)``.

    Its gradient is cross-entropy's; its value is zero where the prediction equals the votes.
    """
    weighted = targets if class_weights is None else targets * class_weights
    log_targets = targets.clamp_min(torch.finfo(targets.dtype).tiny).log()
    return (weighted * (log_targets - F.log_softmax(logits, dim=1))).sum(dim=1)


def focal(logits: Tensor, targets: Tensor, class_weights: Tensor | None, *, gamma: float = 2.0) -> Tensor:
    """Focal loss (Lin et al. 2017, eq. 4) against soft targets: ``-sum_c w_c t_c (1 - p_c)^gamma log p_c``.

    Rows that are right already count less, the more so the greater ``gamma``; 0 is cross-entropy. ``(B,)``.

    Raises:
        RecipeError: ``gamma`` is negative.
    """
    if not gamma >= 0:
        raise RecipeError(f"class_loss_options: gamma is {gamma:g}; it must be at least 0")
    log_probabilities = F.log_softmax(logits, dim=1)
    weighted = targets if class_weights is None else targets * class_weights
    # 1 - p without cancellation, and off 0, where a gamma below 1 has an infinite slope.
    hardness = (-torch.expm1(log_probabilities)).clamp_min(1e-6) ** gamma
    return -(weighted * hardness * log_probabilities).sum(dim=1)


def label_smoothing(
    logits: Tensor, targets: Tensor, class_weights: Tensor | None, *, epsilon: float = 0.1
) -> Tensor:
    """Cross-entropy against targets of which a share is spread over all classes, ``(B,)``.

    ``t'_c = (1 - epsilon) t_c + epsilon / C`` (Szegedy et al. 2016, section 7).

    Raises:
        RecipeError: ``epsilon`` is not from 0 to 1.
    """
    if not 0 <= epsilon <= 1:
        raise RecipeError(f"class_loss_options: epsilon is {epsilon:g}; it must be from 0 to 1")
    spread = (1 - epsilon) * targets + epsilon / targets.shape[1]
    return cross_entropy(logits, spread, class_weights)


def mean_squared_error(predicted: Tensor, truth: Tensor, valid: Tensor) -> Tensor:
    """Mean squared error over the valid values, on the corpus's own scale (MEDUSA, section 3)."""
    weights = valid.to(predicted.dtype)
    return (weights * (predicted - truth).square()).sum() / weights.sum().clamp_min(1)


def one_minus_ccc(predicted: Tensor, truth: Tensor, valid: Tensor) -> Tensor:
    """``1 - CCC`` (Lin 1989) over a batch's valid rows, averaged over attributes that have two or more."""
    weights = valid.to(predicted.dtype)
    count = weights.sum(dim=0)
    divisor = count.clamp_min(1)
    predicted_mean = (weights * predicted).sum(dim=0) / divisor
    truth_mean = (weights * truth).sum(dim=0) / divisor
    predicted_offset, truth_offset = predicted - predicted_mean, truth - truth_mean
    covariance = (weights * predicted_offset * truth_offset).sum(dim=0) / divisor
    spread = (weights * (predicted_offset.square() + truth_offset.square())).sum(dim=0) / divisor
    distance = (predicted_mean - truth_mean).square()
    ccc = 2 * covariance / (spread + distance).clamp_min(1e-8)
    usable = (count >= 2).to(predicted.dtype)
    return ((1 - ccc) * usable).sum() / usable.sum().clamp_min(1)


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
        "effective_number": "sercache.training.losses:effective_number",
        "inverse_frequency": "sercache.training.losses:inverse_frequency",
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
