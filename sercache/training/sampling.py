"""Which rows make up a batch, and which rows an epoch."""

import math

import numpy as np
from numpy.typing import NDArray

from sercache.corpus.targets import NO_AGREEMENT_INDEX, OTHER_INDEX

_POOL_BATCHES = 16
"""Batches that are sorted by length together: enough to save most padding, few enough to stay random.

Never more than about half of an epoch: sorting all rows would make the same batches in every epoch.
"""


def epoch_batches(
    lengths: NDArray[np.int64], batch_size: int, generator: np.random.Generator
) -> list[NDArray[np.int64]]:
    """Return an epoch's batches: every row once, rows of similar length together, another order every time.

    Args:
        lengths: ``(N,)`` what padding depends on, for example frames.
        batch_size: rows per batch; one batch may be smaller.
        generator: the source of randomness.

    Returns:
        Row numbers, one array per batch, in random order.
    """
    order = generator.permutation(len(lengths))
    pool_batches = min(_POOL_BATCHES, math.ceil(len(order) / batch_size / 2))
    pool = batch_size * max(1, pool_batches)
    batches: list[NDArray[np.int64]] = []
    for start in range(0, len(order), pool):
        rows = order[start : start + pool]
        rows = rows[np.argsort(lengths[rows], kind="stable")]
        batches.extend(rows[first : first + batch_size] for first in range(0, len(rows), batch_size))
    return [batches[index] for index in generator.permutation(len(batches))]


def balanced_draw(
    consensus: NDArray[np.int64],
    num_classes: int,
    no_agreement_share: float,
    generator: np.random.Generator,
) -> NDArray[np.int64]:
    """Draw a class-balanced epoch (MEDUSA, section 3, stage 2); call it anew for every epoch.

    Every class is undersampled to the rarest one that has any row, and rows without a consensus class (X, O)
    join with ``no_agreement_share`` times as many. Where no row has a class, all rows are drawn.

    Args:
        consensus: ``(N,)`` of each training row, as :func:`sercache.corpus.targets.consensus` gives it.
        num_classes: C.
        no_agreement_share: rows without consensus, in units of one class's rows.
        generator: the source of randomness.

    Returns:
        Row numbers, sorted; none twice.
    """
    by_class = [np.flatnonzero(consensus == index) for index in range(num_classes)]
    present = [rows for rows in by_class if len(rows)]
    without = np.flatnonzero((consensus == NO_AGREEMENT_INDEX) | (consensus == OTHER_INDEX))
    if not present:
        return np.arange(len(consensus))
    size = min(len(rows) for rows in present)
    extra = min(len(without), round(no_agreement_share * size))
    drawn = [generator.choice(rows, size, replace=False) for rows in present]
    drawn.append(generator.choice(without, extra, replace=False) if extra else without[:0])
    return np.sort(np.concatenate(drawn))
