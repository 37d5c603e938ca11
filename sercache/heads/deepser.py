"""DeepSER: deep hierarchical fusion of any number of feature sets (MEDUSA, arXiv 2506.09556, section 3)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sercache.heads.leg import Leg, LegOutput
from sercache.heads.protocol import Head, HeadInput, require_dropout, require_positive
from sercache.heads.sequences import arrange


class DeepSER(Head):
    """Deep fusion of N feature sets through their hidden layers (MEDUSA, Algorithm 2).

    Each feature set has a leg. A first fusion leg reads all legs' first layers, concatenated over time; a
    second one reads all second layers and the first fusion leg's. One linear layer merges the pooled outputs
    of the feature sets' legs and of the second fusion leg. There is no positional encoding, as in the paper:
    the encoders' frames carry their positions. A clip without frames of a feature set is masked there.

    >>> head = DeepSER([768, 1024], num_classes=8, attribute_ranges=[(1, 7)] * 3, width=64, feedforward=128)
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
        leg = (width, attention_heads, feedforward, dropout)
        self.legs = nn.ModuleList(Leg(dim, *leg) for dim in input_dims)
        self.first_fusion = Leg(width, *leg)
        self.second_fusion = Leg(width, *leg)
        self.merge = nn.Linear((len(self.legs) + 1) * width, width)

    def embed(self, inputs: Sequence[HeadInput]) -> Tensor:
        """Return the merged representation ``(B, d)``."""
        # A leg per feature set: (B, T_i, D_i) -> h1, h2 of (B, T_i, d) and h3 of (B, d).
        sequences = [
            arrange(self.read(index, features), features.mask) for index, features in enumerate(inputs)
        ]
        legs: list[LegOutput] = [leg(sequence) for leg, sequence in zip(self.legs, sequences, strict=True)]
        # Two fusion legs over all frames of a clip.
        first, *others = legs
        fused: LegOutput = self.first_fusion(
            first.h1.followed_by([leg.h1 for leg in others])
        )  # (B, sum T_i, d)
        second_layers = first.h2.followed_by([*(leg.h2 for leg in others), fused.h2])  # (B, 2 sum T_i, d)
        pooled: Tensor = self.second_fusion(second_layers).h3  # (B, d)
        merged: Tensor = self.merge(
            torch.cat([*(leg.h3 for leg in legs), pooled], dim=1)
        )  # (B, (N + 1) d) -> (B, d)
        return merged
