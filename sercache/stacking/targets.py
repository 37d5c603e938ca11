"""What the learning stackers share: whom to fit on, when to stop, what a class weighs."""

import numpy as np
from numpy.typing import NDArray

from sercache.corpus.folds import inner_slice
from sercache.evaluation.metrics import log_loss
from sercache.stacking.rows import Floats, StackingInputs, StackingRows


def stopping_slice(rows: StackingRows, share: float, seed: int) -> tuple[StackingRows, StackingRows]:
    """Part ``rows`` into rows to fit on and rows of other speakers to stop on.

    Where all rows are of one speaker (or none names its own) there is nothing to stop on: that part is empty.
    """
    everyone = np.arange(len(rows), dtype=np.int64)
    if len(set(rows.speakers)) < 2:
        return rows, rows.take(everyone[:0])
    fit_ids, _ = inner_slice(rows.corpus, share, seed)
    fits = np.isin(np.asarray(rows.inputs.ids), np.asarray(fit_ids))
    return rows.where(fits), rows.where(~fits)


def has_class_target(rows: StackingRows) -> NDArray[np.bool_]:
    """Return ``(N,)``: whether the row counts in a class loss."""
    return np.asarray(~np.isnan(rows.soft_targets).any(axis=1) & bool(rows.inputs.classes))


def scaled_ratings(rows: StackingRows) -> Floats:
    """Return what raters said of the attributes, ``(N, A)`` from 0 to 1; NaN where nobody rated."""
    return scaled_to_ranges(rows.attribute_targets, rows.inputs)


def scaled_to_ranges(values: Floats, inputs: StackingInputs) -> Floats:
    """Return attribute values ``(..., A)`` with the ends of each scale at 0 and 1."""
    low = np.asarray([attribute.low for attribute in inputs.attributes], dtype=np.float64)
    high = np.asarray([attribute.high for attribute in inputs.attributes], dtype=np.float64)
    return np.asarray((values - low) / (high - low))


def prediction_loss(rows: StackingRows, class_probabilities: Floats, attribute_values: Floats) -> float:
    """Return what ranks predictions of equal primary score, the lower the better; NaN where nothing is known.

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
