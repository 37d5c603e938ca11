"""From cached frames to padded batches on the device, in the training process.

Worker processes would make every cache layout slower: pickling costs more than the copy.
"""

from collections.abc import Iterator, Sequence
from copy import copy
from functools import cached_property
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from sercache.cache.mapping import look_ahead
from sercache.cache.store import FeatureSet
from sercache.heads.protocol import HeadInput
from sercache.seeds import derive_seed
from sercache.training.gathering import (
    ResidentFrames,
    StreamedFrames,
    frames_budget,
    resident_parts,
    size_on_device,
)
from sercache.training.standardize import SpeakerStatistics


class FrameReader(Protocol):
    """One feature set's part of every batch."""

    def announce(self, rows: NDArray[np.int64]) -> None:
        """Prepare for a batch of ``rows``, ``(B,)``, that comes soon."""

    def padded(
        self, rows: NDArray[np.int64], starts: NDArray[np.int64], counts: NDArray[np.int64]
    ) -> HeadInput:
        """Return ``counts`` frames of each of ``rows`` from ``starts`` on, ``(B,)`` each, on the device."""


class FrameSource:
    """The frames of a list of utterances in one or more feature sets, batch by batch.

    Heads that train together select from one source. They share what lies on the device, what has been
    compared with its checksum, and, when two in a row ask for the very same batch, the batch.

    Args:
        feature_sets: M feature sets.
        ids: the utterances, N of them; one that a feature set lacks has no valid frames there.
        device: where batches go.
        resident: whether all frames are kept on the device; None for those that fit, on a GPU.

    Every utterance is compared with its checksum when it is read first; a CacheError says if it is damaged.
    """

    def __init__(
        self,
        feature_sets: Sequence[FeatureSet],
        ids: Sequence[str],
        device: torch.device,
        resident: bool | None = None,
    ) -> None:
        self.device = device
        self.ids = tuple(ids)
        self._whole = _Whole(feature_sets, self.ids, device, resident)
        self._rows = np.arange(len(self.ids))
        self._parts = np.arange(len(feature_sets))
        self._speakers: dict[int, tuple[SpeakerStatistics, NDArray[np.int64]]] = {}

    def select(self, ids: Sequence[str], feature_sets: Sequence[FeatureSet] | None = None) -> "FrameSource":
        """Return the source of some of the utterances, in some of the feature sets; None is all of them."""
        selected = copy(self)
        selected.ids = tuple(ids)
        selected._rows = np.asarray(
            [self._whole.index_of[utterance_id] for utterance_id in ids], dtype=np.int64
        )
        if feature_sets is not None:
            parts = [self._whole.feature_sets.index(wanted) for wanted in feature_sets]
            selected._parts = np.asarray(parts, dtype=np.int64)
        return selected

    def normalized(self, statistics: Sequence[SpeakerStatistics]) -> "FrameSource":
        """Return the same source with every speaker's frames standardised.

        Args:
            statistics: of each feature set, in the order of a batch.
        """
        normalized = copy(self)
        normalized._speakers = {
            part: (table, table.rows_of(self._whole.ids))
            for part, table in zip(self._parts.tolist(), statistics, strict=True)
        }
        return normalized

    @property
    def feature_sets(self) -> tuple[FeatureSet, ...]:
        """The feature sets, in the order of a batch."""
        return tuple(self._whole.feature_sets[part] for part in self._parts)

    @property
    def frame_counts(self) -> NDArray[np.int64]:
        """Frames of each utterance in each feature set, ``(N, M)``."""
        return self._whole.frame_counts[np.ix_(self._rows, self._parts)]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """What batches are sorted by: frames in all that this was selected from, ``(N,)``.

        It is the same for heads that read different feature sets, so that their batches are.
        """
        total: NDArray[np.int64] = self._whole.frame_counts[self._rows].sum(axis=1)
        return total

    def ranks(self, seed: int) -> NDArray[np.int64]:
        """Return each utterance's rank in a random order of all that this was selected from, ``(N,)``."""
        order = np.random.default_rng(seed).permutation(len(self._whole.frame_counts))
        ranks: NDArray[np.int64] = order[self._rows]
        return ranks

    @property
    def is_on_device(self) -> tuple[bool, ...]:
        """Whether each feature set lies whole on the device, or is streamed from the cache."""
        return tuple(part in self._whole.resident for part in self._parts.tolist())

    def batch(self, rows: NDArray[np.int64]) -> list[HeadInput]:
        """Return the frames of ``rows``, B positions in ``ids``, on the device.

        Returns:
            One padded float32 :class:`HeadInput` per feature set.
        """
        return next(self.batches([rows]))

    def batches(
        self, batches: Sequence[NDArray[np.int64]], max_frames: int | None = None, seed: int = 0
    ) -> Iterator[list[HeadInput]]:
        """Yield :meth:`batch` of each of ``batches``, and have the system read ahead of them.

        Args:
            batches: positions in ``ids``.
            max_frames: longest stretch per clip; a longer clip is cut to a random stretch of it.
            seed: where the stretches begin.
        """
        parts = self._parts.tolist()
        readers = [(self._whole.feature_sets[part], self._whole.reader(part)) for part in parts]
        for number, (rows, coming) in enumerate(look_ahead(batches)):
            for announced in coming:
                for _, reader in readers:
                    reader.announce(self._rows[announced])
            chosen = self._rows[rows]  # (B,)
            counts = self._whole.frame_counts[np.ix_(chosen, self._parts)]  # (B, M)
            inputs = []
            for part, (feature_set, reader), lengths in zip(parts, readers, counts.T, strict=True):
                where = derive_seed(seed, "stretch", number, feature_set.folder.name)
                given = reader.padded(chosen, *_stretches(lengths, max_frames, where))
                if part in self._speakers:
                    table, speaker_rows = self._speakers[part]
                    given = table.normalize(given, speaker_rows[chosen])
                inputs.append(given)
            yield inputs


