"""Cross-attention: each feature set attends to every other one."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sercache.heads.masking import attendable, masked_mean
from sercache.heads.protocol import Head, HeadInput, require_dropout, require_positive


class CrossAttentionLayer(nn.Module):
    """A post-norm Transformer layer whose queries are one sequence's, keys and values another's.

    The crossmodal attention of MulT (Tsai et al. 2019, section 3.1) and a feed-forward block, initialised as
    :class:`~sercache.heads.leg.EncoderLayer` is.
    """

    def __init__(self, width: int, attention_heads: int, feedforward: int, dropout: float) -> None:
        super().__init__()
        if width % attention_heads:
            raise ValueError(f"width {width} is not a multiple of attention_heads {attention_heads}")
        self.attention_heads = attention_heads
        self.project_query = nn.Linear(width, width)
        self.project_source = nn.Linear(width, 2 * width)
        self.project_out = nn.Linear(width, width)
        self.widen = nn.Linear(width, feedforward)
        self.narrow = nn.Linear(feedforward, width)
        self.attention_norm = nn.LayerNorm(width)
        self.feedforward_norm = nn.LayerNorm(width)
        self.drop = nn.Dropout(dropout)
        for linear in (self.project_query, self.project_source):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)
        nn.init.zeros_(self.project_out.bias)

    def forward(self, target: HeadInput, source: HeadInput) -> Tensor:
        """Return the target's frames after they have attended to the source's.

        Args:
            target: frames ``(B, T, d)``.
            source: frames ``(B, S, d)``; where a clip has none, its target is unchanged.

        Returns:
            ``(B, T, d)``, arbitrary but finite where the target is not valid.
        """
        query = self._divide(self.project_query(target.frames))  # (B, heads, T, d / heads)
        key, value = (  # (B, heads, S, d / heads)
            self._divide(half) for half in self.project_source(source.frames).chunk(2, dim=-1)
        )
        attended = F.scaled_dot_product_attention(  # (B, heads, T, d / heads)
            query,
            key,
            value,
            attn_mask=attendable(source.mask)[:, None, None, :],  # (B, 1, 1, S)
            dropout_p=self.drop.p if self.training else 0.0,
        )
        joined = self.project_out(attended.transpose(1, 2).flatten(2))  # (B, T, d)
        is_absent = ~source.mask.any(dim=1)[:, None, None]  # (B, 1, 1)
        frames = self.attention_norm(target.frames + self.drop(joined.masked_fill(is_absent, 0.0)))
        widened = self.drop(F.relu(self.widen(frames)))  # (B, T, feedforward)
        normed: Tensor = self.feedforward_norm(frames + self.drop(self.narrow(widened)))  # (B, T, d)
        return normed

    def _divide(self, frames: Tensor) -> Tensor:
        """Return ``(B, heads, T, d / heads)`` of ``(B, T, d)``."""
        batch, time, width = frames.shape
        heads = self.attention_heads
        return frames.view(batch, time, heads, width // heads).transpose(1, 2)


class CrossAttention(Head):
    """Every ordered pair of feature sets has a layer in which the first attends to the second (MulT).

    Tsai et al. 2019, section 3, pared down to cached features: a linear projection instead of convolutions,
    no positional embedding, as the encoders' frames carry their positions, and one layer per pair, its output
    pooled over time. A single feature set attends to itself. A clip without frames of a feature set is
    masked there: it contributes zero as the first of a pair and nothing as the second.

    >>> head = CrossAttention([768, 1024], num_classes=8, attribute_ranges=[(1, 7)] * 3, width=64)
    >>> speech = HeadInput(torch.randn(2, 50, 768), torch.ones(2, 50, dtype=torch.bool))
    >>> text = HeadInput(torch.randn(2, 9, 1024), torch.ones(2, 9, dtype=torch.bool))
    >>> [tuple(part.shape) for part in head([speech, text])]
    [(2, 8), (2, 3)]

    Args:
        input_dims: D of each feature set, N of them.
        num_classes: C.
        attribute_ranges: ``(low, high)`` of each attribute.
        width: d.
        feedforward: inner width of the layers.
        attention_heads: of the layers.
        dropout: in the layers.
    """

    def __init__(
        self,
        input_dims: Sequence[int],
        num_classes: int,
        attribute_ranges: Sequence[tuple[float, float]],
        *,
        width: int = 256,
        feedforward: int = 1024,
        attention_heads: int = 4,
        dropout: float = 0.1,
    ) -> None:
        require_positive(width=width, feedforward=feedforward, attention_heads=attention_heads)
        require_dropout(dropout)
        super().__init__(input_dims, num_classes, attribute_ranges, embedding_dim=width)
        indices = range(len(self.input_dims))
        self.pairs = [(first, second) for first in indices for second in indices if first != second] or [
            (0, 0)
        ]
        self.projections = nn.ModuleList(nn.Linear(dim, width) for dim in input_dims)
        self.layers = nn.ModuleList(
            CrossAttentionLayer(width, attention_heads, feedforward, dropout) for _ in self.pairs
        )
        self.merge = nn.Linear(len(self.pairs) * width, width)

    def embed(self, inputs: Sequence[HeadInput]) -> Tensor:
        """Return the merged representation ``(B, d)``."""
        projected = [
            HeadInput(project(self.read(index, features)), features.mask)  # (B, T, d)
            for index, (project, features) in enumerate(zip(self.projections, inputs, strict=True))
        ]
        pooled = [
            masked_mean(layer(projected[first], projected[second]), projected[first].mask)  # (B, d)
            for layer, (first, second) in zip(self.layers, self.pairs, strict=True)
        ]
        merged: Tensor = self.merge(torch.cat(pooled, dim=1))  # (B, pairs d) -> (B, d)
        return merged
