"""What every head is: an embedding, then two outputs, with room for Manifold MixUp between them."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn


class HeadInput(NamedTuple):
    """A feature set's part of a batch: ``frames`` ``(B, T, D)``; ``mask`` ``(B, T)``, True where valid."""

    frames: Tensor
    mask: Tensor


class HeadOutput(NamedTuple):
    """``logits`` ``(B, C)`` and ``attributes`` ``(B, A)`` on the corpus's scale (A may be 0)."""

    logits: Tensor
    attributes: Tensor


class Head(nn.Module):
    """A trainable network from one or more feature sets to class logits and attribute values.

    A subclass has the signature ``(input_dims, num_classes, attribute_ranges, **options)``, builds its
    layers, and implements :meth:`embed`; standardising the input and the outputs are the same for all heads.

    Args:
        input_dims: D of each feature set, in the order of the member's ``features``.
        num_classes: C.
        attribute_ranges: ``(low, high)`` of each attribute, A of them.
        embedding_dim: E, the width of what :meth:`embed` returns.
        activation: between embedding and outputs; ReLU unless the head is to stay linear.
    """

    def __init__(
        self,
        input_dims: Sequence[int],
        num_classes: int,
        attribute_ranges: Sequence[tuple[float, float]],
        embedding_dim: int,
        activation: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.input_dims = tuple(input_dims)
        for index, dim in enumerate(self.input_dims):
            self.register_buffer(f"input_mean_{index}", torch.zeros(dim))
            self.register_buffer(f"input_scale_{index}", torch.ones(dim))
        bounds = torch.tensor([list(bound) for bound in attribute_ranges], dtype=torch.float32).reshape(-1, 2)
        self.register_buffer("attribute_low", bounds[:, 0].clone())
        self.register_buffer("attribute_high", bounds[:, 1].clone())
        self.activation = activation if activation is not None else nn.ReLU()
        self.class_output = nn.Linear(embedding_dim, num_classes)
        self.attribute_output = (
            nn.Linear(embedding_dim, len(attribute_ranges)) if len(attribute_ranges) else None
        )

    @torch.no_grad()
    def set_standardization(self, index: int, mean: Tensor, deviation: Tensor) -> None:
        """Make feature set ``index`` enter as ``(frames - mean) / deviation``, both ``(D,)``.

        The statistics come from training rows only.
        """
        self.get_buffer(f"input_mean_{index}").copy_(mean)
        self.get_buffer(f"input_scale_{index}").copy_(1.0 / deviation.clamp_min(1e-5))

    def standardize(self, index: int, frames: Tensor) -> Tensor:
        """Return feature set ``index`` ``(B, T, D)`` standardised; the identity until statistics are set."""
        mean, scale = self.get_buffer(f"input_mean_{index}"), self.get_buffer(f"input_scale_{index}")
        return (frames.to(mean.dtype) - mean) * scale

    def embed(self, inputs: Sequence[HeadInput]) -> Tensor:
        """Return ``(B, E)``: what MixUp mixes, before the activation. Never depends on padding."""
        raise NotImplementedError

    def classify(self, embedding: Tensor) -> HeadOutput:
        """Turn a (possibly mixed) embedding ``(B, E)`` into the outputs.

        Attributes are ``low + (high - low) * sigmoid(linear)``, so they cannot leave their scale.
        """
        hidden = self.activation(embedding)
        logits = self.class_output(hidden)
        if self.attribute_output is None:
            return HeadOutput(logits, logits.new_zeros(len(logits), 0))
        low, high = self.get_buffer("attribute_low"), self.get_buffer("attribute_high")
        return HeadOutput(logits, low + (high - low) * torch.sigmoid(self.attribute_output(hidden)))

    def forward(self, inputs: Sequence[HeadInput]) -> HeadOutput:
        """Return the outputs of a batch, without MixUp."""
        return self.classify(self.embed(inputs))
