"""WavLM's attention on the fused kernel: the position bias is built once per length, not once per layer.

transformers computes WavLM's attention step by step, with the weights of every head in memory, and has no
other way; in bfloat16 its copies and conversions make it slower than float32.
"""

from collections.abc import Callable
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
            positions = torch.arange(length, device=device)
            by_pair: Tensor = self.embedding(self._bucket(positions - positions.unsqueeze(1)))  # (T, T, H)
            return by_pair.float().permute(2, 0, 1)  # (H, T, T)
        if bias is None or bias.shape[-1] != length or bias.device != device:
            # Remembered across both: what is made in inference mode may not meet gradients.
            with torch.inference_mode(False), torch.no_grad():
                distances = torch.arange(1 - length, length, device=device)
                by_distance = self.embedding(self._bucket(distances)).float().t()  # (H, 2 T - 1)
                # row i of the plane begins at distance -i
                bias = by_distance.unfold(1, length, 1).flip(1).contiguous()  # (H, T, T)
                self._remembered = bias
        return bias


@dataclass(frozen=True, slots=True)
class _Buckets:
    """The attributes of the attention module that transformers' rule for buckets reads."""

    num_buckets: int
    max_distance: int

    @classmethod
    def of(cls, attention: Any) -> "_Buckets":
        return cls(attention.num_buckets, attention.max_distance)


