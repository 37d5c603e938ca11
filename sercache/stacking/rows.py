"""Members' posteriors side by side with targets, and what learning stackers derive from them."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sercache.corpus import Attribute, Corpus
from sercache.corpus.folds import inner_slice
from sercache.errors import StackingError
from sercache.evaluation.metrics import log_loss
from sercache.evaluation.primary import Truth

Floats = NDArray[np.float64]
RowIndex = NDArray[np.int64]


@dataclass(frozen=True)
class StackingInputs:
    """The members' posteriors, joined: all that a stacker needs to predict.

    Attributes:
        ids: utterance ids, N of them.
        members: names, M of them.
        classes: names, C of them; none of a corpus with attributes alone.
        attributes: names and ranges, A of them.
        class_probabilities: ``(N, M, C)``.
        attribute_values: ``(N, M, A)``, on the corpus's scale.
        extras: names of further inputs, E of them (:mod:`sercache.stacking.extras`).
        extra_values: ``(N, E)``, NaN where unknown.
    """

    ids: tuple[str, ...]
    members: tuple[str, ...]
    classes: tuple[str, ...]
    attributes: tuple[Attribute, ...]
    class_probabilities: Floats
    attribute_values: Floats
    extras: tuple[str, ...]
    extra_values: Floats

    def __len__(self) -> int:
        return len(self.ids)

    def features(self) -> Floats:
        """Return ``(N, M * (C + A) + E)``: each member's class probabilities and attributes, then extras."""
        both = np.concatenate([self.class_probabilities, self.attribute_values], axis=2)  # (N, M, C + A)
        flat = both.reshape(len(self), both.shape[1] * both.shape[2])  # (N, M * (C + A))
        return np.concatenate([flat, self.extra_values], axis=1)

    @property
    def decisive_values(self) -> Floats:
        """What the primary score sees: class probabilities ``(N, M, C)``, else attributes ``(N, M, A)``."""
        return self.class_probabilities if self.classes else self.attribute_values

    def take(self, rows: RowIndex) -> "StackingInputs":
        """Return these rows, in this order."""
        return replace(
            self,
            ids=tuple(self.ids[row] for row in rows),
            class_probabilities=self.class_probabilities[rows],
            attribute_values=self.attribute_values[rows],
            extra_values=self.extra_values[rows],
        )

    def arranged(
        self, members: Sequence[str], classes: Sequence[str], attributes: Sequence[Attribute]
    ) -> "StackingInputs":
        """Return the same with members, classes and attributes in the given order, matched by name.

        Raises:
            StackingError: the names are not the same; says both sides.
        """
        names = [attribute.name for attribute in self.attributes]
        wanted = [attribute.name for attribute in attributes]
        member_order = columns_in_order("members", self.members, members)
        class_order = columns_in_order("classes", self.classes, classes)
        attribute_order = columns_in_order("attributes", names, wanted)
        return replace(
            self,
            members=tuple(members),
            classes=tuple(classes),
            attributes=tuple(attributes),
            class_probabilities=self.class_probabilities[:, member_order][:, :, class_order],
            attribute_values=self.attribute_values[:, member_order][:, :, attribute_order],
        )


@dataclass(frozen=True)
class StackingRows:
    """Inputs and the targets, row by row.

    Attributes:
        inputs: the members' posteriors, N rows.
        corpus: the same utterances in the same order: speakers, votes, ranges.
        soft_targets: ``(N, C)``; NaN rows have no class target.
        labels: ``(N,)`` int64, the consensus class; negative where there is none.
        attribute_targets: ``(N, A)``, NaN where nobody rated.
        folds: ``(N,)`` int64, the fold whose models predicted the row; ``ALL_FOLDS`` for a mean of all.
        origins: ``(N,)`` of :data:`sercache.posteriors.Origin`; the leakiest of the members'.
        fold_map_digest: which assignment of speakers to folds this was.
    """

    inputs: StackingInputs
    corpus: Corpus
    soft_targets: Floats
    labels: NDArray[np.int64]
    attribute_targets: Floats
    folds: NDArray[np.int64]
    origins: NDArray[np.str_]
    fold_map_digest: str

    def __len__(self) -> int:
        return len(self.inputs)

    @property
    def truth(self) -> Truth:
        """What predictions of these rows are scored against."""
        return Truth(self.labels, self.attribute_targets, len(self.inputs.classes))

    @property
    def speakers(self) -> tuple[str | None, ...]:
        """Who speaks in each row."""
        return tuple(utterance.speaker for utterance in self.corpus.utterances)

    def take(self, rows: RowIndex) -> "StackingRows":
        """Return these rows, in this order."""
        inputs = self.inputs.take(rows)
        return replace(
            self,
            inputs=inputs,
            corpus=self.corpus.select(inputs.ids),
            soft_targets=self.soft_targets[rows],
            labels=self.labels[rows],
            attribute_targets=self.attribute_targets[rows],
            folds=self.folds[rows],
            origins=self.origins[rows],
        )

    def where(self, chosen: NDArray[np.bool_]) -> "StackingRows":
        """Return the rows where ``chosen`` ``(N,)`` is True."""
        return self.take(np.flatnonzero(chosen).astype(np.int64))

    def digest(self) -> str:
        """Return a digest of everything a stacker could learn from or is scored on."""
        hashed = hashlib.sha256()
        names = (self.inputs.members, self.inputs.classes, self.inputs.attributes, self.inputs.extras)
        hashed.update(repr((self.inputs.ids, names, self.speakers, self.fold_map_digest)).encode())
        arrays: tuple[NDArray[Any], ...] = (
            self.inputs.class_probabilities,
            self.inputs.attribute_values,
            self.inputs.extra_values,
            self.soft_targets,
            self.labels,
            self.attribute_targets,
            self.folds,
        )
        for array in arrays:
            hashed.update(np.ascontiguousarray(array).tobytes())
        hashed.update(repr(self.origins.tolist()).encode())
        return hashed.hexdigest()


