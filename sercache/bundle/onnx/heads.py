"""Trained heads as one ONNX model: frames in, class probabilities and attributes out."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn

from sercache.bundle.onnx.graph import Trial, export_graph, verify_and_publish
from sercache.heads.protocol import Head, HeadInput
from sercache.training.checkpoint import HeadDescription

TOLERANCE = 1e-4
_LENGTHS = (((3, 9), (5, 1)), ((1, 1),), ((7, 4), (0, 6), (2, 0), (11, 2)))
"""Frames of each clip of the trials, in two feature sets by turns."""


class FoldMean(nn.Module):
    """The mean of a member's fold models, as one network.

    Args:
        heads: of one kind, in evaluation mode.
    """

    def __init__(self, heads: Sequence[Head]) -> None:
        super().__init__()
        self.heads = nn.ModuleList(heads)

    def forward(self, *tensors: Tensor) -> tuple[Tensor, Tensor]:
        """Return class probabilities ``(B, C)`` and attributes ``(B, A)``.

        Args:
            tensors: of each feature set, frames ``(B, T, D)`` or ``(B, T, L, D)``, then mask ``(B, T)``.
        """
        inputs = [HeadInput(*pair) for pair in zip(tensors[::2], tensors[1::2], strict=True)]
        outputs = [head(inputs) for head in self.heads]
        probabilities = torch.stack([torch.softmax(output.logits, dim=1) for output in outputs])
        return probabilities.mean(dim=0), torch.stack([output.attributes for output in outputs]).mean(dim=0)


def export_heads(heads: Sequence[Head], description: HeadDescription, path: Path) -> float:
    """Write the mean of a member's fold models as one ONNX model; return its largest difference to torch.

    Inputs, for each feature set: ``frames_<name>`` ``(batch, time, D)`` float32, or ``(batch, time, L, D)``
    of one with L layers, as the cache has them (standardising is inside), and ``mask_<name>`` ``(batch,
    time)`` bool, True where valid. Outputs: ``probabilities`` ``(batch, C)`` unless C is 0, and
    ``attributes`` ``(batch, A)`` unless A is 0. The model's metadata has the names of classes and attributes,
    the fingerprints of the feature sets, and ``normalize``: where it is ``speaker``, frames must be
    standardised with the speaker's clips before they go in.

    It is compared with torch on clips of several lengths, each alone and unpadded in torch and padded with
    rubbish beside others in the model.

    Args:
        heads: the fold models, of any kind in the registry.
        description: of one of them.
        path: of the file.

    Raises:
        ExportError: torch cannot export it, or the model does not agree with torch.
        OSError: the disk is full or the folder is not writable.
    """
    what = f"'{description.member}' ({description.head})"
    module = FoldMean(heads).cpu().eval()
    names = list(description.features)
    dynamic: dict[str, dict[int, str]] = {}
    for name in names:
        sizes = {0: "batch", 1: f"time_{name}"}
        dynamic |= {f"frames_{name}": sizes, f"mask_{name}": sizes}
    named = {"probabilities": description.classes, "attributes": description.attributes}
    kept = {name: index for index, (name, columns) in enumerate(named.items()) if columns}
    stated = asdict(description)
    kept_keys = ("member", "head", "features", "classes", "attributes", "versions", "normalize")
    stated = {key: stated[key] for key in kept_keys}
    example = _padded(heads[0], _clips(heads[0], ((5, 3), (2, 4), (4, 2)), 0), dynamic)
    content = export_graph(
        _Outputs(module, list(kept.values())),
        example,
        dynamic,
        {name: {0: "batch"} for name in kept},
        {"kind": "heads", "folds": len(heads), **stated},
        what,
    )
    trials = list(_trials(module, heads[0], dynamic, kept))
    return verify_and_publish(content, trials, path, tolerance=TOLERANCE, what=what)


class _Outputs(nn.Module):
    """Some outputs of a module: one that has no values is no output of an ONNX model."""

    def __init__(self, module: nn.Module, indices: Sequence[int]) -> None:
        super().__init__()
        self.module = module
        self.indices = tuple(indices)

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        outputs: tuple[Tensor, ...] = self.module(*tensors)
        return tuple(outputs[index] for index in self.indices)


@torch.no_grad()
def _trials(
    module: FoldMean, head: Head, dynamic: dict[str, dict[int, str]], kept: Mapping[str, int]
) -> Iterator[Trial]:
    for number, lengths in enumerate(_LENGTHS):
        clips = _clips(head, lengths, number)
        alone = [module(*(tensor.unsqueeze(0) for pair in clip for tensor in pair)) for clip in clips]
        expected = [torch.cat(parts) for parts in zip(*alone, strict=True)]
        yield Trial(_padded(head, clips, dynamic), {name: expected[index] for name, index in kept.items()})


def _clips(head: Head, lengths: Sequence[Sequence[int]], seed: int) -> list[list[tuple[Tensor, Tensor]]]:
    """Return clips, each with unpadded frames and mask of every feature set, spread as the training's were.

    A clip without frames of a feature set has one there that is masked.
    """
    generator = torch.Generator().manual_seed(seed)
    clips = []
    for counts in lengths:
        clip = []
        for index in range(len(head.input_dims)):
            count = counts[index % len(counts)]
            mean, scale = head.get_buffer(f"input_mean_{index}"), head.get_buffer(f"input_scale_{index}")
            noise = torch.randn(max(count, 1), *mean.shape, generator=generator)
            clip.append((mean + noise / scale, torch.full((max(count, 1),), count > 0)))
        clips.append(clip)
    return clips


def _padded(
    head: Head, clips: Sequence[Sequence[tuple[Tensor, Tensor]]], dynamic: dict[str, dict[int, str]]
) -> dict[str, Tensor]:
    """Return a batch by input name; what stands in the padding must not matter, so it is rubbish."""
    tensors: list[Tensor] = []
    for index in range(len(head.input_dims)):
        parts = [clip[index] for clip in clips]
        longest = max(len(mask) for _, mask in parts) + 1
        frames = torch.full((len(clips), longest, *parts[0][0].shape[1:]), 1e3)
        mask = torch.zeros(len(clips), longest, dtype=torch.bool)
        for row, (part, valid) in enumerate(parts):
            frames[row, : len(part)], mask[row, : len(part)] = part, valid
        tensors += [frames, mask]
    return dict(zip(dynamic, tensors, strict=True))
