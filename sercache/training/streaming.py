"""Batches gathered from the memory-mapped shards, in the training process."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sercache.cache.padding import pad_into
from sercache.cache.store import FeatureSet, Places
from sercache.heads.protocol import HeadInput
from sercache.training.staging import StagingRing

TORCH_DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}


class StreamedFrames:
    """One feature set's frames, copied from its files for every batch.

    Args:
        feature_set: with L kept layers.
        places: of N utterances in it.
        device: where batches go.
    """

    def __init__(self, feature_set: FeatureSet, places: Places, device: torch.device) -> None:
        self.feature_set = feature_set
        self.places = places
        self.device = device
        self._is_checked = np.zeros(len(places), np.bool_)
        self._frames = StagingRing(TORCH_DTYPES[str(feature_set.spec.dtype)], device)
        self._counts = StagingRing(torch.int64, device)

    def announce(self, rows: NDArray[np.int64]) -> None:
        """Let the system read the frames of ``rows``, ``(B,)``, ahead of their batch."""
        for layer in self.feature_set.layers:
            self.feature_set.will_need(self.places, rows, layer)

    def padded(
        self, rows: NDArray[np.int64], starts: NDArray[np.int64], counts: NDArray[np.int64]
    ) -> HeadInput:
        """Return a padded float32 batch on the device: ``(B, T, D)``, or ``(B, T, L, D)`` of several layers.

        Args:
            rows: ``(B,)`` positions among the N utterances.
            starts: ``(B,)`` where each clip begins within its utterance, in frames.
            counts: ``(B,)`` how many frames of it are taken.

        Raises:
            CacheError: frames are not what was written.
        """
        time = max(1, int(counts.max()))
        self._check(rows)
        layers = self.feature_set.layers
        staged = self._frames.take((len(rows), time, len(layers), self.feature_set.dim))
        begins = self.places.starts[rows] + starts
        target = as_numpy(staged)
        for number, layer in enumerate(layers):
            views = self.feature_set.views(self.places.shards[rows], begins, counts, layer)
            pad_into(target[:, :, number], views)
        frames = self._frames.send(staged if len(layers) > 1 else staged.squeeze(2), torch.float32)
        staged_counts = self._counts.take((len(rows), 1))
        staged_counts[:, 0] = torch.from_numpy(counts)
        valid = self._counts.send(staged_counts)
        return HeadInput(frames, torch.arange(time, device=self.device) < valid)

    def _check(self, rows: NDArray[np.int64]) -> None:
        """Compare what was not read before with its checksum: once, as that takes as long as the copy."""
        unchecked = rows[~self._is_checked[rows]]
        if len(unchecked):
            self.feature_set.check(self.places[unchecked])
            self._is_checked[unchecked] = True


def as_numpy(tensor: Tensor) -> NDArray[Any]:
    """Return a CPU tensor as numpy sees it; bfloat16, which numpy lacks, as uint16."""
    array: NDArray[Any] = (tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor).numpy()
    return array
