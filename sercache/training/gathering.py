"""Gather batches of frames: from memory-mapped shards through pinned memory, or on the GPU itself."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sercache.cache.frames import pad_into
from sercache.cache.store import FeatureSet, Locations
from sercache.heads.protocol import HeadInput

_SLOTS = 3
"""One that is being filled, one that is being copied, one that waits."""


class StagingRing:
    """Buffers that are used in turn: pinned for a GPU, so that copies run beside everything else.

    A buffer whose copy is still under way is waited for before it is handed out again. Elsewhere copies are
    over when they return, and one buffer is enough. A fresh allocation for every batch would cost as much as
    the copy itself (page faults).

    Args:
        dtype: of the buffers.
        device: where their content goes.
    """

    def __init__(self, dtype: torch.dtype, device: torch.device) -> None:
        self.dtype = dtype
        self.device = device
        self._is_cuda = device.type == "cuda"
        slots = _SLOTS if self._is_cuda else 1
        self._buffers = [torch.empty(0, dtype=dtype) for _ in range(slots)]
        self._copied = [_event() if self._is_cuda else None for _ in range(slots)]
        self._slot = 0

    def take(self, shape: tuple[int, ...]) -> Tensor:
        """Return a buffer of this shape, to be filled and then sent; its content is arbitrary."""
        self._slot = (self._slot + 1) % len(self._buffers)
        copied = self._copied[self._slot]
        if copied is not None:
            copied.synchronize()
        size = int(np.prod(shape))
        if self._buffers[self._slot].numel() < size:
            self._buffers[self._slot] = torch.empty(size, dtype=self.dtype, pin_memory=self._is_cuda)
        return self._buffers[self._slot][:size].view(shape)

    def send(self, staged: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """Copy the buffer that was taken last to the device, without waiting for it.

        Args:
            staged: the buffer.
            dtype: what it becomes; for a GPU it is converted there, so that fewer bytes travel.

        Returns:
            A new tensor on the device, never the buffer itself.
        """
        if not self._is_cuda:
            return staged.to(self.device, dtype or staged.dtype, copy=True)
        sent = staged.to(self.device, non_blocking=True)
        self._mark()
        return sent.to(dtype or staged.dtype)

    def send_into(self, target: Tensor, staged: Tensor) -> None:
        """Copy the buffer that was taken last into a tensor on the device, without waiting for it."""
        target.copy_(staged, non_blocking=self._is_cuda)
        self._mark()

    def _mark(self) -> None:
        copied = self._copied[self._slot]
        if copied is not None:
            copied.record(torch.cuda.current_stream(self.device))


def _event() -> torch.cuda.Event:
    return torch.cuda.Event()  # type: ignore[no-untyped-call]


TORCH_DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}


class StreamedFrames:
    """One feature set's frames, copied from its files for every batch.

    Args:
        feature_set: with L kept layers.
        locations: of N utterances in it.
        device: where batches go.
    """

    def __init__(self, feature_set: FeatureSet, locations: Locations, device: torch.device) -> None:
        self.feature_set = feature_set
        self.locations = locations
        self.device = device
        self._is_checked = np.zeros(len(locations), np.bool_)
        self._frames = StagingRing(TORCH_DTYPES[str(feature_set.spec.dtype)], device)
        self._counts = StagingRing(torch.int64, device)

    def announce(self, rows: NDArray[np.int64]) -> None:
        """Let the system read the frames of ``rows``, ``(B,)``, ahead of their batch."""
        for layer in self.feature_set.layers:
            self.feature_set.prefetch(self.locations, rows, layer)

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
        begins = self.locations.starts[rows] + starts
        target = as_numpy(staged)
        for number, layer in enumerate(layers):
            views = self.feature_set.views(self.locations.shards[rows], begins, counts, layer)
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
            self.feature_set.check(self.locations[unchecked])
            self._is_checked[unchecked] = True


def as_numpy(tensor: Tensor) -> NDArray[Any]:
    """Return a CPU tensor as numpy sees it; bfloat16, which numpy lacks, as uint16."""
    array: NDArray[Any] = (tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor).numpy()
    return array


_SHARE_OF_FREE_MEMORY = 0.5
"""What frames may take of a GPU: the head, its gradients and its batches need the rest."""

_CHUNK_BYTES = 32 << 20


class ResidentFrames:
    """One feature set's frames of some utterances, packed in the device's memory; batches are made there.

    Args:
        feature_set: with L kept layers.
        locations: of N utterances in it.
        device: where the frames go.

    Raises:
        CacheError: frames are not what was written.
    """

    def __init__(self, feature_set: FeatureSet, locations: Locations, device: torch.device) -> None:
        self.device = device
        ends = np.cumsum(locations.counts)
        self._begins = ends - locations.counts
        self._num_frames = int(locations.counts.sum())
        self._indices = StagingRing(torch.int64, device)
        dtype = TORCH_DTYPES[str(feature_set.spec.dtype)]
        layers = feature_set.layers
        frame_shape = (len(layers), feature_set.dim) if len(layers) > 1 else (feature_set.dim,)
        self._packed = torch.zeros((self._num_frames + 1, *frame_shape), dtype=dtype, device=device)
        staging = StagingRing(dtype, device)
        for rows in np.array_split(np.arange(len(locations)), 1 + self._packed.nbytes // _CHUNK_BYTES):
            if not len(rows):
                continue
            begin, end = int(self._begins[rows[0]]), int(ends[rows[-1]])
            staged = staging.take((end - begin, len(layers), feature_set.dim))
            target = as_numpy(staged)
            for number, layer in enumerate(layers):
                np.concatenate(list(feature_set.stream(locations[rows], layer)), out=target[:, number])
            feature_set.check(locations[rows])
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
        begins, valid = self._indices.send(staged)  # (B, 1) each
        steps = torch.arange(time, device=self.device)
        mask = steps < valid  # (B, T)
        indices = torch.where(mask, begins + steps, self._num_frames)  # (B, T); the last row is zero
        frames = self._packed.index_select(0, indices.flatten())
        return HeadInput(frames.view(len(rows), time, *frames.shape[1:]).to(torch.float32), mask)


def frames_budget(device: torch.device) -> int:
    """Return the bytes of a device that frames may take: on a GPU, a share of what is free there; else 0."""
    if device.type != "cuda":
        return 0
    free_bytes, _ = torch.cuda.mem_get_info(device)
    free_bytes += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(_SHARE_OF_FREE_MEMORY * free_bytes)


def size_on_device(feature_set: FeatureSet, locations: Locations) -> int:
    """Return the bytes that the frames of some utterances take."""
    itemsize = TORCH_DTYPES[str(feature_set.spec.dtype)].itemsize
    return int(locations.counts.sum()) * len(feature_set.layers) * feature_set.dim * itemsize


def resident_parts(sizes: Sequence[int], budget: int) -> frozenset[int]:
    """Return which of several feature sets stay on a device: the smallest, as long as all of them fit."""
    parts: set[int] = set()
    for part in sorted(range(len(sizes)), key=lambda index: sizes[index]):
        budget -= sizes[part]
        if budget < 0:
            break
        parts.add(part)
    return frozenset(parts)
