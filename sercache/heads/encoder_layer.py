"""The Transformer encoder layer that heads are made of."""

from torch import Tensor, nn
from torch.nn import functional as F


class EncoderLayer(nn.Module):
    """A post-norm Transformer encoder layer (Vaswani et al. 2017, section 3.1) that takes a mask.

    The same function and initialisation as ``nn.TransformerEncoderLayer``; written out because that one
    changes its code path between training and evaluation, and the mask keeps it from the fused attention.
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

    def forward(self, frames: Tensor, mask: Tensor) -> Tensor:
        """Return ``(B, T, d)``; ``mask`` ``(B, T)`` bool says which frames may be attended to."""
        frames = self.attention_norm(frames + self._drop(self._attend(frames, mask)))
        widened = self._drop(F.relu(self.widen(frames)))
        normed: Tensor = self.feedforward_norm(frames + self._drop(self.narrow(widened)))
        return normed

    def _attend(self, frames: Tensor, mask: Tensor) -> Tensor:
        batch, time, width = frames.shape
        heads = self.attention_heads
        projected = self.project_in(frames).view(batch, time, 3, heads, width // heads)
        query, key, value = projected.permute(2, 0, 3, 1, 4)  # each (B, heads, T, d / heads)
        attended = F.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=mask[:, None, None, :],
            dropout_p=self.dropout if self.training else 0.0,
        )
        joined: Tensor = self.project_out(attended.transpose(1, 2).reshape(batch, time, width))
        return joined

    def _drop(self, values: Tensor) -> Tensor:
        return F.dropout(values, self.dropout, self.training)
