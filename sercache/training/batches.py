"""From cached frames to padded batches on the device, in the training process.

Worker processes would make every cache layout slower: pickling costs more than the copy (DESIGN section 4).
"""

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from sercache.cache.lookahead import look_ahead
from sercache.cache.store import FeatureSet
from sercache.heads.protocol import HeadInput
from sercache.training.residency import ResidentFrames, fits_on
from sercache.training.streaming import StreamedFrames


class FrameReader(Protocol):
    """One feature set's part of every batch."""

    def announce(self, rows: NDArray[np.int64]) -> None:
        """Prepare for a batch of ``rows``, ``(B,)``, that comes soon."""

    def padded(
        self, rows: NDArray[np.int64], starts: NDArray[np.int64], counts: NDArray[np.int64]
    ) -> HeadInput:
        """Return ``counts`` frames of each of ``rows`` from ``starts`` on, ``(B,)`` each, on the device."""


class FrameSource:
    """The frames of a list of utterances in a member's feature sets, batch by batch.

    Args:
        feature_sets: M feature sets with one kept layer each.
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
        self.feature_sets = tuple(feature_sets)
        self.ids = tuple(ids)
        self.device = device
        places = [feature_set.places(self.ids) for feature_set in self.feature_sets]
        self.frame_counts = np.stack([one.counts for one in places], axis=1)
        self._readers: list[FrameReader] = []
        for feature_set, its in zip(self.feature_sets, places, strict=True):
            is_resident = fits_on(device, feature_set, its) if resident is None else resident
            reader = ResidentFrames if is_resident else StreamedFrames
            self._readers.append(reader(feature_set, its, device))

    @property
    def lengths(self) -> NDArray[np.int64]:
        """What the padding of a batch depends on: frames of all feature sets together, ``(N,)``."""
        total: NDArray[np.int64] = self.frame_counts.sum(axis=1)
        return total

    def batch(
        self,
        rows: NDArray[np.int64],
        max_frames: int | None = None,
        generator: np.random.Generator | None = None,
    ) -> list[HeadInput]:
        """Return the frames of ``rows`` on the device: one padded float32 :class:`HeadInput` per feature set.

        Args:
            rows: B positions in ``ids``.
            max_frames: longest stretch per clip; a longer clip is cut to a random stretch of it.
            generator: where the stretch begins; needed with ``max_frames``.
        """
        return next(self.batches([rows], max_frames, generator))

    def batches(
        self,
        batches: Sequence[NDArray[np.int64]],
        max_frames: int | None = None,
        generator: np.random.Generator | None = None,
    ) -> Iterator[list[HeadInput]]:
        """Yield :meth:`batch` of each of ``batches``, and have the system read ahead of them.

        Only reading is early: a batch is made, and its stretches are drawn, when it is asked for.
        """
        for rows, coming in look_ahead(batches):
            for announced in coming:
                for reader in self._readers:
                    reader.announce(announced)
            yield [
                reader.padded(rows, *_stretches(counts, max_frames, generator))
                for reader, counts in zip(self._readers, self.frame_counts[rows].T, strict=True)
            ]


def _stretches(
    counts: NDArray[np.int64], max_frames: int | None, generator: np.random.Generator | None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return where the stretch of each clip begins and how long it is, ``(B,)`` each, in frames."""
    if max_frames is None or generator is None or not (counts > max_frames).any():
        return np.zeros_like(counts), counts
    starts = generator.integers(0, np.maximum(counts - max_frames, 0) + 1)
    return starts, np.minimum(counts, max_frames)
