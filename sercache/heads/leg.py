"""MEDUSA's leg: a projection and Transformer encoder layers, applied to each feature set."""

from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

from sercache.heads.masking import dropout
from sercache.heads.sequences import Sequences


class EncoderLayer(nn.Module):
    """A post-norm Transformer encoder layer (Vaswani et al. 2017, section 3.1) over sequences of any layout.

    The same function and initialisation as ``nn.TransformerEncoderLayer``; written out because that one
    computes on padding, and changes its code path between training and evaluation.
    """

    def __init__(self, width: int, attention_heads: int, feedforward: int, dropout: float) -> None:
        super().__init__()
        if width % attention_heads:
            raise ValueError(f"width {width} is not a multiple of attention_heads {attention_heads}")
        self.attention_heads = attention_heads
        self.dropout = dropout
        self.project_in = nn.Linear(width, 3 * width)
        self.project_out = nn.Linear(width, width)
        self.widen = nn.Linear(width, feedforward)
        self.narrow = nn.Linear(feedforward, width)
        self.attention_norm = nn.LayerNorm(width)
        self.feedforward_norm = nn.LayerNorm(width)
        nn.init.xavier_uniform_(self.project_in.weight)
        nn.init.zeros_(self.project_in.bias)
        nn.init.zeros_(self.project_out.bias)

    def forward(self, sequences: Sequences) -> Sequences:
        """Return sequences of the same lengths and width d."""
        # Shapes of padded sequences; packed ones have N rows instead of (B, T).
        frames, training = sequences.frames, self.training  # (B, T, d)
        attended = sequences.attend(  # (B, T, 3 d) -> (B, T, d)
            self.project_in(frames), self.attention_heads, self.dropout if training else 0.0
        )
        frames = self.attention_norm(frames + dropout(self.project_out(attended), self.dropout, training))
        widened = dropout(F.relu(self.widen(frames)), self.dropout, training)  # (B, T, feedforward)
        narrowed = dropout(self.narrow(widened), self.dropout, training)  # (B, T, d)
        return sequences.with_frames(self.feedforward_norm(frames + narrowed))


class LegOutput(NamedTuple):
    """The outputs of a leg: ``h1`` and ``h2`` after its two layers, ``h3`` ``(B, d)`` pooled over time."""

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
        """Return the hidden layers of sequences with ``input_dim`` features, and their mean over time."""
        h1: Sequences = self.first(sequences.with_frames(self.project(sequences.frames)))  # (B, T, d)
        h2: Sequences = self.second(h1)
        return LegOutput(h1, h2, h2.mean())  # h3: (B, d)
