"""The network of the neural meta-level, as plain arrays: what it computes, how it is saved and averaged."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from sercache.errors import StackingError
from sercache.evaluation.probabilities import log_probabilities, softmax
from sercache.stacking.base import Prediction
from sercache.stacking.rows import Floats, StackingInputs, attribute_bounds, scaled_to_ranges
from sercache.stacking.shares import linear_shares

_ARRAYS = ("vote", "weight", "bias", "hidden_weight", "hidden_bias")


@dataclass(frozen=True)
class Network:
    """``outputs = x @ vote + body @ weight + bias``, with nothing after the output.

    ``x`` ``(N, F)`` holds the members' posteriors, see :func:`network_features`. ``body`` is ``x`` itself in
    the linear network of MEDUSA (section 3.4), or ``relu(x @ hidden_weight + hidden_bias)`` with a hidden
    layer. ``vote`` is the soft vote; training learns what to add to it, so weight decay pulls towards the
    vote and not towards equal probabilities.

    Attributes:
        vote: ``(F, C + A)``.
        weight: ``(F, C + A)``, or ``(H, C + A)`` with a hidden layer.
        bias: ``(C + A,)``.
        hidden_weight: ``(F, H)``; H is 0 in the linear network.
        hidden_bias: ``(H,)``.
        sees_logs: whether ``x`` has the logarithms of probabilities.
    """

    vote: Floats
    weight: Floats
    bias: Floats
    hidden_weight: Floats
    hidden_bias: Floats
    sees_logs: bool = False

    @property
    def is_linear(self) -> bool:
        """Whether there is no hidden layer."""
        return not len(self.hidden_bias)

    def features(self, inputs: StackingInputs) -> Floats:
        """Return ``inputs`` as the network reads them, ``(N, F)``."""
        return network_features(inputs, sees_logs=self.sees_logs)

    def outputs(self, features: Floats) -> Floats:
        """Return ``(N, C + A)``: class logits, then attributes scaled to 0..1."""
        body = features
        if not self.is_linear:
            body = np.maximum(features @ self.hidden_weight + self.hidden_bias, 0.0)  # (N, H)
        return np.asarray(features @ self.vote + body @ self.weight + self.bias)  # (N, C + A)

    def predict(self, inputs: StackingInputs) -> Prediction:
        """Return softmaxed classes, and attribute values within their scale."""
        outputs = self.outputs(self.features(inputs))  # (N, C + A)
        num_classes = len(inputs.classes)
        low, high = attribute_bounds(inputs)
        values = low + (high - low) * np.clip(outputs[:, num_classes:], 0.0, 1.0)  # (N, A)
        return Prediction(softmax(outputs[:, :num_classes]), values)

    def to_bytes(self) -> bytes:
        """Return the arrays as safetensors."""
        from safetensors.numpy import save

        return save({name: np.ascontiguousarray(getattr(self, name)) for name in _ARRAYS})

    @classmethod
    def from_bytes(cls, content: bytes, *, sees_logs: bool = False) -> Self:
        """Read what :meth:`to_bytes` wrote; whether it reads logarithms is saved elsewhere."""
        from safetensors import SafetensorError
        from safetensors.numpy import load

        try:
            return cls(**load(content), sees_logs=sees_logs)
        except (SafetensorError, TypeError) as error:
            raise StackingError(f"not the weights of a neural meta-classifier ({error})") from error

    def shares(self, inputs: StackingInputs) -> dict[str, float]:
        """Return how much each member counts for the classes, or attributes alone; nothing if not linear."""
        if not self.is_linear:
            return {}
        outputs = slice(0, len(inputs.classes) or len(inputs.attributes))
        weight = self.vote[:, outputs] + self.weight[:, outputs]  # (F, C) or (F, A)
        return linear_shares(self.features(inputs), weight, inputs)

    @classmethod
    def between(cls, first: "Network", second: "Network", step: float) -> Self:
        """Return the network that lies ``step`` (0..1) of the way from ``first`` to ``second``."""
        mixed = {name: (1 - step) * getattr(first, name) + step * getattr(second, name) for name in _ARRAYS}
        return cls(**mixed, sees_logs=first.sees_logs)

    @classmethod
    def average(cls, networks: Sequence["Network"]) -> Self:
        """Return the network whose weights are the means of the networks' weights."""
        means = {name: np.mean([getattr(network, name) for network in networks], axis=0) for name in _ARRAYS}
        return cls(**means, sees_logs=networks[0].sees_logs)


def network_features(inputs: StackingInputs, *, sees_logs: bool = False) -> Floats:
    """Return ``(N, F)``: for each member its class probabilities and attributes in 0..1; then extras.

    Args:
        inputs: N rows.
        sees_logs: the logarithms of the probabilities, centred, instead of these.
    """
    scaled = replace(inputs, attribute_values=scaled_to_ranges(inputs.attribute_values, inputs))
    if not sees_logs or not inputs.classes:
        return scaled.features()
    logs = log_probabilities(inputs.class_probabilities)  # (N, M, C)
    return replace(scaled, class_probabilities=logs - logs.mean(axis=2, keepdims=True)).features()
