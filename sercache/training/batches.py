"""From memory-mapped frames to padded batches on the device, in the training process.

Worker processes would make every cache layout slower: pickling costs more than the copy (DESIGN section 4).
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sercache.cache.store import FeatureSet
from sercache.heads.protocol import HeadInput

_TORCH_DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}


class FrameSource:
    """The frames of a list of utterances in a member's feature sets, batch by batch.

    Args:
        feature_sets: M feature sets with one kept layer each.
        ids: the utterances, N of them; one that a feature set lacks has no valid frames there.
        device: where batches go.
    """

    def __init__(self, feature_sets: Sequence[FeatureSet], ids: Sequence[str], device: torch.device) -> None:
        self.feature_sets = tuple(feature_sets)
        self.ids = tuple(ids)
        self.device = device
        self.frame_counts = self._count_frames()
        self._buffers: dict[int, Tensor] = {}

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
        return [self._padded(index, rows, max_frames, generator) for index in range(len(self.feature_sets))]

    def _padded(
        self,
        index: int,
        rows: NDArray[np.int64],
        max_frames: int | None,
        generator: np.random.Generator | None,
    ) -> HeadInput:
        feature_set = self.feature_sets[index]
        counts = self.frame_counts[rows, index]
        starts = np.zeros_like(counts)
        if max_frames is not None and generator is not None and (counts > max_frames).any():
            starts = generator.integers(0, np.maximum(counts - max_frames, 0) + 1)
            counts = np.minimum(counts, max_frames)
        time = max(1, int(counts.max()))
        staged = self._staging(index, (len(rows), time, feature_set.dim))
        target = staged.view(torch.uint16).numpy() if feature_set.is_bfloat16 else staged.numpy()
        for place, (row, start, count) in enumerate(zip(rows, starts, counts, strict=True)):
            if count:
                target[place, :count] = feature_set.frames(self.ids[row])[start : start + count]
            target[place, count:] = 0
        frames = staged.to(self.device, non_blocking=True).to(torch.float32, copy=True)
        valid = torch.from_numpy(counts).to(self.device, non_blocking=True)
        return HeadInput(frames, torch.arange(time, device=self.device) < valid.unsqueeze(1))

    def _staging(self, index: int, shape: tuple[int, int, int]) -> Tensor:
        """Memory to gather a batch in: pinned for a GPU (torch reuses it once its copy is done), else reused.

        A fresh allocation for every batch would cost as much as the copy itself (page faults).
        """
        dtype = _TORCH_DTYPES[str(self.feature_sets[index].spec.dtype)]
        if self.device.type == "cuda":
            return torch.empty(shape, dtype=dtype, pin_memory=True)
        size = int(np.prod(shape))
        buffer = self._buffers.get(index)
        if buffer is None or buffer.numel() < size:
            buffer = self._buffers[index] = torch.empty(size, dtype=dtype)
        return buffer[:size].view(shape)

    def _count_frames(self) -> NDArray[np.int64]:
        """Return ``(N, M)``; 0 where a feature set lacks an utterance."""
        counts = np.zeros((len(self.ids), len(self.feature_sets)), np.int64)
        for index, feature_set in enumerate(self.feature_sets):
            held = [row for row, utterance_id in enumerate(self.ids) if utterance_id in feature_set]
            counts[held, index] = feature_set.frame_counts([self.ids[row] for row in held])
        return counts
