"""Sequences of different lengths in one batch, laid out as the device computes them best.

On a CPU they are packed: one clip's frames after the other's, so nothing is ever computed on padding, and
attention goes clip by clip, in memory that its caches hold. On a GPU they are padded to one length and
masked: a kernel for all clips costs less than many small ones.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, Self

import torch
from torch import Tensor
from torch.nn import functional as F

from sercache.heads.dropout import kept_on_cpu
from sercache.heads.masking import attendable, masked_mean


class Sequences(Protocol):
    """The frames of B clips.

    ``frames`` has the features last; all that comes before them is the layout's own business.
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
    """Lay a padded batch out for its device.

    Args:
        frames: ``(B, T, d)``.
        mask: ``(B, T)`` bool, True where valid.
    """
    if frames.device.type == "cpu":
        return Packed(frames[mask], tuple(mask.sum(dim=1).tolist()))
    return Padded(frames, mask)


@dataclass(frozen=True)
class Packed:
    """``frames`` ``(N, d)``: the valid frames of B clips, one clip after the other; ``counts`` of each."""

    frames: Tensor
    counts: tuple[int, ...]

    def with_frames(self, frames: Tensor) -> "Packed":
        """Return sequences of the same lengths with other frames."""
        return Packed(frames, self.counts)

    def attend(self, projected: Tensor, heads: int, dropout: float) -> Tensor:
        """Return attention within each clip, ``(sum of counts, d)``."""
        width = projected.shape[1] // 3
        weights_per_clip = [heads * count * count for count in self.counts]
        kept: Sequence[Tensor | None] = [None] * len(self.counts)
        if dropout:
            kept = torch.split(
                kept_on_cpu((sum(weights_per_clip),), dropout, torch.float32), weights_per_clip
            )
        attended = [
            _attend_clip(clip.view(count, 3, heads, width // heads), its)
            for clip, count, its in zip(self._clips(projected), self.counts, kept, strict=True)
            if count
        ]
        return torch.cat(attended) if attended else projected[:, :width]

    def mean(self) -> Tensor:
        """Return each clip's mean frame, ``(B, d)``."""
        return torch.stack([clip.sum(dim=0) / max(1, len(clip)) for clip in self._clips(self.frames)])

    def followed_by(self, others: Sequence["Packed"]) -> "Packed":
        """Return each clip's frames followed by its frames in ``others``."""
        parts = [self, *others]
        clips = zip(*(part._clips(part.frames) for part in parts), strict=True)
        counts = tuple(map(sum, zip(*(part.counts for part in parts), strict=True)))
        return Packed(torch.cat([piece for clip in clips for piece in clip]), counts)

    def _clips(self, values: Tensor) -> tuple[Tensor, ...]:
        return torch.split(values, list(self.counts))


def _attend_clip(projected: Tensor, kept: Tensor | None) -> Tensor:
    """Return ``(T, d)`` of one clip's ``(T, 3, heads, d / heads)``."""
    query, key, value = projected.permute(1, 2, 0, 3)  # each (heads, T, d / heads)
    if kept is None:
        attended = F.scaled_dot_product_attention(query.unsqueeze(0), key.unsqueeze(0), value.unsqueeze(0))[0]
    else:
        scores = (query * query.shape[-1] ** -0.5) @ key.transpose(1, 2)
        weights = torch.softmax(scores, dim=-1)
        attended = (weights * kept.view(weights.shape).to(weights.dtype)) @ value
    return attended.transpose(0, 1).flatten(1)


@dataclass(frozen=True)
class Padded:
    """``frames`` ``(B, T, d)``; ``mask`` ``(B, T)`` bool, True where valid."""

    frames: Tensor
    mask: Tensor

    def with_frames(self, frames: Tensor) -> "Padded":
        """Return sequences of the same lengths with other frames."""
        return Padded(frames, self.mask)

    def attend(self, projected: Tensor, heads: int, dropout: float) -> Tensor:
        """Return attention within each clip, ``(B, T, d)``; what padding gets is arbitrary, but finite."""
        batch, time, threefold = projected.shape
        width = threefold // 3
        query, key, value = projected.view(batch, time, 3, heads, width // heads).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(
            query, key, value, attn_mask=attendable(self.mask)[:, None, None, :], dropout_p=dropout
        )
        return attended.transpose(1, 2).reshape(batch, time, width)

    def mean(self) -> Tensor:
        """Return each clip's mean valid frame, ``(B, d)``."""
        return masked_mean(self.frames, self.mask)

    def followed_by(self, others: Sequence["Padded"]) -> "Padded":
        """Return each clip's frames followed by its frames in ``others``."""
        parts = [self, *others]
        return Padded(
            torch.cat([part.frames for part in parts], dim=1), torch.cat([part.mask for part in parts], dim=1)
        )
