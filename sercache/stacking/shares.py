"""How much each member counts in what a stacker says: the mean size of its Shapley values."""

from collections.abc import Sequence

import numpy as np

from sercache.stacking.rows import Floats

EXPLAINED_ROWS = 2000
"""Shapley values are averaged over so many rows: more would not move a mean that is printed in per cent."""


def equal_shares(members: Sequence[str]) -> dict[str, float]:
    """Return the same share for each of M names."""
    return dict.fromkeys(members, 1 / len(members))


def shares_of(contributions: Floats, members: Sequence[str]) -> dict[str, float]:
    """Return each member's share of the mean absolute contribution; empty where nothing contributes.

    Args:
        contributions: ``(N, M, K)``, the Shapley value of a member's columns together, for each output.
        members: M names.

    >>> shares_of(np.array([[[3.0], [-1.0]], [[-3.0], [1.0]]]), ["a", "b"])
    {'a': 0.75, 'b': 0.25}
    """
    sizes = np.abs(contributions).mean(axis=(0, 2))
    total = float(sizes.sum())
    if not total > 0:
        return {}
    return dict(zip(members, (sizes / total).tolist(), strict=True))


def linear_shares(features: Floats, weight: Floats, members: Sequence[str]) -> dict[str, float]:
    """Return the shares in ``features @ weight``.

    The Shapley value of a column of a linear function is ``weight * (x - mean)`` (Lundberg and Lee 2017,
    section 4.2), taken here against the mean of all outputs, which a softmax does not see.

    Args:
        features: ``(N, M * P)``, P columns for each member.
        weight: ``(M * P, K)``.
        members: M names.
    """
    rows = np.asarray(features[:EXPLAINED_ROWS] - features.mean(axis=0))
    centred = weight - weight.mean(axis=1, keepdims=True)
    by_member = rows.reshape(len(rows), len(members), -1)
    weights = centred.reshape(len(members), -1, weight.shape[1])
    return shares_of(np.einsum("nmp,mpk->nmk", by_member, weights), members)