def columns_in_order(what: str, have: Sequence[str], wanted: Sequence[str]) -> list[int]:
    """Return where each of the ``wanted`` names is in ``have``.

    Raises:
        StackingError: the names are not the same; says both sides.
    """
    if sorted(have) != sorted(wanted):
        raise StackingError(
            f"{what} do not match: the posteriors have {', '.join(have) or 'none'}; "
            f"expected are {', '.join(wanted) or 'none'}"
        )
    return [list(have).index(name) for name in wanted]


def stopping_slice(rows: StackingRows, share: float, seed: int) -> tuple[StackingRows, StackingRows]:
    """Split ``rows`` into rows to fit on and rows of other speakers to stop on.

    Where all rows are of one speaker (or none has a speaker) there is nothing to stop on: that part is empty.
    """
    if len(set(rows.speakers)) < 2:
        return rows, rows.take(np.empty(0, dtype=np.int64))
    fit_ids, _ = inner_slice(rows.corpus, share, seed)
    fits = np.isin(np.asarray(rows.inputs.ids), np.asarray(fit_ids))
    return rows.where(fits), rows.where(~fits)


def has_class_target(rows: StackingRows) -> NDArray[np.bool_]:
    """Return ``(N,)``: whether the row counts in a class loss."""
    return np.asarray(~np.isnan(rows.soft_targets).any(axis=1) & bool(rows.inputs.classes))


def scaled_ratings(rows: StackingRows) -> Floats:
    """Return the ratings of the attributes, ``(N, A)`` from 0 to 1; NaN where nobody rated."""
    return scaled_to_ranges(rows.attribute_targets, rows.inputs)


def scaled_to_ranges(values: Floats, inputs: StackingInputs) -> Floats:
    """Return attribute values ``(..., A)`` with the ends of each scale at 0 and 1."""
    low, high = attribute_bounds(inputs)
    return np.asarray((values - low) / (high - low))


def attribute_bounds(inputs: StackingInputs) -> tuple[Floats, Floats]:
    """Return the low and the high ends of the attributes' scales, ``(A,)`` each."""
    low = np.asarray([attribute.low for attribute in inputs.attributes], dtype=np.float64)
    high = np.asarray([attribute.high for attribute in inputs.attributes], dtype=np.float64)
    return low, high


def prediction_loss(rows: StackingRows, class_probabilities: Floats, attribute_values: Floats) -> float:
    """Return the loss that ranks predictions of equal primary score; NaN where nothing is known.

    The log-loss against the votes; of attributes alone the mean squared error, scales taken as 0..1.
    """
    if rows.inputs.classes:
        return log_loss(rows.soft_targets, class_probabilities)
    errors = (scaled_ratings(rows) - scaled_to_ranges(attribute_values, rows.inputs)) ** 2  # (N, A)
    known = errors[~np.isnan(errors)]
    return float(known.mean()) if len(known) else float("nan")


def class_weights(soft_targets: Floats, exponent: float) -> Floats:
    """Return ``(N / (C * n_c)) ** exponent`` (MEDUSA, section 3.3), 1 for a class that nobody voted for.

    Args:
        soft_targets: ``(N, C)`` without NaN.
        exponent: 0 weighs all classes alike, 1 makes each class count the same in total.
    """
    mass = soft_targets.sum(axis=0)
    ratio = np.divide(mass.sum(), len(mass) * mass, out=np.ones_like(mass), where=mass > 0)
    return np.asarray(ratio**exponent)
