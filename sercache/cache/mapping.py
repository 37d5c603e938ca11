"""Memory-mapped shards, and the prefetch of the frames that are needed next."""

import mmap
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import xxhash
from numpy.typing import NDArray

from sercache.cache.fingerprint import FeatureSpec
from sercache.cache.frames import STORED_AS
from sercache.cache.index import Index
from sercache.cache.shard import USER_BLOCK_BYTES
from sercache.errors import CacheError

try:
    import resource
except ImportError:
    resource = None  # type: ignore[assignment]

Batch = TypeVar("Batch")

LOOK_AHEAD = 4
"""Batches that are prefetched: one keeps a disk half busy, eight gain nothing over four."""

_TRIALS = 8
_KEPT_OF_IDLE = 64

_READ_AHEAD_BYTES = 128 << 10
"""Asked for at once: of more, Linux may read no more than the disk's read-ahead, by default these 128 KiB."""


class MappedShard:
    """A shard whose frames are views of the file.

    The system is advised that access is random. It then reads nothing that is not needed,
    but a page at a time: :meth:`prefetch` asks for all that a view is about to touch.
    """

    def __init__(self, folder: Path, index: Index, shard: int, spec: FeatureSpec) -> None:
        """Map a shard of a feature set.

        Args:
            folder: the feature set's.
            index: of the feature set.
            shard: its number among the shards of ``index``.
            spec: of the feature set.

        Raises:
            CacheError: the file is not what it was; reading past its end would crash.
        """
        stamp, digest = index.stamps[shard], int(index.digests[shard])
        path = folder / stamp.name
        with path.open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            if size != stamp.size_bytes:
                raise CacheError(f"{path}: has {size:,} bytes now, {stamp.size_bytes:,} when it was opened")
            if xxhash.xxh3_64_intdigest(stream.read(USER_BLOCK_BYTES)) != digest:
                raise CacheError(f"{path}: was replaced since its feature set was opened; start again")
            self._content = mmap.mmap(stream.fileno(), size, access=mmap.ACCESS_READ)
        if hasattr(mmap, "MADV_RANDOM"):
            self._content.madvise(mmap.MADV_RANDOM)
        shape, dtype = (index.num_frames(shard), spec.dim), STORED_AS[spec.dtype or "float32"]
        self._positions: list[int] = index.frame_positions[shard].tolist()
        self.planes: tuple[NDArray[Any], ...] = tuple(
            np.ndarray(shape, dtype, self._content, position) if shape[0] else np.empty(shape, dtype)
            for position in self._positions
        )
        """One read-only ``(sum T, D)`` array per layer, in the stored dtype."""
        self._frame_bytes = spec.dim * dtype.itemsize

    def prefetch(self, layer: int, start: int, count: int) -> None:
        """Let the system read ``count`` frames of a layer from ``start`` on, without waiting for them."""
        if not hasattr(mmap, "MADV_WILLNEED"):
            return
        begin = self._positions[layer] + start * self._frame_bytes
        end = begin + count * self._frame_bytes
        begin -= begin % mmap.PAGESIZE
        for piece in range(begin, end, _READ_AHEAD_BYTES):
            self._content.madvise(mmap.MADV_WILLNEED, piece, min(_READ_AHEAD_BYTES, end - piece))


def look_ahead(batches: Sequence[Batch]) -> Iterator[tuple[Batch, Sequence[Batch]]]:
    """Yield each batch, and the batches to prefetch before it is read; every batch is prefetched once.

    >>> [(batch, len(coming)) for batch, coming in look_ahead("abcdefg")]
    [('a', 5), ('b', 1), ('c', 1), ('d', 0), ('e', 0), ('f', 0), ('g', 0)]
    """
    for number, batch in enumerate(batches):
        first = number + LOOK_AHEAD if number else 0
        yield batch, batches[first : number + LOOK_AHEAD + 1]


class PrefetchThrottle:
    """Decides which prefetches are made.

    To prefetch frames that are in memory already costs a third of copying them. So while this process reads
    nothing from disk, by a prefetch or otherwise, only one of 64 is made.
    """

    def __init__(self) -> None:
        self._reads = -1
        self._idle = 0

    def count_and_decide(self) -> bool:
        """Count a prefetch that is wanted, and return whether it should be made."""
        if resource is None:
            return True
        usage = resource.getrusage(resource.RUSAGE_SELF)
        if (reads := usage.ru_inblock + usage.ru_majflt) != self._reads:
            self._reads, self._idle = reads, 0
        self._idle += 1
        return self._idle <= _TRIALS or self._idle % _KEPT_OF_IDLE == 0
