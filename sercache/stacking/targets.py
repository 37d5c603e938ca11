"""What the learning stackers share: whom to fit on, when to stop, what a class weighs."""

import numpy as np
from numpy.typing import NDArray

from sercache.corpus.folds import inner_slice
from sercache.stacking.rows import Floats, StackingRows


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
    return np.asarray(~np.isnan(rows.soft_targets).any(axis=1))


def class_weights(soft_targets: Floats, exponent: float) -> Floats:
    """Return ``(N / (C * n_c)) ** exponent`` (MEDUSA, section 3.3), 1 for a class that nobody voted for.

    Args:
        soft_targets: ``(N, C)`` without NaN.
        exponent: 0 weighs all classes alike, 1 makes each class count the same in total.
    """
    mass = soft_targets.sum(axis=0)
    ratio = np.divide(mass.sum(), len(mass) * mass, out=np.ones_like(mass), where=mass > 0)
    return np.asarray(ratio**exponent)
