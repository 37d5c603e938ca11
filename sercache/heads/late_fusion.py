"""Late fusion: each feature set is pooled before they are merged."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sercache.heads.leg import Leg
from sercache.heads.protocol import Head, HeadInput, require_dropout, require_positive
from sercache.heads.sequences import arrange


class LateFusion(Head):
    """DeepSER without its fusion legs: one linear layer merges the legs' pooled outputs.

    The late fusion of MEDUSA's ablation (arXiv 2506.09556): the difference to DeepSER is the effect
    of fusing the feature sets' hidden layers. A clip without frames of a feature set enters there as
    zero.

    >>> head = LateFusion([768, 1024], num_classes=8, attribute_ranges=[(1, 7)] * 3, width=64)
    >>> speech = HeadInput(torch.randn(2, 50, 768), torch.ones(2, 50, dtype=torch.bool))
    >>> text = HeadInput(torch.randn(2, 9, 1024), torch.ones(2, 9, dtype=torch.bool))
    >>> [tuple(part.shape) for part in head([speech, text])]
    [(2, 8), (2, 3)]

    Args:
        input_dims: D of each feature set, N of them.
        num_classes: C.
        attribute_ranges: ``(low, high)`` of each attribute.
        width: d.
        feedforward: inner width of the encoder layers.
        attention_heads: of the encoder layers.
        dropout: in the encoder layers.
    """

    def __init__(
        self,
        input_dims: Sequence[int],
        num_classes: int,
        attribute_ranges: Sequence[tuple[float, float]],
        *,
        width: int = 512,
        feedforward: int = 2048,
        attention_heads: int = 1,
        dropout: float = 0.1,
    ) -> None:
        require_positive(width=width, feedforward=feedforward, attention_heads=attention_heads)
        require_dropout(dropout)
        super().__init__(input_dims, num_classes, attribute_ranges, embedding_dim=width)
        self.legs = nn.ModuleList(
            Leg(dim, width, attention_heads, feedforward, dropout) for dim in input_dims
        )
        self.merge = nn.Linear(len(self.legs) * width, width)

    def embed(self, inputs: Sequence[HeadInput]) -> Tensor:
        """Return the merged representation ``(B, d)``."""
        pooled = [
            leg(arrange(self.read(index, features), features.mask)).h3  # (B, d)
            for index, (leg, features) in enumerate(zip(self.legs, inputs, strict=True))
        ]
        merged: Tensor = self.merge(torch.cat(pooled, dim=1))  # (B, N d) -> (B, d)
        return merged
