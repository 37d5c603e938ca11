"""The models of a bundle: members, the stacker over them, and its calibration."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from sercache.bundle.clips import Segment
from sercache.bundle.description import CALIBRATION_NAME, STACKER_FOLDER, BundleDescription
from sercache.bundle.features import Encoded, FeatureExtractor
from sercache.bundle.models import Member, attribute_disagreement, disagreement
from sercache.encoders.protocol import Precision
from sercache.errors import BundleError, StackingError
from sercache.evaluation.calibration.fitted import Calibrated, Calibration
from sercache.stacking.base import SavedStacker, Stacker
from sercache.stacking.extras import parse_extra
from sercache.stacking.registry import load_stacker
from sercache.stacking.rows import Floats, StackingInputs


@dataclass(frozen=True)
class SegmentPrediction:
    """The prediction for one segment.

    Attributes:
        decision: index of the class; None with attributes alone.
        probabilities: ``(C,)``, calibrated where that is possible.
        posteriors: ``(C,)``, of the stacker, before calibration.
        attributes: ``(A,)``, on the corpus's scale.
        conformal_set: ``(C,)`` bool.
        members: ``(M, C)``; with attributes alone ``(M, A)``.
        disagreement: between members, 0 to 1.
    """

    decision: int | None
    probabilities: Floats
    posteriors: Floats
    attributes: Floats
    conformal_set: NDArray[np.bool_]
    members: Floats
    disagreement: float


@dataclass(frozen=True)
class Ensemble:
    """Members, stacker and calibration of a bundle.

    Attributes:
        description: the bundle's.
        extractors: of the frames, by feature set.
        members: that the stacker reads.
        stacker: fitted.
        extras: names of the stacker's inputs beside posteriors.
        calibration: of the stacker's probabilities; None where there is none.
        device: where members compute.
    """

    description: BundleDescription
    extractors: Mapping[str, FeatureExtractor]
    members: tuple[Member, ...]
    stacker: Stacker
    extras: tuple[str, ...]
    calibration: Calibration | None
    device: torch.device

    @classmethod
    def load(
        cls,
        root: Path,
        description: BundleDescription,
        extractors: Mapping[str, FeatureExtractor],
        device: str,
        extractor_in: Callable[[str, Precision], FeatureExtractor],
    ) -> "Ensemble":
        """Read members, stacker and calibration of the bundle in ``root``.

        Raises:
            BundleError: a part is damaged or belongs to another bundle.
        """
        on = torch.device(device)
        try:
            saved = SavedStacker.read(root / STACKER_FOLDER)
            stacker = load_stacker(root / STACKER_FOLDER)
            calibrated = description.coverage is not None
            calibration = Calibration.load(root / CALIBRATION_NAME) if calibrated else None
        except StackingError as error:
            raise BundleError(str(error)) from None
        members = tuple(
            Member.load(member, description, root, on, extractor_in) for member in description.members
        )
        return cls(description, extractors, members, stacker, saved.signature.extras, calibration, on)

    @property
    def names(self) -> tuple[str, ...]:
        """The members' names."""
        return tuple(member.name for member in self.members)

    @property
    def reads(self) -> frozenset[str]:
        """The feature sets whose frames are the same for all members that read them."""
        extras = map(parse_extra, self.extras)
        pooled = {extra.name for extra in extras if extra.kind == "pooled"}
        return frozenset(pooled.union(*(member.shared_features for member in self.members)))

    @property
    def normalized(self) -> frozenset[str]:
        """The feature sets that some member reads normalised per speaker."""
        return frozenset(name for member in self.members if member.is_normalized for name in member.features)

    def can_predict(self, segments: Sequence[Segment], encoded: Mapping[str, Encoded], index: int) -> bool:
        """Return whether every member has something to read of a segment."""
        return all(member.can_predict(segments, encoded, self.extractors, index) for member in self.members)

    def predict(
        self,
        segments: Sequence[Segment],
        known: Sequence[Mapping[str, str]],
        encoded: Mapping[str, Encoded],
        indices: Sequence[int],
    ) -> list[SegmentPrediction | str]:
        """Return the predictions for the segments at ``indices``, in order; for a failed one its error.

        Args:
            segments: N of them.
            known: further columns of each segment's manifest.
            encoded: by feature set.
            indices: of segments that every member :meth:`can_predict`.
        """
        if not indices:
            return []
        predictions, failed = [], dict[int, str]()
        for member in self.members:
            prediction, errors = member.predict(segments, encoded, self.extractors, indices, self.device)
            predictions.append(prediction)
            failed |= errors
        members = np.stack([prediction.class_probabilities for prediction in predictions], axis=1)
        values = np.stack([prediction.attribute_values for prediction in predictions], axis=1)
        extra_values = self._extra_values(segments, known, encoded, indices)
        prediction = self.stacker.predict(self._inputs(members, values, extra_values))
        posteriors = prediction.class_probabilities
        has_classes = bool(self.description.classes)
        if self.calibration is not None:
            final = self.calibration.apply(posteriors)
        else:
            decisions = posteriors.argmax(axis=1) if has_classes else np.zeros(len(posteriors), np.int64)
            final = Calibrated(posteriors, decisions, np.zeros(posteriors.shape, np.bool_))
        ranges = self.description.attribute_ranges()
        differ = disagreement(members) if has_classes else attribute_disagreement(values, ranges)
        return [
            failed[row]
            if row in failed
            else SegmentPrediction(
                decision=int(final.classes[row]) if has_classes else None,
                probabilities=final.probabilities[row],
                posteriors=posteriors[row],
                attributes=prediction.attribute_values[row],
                conformal_set=final.sets[row],
                members=members[row] if has_classes else values[row],
                disagreement=float(differ[row]),
            )
            for row in range(len(indices))
        ]

    def _inputs(self, members: Floats, values: Floats, extra_values: Floats) -> StackingInputs:
        """Return what the stacker reads; members without weight get uniform values."""
        rows, unread = len(members), self.description.unread_members
        classes, attributes = self.description.classes, self.description.attribute_ranges()
        nothing = np.full((rows, len(unread), len(classes)), 1 / max(1, len(classes)))
        middles = np.asarray([(attribute.low + attribute.high) / 2 for attribute in attributes])
        return StackingInputs(
            ids=tuple(map(str, range(rows))),
            members=(*self.names, *unread),
            classes=classes,
            attributes=attributes,
            class_probabilities=np.concatenate([members, nothing], axis=1),
            attribute_values=np.concatenate(
                [values, np.broadcast_to(middles, (rows, len(unread), len(attributes)))], axis=1
            ),
            extras=self.extras,
            extra_values=extra_values,
        )

    def _extra_values(
        self,
        segments: Sequence[Segment],
        known: Sequence[Mapping[str, str]],
        encoded: Mapping[str, Encoded],
        indices: Sequence[int],
    ) -> Floats:
        """Return the stacker's further inputs, ``(N, E)``; NaN where a value is not known."""
        values = np.full((len(indices), len(self.extras)), np.nan)
        for row, segment_index in enumerate(indices):
            pooled: dict[str, Floats] = {}
            for column, name in enumerate(self.extras):
                kind, source, index = parse_extra(name)
                if kind == "duration":
                    values[row, column] = segments[segment_index].seconds
                elif kind == "column":
                    values[row, column] = _number(known[segment_index].get(source, ""))
                elif index is not None:
                    if source not in pooled:
                        pooled[source] = self.extractors[source].pooled(encoded[source].frames[segment_index])
                    values[row, column] = pooled[source][index]
        return values


def _number(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        return float("nan")
