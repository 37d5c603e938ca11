"""The Transformer encoder layer that heads are made of."""

from torch import nn
from torch.nn import functional as F

from sercache.heads.dropout import dropout
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
        frames, training = sequences.frames, self.training
        attended = sequences.attend(
            self.project_in(frames), self.attention_heads, self.dropout if training else 0.0
        )
        frames = self.attention_norm(frames + dropout(self.project_out(attended), self.dropout, training))
        widened = dropout(F.relu(self.widen(frames)), self.dropout, training)
        narrowed = dropout(self.narrow(widened), self.dropout, training)
        return sequences.with_frames(self.feedforward_norm(frames + narrowed))
