"""Frames of several utterances, side by side in one padded array."""

from collections.abc import Iterable
from typing import Any

from numpy.typing import NDArray


def pad_into(target: NDArray[Any], clips: Iterable[NDArray[Any]]) -> None:
    """Copy one clip into each row, and zeros behind it.

    Args:
        target: ``(B, T, D)``; best the same memory for every batch, fresh memory costs as much as the copy.
        clips: B arrays ``(T_i, D)`` of the same dtype, none longer than T.
    """
    for row, frames in zip(target, clips, strict=True):
        count = len(frames)
        row[:count] = frames
        row[count:] = 0
