"""The interface of a head: an embedding, then two outputs, with Manifold MixUp between them."""

from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from sercache.heads.layer_sum import LAYER_SUMS, LayerSum, WeightedSum


def require_positive(**options: int) -> None:
    """Raise ValueError, naming the option, unless all are 1 or more."""
    for option, value in options.items():
        if value < 1:
            raise ValueError(f"{option} must be at least 1, not {value}")


def require_dropout(dropout: float) -> None:
    """Raise ValueError unless ``dropout`` leaves something: 0 or more and below 1."""
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout must be at least 0 and below 1, not {dropout}")


class HeadInput(NamedTuple):
    """A feature set's part of a batch.

    ``frames`` is ``(B, T, D)``, or ``(B, T, L, D)`` of a feature set with L > 1 layers; ``mask`` is
    ``(B, T)`` bool, True where valid. The values of the other frames never matter.
    """

    frames: Tensor
    mask: Tensor


class HeadOutput(NamedTuple):
    """``logits`` ``(B, C)`` and ``attributes`` ``(B, A)`` on the corpus's scale (C or A may be 0)."""

    logits: Tensor
    attributes: Tensor


class Head(nn.Module):
    """A trainable network from one or more feature sets to class logits and attribute values.

    A subclass has the signature ``(input_dims, num_classes, attribute_ranges, **options)``, builds its
    layers, and implements :meth:`embed`, which takes its input through :meth:`read`; standardising, summing
    layers and the outputs are the same for all heads.

    Args:
        input_dims: D of each feature set, in the order of the member's ``features``.
        num_classes: C; 0 of a corpus with attributes alone.
        attribute_ranges: ``(low, high)`` of each attribute, A of them.
        embedding_dim: E, the width of what :meth:`embed` returns.
        activation: between embedding and outputs; ReLU unless the head is to stay linear.

    Attributes:
        keeps_layers: whether :meth:`read` gives several layers of a feature set as they are, unsummed.
        is_closed_form: whether it is fitted without epochs (:mod:`sercache.training.closed_form`).
    """

    keeps_layers: ClassVar[bool] = False
    is_closed_form: ClassVar[bool] = False

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
        self.layer_sums = nn.ModuleDict()
        self.base: Head | None = None
        self.activation = activation if activation is not None else nn.ReLU()
        self.num_classes = num_classes
        self.class_output = nn.Linear(embedding_dim, num_classes) if num_classes else None
        self.attribute_output = (
            nn.Linear(embedding_dim, len(attribute_ranges)) if len(attribute_ranges) else None
        )

    def set_layers(self, index: int, num_layers: int, kind: str) -> None:
        """Make feature set ``index`` have several layers, each standardised by itself.

        They enter as a learned sum, unless the head keeps layers. Call this before
        :meth:`set_standardization`: the statistics of the feature set become ``(L, D)``.

        Args:
            index: of the feature set.
            num_layers: L, at least 2.
            kind: a name in :data:`~sercache.heads.layer_sum.LAYER_SUMS`; without meaning if layers are kept.
        """
        if num_layers < 2:
            raise ValueError(f"feature set {index} has {num_layers} layers: a sum needs at least 2")
        dim = self.input_dims[index]
        mean = self.get_buffer(f"input_mean_{index}")
        if not self.keeps_layers:
            self.layer_sums[str(index)] = LAYER_SUMS[kind](num_layers, dim).to(mean)
        self.register_buffer(f"input_mean_{index}", mean.new_zeros(num_layers, dim))
        self.register_buffer(f"input_scale_{index}", mean.new_ones(num_layers, dim))

    def attach_base(self, base: "Head") -> None:
        """Add a fitted head's outputs to this head's, which start at zero.

        The base is never trained with this head. Its attributes are added on the sigmoid's scale.

        Args:
            base: of the same feature sets, classes and attributes.
        """
        self.base = base.requires_grad_(False)
        for output in (self.class_output, self.attribute_output):
            if output is not None:
                nn.init.zeros_(output.weight)
                nn.init.zeros_(output.bias)

    @torch.no_grad()
    def take_layer_weights(self, fitted: "Head") -> None:
        """Start the weighted sums of layers from a fitted head's weights; gated sums are left as they are."""
        for index, layer_sum in self.layer_sums.items():
            shares = fitted.layer_weights().get(int(index))
            if shares is not None and isinstance(layer_sum, WeightedSum):
                layer_sum.score.copy_(shares.clamp_min(1e-4).log())

    def start(self, inputs: Sequence[HeadInput]) -> Tensor | None:
        """Return what is added to, ``(B, C + A)``: the base's logits and attributes; None without a base."""
        return None if self.base is None else torch.cat(self.base(inputs), dim=1)

    def layer_weights(self) -> dict[int, Tensor]:
        """Return, by index, the weights ``(L,)`` of each feature set whose layers all clips weigh alike."""
        weights = {}
        for index, layer_sum in self.layer_sums.items():
            assert isinstance(layer_sum, LayerSum)
            if (shared := layer_sum.shared_weights()) is not None:
                weights[int(index)] = shared
        return weights

    @torch.no_grad()
    def set_standardization(self, index: int, mean: Tensor, deviation: Tensor) -> None:
        """Make feature set ``index`` enter as ``(frames - mean) / deviation``.

        The statistics come from training rows only.

        Args:
            index: of the feature set.
            mean: ``(D,)``, or ``(L, D)`` of a feature set with L layers; ``(D,)`` there holds for each layer.
            deviation: of the same shape.
        """
        self.get_buffer(f"input_mean_{index}").copy_(mean)
        self.get_buffer(f"input_scale_{index}").copy_(1.0 / deviation.clamp_min(1e-5))

    def read(self, index: int, features: HeadInput) -> Tensor:
        """Return feature set ``index`` as a head computes on it: standardised, its layers summed.

        The identity on valid frames until statistics are set or layers summed.

        Returns:
            ``(B, T, D)``, or ``(B, T, L, D)`` if the head keeps layers; zero where not valid, so that
            padding never reaches the head.

        Raises:
            ValueError: the frames have other layers or features than this head was built for.
        """
        mean, scale = self.get_buffer(f"input_mean_{index}"), self.get_buffer(f"input_scale_{index}")
        if features.frames.shape[2:] != mean.shape:
            raise ValueError(
                f"feature set {index}: frames of shape {tuple(features.frames.shape)} where "
                f"(B, T, {', '.join(map(str, mean.shape))}) is wanted"
            )
        is_padding = ~features.mask.view(*features.mask.shape, *(1 for _ in mean.shape))  # (B, T, 1, ...)
        # In place, as several layers of a batch may be gigabytes.
        frames = (features.frames.to(mean.dtype) - mean).mul_(scale).masked_fill_(is_padding, 0.0)
        if mean.ndim == 1 or self.keeps_layers:
            return frames
        summed: Tensor = self.layer_sums[str(index)](frames, features.mask)  # (B, T, L, D) -> (B, T, D)
        return summed

    def embed(self, inputs: Sequence[HeadInput]) -> Tensor:
        """Return the embedding that MixUp mixes, before the activation, ``(B, E)``; padding has no effect."""
        raise NotImplementedError

    def classify(self, embedding: Tensor, start: Tensor | None = None) -> HeadOutput:
        """Turn a (possibly mixed) embedding ``(B, E)`` into the outputs.

        Attributes are ``low + (high - low) * sigmoid(linear)``, so they cannot leave their scale.

        Args:
            embedding: of :meth:`embed`.
            start: of :meth:`start`, mixed as the embedding is; None to add to nothing.
        """
        hidden = self.activation(embedding)  # (B, E)
        logits = hidden.new_zeros(len(hidden), 0) if self.class_output is None else self.class_output(hidden)
        if start is not None:
            logits = logits + start[:, : logits.shape[1]]
        if self.attribute_output is None:
            return HeadOutput(logits, logits.new_zeros(len(logits), 0))
        low, high = self.get_buffer("attribute_low"), self.get_buffer("attribute_high")
        linear = self.attribute_output(hidden)  # (B, A)
        if start is not None:
            linear = linear + torch.logit((start[:, logits.shape[1] :] - low) / (high - low), eps=1e-3)
        return HeadOutput(logits, low + (high - low) * torch.sigmoid(linear))

    def forward(self, inputs: Sequence[HeadInput]) -> HeadOutput:
        """Return the outputs of a batch, without MixUp."""
        return self.classify(self.embed(inputs), self.start(inputs))
