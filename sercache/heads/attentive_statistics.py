"""Attentive statistics pooling (Okabe, Koshinaka and Shinoda 2018), one pool per feature set."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sercache.heads.masking import attendable
from sercache.heads.protocol import Head, HeadInput, require_dropout, require_positive


class AttentivePool(nn.Module):
    """Weighted mean and standard deviation over time, the weights learned (eqs. 2 to 6)."""

    def __init__(self, input_dim: int, bottleneck: int) -> None:
        super().__init__()
        self.score = nn.Sequential(nn.Linear(input_dim, bottleneck), nn.Tanh(), nn.Linear(bottleneck, 1))

    def forward(self, frames: Tensor, mask: Tensor) -> Tensor:
        """Return ``(B, 2 D)`` from ``frames`` ``(B, T, D)``; zero for a clip without a valid frame."""
        scores = self.score(frames).squeeze(-1).masked_fill(~attendable(mask), float("-inf"))  # (B, T)
        weights = torch.softmax(scores, dim=1).unsqueeze(-1)  # (B, T, 1)
        mean = (weights * frames).sum(dim=1)  # (B, D)
        variance = (weights * (frames - mean.unsqueeze(1)).square()).sum(dim=1)  # (B, D)
        pooled = torch.cat([mean, variance.clamp_min(1e-8).sqrt()], dim=1)  # (B, 2 D)
        return pooled * mask.any(dim=1, keepdim=True).to(pooled.dtype)


class AttentiveStatistics(Head):
    """Each feature set pooled by its own attention, then one hidden layer over all of them.

    The pooling is that of Okabe, Koshinaka and Shinoda 2018 (eqs. 2 to 6).

    >>> head = AttentiveStatistics([768, 1024], num_classes=8, attribute_ranges=[(1, 7)] * 3, width=64)
    >>> speech = HeadInput(torch.randn(2, 50, 768), torch.ones(2, 50, dtype=torch.bool))
    >>> text = HeadInput(torch.randn(2, 9, 1024), torch.ones(2, 9, dtype=torch.bool))
    >>> [tuple(part.shape) for part in head([speech, text])]
    [(2, 8), (2, 3)]

    Args:
        input_dims: D of each feature set.
        num_classes: C.
        attribute_ranges: ``(low, high)`` of each attribute.
        width: of the hidden layer.
        bottleneck: inner width of the attention's score.
        dropout: on the pooled statistics.
    """

    def __init__(
        self,
        input_dims: Sequence[int],
        num_classes: int,
        attribute_ranges: Sequence[tuple[float, float]],
        *,
        width: int = 256,
        bottleneck: int = 128,
        dropout: float = 0.1,
    ) -> None:
        require_positive(width=width, bottleneck=bottleneck)
        require_dropout(dropout)
        super().__init__(input_dims, num_classes, attribute_ranges, embedding_dim=width)
        self.pools = nn.ModuleList(AttentivePool(dim, bottleneck) for dim in input_dims)
        self.drop = nn.Dropout(dropout)
        self.merge = nn.Linear(2 * sum(input_dims), width)

    def embed(self, inputs: Sequence[HeadInput]) -> Tensor:
        """Return the hidden layer before its activation, ``(B, width)``."""
        pooled = [
            pool(self.read(index, features), features.mask)  # (B, 2 D)
            for index, (pool, features) in enumerate(zip(self.pools, inputs, strict=True))
        ]
        merged: Tensor = self.merge(self.drop(torch.cat(pooled, dim=1)))  # (B, width)
        return merged
