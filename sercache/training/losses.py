"""Losses by name; each is a function, and a new one is one function and one registry line.

What a recipe may set of a loss (``class_loss_options: {gamma: 1}``) is a keyword-only argument.
"""

from typing import Protocol

import torch
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
