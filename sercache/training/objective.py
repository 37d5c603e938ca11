"""What training minimises: MEDUSA's weighted sum of a class loss and an attribute loss."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from sercache.errors import RecipeError
from sercache.heads.protocol import HeadOutput
from sercache.recipe import TrainingRecipe
from sercache.training.losses import ATTRIBUTE_LOSSES, CLASS_LOSSES, AttributeLoss, ClassLoss


class Targets(NamedTuple):
    """What a batch should give.

    ``soft`` ``(B, C)``: distributions over classes, a row of NaN where there is no class target.
    ``attributes`` ``(B, A)``: values on the corpus's scale, NaN where nobody rated.
    """

    soft: Tensor
    attributes: Tensor


@dataclass(frozen=True)
class Objective:
    """``class_weight * class loss + attribute_weight * attribute loss`` (MEDUSA, section 3: 1.5 and 0.4).

    The class loss is averaged over the rows that have a class target, the attribute loss over the values that
    are there; what is missing adds nothing, to the loss or to its gradient. Class weights scale each class's
    share of a row and are not divided out again, as in ``torch.nn.CrossEntropyLoss`` with probabilities.

    Attributes:
        class_loss: a name in :data:`~sercache.training.losses.CLASS_LOSSES`.
        attribute_loss: a name in :data:`~sercache.training.losses.ATTRIBUTE_LOSSES`.
        class_weight: of the class loss.
        attribute_weight: of the attribute loss.
        class_weights: ``(C,)``, or None for equal classes.
        class_loss_options: keyword arguments of the class loss.
    """

    class_loss: str = "cross_entropy"
    attribute_loss: str = "mse"
    class_weight: float = 1.5
    attribute_weight: float = 0.4
    class_weights: Tensor | None = None
    class_loss_options: Mapping[str, float] = field(default_factory=dict)

    def __call__(self, output: HeadOutput, targets: Targets) -> Tensor:
        """Return the loss of a batch, a scalar in at least float32.

        Raises:
            RecipeError: no part that has a weight has anything to learn from.
        """
        logits, predicted = _at_least_float32(output.logits), _at_least_float32(output.attributes)
        has_classes = bool(self.class_weight) and logits.shape[1] > 0
        has_attributes = bool(self.attribute_weight) and predicted.shape[1] > 0
        if not has_classes and not has_attributes:
            no_classes = "the corpus has no classes" if self.class_weight else "class_weight is 0"
            no_attributes = (
                "the corpus has no attributes" if self.attribute_weight else "attribute_weight is 0"
            )
            raise RecipeError(f"there is nothing to learn: {no_classes}, and {no_attributes}")
        loss = logits.new_zeros(())
        if has_classes:
            has_target = ~targets.soft.isnan().any(dim=1)  # (B,)
            soft = torch.where(has_target.unsqueeze(1), targets.soft, 1.0 / logits.shape[1])
            weights = None if self.class_weights is None else self.class_weights.to(logits)
            rows = self._class_loss(logits, soft.to(logits.dtype), weights, **self.class_loss_options)  # (B,)
            kept = has_target.to(rows.dtype)
            loss = loss + self.class_weight * (rows * kept).sum() / kept.sum().clamp_min(1)  # ()
        if has_attributes:
            valid = ~targets.attributes.isnan()  # (B, A)
            truth = targets.attributes.nan_to_num(nan=0.0).to(predicted.dtype)
            loss = loss + self.attribute_weight * self._attribute_loss(predicted, truth, valid)
        return loss

    @cached_property
    def _class_loss(self) -> ClassLoss:
        return CLASS_LOSSES[self.class_loss]

    @cached_property
    def _attribute_loss(self) -> AttributeLoss:
        return ATTRIBUTE_LOSSES[self.attribute_loss]


def objective_of(settings: TrainingRecipe, class_weights: Tensor | None = None) -> Objective:
    """Return the objective of a member's training settings."""
    return Objective(
        settings.class_loss,
        settings.attribute_loss,
        settings.class_weight,
        settings.attribute_weight,
        class_weights,
        settings.class_loss_options,
    )


def _at_least_float32(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))
