"""How long the clips of a packed batch are, and which of them attention takes together."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_WORTH_A_CALL = 40_000
"""Attention weights that take as long as one more call: so many are computed for nothing rather than that."""

_MOST_WEIGHTS = 1 << 21
"""Weights of a group that is larger than one clip: what the nearer caches hold."""


@dataclass(frozen=True)
class Group:
    """Clips that attention takes together, padded to the longest of them.

    Attributes:
        rows: ``(n, T)`` int64, where each frame lies among all rows; a clip's first row where it has no more.
        valid: ``(n, T)`` bool.
    """

    rows: Tensor
    valid: Tensor

    @cached_property
    def is_full(self) -> bool:
        """Whether all clips are of one length."""
        return bool(self.valid.all())


@dataclass(frozen=True)
class Lengths:
    """``counts``: frames of each of B clips, whose rows lie one clip after the other."""

    counts: tuple[int, ...]

    @cached_property
    def clip_of_row(self) -> Tensor:
        """Which clip each row belongs to, ``(N,)`` int64."""
        return torch.from_numpy(np.repeat(np.arange(len(self.counts)), self.counts))

    @cached_property
    def groups(self) -> tuple[Group, ...]:
        """Clips of about one length; every clip that has frames is in one."""
        counts = np.asarray(self.counts, dtype=np.int64)
        begins = np.cumsum(counts) - counts
        groups = []
        for clips in self._grouped:
            steps = np.arange(counts[clips].max())
            valid = steps < counts[clips][:, None]
            rows = begins[clips][:, None] + np.where(valid, steps, 0)
            groups.append(Group(torch.from_numpy(rows), torch.from_numpy(valid)))
        return tuple(groups)

    @cached_property
    def order_of_groups(self) -> Tensor:
        """Where each row lies when the valid rows of all groups follow one another, ``(N,)`` int64."""
        rows = torch.cat([group.rows[group.valid] for group in self.groups])
        return torch.argsort(rows)

    @cached_property
    def _grouped(self) -> list[NDArray[np.int64]]:
        """Numbers of the clips of each group, the longest clips first."""
        grouped: list[list[int]] = []
        wasted = 0
        for clip in sorted(range(len(self.counts)), key=lambda clip: -self.counts[clip]):
            count = self.counts[clip]
            if not count:
                break
            if grouped:
                longest = self.counts[grouped[-1][0]] ** 2
                wasted += longest - count**2
                if wasted <= _WORTH_A_CALL and (len(grouped[-1]) + 1) * longest <= _MOST_WEIGHTS:
                    grouped[-1].append(clip)
                    continue
            grouped.append([clip])
            wasted = 0
        return [np.asarray(clips, dtype=np.int64) for clips in grouped]
