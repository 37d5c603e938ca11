"""Logistic regression on pooled frames: the baseline that a head has to beat."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sercache.heads.masking import masked_deviation, masked_mean
from sercache.heads.protocol import Head, HeadInput


class MeanLinear(Head):
    """Mean (and standard deviation) over time of each feature set, then the outputs; nothing between them.

    The pooling is the statistics pooling of x-vectors (Snyder et al. 2018).

    >>> head = MeanLinear([768], num_classes=8, attribute_ranges=[(1, 7)] * 3)
    >>> speech = HeadInput(torch.randn(2, 50, 768), torch.ones(2, 50, dtype=torch.bool))
    >>> tuple(head.embed([speech]).shape), [tuple(part.shape) for part in head([speech])]
    ((2, 1536), [(2, 8), (2, 3)])

    Args:
        input_dims: D of each feature set.
        num_classes: C.
        attribute_ranges: ``(low, high)`` of each attribute.
        deviation: whether standard deviations join the means.
    """

    def __init__(
        self,
        input_dims: Sequence[int],
        num_classes: int,
        attribute_ranges: Sequence[tuple[float, float]],
        *,
        deviation: bool = True,
    ) -> None:
        statistics = 2 if deviation else 1
        super().__init__(
            input_dims,
            num_classes,
            attribute_ranges,
            embedding_dim=statistics * sum(input_dims),
            activation=nn.Identity(),
        )
        self.deviation = deviation

    def embed(self, inputs: Sequence[HeadInput]) -> Tensor:
        """Return the pooled statistics, ``(B, sum D)`` or ``(B, 2 sum D)``."""
        pooled: list[Tensor] = []
        for index, features in enumerate(inputs):
            frames = self.read(index, features)  # (B, T, D)
            mean = masked_mean(frames, features.mask)  # (B, D)
            pooled.append(mean)
            if self.deviation:
                present = features.mask.any(dim=1, keepdim=True).to(mean.dtype)  # (B, 1)
                pooled.append(masked_deviation(frames, features.mask, mean) * present)  # (B, D)
        return torch.cat(pooled, dim=1)
