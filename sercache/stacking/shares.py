"""How much each member counts in a stacker's predictions: the mean size of its Shapley values."""

from collections.abc import Sequence

import numpy as np

from sercache.stacking.rows import Floats, StackingInputs

EXTRAS = "extras"
"""Name of the share of all extras together."""

EXPLAINED_ROWS = 2000
"""Shapley values are averaged over so many rows: more would not move a mean that is printed in per cent."""


def equal_shares(members: Sequence[str]) -> dict[str, float]:
    """Return the same share for each of M names."""
    return dict.fromkeys(members, 1 / len(members))


def shares_of(contributions: Floats, inputs: StackingInputs) -> dict[str, float]:
    """Return each member's share of the mean absolute contribution; empty where nothing contributes.

    Args:
        contributions: ``(N, F, K)``, the Shapley value of each column of ``inputs.features()`` for each
            output. Those of a member add up; all extras together count like one more member.
        inputs: whose columns these are.
    """
    members = len(inputs.members)
    columns = contributions.shape[1] - len(inputs.extras)
    of_members = contributions[:, :columns]  # (N, M * (C + A), K)
    by_member = of_members.reshape(
        len(contributions), members, -1, contributions.shape[2]
    )  # (N, M, C + A, K)
    sizes = np.abs(by_member.sum(axis=2)).mean(axis=(0, 2)).tolist()  # (M,)
    names = list(inputs.members)
    if inputs.extras:
        sizes.append(float(np.abs(contributions[:, columns:].sum(axis=1)).mean()))
        names.append(EXTRAS)
    total = sum(sizes)
    return {name: size / total for name, size in zip(names, sizes, strict=True)} if total > 0 else {}


def linear_shares(features: Floats, weight: Floats, inputs: StackingInputs) -> dict[str, float]:
    """Return the shares in ``features @ weight``.

    The Shapley value of a column of a linear function is ``weight * (x - mean)`` (Lundberg and Lee 2017,
    section 4.2), of class logits taken here against the mean of all, which a softmax does not see.

    Args:
        features: ``(N, F)``, made of ``inputs`` column by column.
        weight: ``(F, K)``, of the classes or, where there are none, of the attributes.
        inputs: whose columns these are.
    """
    rows = np.asarray(features[:EXPLAINED_ROWS] - features.mean(axis=0))
    centred = weight - weight.mean(axis=1, keepdims=True) if inputs.classes else weight
    return shares_of(rows[:, :, None] * centred, inputs)
