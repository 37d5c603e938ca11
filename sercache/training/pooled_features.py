"""Statistics over time of all utterances of a feature set: one table, read from the cache once."""

import hashlib
import mmap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from sercache.cache.store import FeatureSet
from sercache.encoders.network import batches_by_length
from sercache.errors import CacheError, Interrupted
from sercache.events import QUIET, Context, Event, ShouldStop
from sercache.files import new_file
from sercache.heads.pooled_linear import pool_statistics
from sercache.training.batches import FrameSource
from sercache.training.standardize import SpeakerStatistics

_IN_MEMORY_BYTES = 512 << 20
"""A larger table is kept in a file, and read from it in blocks."""

_BATCH_BYTES = 64 << 20
_BLOCK_ROWS = 2048

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class PooledTable:
    """The pooled statistics of N utterances in one feature set.

    Attributes:
        values: ``(N, S, L, D)`` float32: statistic, layer, feature; zero where ``present`` is False.
        present: ``(N,)`` bool, whether the utterance has frames.
    """

    values: NDArray[np.float32]
    present: NDArray[np.bool_]

    @property
    def features(self) -> int:
        """Pooled numbers of an utterance: S x L x D."""
        return int(np.prod(self.values.shape[1:]))

    def blocks(self, rows: NDArray[np.int64]) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        """Yield ``rows`` ``(R,)`` in order, some at a time: their positions, and ``(B, S, L, D)``."""
        for first in range(0, len(rows), _BLOCK_ROWS):
            part = slice(first, min(first + _BLOCK_ROWS, len(rows)))
            yield part, self.values[rows[part]]
            if isinstance(self.values, np.memmap):  # read pages would count as this process's memory
                self.values._mmap.madvise(mmap.MADV_DONTNEED)  # type: ignore[attr-defined]


@dataclass(frozen=True)
class PooledRows:
    """Pooled statistics of some utterances, standardised, their blocks scaled: N rows of P features.

    A block is one statistic of one layer, D features; those whose scale is 0 are left out of the features.

    Attributes:
        tables: of each feature set, of all utterances.
        rows: ``(N,)`` positions in the tables.
        statistics: of each feature set, mean and scale ``(S, L, D)``.
        scales: of each feature set, ``(S, L)``: what each block is multiplied by.
    """

    tables: Sequence[PooledTable]
    rows: NDArray[np.int64]
    statistics: Sequence[tuple[Floats, Floats]]
    scales: Sequence[Floats]

    @property
    def shape(self) -> tuple[int, int]:
        """N and P."""
        features = sum(
            int(np.count_nonzero(scale)) * table.values.shape[3]
            for scale, table in zip(self.scales, self.tables, strict=True)
        )
        return len(self.rows), features

    def take(self, rows: NDArray[np.int64]) -> "PooledRows":
        """Return some of the rows, by their positions among these."""
        return PooledRows(self.tables, self.rows[rows], self.statistics, self.scales)

    def blocks(self) -> Iterator[tuple[slice, Floats]]:
        """Yield the rows in order, ``(B, P)`` at a time."""
        kept = [scale > 0 for scale in self.scales]
        for parts in zip(*(table.blocks(self.rows) for table in self.tables), strict=True):
            where = parts[0][0]
            scaled = [
                self.scaled(index, self.rows[where], values, kept[index])
                for index, (_, values) in enumerate(parts)
            ]
            yield where, np.concatenate([values.reshape(len(values), -1) for values in scaled], axis=1)

    def gram(self, should_stop: ShouldStop) -> Floats:
        """Return the rows' inner products, ``(N, N)``."""
        gram = np.zeros((len(self.rows), len(self.rows)))
        for index, (table, scale) in enumerate(zip(self.tables, self.scales, strict=True)):
            for statistic in range(table.values.shape[1]):  # some at a time: all are a large copy
                refuse_to_go_on(should_stop)
                kept = np.zeros(scale.shape, np.bool_)
                kept[statistic] = scale[statistic] > 0
                scaled = self.scaled(index, self.rows, table.values[self.rows], kept)
                flat = scaled.reshape(len(scaled), -1)  # (N, L * D)
                gram += flat @ flat.T  # (N, N)
        return gram

    def scaled(
        self,
        index: int,
        positions: NDArray[np.int64],
        values: NDArray[np.float32],
        kept: NDArray[np.bool_],
    ) -> Floats:
        """Return some blocks of feature set ``index``, standardised and scaled, zero for absent rows.

        Args:
            index: of the feature set.
            positions: ``(B,)`` of the rows in the table.
            values: ``(B, S, L, D)`` of the rows.
            kept: ``(S, L)`` which blocks, K of them.

        Returns:
            ``(B, K, D)`` float64.
        """
        mean, scale = self.statistics[index]
        factor = scale[kept] * self.scales[index][kept][:, None]  # (K, D)
        scaled = (values[:, kept] - mean[kept]) * factor
        scaled[~self.tables[index].present[positions]] = 0.0
        return scaled

    def unscaled(self, weights: Floats) -> Floats:
        """Return weights ``(P, Q)`` as those of all standardised statistics, ``(sum S * L * D, Q)``."""
        parts, first = [], 0
        for table, scale in zip(self.tables, self.scales, strict=True):
            blocks = np.zeros((scale.size, table.values.shape[3], weights.shape[1]))
            kept = np.flatnonzero(scale.ravel())
            size = len(kept) * table.values.shape[3]
            kept_weights = weights[first : first + size].reshape(len(kept), *blocks.shape[1:])
            blocks[kept] = kept_weights * scale.ravel()[kept][:, None, None]
            parts.append(blocks.reshape(table.features, weights.shape[1]))
            first += size
        return np.concatenate(parts)


