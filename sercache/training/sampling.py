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
    lengths: NDArray[np.int64],
    ranks: NDArray[np.int64],
    batch_size: int,
    generator: np.random.Generator,
) -> list[NDArray[np.int64]]:
    """Return an epoch's batches: every row once, rows of similar length together, another order every time.

    Rows are taken in pools in the order of their ranks, so heads that learn from overlapping rows want the
    same frames at about the same time, and each is read from disk once for all of them.

    Args:
        lengths: ``(N,)`` what padding depends on, for example frames.
        ranks: ``(N,)`` each row's place in this epoch's random order.
        batch_size: rows per batch; one batch may be smaller.
        generator: the order of a pool's batches.

    Returns:
        Row numbers, one array per batch.
    """
    order = np.argsort(ranks, kind="stable")
    pool_batches = min(_POOL_BATCHES, math.ceil(len(order) / batch_size / 2))
    pool = batch_size * max(1, pool_batches)
    batches: list[NDArray[np.int64]] = []
    for start in range(0, len(order), pool):
        rows = order[start : start + pool]
        rows = rows[np.argsort(lengths[rows], kind="stable")]
        its = [rows[first : first + batch_size] for first in range(0, len(rows), batch_size)]
        batches.extend(its[index] for index in generator.permutation(len(its)))
    return batches


def balanced_draw(
    consensus: NDArray[np.int64],
    ranks: NDArray[np.int64],
    num_classes: int,
    no_agreement_share: float,
) -> NDArray[np.int64]:
    """Draw a class-balanced epoch (MEDUSA, section 3, stage 2), another one for every random order.

    Every class is undersampled to the rarest one that has any row, and rows without a consensus class (X, O)
    join with ``no_agreement_share`` times as many. Where no row has a class, as in corpora with attributes
    alone, all rows are drawn.

    Args:
        consensus: ``(N,)`` of each training row, as :func:`sercache.corpus.targets.consensus` gives it.
        ranks: ``(N,)`` each row's place in this epoch's random order: the first ones are drawn.
        num_classes: C.
        no_agreement_share: rows without consensus, in units of one class's rows.

    Returns:
        Row numbers, sorted; none twice.
    """
    order = np.argsort(ranks, kind="stable")
    ordered = consensus[order]
    by_class = [order[ordered == index] for index in range(num_classes)]
    present = [rows for rows in by_class if len(rows)]
    without = order[(ordered == NO_AGREEMENT_INDEX) | (ordered == OTHER_INDEX)]
    if not present:
        return np.arange(len(consensus))
    size = min(len(rows) for rows in present)
    extra = round(no_agreement_share * size)
    return np.sort(np.concatenate([*(rows[:size] for rows in present), without[:extra]]))
