"""WavLM's attention on the fused kernel: the position bias is built once per length, not once per layer.

transformers computes WavLM's attention step by step, with the weights of every head in memory, and has no
other way; in bfloat16 its copies and conversions make it slower than float32.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class RelativePositionBias(nn.Module):
    """The bias of every head by distance between query and key (Chen et al. 2022, section 3.1).

    Only one value per head and distance is looked up; the ``(T, T)`` plane is a window that slides over them.
    All layers share it, and one plane is remembered: a batch asks once per layer for the same length.

    Args:
        attention: the first layer's ``WavLMAttention``, which owns the embedding for all layers.
    """

    def __init__(self, attention: Any) -> None:
        super().__init__()
        self.embedding: nn.Embedding = attention.rel_attn_embed
        self._bucket = partial(type(attention)._relative_positions_bucket, _Buckets.of(attention))
        self._remembered: Tensor | None = None

    def forward(self, length: int) -> Tensor:
        """Return ``(H, T, T)`` float32 for T = ``length``."""
        bias, device = self._remembered, self.embedding.weight.device
        if torch.compiler.is_compiling():  # a graph is for every length: no window of one, and no memory
            places = torch.arange(length, device=device)
            by_places: Tensor = self.embedding(self._bucket(places - places.unsqueeze(1)))
            return by_places.float().permute(2, 0, 1)
        if bias is None or bias.shape[-1] != length or bias.device != device:
            distances = torch.arange(1 - length, length, device=device)
            by_distance = self.embedding(self._bucket(distances)).float().t()
            # row i of the plane begins at distance -i
            bias = self._remembered = by_distance.unfold(1, length, 1).flip(1).contiguous()
        return bias


@dataclass(frozen=True, slots=True)
class _Buckets:
    """What transformers' rule for buckets reads of its attention module."""

    num_buckets: int
    max_distance: int

    @classmethod
    def of(cls, attention: Any) -> "_Buckets":
        return cls(attention.num_buckets, attention.max_distance)


class GatedBiasAttention(nn.Module):
    """Multi-head attention with WavLM's gated relative position bias (Chen et al. 2022, equations 3 to 6).

    Takes and returns what transformers' ``WavLMAttention`` does, except that it gives no attention weights.

    Args:
        attention: the ``WavLMAttention`` whose weights it takes over.
        position_bias: shared by all layers.
    """

    def __init__(self, attention: Any, position_bias: RelativePositionBias) -> None:
        super().__init__()
        self.num_heads: int = attention.num_heads
        self.position_bias = position_bias
        projections = (attention.q_proj, attention.k_proj, attention.v_proj)
        width = attention.embed_dim
        self.qkv = nn.Linear(width, 3 * width)
        self.qkv.weight = _frozen(torch.cat([projection.weight for projection in projections]))
        self.qkv.bias = _frozen(torch.cat([projection.bias for projection in projections]))
        self.out_proj = attention.out_proj
        # the eight gate values are summed in two fours: one linear map to two values does both
        gate = attention.gru_rel_pos_linear
        self.gate_weight = _frozen(gate.weight.view(2, 4, -1).sum(1))
        self.gate_bias = _frozen(gate.bias.view(2, 4).sum(1))
        self.gate_scale = _frozen(attention.gru_rel_pos_const.view(1, -1, 1))

    def forward(
        self, hidden_states: Tensor, attention_mask: Tensor | None = None, **unused: Any
    ) -> tuple[Tensor, None, None]:
        """Attend.

        Args:
            hidden_states: ``(B, T, D)``.
            attention_mask: ``(B, T)``, 1 where valid; None where all is.
            unused: what transformers passes along (the position bias of the layer below).

        Returns:
            ``(B, T, D)``; no attention weights; no position bias.
        """
        batch, length, width = hidden_states.shape
        shape = (batch, length, 3, self.num_heads, width // self.num_heads)
        query, key, value = self.qkv(hidden_states).view(shape).permute(2, 0, 3, 1, 4)
        bias = self._gate(hidden_states)[..., None] * self.position_bias(length)
        if attention_mask is not None:
            bias.masked_fill_(~attention_mask.bool()[:, None, None, :], float("-inf"))
        # on a CPU the kernel is as fast in float32, and a bias in bfloat16 would cost accuracy
        dtype = torch.float32 if query.device.type == "cpu" else query.dtype
        with torch.autocast(query.device.type, enabled=False):
            attended = functional.scaled_dot_product_attention(
                query.to(dtype), key.to(dtype), value.to(dtype), attn_mask=bias.to(dtype)
            )
        return self.out_proj(attended.transpose(1, 2).reshape(batch, length, width)), None, None

    def _gate(self, hidden_states: Tensor) -> Tensor:
        """Return ``(B, H, T)`` float32: how much of the bias each query takes."""
        by_head = hidden_states.float().view(*hidden_states.shape[:2], self.num_heads, -1)
        with torch.autocast(hidden_states.device.type, enabled=False):
            gates = functional.linear(by_head, self.gate_weight, self.gate_bias).sigmoid()
        update, reset = gates.transpose(1, 2).unbind(-1)
        return update * (reset * self.gate_scale - 1.0) + 2.0


def replace_wavlm_attention(model: Any) -> None:
    """Give every layer of a transformers WavLM model this attention, in place."""
    position_bias = RelativePositionBias(model.encoder.layers[0].attention)
    for layer in model.encoder.layers:
        layer.attention = GatedBiasAttention(layer.attention, position_bias)


def _frozen(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor.detach().clone(), requires_grad=False)