def pooled_table(
    feature_set: FeatureSet,
    ids: Sequence[str],
    statistics: Sequence[str],
    device: torch.device,
    folder: Path,
    *,
    speakers: SpeakerStatistics | None = None,
    context: Context = QUIET,
) -> PooledTable:
    """Pool every utterance's frames over time, as a head of the same statistics does.

    Args:
        feature_set: with L kept layers of D features.
        ids: N utterances; those that the feature set lacks have zeros.
        statistics: S names in :data:`~sercache.heads.pooled_linear.STATISTICS`.
        device: where pooling is computed.
        folder: where a table is kept that is too large for memory; found there again by a later call.
        speakers: what normalises the frames first; None leaves them as they are.
        context: receives events, and says when to stop.

    Raises:
        CacheError: frames are damaged, or not finite.
        Interrupted: ``context.should_stop`` returned True.
    """
    source = FrameSource([feature_set], ids, device, resident=False)
    if speakers is not None:
        source = source.normalized([speakers])
    counts = source.frame_counts[:, 0]
    shape = (len(ids), len(statistics), len(feature_set.layers), feature_set.dim)
    size = int(np.prod(shape)) * 4
    if size <= _IN_MEMORY_BYTES:
        values = np.zeros(shape, np.float32)
        _fill(values, source, counts, statistics, context)
        return PooledTable(values, counts > 0)
    normalized = [] if speakers is None else [f"speakers {speakers.digest}"]
    named = "\n".join([feature_set.spec.fingerprint, *statistics, *ids, *normalized])
    path = folder / f"{hashlib.sha256(named.encode()).hexdigest()[:24]}.float32"
    if not path.is_file() or path.stat().st_size != size:
        with new_file(path) as temporary:
            mapped = np.memmap(temporary, np.float32, "w+", shape=shape)
            _fill(mapped, source, counts, statistics, context)
            mapped.flush()
    return PooledTable(np.memmap(path, np.float32, "r", shape=shape), counts > 0)


def _fill(
    values: NDArray[np.float32],
    source: FrameSource,
    counts: NDArray[np.int64],
    statistics: Sequence[str],
    context: Context,
) -> None:
    """Write the statistics of every utterance that has frames into ``values`` ``(N, S, L, D)``."""
    (feature_set,) = source.feature_sets
    held = np.flatnonzero(counts > 0)
    most = max(1, _BATCH_BYTES // (4 * len(feature_set.layers) * feature_set.dim))
    batches = [held[rows] for rows in batches_by_length(counts[held].tolist(), most)]
    task, done = f"pooling {feature_set.folder.name}", 0
    for rows, (given,) in zip(batches, source.batches(batches), strict=True):
        if context.should_stop():
            raise Interrupted("stopped while features were pooled; nothing was written")
        pooled = pool_statistics(given.frames, given.mask, statistics)  # (B, S, D) or (B, S, L, D)
        found = pooled.reshape(len(rows), *values.shape[1:]).cpu().numpy()
        finite = np.isfinite(found).all(axis=(1, 2, 3))
        if not finite.all():
            raise CacheError(
                f"{feature_set.folder}: utterance '{source.ids[rows[int(np.argmin(finite))]]}' has frames "
                "that are no finite numbers; extract it again, or take it out of the corpus"
            )
        values[rows] = found
        done += len(rows)
        context.listener(Event("advance", task, done, len(held)))


def refuse_to_go_on(should_stop: ShouldStop) -> None:
    """Raise Interrupted if ``should_stop`` returns True."""
    if should_stop():
        raise Interrupted("stopped while a linear model was fitted; it is fitted anew")
