"""Sequences of different lengths in one batch, in the layout that suits the device.

On a CPU they are packed: one clip's frames after the other's, so nothing is computed on padding except some
attention, which computes clips of similar length together. On a GPU they are
padded to one length and masked: one kernel for all clips takes less time than many small ones.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, Self

import torch
from torch import Tensor
from torch.nn import functional as F

from sercache.heads.masking import Group, Lengths, attendable, kept_on_cpu, masked_mean


class Sequences(Protocol):
    """The frames of B clips.

    ``frames`` has the features last; the dimensions before depend on the layout.
    """

    @property
    def frames(self) -> Tensor:
        """All frames."""
        ...

    def with_frames(self, frames: Tensor) -> Self:
        """Return sequences of the same lengths with other frames."""
        ...

    def attend(self, projected: Tensor, heads: int, dropout: float) -> Tensor:
        """Return scaled dot-product attention within each clip (Vaswani et al. 2017, eq. 1).

        Args:
            projected: queries, keys and values side by side, ``(..., 3 d)``.
            heads: into which d is divided.
            dropout: share of the attention weights to drop.
        """
        ...

    def mean(self) -> Tensor:
        """Return each clip's mean frame, ``(B, d)``; zero for a clip without frames."""
        ...

    def followed_by(self, others: Sequence[Self]) -> Self:
        """Return each clip's frames followed by its frames in ``others``."""
        ...


def arrange(frames: Tensor, mask: Tensor) -> Sequences:
    """Return a padded batch in the layout that suits its device.

    Args:
        frames: ``(B, T, d)``.
        mask: ``(B, T)`` bool, True where valid.
    """
    if frames.device.type == "cpu" and not torch.compiler.is_compiling():
        return Packed(frames[mask], Lengths(tuple(mask.sum(dim=1).tolist())))
    return Padded(frames, mask)


@dataclass(frozen=True)
class Packed:
    """``frames`` ``(N, d)``: the valid frames of B clips, one clip after the other; ``lengths`` of each."""

    frames: Tensor
    lengths: Lengths

    def with_frames(self, frames: Tensor) -> "Packed":
        """Return sequences of the same lengths with other frames."""
        return Packed(frames, self.lengths)

    def attend(self, projected: Tensor, heads: int, dropout: float) -> Tensor:
        """Return attention within each clip, ``(N, d)``."""
        width = projected.shape[1] // 3
        attended = [
            _attend_group(projected, group, heads, dropout)[group.valid] for group in self.lengths.groups
        ]
        if not attended:
            return projected[:, :width]
        return torch.cat(attended).index_select(0, self.lengths.order_of_groups)  # (N, d)

    def mean(self) -> Tensor:
        """Return each clip's mean frame, ``(B, d)``."""
        lengths = self.lengths
        sums = self.frames.new_zeros(len(lengths.counts), self.frames.shape[1])  # (B, d)
        counts = torch.tensor(lengths.counts, dtype=self.frames.dtype).clamp_min(1)
        return sums.index_add(0, lengths.clip_of_row, self.frames) / counts.unsqueeze(1)

    def followed_by(self, others: Sequence["Packed"]) -> "Packed":
        """Return each clip's frames followed by its frames in ``others``."""
        parts = [self, *others]
        counts = [part.lengths.counts for part in parts]
        clips = torch.cat([part.lengths.clip_of_row for part in parts])
        order = torch.argsort(clips, stable=True)
        frames = torch.cat([part.frames for part in parts]).index_select(0, order)
        return Packed(frames, Lengths(tuple(map(sum, zip(*counts, strict=True)))))


def _attend_group(projected: Tensor, group: Group, heads: int, dropout: float) -> Tensor:
    """Return ``(n, T, d)`` of the n clips of a group; arbitrary where there is no frame."""
    count, time = group.rows.shape
    gathered = projected.index_select(0, group.rows.flatten()).view(
        count, time, 3, heads, -1
    )  # (n, T, 3, heads, d / heads)
    query, key, value = gathered.permute(2, 0, 3, 1, 4)  # each (n, heads, T, d / heads)
    mask = None if group.is_full else group.valid[:, None, None, :]
    if not dropout:
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    else:
        scores = (query * query.shape[-1] ** -0.5) @ key.transpose(2, 3)  # (n, heads, T, T)
        if mask is not None:
            scores = scores.masked_fill(~mask, float("-inf"))
        weights = torch.softmax(scores, dim=-1)
        attended = (weights * kept_on_cpu(weights.shape, dropout, weights.dtype)) @ value
    return attended.transpose(1, 2).flatten(2)  # (n, T, d)


@dataclass(frozen=True)
class Padded:
    """``frames`` ``(B, T, d)``; ``mask`` ``(B, T)`` bool, True where valid."""

    frames: Tensor
    mask: Tensor

    def with_frames(self, frames: Tensor) -> "Padded":
        """Return sequences of the same lengths with other frames."""
        return Padded(frames, self.mask)

    def attend(self, projected: Tensor, heads: int, dropout: float) -> Tensor:
        """Return attention within each clip, ``(B, T, d)``; arbitrary but finite at padding."""
        batch, time, threefold = projected.shape
        width = threefold // 3
        split = projected.view(batch, time, 3, heads, width // heads)  # (B, T, 3, heads, d / heads)
        query, key, value = split.permute(2, 0, 3, 1, 4)  # each (B, heads, T, d / heads)
        attended = F.scaled_dot_product_attention(
            query, key, value, attn_mask=attendable(self.mask)[:, None, None, :], dropout_p=dropout
        )
        return attended.transpose(1, 2).reshape(batch, time, width)  # (B, T, d)

    def mean(self) -> Tensor:
        """Return each clip's mean valid frame, ``(B, d)``."""
        return masked_mean(self.frames, self.mask)

    def followed_by(self, others: Sequence["Padded"]) -> "Padded":
        """Return each clip's frames followed by its frames in ``others``."""
        parts = [self, *others]
        return Padded(
            torch.cat([part.frames for part in parts], dim=1), torch.cat([part.mask for part in parts], dim=1)
        )
