"""The members of a bundle: they predict from encoded segments."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from sercache.bundle.clips import Segment
from sercache.bundle.description import BundleDescription, BundledMember
from sercache.bundle.features import Encoded, FeatureExtractor
from sercache.corpus import Attribute
from sercache.encoders.network import batches_by_length
from sercache.encoders.protocol import Frames, Precision
from sercache.errors import BundleError, TrainingError
from sercache.heads.protocol import Head
from sercache.stacking.base import Prediction
from sercache.training.checkpoint import load_head
from sercache.training.finetuning.overlay import EncoderOverlay

_FRAMES_PER_BATCH = 16_384
"""Padding included; a longer recording makes a batch of its own."""


@dataclass(frozen=True)
class Model:
    """One of a member's models.

    Attributes:
        head: on the device.
        overlays: by feature set: the weights of encoders that were trained together with this head, and the
            encoder that they are laid over.
    """

    head: Head
    overlays: Mapping[str, tuple[EncoderOverlay, FeatureExtractor]]


@dataclass(frozen=True)
class Member:
    """The mean of a member's models: of its fold models, or of one that was fitted on all rows.

    Attributes:
        name: the member's name.
        features: the feature sets that it reads, in order.
        models: of the folds, or the single one of all rows.
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
        extractor_in: Callable[[str, Precision], FeatureExtractor],
    ) -> "Member":
        """Read a member's models.

        Args:
            member: its description in the bundle.
            description: the bundle's.
            root: its folder.
            device: where heads compute.
            extractor_in: returns the extractor of a feature set whose encoder computes in a precision.

        Raises:
            BundleError: a model is damaged, or its classes, attributes or inputs differ from the bundle's.
        """
        wanted = {
            "classes": list(description.classes),
            "attributes": [
                (attribute.name, attribute.low, attribute.high) for attribute in description.attributes
            ],
            "features": {name: description.features[name].fingerprint for name in member.features},
            "normalize": member.normalize,
        }
        models = []
        overlays = member.overlays or ({},) * len(member.models)
        for model, overlaid in zip(member.models, overlays, strict=True):
            try:
                head, stated = load_head(root / model)
                laid = {name: EncoderOverlay.load(root / path) for name, path in overlaid.items()}
                over = {
                    name: (overlay, extractor_in(name, overlay.description.precision))
                    for name, overlay in laid.items()
                }
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
        """The feature sets whose frames come from encoders that members share."""
        return frozenset(self.features) - self.models[0].overlays.keys()

    def can_predict(
        self,
        segments: Sequence[Segment],
        encoded: Mapping[str, Encoded],
        extractors: Mapping[str, FeatureExtractor],
        index: int,
    ) -> bool:
        """Return whether the segment has anything in any feature set that the member reads."""
        return any(
            self._frames(encoded[name])[index] is not None
            if name in self.shared_features
            else extractors[name].has_input(segments[index])
            for name in self.features
        )

    def _frames(self, encoded: Encoded) -> tuple[Frames | None, ...]:
        return encoded.normalized if self.is_normalized else encoded.frames

    @torch.inference_mode()
    def predict(
        self,
        segments: Sequence[Segment],
        encoded: Mapping[str, Encoded],
        extractors: Mapping[str, FeatureExtractor],
        indices: Sequence[int],
        device: torch.device,
    ) -> tuple[Prediction, dict[int, str]]:
        """Return the member's prediction for N segments, ``(N, C)`` and ``(N, A)``, and the errors by row.

        Args:
            segments: all of them.
            encoded: their frames by feature set, those of fine-tuned encoders excepted.
            extractors: of frames, by feature set.
            indices: which N segments.
            device: where heads compute.
        """
        shared = {
            name: [self._frames(encoded[name])[index] for index in indices] for name in self.shared_features
        }
        chosen = [segments[index] for index in indices]
        predictions, failed = [], dict[int, str]()
        for model in self.models:
            overlaid = {
                name: extractor.encode_with(overlay, chosen)
                for name, (overlay, extractor) in model.overlays.items()
            }
            frames = {
                name: overlaid[name].frames if name in overlaid else tuple(shared[name])
                for name in self.features
            }
            for row, row_frames in enumerate(zip(*frames.values(), strict=True)):
                if all(feature_frames is None for feature_frames in row_frames):
                    reasons = [
                        encoded_feature.errors[row]
                        for encoded_feature in overlaid.values()
                        if row in encoded_feature.errors
                    ]
                    failed[row] = f"{self.name}: {reasons[0] if reasons else 'neither audio nor text'}"
            predictions.append(_apply(model.head, frames, extractors, device))
        mean = Prediction(
            np.mean([prediction.class_probabilities for prediction in predictions], axis=0),
            np.mean([prediction.attribute_values for prediction in predictions], axis=0),
        )
        return mean, failed


def _apply(
    head: Head,
    frames: Mapping[str, Sequence[Frames | None]],
    extractors: Mapping[str, FeatureExtractor],
    device: torch.device,
) -> Prediction:
    """Return a head's prediction for N segments, ``(N, C)`` and ``(N, A)``; batches have similar lengths."""
    lengths = [
        sum(0 if feature_frames is None else feature_frames.shape[1] for feature_frames in row_frames)
        for row_frames in zip(*frames.values(), strict=True)
    ]
    batches = batches_by_length(lengths, _FRAMES_PER_BATCH)
    probabilities, values = [], []
    for rows in batches:
        inputs = [
            extractors[name].batch([feature_frames[row] for row in rows], device)
            for name, feature_frames in frames.items()
        ]
        output = head(inputs)
        probabilities.append(torch.softmax(output.logits.double(), dim=1).cpu().numpy())
        values.append(output.attributes.double().cpu().numpy())
    back = np.argsort(np.concatenate([np.asarray(rows) for rows in batches]), kind="stable")
    return Prediction(np.concatenate(probabilities)[back], np.concatenate(values)[back])


def disagreement(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return how far members differ, ``(N,)``: 0 where all agree, 1 where all are sure and differ.

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
    """Return how far members differ in attributes, ``(N,)``: 0 where all agree, at most 1.

    The standard deviation over members, of values whose scales are taken as 0..1, averaged over attributes
    and doubled: 1 where one half of the members predicts the lowest and the other the highest value.

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
