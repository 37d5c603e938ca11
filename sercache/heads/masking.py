"""Sequences of different lengths in one batch: nothing here lets padding leak into a result."""

from torch import Tensor


def masked_mean(frames: Tensor, mask: Tensor) -> Tensor:
    """Return the mean over valid frames, ``(B, D)``; zero for a clip without any.

    Args:
        frames: ``(B, T, D)``.
        mask: ``(B, T)`` bool, True where valid.
    """
    weights = mask.unsqueeze(-1).to(frames.dtype)
    return (frames * weights).sum(dim=1) / weights.sum(dim=1).clamp_min(1)


def masked_deviation(frames: Tensor, mask: Tensor, mean: Tensor) -> Tensor:
    """Return the standard deviation over valid frames around ``mean`` ``(B, D)``; ``(B, D)``."""
    squares = (frames - mean.unsqueeze(1)).square()
    return masked_mean(squares, mask).clamp_min(1e-8).sqrt()


def attendable(mask: Tensor) -> Tensor:
    """Return which frames attention may look at, ``(B, T)`` bool: the valid ones.

    Where a clip has none at all, every frame is allowed: a softmax over nothing is NaN. What comes of it is
    finite and is masked out later.
    """
    return mask | ~mask.any(dim=1, keepdim=True)