class _Whole:
    """What all selections of a source share."""

    def __init__(
        self,
        feature_sets: Sequence[FeatureSet],
        ids: tuple[str, ...],
        device: torch.device,
        resident: bool | None,
    ) -> None:
        self.feature_sets = list(feature_sets)
        self.ids = ids
        self.device = device
        self.locations = [feature_set.locate(ids) for feature_set in feature_sets]
        self.frame_counts = np.stack([located.counts for located in self.locations], axis=1)  # (N, M)
        self._readers: dict[int, FrameReader] = {}
        # Decided once for all: one set on the device must leave room for what the others were promised.
        sizes = list(map(size_on_device, self.feature_sets, self.locations))
        if resident is None:
            self.resident = resident_parts(sizes, frames_budget(device))
        else:
            self.resident = frozenset(range(len(sizes))) if resident else frozenset()

    def reader(self, part: int) -> FrameReader:
        """Return the reader of a feature set, which is made when somebody first reads it."""
        if part not in self._readers:
            reader = ResidentFrames if part in self.resident else StreamedFrames
            frames = reader(self.feature_sets[part], self.locations[part], self.device)
            self._readers[part] = _LastBatch(frames)
        return self._readers[part]

    @cached_property
    def index_of(self) -> dict[str, int]:
        return {utterance_id: index for index, utterance_id in enumerate(self.ids)}


class _LastBatch:
    """Hands a batch out again to a head that asks for the one that another head just had."""

    def __init__(self, reader: FrameReader) -> None:
        self._reader = reader
        self._key: tuple[bytes, ...] = ()
        self._batch: HeadInput | None = None

    def announce(self, rows: NDArray[np.int64]) -> None:
        self._reader.announce(rows)

    def padded(
        self, rows: NDArray[np.int64], starts: NDArray[np.int64], counts: NDArray[np.int64]
    ) -> HeadInput:
        key = (rows.tobytes(), starts.tobytes(), counts.tobytes())
        if self._batch is None or key != self._key:
            self._batch = None  # its memory is free before the next one takes as much
            self._key, self._batch = key, self._reader.padded(rows, starts, counts)
        return self._batch


def _stretches(
    counts: NDArray[np.int64], max_frames: int | None, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return where the stretch of each clip begins and how long it is, ``(B,)`` each, in frames."""
    if max_frames is None or not (counts > max_frames).any():
        return np.zeros_like(counts), counts
    starts = np.random.default_rng(seed).integers(0, np.maximum(counts - max_frames, 0) + 1)
    return starts, np.minimum(counts, max_frames)
