"""The members of a bundle: what their models say of encoded segments."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from sercache.bundle.description import BundleDescription, BundledMember
from sercache.bundle.features import Encoded, FeatureMaker
from sercache.errors import BundleError, TrainingError
from sercache.heads.protocol import Head
from sercache.stacking.protocol import Prediction
from sercache.training.checkpoint import load_head

_BATCH = 32


@dataclass(frozen=True)
class Member:
    """The mean of a member's models: of its fold models, or of one that was fitted on all rows.

    Attributes:
        name: its name.
        features: the feature sets that it reads, in order.
        heads: its models, on the device.
    """

    name: str
    features: tuple[str, ...]
    heads: tuple[Head, ...]

    @classmethod
    def load(
        cls, member: BundledMember, description: BundleDescription, root: Path, device: torch.device
    ) -> "Member":
        """Read a member's models.

        Raises:
            BundleError: a model is damaged, or has other classes, attributes or inputs than the bundle says.
        """
        wanted = {
            "classes": list(description.classes),
            "attributes": [(one.name, one.low, one.high) for one in description.attributes],
            "features": {name: description.features[name].fingerprint for name in member.features},
        }
        heads = []
        for model in member.models:
            try:
                head, stated = load_head(root / model)
            except TrainingError as error:
                raise BundleError(str(error)) from None
            for what, value in wanted.items():
                if getattr(stated, what) != value:
                    raise BundleError(
                        f"{root / model}: has the {what} {getattr(stated, what)}, the bundle {value}"
                    )
            heads.append(head.to(device))
        return cls(member.name, member.features, tuple(heads))

    def can_predict(self, encoded: Mapping[str, Encoded], place: int) -> bool:
        """Return whether the segment has frames in any feature set that the member reads."""
        return any(encoded[name].frames[place] is not None for name in self.features)

    @torch.inference_mode()
    def predict(
        self,
        encoded: Mapping[str, Encoded],
        makers: Mapping[str, FeatureMaker],
        places: Sequence[int],
        device: torch.device,
    ) -> Prediction:
        """Return what the member says of some segments, ``(N, C)`` and ``(N, A)``."""
        lengths = [
            sum(
                frames.shape[1]
                for name in self.features
                if (frames := encoded[name].frames[place]) is not None
            )
            for place in places
        ]
        order = np.argsort(lengths, kind="stable")
        probabilities, values = [], []
        for first in range(0, len(order), _BATCH):
            chosen = [places[row] for row in order[first : first + _BATCH]]
            inputs = [
                makers[name].batch([encoded[name].frames[place] for place in chosen], device)
                for name in self.features
            ]
            outputs = [head(inputs) for head in self.heads]
            probabilities.append(_mean([torch.softmax(one.logits.double(), dim=1) for one in outputs]))
            values.append(_mean([one.attributes.double() for one in outputs]))
        back = np.argsort(order, kind="stable")
        return Prediction(np.concatenate(probabilities)[back], np.concatenate(values)[back])


def disagreement(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return how far members differ, ``(N,)``: 0 where all say the same, 1 where all are sure and differ.

    It is their Jensen-Shannon divergence (Lin 1991, eq. 5.1, equal weights) as a share of its largest value.

    >>> disagreement(np.array([[[1.0, 0.0], [0.0, 1.0]], [[0.3, 0.7], [0.3, 0.7]]])).round(6).tolist()
    [1.0, 0.0]

    Args:
        probabilities: ``(N, M, C)``.
    """
    members, classes = probabilities.shape[1:]
    if members < 2:
        return np.zeros(len(probabilities))
    within = _entropy(probabilities).mean(axis=1)
    divergence = np.maximum(_entropy(probabilities.mean(axis=1)) - within, 0.0)
    return np.asarray(divergence / np.log(min(members, classes)))


def _entropy(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    logarithms = np.log(probabilities, out=np.zeros_like(probabilities), where=probabilities > 0)
    entropy: NDArray[np.float64] = -(probabilities * logarithms).sum(axis=-1)
    return entropy


def _mean(parts: Sequence[torch.Tensor]) -> NDArray[np.float64]:
    mean: NDArray[np.float64] = torch.stack(list(parts)).mean(dim=0).cpu().numpy()
    return mean
