"""The plain way to train a fusion head: what one writes on a first afternoon, and what papers release.

One ``.npy`` file per utterance, a ``DataLoader`` with worker processes, batches in random order padded to the
longest clip, torch's own Transformer layers, float32, one model at a time.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from sercache.cache.frames import from_storage
from sercache.cache.store import FeatureSet
from sercache.heads.protocol import HeadInput

Clip = list[Tensor]
"""The frames of one utterance, ``(T, D)`` of each feature set."""


class PlainDeepSER(nn.Module):
    """MEDUSA's DeepSER (Algorithms 1 and 2) of ``nn.TransformerEncoderLayer``, for one attribute range."""

    def __init__(
        self, input_dims: Sequence[int], num_classes: int, num_attributes: int, width: int, feedforward: int
    ) -> None:
        super().__init__()

        def leg(dim: int) -> nn.ModuleList:
            project = nn.Sequential(nn.Linear(dim, width), nn.ReLU(), nn.Linear(width, width))
            layers = [nn.TransformerEncoderLayer(width, 1, feedforward, batch_first=True) for _ in range(2)]
            return nn.ModuleList([project, *layers])

        self.legs = nn.ModuleList(leg(dim) for dim in input_dims)
        self.first_fusion, self.second_fusion = leg(width), leg(width)
        self.merge = nn.Linear((len(input_dims) + 1) * width, width)
        self.class_output = nn.Linear(width, num_classes)
        self.attribute_output = nn.Linear(width, num_attributes)

    def forward(self, inputs: Sequence[HeadInput]) -> tuple[Tensor, Tensor]:
        """Return logits ``(B, C)`` and attributes ``(B, A)``."""
        masks = [features.mask for features in inputs]
        legs = [
            _run(leg, features.frames, features.mask) for leg, features in zip(self.legs, inputs, strict=True)
        ]
        first_mask = torch.cat(masks, dim=1)
        _, fused, _ = _run(self.first_fusion, torch.cat([h1 for h1, _, _ in legs], dim=1), first_mask)
        second = torch.cat([*(h2 for _, h2, _ in legs), fused], dim=1)
        _, _, pooled = _run(self.second_fusion, second, torch.cat([*masks, first_mask], dim=1))
        merged = torch.relu(self.merge(torch.cat([*(h3 for _, _, h3 in legs), pooled], dim=1)))
        return self.class_output(merged), 1 + 6 * torch.sigmoid(self.attribute_output(merged))


def _run(leg: nn.Module, frames: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    project, first, second = leg.children()
    h1 = first(project(frames), src_key_padding_mask=~mask)
    h2 = second(h1, src_key_padding_mask=~mask)
    weights = mask.unsqueeze(-1).to(h2.dtype)
    return h1, h2, (h2 * weights).sum(dim=1) / weights.sum(dim=1)


class NpyFiles(Dataset[tuple[int, Clip]]):
    """One ``.npy`` file per utterance and feature set.

    Args:
        folder: where the files are written.
        feature_sets: whose frames.
        ids: of the utterances.
    """

    def __init__(self, folder: Path, feature_sets: Sequence[FeatureSet], ids: Sequence[str]) -> None:
        self.paths: list[list[Path]] = []
        for row, utterance_id in enumerate(ids):
            self.paths.append([])
            for number, feature_set in enumerate(feature_sets):
                path = folder / f"{row}-{number}.npy"
                dtype = feature_set.spec.dtype or "float32"
                np.save(path, from_storage(feature_set.frames(utterance_id), dtype).astype(np.float16))
                self.paths[-1].append(path)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, row: int) -> tuple[int, Clip]:
        """Return the row and its frames, float32."""
        return row, [torch.from_numpy(np.load(path)).float() for path in self.paths[row]]


def plain_batches(
    files: NpyFiles, batch_size: int, workers: int, seed: int
) -> Iterator[tuple[Tensor, list[HeadInput]]]:
    """Yield rows ``(B,)`` and padded inputs, in random order."""
    loader = DataLoader(
        files,
        batch_size,
        shuffle=True,
        num_workers=workers,
        collate_fn=_pad,
        generator=torch.Generator().manual_seed(seed),
    )
    return iter(loader)


def _pad(clips: list[tuple[int, Clip]]) -> tuple[Tensor, list[HeadInput]]:
    inputs = []
    for frames in zip(*(clip_frames for _, clip_frames in clips), strict=True):
        padded = nn.utils.rnn.pad_sequence(list(frames), batch_first=True)
        lengths = torch.tensor([len(clip) for clip in frames]).unsqueeze(1)
        inputs.append(HeadInput(padded, torch.arange(padded.shape[1]) < lengths))
    return torch.tensor([row for row, _ in clips]), inputs