class _GatedAttention(nn.Module):
    """Multi-head attention with WavLM's gated relative position bias (Chen et al. 2022, equations 3 to 6).

    Takes and returns what transformers' ``WavLMAttention`` does, except that it gives no attention weights.

    Args:
        attention: the ``WavLMAttention`` whose weights it takes over.
        position_bias: shared by all layers.
    """

    out_proj: nn.Module

    def __init__(self, attention: Any, position_bias: RelativePositionBias) -> None:
        super().__init__()
        self.num_heads: int = attention.num_heads
        self.position_bias = position_bias
        self._dropout = float(attention.dropout)
        self.train(attention.training)

    def _projected(self, hidden_states: Tensor) -> Tensor:
        """Return queries, keys and values side by side, ``(B, T, 3 D)``."""
        raise NotImplementedError

    def _gate_weights(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return weight ``(2, D / H)`` and bias ``(2,)`` of a query's two gates, and scales ``(1, H, 1)``.

        Of the eight gate values two fours are summed: one linear map to two values does both.
        """
        raise NotImplementedError

    def forward(
        self, hidden_states: Tensor, attention_mask: Tensor | None = None, **unused: Any
    ) -> tuple[Tensor, None, None]:
        """Return the attended hidden states.

        Args:
            hidden_states: ``(B, T, D)``.
            attention_mask: ``(B, T)``, 1 where valid; None where all is.
            unused: what transformers passes along (the position bias of the layer below).

        Returns:
            ``(B, T, D)``; no attention weights; no position bias.
        """
        batch, length, width = hidden_states.shape
        shape = (batch, length, 3, self.num_heads, width // self.num_heads)
        # three times (B, H, T, D / H)
        query, key, value = self._projected(hidden_states).view(shape).permute(2, 0, 3, 1, 4)
        bias = self._gate(hidden_states)[..., None] * self.position_bias(length)  # (B, H, T, T)
        if attention_mask is not None:
            bias.masked_fill_(~attention_mask.bool()[:, None, None, :], float("-inf"))
        # on a CPU the kernel is as fast in float32, and a bias in bfloat16 would cost accuracy
        dtype = torch.float32 if query.device.type == "cpu" else query.dtype
        with torch.autocast(query.device.type, enabled=False):
            attended = functional.scaled_dot_product_attention(
                query.to(dtype),
                key.to(dtype),
                value.to(dtype),
                attn_mask=bias.to(dtype),
                dropout_p=self._dropout if self.training else 0.0,
            )  # (B, H, T, D / H)
        joined = attended.transpose(1, 2).reshape(batch, length, width)  # (B, T, D)
        return self.out_proj(joined), None, None

    def _gate(self, hidden_states: Tensor) -> Tensor:
        """Return ``(B, H, T)`` float32: how much of the bias each query takes."""
        by_head = hidden_states.float().view(*hidden_states.shape[:2], self.num_heads, -1)  # (B, T, H, D / H)
        with torch.autocast(hidden_states.device.type, enabled=False):
            weight, bias, scale = self._gate_weights()
            gates = functional.linear(by_head, weight, bias).sigmoid()  # (B, T, H, 2)
        update, reset = gates.transpose(1, 2).unbind(-1)  # (B, H, T) each
        return update * (reset * scale - 1.0) + 2.0


class GatedBiasAttention(_GatedAttention):
    """The fastest form of the attention: frozen, with a single product for queries, keys and values."""

    def __init__(self, attention: Any, position_bias: RelativePositionBias) -> None:
        super().__init__(attention, position_bias)
        projections = (attention.q_proj, attention.k_proj, attention.v_proj)
        width = attention.embed_dim
        self.qkv = nn.Linear(width, 3 * width)
        self.qkv.weight = _frozen(torch.cat([projection.weight for projection in projections]))
        self.qkv.bias = _frozen(torch.cat([projection.bias for projection in projections]))
        self.out_proj = attention.out_proj
        self.gate_weight = _frozen(_summed_gates(attention.gru_rel_pos_linear.weight))
        self.gate_bias = _frozen(_summed_gates(attention.gru_rel_pos_linear.bias))
        self.gate_scale = _frozen(_by_head(attention.gru_rel_pos_const))

    def _projected(self, hidden_states: Tensor) -> Tensor:
        projected: Tensor = self.qkv(hidden_states)
        return projected

    def _gate_weights(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.gate_weight, self.gate_bias, self.gate_scale

    def slot_of(self, name: str) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """Return the tensor that holds a weight of transformers' attention, and its conversion.

        Args:
            name: as transformers calls it, such as ``k_proj.weight``.

        Raises:
            KeyError: no tensor holds it.
        """
        part, _, kind = name.partition(".")
        if part in _PROJECTIONS:
            fused: Tensor = getattr(self.qkv, kind)
            return fused.chunk(3)[_PROJECTIONS.index(part)], _unchanged
        if part == "out_proj":
            return getattr(self.out_proj, kind), _unchanged
        return {
            "gru_rel_pos_linear.weight": (self.gate_weight, _summed_gates),
            "gru_rel_pos_linear.bias": (self.gate_bias, _summed_gates),
            "gru_rel_pos_const": (self.gate_scale, _by_head),
        }[name]


class TrainableGatedBiasAttention(_GatedAttention):
    """The trainable form of the attention: weights under their names, and a call per projection.

    The position bias stays as it is: all layers share it.
    """

    def __init__(self, attention: Any, position_bias: RelativePositionBias) -> None:
        super().__init__(attention, position_bias)
        self.q_proj, self.k_proj = attention.q_proj, attention.k_proj
        self.v_proj, self.out_proj = attention.v_proj, attention.out_proj
        self.gru_rel_pos_linear = attention.gru_rel_pos_linear
        self.gru_rel_pos_const = attention.gru_rel_pos_const

    def _projected(self, hidden_states: Tensor) -> Tensor:
        return torch.cat([getattr(self, name)(hidden_states) for name in _PROJECTIONS], dim=-1)

    def _gate_weights(self) -> tuple[Tensor, Tensor, Tensor]:
        gate = self.gru_rel_pos_linear
        return _summed_gates(gate.weight), _summed_gates(gate.bias), _by_head(self.gru_rel_pos_const)


def replace_wavlm_attention(model: Any, attention: type[_GatedAttention]) -> None:
    """Give every layer of a transformers WavLM model one of these attentions, in place."""
    position_bias = RelativePositionBias(model.encoder.layers[0].attention)
    for layer in model.encoder.layers:
        layer.attention = attention(layer.attention, position_bias)


_PROJECTIONS = ("q_proj", "k_proj", "v_proj")


def _summed_gates(values: Tensor) -> Tensor:
    return values.view(2, 4, *values.shape[1:]).sum(1)  # (2, D / H), or (2,) of the bias


def _by_head(scales: Tensor) -> Tensor:
    return scales.view(1, -1, 1)


def _unchanged(value: Tensor) -> Tensor:
    return value


def _frozen(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor.detach().clone(), requires_grad=False)
