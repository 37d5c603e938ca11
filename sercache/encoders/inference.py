"""Change a loaded transformers model for faster inference, or for training; it computes the same."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrize

from sercache.encoders.protocol import Precision

_FIRST_EXACT_FRONT_LAYER = 3
"""Layers of the convolutional front from here on stay in float32; those below do most of its work."""


def prepare_for_inference(model: Any, precision: Precision) -> None:
    """Change a frozen model in place: the same frames, for less work.

    - Weight normalisation (of the positional convolution) is folded into the weights, once and not per batch.
    - WavLM's attention is replaced by :class:`~sercache.encoders.wavlm_attention.GatedBiasAttention`.
    - With ``bfloat16`` the weights of linear and convolutional layers are stored so, where autocast would
      convert all of them anew for every batch. The norms give float32, and with them the residual stream,
      which costs nothing and brings the error down by a third; so do the upper layers of a convolutional
      front, which see a fifth of its work and make half of its error.

    Args:
        model: a transformers model in evaluation mode.
        precision: how it will be run; ``bfloat16`` needs autocast around it.
    """
    from sercache.encoders.wavlm_attention import GatedBiasAttention, replace_wavlm_attention

    for module in list(model.modules()):
        if parametrize.is_parametrized(module):
            for name in list(module.parametrizations):
                parametrize.remove_parametrizations(module, name)
    if model.config.model_type == "wavlm":
        replace_wavlm_attention(model, GatedBiasAttention)
    if precision == "bfloat16":
        _lower_precision(model)


def prepare_for_training(model: Any) -> None:
    """Change a frozen model in place so that parts of it can be trained, every weight under its name.

    WavLM's attention in transformers reads the weights of its projections and never calls them, so that LoRA
    around them would do nothing;
    :class:`~sercache.encoders.wavlm_attention.TrainableGatedBiasAttention` calls them.
    """
    from sercache.encoders.wavlm_attention import TrainableGatedBiasAttention, replace_wavlm_attention

    if model.config.model_type == "wavlm":
        replace_wavlm_attention(model, TrainableGatedBiasAttention)


class InFloat32(nn.Module):
    """A part of a network that computes in float32 within a forward pass in bfloat16."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part

    def forward(self, hidden: Tensor) -> Tensor:
        """Run the part on ``hidden``, in float32."""
        with torch.autocast(hidden.device.type, enabled=False):
            output: Tensor = self.part(hidden.float())
        return output


class ClipwiseGroupNorm(nn.Module):
    """Group normalisation whose statistics come from each clip's own samples, never from padding.

    It takes the place of ``nn.GroupNorm`` in the convolutional front of wav2vec2-base, HuBERT-base and
    WavLM-base; with it their padded batches give the frames of each clip alone.

    Attributes:
        lengths: how many of the T positions belong to each clip of the next batch; None where all do.
    """

    def __init__(self, norm: nn.GroupNorm) -> None:
        super().__init__()
        self.norm = norm
        self.lengths: Sequence[int] | None = None

    def forward(self, hidden: Tensor) -> Tensor:
        """Normalise ``(B, C, T)``; positions behind a clip's end come out as zero."""
        if self.lengths is None:
            return self._normalized(hidden)
        normalized = torch.zeros_like(hidden)  # (B, C, T)
        for row, length in enumerate(self.lengths):
            normalized[row : row + 1, :, :length] = self._normalized(hidden[row : row + 1, :, :length])
        return normalized

    def _normalized(self, hidden: Tensor) -> Tensor:
        norm = self.norm
        return functional.group_norm(hidden, norm.num_groups, norm.weight, norm.bias, norm.eps)


def replace_front_group_norm(model: Any) -> ClipwiseGroupNorm | None:
    """Make the convolutional front of a model normalise clip by clip; None where it has no group norm."""
    for layer in _front_layers(model):
        norm = getattr(layer, "layer_norm", None)
        if isinstance(norm, nn.GroupNorm):
            layer.layer_norm = clipwise = ClipwiseGroupNorm(norm)
            return clipwise
    return None


def _lower_precision(model: Any) -> None:
    front = _front_layers(model)
    exact = {module for layer in front[_FIRST_EXACT_FRONT_LAYER:] for module in layer.modules()}
    in_front = {module for layer in front for module in layer.modules()}
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv1d) and module not in exact:
            module.to(torch.bfloat16)
        elif isinstance(module, nn.LayerNorm) and module not in in_front:
            module.register_forward_pre_hook(_to_float32)
    for index in range(_FIRST_EXACT_FRONT_LAYER, len(front)):
        front[index] = InFloat32(front[index])


def _front_layers(model: Any) -> Any:
    """Return the convolutional layers that a waveform passes first; none where a model has no such front."""
    return getattr(getattr(model, "feature_extractor", None), "conv_layers", ())


def _to_float32(module: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (arguments[0].float(), *arguments[1:])
