"""Numeric types of stored frames, and padding of several utterances to one array."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sercache.cache.fingerprint import StorageDtype
from sercache.errors import CacheError

STORED_AS: dict[StorageDtype, np.dtype[np.generic]] = {
    "float16": np.dtype("<f2"),
    "bfloat16": np.dtype("<u2"),
    "float32": np.dtype("<f4"),
}
"""The numpy dtype on disk; HDF5 has no bfloat16, so its bits are kept as unsigned integers."""

FLOAT16_LIMIT = 65504.0

FLOAT16_SAFE_PEAK = FLOAT16_LIMIT / 4
"""Largest magnitude in a first sample that leaves enough room for louder utterances in float16."""


def choose_dtype(peak: float) -> StorageDtype:
    """Return float16 where the largest magnitude of a first sample leaves room, else bfloat16.

    float16 is the finer one (2e-4 relative against 2e-3), bfloat16 reaches as far as float32.

    >>> choose_dtype(54.0), choose_dtype(30_000.0)
    ('float16', 'bfloat16')
    """
    return "float16" if peak <= FLOAT16_SAFE_PEAK else "bfloat16"


def to_storage(frames: NDArray[np.float32], dtype: StorageDtype) -> NDArray[np.generic]:
    """Convert finite float32 frames of any shape to the stored dtype, rounding to the nearest.

    Raises:
        CacheError: a value is too large for ``dtype``.
    """
    if dtype == "float32":
        return frames.astype("<f4", copy=False)
    if dtype == "float16":
        with np.errstate(over="ignore"):
            stored = frames.astype("<f2")
        overflows = not np.isfinite(stored).all()
    else:
        stored = _bfloat16_bits(frames)
        overflows = bool(((stored & 0x7F80) == 0x7F80).any())
    if overflows:
        raise CacheError(f"values up to {float(np.abs(frames).max()):.3g} do not fit into {dtype}")
    return stored


def from_storage(stored: NDArray[np.generic], dtype: StorageDtype) -> NDArray[np.float32]:
    """Return stored frames as float32, exactly."""
    if dtype == "bfloat16":
        return (stored.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return stored.astype(np.float32)


def _bfloat16_bits(frames: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Return the upper half of float32, which is a bfloat16, rounded to nearest, ties to even."""
    bits = np.ascontiguousarray(frames, dtype=np.float32).view(np.uint32)
    tie_to_even = (bits >> np.uint32(16)) & np.uint32(1)
    return ((bits + np.uint32(0x7FFF) + tie_to_even) >> np.uint32(16)).astype("<u2")


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
