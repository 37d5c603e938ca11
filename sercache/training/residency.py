"""Batches gathered on the GPU, from frames that were all brought there once."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from sercache.cache.store import FeatureSet, Places
from sercache.heads.protocol import HeadInput
from sercache.training.staging import StagingRing
from sercache.training.streaming import TORCH_DTYPES, as_numpy

_SHARE_OF_FREE_MEMORY = 0.5
"""What frames may take of a GPU: the head, its gradients and its batches need the rest."""

_CHUNK_BYTES = 32 << 20


class ResidentFrames:
    """One feature set's frames of some utterances, packed in the device's memory; batches are made there.

    Args:
        feature_set: with L kept layers.
        places: of N utterances in it.
        device: where the frames go.

    Raises:
        CacheError: frames are not what was written.
    """

    def __init__(self, feature_set: FeatureSet, places: Places, device: torch.device) -> None:
        self.device = device
        ends = np.cumsum(places.counts)
        self._begins = ends - places.counts
        self._num_frames = int(places.counts.sum())
        self._indices = StagingRing(torch.int64, device)
        dtype = TORCH_DTYPES[str(feature_set.spec.dtype)]
        layers = feature_set.layers
        frame_shape = (len(layers), feature_set.dim) if len(layers) > 1 else (feature_set.dim,)
        self._packed = torch.zeros((self._num_frames + 1, *frame_shape), dtype=dtype, device=device)
        staging = StagingRing(dtype, device)
        for rows in np.array_split(np.arange(len(places)), 1 + self._packed.nbytes // _CHUNK_BYTES):
            if not len(rows):
                continue
            begin, end = int(self._begins[rows[0]]), int(ends[rows[-1]])
            staged = staging.take((end - begin, len(layers), feature_set.dim))
            target = as_numpy(staged)
            for number, layer in enumerate(layers):
                np.concatenate(list(feature_set.stream(places[rows], layer)), out=target[:, number])
            feature_set.check(places[rows])
            staging.send_into(self._packed[begin:end], staged.view(end - begin, *frame_shape))

    def announce(self, rows: NDArray[np.int64]) -> None:
        """Do nothing: all frames are there."""

    def padded(
        self, rows: NDArray[np.int64], starts: NDArray[np.int64], counts: NDArray[np.int64]
    ) -> HeadInput:
        """Return a padded float32 batch on the device: ``(B, T, D)``, or ``(B, T, L, D)`` of several layers.

        Args:
            rows: ``(B,)`` positions among the N utterances.
            starts: ``(B,)`` where each clip begins within its utterance, in frames.
            counts: ``(B,)`` how many frames of it are taken.
        """
        time = max(1, int(counts.max()))
        staged = self._indices.take((2, len(rows), 1))
        staged[:, :, 0] = torch.from_numpy(np.stack([self._begins[rows] + starts, counts]))
        begins, valid = self._indices.send(staged)
        steps = torch.arange(time, device=self.device)
        mask = steps < valid
        indices = torch.where(mask, begins + steps, self._num_frames)  # the last row is zero
        frames = self._packed.index_select(0, indices.flatten())
        return HeadInput(frames.view(len(rows), time, *frames.shape[1:]).to(torch.float32), mask)


def frames_budget(device: torch.device) -> int:
    """Return the bytes of a device that frames may take: on a GPU, a share of what is free there; else 0."""
    if device.type != "cuda":
        return 0
    free_bytes, _ = torch.cuda.mem_get_info(device)
    free_bytes += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(_SHARE_OF_FREE_MEMORY * free_bytes)


def size_on_device(feature_set: FeatureSet, places: Places) -> int:
    """Return the bytes that the frames of some utterances take."""
    itemsize = TORCH_DTYPES[str(feature_set.spec.dtype)].itemsize
    return int(places.counts.sum()) * len(feature_set.layers) * feature_set.dim * itemsize


def resident_parts(sizes: Sequence[int], budget: int) -> frozenset[int]:
    """Return which of several feature sets stay on a device: the smallest, as long as all of them fit."""
    parts: set[int] = set()
    for part in sorted(range(len(sizes)), key=lambda one: sizes[one]):
        budget -= sizes[part]
        if budget < 0:
            break
        parts.add(part)
    return frozenset(parts)
