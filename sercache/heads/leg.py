"""The leg: what MEDUSA's heads run each feature set through."""

from typing import NamedTuple

from torch import Tensor, nn

from sercache.heads.encoder_layer import EncoderLayer
from sercache.heads.sequences import Sequences


class LegOutput(NamedTuple):
    """What a leg hands on: ``h1`` and ``h2`` after its two layers, ``h3`` ``(B, d)`` pooled over time."""

    h1: Sequences
    h2: Sequences
    h3: Tensor


class Leg(nn.Module):
    """``Linear, ReLU, Linear, two encoder layers`` (MEDUSA, arXiv 2506.09556, Algorithm 1)."""

    def __init__(
        self, input_dim: int, width: int, attention_heads: int, feedforward: int, dropout: float
    ) -> None:
        super().__init__()
        self.project = nn.Sequential(nn.Linear(input_dim, width), nn.ReLU(), nn.Linear(width, width))
        self.first = EncoderLayer(width, attention_heads, feedforward, dropout)
        self.second = EncoderLayer(width, attention_heads, feedforward, dropout)

    def forward(self, sequences: Sequences) -> LegOutput:
        """Run sequences of ``input_dim`` features."""
        h1: Sequences = self.first(sequences.with_frames(self.project(sequences.frames)))
        h2: Sequences = self.second(h1)
        return LegOutput(h1, h2, h2.mean())
