"""Baselines of the comparison: chance, the linear baseline, and the members that fine-tuning started from."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import xxhash

from sercache.errors import StackingError
from sercache.evaluation.bootstrap import SpeakerBootstrap, SumMetric, holm_corrected
from sercache.events import Event, Listener, ignore
from sercache.posteriors import Posteriors
from sercache.run import DerivedMember, Run
from sercache.stacking.base import Prediction, SavedStacker, Stacker
from sercache.stacking.rows import Floats, StackingInputs, StackingRows, columns_in_order
from sercache.stacking.splits import Splits
from sercache.stacking.task import StackerResult, posteriors_path
from sercache.stacking.verdict import compare_pair

_JITTER = 1e-6


class MajorityClass(Stacker):
    """The mean target of the rows it is fitted on, for every row; attributes likewise."""

    name = "majority"
    needs_classes = True
    mean_target_: Floats  # (C,)
    mean_attributes_: Floats  # (A,)

    def fit_arranged(self, rows: StackingRows) -> None:
        """Learn the means; the middle of the scale for an attribute that nobody rated."""
        self.mean_target_ = self.target_for_all(rows)
        middles = [(attribute.low + attribute.high) / 2 for attribute in rows.inputs.attributes]
        rated = ~np.isnan(rows.attribute_targets)  # (N, A)
        totals = np.where(rated, rows.attribute_targets, 0.0).sum(axis=0)  # (A,)
        counts = rated.sum(axis=0)  # (A,)
        self.mean_attributes_ = np.where(counts > 0, totals / np.maximum(counts, 1), np.asarray(middles))

    def predict_arranged(self, inputs: StackingInputs) -> Prediction:
        """Return the same for every row."""
        rows = len(inputs)
        return Prediction(np.tile(self.mean_target_, (rows, 1)), np.tile(self.mean_attributes_, (rows, 1)))

    def learned(self) -> dict[str, Any]:
        """Return the means."""
        return {"probabilities": self.mean_target_.tolist(), "attributes": self.mean_attributes_.tolist()}

    def restore(self, saved: SavedStacker) -> None:
        """Set the means."""
        self.mean_target_ = np.asarray(saved.learned["probabilities"], dtype=np.float64)
        self.mean_attributes_ = np.asarray(saved.learned["attributes"], dtype=np.float64)

    def target_for_all(self, rows: StackingRows) -> Floats:
        """Return ``(C,)``: the votes' mean, with the most frequent consensus class on top."""
        num_classes = len(rows.inputs.classes)
        known = rows.soft_targets[~np.isnan(rows.soft_targets).any(axis=1)]
        mean = known.mean(axis=0) if len(known) else np.full(num_classes, 1 / num_classes)
        counts = np.bincount(rows.labels[rows.labels >= 0], minlength=num_classes)
        if counts.any() and mean.argmax() != counts.argmax():
            mean[counts.argmax()] = mean.max() + _JITTER
        return np.asarray(mean / mean.sum())


class MeanRating(MajorityClass):
    """The mean rating of the rows it is fitted on, for every row: the baseline of attributes alone."""

    name = "mean-rating"
    needs_classes = False

    def target_for_all(self, rows: StackingRows) -> Floats:
        """Return the votes' mean, empty without classes."""
        return super().target_for_all(rows) if rows.inputs.classes else np.empty(0)


class Chance(MajorityClass):
    """Every class is as likely as any other; which one is predicted follows from the utterance's id."""

    name = "chance"

    def predict_arranged(self, inputs: StackingInputs) -> Prediction:
        """Return equal probabilities, a tiny bit more for the class that is predicted."""
        probabilities, attributes = super().predict_arranged(inputs)
        num_classes = probabilities.shape[1]
        predicted = [xxhash.xxh3_64_intdigest(row.encode()) % num_classes for row in inputs.ids]
        probabilities[np.arange(len(predicted)), predicted] += _JITTER
        return Prediction(probabilities / probabilities.sum(axis=1, keepdims=True), attributes)

    def target_for_all(self, rows: StackingRows) -> Floats:
        """Return the same for each class."""
        num_classes = len(rows.inputs.classes)
        return np.full(num_classes, 1 / num_classes)


BASELINE = "baseline"
"""What the baseline is called in a comparison, whatever the member is called that it is."""


def baseline_result(
    baseline: Posteriors, splits: Splits, run: Run, listener: Listener = ignore
) -> StackerResult | None:
    """Write the baseline's predictions of the scored rows as a stacker's result, and return it.

    Nothing is fitted: out-of-fold rows were predicted by the fold model that did not see the speaker, rows of
    the test split by the mean of the fold models.

    Args:
        baseline: over the rows of the run.
        splits: which rows are scored.
        run: the folder that the result goes to.
        listener: receives a warning where there is no result.

    Returns:
        None where the baseline does not fit the scored rows.
    """
    scored, folder = splits.scored, run.stacker_folder(BASELINE)
    inputs = scored.inputs
    try:
        if baseline.fold_map_digest != scored.fold_map_digest:
            raise StackingError("it was fitted on other folds than the members")
        if missing := set(inputs.ids) - set(baseline.ids):
            raise StackingError(f"it does not predict {len(missing)} rows, first '{min(missing)}'")
        taken = baseline.take(inputs.ids)
        if (taken.origins == "in-sample").any():
            raise StackingError("it was fitted on rows that it would be scored on")
        attributes = tuple(attribute.name for attribute in inputs.attributes)
        class_order = columns_in_order("classes", taken.classes, inputs.classes)
        attribute_order = columns_in_order("attributes", taken.attributes, attributes)
    except StackingError as error:
        message = f"the baseline is left out: {error}; sercache train-ensemble fits it"
        listener(Event("warning", "stack", message=message))
        return None
    arranged = replace(
        taken,
        member=BASELINE,
        classes=inputs.classes,
        attributes=attributes,
        class_probabilities=taken.class_probabilities[:, class_order],
        attribute_values=taken.attribute_values[:, attribute_order],
    )
    for repeat in range(splits.repeats):
        arranged.save(posteriors_path(folder, repeat))
    unknown = float("nan")
    return StackerResult(BASELINE, (arranged,) * splits.repeats, unknown, unknown, unknown, {})


def worth_of_finetuning(
    rows: StackingRows, finetuned: Sequence[DerivedMember], bootstrap: SpeakerBootstrap
) -> list[str]:
    """Return a sentence for each fine-tuned member: whether it is better than the member it started from.

    Args:
        rows: the scored ones; the model that predicted a row did not learn from it.
        finetuned: the run's fine-tuned members.
        bootstrap: over the speakers of ``rows``.
    """
    members = rows.inputs.members
    pairs = [(member.name, member.of) for member in finetuned if {member.name, member.of} <= set(members)]
    differences = {
        (name, start): bootstrap.difference(_metric(rows, name), _metric(rows, start))
        for name, start in pairs
    }
    return [
        "What fine-tuning was worth: " + compare_pair(*pair, difference, len(differences), rows.truth.primary)
        for pair, difference in holm_corrected(differences).items()
    ]


def _metric(rows: StackingRows, member: str) -> SumMetric:
    inputs = rows.inputs
    index = inputs.members.index(member)
    return rows.truth.metric(inputs.class_probabilities[:, index], inputs.attribute_values[:, index])
