"""Masks, lengths and dropout of sequences in one batch; padding never changes a result."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

_STEPS = 1 << 16
"""Shares are multiples of 1/65536: two random bytes decide about each value."""

_WORTH_A_CALL = 40_000
"""As many wasted attention weights take as long as one more call."""

_MOST_WEIGHTS = 1 << 21
"""Weights of a group that is larger than one clip: as many as fit into the CPU's caches."""


def dropout(values: Tensor, share: float, training: bool) -> Tensor:
    """Return ``values`` with a ``share`` of them zeroed and the others scaled up, in training only."""
    if not training or not share:
        return values
    if values.device.type != "cpu":
        return F.dropout(values, share)
    return values * kept_on_cpu(values.shape, share, values.dtype)


def kept_on_cpu(shape: tuple[int, ...] | torch.Size, share: float, dtype: torch.dtype) -> Tensor:
    """Return factors: 0 for a ``share`` of the values, ``1 / (1 - share)`` for the others.

    Torch draws a number for every value from one sequential generator, which takes a large part of a
    training step on a CPU. SFC64 gives four decisions at a time; torch's generator seeds it.
    """
    size = int(np.prod(shape))
    seed = int(torch.randint(1 << 62, ()))
    words = np.random.SFC64(seed).random_raw(-(-size // 4))
    draws = torch.from_numpy(words.view(np.int16)[:size]).view(shape)
    dropped = round(share * _STEPS)
    return (draws >= dropped - _STEPS // 2).to(dtype).mul_(_STEPS / (_STEPS - dropped))


def masked_mean(frames: Tensor, mask: Tensor) -> Tensor:
    """Return the mean over valid frames, ``(B, D)``; zero for a clip without any.

    Args:
        frames: ``(B, T, D)``.
        mask: ``(B, T)`` bool, True where valid.
    """
    weights = mask.unsqueeze(-1).to(frames.dtype)  # (B, T, 1)
    return (frames * weights).sum(dim=1) / weights.sum(dim=1).clamp_min(1)  # (B, D)


def masked_deviation(frames: Tensor, mask: Tensor, mean: Tensor) -> Tensor:
    """Return the standard deviation over valid frames around ``mean`` ``(B, D)``; ``(B, D)``."""
    squares = (frames - mean.unsqueeze(1)).square()  # (B, T, D)
    return masked_mean(squares, mask).clamp_min(1e-8).sqrt()


def attendable(mask: Tensor) -> Tensor:
    """Return the frames that attention may read, ``(B, T)`` bool: the valid ones.

    Where a clip has none, every frame is allowed, because a softmax over nothing is NaN. The result is
    finite and is masked out later.
    """
    return mask | ~mask.any(dim=1, keepdim=True)  # (B, T)


@dataclass(frozen=True)
class Group:
    """Clips that attention computes together, padded to the longest of them.

    Attributes:
        rows: ``(n, T)`` int64, the row of each frame; a clip's first row where it has no more frames.
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
    """``counts``: frames of each of B clips, whose rows follow one another."""

    counts: tuple[int, ...]

    @cached_property
    def clip_of_row(self) -> Tensor:
        """The clip of each row, ``(N,)`` int64."""
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
        """The index of each row among the valid rows of all groups, ``(N,)`` int64."""
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
