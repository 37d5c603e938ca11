"""The members of a bundle: what their models say of encoded segments."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from sercache.bundle.clips import Segment
from sercache.bundle.description import BundleDescription, BundledMember
from sercache.bundle.features import Encoded, FeatureMaker
from sercache.corpus import Attribute
from sercache.encoders.network import batches_by_length
from sercache.encoders.protocol import Frames, Precision
from sercache.errors import BundleError, TrainingError
from sercache.heads.protocol import Head
from sercache.stacking.base import Prediction
from sercache.training.checkpoint import load_head
from sercache.training.finetuning.overlay import EncoderOverlay

_FRAMES_PER_BATCH = 16_384
"""Padding included; a longer recording goes alone."""


@dataclass(frozen=True)
class Model:
    """One of a member's models.

    Attributes:
        head: on the device.
        overlays: by feature set: the weights of encoders that were trained together with this head, and the
            encoder that they are laid over.
    """

    head: Head
    overlays: Mapping[str, tuple[EncoderOverlay, FeatureMaker]]


@dataclass(frozen=True)
class Member:
    """The mean of a member's models: of its fold models, or of one that was fitted on all rows.

    Attributes:
        name: its name.
        features: the feature sets that it reads, in order.
        models: its models.
        is_normalized: whether it reads frames that are normalised per speaker.
    """

    name: str
    features: tuple[str, ...]
    models: tuple[Model, ...]
    is_normalized: bool = False

    @classmethod
    def load(
        cls,
        member: BundledMember,
        description: BundleDescription,
        root: Path,
        device: torch.device,
        maker_in: Callable[[str, Precision], FeatureMaker],
    ) -> "Member":
        """Read a member's models.

        Args:
            member: what the bundle says of it.
            description: the bundle's.
            root: its folder.
            device: where heads compute.
            maker_in: gives the maker of a feature set's frames whose encoder computes in a precision.

        Raises:
            BundleError: a model is damaged, or has other classes, attributes or inputs than the bundle says.
        """
        wanted = {
            "classes": list(description.classes),
            "attributes": [(one.name, one.low, one.high) for one in description.attributes],
            "features": {name: description.features[name].fingerprint for name in member.features},
            "normalize": member.normalize,
        }
        models = []
        overlays = member.overlays or ({},) * len(member.models)
        for model, overlaid in zip(member.models, overlays, strict=True):
            try:
                head, stated = load_head(root / model)
                laid = {name: EncoderOverlay.load(root / path) for name, path in overlaid.items()}
                over = {name: (its, maker_in(name, its.description.precision)) for name, its in laid.items()}
            except TrainingError as error:
                raise BundleError(str(error)) from None
            for what, value in wanted.items():
                if getattr(stated, what) != value:
                    raise BundleError(
                        f"{root / model}: has the {what} {getattr(stated, what)}, the bundle {value}"
                    )
            models.append(Model(head.to(device), over))
        return cls(member.name, member.features, tuple(models), member.normalize == "speaker")

    @property
    def shared_features(self) -> frozenset[str]:
        """The feature sets whose frames are not of encoders of its own."""
        return frozenset(self.features) - self.models[0].overlays.keys()

    def can_predict(
        self,
        segments: Sequence[Segment],
        encoded: Mapping[str, Encoded],
        makers: Mapping[str, FeatureMaker],
        place: int,
    ) -> bool:
        """Return whether the segment has anything in any feature set that the member reads."""
        return any(
            self._frames(encoded[name])[place] is not None
            if name in self.shared_features
            else makers[name].has_input(segments[place])
            for name in self.features
        )

    def _frames(self, encoded: Encoded) -> tuple[Frames | None, ...]:
        return encoded.normalized if self.is_normalized else encoded.frames

    @torch.inference_mode()
    def predict(
        self,
        segments: Sequence[Segment],
        encoded: Mapping[str, Encoded],
        makers: Mapping[str, FeatureMaker],
        places: Sequence[int],
        device: torch.device,
    ) -> tuple[Prediction, dict[int, str]]:
        """Return what the member says of N segments, ``(N, C)`` and ``(N, A)``; and why of some it cannot.

        Args:
            segments: all of them.
            encoded: their frames by feature set, but for those of encoders of the member's own.
            makers: of frames, by feature set.
            places: which N segments.
            device: where heads compute.
        """
        shared = {
            name: [self._frames(encoded[name])[place] for place in places] for name in self.shared_features
        }
        chosen = [segments[place] for place in places]
        said, failed = [], dict[int, str]()
        for model in self.models:
            own = {
                name: maker.encode_with(overlay, chosen) for name, (overlay, maker) in model.overlays.items()
            }
            frames = {
                name: own[name].frames if name in own else tuple(shared[name]) for name in self.features
            }
            for row, its in enumerate(zip(*frames.values(), strict=True)):
                if all(one is None for one in its):
                    reasons = [one.errors[row] for one in own.values() if row in one.errors]
                    failed[row] = f"{self.name}: {reasons[0] if reasons else 'nothing to hear or read'}"
            said.append(_apply(model.head, frames, makers, device))
        mean = Prediction(
            np.mean([one.class_probabilities for one in said], axis=0),
            np.mean([one.attribute_values for one in said], axis=0),
        )
        return mean, failed


def _apply(
    head: Head,
    frames: Mapping[str, Sequence[Frames | None]],
    makers: Mapping[str, FeatureMaker],
    device: torch.device,
) -> Prediction:
    """Return what a head says of N segments, ``(N, C)`` and ``(N, A)``; a long one never pads a short one."""
    lengths = [
        sum(0 if one is None else one.shape[1] for one in its) for its in zip(*frames.values(), strict=True)
    ]
    batches = batches_by_length(lengths, _FRAMES_PER_BATCH)
    probabilities, values = [], []
    for rows in batches:
        inputs = [makers[name].batch([its[row] for row in rows], device) for name, its in frames.items()]
        output = head(inputs)
        probabilities.append(torch.softmax(output.logits.double(), dim=1).cpu().numpy())
        values.append(output.attributes.double().cpu().numpy())
    back = np.argsort(np.concatenate([np.asarray(rows) for rows in batches]), kind="stable")
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


def attribute_disagreement(values: NDArray[np.float64], ranges: Sequence[Attribute]) -> NDArray[np.float64]:
    """Return how far members differ in attributes, ``(N,)``: 0 where all say the same, at most 1.

    The standard deviation over members, of values whose scales are taken as 0..1, averaged over attributes
    and doubled: 1 where one half of the members says the lowest and the other the highest value.

    >>> arousal = Attribute("arousal", 1, 7)
    >>> attribute_disagreement(np.array([[[1.0], [7.0]], [[3.0], [3.0]]]), [arousal]).tolist()
    [1.0, 0.0]

    Args:
        values: ``(N, M, A)``, on the scales of the attributes.
        ranges: the scales, A of them.
    """
    widths = np.asarray([attribute.high - attribute.low for attribute in ranges])
    deviations = values.std(axis=1) / widths  # (N, A)
    return np.asarray(np.clip(2 * deviations.mean(axis=1), 0.0, 1.0))


def _entropy(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    logarithms = np.log(probabilities, out=np.zeros_like(probabilities), where=probabilities > 0)
    entropy: NDArray[np.float64] = -(probabilities * logarithms).sum(axis=-1)
    return entropy
